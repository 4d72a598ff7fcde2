//! The pool: every stored batch that is not on the canonical chain, in the order of arrival, and the payments in it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use zeni_ledger::batch::BATCH_PAYMENTS_MAX;
use zeni_ledger::block::BLOCK_BATCHES_LIMIT;
use zeni_ledger::{AccountId, BatchDigest, Payment, Sequence, TransactionId, ValidatorIndex, VerifiedBatch};

/// Payments waiting in the pool and in the batch being formed, at most: as many as one block can list. Further ones are
/// refused with "try again". More would wait longer than they need to, and the work of taking them in would be done instead
/// of that of clearing those that wait, until nodes lag so far behind each other that nothing is cleared any more.
pub const POOL_PAYMENTS_MAX: u64 = (BLOCK_BATCHES_LIMIT * BATCH_PAYMENTS_MAX) as u64;
/// Bytes of one author's batches in the pool, at most, before further ones are refused.
pub const UNLISTED_BYTES_PER_AUTHOR_MAX: u64 = 4 << 30;

/// In place of an arrival number, which begin at 1: the payment is in the batch that is being formed here.
const FORMING: u64 = 0;

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
    books: Books,
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
        (self.books.by_id.len() as u64) < POOL_PAYMENTS_MAX
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
        match self.books.by_id(id)?.arrival {
            FORMING => Some(Waiting::Forming),
            arrival => self.order.get(&arrival).map(|digest| Waiting::Batch(*digest)),
        }
    }

    /// The waiting payment that uses this sequence.
    pub fn user_of(&self, account: AccountId, sequence: Sequence) -> Option<TransactionId> {
        self.books.by_sequence(account, sequence).map(|entry| entry.id)
    }

    /// Notes a payment of the batch being formed.
    pub fn form(&mut self, payment: &Payment, id: TransactionId) {
        self.books.note(payment, id, FORMING);
    }

    /// Adds a stored batch at its place. `formed`: it was cut here, so what waited to be cut waits in it now. False if
    /// it is there.
    pub fn add(&mut self, arrival: u64, batch: &VerifiedBatch, formed: bool) -> bool {
        if self.order.insert(arrival, batch.digest()).is_some() {
            return false;
        }
        self.payments += batch.payments().len() as u64;
        *self.bytes.entry(batch.batch().author).or_default() += batch.batch().encoded_len() as u64;
        for (payment, id) in batch.payments().iter().zip(batch.ids()) {
            let waits = self.books.note(payment, *id, arrival);
            if waits.arrival == FORMING && formed {
                waits.arrival = arrival;
            }
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
        batch.ids().iter().for_each(|id| self.books.strike(id, arrival));
        true
    }
}

/// A waiting payment.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: TransactionId,
    payer: AccountId,
    sequence: Sequence,
    /// Of the first batch that holds it, or [`FORMING`].
    arrival: u64,
}

/// Waiting payments by id and by what they use. Both tables hold places in one list: what waits a block long was put there
/// one behind another and leaves alike, so that only the small tables are met at random.
#[derive(Debug, Default)]
struct Books {
    entries: Vec<Entry>,
    /// Places of the list that are free.
    free: Vec<u32>,
    by_id: HashTable<u32>,
    by_sequence: HashTable<u32>,
    /// Keyed, so that nobody can choose what collides.
    hasher: RandomState,
}

impl Books {
    fn by_id(&self, id: &TransactionId) -> Option<&Entry> {
        let place = self.by_id.find(self.hasher.hash_one(id), |place| self.entries[*place as usize].id == *id)?;
        Some(&self.entries[*place as usize])
    }

    fn by_sequence(&self, payer: AccountId, sequence: Sequence) -> Option<&Entry> {
        let uses = |place: &u32| {
            let entry = &self.entries[*place as usize];
            entry.payer == payer && entry.sequence == sequence
        };
        self.by_sequence.find(self.hasher.hash_one((payer, sequence)), uses).map(|place| &self.entries[*place as usize])
    }

    /// The payment's entry; a new one, which waits at `arrival`, if there is none.
    fn note(&mut self, payment: &Payment, id: TransactionId, arrival: u64) -> &mut Entry {
        let Self { entries, free, by_id, by_sequence, hasher } = self;
        let hash = hasher.hash_one(id);
        let place = match by_id.entry(
            hash,
            |place| entries[*place as usize].id == id,
            |place| hasher.hash_one(entries[*place as usize].id),
        ) {
            Slot::Occupied(slot) => *slot.get(),
            Slot::Vacant(slot) => {
                let (payer, sequence) = (payment.from(), payment.sequence());
                let entry = Entry { id, payer, sequence, arrival };
                let fresh = || u32::try_from(entries.len()).expect("2^32 payments would take 340 GB of these books");
                let place = free.pop().unwrap_or_else(fresh);
                slot.insert(place);
                match entries.get_mut(place as usize) {
                    Some(freed) => *freed = entry,
                    None => entries.push(entry),
                }
                let key = |place: &u32| (entries[*place as usize].payer, entries[*place as usize].sequence);
                let hash = hasher.hash_one((payer, sequence));
                let users = by_sequence.entry(
                    hash,
                    |place| key(place) == (payer, sequence),
                    |place| hasher.hash_one(key(place)),
                );
                users.or_insert(place);
                place
            }
        };
        &mut entries[place as usize]
    }

    /// Strikes a payment out, if it waits at `arrival`.
    fn strike(&mut self, id: &TransactionId, arrival: u64) {
        let Self { entries, free, by_id, by_sequence, hasher } = self;
        let is_it = |place: &u32| entries[*place as usize].id == *id && entries[*place as usize].arrival == arrival;
        let Ok(slot) = by_id.find_entry(hasher.hash_one(id), is_it) else { return };
        let (place, _) = slot.remove();
        let Entry { payer, sequence, .. } = entries[place as usize];
        if let Ok(slot) = by_sequence.find_entry(hasher.hash_one((payer, sequence)), |user| *user == place) {
            slot.remove();
        }
        free.push(place);
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
