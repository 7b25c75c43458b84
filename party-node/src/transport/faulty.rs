//! A wrapper that spoils frames by script, to see what the layers above make of it.
//!
//! All three parties wrap their ends. Inside each frame of the wrapped transport travels a framed one, so that a
//! dropped, repeated or cut frame is found the way the real wire would find it, on any transport.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shared::ids::{Epoch, PartyId};

use super::frame::{FrameDecoder, FrameEncoder, FrameKind, HANDSHAKE_FRAMES, HEADER_BYTES};
use super::{Transport, TransportError, WireStats};

/// What happens to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never leaves.
    Drop,
    /// Only so many bytes of its payload leave, and the stream ends there.
    Truncate(usize),
    /// It leaves twice.
    Duplicate,
    /// It leaves after the next frame to the same peer.
    Reorder,
    /// It leaves only after this time, and holds back what follows it.
    Delay(Duration),
    /// This bit of its payload is flipped; a link under TLS would never do it, a faulty peer may.
    FlipBit(usize),
    /// It carries the epoch before ours.
    StaleEpoch,
    /// The link to the peer breaks instead.
    Kill,
}

/// One line of a script: the `nth` data frame to `to`, from 0, meets with `fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAt {
    /// Receiver of the frame.
    pub to: PartyId,
    /// Which frame.
    pub nth: u64,
    /// What happens to it.
    pub fault: Fault,
}

/// A transport whose outgoing frames meet with faults.
pub struct FaultyTransport<T> {
    inner: T,
    script: Vec<FaultAt>,
    links: [FaultyLink; 3],
}

struct FaultyLink {
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    sent: u64,
    held_back: Option<Vec<u8>>,
    late: VecDeque<(Instant, Vec<u8>)>,
    broken: Option<TransportError>,
}

/// The epoch inside the wrapper; the real one, if any, is in the wrapped transport.
const EPOCH: Epoch = Epoch(1);

impl<T: Transport> FaultyTransport<T> {
    /// Wraps `inner`; an empty script spoils nothing.
    pub fn new(inner: T, script: impl Into<Vec<FaultAt>>) -> Self {
        Self { inner, script: script.into(), links: PartyId::ALL.map(|_| FaultyLink::new()) }
    }

    fn fault_for(&self, to: PartyId) -> Option<Fault> {
        let nth = self.links[to.index()].sent;
        self.script.iter().find(|line| line.to == to && line.nth == nth).map(|line| line.fault)
    }

    /// Sends what was delayed and is due, in order.
    fn send_late(&mut self) -> Result<(), TransportError> {
        for to in PartyId::ALL {
            while let Some((due, _)) = self.links[to.index()].late.front()
                && *due <= Instant::now()
            {
                let (_, frame) = self.links[to.index()].late.pop_front().expect("looked at above");
                self.inner.send(to, frame)?;
            }
        }
        self.inner.flush()
    }

    fn next_due(&self) -> Option<Instant> {
        self.links.iter().filter_map(|link| link.late.front().map(|(due, _)| *due)).min()
    }

    fn unwrap(&mut self, from: PartyId, bytes: &[u8]) -> Result<(PartyId, Vec<u8>), TransportError> {
        let link = &mut self.links[from.index()];
        let mut rest = bytes;
        let frame = link.decoder.feed(&mut rest).map_err(|e| e.from_peer(from))?;
        match frame {
            Some(frame) => Ok((from, frame.payload)),
            None => {
                let cut = link.decoder.end().expect_err("no frame came out of the bytes").from_peer(from);
                link.broken = Some(cut.clone());
                Err(cut)
            }
        }
    }
}

impl FaultyLink {
    fn new() -> Self {
        let (mut encoder, mut decoder) = (FrameEncoder::new(EPOCH), FrameDecoder::new(EPOCH));
        for _ in 0..HANDSHAKE_FRAMES {
            let handshake = encoder.frame(FrameKind::Handshake, b"");
            decoder.feed(&mut handshake.as_slice()).expect("the opening of every stream");
        }
        let (sent, held_back, late, broken) = (0, None, VecDeque::new(), None);
        Self { encoder, decoder, sent, held_back, late, broken }
    }
}

