//! Signature checks by one rule on every node, or they fork: ZIP-215 (<https://zips.z.cash/zip-0215>).
//!
//! A signature (R, s) of message M under key A holds if s is canonical (below the group order), R and A decompress
//! (also from non-canonical encodings), and `8·s·B = 8·R + 8·k·A` with `k = SHA-512(R ‖ A ‖ M)` over the bytes as
//! given. The factor 8 is what makes a batch and a single check agree: without it a torsion component is accepted or
//! refused by chance.
//!
//! A batch checks `8·(Σ zᵢ·Rᵢ + Σ zᵢkᵢ·Aᵢ − (Σ zᵢsᵢ)·B) = 0` with 128-bit coefficients zᵢ that the signers cannot
//! foresee; a bad claim passes with a chance of about 2⁻¹²⁵. A batch that fails is halved until few claims are left, which
//! are checked one by one. Where the machine has vector lanes, they take the sums; they only ever confirm, and what they
//! do not confirm is decided by the general code.

mod equation;
mod lanes;
mod memo;

use std::ops::Range;

use curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED;
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha512};

use self::equation::{Equation, SINGLES_MAX};
use self::lanes::{SHORT_DIGITS, Term, signed_digits};
pub use self::memo::Memo;
use crate::batch::Batch;
use crate::block::{Block, SignedHeader};
use crate::hash::GenesisId;
use crate::identity::{PublicKey, SignatureBytes};
use crate::payment::Payment;

/// Claims that one sum takes; longer lists are checked in several. More gains nothing: its buckets are as many as they
/// get, and the points (320 bytes a claim) leave the cache.
const EQUATION_CLAIMS_MAX: usize = 1_024;
/// Fewer claims than this are cheaper one by one.
const LANES_CLAIMS_MIN: usize = 3;

const COEFFICIENT_DOMAIN: &[u8] = b"zeni signature coefficients v2\0";

/// That `key` signed `message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    pub key: PublicKey,
    pub message: &'a [u8],
    pub signature: SignatureBytes,
}

/// Which code checks whole batches on this machine, for logs and reports; the verdicts do not depend on it.
pub fn batch_backend() -> &'static str {
    if lanes::is_available() { "avx512-ifma-lanes" } else { "curve25519-dalek" }
}

/// Signs a message.
pub fn sign(key: &SigningKey, message: &[u8]) -> SignatureBytes {
    let signature = SignatureBytes(key.sign(message).to_bytes());
    memo::signed(&Claim { key: PublicKey(key.verifying_key().to_bytes()), message, signature });
    signature
}

/// Whether the claim holds by ZIP-215.
pub fn verify(claim: &Claim<'_>) -> bool {
    memo::verdict(claim, || {
        Challenged::of(&claim.key, claim.message, &claim.signature)
            .and_then(|challenged| Equation::of(&challenged))
            .is_some_and(|equation| equation.holds())
    })
}

