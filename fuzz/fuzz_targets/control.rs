//! Control messages, in both directions.
#![no_main]

use shared::wire::{FromParty, ToParty};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = party_node::runtime::control::read_message::<ToParty>(&mut &bytes[..]);
    let _ = orchestrator::control::read_message::<FromParty>(&mut &bytes[..]);
});
