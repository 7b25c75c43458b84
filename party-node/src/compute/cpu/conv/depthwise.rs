//! Convolutions of every channel with a kernel of its own: too few products per word for a matrix, so plain loops over
//! channels.

use std::cell::RefCell;

use rayon::ThreadPool;

use super::super::dispatch::multiversion;
use super::super::gemm::Scratch;
use super::patches::{Images, Steps, mix};
use super::{PARTS, add_to_images, each_part, with_images};
use crate::compute::{ConvShape, Sum, elementwise};

thread_local! {
    /// Combined weights or gradients.
    static FACTOR: RefCell<Scratch> = RefCell::default();
}

/// `out += convolution`.
pub(super) fn conv(pool: Option<&ThreadPool>, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: &mut [u64]) {
    let taps = Taps::new(shape);
    with_images(pool, shape.images, Images::of_all_groups(shape), images, |padded| {
        with_sum(weights, |weights| {
            each_part(pool, out, taps.result_words(), |image, out| {
                conv_image(taps, &padded[image * taps.image_words..], weights, out);
            });
        });
    });
}

/// `out +=` gradient of the weights.
pub(super) fn conv_weights(
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    images: Sum<'_>,
    gradient: Sum<'_>,
    out: &mut [u64],
) {
    let taps = Taps::new(shape);
    let step = shape.images.div_ceil(pool.map_or(1, ThreadPool::current_num_threads));
    let len = out.len();
    with_images(pool, shape.images, Images::of_all_groups(shape), images, |padded| {
        with_sum(gradient, |gradient| {
            PARTS.with_borrow_mut(|scratch| {
                let parts = scratch.words(shape.images.div_ceil(step) * len);
                each_part(pool, parts, len, |index, out| {
                    out.fill(0);
                    for image in index * step..((index + 1) * step).min(shape.images) {
                        let gradient = &gradient[image * taps.result_words()..][..taps.result_words()];
                        conv_weights_image(taps, &padded[image * taps.image_words..], gradient, out);
                    }
                });
                for part in parts.chunks(len) {
                    elementwise::add_assign(out, part);
                }
            });
        });
    });
}

/// `out +=` gradient of the images.
pub(super) fn conv_images(
    pool: Option<&ThreadPool>,
    shape: &ConvShape,
    gradient: Sum<'_>,
    weights: Sum<'_>,
    out: &mut [u64],
) {
    let taps = Taps::new(shape);
    // Both factors in one scratch: the weights first.
    FACTOR.with_borrow_mut(|scratch| {
        let (weights_len, gradient_len) = (weights.x.len(), gradient.x.len());
        let words = scratch.words(weights_len + gradient_len);
        mix(weights, 0, words, whole(weights_len));
        mix(gradient, 0, &mut words[weights_len..], whole(gradient_len));
        let (weights, gradient) = words.split_at(weights_len);
        add_to_images(pool, shape.images, Images::of_all_groups(shape), out, |out| {
            each_part(pool, out, taps.image_words, |image, out| {
                let gradient = &gradient[image * taps.result_words()..][..taps.result_words()];
                conv_images_image(taps, gradient, weights, out);
            });
        });
    });
}

fn with_sum<T>(sum: Sum<'_>, work: impl FnOnce(&[u64]) -> T) -> T {
    FACTOR.with_borrow_mut(|scratch| {
        let words = scratch.words(sum.x.len());
        mix(sum, 0, words, whole(sum.x.len()));
        work(words)
    })
}

fn whole(len: usize) -> Steps {
    Steps { count: 1, len, from: 0, to: 0 }
}

/// Which words of one padded image, of the weights and of the result meet.
#[derive(Clone, Copy)]
struct Taps {
    channels: usize,
    image_words: usize,
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
            image_words: shape.padded(0) * line_words,
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
