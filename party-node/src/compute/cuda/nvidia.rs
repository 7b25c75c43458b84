//! An NVIDIA GPU through the CUDA driver.
#![allow(unsafe_code, reason = "calls into the CUDA driver")]

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::blas::{Blas, WORKSPACE_BYTES};
use super::driver::{Arrival, Driver, Int8Gemm};
use super::staging::{Arriving, Buffers, Staging};
use super::{CudaError, compiler, libraries, source};

/// The oldest compute capability that the kernels are checked for.
const CAPABILITY_MIN: u32 = 80;
/// The oldest driver, by its CUDA version.
const DRIVER_MIN: u32 = 12_000;

/// A device: its primary context, a stream, and the kernels.
pub(super) struct Nvidia {
    name: String,
    processors: u32,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pool: sys::CUmemoryPool,
    module: sys::CUmodule,
    kernels: HashMap<String, sys::CUfunction>,
    staging: Mutex<Option<Staging>>,
    arrivals: Arc<Buffers>,
    blas: Mutex<Option<(Blas, u64)>>,
}

// SAFETY: the driver's handles may be used from any thread in which the context is current, and every call makes it so.
// What is not meant for several threads at a time is under a lock.
unsafe impl Send for Nvidia {}
// SAFETY: as above.
unsafe impl Sync for Nvidia {}

/// How many devices the driver sees.
pub(super) fn count() -> Result<usize, CudaError> {
    libraries::driver()?;
    let failed = |error| failure("the CUDA driver", "cuInit", error);
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        other => other.map_err(failed)?,
    }
    let count = result::device::get_count().map_err(failed)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl Nvidia {
    /// Opens a device: compiles the kernels for it unless that has been done before.
    pub(super) fn open(ordinal: usize) -> Result<Self, CudaError> {
        let count = count()?;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let mut version = 0;
        // SAFETY: the library is there; a place for a number.
        let got = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
        got.map_err(|error| failure("the CUDA driver", "cuDriverGetVersion", error))?;
        let version = version.unsigned_abs();
        if version < DRIVER_MIN {
            return Err(CudaError::Driver { found: version, needed: DRIVER_MIN });
        }
        let named = |error| failure(&format!("GPU {ordinal}"), "cuDeviceGet", error);
        let device = result::device::get(i32::try_from(ordinal).expect("counted in 32 bits")).map_err(named)?;
        let name = format!("{} (GPU {ordinal})", result::device::get_name(device).map_err(named)?);
        // SAFETY: the device was just got.
        let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map_err(named);
        let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let processors = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.unsigned_abs();
        let capability = 10 * major.unsigned_abs() + minor.unsigned_abs();
        if capability < CAPABILITY_MIN {
            return Err(CudaError::Capability { device: name, capability });
        }
        let cubin = compiler::cubin(capability, version)?;
        let opened = |step: &'static str| {
            let name = name.clone();
            move |error| failure(&name, step, error)
        };
        // SAFETY: the device was just got; the context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(opened("cuDevicePrimaryCtxRetain"))?;
        let mut nvidia = Self {
            name: name.clone(),
            processors,
            device,
            context,
            stream: std::ptr::null_mut(),
            pool: std::ptr::null_mut(),
            module: std::ptr::null_mut(),
            kernels: HashMap::new(),
            staging: Mutex::default(),
            arrivals: Arc::default(),
            blas: Mutex::default(),
        };
        nvidia.prepare(&cubin)?;
        Ok(nvidia)
    }

    /// Stream, pool, kernels. What has been made so far is given back in `drop` if something fails.
    fn prepare(&mut self, cubin: &[u8]) -> Result<(), CudaError> {
        self.make_current()?;
        self.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| self.failed("cuStreamCreate", e))?;
        let mut keep = u64::MAX;
        // SAFETY: the device is open; the attribute takes a 64-bit number. Pieces that go back stay in the pool.
        let pool = unsafe {
            result::device::get_default_mem_pool(self.device).and_then(|pool| {
                let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()).map(|()| pool)
            })
        };
        self.pool = pool.map_err(|e| self.failed("cuMemPoolSetAttribute", e))?;
        // SAFETY: the compiler made this for the device; an unfit one is refused.
        let module = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
        self.module = module.map_err(|e| self.failed("cuModuleLoadData", e))?;
        for kernel in source::kernels(&source::source()) {
            let name = CString::new(kernel.name).expect("names have no zeros");
            // SAFETY: the module is loaded.
            let function = unsafe { result::module::get_function(self.module, name) };
            let function = function.map_err(|e| self.failed(&format!("looking for {}", kernel.name), e))?;
            self.kernels.insert(kernel.name.to_owned(), function);
        }
        Ok(())
    }

    fn make_current(&self) -> Result<(), CudaError> {
        let current = result::ctx::get_current().ok().flatten();
        if current == Some(self.context) {
            return Ok(());
        }
        // SAFETY: the context lives as long as this.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| self.failed("cuCtxSetCurrent", e))
    }

    fn failed(&self, step: &str, error: DriverError) -> CudaError {
        failure(&self.name, step, error)
    }

    /// Does something with the context current.
    fn call<T>(&self, step: &str, work: impl FnOnce() -> Result<T, DriverError>) -> Result<T, CudaError> {
        self.make_current()?;
        work().map_err(|error| self.failed(step, error))
    }

    fn staged(&self, step: &str, copy: impl FnOnce(&mut Staging) -> Result<(), DriverError>) -> Result<(), CudaError> {
        let mut staging = self.staging.lock().expect("no holder panics");
        self.call(step, || {
            if staging.is_none() {
                *staging = Some(Staging::new(self.stream)?);
            }
            copy(staging.as_mut().expect("just made"))
        })
    }
}

