//! Products of matrices and convolutions on a device by 64-bit multiply-add.

use super::{Gpu, Span, SpanMut};
use crate::compute::{ConvShape, OperandIn, SumIn};

/// A matrix operand on a device.
pub type Operand<'a> = OperandIn<Span<'a>>;

/// A tensor on a device.
pub type Sum<'a> = SumIn<Span<'a>>;

/// The kernels' `Form`: an absent summand has no address.
fn form(x: Span<'_>, y: Option<Span<'_>>, kx: u64, ky: u64, len: usize, what: &str) -> [u64; 4] {
    assert!(x.len() == len && y.is_none_or(|y| y.len() == len), "{what}: {len} words are {}", x.len());
    [x.address, y.map_or(0, |y| y.address), kx, ky]
}

impl OperandIn<Span<'_>> {
    pub(super) fn form(&self) -> [u64; 4] {
        form(self.x, self.y, self.kx, self.ky, self.rows * self.cols, "an operand")
    }
}

impl SumIn<Span<'_>> {
    fn form(&self, len: usize, what: &str) -> [u64; 4] {
        form(self.x, self.y, self.kx, self.ky, len, what)
    }
}

/// The part of a product that a block of threads computes.
#[derive(Clone, Copy, PartialEq)]
enum Tile {
    Square,
    Narrow,
    Thin,
    Flat,
}

impl Tile {
    /// What wastes least on a product of so many rows and columns.
    fn of(rows: usize, columns: usize) -> Self {
        match (rows, columns) {
            (_, ..=16) => Self::Thin,
            (_, ..=32) => Self::Narrow,
            (..=16, _) => Self::Flat,
            _ => Self::Square,
        }
    }

    fn size(self) -> [usize; 2] {
        match self {
            Self::Square => [64, 64],
            Self::Narrow => [64, 32],
            Self::Thin => [64, 16],
            Self::Flat => [16, 64],
        }
    }
}

/// Terms that a block adds up between two loads.
const TILE_DEPTH: usize = 16;
/// Groups with fewer channels on either side are no matrices worth the name.
const DIRECT_CHANNELS_MAX: usize = 4;
/// Pixels that a thread adds up for a weight of such a group.
const DIRECT_PIXELS: usize = 256;

impl Gpu {
    /// `out += a * b`, row-major `a.rows x b.cols`, by multiply-add. Panics if the shapes do not fit: they are ours.
    pub fn gemm_by_multiply_add(&self, a: Operand<'_>, b: Operand<'_>, out: SpanMut<'_>) {
        assert_eq!(a.cols, b.rows, "inner dimensions agree");
        assert_eq!(out.len(), a.rows * b.cols, "the result has the shape of the product");
        let tile = Tile::of(a.rows, b.cols);
        let kernel = match (tile, a.transposed, b.transposed) {
            (Tile::Square, false, false) => "gemm_64x64",
            (Tile::Square, false, true) => "gemm_64x64_t",
            (Tile::Square, true, false) => "gemm_t_64x64",
            (Tile::Square, true, true) => "gemm_t_64x64_t",
            (Tile::Narrow, false, false) => "gemm_64x32",
            (Tile::Narrow, false, true) => "gemm_64x32_t",
            (Tile::Narrow, true, false) => "gemm_t_64x32",
            (Tile::Narrow, true, true) => "gemm_t_64x32_t",
            (Tile::Thin, false, false) => "gemm_64x16",
            (Tile::Thin, false, true) => "gemm_64x16_t",
            (Tile::Thin, true, false) => "gemm_t_64x16",
            (Tile::Thin, true, true) => "gemm_t_64x16_t",
            (Tile::Flat, false, false) => "gemm_16x64",
            (Tile::Flat, false, true) => "gemm_16x64_t",
            (Tile::Flat, true, false) => "gemm_t_16x64",
            (Tile::Flat, true, true) => "gemm_t_16x64_t",
        };
        let (grid, share) = self.product_grid(tile, [a.rows, b.cols, a.cols], 1);
        let sizes = [a.rows, b.cols, a.cols, share].map(|size| size as u64);
        self.start(kernel, grid, &[&[out.address][..], &a.form(), &b.form(), &sizes].concat());
    }

