//! The exponential function from one carry and one truncation.
//!
//! A share is a masked value: `x = t + l` with `t` known to the evaluators and `l` to the helper. Within a window of
//! `2^w` units, `x + offset = T + L - c 2^w` for the low bits `T` of `t + offset`, `L` of `l`, and their carry `c`.
//! Thus `e^x = U(T) V_c(L)`: the evaluators compute `U` in the clear, the helper deals `V_0` and `V_1`, swapped by its
//! mask of `c`, and the evaluators take the one that their masked bit names. That is a sharing of `V_c(L)`, and its
//! product with the public `U` is local.

use super::{unit, word};
use crate::compute::curves::Powers;
use crate::protocol::{
    DoubledPartial, ProtocolError, Purpose, Term, Tile, TileShare, carry, inject_sum, join, signs, square_doubled,
    trunc_exact,
};

const LOG2_E: f64 = std::f64::consts::LOG2_E;
const LN_2: f64 = std::f64::consts::LN_2;
/// The largest exponent of [`exp`].
const EXPONENT_MAX: f64 = 10.0;
/// Powers that a doubled product may carry: `2^62` is what truncation takes.
const PRODUCT_BITS: f64 = 61.5;

/// `e^x` for `x` that is known not to be positive, as after the subtraction of a maximum.
///
/// | | |
/// |---|---|
/// | Computes | `e^x` for `-15.5 <= x < 0.5`; absolute error `2^-18` and one unit in the last place. `x` outside of the window is taken modulo 16: bounded, but wrong; see [`exp`] |
/// | Holds | `x` of `n` elements -> `n` |
/// | Rounds | those of [`carry`] over `w = f+4` bits, and 2: 6 for `f = 16`; one more if nothing before lets the helper run ahead |
/// | Bytes | over the three parties `16 n` for the table, and those of [`carry`] over `w` bits and of [`trunc_exact`] by `60-f`: about `70 n` for `f = 16` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | ours |
pub async fn exp_negative(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let f = tile.party().fixed().bits();
    let window = Window::new(f, f + 4, 1, 0.5);
    let product = window.product(tile, x).await?;
    trunc_exact(tile, product, window.product_bits() - f).await
}

/// `e^x` for any `x` that a comparison can tell the sign of.
///
/// | | |
/// |---|---|
/// | Computes | `e^x` for `x <= m`, with `m = 10` up to `f = 15` and `(30-f) ln 2` above (9.7 for `f = 16`), `e^m` for larger, 0 for `x < -(f+1) ln 2`; relative error `2^-17`, and one unit in the last place |
/// | Holds | `x` of `n` elements, within the range of [`signs`] -> `n` |
/// | Rounds | those of [`carry`] over `w = f+5` bits, and 7: 11 for `f = 16`; one more if nothing before lets the helper run ahead |
/// | Bytes | over the three parties `64 n`, and those of [`carry`] over `w` bits, of two [`signs`] and of three truncations: about `210 n` for `f = 16` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | ours |
///
/// A window of 32 holds `e^(x/4)`, which is squared twice with guard bits; meanwhile two comparisons find what must be
/// clamped.
pub async fn exp(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let fixed = tile.party().fixed();
    let (f, n) = (fixed.bits(), x.len());
    let (lowest, highest) = exponents(f);
    let beside = tile.fork();
    let window = async {
        let window = Window::new(f, f + 5, 4, highest + 0.25);
        let [root, square] = guard_bits(highest);
        let product = window.product(tile, x).await?;
        let quarter = trunc_exact(tile, product, window.product_bits() - root).await?;
        let half = trunc_exact(tile, square_doubled(tile, &quarter), 2 * root + 1 - square).await?;
        trunc_exact(tile, square_doubled(tile, &half), 2 * square + 1 - f).await
    };
    let edges = [lowest, highest].map(|at| fixed.constant(at));
    let (inside, signs) = join(window, signs(&beside, x, &edges)).await?;
    tile.rejoin(&beside);
    let missing = TileShare::public(tile, vec![highest_power(f); n]).minus(&inside);
    inject_sum(tile, &[Term::Share(&signs[0], &inside, None), Term::Share(&signs[1], &missing, None)], n).await
}

/// Where [`exp`] clamps: below half a unit, and at the largest power that comparisons of the result can bear.
fn exponents(f: u32) -> (f64, f64) {
    (-f64::from(f + 1) * LN_2, (f64::from(30 - f) * LN_2).min(EXPONENT_MAX))
}

