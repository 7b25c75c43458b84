//! NCCL itself: found, loaded, called.
//!
//! Types are cudarc's; the functions are looked up here, by their names in a file that is opened by its path. cudarc
//! would look for `libnccl.so` alone, where pip and Debian install `libnccl.so.2`, and would panic at a function that
//! is not there. Results are plain numbers: a newer library may return one that cudarc's enumeration does not have.
#![allow(unsafe_code, reason = "loads NCCL and calls it")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclUniqueId};
use libloading::os::unix::{Library as File, RTLD_LOCAL, RTLD_NOW};

use super::api::{Api, Fault, Membership, Step, UniqueId};
use crate::collective::open::dotted;
use crate::compute::cuda::{FOLDERS_VARIABLE, Gpu, library_folders};
use crate::compute::{Slice, SliceMut};

/// The name that every way to install NCCL gives it.
const FILE: &str = "libnccl.so.2";
/// The first with communicators that do not block.
const VERSION_MIN: u32 = 21_400;
/// The NCCL whose configuration cudarc's [`ncclConfig_t`] is.
const CONFIG_VERSION: u32 = 22_803;

/// Results of calls.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
/// `ncclUint64` and `ncclSum`.
const UINT64: c_int = 5;
const SUM: c_int = 0;

/// Why NCCL cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::collective) enum NotThere {
    /// It is not installed where anybody looks.
    #[error(
        "there is no {FILE} where the loader looks{}; pip install nvidia-nccl-cu13 (or apt install libnccl2), or set \
         {FOLDERS_VARIABLE} to its folder", and_in(.folders)
    )]
    NotFound {
        /// Where else it was looked for.
        folders: Vec<PathBuf>,
    },
    /// What is there is not NCCL, or a broken one.
    #[error("{file} cannot be used: {reason}")]
    Unusable {
        /// The file.
        file: String,
        /// What the loader, or the library, says.
        reason: String,
    },
    /// It is too old.
    #[error(
        "{file} is NCCL {}, and {} or later is needed: pip install nvidia-nccl-cu13",
        dotted(*.found), dotted(VERSION_MIN)
    )]
    Old {
        /// The file.
        file: String,
        /// Its version, as it counts.
        found: u32,
    },
}

fn and_in(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| format!(", nor in {}", folder.display())).collect()
}

/// The functions of NCCL that are used, in the order of a communicator's life.
#[derive(Clone, Copy)]
struct Calls {
    version: unsafe extern "C" fn(*mut c_int) -> c_int,
    error_text: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
    unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> c_int,
    async_error: unsafe extern "C" fn(ncclComm_t, *mut c_int) -> c_int,
    reduce_scatter:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, ncclComm_t, *mut c_void) -> c_int,
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, ncclComm_t, *mut c_void) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, ncclComm_t, *mut c_void) -> c_int,
    finalize: unsafe extern "C" fn(ncclComm_t) -> c_int,
    destroy: unsafe extern "C" fn(ncclComm_t) -> c_int,
    abort: unsafe extern "C" fn(ncclComm_t) -> c_int,
}

/// NCCL, loaded. It stays loaded until the process ends: it has threads of its own.
pub(in crate::collective) struct Library {
    calls: Calls,
    version: u32,
    file: String,
}

impl Library {
    /// Looks where the loader does, then in all folders that pip, conda, CUDA's installer and NVIDIA's images use; in
    /// the user's own first if [`FOLDERS_VARIABLE`] names some.
    pub(in crate::collective) fn load() -> Result<Self, NotThere> {
        Self::load_from(std::env::var_os(FOLDERS_VARIABLE).is_none(), &library_folders())
    }

    fn load_from(loader_first: bool, folders: &[PathBuf]) -> Result<Self, NotThere> {
        let by_name = || open(Path::new(FILE)).ok().map(|file| (file, FILE.to_owned()));
        if let Some((file, name)) = loader_first.then(by_name).flatten() {
            return Self::of_file(file, name);
        }
        let paths = folders.iter().map(|folder| folder.join(FILE));
        if let Some(path) = paths.into_iter().find(|path| path.exists()) {
            let name = path.display().to_string();
            let file =
                open(&path).map_err(|error| NotThere::Unusable { file: name.clone(), reason: error.to_string() })?;
            return Self::of_file(file, name);
        }
        let Some((file, name)) = by_name() else {
            let there = folders.iter().filter(|folder| folder.is_dir()).cloned();
            return Err(NotThere::NotFound { folders: there.collect() });
        };
        Self::of_file(file, name)
    }

