//! Many channels over one transport: the messages of all tiles that are ready leave together.
//!
//! A frame is its number (4 bytes) and a sequence of messages: channel (4 bytes), depth (4), length (4), payload;
//! little-endian. Within a channel and sender, messages stay in order. Depth counts the longest chain of dependent
//! receives behind a message. A frame that is missing, repeated or out of order would silently shift all later masks,
//! so its number is checked here even though transports promise order.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use shared::ids::PartyId;

use super::ProtocolError;
use crate::compute::Payload;
#[cfg(feature = "cuda")]
use crate::compute::{DeviceError, cuda::Reading};
use crate::meter::{Meter, Phase};
use crate::transport::{Transport, TransportError};

/// Bytes in front of every frame.
pub const FRAME_HEADER_BYTES: usize = 4;
/// Bytes in front of every message.
pub const MESSAGE_HEADER_BYTES: usize = 12;
/// A frame leaves early once it is this long, so that peers can start on it.
const FRAME_EAGER_BYTES: usize = 1 << 17;
/// What a frame is given room for when it must hold more than a short message: one that grows is copied each time.
const FRAME_BYTES: usize = 3 << 17;
/// A message of this length or less is short.
const MESSAGE_SHORT_BYTES: usize = 1 << 12;

/// A message as it arrived: a piece of its frame, so that it is copied once, to where it is used.
pub(super) struct Message {
    pub(super) depth: u32,
    frame: Rc<Vec<u8>>,
    payload: Range<usize>,
}

impl Message {
    pub(super) fn payload(&self) -> &[u8] {
        &self.frame[self.payload.clone()]
    }
}

/// Messages that leave together.
#[derive(Default)]
struct Frame {
    bytes: Vec<u8>,
    /// Payloads that are on their way from a GPU, and where they belong.
    #[cfg(feature = "cuda")]
    late: Vec<(Range<usize>, Reading)>,
}

impl Frame {
    fn append(&mut self, payload: Payload<'_>) {
        match payload {
            Payload::Now(bytes) => self.bytes.extend_from_slice(&bytes),
            #[cfg(feature = "cuda")]
            Payload::Later(reading) => {
                let start = self.bytes.len();
                self.bytes.resize(start + reading.len(), 0);
                self.late.push((start..self.bytes.len(), reading));
            }
        }
    }

    /// The whole frame, once all of it is here.
    fn complete(self) -> Result<Vec<u8>, ProtocolError> {
        #[cfg(feature = "cuda")]
        {
            let mut bytes = self.bytes;
            for (place, reading) in self.late {
                let arrived = reading.finish(&mut bytes[place]);
                arrived.map_err(|error| ProtocolError::Device(DeviceError(error.to_string())))?;
            }
            Ok(bytes)
        }
        #[cfg(not(feature = "cuda"))]
        Ok(self.bytes)
    }
}

pub(super) struct Wire {
    transport: Box<dyn Transport>,
    /// Frames that are full, in the order in which they leave.
    full: Vec<(PartyId, Frame)>,
    outgoing: [Frame; 3],
    sent_frames: [u32; 3],
    received_frames: [u32; 3],
    incoming: HashMap<(PartyId, u32), VecDeque<Message>>,
    awaited: [bool; 3],
    timeout: Duration,
}

impl Wire {
    pub(super) fn new(transport: Box<dyn Transport>, timeout: Duration) -> Self {
        Self {
            transport,
            full: Vec::new(),
            outgoing: Default::default(),
            sent_frames: [0; 3],
            received_frames: [0; 3],
            incoming: HashMap::new(),
            awaited: [false; 3],
            timeout,
        }
    }

    /// Appends a message to the frames that leave with the next flush.
    pub(super) fn queue(&mut self, to: PartyId, channel: u32, depth: u32, payload: Payload<'_>) {
        let length = u32::try_from(payload.len()).expect("tiles are far smaller than 4 GiB");
        let frame = &mut self.outgoing[to.index()];
        let needed = MESSAGE_HEADER_BYTES + payload.len();
        if !frame.bytes.is_empty() && frame.bytes.len() + needed > FRAME_BYTES {
            self.full.push((to, std::mem::take(frame)));
        }
        if payload.len() > MESSAGE_SHORT_BYTES {
            frame.bytes.reserve((FRAME_HEADER_BYTES + needed).max(FRAME_BYTES.saturating_sub(frame.bytes.len())));
        }
        if frame.bytes.is_empty() {
            let number = &mut self.sent_frames[to.index()];
            frame.bytes.extend_from_slice(&number.to_le_bytes());
            *number = number.wrapping_add(1);
        }
        for field in [channel, depth, length] {
            frame.bytes.extend_from_slice(&field.to_le_bytes());
        }
        frame.append(payload);
    }

    /// Whether enough is queued to be worth sending before all tiles have run.
    pub(super) fn is_eager(&self) -> bool {
        !self.full.is_empty() || self.outgoing.iter().any(|frame| frame.bytes.len() >= FRAME_EAGER_BYTES)
    }

