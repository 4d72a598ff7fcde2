//! Between generated types and those of ledger and consensus, where several frames need the same.

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};
use zeni_consensus::Mode;

use crate::error::WireError;
use crate::generated::zeni::wire;

/// Writes a byte vector as one copy.
pub(crate) fn byte_vector<'a>(builder: &mut FlatBufferBuilder<'a>, bytes: &[u8]) -> WIPOffset<Vector<'a, u8>> {
    // A byte string is a byte vector with a NUL behind it that its length does not count.
    WIPOffset::new(builder.create_byte_string(bytes).value())
}

/// Writes ids, digests or keys.
pub(crate) fn bytes32_vector<'a, T>(
    builder: &mut FlatBufferBuilder<'a>,
    items: &[T],
    bytes: impl Fn(&T) -> &[u8; 32],
) -> WIPOffset<Vector<'a, wire::Bytes32>> {
    builder.create_vector_from_iter(items.iter().map(|item| wire::Bytes32(*bytes(item))))
}

/// Reads ids, digests or keys; their count is checked before.
pub(crate) fn read_bytes32<T>(vector: Vector<'_, wire::Bytes32>, make: impl Fn([u8; 32]) -> T) -> Vec<T> {
    vector.bytes().as_chunks::<32>().0.iter().map(|chunk| make(*chunk)).collect()
}

pub(crate) const fn mode_code(mode: Mode) -> wire::Mode {
    match mode {
        Mode::Joining => wire::Mode::Joining,
        Mode::Syncing => wire::Mode::Syncing,
        Mode::Active => wire::Mode::Active,
        Mode::FollowOnly => wire::Mode::FollowOnly,
    }
}

pub(crate) fn mode(code: wire::Mode) -> Result<Mode, WireError> {
    match code {
        wire::Mode::Joining => Ok(Mode::Joining),
        wire::Mode::Syncing => Ok(Mode::Syncing),
        wire::Mode::Active => Ok(Mode::Active),
        wire::Mode::FollowOnly => Ok(Mode::FollowOnly),
        other => Err(WireError::UnknownCode { what: "mode", found: u32::from(other.0) }),
    }
}
