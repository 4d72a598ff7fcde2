//! How each payment of a block ended, in order, and the upper part of the tree over their receipts: what a receipt's proof
//! needs besides the payments around it.
//!
//! Bytes: batches u32, payments u16 of each, then a byte for each payment (its outcome, or 255: no receipt), then 32 bytes
//! for each of the [`receipt_tops`].

use zeni_consensus::Applied;
use zeni_ledger::Outcome;
use zeni_ledger::batch::BATCH_PAYMENTS_MAX;
use zeni_ledger::block::BLOCK_BATCHES_LIMIT;
use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::proof::{RECEIPT_RUN, receipt_tops};

/// Bytes of the largest record: a full block's.
pub const BLOCK_RECEIPTS_BYTES_MAX: usize =
    4 + 2 * BLOCK_BATCHES_LIMIT + BLOCK_PAYMENTS_MAX + 32 * BLOCK_PAYMENTS_MAX.div_ceil(RECEIPT_RUN);

/// Payments of one block, at most.
const BLOCK_PAYMENTS_MAX: usize = BLOCK_BATCHES_LIMIT * BATCH_PAYMENTS_MAX;
/// Instead of an outcome: the payment left no receipt.
const SKIPPED: u8 = u8::MAX;

/// The record of one executed block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockReceipts {
    sizes: Vec<u16>,
    outcomes: Vec<u8>,
    tops: Vec<[u8; 32]>,
}

/// Where a receipt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptPlace {
    pub batch: u32,
    pub position: u16,
    pub outcome: Outcome,
}

impl BlockReceipts {
    pub fn of(applied: &Applied) -> Self {
        let sizes: Vec<u16> = (applied.batches.iter())
            .map(|batch| u16::try_from(batch.payments().len()).expect("a batch holds at most 1,024 payments"))
            .collect();
        let starts: Vec<usize> = starts(&sizes);
        let mut outcomes = vec![SKIPPED; sizes.iter().map(|size| usize::from(*size)).sum()];
        for receipt in &applied.executed.receipts {
            let place = starts[receipt.batch as usize] + usize::from(receipt.position);
            outcomes[place] = receipt.outcome.to_byte();
        }
        Self { sizes, outcomes, tops: receipt_tops(&applied.executed.receipts) }
    }

    /// How many receipts the block has.
    pub fn count(&self) -> u32 {
        self.outcomes.iter().filter(|outcome| **outcome != SKIPPED).count() as u32
    }

    pub fn tops(&self) -> &[[u8; 32]] {
        &self.tops
    }

    /// Which of the receipts is that of a payment; `None` if it left none.
    pub fn index_of(&self, batch: u16, position: u16) -> Option<u32> {
        let (start, size) = (starts(&self.sizes).get(usize::from(batch)).copied()?, self.sizes[usize::from(batch)]);
        let place = start + usize::from(position);
        if position >= size || self.outcomes[place] == SKIPPED {
            return None;
        }
        Some(self.outcomes[..place].iter().filter(|outcome| **outcome != SKIPPED).count() as u32)
    }

    /// The places of `length` receipts from the one at `index` on, or of fewer at the end.
    pub fn places(&self, index: u32, length: usize) -> Vec<ReceiptPlace> {
        let payments = self.sizes.iter().zip(0..).flat_map(|(size, batch)| (0..*size).map(move |at| (batch, at)));
        let executed = payments.zip(&self.outcomes).filter_map(|((batch, position), byte)| {
            Outcome::from_byte(*byte).map(|outcome| ReceiptPlace { batch, position, outcome })
        });
        executed.skip(index as usize).take(length).collect()
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let capacity = 4 + 2 * self.sizes.len() + self.outcomes.len() + 32 * self.tops.len();
        let mut encoder = Encoder::with_capacity(capacity);
        encoder.u32(self.sizes.len() as u32);
        for size in &self.sizes {
            encoder.u16(*size);
        }
        encoder.raw(&self.outcomes);
        for top in &self.tops {
            encoder.raw(top);
        }
        encoder.finish()
    }

    /// Parses what [`Self::to_bytes`] writes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let batches = decoder.count("batches of a block", BLOCK_BATCHES_LIMIT)?;
        let sizes = (0..batches).map(|_| decoder.u16()).collect::<Result<Vec<_>, _>>()?;
        let outcomes = decoder.raw(sizes.iter().map(|size| usize::from(*size)).sum())?.to_vec();
        let wrong = outcomes.iter().find(|byte| **byte != SKIPPED && Outcome::from_byte(**byte).is_none());
        if let Some(found) = wrong {
            return Err(DecodeError::Invalid { what: "outcome of a payment", found: u64::from(*found) });
        }
        let mut receipts = Self { sizes, outcomes, tops: Vec::new() };
        let tops = (receipts.count() as usize).div_ceil(RECEIPT_RUN);
        receipts.tops = decoder.raw(32 * tops)?.as_chunks::<32>().0.to_vec();
        decoder.finish()?;
        Ok(receipts)
    }
}

/// Where each batch's payments begin among the block's.
fn starts(sizes: &[u16]) -> Vec<usize> {
    let mut next = 0;
    let start = |size: &u16| {
        let start = next;
        next += usize::from(*size);
        start
    };
    sizes.iter().map(start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(sizes: &[u16], skipped: &[usize]) -> BlockReceipts {
        let mut outcomes = vec![0; sizes.iter().map(|size| usize::from(*size)).sum()];
        skipped.iter().for_each(|place| outcomes[*place] = SKIPPED);
        let tops = vec![[9; 32]; (outcomes.len() - skipped.len()).div_ceil(RECEIPT_RUN)];
        BlockReceipts { sizes: sizes.to_vec(), outcomes, tops }
    }

    #[test]
    fn receipts_are_found_by_place_and_by_index() {
        let block = receipts(&[3, 0, 2, 4], &[1, 4, 8]);
        assert_eq!(block.count(), 6);
        let mut next = 0;
        for (batch, size) in [3, 0, 2, 4].into_iter().enumerate() {
            for position in 0..size {
                let skipped = matches!((batch, position), (0, 1) | (2, 1) | (3, 3));
                let index = block.index_of(batch as u16, position);
                assert_eq!(index, (!skipped).then_some(next));
                if !skipped {
                    let place = ReceiptPlace { batch: batch as u32, position, outcome: Outcome::Applied };
                    assert_eq!(block.places(next, 1), [place]);
                    next += 1;
                }
            }
            assert_eq!(block.index_of(batch as u16, size), None);
        }
        assert_eq!(block.index_of(4, 0), None);
        assert_eq!((block.places(0, 100).len(), block.places(5, 9).len(), block.places(6, 9).len()), (6, 1, 0));
    }

    #[test]
    fn payloads_round_trip_and_truncated_ones_are_refused() {
        let block = receipts(&[1_000, 600], &[7]);
        let bytes = block.to_bytes();
        assert_eq!(BlockReceipts::from_bytes(&bytes), Ok(block));
        for length in 0..bytes.len() {
            assert!(BlockReceipts::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
    }
}
