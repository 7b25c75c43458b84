//! Plain loops that say what every kernel must compute. Tests compare devices with these; nothing else calls them.

use super::{Key, Operand};

/// Element `(row, col)` of an operand.
fn element(m: &Operand<'_>, row: usize, col: usize) -> u64 {
    let at = if m.transposed { col * m.rows + row } else { row * m.cols + col };
    let y = m.y.map_or(0, |y| m.ky.wrapping_mul(y[at]));
    m.kx.wrapping_mul(m.x[at]).wrapping_add(y)
}

/// `out += a * b`.
pub fn gemm(a: Operand<'_>, b: Operand<'_>, out: &mut [u64]) {
    for i in 0..a.rows {
        for j in 0..b.cols {
            for k in 0..a.cols {
                let product = element(&a, i, k).wrapping_mul(element(&b, k, j));
                out[i * b.cols + j] = out[i * b.cols + j].wrapping_add(product);
            }
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
