//! Chooses what carries a party's sums: the only place that knows which collectives there are.

#[cfg(any(feature = "cuda", test))]
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Collective;
use super::host::host;
use crate::compute::Compute;

/// The members of a party's collective, in lane order, and a line that says what was chosen and why.
pub struct Opened {
    /// One for each lane.
    pub members: Vec<Box<dyn Collective>>,
    /// `sums among lanes: NCCL 2.28.9, since each of the 8 lanes has a GPU of its own`.
    pub remark: String,
}

/// Opens the collective of lanes that are threads of this process. `gpus` holds the number of each lane's GPU, and
/// nothing if the lanes compute on processors.
pub fn open(devices: &[Arc<dyn Compute>], gpus: &[usize]) -> Opened {
    #[cfg(feature = "cuda")]
    let reason = match on_gpus(devices, gpus) {
        Ok(opened) => return opened,
        Err(reason) => reason,
    };
    #[cfg(not(feature = "cuda"))]
    let reason = if gpus.is_empty() { ON_PROCESSORS } else { "this program was built without the feature `cuda`" };
    let boxed = |member| Box::new(member) as Box<dyn Collective>;
    let members = host(devices.len()).into_iter().map(boxed).collect();
    Opened { members, remark: format!("sums among lanes: this host's memory, since {reason}") }
}

const ON_PROCESSORS: &str = "the lanes compute on processors";

/// With this variable set to 1, an NCCL that knows it lets ranks share a GPU. NVIDIA calls it experimental.
#[cfg(any(feature = "cuda", test))]
const SHARING_VARIABLE: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// The first NCCL that knows the variable.
#[cfg(any(feature = "cuda", test))]
const SHARING_VERSION: u32 = 23_000;

#[cfg(feature = "cuda")]
fn on_gpus(devices: &[Arc<dyn Compute>], gpus: &[usize]) -> Result<Opened, String> {
    use super::nccl::{Api, Library, Limits, in_process};

    let sharing_asked = std::env::var(SHARING_VARIABLE).is_ok_and(|value| value == "1");
    worth_a_library(gpus, sharing_asked)?;
    let library = Library::load().map_err(|error| error.to_string())?;
    let why = fits(gpus, library.version())?;
    let remark = format!("sums among lanes: {}, since {why}", library.describe());
    let api: Arc<dyn Api> = Arc::new(library);
    let members = in_process(&api, devices, Limits::default());
    let boxed = |member| Box::new(member) as Box<dyn Collective>;
    Ok(Opened { members: members.into_iter().map(boxed).collect(), remark })
}

/// Why lanes on these GPUs need no NCCL, or could not use it whatever its version.
#[cfg(any(feature = "cuda", test))]
fn worth_a_library(gpus: &[usize], sharing_asked: bool) -> Result<(), String> {
    let distinct = distinct(gpus);
    match gpus.len() {
        0 => Err(ON_PROCESSORS.into()),
        1 => Err("there is one lane".into()),
        lanes if distinct < lanes && !sharing_asked => Err(format!(
            "{lanes} lanes share {distinct} GPUs, which NCCL refuses ({SHARING_VARIABLE}=1 tries it with NCCL 2.30)"
        )),
        _ => Ok(()),
    }
}

/// Why lanes on these GPUs can use an NCCL of this version, or cannot.
#[cfg(any(feature = "cuda", test))]
fn fits(gpus: &[usize], version: u32) -> Result<String, String> {
    let (lanes, distinct) = (gpus.len(), distinct(gpus));
    if distinct == lanes {
        return Ok(format!("each of the {lanes} lanes has a GPU of its own"));
    }
    if version < SHARING_VERSION {
        return Err(format!(
            "{lanes} lanes share {distinct} GPUs, and NCCL {} refuses that, whatever {SHARING_VARIABLE} says",
            dotted(version)
        ));
    }
    Ok(format!("{SHARING_VARIABLE}=1 lets {lanes} lanes share {distinct} GPUs (experimental)"))
}

#[cfg(any(feature = "cuda", test))]
fn distinct(gpus: &[usize]) -> usize {
    gpus.iter().collect::<BTreeSet<_>>().len()
}

/// `2.28.9` for 22809.
#[cfg(any(feature = "cuda", test))]
pub(super) fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::CpuDevice;

    #[test]
    fn processors_sum_in_memory_and_say_so() {
        let devices: Vec<Arc<dyn Compute>> = (0..3).map(|_| Arc::new(CpuDevice::new(1)) as _).collect();
        let opened = open(&devices, &[]);
        assert_eq!(opened.members.iter().map(|member| member.rank()).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(opened.remark, "sums among lanes: this host's memory, since the lanes compute on processors");
    }

    #[test]
    fn lanes_with_gpus_of_their_own_use_nccl() {
        assert_eq!(worth_a_library(&[0, 1, 2, 3], false), Ok(()));
        assert_eq!(fits(&[3, 0, 6], 22_809), Ok("each of the 3 lanes has a GPU of its own".into()));
    }

    #[test]
    fn lanes_that_share_a_gpu_use_it_only_if_asked_and_if_it_is_new_enough() {
        let reason = worth_a_library(&[0, 1, 0], false).unwrap_err();
        assert!(
            reason.starts_with("3 lanes share 2 GPUs, which NCCL refuses (NCCL_MULTI_RANK_GPU_ENABLE=1"),
            "{reason}"
        );
        assert_eq!(worth_a_library(&[0, 1, 0], true), Ok(()));
        let reason = fits(&[0, 1, 0], 22_809).unwrap_err();
        assert!(reason.starts_with("3 lanes share 2 GPUs, and NCCL 2.28.9 refuses that"), "{reason}");
        assert!(fits(&[0, 0], 23_003).unwrap().ends_with("lets 2 lanes share 1 GPUs (experimental)"));
    }

    #[test]
    fn one_lane_needs_nobody() {
        assert_eq!(worth_a_library(&[5], true), Err("there is one lane".into()));
    }
}
