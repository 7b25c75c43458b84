//! Who runs the I/O of a lane: the protocol thread while it waits, a background thread while it computes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::yield_now;

/// How long the protocol thread may be away before the background thread takes over.
const AWAY_MAX: Duration = Duration::from_millis(1);

/// A turn that takes longer means that others want this processor: better to sleep, and be woken with priority.
const TURN_MAX: Duration = Duration::from_micros(50);
/// Most waits in a row that are slept through because an earlier one was long.
const PENALTY_MAX: u32 = 64;

/// A single-threaded runtime that two threads drive by turns.
pub(super) struct Driver {
    shared: Arc<Shared>,
    background: Option<JoinHandle<()>>,
}

struct Shared {
    runtime: Runtime,
    /// The protocol thread is driving, or wants to.
    wanted: AtomicBool,
    /// The background thread is driving.
    lent: AtomicBool,
    /// Asks the background thread to hand the runtime back.
    hand_back: Notify,
    /// When the protocol thread last drove, in microseconds since `origin`.
    left_at_us: AtomicU64,
    origin: Instant,
    stop: AtomicBool,
    dedicated: bool,
}

impl Driver {
    pub(super) fn new(dedicated: bool) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared {
            runtime,
            wanted: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            hand_back: Notify::new(),
            left_at_us: AtomicU64::new(0),
            origin: Instant::now(),
            stop: AtomicBool::new(false),
            dedicated,
        });
        let for_thread = shared.clone();
        let background = thread::Builder::new().name("lane-io".into()).spawn(move || for_thread.fill_in())?;
        Ok(Self { shared, background: Some(background) })
    }

    /// Runs a future to its end on the calling thread, and the lane's I/O with it.
    pub(super) fn run<F: Future>(&self, future: F) -> F::Output {
        let shared = &*self.shared;
        shared.wanted.store(true, Ordering::SeqCst);
        if shared.lent.load(Ordering::SeqCst) && !shared.dedicated {
            shared.hand_back.notify_one();
        }
        // Waits on the background thread's turn if that has not ended yet: the runtime allows both.
        let output = shared.runtime.block_on(future);
        shared.left_at_us.store(shared.now_us(), Ordering::Relaxed);
        shared.wanted.store(false, Ordering::SeqCst);
        output
    }

    /// Calls the background thread in at once: there is work that should not wait for [`AWAY_MAX`].
    pub(super) fn wake_background(&self) {
        if let Some(background) = &self.background {
            background.thread().unpark();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.hand_back.notify_one();
        if let Some(background) = self.background.take() {
            background.thread().unpark();
            // A panic there has been reported already; dropping must not add another.
            let _ = background.join();
        }
    }
}

/// How a waiting protocol thread spends its first moments: awake if that has paid off lately, asleep if not.
pub(super) struct Patience {
    window: Duration,
    /// Waits to sleep through after the next miss.
    penalty: u32,
    /// Waits still to be slept through.
    skip: u32,
}

impl Patience {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, penalty: 0, skip: 0 }
    }

    /// Gives the network turns until `look` finds something, for as long as the window.
    pub(super) async fn look<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.skip > 0 || self.window.is_zero() {
            self.skip = self.skip.saturating_sub(1);
            return None;
        }
        let start = Instant::now();
        let mut turn_began = Duration::ZERO;
        loop {
            yield_now().await;
            if let Some(found) = look() {
                self.penalty = 0;
                return Some(found);
            }
            thread::yield_now();
            let now = start.elapsed();
            if now > self.window || now - turn_began > TURN_MAX {
                self.penalty = (2 * self.penalty).clamp(1, PENALTY_MAX);
                self.skip = self.penalty;
                return None;
            }
            turn_began = now;
        }
    }
}

impl Shared {
    fn fill_in(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            if !self.dedicated {
                thread::park_timeout(AWAY_MAX);
                let away_us = self.now_us().saturating_sub(self.left_at_us.load(Ordering::Relaxed));
                let here = self.wanted.load(Ordering::SeqCst);
                if here || u128::from(away_us) < AWAY_MAX.as_micros() / 2 {
                    continue;
                }
            }
            self.lent.store(true, Ordering::SeqCst);
            if self.dedicated || !self.wanted.load(Ordering::SeqCst) {
                self.runtime.block_on(self.hand_back.notified());
            }
            self.lent.store(false, Ordering::SeqCst);
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
