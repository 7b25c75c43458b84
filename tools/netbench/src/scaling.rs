//! What more lanes bring where a round trip takes time.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::profile::Shape;
use crate::{Cli, bench, network, prepare, report, wrapper};

/// Flags of `scaling`.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// There and back, milliseconds
    #[arg(long, default_value_t = 5.0, value_name = "MS")]
    round_trip_ms: f64,
    /// Of what leaves a party, to both peers together, megabit per second
    #[arg(long, default_value_t = 10_000.0, value_name = "MBIT")]
    mbit: f64,
    /// Lane counts, growing
    #[arg(long, default_value = "1,2,4", value_name = "N,N")]
    gpus: String,
    /// How the batch grows
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// `w2` or `w3`
    #[arg(long, default_value = "w2")]
    workload: String,
    /// Steps of each run; the launcher's default if not given
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Change one value of the job; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Also draw it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// How the batch grows with the lanes.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Mode {
    /// A batch for each lane
    #[default]
    Weak,
    /// One batch for all
    Strong,
    /// Both, one after the other
    Both,
}

/// Builds the network, measures it alone, and lets the launcher measure over it.
pub(crate) fn run(cli: &Cli, flags: &Flags) -> anyhow::Result<()> {
    let shape = flags.shape()?;
    let (launcher, namespaces) = prepare(cli)?;
    let (means, _relay, measured) = network(&namespaces, shape)?;
    report::show_network("network", shape, means, &measured)?;
    let mut command = bench(&launcher, &namespaces);
    command.args(["scaling", "--workload", &flags.workload, "--gpus", &flags.gpus]);
    // What the parties will find, not what was wanted.
    command.args(["--net", &format!("{:.0}mbit,{:.3}ms", measured.bandwidth_mbit, measured.rtt_ms)]);
    command.args(["--repeat", &cli.repeat.to_string(), "--output", if cli.json { "json" } else { "text" }]);
    command.args(match flags.mode {
        Mode::Weak => &["--weak"][..],
        Mode::Strong => &["--strong"],
        Mode::Both => &[],
    });
    command.args(flags.runs.iter().flat_map(|runs| ["--runs".to_owned(), runs.to_string()]));
    command.args(flags.set.iter().flat_map(|change| ["--set", change]));
    command.args(flags.svg.iter().flat_map(|file| [std::ffi::OsStr::new("--out"), file.as_os_str()]));
    command.arg("--party-program").arg(wrapper()?);
    let status = command.stdin(Stdio::null()).status().context("the launcher")?;
    if !status.success() {
        bail!("the launcher ended with {status}");
    }
    Ok(())
}

impl Flags {
    fn shape(&self) -> anyhow::Result<Shape> {
        let (milliseconds, mbit) = (self.round_trip_ms, self.mbit);
        if !((0.0..10_000.0).contains(&milliseconds) && mbit > 0.0 && mbit.is_finite()) {
            bail!("--round-trip-ms {milliseconds} --mbit {mbit}: from 0 to below 10000 ms, above 0 Mbit/s");
        }
        let round_trip = Duration::from_secs_f64(milliseconds / 1e3);
        Ok(Shape { rate: mbit * 1e6, round_trip, jitter: Duration::ZERO, loss: 0.0 })
    }
}
