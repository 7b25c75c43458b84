//! The binary `party-node`: one party, for servers and containers. Locally `mpc-launch party` does the same.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let listen = match arguments.as_slice() {
        [] => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        ["--listen", address] => address.parse().ok(),
        _ => None,
    };
    listen.map_or_else(
        || {
            eprintln!(
                "usage: party-node [--listen ADDRESS]\nADDRESS is an IP address of this host [default: 127.0.0.1]"
            );
            ExitCode::from(2)
        },
        party_node::run,
    )
}
