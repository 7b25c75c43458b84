//! Whether the parties agree. No attempt begins without the consent of all three to its number and at its time.

use shared::ids::{JobDigest, PartyId};

use super::Scheduler;
use super::events::{Action, Consent, State};
use super::reasons::{Reason, clipped};

impl Scheduler {
    /// Puts a job before the parties under whose consent its next attempt could not begin; if there are none, in line.
    pub(super) fn ask_consents(&mut self, digest: JobDigest) {
        let now = self.now;
        let Some(job) = self.job_mut(digest) else { return };
        let missing: Vec<PartyId> = job.without_consent(now).collect();
        if missing.is_empty() {
            let state = if job.restarts == 0 { State::Pending } else { State::Recovering };
            self.move_to(digest, state);
            return;
        }
        for party in &missing {
            // A consent that does not cover the next attempt is none.
            let consent = &mut job.consents[party.index()];
            if *consent != Consent::ByHand {
                *consent = Consent::Unknown;
            }
        }
        self.move_to(digest, State::AwaitingConsent);
        missing.into_iter().for_each(|party| self.ask(digest, party));
    }

    fn ask(&mut self, job: JobDigest, party: PartyId) {
        let Some(epoch) = self.jobs.get(&job).map(super::Job::next_epoch) else { return };
        self.actions.push(Action::AskConsent { job, party, epoch });
    }

    /// Asks again whatever a party has not decided.
    pub(super) fn ask_undecided(&mut self, party: PartyId) {
        let waiting = self.jobs.values().filter(|job| job.state == State::AwaitingConsent);
        let undecided = waiting.filter(|job| job.without_consent(self.now).any(|missing| missing == party));
        let digests: Vec<JobDigest> = undecided.map(super::Job::digest).collect();
        digests.into_iter().for_each(|digest| self.ask(digest, party));
    }

    /// A party decided. A consent that does not reach the next attempt leaves the job waiting; it is not asked for
    /// again until the party comes back or changes its mind, since asking would give the same answer.
    pub(super) fn consent(&mut self, digest: JobDigest, party: PartyId, consent: Consent) {
        let now = self.now;
        let Some(job) = self.job_mut(digest).filter(|job| !job.state.is_end()) else { return };
        job.consents[party.index()] = consent.clone();
        if let Consent::Denied(why) = consent {
            let grace_ms = self.settings.stop_grace_ms;
            self.end(digest, State::Failed, Reason::Denied(party, clipped(why)), grace_ms);
        } else if job.state == State::AwaitingConsent && job.without_consent(now).next().is_none() {
            self.ask_consents(digest);
        }
    }
}
