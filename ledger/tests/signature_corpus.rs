//! Signatures that implementations disagree about: small-order components, non-canonical encodings, s beyond the group
//! order. Every one of them gets one verdict: one by one, in batches of any composition, and from the oracle.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]

use std::collections::BTreeSet;

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha512};
use zeni_ledger::signature::{Claim, verify, verify_batch};
use zeni_ledger::{PublicKey, SignatureBytes};

/// The group order, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

struct Crafted {
    kind: &'static str,
    key: [u8; 32],
    message: Vec<u8>,
    signature: [u8; 64],
    /// What ZIP-215 says of it, from how it was made.
    holds: bool,
}

impl Crafted {
    fn claim(&self) -> Claim<'_> {
        Claim { key: PublicKey(self.key), message: &self.message, signature: SignatureBytes(self.signature) }
    }

    fn oracle(&self) -> bool {
        let signature = ed25519_zebra::Signature::from_bytes(&self.signature);
        ed25519_zebra::VerificationKey::try_from(self.key)
            .is_ok_and(|key| key.verify(&signature, &self.message).is_ok())
    }
}

/// Signs with the secret `key` under the given encodings of R = nonce·B (+ torsion) and A = key·B (+ torsion).
fn sign(nonce: Scalar, commitment: [u8; 32], key: Scalar, public: [u8; 32], message: &[u8]) -> [u8; 64] {
    let hash = Sha512::new().chain_update(commitment).chain_update(public).chain_update(message).finalize();
    let challenge = Scalar::from_bytes_mod_order_wide(&hash.into());
    join(commitment, (nonce + challenge * key).to_bytes())
}

fn join(commitment: [u8; 32], response: [u8; 32]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&commitment);
    signature[32..].copy_from_slice(&response);
    signature
}

/// s + L, the same residue written once more; it fits 32 bytes.
fn plus_order(response: [u8; 32]) -> [u8; 32] {
    let (mut sum, mut carry) = ([0; 32], 0u16);
    for (index, byte) in sum.iter_mut().enumerate() {
        let total = u16::from(response[index]) + u16::from(ORDER[index]) + carry;
        *byte = total as u8;
        carry = total >> 8;
    }
    sum
}

/// Every encoding of a point of small order, canonical or not (14 of them).
fn small_order_encodings() -> Vec<[u8; 32]> {
    let mut encodings: BTreeSet<[u8; 32]> = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    encodings.extend(
        non_canonical_encodings()
            .into_iter()
            .filter(|bytes| CompressedEdwardsY(*bytes).decompress().is_some_and(|point| point.is_small_order())),
    );
    encodings.into_iter().collect()
}

/// Encodings with y from p to 2^255 - 1, and those of x = 0 with the sign bit set, whether or not they decompress.
fn non_canonical_encodings() -> Vec<[u8; 32]> {
    let mut encodings = Vec::new();
    for low in 0xed..=0xffu8 {
        for high in [0x7f, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, high);
            encodings.push(bytes);
        }
    }
    let mut one_with_sign = [0; 32];
    (one_with_sign[0], one_with_sign[31]) = (1, 0x80);
    let mut minus_one_with_sign = [0xff; 32];
    minus_one_with_sign[0] = 0xec;
    encodings.extend([one_with_sign, minus_one_with_sign]);
    encodings
}

fn scalar(rng: &mut ChaCha20Rng) -> Scalar {
    let mut wide = [0; 64];
    rng.fill_bytes(&mut wide);
    Scalar::from_bytes_mod_order_wide(&wide)
}

fn encode(secret: Scalar, torsion: EdwardsPoint) -> [u8; 32] {
    (ED25519_BASEPOINT_POINT * secret + torsion).compress().to_bytes()
}

fn corpus(rng: &mut ChaCha20Rng) -> Vec<Crafted> {
    let mut corpus = Vec::new();
    torsion_components(rng, &mut corpus);
    non_canonical_points(rng, &mut corpus);
    responses_beyond_the_order(rng, &mut corpus);
    honest_and_spoiled(rng, &mut corpus);
    corpus
}

/// R and A with each of the 8 × 8 pairs of small-order points added, valid, and some of each pair spoiled.
fn torsion_components(rng: &mut ChaCha20Rng, corpus: &mut Vec<Crafted>) {
    for round in 0..16u8 {
        for of_key in EIGHT_TORSION {
            for of_commitment in EIGHT_TORSION {
                let (key, nonce) = (scalar(rng), scalar(rng));
                let (public, commitment) = (encode(key, of_key), encode(nonce, of_commitment));
                let mut message = vec![round; 20];
                let signature = sign(nonce, commitment, key, public, &message);
                let holds = round < 12;
                if !holds {
                    message.push(0);
                }
                corpus.push(Crafted { kind: "torsion component", key: public, message, signature, holds });
            }
        }
    }
}

