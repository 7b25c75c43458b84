//! The control channel: length-prefixed postcard over a byte stream, in local mode standard input and output.
//!
//! A frame is a little-endian `u32` length and that many bytes. Whoever reads trusts no length: memory grows with the
//! bytes that really arrive.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use shared::wire::{CONTROL_MESSAGE_MAX, FromParty, ToParty};

/// How long a party may go on after it was told to stop, or lost whoever started it.
pub const STOP_GRACE: Duration = Duration::from_secs(3);

/// Messages that wait for the main thread; more than a launcher ever sends ahead.
const QUEUE_MESSAGES_MAX: usize = 4;

/// Why no message could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The stream failed or ended within a message.
    #[error("the control channel broke: {0}")]
    Io(#[from] io::Error),
    /// The stream ended between messages.
    #[error("the control channel was closed")]
    Closed,
    /// A length beyond [`CONTROL_MESSAGE_MAX`].
    #[error("a control message of {0} bytes: at most {CONTROL_MESSAGE_MAX} are allowed")]
    TooLong(usize),
    /// The bytes are no message of this version.
    #[error("a control message of {0} bytes cannot be read: both sides must be of the same version")]
    Malformed(usize),
    /// A message of the wrong kind.
    #[error("control message {got} came where {due} was due")]
    OutOfOrder {
        /// What came.
        got: &'static str,
        /// What should have come.
        due: &'static str,
    },
    /// No message in time.
    #[error("no {due} came on the control channel within {} s", .after.as_secs())]
    Late {
        /// What should have come.
        due: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// The job was told to stop meanwhile.
    #[error("stopped as asked")]
    Stopped,
}

/// Reads one message.
pub fn read_message<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, ControlError> {
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix[..1]).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ControlError::Closed,
        _ => ControlError::Io(error),
    })?;
    from.read_exact(&mut prefix[1..])?;
    let len = u32::from_le_bytes(prefix) as usize;
    if len > CONTROL_MESSAGE_MAX {
        return Err(ControlError::TooLong(len));
    }
    let mut bytes = Vec::new();
    from.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} of {len} bytes came", bytes.len())).into());
    }
    decode(&bytes)
}

/// The whole of `bytes` as one message; trailing bytes are an error.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ControlError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        // What postcard would say may quote the message.
        _ => Err(ControlError::Malformed(bytes.len())),
    }
}

/// Writes one message and flushes.
pub fn write_message<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), ControlError> {
    let bytes = postcard::to_stdvec(message).expect("control messages hold nothing that cannot be encoded");
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len as usize <= CONTROL_MESSAGE_MAX);
    let len = len.ok_or(ControlError::TooLong(bytes.len()))?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(&bytes)?;
    Ok(to.flush()?)
}

/// The party's way to whoever started it; its clones share one stream.
#[derive(Clone)]
pub struct Reports(Arc<Mutex<Box<dyn Write + Send>>>);

impl Reports {
    /// Reports that go to `stream`.
    pub fn new(stream: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(stream))))
    }

    /// Sends one message, whole.
    pub fn send(&self, message: &FromParty) -> Result<(), ControlError> {
        write_message(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), message)
    }
}

/// The messages that a reader thread took from the control channel, and the wish to stop.
pub struct Commands {
    messages: Receiver<Result<ToParty, ControlError>>,
    stop: Arc<AtomicBool>,
}

impl Commands {
    /// Reads `stream` on a thread of its own. [`ToParty::Stop`], the end of the stream or a broken one set the stop
    /// flag; if the party still runs after [`STOP_GRACE`], `overdue` is called, which should end the process.
    pub fn listen(stream: impl Read + Send + 'static, overdue: impl FnOnce() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, messages) = sync_channel(QUEUE_MESSAGES_MAX);
        let flag = stop.clone();
        let read = move || {
            forward(stream, &sender);
            flag.store(true, SeqCst);
            // Wakes a main thread that waits for a message.
            drop(sender);
            thread::sleep(STOP_GRACE);
            overdue();
        };
        thread::Builder::new().name("control".into()).spawn(read).expect("the system starts a thread");
        Self { messages, stop }
    }

