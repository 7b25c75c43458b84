//! The QUIC transport of one lane: an endpoint and two pinned connections of its own.
//!
//! The protocol thread blocks in [`Transport::recv`] and drives the network itself while it waits, so that no frame
//! changes threads on its way; a background thread fills in while it computes. Nothing asynchronous leaves here.

mod closing;
mod driver;
mod link;
mod rendezvous;
#[cfg(test)]
mod tests;
pub mod tuning;

use std::cell::RefCell;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, Endpoint, TokioRuntime, VarInt};
use shared::ids::{Epoch, Lane, PartyId};
use tokio::task::yield_now;
use tokio::time::timeout;

use self::driver::{Driver, Patience};
use self::link::Mailbox;
use self::rendezvous::{Link, Rendezvous};
use self::tuning::WireTuning;
use super::frame::{FRAME_BYTES_MAX, FrameEncoder, FrameKind, HEADER_BYTES};
use super::identity::{Identity, Roster};
use super::secrets::{SessionContext, SessionSecrets};
use super::{PeerStats, Transport, TransportError, WireStats};

/// How long a peer that lives may take to answer a goodbye.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// Payloads up to this size are copied behind their header instead of being queued as a piece of their own.
const INLINE_BYTES_MAX: usize = 4096;
/// What one turn of the network certainly sends; the rest of a bulk transfer goes on in the background.
const ONE_TURN_BYTES: usize = 64 << 10;
/// Time given to a last packet that explains why a connection ends, and to repeating it if the first one got lost.
const LAST_WORD_MAX: Duration = Duration::from_millis(50);
/// The same where packets do not get lost.
const LAST_WORD_ON_LOOPBACK_MAX: Duration = Duration::from_millis(1);

/// A bound UDP port for one lane, before anybody is connected: its address can be told to the peers.
#[derive(Debug)]
pub struct QuicListener {
    socket: UdpSocket,
    address: SocketAddr,
}

impl QuicListener {
    /// Binds `address`; port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> Result<Self, TransportError> {
        let listen = |e: std::io::Error| TransportError::Listen {
            address,
            reason: match e.kind() {
                std::io::ErrorKind::AddrInUse => "the port is in use, perhaps by an earlier run".into(),
                _ => e.to_string(),
            },
        };
        let socket = tuning::bind(address).map_err(listen)?;
        let address = socket.local_addr().map_err(listen)?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// What all parties must agree on, and how long to wait for that.
#[derive(Clone, Debug)]
pub struct SessionParams {
    /// Which lane this is.
    pub lane: Lane,
    /// Which incarnation of the job.
    pub epoch: Epoch,
    /// Digest of the job this party approved.
    pub job_digest: [u8; 32],
    /// Version of the program; parties run the same.
    pub version: String,
    /// When to give up waiting for the others.
    pub deadline: Instant,
    /// Timeouts and sizes.
    pub tuning: WireTuning,
}

impl SessionParams {
    fn context(&self) -> SessionContext<'_> {
        let Self { version, job_digest, epoch, lane, .. } = self;
        SessionContext { version, job_digest, epoch: *epoch, lane: *lane }
    }
}

/// One lane's connections to the two other parties.
pub struct QuicTransport {
    me: PartyId,
    driver: Driver,
    patience: Patience,
    endpoint: Endpoint,
    meter: WireMeter,
    encoders: [FrameEncoder; 2],
    /// Bytes queued since the network last had its turn.
    unflushed_bytes: usize,
    closed: bool,
}

/// Reads the counters of a lane from any thread.
#[derive(Clone)]
pub struct WireMeter {
    mailbox: Arc<Mailbox>,
    connections: [(PartyId, Connection); 2],
}

impl WireMeter {
    /// The counters now.
    pub fn snapshot(&self) -> WireStats {
        let mut stats = WireStats::default();
        for (peer, connection) in &self.connections {
            let path = connection.stats().path;
            stats.peers[peer.index()] = PeerStats {
                round_trip: path.rtt,
                sent_packets: path.sent_packets,
                lost_packets: path.lost_packets,
                ..self.mailbox.stats(*peer)
            };
        }
        stats
    }
}

impl QuicTransport {
    /// Meets the two other parties of the roster and agrees with them on the session.
    ///
    /// The party with the lower number dials; each side accepts only the certificate that its roster pins.
    pub fn connect(
        listener: QuicListener,
        me: PartyId,
        identity: &Identity,
        roster: &Roster,
        session: &SessionParams,
    ) -> Result<(Self, SessionSecrets), TransportError> {
        let local = |e: std::io::Error| TransportError::Local { reason: e.to_string() };
        let driver = Driver::new().map_err(local)?;
        let (endpoint, met) = driver.run(async {
            let config = session.tuning.endpoint_config();
            let endpoint = Endpoint::new(config, None, listener.socket, Arc::new(TokioRuntime)).map_err(local)?;
            let rendezvous = Rendezvous { me, identity, roster, session, opened: RefCell::default() };
            let met = rendezvous.meet(&endpoint).await;
            if let Err(e) = &met {
                last_word(&endpoint, closing::REFUSED, e.to_string().as_bytes(), LAST_WORD_MAX).await;
            }
            // From here on nobody may join.
            endpoint.set_server_config(None);
            Ok((endpoint, met))
        })?;
        let (links, secrets) = met?;

        let mailbox = Arc::new(Mailbox::default());
        let connections = links.each_ref().map(|link| (link.peer, link.connection.clone()));
        let encoders = driver.run(async { links.map(|link| spawn_tasks(&mailbox, link)) });
        let meter = WireMeter { mailbox, connections };
        let patience = Patience::new(session.tuning.spin);
        Ok((Self { me, driver, patience, endpoint, meter, encoders, unflushed_bytes: 0, closed: false }, secrets))
    }

