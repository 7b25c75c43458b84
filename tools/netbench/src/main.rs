//! `netbench`: runs the reference workloads with each party in a network namespace of its own, behind a link like that
//! of a data centre, a city or a continent, and compares the time with what `mpc-launch plan` predicts.
//!
//! Needs root (namespaces and virtual links) and iproute2; leaves nothing behind.

mod calibrate;
mod namespaces;
mod profile;
mod relay;
mod report;
mod scaling;
mod system;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::calibrate::Measured;
use crate::namespaces::{Namespaces, address};
use crate::profile::{Profile, Shape};
use crate::relay::Relay;
use crate::report::Line;

/// Names the networks to the program that stands in for a party.
const NAMESPACES_VARIABLE: &str = "NETBENCH_NAMESPACES";
/// Names the launcher to it.
const LAUNCHER_VARIABLE: &str = "NETBENCH_LAUNCHER";
/// Set by the launcher: which party a program will be.
const PARTY_VARIABLE: &str = "MPC_PARTY";

/// Round trips from which the relay's own time is found.
const CORRECTING_PINGS: u64 = 100;

/// What is run.
#[derive(Debug)]
struct Workload {
    name: &'static str,
    /// Arguments of `mpc-launch bench`.
    bench: &'static [&'static str],
    /// Arguments of `mpc-launch plan`, if it can plan this, and the key of its answer that predicts the seconds.
    plan: Option<(&'static [&'static str], &'static str)>,
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "w1", bench: &["w1", "--runs", "3"], plan: Some((&["--workload", "w1"], "train_seconds")) },
    Workload { name: "w2", bench: &["w2", "--runs", "30"], plan: Some((&["--workload", "w2"], "seconds_per_step")) },
    Workload {
        name: "w3-infer",
        bench: &["w3", "--only", "w3-infer", "--runs", "10"],
        plan: Some((&["--infer", "--workload", "w3"], "seconds_per_step")),
    },
    Workload { name: "relu-1e6", bench: &["w4", "--only", "relu-1e6", "--runs", "7"], plan: None },
];

