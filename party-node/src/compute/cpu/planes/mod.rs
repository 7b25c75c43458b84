//! Bit planes: words turned so that one bit of 64 of them fills a word.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::dispatch::Path;

/// Planes that a kernel makes at a time.
const PLANES: usize = 32;
/// Groups of 64 words turned before planes are written: a plane then gets whole neighbouring cache lines. Planes lie far
/// apart, often by a power of two, so that single words or lines would fight for the same cache set.
const GROUPS: usize = 32;

/// `planes[j][g]`: bit `low + j` of the words of group `g`.
type Planes = [[u64; GROUPS]; PLANES];

/// Cuts bits `low .. low + count` of every word into planes of `words.len().div_ceil(64)` words each.
pub(super) fn bit_planes(path: Path, words: &[u64], low: usize, count: usize, planes: &mut [u64]) {
    let width = words.len().div_ceil(64);
    assert!(low + count <= 64, "a word has 64 bits");
    assert_eq!(planes.len(), count * width, "words of {count} planes");
    let turn = match path {
        Path::Portable | Path::Avx2 => portable::turn,
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 | Path::Amx => avx512::turn,
        #[cfg(not(target_arch = "x86_64"))]
        path => unreachable!("{path} is never detected here"),
    };
    let mut turned: Planes = [[0; GROUPS]; PLANES];
    let mut cut = |first_group: usize, groups: &[[u64; 64]]| {
        for done in (0..count).step_by(PLANES) {
            turn(groups, low + done, &mut turned);
            for (plane, turned) in planes.chunks_exact_mut(width).skip(done).zip(&turned).take(count - done) {
                plane[first_group..][..groups.len()].copy_from_slice(&turned[..groups.len()]);
            }
        }
    };
    let (groups, rest) = words.as_chunks::<64>();
    for (index, groups) in groups.chunks(GROUPS).enumerate() {
        cut(index * GROUPS, groups);
    }
    if !rest.is_empty() {
        let mut padded = [0; 64];
        padded[..rest.len()].copy_from_slice(rest);
        cut(groups.len(), &[padded]);
    }
}
