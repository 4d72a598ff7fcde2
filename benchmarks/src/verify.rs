//! Signature verification alone: the limit of everything else.

use std::time::{Duration, Instant};

use ed25519_dalek::Verifier;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;
use serde_json::json;
use zeni_ledger::signature::{Claim, verify, verify_payments};
use zeni_ledger::{GenesisId, Payment};

use crate::context::Context;
use crate::error::BenchError;
use crate::payments;
use crate::report::{Findings, Limit, Unit, Yardstick};

/// Signatures in a batch of the limit, as loadgen's reports have it.
pub(crate) const LIMIT_BATCH: usize = 512;
/// Payments that are checked over and over, each by a key of its own.
const SAMPLE: usize = 8 * 1_024;
const GENESIS: GenesisId = GenesisId([3; 32]);

/// Signed payments to measure the limit with, made once for a run.
#[derive(Debug)]
pub(crate) struct Sample(Vec<Payment>);

impl Sample {
    pub(crate) fn make() -> Self {
        Self(payments::signed(SAMPLE, &GENESIS))
    }

    /// What this machine can check now, measured for about `duration` on one core and as long on all.
    pub(crate) fn limit(&self, duration: Duration) -> Limit {
        let cores = rayon::current_num_threads();
        // A core that rested begins slowly.
        self.rate(LIMIT_BATCH, cores, duration / 2);
        let one_core_per_s = self.rate(LIMIT_BATCH, 1, duration);
        let all_cores_per_s = self.rate(LIMIT_BATCH, cores, duration);
        Limit { batch: LIMIT_BATCH, cores, one_core_per_s, all_cores_per_s }
    }

    /// Signatures a second in batches of this size on this many cores; keys are decompressed each time.
    fn rate(&self, batch: usize, cores: usize, duration: Duration) -> f64 {
        let started = Instant::now();
        let checked = |core: usize| {
            let (mut checked, mut rng) = (0, ChaCha20Rng::seed_from_u64(core as u64));
            for some in self.0.chunks_exact(batch).cycle().skip(core) {
                if started.elapsed() >= duration {
                    break;
                }
                assert!(verify_payments(some, &GENESIS, rng.random()).is_empty(), "the payments are signed");
                checked += some.len();
            }
            checked
        };
        let checked: usize = match cores {
            1 => checked(0),
            _ => (0..cores).into_par_iter().map(checked).sum(),
        };
        checked as f64 / started.elapsed().as_secs_f64()
    }
}

/// Batches of 512 and 1,024 on one core and on all; and beside them other verifiers, single checks and a bad batch.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let duration = context.choose(Duration::from_millis(50), Duration::from_secs(1));
    let sample = Sample::make();
    let cores = context.limit.cores;
    let mut findings = Findings::of(json!({ "seconds_each": duration.as_secs_f64(), "keys": SAMPLE, "cores": cores }));
    let mut spoiled = sample.0[..1_024].to_vec();
    spoiled[700] = spoiled[700].body().with_signature(spoiled[701].signature());
    for _ in context.rounds("verify") {
        for batch in [512, 1_024] {
            findings.add(one_core(batch), Unit::SignaturesPerS, sample.rate(batch, 1, duration));
            findings.add(
                format!("batches of {batch}, {cores} cores"),
                Unit::SignaturesPerS,
                sample.rate(batch, cores, duration),
            );
        }
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let batch = &sample.0[..512];
        let rate = repeated(duration, 512, || zebra_batch(batch, &mut rng));
        findings.add("ed25519-zebra, batches of 512, one core", Unit::SignaturesPerS, rate);
        let singles = &sample.0[..16];
        let rate = repeated(duration, 16, || singles.iter().for_each(single));
        findings.add("one by one, one core", Unit::SignaturesPerS, rate);
        let rate = repeated(duration, 16, || singles.iter().for_each(dalek_single));
        findings.add("ed25519-dalek one by one (cofactorless, another rule)", Unit::SignaturesPerS, rate);
        let bisect = || assert_eq!(verify_payments(&spoiled, &GENESIS, [5; 32]), vec![700]);
        findings.add("one bad among 1,024, one core", Unit::SignaturesPerS, repeated(duration, 1_024, bisect));
    }
    findings.compare("batches of 512 over ed25519-zebra", &one_core(512), "ed25519-zebra, batches of 512, one core");
    findings.compare("one bad among 1,024 over none bad", "one bad among 1,024, one core", &one_core(1_024));
    for batch in [512, 1_024] {
        findings.against(&one_core(batch), &context.limit, Yardstick::OneCore);
        findings.against(&format!("batches of {batch}, {cores} cores"), &context.limit, Yardstick::AllCores);
    }
    Ok(findings)
}

fn one_core(batch: usize) -> String {
    format!("batches of {batch}, one core")
}

/// How many a second, if each call does `count`.
fn repeated(duration: Duration, count: usize, mut act: impl FnMut()) -> f64 {
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < duration {
        act();
        done += count;
    }
    done as f64 / started.elapsed().as_secs_f64()
}

fn zebra_batch(batch: &[Payment], rng: &mut ChaCha20Rng) {
    let mut verifier = ed25519_zebra::batch::Verifier::new();
    for payment in batch {
        let key = ed25519_zebra::VerificationKeyBytes::from(payment.signer().0);
        let signature = ed25519_zebra::Signature::from_bytes(&payment.signature().0);
        verifier.queue((key, signature, &payment.signed_bytes(&GENESIS)));
    }
    assert!(verifier.verify(rng).is_ok(), "the payments are signed");
}

fn single(payment: &Payment) {
    let message = payment.signed_bytes(&GENESIS);
    let claim = Claim { key: payment.signer(), message: &message, signature: payment.signature() };
    assert!(verify(&claim), "the payments are signed");
}

fn dalek_single(payment: &Payment) {
    let key = ed25519_dalek::VerifyingKey::from_bytes(&payment.signer().0).expect("a key that signed");
    let signature = ed25519_dalek::Signature::from_bytes(&payment.signature().0);
    assert!(key.verify(&payment.signed_bytes(&GENESIS), &signature).is_ok(), "the payments are signed");
}
