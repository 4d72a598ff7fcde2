//! Why bytes are no message.

use flatbuffers::InvalidFlatbuffer;
use zeni_ledger::DecodeError;

/// Why bytes from outside were refused. Nothing of them was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than the largest frame of its kind; it was not looked at.
    #[error("{what} has {found} bytes, the limit is {limit}")]
    TooLong { what: &'static str, found: usize, limit: usize },
    /// More elements than the limit; none was read.
    #[error("{what} are {found}, the limit is {limit}")]
    TooMany { what: &'static str, found: usize, limit: usize },
    /// Too short to be any frame.
    #[error("{what} of {found} bytes is truncated")]
    Truncated { what: &'static str, found: usize },
    /// The frame's own length does not agree with the bytes that came.
    #[error("{what} states {stated} bytes behind its prefix and has {found}")]
    WrongLength { what: &'static str, stated: usize, found: usize },
    /// The frame is of another kind.
    #[error("these bytes are no {what}: the file identifier differs")]
    WrongIdentifier { what: &'static str },
    /// The structure does not hold together.
    #[error("{what} is malformed: {source}")]
    Malformed { what: &'static str, source: InvalidFlatbuffer },
    /// A code that this build does not know.
    #[error("{what} has the unknown code {found}")]
    UnknownCode { what: &'static str, found: u32 },
    /// A number that no encoder writes.
    #[error("{what} has the invalid value {found}")]
    Invalid { what: &'static str, found: u64 },
    /// The canonical bytes inside are not canonical.
    #[error("{what} inside the frame is refused: {source}")]
    Contents { what: &'static str, source: DecodeError },
}
