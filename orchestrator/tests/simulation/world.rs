//! A fleet, its users, and an orchestrator that may die: everything the scheduler meets, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use orchestrator::schedule::{Action, Consent, Event, Quota, Records, Scheduler, Settings, State};
use orchestrator::store::{JournalEntry, Store};
use shared::fleet::{DeviceId, DeviceKind, HeldPhase, HostId, LeaseId, Link, Millis, Requirements, Submission};
use shared::ids::{Epoch, JobDigest, JobId, PartyId};

use crate::agent::{Agent, fleet};
use crate::facts::{Facts, Reports};
use crate::history::{Decision, JobPlan, Operation};
use crate::oracle;

/// A fault put into the scheduler, as far as that can be done from outside, to see that the checks find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Planted {
    Nothing,
    /// Believes that parties may share machines.
    Colocates,
    /// Believes every host that it asked.
    CommitsEarly,
    /// Takes silence for consent.
    SkipsConsent,
    /// Believes that devices are free as soon as it says so.
    SellsEarly,
    /// Lets small jobs pass a large one for ever.
    KeepsNothing,
    /// Forgets to write hosts down.
    WritesNoHosts,
    /// Never looks at the clock.
    Sleeps,
    /// Starts what has ended.
    StartsTheDead,
}

/// Most virtual time in which everything must have come to rest.
const REST_MS: Millis = 2_500_000;

pub(crate) struct World {
    pub(crate) now: Millis,
    planted: Planted,
    settings: Settings,
    scheduler: Scheduler,
    disk: Records,
    /// The same on a real disk, if asked for.
    store: Option<Store>,
    agents: Vec<Agent>,
    plans: BTreeMap<JobDigest, JobPlan>,
    order: Vec<JobDigest>,
    questions: Vec<(JobDigest, PartyId, Epoch)>,
    reports: Reports,
    facts: Facts,
    down_until: Millis,
    all_approve: bool,
    could_run: BTreeMap<Requirements, bool>,
    last_commit: Option<Action>,
    steps: u64,
    /// Prints what happens.
    traced: bool,
}

/// What a history came to.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Lived {
    /// Events that the scheduler saw.
    pub(crate) steps: u64,
    /// States and kinds of reason that occurred.
    pub(crate) coverage: BTreeSet<String>,
}

pub(crate) type Verdict = Result<(), String>;

impl World {
    pub(crate) fn new(planted: Planted) -> Self {
        let settings = Settings {
            ended_jobs_max: 6,
            progress_ms: 15_000,
            start_ms: 20_000,
            claims: planted != Planted::KeepsNothing,
            ..Settings::default()
        };
        let agents = fleet();
        Self {
            now: 1_000_000,
            planted,
            scheduler: Scheduler::new(settings.clone()),
            settings,
            disk: Records::default(),
            store: None,
            reports: agents.iter().map(|agent| (agent.report.host.clone(), agent.report.clone())).collect(),
            agents,
            plans: BTreeMap::new(),
            order: Vec::new(),
            questions: Vec::new(),
            facts: Facts::default(),
            down_until: 0,
            all_approve: false,
            could_run: BTreeMap::new(),
            last_commit: None,
            steps: 0,
            traced: false,
        }
    }

    /// Runs a history and lets everything come to rest; what was violated, if anything.
    pub(crate) fn run(planted: Planted, history: &[Operation], crowd: bool) -> Result<Lived, String> {
        Self::new(planted).live(history, crowd)
    }

    /// The same with a database, from which the orchestrator comes back.
    pub(crate) fn run_on_disk(history: &[Operation], database: &Path) -> Result<Lived, String> {
        let store = Some(Store::open(database).map_err(|error| error.to_string())?);
        Self { store, ..Self::new(Planted::Nothing) }.live(history, false)
    }

    /// The same, and prints what happens.
    pub(crate) fn trace(planted: Planted, history: &[Operation], crowd: bool) -> Result<Lived, String> {
        Self { traced: true, ..Self::new(planted) }.live(history, crowd)
    }

    fn live(mut self, history: &[Operation], crowd: bool) -> Result<Lived, String> {
        let world = &mut self;
        for operation in history {
            world.operate(operation)?;
            if world.is_up() {
                world.facts.state(world.now, &world.scheduler, &world.settings)?;
            }
        }
        world.rest(crowd)?;
        Ok(Lived { steps: world.steps, coverage: std::mem::take(&mut world.facts.coverage) })
    }

