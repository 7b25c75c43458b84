//! What becomes of a panic: its place is kept and logged, its message never, since it may hold a value.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Where the first panic happened: it ends the job, so no other matters.
static FIRST_PLACE: Mutex<Option<String>> = Mutex::new(None);

/// From now on a panic of any thread logs its place only.
pub(super) fn keep_quiet() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
        tracing::error!("thread {} panicked at {place}", thread::current().name().unwrap_or("without a name"));
        FIRST_PLACE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(place);
    }));
}

/// A panic that was caught: where it happened, as far as that is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Panicked {
    pub(super) place: String,
}

/// Runs `work`; a panic becomes an error without its message.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    // Nothing that `work` may have left half done is used afterwards: its lane is over.
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|message: Box<dyn Any + Send>| {
        drop(message);
        let place = FIRST_PLACE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Panicked { place: place.unwrap_or_else(|| "an unknown place".into()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// In a process of its own, since a panic hook belongs to the whole process.
    #[test]
    fn the_place_of_a_panic_is_told_and_its_message_is_not() {
        const CHILD: &str = "TREFOIL_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            crate::runtime::logs::start();
            keep_quiet();
            let panicked = catch(|| panic!("a secret: {}", 123_456 * 1001)).unwrap_err();
            println!("caught at {}", panicked.place);
            return;
        }
        let this_test = "runtime::panics::tests::the_place_of_a_panic_is_told_and_its_message_is_not";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", this_test, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let (told, logged) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(told.contains("caught at party-node/src/runtime/panics.rs:"), "{told}");
        assert!(logged.contains("panicked at party-node/src/runtime/panics.rs:"), "{logged}");
        assert!(!told.contains("123579456") && !logged.contains("123579456") && !logged.contains("a secret"));
    }
}