/// Small-order points in all their encodings as R, as A and as both; and other points that only decompress.
fn non_canonical_points(rng: &mut ChaCha20Rng, corpus: &mut Vec<Crafted>) {
    let encodings = small_order_encodings();
    assert_eq!(encodings.len(), 14, "8 points, 6 of which have a second encoding");
    for public in &encodings {
        for commitment in &encodings {
            let (key, message) = (*public, b"both small".to_vec());
            let signature = join(*commitment, [0; 32]);
            corpus.push(Crafted { kind: "small order R and A", key, message, signature, holds: true });
        }
        let nonce = scalar(rng);
        let commitment = encode(nonce, EIGHT_TORSION[3]);
        let message = b"small key".to_vec();
        let signature = sign(nonce, commitment, Scalar::ZERO, *public, &message);
        corpus.push(Crafted { kind: "small order A", key: *public, message, signature, holds: true });
        let key = scalar(rng);
        let of_key = encode(key, EIGHT_TORSION[5]);
        let message = b"small commitment".to_vec();
        let signature = sign(Scalar::ZERO, *public, key, of_key, &message);
        corpus.push(Crafted { kind: "small order R", key: of_key, message, signature, holds: true });
    }
    for bytes in non_canonical_encodings() {
        let small = encodings.contains(&bytes);
        let (key, message) = (scalar(rng), b"unknown logarithm".to_vec());
        let signature = sign(Scalar::ZERO, bytes, key, encode(key, EIGHT_TORSION[0]), &message);
        let public = encode(key, EIGHT_TORSION[0]);
        corpus.push(Crafted { kind: "non-canonical R", key: public, message, signature, holds: small });
        let (nonce, message) = (scalar(rng), b"unknown key".to_vec());
        let signature = sign(nonce, encode(nonce, EIGHT_TORSION[0]), Scalar::ZERO, bytes, &message);
        corpus.push(Crafted { kind: "non-canonical A", key: bytes, message, signature, holds: small });
    }
}

/// Valid signatures whose s was written once more, with the order added; never acceptable.
fn responses_beyond_the_order(rng: &mut ChaCha20Rng, corpus: &mut Vec<Crafted>) {
    for round in 0..100usize {
        let (key, nonce) = (scalar(rng), scalar(rng));
        let (of_key, of_commitment) = (EIGHT_TORSION[round % 8], EIGHT_TORSION[round / 8 % 8]);
        let (public, commitment) = (encode(key, of_key), encode(nonce, of_commitment));
        let message = vec![7; round];
        let good = sign(nonce, commitment, key, public, &message);
        let (_, response) = good.split_at(32);
        let signature = join(commitment, plus_order(response.try_into().unwrap()));
        corpus.push(Crafted { kind: "s + L", key: public, message, signature, holds: false });
    }
    for key in small_order_encodings() {
        let signature = join(key, ORDER);
        corpus.push(Crafted { kind: "s = L", key, message: vec![], signature, holds: false });
    }
}

fn honest_and_spoiled(rng: &mut ChaCha20Rng, corpus: &mut Vec<Crafted>) {
    for round in 0..300usize {
        let (key, nonce) = (scalar(rng), scalar(rng));
        let (public, commitment) = (encode(key, EIGHT_TORSION[0]), encode(nonce, EIGHT_TORSION[0]));
        let mut message = vec![0; round % 200 + 1];
        rng.fill_bytes(&mut message);
        let mut signature = sign(nonce, commitment, key, public, &message);
        let holds = round % 10 != 0;
        if !holds {
            signature[rng.random_range(0..64)] ^= 1 << rng.random_range(0..8);
        }
        corpus.push(Crafted { kind: "honest or one bit flipped", key: public, message, signature, holds });
    }
}

fn rng() -> (u64, ChaCha20Rng) {
    let seed = 0x7a65_6e69;
    println!("seed {seed}");
    (seed, ChaCha20Rng::seed_from_u64(seed))
}

#[test]
fn each_crafted_signature_gets_the_verdict_of_the_rule_and_of_the_oracle() {
    let (_, mut rng) = rng();
    let corpus = corpus(&mut rng);
    let crafted = corpus.iter().filter(|one| !one.kind.starts_with("honest")).count();
    assert!(crafted >= 1_000, "only {crafted} crafted signatures");
    assert!(corpus.iter().filter(|one| one.holds).count() > 600);
    for (index, one) in corpus.iter().enumerate() {
        assert_eq!(one.oracle(), one.holds, "the oracle on {index}: {}", one.kind);
        assert_eq!(verify(&one.claim()), one.holds, "{index}: {}", one.kind);
    }
}

#[test]
fn the_verdict_is_the_same_in_batches_of_any_composition() {
    let (_, mut rng) = rng();
    let corpus = corpus(&mut rng);
    let mut order: Vec<usize> = (0..corpus.len()).collect();
    for round in 0..6 {
        order.shuffle(&mut rng);
        let mut rest = &order[..];
        while !rest.is_empty() {
            let most = if round < 3 { 40 } else { 1_500 };
            let (batch, further) = rest.split_at(rng.random_range(1..=most.min(rest.len())));
            rest = further;
            check_batch(&corpus, batch, rng.random());
        }
    }
}

#[test]
fn a_batch_of_nothing_but_valid_torsion_signatures_is_accepted_whole() {
    let (_, mut rng) = rng();
    let corpus = corpus(&mut rng);
    let valid: Vec<usize> = (0..corpus.len()).filter(|index| corpus[*index].holds).collect();
    check_batch(&corpus, &valid, rng.random());
}

#[test]
fn one_bad_torsion_signature_among_1024_valid_ones_is_found() {
    let (_, mut rng) = rng();
    let corpus = corpus(&mut rng);
    let valid: Vec<usize> = (0..corpus.len()).filter(|index| corpus[*index].holds).collect();
    let bad: Vec<usize> = (0..corpus.len()).filter(|index| !corpus[*index].holds).collect();
    for _ in 0..8 {
        let mut batch: Vec<usize> = valid.iter().copied().cycle().take(1_024).collect();
        batch[rng.random_range(0..1_024)] = bad[rng.random_range(0..bad.len())];
        check_batch(&corpus, &batch, rng.random());
    }
}

fn check_batch(corpus: &[Crafted], batch: &[usize], seed: [u8; 32]) {
    let claims: Vec<Claim<'_>> = batch.iter().map(|index| corpus[*index].claim()).collect();
    let expected: Vec<usize> = (0..batch.len()).filter(|place| !corpus[batch[*place]].holds).collect();
    assert_eq!(verify_batch(&claims, seed), expected, "batch of {} with seed {seed:?}", batch.len());
}
