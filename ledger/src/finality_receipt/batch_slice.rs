//! That a payment stands at one place of a batch whose digest is known, without the rest of the batch.
//!
//! A batch's digest is the BLAKE3 of domain, genesis id, head and payments, and BLAKE3 is itself a Merkle tree over
//! chunks of 1,024 bytes. So the file opens the chunks that hold the payment and gives the others as the chaining values
//! of the largest subtrees that hold none of them (BLAKE3 paper, section 2.1; Bao does the same). The first chunk is
//! always opened: it holds the number of payments, from which the tree's shape follows.
//!
//! Canonical bytes: head 20 (version u16, author u16, number u64, payments u32, transactions u32), payment 176, the other
//! bytes of the opened chunks in order (without domain, genesis id, head and payment), a chaining value of 32 for each
//! hidden subtree from left to right. All lengths follow from head and position.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::batch::{BATCH_PAYMENTS_MAX, Batch, DOMAIN, HEADER_BYTES, VERSION};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::hash::{BatchDigest, GenesisId};
use crate::payment::{PAYMENT_BYTES, Payment};

/// Bytes of the largest slice: three opened chunks, and at most 8 hidden subtrees on the way to each.
pub const BATCH_SLICE_BYTES_MAX: usize = HEADER_BYTES + PAYMENT_BYTES + 3 * CHUNK + 3 * 8 * 32;

const CHUNK: usize = blake3::CHUNK_LEN;
/// What is hashed in front of the payments: domain, NUL, genesis id, head.
const PREFIX: usize = DOMAIN.len() + 1 + 32 + HEADER_BYTES;

/// A payment and what leads from it to its batch's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSlice {
    pub payment: Payment,
    /// The batch's first bytes.
    head: [u8; HEADER_BYTES],
    /// The other bytes of the opened chunks.
    opened: Vec<u8>,
    hidden: Vec<ChainingValue>,
}

/// Where a payment lies in what a batch's digest hashes.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Bytes that are hashed.
    total: usize,
    /// Where the payment begins.
    start: usize,
}

impl Layout {
    /// `None` if there is no such payment.
    fn new(payments: u32, position: u16) -> Option<Self> {
        let at = |payments: usize| PREFIX + PAYMENT_BYTES * payments;
        (u32::from(position) < payments)
            .then(|| Self { total: at(payments as usize), start: at(usize::from(position)) })
    }

    /// The first byte of each opened chunk, rising.
    fn chunks(&self) -> Vec<usize> {
        let mut chunks = vec![0, self.start / CHUNK * CHUNK, (self.start + PAYMENT_BYTES - 1) / CHUNK * CHUNK];
        chunks.dedup();
        chunks
    }

    /// Bytes of the opened chunks.
    fn opened(&self) -> usize {
        self.chunks().iter().map(|chunk| CHUNK.min(self.total - chunk)).sum()
    }

    /// Where the payment begins in the opened chunks, put one behind the other.
    fn place(&self) -> usize {
        let first = self.start / CHUNK * CHUNK;
        let before = self.chunks().iter().filter(|chunk| **chunk < first).count();
        before * CHUNK + self.start % CHUNK
    }

    /// Goes through the tree from left to right: the value of the subtree over `length` bytes from `from`.
    fn subtree(&self, from: usize, length: usize, source: &mut impl Source) -> ChainingValue {
        let is_opened = |chunk: &usize| (from..from + length).contains(chunk);
        if !self.chunks().iter().any(is_opened) {
            return source.hidden(from, length);
        }
        if length <= CHUNK {
            return source.chunk(from, length);
        }
        let left = left_subtree_len(length as u64) as usize;
        let first = self.subtree(from, left, source);
        merge_subtrees_non_root(&first, &self.subtree(from + left, length - left, source), Mode::Hash)
    }

    fn root(&self, source: &mut impl Source) -> BatchDigest {
        let left = left_subtree_len(self.total as u64) as usize;
        let first = self.subtree(0, left, source);
        let second = self.subtree(left, self.total - left, source);
        BatchDigest(*merge_subtrees_root(&first, &second, Mode::Hash).as_bytes())
    }
}

/// Where values come from: the whole batch, to make a slice, or a slice, to check it.
trait Source {
    fn hidden(&mut self, from: usize, length: usize) -> ChainingValue;
    fn chunk(&mut self, from: usize, length: usize) -> ChainingValue;
}

