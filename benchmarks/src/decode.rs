//! From bytes to types: what a node does with a frame before it looks at a signature.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;
use zeni_consensus::Message;
use zeni_ledger::{Batch, GenesisId, ValidatorIndex, VerifiedBatch};
use zeni_schemas::{message, request};

use crate::context::Context;
use crate::error::BenchError;
use crate::payments::{self, BATCH};
use crate::report::{Findings, Unit, Yardstick};

const GENESIS: GenesisId = GenesisId([3; 32]);

/// Frames with 1,024 payments each: a client's submission, a peer's batch; and the ids that both need.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let duration = context.choose(Duration::from_millis(50), Duration::from_millis(700));
    let payments = payments::signed(BATCH, &GENESIS);
    let batch = Batch::sign(ValidatorIndex(0), 1, payments.clone(), &payments::validator_key(), &GENESIS);
    let submit = request::encode_request(&request::Request::Submit(payments.clone()));
    let frame = message::encode(&Message::Batch(batch.clone()));
    let bytes = batch.to_bytes();
    let settings = json!({ "payments": BATCH, "submit_bytes": submit.len(), "batch_frame_bytes": frame.len() });
    let mut findings = Findings::of(settings);
    let decoded = request::decode_request(&submit).is_ok_and(|found| found == request::Request::Submit(payments));
    let decoded = decoded && matches!(message::decode(&frame), Ok(Message::Batch(found)) if found == batch);
    if !decoded {
        return Err(BenchError::Wrong("what was encoded does not decode to the same".into()));
    }
    for _ in context.rounds("decode") {
        let micros = each(duration, || drop(black_box(request::decode_request(black_box(&submit)))));
        findings.add("submission from its frame", Unit::MicrosPerPayment, micros);
        let micros = each(duration, || drop(black_box(message::decode(black_box(&frame)))));
        findings.add("batch from its frame", Unit::MicrosPerPayment, micros);
        let micros = each(duration, || drop(black_box(Batch::from_bytes(black_box(&bytes)))));
        findings.add("batch from its canonical bytes, as in the log", Unit::MicrosPerPayment, micros);
        let message = Message::Batch(batch.clone());
        let micros = each(duration, || drop(black_box(message::encode(black_box(&message)))));
        findings.add("frame from a batch", Unit::MicrosPerPayment, micros);
        // The copy of the payments is part of it, as it is where a batch is read from the log.
        let micros = each(duration, || drop(black_box(VerifiedBatch::vouch(black_box(&batch).clone(), &GENESIS))));
        findings.add("digest and ids of a batch (vouch)", Unit::MicrosPerPayment, micros);
    }
    for name in names(&findings) {
        findings.against(&name, &context.limit, Yardstick::OneCore);
    }
    Ok(findings)
}

fn names(findings: &Findings) -> Vec<String> {
    findings.measurements.iter().map(|found| found.name.clone()).collect()
}

/// Microseconds a payment, if each call handles [`BATCH`].
fn each(duration: Duration, mut act: impl FnMut()) -> f64 {
    let (started, mut payments) = (Instant::now(), 0);
    while started.elapsed() < duration {
        act();
        payments += BATCH;
    }
    started.elapsed().as_secs_f64() * 1e6 / payments as f64
}
