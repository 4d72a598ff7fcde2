//! How one record stands in a segment.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `ZREC` |
//! | 4 | 4 | length of the payload, u32 |
//! | 8 | 1 | kind |
//! | 9 | 3 | zero |
//! | 12 | 32 | key: the digest or id of what the payload is |
//! | 44 | 32 | hash of the frame before (of the first frame: of the segment's header) |
//! | 76 | 32 | hash: BLAKE3 keyed with the segment's key over the 76 bytes before and the payload |
//! | 108 | | payload, canonical bytes |
//!
//! A frame is checked by itself, and its place in the chain by the hash before. So a damaged frame hides none of those
//! behind it. The key makes it impossible to plant, in a payment's free fields, bytes that would be taken for a frame
//! when the records behind a damaged place are searched: it is derived from random bytes that never leave the disk.

use zeni_ledger::block::BLOCK_BYTES_MAX;
use zeni_ledger::encoding::{Decoder, Encoder};

/// Bytes of a frame without its payload.
pub(crate) const FRAME_BYTES: usize = 108;
/// Bytes of the largest undo record that is stored: 12 million accounts of an ordinary size.
pub const UNDO_RECORD_BYTES_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"ZREC";
const HASHED_BYTES: usize = 76;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Batch = 1,
    Block = 2,
    Undo = 3,
    /// The end of a segment: how many records it has, and the hash that the next segment's header names.
    Seal = 4,
    /// A commit certificate; its key is the block that it makes final.
    Certificate = 5,
    /// An entry of the finality engine's log; its key is the decision, u64, and zeros.
    Finality = 6,
    /// Where a chain begins whose state was given and not computed: a certificate, with the block that it makes final
    /// for a key. So nobody knows the one and not the other.
    Base = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Batch, Self::Block, Self::Undo, Self::Seal, Self::Certificate, Self::Finality, Self::Base]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Bytes that a payload of this kind may have.
    pub(crate) const fn payload_max(self) -> usize {
        match self {
            Self::Batch => zeni_ledger::batch::BATCH_BYTES_MAX,
            Self::Block => BLOCK_BYTES_MAX,
            Self::Undo => UNDO_RECORD_BYTES_MAX,
            Self::Seal => 40,
            Self::Certificate | Self::Base => zeni_ledger::finality::CERTIFICATE_BYTES_MAX,
            Self::Finality => zeni_consensus::finality::message::FINALITY_MESSAGE_BYTES_MAX,
        }
    }
}

/// The first 108 bytes of a frame, read but not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) length: usize,
    pub(crate) kind: Kind,
    pub(crate) key: [u8; 32],
    pub(crate) previous: [u8; 32],
    pub(crate) hash: [u8; 32],
}

/// A frame whose hash holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) head: FrameHead,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole frame.
    pub(crate) fn len(&self) -> usize {
        FRAME_BYTES + self.payload.len()
    }
}

/// The bytes of a frame, and its hash.
pub(crate) fn encode(
    segment_key: &[u8; 32],
    previous: &[u8; 32],
    kind: Kind,
    key: &[u8; 32],
    payload: &[u8],
) -> (Vec<u8>, [u8; 32]) {
    let mut encoder = Encoder::with_capacity(FRAME_BYTES + payload.len());
    encoder.raw(&MAGIC).u32(payload.len() as u32).u8(kind as u8).raw(&[0; 3]).raw(key).raw(previous);
    let hash = hash(segment_key, encoder.as_bytes(), payload);
    encoder.raw(&hash).raw(payload);
    (encoder.finish(), hash)
}

/// Reads the head at the front of `bytes`; `None` if no encoder writes such a one.
pub(crate) fn read_head(bytes: &[u8]) -> Option<FrameHead> {
    let mut decoder = Decoder::new(bytes);
    if decoder.array().ok()? != MAGIC {
        return None;
    }
    let length = decoder.u32().ok()? as usize;
    let kind = Kind::from_byte(decoder.u8().ok()?)?;
    let zeros: [u8; 3] = decoder.array().ok()?;
    let (key, previous, hash) = (decoder.array().ok()?, decoder.array().ok()?, decoder.array().ok()?);
    (zeros == [0; 3] && length <= kind.payload_max()).then_some(FrameHead { length, kind, key, previous, hash })
}

/// Reads the frame at the front of `bytes`; `None` unless it is whole and has its hash.
pub(crate) fn read<'a>(segment_key: &[u8; 32], bytes: &'a [u8]) -> Option<Frame<'a>> {
    let head = read_head(bytes)?;
    let payload = bytes.get(FRAME_BYTES..FRAME_BYTES + head.length)?;
    (hash(segment_key, &bytes[..HASHED_BYTES], payload) == head.hash).then_some(Frame { head, payload })
}

/// Where the next whole frame begins at or behind `from`. `likely` is tried first: where the damaged frame's own
/// length says that the next one is.
pub(crate) fn find(segment_key: &[u8; 32], bytes: &[u8], from: usize, likely: Option<usize>) -> Option<usize> {
    let at_likely = likely.filter(|at| bytes.get(*at..).is_some_and(|rest| read(segment_key, rest).is_some()));
    at_likely.or_else(|| (from..bytes.len()).find(|at| read(segment_key, &bytes[*at..]).is_some()))
}

fn hash(segment_key: &[u8; 32], head: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(segment_key);
    hasher.update(head).update(payload);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn a_frame_round_trips_and_every_flip_and_truncation_is_caught() {
        let (bytes, hash) = encode(&KEY, &[1; 32], Kind::Batch, &[2; 32], b"payload");
        let frame = read(&KEY, &bytes).unwrap();
        assert_eq!((frame.head.kind, frame.head.key, frame.head.previous), (Kind::Batch, [2; 32], [1; 32]));
        assert_eq!((frame.payload, frame.head.hash, frame.len()), (&b"payload"[..], hash, bytes.len()));
        for position in 0..bytes.len() {
            assert_eq!(read(&KEY, &bytes[..position]), None);
            let mut flipped = bytes.clone();
            flipped[position] ^= 1;
            assert_eq!(read(&KEY, &flipped), None, "a flip at {position} went unseen");
        }
        assert_eq!(read(&[8; 32], &bytes), None, "a frame of another segment was taken");
    }

    #[test]
    fn the_next_frame_is_found_behind_anything() {
        let (frame, _) = encode(&KEY, &[1; 32], Kind::Block, &[2; 32], b"payload");
        let bytes = [&b"ZRECZREC rubbish"[..], &frame].concat();
        assert_eq!(find(&KEY, &bytes, 0, None), Some(16));
        assert_eq!(find(&KEY, &bytes, 0, Some(16)), Some(16));
        assert_eq!(find(&KEY, &bytes, 0, Some(9_999)), Some(16));
        assert_eq!(find(&KEY, &bytes, 17, None), None);
    }
}