/// All that is hashed; notes what is hidden.
struct Whole<'a> {
    bytes: &'a [u8],
    hidden: Vec<ChainingValue>,
}

impl Source for Whole<'_> {
    fn hidden(&mut self, from: usize, length: usize) -> ChainingValue {
        let value = self.chunk(from, length);
        self.hidden.push(value);
        value
    }

    fn chunk(&mut self, from: usize, length: usize) -> ChainingValue {
        chaining_value(from, &self.bytes[from..from + length])
    }
}

/// Opened chunks and hidden values, used up from left to right.
struct Parts<'a> {
    opened: &'a [u8],
    hidden: std::slice::Iter<'a, ChainingValue>,
}

impl Source for Parts<'_> {
    fn hidden(&mut self, _: usize, _: usize) -> ChainingValue {
        *self.hidden.next().expect("a slice is read with as many values as its shape has")
    }

    fn chunk(&mut self, from: usize, length: usize) -> ChainingValue {
        let (chunk, rest) = self.opened.split_at(length);
        self.opened = rest;
        chaining_value(from, chunk)
    }
}

/// Counts hidden subtrees.
struct Shape {
    hidden: usize,
}

impl Source for Shape {
    fn hidden(&mut self, _: usize, _: usize) -> ChainingValue {
        self.hidden += 1;
        [0; 32]
    }

    fn chunk(&mut self, _: usize, _: usize) -> ChainingValue {
        [0; 32]
    }
}

fn chaining_value(from: usize, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(from as u64);
    hasher.update(bytes).finalize_non_root()
}

fn prefix(genesis: &GenesisId, head: &[u8; HEADER_BYTES]) -> [u8; PREFIX] {
    let mut bytes = [0; PREFIX];
    bytes[..DOMAIN.len()].copy_from_slice(DOMAIN.as_bytes());
    bytes[DOMAIN.len() + 1..PREFIX - HEADER_BYTES].copy_from_slice(&genesis.0);
    bytes[PREFIX - HEADER_BYTES..].copy_from_slice(head);
    bytes
}

impl BatchSlice {
    /// The slice for the payment at `position`; `None` if the batch has none there.
    pub fn of(batch: &Batch, position: u16, genesis: &GenesisId) -> Option<Self> {
        let layout = Layout::new(batch.payments.len() as u32, position)?;
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&batch.header_bytes());
        let bytes = [&prefix(genesis, &head), Payment::slice_as_bytes(&batch.payments)].concat();
        let mut whole = Whole { bytes: &bytes, hidden: Vec::new() };
        if layout.total > CHUNK {
            layout.root(&mut whole);
        }
        let hidden = whole.hidden;
        let chunks = layout.chunks();
        let opened: Vec<u8> =
            chunks.iter().flat_map(|chunk| &bytes[*chunk..(chunk + CHUNK).min(layout.total)]).copied().collect();
        let place = layout.place();
        let opened = [&opened[PREFIX..place], &opened[place + PAYMENT_BYTES..]].concat();
        Some(Self { payment: batch.payments[usize::from(position)], head, opened, hidden })
    }

    /// The digest of the batch that holds the payment at `position`; `None` if the slice is not for that place.
    pub fn digest(&self, position: u16, genesis: &GenesisId) -> Option<BatchDigest> {
        let layout = Layout::new(self.payments().ok()?, position)?;
        if self.opened.len() != layout.opened() - PREFIX - PAYMENT_BYTES || self.hidden.len() != hidden(&layout) {
            return None;
        }
        let (before, behind) = self.opened.split_at(layout.place() - PREFIX);
        let opened = [&prefix(genesis, &self.head), before, self.payment.as_bytes(), behind].concat();
        if layout.total <= CHUNK {
            return Some(BatchDigest(*blake3::hash(&opened).as_bytes()));
        }
        Some(layout.root(&mut Parts { opened: &opened, hidden: self.hidden.iter() }))
    }

    /// How many payments the batch holds.
    fn payments(&self) -> Result<u32, DecodeError> {
        let mut decoder = Decoder::new(&self.head);
        let found = decoder.u16()?;
        if found != VERSION {
            return Err(DecodeError::UnknownVersion { what: "batch", found, known: VERSION });
        }
        decoder.raw(2 + 8)?;
        let payments = decoder.count("payments of a batch", BATCH_PAYMENTS_MAX)?;
        decoder.count("transactions of a batch", 0)?;
        Ok(payments as u32)
    }

    /// Writes the canonical bytes.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(&self.head).raw(self.payment.as_bytes()).raw(&self.opened);
        for value in &self.hidden {
            encoder.raw(value);
        }
    }

    /// Reads the slice for the payment at `position`.
    pub fn decode(decoder: &mut Decoder<'_>, position: u16) -> Result<Self, DecodeError> {
        let head = decoder.array()?;
        let payment = Payment::from_bytes(decoder.array()?);
        let mut slice = Self { payment, head, opened: Vec::new(), hidden: Vec::new() };
        let found = u64::from(position);
        let layout = Layout::new(slice.payments()?, position)
            .ok_or(DecodeError::Invalid { what: "position in a batch", found })?;
        slice.opened = decoder.raw(layout.opened() - PREFIX - PAYMENT_BYTES)?.to_vec();
        slice.hidden = decoder.raw(32 * hidden(&layout))?.as_chunks::<32>().0.to_vec();
        Ok(slice)
    }
}