    fn operate(&mut self, operation: &Operation) -> Verdict {
        let count = self.agents.len();
        let at = |index: u8| usize::from(index) % count;
        let now = self.now;
        match operation {
            Operation::Pass { slices, slice_ms } => {
                (0..*slices).try_for_each(|_| self.pass(Millis::from(*slice_ms)))?;
            }
            Operation::Submit(plan) => self.submit(plan.clone())?,
            Operation::SubmitAgain(job) => {
                if let Some(digest) = self.some_job(*job) {
                    self.event(Event::Submit(Box::new(self.submission(digest))))?;
                }
            }
            Operation::Cancel(job) => {
                if let Some(job) = self.some_job(*job) {
                    self.event(Event::Cancel { job, grace_ms: 1000 })?;
                }
            }
            Operation::Decide { job, party, decision } => {
                if let Some(job) = self.some_job(*job) {
                    let party = PartyId::ALL[usize::from(*party) % 3];
                    let epoch = self.scheduler.job(&job).map_or(Epoch(1), |job| job.next_epoch());
                    self.decide(job, party, epoch, *decision)?;
                }
            }
            Operation::Break { host, away_ms } => {
                self.agents[at(*host)].back_at = now + Millis::from(*away_ms);
                self.drop_connection(at(*host))?;
            }
            Operation::Cut { host, cut } => self.agents[at(*host)].cut = *cut,
            Operation::Crash { host, away_ms, noticed } => {
                self.crash(at(*host), now + Millis::from(*away_ms));
                if *noticed {
                    self.drop_connection(at(*host))?;
                }
            }
            Operation::Power { host, on } => {
                if !*on {
                    self.crash(at(*host), now);
                }
                self.agents[at(*host)].powered = *on;
            }
            Operation::Forget(host) => {
                if !self.agents[at(*host)].powered && self.is_up() {
                    self.agents[at(*host)].disconnect();
                    let host = self.agents[at(*host)].report.host.clone();
                    self.event(Event::HostForgotten(host))?;
                }
            }
            Operation::ProcessDies { host, blames, permanent } => {
                self.agents[at(*host)].lose_process(*blames, *permanent);
            }
            Operation::Refuse(host) => self.agents[at(*host)].refuses_next = true,
            Operation::Slow { host, slow } => self.agents[at(*host)].slow = *slow,
            Operation::Hang(host) => self.agents[at(*host)].hangs_next = true,
            Operation::Drain { host, drained } => {
                let host = self.agents[at(*host)].report.host.clone();
                self.event(Event::Drain(host, *drained))?;
            }
            Operation::Quota { party, devices } => {
                let quota = Quota { devices: devices.map(u32::from), jobs: None };
                self.event(Event::SetQuota(PartyId::ALL[usize::from(*party) % 3], quota))?;
            }
            Operation::Restart { away_ms } => self.restart(Millis::from(*away_ms))?,
            Operation::Jump { back, by_ms } => {
                // Agents keep their own time; the orchestrator's clock is what jumps. Going back is as if it stood.
                if !back {
                    self.now += Millis::from(*by_ms);
                }
                self.event(Event::Tick)?;
            }
            Operation::Measure { from, to, round_trip_us } => {
                let [from, to] = [from, to].map(|host| self.agents[at(*host)].report.host.clone());
                let link = Link { round_trip_us: u32::from(*round_trip_us), megabits_per_second: 1000 };
                self.event(Event::Measured(from, to, link))?;
            }
        }
        Ok(())
    }

    fn is_up(&self) -> bool {
        self.down_until == 0
    }

    fn some_job(&self, index: u8) -> Option<JobDigest> {
        let recent = &self.order[self.order.len().saturating_sub(8)..];
        let job = (!recent.is_empty()).then(|| recent[usize::from(index) % recent.len()])?;
        // Long after its end a job is forgotten, and its digest is a new job's.
        self.scheduler.job(&job).map(|job| job.digest())
    }

