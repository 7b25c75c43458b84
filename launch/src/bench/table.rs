//! Bench lines for people.

use super::Line;
use crate::report::{bytes, seconds};

/// A table with one row per measurement.
pub(super) fn text(lines: &[Line]) -> String {
    let mut text = String::new();
    if let Some(line) = lines.first() {
        text += &format!("{} parties, lanes {}, threads {}, {}\n", line.parties, line.lanes, line.threads, line.device);
    }
    text += &format!(
        "{:16}{:>5}{:>12}{:>12}{:>12}{:>14}{:>8}{:>10}{:>10}{:>11}\n",
        "workload",
        "runs",
        "median",
        "fastest",
        "slowest",
        "sent/party",
        "rounds",
        "accuracy",
        "plaintext",
        "max error"
    );
    for line in lines {
        let optional = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
        text += &format!(
            "{:16}{:>5}{:>12}{:>12}{:>12}{:>14}{:>8.0}{:>10}{:>10}{:>11}\n",
            line.workload,
            line.runs,
            seconds(line.seconds),
            seconds(line.seconds_min),
            seconds(line.seconds_max),
            bytes(line.bytes_sent_per_party),
            line.rounds,
            optional(line.accuracy),
            optional(line.plaintext_accuracy),
            line.max_error.map_or("-".into(), |error| format!("{error:.1e}"))
        );
    }
    text
}
