//! Three parties in one process: the real control protocol and QUIC, and lanes whose work is a few words.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shared::fixed::FixedPoint;
use shared::ids::{JobId, PartyId};
use shared::job::{
    Inference, JobSpec, Micro, Operation, PROTOCOL_VERSION, ProtocolSpec, Reveal, Start, Training, Work, public_digest,
};
use shared::model::{Loss, Model, TrainSpec};
use shared::share::{Addend, split};
use shared::wire::{
    DataShare, DeviceChoice, Failure, FailureKind, FromParty, InferenceShare, PartyReport, Roster, RosterEntry, Setup,
    ToParty, TrainingShare, WeightsShare,
};

use super::control::{Commands, Reports, read_message, write_message};
use super::lanes::LaneWork;
use super::sealed_model::SealedModel;
use super::{conclude, party, scrape};
use crate::compute::Words;
use crate::meter::{Meter, Phase};
use crate::protocol::ProtocolError;
use crate::train::{LaneError, LaneOutcome, LaneSetup, PartyData, TrainingData, run_lane};

/// A benchmark job of `lanes` lanes, for the party with this number.
pub(super) fn setup(party: usize, lanes: u16) -> Setup {
    let micro = Micro { operation: Operation::Relu, rows: 10, cols: 1, repetitions: 1 };
    Setup {
        job_id: JobId("test".into()),
        job: JobSpec {
            version: PROTOCOL_VERSION.into(),
            lanes,
            threads: 1,
            protocol: ProtocolSpec::default(),
            work: Work::Bench(micro),
            reveal: vec![Reveal::BenchError],
            peer_timeout_seconds: 4,
        },
        party: PartyId::ALL[party],
        epoch: 1,
        device: DeviceChoice::Cpu,
        oversubscribe: false,
        folder: String::new(),
        metrics: None,
    }
}

/// A training job on 3 rows of 2 features.
fn training_setup(party: usize, lanes: u16, folder: &tempfile::TempDir) -> Setup {
    let training = Training {
        model: Model::logistic(2),
        train: TrainSpec::default(),
        train_rows: 3,
        test_rows: 1,
        data_digest: [0; 32],
        start: Start::Seeded,
        max_steps: None,
        calibration_steps: 0,
    };
    let mut setup = setup(party, lanes);
    setup.job.work = Work::Train(Box::new(training));
    setup.job.reveal = vec![Reveal::TestAccuracy];
    setup.folder = folder.path().to_str().unwrap().into();
    setup.metrics = Some("127.0.0.1:0".into());
    setup
}

/// A party on threads of this process, and the launcher's ends of its control channel.
struct Child {
    commands: Option<UnixStream>,
    reports: UnixStream,
    thread: JoinHandle<Result<PartyReport, Failure>>,
}

impl Child {
    fn start(setup: Setup, work: LaneWork) -> Self {
        let (commands, stdin) = UnixStream::pair().unwrap();
        let (reports, stdout) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || {
            let (commands, reports) = (Commands::listen(stdin, || {}), Reports::new(stdout));
            let served = party::serve(&commands, &reports, Ipv4Addr::LOCALHOST.into(), work);
            conclude(&reports, served.clone());
            served
        });
        let mut child = Self { commands: Some(commands), reports, thread };
        child.tell(&ToParty::Setup(Box::new(setup)));
        child
    }

    fn tell(&mut self, message: &ToParty) {
        write_message(self.commands.as_mut().unwrap(), message).unwrap();
    }

    fn hear(&mut self) -> FromParty {
        read_message(&mut self.reports).unwrap()
    }

    fn listening(&mut self) -> (RosterEntry, Option<String>) {
        match self.hear() {
            FromParty::Listening { entry, metrics } => (entry, metrics),
            other => panic!("{other:?} instead of Listening"),
        }
    }
}

/// Starts three parties and passes the roster round; returns them with their `/metrics` addresses.
fn start_all(setups: [Setup; 3], work: LaneWork) -> ([Child; 3], Vec<Option<String>>) {
    let mut children = setups.map(|setup| Child::start(setup, work));
    let (entries, metrics): (Vec<_>, Vec<_>) = children.iter_mut().map(Child::listening).unzip();
    let roster = Roster { parties: entries.try_into().unwrap() };
    children.iter_mut().for_each(|child| child.tell(&ToParty::Roster(roster.clone())));
    (children, metrics)
}

