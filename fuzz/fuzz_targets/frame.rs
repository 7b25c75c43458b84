//! Frames of the transport, in pieces as a network delivers them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| party_node::transport::frame::fuzz_frame_decoder(data));
