//! Convolutions as matrix products whose image factor is never laid out: its patches are gathered, a cache-sized piece
//! at a time, where the product packs its left factor.
//!
//! The idea is that of implicit GEMM (Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", 2014). Images
//! are combined and padded first, since patches meet every element many times.

mod depthwise;
mod patches;

use std::cell::RefCell;
use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;

use self::patches::{Gathered, Images, Patches};
use super::Path;
use super::elementwise;
use super::gemm::{self, Left, PARALLEL_MULTIPLICATIONS_MIN, Product, Scratch, Target, View};
use crate::compute::{ConvShape, HostOperand, HostSum};

/// Words of images that are combined and padded at a time; few in tests, whose images are small.
const IMAGES_WORDS_MAX: usize = if cfg!(test) { 1 << 14 } else { 1 << 22 };

/// Each thread sums gradients of weights over images of its own if these have so many pixels in the result,
const PIXELS_PER_THREAD_MIN: usize = 512;
/// and the gradients, of which every thread then holds a copy, so few words.
const WEIGHTS_PER_THREAD_MAX: usize = 1 << 18;

thread_local! {
    /// Combined and padded images, or their gradients before the padding is cut off.
    static IMAGES: RefCell<Scratch> = RefCell::default();
    /// Gradients of weights over a part of the images.
    static PARTS: RefCell<Scratch> = RefCell::default();
}

/// `out += convolution`.
pub(super) fn conv(
    path: Path,
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    images: HostSum<'_>,
    weights: HostSum<'_>,
    out: &mut [u64],
) {
    check(shape, Some(images), Some(weights), None);
    let pool = pool.filter(|_| shape.output_len() * shape.terms() >= PARALLEL_MULTIPLICATIONS_MIN);
    assert_eq!(out.len(), shape.output_len(), "elements of a convolution");
    let [pixels, terms, cols] = [shape.pixels(), shape.terms(), shape.out_channels];
    if shape.is_product() {
        let (images, weights) = (matrix(images, pixels, terms), matrix(weights, terms, cols));
        return gemm::gemm(path, pool, &images, &weights, out);
    }
    if shape.is_depthwise() {
        return depthwise::conv(pool, shape, images, weights, out);
    }
    for batch in batches(shape) {
        let out = &mut out[batch.outputs];
        let images = part(images, batch.inputs);
        for group in 0..shape.groups {
            let columns = Columns::new(shape, group);
            with_images(pool, batch.shape.images, Images::new(shape, group), images, |padded| {
                let patches = Patches::new(shape);
                let left = Left::Rows(&Gathered { patches, images: padded });
                let right = columns.view(weights, true);
                let product = Product { rows: batch.shape.pixels(), terms, cols: columns.len, left, right };
                let target = Target::Rows { out: &mut *out, stride: columns.stride, first_col: columns.first };
                product.add_to(path, pool, target);
            });
        }
    }
}

/// `out +=` gradient of the weights.
pub(super) fn conv_weights(
    path: Path,
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    images: HostSum<'_>,
    gradient: HostSum<'_>,
    out: &mut [u64],
) {
    check(shape, Some(images), None, Some(gradient));
    let pool = pool.filter(|_| shape.output_len() * shape.terms() >= PARALLEL_MULTIPLICATIONS_MIN);
    assert_eq!(out.len(), shape.weights_len(), "elements of weights");
    let [pixels, terms, cols] = [shape.pixels(), shape.terms(), shape.out_channels];
    if shape.is_product() {
        let images = HostOperand { rows: terms, cols: pixels, transposed: true, ..matrix(images, pixels, terms) };
        return gemm::gemm(path, pool, &images, &matrix(gradient, pixels, cols), out);
    }
    if shape.is_depthwise() {
        return depthwise::conv_weights(pool, shape, images, gradient, out);
    }
    for batch in batches(shape) {
        let gradient = part(gradient, batch.outputs);
        let images = part(images, batch.inputs);
        for group in 0..shape.groups {
            let columns = Columns::new(shape, group);
            with_images(pool, batch.shape.images, Images::new(shape, group), images, |padded| {
                weights_of_group(path, pool, &batch.shape, padded, columns, gradient, out);
            });
        }
    }
}

