//! Products of int8 matrices by cuBLASLt.
#![allow(unsafe_code, reason = "calls into cuBLASLt")]

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::{result, sys};

use super::driver::Int8Gemm;

/// Memory that products may use besides their operands.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// The library, and what it has been asked before.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<[usize; 5], Plan>,
}

/// How products of one shape are done.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: handles of cuBLASLt may be used from any thread, by one at a time; `&mut self` sees to that.
unsafe impl Send for Blas {}

impl Blas {
    /// The library must have been found, and the device's context be current.
    pub(super) fn new() -> Result<Self, result::CublasError> {
        Ok(Self { handle: result::create_handle()?, plans: HashMap::new() })
    }

    /// Starts a product. The addresses must be the device's, the workspace of [`WORKSPACE_BYTES`].
    pub(super) fn start(
        &mut self,
        product: &Int8Gemm,
        workspace: u64,
        stream: sys::cudaStream_t,
    ) -> Result<(), result::CublasError> {
        let Int8Gemm { rows, columns, depth, a, a_line, b, b_line, out } = *product;
        let shape = [rows, columns, depth, a_line, b_line];
        if !self.plans.contains_key(&shape) {
            let plan = Plan::new(self.handle, shape)?;
            self.plans.insert(shape, plan);
        }
        let plan = &self.plans[&shape];
        let (one, zero) = (1_i32, 0_i32);
        // SAFETY: the plan's handles live as long as this; the addresses hold matrices of its shape, as the caller states.
        // Column by column, our row-major result is its transpose: the right operand comes first.
        unsafe {
            result::matmul(
                self.handle,
                plan.description,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                b as *const c_void,
                plan.b,
                a as *const c_void,
                plan.a,
                out as *const c_void,
                plan.out,
                out as *mut c_void,
                plan.out,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream,
            )
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        for plan in self.plans.values() {
            plan.destroy();
        }
        // SAFETY: made by `new`, and used by nobody any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn new(
        handle: sys::cublasLtHandle_t,
        [rows, columns, depth, a_line, b_line]: [usize; 5],
    ) -> Result<Self, result::CublasError> {
        let layout = |kind, lines: usize, count: usize, line: usize| {
            let line = i64::try_from(line).expect("lines are far below 2^63");
            result::create_matrix_layout(kind, lines as u64, count as u64, line)
        };
        let (bytes, words) = (sys::cudaDataType_t::CUDA_R_8I, sys::cudaDataType_t::CUDA_R_32I);
        let description = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32I, words)?;
        let a = layout(bytes, depth, rows, a_line)?;
        let b = layout(bytes, depth, columns, b_line)?;
        let out = layout(words, columns, rows, columns)?;
        // CUBLAS_OP_T, which this module of the bindings does not name.
        let transposed = 1_i32;
        let preference = result::create_matmul_pref()?;
        let bytes = WORKSPACE_BYTES;
        // SAFETY: every attribute is given a value of its type and size; all handles were just made.
        let found = unsafe {
            result::set_matmul_desc_attribute(
                description,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )?;
            result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const bytes).cast(),
                size_of_val(&bytes),
            )?;
            let found = result::get_matmul_algo_heuristic(handle, description, b, a, out, out, preference);
            let _ = result::destroy_matmul_pref(preference);
            found
        };
        let mut plan = Self { description, a, b, out, algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] } };
        match found {
            Ok(found) => {
                plan.algorithm = found.algo;
                Ok(plan)
            }
            Err(error) => {
                plan.destroy();
                Err(error)
            }
        }
    }

    fn destroy(&self) {
        // SAFETY: made by `new`, destroyed once, used by nobody any more.
        unsafe {
            let _ = result::destroy_matmul_desc(self.description);
            for layout in [self.a, self.b, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}
