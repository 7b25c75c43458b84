//! Every protocol under a bad peer: an error that names the peer, never a panic, never a hang.

#![allow(clippy::unwrap_used, reason = "a test program: what cannot fail may panic")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use party_node::protocol::{
    FRAME_HEADER_BYTES, MESSAGE_HEADER_BYTES, Matrix, Party, ProtocolError, Term, Tile, TileShare, and, inject,
    inject_again, inject_sum, input, join, matmul, mul, mul_doubled, open, sign, trunc, trunc_floor,
};
use party_node::transport::{MemoryTransport, Transport, TransportError};
use party_node::world::World;
use shared::ids::PartyId;
use shared::job::{ProtocolSpec, Truncation};

const PATIENCE: Duration = Duration::from_millis(150);
const HELPER: PartyId = PartyId::ALL[0];

/// What the bad peer does to its `at`-th frame.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    /// Its connection closes instead.
    Gone,
    /// It never comes, but later ones do.
    Lost,
    /// It never comes, and nothing after it.
    Silent,
    /// The last message lacks its last byte, and says so.
    Short,
    /// The last message has eight bytes too many, and says so.
    Long,
    /// The frame ends within its last message.
    Cut,
    /// The frame is noise.
    Garbage,
    /// The frame is empty.
    Empty,
    /// The frame comes twice.
    Twice,
    /// The frame comes after the next one.
    Late,
    /// Its messages claim an impossible depth; this must change nothing but the count of rounds.
    Deep,
}

const FAULTS: [Fault; 11] = [
    Fault::Gone,
    Fault::Lost,
    Fault::Silent,
    Fault::Short,
    Fault::Long,
    Fault::Cut,
    Fault::Garbage,
    Fault::Empty,
    Fault::Twice,
    Fault::Late,
    Fault::Deep,
];

/// Where messages start in a frame of ours.
fn messages(frame: &[u8]) -> Vec<usize> {
    let (mut starts, mut at) = (vec![], FRAME_HEADER_BYTES);
    while at < frame.len() {
        starts.push(at);
        let length = u32::from_le_bytes(frame[at + 8..at + 12].try_into().unwrap()) as usize;
        at += MESSAGE_HEADER_BYTES + length;
    }
    starts
}

/// Changes the length of the last message, in its header too.
fn resize_last(frame: &mut Vec<u8>, by: isize) {
    let last = *messages(frame).last().expect("a frame has messages");
    frame.resize(frame.len().strict_add_signed(by), 0xa5);
    let length = u32::try_from(frame.len() - last - MESSAGE_HEADER_BYTES).unwrap();
    frame[last + 8..last + 12].copy_from_slice(&length.to_le_bytes());
}

/// What arrives in place of the faulty frame.
fn faulty(fault: Fault, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    match fault {
        Fault::Gone | Fault::Lost | Fault::Silent | Fault::Late => return vec![],
        Fault::Short => resize_last(&mut frame, -1),
        Fault::Long => resize_last(&mut frame, 8),
        Fault::Cut => frame.truncate(frame.len() - 5),
        Fault::Garbage => frame = (0..97_u8).map(|i| i.wrapping_mul(151) ^ 0x5c).collect(),
        Fault::Empty => frame.clear(),
        Fault::Twice => return vec![frame.clone(), frame],
        Fault::Deep => messages(&frame).iter().for_each(|at| frame[at + 4..at + 8].fill(0xff)),
    }
    vec![frame]
}

/// The end of an honest party, to which a bad peer's frames arrive as the fault has it.
struct BadPeer {
    inner: MemoryTransport,
    peer: PartyId,
    fault: Fault,
    at: usize,
    seen: usize,
    held: Option<Vec<u8>>,
    ready: VecDeque<(PartyId, Vec<u8>)>,
}

