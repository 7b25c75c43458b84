use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::fake::{Fake, Script};
use super::*;
use crate::collective::conformance::{self, on_lanes, plain_sum, words};
use crate::compute::CpuDevice;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(300);
const PATIENT: Limits = Limits { lanes: LONG, join: LONG, step: LONG, finish: LONG };
/// Short, where the end of a wait is what is tested.
const SHORT: Duration = Duration::from_millis(50);

/// In progress for a while at every turn.
const SLOW: Script = Script {
    join_polls: 3,
    queue_polls: 2,
    done_polls: 3,
    finish_polls: 2,
    join_fails: None,
    join_hangs: None,
    step_fails: None,
    step_hangs: None,
    finish_hangs: false,
};

fn group(fake: &Arc<Fake>, limits: &[Limits]) -> Vec<Box<dyn Collective>> {
    let devices: Vec<Arc<dyn Compute>> = limits.iter().map(|_| Arc::new(CpuDevice::new(1)) as _).collect();
    let api: Arc<dyn Api> = fake.clone();
    let mut members = in_process(&api, &devices, limits[0]);
    members.iter_mut().zip(limits).for_each(|(member, limits)| member.limits = *limits);
    members.into_iter().map(|member| Box::new(member) as _).collect()
}

/// What three lanes get of one all-reduce after another, until one fails; and how their places in the group have ended.
fn three_steps(script: Script, limits: [Limits; 3]) -> (Vec<Result<(), CollectiveError>>, [usize; 3]) {
    let fake = Fake::new(script);
    let results = on_lanes(group(&fake, &limits), |mut lane| {
        (0..3).try_for_each(|seed| {
            let mut data = Words::from(words(seed, lane.rank(), 10));
            lane.all_reduce(&mut data)?;
            assert_eq!(data.into_host(), plain_sum(seed, 3, 10));
            Ok(())
        })
    });
    (results, fake.ends.counts())
}

fn nccl(what: &'static str, detail: &str) -> Result<(), CollectiveError> {
    Err(CollectiveError::Nccl { what, detail: detail.into() })
}

fn gone(lane: usize) -> Result<(), CollectiveError> {
    Err(CollectiveError::LaneGone { lane })
}

#[test]
fn it_conforms_and_leaves_nothing_behind() {
    for script in [Script::default(), SLOW] {
        let fakes: Arc<Mutex<Vec<Arc<Fake>>>> = Arc::default();
        let made = fakes.clone();
        conformance::conforms(&move |lanes, timeout| {
            let fake = Fake::new(script);
            made.lock().unwrap().push(fake.clone());
            group(&fake, &vec![Limits { lanes: timeout, ..PATIENT }; lanes])
        });
        let counts = fakes.lock().unwrap().iter().fold([0; 3], |all, fake| {
            let counts = fake.ends.counts();
            std::array::from_fn(|i| all[i] + counts[i])
        });
        assert!(counts[0] == 0 && counts[1] > 200 && counts[2] > 0, "{counts:?}");
    }
}

#[test]
fn lanes_that_end_well_finish_the_group_together() {
    assert_eq!(three_steps(SLOW, [PATIENT; 3]), (vec![Ok(()); 3], [0, 3, 0]));
}

#[test]
fn lanes_that_never_sum_never_join() {
    let fake = Fake::new(Script { join_fails: Some(0), ..Script::default() });
    let results = on_lanes(group(&fake, &[PATIENT; 2]), |mut lane| {
        lane.barrier()?;
        lane.all_reduce(&mut Words::none())
    });
    assert_eq!((results, fake.ends.counts()), (vec![Ok(()); 2], [0; 3]));
}

#[test]
fn a_lane_that_cannot_join_is_named_to_the_others() {
    let (results, ends) = three_steps(Script { join_fails: Some(1), ..SLOW }, [PATIENT; 3]);
    assert_eq!(results, [gone(1), nccl("the forming of a group", "no such device"), gone(1)]);
    assert_eq!((ends[0], ends[1]), (0, 0));
}

#[test]
fn a_group_that_does_not_form_in_time_is_given_up() {
    let limits = [PATIENT, PATIENT, Limits { join: SHORT, ..PATIENT }];
    let (results, ends) = three_steps(Script { join_hangs: Some(2), ..SLOW }, limits);
    assert_eq!(results[2], nccl("the forming of a group", "it has not come to an end within 50ms"));
    assert!(results[..2].iter().all(|result| *result == gone(2)), "{results:?}");
    assert_eq!((ends[0], ends[1]), (0, 0));
}

#[test]
fn a_fault_in_a_step_ends_it_for_all() {
    let (results, ends) = three_steps(Script { step_fails: Some((1, 2)), ..SLOW }, [PATIENT; 3]);
    assert_eq!(results[1], nccl("an all-reduce", "a link is down"));
    // The others may have done their part of the step before they hear of it, and then it does them no harm.
    assert!([0, 2].iter().all(|&lane| results[lane] == gone(1) || results[lane] == Ok(())), "{results:?}");
    assert_eq!((ends[0], ends[1]), (0, 0));
}

#[test]
fn a_step_that_is_never_done_ends_with_its_time() {
    let limits = [Limits { step: SHORT, ..PATIENT }, PATIENT, PATIENT];
    let (results, ends) = three_steps(Script { step_hangs: Some((0, 0)), ..SLOW }, limits);
    assert_eq!(results[0], nccl("an all-reduce", "it has not come to an end within 50ms"));
    assert!(results[1..].iter().all(|result| *result == gone(0)), "{results:?}");
    assert_eq!((ends[0], ends[1]), (0, 0));
}

#[test]
fn an_end_that_is_never_reached_is_an_abort() {
    let limits = [Limits { finish: SHORT, ..PATIENT }; 3];
    let (results, ends) = three_steps(Script { finish_hangs: true, ..SLOW }, limits);
    assert_eq!((results, ends), (vec![Ok(()); 3], [0, 0, 3]));
}

#[test]
fn a_lane_that_panics_aborts_and_panics_no_further() {
    let fake = Fake::new(SLOW);
    let results = on_lanes(group(&fake, &[PATIENT; 3]), |lane| {
        let rank = lane.rank();
        let work = || {
            // Its member is dropped while the panic unwinds.
            let mut lane = lane;
            let mut data = Words::from(vec![1, 2]);
            lane.all_reduce(&mut data)?;
            assert_ne!(rank, 2, "a defect");
            lane.all_reduce(&mut data)
        };
        catch_unwind(AssertUnwindSafe(work))
    });
    assert!(results[2].is_err());
    assert!(results[..2].iter().all(|result| *result.as_ref().unwrap() == gone(2)));
    assert_eq!(fake.ends.counts(), [0, 0, 3]);
}

#[test]
#[should_panic(expected = "words of AllGather among 2 lanes")]
fn lengths_that_do_not_fit_never_reach_the_library() {
    let fake = Fake::new(Script { join_hangs: None, ..Script::default() });
    let id = fake.unique_id().unwrap();
    let join = |rank| fake.join(&id, rank, 2, Slice::Host(&[0]));
    let other = join(1).unwrap();
    let watch = Watch { what: "a test", limit: LONG, lost: &|| None };
    let mut communicator = Communicator::join(2, || join(0), &watch).unwrap();
    other.abort();
    let _ = communicator.step(Step::AllGather, Some(Slice::Host(&[1, 2])), SliceMut::Host(&mut [0; 3]), &watch);
}

#[test]
fn the_id_of_a_group_is_never_printed() {
    assert_eq!(format!("{:?}", api::UniqueId([7; api::ID_BYTES])), "UniqueId(<128 bytes>)");
}
