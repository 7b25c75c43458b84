//! The command line: verbs, flags, help.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  mpc-launch --gpus 4 --parties 3                   train on the built-in Breast Cancer data
  mpc-launch --data patients.csv --label diagnosis  train on records of your own
  mpc-launch --config job.toml --set train.lr=0.1   a job file, one value changed
  mpc-launch --config job.toml --print-config       every value and where it comes from
  mpc-launch plan --config job.toml                 bytes, rounds, memory, time, openings; runs nothing
  mpc-launch bench w2 --output json                 a reference workload, JSON lines

Values come from flags, over MPC_* environment variables (MPC_TRAIN_LR=0.1 is train.lr), over the
job file, over defaults. examples/job.toml lists all keys.

Exit codes:
  0  done                            4  no connection, or not the peer that the roster names
  1  the job failed                  5  refused by the reveal policy
  2  bad usage, job file or data     130  interrupted
  3  a deadline passed";

/// Trains neural networks on data that no machine ever sees in the clear: three parties, secret shares.
#[derive(Parser, Debug)]
#[command(name = "mpc-launch", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do; `run` if not named.
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    /// Flags of `run`.
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Verbs.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Train: start three parties on this machine, follow them, report (the default verb)
    Run(Box<RunArgs>),
    /// Show what a job will cost and reveal, without running it
    Plan(Box<PlanArgs>),
    /// Measure a reference workload with the same processes and the same wire
    Bench(BenchArgs),
    /// Be one party; started by `run`, takes its orders on standard input
    #[command(hide = true)]
    Party {
        /// Address of this host at which the other parties reach it
        #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST.into())]
        listen: IpAddr,
    },
    /// Print a shell completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print version and protocol version
    Version,
}

/// Shells that completions are made for.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// Form of the result on standard output.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON object (docs/formats.md)
    Json,
}

/// Flags of `run` and `plan`.
#[derive(Args, Debug, Default)]
pub(crate) struct RunArgs {
    /// Lanes per party, each with a GPU (or a CPU slice) of its own [default: 1]
    #[arg(long, visible_alias = "lanes", value_name = "N")]
    pub(crate) gpus: Option<u16>,
    /// Parties; 3 is supported [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) parties: Option<u16>,
    /// Job file (TOML)
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Job file, as for --config
    #[arg(value_name = "JOB.TOML", conflicts_with = "config")]
    pub(crate) job_file: Option<PathBuf>,
    /// Change one value of the job file; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print every value with its origin, and stop
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Records: a CSV file
    #[arg(long, value_name = "CSV")]
    pub(crate) data: Option<String>,
    /// Target column: name, or number counted from 1
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label: Option<String>,
    /// What the target is: auto, binary, multiclass or regression [default: auto]
    #[arg(long, value_name = "TASK", value_parser = ["auto", "binary", "multiclass", "regression"])]
    pub(crate) task: Option<String>,
    /// Share of the rows kept for the test [default: 0.2]
    #[arg(long, value_name = "FRACTION")]
    pub(crate) test_fraction: Option<f64>,
    /// Seed of split, initial weights and batch order [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Compute threads per lane; 0 shares the cores evenly [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Name of the run and its folder [default: made from the time]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Do not serve /metrics
    #[arg(long)]
    pub(crate) no_metrics: bool,
    /// Train in plaintext on this machine alone: ranges of every layer, and what fixed point costs; shares nothing
    #[arg(long)]
    pub(crate) shadow: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Show the parties' whole logs, not warnings alone
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Executable to start for each party, with the argument `party`
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) party_program: Option<PathBuf>,
}

/// Flags of `plan`.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// The job
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Plan a reference workload of `bench` that trains instead of a job of your own
    #[arg(long, value_enum, value_name = "WORKLOAD", conflicts_with_all = ["data", "label", "task"])]
    pub(crate) workload: Option<Workload>,
    /// Round trip between two parties, milliseconds, for the prediction; 0 for parties on one machine
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    pub(crate) rtt_ms: f64,
    /// Bandwidth of a party's link to the two others, megabit per second, for the prediction
    #[arg(long, default_value_t = 1000.0, value_name = "MBIT")]
    pub(crate) bandwidth_mbit: f64,
    /// Share of packets that get lost on the way, for the prediction
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) loss: f64,
}

/// Flags of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Which workload
    pub(crate) workload: Workload,
    /// Lanes per party
    #[arg(long, visible_alias = "gpus", default_value_t = 1, value_name = "N")]
    pub(crate) lanes: u16,
    /// Compute threads per lane; 0 shares the cores evenly
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Parties; 3 is supported
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) parties: u16,
    /// Whole trainings, each with its own seed (w1, w5); repetitions (w4); steps (w2, w3, resnet18)
    /// [default: 5, 5, 30, 10, 3]
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<usize>,
    /// Only the w4 line of this name
    #[arg(long, value_name = "LINE")]
    pub(crate) only: Option<String>,
    /// Change one value of the job; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Show the parties' whole logs, not warnings alone
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Executable to start for each party, with the argument `party`
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) party_program: Option<PathBuf>,
}

/// Reference workloads.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Workload {
    /// Logistic regression, Breast Cancer Wisconsin, batch 64, 20 passes
    W1,
    /// MLP 784-128-128-10 on generated images, batch 128; per step
    W2,
    /// LeNet on generated images of 28x28, batch 128; per step
    W3,
    /// Single operations on generated data
    W4,
    /// MLP 64-64-10 on 8x8 digits, batch 64, 15 passes
    W5,
    /// Residual network on generated images of 3x32x32, batch 8; per step
    Resnet18,
}

impl RunArgs {
    /// The flags that stand for keys of the job file: (flag, key, value as TOML).
    pub(crate) fn overrides(&self) -> Vec<(&'static str, &'static str, toml::Value)> {
        let integer = |value: u64| i64::try_from(value).unwrap_or(i64::MAX).into();
        let text = |value: &String| toml::Value::from(value.clone());
        let mut set = Vec::new();
        let mut add = |flag, key, value: Option<toml::Value>| set.extend(value.map(|value| (flag, key, value)));
        add("--gpus", "job.lanes", self.gpus.map(|n| integer(n.into())));
        add("--parties", "job.parties", self.parties.map(|n| integer(n.into())));
        add("--threads", "job.threads", self.threads.map(|n| integer(n as u64)));
        add("--name", "job.name", self.name.as_ref().map(text));
        add("--no-metrics", "job.metrics", self.no_metrics.then(|| false.into()));
        add("--data", "data.file", self.data.as_ref().map(text));
        add("--label", "data.label", self.label.as_ref().map(text));
        add("--task", "data.task", self.task.as_ref().map(text));
        add("--test-fraction", "data.test_fraction", self.test_fraction.map(Into::into));
        add("--seed", "data.seed", self.seed.map(integer));
        add("--seed", "train.seed", self.seed.map(integer));
        set
    }

    /// The job file, however it was named.
    pub(crate) fn job_file(&self) -> Option<&PathBuf> {
        self.config.as_ref().or(self.job_file.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_verb() {
        let cli = Cli::parse_from(["mpc-launch", "--gpus", "4", "--parties", "3", "job.toml"]);
        assert!(cli.verb.is_none());
        assert_eq!((cli.run.gpus, cli.run.parties), (Some(4), Some(3)));
        assert_eq!(cli.run.job_file(), Some(&PathBuf::from("job.toml")));
    }
}
