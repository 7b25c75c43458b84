//! What may come from outside, and what becomes of it: real sockets on loopback, a faulty party among honest ones.

use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use shared::ids::{Epoch, Lane, PartyId};

use super::{QuicListener, QuicTransport, SessionParams};
use crate::transport::conformance::{LOOPBACK, Parties, each, quic_triangle, session};
use crate::transport::frame::{FrameEncoder, FrameKind};
use crate::transport::{Identity, Roster, RosterEntry, SessionSecrets, Transport, TransportError};

const WAIT: Duration = Duration::from_secs(10);
const P0: PartyId = PartyId::ALL[0];
const P1: PartyId = PartyId::ALL[1];
const P2: PartyId = PartyId::ALL[2];

type Change = fn(&mut SessionParams);
type Met = Result<(QuicTransport, SessionSecrets), TransportError>;

fn identity() -> Identity {
    Identity::generate("stranger.test", Duration::from_secs(600)).unwrap()
}

fn refusal(met: &Met) -> String {
    met.as_ref().err().expect("no session").to_string()
}

/// Replaces one party's certificate in a roster.
fn with_certificate(roster: &Roster, party: PartyId, certificate: &[u8]) -> Roster {
    Roster::new(PartyId::ALL.map(|p| RosterEntry {
        certificate: if p == party { certificate } else { roster.certificate(p) }.to_vec(),
        lanes: vec![roster.address(p, Lane(0)).unwrap()],
    }))
}

/// Shortens the wait of those who will be left alone.
fn impatient(session: &mut SessionParams) {
    session.deadline = Instant::now() + Duration::from_millis(1500);
}

#[test]
fn all_three_hold_the_same_fresh_keys() {
    let sessions = [0, 1].map(|_| Parties::new().meet(|_, _, _, _| {}).map(|met| met.unwrap().1));
    for secrets in &sessions {
        for me in PartyId::ALL {
            assert_eq!(secrets[me.index()].key_with(me.next()), secrets[me.next().index()].key_with(me));
        }
        assert_ne!(secrets[0].key_with(P1), secrets[0].key_with(P2));
    }
    assert_ne!(sessions[0][0].key_with(P1), sessions[1][0].key_with(P1), "a restart must not repeat a key");
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let taken = QuicListener::bind(LOOPBACK).unwrap();
    let error = QuicListener::bind(taken.local_addr()).unwrap_err().to_string();
    let expected = format!("cannot listen on {}: the port is in use, perhaps by an earlier run", taken.local_addr());
    assert_eq!(error, expected);
}

#[test]
fn another_job_version_lane_or_epoch_is_refused_with_both_values() {
    let cases: [(Change, &str, [&str; 2]); 3] = [
        (|s| s.job_digest = [0xcd; 32], "its job digest is", ["cdcdcdcdcdcd..", "040404040404.."]),
        (|s| s.version = "0.0.9".into(), "its program version is", ["0.0.9", "0.1.0"]),
        (|s| s.epoch = Epoch(9), "its session epoch is", ["9", "1"]),
    ];
    for (change, what, values) in cases {
        let met = Parties::new().meet(|me, session, _, _| {
            if me == P1 {
                change(session);
            }
        });
        assert_names_p1(&met, what, values);
    }
}

/// The honest parties read P1's hello themselves or, if P1 was faster, its refusal; both tell the two values.
fn assert_names_p1(met: &[Met; 3], what: &str, values: [&str; 2]) {
    assert!(met.iter().all(Result::is_err));
    for reason in [refusal(&met[0]), refusal(&met[2])] {
        let complete = reason.contains("P1") && reason.contains(what) && values.iter().all(|v| reason.contains(v));
        assert!(complete, "{reason}");
    }
}

#[test]
fn a_lane_that_dials_the_wrong_lane_is_refused() {
    let met = Parties::new().meet(|me, session, _, roster| {
        if me == P1 {
            session.lane = Lane(1);
            *roster = Roster::new(PartyId::ALL.map(|p| RosterEntry {
                certificate: roster.certificate(p).to_vec(),
                lanes: vec![roster.address(p, Lane(0)).unwrap(); 2],
            }));
        }
    });
    assert_names_p1(&met, "its lane number is", ["1", "0"]);
}

#[test]
fn a_certificate_that_is_not_pinned_is_refused_by_both_ends() {
    // P1 dials P2 and is dialled by P0, so both roles are covered.
    let met = Parties::new().meet(|me, session, identity, roster| {
        impatient(session);
        if me == P1 {
            *identity = self::identity();
            *roster = with_certificate(roster, P1, identity.certificate());
        }
    });
    let pinned = "cannot connect to P1: its certificate is not the one pinned in the roster";
    assert_eq!(refusal(&met[0]), pinned);
    assert_eq!(refusal(&met[2]), pinned);
    assert!(refusal(&met[1]).contains("it refused our certificate: not the one pinned in its roster"));
}

