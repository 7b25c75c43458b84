//! Why a job is where it is, in words that name party, host and lack.

use std::fmt;

use serde::{Deserialize, Serialize};
use shared::fleet::{DeviceKind, HostId, Millis};
use shared::ids::{JobId, PartyId};

/// Why a job is where it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reason {
    /// These parties have not decided; the second list waits for a person.
    Undecided {
        /// Not heard of.
        silent: Vec<PartyId>,
        /// A person was asked.
        by_hand: Vec<PartyId>,
        /// They consented, but not to the next attempt, or not until now.
        outdated: Vec<PartyId>,
    },
    /// A consent ended between the reservation and the start.
    ConsentEnded,
    /// A party said no.
    Denied(PartyId, String),
    /// Parties that lack devices.
    Lacks(Vec<Lack>),
    /// A party's quota is used up.
    Quota {
        /// Whose.
        party: PartyId,
        /// What is counted.
        what: Counted,
        /// What the job needs.
        needs: u32,
        /// What jobs use now.
        used: u32,
        /// What they may.
        quota: u32,
    },
    /// Devices are kept for a job before it.
    Behind(JobId),
    /// Every party has enough, but on machines that they would have to share.
    SharedMachines,
    /// Nothing is in its way: its turn comes with the next decision.
    Turn,
    /// A pause before the next attempt.
    Retrying {
        /// When.
        at: Millis,
        /// What went wrong.
        after: Box<Reason>,
    },
    /// Parts of the last attempt still stop on these hosts.
    Stopping(Vec<(PartyId, HostId)>),
    /// None of the parties' hosts can say whether the last attempt still runs, so no other may begin.
    Unaccounted(Vec<(PartyId, HostId)>),
    /// Waits for these hosts to do what they were asked.
    Waiting(Task, Vec<(PartyId, HostId)>),
    /// All is well.
    Working {
        /// Steps of the slowest party, if any told.
        step: Option<(PartyId, u64, u64)>,
    },
    /// A host refused.
    Refused(PartyId, HostId, String),
    /// Hosts did not do in time what they were asked.
    Late(Task, Vec<(PartyId, HostId)>),
    /// A host is silent.
    HostLost(PartyId, HostId),
    /// A host came back without what it held.
    HostForgot(PartyId, HostId),
    /// A party's process ended.
    PartyFailed {
        /// Whose.
        party: PartyId,
        /// Where.
        host: HostId,
        /// A peer that it blames.
        peer: Option<PartyId>,
        /// What it says.
        why: String,
    },
    /// No party made progress for this long.
    NoProgress(Millis),
    /// It ran longer than it may.
    TimeLimit(Millis),
    /// Its deadline passed; where it was then.
    Deadline(Box<Reason>),
    /// Nobody decided in time.
    ConsentLate(Box<Reason>),
    /// It failed once more than it may.
    RestartsSpent {
        /// How often it may.
        limit: u32,
        /// The last time.
        last: Box<Reason>,
    },
    /// Somebody asked to stop.
    Cancelled,
    /// All parties delivered.
    Delivered,
}

/// Most characters that are kept of what an agent says.
const WORDS_MAX: usize = 1_000;

/// What an agent says, without what a terminal could take for a command, and not without end.
pub(super) fn clipped(words: String) -> String {
    if words.len() <= WORDS_MAX && !words.contains(char::is_control) {
        return words;
    }
    words.chars().take(WORDS_MAX).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// What a host was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Keep devices free.
    Reserve,
    /// Start.
    Start,
}

/// What a quota counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Counted {
    /// Devices.
    Devices,
    /// Jobs.
    Jobs,
}

