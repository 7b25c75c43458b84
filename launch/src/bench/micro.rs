//! `bench micro`: the kernels of a lane on this machine, each beside the least time that the machine allows. Starts no
//! party.

use party_node::kernels::{self, Figures};
use serde::Serialize;
use shared::job::PROTOCOL_VERSION;

use crate::args::{BenchArgs, Output};
use crate::exit::LaunchError;
use crate::report::seconds;
use crate::{device, print};

/// Layout of a line; it changes when a key changes its meaning or goes away.
const SCHEMA: &str = "trefoil-kernel/1";

/// One kernel.
#[derive(Clone, Debug, Serialize)]
struct Line {
    schema: &'static str,
    #[serde(flatten)]
    figures: Figures,
    version: &'static str,
}

/// Measures kernels and prints their lines.
pub(super) fn run(args: &BenchArgs) -> Result<(), LaunchError> {
    let mut names: Vec<&str> = kernels::REFERENCE.iter().map(kernels::Kernel::name).collect();
    names.dedup();
    super::check_only(args, "micro", &names)?;
    let show = |figures| {
        let line = Line { schema: SCHEMA, figures, version: PROTOCOL_VERSION };
        if args.output == Output::Json {
            print(&(serde_json::to_string(&line).expect("a line holds nothing that JSON cannot") + "\n"));
        }
        line
    };
    let threads = device::threads_per_lane(args.lanes, args.threads);
    let lines: Vec<Line> = kernels::reference(args.only.as_deref(), threads, args.runs).map(show).collect();
    if args.output == Output::Text {
        print(&text(&lines));
    }
    Ok(())
}

/// A table with one row per kernel.
fn text(lines: &[Line]) -> String {
    let mut text = format!(
        "{:14}{:32}{:>10}{:>10} {:10}{:>7}{:>6}{:>12}{:>12}{:>12}  {}\n",
        "kernel", "shape", "achieved", "floor", "", "ratio", "runs", "median", "fastest", "slowest", "device"
    );
    for Line { figures, .. } in lines {
        let Figures { kernel, shape, achieved, floor, unit, ratio, runs, device, .. } = figures;
        text += &format!(
            "{kernel:14}{shape:32}{achieved:>10.2}{floor:>10.2} {unit:10}{ratio:>7.2}{runs:>6}\
             {:>12}{:>12}{:>12}  {device}\n",
            seconds(figures.seconds),
            seconds(figures.seconds_min),
            seconds(figures.seconds_max),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_documented_keys() {
        let figures = Figures {
            kernel: "gemm",
            shape: "512x512x512".into(),
            unit: "GMAC/s",
            achieved: 40.0,
            floor: 50.0,
            ratio: 0.8,
            runs: 9,
            seconds: 3.4e-3,
            seconds_min: 3.3e-3,
            seconds_max: 4e-3,
            device: "cpu (amx, 1 thread)".into(),
            threads: 1,
        };
        let line = Line { schema: SCHEMA, figures, version: PROTOCOL_VERSION };
        let documented = include_str!("../../../docs/formats.md");
        let section = documented.split("## Kernel lines").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut expected: Vec<&str> = rows.collect();
        let value = serde_json::to_value(&line).unwrap();
        let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let table = text(&[line]);
        assert!(table.contains("512x512x512") && table.contains("   0.80     9"), "{table}");
    }
}
