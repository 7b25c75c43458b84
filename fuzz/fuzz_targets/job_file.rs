//! Job files: what is accepted is in range.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

#[allow(dead_code, unused_imports, unreachable_pub, reason = "a module of the launcher, of which this needs a part")]
#[path = "../../launch/src/args.rs"]
mod args;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "a module of the launcher, of which this needs a part")]
#[path = "../../launch/src/scaling/network.rs"]
mod network;
mod scaling {
    pub(crate) use super::network::Link;
}
#[allow(dead_code, unused_imports, unreachable_pub, reason = "a module of the launcher, of which this needs a part")]
#[path = "../../launch/src/settings.rs"]
mod settings;

/// The launcher reads its job from a file, so every input becomes one.
static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("trefoil-fuzz-{}.toml", std::process::id())));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    std::fs::write(&*FILE, bytes).expect("the temporary folder can be written");
    let args = args::JobArgs { config: Some(FILE.clone()), ..args::JobArgs::default() };
    let settings = settings::load(&args, std::iter::empty());
    let _ = std::fs::remove_file(&*FILE);
    if let Ok(settings) = settings {
        settings.job.check().expect("what is loaded is in range");
    }
});