#[test]
fn a_party_with_the_certificate_of_another_is_refused() {
    // P1 has got hold of P0's certificate and key and dials P2 with them.
    let parties = Parties::new();
    let stolen = parties.identities[0].clone();
    let met = parties.meet(|me, session, identity, roster| {
        impatient(session);
        if me == P1 {
            *identity = stolen.clone();
            *roster = with_certificate(roster, P1, stolen.certificate());
        }
    });
    assert_eq!(refusal(&met[0]), "cannot connect to P1: its certificate is not the one pinned in the roster");
    assert!(met[1].is_err() && met[2].is_err());
}

#[test]
fn expired_and_future_certificates_are_refused_before_anything_is_sent() {
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    for (from, until, word) in [(now - 2 * hour, now - hour, "expired"), (now + hour, now + 2 * hour, "not valid yet")]
    {
        let dated = Identity::generate_between("dated.test", from, until).unwrap();
        let met = Parties::new().meet(|me, session, identity, roster| {
            impatient(session);
            if me == P1 {
                *identity = dated.clone();
            }
            *roster = with_certificate(roster, P1, dated.certificate());
        });
        for party in &met {
            let reason = refusal(party);
            assert!(reason.starts_with("cannot connect to P1: its certificate in the roster"), "{reason}");
            assert!(reason.contains(word), "{reason}");
        }
    }
}

#[test]
fn a_stranger_is_turned_away_and_disturbs_nobody() {
    // It takes P0's place in a roster of its own and dials P1 and P2 from a port of its own.
    let parties = Parties::new();
    let (stranger, roster) = (identity(), parties.roster.clone());
    let roster = with_certificate(&roster, P0, stranger.certificate());
    let dialling = thread::spawn(move || {
        let mut session = session();
        impatient(&mut session);
        QuicTransport::connect(QuicListener::bind(LOOPBACK).unwrap(), P0, &stranger, &roster, &session).err()
    });
    let met = parties.meet(|me, _, _, _| {
        if me == P0 {
            thread::sleep(Duration::from_millis(200));
        }
    });
    assert!(met.iter().all(Result::is_ok), "the three met although a stranger knocked");
    let error = dialling.join().unwrap().unwrap().to_string();
    assert!(error.contains("it refused our certificate"), "{error}");
}

#[test]
fn a_second_incarnation_of_a_party_cannot_join_a_running_session() {
    let parties = Parties::new();
    let (identity, roster) = (parties.identities[0].clone(), parties.roster.clone());
    let met = parties.meet(|_, _, _, _| {}).map(|party| party.unwrap().0);
    let mut session = session();
    impatient(&mut session);
    let second = QuicTransport::connect(QuicListener::bind(LOOPBACK).unwrap(), P0, &identity, &roster, &session);
    assert!(second.is_err());
    each(met, |mut transport| {
        let me = transport.me();
        transport.send(me.next(), vec![1]).unwrap();
        assert_eq!(transport.recv(WAIT).unwrap(), (me.prev(), vec![1]));
        transport.close().unwrap();
    });
}

#[test]
fn a_party_that_never_comes_is_named_at_the_deadline() {
    let mut parties = Parties::new();
    let mut session = session();
    impatient(&mut session);
    let listener = parties.listener(P0);
    // P1 and P2 have bound their ports but do not answer.
    let met = QuicTransport::connect(listener, P0, &parties.identities[0], &parties.roster, &session);
    assert!(refusal(&met).contains("no answer from 127.0.0.1:"), "{}", refusal(&met));

    let mut parties = Parties::new();
    impatient(&mut session);
    let listener = parties.listener(P2);
    let met = QuicTransport::connect(listener, P2, &parties.identities[2], &parties.roster, &session);
    assert!(refusal(&met).contains("the deadline passed while waiting to be dialled by it"), "{}", refusal(&met));
}

/// A peer that is authenticated but breaks the rules: P1 writes these bytes to P0 in place of a frame.
fn after_raw_bytes(bytes: impl Fn(&mut FrameEncoder) -> Vec<u8> + Sync, then_ends: bool) -> String {
    let errors = each(quic_triangle(), |mut transport| match transport.me() {
        me if me == P0 => Some(transport.recv(WAIT).and_then(|_| transport.recv(WAIT)).unwrap_err()),
        me if me == P1 => {
            let raw = bytes(transport.encoder(P0));
            transport.mailbox().put(P0, [raw.into()]);
            if then_ends {
                transport.mailbox().end_for_tests(P0);
            }
            transport.recv(WAIT).err();
            None
        }
        _ => transport.recv(WAIT).err().and(None),
    });
    errors.into_iter().flatten().next().unwrap().to_string()
}

