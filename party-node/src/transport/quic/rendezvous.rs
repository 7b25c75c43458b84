//! Brings the three parties of a lane together: dial or accept, TLS, hello, nonces. Carries no data yet.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, ServerConfig};
use rustls::pki_types::{CertificateDer, UnixTime};
use shared::ids::PartyId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};
use zeroize::Zeroizing;

use super::{SessionParams, closing};
use crate::transport::TransportError;
use crate::transport::frame::{FrameDecoder, FrameEncoder, FrameKind};
use crate::transport::handshake::{Hello, NoncesHeard};
use crate::transport::identity::{Identity, Roster};
use crate::transport::secrets::{EXPORTER_LABEL, Nonce, SessionSecrets};
use crate::transport::tls;

/// A dial that got no answer for so long starts over, with its retransmission timer back at the start.
const DIAL_ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// Between a dial that was turned away and the next.
const DIAL_PAUSE: Duration = Duration::from_millis(50);
/// How much longer the other peer is looked for when the session with one has failed.
const GIVING_UP_MAX: Duration = Duration::from_millis(300);
/// Connections that strangers may hold open at once while we wait for our peers.
const OPEN_CONNECTIONS_MAX: usize = 16;

/// An authenticated connection past its handshake.
pub(super) struct Link {
    pub(super) peer: PartyId,
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) encoder: FrameEncoder,
    pub(super) decoder: FrameDecoder,
    /// Bytes that arrived behind the last frame taken.
    pub(super) pending: Bytes,
}

/// Everything a rendezvous works with.
pub(super) struct Rendezvous<'a> {
    pub(super) me: PartyId,
    pub(super) identity: &'a Identity,
    pub(super) roster: &'a Roster,
    pub(super) session: &'a SessionParams,
    /// Keeps connections open until the reason of a failure has been told on them.
    pub(super) opened: RefCell<Vec<Connection>>,
}

/// What stands in the way of a session.
struct Obstacle {
    error: TransportError,
    /// The peer told us, perhaps because of what it found out about the third party; we saw nothing wrong ourselves.
    hearsay: bool,
}

impl From<TransportError> for Obstacle {
    fn from(error: TransportError) -> Self {
        Self { error, hearsay: false }
    }
}

/// Waits for both steps. When one fails the other has a moment left: to come so far that its peer can be told why,
/// and because this party rather reports what it saw itself than what it was told.
async fn both<A, B>(
    first: impl Future<Output = Result<A, Obstacle>>,
    second: impl Future<Output = Result<B, Obstacle>>,
) -> Result<(A, B), TransportError> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (obstacle, other) = tokio::select! {
        done = &mut first => match done {
            Ok(a) => return second.await.map(|b| (a, b)).map_err(|obstacle| obstacle.error),
            Err(obstacle) => (obstacle, timeout(GIVING_UP_MAX, async { second.await.err() }).await),
        },
        done = &mut second => match done {
            Ok(b) => return first.await.map(|a| (a, b)).map_err(|obstacle| obstacle.error),
            Err(obstacle) => (obstacle, timeout(GIVING_UP_MAX, async { first.await.err() }).await),
        },
    };
    match other {
        Ok(Some(other)) if obstacle.hearsay && !other.hearsay => Err(other.error),
        _ => Err(obstacle.error),
    }
}

/// Connections of accepted peers on their way from the accept loop, or why one was refused.
type Accepted = Result<Connection, TransportError>;
type Inbox = UnboundedReceiver<Accepted>;

