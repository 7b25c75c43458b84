//! Normalisation: statistics over groups of values, and their gradients.
//!
//! For values `x` of a group of `n`: `mean = sum(x) / n`, `y = x - mean`, `r = 1 / sqrt(sum(y^2) / n + epsilon)`; the
//! result is `scale y r + shift` with a scale and a shift per channel. Squares are summed before they are truncated, so
//! a statistic costs one truncation however large its group. With `g` the gradient of the result and `h = scale g`, the
//! gradient of `x` is `r (h - mean(h)) - y r^3 mean(h y)`.

use std::future::Future;

use shared::model::Shape;

use super::{Network, Step, column_sums, fixed_product, repeated};
use crate::compute::{Slice, Words, elementwise};
use crate::ops::inverse_sqrt;
use crate::protocol::{DoubledPartial, ProtocolError, Replicated, Tile, TileShare, mul_doubled, trunc, trunc_exact};

/// Fraction bits of a variance beyond the usual ones, even: small variances keep their leading bits.
pub(super) const GUARD_BITS: u32 = 4;
/// Bits by which a sum is widened to be divided by the size of its group.
const RATE_BITS: u32 = 31;

/// Which values share their statistics.
#[derive(Clone, Copy)]
pub(super) enum Grouping {
    /// All of a channel, over all tiles of the batch.
    Batch {
        /// Channels.
        channels: usize,
    },
    /// Groups of so many values that lie together and end with a position: the channels of a position.
    Position {
        /// Channels.
        channels: usize,
    },
    /// So many groups of channels of a sample.
    Sample {
        /// Shape of the sample.
        shape: Shape,
        /// Groups of channels.
        groups: usize,
    },
}

impl Grouping {
    fn channels(self) -> usize {
        match self {
            Self::Batch { channels } | Self::Position { channels } => channels,
            Self::Sample { shape, .. } => shape.channels,
        }
    }

    /// Runs of values that belong to one group, in memory order: `(group, length)`.
    fn runs(self, len: usize) -> Box<dyn Iterator<Item = (usize, usize)>> {
        match self {
            Self::Batch { .. } => unreachable!("a batch is summed by columns"),
            Self::Position { channels } => Box::new((0..len / channels).map(move |group| (group, channels))),
            Self::Sample { shape, groups } => {
                let width = shape.channels / groups;
                let runs = move |sample: usize| {
                    (0..shape.positions() * groups).map(move |run| (sample * groups + run % groups, width))
                };
                Box::new((0..len / shape.len()).flat_map(runs))
            }
        }
    }

    fn groups(self, len: usize) -> usize {
        match self {
            Self::Batch { channels } => channels,
            Self::Position { channels } => len / channels,
            Self::Sample { shape, groups } => len / shape.len() * groups,
        }
    }

    fn sums(self, x: Slice<'_>) -> Words {
        if let Self::Batch { channels } = self {
            return elementwise::column_sums(x, channels);
        }
        x.mapped(|x| {
            let (mut sums, mut at) = (vec![0_u64; self.groups(x.len())], 0);
            for (group, len) in self.runs(x.len()) {
                sums[group] = x[at..at + len].iter().fold(sums[group], |sum, x| sum.wrapping_add(*x));
                at += len;
            }
            sums
        })
    }

    fn spread(self, statistics: &TileShare, len: usize) -> TileShare {
        if let Self::Batch { channels } = self {
            return statistics.map(|part| elementwise::repeated(part, len / channels));
        }
        let mut groups = Vec::with_capacity(len);
        self.runs(len).for_each(|(group, run)| groups.extend(std::iter::repeat_n(group, run)));
        statistics.gather(groups.iter().copied())
    }
}

/// What the backward pass of a normalisation needs.
pub(super) struct Normed {
    /// `y`.
    centred: TileShare,
    /// `r`, a value per group.
    inverse: TileShare,
}

