//! Tables in double precision on a device, to the last bit those of the host: of the exponential function and of sines.

use std::sync::Arc;

use super::memory::Block;
use super::{Gpu, Memory, Span, SpanMut};
use crate::compute::curves::{Powers, Series};

/// Words as angles: `turns` times a word, modulo `2^period_bits`, is a part of a full turn.
#[derive(Clone, Copy, Debug)]
pub struct Circle<'a> {
    /// Odd.
    pub turns: u64,
    /// Bits of a full turn, up to 31 more than it has pieces.
    pub period_bits: u32,
    /// Sine and cosine at the start of each of a power of two of pieces of a turn.
    pub turn: &'a [(f64, f64)],
    /// The angle of one word.
    pub unit_angle: f64,
}

impl Gpu {
    /// Helper of an exponential: for every known word the entries `e^.. scale` and `e^.. scale_carried` as integers,
    /// swapped where the mask's bit is set.
    pub fn exp_table(
        &self,
        known: Span<'_>,
        mask: Span<'_>,
        powers: &Powers,
        [scale, scale_carried]: [f64; 2],
    ) -> Memory {
        let n = known.len();
        assert!(n <= 64 * mask.len(), "a bit for each of {n}");
        let (_held, words) = self.powers(powers);
        let out = self.uninitialised(2 * n);
        let scales = [scale.to_bits(), scale_carried.to_bits(), n as u64];
        self.each("exp_table", n, &[&[out.span().address, known.address, mask.address][..], &words, &scales].concat());
        out
    }

    /// Evaluator of an exponential: of each element's two dealt entries the one that its bit names, times `e^.. scale` as
    /// an integer.
    pub fn exp_pick(
        &self,
        known: Span<'_>,
        selector: Span<'_>,
        table: Span<'_>,
        powers: &Powers,
        scale: f64,
    ) -> Memory {
        let n = known.len();
        assert!(n <= 64 * selector.len() && 2 * n <= table.len(), "a bit and two entries for each of {n}");
        let (_held, words) = self.powers(powers);
        let out = self.uninitialised(n);
        let spans = [out.span().address, known.address, selector.address, table.address];
        self.each("exp_pick", n, &[&spans[..], &words, &[scale.to_bits(), n as u64]].concat());
        out
    }

    /// Helper of a series: `scale` times sine and cosine of `k` times every word's angle, for `k` from 1: a vector of
    /// sines, then one of cosines, for every harmonic.
    pub fn series_table(&self, words: Span<'_>, circle: Circle<'_>, harmonics: usize, scale: f64) -> Memory {
        let n = words.len();
        let (_held, numbers) = self.circle(circle);
        let out = self.uninitialised(2 * harmonics * n);
        let sizes = [harmonics as u64, scale.to_bits(), n as u64];
        self.each("series_table", n, &[&[out.span().address, words.address][..], &numbers, &sizes].concat());
        out
    }

    /// Evaluator of a series: adds all harmonics to every part of `sums`, `words.len()` elements each. A part has a
    /// coefficient per harmonic and is a slope or a value: a value has multiples of the cosine of the whole angle, a slope
    /// of the sine.
    pub fn series_sums(
        &self,
        sums: SpanMut<'_>,
        words: Span<'_>,
        table: Span<'_>,
        circle: Circle<'_>,
        series: &[Series],
    ) {
        let (n, harmonics) = (words.len(), series.first().map_or(0, |series| series.coefficients.len()));
        assert!(series.iter().all(|series| series.coefficients.len() == harmonics), "a coefficient per harmonic");
        assert!(sums.len() == series.len() * n && table.len() == 2 * harmonics * n, "a vector for each series");
        let (_held, numbers) = self.circle(circle);
        let coefficients: Vec<u64> = series.iter().flat_map(|s| &s.coefficients).map(|c| c.to_bits()).collect();
        let coefficients = self.constant(&coefficients);
        let of_sines = series.iter().enumerate().fold(0, |all, (i, series)| all | u64::from(series.of_sines) << i);
        let spans = [sums.address, words.address, table.address];
        let sizes = [harmonics, series.len()].map(|size| size as u64);
        let rest = [&[coefficients.address][..], &sizes, &[of_sines, n as u64]].concat();
        self.each("series_sums", n, &[&spans[..], &numbers, &rest].concat());
    }

    /// The kernels' `Powers`, and what holds its tables.
    fn powers(&self, Powers { low, high }: &Powers) -> (Arc<Block>, [u64; 4]) {
        assert!(low.len().is_power_of_two() && high.len().is_power_of_two(), "entries for all values of some bits");
        let table: Vec<u64> = low.iter().chain(high).map(|entry| entry.to_bits()).collect();
        let table = self.constant(&table);
        let bits = [low.len(), high.len()].map(|len| u64::from(len.ilog2()));
        let words = [table.address, table.address + 8 * low.len() as u64, bits[0], bits[1]];
        (table, words)
    }

    /// The kernels' `Circle`, and what holds its table.
    fn circle(&self, circle: Circle<'_>) -> (Arc<Block>, [u64; 5]) {
        let Circle { turns, period_bits, turn, unit_angle } = circle;
        let pieces_bits = turn.len().ilog2();
        let fits = turn.len().is_power_of_two() && (pieces_bits..pieces_bits + 32).contains(&period_bits);
        assert!(fits, "a turn of 2^{period_bits} words in {} pieces", turn.len());
        let table: Vec<u64> = turn.iter().flat_map(|(sine, cosine)| [sine.to_bits(), cosine.to_bits()]).collect();
        let table = self.constant(&table);
        let words = [turns, period_bits.into(), pieces_bits.into(), table.address, unit_angle.to_bits()];
        (table, words)
    }
}
