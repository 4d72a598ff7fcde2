//! What is to be verified, and what verification makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::OwnedSemaphorePermit;
use zeni_consensus::{Peer, Refusal};
use zeni_ledger::signature::verify_payments;
use zeni_ledger::{
    Batch, BatchDigest, Genesis, GenesisId, Payment, PublicKey, TransactionId, ValidatorIndex, VerifiedBatch,
};

use crate::submission::PendingSubmission;
use crate::verify::job::Weigh;

/// Marks a connection that sent a bad signature: from then on its work is verified apart from everyone else's, so
/// that the cost of finding its bad signatures is not theirs.
#[derive(Debug, Clone, Default)]
pub struct Suspicion(Arc<AtomicBool>);

impl Suspicion {
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One piece of work.
#[derive(Debug)]
pub struct Work {
    pub what: What,
    pub suspicion: Suspicion,
}

/// What is to be verified.
#[derive(Debug)]
pub enum What {
    /// Those payments of a client's submission that are not refused yet, with their positions.
    Submission { pending: PendingSubmission, positions: Vec<u16>, payments: Vec<Payment> },
    /// A batch that a peer sent.
    Batch { from: Peer, batch: Batch, permit: OwnedSemaphorePermit },
}

/// What verification found.
#[derive(Debug)]
pub enum Checked {
    /// The payments whose signatures hold; the others are refused.
    Submission {
        pending: PendingSubmission,
        good: Vec<(Payment, TransactionId)>,
        bad: usize,
    },
    Batch {
        from: Peer,
        verdict: BatchVerdict,
        payments: usize,
        permit: OwnedSemaphorePermit,
    },
}

/// What a peer's batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchVerdict {
    Verified(VerifiedBatch),
    /// Its author signed it, although a payment in it is not signed by its payer: evidence against the author.
    BadPayment {
        author: ValidatorIndex,
        digest: BatchDigest,
        bad: usize,
    },
    /// Not signed by the author that it names, or there is no such validator: says something of the sender only.
    BadAuthor,
}

/// What signatures are checked against.
#[derive(Debug)]
pub struct Verifier {
    genesis: GenesisId,
    validators: Vec<PublicKey>,
}

impl Weigh for Work {
    fn signatures(&self) -> usize {
        match &self.what {
            What::Submission { payments, .. } => payments.len(),
            What::Batch { batch, .. } => batch.payments.len(),
        }
    }
}

impl Verifier {
    pub fn new(genesis: &Genesis) -> Self {
        let validators = genesis.validators.iter().map(|validator| validator.key).collect();
        Self { genesis: genesis.id(), validators }
    }

    /// Checks every signature of a job. `seed` must be unpredictable to those who signed.
    pub fn check(&self, job: Vec<Work>, seed: [u8; 32]) -> Vec<Checked> {
        let mut payments = Vec::with_capacity(job.iter().map(Weigh::signatures).sum());
        for work in &job {
            payments.extend_from_slice(match &work.what {
                What::Submission { payments, .. } => payments,
                What::Batch { batch, .. } => &batch.payments,
            });
        }
        let bad = verify_payments(&payments, &self.genesis, seed);
        let mut start = 0;
        (job.into_iter())
            .map(|work| {
                let end = start + work.signatures();
                let own = &bad[bad.partition_point(|index| *index < start)..bad.partition_point(|index| *index < end)];
                let bad = own.iter().map(|index| index - start).collect();
                start = end;
                self.judge(work, bad)
            })
            .collect()
    }

    /// `bad` are the rising places, within this work, of the payments that are not signed.
    fn judge(&self, work: Work, bad: Vec<usize>) -> Checked {
        if !bad.is_empty() {
            work.suspicion.raise();
        }
        match work.what {
            What::Submission { mut pending, positions, payments } => {
                for place in &bad {
                    pending.refuse(usize::from(positions[*place]), Refusal::BadSignature);
                }
                let good = (payments.into_iter().enumerate())
                    .filter(|(place, _)| bad.binary_search(place).is_err())
                    .map(|(_, payment)| (payment, payment.id(&self.genesis)))
                    .collect();
                Checked::Submission { pending, good, bad: bad.len() }
            }
            What::Batch { from, batch, permit } => {
                let payments = batch.payments.len();
                let verdict = self.judge_batch(batch, bad.len());
                if verdict == BatchVerdict::BadAuthor {
                    work.suspicion.raise();
                }
                Checked::Batch { from, verdict, payments, permit }
            }
        }
    }

    fn judge_batch(&self, batch: Batch, bad: usize) -> BatchVerdict {
        let author = self.validators.get(batch.author.as_usize());
        if !author.is_some_and(|author| batch.author_signature_holds(&self.genesis, author)) {
            return BatchVerdict::BadAuthor;
        }
        match bad {
            0 => BatchVerdict::Verified(VerifiedBatch::vouch(batch, &self.genesis)),
            bad => BatchVerdict::BadPayment { author: batch.author, digest: batch.digest(&self.genesis), bad },
        }
    }
}