    /// `out +=` the convolution of `images` with `weights`. Panics if the spans do not fit the shape: they are ours.
    pub fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: SpanMut<'_>) {
        let [read, written] = [shape.group_channels(), shape.group_out_channels()];
        let (images, weights) =
            (images.form(shape.input_len(), "images"), weights.form(shape.weights_len(), "weights"));
        assert_eq!(out.len(), shape.output_len(), "the result of {shape:?}");
        let arguments = [&[out.address][..], &numbers(shape), &images, &weights].concat();
        if written < DIRECT_CHANNELS_MAX {
            return self.each("conv_direct", out.len(), &arguments);
        }
        let tile = conv_tile(written);
        let kernel = by_tile(tile, ["conv_64x64", "conv_64x32", "conv_64x16"]);
        let sizes = [shape.pixels(), written, shape.terms()];
        debug_assert_eq!(read * shape.kernel[0] * shape.kernel[1], sizes[2], "terms of {shape:?}");
        self.start_conv(kernel, tile, sizes, shape.groups, arguments);
    }

    /// `out +=` the gradient of the weights of [`Gpu::conv`], given that of its result.
    pub fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: SpanMut<'_>) {
        let written = shape.group_out_channels();
        let (images, gradient) =
            (images.form(shape.input_len(), "images"), gradient.form(shape.output_len(), "gradient"));
        assert_eq!(out.len(), shape.weights_len(), "the weights of {shape:?}");
        let mut arguments = [&[out.address][..], &numbers(shape), &images, &gradient].concat();
        if written < DIRECT_CHANNELS_MAX {
            arguments.push(DIRECT_PIXELS as u64);
            return self.each("conv_weights_direct", out.len() * shape.pixels().div_ceil(DIRECT_PIXELS), &arguments);
        }
        let tile = conv_tile(written);
        let kernel = by_tile(tile, ["conv_weights_64x64", "conv_weights_64x32", "conv_weights_64x16"]);
        self.start_conv(kernel, tile, [shape.terms(), written, shape.pixels()], shape.groups, arguments);
    }

    /// `out +=` the gradient of the images of [`Gpu::conv`], given that of its result.
    pub fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: SpanMut<'_>) {
        let [read, written] = [shape.group_channels(), shape.group_out_channels()];
        let (gradient, weights) =
            (gradient.form(shape.output_len(), "gradient"), weights.form(shape.weights_len(), "weights"));
        assert_eq!(out.len(), shape.input_len(), "the images of {shape:?}");
        let arguments = [&[out.address][..], &numbers(shape), &gradient, &weights].concat();
        if read < DIRECT_CHANNELS_MAX {
            return self.each("conv_images_direct", out.len(), &arguments);
        }
        let tile = conv_tile(read);
        let kernel = by_tile(tile, ["conv_images_64x64", "conv_images_64x32", "conv_images_64x16"]);
        let pixels = shape.images * shape.height * shape.width;
        let depth = shape.kernel[0] * shape.kernel[1] * written;
        self.start_conv(kernel, tile, [pixels, read, depth], shape.groups, arguments);
    }

    fn start_conv(&self, kernel: &'static str, tile: Tile, sizes: [usize; 3], groups: usize, mut arguments: Vec<u64>) {
        let (grid, share) = self.product_grid(tile, sizes, groups);
        arguments.push(share as u64);
        self.start(kernel, grid, &arguments);
    }

    /// Blocks for `groups` products of `rows x depth` with `depth x columns`, and the terms of each block: where there
    /// are too few tiles to keep the device busy, several blocks share the terms of one.
    fn product_grid(&self, tile: Tile, [rows, columns, depth]: [usize; 3], groups: usize) -> ([u32; 3], usize) {
        let [height, width] = tile.size();
        let tiles = rows.div_ceil(height) * columns.div_ceil(width);
        let wanted = (2 * self.0.driver.processors() as usize).div_ceil((tiles * groups).max(1));
        let shares = wanted.min(depth.div_ceil(4 * TILE_DEPTH)).max(1);
        let share = depth.div_ceil(shares).next_multiple_of(TILE_DEPTH);
        let grid = [tiles, groups, depth.div_ceil(share.max(1))];
        (grid.map(|blocks| u32::try_from(blocks).expect("products have fewer than 2^32 tiles")), share)
    }
}

fn conv_tile(columns: usize) -> Tile {
    Tile::of(usize::MAX, columns)
}

fn by_tile(tile: Tile, [square, narrow, thin]: [&'static str; 3]) -> &'static str {
    match tile {
        Tile::Square => square,
        Tile::Narrow => narrow,
        Tile::Thin | Tile::Flat => thin,
    }
}

/// The kernels' `Shape`.
fn numbers(shape: &ConvShape) -> Vec<u64> {
    shape.check();
    let ConvShape { images, height, width, channels, kernel, stride, padding, dilation, out_channels, .. } = *shape;
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    let (read, written) = (shape.group_channels(), shape.group_out_channels());
    for pixels in [images * height * width, shape.pixels()] {
        assert!(pixels.max(shape.terms()).max(kernel[0] * kernel[1] * written) < 1 << 31, "{shape:?} fits the kernels");
    }
    let plain = [
        images,
        height,
        width,
        channels,
        out_height,
        out_width,
        out_channels,
        read,
        written,
        kernel[0] * kernel[1],
        padding[0],
        padding[1],
        dilation[0],
        dilation[1],
    ];
    let divisors = [stride[0], stride[1], height, width, out_height, out_width, kernel[1], read, written];
    plain.into_iter().map(|size| size as u64).chain(divisors.into_iter().flat_map(divisor)).collect()
}

/// A number, and a multiplier and a shift (in the upper half) that divide what is below 2^31 by it (Granlund,
/// Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994).
fn divisor(by: usize) -> [u64; 2] {
    assert!(by > 0 && by < 1 << 31, "a divisor is positive and fits the kernels");
    let by = by as u64;
    let shift = 31 + u64::from(by.next_power_of_two().ilog2());
    let magic = (1 << shift) / by + 1;
    [by, magic | shift << 32]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn divisors_divide(n in 0_u64..1 << 31, by in prop_oneof![1_usize..100, 1_usize..1 << 31]) {
            let [same, packed] = divisor(by);
            let (magic, shift) = (packed & 0xffff_ffff, packed >> 32);
            prop_assert_eq!((n * magic) >> shift, n / same);
            prop_assert!((1 << shift) / same + 1 < 1 << 32);
        }

        #[test]
        fn divisors_divide_next_to_multiples(by in 1_usize..1 << 31, quotient: u32) {
            let [same, packed] = divisor(by);
            let (magic, shift) = (packed & 0xffff_ffff, packed >> 32);
            let multiple = u64::from(quotient) % ((1 << 31) / same).max(1) * same;
            for n in [multiple.saturating_sub(1), multiple, multiple + 1, (1 << 31) - 1] {
                if n < 1 << 31 {
                    prop_assert_eq!((n * magic) >> shift, n / same);
                }
            }
        }
    }
}