    /// One step of the scheduler, its changes to disk, then its actions to whom they concern.
    fn event(&mut self, event: Event) -> Verdict {
        if !self.is_up() || self.planted == Planted::Sleeps && matches!(event, Event::Tick) {
            return Ok(());
        }
        self.steps += 1;
        if self.traced && !matches!(event, Event::Tick | Event::Heartbeat(_)) {
            println!("{} {event:?}", self.now);
        }
        let actions = self.scheduler.step(self.now, event);
        if self.traced {
            actions.iter().for_each(|action| println!("{}   -> {action:?}", self.now));
        }
        self.write_down(&actions)?;
        let believed: Vec<Event> = actions.iter().filter_map(|action| self.misbelief(action)).collect();
        let actions = self.altered(actions);
        self.facts.actions(self.now, &actions, &self.reports, &self.scheduler)?;
        for action in actions {
            self.deliver(action)?;
        }
        believed.into_iter().try_for_each(|event| self.event(event))
    }

    /// What a planted fault has the scheduler believe.
    fn misbelief(&self, action: &Action) -> Option<Event> {
        match (self.planted, action) {
            (Planted::CommitsEarly, Action::Reserve { host, lease, .. }) => Some(Event::Reserved(host.clone(), *lease)),
            (Planted::SellsEarly, Action::Release { host, lease, .. }) => Some(Event::Released(host.clone(), *lease)),
            (Planted::SkipsConsent, Action::AskConsent { job, party, .. }) => {
                let consent = Consent::Approved { first: Epoch(1), last: Epoch(u64::MAX), until: Millis::MAX };
                Some(Event::Consent { job: *job, party: *party, consent })
            }
            _ => None,
        }
    }

    fn altered(&mut self, mut actions: Vec<Action>) -> Vec<Action> {
        if self.planted == Planted::StartsTheDead {
            let ends = actions.iter().any(|action| matches!(action, Action::Moved { state: State::Succeeded, .. }));
            actions.extend(self.last_commit.clone().filter(|_| ends));
            let commits = actions.iter().rev().find(|action| matches!(action, Action::Commit { .. }));
            self.last_commit = commits.cloned().or(self.last_commit.take());
        }
        actions
    }

    fn write_down(&mut self, actions: &[Action]) -> Verdict {
        let changes = self.scheduler.take_changes();
        if let Some(store) = &mut self.store {
            let journal = JournalEntry::of_actions(self.now, actions);
            store.save(&changes, &journal).map_err(|error| error.to_string())?;
        }
        for (digest, record) in changes.jobs {
            self.disk.jobs.retain(|job| job.digest() != digest);
            self.disk.jobs.extend(record);
        }
        if self.planted != Planted::WritesNoHosts {
            for (id, record) in changes.hosts {
                self.disk.hosts.retain(|host| host.id != id);
                self.disk.hosts.extend(record);
            }
        }
        self.disk.meta = changes.meta.unwrap_or(std::mem::take(&mut self.disk.meta));
        Ok(())
    }

    /// What the orchestrator would come back with.
    fn records(&self) -> Result<Records, String> {
        let load = |store: &Store| store.load().map_err(|error| error.to_string());
        self.store.as_ref().map_or_else(|| Ok(self.disk.clone()), load)
    }

    fn deliver(&mut self, action: Action) -> Verdict {
        match &action {
            Action::Reserve { host, .. } | Action::Commit { host, .. } | Action::Release { host, .. } => {
                let index = host_index_of(&self.agents, host);
                self.agents[index].inbox.push_back(action);
            }
            Action::Disconnect(host) => {
                let index = host_index_of(&self.agents, host);
                self.agents[index].back_at = self.now + 100;
                self.agents[index].disconnect();
                self.event(Event::HostAway(host.clone()))?;
            }
            Action::AskConsent { job, party, epoch } => self.questions.push((*job, *party, *epoch)),
            Action::Rejected { job, why } => return Err(format!("{job:?} was rejected: {why}")),
            Action::Accepted { .. } | Action::Moved { .. } => {}
        }
        Ok(())
    }

    fn submit(&mut self, plan: JobPlan) -> Verdict {
        if self.order.iter().rev().take(24).filter(|job| self.is_alive(job)).count() >= 12 || !self.is_up() {
            return Ok(());
        }
        let digest = self.register(plan);
        let mut submission = self.submission(digest);
        submission.requirements.colocate |= self.planted == Planted::Colocates;
        self.event(Event::Submit(Box::new(submission)))
    }

    fn register(&mut self, plan: JobPlan) -> JobDigest {
        let number = u32::try_from(self.order.len()).expect("a history has few jobs");
        let mut digest = JobDigest([0; 32]);
        digest.0[..4].copy_from_slice(&number.to_be_bytes());
        self.facts.allowed.insert(digest, plan.max_restarts);
        self.facts.asked.insert(digest, requirements(&plan));
        self.plans.insert(digest, plan);
        self.order.push(digest);
        digest
    }

