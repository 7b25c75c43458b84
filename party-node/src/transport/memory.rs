//! The in-memory transport: three ends of channels in one process, for tests.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use shared::ids::PartyId;

use super::frame::HEADER_BYTES;
use super::{PeerStats, Transport, TransportError, WireStats};

/// How long a peer may take to answer a goodbye.
const CLOSE_MAX: Duration = Duration::from_secs(30);

/// One party's end of an in-memory triangle.
pub struct MemoryTransport {
    me: PartyId,
    outbox: [Option<Sender<(PartyId, Event)>>; 3],
    inbox: Receiver<(PartyId, Event)>,
    /// Frames taken from the channel while looking for something else.
    waiting: VecDeque<(PartyId, Vec<u8>)>,
    departed: [Option<Departure>; 3],
    stats: WireStats,
    closed: bool,
}

enum Event {
    Frame(Vec<u8>),
    Left(Departure),
}

#[derive(Clone, Copy, PartialEq)]
enum Departure {
    Goodbye,
    Dropped,
}

/// Makes the three connected ends.
pub fn memory_triangle() -> [MemoryTransport; 3] {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| channel()).unzip();
    let mut inboxes = inboxes.into_iter();
    PartyId::ALL.map(|me| MemoryTransport {
        me,
        outbox: PartyId::ALL.map(|to| (to != me).then(|| senders[to.index()].clone())),
        inbox: inboxes.next().expect("three inboxes"),
        waiting: VecDeque::new(),
        departed: [None; 3],
        stats: WireStats::default(),
        closed: false,
    })
}

impl MemoryTransport {
    /// Takes in one event, waiting until `deadline` for it; `false` if none came.
    fn take_in(&mut self, deadline: Option<Instant>) -> bool {
        let event = match deadline {
            None => self.inbox.try_recv().ok(),
            Some(deadline) => self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
        };
        match event {
            Some((from, Event::Frame(frame))) => {
                count(&mut self.counters(from).received_frames, 1);
                count(&mut self.counters(from).received_bytes, HEADER_BYTES + frame.len());
                self.waiting.push_back((from, frame));
                true
            }
            Some((from, Event::Left(how))) => {
                self.departed[from.index()].get_or_insert(how);
                true
            }
            None => false,
        }
    }

    fn take(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        if let Some(message) = self.waiting.pop_front() {
            return Ok(Some(message));
        }
        let [next, prev] = [self.me.next(), self.me.prev()];
        if let Some(peer) = [next, prev].into_iter().find(|p| self.departed[p.index()] == Some(Departure::Dropped)) {
            return Err(dropped(peer));
        }
        if [next, prev].iter().all(|peer| self.departed[peer.index()].is_some()) {
            return Err(TransportError::PeerGone { peer: next, reason: "both peers have said goodbye".into() });
        }
        Ok(None)
    }

    fn leave(&mut self, how: Departure) {
        for sender in self.outbox.iter().flatten() {
            // A peer that is gone needs no goodbye.
            let _ = sender.send((self.me, Event::Left(how)));
        }
        self.outbox = [None, None, None];
    }

    fn counters(&mut self, peer: PartyId) -> &mut PeerStats {
        &mut self.stats.peers[peer.index()]
    }

    fn nothing_came(&self, after: Duration) -> TransportError {
        TransportError::Timeout { waiting_for: format!("{} or {}", self.me.next(), self.me.prev()), after }
    }
}

impl Transport for MemoryTransport {
    fn me(&self) -> PartyId {
        self.me
    }

    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError> {
        while self.take_in(None) {}
        match self.departed[to.index()] {
            Some(Departure::Dropped) => return Err(dropped(to)),
            Some(Departure::Goodbye) => {
                return Err(TransportError::PeerGone { peer: to, reason: "it has said goodbye".into() });
            }
            None => {}
        }
        let length = frame.len();
        let sender = self.outbox[to.index()].as_ref().ok_or_else(|| dropped(to))?;
        sender.send((self.me, Event::Frame(frame))).map_err(|_| dropped(to))?;
        count(&mut self.counters(to).sent_frames, 1);
        count(&mut self.counters(to).sent_bytes, HEADER_BYTES + length);
        Ok(())
    }

    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        let deadline = Instant::now() + timeout;
        loop {
            while self.take_in(None) {}
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            if !self.take_in(Some(deadline)) {
                return Err(self.nothing_came(timeout));
            }
        }
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        while self.take_in(None) {}
        self.take()
    }

    fn close(&mut self) -> Result<(), TransportError> {
        if self.closed {
            return Ok(());
        }
        self.leave(Departure::Goodbye);
        self.closed = true;
        let deadline = Instant::now() + CLOSE_MAX;
        for peer in [self.me.next(), self.me.prev()] {
            while self.departed[peer.index()].is_none() {
                if !self.take_in(Some(deadline)) {
                    return Err(self.nothing_came(CLOSE_MAX));
                }
            }
            if self.departed[peer.index()] == Some(Departure::Dropped) {
                return Err(dropped(peer));
            }
        }
        Ok(())
    }

    fn stats(&self) -> WireStats {
        self.stats
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.leave(Departure::Dropped);
    }
}

fn dropped(peer: PartyId) -> TransportError {
    TransportError::PeerGone { peer, reason: "its end was dropped".into() }
}

fn count(counter: &mut u64, by: usize) {
    *counter += by as u64;
}
