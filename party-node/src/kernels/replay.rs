//! One party of three on its own: a comparison runs once among three threads, then what the first party received is
//! handed to it again and again, at once, so that nothing but its own work takes time.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use shared::ids::PartyId;
use shared::job::ProtocolSpec;
use shared::share::Share;

use super::trial::words;
use crate::compute::{CpuDevice, Path};
use crate::meter::{LaneCounters, Meter};
use crate::protocol::{Bits, PairKeys, Party, ProtocolError, sign, tile_ranges};
use crate::transport::{MemoryTransport, Transport, TransportError, memory_triangle};

/// How long a party waits for the others: their threads may have to share a core with other programs.
const WAIT_MAX: Duration = Duration::from_secs(60);

type Frames = Vec<(PartyId, Vec<u8>)>;

/// A comparison by three parties, seen from the first.
pub(super) struct Recording {
    path: Path,
    share: Share,
    received: Frames,
    pub(super) traffic: Traffic,
    bits: Vec<Bits>,
}

/// Bytes of one party in one comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    /// Of keystream.
    pub(super) stream_bytes: usize,
    /// Sent and received.
    pub(super) wire_bytes: usize,
}

/// One comparison by one party.
struct Outcome {
    /// From shares to shares of bits.
    seconds: f64,
    traffic: Traffic,
    bits: Vec<Bits>,
}

impl Recording {
    /// Runs the comparison of so many values of 30 bits with zero.
    pub(super) fn new(path: Path, values: usize) -> Self {
        let shares = &shares(values);
        let ends = memory_triangle();
        let (outcomes, mut received): (Vec<_>, Vec<_>) = thread::scope(|scope| {
            let threads = ends.map(|end| {
                scope.spawn(move || {
                    let frames = Arc::default();
                    let share = &shares[end.me().index()];
                    let party = party(Box::new(Noting { end, frames: Arc::clone(&frames) }), path);
                    let outcome = compare(&party, share).and_then(|outcome| party.close().map(|()| outcome));
                    (outcome.expect(NOTHING_IS_LOST), std::mem::take(&mut *frames.lock().expect("no holder panics")))
                })
            });
            threads.into_iter().map(|thread| thread.join().expect(NOTHING_IS_LOST)).unzip()
        });
        let Outcome { traffic, bits, .. } = outcomes.into_iter().next().expect("three parties");
        Self { path, share: shares[0].clone(), received: received.swap_remove(0), traffic, bits }
    }

    /// Lets the first party do its part once more; how many seconds that took.
    pub(super) fn replay(&self) -> f64 {
        let frames = self.received.clone().into_iter();
        let party = party(Box::new(Replay { frames }), self.path);
        let outcome = compare(&party, &self.share).expect(NOTHING_IS_LOST);
        // Not the bytes on the wire: how many frames the messages share depends on who was faster.
        let same = outcome.bits == self.bits && outcome.traffic.stream_bytes == self.traffic.stream_bytes;
        assert!(same, "a party does the same again");
        outcome.seconds
    }
}

const NOTHING_IS_LOST: &str = "between threads of a process nothing is lost";

/// A party under keys that everyone may know: it works on generated values.
fn party(transport: Box<dyn Transport>, path: Path) -> Party {
    let me = transport.me();
    let key = |first: PartyId| [1 + u32::from(u8::from(first)); 8];
    let keys = PairKeys::new(key(me), key(me.prev()));
    let meter = Meter::new(Arc::new(LaneCounters::default()));
    let device = Arc::new(CpuDevice::with_path(path, 1));
    Party::new(transport, keys, device, meter, ProtocolSpec::default(), WAIT_MAX, Arc::new(AtomicBool::new(false)))
}

