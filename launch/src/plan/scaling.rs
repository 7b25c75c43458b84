//! What more lanes would bring: the simulator from one lane to sixty-four, and what it takes for granted.

use std::fmt::Write as _;

use serde::Serialize;
use shared::job;

use crate::report::seconds;
use crate::scaling::{Forecast, Kind, Mode, Network, Simulator, Work};

/// Lane counts that are looked at, besides the one that is planned.
const LANES: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];

/// One lane count.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    lanes: u16,
    hosts_per_party: u16,
    weak: Outlook,
    /// None if the batch has fewer samples than there are lanes.
    strong: Option<Outlook>,
}

/// One lane count and one way to scale.
#[derive(Clone, Copy, Debug, Serialize)]
struct Outlook {
    seconds_per_step: f64,
    samples_per_second: f64,
    speedup: f64,
    efficiency: f64,
    network_share: f64,
    #[serde(flatten)]
    parts: Parts,
}

/// Seconds of a step.
#[derive(Clone, Copy, Debug, Serialize)]
struct Parts {
    seconds_compute: f64,
    seconds_transfer: f64,
    seconds_rounds: f64,
    seconds_allreduce: f64,
}

/// From one lane with so large a batch to many, a batch for each (weak) and one for all (strong). `work` is what each of
/// so many lanes does in a step of so many samples, all lanes together; `planned` is a lane count to look at besides.
pub(super) fn rows(
    simulator: &Simulator<'_>,
    planned: u16,
    batch: usize,
    work: impl Fn(usize, u16) -> Work,
) -> Vec<Row> {
    let forecast = |mode: Mode, lanes: u16| simulator.forecast(&work(mode.batch(batch, lanes), lanes), lanes);
    let one = forecast(Mode::Strong, 1).seconds();
    let outlook = |mode: Mode, lanes: u16| Outlook::new(&forecast(mode, lanes), one, mode, batch, lanes);
    let mut counts: Vec<u16> = LANES.iter().copied().chain([planned]).collect();
    counts.sort_unstable();
    counts.dedup();
    let row = |lanes: u16| Row {
        lanes,
        hosts_per_party: simulator.hosts(lanes),
        weak: outlook(Mode::Weak, lanes),
        strong: (usize::from(lanes) <= batch).then(|| outlook(Mode::Strong, lanes)),
    };
    counts.into_iter().map(row).collect()
}

impl Outlook {
    #[allow(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
    fn new(forecast: &Forecast, one: f64, mode: Mode, batch: usize, lanes: u16) -> Self {
        let seconds = forecast.seconds();
        let samples_per_second = mode.batch(batch, lanes) as f64 / seconds;
        let speedup = samples_per_second * one / batch as f64;
        let Forecast { compute, transfer, rounds, allreduce } = *forecast;
        Self {
            seconds_per_step: seconds,
            samples_per_second,
            speedup,
            efficiency: speedup / f64::from(lanes),
            network_share: forecast.network_share(),
            parts: Parts {
                seconds_compute: compute,
                seconds_transfer: transfer,
                seconds_rounds: rounds,
                seconds_allreduce: allreduce,
            },
        }
    }
}

/// What has to hold for the figures to hold.
pub(super) fn assumptions(simulator: &Simulator<'_>, work: &job::Work) -> Vec<String> {
    let calibration = simulator.calibration;
    let host = &calibration.host;
    let mut assumptions = vec![format!("{}: {}", calibration.name, calibration.note)];
    assumptions.push(match simulator.network {
        Network::Local => "all parties on one machine".into(),
        Network::Remote(link) => {
            format!("each host has a link of its own to the other parties ({link}), which its lanes share")
        }
    });
    let cores = (100.0 * simulator.cores).round() / 100.0;
    assumptions.push(match calibration.kind {
        Kind::Cpu => format!("lanes of a party share {cores} cores of a host, for computing and for the wire"),
        Kind::Gpu => format!(
            "a GPU for each lane, at most {} on a host, whose {cores} cores are for the wire alone; each lane's wire uses one",
            host.lanes_max
        ),
    });
    assumptions.push(format!(
        "of what other lanes of the host compute and send, a lane waits for {:.0} %; rounds do not get more with lanes",
        100.0 * simulator.contention()
    ));
    assumptions.push("nobody waits for a slow machine".into());
    if matches!(work, job::Work::Train(_)) {
        assumptions.push("batches that large still train as well".into());
    }
    assumptions
}

/// For people.
pub(super) fn text(rows: &[Row], assumptions: &[String]) -> String {
    let heading = |mode: Mode| format!("{:>14}{:>10}{:>12}{:>9}", mode.name(), "speed-up", "efficiency", "network");
    let mut text = format!("\n{:>5}{:>7}{}{}\n", "lanes", "hosts", heading(Mode::Weak), heading(Mode::Strong));
    for row in rows {
        let columns = |outlook: &Outlook| {
            format!(
                "{:>14}{:>10.2}{:>11.0}%{:>8.0}%",
                seconds(outlook.seconds_per_step),
                outlook.speedup,
                100.0 * outlook.efficiency,
                100.0 * outlook.network_share
            )
        };
        let strong = row.strong.as_ref().map_or(String::new(), columns);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:>5}{:>7}{}{strong}", row.lanes, row.hosts_per_party, columns(&row.weak));
    }
    text += "\n";
    for assumption in assumptions {
        let _ = writeln!(text, "{:26}{assumption}", "assumed");
    }
    text
}