    fn of_file(file: File, name: String) -> Result<Self, NotThere> {
        let unusable = |reason: String| NotThere::Unusable { file: name.clone(), reason };
        let calls = Calls::find(&file).map_err(|error| unusable(error.to_string()))?;
        std::mem::forget(file);
        let mut version = 0;
        // SAFETY: a place for a number.
        let got = unsafe { (calls.version)(&raw mut version) };
        calls.check(got).map_err(|Fault(reason)| unusable(reason))?;
        let version = version.unsigned_abs();
        if version < VERSION_MIN {
            return Err(NotThere::Old { file: name, found: version });
        }
        Ok(Self { calls, version, file: name })
    }

    /// As NCCL counts: 22809 for 2.28.9.
    pub(in crate::collective) fn version(&self) -> u32 {
        self.version
    }

    /// `NCCL 2.28.9 (libnccl.so.2)`.
    pub(in crate::collective) fn describe(&self) -> String {
        format!("NCCL {} ({})", dotted(self.version), self.file)
    }

    /// Begins to join with whatever device is current in the calling thread.
    fn begin(&self, id: &UniqueId, rank: usize, size: usize) -> Result<ncclComm_t, Fault> {
        let mut communicator = std::ptr::null_mut();
        let number = |value: usize| c_int::try_from(value).map_err(|_| Fault(format!("{value} lanes are too many")));
        let (rank, size, mut config) = (number(rank)?, number(size)?, config());
        // SAFETY: a place for the communicator, and a configuration that says itself how long it is.
        let begun = unsafe { (self.calls.init)(&raw mut communicator, size, id.to_nccl(), rank, &raw mut config) };
        match self.calls.check(begun) {
            Ok(_) if !communicator.is_null() => Ok(communicator),
            Ok(_) => Err(Fault("there is no communicator".into())),
            Err(fault) => {
                if !communicator.is_null() {
                    // SAFETY: it was just made, and nobody else has it. Its own failure would tell nothing new.
                    unsafe { (self.calls.abort)(communicator) };
                }
                Err(fault)
            }
        }
    }
}

fn open(path: &Path) -> Result<File, libloading::Error> {
    // SAFETY: a file that bears NCCL's name; its initialisers start nothing.
    unsafe { File::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
}

/// A configuration of a communicator that does not block; all else is NCCL's choice, or its environment variables'.
fn config() -> ncclConfig_t {
    let unset = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: unset,
        minCTAs: unset,
        maxCTAs: unset,
        netName: std::ptr::null(),
        splitShare: unset,
        trafficClass: unset,
        commName: std::ptr::null(),
        collnetEnable: unset,
        CTAPolicy: unset,
        shrinkShare: unset,
        nvlsCTAs: unset,
        nChannelsPerNetPeer: unset,
        nvlinkCentricSched: unset,
    }
}

impl Calls {
    fn find(file: &File) -> Result<Self, libloading::Error> {
        macro_rules! call {
            ($name:literal) => {
                // SAFETY: nccl.h declares the function with the field's type; an enumeration is an int in C.
                *unsafe { file.get(concat!($name, "\0").as_bytes()) }?
            };
        }
        Ok(Self {
            version: call!("ncclGetVersion"),
            error_text: call!("ncclGetErrorString"),
            last_error: call!("ncclGetLastError"),
            unique_id: call!("ncclGetUniqueId"),
            init: call!("ncclCommInitRankConfig"),
            async_error: call!("ncclCommGetAsyncError"),
            reduce_scatter: call!("ncclReduceScatter"),
            all_gather: call!("ncclAllGather"),
            all_reduce: call!("ncclAllReduce"),
            finalize: call!("ncclCommFinalize"),
            destroy: call!("ncclCommDestroy"),
            abort: call!("ncclCommAbort"),
        })
    }

