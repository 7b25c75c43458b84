//! The verb `party`: this same executable as one party of a job.

use std::net::IpAddr;
use std::process::ExitCode;

/// Takes orders on standard input until the job or the input ends.
pub(crate) fn run(listen: IpAddr) -> ExitCode {
    party_node::run(listen)
}
