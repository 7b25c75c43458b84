//! What a lane's wire reaches beside bare quinn with the same settings, in one run, on loopback.
//!
//! `cargo bench -p party-node --bench wire`; `-- rounds` or `-- bulk` for one half, `--quick` for a tenth of it.

use std::env;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use party_node::transport::quic::tuning;
use party_node::transport::{
    Identity, QuicListener, QuicTransport, Roster, RosterEntry, SessionParams, Transport, TransportError, WireTuning,
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, TokioRuntime};
use shared::ids::{Epoch, Lane, PartyId};

const WAIT: Duration = Duration::from_secs(10);
const EXCHANGE_BYTES: usize = 8 << 20;
const BATCH: usize = 100;
const ONE_WAY_BYTES: usize = 64 << 20;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    let only = |part: &str| arguments.iter().all(|a| a.starts_with("--")) || arguments.iter().any(|a| a == part);
    let scale = if arguments.iter().any(|a| a == "--quick") { 10 } else { 1 };
    let tuning = tuning_from_environment();
    say(&format!("{tuning:?}"));

    if only("sessions") {
        let sessions = (0..20).map(|_| {
            let start = Instant::now();
            on_lane(&tuning, |_| Ok(()));
            start.elapsed()
        });
        say(&format!(
            "three keys, ports and parties, session and goodbye: {}",
            Spread::of(sessions.collect()).in_milliseconds()
        ));
    }
    if only("rounds") {
        for bytes in [64, 2048, 65_536] {
            let report = Spread::of(ring_rounds(&tuning, bytes, 20_000 / scale));
            say(&format!("ring of three, {bytes} B a round: {}", report.in_microseconds()));
            let report = Spread::of(pair_rounds(&tuning, bytes, 20_000 / scale));
            say(&format!("exchange of two, {bytes} B a round: {}", report.in_microseconds()));
        }
    }
    if only("bulk") {
        // Alternating, so that a busy machine disturbs both alike.
        let (mut ours, mut bare) = (Bulk::default(), Bulk::default());
        for _ in 0..5 {
            ours.add(Bulk::measure(100 / scale, 20 / scale, || lane_bulk(&tuning, 100 / scale, 20 / scale)));
            bare.add(Bulk::measure(100 / scale, 20 / scale, || bare_bulk(&tuning, 100 / scale, 20 / scale)));
        }
        say(&format!("processor time: lane {}, bare quinn {}", ours.processor_time(), bare.processor_time()));
        let (ours, bare) = (ours.spreads(), bare.spreads());
        for (what, ours, bare, bytes) in
            [("8 MiB each way", ours.0, bare.0, 2 * EXCHANGE_BYTES), ("64 MiB one way", ours.1, bare.1, ONE_WAY_BYTES)]
        {
            // Means: of two exchanges in a row the first may wait for the second's sender.
            let rate = |spread: &Spread| bytes as f64 / spread.mean.as_secs_f64() / 1e9;
            say(&format!("{what}: lane {}, {:.2} GB/s", ours.in_milliseconds(), rate(&ours)));
            say(&format!("{what}: bare quinn {}, {:.2} GB/s", bare.in_milliseconds(), rate(&bare)));
            say(&format!("{what}: lane / bare quinn {:.2}", rate(&ours) / rate(&bare)));
        }
    }
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}

/// `WIRE_MTU`, `WIRE_WINDOW` (bytes, 0 for the congestion control between hosts) and `WIRE_SPIN` (microseconds) over the defaults.
fn tuning_from_environment() -> WireTuning {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let mut tuning = WireTuning::default();
    if let Some(mtu) = number("WIRE_MTU") {
        tuning.loopback_mtu = u16::try_from(mtu).expect("an MTU");
    }
    if let Some(window) = number("WIRE_WINDOW") {
        tuning.loopback_window = (window > 0).then_some(window);
    }
    if let Some(spin) = number("WIRE_SPIN") {
        tuning.spin = Duration::from_micros(spin);
    }
    tuning
}

struct Spread {
    median: Duration,
    low: Duration,
    high: Duration,
    mean: Duration,
}

impl Spread {
    /// Median, and the 5th and 99th percentile.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>().div_f64(times.len().max(1) as f64);
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        Self { median: at(50), low: at(5), high: at(99), mean }
    }

    fn in_microseconds(&self) -> String {
        self.scaled(1e6, "us")
    }

    fn in_milliseconds(&self) -> String {
        self.scaled(1e3, "ms")
    }

    fn scaled(&self, units_per_second: f64, unit: &str) -> String {
        let [median, low, high, mean] =
            [self.median, self.low, self.high, self.mean].map(|time| time.as_secs_f64() * units_per_second);
        format!("p50 {median:.2} {unit} (p5 {low:.2}, p99 {high:.2}), mean {mean:.2}")
    }
}

