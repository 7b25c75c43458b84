//! What goes into the scheduler and what comes out.

use serde::{Deserialize, Serialize};
use shared::fleet::{AttemptFailure, DeviceId, FleetError, HostId, HostReport, LeaseId, Link, Millis, Submission};
use shared::ids::{Epoch, JobDigest, Lane, PartyId};

use super::reasons::Reason;
use super::settings::Quota;

/// What happened. What a host says must come from its newest connection: the caller drops the rest.
#[derive(Clone, Debug)]
pub enum Event {
    /// The orchestrator came back from its durable state; no host is connected.
    Restarted,
    /// Time went by. Deadlines are looked at here alone.
    Tick,
    /// Somebody submits a job.
    Submit(Box<Submission>),
    /// Somebody wants it ended.
    Cancel {
        /// Which.
        job: JobDigest,
        /// How long its parties may take to stop.
        grace_ms: Millis,
    },
    /// A party decided, or changed its mind. The caller has checked the signature.
    Consent {
        /// On which job.
        job: JobDigest,
        /// Who.
        party: PartyId,
        /// What.
        consent: Consent,
    },
    /// The agent that decides for a party connected: it is asked whatever is undecided, since what it was asked before
    /// may not have reached it.
    DeciderJoined(PartyId),
    /// A party sets what it lets jobs use.
    SetQuota(PartyId, Quota),
    /// An agent connected.
    HostJoined(Box<HostReport>),
    /// Its connection ended. What runs there goes on.
    HostAway(HostId),
    /// An operator says that it will not come back and that nothing of it still runs.
    HostForgotten(HostId),
    /// It lives.
    Heartbeat(HostId),
    /// An operator takes it out of use for new jobs, or back in.
    Drain(HostId, bool),
    /// What a host measured to another.
    Measured(HostId, HostId, Link),
    /// The host keeps the devices free for this attempt.
    Reserved(HostId, LeaseId),
    /// The host cannot, in words.
    Refused(HostId, LeaseId, String),
    /// The party's process runs there.
    Started(HostId, LeaseId),
    /// A party did this many of so many steps.
    Progress(HostId, LeaseId, u64, u64),
    /// The party's process delivered its part.
    Done(HostId, LeaseId),
    /// The party's process ended without.
    Failed(HostId, LeaseId, AttemptFailure),
    /// Nothing of the attempt is left there.
    Released(HostId, LeaseId),
}

/// A party's decision on a job.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Consent {
    /// Not heard of.
    #[default]
    Unknown,
    /// Its policy asks for a person, who has not answered.
    ByHand,
    /// Yes, for these attempts.
    Approved {
        /// First.
        first: Epoch,
        /// Last.
        last: Epoch,
        /// Until when an attempt may begin.
        until: Millis,
    },
    /// No.
    Denied(String),
}

impl Consent {
    /// Whether an attempt may begin under it.
    pub fn covers(&self, epoch: Epoch, now: Millis) -> bool {
        matches!(self, Self::Approved { first, last, until } if (*first..=*last).contains(&epoch) && now < *until)
    }
}

/// What the caller must do, after the changes are on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Answer to a submission.
    Accepted {
        /// The job.
        job: JobDigest,
        /// It was known before.
        known: bool,
    },
    /// Answer to a submission that cannot be a job.
    Rejected {
        /// The job.
        job: JobDigest,
        /// Why.
        why: FleetError,
    },
    /// Ask the agent that decides for the party whether the job may run; may come more than once.
    AskConsent {
        /// Which job.
        job: JobDigest,
        /// Whom.
        party: PartyId,
        /// The next attempt.
        epoch: Epoch,
    },
    /// Have the host keep devices free.
    Reserve {
        /// Where.
        host: HostId,
        /// For whom.
        lease: LeaseId,
        /// Which.
        devices: Vec<DeviceId>,
        /// For how long, unless an order to start comes.
        hold_ms: Millis,
    },
    /// Have the host start the party's process. A host that runs it already says so again.
    Commit {
        /// Where.
        host: HostId,
        /// For whom.
        lease: LeaseId,
        /// Which lane on which device.
        lanes: Vec<(Lane, DeviceId)>,
    },
    /// Have the host stop what runs and let go.
    Release {
        /// Where.
        host: HostId,
        /// Of what.
        lease: LeaseId,
        /// How long a process may take to stop.
        grace_ms: Millis,
    },
    /// End the host's connection, so that it comes back and reports what it holds.
    Disconnect(HostId),
    /// A job moved on: for the journal, and for whoever watches.
    Moved {
        /// Which.
        job: JobDigest,
        /// Where it is now.
        state: State,
        /// Why.
        reason: Reason,
    },
}

/// Where a job is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Agreed to; waits for devices.
    Pending,
    /// Waits for parties to decide.
    AwaitingConsent,
    /// Hosts were asked to keep devices free.
    Reserving,
    /// All did; processes start.
    Starting,
    /// All run.
    Running,
    /// An attempt ended; another follows.
    Recovering,
    /// All parties delivered.
    Succeeded,
    /// It cannot go on.
    Failed,
    /// Somebody asked to stop.
    Cancelled,
}

impl State {
    /// Whether nothing follows.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// As users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::AwaitingConsent => "awaiting-consent",
            Self::Reserving => "reserving",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Recovering => "recovering",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
