//! The verb `party`: this same executable as one party of a job.

use std::process::ExitCode;

use crate::exit::Code;

/// Takes orders on standard input until the job or the input ends.
pub(crate) fn run() -> ExitCode {
    eprintln!("this build carries no party; name one with --party-program");
    Code::Job.into()
}
