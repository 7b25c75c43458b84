//! Exit codes, and errors that know theirs.

use std::process::ExitCode;

use orchestrator::JobFailure;
use shared::model::ModelError;
use shared::wire::FailureKind;

use crate::data::DataError;
use crate::model_file::ModelFileError;
use crate::scaling::CalibrationError;
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
    /// A model file.
    #[error(transparent)]
    ModelFile(#[from] ModelFileError),
    /// A model file and data that do not go together.
    #[error("{file}: {reason}")]
    Unfit {
        /// The model file.
        file: String,
        /// What does not fit.
        reason: String,
    },
    /// A loss that is not for this kind of target.
    #[error("model.loss = {loss:?} is not for a {task} task; see --task")]
    LossForTask {
        /// The loss.
        loss: &'static str,
        /// The task.
        task: &'static str,
    },
    /// A value that the verb cannot do without.
    #[error("{verb} needs {what}: give {flag} or set {key}")]
    Missing {
        /// What was asked for.
        verb: &'static str,
        /// What is not there.
        what: &'static str,
        /// How to give it.
        flag: &'static str,
        /// Likewise, in a job file.
        key: &'static str,
    },
    /// A file for results.
    #[error("cannot write {path}: {reason}")]
    Unwritable {
        /// Which.
        path: String,
        /// What the system said, or what is wrong with it.
        reason: String,
    },
    /// Results that did not fit on the disk, or the like, after the run.
    #[error("cannot write {path}: {reason}; the results are lost")]
    Unwritten {
        /// Which file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A result that the reveal policy keeps from everybody.
    #[error(
        "reveal.open does not name {what}, so no party gives its part of them away and {who} has nothing to write; \
         --set reveal.open adds what may be known"
    )]
    NotRevealed {
        /// Which result.
        what: &'static str,
        /// Who asks for it.
        who: &'static str,
    },
    /// More lanes than rows.
    #[error("{lanes} lanes for {rows} {what}: every lane needs at least one; use --gpus {rows} or fewer")]
    MoreLanesThanSamples {
        /// Kind of rows.
        what: &'static str,
        /// Lanes asked for.
        lanes: u16,
        /// Training rows.
        rows: usize,
    },
    /// The reveal policy asks for what the task does not have.
    #[error("reveal.open names {name}, which this task ({task}) does not have")]
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
    /// A calibration for predictions.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
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
    /// The parties' parts of a result do not belong together.
    #[error("the parties handed out parts of different results: check that all run the same program")]
    PartsDiffer,
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
            | Self::ModelFile(_)
            | Self::Unfit { .. }
            | Self::LossForTask { .. }
            | Self::Missing { .. }
            | Self::Unwritable { .. }
            | Self::MoreLanesThanSamples { .. }
            | Self::NoSuchMetric { .. }
            | Self::NotImages { .. }
            | Self::NoClasses { .. }
            | Self::Model(_)
            | Self::Calibration(_)
            | Self::Usage(_) => Code::Usage,
            Self::Folder { .. } | Self::Unwritten { .. } | Self::PartsDiffer => Code::Job,
            Self::Job { failure, .. } => match failure.failure.kind {
                FailureKind::Job => Code::Job,
                FailureKind::Timeout => Code::Timeout,
                FailureKind::Connection => Code::Connection,
                FailureKind::Policy => Code::Policy,
            },
            Self::NotRevealed { .. } => Code::Policy,
            Self::Interrupted => Code::Interrupted,
        }
    }
}
