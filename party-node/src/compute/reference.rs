//! Plain loops that say what every kernel must compute. Tests compare devices with these; nothing else calls them.

use super::{ConvShape, HostOperand, HostSum, Key};

/// Element `(row, col)` of an operand.
fn element(m: &HostOperand<'_>, row: usize, col: usize) -> u64 {
    let at = if m.transposed { col * m.rows + row } else { row * m.cols + col };
    let y = m.y.map_or(0, |y| m.ky.wrapping_mul(y[at]));
    m.kx.wrapping_mul(m.x[at]).wrapping_add(y)
}

/// `out += a * b`.
pub fn gemm(a: HostOperand<'_>, b: HostOperand<'_>, out: &mut [u64]) {
    for i in 0..a.rows {
        for j in 0..b.cols {
            for k in 0..a.cols {
                let product = element(&a, i, k).wrapping_mul(element(&b, k, j));
                out[i * b.cols + j] = out[i * b.cols + j].wrapping_add(product);
            }
        }
    }
}

/// `out += convolution`.
pub fn conv(shape: &ConvShape, images: HostSum<'_>, weights: HostSum<'_>, out: &mut [u64]) {
    each_product(shape, |image, weight, output| {
        let product = word(&images, image).wrapping_mul(word(&weights, weight));
        out[output] = out[output].wrapping_add(product);
    });
}

/// `out +=` gradient of the weights of a convolution.
pub fn conv_weights(shape: &ConvShape, images: HostSum<'_>, gradient: HostSum<'_>, out: &mut [u64]) {
    each_product(shape, |image, weight, output| {
        let product = word(&images, image).wrapping_mul(word(&gradient, output));
        out[weight] = out[weight].wrapping_add(product);
    });
}

/// `out +=` gradient of the images of a convolution.
pub fn conv_images(shape: &ConvShape, gradient: HostSum<'_>, weights: HostSum<'_>, out: &mut [u64]) {
    each_product(shape, |image, weight, output| {
        let product = word(&gradient, output).wrapping_mul(word(&weights, weight));
        out[image] = out[image].wrapping_add(product);
    });
}

fn word(sum: &HostSum<'_>, at: usize) -> u64 {
    let y = sum.y.map_or(0, |y| sum.ky.wrapping_mul(y[at]));
    sum.kx.wrapping_mul(sum.x[at]).wrapping_add(y)
}

/// Calls `product` with the index in the images, the weights and the result of every product of a convolution.
fn each_product(shape: &ConvShape, mut product: impl FnMut(usize, usize, usize)) {
    let ConvShape { kernel, stride, dilation, padding, .. } = *shape;
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    let (read, written) = (shape.channels / shape.groups, shape.out_channels / shape.groups);
    for output in 0..shape.images * out_height * out_width * shape.out_channels {
        let (pixel, out_channel) = (output / shape.out_channels, output % shape.out_channels);
        let (line, x) = (pixel / out_width, pixel % out_width);
        let (image, y) = (line / out_height, line % out_height);
        for term in 0..shape.terms() {
            let (element, channel) = (term / read, term % read);
            let y = y * stride[0] + element / kernel[1] * dilation[0];
            let x = x * stride[1] + element % kernel[1] * dilation[1];
            let inside = |at: usize, before: usize, len: usize| at.checked_sub(before).filter(|at| *at < len);
            let (Some(y), Some(x)) = (inside(y, padding[0], shape.height), inside(x, padding[1], shape.width)) else {
                continue;
            };
            let channel = out_channel / written * read + channel;
            let source = ((image * shape.height + y) * shape.width + x) * shape.channels + channel;
            product(source, term * shape.out_channels + out_channel, output);
        }
    }
}

/// ChaCha12 keystream (RFC 8439 layout with 12 rounds).
pub fn keystream(key: &Key, nonce: [u32; 3], out: &mut [u64]) {
    for (counter, words) in out.chunks_mut(8).enumerate() {
        let counter = u32::try_from(counter).expect("a stream is shorter than 256 GiB");
        let block = chacha12_block(key, counter, nonce);
        for (word, pair) in words.iter_mut().zip(block.chunks_exact(2)) {
            *word = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        }
    }
}

fn chacha12_block(key: &Key, counter: u32, nonce: [u32; 3]) -> [u32; 16] {
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, counter, 0, 0, 0];
    start[4..12].copy_from_slice(key);
    start[13..].copy_from_slice(&nonce);
    let mut state = start;
    for _ in 0..6 {
        for [a, b, c, d] in [
            [0, 4, 8, 12],
            [1, 5, 9, 13],
            [2, 6, 10, 14],
            [3, 7, 11, 15],
            [0, 5, 10, 15],
            [1, 6, 11, 12],
            [2, 7, 8, 13],
            [3, 4, 9, 14],
        ] {
            for (sum, other, turned, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                state[sum] = state[sum].wrapping_add(state[other]);
                state[turned] = (state[turned] ^ state[sum]).rotate_left(by);
            }
        }
    }
    std::array::from_fn(|i| state[i].wrapping_add(start[i]))
}

/// Bit planes, bit by bit.
pub fn bit_planes(words: &[u64], low: usize, count: usize, planes: &mut [u64]) {
    let width = words.len().div_ceil(64);
    planes.fill(0);
    for (i, word) in words.iter().enumerate() {
        for j in 0..count {
            planes[j * width + i / 64] |= (word >> (low + j) & 1) << (i % 64);
        }
    }
}
