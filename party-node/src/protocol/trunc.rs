//! Truncation, fused with the product before it.

use shared::job::Truncation;

use super::value::{DoubledPartial, TileShare};
use super::{Op, ProtocolError, Purpose, Role, Tile, carry, to_arithmetic};
use crate::compute::{Words, elementwise};
use crate::meter::Phase;

/// Drops `shift` bits of a doubled product.
///
/// | | |
/// |---|---|
/// | Computes | `z = floor((v + p) / 2^shift)` for `v` = the doubled product and a uniform `p < 2^shift` |
/// | Holds | additive `v`, `abs(v) <= 2^62` -> replicated `z`, `n` elements |
/// | Rounds | 2 (1 with `trunc = "fast"`) |
/// | Bytes | `(24 + 3 shift / 8) n` over the three parties (`24 n` fast) |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing; see `docs/protocols.md` for what an *opened* result says about `p` |
/// | Source | opening under a mask whose truncation is shared: Mohassel, Rindal, "ABY3", eprint 2018/403, with the mask known to one party as in Patra, Suresh, "BLAZE", eprint 2020/042; wrap elimination by a known top bit: Rathee et al., "SiRNN", eprint 2021/459; the combination is ours |
///
/// The evaluators open `W = v + R + 2^62` under the helper's mask `R`. As `v + 2^62` has a clear top bit, the sum has
/// wrapped exactly if the top bit of `R` is set and that of `W` is not; the second round adds that bit at `2^(64-shift)`.
pub async fn trunc(tile: &Tile<'_>, v: DoubledPartial, shift: u32) -> Result<TileShare, ProtocolError> {
    let variant = if tile.party().spec().trunc == Truncation::Fast { Variant::Fast } else { Variant::Exact };
    Ok(truncated(tile, v, shift, variant).await?.0)
}

/// As [`trunc`] with `trunc = "exact"`, whatever the job says: for products so large that the fast variant, which
/// fails with probability `abs(v) / 2^64`, would fail all the time.
///
/// | | |
/// |---|---|
/// | Computes, Holds, Secure against, Reveals, Source | as [`trunc`] |
/// | Rounds | 2 |
/// | Bytes | `(24 + 3 shift / 8) n` over the three parties |
pub async fn trunc_exact(tile: &Tile<'_>, v: DoubledPartial, shift: u32) -> Result<TileShare, ProtocolError> {
    Ok(truncated(tile, v, shift, Variant::Exact).await?.0)
}

/// What a truncation spends on the wrap bit and on its rounding.
#[derive(Clone, Copy, PartialEq)]
enum Variant {
    /// Without the wrap bit.
    Fast,
    /// Never wrong in range, rounded at random.
    Exact,
    /// As exact, and hands out the low bits that a comparison needs to round down.
    Floor,
}

/// The truncated value and, for [`Variant::Floor`], two numbers whose sum carries out of `shift` bits if a unit must be
/// taken off: `R mod 2^shift` at the helper, `2^shift - 1 - W mod 2^shift` at the evaluators. Else nothing.
async fn truncated(
    tile: &Tile<'_>,
    v: DoubledPartial,
    shift: u32,
    variant: Variant,
) -> Result<(TileShare, Words), ProtocolError> {
    assert!((1..=62).contains(&shift), "a product has a sign, a guard bit and at least one bit to drop");
    if tile.is_helper() {
        Ok(trunc_helper(tile, v, shift, variant))
    } else {
        trunc_evaluator(tile, v, shift, variant).await
    }
}

fn trunc_helper(tile: &Tile<'_>, v: DoubledPartial, shift: u32, variant: Variant) -> (TileShare, Words) {
    let outer = tile.meter().switch(Phase::Truncate);
    let (op, mut mask) = (tile.op(), v.0);
    elementwise::negate(&mut mask);
    op.add_masks(Purpose::Product, &mut mask);
    let low = low_bits(&mask, 0, shift, variant);
    let top = elementwise::trunc_mask(&mut mask, shift);
    let (mut a, mut b) = op.deal(Purpose::Output, mask);
    if variant != Variant::Fast {
        deal_wrap(&op, tile, top, &mut a, &mut b, shift);
    }
    tile.meter().switch(outer);
    (TileShare { u: a, v: b }, low)
}

