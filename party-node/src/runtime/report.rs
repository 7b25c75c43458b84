//! What a party reports at the end: sums and means over its lanes, and the openings that the policy names.

use std::sync::Arc;

use shared::ids::PartyId;
use shared::wire::{Failure, FailureKind, PartyReport, Setup};

use super::failure::failure;
use super::metrics::Link;
use super::process;
use crate::compute::Compute;
use crate::meter::Phase;
use crate::train::LaneOutcome;

/// Sums up the lanes, `outcomes` in lane order.
pub(super) fn build(
    setup: &Setup,
    outcomes: &[LaneOutcome],
    devices: &[Arc<dyn Compute>],
    links: &[Arc<dyn Link>],
) -> Result<PartyReport, Failure> {
    let first = &outcomes[0];
    if let Some((what, _)) = first.opened.iter().find(|(what, _)| !setup.job.reveal.contains(what)) {
        let reason = format!("{} was opened, which the reveal policy of the job does not name", what.name());
        return Err(failure(FailureKind::Policy, reason));
    }
    Ok(PartyReport {
        device: devices[0].name(),
        opened: first.opened.iter().map(|(what, value)| (what.name().to_owned(), value.clone())).collect(),
        step_seconds: first.step_seconds.clone(),
        train_seconds: first.train_seconds,
        sent_bytes: outcomes.iter().map(|lane| lane.during.sent_bytes).sum(),
        rounds: outcomes.iter().map(|lane| lane.during.rounds).max().unwrap_or(0),
        phase_seconds: phase_means(outcomes),
        calibration: first.calibration,
        peak_rss_bytes: process::peak_rss_bytes(),
        peer_rtt_seconds: shortest_rtt(setup.party, links),
    })
}

/// Mean seconds per step and lane in each phase.
fn phase_means(outcomes: &[LaneOutcome]) -> Vec<(String, f64)> {
    let lane_steps = (outcomes.len() * outcomes[0].step_seconds.len()).max(1);
    #[allow(clippy::cast_precision_loss, reason = "steps of a run are far fewer than 2^52")]
    let mean =
        |phase: usize| outcomes.iter().map(|lane| lane.during.phase_seconds[phase]).sum::<f64>() / lane_steps as f64;
    Phase::ALL.iter().enumerate().map(|(i, phase)| (phase.name().to_owned(), mean(i))).collect()
}

/// Over all lanes and both peers; 0 if nothing was measured.
fn shortest_rtt(party: PartyId, links: &[Arc<dyn Link>]) -> f64 {
    let peers = [party.next(), party.prev()];
    let measured = links.iter().flat_map(|link| peers.map(|peer| link.rtt_seconds(peer)));
    measured.filter(|rtt| *rtt > 0.0).reduce(f64::min).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::CpuDevice;
    use crate::meter::Snapshot;
    use crate::runtime::tests::setup;
    use shared::job::Reveal;

    struct FixedRtt(f64);

    impl Link for FixedRtt {
        fn rtt_seconds(&self, _: PartyId) -> f64 {
            self.0
        }

        fn lost_packets(&self, _: PartyId) -> u64 {
            0
        }
    }

    fn outcome(rounds: u64, sent_bytes: u64, compute: f64) -> LaneOutcome {
        let mut phase_seconds = [0.0; 8];
        phase_seconds[Phase::Compute as usize] = compute;
        LaneOutcome {
            opened: vec![(Reveal::TestAuroc, vec![0.99])],
            step_seconds: vec![0.5, 0.7],
            train_seconds: 1.2,
            during: Snapshot { phase_seconds, rounds, sent_bytes },
            calibration: None,
            parameters: None,
            result: None,
        }
    }

    fn report(reveal: Vec<Reveal>) -> Result<PartyReport, Failure> {
        let mut setup = setup(0, 2);
        setup.job.reveal = reveal;
        let devices: Vec<Arc<dyn Compute>> = vec![Arc::new(CpuDevice::new(1))];
        let links: Vec<Arc<dyn Link>> =
            vec![Arc::new(FixedRtt(0.0)), Arc::new(FixedRtt(0.002)), Arc::new(FixedRtt(0.001))];
        build(&setup, &[outcome(40, 1000, 0.2), outcome(42, 500, 0.6)], &devices, &links)
    }

    #[test]
    fn bytes_are_summed_rounds_are_the_worst_phases_are_means() {
        let report = report(vec![Reveal::TestAuroc]).unwrap();
        assert_eq!((report.sent_bytes, report.rounds), (1500, 42));
        let compute = report.phase_seconds.iter().find(|(name, _)| name == "compute").unwrap().1;
        assert!((compute - 0.2).abs() < 1e-12, "{compute}");
        assert_eq!(report.opened, [("test-auroc".to_owned(), vec![0.99])]);
        assert!((report.peer_rtt_seconds - 0.001).abs() < 1e-12);
    }

    #[test]
    fn an_opening_beyond_the_policy_ends_the_job_and_is_not_reported() {
        let failure = report(vec![Reveal::TestAccuracy]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Policy);
        assert!(!failure.reason.contains("0.99"), "{}", failure.reason);
    }
}
