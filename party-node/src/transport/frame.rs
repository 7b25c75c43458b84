//! Frames on a byte stream: a 21-byte header, then the payload. Knows neither sockets nor shares.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | payload length, little-endian, at most [`FRAME_BYTES_MAX`] |
//! | 1 | kind: 0 data, 1 goodbye, 2 handshake |
//! | 8 | session epoch |
//! | 8 | sequence number, from 0, without gaps |
//!
//! A stream begins with [`HANDSHAKE_FRAMES`] handshake frames; they carry the epoch in their payload, where a
//! mismatch can be explained, so the decoder holds only the later frames to it.

use shared::ids::{Epoch, PartyId};

use super::TransportError;

/// Bytes that a header adds to each payload.
pub const HEADER_BYTES: usize = 21;
/// The largest payload, 256 MiB: four times the largest message of the reference workloads.
pub const FRAME_BYTES_MAX: usize = 256 << 20;
/// The largest payload before the peer has agreed on the session.
pub const HANDSHAKE_BYTES_MAX: usize = 4 << 10;
/// Handshake frames at the start of every stream: hello, then the nonces heard.
pub const HANDSHAKE_FRAMES: u64 = 2;
/// Memory reserved for a payload on the word of its header alone.
const RESERVE_BYTES_MAX: usize = 256 << 10;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Payload of the protocol.
    Data,
    /// The sender will send no more.
    Goodbye,
    /// Agreement on the session, before any data.
    Handshake,
}

/// A complete frame whose header kept the rules.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: FrameKind,
    /// Its content.
    pub payload: Vec<u8>,
}

/// Which rule a frame broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream ended inside a frame.
    #[error("truncated: the stream ended after {received} of {due} bytes of frame {sequence}")]
    Truncated {
        /// Its number.
        sequence: u64,
        /// Bytes that came, header included.
        received: usize,
        /// Bytes that should have come; the header alone if the length did not arrive.
        due: usize,
    },
    /// Longer than allowed.
    #[error("oversized: frame {sequence} claims {length} bytes, at most {max} are allowed")]
    Oversized {
        /// Its number.
        sequence: u64,
        /// The claim.
        length: usize,
        /// The limit at this point of the stream.
        max: usize,
    },
    /// A number that was already used.
    #[error("duplicated: frame {sequence} came again, {due} was due")]
    Duplicated {
        /// Its number.
        sequence: u64,
        /// The next new one.
        due: u64,
    },
    /// A number from the future.
    #[error("reordered: frame {sequence} came where {due} was due")]
    Reordered {
        /// Its number.
        sequence: u64,
        /// The next one.
        due: u64,
    },
    /// A sender of another incarnation of the job.
    #[error("wrong epoch: frame {sequence} is of epoch {found}, this session is epoch {due}")]
    WrongEpoch {
        /// Its number.
        sequence: u64,
        /// What it carried.
        found: u64,
        /// What the session has.
        due: u64,
    },
    /// A kind that does not exist, or not here.
    #[error("unexpected kind {kind} in frame {sequence}")]
    UnexpectedKind {
        /// Its number.
        sequence: u64,
        /// The byte on the wire.
        kind: u8,
    },
    /// More bytes after the goodbye.
    #[error("frame {sequence} came after the goodbye")]
    AfterGoodbye {
        /// Its number.
        sequence: u64,
    },
}

impl FrameError {
    /// The same, with the sender's name.
    pub fn from_peer(&self, peer: PartyId) -> TransportError {
        TransportError::BadFrame { peer, reason: self.to_string() }
    }
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            FrameKind::Data => 0,
            FrameKind::Goodbye => 1,
            FrameKind::Handshake => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [FrameKind::Data, FrameKind::Goodbye, FrameKind::Handshake].into_iter().find(|kind| kind.code() == code)
    }
}