/// Values of 30 bits and a sign.
fn shares(values: usize) -> [Share; 3] {
    let small = |word: u64| (word.cast_signed() >> 33).cast_unsigned();
    let [x0, x1] = [1, 2].map(|seed| words(seed, values));
    let x2 = words(3, values).into_iter().zip(&x0).zip(&x1);
    let x2 = x2.map(|((word, x0), x1)| small(word).wrapping_sub(*x0).wrapping_sub(*x1)).collect();
    let components = [x0, x1, x2];
    PartyId::ALL.map(|party| Share {
        first: components[party.index()].clone(),
        second: components[party.next().index()].clone(),
    })
}

/// Compares a vector with zero. Values enter their tiles before the clock runs: in a network, they are there already.
fn compare(party: &Party, share: &Share) -> Result<Outcome, ProtocolError> {
    let ranges = tile_ranges(share.len(), 1);
    let entered = &party.run_in(&ranges, |tile, range| async move { Ok(tile.enter(share, range)) })?;
    let helpers: Vec<_> = (0..ranges.len()).map(|i| PartyId::ALL[i % 3]).collect();
    let start = Instant::now();
    let bits = party.run(&helpers, |tile, i| async move { sign(&tile, &entered[i]).await })?;
    let seconds = start.elapsed().as_secs_f64();
    let counters = party.meter().counters();
    let wire = counters.sent_bytes.iter().chain(&counters.received_bytes);
    let bytes = |count: u64| usize::try_from(count).expect("it was in memory");
    let traffic = Traffic {
        stream_bytes: bytes(counters.prg_bytes.load(Relaxed)),
        wire_bytes: bytes(wire.map(|count| count.load(Relaxed)).sum()),
    };
    Ok(Outcome { seconds, traffic, bits })
}

/// Keeps a copy of what it hands out.
struct Noting {
    end: MemoryTransport,
    frames: Arc<Mutex<Frames>>,
}

impl Noting {
    fn note(&self, frame: &(PartyId, Vec<u8>)) {
        self.frames.lock().expect("no holder panics").push(frame.clone());
    }
}

impl Transport for Noting {
    fn me(&self) -> PartyId {
        self.end.me()
    }

    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError> {
        self.end.send(to, frame)
    }

    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        self.end.recv(timeout).inspect(|frame| self.note(frame))
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        let frame = self.end.try_recv()?;
        frame.iter().for_each(|frame| self.note(frame));
        Ok(frame)
    }

    fn close(&mut self) -> Result<(), TransportError> {
        self.end.close()
    }
}

/// The first party's transport once more: all frames are there, and what is sent goes nowhere.
struct Replay {
    frames: std::vec::IntoIter<(PartyId, Vec<u8>)>,
}

impl Transport for Replay {
    fn me(&self) -> PartyId {
        PartyId::ALL[0]
    }

    fn send(&mut self, _to: PartyId, _frame: Vec<u8>) -> Result<(), TransportError> {
        Ok(())
    }

    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        let missing = || TransportError::Timeout { waiting_for: "a recorded frame".into(), after: timeout };
        self.frames.next().ok_or_else(missing)
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        Ok(self.frames.next())
    }

    fn close(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::carry_bytes;

    /// What a replay asserts is the test.
    #[test]
    fn a_party_alone_does_what_it_did_among_three() {
        for values in [1, 1000, 100_000] {
            let recording = Recording::new(Path::best(), values);
            assert!((0..2).all(|_| recording.replay() > 0.0));
        }
    }

    #[test]
    fn the_traffic_is_that_of_a_comparison() {
        // A whole number of words in every tile, and a third of all tiles for each role.
        let values = 3 * 64 * 100;
        let (all, _) = carry_bytes(&ProtocolSpec::default(), ProtocolSpec::default().compare_bits - 1);
        let payload = all * values / 64;
        let wire = Recording::new(Path::best(), values).traffic.wire_bytes;
        // A third of what is sent, and as much received; headers come on top.
        assert!(wire >= 2 * payload / 3 && wire < 2 * payload / 3 + 4096, "{wire} for {payload}");
    }
}