/// The reference workloads over networks that are not loopback.
#[derive(Parser, Debug)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Networks, comma-separated
    #[arg(long, value_enum, value_delimiter = ',', default_value = "lan,metro,wan")]
    profiles: Vec<Profile>,
    /// Workloads, comma-separated
    #[arg(long, value_delimiter = ',', default_value = "w1,w2,w3-infer,relu-1e6")]
    workloads: Vec<String>,
    /// The launcher
    #[arg(long, global = true, default_value = "target/release/mpc-launch", value_name = "FILE")]
    launcher: PathBuf,
    /// Only build and measure the networks
    #[arg(long)]
    calibrate_only: bool,
    /// Measure so often, each time with new processes
    #[arg(long, global = true, default_value_t = 1, value_name = "N")]
    repeat: usize,
    /// JSON lines instead of a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Be started by the launcher as a party: moves into the party's network and becomes the launcher's party
    #[command(hide = true)]
    Party,
    /// What more lanes bring over a network with this round trip: `mpc-launch bench scaling` with each party behind a
    /// link of its own
    Scaling(scaling::Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.verb {
        Some(Verb::Party) => become_party(),
        Some(Verb::Scaling(flags)) => scaling::run(&cli, flags),
        None => run(&cli),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let workloads = cli.workloads.iter().map(|name| {
        let known = || WORKLOADS.map(|workload| workload.name).join(", ");
        let workload = WORKLOADS.iter().find(|workload| workload.name == name);
        workload.with_context(|| format!("--workloads {name}: {} are known", known()))
    });
    let workloads = workloads.collect::<Result<Vec<_>, _>>()?;
    let (launcher, namespaces) = prepare(cli)?;
    let mut lines = Vec::new();
    for profile in &cli.profiles {
        let shape = profile.shape();
        let (means, _relay, measured) = network(&namespaces, shape)?;
        report::show_network(profile.name(), shape, means, &measured)?;
        if cli.calibrate_only {
            continue;
        }
        for _ in 0..cli.repeat {
            for workload in &workloads {
                let bench = measure(&launcher, &namespaces, workload.bench)?;
                let predicted =
                    workload.plan.map(|(plan, key)| predict(&launcher, *profile, &measured, plan, key)).transpose()?;
                let line = Line::new(*profile, means, measured, workload.name, &bench, predicted);
                report::show(&line, cli.json)?;
                lines.push(line);
            }
        }
    }
    if !cli.json && !lines.is_empty() {
        report::table(&lines)?;
    }
    Ok(())
}

/// The launcher, and networks without any shape yet.
fn prepare(cli: &Cli) -> anyhow::Result<(PathBuf, Namespaces)> {
    if !system::is_root() {
        bail!("network namespaces and virtual links need root: run this as root, or with sudo");
    }
    let launcher = cli.launcher.canonicalize().with_context(|| cli.launcher.display().to_string())?;
    Ok((launcher, Namespaces::build()?))
}

/// Sets up a network and measures it: what does the delaying, the relay, the measurement.
fn network(namespaces: &Namespaces, shape: Shape) -> anyhow::Result<(&'static str, Relay, Measured)> {
    if namespaces.shape_by_netem(shape)? {
        let relay = Relay::start(namespaces.links(&shape)?, Shape::OPEN);
        let measured = calibrate::measure(namespaces, &shape)?;
        return Ok(("netem", relay, measured));
    }
    namespaces.unshape()?;
    // The relay's own time and the kernel's are part of the round trip.
    let first = Relay::start(namespaces.links(&shape)?, shape);
    let times = calibrate::round_trips(namespaces, CORRECTING_PINGS)?;
    drop(first);
    let own = times[times.len() / 2].saturating_sub(shape.round_trip);
    let shortened = Shape { round_trip: shape.round_trip.saturating_sub(own), ..shape };
    let relay = Relay::start(namespaces.links(&shape)?, shortened);
    let measured = calibrate::measure(namespaces, &shape)?;
    Ok(("relay", relay, measured))
}

/// Runs a workload of the launcher with the parties in their networks; gives its line.
fn measure(launcher: &PathBuf, namespaces: &Namespaces, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut command = bench(launcher, namespaces);
    command.args(arguments).args(["--output", "json", "--party-program"]).arg(wrapper()?);
    json(command)
}

/// The launcher's verb `bench`, with the parties in their networks. Whatever is to be measured goes behind.
fn bench(launcher: &PathBuf, namespaces: &Namespaces) -> Command {
    let mut command = Command::new(launcher);
    command.arg("bench").env(NAMESPACES_VARIABLE, namespaces.paths()).env(LAUNCHER_VARIABLE, launcher);
    command
}

/// This program, which moves a party into its network.
fn wrapper() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("own executable")
}

/// What the launcher predicts for the measured network, seconds.
fn predict(
    launcher: &PathBuf,
    profile: Profile,
    measured: &Measured,
    arguments: &[&str],
    key: &str,
) -> anyhow::Result<f64> {
    let mut command = Command::new(launcher);
    command.arg("plan").args(arguments).args(["--output", "json"]);
    command.args(["--rtt-ms", &measured.rtt_ms.to_string()]);
    command.args(["--bandwidth-mbit", &measured.bandwidth_mbit.to_string()]);
    // Not as measured: where the measurement itself keeps the machine too busy, packets get lost that parties would not
    // lose.
    command.args(["--packet-loss", &profile.shape().loss.to_string()]);
    let plan = json(command)?;
    plan[key].as_f64().with_context(|| format!("the plan has no {key}"))
}

/// The last line that a program prints, as JSON. Its errors go where ours go.
fn json(mut command: Command) -> anyhow::Result<Value> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{}", command.get_program().display()))?;
    if !output.status.success() {
        let words: Vec<OsString> = command.get_args().map(Into::into).collect();
        bail!("the launcher ended with {} after {}", output.status, words.join(" ".as_ref()).display());
    }
    serde_json::from_slice(&output.stdout).context("the launcher's answer")
}

/// The program that the launcher starts in a party's place.
fn become_party() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name}: only netbench starts this"));
    let party: usize = variable(PARTY_VARIABLE)?.parse().context(PARTY_VARIABLE)?;
    let namespaces = variable(NAMESPACES_VARIABLE)?;
    let namespace = namespaces.split(',').nth(party).context(NAMESPACES_VARIABLE)?;
    system::enter(&File::open(namespace).context("the party's network")?).context("the party's network")?;
    let mut command = Command::new(variable(LAUNCHER_VARIABLE)?);
    command.args(["party", "--listen"]).arg(address(party).to_string());
    // Returns only if it fails.
    Err(command.exec()).context("the launcher as a party")
}
