//! Which values a public dropout mask keeps. All parties, and the plaintext twin of a run, derive the same ones.

use std::ops::Range;

use rand::RngCore;

use super::{TrainSpec, public_stream};

/// Uses of [`public_stream`] for masks have this bit set, those for batches do not.
const MASKS: u64 = 1 << 63;
/// Bits of a step's number beside that of a node.
const STEP_BITS: u32 = 40;

impl TrainSpec {
    /// Whether each of some values of a batch stays at a dropout layer: each is dropped with `probability`, whatever
    /// happens to the others. `elements` counts through the whole batch, sample after sample, in memory order; so a
    /// lane or a tile takes the part that belongs to its samples. `step` counts from the start of training, over all
    /// epochs; `node` is the layer's number.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a probability below 1 in units of 2^-32 fits 32 bits; sizes fit 128"
    )]
    pub fn dropout_mask(&self, step: u64, node: usize, probability: f64, elements: Range<usize>) -> Vec<bool> {
        let purpose = MASKS | ((node as u64) << STEP_BITS) | (step & ((1 << STEP_BITS) - 1));
        let mut stream = public_stream(self.seed, purpose);
        stream.set_word_pos(elements.start as u128);
        // A power of two as factor: the bound is exact, on every machine the same.
        let dropped = (probability * 4_294_967_296.0) as u32;
        elements.map(|_| stream.next_u32() >= dropped).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_batch_has_the_mask_that_the_whole_has() {
        let spec = TrainSpec::default();
        let whole = spec.dropout_mask(7, 3, 0.4, 0..1000);
        for range in [0..64, 64..192, 17..18, 333..1000] {
            assert_eq!(spec.dropout_mask(7, 3, 0.4, range.clone()), whole[range]);
        }
    }

    #[test]
    fn masks_drop_their_share_and_differ_by_seed_step_and_layer() {
        let (spec, other) = (TrainSpec::default(), TrainSpec { seed: 2, ..TrainSpec::default() });
        for (probability, kept) in [(0.0, 100_000), (0.25, 75_000), (0.9, 10_000)] {
            let mask = spec.dropout_mask(1, 1, probability, 0..100_000);
            let count = mask.iter().filter(|kept| **kept).count();
            assert!(count.abs_diff(kept) < 800, "{probability}: {count}");
        }
        let mask = spec.dropout_mask(1, 1, 0.5, 0..256);
        let others = [spec.dropout_mask(2, 1, 0.5, 0..256), spec.dropout_mask(1, 2, 0.5, 0..256)];
        assert!(others.iter().chain([&other.dropout_mask(1, 1, 0.5, 0..256)]).all(|other| *other != mask));
    }
}
