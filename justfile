# Every recipe is a plain cargo command; `just` only saves typing.

# Formatting, lints, documentation, dependencies.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
    cargo deny check

# All tests that need no GPU, no network and no more than minutes.
test:
    cargo test --workspace

# Tests that need a GPU.
gpu-test:
    cargo test --release -p party-node --all-features -- --ignored cuda

# The reference workloads, one JSON line per measurement.
bench:
    cargo run --release --bin mpc-launch -- bench w1 --output json
    cargo run --release --bin mpc-launch -- bench w2 --output json
    cargo run --release --bin mpc-launch -- bench w4 --output json
    cargo run --release --bin mpc-launch -- bench w5 --output json

# Trains on real medical data with four devices per party.
demo:
    cargo run --release --bin mpc-launch -- --gpus 4 --parties 3