    /// Whether a call has gone through (else it is in progress).
    fn check(&self, result: c_int) -> Result<bool, Fault> {
        match result {
            SUCCESS => Ok(true),
            IN_PROGRESS => Ok(false),
            _ => Err(self.fault(result)),
        }
    }

    fn fault(&self, result: c_int) -> Fault {
        // SAFETY: both return texts that last until the next call, or null; the communicator is not used.
        let texts = unsafe { [(self.error_text)(result), (self.last_error)(std::ptr::null_mut())] };
        let [what, last] = texts.map(|start| {
            if start.is_null() {
                return String::new();
            }
            // SAFETY: as above.
            unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
        });
        let detail = last.split_whitespace().collect::<Vec<_>>().join(" ");
        Fault(if detail.is_empty() { what } else { format!("{what} ({detail})") })
    }
}

impl UniqueId {
    fn to_nccl(&self) -> ncclUniqueId {
        ncclUniqueId { internal: self.0.map(|byte| c_char::from_ne_bytes([byte])) }
    }

    fn of_nccl(id: &ncclUniqueId) -> Self {
        Self(id.internal.map(|byte| byte.to_ne_bytes()[0]))
    }
}

impl Api for Library {
    fn name(&self) -> String {
        self.describe()
    }

    fn unique_id(&self) -> Result<UniqueId, Fault> {
        let mut id = ncclUniqueId { internal: [0; _] };
        // SAFETY: a place for an id.
        let got = unsafe { (self.calls.unique_id)(&raw mut id) };
        self.calls.check(got)?;
        Ok(UniqueId::of_nccl(&id))
    }

    fn join(&self, id: &UniqueId, rank: usize, size: usize, home: Slice<'_>) -> Result<Box<dyn Membership>, Fault> {
        let Slice::Gpu(gpu, _) = home else { return Err(Fault("the lane's words are not on a GPU".into())) };
        // NCCL takes the device that is current.
        stream(gpu)?;
        let communicator = self.begin(id, rank, size)?;
        Ok(Box::new(Place { calls: self.calls, gpu: gpu.clone(), communicator }))
    }
}

/// The stream that the GPU's words are made on, with the GPU current in this thread.
fn stream(gpu: &Gpu) -> Result<*mut c_void, Fault> {
    let none = || Fault(format!("{} has no stream to share", gpu.name()));
    gpu.stream_handle().map(|stream| stream as *mut c_void).ok_or_else(none)
}

/// A lane's communicator.
struct Place {
    calls: Calls,
    gpu: Gpu,
    communicator: ncclComm_t,
}

// SAFETY: NCCL's guide on thread safety lets any thread use a communicator as long as one at a time does, which `&mut`
// and `Box` see to; each call that needs the device makes it current in its own thread.
unsafe impl Send for Place {}

impl Membership for Place {
    fn ready(&mut self) -> Result<bool, Fault> {
        let mut state = SUCCESS;
        // SAFETY: the communicator lives as long as this; a place for a result.
        let got = unsafe { (self.calls.async_error)(self.communicator, &raw mut state) };
        self.calls.check(got)?;
        self.calls.check(state)
    }

    unsafe fn start(&mut self, step: Step, send: Option<Slice<'_>>, out: SliceMut<'_>) -> Result<(), Fault> {
        let elsewhere = || Fault("words of a step are not on a GPU".into());
        let SliceMut::Gpu(_, out) = out else { return Err(elsewhere()) };
        let (address, len) = match send {
            Some(Slice::Gpu(_, words)) => (words.address(), words.len()),
            Some(Slice::Host(_)) => return Err(elsewhere()),
            None => (out.address(), out.len()),
        };
        let (send, receive, stream) = (address as *const c_void, out.address() as *mut c_void, stream(&self.gpu)?);
        let (calls, communicator) = (self.calls, self.communicator);
        // SAFETY: the caller has compared the lengths, and keeps both places until the step is done; all of them, and
        // the stream, are of the communicator's device.
        let started = unsafe {
            match step {
                Step::ReduceScatter => {
                    (calls.reduce_scatter)(send, receive, out.len(), UINT64, SUM, communicator, stream)
                }
                Step::AllGather => (calls.all_gather)(send, receive, len, UINT64, communicator, stream),
                Step::AllReduce => (calls.all_reduce)(send, receive, len, UINT64, SUM, communicator, stream),
            }
        };
        calls.check(started).map(|_| ())
    }