/// What a party lacks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lack {
    /// Who.
    pub party: PartyId,
    /// How many it needs.
    pub needs: u32,
    /// Of what.
    pub kind: DeviceKind,
    /// The host with most of them free, if all must be on one.
    pub best_host: Option<(HostId, u32)>,
    /// Free and suitable.
    pub free: u32,
    /// Suitable, used by other jobs.
    pub in_use: u32,
    /// Suitable, on hosts that are drained.
    pub drained: u32,
    /// Suitable, on hosts that are not connected.
    pub away: u32,
    /// Of the kind, but too small or without a label.
    pub unsuitable: u32,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: needs {} {}", self.party, self.needs, self.kind.plural())?;
        if let Some((host, free)) = &self.best_host {
            write!(f, " on one host, best is {host} with {free}")?;
        }
        write!(f, ", has {} free", self.free)?;
        for (count, what) in [
            (self.in_use, "in use"),
            (self.drained, "drained"),
            (self.away, "not connected"),
            (self.unsuitable, "too small or without its labels"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided { silent, by_hand, outdated } => {
                let silent = silent.iter().map(|party| format!("{party}: has not answered"));
                let by_hand = by_hand.iter().map(|party| format!("{party}: waits for a person (mpc-launch approve)"));
                let outdated =
                    outdated.iter().map(|party| format!("{party}: its consent does not cover the next attempt"));
                f.write_str(&silent.chain(by_hand).chain(outdated).collect::<Vec<_>>().join("; "))
            }
            Self::ConsentEnded => f.write_str("a consent ended before the start"),
            Self::Denied(party, why) => write!(f, "{party}: denied: {why}"),
            Self::Lacks(lacks) => f.write_str(&lacks.iter().map(Lack::to_string).collect::<Vec<_>>().join("; ")),
            Self::Quota { party, what, needs, used, quota } => {
                let what = match what {
                    Counted::Devices => "devices",
                    Counted::Jobs => "jobs",
                };
                write!(f, "{party}: needs {needs} of its quota of {quota} {what}, {used} are in use")
            }
            Self::Behind(job) => write!(f, "devices are kept for {job}, which comes before"),
            Self::SharedMachines => {
                f.write_str("each party has enough, but on machines that they would have to share (--colocate)")
            }
            Self::Turn => f.write_str("its turn comes with the next decision"),
            Self::Retrying { after, .. } => write!(f, "another attempt follows: {after}"),
            Self::Stopping(hosts) => write!(f, "waits for the last attempt to stop: {}", listed(hosts)),
            Self::Unaccounted(hosts) => {
                write!(f, "the last attempt may still run, and no host can tell: {}; ", listed(hosts))?;
                f.write_str("one of them must come back, or be declared gone")
            }
            Self::Waiting(task, hosts) => write!(f, "waits for {}: {}", task.text(), listed(hosts)),
            Self::Working { step: None } => f.write_str("all parties run"),
            Self::Working { step: Some((party, step, steps)) } => write!(f, "{party}: step {step} of {steps}"),
            Self::Refused(party, host, why) => write!(f, "{party}: {host} refused: {why}"),
            Self::Late(task, hosts) => write!(f, "no answer in time to {}: {}", task.text(), listed(hosts)),
            Self::HostLost(party, host) => write!(f, "{party}: {host} is silent, and what ran there is given up"),
            Self::HostForgot(party, host) => write!(f, "{party}: {host} came back without its part of the job"),
            Self::PartyFailed { party, host, peer, why } => {
                write!(f, "{party}: on {host}: {why}")?;
                peer.map_or(Ok(()), |peer| write!(f, " (blames {peer})"))
            }
            Self::NoProgress(ms) => write!(f, "no party made progress for {} s", ms / 1000),
            Self::TimeLimit(ms) => write!(f, "ran longer than its time limit of {} s", ms / 1000),
            Self::Deadline(last) => write!(f, "its deadline passed; it was at: {last}"),
            Self::ConsentLate(last) => write!(f, "nobody decided in time: {last}"),
            Self::RestartsSpent { limit, last } => write!(f, "failed after {limit} restarts: {last}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Delivered => f.write_str("all parties delivered"),
        }
    }
}

impl Task {
    fn text(self) -> &'static str {
        match self {
            Self::Reserve => "the reservation",
            Self::Start => "the start",
        }
    }
}

fn listed(hosts: &[(PartyId, HostId)]) -> String {
    hosts.iter().map(|(party, host)| format!("{party} on {host}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_agent_end_and_command_no_terminal() {
        assert_eq!(clipped("out of memory".into()), "out of memory");
        assert_eq!(clipped("\u{1b}[2Jgone".into()), " [2Jgone");
        assert_eq!(clipped("x".repeat(5_000)).len(), WORDS_MAX);
    }

    #[test]
    fn a_lack_names_party_number_and_where_the_rest_is() {
        let mut lack = Lack {
            party: PartyId::ALL[2],
            needs: 4,
            kind: DeviceKind::Gpu,
            best_host: None,
            free: 2,
            in_use: 0,
            drained: 1,
            away: 0,
            unsuitable: 0,
        };
        assert_eq!(lack.to_string(), "P2: needs 4 GPUs, has 2 free, 1 drained");
        (lack.best_host, lack.in_use) = (Some((HostId("gpu-7".into()), 1)), 3);
        let text = Reason::Lacks(vec![lack]).to_string();
        assert_eq!(text, "P2: needs 4 GPUs on one host, best is gpu-7 with 1, has 2 free, 3 in use, 1 drained");
    }
}
