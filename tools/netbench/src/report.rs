//! Lines, as JSON and as a table.

use std::io::Write as _;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use crate::calibrate::Measured;
use crate::profile::{Profile, Shape};

/// Layout of a line.
const SCHEMA: &str = "trefoil-netbench/1";

/// One workload in one network.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    schema: &'static str,
    profile: &'static str,
    /// What delayed, dropped and shaped: `netem` or `relay`.
    means: &'static str,
    #[serde(flatten)]
    network: Measured,
    workload: String,
    runs: u64,
    /// Median, fastest, slowest.
    seconds: f64,
    seconds_min: f64,
    seconds_max: f64,
    bytes_sent_per_party: f64,
    rounds: f64,
    /// By `mpc-launch plan` for the measured round trip and bandwidth.
    predicted_seconds: Option<f64>,
    /// Predicted over measured.
    ratio: Option<f64>,
}

impl Line {
    /// From a line of `mpc-launch bench`.
    pub(crate) fn new(
        profile: Profile,
        means: &'static str,
        network: Measured,
        workload: &str,
        bench: &Value,
        predicted_seconds: Option<f64>,
    ) -> Self {
        let number = |key: &str| bench[key].as_f64().unwrap_or(f64::NAN);
        Self {
            schema: SCHEMA,
            profile: profile.name(),
            means,
            network,
            workload: workload.into(),
            runs: bench["runs"].as_u64().unwrap_or(0),
            seconds: number("seconds"),
            seconds_min: number("seconds_min"),
            seconds_max: number("seconds_max"),
            bytes_sent_per_party: number("bytes_sent_per_party"),
            rounds: number("rounds"),
            predicted_seconds,
            ratio: predicted_seconds.map(|predicted| predicted / number("seconds")),
        }
    }
}

/// Says on standard error what a network turned out to be.
pub(crate) fn show_network(name: &str, shape: Shape, means: &str, measured: &Measured) -> anyhow::Result<()> {
    let Measured { rtt_ms, rtt_ms_p5, rtt_ms_p95, bandwidth_mbit, loss, reordered } = measured;
    let (wanted_ms, wanted_mbit) = (1e3 * shape.round_trip.as_secs_f64(), shape.rate / 1e6);
    writeln!(
        std::io::stderr(),
        "{name} by {means}: round trip {rtt_ms:.3} ms ({rtt_ms_p5:.3} to {rtt_ms_p95:.3}) of {wanted_ms} wanted, \
         {bandwidth_mbit:.0} Mbit/s of {wanted_mbit}; {:.2} % lost and {:.1} % overtaken at half of that",
        100.0 * loss,
        100.0 * reordered
    )
    .context("standard error")
}

/// A line as JSON on standard output, or in short on standard error.
pub(crate) fn show(line: &Line, json: bool) -> anyhow::Result<()> {
    if json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(line)?).context("standard output")
    } else {
        writeln!(std::io::stderr(), "{} {}: {:.3} s", line.profile, line.workload, line.seconds)
            .context("standard error")
    }
}

/// All lines as a table on standard output.
pub(crate) fn table(lines: &[Line]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:8}{:7}{:>9}{:>10}  {:10}{:>28}{:>12}{:>7}{:>11}{:>7}",
        "network",
        "means",
        "rtt ms",
        "Mbit/s",
        "workload",
        "seconds (min to max)",
        "MB sent",
        "rounds",
        "predicted",
        "ratio"
    )?;
    let predicted = |number: Option<f64>, digits| number.map_or(String::new(), |number| format!("{number:.digits$}"));
    for line in lines {
        let seconds = format!("{:.4} ({:.4} to {:.4})", line.seconds, line.seconds_min, line.seconds_max);
        writeln!(
            out,
            "{:8}{:7}{:>9.2}{:>10.0}  {:10}{seconds:>28}{:>12.2}{:>7.0}{:>11}{:>7}",
            line.profile,
            line.means,
            line.network.rtt_ms,
            line.network.bandwidth_mbit,
            line.workload,
            line.bytes_sent_per_party / 1e6,
            line.rounds,
            predicted(line.predicted_seconds, 4),
            predicted(line.ratio, 2)
        )?;
    }
    Ok(())
}
