//! Who runs the I/O of a lane: the protocol thread while it waits, a background thread while it computes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::yield_now;

/// How long the protocol thread may be away before the background thread takes over.
const AWAY_MAX: Duration = Duration::from_micros(AWAY_MAX_US);
const AWAY_MAX_US: u64 = 1000;
/// How long the background thread sleeps while the protocol thread waits for a slow peer.
const LONG_SLEEP: Duration = Duration::from_millis(50);

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
    /// The background thread shall take over without waiting for [`AWAY_MAX`].
    urgent: AtomicBool,
    /// How often the protocol thread has driven.
    turns: AtomicU64,
    /// When it last stopped, in microseconds since `origin`.
    left_at_us: AtomicU64,
    origin: Instant,
    stop: AtomicBool,
}

impl Driver {
    pub(super) fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            runtime: Builder::new_current_thread().enable_all().build()?,
            wanted: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            hand_back: Notify::new(),
            urgent: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            left_at_us: AtomicU64::new(0),
            origin: Instant::now(),
            stop: AtomicBool::new(false),
        });
        let for_thread = shared.clone();
        let background = thread::Builder::new().name("lane-io".into()).spawn(move || for_thread.fill_in())?;
        Ok(Self { shared, background: Some(background) })
    }

    /// Runs a future to its end on the calling thread, and the lane's I/O with it.
    pub(super) fn run<F: Future>(&self, future: F) -> F::Output {
        let shared = &*self.shared;
        let entered_at_us = shared.now_us();
        shared.turns.fetch_add(1, Ordering::Relaxed);
        shared.wanted.store(true, Ordering::SeqCst);
        if shared.lent.load(Ordering::SeqCst) {
            shared.hand_back.notify_one();
        }
        // The runtime lets several threads wait in it; one drives, and the next takes over when that one leaves.
        let output = shared.runtime.block_on(future);
        let now_us = shared.now_us();
        shared.left_at_us.store(now_us, Ordering::Relaxed);
        shared.wanted.store(false, Ordering::SeqCst);
        if now_us - entered_at_us >= AWAY_MAX_US {
            // The background thread may have settled for a long sleep.
            self.wake();
        }
        output
    }

    /// Calls the background thread in at once: there is work that should not wait.
    pub(super) fn hand_over(&self) {
        self.shared.urgent.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(background) = &self.background {
            background.thread().unpark();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.hand_back.notify_one();
        self.wake();
        if let Some(background) = self.background.take() {
            // A panic there has been reported already; dropping must not add another.
            let _ = background.join();
        }
    }
}

impl Shared {
    /// The background thread: drives whenever the protocol thread has been away for a while.
    fn fill_in(&self) {
        let mut turn_seen = None;
        while !self.stop.load(Ordering::SeqCst) {
            let turn = self.wanted.load(Ordering::SeqCst).then(|| self.turns.load(Ordering::Relaxed));
            // The protocol thread wakes us at the end of a turn as long as this.
            let in_one_long_turn = turn.is_some() && turn == turn_seen;
            thread::park_timeout(if in_one_long_turn { LONG_SLEEP } else { AWAY_MAX });
            turn_seen = turn;

            let away_us = self.now_us().saturating_sub(self.left_at_us.load(Ordering::Relaxed));
            let due = self.urgent.swap(false, Ordering::SeqCst) || away_us >= AWAY_MAX_US / 2;
            if self.wanted.load(Ordering::SeqCst) || !due {
                continue;
            }
            self.lent.store(true, Ordering::SeqCst);
            // Looked at again, because the protocol thread looks at `lent` only after it has set this.
            if !self.wanted.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
                self.runtime.block_on(self.hand_back.notified());
            }
            self.lent.store(false, Ordering::SeqCst);
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
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
