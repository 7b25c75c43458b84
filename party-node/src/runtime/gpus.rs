//! What the machine's GPUs say about themselves, for `/metrics`. Knows no lanes: nothing here runs in one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A GPU is asked at most this often, however often somebody scrapes.
const INTERVAL: Duration = Duration::from_secs(1);

/// A GPU at one moment. What it does not tell is none, not zero.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Reading {
    /// Its number, as `nvidia-smi` counts.
    pub(super) gpu: u32,
    /// Part of the last moments in which a kernel ran, 0 to 1.
    pub(super) utilisation: Option<f64>,
    /// Bytes of its memory in use, and free.
    pub(super) used_free_bytes: Option<[u64; 2]>,
    /// What it draws.
    pub(super) power_watts: Option<f64>,
    /// How warm it is.
    pub(super) temperature_celsius: Option<f64>,
    /// Critical errors (XID) since it was first asked.
    pub(super) xid_errors: Option<u64>,
}

/// Whoever can ask the GPUs.
pub(super) trait Sampler: Send {
    /// Asks them all.
    fn sample(&mut self) -> Vec<Reading>;
}

/// The GPUs of this machine. Asked for the first time, it looks whether there is anybody to ask.
pub(super) struct Gpus(Mutex<State>);

enum State {
    Unopened(fn() -> Option<Box<dyn Sampler>>),
    Open { sampler: Box<dyn Sampler>, interval: Duration, latest: Option<(Instant, Vec<Reading>)> },
    Absent,
}

impl Gpus {
    /// Those that NVIDIA's management library sees; none without it.
    pub(super) fn of_this_machine() -> Self {
        #[cfg(feature = "cuda")]
        return Self(Mutex::new(State::Unopened(super::nvml::open)));
        #[cfg(not(feature = "cuda"))]
        Self(Mutex::new(State::Unopened(|| None)))
    }

    /// Those that a sampler knows, asked no more often than once an interval.
    #[cfg(test)]
    pub(super) fn of(sampler: impl Sampler + 'static, interval: Duration) -> Self {
        Self(Mutex::new(State::Open { sampler: Box::new(sampler), interval, latest: None }))
    }

    /// What they said when they were last asked, which is now unless that was a moment ago.
    pub(super) fn readings(&self) -> Vec<Reading> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Unopened(open) = &*state {
            *state = open().map_or(State::Absent, |sampler| State::Open { sampler, interval: INTERVAL, latest: None });
        }
        let State::Open { sampler, interval, latest } = &mut *state else { return Vec::new() };
        match latest {
            Some((at, readings)) if at.elapsed() < *interval => readings.clone(),
            _ => latest.insert((Instant::now(), sampler.sample())).1.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often it was asked.
    struct Counting(u64);

    impl Sampler for Counting {
        fn sample(&mut self) -> Vec<Reading> {
            self.0 += 1;
            vec![Reading { xid_errors: Some(self.0), ..Reading::default() }]
        }
    }

    fn asked(gpus: &Gpus) -> Option<u64> {
        gpus.readings()[0].xid_errors
    }

    #[test]
    fn gpus_are_asked_once_an_interval() {
        let patient = Gpus::of(Counting(0), Duration::from_secs(3600));
        assert_eq!([asked(&patient), asked(&patient), asked(&patient)], [Some(1); 3]);
        let eager = Gpus::of(Counting(0), Duration::ZERO);
        assert_eq!([asked(&eager), asked(&eager)], [Some(1), Some(2)]);
    }

    #[test]
    fn where_nobody_can_be_asked_there_is_nothing() {
        let gpus = Gpus(Mutex::new(State::Unopened(|| None)));
        assert_eq!((gpus.readings(), gpus.readings()), (vec![], vec![]));
    }
}
