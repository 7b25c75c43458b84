//! Exponentials, sines and cosines of what a party knows, word by word: what it tabulates for others, and how it combines
//! what it knows with a table that it was dealt.
//!
//! Both evaluators must arrive at the same words on every machine, so this uses additions and products of floats alone;
//! a library's functions may differ in the last bit between systems.

use std::f64::consts::TAU;
use std::sync::LazyLock;

use super::elementwise::bit;
use super::words::{Slice, SliceMut, Words};

/// `e^(i step)` for every `i` below a power of two, as the product of an entry of each table.
pub struct Powers {
    /// For the low bits of `i`: a power of two of entries.
    pub low: Vec<f64>,
    /// For the bits above them, likewise. Higher bits are ignored.
    pub high: Vec<f64>,
}

impl Powers {
    /// The power that a word stands for.
    pub fn of(&self, i: u64) -> f64 {
        let (low, high) = (self.low.len(), self.high.len());
        let [i_low, i_high] = [index(i), index(i >> low.ilog2())];
        self.low[i_low & (low - 1)] * self.high[i_high & (high - 1)]
    }

    /// Two entries for every word, its power times each scale, rounded; swapped where the bit is set.
    pub fn tabulate(&self, words: Slice<'_>, swaps: Slice<'_>, scales: [f64; 2]) -> Words {
        #[cfg(feature = "cuda")]
        if let Slice::Gpu(gpu, words) = words {
            return gpu.exp_table(words, swaps.on(gpu).span(), self, scales).into();
        }
        let swaps = swaps.on_host();
        words.mapped(|words| {
            let mut table = Vec::with_capacity(2 * words.len());
            for (i, &word) in words.iter().enumerate() {
                let power = self.of(word);
                let [first, second] = scales.map(|scale| nearest_positive(power * scale));
                let swap = (first ^ second) & bit(&swaps, i).wrapping_neg();
                table.extend([first ^ swap, second ^ swap]);
            }
            table
        })
    }

    /// For every word its power times the scale, rounded, times the entry of a table of pairs that the bit names.
    pub fn times_chosen(&self, words: Slice<'_>, choice: Slice<'_>, table: Slice<'_>, scale: f64) -> Words {
        #[cfg(feature = "cuda")]
        if let Slice::Gpu(gpu, words) = words {
            return gpu.exp_pick(words, choice.on(gpu).span(), table.on(gpu).span(), self, scale).into();
        }
        let (choice, table) = (choice.on_host(), table.on_host());
        words.mapped(|words| {
            let pairs = table.as_chunks::<2>().0;
            let product = |(i, (&word, pair)): (usize, (&u64, &[u64; 2]))| {
                pair[index(bit(&choice, i))].wrapping_mul(nearest_positive(self.of(word) * scale))
            };
            words.iter().zip(pairs).enumerate().map(product).collect()
        })
    }
}

/// Words as angles: `turns` times a word, modulo `2^period_bits`, is a part of a full turn.
pub struct Circle {
    /// See [`Circle`].
    pub turns: u64,
    /// See [`Circle`]; 30 at most.
    pub period_bits: u32,
}

/// A sum over the harmonics `k` of multiples of `cos k(t + l)`, or of `sin k(t + l)`.
pub struct Series {
    /// Whether it is of sines.
    pub of_sines: bool,
    /// The multiple of every harmonic, from the first.
    pub coefficients: Vec<f64>,
}

/// Words that are turned into sines at a time: small enough for the cache, and for loops of a known length.
const BLOCK: usize = 64;
/// Pieces into which a turn is cut for the table of sines.
const PIECES_BITS: u32 = 8;

/// Sine and cosine at the start of every piece.
static TURN: LazyLock<Vec<(f64, f64)>> = LazyLock::new(|| {
    let step = small_angle(TAU / unit(PIECES_BITS));
    let next = |&(sin, cos): &(f64, f64)| Some((sin * step.1 + cos * step.0, cos * step.1 - sin * step.0));
    std::iter::successors(Some((0.0, 1.0)), next).take(1 << PIECES_BITS).collect()
});

impl Circle {
    /// Sines, then cosines, of every word's angle for every harmonic, times the scale and rounded.
    pub fn tabulate(&self, words: Slice<'_>, harmonics: usize, scale: f64) -> Words {
        #[cfg(feature = "cuda")]
        if let Slice::Gpu(gpu, words) = words {
            return gpu.series_table(words, self.on_gpu(), harmonics, scale).into();
        }
        words.mapped(|words| {
            let n = words.len();
            let mut table = vec![0; 2 * harmonics * n];
            self.multiples(words, harmonics, |k, start, sin, cos| {
                let (sines, cosines) = table[2 * (k - 1) * n..2 * k * n].split_at_mut(n);
                for (into, from) in [(sines, sin), (cosines, cos)] {
                    for (into, from) in into[start..].iter_mut().zip(from) {
                        *into = nearest(from * scale);
                    }
                }
            });
            table
        })
    }

