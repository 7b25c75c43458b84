//! The tasks that move frames between the streams of a lane and its protocol thread, and the queues between them.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quinn::{Connection, ReadError, RecvStream, SendStream, WriteError};
use shared::ids::PartyId;
use tokio::sync::Notify;

use super::closing;
use crate::transport::frame::{Frame, FrameDecoder, FrameKind, HEADER_BYTES};
use crate::transport::{PeerStats, TransportError};

/// Unread bytes of one peer at which its stream is left to wait; QUIC then slows the sender down.
const INBOX_BYTES_MAX: usize = 1 << 30;
/// Unsent bytes to one peer at which `send` waits.
const OUTBOX_BYTES_MAX: usize = 1 << 30;
/// Chunks taken from a stream at a time.
const CHUNKS: usize = 64;

/// What the protocol thread and the tasks of a lane share.
#[derive(Default)]
pub(super) struct Mailbox {
    inbox: Mutex<Inbox>,
    arrived: Notify,
    peers: [PeerBox; 3],
}

#[derive(Default)]
struct Inbox {
    frames: VecDeque<(PartyId, Vec<u8>)>,
    unread_bytes: [usize; 3],
    departed: [Option<Departure>; 3],
}

/// How a peer's stream ended.
#[derive(Clone)]
enum Departure {
    Goodbye,
    Gone(TransportError),
}

#[derive(Default)]
struct PeerBox {
    outbox: Mutex<Outbox>,
    /// The outbox has something new.
    filled: Notify,
    /// The outbox has been emptied.
    drained: Notify,
    /// The inbox has room again.
    read: Notify,
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    received_frames: AtomicU64,
    received_bytes: AtomicU64,
}

#[derive(Default)]
struct Outbox {
    chunks: Vec<Bytes>,
    /// Bytes queued or being written.
    bytes: usize,
    /// After these chunks nothing follows.
    last: bool,
    /// The goodbye has been acknowledged, or can no longer be delivered.
    over: bool,
}

impl Mailbox {
    /// Takes the oldest frame; an error once nothing more can come.
    pub(super) fn take(&self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        let mut inbox = lock(&self.inbox);
        if let Some((from, frame)) = inbox.frames.pop_front() {
            let unread = &mut inbox.unread_bytes[from.index()];
            let was_full = *unread > INBOX_BYTES_MAX;
            *unread -= frame.len();
            if was_full {
                self.peers[from.index()].read.notify_one();
            }
            return Ok(Some((from, frame)));
        }
        let mut goodbyes = PartyId::ALL.into_iter().filter_map(|peer| match &inbox.departed[peer.index()] {
            Some(Departure::Gone(error)) => Some(Err(error.clone())),
            Some(Departure::Goodbye) => Some(Ok(peer)),
            None => None,
        });
        let (first, second) = (goodbyes.next().transpose()?, goodbyes.next().transpose()?);
        match (first, second) {
            (Some(peer), Some(_)) => {
                Err(TransportError::PeerGone { peer, reason: "both peers have said goodbye".into() })
            }
            _ => Ok(None),
        }
    }

    /// Waits for what [`Mailbox::take`] would give.
    pub(super) async fn next(&self) -> Result<(PartyId, Vec<u8>), TransportError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.arrived.notified().await;
        }
    }

    /// Whether `to` still listens.
    pub(super) fn check_open(&self, to: PartyId) -> Result<(), TransportError> {
        match &lock(&self.inbox).departed[to.index()] {
            Some(Departure::Gone(error)) => Err(error.clone()),
            Some(Departure::Goodbye) => {
                Err(TransportError::PeerGone { peer: to, reason: "it has said goodbye".into() })
            }
            None => Ok(()),
        }
    }

    /// Queues a frame; `false` once the queue is full.
    pub(super) fn put(&self, to: PartyId, chunks: impl IntoIterator<Item = Bytes>) -> bool {
        let peer = &self.peers[to.index()];
        let mut outbox = lock(&peer.outbox);
        let before = outbox.bytes;
        outbox.push(chunks);
        peer.count_sent(outbox.bytes - before);
        outbox.bytes <= OUTBOX_BYTES_MAX
    }

    /// Lets the writers know of what was put.
    pub(super) fn release(&self, me: PartyId) {
        self.peers[me.next().index()].filled.notify_one();
        self.peers[me.prev().index()].filled.notify_one();
    }

    /// Waits until the queue to `to` has room.
    pub(super) async fn drained(&self, to: PartyId) {
        let peer = &self.peers[to.index()];
        while lock(&peer.outbox).bytes > OUTBOX_BYTES_MAX && lock(&self.inbox).departed[to.index()].is_none() {
            peer.drained.notified().await;
        }
    }

    /// Queues the goodbye: nothing may follow.
    pub(super) fn put_goodbye(&self, to: PartyId, frame: Vec<u8>) {
        let mut outbox = lock(&self.peers[to.index()].outbox);
        outbox.last = true;
        outbox.push([Bytes::from(frame)]);
    }

    /// Waits until `peer` has everything and has said goodbye itself; what it sends meanwhile is not read any more.
    pub(super) async fn parted(&self, peer: PartyId) -> Result<(), TransportError> {
        loop {
            {
                let mut inbox = lock(&self.inbox);
                inbox.frames.retain(|(from, _)| *from != peer);
                inbox.unread_bytes[peer.index()] = 0;
                self.peers[peer.index()].read.notify_one();
                match &inbox.departed[peer.index()] {
                    Some(Departure::Gone(error)) => return Err(error.clone()),
                    Some(Departure::Goodbye) if lock(&self.peers[peer.index()].outbox).over => return Ok(()),
                    _ => {}
                }
            }
            self.peers[peer.index()].drained.notified().await;
        }
    }

    /// Lets the writer end the stream after what is queued, goodbye or not.
    #[cfg(test)]
    pub(super) fn end_for_tests(&self, to: PartyId) {
        lock(&self.peers[to.index()].outbox).last = true;
    }

    pub(super) fn stats(&self, peer: PartyId) -> PeerStats {
        let peer = &self.peers[peer.index()];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStats {
            sent_frames: read(&peer.sent_frames),
            sent_bytes: read(&peer.sent_bytes),
            received_frames: read(&peer.received_frames),
            received_bytes: read(&peer.received_bytes),
            ..PeerStats::default()
        }
    }

    fn deliver(&self, from: PartyId, frame: Vec<u8>) {
        self.peers[from.index()].count_received(frame.len());
        let mut inbox = lock(&self.inbox);
        inbox.unread_bytes[from.index()] += frame.len();
        inbox.frames.push_back((from, frame));
        drop(inbox);
        self.arrived.notify_one();
    }

    /// Records how a peer's stream ended; the first cause stands.
    fn depart(&self, peer: PartyId, how: Departure) {
        lock(&self.inbox).departed[peer.index()].get_or_insert(how);
        self.arrived.notify_one();
        self.peers[peer.index()].drained.notify_one();
    }

    fn has_room(&self, from: PartyId) -> bool {
        lock(&self.inbox).unread_bytes[from.index()] <= INBOX_BYTES_MAX
    }
}

