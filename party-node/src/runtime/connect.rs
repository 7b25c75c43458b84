//! From a setup to connected lanes: this run's certificate, one QUIC endpoint per lane, all lanes connected at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use shared::ids::{Epoch, Lane, PartyId};
use shared::wire::{self, Failure, FailureKind, Setup};

use super::failure::{failure, stopped, transport};
use super::metrics::Link;
use crate::protocol::PairKeys;
use crate::transport::{
    Identity, QuicListener, QuicTransport, Roster, RosterEntry, SessionParams, SessionSecrets, Transport,
    TransportError, WireMeter, WireTuning,
};

/// How long the lanes of all parties may take to meet; all of them listen before any is told to connect.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long this run's certificate is valid: longer than any run.
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(60 * 24 * 3600);

/// How often a party that waits looks at its stop flag.
const STOP_POLL: Duration = Duration::from_millis(50);

/// A party whose lanes listen but are not yet connected.
pub(super) struct Listening {
    identity: Identity,
    listeners: Vec<QuicListener>,
}

/// A lane that reaches both peers.
pub(super) struct ConnectedLane {
    pub(super) transport: Box<dyn Transport>,
    pub(super) keys: PairKeys,
    pub(super) link: Arc<dyn Link>,
}

impl Listening {
    /// Makes the certificate and takes a free port of `address` for each lane.
    pub(super) fn bind(setup: &Setup, address: IpAddr) -> Result<Self, Failure> {
        let name = format!("p{}.trefoil", setup.party.index());
        let identity =
            Identity::generate(&name, CERTIFICATE_VALIDITY).map_err(|e| failure(FailureKind::Job, e.to_string()))?;
        let any_port = SocketAddr::new(address, 0);
        let listeners = (0..setup.job.lanes).map(|_| QuicListener::bind(any_port)).collect::<Result<_, _>>();
        Ok(Self { identity, listeners: listeners.map_err(|e| transport(&e))? })
    }

    /// What the peers must know of this party.
    pub(super) fn entry(&self) -> wire::RosterEntry {
        wire::RosterEntry {
            certificate: self.identity.certificate().to_vec(),
            lanes: self.listeners.iter().map(|listener| listener.local_addr().to_string()).collect(),
        }
    }

    /// Connects all lanes at the same time, in lane order; the first that fails ends it for all.
    pub(super) fn connect(
        self,
        setup: &Setup,
        roster: &wire::Roster,
        stop: &AtomicBool,
    ) -> Result<Vec<ConnectedLane>, Failure> {
        let (identity, roster) = (Arc::new(self.identity), Arc::new(pinned(setup, roster)?));
        let (sender, met) = channel();
        let count = self.listeners.len();
        let deadline = Instant::now() + CONNECT_MAX;
        for (lane, listener) in (0..).map(Lane).zip(self.listeners) {
            let (session, me) = (session(setup, lane, deadline), setup.party);
            let (identity, roster, sender) = (identity.clone(), roster.clone(), sender.clone());
            let meet = move || {
                let met = QuicTransport::connect(listener, me, &identity, &roster, &session);
                // Nobody listens any more once another lane has failed.
                let _ = sender.send((lane, met.map(|(transport, secrets)| ConnectedLane::new(transport, &secrets))));
            };
            let name = format!("p{}-connect{}", me.index(), lane.0);
            thread::Builder::new().name(name).spawn(meet).expect("the system starts a thread");
        }
        drop(sender);
        gather(&met, count, stop)
    }
}

impl ConnectedLane {
    fn new(transport: QuicTransport, secrets: &SessionSecrets) -> Self {
        let me = secrets.me();
        Self {
            link: Arc::new(transport.meter()),
            transport: Box::new(transport),
            keys: PairKeys::new(secrets.key_with(me.next()), secrets.key_with(me.prev())),
        }
    }
}

type Met = (Lane, Result<ConnectedLane, TransportError>);

/// Waits for `count` lanes; the first failure, or the wish to stop, ends the wait.
fn gather(met: &Receiver<Met>, count: usize, stop: &AtomicBool) -> Result<Vec<ConnectedLane>, Failure> {
    let mut lanes = Vec::with_capacity(count);
    while lanes.len() < count {
        match met.recv_timeout(STOP_POLL) {
            Ok((lane, Ok(connected))) => lanes.push((lane, connected)),
            Ok((lane, Err(error))) => return Err(Failure { lane: Some(lane), ..transport(&error) }),
            Err(RecvTimeoutError::Timeout) if stop.load(SeqCst) => return Err(stopped()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failure(FailureKind::Job, "a defect ended the thread that connects a lane"));
            }
        }
    }
    lanes.sort_by_key(|(lane, _)| *lane);
    Ok(lanes.into_iter().map(|(_, connected)| connected).collect())
}

fn session(setup: &Setup, lane: Lane, deadline: Instant) -> SessionParams {
    SessionParams {
        lane,
        epoch: Epoch(setup.epoch),
        job_digest: setup.job.digest(),
        version: setup.job.version.clone(),
        deadline,
        tuning: tuning(setup.job.peer_timeout_seconds),
    }
}

impl Link for WireMeter {
    fn rtt_seconds(&self, peer: PartyId) -> f64 {
        self.snapshot().with(peer).round_trip.as_secs_f64()
    }

    fn lost_packets(&self, peer: PartyId) -> u64 {
        self.snapshot().with(peer).lost_packets
    }
}

/// A peer that is silent for so long is gone; one that only computes shows four times as often that it lives.
fn tuning(peer_timeout_seconds: u32) -> WireTuning {
    let idle_timeout = Duration::from_secs(peer_timeout_seconds.max(1).into());
    WireTuning { idle_timeout, keep_alive: idle_timeout / 4, ..WireTuning::default() }
}

/// Checks the roster against the job and reads its addresses.
fn pinned(setup: &Setup, roster: &wire::Roster) -> Result<Roster, Failure> {
    let lanes = usize::from(setup.job.lanes);
    let mut entries = Vec::new();
    for (party, entry) in PartyId::ALL.into_iter().zip(&roster.parties) {
        let unusable = |what: String| {
            let reason = format!("the roster's entry of {party} cannot be used: {what}");
            Failure { peer: Some(party), ..failure(FailureKind::Connection, reason) }
        };
        if entry.lanes.len() != lanes {
            return Err(unusable(format!("it has {} lanes, the job has {lanes}", entry.lanes.len())));
        }
        let addresses = entry.lanes.iter().map(|address| address.parse::<SocketAddr>());
        let addresses = addresses.collect::<Result<Vec<_>, _>>().map_err(|e| unusable(e.to_string()))?;
        entries.push(RosterEntry { certificate: entry.certificate.clone(), lanes: addresses });
    }
    let entries = entries.try_into().map_err(|_| failure(FailureKind::Job, "a roster has three entries"))?;
    Ok(Roster::new(entries))
}