    fn done(&mut self) -> Result<bool, Fault> {
        self.gpu.idle().map_err(|error| Fault(error.to_string()))
    }

    fn finish(&mut self) -> Result<(), Fault> {
        // SAFETY: the communicator lives as long as this.
        let begun = unsafe { (self.calls.finalize)(self.communicator) };
        self.calls.check(begun).map(|_| ())
    }

    fn destroy(self: Box<Self>) {
        // SAFETY: the communicator's last use.
        let ended = unsafe { (self.calls.destroy)(self.communicator) };
        self.log_end(ended);
    }

    fn abort(self: Box<Self>) {
        // SAFETY: as above.
        let ended = unsafe { (self.calls.abort)(self.communicator) };
        self.log_end(ended);
    }
}

impl Place {
    /// Whoever ends a communicator has no use for an error any more.
    fn log_end(&self, ended: c_int) {
        if let Err(Fault(detail)) = self.calls.check(ended) {
            tracing::debug!(detail, "the communicator did not end cleanly");
        }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Library({})", self.describe())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::collective::conformance::{on_lanes, plain_sum, words};
    use crate::collective::nccl::{Limits, in_process};
    use crate::collective::{Collective, shard_range};
    use crate::compute::{Compute, GpuDevice, Words};

    #[test]
    fn a_missing_library_says_where_it_was_looked_for_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("nowhere");
        if open(Path::new(FILE)).is_ok() {
            return; // The loader finds one here.
        }
        let error = Library::load_from(true, &[folder.path().to_owned(), nowhere]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "there is no libnccl.so.2 where the loader looks, nor in {}; pip install nvidia-nccl-cu13 (or apt \
                 install libnccl2), or set TREFOIL_CUDA_LIBRARIES to its folder",
                folder.path().display()
            )
        );
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        std::fs::write(&file, "not a library").unwrap();
        let error = Library::load_from(false, &[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} cannot be used: ", file.display())), "{error}");
    }

    #[test]
    #[ignore = "needs libnccl.so.2: pip install nvidia-nccl-cu13, then TREFOIL_CUDA_LIBRARIES=its folder; no GPU"]
    fn the_real_library_loads_and_names_groups_and_refuses_cleanly_without_a_gpu() {
        let library = Library::load().unwrap();
        assert!(library.version() >= VERSION_MIN);
        let ids = [library.unique_id().unwrap(), library.unique_id().unwrap()];
        assert!(ids[0] != ids[1] && ids[0].0.iter().any(|byte| *byte != 0));
        if Gpu::count().is_err() {
            let Fault(detail) = library.begin(&ids[0], 0, 1).unwrap_err();
            assert!(!detail.is_empty());
            tracing::info!(detail, "{}", library.describe());
        }
    }

    #[test]
    #[ignore = "needs GPUs and libnccl.so.2"]
    fn real_nccl_sums_over_all_gpus_there_are() {
        let gpus = Gpu::count().unwrap();
        let device = |ordinal| Arc::new(GpuDevice::new(Gpu::open(ordinal).unwrap())) as Arc<dyn Compute>;
        let devices: Vec<_> = (0..gpus).map(device).collect();
        let api: Arc<dyn Api> = Arc::new(Library::load().unwrap());
        let members = in_process(&api, &devices, Limits::default()).into_iter();
        let members = members.map(|member| Box::new(member) as Box<dyn Collective>).collect();
        on_lanes(members, |mut lane| {
            let rank = lane.rank();
            for (seed, len) in (0..).zip([0, 1, 5, 4096, 100_003, 8_000_000]) {
                let (sum, own) = (plain_sum(seed, gpus, len), words(seed, rank, len));
                for mut data in [devices[rank].hold(own.clone()), Words::from(own)] {
                    let shard = lane.reduce_scatter(&data).unwrap();
                    assert_eq!(shard, Words::from(sum[shard_range(len, rank, gpus)].to_vec()));
                    assert_eq!(lane.all_gather(&shard, len).unwrap().into_host(), sum);
                    lane.barrier().unwrap();
                    lane.all_reduce(&mut data).unwrap();
                    assert_eq!(data.into_host(), sum);
                }
            }
        });
    }
}
