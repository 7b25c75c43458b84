//! The command line: verbs, flags, help.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::scaling::Link;

const EXAMPLES: &str = "\
Examples:
  mpc-launch --gpus 4 --parties 3                   train on the built-in Breast Cancer data
  mpc-launch --data patients.csv --label diagnosis  train on records of your own
  mpc-launch --config job.toml --set train.lr=0.1   a job file, one value changed
  mpc-launch --config job.toml --print-config       every value and where it comes from
  mpc-launch plan --config job.toml                 bytes, rounds, memory, time, openings; runs nothing
  mpc-launch infer --model m.onnx --data x.npy --out y.npy
                                                    a trained model on rows that no party sees
  mpc-launch train --model m.onnx --loss cross-entropy --data patients.csv --label diagnosis
                                                    go on training a model from a file
  mpc-launch bench w2 --output json                 a reference workload, JSON lines

Values come from flags, over MPC_* environment variables (MPC_TRAIN_LR=0.1 is train.lr), over the
job file, over defaults. examples/job.toml lists all keys.

Exit codes:
  0  done                            4  no connection, or not the peer that the roster names
  1  the job failed                  5  refused by the reveal policy
  2  bad usage, job file or data     130  interrupted
  3  a deadline passed";

const INFER_EXAMPLES: &str = "\
Examples:
  mpc-launch infer --model m.onnx --data x.npy --out y.npy   weights and rows secret
  mpc-launch infer --model m.onnx --data x.csv --out y.csv --public-model
  mpc-launch infer --model m.onnx --data x.npz --out y.npy --gpus 4 --output json

Rows are [N, features] or [N, channels, height, width], as the model takes them; nothing is standardised.
Each party hands out a masked part of the results, and only this program, acting for their owner, joins
them: no party learns a prediction.";

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
    #[command(visible_alias = "train")]
    Run(Box<RunArgs>),
    /// Run a trained model on rows that no party sees; the results come back to you alone
    #[command(after_help = INFER_EXAMPLES)]
    Infer(Box<InferArgs>),
    /// Show what a job will cost and reveal, without running it
    Plan(Box<PlanArgs>),
    /// Measure a reference workload with the same processes and the same wire
    Bench(Box<BenchCommand>),
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

/// Flags of every verb that starts from a job file.
#[derive(Args, Debug, Default)]
pub(crate) struct JobArgs {
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
    /// Compute threads per lane; 0 shares the cores evenly [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Name of the run and its folder [default: made from the time]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Do not serve /metrics
    #[arg(long)]
    pub(crate) no_metrics: bool,
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

/// Flags of `run` and `plan`.
#[derive(Args, Debug, Default)]
pub(crate) struct RunArgs {
    /// What every job has.
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Train in plaintext on this machine alone: ranges of every layer, and what fixed point costs; shares nothing
    #[arg(long)]
    pub(crate) shadow: bool,
    /// Model to go on from: an ONNX file
    #[arg(long, value_name = "ONNX")]
    pub(crate) model: Option<String>,
    /// What training minimises [default: by the task]
    #[arg(long, value_name = "LOSS", value_parser = ["cross-entropy", "binary-cross-entropy", "mse", "l1"])]
    pub(crate) loss: Option<String>,
    /// Where the trained model goes, if reveal.open names "weights": .onnx or .safetensors
    #[arg(long, value_name = "FILE")]
    pub(crate) export: Option<String>,
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
}

/// Flags of `infer`.
#[derive(Args, Debug, Default)]
pub(crate) struct InferArgs {
    /// What every job has.
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// The model: an ONNX file
    #[arg(long, value_name = "ONNX")]
    pub(crate) model: Option<String>,
    /// Rows to run it on: .npy, .npz, or CSV without a target column
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<String>,
    /// Where its results go: .npy or .csv
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<String>,
    /// Let all parties know the model's weights
    #[arg(long)]
    pub(crate) public_model: bool,
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
    /// Plan what `infer` does: --model on the rows of --data, or the network of --workload
    #[arg(long, conflicts_with_all = ["shadow", "loss", "export", "label", "task", "test_fraction"])]
    pub(crate) infer: bool,
    /// With --infer: let all parties know the model's weights
    #[arg(long, requires = "infer")]
    pub(crate) public_model: bool,
    /// Round trip between two parties, milliseconds, for the prediction; 0 for parties on one machine
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    pub(crate) rtt_ms: f64,
    /// Bandwidth of a party's link to the two others, megabit per second, for the prediction
    #[arg(long, default_value_t = 1000.0, value_name = "MBIT")]
    pub(crate) bandwidth_mbit: f64,
    /// Share of packets that get lost on the way, for the prediction
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) packet_loss: f64,
    /// Link of each host to the other parties, in one word: rate, round trip, and loss if any (100gbit,0.1ms)
    #[arg(long, value_name = "RATE,TIME[,LOSS]", conflicts_with_all = ["rtt_ms", "bandwidth_mbit", "packet_loss"])]
    pub(crate) net: Option<Link>,
    /// What lanes compute on, for the prediction: cpu, or h200, a model that was never measured [default: this machine]
    #[arg(long, value_name = "NAME", conflicts_with = "calibration")]
    pub(crate) device: Option<String>,
    /// The same from a file of your own (docs/formats.md)
    #[arg(long, value_name = "TOML")]
    pub(crate) calibration: Option<PathBuf>,
}

/// `bench`: a workload, or a verb of its own.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BenchCommand {
    /// What else can be measured.
    #[command(subcommand)]
    pub(crate) verb: Option<BenchVerb>,
    /// A workload and how to measure it.
    #[command(flatten)]
    pub(crate) workload: Option<BenchArgs>,
}

