//! Which instruction sets this machine offers, and plain loops compiled for each of them.
//!
//! One binary runs everywhere: nothing is built for a `target-cpu`; every wide kernel is picked at run time.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that kernels exist for; each one includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Path {
    /// What the target guarantees (SSE2 on x86-64), plain Rust.
    Portable = 1,
    /// AVX2: four words at a time.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ, VL: eight words at a time.
    Avx512 = 3,
    /// AVX-512 with VBMI, and the int8 matrix tiles.
    Amx = 4,
}

impl Path {
    /// All paths, slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    /// The best path of this machine. Detected once; later calls read one byte.
    pub fn best() -> Self {
        static BEST: AtomicU8 = AtomicU8::new(0);
        match Self::from_byte(BEST.load(Ordering::Relaxed)) {
            Some(path) => path,
            None => {
                let path = detect();
                BEST.store(path as u8, Ordering::Relaxed);
                path
            }
        }
    }

    /// The paths this machine can take, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|&path| path <= Self::best())
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&path| path as u8 == byte)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Path {
    use std::is_x86_feature_detected as has;
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    match () {
        () if avx512 && has!("avx512vbmi") && super::gemm::amx::enable() => Path::Amx,
        () if avx512 => Path::Avx512,
        () if has!("avx2") => Path::Avx2,
        () => Path::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Path {
    Path::Portable
}

/// The path that [`multiversion!`] functions take on this thread.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn current() -> Path {
    #[cfg(test)]
    if let Some(path) = tests::FORCED.get() {
        return path;
    }
    Path::best()
}

/// Compiles a function of plain safe loops for AVX-512, AVX2 and the baseline, and picks one per call.
///
/// The body is ordinary Rust that LLVM vectorises; the picked copy gets whole registers of the machine at hand. Closures
/// and `#[inline]` functions called inside are compiled along. Per call it costs one atomic load and a branch: give it a
/// slice, not an element.
///
/// ```ignore
/// multiversion! {
///     /// `out[i] += x[i] * y[i]`.
///     pub(crate) fn add_products(x: &[u64], y: &[u64], out: &mut [u64]) {
///         for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
///             *out = out.wrapping_add(x.wrapping_mul(*y));
///         }
///     }
/// }
/// ```
///
/// Generic parameters, named lifetimes, `self` and `mut` bindings in the argument list are not supported.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn baseline($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    baseline($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    baseline($($arg),*)
                }
                use $crate::compute::cpu::dispatch::{Path, current};
                #[allow(unsafe_code, reason = "calls into code for an instruction set that was just detected")]
                match current() {
                    // SAFETY: `current` returns a path only if this machine offers its instructions.
                    Path::Amx | Path::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Path::Avx2 => return unsafe { avx2($($arg),*) },
                    Path::Portable => {}
                }
            }
            baseline($($arg),*)
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        pub(super) static FORCED: Cell<Option<Path>> = const { Cell::new(None) };
    }

    /// Runs `work` with every [`multiversion!`] function of this thread on `path`.
    pub(crate) fn with_path<T>(path: Path, work: impl FnOnce() -> T) -> T {
        assert!(path <= Path::best(), "this machine has no {path}");
        let before = FORCED.replace(Some(path));
        let result = work();
        FORCED.set(before);
        result
    }

    multiversion! {
        /// Sum of `x[i] * y[i] + i`.
        fn dot(x: &[u64], y: &[u64]) -> u64 {
            let indexed = x.iter().zip(y).zip(0u64..);
            indexed.fold(0, |sum, ((x, y), i)| sum.wrapping_add(x.wrapping_mul(*y)).wrapping_add(i))
        }
    }

    multiversion! {
        fn double(words: &mut [u64]) {
            for word in words {
                *word <<= 1;
            }
        }
    }

    #[test]
    fn every_path_computes_the_same() {
        let x: Vec<u64> = (0..1003).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let y: Vec<u64> = x.iter().map(|x| x.rotate_left(17)).collect();
        let want = x.iter().zip(&y).zip(0u64..).fold(0u64, |s, ((x, y), i)| s.wrapping_add(x.wrapping_mul(*y)) + i);
        for path in Path::available() {
            assert_eq!(with_path(path, || dot(&x, &y)), want, "{path}");
            let mut doubled = x.clone();
            with_path(path, || double(&mut doubled));
            assert!(doubled.iter().zip(&x).all(|(d, x)| *d == x << 1), "{path}");
        }
    }

    #[test]
    fn best_path_is_stable_and_listed_last() {
        assert_eq!(Path::available().last(), Some(Path::best()));
        assert_eq!(Path::best(), Path::best());
    }
}