#[derive(Default)]
struct Bulk {
    exchanges: Vec<Duration>,
    pushes: Vec<Duration>,
    /// Of the whole process, both ends, warm-up included.
    processor_seconds: f64,
    gibibytes: f64,
}

impl Bulk {
    fn measure(exchanges: usize, pushes: usize, run: impl FnOnce() -> Bulk) -> Bulk {
        let before = processor_seconds();
        let bulk = run();
        let bytes = (exchanges + exchanges / 10 + 1) * 2 * EXCHANGE_BYTES + (pushes + pushes / 10 + 1) * ONE_WAY_BYTES;
        let gibibytes = bytes as f64 / f64::from(1 << 30);
        Bulk { processor_seconds: processor_seconds() - before, gibibytes, ..bulk }
    }

    fn processor_time(&self) -> String {
        format!("{:.2} s/GiB", self.processor_seconds / self.gibibytes)
    }

    fn add(&mut self, more: Bulk) {
        self.processor_seconds += more.processor_seconds;
        self.gibibytes += more.gibibytes;
        self.exchanges.extend(more.exchanges);
        self.pushes.extend(more.pushes);
    }

    fn spreads(self) -> (Spread, Spread) {
        (Spread::of(self.exchanges), Spread::of(self.pushes))
    }
}

/// User and system time of this process so far, from the kernel's 10 ms ticks.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let ticks = |field: usize| after_name.split_whitespace().nth(field).and_then(|t| t.parse::<f64>().ok());
    (ticks(11).expect("utime") + ticks(12).expect("stime")) / 100.0
}

struct Parties {
    identities: [Identity; 3],
    listeners: [QuicListener; 3],
    roster: Roster,
}

fn parties() -> Parties {
    let identities = PartyId::ALL
        .map(|party| Identity::generate(&format!("{party}.bench"), Duration::from_secs(3600)).expect("an identity"));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners = PartyId::ALL.map(|_| QuicListener::bind(any).expect("a free port"));
    let roster = Roster::new(PartyId::ALL.map(|party| RosterEntry {
        certificate: identities[party.index()].certificate().to_vec(),
        lanes: vec![listeners[party.index()].local_addr()],
    }));
    Parties { identities, listeners, roster }
}

/// Runs the three parties of a lane on a thread each; gives what P0's thread returns.
fn on_lane<R: Send>(tuning: &WireTuning, party: impl Fn(&mut QuicTransport) -> Result<R, TransportError> + Sync) -> R {
    let Parties { identities, listeners, roster } = parties();
    let session = SessionParams {
        lane: Lane(0),
        epoch: Epoch(1),
        job_digest: [1; 32],
        version: "bench".into(),
        deadline: Instant::now() + WAIT,
        tuning: tuning.clone(),
    };
    thread::scope(|scope| {
        let (party, roster, session, identities) = (&party, &roster, &session, &identities);
        let mut listeners = listeners.into_iter();
        let threads = PartyId::ALL.map(|me| {
            let listener = listeners.next().expect("three listeners");
            scope.spawn(move || {
                let identity = &identities[me.index()];
                let (mut transport, _) = QuicTransport::connect(listener, me, identity, roster, session)?;
                let outcome = party(&mut transport)?;
                transport.close()?;
                Ok::<_, TransportError>(outcome)
            })
        });
        let [first, ..] = threads.map(|thread| thread.join().expect("no panic").expect("a working lane"));
        first
    })
}

/// Everybody sends to the next party and waits for the previous one.
fn ring_rounds(tuning: &WireTuning, bytes: usize, rounds: usize) -> Vec<Duration> {
    on_lane(tuning, |transport| {
        let next = transport.me().next();
        timed_in_batches(rounds, || {
            transport.send(next, vec![7; bytes])?;
            transport.recv(WAIT).map(|_| ())
        })
    })
}

/// P0 and P1 send to each other and wait; P2 does nothing.
fn pair_rounds(tuning: &WireTuning, bytes: usize, rounds: usize) -> Vec<Duration> {
    on_lane(tuning, |transport| {
        let Some(peer) = other_evaluator(transport.me()) else { return Ok(Vec::new()) };
        timed_in_batches(rounds, || {
            transport.send(peer, vec![7; bytes])?;
            transport.recv(WAIT).map(|_| ())
        })
    })
}

fn lane_bulk(tuning: &WireTuning, exchanges: usize, pushes: usize) -> Bulk {
    on_lane(tuning, |transport| {
        let me = transport.me();
        let Some(peer) = other_evaluator(me) else { return Ok(Bulk::default()) };
        let exchanges = timed(exchanges, EXCHANGE_BYTES, |frame| {
            transport.send(peer, frame)?;
            transport.recv(WAIT).map(|_| ())
        })?;
        let pushes = timed(pushes, if me < peer { ONE_WAY_BYTES } else { 1 }, |frame| {
            if me < peer {
                transport.send(peer, frame)?;
                transport.recv(WAIT).map(|_| ())
            } else {
                transport.recv(WAIT)?;
                transport.send(peer, frame)?;
                transport.flush()
            }
        })?;
        Ok(Bulk { exchanges, pushes, ..Bulk::default() })
    })
}

