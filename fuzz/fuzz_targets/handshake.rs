//! What a peer says before a lane carries data.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| party_node::transport::handshake::fuzz_handshake(data));
