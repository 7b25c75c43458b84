//! Pooling layers: where windows lie, sums and means over them.

use std::ops::Range;

use shared::model::{Pool, Shape};

use super::scaled;
use crate::compute::elementwise;
use crate::ops::Windows;
use crate::protocol::{ProtocolError, Tile, TileShare};

/// The windows of a max-pooling layer on `rows` images.
pub(super) fn windows(input: Shape, pool: &Pool, rows: usize) -> Windows {
    Windows {
        images: rows,
        height: input.height,
        width: input.width,
        channels: input.channels,
        kernel: pool.kernel,
        stride: pool.stride,
        padding: pool.padding,
    }
}

/// The cells that every mean covers, down and across, and by what its sum is divided.
pub(super) struct Means {
    input: Shape,
    down: Vec<Range<usize>>,
    across: Vec<Range<usize>>,
    /// Window by window.
    cells: Vec<usize>,
}

impl Means {
    /// Windows side by side or overlapping.
    pub(super) fn pooled(input: Shape, output: Shape, pool: &Pool, count_padding: bool) -> Self {
        let ranges = |axis: usize, count: usize, size: usize| -> Vec<Range<usize>> {
            let start = |i: usize| i * pool.stride[axis];
            let inside = |at: usize| at.saturating_sub(pool.padding[axis]).min(size);
            (0..count).map(|i| inside(start(i))..inside(start(i) + pool.kernel[axis])).collect()
        };
        let down = ranges(0, output.height, input.height);
        let across = ranges(1, output.width, input.width);
        let whole = count_padding.then(|| pool.kernel[0] * pool.kernel[1]);
        Self::new(input, down, across, whole)
    }

    /// Near-equal windows as in PyTorch: the `i`-th of `n` over `size` cells goes from `i size / n`, rounded down, to
    /// `(i + 1) size / n`, rounded up.
    pub(super) fn adaptive(input: Shape, output: Shape) -> Self {
        let ranges = |count: usize, size: usize| -> Vec<Range<usize>> {
            (0..count).map(|i| i * size / count..((i + 1) * size).div_ceil(count)).collect()
        };
        Self::new(input, ranges(output.height, input.height), ranges(output.width, input.width), None)
    }

    fn new(input: Shape, down: Vec<Range<usize>>, across: Vec<Range<usize>>, whole: Option<usize>) -> Self {
        let cells = down.iter().flat_map(|y| across.iter().map(move |x| y.len() * x.len()));
        let cells = cells.map(|cells| whole.unwrap_or(cells).max(1)).collect();
        Self { input, down, across, cells }
    }

    /// Every window with the elements that its cells start at in an image.
    fn places(&self) -> impl Iterator<Item = Vec<usize>> {
        let Shape { width, channels, .. } = self.input;
        self.down.iter().flat_map(move |rows| {
            self.across.iter().map(move |columns| {
                rows.clone().flat_map(|y| columns.clone().map(move |x| (y * width + x) * channels)).collect()
            })
        })
    }

    /// Sums over windows, image by image.
    fn sums(&self, x: &[u64]) -> Vec<u64> {
        let (channels, windows) = (self.input.channels, self.cells.len());
        let mut sums = vec![0; x.len() / self.input.len() * windows * channels];
        for (image, sums) in x.chunks(self.input.len()).zip(sums.chunks_mut(windows * channels)) {
            for (sum, cells) in sums.chunks_mut(channels).zip(self.places()) {
                cells.iter().for_each(|&at| elementwise::add_assign(sum, &image[at..at + channels]));
            }
        }
        sums
    }

    /// Adds every window's value to all of its cells.
    fn spread(&self, values: &[u64]) -> Vec<u64> {
        let (channels, windows) = (self.input.channels, self.cells.len());
        let mut x = vec![0; values.len() / (windows * channels) * self.input.len()];
        for (image, values) in x.chunks_mut(self.input.len()).zip(values.chunks(windows * channels)) {
            for (value, cells) in values.chunks(channels).zip(self.places()) {
                cells.iter().for_each(|&at| elementwise::add_assign(&mut image[at..at + channels], value));
            }
        }
        x
    }

    /// One over the cells of every window, for all elements of a result.
    fn rates(&self, len: usize) -> Vec<f64> {
        #[allow(clippy::cast_precision_loss, reason = "windows are far smaller than 2^52 cells")]
        let of_image = || self.cells.iter().flat_map(|&cells| vec![1.0 / cells as f64; self.input.channels]);
        std::iter::repeat_with(of_image).flatten().take(len).collect()
    }

    /// Means over windows: local sums, and a truncation that divides them.
    pub(super) async fn of(&self, tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
        let sums = x.map(|x| self.sums(x));
        let rates = self.rates(sums.len());
        scaled(tile, &sums, &rates).await
    }

    /// Gradient of [`Means::of`].
    pub(super) async fn back(&self, tile: &Tile<'_>, gradient: &TileShare) -> Result<TileShare, ProtocolError> {
        let rates = self.rates(gradient.len());
        let shares = scaled(tile, gradient, &rates).await?;
        Ok(shares.map(|values| self.spread(values)))
    }
}