/// Statistics of a tile's own samples, or of the whole batch at a meeting of all tiles.
struct Scope<'a, 'p> {
    tile: &'a Tile<'p>,
    grouping: Grouping,
    /// Values of a group.
    count: usize,
    step: Option<&'a Step>,
    node: usize,
}

impl Scope<'_, '_> {
    /// Finishes statistics from their sums over this tile: at once, or where the tiles meet.
    async fn settle<F>(
        &self,
        stage: u8,
        part: Words,
        conclude: impl FnOnce(Words) -> F,
    ) -> Result<TileShare, ProtocolError>
    where
        F: Future<Output = Result<TileShare, ProtocolError>>,
    {
        match self.grouping {
            Grouping::Batch { .. } => {
                let step = self.step.expect("a batch has statistics in training alone");
                step.gathering.settle(self.tile, (self.node, stage), part, conclude).await
            }
            _ => conclude(part).await,
        }
    }

    async fn mean(&self, stage: u8, x: &TileShare) -> Result<TileShare, ProtocolError> {
        let Replicated { first, second } = self.tile.leave(x.map(|x| self.grouping.sums(x)));
        let groups = first.len();
        let conclude = async |both: Words| {
            let (first, second) = (both.at(0..groups).to_words(), both.at(groups..2 * groups).to_words());
            self.divided(&self.tile.enter(&Replicated { first, second }, 0..groups)).await
        };
        self.settle(stage, Words::concat([first.all(), second.all()]), conclude).await
    }

    /// Sum of products that are not truncated yet, with `guard` more fraction bits than usual.
    async fn sum_of_products(
        &self,
        stage: u8,
        products: &DoubledPartial,
        guard: u32,
    ) -> Result<TileShare, ProtocolError> {
        let shift = fraction(self.tile) + 1 - guard;
        let conclude = async |sums: Words| trunc_exact(self.tile, DoubledPartial(sums), shift).await;
        self.settle(stage, self.grouping.sums(products.addends()), conclude).await
    }

    /// A sum over a group divided by the group's size.
    async fn divided(&self, sum: &TileShare) -> Result<TileShare, ProtocolError> {
        let (rate, shift) = rate(self.count);
        if shift == 0 {
            return Ok(sum.clone());
        }
        trunc_exact(self.tile, DoubledPartial::from_share(self.tile, sum, rate), shift + 1).await
    }
}

/// `1 / sqrt(variance + epsilon)`, from a variance with [`GUARD_BITS`] more fraction bits than usual.
pub(super) async fn inverse_deviation(
    tile: &Tile<'_>,
    variance: &TileShare,
    epsilon: f64,
) -> Result<TileShare, ProtocolError> {
    let guard = 1 << GUARD_BITS;
    let epsilon = tile.party().fixed().constant(epsilon * f64::from(guard));
    let inverse = inverse_sqrt(tile, &variance.clone().plus_public(tile, epsilon)).await?;
    Ok(inverse.times(1 << (GUARD_BITS / 2)))
}

/// One over the size of a group, as an integer over a power of two.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2^31 at most")]
fn rate(count: usize) -> (u64, u32) {
    if count.is_power_of_two() {
        (1, count.ilog2())
    } else {
        ((f64::from(1_u32 << RATE_BITS) / count as f64).round() as u64, RATE_BITS)
    }
}

