//! What every transport must do, run over all of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use shared::ids::{Epoch, Lane, PartyId};

use super::faulty::FaultyTransport;
use super::frame::HEADER_BYTES;
use super::{
    Identity, QuicListener, QuicTransport, Roster, RosterEntry, SessionParams, SessionSecrets, Transport,
    TransportError, WireTuning, memory_triangle,
};

const WAIT: Duration = Duration::from_secs(10);
pub(super) const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The three parties of one lane before they meet.
pub(super) struct Parties {
    pub(super) identities: [Identity; 3],
    pub(super) roster: Roster,
    listeners: [Option<QuicListener>; 3],
}

impl Parties {
    pub(super) fn new() -> Self {
        let identities =
            PartyId::ALL.map(|p| Identity::generate(&format!("{p}.test"), Duration::from_secs(600)).unwrap());
        let listeners = PartyId::ALL.map(|_| QuicListener::bind(LOOPBACK).unwrap());
        let roster = Roster::new(PartyId::ALL.map(|p| RosterEntry {
            certificate: identities[p.index()].certificate().to_vec(),
            lanes: vec![listeners[p.index()].local_addr()],
        }));
        Self { identities, roster, listeners: listeners.map(Some) }
    }

    pub(super) fn listener(&mut self, party: PartyId) -> QuicListener {
        self.listeners[party.index()].take().unwrap()
    }

    /// Connects all three, each with what `change` makes of its session, identity and roster.
    pub(super) fn meet(
        mut self,
        change: impl Fn(PartyId, &mut SessionParams, &mut Identity, &mut Roster) + Sync,
    ) -> [Result<(QuicTransport, SessionSecrets), TransportError>; 3] {
        let listeners = PartyId::ALL.map(|party| self.listener(party));
        thread::scope(|scope| {
            let change = &change;
            let (identities, roster) = (&self.identities, &self.roster);
            let mut listeners = listeners.into_iter();
            PartyId::ALL
                .map(|me| {
                    let listener = listeners.next().unwrap();
                    scope.spawn(move || {
                        let (mut session, mut roster) = (session(), roster.clone());
                        let mut identity = identities[me.index()].clone();
                        change(me, &mut session, &mut identity, &mut roster);
                        QuicTransport::connect(listener, me, &identity, &roster, &session)
                    })
                })
                .map(|party| party.join().unwrap())
        })
    }
}

pub(super) fn session() -> SessionParams {
    SessionParams {
        lane: Lane(0),
        epoch: Epoch(1),
        job_digest: [4; 32],
        version: "0.1.0".into(),
        deadline: Instant::now() + Duration::from_secs(5),
        tuning: WireTuning::default(),
    }
}

pub(super) fn quic_triangle() -> [QuicTransport; 3] {
    Parties::new().meet(|_, _, _, _| {}).map(|party| party.unwrap().0)
}

/// Runs the same code as each of the three parties, on a thread of its own.
pub(super) fn each<T: Transport, R: Send>(triangle: [T; 3], party: impl Fn(T) -> R + Sync) -> [R; 3] {
    thread::scope(|scope| {
        let party = &party;
        triangle.map(|transport| scope.spawn(move || party(transport))).map(|thread| thread.join().unwrap())
    })
}

fn from(transport: &mut impl Transport, peer: PartyId, stash: &mut Vec<(PartyId, Vec<u8>)>) -> Vec<u8> {
    loop {
        if let Some(at) = stash.iter().position(|(from, _)| *from == peer) {
            return stash.remove(at).1;
        }
        stash.push(transport.recv(WAIT).unwrap());
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 31 + i / 4093 + seed) % 251).unwrap()).collect()
}

fn conforms<T: Transport>(triangle: impl Fn() -> [T; 3]) {
    frames_arrive_complete_and_in_order(triangle());
    big_frames_cross_each_other(triangle());
    goodbye_keeps_what_was_sent_before(triangle());
    a_party_that_leaves_early_does_not_disturb_the_others(triangle());
    a_dropped_party_is_named(triangle());
    silence_is_a_timeout_and_leaves_the_transport_usable(triangle());
}

fn frames_arrive_complete_and_in_order<T: Transport>(triangle: [T; 3]) {
    let lengths: Vec<usize> = (0..200).map(|i| [0, 1, 7, 64, 2048, 5000, 70_000][i % 7]).collect();
    let per_peer: usize = lengths.iter().map(|length| HEADER_BYTES + length).sum();
    let stats = each(triangle, |mut transport| {
        let me = transport.me();
        let mut stash = Vec::new();
        for (i, &length) in lengths.iter().enumerate() {
            transport.send(me.next(), pattern(length, i)).unwrap();
            transport.send(me.prev(), pattern(length, i + 100)).unwrap();
            if i % 3 == 0 {
                transport.flush().unwrap();
            }
        }
        for (i, &length) in lengths.iter().enumerate() {
            assert_eq!(from(&mut transport, me.prev(), &mut stash), pattern(length, i));
            assert_eq!(from(&mut transport, me.next(), &mut stash), pattern(length, i + 100));
        }
        let stats = transport.stats();
        transport.close().unwrap();
        stats
    });
    for me in PartyId::ALL {
        let peer = stats[me.index()].with(me.next());
        assert_eq!((peer.sent_frames, peer.received_frames), (200, 200));
        assert_eq!((peer.sent_bytes, peer.received_bytes), (per_peer as u64, per_peer as u64));
        assert_eq!(stats[me.index()].sent_bytes(), 2 * per_peer as u64);
        assert_eq!(stats[me.index()].received_bytes(), 2 * per_peer as u64);
    }
}

