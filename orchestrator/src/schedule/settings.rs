//! How long the scheduler waits for what, and what it remembers.

use serde::{Deserialize, Serialize};
use shared::fleet::Millis;

/// How long the scheduler waits for what, and what it remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// All hosts of a job must have reserved within this time, or all let go.
    pub hold_ms: Millis,
    /// A host that is silent for longer is lost, and what runs on it moves.
    pub silence_ms: Millis,
    /// From the order to start until all parties run.
    pub start_ms: Millis,
    /// From one sign of progress to the next.
    pub progress_ms: Millis,
    /// How long a party may take to stop before it is killed.
    pub stop_grace_ms: Millis,
    /// From the order to let go until a host must have done so; after that its devices are kept out of use.
    pub release_ms: Millis,
    /// Pause after a failed attempt; doubles with each up to [`Settings::retry_max_ms`].
    pub retry_ms: Millis,
    /// Longest pause between attempts, and how long a host that refused is avoided.
    pub retry_max_ms: Millis,
    /// How long the parties may take to consent.
    pub consent_ms: Millis,
    /// Ended jobs that are remembered.
    pub ended_jobs_max: usize,
    /// Whether freed devices are kept for the first job in line until it fits. Without, small jobs can pass a large one
    /// for ever.
    pub claims: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold_ms: 30_000,
            silence_ms: 10_000,
            start_ms: 120_000,
            progress_ms: 300_000,
            stop_grace_ms: 10_000,
            release_ms: 30_000,
            retry_ms: 1_000,
            retry_max_ms: 60_000,
            consent_ms: 7 * 24 * 3_600_000,
            ended_jobs_max: 10_000,
            claims: true,
        }
    }
}

/// What a party lets jobs use at one time; none is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Quota {
    /// Devices.
    pub devices: Option<u32>,
    /// Jobs.
    pub jobs: Option<u32>,
}