    /// Sends what is queued: one frame per peer, more if they are long.
    pub(super) fn flush(&mut self, meter: &Meter) -> Result<(), ProtocolError> {
        for to in PartyId::ALL {
            let frame = std::mem::take(&mut self.outgoing[to.index()]);
            if !frame.bytes.is_empty() {
                self.full.push((to, frame));
            }
        }
        if self.full.is_empty() {
            return Ok(());
        }
        meter.within(Phase::OpenSend, || {
            for (to, frame) in self.full.drain(..) {
                let frame = frame.complete()?;
                meter.sent(to, frame.len());
                self.transport.send(to, frame)?;
            }
            Ok(())
        })
    }

    /// As [`Wire::flush`], when no wait follows: what is sent must leave while this party is busy elsewhere.
    pub(super) fn flush_now(&mut self, meter: &Meter) -> Result<(), ProtocolError> {
        self.flush(meter)?;
        Ok(meter.within(Phase::OpenSend, || self.transport.flush())?)
    }

    /// The next message of a channel, if it has arrived.
    pub(super) fn take(&mut self, from: PartyId, channel: u32) -> Option<Message> {
        let Some(queue) = self.incoming.get_mut(&(from, channel)) else {
            self.awaited[from.index()] = true;
            return None;
        };
        let message = queue.pop_front();
        if queue.is_empty() {
            self.incoming.remove(&(from, channel));
        }
        message
    }

    /// Waits for at least one frame, then takes all that have arrived. If none comes, the error names whose messages
    /// were asked for since the last time.
    pub(super) fn pump(&mut self, meter: &Meter) -> Result<(), ProtocolError> {
        let awaited = std::mem::take(&mut self.awaited);
        let received = meter.within(Phase::OpenWait, || self.transport.recv(self.timeout));
        let (from, frame) = received.map_err(|error| match error {
            TransportError::Timeout { after, .. } if awaited.contains(&true) => {
                let names = PartyId::ALL.into_iter().filter(|peer| awaited[peer.index()]).map(|peer| peer.to_string());
                TransportError::Timeout { waiting_for: names.collect::<Vec<_>>().join(" and "), after }
            }
            other => other,
        })?;
        self.unpack(meter, from, frame)?;
        // That a peer has left since matters only if something of it is still missing; then the next wait says so.
        while let Ok(Some((from, frame))) = self.transport.try_recv() {
            self.unpack(meter, from, frame)?;
        }
        Ok(())
    }

    fn unpack(&mut self, meter: &Meter, from: PartyId, frame: Vec<u8>) -> Result<(), ProtocolError> {
        meter.received(from, frame.len());
        let malformed = || ProtocolError::Malformed { peer: from };
        let number = frame.first_chunk::<FRAME_HEADER_BYTES>().ok_or_else(malformed)?;
        let expected = &mut self.received_frames[from.index()];
        let got = u32::from_le_bytes(*number);
        if got != *expected {
            return Err(ProtocolError::Sequence { peer: from, expected: *expected, got });
        }
        *expected = expected.wrapping_add(1);
        let frame = Rc::new(frame);
        for header in headers(&frame, FRAME_HEADER_BYTES) {
            let Header { channel, depth, payload } = header.ok_or_else(malformed)?;
            let message = Message { depth, frame: frame.clone(), payload };
            self.incoming.entry((from, channel)).or_default().push_back(message);
        }
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<(), ProtocolError> {
        Ok(self.transport.close()?)
    }
}

/// What stands in front of a message, and where its payload lies in the frame.
struct Header {
    channel: u32,
    depth: u32,
    payload: Range<usize>,
}

/// Splits a frame into messages; a `None` ends a frame that does not add up.
fn headers(frame: &[u8], start: usize) -> impl Iterator<Item = Option<Header>> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at == frame.len() {
            return None;
        }
        let header = parse_header(frame, at);
        at = header.as_ref().map_or(frame.len(), |header| header.payload.end);
        Some(header)
    })
}

fn parse_header(frame: &[u8], at: usize) -> Option<Header> {
    let start = at + MESSAGE_HEADER_BYTES;
    let header = frame.get(at..start)?;
    let field = |i: usize| u32::from_le_bytes(header[4 * i..4 * i + 4].try_into().expect("four bytes"));
    let payload = start..start.checked_add(field(2) as usize)?;
    (payload.end <= frame.len()).then(|| Header { channel: field(0), depth: field(1), payload })
}

/// What the fuzz target calls, with a frame past its number: parsing must neither panic nor allocate more than it holds.
pub fn parse_frame(frame: &[u8]) -> usize {
    headers(frame, 0).take_while(Option::is_some).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_frame_panics(frame: Vec<u8>) {
            parse_frame(&frame);
        }

        #[test]
        fn a_cut_frame_is_malformed(payload: Vec<u8>, cut in 1_usize..12) {
            let mut frame = Vec::new();
            for field in [7, 1, u32::try_from(payload.len()).unwrap()] {
                frame.extend(field.to_le_bytes());
            }
            frame.extend(&payload);
            prop_assert_eq!(parse_frame(&frame), 1);
            prop_assert!(headers(&frame[..frame.len() - cut.min(payload.len() + 11)], 0).any(|m| m.is_none()));
        }
    }
}