/// The low `shift` bits of every word, flipped where `flip` has ones; nothing unless the variant needs them.
fn low_bits(words: &Words, flip: u64, shift: u32, variant: Variant) -> Words {
    if variant == Variant::Floor { elementwise::low_bits(words, flip, shift) } else { Words::none() }
}

/// Helper: shares the top bit of its mask mod `2^shift`, and takes the masks of the wrap bit off its components.
fn deal_wrap(op: &Op<'_, '_>, tile: &Tile<'_>, mut top: Words, a: &mut Words, b: &mut Words, shift: u32) {
    let half = op.stream(tile.helper().prev(), Purpose::MaskTop, top.len());
    elementwise::sub_assign(&mut top, &half);
    op.send_packed(tile.helper().next(), &top, shift);
    let (wrap_a, wrap_b) = op.masks(Purpose::Wrap, top.len());
    elementwise::sub_shifted(a, &wrap_a, 64 - shift);
    elementwise::sub_shifted(b, &wrap_b, 64 - shift);
}

/// Evaluator: its share of the top bit of the helper's mask, mod `2^shift`.
async fn dealt_top(op: &Op<'_, '_>, tile: &Tile<'_>, n: usize, shift: u32) -> Result<Words, ProtocolError> {
    match tile.role() {
        Role::A => Ok(op.own_mask(Purpose::MaskTop, n)),
        _ => op.recv_packed(tile.helper(), n, shift).await,
    }
}

async fn trunc_evaluator(
    tile: &Tile<'_>,
    v: DoubledPartial,
    shift: u32,
    variant: Variant,
) -> Result<(TileShare, Words), ProtocolError> {
    let (op, n, mut w) = (tile.op(), v.len(), v.0);
    tile.meter().within(Phase::Truncate, || op.add_own_mask(Purpose::Product, &mut w));
    op.open_sum(&mut w, if variant == Variant::Fast { 0 } else { 1 << 62 }).await?;
    let mut own = op.dealt(Purpose::Output, n).await?;
    if variant == Variant::Fast {
        elementwise::shift_right(&mut w, shift);
        return Ok((TileShare { u: w, v: own }, Words::none()));
    }
    let top = dealt_top(&op, tile, n, shift).await?;
    let (wrap_mask, wrap, low) = tile.meter().within(Phase::Truncate, || {
        let mask = op.own_mask(Purpose::Wrap, n);
        let wrap = elementwise::trunc_wrap(&w, &top, &mask, shift);
        (mask, wrap, low_bits(&w, u64::MAX, shift, variant))
    });
    let their_wrap = op.exchange_packed(&wrap, shift).await?;
    tile.meter().within(Phase::Truncate, || {
        elementwise::trunc_finish(&mut w, &wrap, &their_wrap, shift);
        elementwise::sub_shifted(&mut own, &wrap_mask, 64 - shift);
    });
    Ok((TileShare { u: w, v: own }, low))
}