#[test]
fn frames_that_break_the_rules_are_named_by_peer_and_rule() {
    let data = FrameKind::Data;
    let oversized = after_raw_bytes(
        |encoder| {
            let mut header = encoder.header(data, 0).to_vec();
            header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
            header
        },
        false,
    );
    assert!(oversized.starts_with("P1 sent a bad frame: oversized"), "{oversized}");

    let duplicated = after_raw_bytes(
        |encoder| {
            let frame = encoder.frame(data, b"once");
            [frame.clone(), frame].concat()
        },
        false,
    );
    assert!(duplicated.starts_with("P1 sent a bad frame: duplicated"), "{duplicated}");

    let reordered = after_raw_bytes(
        |encoder| {
            let (first, second) = (encoder.frame(data, b"1"), encoder.frame(data, b"2"));
            [second, first].concat()
        },
        false,
    );
    assert!(reordered.starts_with("P1 sent a bad frame: reordered"), "{reordered}");

    let stale = after_raw_bytes(
        |encoder| {
            let mut frame = encoder.frame(data, b"old");
            frame[5..13].copy_from_slice(&0_u64.to_le_bytes());
            frame
        },
        false,
    );
    assert!(stale.starts_with("P1 sent a bad frame: wrong epoch: frame 2 is of epoch 0"), "{stale}");

    let truncated = after_raw_bytes(|encoder| encoder.frame(data, &[1; 100])[..60].to_vec(), true);
    assert!(truncated.starts_with("P1 sent a bad frame: truncated"), "{truncated}");
}

#[test]
fn the_meter_counts_from_another_thread() {
    let stats = each(quic_triangle(), |mut transport| {
        let (me, meter) = (transport.me(), transport.meter());
        transport.send(me.next(), vec![0; 1000]).unwrap();
        transport.recv(WAIT).unwrap();
        let snapshot = thread::spawn(move || meter.snapshot()).join().unwrap();
        transport.close().unwrap();
        (me, snapshot)
    });
    for (me, stats) in stats {
        assert_eq!(stats.with(me.next()).sent_bytes, 1021);
        assert_eq!(stats.with(me.prev()).received_bytes, 1021);
        assert!(stats.with(me.next()).round_trip > Duration::ZERO && stats.with(me.next()).sent_packets > 0);
    }
}

/// Another process as P2, so that it can be killed and stopped: this test binary again.
const CHILD_ADDRESSES: &str = "WIRE_TEST_CHILD";
const SHORT_IDLE: Duration = Duration::from_millis(1500);

struct OtherProcess(Child);

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn other_process() {
    let Ok(hex) = std::env::var(CHILD_ADDRESSES) else { return };
    let bytes: Vec<u8> = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    let (roster, certificate, key): (Roster, Vec<u8>, Vec<u8>) = postcard::from_bytes(&bytes).unwrap();
    let listener = QuicListener::bind(roster.address(P2, Lane(0)).unwrap()).unwrap();
    let mut session = session();
    session.tuning.idle_timeout = SHORT_IDLE;
    let identity = Identity::from_der(certificate, key).unwrap();
    let (mut transport, _) = QuicTransport::connect(listener, P2, &identity, &roster, &session).unwrap();
    // Waits for an order that never comes.
    let _ = transport.recv(Duration::from_secs(30));
}

/// P0's and P1's view of a P2 in another process to which `happens`.
fn when_p2(happens: impl Fn(&Child) + Sync) -> [(TransportError, Duration); 2] {
    let mut parties = Parties::new();
    let (identity, roster) = (parties.identities[2].clone(), parties.roster.clone());
    drop(parties.listener(P2));
    let told = (roster.clone(), identity.certificate().to_vec(), identity.private_key().to_vec());
    let told: String = postcard::to_stdvec(&told).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let child = OtherProcess(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "transport::quic::tests::other_process"])
            .env(CHILD_ADDRESSES, told)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    let listeners = [P0, P1].map(|party| parties.listener(party));
    let mut listeners = listeners.into_iter();
    thread::scope(|scope| {
        let (identities, roster, child, happens) = (&parties.identities, &roster, &child, &happens);
        [P0, P1]
            .map(|me| {
                let listener = listeners.next().unwrap();
                scope.spawn(move || {
                    let mut session = session();
                    session.tuning.idle_timeout = SHORT_IDLE;
                    session.tuning.keep_alive = SHORT_IDLE / 4;
                    let identity = &identities[me.index()];
                    let (mut transport, _) = QuicTransport::connect(listener, me, identity, roster, &session).unwrap();
                    if me == P0 {
                        happens(&child.0);
                    }
                    let start = Instant::now();
                    let error = transport.recv(WAIT).unwrap_err();
                    let waited = start.elapsed();
                    thread::sleep(Duration::from_millis(500));
                    (error, waited)
                })
            })
            .map(|thread| thread.join().unwrap())
    })
}

#[test]
fn a_killed_or_stopped_process_is_named_within_the_idle_timeout() {
    for name in ["-KILL", "-STOP"] {
        for (error, waited) in when_p2(|child| signal(child, name)) {
            assert!(matches!(&error, TransportError::PeerGone { peer, .. } if *peer == P2), "{name}: {error}");
            assert!(error.to_string().contains("went silent"), "{name}: {error}");
            assert!(waited < SHORT_IDLE + Duration::from_secs(2), "{name}: {waited:?}");
        }
    }
}

#[test]
fn the_default_timeouts_notice_a_lost_peer_within_ten_seconds() {
    let tuning = super::WireTuning::default();
    assert!(tuning.idle_timeout <= Duration::from_secs(8));
    assert!(3 * tuning.keep_alive <= tuning.idle_timeout);
}
