//! Which batches are stored here, who else is known to hold them, and the recent ones themselves.

use std::collections::{BTreeMap, HashMap};

use zeni_ledger::{BatchDigest, ValidatorIndex, VerifiedBatch};

use crate::archive::{Archive, BatchMeta};
use crate::effect::HaltReason;

/// Bytes of batches kept in memory, at most; older ones are read from the archive when they are needed.
pub const BATCH_CACHE_BYTES_MAX: usize = 256 << 20;

/// A set of validators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ValidatorSet([u64; 4]);

impl ValidatorSet {
    pub fn insert(&mut self, validator: ValidatorIndex) {
        self.0[validator.as_usize() / 64 % 4] |= 1 << (validator.as_usize() % 64);
    }

    pub fn remove(&mut self, validator: ValidatorIndex) {
        self.0[validator.as_usize() / 64 % 4] &= !(1 << (validator.as_usize() % 64));
    }

    pub fn contains(&self, validator: ValidatorIndex) -> bool {
        self.0[validator.as_usize() / 64 % 4] >> (validator.as_usize() % 64) & 1 == 1
    }

    pub fn len(&self) -> u16 {
        self.0.iter().map(|word| word.count_ones() as u16).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// Whether the two have a member in common.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(mine, theirs)| mine & theirs != 0)
    }
}

/// What is known of a stored batch.
#[derive(Debug, Clone)]
pub struct BatchInfo {
    pub meta: BatchMeta,
    /// Counts batches in the order in which they were stored here; a re-queued batch returns to this place.
    pub arrival: u64,
    /// Validators that are known to have it on disk.
    pub holders: ValidatorSet,
    cached: Option<VerifiedBatch>,
}

/// Every batch stored here that may still matter. Never iterated: order comes from arrival numbers.
#[derive(Debug, Default)]
pub struct BatchIndex {
    known: HashMap<BatchDigest, BatchInfo>,
    arrivals: u64,
    cached: BTreeMap<u64, BatchDigest>,
    cached_bytes: usize,
}

impl BatchIndex {
    /// The arrival number of the batch that was stored last.
    pub fn last_arrival(&self) -> u64 {
        self.arrivals
    }

    pub fn contains(&self, digest: &BatchDigest) -> bool {
        self.known.contains_key(digest)
    }

    pub fn info(&self, digest: &BatchDigest) -> Option<&BatchInfo> {
        self.known.get(digest)
    }

    /// Notes a batch that recovery found. False if it is there already.
    pub fn restore(&mut self, meta: BatchMeta, me: Option<ValidatorIndex>) -> bool {
        self.add(meta, None, me)
    }

    /// Notes a batch that is being stored now. False if it is there already.
    pub fn insert(&mut self, batch: &VerifiedBatch, me: Option<ValidatorIndex>) -> bool {
        let inner = batch.batch();
        let meta = BatchMeta {
            digest: batch.digest(),
            author: inner.author,
            number: inner.number,
            payments: inner.payments.len() as u32,
        };
        self.add(meta, Some(batch.clone()), me)
    }

    fn add(&mut self, meta: BatchMeta, cached: Option<VerifiedBatch>, me: Option<ValidatorIndex>) -> bool {
        if self.known.contains_key(&meta.digest) {
            return false;
        }
        self.arrivals += 1;
        let arrival = self.arrivals;
        let mut holders = ValidatorSet::default();
        holders.insert(meta.author);
        if let Some(me) = me {
            holders.insert(me);
        }
        if let Some(batch) = &cached {
            self.cached.insert(arrival, meta.digest);
            self.cached_bytes += batch.batch().encoded_len();
        }
        self.known.insert(meta.digest, BatchInfo { meta, arrival, holders, cached });
        while self.cached_bytes > BATCH_CACHE_BYTES_MAX && self.cached.len() > 1 {
            let (_, oldest) = self.cached.pop_first().expect("there is more than one");
            self.uncache(&oldest);
        }
        true
    }

    fn uncache(&mut self, digest: &BatchDigest) {
        if let Some(info) = self.known.get_mut(digest)
            && let Some(batch) = info.cached.take()
        {
            self.cached.remove(&info.arrival);
            self.cached_bytes -= batch.batch().encoded_len();
        }
    }

    /// Lets go of the payments of a batch; what is known of it stays.
    pub fn release(&mut self, digest: &BatchDigest) {
        self.uncache(digest);
    }

    /// Forgets a batch that no block can list any more.
    pub fn forget(&mut self, digest: &BatchDigest) {
        self.uncache(digest);
        self.known.remove(digest);
    }

    /// Notes that `holder` has a batch on disk. False if the batch is unknown here.
    pub fn confirm(&mut self, digest: &BatchDigest, holder: ValidatorIndex) -> bool {
        match self.known.get_mut(digest) {
            Some(info) => {
                info.holders.insert(holder);
                true
            }
            None => false,
        }
    }

    /// The batch itself, from memory or from the archive.
    ///
    /// # Errors
    /// A known batch that the archive does not hold or cannot read: this node's disk is at fault.
    pub fn load(&self, digest: &BatchDigest, archive: &dyn Archive) -> Result<VerifiedBatch, HaltReason> {
        if let Some(batch) = self.known.get(digest).and_then(|info| info.cached.clone()) {
            return Ok(batch);
        }
        match archive.batch(digest) {
            Ok(Some(batch)) => Ok(batch),
            Ok(None) => Err(HaltReason::Archive(format!("batch {digest} was stored and is not there"))),
            Err(error) => Err(HaltReason::Archive(error.to_string())),
        }
    }
}
