//! Hosts, their devices, and what a job asks of them: the words that agents and the orchestrator share.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{Epoch, JobDigest, JobId, Lane, PartyId};

/// Milliseconds since 1970: deadlines and expiries must outlive a process.
pub type Millis = u64;

/// Most lanes of a job.
pub const LANES_MAX: u16 = 1024;
/// Most devices of a host.
pub const DEVICES_MAX: usize = 256;
/// Most labels of a host or a job.
pub const LABELS_MAX: usize = 32;
/// Most bytes of a name, a label or a version.
pub const NAME_BYTES_MAX: usize = 128;

/// Declares names that are text and nothing else; a copy costs nothing, since a scheduler makes many.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub Arc<str>);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self(String::deserialize(deserializer)?.into()))
            }
        }
    };
}

text_id! {
    /// An agent: one party's foothold on one machine. Its name is in its certificate.
    HostId
}
text_id! {
    /// A physical machine. Agents of two parties on one machine report the same one.
    MachineId
}
text_id! {
    /// A device, by a name that all agents of its machine give it (a GPU's UUID).
    DeviceId
}

/// What a device is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A GPU.
    #[default]
    Gpu,
    /// A slice of a processor that stands in for one.
    Cpu,
}

impl DeviceKind {
    /// In sentences that count them.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Gpu => "GPUs",
            Self::Cpu => "CPU slices",
        }
    }
}

/// One device of a host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its name on its machine.
    pub id: DeviceId,
    /// What it is.
    pub kind: DeviceKind,
    /// Its memory.
    pub memory_bytes: u64,
    /// Devices of a host with the same number reach each other over NVLink; none reaches nobody.
    pub link_group: Option<u16>,
}

/// What an agent says when it connects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostReport {
    /// Its name.
    pub host: HostId,
    /// The machine it runs on.
    pub machine: MachineId,
    /// Parties it works for: the one of its certificate; all three on a machine that runs everything.
    pub parties: BTreeSet<PartyId>,
    /// Version of its programs.
    pub version: String,
    /// What a job may ask for by name.
    pub labels: BTreeSet<String>,
    /// What it offers.
    pub devices: Vec<Device>,
    /// What it holds from before: attempts outlive connections.
    pub held: Vec<Held>,
}

impl HostReport {
    /// Refuses what no honest agent says.
    pub fn check(&self) -> Result<(), FleetError> {
        check_name(&self.host.0)?;
        check_name(&self.machine.0)?;
        check_name(&self.version)?;
        check_labels(&self.labels)?;
        if self.parties.is_empty() {
            return Err(FleetError::NoParty);
        }
        if self.devices.len() > DEVICES_MAX || self.held.len() > DEVICES_MAX {
            return Err(FleetError::TooMany);
        }
        self.devices.iter().try_for_each(|device| check_name(&device.id.0))?;
        for held in &self.held {
            if held.devices.len() > DEVICES_MAX {
                return Err(FleetError::TooMany);
            }
            held.devices.iter().try_for_each(|device| check_name(&device.0))?;
        }
        let distinct: BTreeSet<&DeviceId> = self.devices.iter().map(|device| &device.id).collect();
        if distinct.len() < self.devices.len() {
            return Err(FleetError::DeviceTwice);
        }
        let held: BTreeSet<LeaseId> = self.held.iter().map(|held| held.lease).collect();
        if held.len() < self.held.len() {
            return Err(FleetError::HeldTwice);
        }
        if held.iter().any(|lease| !self.parties.contains(&lease.party)) {
            return Err(FleetError::HeldForAnother);
        }
        Ok(())
    }
}

/// Names what one party holds on one host for one attempt of a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseId {
    /// The job.
    pub job: JobDigest,
    /// The attempt.
    pub epoch: Epoch,
    /// The party.
    pub party: PartyId,
}

/// What an agent holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// For whom.
    pub lease: LeaseId,
    /// Which devices.
    pub devices: Vec<DeviceId>,
    /// How far it is.
    pub phase: HeldPhase,
}

/// How far an agent is with what it holds. An end is kept until it is released, so that no end is lost with a
/// connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HeldPhase {
    /// Kept free.
    Reserved,
    /// Its process runs.
    Running,
    /// Its process delivered its part.
    Done,
    /// Its process ended without.
    Failed(AttemptFailure),
}

/// Why one party's part of an attempt ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttemptFailure {
    /// In words.
    pub reason: String,
    /// Whether another attempt would end the same way: bad settings, a refused policy, a failed check.
    pub permanent: bool,
    /// The lane, if it is one lane's.
    pub lane: Option<Lane>,
    /// A peer that is to blame.
    pub peer: Option<PartyId>,
}

/// What was measured between two hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    /// There and back.
    pub round_trip_us: u32,
    /// One way.
    pub megabits_per_second: u32,
}

/// What a job needs of every party.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Requirements {
    /// Devices of each party, one per lane.
    pub lanes: u16,
    /// Which devices.
    pub kind: DeviceKind,
    /// Least memory of each.
    pub memory_bytes: u64,
    /// Labels that each host must have.
    pub labels: BTreeSet<String>,
    /// All lanes of a party on one host.
    pub one_host: bool,
    /// Parties may share a machine. For trials: whoever owns the machine can read all shares.
    pub colocate: bool,
}

/// A job as it is submitted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Submission {
    /// Names the job: submitting it again changes nothing. A job that is to run once more is another job with another
    /// digest.
    pub digest: JobDigest,
    /// What people call it.
    pub name: JobId,
    /// Who submitted it, as authenticated.
    pub submitter: String,
    /// Higher goes first.
    pub priority: i32,
    /// What it needs.
    pub requirements: Requirements,
    /// Fails if it has not ended by then.
    pub deadline: Option<Millis>,
    /// Fails if one attempt runs longer. Jobs that state it may use gaps that others cannot.
    pub time_limit_ms: Option<Millis>,
    /// Attempts after the first that may follow a failure.
    pub max_restarts: u32,
}

impl Submission {
    /// Refuses what cannot be a job.
    pub fn check(&self) -> Result<(), FleetError> {
        check_name(&self.name.0)?;
        check_name(&self.submitter)?;
        check_labels(&self.requirements.labels)?;
        if !(1..=LANES_MAX).contains(&self.requirements.lanes) {
            return Err(FleetError::Lanes(self.requirements.lanes));
        }
        Ok(())
    }
}

/// Why a report or a submission is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FleetError {
    /// Empty, too long, or not printable.
    #[error("a name must have 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    Name,
    /// Too much of something.
    #[error("at most {DEVICES_MAX} devices and leases and {LABELS_MAX} labels are possible")]
    TooMany,
    /// Nobody to work for.
    #[error("a host must work for a party")]
    NoParty,
    /// Two devices with one name.
    #[error("a host reports one device twice")]
    DeviceTwice,
    /// Two leases with one name.
    #[error("a host reports one lease twice")]
    HeldTwice,
    /// A lease of a party that the host does not work for.
    #[error("a host holds a lease of a party that it does not work for")]
    HeldForAnother,
    /// None, or too many.
    #[error("{0} lanes: 1 to {LANES_MAX} are possible")]
    Lanes(u16),
}

fn check_name(name: &str) -> Result<(), FleetError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(FleetError::Name) }
}

fn check_labels(labels: &BTreeSet<String>) -> Result<(), FleetError> {
    if labels.len() > LABELS_MAX {
        return Err(FleetError::TooMany);
    }
    labels.iter().try_for_each(|label| check_name(label))
}