fn big_frames_cross_each_other<T: Transport>(triangle: [T; 3]) {
    const BYTES: usize = 100 << 20;
    each(triangle, |mut transport| {
        let me = transport.me();
        if me != PartyId::ALL[2] {
            let peer = PartyId::ALL[1 - me.index()];
            transport.send(peer, pattern(BYTES, me.index())).unwrap();
            let (_, frame) = transport.recv(WAIT).unwrap();
            assert!(frame == pattern(BYTES, peer.index()), "a big frame changed on its way");
        }
        transport.close().unwrap();
    });
}

fn goodbye_keeps_what_was_sent_before<T: Transport>(triangle: [T; 3]) {
    each(triangle, |mut transport| {
        let me = transport.me();
        if me == PartyId::ALL[0] {
            transport.send(me.next(), pattern(3 << 20, 1)).unwrap();
            transport.send(me.next(), vec![9]).unwrap();
        } else if me == PartyId::ALL[1] {
            thread::sleep(Duration::from_millis(20));
            assert_eq!(transport.recv(WAIT).unwrap().1.len(), 3 << 20);
            assert_eq!(transport.recv(WAIT).unwrap().1, vec![9]);
        }
        transport.close().unwrap();
        transport.close().unwrap();
    });
}

fn a_party_that_leaves_early_does_not_disturb_the_others<T: Transport>(triangle: [T; 3]) {
    each(triangle, |mut transport| {
        let me = transport.me();
        if me != PartyId::ALL[0] {
            let peer = PartyId::ALL[3 - me.index()];
            thread::sleep(Duration::from_millis(30));
            for i in 0..10 {
                transport.send(peer, vec![i]).unwrap();
                assert_eq!(transport.recv(WAIT).unwrap(), (peer, vec![i]));
            }
            let refused = transport.send(PartyId::ALL[0], vec![1]).unwrap_err();
            assert!(matches!(refused, TransportError::PeerGone { peer, .. } if peer == PartyId::ALL[0]), "{refused}");
        }
        transport.close().unwrap();
    });
}

fn a_dropped_party_is_named<T: Transport>(triangle: [T; 3]) {
    let gone = each(triangle, |mut transport| {
        let me = transport.me();
        if me == PartyId::ALL[1] {
            transport.send(me.prev(), vec![1, 2, 3]).unwrap();
            transport.flush().unwrap();
            thread::sleep(Duration::from_millis(20));
            return None;
        }
        if me == PartyId::ALL[0] {
            assert_eq!(transport.recv(WAIT).unwrap().1, vec![1, 2, 3]);
        }
        let waited = Instant::now();
        let error = transport.recv(WAIT).unwrap_err();
        assert!(waited.elapsed() < Duration::from_secs(2), "noticed only after {:?}", waited.elapsed());
        // The first to notice leaves too: the other may hear of that one first.
        thread::sleep(Duration::from_millis(300));
        Some(error)
    });
    for error in gone.into_iter().flatten() {
        assert!(matches!(&error, TransportError::PeerGone { peer, .. } if *peer == PartyId::ALL[1]), "{error}");
    }
}

fn silence_is_a_timeout_and_leaves_the_transport_usable<T: Transport>(triangle: [T; 3]) {
    each(triangle, |mut transport| {
        let me = transport.me();
        assert_eq!(transport.try_recv(), Ok(None));
        let error = transport.recv(Duration::from_millis(30)).unwrap_err();
        assert!(matches!(&error, TransportError::Timeout { .. }), "{error}");
        thread::sleep(Duration::from_millis(60));
        transport.send(me.next(), vec![5]).unwrap();
        assert_eq!(transport.recv(WAIT).unwrap(), (me.prev(), vec![5]));
        transport.close().unwrap();
    });
}

#[test]
fn memory_conforms() {
    conforms(memory_triangle);
}

#[test]
fn quic_conforms() {
    conforms(quic_triangle);
}

#[test]
fn a_faulty_wrapper_without_faults_hides_nothing() {
    let wrapped = || memory_triangle().map(|transport| FaultyTransport::new(transport, []));
    big_frames_cross_each_other(wrapped());
    goodbye_keeps_what_was_sent_before(wrapped());
    a_dropped_party_is_named(wrapped());
    silence_is_a_timeout_and_leaves_the_transport_usable(wrapped());
}