impl Outbox {
    fn push(&mut self, chunks: impl IntoIterator<Item = Bytes>) {
        for chunk in chunks {
            self.bytes += chunk.len();
            self.chunks.push(chunk);
        }
    }
}

impl PeerBox {
    fn count_sent(&self, bytes: usize) {
        self.sent_frames.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_received(&self, payload: usize) {
        self.received_frames.fetch_add(1, Ordering::Relaxed);
        self.received_bytes.fetch_add((HEADER_BYTES + payload) as u64, Ordering::Relaxed);
    }
}

/// Reads the stream of one peer to its end.
pub(super) async fn read_frames(
    mailbox: &Mailbox,
    peer: PartyId,
    connection: Connection,
    mut recv: RecvStream,
    mut decoder: FrameDecoder,
    pending: Bytes,
) {
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    chunks[0] = pending;
    let mut filled = 1;
    let departure = 'stream: loop {
        for chunk in &mut chunks[..filled] {
            let chunk = mem::take(chunk);
            let mut rest: &[u8] = &chunk;
            loop {
                match decoder.feed(&mut rest) {
                    Ok(Some(Frame { kind, payload })) => {
                        match kind {
                            // Reads on to the end of the stream, or it would look to the peer as if we had given up.
                            FrameKind::Goodbye => mailbox.depart(peer, Departure::Goodbye),
                            _ => mailbox.deliver(peer, payload),
                        }
                    }
                    Ok(None) => break,
                    Err(e) => {
                        connection.close(closing::BAD_FRAME, e.to_string().as_bytes());
                        break 'stream Departure::Gone(e.from_peer(peer));
                    }
                }
            }
        }
        while !mailbox.has_room(peer) {
            mailbox.peers[peer.index()].read.notified().await;
        }
        filled = match recv.read_chunks(&mut chunks).await {
            Ok(Some(filled)) => filled,
            Ok(None) => {
                let gone = || TransportError::PeerGone { peer, reason: "its stream ended without a goodbye".into() };
                break Departure::Gone(decoder.end().map_or_else(|e| e.from_peer(peer), |()| gone()));
            }
            Err(e) => {
                break Departure::Gone(lost(peer, &e, &decoder));
            }
        };
    };
    mailbox.depart(peer, departure);
}

/// Writes what is put into the outbox of one peer, in as few writes as possible, until the goodbye is delivered.
pub(super) async fn write_frames(mailbox: &Mailbox, peer: PartyId, mut send: SendStream) {
    let this = &mailbox.peers[peer.index()];
    if let Err(WriteError::Stopped(_)) = write_until_goodbye(this, &mut send).await {
        let reason = "it stopped reading".into();
        mailbox.depart(peer, Departure::Gone(TransportError::PeerGone { peer, reason }));
    }
    // Fails only where the stream is over anyway. A lost connection is the reader's to report: it may still hold
    // frames that came before. After the peer's goodbye it is no loss: the peer wanted nothing more.
    let _ = send.finish();
    let _ = send.stopped().await;
    lock(&this.outbox).over = true;
    this.drained.notify_one();
}

async fn write_until_goodbye(peer: &PeerBox, send: &mut SendStream) -> Result<(), WriteError> {
    loop {
        let (mut chunks, last) = {
            let mut outbox = lock(&peer.outbox);
            (mem::take(&mut outbox.chunks), outbox.last)
        };
        if chunks.is_empty() {
            peer.filled.notified().await;
            continue;
        }
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        send.write_all_chunks(&mut chunks).await?;
        lock(&peer.outbox).bytes -= bytes;
        peer.drained.notify_one();
        if last {
            return Ok(());
        }
    }
}

fn lost(peer: PartyId, error: &ReadError, decoder: &FrameDecoder) -> TransportError {
    let mut reason = closing::explain_read(error);
    if let Err(e) = decoder.end() {
        reason = format!("{reason} ({e})");
    }
    TransportError::PeerGone { peer, reason }
}

/// A panic elsewhere leaves the queues whole: every change under these locks is complete when it can unwind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
