//! The figures for people.

use std::fmt::Write as _;

use super::Report;
use crate::report::{bytes, phase_text, row, seconds};

/// A table for each way to scale, and where the time goes.
pub(super) fn text(report: &Report) -> String {
    let network = report.network;
    let bandwidth =
        network.bandwidth_bits_per_second.map_or("one machine".into(), |bits| format!("{:.2} Gbit/s", bits / 1e9));
    let mut text = format!(
        "{}: {} parties on {} cores, a lane is {} with threads {}; round trip {}, {bandwidth}\n",
        report.workload,
        report.parties,
        report.cores,
        report.device,
        report.threads,
        seconds(network.round_trip_seconds)
    );
    for mode in report.modes() {
        let batch = if mode == crate::scaling::Mode::Weak { "for each lane" } else { "for all lanes" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{} scaling, a batch of {} {batch}", mode.name(), report.batch);
        let _ = writeln!(
            text,
            "{:>5}{:>11}{:>24}{:>12}{:>9}{:>7}{:>9}{:>11}{:>11}{:>12}{:>8}",
            "lanes",
            "step",
            "fastest to slowest",
            "samples/s",
            "speed-up",
            "ideal",
            "ceiling",
            "predicted",
            "efficiency",
            "sent/party",
            "rounds"
        );
        for point in report.of(mode) {
            let spread = format!("{} to {}", seconds(point.seconds_min), seconds(point.seconds_max));
            let _ = writeln!(
                text,
                "{:>5}{:>11}{spread:>24}{:>12.0}{:>9.2}{:>7.0}{:>9.2}{:>11.2}{:>10.0}%{:>12}{:>8.0}",
                point.lanes,
                seconds(point.seconds),
                point.samples_per_second,
                point.speedup,
                point.speedup_ideal,
                point.speedup_ceiling,
                point.speedup_predicted,
                100.0 * point.efficiency,
                bytes(point.bytes_sent_per_party),
                point.rounds
            );
        }
        for point in report.of(mode) {
            let lanes = if point.lanes == 1 { "1 lane".into() } else { format!("{} lanes", point.lanes) };
            let shares = phase_text(&point.phases);
            let _ =
                writeln!(text, "{}", row(&lanes, &format!("{shares}; network {:.0} %", 100.0 * point.network_share)));
        }
    }
    for remark in &report.remarks {
        let _ = writeln!(text, "{}", row("note", remark));
    }
    text
}