fn failure(device: &str, step: &str, error: DriverError) -> CudaError {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    CudaError::Failed { device: device.to_owned(), step: step.to_owned(), detail: format!("{:?}, {text}", error.0) }
}

impl Driver for Nvidia {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn processors(&self) -> u32 {
        self.processors
    }

    fn memory_info(&self) -> Result<(usize, usize), CudaError> {
        self.call("cuMemGetInfo", result::mem_get_info)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.make_current()?;
        // SAFETY: the stream lives as long as this.
        let allocate = || unsafe { result::malloc_async(self.stream, bytes) };
        let full = |error: &DriverError| error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let mut outcome = allocate();
        if outcome.as_ref().is_err_and(full) {
            // What waits in the pool in pieces of other sizes may help.
            self.synchronise()?;
            // SAFETY: the pool is the device's own.
            let trimmed = unsafe { result::mem_pool::trim_to(self.pool, 0) };
            trimmed.map_err(|e| self.failed("cuMemPoolTrimTo", e))?;
            outcome = allocate();
        }
        outcome.map_err(|error| {
            if !full(&error) {
                return self.failed("cuMemAllocAsync", error);
            }
            let (free, total) = self.memory_info().unwrap_or_default();
            let [wanted_mib, free_mib, total_mib] = [bytes, free, total].map(|bytes| bytes >> 20);
            CudaError::OutOfMemory { device: self.name.clone(), wanted_mib, free_mib, total_mib }
        })
    }

    fn free(&self, address: u64, _bytes: usize) {
        // SAFETY: it came from `allocate` and goes back once, after all that was started before. A device that has failed
        // takes nothing back, and nobody needs it any more.
        let freed = self.call("cuMemFreeAsync", || unsafe { result::free_async(address, self.stream) });
        if let Err(error) = freed {
            tracing::debug!(%error, "memory is not given back");
        }
    }

    fn to_device(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.staged("a copy to the device", |staging| staging.send(address, bytes))
    }

