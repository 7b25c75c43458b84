//! The figures as metrics, under the names of `shared::telemetry`.

use std::fmt::Write as _;

use shared::telemetry::{self, Metric, MetricKind};

use super::{Point, Report};

/// A page in Prometheus' text format.
pub(super) fn page(report: &Report) -> String {
    let mut page = String::new();
    for metric in telemetry::SCALING {
        let kind = if metric.kind == MetricKind::Counter { "counter" } else { "gauge" };
        // Writing to a string cannot fail.
        let _ = writeln!(page, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name);
        for point in &report.points {
            for (last, value) in samples(metric, point) {
                let mut values = vec![report.workload, point.mode.name(), last.0.as_str()];
                values.extend(last.1);
                let labels: Vec<String> =
                    metric.labels.iter().zip(values).map(|(name, value)| format!("{name}=\"{value}\"")).collect();
                let _ = writeln!(page, "{}{{{}}} {value}", metric.name, labels.join(","));
            }
        }
    }
    page
}

/// Lanes, phase if there is one, and value of each sample of a metric.
fn samples<'a>(metric: &Metric, point: &'a Point) -> Vec<((String, Option<&'a str>), f64)> {
    let lanes = point.lanes.to_string();
    let one = |value: f64| vec![((lanes.clone(), None), value)];
    match *metric {
        telemetry::SCALING_SAMPLES_PER_SECOND => one(point.samples_per_second),
        telemetry::SCALING_SPEEDUP => one(point.speedup),
        telemetry::SCALING_SPEEDUP_CEILING => one(point.speedup_ceiling),
        telemetry::SCALING_SPEEDUP_PREDICTED => one(point.speedup_predicted),
        telemetry::SCALING_EFFICIENCY => one(point.efficiency),
        telemetry::SCALING_NETWORK_SHARE => one(point.network_share),
        telemetry::SCALING_STEP_SECONDS => one(point.seconds),
        telemetry::SCALING_PHASE_SECONDS => {
            let phases = point.phase_seconds.iter();
            phases.map(|(phase, seconds)| ((lanes.clone(), Some(phase.as_str())), *seconds)).collect()
        }
        _ => Vec::new(),
    }
}