    fn is_alive(&self, job: &JobDigest) -> bool {
        self.scheduler.job(job).is_some_and(|job| !job.state.is_end())
    }

    fn submission(&self, digest: JobDigest) -> Submission {
        let plan = &self.plans[&digest];
        Submission {
            digest,
            name: JobId(format!("job-{digest:?}")),
            submitter: "tester".into(),
            priority: plan.priority,
            requirements: requirements(plan),
            deadline: plan.deadline_ms.map(|ms| self.now + Millis::from(ms)),
            time_limit_ms: plan.limit_ms.map(Millis::from),
            max_restarts: plan.max_restarts,
        }
    }

    fn decide(&mut self, job: JobDigest, party: PartyId, epoch: Epoch, decision: Decision) -> Verdict {
        let (first, always) = (Epoch(1), self.now + 100_000_000);
        let consent = match decision {
            Decision::Approve => Consent::Approved { first, last: Epoch(1_000_000), until: always },
            Decision::Briefly => Consent::Approved { first, last: Epoch(1_000_000), until: self.now + 5_000 },
            Decision::Once => Consent::Approved { first: epoch, last: epoch, until: always },
            Decision::ByHand => Consent::ByHand,
            Decision::Deny => Consent::Denied("not this data".into()),
            Decision::Silence => return Ok(()),
        };
        if self.is_up() {
            self.facts.decided.insert((job, party), consent.clone());
        }
        self.event(Event::Consent { job, party, consent })
    }

    fn drop_connection(&mut self, index: usize) -> Verdict {
        let was_connected = self.agents[index].connected;
        self.agents[index].disconnect();
        let host = self.agents[index].report.host.clone();
        if was_connected { self.event(Event::HostAway(host)) } else { Ok(()) }
    }

    fn crash(&mut self, index: usize, back_at: Millis) {
        let agent = &mut self.agents[index];
        agent.holds.clear();
        agent.inbox.clear();
        agent.outbox.clear();
        agent.back_at = back_at;
        // Until somebody notices, the connection looks alive, but nobody is at its other end.
        agent.cut |= agent.connected;
    }

    /// The orchestrator dies with all its connections and comes back from what it wrote down.
    fn restart(&mut self, away_ms: Millis) -> Verdict {
        if !self.is_up() {
            return Ok(());
        }
        self.compare_with_disk()?;
        self.agents.iter_mut().for_each(Agent::disconnect);
        self.down_until = (self.now + away_ms).max(1);
        self.questions.clear();
        Ok(())
    }

    fn come_back(&mut self) -> Verdict {
        self.down_until = 0;
        self.scheduler = Scheduler::restore(self.settings.clone(), self.records()?);
        self.event(Event::Restarted)?;
        PartyId::ALL.into_iter().try_for_each(|party| self.event(Event::DeciderJoined(party)))
    }

    /// What is on disk gives the same scheduler, and the same actions, as never having died.
    fn compare_with_disk(&self) -> Verdict {
        let mut alive = self.scheduler.clone();
        let mut restored = Scheduler::restore(self.settings.clone(), self.records()?);
        let (a, b) = (alive.step(self.now, Event::Restarted), restored.step(self.now, Event::Restarted));
        _ = (alive.take_changes(), restored.take_changes());
        let same = a == b && alive == restored;
        if same {
            Ok(())
        } else {
            Err(format!("the records give another scheduler: {}", difference(&alive, &restored)))
        }
    }

    /// A slice of time: clock, answers of users, heartbeats, messages both ways, work.
    fn pass(&mut self, ms: Millis) -> Verdict {
        self.now += ms;
        if !self.is_up() && self.now >= self.down_until {
            self.come_back()?;
        }
        self.event(Event::Tick)?;
        for (job, party, epoch) in std::mem::take(&mut self.questions) {
            let planned = self.plans[&job].decisions[party.index()];
            let decision = if self.all_approve { Decision::Approve } else { planned };
            self.decide(job, party, epoch, decision)?;
        }
        for index in 0..self.agents.len() {
            self.agent_lives(index)?;
        }
        self.work(ms)
    }