impl BadPeer {
    fn arrive(&mut self, from: PartyId, frame: Vec<u8>) {
        if from != self.peer {
            return self.ready.push_back((from, frame));
        }
        self.seen += 1;
        let late = self.held.take();
        if self.seen - 1 == self.at {
            if self.fault == Fault::Late {
                self.held = Some(frame.clone());
            }
            self.ready.extend(faulty(self.fault, frame).into_iter().map(|frame| (from, frame)));
        } else if self.seen <= self.at || !matches!(self.fault, Fault::Gone | Fault::Silent) {
            self.ready.push_back((from, frame));
        }
        self.ready.extend(late.map(|frame| (from, frame)));
    }

    fn check_gone(&self) -> Result<(), TransportError> {
        let gone = self.fault == Fault::Gone && self.seen > self.at;
        let error = TransportError::PeerGone { peer: self.peer, reason: "connection reset".into() };
        if gone { Err(error) } else { Ok(()) }
    }
}

impl Transport for BadPeer {
    fn me(&self) -> PartyId {
        self.inner.me()
    }

    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError> {
        // That the other honest party has given up already is no news about the bad one.
        let _gave_up = self.inner.send(to, frame);
        Ok(())
    }

    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError> {
        let start = Instant::now();
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            self.check_gone()?;
            let due = || format!("{} or {}", self.inner.me().next(), self.inner.me().prev());
            let late = TransportError::Timeout { waiting_for: due(), after: timeout };
            let left = timeout.checked_sub(start.elapsed()).ok_or_else(|| late.clone())?;
            let (from, frame) = self.inner.recv(left).map_err(|_| late)?;
            self.arrive(from, frame);
        }
    }

    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError> {
        while let Ok(Some((from, frame))) = self.inner.try_recv() {
            self.arrive(from, frame);
        }
        Ok(self.ready.pop_front())
    }

    fn close(&mut self) -> Result<(), TransportError> {
        let _gave_up = self.inner.close();
        Ok(())
    }
}

const PROTOCOLS: [&str; 13] = [
    "mul",
    "matmul",
    "trunc",
    "trunc fast",
    "trunc_floor",
    "sign",
    "and",
    "inject",
    "inject_again",
    "inject_sum",
    "input",
    "open",
    "join",
];

async fn protocol(name: &str, tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let doubled = || mul_doubled(tile, x, x);
    Ok(match name {
        "mul" => mul(tile, x, x).await?,
        "matmul" => matmul(tile, Matrix::new(x.view(), 8, 12), Matrix::new(x.view(), 12, 8)).await?,
        "trunc" | "trunc fast" => trunc(tile, doubled(), 17).await?,
        "trunc_floor" => trunc_floor(tile, doubled(), 17).await?,
        "sign" => {
            sign(tile, x).await?;
            TileShare::zeros(tile, 0)
        }
        "and" => {
            let bits = sign(tile, x).await?;
            and(tile, &bits, &bits).await?;
            TileShare::zeros(tile, 0)
        }
        "inject" => inject(tile, &sign(tile, x).await?, x).await?.0,
        "inject_again" => inject_again(tile, &inject(tile, &sign(tile, x).await?, x).await?.1, x).await?,
        "inject_sum" => {
            let bits = sign(tile, x).await?;
            inject_sum(tile, &[Term::Share(&bits, x, None), Term::Public(&bits, 3)], x.len()).await?
        }
        "input" => input(tile, tile.is_helper().then(|| vec![5; 96]), 96).await?,
        "open" => {
            open(tile, x).await?;
            TileShare::zeros(tile, 0)
        }
        "join" => {
            let fork = tile.fork();
            join(mul(tile, x, x), mul(&fork, x, x)).await?.0
        }
        name => panic!("no protocol {name}"),
    })
}

