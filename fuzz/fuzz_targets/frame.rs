#![no_main]
//! See the function this calls.

libfuzzer_sys::fuzz_target!(|data: &[u8]| party_node::transport::frame::fuzz_frame_decoder(data));
