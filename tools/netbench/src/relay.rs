//! What stands between the namespaces: takes packets from each party's link and hands them to the one they are meant
//! for, later, or not at all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::profile::{QUEUE_BYTES, Shape};
use crate::system;

/// What the kernel puts before a packet: whether it is a batch, and of what segment size.
const BATCH_HEADER_BYTES: usize = 10;
/// Headers of IPv4 and UDP, which every segment of a batch gets of its own.
const PACKET_HEADERS_BYTES: usize = 28;
/// A packet or batch with its header.
const BUFFER_BYTES: usize = BATCH_HEADER_BYTES + (64 << 10);
/// Packets taken from one link before the others and the clock are looked at again; more where the relay rests in between.
const BURST: usize = 16;
const BURST_AFTER_REST: usize = 256;
/// On a long way packets rest so long before they are taken in or handed out, so that one waking up serves many. The
/// calibration takes it off the way again; a short way has none.
const REST: Duration = Duration::from_micros(200);
const WAY_MIN: Duration = Duration::from_micros(1500);
/// Longest sleep, so that the wish to stop is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// A network at work; it ends when this is dropped.
pub(crate) struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Relay {
    /// Starts passing on packets between `links`, whose addresses end in 1, 2, 3.
    pub(crate) fn start(links: Vec<File>, shape: Shape) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            // Without these the figures are a little worse, and the calibration shows it.
            let _ = system::prefer_this_thread();
            Network::new(shape, Instant::now(), links.len()).serve(&links, &stopped)
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the relay ended early: {error}");
        }
    }
}

/// A packet or batch with its header, in a buffer that has room for the largest.
struct Packet {
    buffer: Box<[u8]>,
    length: usize,
}

impl Packet {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

/// A packet on its way.
struct InFlight {
    to: usize,
    packet: Packet,
}

/// The links' queues and the packets under way.
struct Network {
    shape: Shape,
    /// When each link has sent what was given to it.
    busy_until: Vec<Instant>,
    /// Due time and a number that keeps the order of equals; the packet lies at that number in `packets`.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    packets: VecDeque<Option<InFlight>>,
    /// Number of the first in `packets`.
    first: u64,
    spare: Vec<Box<[u8]>>,
    chance: ChaCha8Rng,
}

impl Network {
    fn new(shape: Shape, now: Instant, links: usize) -> Self {
        Self {
            shape,
            busy_until: vec![now; links],
            due: BinaryHeap::new(),
            packets: VecDeque::new(),
            first: 0,
            spare: Vec::new(),
            chance: ChaCha8Rng::seed_from_u64(1),
        }
    }

    fn serve(mut self, links: &[File], stop: &AtomicBool) -> io::Result<()> {
        let rest = rest(&self.shape);
        while !stop.load(Ordering::Relaxed) {
            while let Some(InFlight { to, packet }) = self.next_due(Instant::now()) {
                deliver(&mut &links[to], packet.bytes())?;
                self.spare.push(packet.buffer);
            }
            let sleep = self.due.peek().map_or(SLEEP_MAX, |Reverse((due, _))| due.duration_since(Instant::now()));
            let readable = system::wait_readable(links.iter().map(AsFd::as_fd), sleep.min(SLEEP_MAX))?;
            if let Some(rest) = rest {
                thread::sleep(rest);
            }
            for (from, link) in links.iter().enumerate().filter(|(index, _)| rest.is_some() || readable[*index]) {
                self.take_in(from, link, if rest.is_some() { BURST_AFTER_REST } else { BURST })?;
            }
        }
        Ok(())
    }

