//! Sums and copies among the lanes of one party. Knows words, no parties and no shares.
//!
//! Addition wraps modulo 2^64, so a sum of additive shares over lanes is exactly the share of the sum.

#[cfg(test)]
mod conformance;
mod host;
mod meeting;
#[cfg(any(feature = "cuda", test))]
mod nccl;
mod open;

use std::ops::Range;
use std::time::Duration;

pub use host::{HostMember, host, host_with_timeout};
pub use open::{Opened, open};

use crate::compute::{DeviceError, Words};

/// How long lanes wait for the last one. Long, since one lane alone may measure or evaluate while the others wait;
/// a lane that fails is noticed at once, whatever this says.
const LANE_TIMEOUT: Duration = Duration::from_secs(300);

/// One lane's place in a group of lanes that compute together.
///
/// All lanes must call the same operations in the same order with the same total lengths; a lane that cannot go on
/// drops its member or calls [`Collective::abort`], and every other lane gets an error instead of waiting for it.
pub trait Collective: Send {
    /// This lane's number, from 0.
    fn rank(&self) -> usize;

    /// Lanes in the group.
    fn size(&self) -> usize;

    /// The sum over all lanes of `data[shard_range(data.len(), rank, size)]`.
    fn reduce_scatter(&mut self, data: &Words) -> Result<Words, CollectiveError>;

    /// The concatenation of all lanes' shards; `shard` must be as long as this lane's [`shard_range`] of `total_len`.
    fn all_gather(&mut self, shard: &Words, total_len: usize) -> Result<Words, CollectiveError>;

    /// Waits until every lane is here.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// Replaces `data` by its sum over all lanes.
    fn all_reduce(&mut self, data: &mut Words) -> Result<(), CollectiveError>;

    /// Tells all other lanes that this one cannot go on; they get [`CollectiveError::LaneGone`] at once.
    fn abort(&self);
}

/// The part of `len` words that lane `rank` of `size` owns: contiguous, in rank order, sizes differing by at most one.
pub fn shard_range(len: usize, rank: usize, size: usize) -> Range<usize> {
    let (each, longer) = (len / size, len % size);
    let start = rank * each + rank.min(longer);
    start..start + each + usize::from(rank < longer)
}

/// Why lanes can no longer compute together.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CollectiveError {
    /// A lane failed or ended while others still needed it.
    #[error("lane {lane} of this party ended before the others were done with it")]
    LaneGone {
        /// Which.
        lane: usize,
    },
    /// A lane did not come in time.
    #[error("lane {lane} of this party did not come within {} s", .after.as_secs())]
    LaneLate {
        /// The first that was missing.
        lane: usize,
        /// How long the others waited.
        after: Duration,
    },
    /// The lanes do not agree on what they are doing.
    #[error("lane {lane} of this party takes part in {theirs} where {ours} was due")]
    Mismatch {
        /// The other lane.
        lane: usize,
        /// Its operation and length.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// NCCL failed, or did not get on.
    #[error("NCCL failed in {what}: {detail}; start the job again with NCCL_DEBUG=INFO to see why")]
    Nccl {
        /// What was under way.
        what: &'static str,
        /// What it says.
        detail: String,
    },
    /// This lane's device failed.
    #[error("{0}")]
    Device(DeviceError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shards_cut_the_whole_into_near_equal_ranges(len in 0usize..1000, size in 1usize..20) {
            let shards: Vec<_> = (0..size).map(|rank| shard_range(len, rank, size)).collect();
            prop_assert_eq!(shards[0].start, 0);
            prop_assert_eq!(shards[size - 1].end, len);
            prop_assert!(shards.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(shards.iter().all(|shard| shard.len() == len / size || shard.len() == len.div_ceil(size)));
        }
    }
}