    fn agent_lives(&mut self, index: usize) -> Verdict {
        let now = self.now;
        self.agents[index].let_go(now);
        if !self.is_up() {
            return Ok(());
        }
        if !self.agents[index].connected {
            let agent = &mut self.agents[index];
            if !agent.powered || agent.cut && agent.back_at == 0 || now < agent.back_at {
                return Ok(());
            }
            (agent.connected, agent.cut, agent.back_at) = (true, false, 0);
            let hello = Box::new(agent.hello());
            self.event(Event::HostJoined(hello))?;
        }
        if !self.agents[index].is_reachable() {
            return Ok(());
        }
        let host = self.agents[index].report.host.clone();
        self.event(Event::Heartbeat(host))?;
        while self.agents[index].is_reachable() {
            if let Some(event) = self.agents[index].outbox.pop_front() {
                if let Event::Reserved(host, lease) = &event {
                    self.facts.answered.insert((host.clone(), *lease));
                }
                self.event(event)?;
            } else if let Some(action) = self.agents[index].inbox.pop_front() {
                self.agents[index].obey(now, action);
                self.agents[index].let_go(now);
                self.no_device_is_held_twice(index)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn no_device_is_held_twice(&self, index: usize) -> Verdict {
        let machine = &self.agents[index].report.machine;
        let mut held: BTreeMap<&DeviceId, LeaseId> = BTreeMap::new();
        for agent in self.agents.iter().filter(|agent| agent.report.machine == *machine) {
            for (lease, hold) in &agent.holds {
                for device in &hold.devices {
                    if let Some(other) = held.insert(device, *lease) {
                        return Err(format!("{device} of {machine} is held for {other:?} and for {lease:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A part works while all parts of its attempt run somewhere.
    fn work(&mut self, ms: Millis) -> Verdict {
        let mut running: BTreeMap<(JobDigest, Epoch), BTreeMap<PartyId, usize>> = BTreeMap::new();
        for agent in &self.agents {
            for (lease, hold) in agent.holds.iter().filter(|(_, hold)| hold.phase == HeldPhase::Running && !hold.hangs)
            {
                *running.entry((lease.job, lease.epoch)).or_default().entry(lease.party).or_default() +=
                    hold.devices.len();
            }
        }
        let epochs: BTreeSet<JobDigest> = running.keys().map(|(job, _)| *job).collect();
        if epochs.len() < running.len() {
            // Two attempts of one job may be alive where a host is cut off; both complete would be two results.
            let complete =
                |job: &JobDigest| running.iter().filter(|((of, _), parties)| of == job && parties.len() == 3).count();
            if let Some(job) = epochs.iter().find(|job| complete(job) > 1) {
                return Err(format!("two attempts of {job:?} run at all parties"));
            }
        }
        for ((job, epoch), parties) in running {
            let plan = &self.plans[&job];
            if parties.len() < 3 || parties.values().any(|lanes| *lanes < usize::from(plan.lanes)) {
                continue;
            }
            let (work_ms, steps) = (Millis::from(plan.work_ms), Millis::from(plan.work_ms / 100));
            for agent in &mut self.agents {
                let host = agent.report.host.clone();
                let mine = agent.holds.iter_mut().filter(|(lease, _)| lease.job == job && lease.epoch == epoch);
                for (lease, hold) in mine {
                    hold.worked_ms += ms;
                    if hold.worked_ms >= work_ms {
                        hold.phase = HeldPhase::Done;
                        agent.outbox.push_back(Event::Done(host.clone(), *lease));
                    } else {
                        agent.outbox.push_back(Event::Progress(host.clone(), *lease, hold.worked_ms / 100, steps));
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything is mended and everybody agrees: each job must end, or wait for what the fleet really does not have.
    fn rest(&mut self, crowd: bool) -> Verdict {
        if self.down_until != 0 {
            self.now = self.now.max(self.down_until);
            self.come_back()?;
        }
        for index in 0..self.agents.len() {
            let agent = &mut self.agents[index];
            (agent.cut, agent.powered, agent.slow) = (false, true, false);
            (agent.refuses_next, agent.hangs_next, agent.back_at) = (false, false, self.now);
            let host = agent.report.host.clone();
            // A connection whose other end crashed is found dead by its keep-alive.
            self.drop_connection(index)?;
            self.event(Event::Drain(host, false))?;
        }
        for party in PartyId::ALL {
            self.event(Event::SetQuota(party, Quota::default()))?;
        }
        self.all_approve = true;
        let waiting: Vec<JobDigest> =
            self.scheduler.jobs().filter(|job| !job.state.is_end()).map(|job| job.digest()).collect();
        for (job, party) in waiting.iter().flat_map(|job| PartyId::ALL.map(|party| (*job, party))) {
            self.decide(job, party, Epoch(1), Decision::Approve)?;
        }
        let first = if crowd { self.first_in_line() } else { None };
        let began = self.now;
        let mut crowd_turn = 0_u32;
        while self.now - began < REST_MS {
            self.pass(1_000)?;
            self.facts.state(self.now, &self.scheduler, &self.settings)?;
            if let Some((job, epoch)) = first.filter(|(job, _)| self.is_alive(job)) {
                let begun = self.scheduler.job(&job).is_some_and(|job| job.epoch > epoch);
                if !begun && self.now - began > 400_000 {
                    return Err(format!("{job:?} is first in line and starves"));
                }
                if !begun {
                    crowd_turn += 1;
                    let priority = self.plans[&job].priority;
                    self.submit_tiny(JobPlan { work_ms: 5_000 + crowd_turn * 977 % 6_000, ..JobPlan::tiny(priority) })?;
                    continue;
                }
            }
            let alive = self.scheduler.jobs().filter(|job| !job.state.is_end()).map(|job| job.digest());
            let alive: Vec<JobDigest> = alive.collect();
            if !alive.iter().any(|job| self.could_run(job)) {
                break;
            }
        }
        self.compare_with_disk()?;
        let left = self.scheduler.jobs().filter(|job| !job.state.is_end());
        let left = left.map(|job| (job.digest(), job.state, self.scheduler.reason(job).to_string()));
        for (digest, state, reason) in left.collect::<Vec<_>>() {
            if self.could_run(&digest) {
                return Err(format!("{digest:?} is {state:?} at the end, because: {reason}"));
            }
            if !reason.contains("needs") && !reason.contains("share") {
                return Err(format!("{digest:?} cannot run, and the reason is: {reason}"));
            }
        }
        Ok(())
    }

    fn submit_tiny(&mut self, plan: JobPlan) -> Verdict {
        let alive = self.scheduler.jobs().filter(|job| !job.state.is_end()).count();
        if alive < 30 { self.submit_anyway(plan) } else { Ok(()) }
    }

    fn submit_anyway(&mut self, plan: JobPlan) -> Verdict {
        let digest = self.register(plan);
        self.event(Event::Submit(Box::new(self.submission(digest))))
    }

    /// The first of the highest priority that waits for devices and could run.
    fn first_in_line(&mut self) -> Option<(JobDigest, Epoch)> {
        let waiting = self.scheduler.jobs().filter(|job| matches!(job.state, State::Pending | State::Recovering));
        let mut waiting: Vec<_> = waiting
            .filter(|job| job.submission.deadline.is_none())
            .map(|job| (std::cmp::Reverse(job.submission.priority), job.sequence, job.digest(), job.epoch))
            .collect();
        waiting.sort();
        waiting.into_iter().map(|(_, _, job, epoch)| (job, epoch)).find(|(job, _)| self.could_run(job))
    }

    /// Whether the whole fleet could hold the job; all its hosts are there when this is asked.
    fn could_run(&mut self, job: &JobDigest) -> bool {
        let reports: Vec<_> = self.reports.values().collect();
        let need = &self.facts.asked[job];
        *self.could_run.entry(need.clone()).or_insert_with(|| oracle::fits(&reports, need))
    }
}

fn requirements(plan: &JobPlan) -> Requirements {
    Requirements {
        lanes: plan.lanes,
        kind: if plan.cpu { DeviceKind::Cpu } else { DeviceKind::Gpu },
        memory_bytes: if plan.big_memory { 60 << 30 } else { 1 << 30 },
        labels: plan.labelled.then(|| "certified".to_owned()).into_iter().collect(),
        one_host: plan.one_host,
        colocate: plan.colocate,
    }
}

/// The first place in which two schedulers differ.
fn difference(a: &Scheduler, b: &Scheduler) -> String {
    let (a, b) = (format!("{a:#?}"), format!("{b:#?}"));
    let differing = a.lines().zip(b.lines()).find(|(a, b)| a != b);
    differing.map_or("in length".into(), |(a, b)| format!("{} / {}", a.trim(), b.trim()))
}

fn host_index_of(agents: &[Agent], host: &HostId) -> usize {
    agents.iter().position(|agent| agent.report.host == *host).expect("actions name hosts that exist")
}
