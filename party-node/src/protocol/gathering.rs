//! Where the tiles of one call meet: each brings words, their sum is worked on once, and all get what came of it.
//! Shares do not depend on the helper, so a sum over tiles is one, too.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::task::Poll;

use super::{ProtocolError, Replicated, Tile, TileShare};
use crate::compute::{Words, elementwise};

/// Meetings of the tiles of one call, each under a key that all of them use once.
pub struct Gathering {
    tiles: usize,
    meetings: RefCell<BTreeMap<(usize, u8), Meeting>>,
}

#[derive(Default)]
struct Meeting {
    arrived: usize,
    sum: Words,
    outcome: Option<Replicated>,
    left: usize,
    /// Of whatever the sum, then the outcome, depends on.
    depth: u32,
}

impl Gathering {
    /// For a call of so many tiles.
    pub fn new(tiles: usize) -> Self {
        Self { tiles, meetings: RefCell::default() }
    }

    /// Adds this tile's words to those of all others; the first tile runs `conclude` on the sum, and all get its result.
    pub async fn settle<F>(
        &self,
        tile: &Tile<'_>,
        key: (usize, u8),
        part: Words,
        conclude: impl FnOnce(Words) -> F,
    ) -> Result<TileShare, ProtocolError>
    where
        F: Future<Output = Result<TileShare, ProtocolError>>,
    {
        self.bring(tile, key, part);
        if tile.index() == 0 {
            let sum = poll_fn(|_| self.sum(tile, key)).await;
            let outcome = tile.leave(conclude(sum).await?);
            self.post(tile, key, outcome);
        }
        let outcome = poll_fn(|_| self.outcome(tile, key)).await;
        Ok(tile.enter(&outcome, 0..outcome.len()))
    }

    fn bring(&self, tile: &Tile<'_>, key: (usize, u8), part: Words) {
        let mut meetings = self.meetings.borrow_mut();
        let meeting = meetings.entry(key).or_default();
        assert!(meeting.arrived < self.tiles, "a tile comes to a meeting once");
        match &mut meeting.sum {
            none if none.is_empty() => *none = part,
            sum => elementwise::add_assign(sum, &part),
        }
        meeting.arrived += 1;
        meeting.depth = meeting.depth.max(tile.depth());
        tile.nudge();
    }

    fn sum(&self, tile: &Tile<'_>, key: (usize, u8)) -> Poll<Words> {
        let mut meetings = self.meetings.borrow_mut();
        let meeting = meetings.get_mut(&key).expect("this tile has brought its part");
        if meeting.arrived < self.tiles {
            return Poll::Pending;
        }
        tile.deepen(meeting.depth);
        Poll::Ready(std::mem::take(&mut meeting.sum))
    }

    fn post(&self, tile: &Tile<'_>, key: (usize, u8), outcome: Replicated) {
        let mut meetings = self.meetings.borrow_mut();
        let meeting = meetings.get_mut(&key).expect("it lasts until all have left");
        (meeting.outcome, meeting.depth) = (Some(outcome), tile.depth());
        tile.nudge();
    }

    fn outcome(&self, tile: &Tile<'_>, key: (usize, u8)) -> Poll<Replicated> {
        let mut meetings = self.meetings.borrow_mut();
        let meeting = meetings.get_mut(&key).expect("it lasts until all have left");
        let Some(outcome) = meeting.outcome.clone() else { return Poll::Pending };
        tile.deepen(meeting.depth);
        meeting.left += 1;
        if meeting.left == self.tiles {
            meetings.remove(&key);
        }
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{mul, split_in_three};
    use crate::world::World;

    #[test]
    fn all_tiles_get_what_the_first_makes_of_the_sum() {
        let x: Vec<u64> = (1..=7).collect();
        let world = World::new(3);
        let shares = world.share(0, &x);
        let outputs = world.run(|party| {
            let gathering = &Gathering::new(3);
            let share = &shares[party.me().index()];
            let pieces = party.run_in(&split_in_three(7), |tile, rows| async move {
                let part = tile.leave(tile.enter(share, rows).map(|x| elementwise::column_sums(x, 1)));
                let square = async |sum: Words| {
                    let sum = Replicated { first: sum.at(0..1).to_words(), second: sum.at(1..2).to_words() };
                    let sum = tile.enter(&sum, 0..1);
                    mul(&tile, &sum, &sum).await
                };
                let words = Words::concat([part.first.all(), part.second.all()]);
                Ok(tile.leave(gathering.settle(&tile, (0, 0), words, square).await?))
            })?;
            assert!(party.rounds() <= 1, "the helper of the first tile receives nothing");
            assert!(gathering.meetings.borrow().is_empty());
            Ok(Replicated::concat(&pieces).into_share())
        });
        let shares: Vec<_> = outputs.into_iter().map(|(share, _)| share.unwrap()).collect();
        assert_eq!(shared::share::join(&shares.try_into().unwrap()).unwrap(), [28 * 28; 3]);
    }
}
