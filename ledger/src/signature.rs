//! Signature checks by one rule on every node, or they fork: ZIP-215 (<https://zips.z.cash/zip-0215>).
//!
//! A signature (R, s) of message M under key A holds if s is canonical (below the group order), R and A decompress
//! (also from non-canonical encodings), and `8·s·B = 8·R + 8·k·A` with `k = SHA-512(R ‖ A ‖ M)` over the bytes as
//! given. The factor 8 is what makes a batch and a single check agree: without it a torsion component is accepted or
//! refused by chance.
//!
//! A batch checks `8·(Σ zᵢ·Rᵢ + Σ zᵢkᵢ·Aᵢ − (Σ zᵢsᵢ)·B) = 0` with 128-bit coefficients zᵢ that the signers cannot
//! foresee; a bad claim passes with a chance of about 2⁻¹²⁵. A batch that fails is halved until its bad claims are
//! known, and the right half's sum is the whole minus the left half's.

use std::iter::once;
use std::ops::Range;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use sha2::{Digest, Sha512};

use crate::batch::Batch;
use crate::block::Block;
use crate::hash::GenesisId;
use crate::identity::{PublicKey, SignatureBytes};
use crate::payment::Payment;

/// Claims that one multiscalar multiplication takes; longer lists are checked in several. More gains nothing: its
/// buckets are as many as they get, and the points (320 bytes a claim) leave the cache.
const EQUATION_CLAIMS_MAX: usize = 1_024;
/// A failed group of at most this many claims is checked one by one, which is then cheaper than halving.
const SINGLES_MAX: usize = 8;

const COEFFICIENT_DOMAIN: &[u8] = b"zeni signature coefficients v1\0";

/// That `key` signed `message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    pub key: PublicKey,
    pub message: &'a [u8],
    pub signature: SignatureBytes,
}

/// Whether the claim holds by ZIP-215.
pub fn verify(claim: &Claim<'_>) -> bool {
    Equation::of(&claim.key, claim.message, &claim.signature).is_some_and(|equation| equation.holds())
}

/// The indexes of all claims that do not hold, rising; the verdict on each is that of [`verify`] in any company.
///
/// `seed` must be unpredictable to the signers (a fresh random one for each call): the coefficients come from it and
/// from the claims. Empty if every claim holds.
pub fn verify_batch(claims: &[Claim<'_>], seed: [u8; 32]) -> Vec<usize> {
    bad_claims(claims.len(), &seed, |index| {
        let claim = &claims[index];
        Equation::of(&claim.key, claim.message, &claim.signature)
    })
}

/// The indexes of all payments that their payers did not sign for the ledger `genesis`; otherwise [`verify_batch`].
pub fn verify_payments(payments: &[Payment], genesis: &GenesisId, seed: [u8; 32]) -> Vec<usize> {
    bad_claims(payments.len(), &seed, |index| {
        let payment = &payments[index];
        Equation::of(&payment.signer(), &payment.signed_bytes(genesis), &payment.signature())
    })
}

impl Batch {
    /// Whether `author` signed this batch for the ledger `genesis`. Says nothing of the payments in it.
    pub fn author_signature_holds(&self, genesis: &GenesisId, author: &PublicKey) -> bool {
        verify(&Claim { key: *author, message: self.digest(genesis).as_bytes(), signature: self.signature })
    }
}

impl Block {
    /// Whether `proposer` signed this block for the ledger `genesis`.
    pub fn signature_holds(&self, genesis: &GenesisId, proposer: &PublicKey) -> bool {
        verify(&Claim { key: *proposer, message: self.id(genesis).as_bytes(), signature: self.signature })
    }
}

/// A claim as numbers: it holds if `8·(R + k·A − s·B) = 0`.
struct Equation {
    /// R, the signer's commitment.
    commitment: EdwardsPoint,
    /// A, the public key.
    key: EdwardsPoint,
    /// k, the hash of everything.
    challenge: Scalar,
    /// s.
    response: Scalar,
}

impl Equation {
    /// `None` if s is not canonical, or R or A is no point: then the claim does not hold.
    fn of(key: &PublicKey, message: &[u8], signature: &SignatureBytes) -> Option<Self> {
        let (halves, _) = signature.0.as_chunks::<32>();
        let response = Option::from(Scalar::from_canonical_bytes(halves[1]))?;
        let commitment = CompressedEdwardsY(halves[0]).decompress()?;
        let point = CompressedEdwardsY(key.0).decompress()?;
        let hash = Sha512::new().chain_update(halves[0]).chain_update(key.0).chain_update(message).finalize();
        let challenge = Scalar::from_bytes_mod_order_wide(&hash.into());
        Some(Self { commitment, key: point, challenge, response })
    }

    fn holds(&self) -> bool {
        let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&self.challenge, &-self.key, &self.response);
        (expected - self.commitment).mul_by_cofactor().is_identity()
    }
}