/// Numbers and labels the frames of one direction of a stream.
#[derive(Debug)]
pub struct FrameEncoder {
    epoch: Epoch,
    next_sequence: u64,
}

impl FrameEncoder {
    /// For a new stream of this session.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, next_sequence: 0 }
    }

    /// The header of the next frame. Panics if the payload is too long: its size is ours to choose.
    pub fn header(&mut self, kind: FrameKind, length: usize) -> [u8; HEADER_BYTES] {
        assert!(length <= FRAME_BYTES_MAX, "a frame holds at most {FRAME_BYTES_MAX} bytes, not {length}");
        let length = u32::try_from(length).expect("the limit is below 2^32");
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4] = kind.code();
        header[5..13].copy_from_slice(&self.epoch.0.to_le_bytes());
        header[13..].copy_from_slice(&self.next_sequence.to_le_bytes());
        self.next_sequence += 1;
        header
    }

    /// Header and payload in one piece.
    pub fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
        frame.extend_from_slice(&self.header(kind, payload.len()));
        frame.extend_from_slice(payload);
        frame
    }
}

/// Cuts one direction of a stream back into frames, however it was chopped on the way.
#[derive(Debug)]
pub struct FrameDecoder {
    epoch: Epoch,
    next_sequence: u64,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body: Option<Body>,
    /// The longest payload that has really arrived: so much may be reserved ahead for the next one.
    longest: usize,
    finished: bool,
}

#[derive(Debug)]
struct Body {
    kind: FrameKind,
    length: usize,
    payload: Vec<u8>,
}

impl FrameDecoder {
    /// For a new stream, whose first frames are the handshake.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            next_sequence: 0,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            body: None,
            longest: 0,
            finished: false,
        }
    }

    /// Consumes bytes from the front of `input` until a frame is complete or `input` is empty.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if self.body.is_none() {
            let taken = take(input, HEADER_BYTES - self.header_filled);
            self.header[self.header_filled..][..taken.len()].copy_from_slice(taken);
            self.header_filled += taken.len();
            if self.header_filled < HEADER_BYTES {
                return Ok(None);
            }
            self.body = Some(self.parse_header()?);
        }
        let body = self.body.as_mut().expect("set above");
        let taken = take(input, body.length - body.payload.len());
        body.grow_for(taken.len(), self.longest);
        body.payload.extend_from_slice(taken);
        if body.payload.len() < body.length {
            return Ok(None);
        }
        let Body { kind, payload, length } = self.body.take().expect("set above");
        self.header_filled = 0;
        self.next_sequence += 1;
        self.longest = self.longest.max(length);
        self.finished = kind == FrameKind::Goodbye;
        Ok(Some(Frame { kind, payload }))
    }

    /// Whether the stream may end here: not inside a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        let (received, due) = match &self.body {
            Some(body) => (HEADER_BYTES + body.payload.len(), HEADER_BYTES + body.length),
            None if self.header_filled > 0 => (self.header_filled, HEADER_BYTES),
            None => return Ok(()),
        };
        Err(FrameError::Truncated { sequence: self.next_sequence, received, due })
    }

    fn parse_header(&self) -> Result<Body, FrameError> {
        let word = |at: usize| u64::from_le_bytes(self.header[at..at + 8].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(self.header[..4].try_into().expect("four bytes")) as usize;
        let (kind, epoch, sequence) = (self.header[4], word(5), word(13));

        let due = self.next_sequence;
        let in_handshake = due < HANDSHAKE_FRAMES;
        if self.finished {
            return Err(FrameError::AfterGoodbye { sequence });
        }
        if !in_handshake && epoch != self.epoch.0 {
            return Err(FrameError::WrongEpoch { sequence, found: epoch, due: self.epoch.0 });
        }
        if sequence < due {
            return Err(FrameError::Duplicated { sequence, due });
        }
        if sequence > due {
            return Err(FrameError::Reordered { sequence, due });
        }
        let max = if in_handshake { HANDSHAKE_BYTES_MAX } else { FRAME_BYTES_MAX };
        if length > max {
            return Err(FrameError::Oversized { sequence, length, max });
        }
        match FrameKind::from_code(kind) {
            Some(kind) if (kind == FrameKind::Handshake) == in_handshake => {
                Ok(Body { kind, length, payload: Vec::new() })
            }
            _ => Err(FrameError::UnexpectedKind { sequence, kind }),
        }
    }
}

