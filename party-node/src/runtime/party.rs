//! A party's life: setup, listening, roster, connections, data, lanes, report. The order is the control protocol's.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shared::ids::{Lane, PartyId};
use shared::job::{JobError, JobSpec, PROTOCOL_VERSION, Work};
use shared::share::Addend;
use shared::wire::{DataShare, Failure, FailureKind, FromParty, PartyReport, Roster, Setup, ToParty};
use tracing::{error_span, info};

use super::connect::{ConnectedLane, Listening};
use super::control::{Commands, ControlError, Reports, message_name};
use super::failure::{control, failure, log_failure};
use super::gpus::Gpus;
use super::lanes::{self, LaneWork, Owner};
use super::metrics::{Link, Metrics};
use super::report;
use super::scrape::MetricsServer;
use super::sealed_model::SealedModel;
use super::unseal;
use crate::collective::{self, Collective};
use crate::compute::{self, Compute, Opened};
use crate::meter::LaneCounters;
use crate::train::{LaneOutcome, LaneSetup, PartyData};

/// How long the next control message may take: other parties start meanwhile, and data may be large.
const CONTROL_MAX: Duration = Duration::from_secs(120);

/// Progress is reported at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// Lanes of one party; each has threads, sockets and buffers of its own.
const LANES_MAX: u16 = 256;

/// Serves one job from setup to report, and logs how it ended.
pub(super) fn serve(
    commands: &Commands,
    reports: &Reports,
    listen: IpAddr,
    work: LaneWork,
) -> Result<PartyReport, Failure> {
    let mut inbox = Inbox { commands, roster: None, data: None };
    let setup = inbox.setup().inspect_err(log_failure)?;
    let span = error_span!(
        "party",
        party = setup.party.index(),
        parties = PartyId::ALL.len(),
        epoch = setup.epoch,
        job = %setup.job_id
    );
    let _entered = span.entered();
    let served = serve_job(&setup, inbox, reports, listen, work);
    served.inspect(|_| info!("finished")).inspect_err(log_failure)
}

fn serve_job(
    setup: &Setup,
    mut inbox: Inbox<'_>,
    reports: &Reports,
    listen: IpAddr,
    work: LaneWork,
) -> Result<PartyReport, Failure> {
    check(&setup.job)?;

    let listening = Listening::bind(setup, listen)?;
    let counters: Vec<_> = (0..setup.job.lanes).map(|_| Arc::new(LaneCounters::default())).collect();
    let metrics = Arc::new(Metrics::new(setup, counters.clone(), Gpus::of_this_machine()));
    let server = serve_metrics(setup, &metrics)?;
    let address = server.as_ref().map(|server| server.address().to_string());
    tell(reports, &FromParty::Listening { entry: listening.entry(), metrics: address })?;

    let stop = inbox.commands.stop_flag();
    let connected = listening.connect(setup, &inbox.roster()?, &stop)?;
    let links: Vec<Arc<dyn Link>> = connected.iter().map(|lane| lane.link.clone()).collect();
    metrics.connected(links.clone());
    info!("connected to both peers on {} lanes", connected.len());
    tell(reports, &FromParty::Connected)?;

    // Shares come only after every lane has proved to every peer that all mean the same job.
    let data = match &setup.job.work {
        Work::Train(_) | Work::Infer(_) => Some(Arc::new(unseal::unseal(setup, inbox.data()?)?)),
        Work::Bench(_) => None,
    };
    let Opened { devices, gpus, .. } = open_devices(setup)?;
    let session = Session { setup, devices: &devices, gpus: &gpus, counters: &counters, metrics, reports, stop };
    let lanes = session.lane_setups(connected, data.as_ref());
    let owner = Owner { party: setup.party, epoch: setup.epoch };
    let outcomes = lanes::run_all(lanes, &session.stop, owner, work)?;
    hand_out(setup, &outcomes, reports)?;
    finish(setup, outcomes, &devices, &links)
}

/// Control messages in any order that makes sense: the data may come before the roster is used.
struct Inbox<'a> {
    commands: &'a Commands,
    roster: Option<Roster>,
    data: Option<Box<DataShare>>,
}

impl Inbox<'_> {
    fn setup(&mut self) -> Result<Setup, Failure> {
        match self.commands.next("Setup", CONTROL_MAX).map_err(|e| control(&e))? {
            ToParty::Setup(setup) => Ok(*setup),
            other => Err(control(&ControlError::OutOfOrder { got: message_name(&other), due: "Setup" })),
        }
    }

    fn roster(&mut self) -> Result<Roster, Failure> {
        loop {
            if let Some(roster) = self.roster.take() {
                return Ok(roster);
            }
            self.take_one("Roster")?;
        }
    }

    fn data(&mut self) -> Result<DataShare, Failure> {
        loop {
            if let Some(data) = self.data.take() {
                return Ok(*data);
            }
            self.take_one("Data")?;
        }
    }

    fn take_one(&mut self, due: &'static str) -> Result<(), Failure> {
        match self.commands.next(due, CONTROL_MAX).map_err(|e| control(&e))? {
            ToParty::Roster(roster) if due == "Roster" => self.roster = Some(roster),
            ToParty::Data(data) if self.data.is_none() => self.data = Some(data),
            other => return Err(control(&ControlError::OutOfOrder { got: message_name(&other), due })),
        }
        Ok(())
    }
}