    /// Set as soon as the party should stop.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Waits for the next message; `due` says which, for errors.
    pub fn next(&self, due: &'static str, timeout: Duration) -> Result<ToParty, ControlError> {
        match self.messages.recv_timeout(timeout) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => Err(ControlError::Late { due, after: timeout }),
            Err(RecvTimeoutError::Disconnected) => Err(ControlError::Stopped),
        }
    }
}

/// Passes messages on until there is a reason to stop.
fn forward(mut stream: impl Read, sender: &SyncSender<Result<ToParty, ControlError>>) {
    loop {
        match read_message(&mut stream) {
            Ok(ToParty::Stop) | Err(ControlError::Closed) => return,
            // A message that nobody waits for any more is no reason to stop listening for Stop.
            Ok(message) => drop(sender.try_send(Ok(message))),
            Err(error) => {
                tracing::warn!("{error}");
                let _ = sender.try_send(Err(error));
                return;
            }
        }
    }
}

/// What a message is called in errors.
pub fn message_name(message: &ToParty) -> &'static str {
    match message {
        ToParty::Setup(_) => "Setup",
        ToParty::Roster(_) => "Roster",
        ToParty::Data(_) => "Data",
        ToParty::Stop => "Stop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    proptest! {
        #[test]
        fn messages_come_back_and_cut_ones_are_errors(text: String, cut in 1usize..40) {
            let mut bytes = Vec::new();
            write_message(&mut bytes, &text).unwrap();
            prop_assert_eq!(&read_message::<String>(&mut &bytes[..]).unwrap(), &text);
            let kept = bytes.len().saturating_sub(cut);
            prop_assert!(read_message::<String>(&mut &bytes[..kept]).is_err());
        }

        #[test]
        fn any_bytes_give_a_message_or_an_error(bytes: Vec<u8>) {
            let _ = read_message::<ToParty>(&mut &bytes[..]);
        }
    }

    /// Gives a length and then nothing, and notes the largest buffer it was offered.
    struct Liar {
        prefix: Vec<u8>,
        offered: usize,
    }

    impl Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.offered = self.offered.max(buffer.len());
            let len = self.prefix.len().min(buffer.len());
            buffer[..len].copy_from_slice(&self.prefix[..len]);
            self.prefix.drain(..len);
            Ok(len)
        }
    }

    #[test]
    fn a_lying_length_allocates_nothing_ahead() {
        let mut liar = Liar { prefix: (1u32 << 30).to_le_bytes().to_vec(), offered: 0 };
        let error = read_message::<ToParty>(&mut liar).unwrap_err();
        assert!(liar.offered <= 64 << 10, "offered {} bytes", liar.offered);
        assert!(error.to_string().contains("0 of 1073741824 bytes came"), "{error}");
    }

    #[test]
    fn too_long_and_trailing_bytes_are_refused() {
        let long = u32::try_from(CONTROL_MESSAGE_MAX + 1).unwrap().to_le_bytes();
        assert!(matches!(read_message::<ToParty>(&mut &long[..]), Err(ControlError::TooLong(_))));
        let trailing = [2, 0, 0, 0, 3, 0];
        assert!(matches!(read_message::<ToParty>(&mut &trailing[..]), Err(ControlError::Malformed(2))));
    }

    #[test]
    fn end_of_input_stops_the_party_and_then_ends_it() {
        let (sender, overdue) = channel();
        let commands = Commands::listen(io::empty(), move || sender.send(Instant::now()).unwrap());
        let start = Instant::now();
        assert!(matches!(commands.next("Setup", Duration::from_secs(2)), Err(ControlError::Stopped)));
        assert!(commands.stop_flag().load(SeqCst));
        let grace = overdue.recv_timeout(STOP_GRACE * 2).unwrap() - start;
        assert!(grace >= STOP_GRACE - Duration::from_millis(100), "{grace:?}");
    }
}
