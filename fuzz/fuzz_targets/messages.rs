//! Protocol messages in a frame.
#![no_main]

use party_node::protocol::{MESSAGE_HEADER_BYTES, parse_frame};

libfuzzer_sys::fuzz_target!(|frame: &[u8]| assert!(parse_frame(frame) <= frame.len() / MESSAGE_HEADER_BYTES));
