//! What every collective must do, whatever carries it.

use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::{Collective, CollectiveError, shard_range};
use crate::compute::Words;
use crate::compute::elementwise::add_assign;

/// Makes a group of so many lanes, in rank order, that wait so long for the last of them.
pub(super) type Make = dyn Fn(usize, Duration) -> Vec<Box<dyn Collective>>;

/// Longer than any test takes.
const PATIENT: Duration = Duration::from_secs(300);

/// The whole suite.
pub(super) fn conforms(make: &Make) {
    every_operation_equals_plain_sums(make);
    an_abort_wakes_everybody(make);
    a_lane_that_is_dropped_wakes_everybody(make);
    a_lane_that_ends_after_the_last_operation_harms_nobody(make);
    a_lane_that_never_comes_is_named(make);
    lanes_that_disagree_are_told_so(make);
    an_error_stays(make);
}

/// Runs `work` on every lane at once and returns the results in rank order.
pub(super) fn on_lanes<T: Send>(
    members: Vec<Box<dyn Collective>>,
    work: impl Fn(Box<dyn Collective>) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let run = |member: Box<dyn Collective>| scope.spawn(|| work(member));
        let threads: Vec<_> = members.into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Words of a lane that nobody could guess.
pub(super) fn words(seed: u64, lane: usize, len: usize) -> Vec<u64> {
    let mut stream = ChaCha12Rng::seed_from_u64(seed ^ (lane as u64) << 32);
    (0..len).map(|_| stream.next_u64()).collect()
}

/// The sum of all lanes' [`words`].
pub(super) fn plain_sum(seed: u64, lanes: usize, len: usize) -> Vec<u64> {
    let mut sum = vec![0; len];
    (0..lanes).for_each(|lane| add_assign(&mut sum, &words(seed, lane, len)));
    sum
}

fn every_operation_equals_plain_sums(make: &Make) {
    let lens = prop::collection::vec(prop_oneof![Just(0usize), 1..8usize, 8..3000usize], 1..6);
    let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    let checked = runner.run(&(1usize..6, lens), |(lanes, lens)| {
        let done = on_lanes(make(lanes, PATIENT), |mut lane| {
            for (seed, &len) in (0..).zip(&lens) {
                let sum = plain_sum(seed, lanes, len);
                let mut data = Words::from(words(seed, lane.rank(), len));
                let shard = lane.reduce_scatter(&data).unwrap();
                assert_eq!(shard, Words::from(sum[shard_range(len, lane.rank(), lanes)].to_vec()));
                assert_eq!(lane.all_gather(&shard, len).unwrap().into_host(), sum);
                lane.barrier().unwrap();
                lane.all_reduce(&mut data).unwrap();
                assert_eq!(data.into_host(), sum);
            }
        });
        prop_assert_eq!(done.len(), lanes);
        Ok(())
    });
    checked.unwrap();
}

fn an_abort_wakes_everybody(make: &Make) {
    let results = on_lanes(make(4, PATIENT), |mut lane| {
        if lane.rank() == 2 {
            thread::sleep(Duration::from_millis(30));
            lane.abort();
        }
        (lane.barrier(), lane.all_gather(&Words::none(), 0))
    });
    let gone = CollectiveError::LaneGone { lane: 2 };
    assert!(results.into_iter().all(|result| result == (Err(gone.clone()), Err(gone.clone()))));
}

fn a_lane_that_is_dropped_wakes_everybody(make: &Make) {
    let mut members = make(3, PATIENT).into_iter();
    let first = members.next().unwrap();
    let ending = thread::spawn(move || drop(first));
    let results = on_lanes(members.collect(), |mut lane| lane.all_reduce(&mut Words::from(vec![1, 2, 3])));
    ending.join().unwrap();
    assert!(results.into_iter().all(|result| result == Err(CollectiveError::LaneGone { lane: 0 })));
}

fn a_lane_that_ends_after_the_last_operation_harms_nobody(make: &Make) {
    for _ in 0..200 {
        let results = on_lanes(make(4, PATIENT), |mut lane| lane.all_reduce(&mut Words::from(vec![1, 2])));
        assert!(results.into_iter().all(|result| result.is_ok()));
    }
}

fn a_lane_that_never_comes_is_named(make: &Make) {
    let mut members = make(3, Duration::from_millis(50));
    let late = members.remove(1);
    let results = on_lanes(members, |mut lane| lane.barrier());
    let error = CollectiveError::LaneLate { lane: 1, after: Duration::from_millis(50) };
    assert!(results.into_iter().all(|result| result == Err(error.clone())));
    drop(late);
}

fn lanes_that_disagree_are_told_so(make: &Make) {
    let results = on_lanes(make(2, PATIENT), |mut lane| {
        let len = 5 + lane.rank();
        lane.reduce_scatter(&Words::from(vec![0; len]))
    });
    let message = results[0].clone().unwrap_err().to_string();
    assert_eq!(
        message,
        "lane 1 of this party takes part in a reduce-scatter of 6 words where a reduce-scatter of 5 words was due"
    );
}

fn an_error_stays(make: &Make) {
    let results = on_lanes(make(3, PATIENT), |mut lane| {
        lane.all_reduce(&mut Words::from(vec![5])).unwrap();
        if lane.rank() == 1 {
            lane.abort();
        }
        let first = lane.all_reduce(&mut Words::from(vec![7])).unwrap_err();
        assert_eq!(lane.barrier().unwrap_err(), first);
        first
    });
    assert!(results.into_iter().all(|error| error == CollectiveError::LaneGone { lane: 1 }));
}
