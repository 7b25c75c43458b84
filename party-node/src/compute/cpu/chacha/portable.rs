//! Four blocks at a time in plain Rust; LLVM maps the lanes to whatever vectors the target guarantees.

use std::hint::black_box;

/// Blocks per round of the loop.
pub(super) const BLOCKS: u32 = 4;
const LANES: usize = BLOCKS as usize;

type Lanes = [u32; LANES];

pub(super) fn fill<const DOUBLE_ROUNDS: usize>(mut start: [u32; 16], out: &mut [[u64; 8 * LANES]]) {
    for words in out {
        let state = blocks::<DOUBLE_ROUNDS>(start);
        for (lane, block) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (word, pair) in block.iter_mut().zip(state.as_chunks::<2>().0) {
                *word = u64::from(pair[0][lane]) | u64::from(pair[1][lane]) << 32;
            }
        }
        start[12] = start[12].wrapping_add(BLOCKS);
    }
}

/// Makes as many blocks as `calls` rounds of the loop and leaves them where they are.
pub(super) fn in_registers<const DOUBLE_ROUNDS: usize>(mut start: [u32; 16], calls: usize) {
    for _ in 0..calls {
        black_box(blocks::<DOUBLE_ROUNDS>(start));
        start[12] = start[12].wrapping_add(BLOCKS);
    }
}

/// The words of four blocks.
#[inline(always)]
fn blocks<const DOUBLE_ROUNDS: usize>(start: [u32; 16]) -> [Lanes; 16] {
    let mut first = start.map(|word| [word; LANES]);
    for (counter, lane) in first[12].iter_mut().zip(0..) {
        *counter = counter.wrapping_add(lane);
    }
    let mut state = first;
    for _ in 0..DOUBLE_ROUNDS {
        double_round(&mut state);
    }
    for (state, first) in state.iter_mut().zip(&first) {
        *state = add(*state, *first);
    }
    state
}

#[inline(always)]
fn double_round(state: &mut [Lanes; 16]) {
    quarter_round::<0, 4, 8, 12>(state);
    quarter_round::<1, 5, 9, 13>(state);
    quarter_round::<2, 6, 10, 14>(state);
    quarter_round::<3, 7, 11, 15>(state);
    quarter_round::<0, 5, 10, 15>(state);
    quarter_round::<1, 6, 11, 12>(state);
    quarter_round::<2, 7, 8, 13>(state);
    quarter_round::<3, 4, 9, 14>(state);
}

#[inline(always)]
fn quarter_round<const A: usize, const B: usize, const C: usize, const D: usize>(state: &mut [Lanes; 16]) {
    mix::<A, B, D, 16>(state);
    mix::<C, D, B, 12>(state);
    mix::<A, B, D, 8>(state);
    mix::<C, D, B, 7>(state);
}

#[inline(always)]
fn mix<const SUM: usize, const OTHER: usize, const TURNED: usize, const BY: u32>(state: &mut [Lanes; 16]) {
    state[SUM] = add(state[SUM], state[OTHER]);
    for (turned, sum) in [0, 1, 2, 3].map(|lane| (lane, state[SUM][lane])) {
        state[TURNED][turned] = (state[TURNED][turned] ^ sum).rotate_left(BY);
    }
}

#[inline(always)]
fn add(x: Lanes, y: Lanes) -> Lanes {
    std::array::from_fn(|lane| x[lane].wrapping_add(y[lane]))
}
