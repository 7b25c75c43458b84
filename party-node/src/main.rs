//! The binary `party-node`: one party, for servers and containers. Locally `mpc-launch party` does the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    party_node::run()
}
