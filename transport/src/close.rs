//! Why connections end.

use std::fmt;

use quinn::{ConnectionError, VarInt};

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The application error code that a connection is closed with. The numbers are part of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CloseCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl CloseCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// A stable name for metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The code with this number, if this build knows it.
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

close_codes! {
    /// The connection is no longer needed. Also what dropping a connection says.
    Done = 0, "done";
    /// The process stops.
    Shutdown = 1, "shutdown";
    /// The peer speaks another version of the protocol.
    ProtocolVersion = 2, "protocol_version";
    /// The peer belongs to another ledger.
    WrongGenesis = 3, "wrong_genesis";
    /// The peer's key is not admitted here.
    UnknownPeer = 4, "unknown_peer";
    /// The peer's key may not have the role that it asked for.
    RoleRefused = 5, "role_refused";
    /// A frame or request was longer than its limit.
    OversizedFrame = 6, "oversized_frame";
    /// A frame could not be parsed.
    Malformed = 7, "malformed";
    /// Another connection to the same peer stands already.
    Duplicate = 8, "duplicate";
    /// Two live processes use one key.
    Twin = 9, "twin";
    /// No room for another connection.
    Busy = 10, "busy";
    /// The handshake or the hello took too long.
    HandshakeTimeout = 11, "handshake_timeout";
    /// The peer broke a rule of the protocol above.
    Misbehaviour = 12, "misbehaviour";
}

impl CloseCode {
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(u32::from(code.number()))
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The peer closed it and said why.
    #[error("the peer closed the connection: {code}")]
    ClosedByPeer { code: CloseCode },
    /// The peer closed it with a code that this build does not know.
    #[error("the peer closed the connection with the unknown code {code}")]
    ClosedWithUnknownCode { code: u64 },
    /// This side closed it.
    #[error("this side closed the connection")]
    ClosedHere,
    /// Nothing was heard for the idle timeout.
    #[error("the peer was silent for too long")]
    TimedOut,
    /// The peer restarted and knows nothing of the connection.
    #[error("the peer has forgotten the connection")]
    Reset,
    /// TLS or QUIC failed.
    #[error("the connection failed: {0}")]
    Transport(String),
}

impl Lost {
    /// The peer's code, if it gave one that this build knows.
    pub const fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::ClosedByPeer { code } => Some(*code),
            _ => None,
        }
    }
}

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let code = close.error_code.into_inner();
                CloseCode::from_number(code)
                    .map_or(Self::ClosedWithUnknownCode { code }, |code| Self::ClosedByPeer { code })
            }
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            other => Self::Transport(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_number_and_name() {
        for (place, code) in CloseCode::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.number()), place);
            assert_eq!(CloseCode::from_number(place as u64), Some(*code));
            assert_eq!(CloseCode::ALL.iter().filter(|other| other.name() == code.name()).count(), 1);
        }
        assert_eq!(CloseCode::from_number(CloseCode::ALL.len() as u64), None);
    }
}
