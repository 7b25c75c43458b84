//! From errors to what a person can act on: what failed, where, the likely cause, and what to do next.

use std::process::ExitCode;

use shared::ids::{Lane, PartyId};
use shared::wire::{Failure, FailureKind};

use super::control::ControlError;
use super::panics::Panicked;
use crate::collective::CollectiveError;
use crate::train::LaneError;
use crate::transport::TransportError;

/// Reason of a party that was told to stop.
const STOPPED: &str = "stopped as asked";

/// The process's exit code for a failure of this kind; 0 is success and 2 a wrong command line.
pub fn exit_code(kind: FailureKind) -> ExitCode {
    ExitCode::from(match kind {
        FailureKind::Job => 1,
        FailureKind::Timeout => 3,
        FailureKind::Connection => 4,
        FailureKind::Policy => 5,
    })
}

/// A failure that no lane, peer or step is known for.
pub(super) fn failure(kind: FailureKind, reason: impl Into<String>) -> Failure {
    Failure { lane: None, peer: None, step: None, reason: reason.into(), kind }
}

/// Logs a failure with what is known of its place.
pub(super) fn log_failure(failure: &Failure) {
    let (lane, peer) = (failure.lane.map(|lane| lane.0), failure.peer.map(PartyId::index));
    if failure.reason == STOPPED {
        return tracing::info!(lane, "{}", failure.reason);
    }
    tracing::error!(lane, peer, step = failure.step, "{}", failure.reason);
}

/// How a lane ended, if not well.
#[derive(Debug)]
pub(super) enum LaneEnd {
    Failed(LaneError),
    Panicked(Panicked),
}

impl LaneEnd {
    /// Whether this is a cause of its own (0), or follows from another lane's end (1) or from the wish to stop (2).
    pub(super) fn remoteness(&self) -> u8 {
        match self {
            Self::Failed(LaneError::Collective { source: CollectiveError::LaneGone { .. }, .. }) => 1,
            Self::Failed(LaneError::Stopped) => 2,
            Self::Failed(_) | Self::Panicked(_) => 0,
        }
    }

    /// Whether a stop that somebody asked for explains this end: peers part when they stop too.
    pub(super) fn follows_a_stop(&self) -> bool {
        let parted = matches!(
            self,
            Self::Failed(LaneError::Transport {
                source: TransportError::PeerGone { .. } | TransportError::Timeout { .. },
                ..
            })
        );
        parted || self.remoteness() > 0
    }

    pub(super) fn explain(&self, lane: Lane) -> Failure {
        let explained = match self {
            Self::Panicked(Panicked { place }) => failure(
                FailureKind::Job,
                format!("a defect at {place} ended the lane; please report it with the job file and this line"),
            ),
            Self::Failed(LaneError::Transport { step, source }) => Failure { step: *step, ..transport(source) },
            Self::Failed(LaneError::Collective { step, source }) => {
                let kind = match source {
                    CollectiveError::LaneLate { .. } => FailureKind::Timeout,
                    _ => FailureKind::Job,
                };
                Failure { step: *step, ..failure(kind, source.to_string()) }
            }
            Self::Failed(LaneError::Device { step, source }) => {
                Failure { step: *step, ..failure(FailureKind::Job, source.to_string()) }
            }
            Self::Failed(LaneError::Stopped) => stopped(),
            Self::Failed(LaneError::Job(what)) => failure(FailureKind::Job, what.as_str()),
            Self::Failed(LaneError::Protocol { step, source }) => {
                let advice = "check that all parties run the same program";
                let reason = format!("{source}; {advice}");
                Failure { step: *step, peer: source.peer(), ..failure(FailureKind::Connection, reason) }
            }
        };
        Failure { lane: Some(lane), ..explained }
    }
}

/// The party stopped because it was told to.
pub(super) fn stopped() -> Failure {
    failure(FailureKind::Job, STOPPED)
}

/// A failure between parties.
pub(super) fn transport(error: &TransportError) -> Failure {
    let (kind, peer, advice) = match error {
        TransportError::PeerGone { peer, .. } => (
            FailureKind::Connection,
            Some(*peer),
            format!("its process ended or lost its network: look at the log of {peer}, then start the job again"),
        ),
        TransportError::Timeout { waiting_for, .. } => {
            let advice = "stopped, overloaded or unreachable: look at its log and at the network between the parties, \
                          or raise the peer timeout of the job";
            (FailureKind::Timeout, party_named(waiting_for), advice.into())
        }
        TransportError::BadFrame { peer, .. } => (
            FailureKind::Connection,
            Some(*peer),
            format!("another version or a broken {peer}: check that all parties run the same program"),
        ),
        TransportError::Connect { peer, .. } => (
            FailureKind::Connection,
            Some(*peer),
            format!("see that {peer} runs, is reachable over UDP, and has the certificate of the roster"),
        ),
        // What concerns this machine alone says enough by itself.
        TransportError::Listen { .. } | TransportError::Local { .. } => (FailureKind::Connection, None, String::new()),
    };
    let reason = if advice.is_empty() { error.to_string() } else { format!("{error}; {advice}") };
    Failure { peer, ..failure(kind, reason) }
}

fn party_named(name: &str) -> Option<PartyId> {
    PartyId::ALL.into_iter().find(|party| party.to_string() == name)
}

/// A failure of the control channel.
pub(super) fn control(error: &ControlError) -> Failure {
    match error {
        ControlError::Stopped => stopped(),
        ControlError::Late { .. } => {
            failure(FailureKind::Timeout, format!("{error}; another party may not have started: see its log"))
        }
        _ => failure(FailureKind::Connection, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_lost_peer_is_named_with_lane_step_and_advice() {
        let gone = TransportError::PeerGone { peer: PartyId::ALL[0], reason: "connection lost".into() };
        let end = LaneEnd::Failed(LaneError::Transport { step: Some(40), source: gone });
        let failure = end.explain(Lane(2));
        assert_eq!((failure.lane, failure.peer, failure.step), (Some(Lane(2)), Some(PartyId::ALL[0]), Some(40)));
        assert_eq!(failure.kind, FailureKind::Connection);
        assert_eq!(
            failure.reason,
            "P0 is gone: connection lost; its process ended or lost its network: look at the log of P0, then start \
             the job again"
        );
    }

    #[test]
    fn a_silent_peer_is_named_if_it_is_known() {
        let silent = |waiting_for: &str| {
            transport(&TransportError::Timeout { waiting_for: waiting_for.into(), after: Duration::from_secs(8) })
        };
        assert_eq!(silent("P2").peer, Some(PartyId::ALL[2]));
        assert_eq!(silent("P0 or P2").peer, None);
        assert_eq!(silent("P2").kind, FailureKind::Timeout);
    }
}
