//! Local mode: each party is a child process, with control messages on its standard input and output and its log on
//! standard error. Performs what [`crate::rendezvous`] decides.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use shared::ids::PartyId;
use shared::job::Reveal;
use shared::share::Addend;
use shared::wire::{FromParty, Setup, ToParty};

use crate::control::{ControlError, encode, read_message};
use crate::rendezvous::{Action, Deadlines, Ending, Event, Millis, Rendezvous, State};

/// Longest pause between two looks at the clock and at the children.
const TICK: Duration = Duration::from_millis(25);
/// A log line is cut here.
const LOG_LINE_MAX: u64 = 64 * 1024;
/// An ended process whose output stays open (a grandchild holds it) is waited for no longer than this.
const OPEN_OUTPUT_MS: Millis = 1_000;

/// Environment variable that tells a started program which party it will be, 0 to 2. A party learns that from its setup;
/// this is for programs that prepare a place for it.
const PARTY_VARIABLE: &str = "MPC_PARTY";

/// A job with all three parties on this machine.
pub struct LocalJob {
    /// Executable of a party.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// First message to each party.
    pub setups: [Setup; 3],
    /// Message with each party's shares of the data, as the data owner made it; none for benchmarks without data.
    pub data: Option<[ToParty; 3]>,
    /// When to give up.
    pub deadlines: Deadlines,
}

