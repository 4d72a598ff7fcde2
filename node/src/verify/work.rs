//! What is to be verified, and what verification makes of it.

use std::sync::Arc;

use zeni_consensus::{Peer, Refusal};
use zeni_ledger::signature::verify_payments;
use zeni_ledger::{Batch, BatchDigest, Genesis, GenesisId, Payment, PublicKey, TransactionId, VerifiedBatch};

use crate::copies::Passage;
use crate::submission::PendingSubmission;
use crate::verify::job::Weigh;
use crate::verify::suspicion::Suspicion;

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
    Batch { from: Peer, batch: Batch, passage: Passage },
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
        passage: Passage,
    },
}

/// What a peer's batch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchVerdict {
    Verified(VerifiedBatch),
    /// Its author signed it, although a payment in it is not signed by its payer: evidence against the author.
    BadPayment {
        batch: Arc<Batch>,
        digest: BatchDigest,
        /// The place of the first such payment.
        first: u16,
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
        if bad.is_empty() {
            work.suspicion.allay(work.signatures());
        } else {
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
            What::Batch { from, batch, passage } => {
                let payments = batch.payments.len();
                let verdict = self.judge_batch(batch, &bad);
                if verdict == BatchVerdict::BadAuthor {
                    work.suspicion.raise();
                }
                Checked::Batch { from, verdict, payments, passage }
            }
        }
    }

    fn judge_batch(&self, batch: Batch, bad: &[usize]) -> BatchVerdict {
        let author = self.validators.get(batch.author.as_usize());
        if !author.is_some_and(|author| batch.author_signature_holds(&self.genesis, author)) {
            return BatchVerdict::BadAuthor;
        }
        match bad.first() {
            None => BatchVerdict::Verified(VerifiedBatch::vouch(batch, &self.genesis)),
            Some(first) => {
                let (digest, first) = (batch.digest(&self.genesis), *first as u16);
                BatchVerdict::BadPayment { batch: Arc::new(batch), digest, first, bad: bad.len() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::tests::pending;
    use crate::verify::suspicion::CLEAN_SIGNATURES_MIN;
    use ed25519_dalek::SigningKey;
    use tokio::sync::Semaphore;
    use zeni_consensus::Verdict;
    use zeni_ledger::payment::PaymentBody;
    use zeni_ledger::{AccountId, Amount, Sequence, SignatureBytes, TokenId, ValidatorIndex};

    const GENESIS: GenesisId = GenesisId([5; 32]);
    const PEER: Peer = Peer::Validator(ValidatorIndex(1));

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn verifier() -> Verifier {
        let validators = (0..2).map(|number| PublicKey(key(number).verifying_key().to_bytes())).collect();
        Verifier { genesis: GENESIS, validators }
    }

    fn payment(sequence: u64, is_signed: bool) -> Payment {
        let payer = key(9);
        let body = PaymentBody {
            network: 1,
            valid_until: 2,
            from: AccountId(payer.verifying_key().to_bytes()),
            to: AccountId([4; 32]),
            sequence: Sequence(sequence),
            amount: Amount(6),
            token: TokenId(7),
            flags: 0,
            reference: [8; 16],
        };
        if is_signed { body.sign(&payer, &GENESIS) } else { body.with_signature(SignatureBytes([1; 64])) }
    }

    fn batch_work(author: u16, signer: u8, payments: Vec<Payment>) -> Work {
        let batch = Batch::sign(ValidatorIndex(author), 1, payments, &key(signer), &GENESIS);
        let passage = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap().into();
        Work { what: What::Batch { from: PEER, batch, passage }, suspicion: Suspicion::default() }
    }

    fn verdicts(checked: Vec<Checked>) -> Vec<BatchVerdict> {
        let verdict = |checked| match checked {
            Checked::Batch { verdict, .. } => verdict,
            other => panic!("{other:?}"),
        };
        checked.into_iter().map(verdict).collect()
    }

    #[test]
    fn a_bad_signature_is_found_in_its_own_work_and_position() {
        let (submission, mut answer) = pending(3);
        let signed = [payment(0, true), payment(1, false), payment(2, true)];
        let what = What::Submission { pending: submission, positions: vec![0, 1, 2], payments: signed.to_vec() };
        let suspicion = Suspicion::default();
        let client = Work { what, suspicion: suspicion.clone() };
        let clean = batch_work(1, 1, (0..20).map(|sequence| payment(sequence, true)).collect());
        let clean_peer = clean.suspicion.clone();
        let mut checked = verifier().check(vec![client, clean], [7; 32]);
        let Some(Checked::Batch { verdict: BatchVerdict::Verified(batch), .. }) = checked.pop() else {
            panic!("the batch beside it is good")
        };
        assert_eq!(batch.payments().len(), 20);
        let Some(Checked::Submission { pending, good, bad: 1 }) = checked.pop() else { panic!("one is bad") };
        let taken: Vec<Payment> = good.iter().map(|(payment, _)| *payment).collect();
        assert_eq!(taken, [signed[0], signed[2]]);
        assert!(suspicion.is_raised() && !clean_peer.is_raised());
        pending.answer(vec![Verdict::Accepted { copies: 1 }; 2]);
        let answered = answer.try_recv().unwrap();
        assert_eq!(answered[1], Verdict::Refused(Refusal::BadSignature));
        assert_eq!((answered[0], answered[2]), (Verdict::Accepted { copies: 1 }, Verdict::Accepted { copies: 1 }));
    }

    #[test]
    fn good_work_allays_suspicion_and_bad_work_does_not() {
        let suspicion = Suspicion::default();
        suspicion.raise();
        let check = |payments| {
            let work = Work { suspicion: suspicion.clone(), ..batch_work(1, 1, payments) };
            verifier().check(vec![work], [7; 32]);
        };
        check((0..20).map(|sequence| payment(sequence, true)).collect());
        suspicion.allay(CLEAN_SIGNATURES_MIN - 21);
        assert!(suspicion.is_raised(), "21 to go, 20 were good");
        suspicion.allay(1);
        assert!(!suspicion.is_raised());
        check((0..20).map(|sequence| payment(sequence, sequence != 3)).collect());
        suspicion.allay(CLEAN_SIGNATURES_MIN - 1);
        assert!(suspicion.is_raised(), "work with a bad signature does not count");
    }

    #[test]
    fn a_batch_with_one_bad_payment_is_evidence_only_under_its_authors_signature() {
        let mixed: Vec<Payment> = (0..30).map(|sequence| payment(sequence, sequence != 13)).collect();
        let works = vec![
            batch_work(1, 1, mixed.clone()),
            batch_work(1, 0, mixed),
            batch_work(7, 1, vec![payment(0, true)]),
            batch_work(0, 0, Vec::new()),
        ];
        let digest = |work: &Work| match &work.what {
            What::Batch { batch, .. } => batch.digest(&GENESIS),
            What::Submission { .. } => panic!("only batches here"),
        };
        let expected = digest(&works[0]);
        let found = verdicts(verifier().check(works, [7; 32]));
        let BatchVerdict::BadPayment { batch, digest, first: 13, bad: 1 } = &found[0] else { panic!("{found:?}") };
        assert_eq!((batch.author, *digest), (ValidatorIndex(1), expected));
        assert_eq!(found[1..3], [BatchVerdict::BadAuthor, BatchVerdict::BadAuthor]);
        assert!(matches!(&found[3], BatchVerdict::Verified(batch) if batch.payments().is_empty()));
    }
}