fn other_evaluator(me: PartyId) -> Option<PartyId> {
    let [first, second, _] = PartyId::ALL;
    (me == first).then_some(second).or((me == second).then_some(first))
}

/// Times rounds a hundred at a time and gives the mean of each batch: a single round may find its message waiting.
fn timed_in_batches<E>(rounds: usize, mut round: impl FnMut() -> Result<(), E>) -> Result<Vec<Duration>, E> {
    let times = timed(rounds / BATCH, 0, |_| (0..BATCH).try_for_each(|_| round()))?;
    Ok(times.into_iter().map(|time| time.div_f64(BATCH as f64)).collect())
}

/// Times every round after the first tenth; what a round sends is made before the clock starts.
fn timed<E>(rounds: usize, bytes: usize, mut round: impl FnMut(Vec<u8>) -> Result<(), E>) -> Result<Vec<Duration>, E> {
    let mut once = || {
        let frame = vec![7; bytes];
        let start = Instant::now();
        round(frame).map(|()| start.elapsed())
    };
    for _ in 0..rounds / 10 + 1 {
        once()?;
    }
    (0..rounds).map(|_| once()).collect()
}

/// The same two exchanges with nothing between the benchmark and quinn: raw bytes of known length on one stream.
fn bare_bulk(tuning: &WireTuning, exchanges: usize, pushes: usize) -> Bulk {
    let Parties { identities, listeners, .. } = parties();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sockets = listeners.map(|_| tuning::bind(any).expect("a free port"));
    let [dialling, accepting, _] = sockets;
    let address = accepting.local_addr().expect("it is bound");
    thread::scope(|scope| {
        let identities = &identities;
        let server = scope.spawn(move || {
            run_alone(async {
                let config = tuning.accepting(&identities[1], [identities[0].certificate()]).expect("settings");
                let endpoint = endpoint(tuning, accepting, Some(config.clone()));
                let mut config = config;
                config.transport_config(tuning.transport_config(address.ip()));
                let incoming = endpoint.accept().await.expect("a caller");
                let connection = incoming.accept_with(Arc::new(config)).expect("a caller").await.expect("a caller");
                let (send, recv) = connection.accept_bi().await.expect("a stream");
                bare_party(send, recv, connection, 1, exchanges, pushes).await
            })
        });
        let client = scope.spawn(move || {
            run_alone(async {
                let endpoint = endpoint(tuning, dialling, None);
                let config = tuning.dialling(&identities[0], identities[1].certificate(), address.ip());
                let connecting = endpoint.connect_with(config.expect("settings"), address, "trefoil.party");
                let connection = connecting.expect("an address").await.expect("an answer");
                let (send, recv) = connection.open_bi().await.expect("a stream");
                bare_party(send, recv, connection, ONE_WAY_BYTES, exchanges, pushes).await
            })
        });
        server.join().expect("no panic");
        client.join().expect("no panic")
    })
}

fn endpoint(tuning: &WireTuning, socket: std::net::UdpSocket, config: Option<quinn::ServerConfig>) -> Endpoint {
    Endpoint::new(tuning.endpoint_config(), config, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}

async fn bare_party(
    mut send: SendStream,
    mut recv: RecvStream,
    connection: Connection,
    push_bytes: usize,
    exchanges: usize,
    pushes: usize,
) -> Bulk {
    let mut bulk = Bulk::default();
    let (out, mut back) = (vec![7; EXCHANGE_BYTES], vec![0; EXCHANGE_BYTES]);
    for round in 0..exchanges + exchanges / 10 + 1 {
        let start = Instant::now();
        let (sent, read) = tokio::join!(send.write_all(&out), recv.read_exact(&mut back));
        sent.and(read.map_err(|_| quinn::WriteError::ClosedStream)).expect("a working stream");
        if round > exchanges / 10 {
            bulk.exchanges.push(start.elapsed());
        }
    }
    let (out, mut back) = (vec![7; push_bytes], vec![0; ONE_WAY_BYTES + 1 - push_bytes]);
    for round in 0..pushes + pushes / 10 + 1 {
        let start = Instant::now();
        if push_bytes == ONE_WAY_BYTES {
            send.write_all(&out).await.expect("a working stream");
            recv.read_exact(&mut back).await.expect("a working stream");
        } else {
            recv.read_exact(&mut back).await.expect("a working stream");
            send.write_all(&out).await.expect("a working stream");
        }
        if round > pushes / 10 {
            bulk.pushes.push(start.elapsed());
        }
    }
    // Each closes when both have everything; the packet that says so gets a moment to leave.
    let _ = send.finish();
    let _ = send.stopped().await;
    connection.close(0_u32.into(), b"");
    tokio::time::sleep(Duration::from_millis(5)).await;
    bulk
}

fn run_alone<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
