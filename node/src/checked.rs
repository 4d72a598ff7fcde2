//! Verification's results on their way to the core.

use metrics::counter;
use zeni_consensus::{Input, Message};

use crate::core_queue::{CoreSender, Task};
use crate::verify::work::{BatchVerdict, Checked};

/// Hands one result on: good payments and batches to the core, evidence too; the rest is counted.
pub fn deliver(checked: Checked, core: &CoreSender) {
    match checked {
        Checked::Submission { pending, good, bad } => {
            count_signatures(good.len(), bad);
            if bad > 0 {
                counter!("zeni_misbehaviour_total", "kind" => "bad_signature").increment(1);
            }
            if good.is_empty() {
                pending.answer(Vec::new());
            } else {
                core.submission(Task::Submission { pending, payments: good });
            }
        }
        Checked::Batch { from, verdict, payments, passage } => match verdict {
            BatchVerdict::Verified(batch) => {
                count_signatures(payments, 0);
                let message = Message::Batch(batch);
                core.batch(Task::Step(Input::Message { from, message }), Some(passage));
            }
            BatchVerdict::BadPayment { batch, digest, first, bad } => {
                count_signatures(payments - bad, bad);
                let input = Input::BadBatch { author: batch.author, digest, batch, unsigned: first };
                core.control(Task::Step(input), Some(passage));
            }
            BatchVerdict::BadAuthor => {
                counter!("zeni_misbehaviour_total", "kind" => "bad_author").increment(1);
                tracing::warn!(?from, "a batch that its author did not sign");
            }
        },
    }
}

fn count_signatures(good: usize, bad: usize) {
    counter!("zeni_verify_signatures_total", "result" => "good").increment(good as u64);
    counter!("zeni_verify_signatures_total", "result" => "bad").increment(bad as u64);
}
