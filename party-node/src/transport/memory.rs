//! The in-memory transport: three ends of channels in one process, for tests.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use shared::ids::PartyId;

use super::{Transport, TransportError};

/// A frame and who sent it.
type Addressed = (PartyId, Vec<u8>);

/// One party's end of an in-memory triangle.
pub struct MemoryTransport {
    me: PartyId,
    outbox: [Option<Sender<Addressed>>; 3],
    inbox: Receiver<Addressed>,
}

/// Makes the three connected ends.
pub fn memory_triangle() -> [MemoryTransport; 3] {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| channel()).unzip();
    let mut inboxes = inboxes.into_iter();
    PartyId::ALL.map(|me| MemoryTransport {
        me,
        outbox: PartyId::ALL.map(|to| (to != me).then(|| senders[to.index()].clone())),
        inbox: inboxes.next().expect("three inboxes"),
    })
}

impl Transport for MemoryTransport {
    fn me(&self) -> PartyId {
        self.me
    }

    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError> {
        let gone = || TransportError::PeerGone { peer: to, reason: "its end was dropped".into() };
        self.outbox[to.index()].as_ref().ok_or_else(gone)?.send((self.me, frame)).map_err(|_| gone())
    }

    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        self.inbox.recv_timeout(timeout).map_err(|e| match e {
            RecvTimeoutError::Timeout => TransportError::Timeout {
                waiting_for: format!("{} or {}", self.me.next(), self.me.prev()),
                after: timeout,
            },
            RecvTimeoutError::Disconnected => {
                TransportError::PeerGone { peer: self.me.next(), reason: "both ends were dropped".into() }
            }
        })
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        // That the peers are gone matters only to whoever waits for them.
        Ok(self.inbox.try_recv().ok())
    }

    fn close(&mut self) -> Result<(), TransportError> {
        self.outbox = [None, None, None];
        Ok(())
    }
}