/// Checks `count` claims, a bounded number in each equation.
fn bad_claims(count: usize, seed: &[u8; 32], claim: impl Fn(usize) -> Option<Equation>) -> Vec<usize> {
    let mut bad = Vec::new();
    for start in (0..count).step_by(EQUATION_CLAIMS_MAX) {
        let end = count.min(start + EQUATION_CLAIMS_MAX);
        let mut indexes = Vec::with_capacity(end - start);
        let mut equations = Vec::with_capacity(end - start);
        for index in start..end {
            match claim(index) {
                Some(equation) => {
                    indexes.push(index);
                    equations.push(equation);
                }
                None => bad.push(index),
            }
        }
        let mut failed = Vec::new();
        if equations.len() <= SINGLES_MAX {
            failed.extend((0..equations.len()).filter(|place| !equations[*place].holds()));
        } else {
            let sum = WeightedSum::new(&equations, seed);
            let all = 0..equations.len();
            sum.find_failed(all.clone(), &sum.residue(all), &mut failed);
        }
        bad.extend(failed.into_iter().map(|place| indexes[place]));
    }
    bad.sort_unstable();
    bad
}

/// The terms of the batch equation, laid out so that any run of claims is a run of terms.
struct WeightedSum<'a> {
    equations: &'a [Equation],
    /// Rᵢ, Aᵢ of each claim and their scalars zᵢ, zᵢkᵢ.
    points: Vec<EdwardsPoint>,
    scalars: Vec<Scalar>,
    /// −zᵢsᵢ of each claim.
    base_scalars: Vec<Scalar>,
}

impl<'a> WeightedSum<'a> {
    fn new(equations: &'a [Equation], seed: &[u8; 32]) -> Self {
        let mut points = Vec::with_capacity(2 * equations.len());
        let mut scalars = Vec::with_capacity(2 * equations.len());
        let mut base_scalars = Vec::with_capacity(equations.len());
        for (equation, coefficient) in equations.iter().zip(coefficients(equations, seed)) {
            points.extend([equation.commitment, equation.key]);
            scalars.extend([coefficient, coefficient * equation.challenge]);
            base_scalars.push(-(coefficient * equation.response));
        }
        Self { equations, points, scalars, base_scalars }
    }

    /// Eight times the sum over the claims in `range`: the identity if all of them hold.
    fn residue(&self, range: Range<usize>) -> EdwardsPoint {
        let base_scalar: Scalar = self.base_scalars[range.clone()].iter().sum();
        let terms = 2 * range.start..2 * range.end;
        EdwardsPoint::vartime_multiscalar_mul(
            once(&base_scalar).chain(&self.scalars[terms.clone()]),
            once(&ED25519_BASEPOINT_POINT).chain(&self.points[terms]),
        )
        .mul_by_cofactor()
    }

    /// Halves `range`, whose residue is given, down to its bad claims.
    fn find_failed(&self, range: Range<usize>, residue: &EdwardsPoint, failed: &mut Vec<usize>) {
        if residue.is_identity() {
            return;
        }
        if range.len() <= SINGLES_MAX {
            failed.extend(range.filter(|place| !self.equations[*place].holds()));
            return;
        }
        let middle = range.start + range.len() / 2;
        let left = self.residue(range.start..middle);
        self.find_failed(range.start..middle, &left, failed);
        self.find_failed(middle..range.end, &(residue - left), failed);
    }
}