    /// Adds, for every series, its value at the sum of what a word stands for and what the table is of.
    pub fn add_series(&self, sums: SliceMut<'_>, words: Slice<'_>, table: Slice<'_>, series: &[Series]) {
        #[cfg(feature = "cuda")]
        if let SliceMut::Gpu(gpu, sums) = sums {
            let (words, table) = (words.on(&gpu), table.on(&gpu));
            gpu.series_sums(sums, words.span(), table.span(), self.on_gpu(), series);
            return;
        }
        let (words, table, harmonics) = (words.on_host(), table.on_host(), series[0].coefficients.len());
        let n = words.len();
        sums.change(|all| {
            self.multiples(&words, harmonics, |k, start, sin, cos| {
                let (sines, cosines) = table[2 * (k - 1) * n..2 * k * n].split_at(n);
                for (series, sums) in series.iter().zip(all.chunks_mut(n)) {
                    let coefficient = series.coefficients[k - 1];
                    // cos(t + l) = cos t cos l - sin t sin l; sin(t + l) = sin t cos l + cos t sin l.
                    let (by_sine, by_cosine, sign) =
                        if series.of_sines { (cos, sin, coefficient) } else { (sin, cos, -coefficient) };
                    let dealt = sines[start..].iter().zip(&cosines[start..]);
                    for ((sum, (sine, cosine)), (by_sine, by_cosine)) in
                        sums[start..].iter_mut().zip(dealt).zip(by_sine.iter().zip(by_cosine))
                    {
                        let with_sine = nearest(by_sine * sign).wrapping_mul(*sine);
                        let with_cosine = nearest(by_cosine * coefficient).wrapping_mul(*cosine);
                        *sum = sum.wrapping_add(with_sine).wrapping_add(with_cosine);
                    }
                }
            });
        });
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self) -> super::cuda::Circle<'static> {
        let unit_angle = TAU / unit(self.period_bits);
        super::cuda::Circle { turns: self.turns, period_bits: self.period_bits, turn: &TURN, unit_angle }
    }

    /// Calls `each(k, start, sines, cosines)` with those of `k` times the angles, for `k` from 1, block by block.
    fn multiples(&self, words: &[u64], harmonics: usize, mut each: impl FnMut(usize, usize, &[f64], &[f64])) {
        for (block, words) in words.chunks(BLOCK).enumerate() {
            let (mut sin1, mut cos1) = ([0.0; BLOCK], [0.0; BLOCK]);
            for (word, (sin, cos)) in words.iter().zip(sin1.iter_mut().zip(&mut cos1)) {
                (*sin, *cos) = self.angle(*word);
            }
            let (mut sin, mut cos) = (sin1, cos1);
            for k in 1..=harmonics {
                each(k, block * BLOCK, &sin[..words.len()], &cos[..words.len()]);
                for i in 0..BLOCK {
                    let (s, c) = (sin[i], cos[i]);
                    sin[i] = s * cos1[i] + c * sin1[i];
                    cos[i] = c * cos1[i] - s * sin1[i];
                }
            }
        }
    }

    /// Sine and cosine of a word's angle.
    fn angle(&self, word: u64) -> (f64, f64) {
        let within = word.wrapping_mul(self.turns) & ((1 << self.period_bits) - 1);
        let rest_bits = self.period_bits - PIECES_BITS;
        #[allow(clippy::cast_possible_truncation, reason = "a period has at most 2^30 words")]
        let (piece, rest) = ((within >> rest_bits) as usize, (within & ((1 << rest_bits) - 1)) as u32);
        let (sin, cos) = TURN[piece];
        let (sin_rest, cos_rest) = small_angle(f64::from(rest) * (TAU / unit(self.period_bits)));
        (sin * cos_rest + cos * sin_rest, cos * cos_rest - sin * sin_rest)
    }
}

/// Taylor series, good to 1e-17 below 1/40.
fn small_angle(x: f64) -> (f64, f64) {
    let square = x * x;
    let sin = x * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0)));
    let cos = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0));
    (sin, cos)
}

/// The ring element nearest to a number below 2^51: beside `1.5 2^52` a double counts units, and its bits with them.
fn nearest(value: f64) -> u64 {
    const UNITS: f64 = 6_755_399_441_055_744.0;
    (value + UNITS).to_bits().wrapping_sub(UNITS.to_bits())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and below 2^62")]
fn nearest_positive(value: f64) -> u64 {
    (value + 0.5) as u64
}

#[allow(clippy::cast_possible_truncation, reason = "a bit, or masked by the caller")]
fn index(i: u64) -> usize {
    i as usize
}

fn unit(bits: u32) -> f64 {
    f64::from(1_u32 << bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_close_and_numbers_rounded_to_the_nearest() {
        for (turns, period_bits) in [(1, 20), (7, 23), (1, 11), (7, 27)] {
            let circle = Circle { turns, period_bits };
            let words: Vec<u64> = (0..1000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            circle.multiples(&words, 7, |k, start, sin, cos| {
                for (i, (sin, cos)) in sin.iter().zip(cos).enumerate() {
                    let part = words[start + i].wrapping_mul(turns) & ((1 << period_bits) - 1);
                    #[allow(clippy::cast_precision_loss, reason = "below 2^52")]
                    let angle = k as f64 * TAU * (part as f64 / unit(period_bits));
                    assert!((sin - angle.sin()).abs() < 1e-13 && (cos - angle.cos()).abs() < 1e-13);
                }
            });
        }
        let big = 1_000_000_000_000_000_i64;
        for (value, want) in [(0.4, 0), (0.6, 1), (-0.6, -1), (1e15 + 0.3, big), (-1e15 - 0.3, -big)] {
            assert_eq!(nearest(value).cast_signed(), want);
        }
    }
}
