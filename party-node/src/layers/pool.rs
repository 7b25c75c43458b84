//! Pooling layers: where windows lie, sums and means over them.

use std::ops::Range;

use shared::model::{Pool, Shape};

use super::scaled;
use crate::compute::moves::Pieces;
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

    /// Every window of an image with each of its cells.
    fn places(&self) -> Vec<[usize; 2]> {
        let windows = self.down.iter().flat_map(|rows| self.across.iter().map(move |columns| (rows, columns)));
        let cells = |(window, (rows, columns)): (usize, (&Range<usize>, &Range<usize>))| {
            let cell = move |y: usize| columns.clone().map(move |x| [window, y * self.input.width + x]);
            rows.clone().flat_map(cell).collect::<Vec<_>>()
        };
        windows.enumerate().flat_map(cells).collect()
    }

    /// Sums over windows, image by image.
    fn sums(&self, tile: &Tile<'_>, x: &TileShare) -> TileShare {
        let (inner, windows, places) = (self.input.channels, self.cells.len(), self.places());
        let mut sums = TileShare::zeros(tile, x.len() / self.input.len() * windows * inner);
        let cells = Pieces { from_count: self.input.positions(), into_count: windows, inner, places: &places };
        sums.update(x, |into, from| cells.add(into, from));
        sums
    }

    /// Adds every window's value to all of its cells.
    fn spread(&self, tile: &Tile<'_>, values: &TileShare) -> TileShare {
        let (inner, windows) = (self.input.channels, self.cells.len());
        let places: Vec<[usize; 2]> = self.places().iter().map(|&[window, cell]| [cell, window]).collect();
        let mut x = TileShare::zeros(tile, values.len() / (windows * inner) * self.input.len());
        let cells = Pieces { from_count: windows, into_count: self.input.positions(), inner, places: &places };
        x.update(values, |into, from| cells.add(into, from));
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
        let sums = self.sums(tile, x);
        let rates = self.rates(sums.len());
        scaled(tile, &sums, &rates).await
    }

    /// Gradient of [`Means::of`].
    pub(super) async fn back(&self, tile: &Tile<'_>, gradient: &TileShare) -> Result<TileShare, ProtocolError> {
        let rates = self.rates(gradient.len());
        let shares = scaled(tile, gradient, &rates).await?;
        Ok(self.spread(tile, &shares))
    }
}