    /// A handle for the counters that outlives moves of the transport.
    pub fn meter(&self) -> WireMeter {
        self.meter.clone()
    }

    fn mailbox(&self) -> &Mailbox {
        &self.meter.mailbox
    }

    fn encoder(&mut self, to: PartyId) -> &mut FrameEncoder {
        &mut self.encoders[usize::from(to != self.me.next())]
    }

    /// Gives the network one turn: sends what is queued as far as it fits, takes in what has arrived.
    fn take_turn(&mut self) {
        self.unflushed_bytes = 0;
        let (mailbox, me) = (&self.meter.mailbox, self.me);
        self.driver.run(async {
            mailbox.release(me);
            yield_now().await;
        });
    }

    fn last_word_max(&self) -> Duration {
        let on_loopback = |(_, connection): &(PartyId, Connection)| connection.remote_address().ip().is_loopback();
        let all_on_loopback = self.meter.connections.iter().all(on_loopback);
        if all_on_loopback { LAST_WORD_ON_LOOPBACK_MAX } else { LAST_WORD_MAX }
    }

    /// Ends both connections at once, with a word why.
    fn abort(&mut self) {
        self.closed = true;
        let (endpoint, within) = (&self.endpoint, self.last_word_max());
        self.driver.run(async {
            last_word(endpoint, closing::ABORTED, b"", within).await;
        });
    }
}

impl Transport for QuicTransport {
    fn me(&self) -> PartyId {
        self.me
    }

    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError> {
        assert!(to != self.me && frame.len() <= FRAME_BYTES_MAX, "{} bytes to {to}", frame.len());
        self.mailbox().check_open(to)?;
        let length = HEADER_BYTES + frame.len();
        let room = if frame.len() <= INLINE_BYTES_MAX {
            let whole = Bytes::from(self.encoder(to).frame(FrameKind::Data, &frame));
            self.mailbox().put(to, [whole])
        } else {
            let header = self.encoder(to).header(FrameKind::Data, frame.len());
            self.mailbox().put(to, [Bytes::copy_from_slice(&header), Bytes::from(frame)])
        };
        self.unflushed_bytes += length;
        if !room {
            let (mailbox, me) = (&self.meter.mailbox, self.me);
            self.driver.run(async {
                mailbox.release(me);
                mailbox.drained(to).await;
            });
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TransportError> {
        let bytes = self.unflushed_bytes;
        if bytes > 0 {
            self.take_turn();
        }
        if bytes > ONE_TURN_BYTES {
            self.driver.hand_over();
        }
        Ok(())
    }

    fn recv(&mut self, within: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        if self.unflushed_bytes == 0
            && let Some(message) = self.mailbox().take()?
        {
            return Ok(message);
        }
        self.unflushed_bytes = 0;
        let (mailbox, me, patience) = (&self.meter.mailbox, self.me, &mut self.patience);
        self.driver.run(async {
            mailbox.release(me);
            if let Some(message) = mailbox.take()? {
                // What we queued shall leave before the caller computes on.
                yield_now().await;
                return Ok(message);
            }
            if let Some(message) = patience.look(|| mailbox.take().transpose()).await {
                return message;
            }
            timeout(within, mailbox.next()).await.unwrap_or_else(|_| Err(nothing_came(me, within)))
        })
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        self.take_turn();
        self.mailbox().take()
    }

    fn close(&mut self) -> Result<(), TransportError> {
        if self.closed {
            return Ok(());
        }
        let (next, prev) = (self.me.next(), self.me.prev());
        for peer in [next, prev] {
            let goodbye = self.encoder(peer).frame(FrameKind::Goodbye, b"");
            self.mailbox().put_goodbye(peer, goodbye);
        }
        let (mailbox, me, endpoint) = (&self.meter.mailbox, self.me, &self.endpoint);
        let within = self.last_word_max();
        let parted = self.driver.run(async {
            mailbox.release(me);
            let parted = timeout(CLOSE_MAX, async { tokio::try_join!(mailbox.parted(next), mailbox.parted(prev)) });
            let parted = parted.await;
            if let Ok(Ok(_)) = parted {
                last_word(endpoint, closing::DONE, b"", within).await;
            }
            parted
        });
        match parted {
            Ok(Ok(_)) => {
                self.closed = true;
                Ok(())
            }
            Ok(Err(e)) => Err(e),
            Err(_) => Err(nothing_came(self.me, CLOSE_MAX)),
        }
    }

    fn stats(&self) -> WireStats {
        self.meter.snapshot()
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        if !self.closed {
            self.abort();
        }
    }
}

fn nothing_came(me: PartyId, after: Duration) -> TransportError {
    TransportError::Timeout { waiting_for: format!("{} or {}", me.next(), me.prev()), after }
}

/// Closes all connections and lets the packets that say so leave.
async fn last_word(endpoint: &Endpoint, code: VarInt, reason: &[u8], within: Duration) {
    endpoint.close(code, reason);
    let _ = timeout(within, endpoint.wait_idle()).await;
}

fn spawn_tasks(mailbox: &Arc<Mailbox>, link: Link) -> FrameEncoder {
    let Link { peer, connection, send, recv, encoder, decoder, pending } = link;
    let (reading, writing) = (mailbox.clone(), mailbox.clone());
    tokio::spawn(async move { link::read_frames(&reading, peer, connection, recv, decoder, pending).await });
    tokio::spawn(async move { link::write_frames(&writing, peer, send).await });
    encoder
}
