//! What a user sees while a job runs, on standard error: progress with rate and ETA, the parties' warnings. Keeps the
//! parties' logs.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use orchestrator::{Notice, State};
use shared::ids::PartyId;

use crate::exit::LaunchError;
use crate::folder::{RunFolder, refusal};

/// Without a terminal, a progress line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Follows one job.
pub(crate) struct Follower {
    logs: [File; 3],
    log_broken: bool,
    terminal: bool,
    verbose: bool,
    quiet: bool,
    unit: &'static str,
    bar: Option<ProgressBar>,
    begin: Instant,
    first_step: Option<(Instant, usize)>,
    last_line: Instant,
    shown: usize,
    startup: Option<Duration>,
}

impl Follower {
    /// `quiet` shows warnings alone (benchmarks).
    pub(crate) fn new(folder: &RunFolder, verbose: bool, quiet: bool) -> Result<Self, LaunchError> {
        let [p0, p1, p2] = PartyId::ALL.map(|party| folder.log(party));
        let begin = Instant::now();
        Ok(Self {
            logs: [p0?, p1?, p2?],
            log_broken: false,
            terminal: io::stderr().is_terminal(),
            verbose,
            quiet,
            unit: "step",
            bar: None,
            begin,
            first_step: None,
            last_line: begin,
            shown: 0,
            startup: None,
        })
    }

    /// Counts rows instead of steps.
    #[must_use]
    pub(crate) fn in_rows(self) -> Self {
        Self { unit: "row", ..self }
    }

    /// Takes note of what happened.
    pub(crate) fn notice(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::State(State::Running) => self.startup = Some(self.begin.elapsed()),
            Notice::State(State::Succeeded | State::Failed | State::Cancelled) => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
            }
            Notice::State(_) | Notice::Started(..) | Notice::Result(..) => {}
            Notice::Metrics(party, address) if !self.quiet => {
                self.say(&format!("metrics of p{}/3: http://{address}/metrics", party.index()));
            }
            Notice::Metrics(..) => {}
            Notice::Progress(_, step, steps) => self.progress(*step, *steps),
            Notice::Log(party, line) => self.log(*party, line),
        }
    }

    /// From the start to all lanes connected.
    pub(crate) fn startup(&self) -> Option<Duration> {
        self.startup
    }

    /// The furthest party counts.
    fn progress(&mut self, step: usize, steps: usize) {
        if self.quiet || step <= self.shown {
            return;
        }
        self.shown = step;
        let &mut (since, first) = self.first_step.get_or_insert((Instant::now(), step));
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| progress_bar(steps, self.unit));
            bar.set_position(step as u64);
        } else if self.last_line.elapsed() >= LINE_EVERY || step == steps {
            self.last_line = Instant::now();
            let rate = rate(step - first, since.elapsed());
            #[allow(clippy::cast_precision_loss, reason = "step counts are far below 2^52")]
            let eta = (steps - step) as f64 / rate.max(1e-9);
            let unit = self.unit;
            self.say(&format!("{unit} {step}/{steps}, {rate:.1} {unit}s/s, ETA {eta:.0} s"));
        }
    }

    fn log(&mut self, party: PartyId, line: &str) {
        let written = writeln!(self.logs[party.index()], "{line}");
        if let Err(error) = written {
            // The job goes on without its log; what cannot be done without, the model and the report, fails by itself.
            if !std::mem::replace(&mut self.log_broken, true) {
                self.say(&refusal(format!("p{}.log", party.index()).as_ref(), &error).to_string());
            }
        }
        let (level, text) = if self.terminal { readable(party, line) } else { (level_of(line), line.to_owned()) };
        if self.verbose || level >= Level::Warn {
            self.say(&text);
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

fn progress_bar(steps: usize, unit: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template(&format!("{{bar:30}} {unit} {{pos}}/{{len}}, {{per_sec}}, ETA {{eta}}"));
    bar.with_style(style.expect("the template is well formed, which a test checks"))
}

#[allow(clippy::cast_precision_loss, reason = "step counts are far below 2^52")]
fn rate(steps: usize, time: Duration) -> f64 {
    steps as f64 / time.as_secs_f64().max(1e-9)
}

/// Levels of log lines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    Other,
    Warn,
    Error,
}

/// Text that is no JSON (a panic message) is taken for an error.
fn level_of(line: &str) -> Level {
    let record: Option<serde_json::Value> = serde_json::from_str(line).ok();
    match record.as_ref().and_then(|record| record["level"].as_str()).map(str::to_lowercase).as_deref() {
        Some("warn") => Level::Warn,
        Some("error") => Level::Error,
        Some(_) => Level::Other,
        None if line.trim().is_empty() => Level::Other,
        None => Level::Error,
    }
}

/// `p1/3 lane 2 | WARN ...` from a JSON log line; other text gets the party in front.
fn readable(party: PartyId, line: &str) -> (Level, String) {
    let prefix = format!("p{}/3", party.index());
    let Ok(record) = serde_json::from_str::<serde_json::Value>(line) else {
        return (level_of(line), format!("{prefix} | {line}"));
    };
    let field =
        |name: &str| record["fields"].get(name).or_else(|| record.get(name)).or_else(|| record["span"].get(name));
    let lane = field("lane").map_or(String::new(), |lane| format!(" lane {lane}"));
    let level = record["level"].as_str().unwrap_or("info").to_uppercase();
    let message = field("message").and_then(|message| message.as_str()).unwrap_or(line);
    (level_of(line), format!("{prefix}{lane} | {level} {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_become_readable() {
        let line = r#"{"level":"warn","message":"peer is slow","lane":2}"#;
        assert_eq!(readable(PartyId::ALL[1], line), (Level::Warn, "p1/3 lane 2 | WARN peer is slow".into()));
        let panic = readable(PartyId::ALL[0], "thread 'main' panicked");
        assert_eq!(panic, (Level::Error, "p0/3 | thread 'main' panicked".into()));
        assert_eq!(level_of(r#"{"level":"INFO"}"#), Level::Other);
    }

    #[test]
    fn the_bar_has_a_valid_template() {
        progress_bar(10, "row").set_position(3);
    }
}
