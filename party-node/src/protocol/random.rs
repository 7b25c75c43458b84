//! Bits that nobody knows.

use super::value::Bits;
use super::{ProtocolError, Purpose, Role, Tile, and};
use crate::compute::Words;

/// Bits of a [`biased_bits`] probability.
const PROBABILITY_BITS: u32 = 8;

/// Fair bits, 64 to a word.
///
/// | | |
/// |---|---|
/// | Computes | `words` words of independent, uniform bits |
/// | Holds | nothing -> shared bits |
/// | Rounds | 0 |
/// | Bytes | 0 |
/// | Secure against | one semi-honest party (honest majority): the masked bit is a stream of A and B, each half of the mask a stream of the helper and one of them |
/// | Reveals | nothing |
/// | Source | pairwise keys as in Araki et al., eprint 2016/768 |
pub fn random_bits(tile: &Tile<'_>, words: usize) -> Bits {
    let op = tile.op();
    if tile.is_helper() {
        return Bits { m: Words::none(), s: op.masks_of_bits(Purpose::Bit, words) };
    }
    let other = if tile.role() == Role::A { tile.helper().next() } else { tile.helper().prev() };
    Bits { m: op.stream(other, Purpose::RandomBit, words), s: op.own_mask(Purpose::Bit, words) }
}

/// Bits that are set with a public probability, in steps of 1/256.
///
/// | | |
/// |---|---|
/// | Computes | `n` independent bits, each set with the probability nearest to `probability` that is a multiple of 1/256 |
/// | Holds | nothing -> shared bits |
/// | Rounds | one for each bit of the probability behind its leading one and before its trailing zeros: 0 for 1/2, 7 at most; one more if nothing before lets the helper run ahead |
/// | Bytes | as many [`and`] on `n` bits |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | a uniform number below the probability, compared bit by bit with a public constant |
pub async fn biased_bits(tile: &Tile<'_>, n: usize, probability: f64) -> Result<Bits, ProtocolError> {
    let (bound, words) = (bound(probability), n.div_ceil(64));
    if bound >> PROBABILITY_BITS != 0 {
        let zeros = || tile.device().zeros(words);
        let none = Bits { m: if tile.is_helper() { Words::none() } else { zeros() }, s: zeros() };
        return Ok(none.negated());
    }
    // From the last bit of the bound that is set: below it lies whoever has a zero there. Then upward: a zero of the
    // bound asks for a zero and for what came before, a one for a zero or for what came before.
    let lowest = bound.trailing_zeros();
    let mut below = random_bits(tile, words).negated();
    for bit in lowest + 1..PROBABILITY_BITS {
        let zero = random_bits(tile, words).negated();
        below = if bound >> bit & 1 == 1 {
            and(tile, &zero.negated(), &below.negated()).await?.negated()
        } else {
            and(tile, &zero, &below).await?
        };
    }
    Ok(below)
}

/// A probability above 0 in units of 1/256, at least one of them.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a probability lies between 0 and 1")]
fn bound(probability: f64) -> u32 {
    ((probability * f64::from(1 << PROBABILITY_BITS)).round() as u32).clamp(1, 1 << PROBABILITY_BITS)
}

/// The probability that [`biased_bits`] gives.
pub fn biased(probability: f64) -> f64 {
    f64::from(bound(probability)) / f64::from(1 << PROBABILITY_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{TileShare, to_arithmetic};
    use crate::world::{Cost, World, assert_masked};

    #[test]
    fn bits_are_set_as_often_as_asked() {
        let n = 64 * 256;
        for (probability, gates) in [(0.5, 0), (0.25, 1), (0.75, 1), (0.8, 7), (1.0, 0), (0.9, 6)] {
            for helper in 0..3 {
                let (bits, run) = World::new(7).tile(helper, [&[]], async |tile, [_]: [TileShare; 1]| {
                    let bits = biased_bits(tile, n, probability).await?;
                    to_arithmetic(tile, &bits, n).await
                });
                assert!(bits.iter().all(|bit| *bit <= 1));
                let share = bits.iter().sum::<u64>() as f64 / n as f64;
                assert!((share - biased(probability)).abs() < 0.02, "{probability}: {share}");
                assert_eq!(run.cost, Cost { rounds: gates + 2, sent_bytes: 24 * gates as usize * n / 64 + 24 * n });
            }
        }
    }

    #[test]
    fn other_keys_give_other_bits() {
        let bits = |keys| {
            let program = async |tile: &Tile<'_>, [_]: [TileShare; 1]| {
                let bits = random_bits(tile, 4);
                to_arithmetic(tile, &bits, 256).await
            };
            World::new(7).with_keys(keys).tile(1, [&[]], program).0
        };
        assert_ne!(bits(1), bits(2));
    }

    #[test]
    fn biased_bits_send_only_masked_words() {
        let run = |keys| {
            let program = async |tile: &Tile<'_>, [_]: [TileShare; 1]| {
                let bits = biased_bits(tile, 256, 0.8).await?;
                to_arithmetic(tile, &bits, 256).await
            };
            World::new(1).with_keys(keys).tile(0, [&[]], program).1
        };
        assert_masked(&run(2), &run(3));
    }
}
