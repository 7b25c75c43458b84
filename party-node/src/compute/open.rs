//! Opens devices: the only place that knows which there are.

use std::sync::Arc;

use shared::wire::DeviceChoice;

use super::{Compute, CpuDevice, DeviceError};

/// Devices for the lanes of a party, in lane order, and a line that says what was chosen and why.
pub struct Opened {
    /// One for each lane.
    pub devices: Vec<Arc<dyn Compute>>,
    /// The number of each lane's GPU; none of lanes that compute on processors.
    pub gpus: Vec<usize>,
    /// `GPU 0: NVIDIA H200, ...` or why there is none.
    pub remark: String,
}

/// Opens a device for each lane. Lane `r` takes GPU `(stride r + first) mod GPUs`, so that parties on one machine spread
/// over its GPUs; there may be more lanes than GPUs only if `shared` says so.
pub fn open(
    choice: DeviceChoice,
    lanes: usize,
    [first, stride]: [usize; 2],
    may_share: bool,
    threads: usize,
) -> Result<Opened, DeviceError> {
    if choice != DeviceChoice::Cpu {
        match gpus() {
            Ok(count) => return on_gpus(lanes, count, [first, stride], may_share),
            Err(reason) if choice == DeviceChoice::Cuda => return Err(reason),
            Err(reason) => return Ok(on_cpu(lanes, threads, format!("no GPU: {reason}"))),
        }
    }
    Ok(on_cpu(lanes, threads, "the job asks for processors".into()))
}

fn on_cpu(lanes: usize, threads: usize, remark: String) -> Opened {
    let devices = (0..lanes).map(|_| Arc::new(CpuDevice::new(threads)) as Arc<dyn Compute>).collect();
    Opened { devices, gpus: Vec::new(), remark }
}

/// How many GPUs can be used, one at least; else why none can.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<usize, DeviceError> {
    super::cuda::Gpu::count().map_err(|error| DeviceError(error.to_string()))
}

/// How many GPUs can be used: none by this build.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Result<usize, DeviceError> {
    Err(DeviceError("this program was built without the feature `cuda`".into()))
}

#[cfg(feature = "cuda")]
fn on_gpus(lanes: usize, count: usize, [first, stride]: [usize; 2], may_share: bool) -> Result<Opened, DeviceError> {
    if lanes > count && !may_share {
        let remedy = "take fewer lanes, or a job whose lanes may share GPUs";
        return Err(DeviceError(format!("{lanes} lanes and {count} GPUs: {remedy}")));
    }
    let mut opened =
        Opened { devices: Vec::with_capacity(lanes), gpus: Vec::with_capacity(lanes), remark: String::new() };
    for lane in 0..lanes {
        let ordinal = (stride * lane + first) % count;
        let gpu = super::cuda::Gpu::open(ordinal).map_err(|error| DeviceError(error.to_string()))?;
        let join = if lane > 0 { "; " } else { "" };
        opened.remark += &format!("{join}lane {lane}: GPU {ordinal}, {}", gpu.name());
        opened.gpus.push(ordinal);
        opened.devices.push(Arc::new(super::GpuDevice::new(gpu)));
    }
    Ok(opened)
}

#[cfg(not(feature = "cuda"))]
fn on_gpus(_: usize, _: usize, _: [usize; 2], _: bool) -> Result<Opened, DeviceError> {
    unreachable!("a build without GPUs counts none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_always_open_and_missing_gpus_are_explained() {
        let opened = open(DeviceChoice::Cpu, 3, [0, 1], false, 1).unwrap();
        assert_eq!(opened.devices.len(), 3);
        assert!(opened.devices.iter().all(|device| device.name().starts_with("cpu")));
        if let Err(reason) = gpus() {
            let opened = open(DeviceChoice::Auto, 2, [0, 1], false, 1).unwrap();
            assert!(opened.remark.starts_with("no GPU: ") && opened.remark.ends_with(&reason.0));
            assert_eq!(open(DeviceChoice::Cuda, 2, [0, 1], false, 1).err(), Some(reason));
        }
    }
}