fn give_data(children: &mut [Child; 3]) {
    let one = FixedPoint::DEFAULT.constant(1.0);
    let [train_x, train_y, test_x, test_y] = [6, 3, 2, 1].map(|len| split(&vec![one; len]).into_iter());
    let parts = train_x.zip(train_y).zip(test_x.zip(test_y));
    for (child, ((train_x, train_y), (test_x, test_y))) in children.iter_mut().zip(parts) {
        let share = TrainingShare { train_x, train_y, test_x, test_y, start: None };
        child.tell(&ToParty::Data(Box::new(DataShare::Training(share))));
    }
}

/// Keys, shares and openings that lanes of this process met, for the test of the logs.
static SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn training_data(setup: &LaneSetup) -> Option<&TrainingData> {
    match setup.data.as_deref() {
        Some(PartyData::Training(data)) => Some(data),
        _ => None,
    }
}

fn note_secrets(setup: &LaneSetup) {
    let keys = setup.keys.for_inspection().into_iter().flatten().map(u64::from);
    let data = training_data(setup);
    let data = data.iter().flat_map(|data| data.train_x.first.iter().chain(&data.train_y.second).copied());
    let words: Vec<u64> = keys.chain(data).collect();
    let spellings = words.into_iter().flat_map(|word| [format!("{word}"), format!("{word:x}"), format!("{word:X}")]);
    SECRETS.lock().unwrap().extend(spellings.chain([OPENED.to_string()]));
}

/// The value that a benchmark of these tests opens; no log quotes it by chance.
const OPENED: f64 = 0.739_182_645;

/// A lane that asks both peers whether they hold the same keys, meets its own lanes, and "trains" one step.
fn greet(mut setup: LaneSetup) -> Result<LaneOutcome, LaneError> {
    let error = |source| LaneError::Transport { step: Some(0), source };
    let meter = Meter::new(setup.counters.clone());
    note_secrets(&setup);
    let me = setup.transport.me();
    for (peer, key) in [(me.next(), setup.keys.for_inspection()[0]), (me.prev(), setup.keys.for_inspection()[1])] {
        setup.transport.send(peer, key[0].to_le_bytes().into()).map_err(error)?;
        meter.sent(peer, 4);
    }
    for _ in 0..2 {
        let received = meter.within(Phase::OpenWait, || setup.transport.recv(Duration::from_secs(4)));
        let (peer, frame) = received.map_err(error)?;
        let key = setup.keys.for_inspection()[usize::from(peer != me.next())];
        assert_eq!(frame, key[0].to_le_bytes(), "{me} and {peer} hold different keys");
    }
    let mut lanes = Words::from(vec![1, u64::from(setup.lane.0)]);
    setup.collective.all_reduce(&mut lanes).map_err(|source| LaneError::Collective { step: Some(0), source })?;
    assert_eq!(lanes.into_host(), [2, 1]);
    (setup.progress)(1, 1);
    setup.transport.close().map_err(error)?;
    Ok(LaneOutcome {
        opened: vec![(setup.job.reveal[0], vec![OPENED])],
        step_seconds: vec![0.1],
        train_seconds: 0.1,
        during: setup.counters.snapshot(),
        calibration: None,
        parameters: training_data(&setup).map(|data| data.train_y.clone()),
        result: None,
    })
}