fn highest_power(f: u32) -> u64 {
    word(portable_exp(exponents(f).1) * unit(f))
}

/// Fraction bits of `e^(x/4)` and of `e^(x/2)`: the squares must fit.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
fn guard_bits(highest: f64) -> [u32; 2] {
    [4.0, 2.0].map(|divisor| (30.4 - (highest + 0.25) / divisor * LOG2_E) as u32)
}

/// A window of `2^bits` units of `2^-f` that ends at `end`, and the function `e^(x/divisor)` on it.
struct Window {
    bits: u32,
    /// `1 / (divisor 2^f)`: what one unit adds to the exponent.
    step: f64,
    /// The end, in units.
    end: u64,
    /// The end, as an exponent.
    top: f64,
    /// Fraction bits of `U` and of `V`.
    factor_bits: [u32; 2],
}

impl Window {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
    fn new(f: u32, bits: u32, divisor: u32, end: f64) -> Self {
        let step = 1.0 / (f64::from(divisor) * unit(f));
        let end = word(end * unit(f));
        let top = word_to_f64(end) * step;
        // An error of U is multiplied by V, at most e^(top + span), one of V by U, at most 1.
        let both = (PRODUCT_BITS - top * LOG2_E) as u32;
        let spread = (top + unit(bits) * step) * LOG2_E;
        let v = ((f64::from(both) - spread) / 2.0) as u32;
        Self { bits, step, end, top, factor_bits: [both - v, v] }
    }

    fn product_bits(&self) -> u32 {
        self.factor_bits[0] + self.factor_bits[1]
    }

    /// How far the exponent runs within the window.
    fn span(&self) -> f64 {
        unit(self.bits) * self.step
    }

    /// An additive sharing of `e^(x/divisor)` with [`Window::product_bits`] fraction bits, ready to be truncated.
    async fn product(&self, tile: &Tile<'_>, x: &TileShare) -> Result<DoubledPartial, ProtocolError> {
        let n = x.len();
        let offset = (1 << self.bits) - self.end;
        let moved = x.clone().plus_public(tile, offset);
        let known = moved.known(tile);
        let carry = carry(tile, known.words(), self.bits).await?;
        let (op, powers) = (tile.op(), powers(self.step, self.bits));
        if tile.is_helper() {
            // `V_0` and `V_1` for every element, swapped where the mask of the carry is set.
            let scale = unit(self.factor_bits[1]) * portable_exp(self.top);
            let scales = [scale, scale * portable_exp(-self.span())];
            op.deal(Purpose::Table, powers.tabulate(known.words(), carry.selector(), scales));
            return Ok(DoubledPartial(tile.device().zeros(n)));
        }
        let table = op.dealt(Purpose::Table, 2 * n).await?;
        let scale = unit(self.factor_bits[0]) * portable_exp(-self.span());
        Ok(DoubledPartial(powers.times_chosen(known.words(), carry.selector(), table.all(), scale)))
    }
}

/// `e^(i step)` for `i < 2^bits`, as the product of two table entries.
fn powers(step: f64, bits: u32) -> Powers {
    let low_bits = bits / 2;
    Powers { low: doubled_table(step, low_bits), high: doubled_table(step * unit(low_bits), bits - low_bits) }
}

/// `e^(i step)` for `i < 2^bits`; every entry is a product of at most `bits` others, so that errors stay small.
fn doubled_table(step: f64, bits: u32) -> Vec<f64> {
    let mut table = Vec::with_capacity(1 << bits);
    table.push(1.0);
    for bit in 0..bits {
        let power = portable_exp(unit(bit) * step);
        for i in 0..table.len() {
            table.push(table[i] * power);
        }
    }
    table
}

/// `e^x` to about `2^-48`. Both evaluators must find the same bits, so the system's library will not do.
fn portable_exp(x: f64) -> f64 {
    let (mut reduced, mut squarings) = (x, 0);
    while reduced.abs() > 0.5 {
        reduced *= 0.5;
        squarings += 1;
    }
    // Terms down to 2^-53 of the first.
    let series = (1..=14).rev().fold(1.0, |sum, k| 1.0 + reduced / f64::from(k) * sum);
    (0..squarings).fold(series, |power, _| power * power)
}

