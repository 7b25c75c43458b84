//! What must outlive the orchestrator: everything but what its hosts tell again when they come back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::fleet::{HostId, Millis};
use shared::ids::JobDigest;

use super::Scheduler;
use super::events::State;
use super::hosts::{Host, Hosts};
use super::jobs::Job;
use super::queue::Queue;
use super::settings::{Quota, Settings};

/// What the scheduler is rebuilt from.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Records {
    /// Jobs, in any order.
    pub jobs: Vec<Job>,
    /// Hosts, in any order.
    pub hosts: Vec<Host>,
    /// The rest.
    pub meta: Meta,
}

/// What is neither a job nor a host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Time of the last change; time does not go back behind it.
    pub now: Millis,
    /// Order of the next submission.
    pub next_sequence: u64,
    /// What each party lets jobs use.
    pub quotas: [Quota; 3],
}

/// What has to be written down after a step: new records, and none for what is gone.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// Jobs by name.
    pub jobs: BTreeMap<JobDigest, Option<Job>>,
    /// Hosts by name.
    pub hosts: BTreeMap<HostId, Option<Host>>,
    /// The rest, if anything changed.
    pub meta: Option<Meta>,
}

impl Scheduler {
    /// Rebuilds the scheduler. The first event must be [`Event::Restarted`](super::Event::Restarted).
    pub fn restore(settings: Settings, records: Records) -> Self {
        let ended = records.jobs.iter().filter(|job| job.state.is_end());
        Self {
            settings,
            now: records.meta.now,
            next_sequence: records.meta.next_sequence,
            quotas: records.meta.quotas,
            ended: ended.map(|job| (job.since, job.sequence, job.digest())).collect(),
            jobs: records.jobs.into_iter().map(|job| (job.digest(), job)).collect(),
            hosts: Hosts::restore(records.hosts),
            queue: Queue::default(),
            changed_jobs: BTreeSet::new(),
            changed_meta: false,
            actions: Vec::new(),
        }
    }

    /// What changed since the last call. Must be on disk before the actions of the step are performed: then whatever is
    /// lost with a crash is told again by the hosts, and nothing is promised twice.
    pub fn take_changes(&mut self) -> Changes {
        let jobs = std::mem::take(&mut self.changed_jobs);
        let hosts = self.hosts.take_changed();
        let changed = std::mem::take(&mut self.changed_meta) || !jobs.is_empty() || !hosts.is_empty();
        let meta = Meta { now: self.now, next_sequence: self.next_sequence, quotas: self.quotas };
        Changes {
            jobs: jobs.into_iter().map(|digest| (digest, self.jobs.get(&digest).cloned())).collect(),
            hosts: hosts.into_iter().map(|host| (host.clone(), self.hosts.get(&host).cloned())).collect(),
            meta: changed.then_some(meta),
        }
    }

    /// Number of jobs in each state.
    pub fn census(&self) -> BTreeMap<State, usize> {
        let mut census = BTreeMap::new();
        self.jobs.values().for_each(|job| *census.entry(job.state).or_default() += 1);
        census
    }
}
