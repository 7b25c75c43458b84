//! The arithmetic of the kernels with every operand in a register: what no kernel of the same instructions can beat.
#![allow(unsafe_code, reason = "calls into code for an instruction set that was just detected, and empty assembly")]

#[cfg(target_arch = "x86_64")]
use std::arch::{asm, x86_64::*};
use std::hint::black_box;

use super::chacha::ChaCha12;
use super::dispatch::Path;
#[cfg(target_arch = "x86_64")]
use super::gemm::amx;

/// Sums that grow side by side: enough of them that none waits for its last addition.
const SUMS: usize = 8;

/// At least so many multiply-adds in `Z_{2^64}` by the instructions of `path`. The factors are ones, which the compiler
/// does not know; so the sums tell how many there were, which is what it returns. Panics if this machine lacks `path`.
pub(crate) fn multiply_adds(path: Path, count: usize) -> u64 {
    assert!(path <= Path::best(), "this machine has no {path}");
    match path {
        Path::Portable => portable(count.div_ceil(SUMS)),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: just checked.
        Path::Avx2 => unsafe { avx2(count.div_ceil(4 * AVX2_SUMS)) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: just checked.
        Path::Avx512 => unsafe { avx512(count.div_ceil(8 * AVX512_SUMS)) },
        #[cfg(target_arch = "x86_64")]
        Path::Amx => amx::multiply_ones(count),
        #[cfg(not(target_arch = "x86_64"))]
        path => unreachable!("{path} is never detected here"),
    }
}

/// At least so many bytes of ChaCha12 by the kernels of `path`, none of them stored; how many it made. Panics if this
/// machine lacks `path`.
pub(crate) fn keystream(path: Path, bytes: usize) -> usize {
    ChaCha12::new(path, &[0; 8], [0; 3]).in_registers(bytes)
}

/// A sum is the next one's factor: only so does plain Rust keep the compiler from multiplying once for all steps.
fn portable(steps: usize) -> u64 {
    let (one, mut sums) = (black_box(1_u64), [0_u64; SUMS]);
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = sum.wrapping_mul(one).wrapping_add(one);
        }
    }
    sums.iter().sum()
}

/// Two registers each, for the low products and the cross products.
#[cfg(target_arch = "x86_64")]
const AVX2_SUMS: usize = 5;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(steps: usize) -> u64 {
    let (mut left, right) = (_mm256_set1_epi64x(black_box(1)), _mm256_set1_epi64x(black_box(1)));
    let exchanged = _mm256_shuffle_epi32::<0b10_11_00_01>(right);
    let [mut low, mut cross] = [[_mm256_setzero_si256(); AVX2_SUMS]; 2];
    for _ in 0..steps {
        for (low, cross) in low.iter_mut().zip(&mut cross) {
            // SAFETY: no instruction at all; but for all that the compiler knows, the factor is a new one.
            unsafe { asm!("/* {0} */", inout(ymm_reg) left, options(nomem, nostack, preserves_flags)) };
            *low = _mm256_add_epi64(*low, _mm256_mul_epu32(left, right));
            *cross = _mm256_add_epi32(*cross, _mm256_mullo_epi32(left, exchanged));
        }
    }
    let mut sum = _mm256_setzero_si256();
    for (low, cross) in low.into_iter().zip(cross) {
        let cross = _mm256_add_epi32(cross, _mm256_srli_epi64::<32>(cross));
        sum = _mm256_add_epi64(sum, _mm256_add_epi64(low, _mm256_slli_epi64::<32>(cross)));
    }
    let mut words = [0_u64; 4];
    // SAFETY: the array takes 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), sum) };
    words.iter().sum()
}

#[cfg(target_arch = "x86_64")]
const AVX512_SUMS: usize = 2 * SUMS;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn avx512(steps: usize) -> u64 {
    let (mut left, right) = (_mm512_set1_epi64(black_box(1)), _mm512_set1_epi64(black_box(1)));
    let mut sums = [_mm512_setzero_si512(); AVX512_SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            // SAFETY: as in `avx2`.
            unsafe { asm!("/* {0} */", inout(zmm_reg) left, options(nomem, nostack, preserves_flags)) };
            *sum = _mm512_add_epi64(*sum, _mm512_mullo_epi64(left, right));
        }
    }
    let sum = sums.into_iter().fold(_mm512_setzero_si512(), |all, sum| _mm512_add_epi64(all, sum));
    _mm512_reduce_add_epi64(sum).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_tell_that_every_multiplication_took_place() {
        for path in Path::available() {
            for count in [1, 1000, 1_000_000] {
                let done = multiply_adds(path, count);
                assert!((count as u64..count as u64 + 2000).contains(&done), "{path}: {done} of {count}");
            }
        }
    }

    #[test]
    fn whole_blocks_are_made() {
        for path in Path::available() {
            assert_eq!(keystream(path, 0), 0);
            let made = keystream(path, 3000);
            assert!(made >= 3000 && made.is_multiple_of(64) && made < 3000 + 1024, "{path}: {made}");
        }
    }
}