#[allow(clippy::cast_precision_loss, reason = "below 2^53")]
fn word_to_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{spec, trunc_bytes};
    use crate::protocol::{carries_bytes, carry_bytes};
    use crate::world::{Cost, World, assert_masked};

    #[test]
    fn portable_exp_is_close() {
        for i in -2000..2000 {
            let x = f64::from(i) / 100.0;
            assert!((portable_exp(x) / x.exp() - 1.0).abs() < 1e-13, "{x}");
        }
        let powers = powers(1.0 / 65536.0, 20);
        for i in (0..1 << 20).step_by(997) {
            assert!((powers.of(i) / (word_to_f64(i) / 65536.0).exp() - 1.0).abs() < 1e-13, "{i}");
        }
    }

    #[test]
    fn exp_negative_is_close() {
        for bits in 8..=20 {
            let fixed = spec(bits).fraction_bits;
            let n = 4096;
            let x: Vec<u64> = (0..n).map(|i| fixed.constant(0.49 - f64::from(i) * 15.98 / f64::from(n))).collect();
            let (z, run) = World::new(bits.into())
                .with_spec(spec(bits))
                .tile(1, [&x], async |tile, [x]| exp_negative(tile, &x).await);
            let errors = z.iter().zip(&x).map(|(z, x)| (fixed.decode(*z) - fixed.decode(*x).exp()).abs());
            let worst = errors.fold(0.0, f64::max);
            println!("f {bits}: absolute error {worst:e}");
            assert!(worst <= 1.0 / fixed.scale() + 1.0 / f64::from(1 << 18), "{worst}");
            let (carry, depth) = carry_bytes(&Default::default(), bits + 4);
            let sent_bytes = carry * x.len().div_ceil(64) + 16 * x.len() + trunc_bytes(x.len(), 60 - bits);
            // The evaluators wait once for what the helper deals.
            assert_eq!(run.cost, Cost { rounds: depth + 1 + 2, sent_bytes });
        }
    }

    #[test]
    fn exp_is_close_and_clamped() {
        for bits in 8..=20 {
            let fixed = spec(bits).fraction_bits;
            let range = f64::from(1 << (30 - bits));
            let (lowest, highest) = exponents(bits);
            let mut x: Vec<f64> = (0..4000).map(|i| -25.0 + f64::from(i) / 100.0).collect();
            x.extend([-600.0, -100.0, -26.0, 12.0, 21.7, 43.3, 400.0, 1000.0, range, -range, highest, lowest]);
            let x: Vec<u64> = x.into_iter().map(|x| fixed.constant(x)).collect();
            let (z, run) =
                World::new(bits.into()).with_spec(spec(bits)).tile(0, [&x], async |tile, [x]| exp(tile, &x).await);
            let mut worst = 0.0_f64;
            for (z, x) in z.iter().zip(&x) {
                let (z, x) = (fixed.decode(*z), fixed.decode(*x));
                let want = x.min(highest).exp();
                let error = (z - want).abs() - 1.01 / fixed.scale();
                worst = worst.max(error / want);
                assert!(z >= -1.0 / fixed.scale(), "{z}");
            }
            println!("f {bits}: relative error beyond one unit {worst:e}");
            assert!(worst < 1.0 / 131_072.0, "{worst}");
            let n = x.len();
            let (window, depth) = carry_bytes(&Default::default(), bits + 5);
            let [root, square] = guard_bits(highest);
            let product = Window::new(bits, bits + 5, 4, highest + 0.25).product_bits();
            let shifts = [product - root, 2 * root + 1 - square, 2 * square + 1 - bits];
            let sent_bytes = window * n.div_ceil(64)
                + carries_bytes(&Default::default(), 31, &[lowest, highest].map(|at| fixed.constant(at))).0
                    * n.div_ceil(64)
                + 16 * n
                + 48 * n
                + shifts.map(|shift| trunc_bytes(n, shift)).iter().sum::<usize>();
            assert_eq!(run.cost, Cost { rounds: depth + 1 + 7, sent_bytes });
        }
    }

    #[test]
    fn exp_sends_only_masked_words() {
        let x: Vec<u64> = (0..64_i64).map(|i| (-i << 13).cast_unsigned()).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |tile, [x]| exp(tile, &x).await).1;
        assert_masked(&run(2), &run(3));
    }
}
