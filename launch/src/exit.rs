//! Exit codes, and errors that know theirs.

use std::process::ExitCode;

use orchestrator::JobFailure;
use shared::model::ModelError;
use shared::wire::FailureKind;

use crate::data::DataError;
use crate::settings::SettingsError;

/// What the shell is told. Documented in `--help` and docs/formats.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Code {
    /// Done.
    Ok = 0,
    /// The job failed.
    Job = 1,
    /// Bad usage, job file or data.
    Usage = 2,
    /// A deadline passed.
    Timeout = 3,
    /// No connection, or not the peer that the roster names.
    Connection = 4,
    /// Refused by the reveal policy.
    Policy = 5,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// Anything that ends the program early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The job file, environment or flags.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The records.
    #[error(transparent)]
    Data(#[from] DataError),
    /// More lanes than training rows.
    #[error("{lanes} lanes for {rows} training rows: every lane needs at least one; use --gpus {rows} or fewer")]
    MoreLanesThanSamples {
        /// Lanes asked for.
        lanes: u16,
        /// Training rows.
        rows: usize,
    },
    /// The reveal policy asks for what the task does not have.
    #[error("reveal.open names {name}, which a {task} task does not have")]
    NoSuchMetric {
        /// Opening.
        name: &'static str,
        /// Task.
        task: &'static str,
    },
    /// Smoothed labels without classes.
    #[error("train.label_smoothing = {smoothing} spreads class targets, but the target is a number")]
    NoClasses {
        /// What was asked for.
        smoothing: f64,
    },
    /// A model for images without images.
    #[error("model.kind = {kind:?} takes images, but samples are vectors: set data.image = [channels, height, width]")]
    NotImages {
        /// The model.
        kind: &'static str,
    },
    /// The network does not fit together.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No such bench line.
    #[error("{0}")]
    Usage(String),
    /// The run folder cannot be written.
    #[error("run folder {path}: {reason}")]
    Folder {
        /// Folder or file.
        path: String,
        /// What the system said, and what to do.
        reason: String,
    },
    /// The job ended badly.
    #[error("{failure}\n  logs: {logs}")]
    Job {
        /// Who, where, why.
        failure: Box<JobFailure>,
        /// Folder with the parties' logs.
        logs: String,
    },
    /// Ctrl-C.
    #[error("interrupted; all parties were stopped")]
    Interrupted,
}

impl LaunchError {
    /// What the shell is told.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Settings(_)
            | Self::Data(_)
            | Self::MoreLanesThanSamples { .. }
            | Self::NoSuchMetric { .. }
            | Self::NotImages { .. }
            | Self::NoClasses { .. }
            | Self::Model(_)
            | Self::Usage(_) => Code::Usage,
            Self::Folder { .. } => Code::Job,
            Self::Job { failure, .. } => match failure.failure.kind {
                FailureKind::Job => Code::Job,
                FailureKind::Timeout => Code::Timeout,
                FailureKind::Connection => Code::Connection,
                FailureKind::Policy => Code::Policy,
            },
            Self::Interrupted => Code::Interrupted,
        }
    }
}