impl Rendezvous<'_> {
    /// Meets both peers (next, then previous) or says which one stands in the way.
    pub(super) async fn meet(&self, endpoint: &Endpoint) -> Result<([Link; 2], SessionSecrets), TransportError> {
        let [next, prev] = [self.me.next(), self.me.prev()];
        self.check_certificates()?;
        let ours = Hello::new(&self.session.context(), self.me, fresh_nonce()?);

        let (accepting, mut accepted) = self.accept_loop(endpoint)?;
        let [inbox_next, inbox_prev] = [next, prev].map(|peer| accepted[peer.index()].take());
        let met =
            both(self.greet(endpoint, next, inbox_next, &ours), self.greet(endpoint, prev, inbox_prev, &ours)).await;
        accepting.abort();
        let ((mut to_next, hello_next), (mut to_prev, hello_prev)) = met?;

        let heard = NoncesHeard::gather(self.me, ours.nonce, hello_next.nonce, hello_prev.nonce)?;
        both(self.compare_nonces(&mut to_next, &heard), self.compare_nonces(&mut to_prev, &heard)).await?;
        let secrets = SessionSecrets::derive(
            self.me,
            &*exported(&to_next)?,
            &*exported(&to_prev)?,
            &heard.0,
            &self.session.context(),
        );
        Ok(([to_next, to_prev], secrets))
    }

    /// Says early, and without the network, what could not work anyway.
    fn check_certificates(&self) -> Result<(), TransportError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for party in PartyId::ALL {
            tls::check_validity(self.roster.certificate(party), UnixTime::since_unix_epoch(now))
                .map_err(|e| failed(party, format!("its certificate in the roster cannot be used: {e}")))?;
        }
        if self.roster.certificate(self.me) != self.identity.certificate() {
            return Err(failed(self.me, "our own certificate is not the one in the roster".into()));
        }
        Ok(())
    }

    async fn greet(
        &self,
        endpoint: &Endpoint,
        peer: PartyId,
        inbox: Option<Inbox>,
        ours: &Hello,
    ) -> Result<(Link, Hello), Obstacle> {
        match inbox {
            Some(inbox) => self.greet_accepted(peer, inbox, ours).await,
            None => {
                let connection = self.dial(endpoint, peer).await?;
                let streams = self.in_time(peer, "open a stream to it", connection.open_bi()).await?;
                let (send, recv) = streams.map_err(|e| lost(peer, &e))?;
                self.exchange_hellos(self.link(peer, connection, send, recv), ours).await
            }
        }
    }

    async fn greet_accepted(&self, peer: PartyId, mut inbox: Inbox, ours: &Hello) -> Result<(Link, Hello), Obstacle> {
        loop {
            let connection = self.in_time(peer, "be dialled by it", inbox.recv()).await?;
            let connection = connection.ok_or_else(|| failed(peer, "our own socket was lost".into()))??;
            self.opened.borrow_mut().push(connection.clone());
            let (send, recv) = match self.in_time(peer, "hear its hello", connection.accept_bi()).await? {
                Ok(streams) => streams,
                // It gave this dial up (see `DIAL_ATTEMPT_MAX`) and starts another.
                Err(e) if closing::may_come_up(&e) || is_dropped_dial(&e) => continue,
                Err(e) => return Err(lost(peer, &e)),
            };
            return self.exchange_hellos(self.link(peer, connection, send, recv), ours).await;
        }
    }

    fn link(&self, peer: PartyId, connection: Connection, send: SendStream, recv: RecvStream) -> Link {
        let epoch = self.session.epoch;
        let (encoder, decoder) = (FrameEncoder::new(epoch), FrameDecoder::new(epoch));
        Link { peer, connection, send, recv, encoder, decoder, pending: Bytes::new() }
    }

    async fn dial(&self, endpoint: &Endpoint, peer: PartyId) -> Result<Connection, Obstacle> {
        let address = self.address(peer)?;
        let pinned = self.roster.certificate(peer);
        let config = self.session.tuning.dialling(self.identity, pinned, address.ip());
        let config = config.map_err(|e| failed(peer, format!("our own TLS settings do not work: {e}")))?;
        loop {
            let connecting = endpoint
                .connect_with(config.clone(), address, "trefoil.party")
                .map_err(|e| failed(peer, format!("{address} cannot be dialled: {e}")))?;
            let until = self.session.deadline.min(Instant::now() + DIAL_ATTEMPT_MAX);
            match timeout_at(until.into(), connecting).await {
                Ok(Ok(connection)) => {
                    self.opened.borrow_mut().push(connection.clone());
                    return Ok(connection);
                }
                Ok(Err(e)) if !closing::may_come_up(&e) => return Err(lost(peer, &e)),
                _ => {}
            }
            if Instant::now() >= self.session.deadline {
                return Err(failed(peer, format!("no answer from {address} before the deadline")).into());
            }
            sleep(DIAL_PAUSE).await;
        }
    }

    /// Starts accepting those who dial us: the parties with a lower number.
    fn accept_loop(&self, endpoint: &Endpoint) -> Result<(JoinHandle<()>, [Option<Inbox>; 3]), TransportError> {
        let mut inboxes = [const { None }; 3];
        let mut guests = Vec::new();
        for party in PartyId::ALL.into_iter().filter(|party| *party < self.me) {
            let (sender, inbox) = unbounded_channel();
            inboxes[party.index()] = Some(inbox);
            let certificate = CertificateDer::from(self.roster.certificate(party).to_vec());
            guests.push(Guest { party, address: self.address(party)?, certificate, sender });
        }
        let pinned = guests.iter().map(|guest| guest.certificate.as_ref());
        let config = self.session.tuning.accepting(self.identity, pinned);
        let config = config.map_err(|e| failed(self.me, format!("our own TLS settings do not work: {e}")))?;
        endpoint.set_server_config((!guests.is_empty()).then(|| config.clone()));

        let (endpoint, tuning, guests) = (endpoint.clone(), self.session.tuning.clone(), Arc::new(guests));
        let task = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                if endpoint.open_connections() > OPEN_CONNECTIONS_MAX {
                    incoming.refuse();
                    continue;
                }
                let mut config = config.clone();
                config.transport_config(tuning.transport_config(incoming.remote_address().ip()));
                tokio::spawn(admit(incoming, Arc::new(config), guests.clone()));
            }
        });
        Ok((task, inboxes))
    }

    async fn exchange_hellos(&self, mut link: Link, ours: &Hello) -> Result<(Link, Hello), Obstacle> {
        link.say(&ours.encode()).await?;
        let bytes = self.in_time(link.peer, "hear its hello", link.hear()).await??;
        let theirs = Hello::decode(link.peer, &bytes)?;
        ours.check(link.peer, &theirs)?;
        Ok((link, theirs))
    }

    async fn compare_nonces(&self, link: &mut Link, heard: &NoncesHeard) -> Result<(), Obstacle> {
        link.say(&heard.encode()).await?;
        let bytes = self.in_time(link.peer, "hear which nonces it knows", link.hear()).await??;
        Ok(heard.check(link.peer, &bytes)?)
    }

    fn address(&self, party: PartyId) -> Result<SocketAddr, TransportError> {
        let lane = self.session.lane;
        self.roster.address(party, lane).ok_or_else(|| failed(party, format!("the roster has no {lane} of it")))
    }

    async fn in_time<T>(&self, peer: PartyId, what: &str, step: impl Future<Output = T>) -> Result<T, TransportError> {
        let late = |_| failed(peer, format!("the deadline passed while waiting to {what}"));
        timeout_at(self.session.deadline.into(), step).await.map_err(late)
    }
}

