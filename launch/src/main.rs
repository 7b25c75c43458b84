//! `mpc-launch`: starts, watches and reports secure training jobs.

mod args;
mod bench;
mod cost;
mod data;
mod device;
mod exit;
mod folder;
mod follow;
mod infer;
mod job;
mod local;
mod metrics;
mod model_file;
mod out;
mod party;
mod plain;
mod plan;
mod report;
mod scaling;
mod settings;
mod train;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Shell, Verb};
use exit::{Code, LaunchError};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.verb {
        None => train::run(&cli.run),
        Some(Verb::Run(args)) => train::run(args),
        Some(Verb::Infer(args)) => infer::run(args),
        Some(Verb::Plan(args)) => plan::run(args),
        Some(Verb::Bench(args)) => bench::run(args),
        Some(Verb::Party { listen }) => return party::run(*listen),
        Some(Verb::Completions { shell }) => completions(*shell),
        Some(Verb::Version) => version(),
    };
    match result {
        Ok(()) => Code::Ok.into(),
        Err(error) => {
            eprintln!("error: {error}");
            error.code().into()
        }
    }
}

/// Writes to standard output. A reader that went away is no error of ours.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn completions(shell: Shell) -> Result<(), LaunchError> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mpc-launch", &mut script);
    print(&String::from_utf8_lossy(&script));
    Ok(())
}

fn version() -> Result<(), LaunchError> {
    print(&format!("mpc-launch {}\nprotocol {}\n", env!("CARGO_PKG_VERSION"), shared::job::PROTOCOL_VERSION));
    Ok(())
}
