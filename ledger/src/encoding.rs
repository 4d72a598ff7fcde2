//! Canonical bytes: little-endian, fixed width, no padding, no freedom. Whatever is hashed, signed or stored is
//! written and read with these two types, so that every value has exactly one encoding.

/// Why bytes are not the canonical encoding of the value asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("truncated: {needed} more bytes are needed at offset {offset}")]
    Truncated { offset: usize, needed: usize },
    /// Bytes are left over behind the value.
    #[error("{extra} bytes too many behind the value")]
    TrailingBytes { extra: usize },
    /// A count or length is above its limit; nothing was allocated for it.
    #[error("{what} is {found}, the limit is {limit}")]
    OverLimit { what: &'static str, found: u64, limit: u64 },
    /// A field holds a value that no encoder writes.
    #[error("{what} has the invalid value {found}")]
    Invalid { what: &'static str, found: u64 },
    /// The bytes carry a version that this build does not know.
    #[error("version {found} of {what} is unknown, this build knows {known}")]
    UnknownVersion { what: &'static str, found: u16, known: u16 },
}

/// Appends canonical fields to a byte vector.
#[derive(Debug, Default, Clone)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An encoder that will write about `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u128(&mut self, value: u128) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn i128(&mut self, value: i128) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Appends bytes whose length the reader knows.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Drops what was written and keeps the room for it.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads canonical fields from the front of a byte slice; never reads past its end and never panics.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The next `length` bytes.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        if self.remaining() < length {
            let needed = length - self.remaining();
            return Err(DecodeError::Truncated { offset: self.offset, needed });
        }
        let slice = &self.bytes[self.offset..self.offset + length];
        self.offset += length;
        Ok(slice)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub fn i128(&mut self) -> Result<i128, DecodeError> {
        Ok(i128::from_le_bytes(self.array()?))
    }

    /// Reads a u32 count and refuses it above `limit`, before anything is allocated for it.
    pub fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let found = self.u32()?;
        if found as usize > limit {
            return Err(DecodeError::OverLimit { what, found: u64::from(found), limit: limit as u64 });
        }
        Ok(found as usize)
    }

    /// Refuses left-over bytes: a canonical value is the whole slice.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(DecodeError::TrailingBytes { extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written() {
        let mut encoder = Encoder::default();
        encoder.u8(1).u16(2).u32(3).u64(4).u128(5).i128(-6).raw(b"end");
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u8(), Ok(1));
        assert_eq!(decoder.u16(), Ok(2));
        assert_eq!(decoder.u32(), Ok(3));
        assert_eq!(decoder.u64(), Ok(4));
        assert_eq!(decoder.u128(), Ok(5));
        assert_eq!(decoder.i128(), Ok(-6));
        assert_eq!(decoder.raw(3), Ok(&b"end"[..]));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn truncated_bytes_are_a_typed_error() {
        let mut decoder = Decoder::new(&[1, 2, 3]);
        assert_eq!(decoder.u64(), Err(DecodeError::Truncated { offset: 0, needed: 5 }));
    }

    #[test]
    fn trailing_bytes_are_a_typed_error() {
        assert_eq!(Decoder::new(&[0]).finish(), Err(DecodeError::TrailingBytes { extra: 1 }));
    }

    #[test]
    fn a_count_over_its_limit_is_refused() {
        let bytes = 9u32.to_le_bytes();
        let refused = Decoder::new(&bytes).count("digests", 8);
        assert_eq!(refused, Err(DecodeError::OverLimit { what: "digests", found: 9, limit: 8 }));
    }
}
