//! Copies of one batch: peers push it, and a node that catches up asks for it more than once. Its signatures are checked
//! once all the same.
//!
//! A batch's digest covers everything but its author's signature. What is stored under a digest was verified before it
//! was stored, and stays as it is stored; so a copy of it needs no check, whatever signature it comes with. A batch that
//! is still being verified may yet turn out to be forged, and only an equal one, signature included, shares its fate.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use zeni_ledger::{Batch, BatchDigest, GenesisId, SignatureBytes, VerifiedBatch};
use zeni_storage::{Files, Reader};

type Signed = (BatchDigest, SignatureBytes);

/// The batches that are between their connections and the core, over all connections. Never more than connections
/// have room for (`limits.peer_batches` each): every claim goes along with such room, see [`Passage`].
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<HashSet<Signed>>>);

/// What is to be done with a batch that came in.
#[derive(Debug)]
pub enum Seen {
    /// It was verified before it was stored: the core only has to hear who else holds it.
    Stored(VerifiedBatch),
    /// Another connection brought it a moment ago; that one is being verified.
    UnderWay,
    /// It is to be verified. The claim goes with it.
    New(Batch, Claim),
}

/// That one batch is under way. Dropped when the core has taken it, or it was found to be bad.
#[derive(Debug)]
pub struct Claim {
    batch: Signed,
    under_way: UnderWay,
}

/// What a message holds until the core has taken it: room of its connection, and a batch's claim.
#[derive(Debug)]
pub struct Passage {
    _room: OwnedSemaphorePermit,
    _claim: Option<Claim>,
}

impl UnderWay {
    /// Looks whether the batch is stored, or under way already.
    pub fn look<F: Files>(&self, batch: Batch, genesis: &GenesisId, reader: &Reader<F>) -> Seen {
        let digest = batch.digest(genesis);
        if reader.has_batch(&digest) {
            return Seen::Stored(VerifiedBatch::vouch(batch, genesis));
        }
        let signed = (digest, batch.signature);
        if !self.batches().insert(signed) {
            return Seen::UnderWay;
        }
        Seen::New(batch, Claim { batch: signed, under_way: self.clone() })
    }

    fn batches(&self) -> std::sync::MutexGuard<'_, HashSet<Signed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.under_way.batches().remove(&self.batch);
    }
}

impl Passage {
    pub fn new(room: OwnedSemaphorePermit, claim: Option<Claim>) -> Self {
        Self { _room: room, _claim: claim }
    }
}

impl From<OwnedSemaphorePermit> for Passage {
    fn from(room: OwnedSemaphorePermit) -> Self {
        Self::new(room, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::committer::Turn;
    use crate::unsynced::Unsynced;
    use zeni_consensus::Record;
    use zeni_ledger::{Genesis, ValidatorIndex};
    use zeni_storage::{Limits, MemoryFiles, Store};

    fn stored_nothing() -> (Store<MemoryFiles>, GenesisId) {
        let genesis = Genesis::from_toml(include_str!("../../deploy/genesis.example.toml")).unwrap();
        let files = MemoryFiles::new();
        Store::init(&files, &genesis.id()).unwrap();
        (Store::open(files, &genesis, Limits::default()).unwrap().0, genesis.id())
    }

    fn batch(number: u64, genesis: &GenesisId) -> Batch {
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        Batch::sign(ValidatorIndex(0), number, Vec::new(), &key, genesis)
    }

    #[test]
    fn a_batch_is_verified_once_while_its_copy_is_under_way() {
        let (store, genesis) = stored_nothing();
        let (under_way, reader) = (UnderWay::default(), store.reader());
        let look = |batch: &Batch| under_way.look(batch.clone(), &genesis, &reader);
        let one = batch(1, &genesis);
        let Seen::New(_, claim) = look(&one) else { panic!("nobody brought it before") };
        assert!(matches!(look(&one), Seen::UnderWay));
        assert!(matches!(look(&batch(2, &genesis)), Seen::New(..)), "another batch is none of its copies");
        drop(claim);
        assert!(matches!(look(&one), Seen::New(..)), "the first one may have been bad");
    }

    #[test]
    fn a_forged_copy_cannot_keep_the_signed_one_out() {
        let (store, genesis) = stored_nothing();
        let (under_way, reader) = (UnderWay::default(), store.reader());
        let signed = batch(1, &genesis);
        let forged = Batch { signature: SignatureBytes([0; 64]), ..signed.clone() };
        let Seen::New(_, _claim) = under_way.look(forged, &genesis, &reader) else { panic!("it is the first") };
        assert!(matches!(under_way.look(signed, &genesis, &reader), Seen::New(..)));
    }

    #[test]
    fn a_stored_batch_is_not_verified_again() {
        let (mut store, genesis) = stored_nothing();
        let (under_way, reader) = (UnderWay::default(), store.reader());
        let one = batch(1, &genesis);
        let record = Record::Batch(VerifiedBatch::vouch(one.clone(), &genesis));
        Unsynced::default().append(&mut store, &record, &mut Turn::default()).unwrap();
        let Seen::Stored(known) = under_way.look(one.clone(), &genesis, &reader) else { panic!("it is stored") };
        assert_eq!(known.digest(), one.digest(&genesis));
        assert!(under_way.batches().is_empty(), "nothing waits for a verdict");
    }
}