    fn to_host(&self, bytes: &mut [u8], address: u64) -> Result<(), CudaError> {
        self.staged("a copy to the host", |staging| staging.fetch(bytes, address))
    }

    fn start_to_host(&self, address: u64, bytes: usize) -> Result<Box<dyn Arrival>, CudaError> {
        let start = || Buffers::start(&self.arrivals, address, bytes, self.stream);
        let arriving = self.call("a copy to the host", start)?;
        Ok(Box::new(FromDevice { arriving, name: self.name.clone(), context: self.context }))
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: both places are the caller's.
        self.call("cuMemcpyDtoDAsync", || unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) })
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the place is the caller's.
        self.call("cuMemsetD8Async", || unsafe { result::memset_d8_async(address, 0, bytes, self.stream) })
    }

    fn launch(&self, kernel: &'static str, grid: [u32; 3], block: u32, arguments: &[u64]) -> Result<(), CudaError> {
        let function = *self.kernels.get(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let mut bytes = size_of_val(arguments);
        // All parameters are runs of 8-byte words, so that their buffer is their words: marks 1 (buffer), 2 (its size), 0.
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            arguments.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut bytes).cast(),
            std::ptr::null_mut(),
        ];
        let [x, y, z] = grid;
        self.call(kernel, || {
            // SAFETY: the function belongs to the loaded module; the driver copies the arguments before it returns.
            let started = unsafe {
                let (nothing, extra) = (std::ptr::null_mut(), extra.as_mut_ptr());
                sys::cuLaunchKernel(function, x, y, z, block, 1, 1, 0, self.stream, nothing, extra)
            };
            started.result()
        })
    }

    fn int8_gemm(&self, product: &Int8Gemm) -> Result<(), CudaError> {
        self.make_current()?;
        let mut blas = self.blas.lock().expect("no holder panics");
        let failed = |error: cudarc::cublaslt::result::CublasError| CudaError::Failed {
            device: self.name.clone(),
            step: format!("an int8 product of {} x {} x {}", product.rows, product.depth, product.columns),
            detail: format!("{:?}", error.0),
        };
        if blas.is_none() {
            libraries::products()?;
            *blas = Some((Blas::new().map_err(failed)?, self.allocate(WORKSPACE_BYTES)?));
        }
        let (blas, workspace) = blas.as_mut().expect("just made");
        blas.start(product, *workspace, self.stream.cast()).map_err(failed)
    }

    fn synchronise(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as this.
        self.call("waiting for the device", || unsafe { result::stream::synchronize(self.stream) })
    }

    fn stream(&self) -> Option<u64> {
        self.make_current().ok().map(|()| self.stream as u64)
    }

    fn idle(&self) -> Result<bool, CudaError> {
        // SAFETY: as above.
        self.call("cuStreamQuery", || match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true),
        })
    }
}

/// A copy to the host, and the device that it comes from.
struct FromDevice {
    arriving: Arriving,
    name: String,
    context: sys::CUcontext,
}

// SAFETY: a context may be made current in any thread. The device outlives whoever holds this.
unsafe impl Send for FromDevice {}

impl Arrival for FromDevice {
    fn finish(self: Box<Self>, into: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the context lives as long as the device.
        let current = unsafe { result::ctx::set_current(self.context) };
        let copied = current.and_then(|()| self.arriving.copy_out(into));
        copied.map_err(|error| failure(&self.name, "a copy to the host", error))
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        if self.make_current().is_err() {
            return;
        }
        let blas = self.blas.get_mut().ok().and_then(Option::take);
        let staging = self.staging.get_mut().ok().and_then(Option::take);
        // SAFETY: all of it was made by `open`, and nobody uses it any more. Errors are of no use to anybody now.
        unsafe {
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
            }
            if let Some((blas, workspace)) = blas {
                drop(blas);
                let _ = result::free_async(workspace, self.stream);
            }
            drop(staging);
            self.arrivals.release();
            if !self.module.is_null() {
                let _ = result::module::unload(self.module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
