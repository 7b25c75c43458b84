//! The driver's side of a GPU without a GPU: libraries of the names that CUDA's have, which play its calls on the CPU and put
//! everything off until somebody waits. A part of the suite runs against them in a process of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::{choice, emulated, source};

/// The emulator's program, the calls of the libraries, and a list of the kernels.
fn program() -> String {
    let mut program = emulated::wrapped();
    program.push_str(include_str!("kernels/imitation.hpp"));
    program.push_str("static const bool listed = [] {\n");
    for kernel in source::kernels(&source::source()) {
        writeln!(program, "imitation::kernels()[\"{0}\"] = emulate_{0};", kernel.name).expect("a string takes it");
    }
    program.push_str("return true;\n}();\n");
    program
}

/// Builds the libraries into a folder: one file under all three names.
fn build(folder: &Path) {
    let (text, library) = (folder.join("imitation.cpp"), folder.join("imitation.so"));
    std::fs::write(&text, program()).unwrap();
    let mut compiler = emulated::compiler();
    let output = compiler.arg("-o").arg(&library).arg(&text).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["libcuda.so", "libnvrtc.so", "libcublasLt.so"] {
        std::os::unix::fs::symlink(&library, folder.join(name)).unwrap();
    }
}

/// A device of the driver's own kind: opened by its number, launched by buffers of arguments, fed through pinned rings.
#[test]
fn the_driver_asks_for_what_the_emulator_does() {
    if super::Gpu::emulated(0).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    build(folder.path());
    let kept = folder.path().join("trefoil");
    std::fs::create_dir(&kept).unwrap();
    // As if measured before: timing large products would take the emulator hours.
    std::fs::write(kept.join(choice::file_name("imitated (GPU 0)")), "100000 300000\n").unwrap();
    let tests = [
        "a_gpu_has_its_name",
        "vectors_move_as_they_are",
        "large_vectors_pass_in_pieces",
        "truncations_equal_the_hosts",
        "keystreams_equal_the_hosts",
        "split_products_of_any_form_equal_the_reference",
        "exponentials_equal_the_hosts",
        "leaves_equal_the_hosts",
    ];
    let output = Command::new(std::env::current_exe().unwrap())
        .args(tests.map(|test| format!("compute::cuda::conformance::{test}")))
        .env("LD_LIBRARY_PATH", folder.path())
        .env("XDG_CACHE_HOME", folder.path())
        .env("MPC_TEST_DEVICE", "cuda")
        .env_remove("TREFOIL_CUDA_LIBRARIES")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("8 passed"), "{said}\n{complained}");
    assert!(kept.read_dir().unwrap().count() == 2, "machine code is kept beside the measurement");
}