/// Works until it is stopped or a peer is gone.
fn work_on(mut setup: LaneSetup) -> Result<LaneOutcome, LaneError> {
    loop {
        if setup.stop.load(SeqCst) {
            return Err(LaneError::Stopped);
        }
        let me = setup.transport.me();
        let step = |source| LaneError::Transport { step: Some(7), source };
        [me.next(), me.prev()].into_iter().try_for_each(|to| setup.transport.send(to, vec![1])).map_err(step)?;
        for _ in 0..2 {
            setup.transport.recv(Duration::from_secs(4)).map_err(step)?;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// As [`work_on`], but lane 1 of P0 meets a defect on its way.
fn work_until_p0_breaks(setup: LaneSetup) -> Result<LaneOutcome, LaneError> {
    if setup.transport.me() == PartyId::ALL[0] && setup.lane.0 == 1 {
        thread::sleep(Duration::from_millis(100));
        return Err(LaneError::Protocol {
            step: Some(5),
            source: ProtocolError::Length { peer: PartyId::ALL[0], expected: 40, got: 12 },
        });
    }
    work_on(setup)
}

#[test]
fn three_parties_connect_share_keys_and_report() {
    let folders: [_; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let setups = [0, 1, 2].map(|party| training_setup(party, 2, &folders[party]));
    let digest = setups[0].job.digest();
    let (mut children, metrics) = start_all(setups, greet);
    for child in &mut children {
        assert!(matches!(child.hear(), FromParty::Connected));
    }
    let page = scrape::get(metrics[0].as_ref().unwrap().parse().unwrap(), "/metrics").unwrap();
    assert!(page.contains("mpc_peer_rtt_seconds{job_id=\"test\",party=\"0\",lane=\"1\",peer=\"2\"}"), "{page}");
    give_data(&mut children);
    let mut shares = Vec::new();
    for (mut child, folder) in children.into_iter().zip(&folders) {
        assert!(matches!(child.hear(), FromParty::Progress { step: 1, steps: 1 }));
        let FromParty::Finished(report) = child.hear() else { panic!("not finished") };
        assert_eq!((report.sent_bytes, report.device.starts_with("cpu")), (2 * 2 * 4, true));
        assert!(report.peer_rtt_seconds > 0.0 && report.peak_rss_bytes > 0);
        assert!(child.thread.join().unwrap().is_ok());
        let mut file = std::fs::File::open(folder.path().join("model.share")).unwrap();
        let sealed = SealedModel::read(&mut file).unwrap();
        assert_eq!(sealed.job_digest, digest);
        shares.push(sealed.parameters);
    }
    let model = shared::share::join(&shares.try_into().unwrap()).unwrap();
    assert_eq!(model, [FixedPoint::DEFAULT.constant(1.0); 3]);
}

/// In a process of its own, since a subscriber for all threads belongs to the whole process.
#[test]
fn the_most_talkative_log_holds_no_key_share_or_opening() {
    const CHILD: &str = "TREFOIL_TEST_LOGS";
    if std::env::var_os(CHILD).is_some() {
        super::logs::start();
        three_parties_connect_share_keys_and_report();
        return SECRETS.lock().unwrap().iter().for_each(|secret| println!("secret {secret}"));
    }
    let this_test = "runtime::tests::the_most_talkative_log_holds_no_key_share_or_opening";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", this_test, "--nocapture"]).env(CHILD, "1").env("MPC_LOG", "trace");
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (said, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let secrets: BTreeSet<_> = said.lines().filter_map(|line| line.strip_prefix("secret ")).collect();
    assert!(secrets.len() > 100 && log.lines().count() > 20, "{} secrets, log: {log}", secrets.len());
    let words: BTreeSet<_> = log.split(|c: char| !c.is_alphanumeric() && c != '.').collect();
    assert_eq!(words.intersection(&secrets).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn a_defect_in_one_lane_ends_all_parties_soon_and_each_names_the_cause_it_saw() {
    let start = Instant::now();
    let (children, _) = start_all([0, 1, 2].map(|party| setup(party, 2)), work_until_p0_breaks);
    let failures = children.map(|child| child.thread.join().unwrap().unwrap_err());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(
        (failures[0].lane.unwrap().0, failures[0].step, failures[0].kind),
        (1, Some(5), FailureKind::Connection)
    );
    for failure in &failures[1..] {
        assert_eq!((failure.step, failure.kind), (Some(7), FailureKind::Connection), "{failure:?}");
        assert!(failure.peer.is_some() && failure.lane.is_some(), "{failure:?}");
    }
}

#[test]
fn parties_stop_when_told_and_when_whoever_started_them_is_gone() {
    let (mut children, _) = start_all([0, 1, 2].map(|party| setup(party, 2)), work_on);
    for child in &mut children {
        assert!(matches!(child.hear(), FromParty::Connected));
    }
    let start = Instant::now();
    children[0].tell(&ToParty::Stop);
    children[1].commands = None;
    children[2].commands = None;
    for child in children {
        assert_eq!(child.thread.join().unwrap().unwrap_err().reason, "stopped as asked");
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_peer_with_another_job_is_refused_by_name_before_any_data() {
    let setups = [0, 1, 2].map(|party| {
        let mut setup = setup(party, 1);
        setup.job.peer_timeout_seconds += u32::from(party == 2);
        setup
    });
    let (children, _) = start_all(setups, greet);
    while !children.iter().any(|child| child.thread.is_finished()) {
        thread::sleep(Duration::from_millis(5));
    }
    // As a launcher does: one party that cannot go on is the end of the job.
    let mut failures = Vec::new();
    for mut child in children {
        child.commands = None;
        failures.push(child.thread.join().unwrap().unwrap_err());
    }
    assert!(failures.iter().any(|failure| failure.reason.contains("job digest")), "{failures:?}");
    for failure in failures.iter().filter(|failure| failure.reason != "stopped as asked") {
        assert!(failure.kind == FailureKind::Connection && failure.peer.is_some(), "{failure:?}");
    }
}

#[test]
fn a_job_of_another_version_or_without_lanes_opens_no_port() {
    let refused = |change: fn(&mut Setup)| {
        let mut setup = setup(0, 1);
        change(&mut setup);
        let failure = Child::start(setup, greet).thread.join().unwrap().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Policy);
        failure.reason
    };
    assert!(refused(|setup| setup.job.version = "trefoil-0.0.1".into()).contains("version"));
    assert!(refused(|setup| setup.job.lanes = 0).starts_with("0 lanes"));
    assert!(refused(|setup| setup.job.threads = 0).contains("0 threads"));
}

#[test]
fn a_job_that_the_protocols_or_the_policy_do_not_allow_opens_no_port() {
    let refused = |change: &dyn Fn(&mut JobSpec)| {
        let mut setup = setup(0, 1);
        change(&mut setup.job);
        let failure = Child::start(setup, greet).thread.join().unwrap().unwrap_err();
        (failure.kind, failure.reason)
    };
    let softmax = |cols| Work::Bench(Micro { operation: Operation::Softmax, rows: 10, cols, repetitions: 1 });
    let (kind, reason) = refused(&|job| job.protocol.compare_bits = 16);
    assert!(kind == FailureKind::Job && reason.contains("16 bits"), "{reason}");
    for (kind, reason) in [refused(&|job| job.work = softmax(1)), refused(&|job| job.work = softmax(129))] {
        assert!(kind == FailureKind::Job && reason.contains("2 to 128"), "{reason}");
    }
    let (kind, reason) = refused(&|job| job.reveal.push(Reveal::TestAuroc));
    assert!(kind == FailureKind::Policy && reason.contains("test-auroc"), "{reason}");
    let (kind, reason) = refused(&|job| job.reveal.push(Reveal::BenchError));
    assert!(kind == FailureKind::Policy && reason.contains("bench-error twice"), "{reason}");
}

#[test]
fn data_of_another_size_and_messages_out_of_order_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Child::start(training_setup(0, 1, &folder), greet);
    child.listening();
    child.tell(&ToParty::Setup(Box::new(setup(0, 1))));
    let failure = child.thread.join().unwrap().unwrap_err();
    assert_eq!(failure.reason, "control message Setup came where Roster was due");

    let setups = [0, 1, 2].map(|party| training_setup(party, 1, &folder));
    let (mut children, _) = start_all(setups, greet);
    let short = || split(&[1, 2]).into_iter().nth(1).unwrap();
    let data = TrainingShare { train_x: short(), train_y: short(), test_x: short(), test_y: short(), start: None };
    children[1].tell(&ToParty::Data(Box::new(DataShare::Training(data))));
    let [_, child, _] = children;
    let failure = child.thread.join().unwrap().unwrap_err();
    assert!(failure.reason.starts_with("the share of the training rows is not 3 x 2 elements"), "{failure:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// An inference on 2 rows of 2 features.
fn inference_setup(party: usize, lanes: u16, model_digest: Option<[u8; 32]>) -> Setup {
    let mut setup = setup(party, lanes);
    let work = Inference {
        model: Model::mlp(2, &[], 1, Loss::MeanSquared),
        rows: 2,
        public_model: model_digest.is_some(),
        batch: 0,
        data_digest: [0; 32],
        model_digest: model_digest.unwrap_or_default(),
    };
    (setup.job.work, setup.job.reveal) = (Work::Infer(Box::new(work)), vec![Reveal::Predictions]);
    setup
}

/// Rows (1, 2) and (3, 4), and the model `2 x - y + 0.5`, secret or public.
fn give_inference(children: &mut [Child; 3], public: bool) {
    let encode = |values: &[f64]| values.iter().map(|&value| FixedPoint::DEFAULT.constant(value)).collect::<Vec<u64>>();
    let (x, weights) = (encode(&[1.0, 2.0, 3.0, 4.0]), encode(&[2.0, -1.0, 0.5]));
    let (parameters, buffers) = (split(&weights).into_iter(), split(&[]).into_iter());
    for (child, ((x, parameters), buffers)) in
        children.iter_mut().zip(split(&x).into_iter().zip(parameters).zip(buffers))
    {
        let weights = if public {
            WeightsShare::Public { parameters: weights.clone(), buffers: vec![] }
        } else {
            WeightsShare::Secret { parameters, buffers }
        };
        child.tell(&ToParty::Data(Box::new(DataShare::Inference(InferenceShare { x, weights }))));
    }
}

#[test]
fn whoever_started_an_inference_alone_can_join_its_predictions() {
    let digest = public_digest(&[&[2.0, -1.0, 0.5].map(|value| FixedPoint::DEFAULT.constant(value)), &[]]);
    for model_digest in [None, Some(digest)] {
        let setups = [0, 1, 2].map(|party| inference_setup(party, 2, model_digest));
        let (mut children, _) = start_all(setups, run_lane);
        give_inference(&mut children, model_digest.is_some());
        let mut addends = Vec::new();
        for mut child in children {
            assert!(matches!(child.hear(), FromParty::Connected));
            assert!(matches!(child.hear(), FromParty::Progress { step: 2, steps: 2 }));
            let FromParty::Result { what: Reveal::Predictions, addend } = child.hear() else { panic!("no result") };
            addends.push(addend);
            let FromParty::Finished(report) = child.hear() else { panic!("not finished") };
            assert!(report.opened.is_empty() && child.thread.join().unwrap().is_ok());
        }
        let words = Addend::join(&addends.try_into().unwrap()).unwrap();
        let scores: Vec<f64> = words.into_iter().map(|word| FixedPoint::DEFAULT.decode(word)).collect();
        assert!((scores[0] - 0.5).abs() < 1e-4 && (scores[1] - 2.5).abs() < 1e-4, "{scores:?}");
    }
}

#[test]
fn a_result_that_the_policy_does_not_name_never_leaves_a_party() {
    let refused = Child::start(
        {
            let mut setup = inference_setup(0, 1, None);
            setup.job.reveal.clear();
            setup
        },
        run_lane,
    );
    let failure = refused.thread.join().unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Policy);
    assert!(failure.reason.contains("does not name predictions"), "{}", failure.reason);

    /// A lane that hands out weights, whatever the job says.
    fn talkative(setup: LaneSetup) -> Result<LaneOutcome, LaneError> {
        let outcome = greet(setup)?;
        Ok(LaneOutcome { result: Some((Reveal::Weights, Addend::new(vec![7, 8, 9]))), ..outcome })
    }
    let folders: [_; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let (mut children, _) = start_all([0, 1, 2].map(|party| training_setup(party, 2, &folders[party])), talkative);
    give_data(&mut children);
    for mut child in children {
        assert!(matches!(child.hear(), FromParty::Connected));
        assert!(matches!(child.hear(), FromParty::Progress { .. }));
        let FromParty::Failed(failure) = child.hear() else { panic!("its share left") };
        assert_eq!(failure.kind, FailureKind::Policy);
        assert!(failure.reason.starts_with("weights would leave the party"), "{}", failure.reason);
        assert!(child.thread.join().unwrap().is_err());
    }
}

#[test]
fn a_public_model_that_is_not_the_job_s_is_refused() {
    let refused = |setups: [Setup; 3]| {
        let (mut children, _) = start_all(setups, run_lane);
        for child in &mut children {
            assert!(matches!(child.hear(), FromParty::Connected));
        }
        give_inference(&mut children, true);
        children.map(|child| child.thread.join().unwrap().unwrap_err().reason)
    };
    let reasons = refused([0, 1, 2].map(|party| inference_setup(party, 1, Some([9; 32]))));
    assert_eq!(reasons, ["the public model is not the one whose digest the job names"; 3]);
    let reasons = refused([0, 1, 2].map(|party| inference_setup(party, 1, None)));
    assert_eq!(reasons, ["the data message and the job do not agree on whether the model is public"; 3]);
}

#[test]
fn a_taken_metrics_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = setup(0, 1);
    setup.metrics = Some(taken.local_addr().unwrap().to_string());
    let failure = Child::start(setup, greet).thread.join().unwrap().unwrap_err();
    assert!(failure.reason.contains(&taken.local_addr().unwrap().to_string()), "{failure:?}");
    assert!(failure.reason.contains("in use"), "{failure:?}");
}
