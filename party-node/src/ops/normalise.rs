//! Normalisation: which power of two bounds a positive number, and linear forms of that power.

use super::{power, unit, word};
use crate::protocol::{ProtocolError, Term, Tile, TileShare, inject_forms, inject_sum, join, signs};

/// A range of positive numbers cut into intervals `[2^(e-stride), 2^e]`, downward from the highest.
pub(super) struct BinaryRange {
    pub(super) highest: i32,
    pub(super) lowest: i32,
    pub(super) stride: i32,
}

impl BinaryRange {
    /// From `2^-below` to `2^14`, or to half of what a comparison can tell.
    pub(super) fn new(tile: &Tile<'_>, below: u32, stride: i32) -> Self {
        let spec = tile.party().spec();
        let bits = spec.fraction_bits.bits();
        let window = spec.compare_bits.checked_sub(2 + bits);
        let window = window.expect("the comparison window holds the fraction bits and two more, as a job's check says");
        Self { highest: window.min(14).cast_signed(), lowest: -below.cast_signed(), stride }
    }

    /// The exponent of the upper end of every interval, ascending.
    pub(super) fn ends(&self) -> Vec<i32> {
        let mut ends: Vec<i32> =
            (0..).map(|i| self.highest - i * self.stride).take_while(|end| *end > self.lowest).collect();
        ends.reverse();
        ends
    }

    /// A form for [`normalise`]: one number for each interval, and for what lies below the range as for the lowest.
    pub(super) fn form(&self, bits: u32, value: impl Fn(i32) -> f64) -> Vec<u64> {
        let ends = self.ends();
        ends[..1].iter().chain(&ends).map(|&end| word(value(end) * unit(bits))).collect()
    }

    /// The factor that takes a number into `[2^-stride, 1]`.
    pub(super) fn scale(&self, bits: u32) -> Vec<u64> {
        self.form(bits, |end| power(-end))
    }
}

/// What [`normalise`] finds.
pub(super) struct Normalised {
    /// The number, limited to the range.
    pub(super) clamped: TileShare,
    /// The value of each form.
    pub(super) forms: Vec<TileShare>,
}

/// Finds the interval of a number.
///
/// | | |
/// |---|---|
/// | Computes | `x` clamped to the range; each form's entry for the interval of `x`, its first entry for `x` below the range. Exact |
/// | Holds | `x` of `n` elements, `-2^highest <= x < 2^(highest+1)`, `j` intervals, `m` forms of `j+1` entries -> `1 + m` vectors of `n` |
/// | Rounds | those of [`signs`], and 1 |
/// | Bytes | over the three parties, those of [`signs`] against `j+1` powers of two, which share what is below the smaller, and `(48 + 8j + 16m) n` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | thresholds in parallel in place of the prefix-or of Catrina, de Hoogh, "Improved Primitives for Secure Multiparty Integer Computation", SCN 2010: the comparisons share their rounds |
pub(super) async fn normalise(
    tile: &Tile<'_>,
    x: &TileShare,
    range: &BinaryRange,
    forms: &[Vec<u64>],
) -> Result<Normalised, ProtocolError> {
    let (fixed, n) = (tile.party().fixed(), x.len());
    let (ends, threshold) = (range.ends(), |exponent: i32| fixed.constant(power(exponent)));
    let (low, high) = (threshold(range.lowest), threshold(range.highest));
    let edges: Vec<u64> = std::iter::once(&range.lowest).chain(&ends).map(|&end| threshold(end)).collect();
    let above = signs(tile, x, &edges).await?;

    // An entry is the sum of the differences up to it; reaching the top changes nothing.
    let differences: Vec<Vec<u64>> =
        forms.iter().map(|form| form.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect()).collect();
    let beside = tile.fork();
    let over_low = x.clone().plus_public(tile, low.wrapping_neg());
    let under_high = x.clone().times(u64::MAX).plus_public(tile, high);
    let limits = [Term::Share(&above[0], &over_low, None), Term::Share(&above[ends.len()], &under_high, None)];
    let (values, clamped) =
        join(inject_forms(tile, &above[..ends.len()], &differences, n), inject_sum(&beside, &limits, n)).await?;
    tile.rejoin(&beside);
    let forms = values.into_iter().zip(forms).map(|(value, form)| value.plus_public(tile, form[0])).collect();
    Ok(Normalised { clamped: clamped.plus_public(tile, low), forms })
}

#[cfg(test)]
impl BinaryRange {
    /// Payload bytes of [`normalise`] over the three parties with a comparison window of 32.
    pub(super) fn bytes(&self, n: usize, fixed: shared::fixed::FixedPoint, forms: usize) -> usize {
        let ends = self.ends();
        let edges: Vec<u64> =
            std::iter::once(&self.lowest).chain(&ends).map(|&end| fixed.constant(power(end))).collect();
        let signs = crate::protocol::carries_bytes(&Default::default(), 31, &edges).0 * n.div_ceil(64);
        signs + (48 + 8 * ends.len() + 16 * forms) * n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::spec;
    use crate::world::{Cost, World, assert_masked};

    #[test]
    fn every_number_finds_its_interval() {
        for (bits, stride) in [(16, 1), (16, 2), (19, 2), (8, 1)] {
            let fixed = spec(bits).fraction_bits;
            let range = BinaryRange { highest: (30 - bits.cast_signed()).min(14), lowest: -8, stride };
            let top = range.highest;
            let x: Vec<u64> = (-8..=top)
                .flat_map(|e| [fixed.constant(power(e)), fixed.constant(power(e)) - 1, fixed.constant(1.7 * power(e))])
                .chain([0, 1, 1 << 63 >> 33, (-5_i64).cast_unsigned(), fixed.constant(-power(top))])
                .collect();
            let (z, run) = World::new(3).with_spec(spec(bits)).tile(1, [&x], async |tile, [x]| {
                let found = normalise(tile, &x, &range, &[range.form(0, f64::from), range.scale(20)]).await?;
                Ok(TileShare::concat(&[&found.clamped, &found.forms[0], &found.forms[1]]))
            });
            let n = x.len();
            for i in 0..n {
                let clamped = fixed.decode(x[i]).clamp(power(-8), power(top));
                assert_eq!(fixed.decode(z[i]), clamped);
                let end = i32::try_from(z[n + i].cast_signed()).unwrap();
                assert!(range.ends().contains(&end));
                assert!((clamped < power(end) || end == top) && clamped >= power(end - stride), "{clamped} {end}");
                assert_eq!(z[2 * n + i], word(power(20 - end)));
            }
            assert_eq!(run.cost, Cost { rounds: 5 + 1 + 1, sent_bytes: range.bytes(n, fixed, 2) });
        }
    }

    #[test]
    fn normalisation_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 12).collect();
        let run = |keys| {
            let program = async |tile: &Tile<'_>, [x]: [TileShare; 1]| {
                let range = BinaryRange::new(tile, 8, 1);
                Ok(normalise(tile, &x, &range, &[range.scale(20)]).await?.forms.remove(0))
            };
            World::new(1).with_keys(keys).tile(2, [&x], program).1
        };
        assert_masked(&run(2), &run(3));
    }
}