/// Drops `shift` bits and rounds down exactly: nothing but the result can be learned once it is opened.
///
/// | | |
/// |---|---|
/// | Computes | `z = floor(v / 2^shift)` |
/// | Holds | additive `v`, `abs(v) <= 2^62` -> replicated `z`, `n` elements |
/// | Rounds | those of [`trunc`], of [`carry`] over `shift` bits, and 1 |
/// | Bytes | those of [`trunc`], of [`carry`] over `shift` bits, and of [`to_arithmetic`] (`24 n`) |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | ours: [`trunc`] with the borrow `[W mod 2^shift < R mod 2^shift]` taken off, a comparison of what the evaluators know with what the helper knows |
pub async fn trunc_floor(tile: &Tile<'_>, v: DoubledPartial, shift: u32) -> Result<TileShare, ProtocolError> {
    let n = v.len();
    let (rounded, low) = truncated(tile, v, shift, Variant::Floor).await?;
    // R > W (low bits) is the carry out of R + (2^shift - 1 - W).
    let borrow = carry(tile, low.all(), shift).await?;
    Ok(rounded.minus(&to_arithmetic(tile, &borrow, n).await?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::job::ProtocolSpec;

    use super::*;
    use crate::protocol::{carry_bytes, mul_doubled};
    use crate::world::{Cost, World, assert_masked};

    fn products(pairs: &[(i64, i64)]) -> (Vec<u64>, Vec<u64>) {
        pairs.iter().map(|(x, y)| (x.cast_unsigned(), y.cast_unsigned())).unzip()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn trunc_error_is_zero_or_one_unit(
            pairs in prop::collection::vec((-1_i64 << 30..1 << 30, -1_i64 << 31..1 << 31), 1..50),
            shift in 2_u32..45, helper in 0_usize..3, seed: u64,
        ) {
            let (x, y) = products(&pairs);
            let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| {
                trunc(tile, mul_doubled(tile, &x, &y), shift).await
            });
            for (z, (x, y)) in z.iter().zip(&pairs) {
                let error = z.cast_signed() - ((x * y) >> (shift - 1));
                prop_assert!((0..=1).contains(&error), "{x} * {y} >> {shift}: error {error}");
            }
            let packed = (x.len() * shift as usize).div_ceil(8);
            prop_assert_eq!(run.cost, Cost { rounds: 2, sent_bytes: 24 * x.len() + 3 * packed });
        }

        #[test]
        fn trunc_floor_has_no_error(
            pairs in prop::collection::vec((-1_i64 << 30..1 << 30, -1_i64 << 31..1 << 31), 1..50),
            shift in 2_u32..45, helper in 0_usize..3, seed: u64,
        ) {
            let (x, y) = products(&pairs);
            let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| {
                trunc_floor(tile, mul_doubled(tile, &x, &y), shift).await
            });
            for (z, (x, y)) in z.iter().zip(&pairs) {
                prop_assert_eq!(z.cast_signed(), (x * y) >> (shift - 1));
            }
            let (n, (carry, depth)) = (x.len(), carry_bytes(&Default::default(), shift));
            let packed = 3 * (n * shift as usize).div_ceil(8);
            prop_assert_eq!(run.cost, Cost {
                rounds: 2 + depth + 1,
                sent_bytes: 24 * n + packed + carry * n.div_ceil(64) + 24 * n,
            });
        }
    }

    #[test]
    fn fast_costs_one_round_and_no_wrap_bits() {
        let spec = ProtocolSpec { trunc: Truncation::Fast, ..ProtocolSpec::default() };
        let (x, y) = products(&[(3 << 16, 5 << 16), (-7 << 16, 1 << 15)]);
        let (z, run) = World::new(5)
            .with_spec(spec)
            .tile(1, [&x, &y], async |tile, [x, y]| trunc(tile, mul_doubled(tile, &x, &y), 17).await);
        let want: Vec<i64> = vec![15 << 16, -7 << 15];
        for (z, want) in z.iter().zip(want) {
            assert!((0..=1).contains(&(z.cast_signed() - want)), "{} {want}", z.cast_signed());
        }
        assert_eq!(run.cost, Cost { rounds: 1, sent_bytes: 48 });
    }

    #[test]
    fn trunc_sends_only_masked_words() {
        let x: Vec<u64> = (0..128).map(|i| i << 20).collect();
        for floor in [false, true] {
            let run = |keys| {
                let program = async |tile: &Tile<'_>, [x, y]: [TileShare; 2]| {
                    let v = mul_doubled(tile, &x, &y);
                    if floor { trunc_floor(tile, v, 17).await } else { trunc(tile, v, 17).await }
                };
                World::new(1).with_keys(keys).tile(2, [&x, &x], program).1
            };
            assert_masked(&run(2), &run(3));
        }
    }
}