fn weights_of_group(
    path: Path,
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    padded: &[u64],
    columns: Columns,
    gradient: HostSum<'_>,
    out: &mut [u64],
) {
    let (patches, terms) = (Patches::new(shape), shape.terms());
    let image_words = patches.image_words();
    let image_pixels = shape.out_height() * shape.out_width();
    let sum_over = |pool: Option<&ThreadPool>, images: Range<usize>, target: Target<'_>| {
        let left = Left::Columns(&Gathered { patches, images: &padded[images.start * image_words..] });
        let pixels = images.start * image_pixels..images.end * image_pixels;
        let gradient = part(gradient, pixels.start * columns.stride..pixels.end * columns.stride);
        let right = columns.view(gradient, true);
        Product { rows: terms, terms: pixels.len(), cols: columns.len, left, right }.add_to(path, pool, target);
    };
    let by_images = |pool: &&ThreadPool| {
        let threads = pool.current_num_threads();
        let enough = shape.images >= threads && shape.pixels() >= threads * PIXELS_PER_THREAD_MIN;
        enough && terms * columns.len <= WEIGHTS_PER_THREAD_MAX
    };
    let Some(pool) = pool.filter(by_images) else {
        let target = Target::Rows { out, stride: columns.stride, first_col: columns.first };
        return sum_over(pool, 0..shape.images, target);
    };
    let step = shape.images.div_ceil(pool.current_num_threads());
    let len = terms * columns.len;
    PARTS.with_borrow_mut(|scratch| {
        let parts = scratch.words(len * shape.images.div_ceil(step));
        parts.fill(0);
        pool.install(|| {
            parts.par_chunks_mut(len).enumerate().for_each(|(index, out)| {
                let images = index * step..((index + 1) * step).min(shape.images);
                sum_over(None, images, Target::Rows { out, stride: columns.len, first_col: 0 });
            });
        });
        for part in parts.chunks(len) {
            for (row, part) in out.chunks_mut(columns.stride).zip(part.chunks(columns.len)) {
                elementwise::add_assign(&mut row[columns.first..][..columns.len], part);
            }
        }
    });
}

/// `out +=` gradient of the images.
pub(super) fn conv_images(
    path: Path,
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    gradient: HostSum<'_>,
    weights: HostSum<'_>,
    out: &mut [u64],
) {
    check(shape, None, Some(weights), Some(gradient));
    let pool = pool.filter(|_| shape.output_len() * shape.terms() >= PARALLEL_MULTIPLICATIONS_MIN);
    assert_eq!(out.len(), shape.input_len(), "elements of images");
    let [pixels, terms, cols] = [shape.pixels(), shape.terms(), shape.out_channels];
    if shape.is_product() {
        let weights = HostOperand { rows: cols, cols: terms, transposed: true, ..matrix(weights, terms, cols) };
        return gemm::gemm(path, pool, &matrix(gradient, pixels, cols), &weights, out);
    }
    if shape.is_depthwise() {
        return depthwise::conv_images(pool, shape, gradient, weights, out);
    }
    for batch in batches(shape) {
        let out = &mut out[batch.inputs];
        let gradient = part(gradient, batch.outputs);
        for group in 0..shape.groups {
            let columns = Columns::new(shape, group);
            let (left, right) = (Left::Stored(columns.view(gradient, false)), columns.view(weights, false));
            let product = Product { rows: batch.shape.pixels(), terms: columns.len, cols: terms, left, right };
            add_to_images(pool, batch.shape.images, Images::new(shape, group), out, |out| {
                let patches = Patches::new(shape);
                let threads = pool.map_or(1, ThreadPool::current_num_threads);
                let images = batch.shape.images.div_ceil(threads);
                let part_rows = images * shape.out_height() * shape.out_width();
                let part_words = images * patches.image_words();
                product.add_to(path, pool, Target::Parts { out, part_rows, part_words, scatter: &patches });
            });
        }
    }
}

/// Panics unless the tensors have the elements that the shape says.
fn check(shape: &ConvShape, images: Option<HostSum<'_>>, weights: Option<HostSum<'_>>, gradient: Option<HostSum<'_>>) {
    shape.check();
    let tensors = [(images, shape.input_len()), (weights, shape.weights_len()), (gradient, shape.output_len())];
    for (sum, len) in tensors.into_iter().filter_map(|(sum, len)| Some((sum?, len))) {
        assert_eq!(sum.x.len(), len, "elements of a tensor of {shape:?}");
        assert!(sum.y.is_none_or(|y| y.len() == len), "summands of a tensor differ in length");
    }
}