/// How many hidden subtrees a slice has.
fn hidden(layout: &Layout) -> usize {
    let mut shape = Shape { hidden: 0 };
    if layout.total > CHUNK {
        layout.root(&mut shape);
    }
    shape.hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ValidatorIndex;

    const GENESIS: GenesisId = GenesisId([7; 32]);

    fn batch(payments: usize) -> Batch {
        let payment = |number: usize| {
            let mut bytes = [0x61; PAYMENT_BYTES];
            bytes[72..80].copy_from_slice(&number.to_le_bytes());
            Payment::from_bytes(bytes)
        };
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        Batch::sign(ValidatorIndex(1), 9, (0..payments).map(payment).collect(), &key, &GENESIS)
    }

    fn bytes(slice: &BatchSlice) -> Vec<u8> {
        let mut encoder = Encoder::default();
        slice.encode(&mut encoder);
        encoder.finish()
    }

    #[test]
    fn every_payment_of_a_batch_leads_to_its_digest_and_from_no_other_place() {
        for payments in [1, 2, 5, 6, 7, 11, 12, 17, 23, 64, 177, 1_023, 1_024] {
            let batch = batch(payments);
            let digest = batch.digest(&GENESIS);
            for position in 0..payments as u16 {
                if payments > 177 && position % 37 != 0 && position != payments as u16 - 1 {
                    continue;
                }
                let slice = BatchSlice::of(&batch, position, &GENESIS).unwrap();
                assert_eq!(slice.digest(position, &GENESIS), Some(digest), "payment {position} of {payments}");
                assert_eq!(slice.payment, batch.payments[usize::from(position)]);
                for other in [position.wrapping_sub(1), position + 1, payments as u16] {
                    assert_ne!(slice.digest(other, &GENESIS), Some(digest));
                }
                assert_ne!(slice.digest(position, &GenesisId([8; 32])), Some(digest));
                let written = bytes(&slice);
                assert!(written.len() <= BATCH_SLICE_BYTES_MAX);
                let mut decoder = Decoder::new(&written);
                assert_eq!(BatchSlice::decode(&mut decoder, position), Ok(slice));
                assert_eq!(decoder.finish(), Ok(()));
            }
            assert_eq!(BatchSlice::of(&batch, payments as u16, &GENESIS), None);
        }
    }

    #[test]
    fn every_byte_counts() {
        for (payments, position) in [(1, 0), (5, 4), (6, 5), (40, 17), (300, 299)] {
            let batch = batch(payments);
            let digest = batch.digest(&GENESIS);
            let good = bytes(&BatchSlice::of(&batch, position, &GENESIS).unwrap());
            for place in 0..good.len() {
                let mut bad = good.clone();
                bad[place] ^= 0x10;
                let read = BatchSlice::decode(&mut Decoder::new(&bad), position);
                let found = read.ok().and_then(|slice| slice.digest(position, &GENESIS));
                assert_ne!(found, Some(digest), "byte {place} of payment {position} of {payments}");
            }
        }
    }
}
