//! Why an established connection is over.

use std::fmt;

use oz_worker_net::tls::TlsFault;
use oz_worker_text::line::one_line;
use tungstenite::Error;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

/// Why an established connection is over.
#[derive(Debug)]
pub enum LinkEnd {
    /// The server sent a Close. What it says there is anybody's words.
    Closed(Option<CloseFrame>),
    /// The server hung up, after a Close or without one.
    HungUp,
    /// The connection was cut in the middle.
    Cut,
    /// The server sent a message of this many bytes, which is too large.
    TooLarge(usize),
    /// The server sent text that is not UTF-8.
    NotUtf8,
    /// The server broke the WebSocket protocol.
    Protocol(ProtocolError),
    /// The operating system, or TLS, ended it.
    Broken(TlsFault),
    /// Nothing more precise is known.
    Unusable,
}

impl LinkEnd {
    /// The code of the Close that the server gets first (RFC 6455, section 7.4.1), when it broke the rules.
    pub(super) const fn answer(&self) -> Option<CloseCode> {
        match self {
            Self::TooLarge(_) => Some(CloseCode::Size),
            Self::NotUtf8 => Some(CloseCode::Invalid),
            Self::Protocol(_) => Some(CloseCode::Protocol),
            Self::Closed(_) | Self::HungUp | Self::Cut | Self::Broken(_) | Self::Unusable => None,
        }
    }
}

impl From<Error> for LinkEnd {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { size, .. }) => Self::TooLarge(size),
            Error::Utf8(_) => Self::NotUtf8,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Cut,
            Error::Protocol(error) => Self::Protocol(error),
            Error::Io(error) => Self::Broken(TlsFault::from(&error)),
            _ => Self::Unusable,
        }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(None) => f.write_str("the server closed the connection without a code"),
            Self::Closed(Some(CloseFrame { code, reason })) => {
                write!(f, "the server closed the connection with code {code}")?;
                if reason.is_empty() { Ok(()) } else { write!(f, ": {}", one_line(reason)) }
            }
            Self::HungUp => f.write_str("the connection is closed"),
            Self::Cut => f.write_str("the connection was cut without a Close"),
            Self::TooLarge(size) => write!(f, "the server sent a message of {size} bytes, more than 16 MiB"),
            Self::NotUtf8 => f.write_str("the server sent text that is not UTF-8"),
            Self::Protocol(error) => {
                f.write_str("the server broke the WebSocket protocol")?;
                breach(error).map_or(Ok(()), |breach| write!(f, ": {breach}"))
            }
            Self::Broken(fault) => fault.fmt(f),
            Self::Unusable => f.write_str("the connection is of no more use"),
        }
    }
}

/// How the protocol was broken; `None` for what cannot happen on a connection that is established.
const fn breach(error: &ProtocolError) -> Option<&'static str> {
    Some(match error {
        ProtocolError::ReceivedAfterClosing => "a frame came after its Close",
        ProtocolError::NonZeroReservedBits => "a frame has reserved bits set",
        ProtocolError::MaskedFrameFromServer => "a frame is masked",
        ProtocolError::FragmentedControlFrame => "a control frame is in fragments",
        ProtocolError::ControlFrameTooBig => "a control frame has more than 125 bytes",
        ProtocolError::UnknownControlFrameType(_)
        | ProtocolError::UnknownDataFrameType(_)
        | ProtocolError::InvalidOpcode(_) => "a frame is of an unknown type",
        ProtocolError::UnexpectedContinueFrame => "a fragment continues nothing",
        ProtocolError::ExpectedFragment(_) => "a message begins before the last one has ended",
        ProtocolError::InvalidCloseSequence => "its Close is ill-formed",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_one_line_and_a_breach_is_answered_with_its_code() {
        let close = |reason: &str| Some(CloseFrame { code: CloseCode::Restart, reason: reason.into() });
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let size = CapacityError::MessageTooLong { size: 20_000_000, max_size: 1 };
        for (end, words, code) in [
            (LinkEnd::Closed(None), "the server closed the connection without a code", None),
            (LinkEnd::Closed(close("")), "the server closed the connection with code 1012", None),
            (LinkEnd::Closed(close("a\nb")), "the server closed the connection with code 1012: a\\nb", None),
            (LinkEnd::HungUp, "the connection is closed", None),
            (Error::Io(reset).into(), "connection reset", None),
            (
                Error::Protocol(ProtocolError::ResetWithoutClosingHandshake).into(),
                "the connection was cut without a Close",
                None,
            ),
            (
                Error::Capacity(size).into(),
                "the server sent a message of 20000000 bytes, more than 16 MiB",
                Some(CloseCode::Size),
            ),
            (Error::Utf8(String::new()).into(), "the server sent text that is not UTF-8", Some(CloseCode::Invalid)),
            (
                Error::Protocol(ProtocolError::MaskedFrameFromServer).into(),
                "the server broke the WebSocket protocol: a frame is masked",
                Some(CloseCode::Protocol),
            ),
            (
                Error::Protocol(ProtocolError::WrongHttpMethod).into(),
                "the server broke the WebSocket protocol",
                Some(CloseCode::Protocol),
            ),
            (Error::AttackAttempt.into(), "the connection is of no more use", None),
        ] {
            assert_eq!((end.to_string().as_str(), end.answer()), (words, code), "{end:?}");
        }
    }
}
