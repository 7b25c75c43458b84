//! One OS thread per lane: starts them, waits for all, and finds the first real cause when one fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use shared::ids::{Lane, PartyId};
use shared::wire::Failure;
use tracing::{error_span, info};

use super::failure::{LaneEnd, stopped};
use super::panics;
use crate::train::{LaneError, LaneOutcome, LaneSetup};

/// What a lane's thread runs.
pub(super) type LaneWork = fn(LaneSetup) -> Result<LaneOutcome, LaneError>;

/// How long the other lanes may take to end once one has failed; then the party ends without them.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Whose lanes these are.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) party: PartyId,
    pub(super) epoch: u64,
}

/// Runs every lane to its end. The first failure sets `stop` for the others; the failure that is returned is the first
/// that no other lane's end and no stop explains.
pub(super) fn run_all(
    lanes: Vec<LaneSetup>,
    stop: &Arc<AtomicBool>,
    owner: Owner,
    work: LaneWork,
) -> Result<Vec<LaneOutcome>, Failure> {
    let (sender, ends) = channel();
    let count = lanes.len();
    lanes.into_iter().for_each(|lane| start(lane, owner, work, sender.clone()));
    drop(sender);
    collect(&ends, count, stop)
}

type Ended = (Lane, Result<LaneOutcome, LaneEnd>);

fn start(setup: LaneSetup, owner: Owner, work: LaneWork, ended: Sender<Ended>) {
    let lane = setup.lane;
    let name = format!("p{}-lane{}", owner.party.index(), lane.0);
    let run = move || {
        let span = error_span!(
            "lane",
            party = owner.party.index(),
            parties = PartyId::ALL.len(),
            lane = lane.0,
            epoch = owner.epoch
        );
        let _entered = span.entered();
        let result = match panics::catch(|| work(setup)) {
            Ok(result) => result.map_err(LaneEnd::Failed),
            Err(panicked) => Err(LaneEnd::Panicked(panicked)),
        };
        if let Err(LaneEnd::Failed(error)) = &result {
            info!("ends: {error}");
        }
        // Whoever listens may have given up on this lane.
        let _ = ended.send((lane, result));
    };
    thread::Builder::new().name(name).spawn(run).expect("the system starts a thread");
}