/// Verbs of `bench`.
#[derive(Subcommand, Debug)]
pub(crate) enum BenchVerb {
    /// Measure what more lanes bring, beside the ideal, the ceiling and the prediction
    Scaling(ScalingArgs),
}

/// Flags of `bench scaling`.
#[derive(Args, Debug)]
pub(crate) struct ScalingArgs {
    /// Lane counts, growing; one lane is measured in any case
    #[arg(long, visible_alias = "lanes", value_delimiter = ',', default_value = "1,2,4", value_name = "N,N")]
    pub(crate) gpus: Vec<u16>,
    /// A batch for each lane [default: both ways]
    #[arg(long)]
    pub(crate) weak: bool,
    /// One batch for all lanes [default: both ways]
    #[arg(long)]
    pub(crate) strong: bool,
    /// What is trained, step by step
    #[arg(long, value_enum, default_value_t)]
    pub(crate) workload: ScalingWorkload,
    /// Link of each party, for ceiling and prediction, where parties are not on one machine
    #[arg(long, value_name = "RATE,TIME[,LOSS]")]
    pub(crate) net: Option<Link>,
    /// Compute threads per lane, the same for all lane counts; 0 shares the cores among the most lanes
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Steps of each run [default: 30 of w2, 10 of w3]
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<usize>,
    /// Runs of each lane count, turn by turn
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) repeat: usize,
    /// Change one value of the job; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Forms of the result, comma-separated
    #[arg(long, value_enum, value_delimiter = ',', default_value = "text")]
    pub(crate) output: Vec<ScalingOutput>,
    /// Where the chart goes: .svg [default: a run folder, if svg is among the forms]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<String>,
    /// Show the parties' whole logs, not warnings alone
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Executable to start for each party, with the argument `party`
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) party_program: Option<PathBuf>,
}

/// Workloads of `bench scaling`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum ScalingWorkload {
    /// MLP 784-128-128-10 on generated images, batch 128
    #[default]
    W2,
    /// LeNet on generated images of 28x28, batch 128
    W3,
}

/// Forms of what `bench scaling` found.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ScalingOutput {
    /// For people
    Text,
    /// One JSON object (docs/formats.md)
    Json,
    /// A chart, in a file
    Svg,
    /// Metrics in Prometheus' text format
    Prometheus,
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
    /// Whole trainings, each with its own seed (w1, w5); repetitions (w4, micro); steps (w2, w3, resnet18)
    /// [default: 5, 5, 30, 10, 3; of micro as many as half a second holds]
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<usize>,
    /// Only the line of this name (w3, w4), or the lines of this kernel (micro)
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
    /// The kernels of a lane, without parties, each beside the least time that this machine allows
    Micro,
}

/// A flag that stands for a key of the job file: flag, key, value as TOML.
pub(crate) type Override = (&'static str, &'static str, toml::Value);

/// Flags that change a job.
pub(crate) trait Overrides {
    /// Those of every job.
    fn job(&self) -> &JobArgs;
    /// All flags that stand for keys of the job file.
    fn overrides(&self) -> Vec<Override>;
}

impl Overrides for JobArgs {
    fn job(&self) -> &JobArgs {
        self
    }

    fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("--gpus", "job.lanes", self.gpus.map(|n| integer(n.into()))),
            ("--parties", "job.parties", self.parties.map(|n| integer(n.into()))),
            ("--threads", "job.threads", self.threads.map(|n| integer(n as u64))),
            ("--name", "job.name", text(self.name.as_ref())),
            ("--no-metrics", "job.metrics", self.no_metrics.then(|| false.into())),
        ];
        given(flags)
    }
}

impl Overrides for RunArgs {
    fn job(&self) -> &JobArgs {
        &self.job
    }

    fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("--model", "model.file", text(self.model.as_ref())),
            ("--loss", "model.loss", text(self.loss.as_ref())),
            ("--export", "model.export", text(self.export.as_ref())),
            ("--data", "data.file", text(self.data.as_ref())),
            ("--label", "data.label", text(self.label.as_ref())),
            ("--task", "data.task", text(self.task.as_ref())),
            ("--test-fraction", "data.test_fraction", self.test_fraction.map(Into::into)),
            ("--seed", "data.seed", self.seed.map(integer)),
            ("--seed", "train.seed", self.seed.map(integer)),
        ];
        [self.job.overrides(), given(flags)].concat()
    }
}

impl Overrides for PlanArgs {
    fn job(&self) -> &JobArgs {
        &self.run.job
    }

    fn overrides(&self) -> Vec<Override> {
        let public_model = ("--public-model", "infer.public_model", self.public_model.then(|| true.into()));
        [self.run.overrides(), given([public_model])].concat()
    }
}

impl Overrides for InferArgs {
    fn job(&self) -> &JobArgs {
        &self.job
    }

    fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("--model", "model.file", text(self.model.as_ref())),
            ("--data", "data.file", text(self.data.as_ref())),
            ("--out", "infer.out", text(self.out.as_ref())),
            ("--public-model", "infer.public_model", self.public_model.then(|| true.into())),
        ];
        [self.job.overrides(), given(flags)].concat()
    }
}

fn integer(value: u64) -> toml::Value {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}

fn text(value: Option<&String>) -> Option<toml::Value> {
    value.map(|value| value.clone().into())
}

fn given<const N: usize>(flags: [(&'static str, &'static str, Option<toml::Value>); N]) -> Vec<Override> {
    flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect()
}

impl JobArgs {
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
        assert_eq!((cli.run.job.gpus, cli.run.job.parties), (Some(4), Some(3)));
        assert_eq!(cli.run.job.job_file(), Some(&PathBuf::from("job.toml")));
    }
}
