//! Measures a network alone, before any party uses it.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::namespaces::{Namespaces, address, joined};
use crate::profile::Shape;
use crate::system;

/// Payload of a packet as the parties send it.
const SEGMENT_BYTES: u16 = 1452;
/// Packets handed to the kernel at once.
const BATCH: usize = 10;
/// Silence after which nothing more is expected; longer than any round trip and queue.
const SILENCE: Duration = Duration::from_millis(400);
/// How long the link is flooded, or sent to at a slow pace.
const PUSH: Duration = Duration::from_millis(1500);
/// Round trips that are timed.
const PINGS: u64 = 200;

/// What a network turned out to do.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Measured {
    /// Median.
    pub(crate) rtt_ms: f64,
    pub(crate) rtt_ms_p5: f64,
    pub(crate) rtt_ms_p95: f64,
    /// Payload, IP and UDP headers, as the profile counts.
    pub(crate) bandwidth_mbit: f64,
    /// Share of packets lost at half the measured bandwidth, one way.
    pub(crate) loss: f64,
    /// Share of packets that arrived behind a later one.
    pub(crate) reordered: f64,
}

/// Measures the way between P0 and P1.
pub(crate) fn measure(namespaces: &Namespaces, shape: &Shape) -> anyhow::Result<Measured> {
    let times = round_trips(namespaces, PINGS)?;
    let at = |share: f64| {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let index = ((times.len() - 1) as f64 * share).round() as usize;
        1e3 * times[index].as_secs_f64()
    };
    let flood = push(namespaces, 1.2 * shape.rate.min(20e9))?;
    // Of what this machine carries, which may be less than the profile's rate.
    let slow = push(namespaces, 0.5 * 1e6 * flood.mbit)?;
    Ok(Measured {
        rtt_ms: at(0.5),
        rtt_ms_p5: at(0.05),
        rtt_ms_p95: at(0.95),
        bandwidth_mbit: flood.mbit,
        loss: slow.lost,
        reordered: slow.reordered,
    })
}

/// Times of single small packets there and back, in order of size.
pub(crate) fn round_trips(namespaces: &Namespaces, count: u64) -> anyhow::Result<Vec<Duration>> {
    let echo = receiver(namespaces, 1, false)?;
    let to = echo.local_addr()?;
    let echoing = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..length], from)?;
        }
        anyhow::Ok(())
    });
    let pinging = namespaces.within(0, move || {
        let socket = UdpSocket::bind((address(0), 0))?;
        socket.set_read_timeout(Some(SILENCE / 2))?;
        let (mut times, mut buffer) = (Vec::new(), [0; 64]);
        for number in 0..count {
            let begin = Instant::now();
            socket.send_to(&number.to_le_bytes(), to)?;
            // An answer that got lost is no measurement; one that comes late answers an older question.
            while let Ok(length) = socket.recv(&mut buffer) {
                if buffer[..length] == number.to_le_bytes() {
                    times.push(begin.elapsed());
                    break;
                }
            }
        }
        times.sort_unstable();
        Ok(times)
    })?;
    let times = joined(pinging)?;
    joined(echoing)?;
    if (times.len() as u64) < count / 2 {
        bail!("{} of {count} round trips were completed", times.len());
    }
    Ok(times)
}

/// What arrived of packets sent at a given pace.
struct Pushed {
    mbit: f64,
    lost: f64,
    reordered: f64,
}

/// Sends numbered packets from P0 to P1.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn push(namespaces: &Namespaces, bits_per_second: f64) -> anyhow::Result<Pushed> {
    let socket = receiver(namespaces, 1, true)?;
    let to = socket.local_addr()?;
    let receiving = thread::spawn(move || receive(&socket));
    let sent = joined(namespaces.within(0, move || send(to, bits_per_second))?)?;
    let received = joined(receiving)?;
    let (Some(first), Some(last)) = (received.first, received.last) else { bail!("no packet arrived") };
    let bits = (received.packets - received.first_packets) as f64 * f64::from(SEGMENT_BYTES + 28) * 8.0;
    Ok(Pushed {
        mbit: bits / last.duration_since(first).as_secs_f64() / 1e6,
        lost: 1.0 - received.packets as f64 / sent as f64,
        reordered: received.overtaken as f64 / received.packets as f64,
    })
}

/// Packets sent.
fn send(to: SocketAddr, bits_per_second: f64) -> anyhow::Result<u64> {
    let socket = UdpSocket::bind((address(0), 0))?;
    system::send_in_batches(&socket, SEGMENT_BYTES).context("batches of packets")?;
    let segment = usize::from(SEGMENT_BYTES);
    let (mut buffer, mut sent) = (vec![0; BATCH * segment], 0_u64);
    let batch_seconds = (BATCH * (segment + 28) * 8) as f64 / bits_per_second;
    let begin = Instant::now();
    for batch in 0_u32.. {
        let due = Duration::from_secs_f64(batch_seconds * f64::from(batch));
        if due > PUSH {
            break;
        }
        if let Some(pause) = due.checked_sub(begin.elapsed()) {
            // The kernel wakes too late for a single batch of a fast link.
            if pause > Duration::from_micros(200) { thread::sleep(pause) } else { while begin.elapsed() < due {} }
        } else if begin.elapsed() > 2 * PUSH {
            break;
        }
        for packet in buffer.chunks_mut(segment) {
            packet[..8].copy_from_slice(&sent.to_le_bytes());
            sent += 1;
        }
        socket.send_to(&buffer, to)?;
    }
    Ok(sent)
}

#[derive(Default)]
struct Received {
    packets: u64,
    overtaken: u64,
    first: Option<Instant>,
    /// Packets that came with the first.
    first_packets: u64,
    last: Option<Instant>,
}

fn receive(socket: &UdpSocket) -> anyhow::Result<Received> {
    let (mut received, mut buffer, mut newest) = (Received::default(), vec![0; 64 << 10], 0);
    // Before the first packet there may be a while.
    socket.set_read_timeout(Some(4 * SILENCE))?;
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(received),
            Err(error) => return Err(error.into()),
        };
        for packet in buffer[..length].chunks(SEGMENT_BYTES.into()) {
            let number = packet.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            received.packets += 1;
            received.overtaken += u64::from(number < newest);
            newest = newest.max(number);
        }
        let now = Instant::now();
        if received.first.is_none() {
            (received.first, received.first_packets) = (Some(now), received.packets);
            socket.set_read_timeout(Some(SILENCE))?;
        }
        received.last = Some(now);
    }
}

/// A socket in the network of a party.
fn receiver(namespaces: &Namespaces, party: usize, in_batches: bool) -> anyhow::Result<UdpSocket> {
    let bound = namespaces.within(party, move || {
        let socket = UdpSocket::bind((address(party), 0))?;
        socket.set_read_timeout(Some(SILENCE))?;
        if in_batches {
            system::receive_in_batches(&socket).context("batches of packets")?;
        }
        Ok(socket)
    })?;
    joined(bound)
}