impl Body {
    /// Reserves no more than the peer has proved to send: what arrived so far of this frame, or its longest one yet.
    fn grow_for(&mut self, more: usize, longest: usize) {
        let needed = self.payload.len() + more;
        if needed > self.payload.capacity() {
            let trusted = RESERVE_BYTES_MAX.max(longest).max(2 * self.payload.len()).max(needed);
            self.payload.reserve_exact(trusted.min(self.length) - self.payload.len());
        }
    }
}

fn take<'a>(input: &mut &'a [u8], limit: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(limit.min(input.len()));
    *input = rest;
    taken
}

/// Body of the fuzz target: no input may panic, hang, or reserve memory that its length does not justify.
#[cfg(any(test, feature = "test-world"))]
pub fn fuzz_frame_decoder(data: &[u8]) {
    let Some((&chop, mut stream)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::new(Epoch(1));
    let mut frames = 0_usize;
    while !stream.is_empty() {
        let mut piece = take(&mut stream, usize::from(chop) + 1);
        while !piece.is_empty() {
            let before = piece.len();
            match decoder.feed(&mut piece) {
                Ok(Some(frame)) => {
                    frames += 1;
                    assert!(frame.payload.len() <= data.len(), "a frame longer than the whole stream");
                }
                Ok(None) => assert!(piece.is_empty(), "stopped early"),
                Err(_) => return,
            }
            assert!(piece.len() < before, "no progress");
            let reserved = decoder.body.as_ref().map_or(0, |body| body.payload.capacity());
            assert!(reserved <= RESERVE_BYTES_MAX.max(2 * data.len()), "reserved {reserved} on a claim");
        }
    }
    assert!(frames * HEADER_BYTES <= data.len());
    let _ = decoder.end();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Epoch = Epoch(7);

    /// A stream past its handshake, both ends.
    fn open_stream() -> (FrameEncoder, FrameDecoder) {
        let (mut encoder, mut decoder) = (FrameEncoder::new(EPOCH), FrameDecoder::new(EPOCH));
        for _ in 0..HANDSHAKE_FRAMES {
            decode(&mut decoder, &encoder.frame(FrameKind::Handshake, b"hello")).unwrap().unwrap();
        }
        (encoder, decoder)
    }

    fn decode(decoder: &mut FrameDecoder, mut bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        decoder.feed(&mut bytes)
    }

    proptest! {
        #[test]
        fn frames_survive_any_chopping(payloads: Vec<Vec<u8>>, chop in 1_usize..60) {
            let (mut encoder, mut decoder) = open_stream();
            let stream: Vec<u8> =
                payloads.iter().flat_map(|payload| encoder.frame(FrameKind::Data, payload)).collect();
            let mut found = Vec::new();
            for mut piece in stream.chunks(chop) {
                while !piece.is_empty() {
                    found.extend(decoder.feed(&mut piece).unwrap().map(|frame| frame.payload));
                }
            }
            prop_assert_eq!(found, payloads);
            prop_assert!(decoder.end().is_ok());
        }

        #[test]
        fn no_bytes_break_the_decoder(data: Vec<u8>) {
            fuzz_frame_decoder(&data);
        }

        #[test]
        fn no_near_valid_stream_breaks_the_decoder(
            lengths in prop::collection::vec(0_usize..300, 0..6), flip in 0_usize..600, bit in 0_u8..8, chop: u8,
        ) {
            let mut encoder = FrameEncoder::new(Epoch(1));
            let mut stream = vec![chop];
            for (i, length) in lengths.into_iter().enumerate() {
                let kind = if (i as u64) < HANDSHAKE_FRAMES { FrameKind::Handshake } else { FrameKind::Data };
                stream.extend(encoder.frame(kind, &vec![0x5a; length]));
            }
            if let Some(byte) = stream.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            fuzz_frame_decoder(&stream);
        }
    }

    #[test]
    fn truncation_is_named_in_header_and_payload() {
        let (mut encoder, mut decoder) = open_stream();
        let frame = encoder.frame(FrameKind::Data, &[1; 40]);
        assert_eq!(decode(&mut decoder, &frame[..5]), Ok(None));
        assert_eq!(decoder.end(), Err(FrameError::Truncated { sequence: 2, received: 5, due: 21 }));
        assert_eq!(decode(&mut decoder, &frame[5..40]), Ok(None));
        assert_eq!(decoder.end(), Err(FrameError::Truncated { sequence: 2, received: 40, due: 61 }));
    }

    #[test]
    fn a_lying_length_reserves_almost_nothing_and_an_oversized_one_is_refused() {
        let (mut encoder, mut decoder) = open_stream();
        let header = encoder.header(FrameKind::Data, FRAME_BYTES_MAX);
        assert_eq!(decode(&mut decoder, &header), Ok(None));
        assert_eq!(decode(&mut decoder, &[0; 100]), Ok(None));
        assert!(decoder.body.unwrap().payload.capacity() <= RESERVE_BYTES_MAX);

        let (mut encoder, mut decoder) = open_stream();
        let mut header = encoder.header(FrameKind::Data, 0);
        header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let claim = FrameError::Oversized { sequence: 2, length: u32::MAX as usize, max: FRAME_BYTES_MAX };
        assert_eq!(decode(&mut decoder, &header), Err(claim));
    }

    #[test]
    fn duplicated_reordered_and_wrong_epoch_frames_are_told_apart() {
        let (mut encoder, mut decoder) = open_stream();
        let frames: Vec<_> = (0..3).map(|i| encoder.frame(FrameKind::Data, &[i])).collect();
        decode(&mut decoder, &frames[0]).unwrap().unwrap();
        assert_eq!(decode(&mut decoder, &frames[0]), Err(FrameError::Duplicated { sequence: 2, due: 3 }));

        let (_, mut decoder) = open_stream();
        assert_eq!(decode(&mut decoder, &frames[1]), Err(FrameError::Reordered { sequence: 3, due: 2 }));

        let (_, mut decoder) = open_stream();
        let stale = FrameEncoder { epoch: Epoch(6), next_sequence: 2 }.frame(FrameKind::Data, b"");
        assert_eq!(decode(&mut decoder, &stale), Err(FrameError::WrongEpoch { sequence: 2, found: 6, due: 7 }));
    }

    #[test]
    fn kinds_have_their_place() {
        let (mut encoder, mut decoder) = open_stream();
        let late = encoder.frame(FrameKind::Handshake, b"");
        assert_eq!(decode(&mut decoder, &late), Err(FrameError::UnexpectedKind { sequence: 2, kind: 2 }));

        let early = FrameEncoder::new(EPOCH).frame(FrameKind::Data, b"");
        let verdict = decode(&mut FrameDecoder::new(EPOCH), &early);
        assert_eq!(verdict, Err(FrameError::UnexpectedKind { sequence: 0, kind: 0 }));

        let (mut encoder, mut decoder) = open_stream();
        decode(&mut decoder, &encoder.frame(FrameKind::Goodbye, b"")).unwrap().unwrap();
        let late = encoder.frame(FrameKind::Data, b"");
        assert_eq!(decode(&mut decoder, &late), Err(FrameError::AfterGoodbye { sequence: 3 }));
    }
}