/// Runs a protocol twice, so that every party sends something, against a peer whose `at`-th frame to each is faulty.
fn attack(name: &str, peer: PartyId, fault: Fault, at: usize) -> [Result<(), ProtocolError>; 3] {
    let trunc = if name.ends_with("fast") { Truncation::Fast } else { Truncation::Exact };
    let world = World::new(1).with_spec(ProtocolSpec { trunc, ..ProtocolSpec::default() }).with_transport(
        PATIENCE,
        move |inner| {
            let at = if inner.me() == peer { usize::MAX } else { at };
            let (seen, held, ready) = (0, None, VecDeque::new());
            Box::new(BadPeer { inner, peer, fault, at, seen, held, ready })
        },
    );
    let shares = world.share(0, &[77; 96]);
    let program = |party: &Party| {
        let share = &shares[party.me().index()];
        for _ in 0..2 {
            party.run(&[HELPER], |tile, _| async move { protocol(name, &tile, &tile.enter(share, 0..96)).await })?;
        }
        Ok(())
    };
    world.run(program).map(|(result, _)| result)
}

#[test]
fn every_protocol_names_the_bad_peer_and_ends() {
    for (name, fault, peer) in PROTOCOLS
        .into_iter()
        .flat_map(|name| FAULTS.map(|fault| (name, fault)))
        .flat_map(|(name, fault)| PartyId::ALL.map(|peer| (name, fault, peer)))
    {
        let start = Instant::now();
        let results = attack(name, peer, fault, 0);
        let what = format!("{name}: first frame of {peer} is {fault:?}: {results:?}");
        // Each wait ends after the patience; the innocent may have to wait for one another once or twice.
        assert!(start.elapsed() < 8 * PATIENCE, "{what}");
        // A lone frame after which nothing is due cannot be late, and a depth is no error.
        let silent_party = peer != HELPER && name == "input";
        if fault == Fault::Deep || silent_party {
            assert!(results.iter().all(Result::is_ok), "{what}");
            continue;
        }
        let honest = || results.iter().zip(PartyId::ALL).filter(|(_, party)| *party != peer);
        let errors: Vec<_> = honest().filter_map(|(result, _)| result.as_ref().err()).collect();
        let waited = |error: &&ProtocolError| matches!(error, ProtocolError::Transport(TransportError::Timeout { .. }));
        let (waits, verdicts): (Vec<_>, Vec<_>) = errors.into_iter().partition(waited);
        for error in &verdicts {
            let expected = match fault {
                Fault::Short | Fault::Long => matches!(error, ProtocolError::Length { .. }),
                Fault::Cut | Fault::Empty => matches!(error, ProtocolError::Malformed { .. }),
                Fault::Gone => matches!(error, ProtocolError::Transport(TransportError::PeerGone { .. })),
                Fault::Silent | Fault::Deep => false,
                _ => matches!(error, ProtocolError::Sequence { .. }),
            };
            assert!(expected && names(error) == [peer], "{what}");
        }
        // Who only waits names whom it waits for, one of whom may have given up because of the bad peer; but somebody
        // names the bad peer alone.
        let lost = matches!(fault, Fault::Lost | Fault::Silent | Fault::Late);
        assert!(!verdicts.is_empty() || lost && waits.iter().any(|error| names(error) == [peer]), "{what}");
    }
}

/// The parties that an error names.
fn names(error: &ProtocolError) -> Vec<PartyId> {
    let text = error.to_string();
    PartyId::ALL.into_iter().filter(|party| text.contains(&party.to_string())).collect()
}

#[test]
fn later_frames_are_checked_as_well() {
    for (name, fault, at) in [("sign", Fault::Twice, 3), ("inject", Fault::Long, 4), ("trunc_floor", Fault::Garbage, 2)]
    {
        for peer in [HELPER.prev(), HELPER.next()] {
            let results = attack(name, peer, fault, at);
            let verdict =
                |result: &Result<(), ProtocolError>| result.as_ref().is_err_and(|error| names(error) == [peer]);
            assert!(results.iter().any(verdict), "{name}: frame {at} of {peer} is {fault:?}: {results:?}");
        }
    }
}