/// 128-bit coefficients that nobody knows before the claims and the seed are fixed: the challenge binds R, A and the
/// message, so it and s stand for the claim.
fn coefficients(equations: &[Equation], seed: &[u8; 32]) -> impl Iterator<Item = Scalar> + use<> {
    let mut transcript = Vec::with_capacity(64 * equations.len());
    for equation in equations {
        transcript.extend_from_slice(equation.challenge.as_bytes());
        transcript.extend_from_slice(equation.response.as_bytes());
    }
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(COEFFICIENT_DOMAIN);
    hasher.update(&transcript);
    let mut stream = vec![0; 16 * equations.len()];
    hasher.finalize_xof().fill(&mut stream);
    let (chunks, _) = stream.as_chunks::<16>();
    let numbers: Vec<u128> = chunks.iter().map(|chunk| u128::from_le_bytes(*chunk)).collect();
    numbers.into_iter().map(Scalar::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::BlockId;
    use crate::payment::PaymentBody;
    use crate::{AccountId, Amount, BlockHeader, ReceiptsRoot, Sequence, StateRoot, TokenId, ValidatorIndex};
    use ed25519_dalek::{Signer, SigningKey};

    const GENESIS: GenesisId = GenesisId([3; 32]);

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn public(key: &SigningKey) -> PublicKey {
        PublicKey(key.verifying_key().to_bytes())
    }

    fn payments(count: u64) -> Vec<Payment> {
        (0..count)
            .map(|number| {
                let key = key((number % 7) as u8);
                let body = PaymentBody {
                    network: 1,
                    valid_until: 2,
                    from: AccountId(public(&key).0),
                    to: AccountId([4; 32]),
                    sequence: Sequence(number),
                    amount: Amount(6),
                    token: TokenId(7),
                    flags: 0,
                    reference: [8; 16],
                };
                body.sign(&key, &GENESIS)
            })
            .collect()
    }

    fn flip(payment: &Payment, byte: usize) -> Payment {
        let mut bytes = *payment.as_bytes();
        bytes[byte] ^= 1;
        Payment::from_bytes(bytes)
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_alone() {
        let signer = key(1);
        let signature = SignatureBytes(signer.sign(b"pay").to_bytes());
        let claim = Claim { key: public(&signer), message: b"pay", signature };
        assert!(verify(&claim));
        assert!(!verify(&Claim { message: b"paz", ..claim }));
        assert!(!verify(&Claim { key: public(&key(2)), ..claim }));
        for byte in [0, 31, 32, 63] {
            let mut signature = signature;
            signature.0[byte] ^= 1;
            assert!(!verify(&Claim { signature, ..claim }), "byte {byte}");
        }
    }

    #[test]
    fn an_empty_batch_has_no_bad_claim() {
        assert_eq!(verify_batch(&[], [0; 32]), Vec::<usize>::new());
    }

    #[test]
    fn one_bad_payment_among_1024_is_found_wherever_it_stands() {
        let good = payments(1_024);
        assert_eq!(verify_payments(&good, &GENESIS, [1; 32]), Vec::<usize>::new());
        for place in [0, 511, 512, 700, 1_023] {
            let mut payments = good.clone();
            payments[place] = flip(&payments[place], 80);
            assert_eq!(verify_payments(&payments, &GENESIS, [2; 32]), vec![place]);
        }
    }

    #[test]
    fn bad_payments_of_every_kind_are_found_across_equations() {
        let mut payments = payments(1_100);
        // A changed amount, a wrong R, an s that is not canonical.
        let spoiled = [(3, 80), (4, 113), (1_023, 175), (1_024, 150), (1_099, 8)];
        for (place, byte) in spoiled {
            payments[place] = flip(&payments[place], byte);
        }
        payments[77] = payments[78].body().with_signature(SignatureBytes([0xff; 64]));
        assert_eq!(verify_payments(&payments, &GENESIS, [3; 32]), vec![3, 4, 77, 1_023, 1_024, 1_099]);
    }

    #[test]
    fn payments_of_another_ledger_are_all_bad() {
        let bad = verify_payments(&payments(20), &GenesisId([9; 32]), [4; 32]);
        assert_eq!(bad, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn authors_and_proposers_answer_for_their_own_bytes_only() {
        let batch = Batch::sign(ValidatorIndex(0), 1, payments(2), &key(1), &GENESIS);
        assert!(batch.author_signature_holds(&GENESIS, &public(&key(1))));
        assert!(!batch.author_signature_holds(&GENESIS, &public(&key(2))));
        assert!(!batch.author_signature_holds(&GenesisId([9; 32]), &public(&key(1))));
        assert!(!Batch { number: 2, ..batch }.author_signature_holds(&GENESIS, &public(&key(1))));
        let header = BlockHeader {
            proposer: ValidatorIndex(0),
            rank: 0,
            height: 1,
            slot: 1,
            parent: BlockId([1; 32]),
            transactions_root: crate::block::transactions_root(&[]),
            state_root: StateRoot([2; 32]),
            receipts_root: ReceiptsRoot([3; 32]),
            receipts: 0,
        };
        let block = Block::sign(header, vec![], &key(1), &GENESIS);
        assert!(block.signature_holds(&GENESIS, &public(&key(1))));
        assert!(!block.signature_holds(&GENESIS, &public(&key(2))));
        let other = Block { header: BlockHeader { rank: 1, ..header }, ..block };
        assert!(!other.signature_holds(&GENESIS, &public(&key(1))));
    }

    #[test]
    fn coefficients_depend_on_the_seed_and_on_every_claim() {
        let sums = |payments: &[Payment], seed: [u8; 32]| {
            let equations: Vec<Equation> = (payments.iter())
                .map(|p| Equation::of(&p.signer(), &p.signed_bytes(&GENESIS), &p.signature()).unwrap())
                .collect();
            coefficients(&equations, &seed).collect::<Vec<_>>()
        };
        let good = payments(3);
        let first = sums(&good, [1; 32]);
        assert_eq!(first, sums(&good, [1; 32]));
        assert_ne!(first[0], sums(&good, [2; 32])[0]);
        let mut other = good;
        other[2] = flip(&other[2], 80);
        assert_ne!(first[0], sums(&other, [1; 32])[0]);
    }
}
