//! What may come from outside, and what becomes of it.

use crate::transport::conformance::quic_triangle;

#[test]
fn placeholder() {
    drop(quic_triangle());
}
