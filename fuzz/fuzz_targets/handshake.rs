#![no_main]
//! See the function this calls.

libfuzzer_sys::fuzz_target!(|data: &[u8]| party_node::transport::handshake::fuzz_handshake(data));