fn matrix(sum: HostSum<'_>, rows: usize, cols: usize) -> HostOperand<'_> {
    let HostSum { x, y, kx, ky } = sum;
    HostOperand { x, y, kx, ky, rows, cols, transposed: false }
}

fn part(sum: HostSum<'_>, range: Range<usize>) -> HostSum<'_> {
    HostSum { x: &sum.x[range.clone()], y: sum.y.map(|y| &y[range]), ..sum }
}

/// Images that are worked on together, and where they and their results lie.
struct Batch {
    shape: ConvShape,
    inputs: Range<usize>,
    outputs: Range<usize>,
}

/// Cuts the images so that what is held of them, combined and padded, is bounded.
fn batches(shape: &ConvShape) -> impl Iterator<Item = Batch> + use<> {
    let shape = *shape;
    let padded_words = shape.padded(0) * shape.padded(1) * shape.channels;
    let step = (IMAGES_WORDS_MAX / padded_words).max(1);
    (0..shape.images).step_by(step).map(move |first| {
        let images = step.min(shape.images - first);
        let range = |words: usize| first * words / shape.images..(first + images) * words / shape.images;
        let (inputs, outputs) = (range(shape.input_len()), range(shape.output_len()));
        Batch { shape: ConvShape { images, ..shape }, inputs, outputs }
    })
}

/// The output channels of a group: columns of the weights and of the result.
#[derive(Clone, Copy)]
struct Columns {
    first: usize,
    len: usize,
    stride: usize,
}

impl Columns {
    fn new(shape: &ConvShape, group: usize) -> Self {
        let len = shape.group_out_channels();
        Self { first: group * len, len, stride: shape.out_channels }
    }

    /// These columns of a tensor, as a left factor (rows outside, unless `outer_adjacent`) or as a right one.
    fn view(self, sum: HostSum<'_>, outer_adjacent: bool) -> View<'_> {
        let HostSum { x, y, kx, ky } = sum;
        View { x: &x[self.first..], y: y.map(|y| &y[self.first..]), kx, ky, stride: self.stride, outer_adjacent }
    }
}

/// Calls `work` with combined and padded images. [`patches::SLACK_WORDS`] words lie behind them.
fn with_images<T>(
    pool: Option<&ThreadPool>,
    count: usize,
    layout: Images,
    images: HostSum<'_>,
    work: impl FnOnce(&[u64]) -> T,
) -> T {
    let len = count * layout.padded_words();
    IMAGES.with_borrow_mut(|scratch| {
        let words = scratch.words(len + patches::SLACK_WORDS);
        each_part(pool, &mut words[..len], layout.padded_words(), |image, padded| {
            layout.combine(image, images, padded)
        });
        work(words)
    })
}

/// Lets `work` add to padded images, and adds what lies inside the padding to `out`.
fn add_to_images(
    pool: Option<&ThreadPool>,
    count: usize,
    layout: Images,
    out: &mut [u64],
    work: impl FnOnce(&mut [u64]),
) {
    if layout.is_whole() {
        return work(out);
    }
    let image_words = layout.padded_words();
    IMAGES.with_borrow_mut(|scratch| {
        let padded = scratch.words(count * image_words);
        each_part(pool, padded, image_words, |_, padded| padded.fill(0));
        work(padded);
        let padded = &*padded;
        each_part(pool, out, layout.words(), |image, out| layout.add_inside(&padded[image * image_words..], out));
    });
}

/// Calls `work` with every part of `words` and its index.
fn each_part(
    pool: Option<&ThreadPool>,
    words: &mut [u64],
    part_words: usize,
    work: impl Fn(usize, &mut [u64]) + Send + Sync,
) {
    match pool {
        None => words.chunks_mut(part_words).enumerate().for_each(|(index, part)| work(index, part)),
        Some(pool) => pool.install(|| {
            words.par_chunks_mut(part_words).enumerate().for_each(|(index, part)| work(index, part));
        }),
    }
}