impl<T: Transport> Transport for FaultyTransport<T> {
    fn me(&self) -> PartyId {
        self.inner.me()
    }

    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError> {
        let fault = self.fault_for(to);
        let link = &mut self.links[to.index()];
        if let Some(error) = &link.broken {
            return Err(error.clone());
        }
        link.sent += 1;
        let mut frame = link.encoder.frame(FrameKind::Data, &frame);
        let mut due = link.late.back().map(|(due, _)| *due);
        let mut leaving = Vec::new();
        match fault {
            None => leaving.push(frame),
            Some(Fault::Drop) => {}
            Some(Fault::Truncate(bytes)) => {
                frame.truncate(HEADER_BYTES + bytes);
                leaving.push(frame);
            }
            Some(Fault::Duplicate) => leaving.extend([frame.clone(), frame]),
            Some(Fault::Reorder) => {
                link.held_back = Some(frame);
                return Ok(());
            }
            Some(Fault::Delay(by)) => {
                due = due.max(Some(Instant::now() + by));
                leaving.push(frame);
            }
            Some(Fault::FlipBit(bit)) => {
                frame[HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
                leaving.push(frame);
            }
            Some(Fault::StaleEpoch) => {
                frame[5..13].copy_from_slice(&(EPOCH.0 - 1).to_le_bytes());
                leaving.push(frame);
            }
            Some(Fault::Kill) => {
                link.broken = Some(TransportError::PeerGone { peer: to, reason: "the link was cut".into() });
                // Nothing of the right form: the other side sees its link break as well.
                leaving.push(Vec::new());
            }
        }
        leaving.extend(link.held_back.take());
        for frame in leaving {
            match due {
                Some(due) => self.links[to.index()].late.push_back((due, frame)),
                None => self.inner.send(to, frame)?,
            }
        }
        self.send_late()
    }

    fn flush(&mut self) -> Result<(), TransportError> {
        self.send_late()
    }

    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        let deadline = Instant::now() + timeout;
        loop {
            self.send_late()?;
            if let Some(error) = self.links.iter().find_map(|link| link.broken.clone()) {
                return Err(error);
            }
            let until = self.next_due().map_or(deadline, |due| due.min(deadline));
            match self.inner.recv(until.saturating_duration_since(Instant::now())) {
                Ok((from, bytes)) if bytes.is_empty() => {
                    let gone = TransportError::PeerGone { peer: from, reason: "the link was cut".into() };
                    self.links[from.index()].broken = Some(gone);
                }
                Ok((from, bytes)) => return self.unwrap(from, &bytes),
                Err(TransportError::Timeout { .. }) if Instant::now() < deadline => {}
                Err(TransportError::Timeout { waiting_for, .. }) => {
                    return Err(TransportError::Timeout { waiting_for, after: timeout });
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        match self.recv(Duration::ZERO) {
            Ok(message) => Ok(Some(message)),
            Err(TransportError::Timeout { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn close(&mut self) -> Result<(), TransportError> {
        while let Some(due) = self.next_due() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.send_late()?;
        }
        self.inner.close()
    }

    fn stats(&self) -> WireStats {
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_triangle;
    use super::*;

    const WAIT: Duration = Duration::from_millis(200);

    /// P0 sends `count` numbered frames of 8 bytes to P1 under a script; what P1 makes of them.
    fn outcome(fault: Fault, count: u8) -> Vec<Result<Vec<u8>, TransportError>> {
        let [p0, p1, _p2] = memory_triangle();
        let to = p1.me();
        let mut sender = FaultyTransport::new(p0, [FaultAt { to, nth: 1, fault }]);
        let mut receiver = FaultyTransport::new(p1, []);
        let mut outcomes = Vec::new();
        for i in 0..count {
            // After a cut link the sender's own error is not what this looks at.
            let _ = sender.send(to, vec![i; 8]);
        }
        for _ in 0..count {
            outcomes.push(receiver.recv(WAIT).map(|(_, frame)| frame));
            if outcomes.last().is_some_and(Result::is_err) {
                break;
            }
            let _ = sender.flush();
        }
        outcomes
    }

    fn reason_of_bad_frame(outcomes: &[Result<Vec<u8>, TransportError>]) -> String {
        match outcomes.last() {
            Some(Err(TransportError::BadFrame { reason, .. })) => reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_fault_ends_in_its_own_error() {
        assert!(reason_of_bad_frame(&outcome(Fault::Drop, 3)).starts_with("reordered"));
        assert!(reason_of_bad_frame(&outcome(Fault::Truncate(3), 3)).starts_with("truncated"));
        assert!(reason_of_bad_frame(&outcome(Fault::Duplicate, 3)).starts_with("duplicated"));
        assert!(reason_of_bad_frame(&outcome(Fault::Reorder, 3)).starts_with("reordered"));
        assert!(reason_of_bad_frame(&outcome(Fault::StaleEpoch, 3)).starts_with("wrong epoch"));
        assert!(matches!(outcome(Fault::Kill, 3).last(), Some(Err(TransportError::PeerGone { .. }))));
        assert!(matches!(outcome(Fault::Drop, 2).last(), Some(Err(TransportError::Timeout { .. }))));
    }

    #[test]
    fn a_flipped_bit_and_a_delay_arrive() {
        assert_eq!(outcome(Fault::FlipBit(9), 2)[1], Ok(vec![1, 3, 1, 1, 1, 1, 1, 1]));

        let [p0, p1, _p2] = memory_triangle();
        let to = p1.me();
        let fault = Fault::Delay(Duration::from_millis(30));
        let mut sender = FaultyTransport::new(p0, [FaultAt { to, nth: 0, fault }]);
        let mut receiver = FaultyTransport::new(p1, []);
        sender.send(to, vec![1]).unwrap();
        sender.send(to, vec![2]).unwrap();
        assert_eq!(receiver.try_recv(), Ok(None));
        assert!(matches!(sender.recv(Duration::from_millis(50)), Err(TransportError::Timeout { .. })));
        assert_eq!(receiver.recv(WAIT).unwrap().1, vec![1]);
        assert_eq!(receiver.recv(WAIT).unwrap().1, vec![2]);
    }
}
