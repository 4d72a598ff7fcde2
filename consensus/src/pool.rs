//! The pool: every stored batch that is not on the canonical chain, in the order of arrival, and the payments in it.

use std::collections::{BTreeMap, HashMap};

use zeni_ledger::{AccountId, BatchDigest, Payment, Sequence, TransactionId, ValidatorIndex, VerifiedBatch};

/// Payments waiting in the pool and in the batch being formed, at most. At 200 bytes each that is 1.6 GB; the node
/// refuses further ones with "try again" long before its disk is full.
pub const POOL_PAYMENTS_MAX: u64 = 8 << 20;
/// Bytes of one author's batches in the pool, at most, before further ones are refused.
pub const UNLISTED_BYTES_PER_AUTHOR_MAX: u64 = 4 << 30;

/// Where a waiting payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// In the batch that is being formed here.
    Forming,
    /// In a stored batch.
    Batch(BatchDigest),
}

/// Batches and payments that no canonical block lists.
#[derive(Debug, Default)]
pub struct Pool {
    order: BTreeMap<u64, BatchDigest>,
    payments: u64,
    bytes: BTreeMap<ValidatorIndex, u64>,
    by_id: HashMap<TransactionId, Waiting>,
    by_sequence: HashMap<(AccountId, Sequence), TransactionId>,
}

impl Pool {
    /// Batches in the pool.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Payments in stored batches of the pool.
    pub fn payments(&self) -> u64 {
        self.payments
    }

    /// Whether another payment may be taken.
    pub fn has_room(&self) -> bool {
        (self.by_id.len() as u64) < POOL_PAYMENTS_MAX
    }

    /// Whether `author` may add another batch.
    pub fn has_room_for(&self, author: ValidatorIndex) -> bool {
        self.bytes.get(&author).copied().unwrap_or(0) < UNLISTED_BYTES_PER_AUTHOR_MAX
    }

    /// Digests in the order of arrival, with their arrival numbers.
    pub fn digests(&self) -> impl Iterator<Item = (u64, BatchDigest)> + '_ {
        self.order.iter().map(|(arrival, digest)| (*arrival, *digest))
    }

    /// Where a payment waits.
    pub fn waiting(&self, id: &TransactionId) -> Option<Waiting> {
        self.by_id.get(id).copied()
    }

    /// The waiting payment that uses this sequence.
    pub fn user_of(&self, account: AccountId, sequence: Sequence) -> Option<TransactionId> {
        self.by_sequence.get(&(account, sequence)).copied()
    }

    /// Notes a payment of the batch being formed.
    pub fn form(&mut self, payment: &Payment, id: TransactionId) {
        self.by_id.insert(id, Waiting::Forming);
        self.by_sequence.entry((payment.from(), payment.sequence())).or_insert(id);
    }

    /// Adds a stored batch at its place. `formed`: it was cut here, so what waited to be cut waits in it now. False if
    /// it is there.
    pub fn add(&mut self, arrival: u64, batch: &VerifiedBatch, formed: bool) -> bool {
        if self.order.insert(arrival, batch.digest()).is_some() {
            return false;
        }
        let digest = batch.digest();
        self.payments += batch.payments().len() as u64;
        *self.bytes.entry(batch.batch().author).or_default() += batch.batch().encoded_len() as u64;
        for (payment, id) in batch.payments().iter().zip(batch.ids()) {
            let waiting = self.by_id.entry(*id).or_insert(Waiting::Batch(digest));
            if *waiting == Waiting::Forming && formed {
                *waiting = Waiting::Batch(digest);
            }
            self.by_sequence.entry((payment.from(), payment.sequence())).or_insert(*id);
        }
        true
    }

    /// Removes a batch that a canonical block lists. False if it is not there.
    pub fn remove(&mut self, arrival: u64, batch: &VerifiedBatch) -> bool {
        if self.order.remove(&arrival).is_none() {
            return false;
        }
        self.payments -= batch.payments().len() as u64;
        let author = self.bytes.entry(batch.batch().author).or_default();
        *author = author.saturating_sub(batch.batch().encoded_len() as u64);
        for (payment, id) in batch.payments().iter().zip(batch.ids()) {
            if self.by_id.get(id) == Some(&Waiting::Batch(batch.digest())) {
                self.by_id.remove(id);
                let key = (payment.from(), payment.sequence());
                if self.by_sequence.get(&key) == Some(id) {
                    self.by_sequence.remove(&key);
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeni_ledger::payment::PaymentBody;
    use zeni_ledger::{Amount, Batch, GenesisId, SignatureBytes, TokenId};

    fn batch(author: u16, sequences: std::ops::Range<u64>) -> VerifiedBatch {
        let payment = |sequence| {
            let body = PaymentBody {
                network: 1,
                valid_until: 2,
                from: AccountId([3; 32]),
                to: AccountId([4; 32]),
                sequence: Sequence(sequence),
                amount: Amount(6),
                token: TokenId(7),
                flags: 0,
                reference: [8; 16],
            };
            body.with_signature(SignatureBytes([9; 64]))
        };
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let genesis = GenesisId([5; 32]);
        let payments = sequences.map(payment).collect();
        VerifiedBatch::vouch(Batch::sign(ValidatorIndex(author), 1, payments, &key, &genesis), &genesis)
    }

    #[test]
    fn a_requeued_batch_returns_to_its_place() {
        let (first, second) = (batch(0, 0..3), batch(1, 3..5));
        let mut pool = Pool::default();
        assert!(pool.add(1, &first, false) && pool.add(2, &second, false));
        assert!(pool.remove(1, &first));
        assert!(!pool.remove(1, &first));
        assert_eq!(pool.payments(), 2);
        assert!(pool.add(1, &first, false));
        let order: Vec<_> = pool.digests().map(|(_, digest)| digest).collect();
        assert_eq!(order, [first.digest(), second.digest()]);
    }

    #[test]
    fn knows_where_a_payment_waits_and_who_uses_a_sequence() {
        let batch = batch(0, 0..3);
        let mut pool = Pool::default();
        pool.add(1, &batch, false);
        let (payment, id) = (batch.payments()[1], batch.ids()[1]);
        assert_eq!(pool.waiting(&id), Some(Waiting::Batch(batch.digest())));
        assert_eq!(pool.user_of(payment.from(), payment.sequence()), Some(id));
        pool.remove(1, &batch);
        assert_eq!(pool.waiting(&id), None);
        assert_eq!(pool.user_of(payment.from(), payment.sequence()), None);
    }

    #[test]
    fn a_payment_in_two_batches_waits_until_the_first_is_listed() {
        let (mine, theirs) = (batch(0, 0..1), batch(1, 0..1));
        let mut pool = Pool::default();
        pool.add(1, &mine, false);
        pool.add(2, &theirs, false);
        pool.remove(2, &theirs);
        assert_eq!(pool.waiting(&mine.ids()[0]), Some(Waiting::Batch(mine.digest())));
        pool.remove(1, &mine);
        assert_eq!(pool.waiting(&mine.ids()[0]), None);
    }
}