impl Link {
    async fn say(&mut self, payload: &[u8]) -> Result<(), Obstacle> {
        let frame = self.encoder.frame(FrameKind::Handshake, payload);
        let written = self.send.write_chunk(frame.into()).await;
        written.map_err(|e| hearsay(self.peer, closing::explain_write(&e)))
    }

    async fn hear(&mut self) -> Result<Vec<u8>, Obstacle> {
        loop {
            let mut rest: &[u8] = &self.pending;
            let frame = self.decoder.feed(&mut rest).map_err(|e| e.from_peer(self.peer))?;
            let left = rest.len();
            self.pending.advance(self.pending.len() - left);
            if let Some(frame) = frame {
                return Ok(frame.payload);
            }
            let chunk = self.recv.read_chunk(usize::MAX, true).await;
            self.pending = match chunk.map_err(|e| hearsay(self.peer, closing::explain_read(&e)))? {
                Some(chunk) => chunk.bytes,
                None => {
                    self.decoder.end().map_err(|e| e.from_peer(self.peer))?;
                    return Err(failed(self.peer, "it ended its stream before the session was agreed on".into()).into());
                }
            };
        }
    }
}

/// A party we expect to be dialled by.
struct Guest {
    party: PartyId,
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    sender: UnboundedSender<Accepted>,
}

/// Lets one caller through TLS and hands its connection to whoever waits for that party.
async fn admit(incoming: Incoming, config: Arc<ServerConfig>, guests: Arc<Vec<Guest>>) {
    let caller = incoming.remote_address();
    let connection = match incoming.accept_with(config) {
        Ok(connecting) => connecting.await,
        Err(e) => Err(e),
    };
    match connection {
        Ok(connection) => {
            let shown = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
            let guest = guests.iter().find(|g| shown.as_ref().and_then(|chain| chain.first()) == Some(&g.certificate));
            let taken = guest.map(|guest| guest.sender.send(Ok(connection.clone())));
            if !matches!(taken, Some(Ok(()))) {
                connection.close(closing::DUPLICATE, b"");
            }
        }
        Err(e) => {
            let reason = closing::explain(&e);
            tracing::warn!(%caller, %reason, "refused a connection");
            // From the very address of a party this is a mistake in its set-up; from elsewhere it is a stranger.
            let is_refusal = matches!(e, ConnectionError::TransportError(_));
            if let Some(guest) = guests.iter().find(|guest| is_refusal && guest.address == caller) {
                let _ = guest.sender.send(Err(failed(guest.party, reason)));
            }
        }
    }
}

/// Whether the dialling side simply dropped its attempt.
fn is_dropped_dial(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == 0_u32.into())
}

fn exported(link: &Link) -> Result<Zeroizing<[u8; 32]>, TransportError> {
    let mut secret = Zeroizing::new([0; 32]);
    link.connection
        .export_keying_material(secret.as_mut_slice(), EXPORTER_LABEL, b"")
        .map_err(|_| failed(link.peer, "TLS exports no key".into()))?;
    Ok(secret)
}

fn fresh_nonce() -> Result<Nonce, TransportError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|e| TransportError::Local { reason: format!("no random numbers: {e}") })?;
    Ok(nonce)
}

/// What a lost connection says: a TLS error of ours is our own observation, all else the peer's word or silence.
fn lost(peer: PartyId, error: &ConnectionError) -> Obstacle {
    let hearsay = !matches!(error, ConnectionError::TransportError(_));
    Obstacle { error: failed(peer, closing::explain(error)), hearsay }
}

fn hearsay(peer: PartyId, reason: String) -> Obstacle {
    Obstacle { error: failed(peer, reason), hearsay: true }
}

fn failed(peer: PartyId, reason: String) -> TransportError {
    TransportError::Connect { peer, reason }
}
