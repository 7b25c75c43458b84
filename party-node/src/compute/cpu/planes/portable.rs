//! Two 32 x 32 bit transposes at once, in the halves of 32 words: log-many rounds that exchange ever smaller squares
//! (Warren, "Hacker's Delight", section 7-3).

use super::super::dispatch::multiversion;
use super::{PLANES, Planes};

multiversion! {
    /// Turns bits `low .. low + 32` of each group.
    pub(super) fn turn(groups: &[[u64; 64]], low: usize, planes: &mut Planes) {
        for (index, group) in groups.iter().enumerate() {
            let (first, second) = group.split_at(32);
            let mut square = [0; PLANES];
            for ((to, first), second) in square.iter_mut().zip(first).zip(second) {
                *to = first >> low & 0xffff_ffff | second >> low << 32;
            }
            exchange::<16>(&mut square, 0x0000_ffff_0000_ffff);
            exchange::<8>(&mut square, 0x00ff_00ff_00ff_00ff);
            exchange::<4>(&mut square, 0x0f0f_0f0f_0f0f_0f0f);
            exchange::<2>(&mut square, 0x3333_3333_3333_3333);
            exchange::<1>(&mut square, 0x5555_5555_5555_5555);
            for (plane, word) in planes.iter_mut().zip(square) {
                plane[index] = word;
            }
        }
    }
}

/// Exchanges the upper half of each of `SIDE` rows with the lower half of the row `SIDE` further on.
#[inline(always)]
fn exchange<const SIDE: usize>(square: &mut [u64; PLANES], low_half: u64) {
    for pair in square.chunks_exact_mut(2 * SIDE) {
        let (upper, lower) = pair.split_at_mut(SIDE);
        for (upper, lower) in upper.iter_mut().zip(lower) {
            let differ = (*upper >> SIDE ^ *lower) & low_half;
            *lower ^= differ;
            *upper ^= differ << SIDE;
        }
    }
}
