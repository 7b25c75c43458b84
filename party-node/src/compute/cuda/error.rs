//! What can go wrong with a GPU, with a remedy for each.

/// Why a GPU cannot be used, or cannot be used any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// A library is not installed where the loader looks.
    #[error("no {library} found: {remedy}")]
    Library {
        /// Its file name.
        library: &'static str,
        /// What to install or set.
        remedy: &'static str,
    },
    /// The driver sees no such device.
    #[error("no GPU {ordinal}: the driver sees {count}; check nvidia-smi and CUDA_VISIBLE_DEVICES")]
    NoDevice {
        /// Number that was asked for.
        ordinal: usize,
        /// Devices there are.
        count: usize,
    },
    /// The driver is older than the libraries need.
    #[error("the NVIDIA driver supports CUDA {}.{}, {}.{} is needed: update the driver to 580 or later", .found / 1000, .found % 1000 / 10, .needed / 1000, .needed % 1000 / 10)]
    Driver {
        /// CUDA version that the driver supports, as it counts: 13000 for 13.0.
        found: u32,
        /// Version needed.
        needed: u32,
    },
    /// The device is too old for the kernels.
    #[error("{device} has compute capability {}.{}: 8.0 or later is needed", .capability / 10, .capability % 10)]
    Capability {
        /// Name of the device.
        device: String,
        /// 75 for 7.5.
        capability: u32,
    },
    /// The kernels did not compile.
    #[error("the kernels do not compile for sm_{capability}: {log}")]
    Compile {
        /// 90 for sm_90.
        capability: u32,
        /// What the compiler said.
        log: String,
    },
    /// No memory is left on the device.
    #[error(
        "{device} has no room for {wanted_mib} MiB more ({free_mib} of {total_mib} MiB free): use a smaller batch, more lanes, or end other programs on it"
    )]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// Size that was asked for.
        wanted_mib: usize,
        /// Free at that time.
        free_mib: usize,
        /// Of the device.
        total_mib: usize,
    },
    /// An operation failed. After a fault in a kernel, every later call fails, too.
    #[error(
        "{device} failed at {step}: {detail}; a kernel's fault ends the process's use of the device, so start the job again, and see the kernel log (dmesg, XID) if it comes back"
    )]
    Failed {
        /// Name of the device.
        device: String,
        /// What was called.
        step: String,
        /// What the driver says.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_what_is_wrong_and_what_helps() {
        let said = |error: CudaError, words: &[&str]| {
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        said(CudaError::Driver { found: 12_080, needed: 13_000 }, &["12.8", "13.0", "update the driver"]);
        said(CudaError::Capability { device: "Old".into(), capability: 75 }, &["Old", "7.5", "8.0"]);
        said(CudaError::NoDevice { ordinal: 3, count: 1 }, &["GPU 3", "sees 1", "CUDA_VISIBLE_DEVICES"]);
        said(CudaError::Library { library: "libx.so", remedy: "pip install x" }, &["libx.so", "pip install x"]);
        let full = CudaError::OutOfMemory { device: "H".into(), wanted_mib: 5, free_mib: 3, total_mib: 9 };
        said(full, &["H", "5 MiB", "3 of 9", "smaller batch"]);
    }
}
