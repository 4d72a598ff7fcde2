//! Prints signatures checked per second on one core: our batch, the oracle's batch, and dalek one by one.
//!
//! `cargo run --release -p zeni-ledger --example verify_rate`; nothing else should run meanwhile.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::time::Instant;

use ed25519_dalek::{SigningKey, Verifier};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use zeni_ledger::payment::{Payment, PaymentBody};
use zeni_ledger::signature::{Claim, verify, verify_payments};
use zeni_ledger::{AccountId, Amount, GenesisId, Sequence, TokenId};

const GENESIS: GenesisId = GenesisId([3; 32]);
/// Each figure is the fastest of so many runs over one batch: what the core does when it is left alone.
const RUNS: usize = 100;

fn main() {
    for size in [64, 128, 256, 512, 1_024] {
        let batch = payments(size);
        let (mut rng, mut zebras) = (ChaCha20Rng::seed_from_u64(1), ChaCha20Rng::seed_from_u64(2));
        let mut ours = || assert_eq!(verify_payments(&batch, &GENESIS, rng.random()), Vec::<usize>::new());
        let [ours, zebra] = fastest(size, [&mut ours, &mut || zebra_batch(&batch, &mut zebras)]);
        println!("batches of {size:>4}: ours {ours}, ed25519-zebra {zebra}");
    }
    let singles = payments(64);
    let mut ours = || singles.iter().for_each(single);
    let [ours, dalek] = fastest(singles.len(), [&mut ours, &mut || singles.iter().for_each(dalek_single)]);
    println!("one by one     : ours {ours}, ed25519-dalek {dalek} (another rule: cofactorless)");
    let mut spoiled = payments(1_024);
    spoiled[700] = spoiled[700].body().with_signature(spoiled[701].signature());
    let [bisected] = fastest(1_024, [&mut || assert_eq!(verify_payments(&spoiled, &GENESIS, [5; 32]), vec![700])]);
    println!("one bad in 1024: ours {bisected}");
}

fn payments(count: usize) -> Vec<Payment> {
    (0..count)
        .map(|number| {
            let mut secret = [7; 32];
            secret[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let key = SigningKey::from_bytes(&secret);
            let body = PaymentBody {
                network: 1,
                valid_until: 2,
                from: AccountId(key.verifying_key().to_bytes()),
                to: AccountId([4; 32]),
                sequence: Sequence(0),
                amount: Amount(6),
                token: TokenId(7),
                flags: 0,
                reference: [8; 16],
            };
            body.sign(&key, &GENESIS)
        })
        .collect()
}

fn zebra_batch(batch: &[Payment], rng: &mut ChaCha20Rng) {
    let mut verifier = ed25519_zebra::batch::Verifier::new();
    for payment in batch {
        let key = ed25519_zebra::VerificationKeyBytes::from(payment.signer().0);
        let signature = ed25519_zebra::Signature::from_bytes(&payment.signature().0);
        verifier.queue((key, signature, &payment.signed_bytes(&GENESIS)));
    }
    assert!(verifier.verify(rng).is_ok());
}

fn single(payment: &Payment) {
    let message = payment.signed_bytes(&GENESIS);
    assert!(verify(&Claim { key: payment.signer(), message: &message, signature: payment.signature() }));
}

fn dalek_single(payment: &Payment) {
    let key = ed25519_dalek::VerifyingKey::from_bytes(&payment.signer().0).expect("a key that signed");
    let signature = ed25519_dalek::Signature::from_bytes(&payment.signature().0);
    assert!(key.verify(&payment.signed_bytes(&GENESIS), &signature).is_ok());
}

/// Signatures per second of each contender; they take turns, so that the machine treats them alike.
fn fastest<const N: usize>(signatures: usize, mut contenders: [&mut dyn FnMut(); N]) -> [String; N] {
    let mut least = [f64::INFINITY; N];
    for _ in 0..RUNS {
        for (run, least) in contenders.iter_mut().zip(&mut least) {
            let start = Instant::now();
            run();
            *least = least.min(start.elapsed().as_secs_f64());
        }
    }
    least.map(|seconds| {
        let micros = seconds * 1e6 / signatures as f64;
        format!("{:>7.0}/s ({micros:.2} µs)", 1e6 / micros)
    })
}
