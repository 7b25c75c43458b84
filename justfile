# Every recipe is a plain command; `just` only saves typing. `bash .ci/run` runs all checks, tests and the product itself.

# Formatting, lints, documentation, dependencies, fuzz targets.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
    cargo deny check
    cargo check --manifest-path fuzz/Cargo.toml

# All tests that need no GPU, no network and no more than minutes.
test:
    cargo test --release

# The scheduler in random histories; a failure prints its seed and the smallest history that shows it.
simulate seeds="10000":
    TREFOIL_SIMULATION_SEEDS={{seeds}} cargo test --release -p orchestrator --test simulation -- --nocapture invariants

# How long a scheduling decision takes with 1,000 hosts and 10,000 jobs.
load:
    cargo test --release -p orchestrator --test load -- --ignored --nocapture

# Tests that need a GPU.
gpu-test:
    cargo test --release -p party-node --all-features -- --ignored cuda

# The library in under sixty lines each.
examples:
    cargo run --release -p party-node --features test-world --example mul
    cargo run --release -p party-node --features test-world --example logistic
    cargo run --release -p party-node --features test-world --example mlp

# The reference workloads, one JSON line per measurement.
bench:
    cargo run --release --bin mpc-launch -- bench w1 --output json
    cargo run --release --bin mpc-launch -- bench w2 --output json
    cargo run --release --bin mpc-launch -- bench w3 --output json
    cargo run --release --bin mpc-launch -- bench w4 --output json
    cargo run --release --bin mpc-launch -- bench w5 --output json
    cargo run --release --bin mpc-launch -- bench micro --output json

# Three network namespaces, LAN, metro and WAN: what the reference workloads take and what `plan` predicts. Needs root.
netbench *flags:
    cargo build --release --bin mpc-launch
    cargo build --release -p netbench
    target/release/netbench {{flags}}

# Searches for input that breaks a parser: `just fuzz csv 60`. Needs cargo-fuzz and a nightly toolchain.
fuzz target seconds:
    mkdir -p fuzz/corpus/{{target}}
    cargo +nightly fuzz run {{target}} fuzz/corpus/{{target}} fuzz/seeds/{{target}} -- -max_total_time={{seconds}}

# Trains on real medical data with four devices per party.
demo:
    cargo run --release --bin mpc-launch -- --gpus 4 --parties 3