    fn take_in(&mut self, from: usize, mut link: &File, burst: usize) -> io::Result<()> {
        for _ in 0..burst {
            let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into());
            match link.read(&mut buffer) {
                Ok(length) => self.accept(from, Packet { buffer, length }, Instant::now()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.spare.push(buffer);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Decides about a packet from a party: when it will arrive, if it does.
    fn accept(&mut self, from: usize, packet: Packet, now: Instant) {
        let Some((to, wire_bytes)) = route(packet.bytes()).filter(|(to, _)| *to < self.busy_until.len()) else {
            self.spare.push(packet.buffer);
            return;
        };
        let begins = self.busy_until[from].max(now);
        let waiting_bytes = begins.duration_since(now).as_secs_f64() * self.shape.rate / 8.0;
        #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let (wire_bytes, room) = (wire_bytes as f64, QUEUE_BYTES as f64);
        let full = self.shape.rate.is_finite() && waiting_bytes + wire_bytes > room;
        if full || self.chance.random_bool(self.shape.loss) {
            self.spare.push(packet.buffer);
            return;
        }
        let sent = begins + Duration::from_secs_f64(wire_bytes * 8.0 / self.shape.rate);
        self.busy_until[from] = sent;
        let spread = 2.0 * self.shape.jitter.as_secs_f64() * self.chance.random::<f64>();
        let under_way = (self.shape.round_trip / 2).saturating_sub(self.shape.jitter) + Duration::from_secs_f64(spread);
        self.due.push(Reverse((sent + under_way, self.first + self.packets.len() as u64)));
        self.packets.push_back(Some(InFlight { to, packet }));
    }

    fn next_due(&mut self, now: Instant) -> Option<InFlight> {
        let Reverse((due, number)) = *self.due.peek()?;
        if due > now {
            return None;
        }
        self.due.pop();
        let index = usize::try_from(number - self.first).expect("it lies in memory");
        let packet = self.packets[index].take();
        while matches!(self.packets.front(), Some(None)) {
            self.packets.pop_front();
            self.first += 1;
        }
        packet
    }
}

/// How long packets rest, if they do.
fn rest(shape: &Shape) -> Option<Duration> {
    (shape.round_trip / 2 >= WAY_MIN).then_some(REST)
}

fn deliver(link: &mut &File, packet: &[u8]) -> io::Result<()> {
    match link.write(packet) {
        // A receiver without room loses packets, as in any network.
        Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            // The kernel refuses what it will not take in; a closed device is the only refusal that stays.
            if error.raw_os_error() == Some(libc::EBADFD) { Err(error) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Which link a packet is for, and how many bytes it takes on the wire, headers of all its segments included.
fn route(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, packet) = bytes.split_at_checked(BATCH_HEADER_BYTES)?;
    if packet.len() < PACKET_HEADERS_BYTES || packet[0] >> 4 != 4 {
        return None;
    }
    let to = usize::from(packet[19]).checked_sub(1)?;
    let segment = usize::from(u16::from_ne_bytes([header[4], header[5]]));
    let segments = if segment == 0 { 1 } else { (packet.len() - PACKET_HEADERS_BYTES).div_ceil(segment).max(1) };
    Some((to, packet.len() + (segments - 1) * PACKET_HEADERS_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    /// A packet to the third party, with so many bytes of payload.
    fn packet(payload: usize, segment: u16) -> Packet {
        let mut bytes = vec![0; BATCH_HEADER_BYTES + PACKET_HEADERS_BYTES + payload];
        bytes[4..6].copy_from_slice(&segment.to_ne_bytes());
        bytes[BATCH_HEADER_BYTES] = 0x45;
        bytes[BATCH_HEADER_BYTES + 19] = 3;
        Packet { length: bytes.len(), buffer: bytes.into() }
    }

    fn arrivals(network: &mut Network, until: Instant) -> usize {
        std::iter::from_fn(|| network.next_due(until)).count()
    }

    #[test]
    fn segments_of_a_batch_have_headers_of_their_own() {
        assert_eq!(route(packet(1000, 0).bytes()), Some((2, 1028)));
        assert_eq!(route(packet(3000, 1000).bytes()), Some((2, 3000 + 3 * 28)));
        assert_eq!(route(packet(3001, 1000).bytes()), Some((2, 3001 + 4 * 28)));
        assert_eq!(route(&[0; 20]), None);
        let mut foreign = packet(100, 0);
        foreign.buffer[BATCH_HEADER_BYTES] = 0x60;
        assert_eq!(route(foreign.bytes()), None, "IPv6");
    }

    #[test]
    fn a_link_sends_at_its_rate_and_the_way_takes_half_a_round_trip() {
        let (now, shape) = (Instant::now(), Profile::Metro.shape());
        let mut network = Network::new(shape, now, 3);
        for _ in 0..100 {
            network.accept(0, packet(1222, 0), now);
        }
        let millisecond = Duration::from_millis(1);
        assert_eq!(arrivals(&mut network, now + 5 * millisecond / 2), 0);
        // A packet of 1250 bytes takes 10 microseconds.
        assert_eq!(arrivals(&mut network, now + 3 * millisecond), 50);
        assert_eq!(arrivals(&mut network, now + 4 * millisecond), 50);
        assert!(network.packets.is_empty());
    }

    #[test]
    fn packets_rest_on_long_ways_alone() {
        let of = |profile: Profile| rest(&profile.shape());
        assert_eq!([of(Profile::Lan), of(Profile::Metro), of(Profile::Wan)], [None, Some(REST), Some(REST)]);
        assert_eq!(rest(&Shape::OPEN), None);
    }

    #[test]
    fn a_full_queue_drops() {
        let (now, shape) = (Instant::now(), Profile::Metro.shape());
        let mut network = Network::new(shape, now, 3);
        for _ in 0..3000 {
            network.accept(1, packet(972, 0), now);
        }
        assert_eq!(arrivals(&mut network, now + Duration::from_secs(1)), 1500);
    }

    #[test]
    fn losses_and_jitter_are_as_wanted() {
        let (mut now, shape) = (Instant::now(), Shape { loss: 0.1, ..Profile::Wan.shape() });
        let mut network = Network::new(shape, now, 3);
        let begin = now;
        for _ in 0..10_000 {
            now += Duration::from_micros(200);
            network.accept(2, packet(972, 0), now);
        }
        let arrived = network.packets.len();
        assert!((8_800..9_200).contains(&arrived), "{arrived}");
        let mut last = 0;
        let overtaken = std::iter::from_fn(|| network.due.pop().map(|Reverse((due, number))| (due, number)));
        let overtaken = overtaken.filter(|(due, number)| {
            let under_way = due.duration_since(begin).as_secs_f64();
            assert!(under_way > 0.0191);
            let is_late = *number < last;
            last = last.max(*number);
            is_late
        });
        // Neighbours are 0.2 ms apart and move by up to 1 ms either way.
        let overtaken = overtaken.count();
        assert!(overtaken > arrived / 3, "{overtaken} of {arrived}");
    }
}
