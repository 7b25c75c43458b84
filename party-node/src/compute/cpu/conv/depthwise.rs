//! Convolutions of every channel with a kernel of its own: too few products per word for a matrix, so plain loops over
//! channels.

use std::cell::RefCell;
use std::thread::LocalKey;

use rayon::ThreadPool;

use super::super::dispatch::multiversion;
use super::super::gemm::Scratch;
use super::patches::{Images, Steps, mix};
use super::{IMAGES, PARTS, each_part, part};
use crate::compute::cpu::elementwise;
use crate::compute::{ConvShape, HostSum};

thread_local! {
    /// Combined weights.
    static WEIGHTS: RefCell<Scratch> = RefCell::default();
    /// The combined gradient of one image of the result.
    static GRADIENT: RefCell<Scratch> = RefCell::default();
}

/// `out += convolution`.
pub(super) fn conv(
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    images: HostSum<'_>,
    weights: HostSum<'_>,
    out: &mut [u64],
) {
    let (taps, layout) = (Taps::new(shape), Images::of_all_groups(shape));
    with_combined(&WEIGHTS, weights, |weights| {
        each_part(pool, out, taps.result_words(), |image, out| {
            with_image(layout, image, images, |padded| conv_image(taps, padded, weights, out));
        });
    });
}

/// `out +=` gradient of the weights.
pub(super) fn conv_weights(
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    images: HostSum<'_>,
    gradient: HostSum<'_>,
    out: &mut [u64],
) {
    let (taps, layout) = (Taps::new(shape), Images::of_all_groups(shape));
    let step = shape.images.div_ceil(pool.map_or(1, ThreadPool::current_num_threads)).max(1);
    let len = out.len();
    PARTS.with_borrow_mut(|scratch| {
        let parts = scratch.words(shape.images.div_ceil(step) * len);
        parts.fill(0);
        each_part(pool, parts, len, |index, out| {
            for image in index * step..((index + 1) * step).min(shape.images) {
                with_combined(&GRADIENT, taps.result(gradient, image), |gradient| {
                    with_image(layout, image, images, |padded| conv_weights_image(taps, padded, gradient, out));
                });
            }
        });
        for part in parts.chunks(len) {
            elementwise::add_assign(out, part);
        }
    });
}

/// `out +=` gradient of the images.
pub(super) fn conv_images(
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    gradient: HostSum<'_>,
    weights: HostSum<'_>,
    out: &mut [u64],
) {
    let (taps, layout) = (Taps::new(shape), Images::of_all_groups(shape));
    with_combined(&WEIGHTS, weights, |weights| {
        each_part(pool, out, layout.words(), |image, out| {
            with_combined(&GRADIENT, taps.result(gradient, image), |gradient| {
                IMAGES.with_borrow_mut(|scratch| {
                    let padded = scratch.words(layout.padded_words());
                    padded.fill(0);
                    conv_images_image(taps, gradient, weights, padded);
                    layout.add_inside(padded, out);
                });
            });
        });
    });
}

/// Calls `work` with one image, combined and padded.
fn with_image(layout: Images, image: usize, images: HostSum<'_>, work: impl FnOnce(&[u64])) {
    IMAGES.with_borrow_mut(|scratch| {
        let padded = scratch.words(layout.padded_words());
        layout.combine(image, images, padded);
        work(padded);
    });
}

/// Calls `work` with the words of a sum.
fn with_combined(scratch: &'static LocalKey<RefCell<Scratch>>, sum: HostSum<'_>, work: impl FnOnce(&[u64])) {
    scratch.with_borrow_mut(|scratch| {
        let words = scratch.words(sum.x.len());
        mix(sum, 0, words, Steps { count: 1, len: words.len(), from: 0, to: 0 });
        work(words);
    });
}

/// Which words of one padded image, of the weights and of the result meet.
#[derive(Clone, Copy)]
struct Taps {
    channels: usize,
    out: [usize; 2],
    kernel: [usize; 2],
    /// In the image, from a pixel of the result to the one below, and to the next.
    pixel_steps: [usize; 2],
    /// In the image, from a row of the kernel to the next, and from a column to the next.
    kernel_steps: [usize; 2],
}

impl Taps {
    fn new(shape: &ConvShape) -> Self {
        let ConvShape { channels, kernel, stride, dilation, .. } = *shape;
        let line_words = shape.padded(1) * channels;
        Self {
            channels,
            out: [shape.out_height(), shape.out_width()],
            kernel,
            pixel_steps: [stride[0] * line_words, stride[1] * channels],
            kernel_steps: [dilation[0] * line_words, dilation[1] * channels],
        }
    }

    /// Words of one image of the result.
    fn result_words(self) -> usize {
        self.out[0] * self.out[1] * self.channels
    }

    /// One image of the result.
    fn result<'a>(self, sum: HostSum<'a>, image: usize) -> HostSum<'a> {
        part(sum, image * self.result_words()..(image + 1) * self.result_words())
    }

    /// Calls `meet` with the first channel in the image, in the weights and in the result, wherever they meet.
    #[inline(always)]
    fn each(self, mut meet: impl FnMut(usize, usize, usize)) {
        let Self { channels, out, kernel, pixel_steps, kernel_steps, .. } = self;
        for y in 0..out[0] {
            for x in 0..out[1] {
                let patch = y * pixel_steps[0] + x * pixel_steps[1];
                let result = (y * out[1] + x) * channels;
                for row in 0..kernel[0] {
                    for column in 0..kernel[1] {
                        let image = patch + row * kernel_steps[0] + column * kernel_steps[1];
                        meet(image, (row * kernel[1] + column) * channels, result);
                    }
                }
            }
        }
    }
}

/// `out += x * y`.
#[inline(always)]
fn add_products(x: &[u64], y: &[u64], out: &mut [u64]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = out.wrapping_add(x.wrapping_mul(*y));
    }
}

multiversion! {
    fn conv_image(taps: Taps, image: &[u64], weights: &[u64], out: &mut [u64]) {
        let n = taps.channels;
        taps.each(|i, w, o| add_products(&image[i..][..n], &weights[w..][..n], &mut out[o..][..n]));
    }
}

multiversion! {
    fn conv_weights_image(taps: Taps, image: &[u64], gradient: &[u64], out: &mut [u64]) {
        let n = taps.channels;
        taps.each(|i, w, o| add_products(&image[i..][..n], &gradient[o..][..n], &mut out[w..][..n]));
    }
}

multiversion! {
    fn conv_images_image(taps: Taps, gradient: &[u64], weights: &[u64], out: &mut [u64]) {
        let n = taps.channels;
        taps.each(|i, w, o| add_products(&gradient[o..][..n], &weights[w..][..n], &mut out[i..][..n]));
    }
}
