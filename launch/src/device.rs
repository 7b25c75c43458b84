//! What this machine has to compute with.

use shared::ids::PartyId;
use shared::wire::DeviceChoice;

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Threads for each lane when all three parties share this machine: what was asked for, or an even share of the cores.
pub(crate) fn threads_per_lane(lanes: u16, asked: usize) -> usize {
    let local_lanes = PartyId::ALL.len() * usize::from(lanes);
    if asked > 0 { asked } else { (cores() / local_lanes).max(1) }
}

/// Whether lanes on this machine compute with GPUs.
pub(crate) fn has_gpus(choice: DeviceChoice) -> bool {
    choice != DeviceChoice::Cpu && party_node::gpus().is_ok()
}

/// What the user should know about the devices before a run.
pub(crate) fn remarks(choice: DeviceChoice, lanes: u16) -> Vec<String> {
    let gpus = if choice == DeviceChoice::Cpu { None } else { Some(party_node::gpus()) };
    let local_lanes = PartyId::ALL.len() * usize::from(lanes);
    match gpus {
        Some(Ok(gpus)) if gpus < local_lanes => {
            return vec![format!(
                "{local_lanes} lanes (3 parties x {lanes}) share {gpus} GPUs, as lanes of one machine may"
            )];
        }
        Some(Ok(_)) => return Vec::new(),
        Some(Err(_)) | None => {}
    }
    let mut remarks = Vec::new();
    if choice == DeviceChoice::Auto {
        remarks.push(format!("no GPU found: CPU devices stand in, {lanes} per party"));
    }
    let cores = cores();
    if lanes > 1 && cores < local_lanes {
        remarks.push(format!(
            "no speed-up can be expected: {local_lanes} lanes (3 parties x {lanes}) share {cores} cores, so lanes take \
             turns; {local_lanes} cores, or a machine per party, would let them run side by side"
        ));
    }
    remarks
}