/// Refuses what this party would not or could not compute, before it opens a port.
fn check(job: &JobSpec) -> Result<(), Failure> {
    let refuse = |reason: String| Err(failure(FailureKind::Policy, reason));
    if job.version != PROTOCOL_VERSION {
        return refuse(format!(
            "the job is written for another version than {PROTOCOL_VERSION}: all parties and the launcher must be \
             of the same version"
        ));
    }
    if job.lanes == 0 || job.lanes > LANES_MAX || job.threads == 0 {
        return refuse(format!(
            "{} lanes of {} threads: 1 to {LANES_MAX} lanes of at least one thread are possible",
            job.lanes, job.threads
        ));
    }
    job.check().map_err(|error| {
        let kind = match error {
            JobError::NoSuchResult(_) | JobError::RevealedTwice(_) | JobError::NoPredictions => FailureKind::Policy,
            JobError::CompareBits(_)
            | JobError::Classes { .. }
            | JobError::Clip { .. }
            | JobError::Model(_)
            | JobError::NoRows => FailureKind::Job,
        };
        failure(kind, error.to_string())
    })
}

fn serve_metrics(setup: &Setup, metrics: &Arc<Metrics>) -> Result<Option<MetricsServer>, Failure> {
    let Some(address) = &setup.metrics else { return Ok(None) };
    MetricsServer::start(address, metrics.clone()).map(Some).map_err(|error| {
        let reason = format!("cannot serve /metrics on {address}: {error}; choose another address or turn metrics off");
        failure(FailureKind::Job, reason)
    })
}

fn tell(reports: &Reports, message: &FromParty) -> Result<(), Failure> {
    reports.send(message).map_err(|e| control(&e))
}

/// A device for each lane. All parties may be on this machine, so each begins where the one before it ends.
fn open_devices(setup: &Setup) -> Result<Opened, Failure> {
    let lanes = usize::from(setup.job.lanes);
    let spread = [setup.party.index() * lanes, 1];
    let opened = compute::open(setup.device, lanes, spread, setup.oversubscribe, setup.job.threads);
    let opened = opened.map_err(|error| failure(FailureKind::Job, error.to_string()))?;
    info!("{}", opened.remark);
    Ok(opened)
}

/// What all lanes of this party have in common.
struct Session<'a> {
    setup: &'a Setup,
    devices: &'a [Arc<dyn Compute>],
    gpus: &'a [usize],
    counters: &'a [Arc<LaneCounters>],
    metrics: Arc<Metrics>,
    reports: &'a Reports,
    stop: Arc<AtomicBool>,
}

impl Session<'_> {
    fn lane_setups(&self, connected: Vec<ConnectedLane>, data: Option<&Arc<PartyData>>) -> Vec<LaneSetup> {
        let job = Arc::new(self.setup.job.clone());
        let collective = collective::open(self.devices, self.gpus);
        info!("{}", collective.remark);
        let lane = |(lane, (connected, member)): (u16, (ConnectedLane, Box<dyn Collective>))| LaneSetup {
            job: job.clone(),
            lane: Lane(lane),
            transport: connected.transport,
            keys: connected.keys,
            device: self.devices[usize::from(lane)].clone(),
            collective: member,
            data: data.cloned(),
            counters: self.counters[usize::from(lane)].clone(),
            stop: self.stop.clone(),
            progress: self.progress(lane),
        };
        (0..).zip(connected.into_iter().zip(collective.members)).map(lane).collect()
    }

    fn progress(&self, lane: u16) -> Box<dyn Fn(usize, usize) + Send> {
        match lane {
            0 => progress(self.metrics.clone(), self.reports.clone()),
            _ => Box::new(|_, _| {}),
        }
    }
}

/// Passes lane 0's steps on to the metrics and, not too often, to whoever started the party.
fn progress(metrics: Arc<Metrics>, reports: Reports) -> Box<dyn Fn(usize, usize) + Send> {
    let told = Mutex::new(None::<Instant>);
    Box::new(move |step, steps| {
        metrics.step_ended();
        let mut told = told.lock().expect("nothing panics while it holds this");
        if step == steps || told.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL) {
            *told = Some(Instant::now());
            // Its end is noticed by the thread that reads its commands.
            let _ = reports.send(&FromParty::Progress { step, steps });
        }
    })
}

/// Sends this party's part of a result to whoever started it, if the policy names that result.
fn hand_out(setup: &Setup, outcomes: &[LaneOutcome], reports: &Reports) -> Result<(), Failure> {
    let results = || outcomes.iter().filter_map(|lane| lane.result.as_ref());
    let Some((what, _)) = results().next() else { return Ok(()) };
    if let Some((other, _)) = results().find(|(other, _)| other != what || !setup.job.reveal.contains(other)) {
        let reason =
            format!("{} would leave the party, which the reveal policy of the job does not name", other.name());
        return Err(failure(FailureKind::Policy, reason));
    }
    let parts: Vec<Addend> = results().map(|(_, addend)| addend.clone()).collect();
    let addend = Addend::concat(&parts);
    info!("hands its part of {} values of {} to whoever started the job", addend.len(), what.name());
    tell(reports, &FromParty::Result { what: *what, addend })
}

/// Seals the model and sums up.
fn finish(
    setup: &Setup,
    mut outcomes: Vec<LaneOutcome>,
    devices: &[Arc<dyn Compute>],
    links: &[Arc<dyn Link>],
) -> Result<PartyReport, Failure> {
    if let Some(parameters) = outcomes[0].parameters.take() {
        let sealed = SealedModel { party: setup.party, job_digest: setup.job.digest(), parameters };
        let path = sealed.save(Path::new(&setup.folder)).map_err(|e| failure(FailureKind::Job, e.to_string()))?;
        info!("sealed {} parameters into {}", sealed.parameters.len(), path.display());
    }
    report::build(setup, &outcomes, devices, links)
}