fn collect(ends: &Receiver<Ended>, count: usize, stop: &AtomicBool) -> Result<Vec<LaneOutcome>, Failure> {
    let mut outcomes = Vec::with_capacity(count);
    let mut failures = Vec::new();
    let mut asked_to_stop = false;
    let mut deadline = None;
    loop {
        match next(ends, deadline) {
            Some((lane, Ok(outcome))) => outcomes.push((lane, outcome)),
            Some((lane, Err(end))) => {
                if failures.is_empty() {
                    asked_to_stop = stop.swap(true, SeqCst);
                    deadline = Some(Instant::now() + SETTLE_MAX);
                }
                failures.push((lane, end));
            }
            None => break,
        }
    }
    if let Some(failure) = first_cause(&failures, asked_to_stop) {
        return Err(failure);
    }
    outcomes.sort_by_key(|(lane, _)| *lane);
    assert_eq!(outcomes.len(), count, "every lane ends one way or the other");
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// The next lane that ends; `None` when all have or the time is up.
fn next(ends: &Receiver<Ended>, deadline: Option<Instant>) -> Option<Ended> {
    let Some(deadline) = deadline else { return ends.recv().ok() };
    ends.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

/// `failures` in the order of their coming.
fn first_cause(failures: &[(Lane, LaneEnd)], asked_to_stop: bool) -> Option<Failure> {
    if asked_to_stop && failures.iter().all(|(_, end)| end.follows_a_stop()) {
        return (!failures.is_empty()).then(stopped);
    }
    // Of equals, `min_by_key` takes the first.
    let (lane, end) = failures.iter().min_by_key(|(_, end)| end.remoteness())?;
    Some(end.explain(*lane))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::host;
    use crate::compute::CpuDevice;
    use crate::meter::{LaneCounters, Snapshot};
    use crate::protocol::PairKeys;
    use crate::runtime::tests::setup;
    use crate::transport::{TransportError, memory_triangle};
    use shared::wire::FailureKind;

    const OWNER: Owner = Owner { party: PartyId::ALL[1], epoch: 1 };

    fn lanes(count: u16, stop: &Arc<AtomicBool>) -> Vec<LaneSetup> {
        let job = Arc::new(setup(1, count).job);
        let members = (0..count).map(Lane).zip(host(count.into()));
        let lane = |(lane, member)| {
            let [transport, _, _] = memory_triangle();
            LaneSetup {
                job: job.clone(),
                lane,
                transport: Box::new(transport),
                keys: PairKeys::new([1; 8], [2; 8]),
                device: Arc::new(CpuDevice::new(1)),
                collective: Box::new(member),
                data: None,
                counters: Arc::new(LaneCounters::default()),
                stop: stop.clone(),
                progress: Box::new(|_, _| {}),
            }
        };
        members.map(lane).collect()
    }

    fn run(work: LaneWork) -> Result<Vec<LaneOutcome>, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        run_all(lanes(4, &stop), &stop, OWNER, work)
    }

    fn outcome(lane: Lane) -> LaneOutcome {
        LaneOutcome {
            opened: vec![],
            step_seconds: vec![],
            train_seconds: f64::from(lane.0),
            during: Snapshot::default(),
            calibration: None,
            parameters: None,
            result: None,
        }
    }

    fn meet(setup: &mut LaneSetup) -> Result<(), LaneError> {
        setup.collective.barrier().map_err(|source| LaneError::Collective { step: Some(3), source })
    }

    /// What a lane does while it waits for a peer: nothing, until the stop flag is set.
    fn wait_for_stop(setup: &LaneSetup) -> Result<LaneOutcome, LaneError> {
        while !setup.stop.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Err(LaneError::Stopped)
    }

    #[test]
    fn outcomes_come_in_lane_order_from_threads_with_names() {
        let outcomes = run(|mut setup| {
            assert_eq!(thread::current().name(), Some(format!("p1-lane{}", setup.lane.0).as_str()));
            meet(&mut setup)?;
            thread::sleep(Duration::from_millis(10 * u64::from(4 - setup.lane.0)));
            Ok(outcome(setup.lane))
        });
        let order: Vec<_> = outcomes.unwrap().iter().map(|outcome| outcome.train_seconds).collect();
        assert_eq!(order, [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_lost_peer_beats_the_lanes_that_only_saw_its_consequences() {
        let failure = run(|mut setup| match setup.lane.0 {
            2 => {
                thread::sleep(Duration::from_millis(20));
                let reason = "connection lost".into();
                let source = TransportError::PeerGone { peer: PartyId::ALL[0], reason };
                Err(LaneError::Transport { step: Some(3), source })
            }
            1 => wait_for_stop(&setup),
            _ => meet(&mut setup).map(|()| outcome(setup.lane)),
        });
        let failure = failure.err().unwrap();
        assert_eq!((failure.lane, failure.peer, failure.step), (Some(Lane(2)), Some(PartyId::ALL[0]), Some(3)));
    }

    #[test]
    fn a_panic_is_reported_and_never_by_its_message() {
        let failure = run(|mut setup| {
            assert!(setup.lane.0 != 3, "secret value 123456789");
            meet(&mut setup).map(|()| outcome(setup.lane))
        });
        let failure = failure.err().unwrap();
        assert_eq!((failure.lane, failure.kind), (Some(Lane(3)), FailureKind::Job));
        assert!(!failure.reason.contains("123456789"), "{}", failure.reason);
    }

    #[test]
    fn a_stop_from_outside_is_no_fault_of_a_peer() {
        let stop = Arc::new(AtomicBool::new(true));
        let failure = run_all(lanes(2, &stop), &stop, OWNER, |setup| {
            if setup.lane.0 == 0 {
                return wait_for_stop(&setup);
            }
            let source = TransportError::PeerGone { peer: PartyId::ALL[0], reason: "it said goodbye".into() };
            Err(LaneError::Transport { step: None, source })
        });
        assert_eq!(failure.err().unwrap().reason, "stopped as asked");
    }

    #[test]
    fn a_lane_that_does_not_end_holds_nobody_up() {
        let start = Instant::now();
        let failure = run(|setup| match setup.lane.0 {
            0 => {
                thread::sleep(SETTLE_MAX * 3);
                Err(LaneError::Stopped)
            }
            1 => Err(LaneError::Job("not allowed".into())),
            _ => wait_for_stop(&setup),
        });
        assert_eq!(failure.err().unwrap().kind, FailureKind::Job);
        assert!(start.elapsed() < SETTLE_MAX * 2);
    }
}