/// What an observer is told while a job runs.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The job moved on.
    State(State),
    /// A party's process runs under this id.
    Started(PartyId, u32),
    /// A party serves metrics here.
    Metrics(PartyId, &'a str),
    /// A party did this many of so many steps.
    Progress(PartyId, usize, usize),
    /// A line of a party's log.
    Log(PartyId, &'a str),
    /// A party's part of a result for whoever submitted the job.
    Result(PartyId, Reveal, Addend),
}

/// Runs a job to its end. `interrupt` set to true stops it cleanly. No child is alive when this returns.
pub fn run(job: LocalJob, interrupt: &AtomicBool, observer: &mut dyn FnMut(Notice<'_>)) -> Ending {
    let mut runner = Runner::new(job);
    let mut machine = Rendezvous::new(runner.job.deadlines);
    let mut events = vec![Event::Start];
    let mut state = State::Pending;
    loop {
        for event in std::mem::take(&mut events) {
            observe(&event, observer);
            for action in machine.step(runner.now(), event) {
                match action {
                    Action::Finish(ending) => {
                        runner.end_all();
                        runner.drain_logs(observer);
                        observer(Notice::State(machine.state()));
                        return *ending;
                    }
                    action => events.extend(runner.perform(action, observer)),
                }
            }
        }
        if machine.state() != state {
            state = machine.state();
            observer(Notice::State(state));
        }
        if interrupt.swap(false, Ordering::Relaxed) {
            events.push(Event::Interrupt);
        }
        if events.is_empty() {
            events = runner.wait(observer);
        }
    }
}

fn observe(event: &Event, observer: &mut dyn FnMut(Notice<'_>)) {
    if let Event::Progress(party, step, steps) = event {
        observer(Notice::Progress(*party, *step, *steps));
    }
}

/// What the reader threads report.
enum Heard {
    Message(PartyId, Box<FromParty>),
    Broken(PartyId, ControlError),
    Closed(PartyId),
    Log(PartyId, String),
}

struct Runner {
    job: LocalJob,
    children: [Option<Running>; 3],
    heard: Receiver<Heard>,
    report: Sender<Heard>,
    begin: Instant,
}

/// A live child.
struct Running {
    child: Child,
    /// Messages for the thread that owns the child's standard input; dropping it closes the input.
    input: Option<Sender<Vec<u8>>>,
    closed: bool,
    ended: Option<(ExitStatus, Millis)>,
}

impl Runner {
    fn new(job: LocalJob) -> Self {
        let (report, heard) = channel();
        Self { job, children: [None, None, None], heard, report, begin: Instant::now() }
    }

    fn now(&self) -> Millis {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn perform(&mut self, action: Action, observer: &mut dyn FnMut(Notice<'_>)) -> Option<Event> {
        match action {
            Action::Spawn(party) => Some(match self.spawn(party) {
                Ok(id) => {
                    observer(Notice::Started(party, id));
                    Event::PartySpawned(party)
                }
                Err(reason) => Event::SpawnFailed(party, reason),
            }),
            Action::SendRoster(party, roster) => {
                self.send(party, &ToParty::Roster(roster));
                if let Some(data) = &mut self.job.data {
                    // Taken out, so that the shares are dropped here as soon as they are on their way.
                    let message = std::mem::replace(&mut data[party.index()], ToParty::Stop);
                    self.send(party, &message);
                }
                None
            }
            Action::Stop(party) => {
                self.send(party, &ToParty::Stop);
                if let Some(running) = &mut self.children[party.index()] {
                    running.input = None;
                }
                None
            }
            Action::Kill(party) => {
                if let Some(running) = &mut self.children[party.index()] {
                    // It may have ended by itself meanwhile.
                    let _ = running.child.kill();
                }
                None
            }
            Action::Finish(_) => None,
        }
    }

    fn spawn(&mut self, party: PartyId) -> Result<u32, String> {
        let setup = encode(&ToParty::Setup(Box::new(self.job.setups[party.index()].clone())))
            .map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.job.program);
        command.env(PARTY_VARIABLE, party.index().to_string());
        command.args(&self.job.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A process group of its own, so that Ctrl-C reaches the launcher alone, which then stops the parties in order.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", self.job.program.display()))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (input, messages) = channel();
        let stdin = stdin.expect("was asked to be piped");
        thread::spawn(move || feed(stdin, &messages));
        let (stdout, report) = (stdout.expect("was asked to be piped"), self.report.clone());
        thread::spawn(move || listen(party, stdout, &report));
        let (stderr, report) = (stderr.expect("was asked to be piped"), self.report.clone());
        thread::spawn(move || forward_log(party, stderr, &report));
        // The receiver lives until its thread ends, which only a broken pipe brings about.
        let _ = input.send(setup);
        let id = child.id();
        self.children[party.index()] = Some(Running { child, input: Some(input), closed: false, ended: None });
        Ok(id)
    }

    fn send(&mut self, party: PartyId, message: &ToParty) {
        let input = self.children[party.index()].as_ref().and_then(|running| running.input.as_ref());
        if let (Some(input), Ok(bytes)) = (input, encode(message)) {
            // A party whose input is gone shows itself by its exit.
            let _ = input.send(bytes);
        }
    }

    /// Waits for the next news, at most a tick.
    fn wait(&mut self, observer: &mut dyn FnMut(Notice<'_>)) -> Vec<Event> {
        let mut events = Vec::new();
        match self.heard.recv_timeout(TICK) {
            Ok(heard) => events.extend(self.hear(heard, observer)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        while let Ok(heard) = self.heard.try_recv() {
            events.extend(self.hear(heard, observer));
        }
        events.extend(self.exits());
        events.push(Event::Tick);
        events
    }

    fn hear(&mut self, heard: Heard, observer: &mut dyn FnMut(Notice<'_>)) -> Option<Event> {
        match heard {
            Heard::Log(party, line) => {
                observer(Notice::Log(party, &line));
                None
            }
            Heard::Closed(party) => {
                if let Some(running) = &mut self.children[party.index()] {
                    running.closed = true;
                }
                None
            }
            Heard::Broken(party, error) => Some(Event::Garbled(party, error.to_string())),
            Heard::Message(party, message) => Some(match *message {
                FromParty::Listening { entry, metrics } => {
                    if let Some(address) = metrics {
                        observer(Notice::Metrics(party, &address));
                    }
                    Event::Listening(party, entry)
                }
                FromParty::Connected => Event::Connected(party),
                FromParty::Progress { step, steps } => Event::Progress(party, step, steps),
                FromParty::Result { what, addend } => {
                    observer(Notice::Result(party, what, addend));
                    return None;
                }
                FromParty::Finished(report) => Event::Finished(party, report),
                FromParty::Failed(failure) => Event::Failed(party, failure),
            }),
        }
    }

    /// Children that ended, once all they said has been read.
    fn exits(&mut self) -> Vec<Event> {
        let now = self.now();
        let mut events = Vec::new();
        for party in PartyId::ALL {
            let slot = &mut self.children[party.index()];
            let Some(running) = slot else { continue };
            if running.ended.is_none() {
                running.ended = running.child.try_wait().ok().flatten().map(|status| (status, now));
            }
            let Some((status, at)) = running.ended else { continue };
            if running.closed || now.saturating_sub(at) >= OPEN_OUTPUT_MS {
                events.push(Event::Exited(party, describe(status)));
                *slot = None;
            }
        }
        events
    }

    /// Makes sure that no child outlives the job.
    fn end_all(&mut self) {
        for running in self.children.iter_mut().filter_map(Option::take) {
            let mut child = running.child;
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn drain_logs(&mut self, observer: &mut dyn FnMut(Notice<'_>)) {
        while let Ok(heard) = self.heard.recv_timeout(TICK) {
            self.hear(heard, observer);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Owns a child's standard input; ends, and so closes it, when the sender is dropped.
fn feed(mut stdin: ChildStdin, messages: &Receiver<Vec<u8>>) {
    while let Ok(bytes) = messages.recv() {
        if stdin.write_all(&bytes).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn listen(party: PartyId, mut stdout: impl Read, report: &Sender<Heard>) {
    let last = loop {
        match read_message(&mut stdout) {
            Ok(Some(message)) => {
                if report.send(Heard::Message(party, Box::new(message))).is_err() {
                    return;
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    // A pipe cut inside a message is the death of the process, which its exit tells better.
    if let Some(error @ (ControlError::Malformed | ControlError::TooLong(_))) = last {
        let _ = report.send(Heard::Broken(party, error));
    }
    let _ = report.send(Heard::Closed(party));
}

fn forward_log(party: PartyId, stderr: impl Read, report: &Sender<Heard>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while matches!(stderr.by_ref().take(LOG_LINE_MAX).read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if report.send(Heard::Log(party, text)).is_err() {
            return;
        }
        line.clear();
    }
}

/// How a process ended, with the likely cause.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}; its log tells more"),
        (None, Some(9)) => "killed by signal 9; likely out of memory, or killed by hand".into(),
        (None, Some(signal @ (4 | 6 | 7 | 8 | 11))) => format!("crashed with signal {signal}; its log may tell more"),
        (None, Some(signal)) => format!("ended by signal {signal}; likely stopped from outside"),
        (None, None) => "unknown end".into(),
    }
}
