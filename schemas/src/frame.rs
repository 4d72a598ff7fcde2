//! What all frames share: size prefix, file identifier, bounded verification.

use flatbuffers::{
    FILE_IDENTIFIER_LENGTH, FlatBufferBuilder, Follow, SIZE_SIZEPREFIX, SIZE_UOFFSET, Verifiable, VerifierOptions,
    WIPOffset, size_prefixed_root_with_opts,
};

use crate::error::WireError;

/// Bytes that FlatBuffers adds around the contents of a frame, at most: prefix, root, vtables, padding.
pub(crate) const ENVELOPE_BYTES: usize = 256;

const SHORTEST: usize = SIZE_SIZEPREFIX + SIZE_UOFFSET + FILE_IDENTIFIER_LENGTH;
const IDENTIFIER: usize = SIZE_SIZEPREFIX + SIZE_UOFFSET;

/// One kind of frame and the limits that its bytes are checked against before they are parsed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameKind {
    /// For errors.
    pub(crate) what: &'static str,
    /// Bytes of the longest frame of this kind.
    pub(crate) bytes_max: usize,
    /// Tables in one frame, at most. Several offsets may lead to one table; each counts.
    pub(crate) tables_max: usize,
    pub(crate) identifier: &'static str,
}

/// Tables inside tables, at most: a root, its body, the elements of the body.
const DEPTH_MAX: usize = 4;

impl FrameKind {
    /// The frame's root table, verified.
    pub(crate) fn root<'a, T>(&self, bytes: &'a [u8]) -> Result<T::Inner, WireError>
    where
        T: Follow<'a> + Verifiable + 'a,
    {
        let (what, found) = (self.what, bytes.len());
        if found > self.bytes_max {
            return Err(WireError::TooLong { what, found, limit: self.bytes_max });
        }
        if found < SHORTEST {
            return Err(WireError::Truncated { what, found });
        }
        let (prefix, rest) =
            bytes.split_first_chunk::<SIZE_SIZEPREFIX>().ok_or(WireError::Truncated { what, found })?;
        let stated = u32::from_le_bytes(*prefix) as usize;
        if stated != rest.len() {
            return Err(WireError::WrongLength { what, stated, found: rest.len() });
        }
        if &bytes[IDENTIFIER..IDENTIFIER + FILE_IDENTIFIER_LENGTH] != self.identifier.as_bytes() {
            return Err(WireError::WrongIdentifier { what });
        }
        // Vtables are counted again for every table that shares one, so a valid frame can appear a little larger.
        let options = VerifierOptions {
            max_depth: DEPTH_MAX,
            max_tables: self.tables_max,
            max_apparent_size: 2 * self.bytes_max,
            ignore_missing_null_terminator: false,
        };
        size_prefixed_root_with_opts::<T>(&options, bytes).map_err(|source| WireError::Malformed { what, source })
    }

    /// Ends a frame and takes its bytes.
    pub(crate) fn finish<T>(&self, mut builder: FlatBufferBuilder<'_>, root: WIPOffset<T>) -> Vec<u8> {
        builder.finish_size_prefixed(root, Some(self.identifier));
        let (mut bytes, start) = builder.collapse();
        bytes.drain(..start);
        assert!(bytes.len() <= self.bytes_max, "a {} is at most {} bytes long", self.what, self.bytes_max);
        bytes
    }
}

/// An empty frame with room for `contents` bytes, so that it is written without growing.
pub(crate) fn builder<'a>(contents: usize) -> FlatBufferBuilder<'a> {
    FlatBufferBuilder::with_capacity(contents + ENVELOPE_BYTES)
}

/// Checks a count before anything is allocated for it.
pub(crate) fn check_count(what: &'static str, found: usize, limit: usize) -> Result<(), WireError> {
    match found > limit {
        true => Err(WireError::TooMany { what, found, limit }),
        false => Ok(()),
    }
}

/// Checks a length before anything is allocated for it.
pub(crate) fn check_bytes(what: &'static str, found: usize, limit: usize) -> Result<(), WireError> {
    match found > limit {
        true => Err(WireError::TooLong { what, found, limit }),
        false => Ok(()),
    }
}
