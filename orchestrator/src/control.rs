//! Framing of control messages: length as four little-endian bytes, then postcard.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::wire::CONTROL_MESSAGE_MAX;

/// Why a control message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The pipe broke.
    #[error("control channel: {0}")]
    Io(#[from] io::Error),
    /// Longer than [`CONTROL_MESSAGE_MAX`].
    #[error("control message of {0} bytes: the limit is {CONTROL_MESSAGE_MAX}")]
    TooLong(usize),
    /// Not a message of this version.
    #[error("control message cannot be decoded; the peer is another version or broken")]
    Malformed,
}

/// A message with its length in front.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, ControlError> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(|_| ControlError::Malformed)?;
    let length = bytes.len() - 4;
    let prefix = u32::try_from(length).ok().filter(|_| length <= CONTROL_MESSAGE_MAX);
    bytes[..4].copy_from_slice(&prefix.ok_or(ControlError::TooLong(length))?.to_le_bytes());
    Ok(bytes)
}

/// Writes one message and flushes.
pub fn write_message<M: Serialize>(to: &mut impl Write, message: &M) -> Result<(), ControlError> {
    to.write_all(&encode(message)?)?;
    Ok(to.flush()?)
}

/// Reads one message; `None` at a clean end.
pub fn read_message<M: DeserializeOwned>(from: &mut impl Read) -> Result<Option<M>, ControlError> {
    let mut prefix = [0; 4];
    if !read_prefix(from, &mut prefix)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(prefix) as usize;
    if length > CONTROL_MESSAGE_MAX {
        return Err(ControlError::TooLong(length));
    }
    // Grows with what arrives, so that a lying prefix reserves nothing.
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    match postcard::take_from_bytes(&bytes) {
        Ok((message, [])) => Ok(Some(message)),
        _ => Err(ControlError::Malformed),
    }
}

/// Fills the prefix; false if the channel ends before its first byte.
fn read_prefix(from: &mut impl Read, prefix: &mut [u8; 4]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < prefix.len() {
        match from.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::wire::FromParty;

    use super::*;

    #[test]
    fn messages_come_back_in_order() {
        let mut pipe = Vec::new();
        write_message(&mut pipe, &FromParty::Connected).unwrap();
        write_message(&mut pipe, &FromParty::Progress { step: 3, steps: 9 }).unwrap();
        let mut from = pipe.as_slice();
        assert!(matches!(read_message(&mut from).unwrap(), Some(FromParty::Connected)));
        assert!(matches!(read_message(&mut from).unwrap(), Some(FromParty::Progress { step: 3, steps: 9 })));
        assert!(read_message::<FromParty>(&mut from).unwrap().is_none());
    }

    #[test]
    fn cut_long_and_padded_messages_are_refused() {
        let whole = encode(&FromParty::Progress { step: 300, steps: 900 }).unwrap();
        for length in 1..whole.len() {
            assert!(read_message::<FromParty>(&mut &whole[..length]).is_err(), "{length} bytes");
        }
        let long = u32::MAX.to_le_bytes();
        assert!(matches!(read_message::<FromParty>(&mut &long[..]), Err(ControlError::TooLong(_))));
        let mut padded = whole.clone();
        padded.push(0);
        padded[0] += 1;
        assert!(matches!(read_message::<FromParty>(&mut padded.as_slice()), Err(ControlError::Malformed)));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_or_an_error(bytes: Vec<u8>) {
            let _ = read_message::<FromParty>(&mut bytes.as_slice());
        }
    }
}
