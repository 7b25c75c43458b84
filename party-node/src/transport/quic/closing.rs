//! How connections end, in numbers on the wire and in words for people.

use quinn::{ConnectionError, ReadError, TransportErrorCode, VarInt, WriteError};

/// Both sides said goodbye.
pub(super) const DONE: VarInt = VarInt::from_u32(0x10);
/// The session could not be agreed on; the reason is in the text.
pub(super) const REFUSED: VarInt = VarInt::from_u32(0x11);
/// A second connection of a party that already has one.
pub(super) const DUPLICATE: VarInt = VarInt::from_u32(0x12);
/// The transport was dropped without a goodbye: its process failed or was told to stop.
pub(super) const ABORTED: VarInt = VarInt::from_u32(0x13);
/// A frame broke the rules.
pub(super) const BAD_FRAME: VarInt = VarInt::from_u32(0x14);

/// TLS alerts (RFC 8446, section 6) that the verifier of the other side sends about our certificate.
const ALERT_BAD_CERTIFICATE: u8 = 42;
const ALERT_CERTIFICATE_EXPIRED: u8 = 45;
const ALERT_ACCESS_DENIED: u8 = 49;
const ALERT_CERTIFICATE_REQUIRED: u8 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Longest text of a peer that is repeated in an error.
const PEER_TEXT_CHARS_MAX: usize = 300;

/// The likely cause in words.
pub(super) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(ours) if ours.code == alert(ALERT_ACCESS_DENIED) => {
            "its certificate is not the one pinned in the roster".into()
        }
        ConnectionError::TransportError(ours) => ours.reason.clone(),
        ConnectionError::ConnectionClosed(theirs) => match theirs.error_code {
            code if code == alert(ALERT_ACCESS_DENIED) => {
                "it refused our certificate: not the one pinned in its roster".into()
            }
            code if code == alert(ALERT_CERTIFICATE_EXPIRED) => {
                "it refused our certificate as expired or not yet valid".into()
            }
            code if code == alert(ALERT_BAD_CERTIFICATE) || code == alert(ALERT_CERTIFICATE_REQUIRED) => {
                "it refused our certificate as missing or malformed".into()
            }
            code if code == alert(ALERT_NO_APPLICATION_PROTOCOL) => "it does not speak this protocol".into(),
            TransportErrorCode::APPLICATION_ERROR => "it gave up before we were connected; its own log says why".into(),
            code => format!("it ended the connection: {code}"),
        },
        ConnectionError::ApplicationClosed(close) => {
            let text = printable(&close.reason);
            match close.error_code {
                DONE => "it closed after its goodbye".into(),
                REFUSED => format!("it refused the session: {text}"),
                DUPLICATE => "it already has a connection with another process of this party".into(),
                ABORTED => "it stopped without a goodbye".into(),
                BAD_FRAME => format!("it refused a frame of ours: {text}"),
                code => format!("it closed with code {code}"),
            }
        }
        ConnectionError::Reset => "its process was restarted".into(),
        ConnectionError::TimedOut => "it went silent: its process was killed or stopped, or the network is cut".into(),
        ConnectionError::LocallyClosed => "this side has closed".into(),
        ConnectionError::VersionMismatch => "it speaks another version of QUIC".into(),
        ConnectionError::CidsExhausted => "no connection ids are left".into(),
    }
}

/// The same for an error of reading.
pub(super) fn explain_read(error: &ReadError) -> String {
    match error {
        ReadError::ConnectionLost(e) => explain(e),
        ReadError::Reset(_) => "it gave its stream up".into(),
        other => other.to_string(),
    }
}

/// The same for an error of writing.
pub(super) fn explain_write(error: &WriteError) -> String {
    match error {
        WriteError::ConnectionLost(e) => explain(e),
        WriteError::Stopped(_) => "it stopped reading".into(),
        other => other.to_string(),
    }
}

/// Whether a failed dial is worth another: the peer is not up yet, not unwilling.
pub(super) fn may_come_up(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::TimedOut | ConnectionError::Reset => true,
        ConnectionError::ConnectionClosed(close) => close.error_code == TransportErrorCode::CONNECTION_REFUSED,
        _ => false,
    }
}

fn alert(code: u8) -> TransportErrorCode {
    TransportErrorCode::crypto(code)
}

fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(PEER_TEXT_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