impl Network<'_> {
    /// Normalises, scales and shifts; of a batch, notes mean and variance for the running averages.
    pub(super) async fn norm(
        &self,
        tile: &Tile<'_>,
        index: usize,
        (grouping, epsilon): (Grouping, f64),
        x: TileShare,
        step: Option<&Step>,
    ) -> Result<(TileShare, Normed), ProtocolError> {
        let (scope, len) = (self.scope(tile, index, grouping, x.len(), step), x.len());
        let mean = scope.mean(0, &x).await?;
        let centred = x.minus(&grouping.spread(&mean, len));
        let squares = scope.sum_of_products(1, &mul_doubled(tile, &centred, &centred), GUARD_BITS).await?;
        let place = self.wiring.place(index);
        let conclude = async |_| {
            let variance = scope.divided(&squares).await?;
            if let (Grouping::Batch { .. }, Some(step)) = (grouping, step) {
                step.note_statistics(tile, &place.buffers, &mean, &variance, scope.count);
            }
            inverse_deviation(tile, &variance, epsilon).await
        };
        let inverse = scope.settle(2, Words::none(), conclude).await?;
        let scale = self.view(tile, &place.weights).to_owned();
        let mut output = if let Grouping::Batch { .. } = grouping {
            let factor = fixed_product(tile, &scale, &inverse).await?;
            fixed_product(tile, &centred, &repeated(&factor, len)).await?
        } else {
            let unit = fixed_product(tile, &centred, &grouping.spread(&inverse, len)).await?;
            fixed_product(tile, &unit, &repeated(&scale, len)).await?
        };
        output.add_row(self.view(tile, &place.biases));
        Ok((output, Normed { centred, inverse }))
    }

    /// Gradient of [`Network::norm`], and those of scale and shift.
    pub(super) async fn norm_backward(
        &self,
        tile: &Tile<'_>,
        index: usize,
        grouping: Grouping,
        Normed { centred, inverse }: &Normed,
        gradient: &TileShare,
        step: &Step,
    ) -> Result<TileShare, ProtocolError> {
        let (place, len, channels) = (self.wiring.place(index), gradient.len(), grouping.channels());
        let scope = self.scope(tile, index, grouping, len, Some(step));
        let scale = self.view(tile, &place.weights).to_owned();
        step.add_gradient(&place.biases, &column_sums(tile, gradient, channels));

        // `h`, what it is scaled with at the end, and the sum of its products with `y`.
        let (h, factor, along) = if let Grouping::Batch { .. } = grouping {
            // All of a channel has one scale, so it waits until the end.
            let along = scope.sum_of_products(3, &mul_doubled(tile, gradient, centred), 0).await?;
            if tile.is_first() {
                step.add_gradient(&place.weights, &mul_doubled(tile, &along, inverse));
            }
            (gradient.clone(), fixed_product(tile, &scale, inverse).await?, along)
        } else {
            let unit = fixed_product(tile, centred, &grouping.spread(inverse, len)).await?;
            let products = mul_doubled(tile, gradient, &unit);
            step.add_gradient(&place.weights, &products.column_sums(channels));
            let h = fixed_product(tile, gradient, &repeated(&scale, len)).await?;
            let along = scope.sum_of_products(3, &mul_doubled(tile, &h, centred), 0).await?;
            (h, inverse.clone(), along)
        };
        let mean = fixed_product(tile, &scope.mean(4, &h).await?, &factor).await?;
        let square = fixed_product(tile, inverse, inverse).await?;
        let slope = fixed_product(tile, &square, &scope.divided(&along).await?).await?;
        let slope = fixed_product(tile, &slope, &factor).await?.times(u64::MAX);
        let straight = mul_doubled(tile, &h, &grouping.spread(&factor, len));
        let bent = mul_doubled(tile, centred, &grouping.spread(&slope, len));
        let sum = trunc(tile, straight.plus(&bent), fraction(tile) + 1).await?;
        Ok(sum.minus(&grouping.spread(&mean, len)))
    }

    fn scope<'a, 'p>(
        &self,
        tile: &'a Tile<'p>,
        node: usize,
        grouping: Grouping,
        len: usize,
        step: Option<&'a Step>,
    ) -> Scope<'a, 'p> {
        let count = match grouping {
            Grouping::Batch { .. } => step.map_or(0, |step| step.rows) * self.wiring.input(node).positions(),
            _ => len / grouping.groups(len),
        };
        Scope { tile, grouping, count, step, node }
    }
}

fn fraction(tile: &Tile<'_>) -> u32 {
    tile.party().fixed().bits()
}
