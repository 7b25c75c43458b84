//! All lanes of all parties on threads of this process, over in-memory transports.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use party_node::collective::host;
use party_node::compute::{Compute, CpuDevice};
use party_node::meter::LaneCounters;
use party_node::protocol::PairKeys;
use party_node::train::{LaneOutcome, LaneSetup, PartyData, run_lane};
use party_node::transport::memory_triangle;
use shared::ids::{Lane, PartyId};
use shared::job::JobSpec;

/// Runs a job on all its lanes; outcomes by party and lane. `data` gives a party's shares.
#[allow(dead_code, reason = "not every test leaves the device open")]
pub(crate) fn run(job: &JobSpec, data: impl Fn(PartyId) -> PartyData) -> Vec<Vec<LaneOutcome>> {
    run_on(job, |_| Arc::new(CpuDevice::new(1)), data)
}

/// As [`run`], on a device of each party's choice for each of its lanes.
pub(crate) fn run_on(
    job: &JobSpec,
    device: impl Fn(PartyId) -> Arc<dyn Compute>,
    data: impl Fn(PartyId) -> PartyData,
) -> Vec<Vec<LaneOutcome>> {
    let job = Arc::new(job.clone());
    let mut transports: Vec<Vec<_>> = (0..job.lanes).map(|_| memory_triangle().into_iter().rev().collect()).collect();
    let threads: Vec<Vec<_>> = PartyId::ALL
        .iter()
        .map(|party| {
            let data = Arc::new(data(*party));
            host(job.lanes.into())
                .into_iter()
                .enumerate()
                .map(|(lane, member)| {
                    let setup = LaneSetup {
                        job: job.clone(),
                        lane: Lane(u16::try_from(lane).unwrap()),
                        transport: Box::new(transports[lane].pop().unwrap()),
                        keys: PairKeys::for_test(u32::try_from(lane).unwrap())[party.index()].clone(),
                        device: device(*party),
                        collective: Box::new(member),
                        data: Some(data.clone()),
                        counters: Arc::new(LaneCounters::default()),
                        stop: Arc::new(AtomicBool::new(false)),
                        progress: Box::new(|_, _| ()),
                    };
                    std::thread::spawn(move || run_lane(setup).unwrap())
                })
                .collect()
        })
        .collect();
    let party = |lanes: Vec<std::thread::JoinHandle<_>>| lanes.into_iter().map(|lane| lane.join().unwrap()).collect();
    threads.into_iter().map(party).collect()
}