/// The indexes of all claims that do not hold, rising; the verdict on each is that of [`verify`] in any company.
///
/// `seed` must be unpredictable to the signers (a fresh random one for each call): the coefficients come from it and
/// from the claims. Empty if every claim holds.
pub fn verify_batch(claims: &[Claim<'_>], seed: [u8; 32]) -> Vec<usize> {
    bad_claims(claims.len(), &seed, |index| {
        let claim = &claims[index];
        Challenged::of(&claim.key, claim.message, &claim.signature)
    })
}

/// The indexes of all payments that their payers did not sign for the ledger `genesis`; otherwise [`verify_batch`].
pub fn verify_payments(payments: &[Payment], genesis: &GenesisId, seed: [u8; 32]) -> Vec<usize> {
    bad_claims(payments.len(), &seed, |index| {
        let payment = &payments[index];
        Challenged::of(&payment.signer(), &payment.signed_bytes(genesis), &payment.signature())
    })
}

impl Batch {
    /// Whether `author` signed this batch for the ledger `genesis`. Says nothing of the payments in it.
    pub fn author_signature_holds(&self, genesis: &GenesisId, author: &PublicKey) -> bool {
        verify(&Claim { key: *author, message: self.digest(genesis).as_bytes(), signature: self.signature })
    }
}

impl Payment {
    /// Whether its payer signed it for the ledger `genesis`.
    pub fn signature_holds(&self, genesis: &GenesisId) -> bool {
        verify(&Claim { key: self.signer(), message: &self.signed_bytes(genesis), signature: self.signature() })
    }
}

impl SignedHeader {
    /// Whether `proposer` signed it for the ledger `genesis`.
    pub fn signature_holds(&self, genesis: &GenesisId, proposer: &PublicKey) -> bool {
        verify(&Claim { key: *proposer, message: self.id(genesis).as_bytes(), signature: self.signature })
    }
}

impl Block {
    /// Whether `proposer` signed this block for the ledger `genesis`.
    pub fn signature_holds(&self, genesis: &GenesisId, proposer: &PublicKey) -> bool {
        verify(&Claim { key: *proposer, message: self.id(genesis).as_bytes(), signature: self.signature })
    }
}

/// A claim whose s is canonical, with its challenge; nobody has looked yet whether R and A are points.
struct Challenged {
    /// R as given.
    commitment: [u8; 32],
    /// A as given.
    key: [u8; 32],
    /// k.
    challenge: Scalar,
    /// s.
    response: Scalar,
}

impl Challenged {
    /// `None` if s is not canonical: then the claim does not hold.
    fn of(key: &PublicKey, message: &[u8], signature: &SignatureBytes) -> Option<Self> {
        let (halves, _) = signature.0.as_chunks::<32>();
        let response = Option::from(Scalar::from_canonical_bytes(halves[1]))?;
        let hash = Sha512::new().chain_update(halves[0]).chain_update(key.0).chain_update(message).finalize();
        let challenge = Scalar::from_bytes_mod_order_wide(&hash.into());
        Some(Self { commitment: halves[0], key: key.0, challenge, response })
    }
}

/// Checks `count` claims, a bounded number in each sum.
fn bad_claims(count: usize, seed: &[u8; 32], claim: impl Fn(usize) -> Option<Challenged>) -> Vec<usize> {
    let mut bad = Vec::new();
    for start in (0..count).step_by(EQUATION_CLAIMS_MAX) {
        let end = count.min(start + EQUATION_CLAIMS_MAX);
        let mut indexes = Vec::with_capacity(end - start);
        let mut claims = Vec::with_capacity(end - start);
        for index in start..end {
            match claim(index) {
                Some(challenged) => {
                    indexes.push(index);
                    claims.push(challenged);
                }
                None => bad.push(index),
            }
        }
        let coefficients = coefficients(&claims, seed);
        let failed = if lanes::is_available() && claims.len() >= LANES_CLAIMS_MIN {
            let mut failed = Vec::new();
            find_failed_in_lanes(&claims, &coefficients, 0..claims.len(), &mut failed);
            failed
        } else {
            failed_claims(&claims, &coefficients)
        };
        bad.extend(failed.into_iter().map(|place| indexes[place]));
    }
    bad.sort_unstable();
    bad
}

/// Halves what vector lanes do not confirm, until few enough claims are left for the general code.
fn find_failed_in_lanes(
    claims: &[Challenged],
    coefficients: &[Coefficient],
    range: Range<usize>,
    failed: &mut Vec<usize>,
) {
    let holds =
        |range: &Range<usize>| all_hold_in_lanes(&claims[range.clone()], &coefficients[range.clone()]) == Some(true);
    let mut open = if holds(&range) { Vec::new() } else { vec![range] };
    while let Some(range) = open.pop() {
        if range.len() <= SINGLES_MAX {
            let among = failed_claims(&claims[range.clone()], &coefficients[range.clone()]);
            failed.extend(among.into_iter().map(|place| range.start + place));
            continue;
        }
        let middle = range.start + range.len() / 2;
        let (left, right) = (range.start..middle, middle..range.end);
        // If the left half holds, the right one does not: it need not be asked.
        if holds(&left) {
            open.push(right);
        } else {
            open.push(left);
            if !holds(&right) {
                open.push(right);
            }
        }
    }
}

/// Whether all claims hold, on vector lanes; `None` where there are none.
fn all_hold_in_lanes(claims: &[Challenged], coefficients: &[Coefficient]) -> Option<bool> {
    if !lanes::is_available() {
        return None;
    }
    let mut commitments = Vec::with_capacity(claims.len());
    let mut keys = Vec::with_capacity(claims.len() + 1);
    let mut base_scalar = Scalar::ZERO;
    for (claim, coefficient) in claims.iter().zip(coefficients) {
        let scalar = coefficient.scalar();
        commitments.push(Term { point: claim.commitment, digits: coefficient.0 });
        let digits = signed_digits((scalar * claim.challenge).as_bytes());
        keys.push(Term { point: claim.key, digits });
        base_scalar -= scalar * claim.response;
    }
    let digits = signed_digits(base_scalar.as_bytes());
    keys.push(Term { point: ED25519_BASEPOINT_COMPRESSED.to_bytes(), digits });
    lanes::sums_to_identity(&commitments, &keys)
}

/// The places of the claims that do not hold, by the general code.
fn failed_claims(claims: &[Challenged], coefficients: &[Coefficient]) -> Vec<usize> {
    let mut failed = Vec::new();
    let (mut places, mut equations, mut scalars) = (Vec::new(), Vec::new(), Vec::new());
    for (place, (claim, coefficient)) in claims.iter().zip(coefficients).enumerate() {
        match Equation::of(claim) {
            Some(equation) => {
                places.push(place);
                equations.push(equation);
                scalars.push(coefficient.scalar());
            }
            None => failed.push(place),
        }
    }
    failed.extend(equation::failed(&equations, &scalars).into_iter().map(|among| places[among]));
    failed
}

/// A coefficient z = Σ digits\[i\]·256ⁱ: as many values as 128 bits have, and no digit beyond the sixteenth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Coefficient([i8; SHORT_DIGITS]);

impl Coefficient {
    fn scalar(&self) -> Scalar {
        // A negative digit is its byte less 256, which is one in the next place.
        let (mut bytes, mut borrowed) = ([0; 32], [0; 32]);
        for (place, digit) in self.0.iter().enumerate() {
            bytes[place] = digit.cast_unsigned();
            borrowed[place + 1] = u8::from(*digit < 0);
        }
        Scalar::from_bytes_mod_order(bytes) - Scalar::from_bytes_mod_order(borrowed)
    }
}

/// Coefficients that nobody knows before the claims and the seed are fixed: the challenge binds R, A and the message,
/// so it and s stand for the claim.
fn coefficients(claims: &[Challenged], seed: &[u8; 32]) -> Vec<Coefficient> {
    let mut transcript = Vec::with_capacity(64 * claims.len());
    for claim in claims {
        transcript.extend_from_slice(claim.challenge.as_bytes());
        transcript.extend_from_slice(claim.response.as_bytes());
    }
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(COEFFICIENT_DOMAIN);
    hasher.update(&transcript);
    let mut stream = vec![0; SHORT_DIGITS * claims.len()];
    hasher.finalize_xof().fill(&mut stream);
    let (chunks, _) = stream.as_chunks::<SHORT_DIGITS>();
    chunks.iter().map(|chunk| Coefficient(chunk.map(u8::cast_signed))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::BlockId;
    use crate::payment::PaymentBody;
    use crate::{AccountId, Amount, BlockHeader, ReceiptsRoot, Sequence, StateRoot, TokenId, ValidatorIndex};
    use curve25519_dalek::constants::EIGHT_TORSION;
    use curve25519_dalek::edwards::EdwardsPoint;

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
            let claims: Vec<Challenged> = (payments.iter())
                .map(|p| Challenged::of(&p.signer(), &p.signed_bytes(&GENESIS), &p.signature()).unwrap())
                .collect();
            coefficients(&claims, &seed)
        };
        let good = payments(3);
        let first = sums(&good, [1; 32]);
        assert_eq!(first, sums(&good, [1; 32]));
        assert_ne!(first[0], sums(&good, [2; 32])[0]);
        let mut other = good;
        other[2] = flip(&other[2], 80);
        assert_ne!(first[0], sums(&other, [1; 32])[0]);
    }

    /// Signatures under keys and commitments with every pair of small-order components, all valid by ZIP-215.
    fn torsion_claims(count: usize) -> Vec<Challenged> {
        let encode = |secret: Scalar, torsion: usize| {
            (EdwardsPoint::mul_base(&secret) + EIGHT_TORSION[torsion]).compress().to_bytes()
        };
        (0..count)
            .map(|number| {
                let (secret, nonce) = (Scalar::from(number as u64 + 2).invert(), Scalar::from(7 * number as u64 + 3));
                let (key, commitment) = (encode(secret, number % 8), encode(nonce, number / 8 % 8));
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&commitment);
                let hash = Sha512::new().chain_update(commitment).chain_update(key).chain_update(b"pay").finalize();
                let challenge = Scalar::from_bytes_mod_order_wide(&hash.into());
                signature[32..].copy_from_slice((nonce + challenge * secret).as_bytes());
                Challenged::of(&PublicKey(key), b"pay", &SignatureBytes(signature)).unwrap()
            })
            .collect()
    }

    fn in_lanes(claims: &[Challenged], seed: u8) -> Option<bool> {
        all_hold_in_lanes(claims, &coefficients(claims, &[seed; 32]))
    }

    #[test]
    fn lanes_confirm_what_holds_whatever_its_number_and_torsion() {
        for count in [1, 2, 3, 7, 8, 9, 16, 17, 100, 199, 200, 201, 512, 1_024] {
            let verdict = in_lanes(&torsion_claims(count), count as u8);
            assert_eq!(verdict, lanes::is_available().then_some(true), "{count} claims");
        }
        assert_eq!(in_lanes(&[], 1), lanes::is_available().then_some(true));
    }

    #[test]
    fn lanes_do_not_confirm_a_batch_with_one_spoiled_claim() {
        for (round, place) in [0, 7, 8, 100, 255, 299].into_iter().enumerate() {
            let spoil: [fn(&mut Challenged); 5] = [
                |claim| claim.response += Scalar::ONE,
                |claim| claim.challenge += Scalar::ONE,
                |claim| claim.commitment[0] ^= 1,
                |claim| claim.key[31] ^= 0x80,
                // y = 2 is on no point of the curve.
                |claim| claim.key = signed_number(2),
            ];
            for (kind, spoil) in spoil.into_iter().enumerate() {
                let mut claims = torsion_claims(300);
                spoil(&mut claims[place]);
                let verdict = in_lanes(&claims, round as u8);
                assert_eq!(verdict, lanes::is_available().then_some(false), "place {place}, kind {kind}");
                let coefficients = coefficients(&claims, &[9; 32]);
                assert_eq!(failed_claims(&claims, &coefficients), vec![place], "place {place}, kind {kind}");
            }
        }
    }

    fn signed_number(number: u8) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0] = number;
        bytes
    }

    #[test]
    fn a_coefficient_is_the_sum_of_its_digits() {
        for digits in [[0; 16], [127; 16], [-128; 16], [-1; 16], std::array::from_fn(|place| (37 * place) as u8 as i8)]
        {
            let by_horner = digits.iter().rev().fold(Scalar::ZERO, |sum, digit: &i8| {
                let magnitude = Scalar::from(digit.unsigned_abs());
                sum * Scalar::from(256u32) + if *digit < 0 { -magnitude } else { magnitude }
            });
            assert_eq!(Coefficient(digits).scalar(), by_horner, "{digits:?}");
        }
    }

    #[test]
    fn signed_digits_make_up_the_number() {
        for number in [Scalar::ZERO, Scalar::ONE, -Scalar::ONE, Scalar::from(128u8), -Scalar::from(u128::MAX)] {
            let digits = signed_digits(number.as_bytes());
            let sum = digits.iter().rev().fold(Scalar::ZERO, |sum, digit| {
                let magnitude = Scalar::from(digit.unsigned_abs());
                sum * Scalar::from(256u32) + if *digit < 0 { -magnitude } else { magnitude }
            });
            assert_eq!(sum, number);
        }
    }
}
