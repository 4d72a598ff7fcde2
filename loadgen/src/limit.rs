//! How many signatures this machine can check: the bound that no ledger of signed payments passes.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zeni_ledger::signature::verify_payments;
use zeni_ledger::{GenesisId, Payment};

/// Signatures in one batch.
pub const BATCH: usize = 512;
/// Payments that are read for it, at most; they are checked over and over.
pub const SAMPLE_MAX: usize = 16 * BATCH;
/// How long it is measured.
pub const MEASURE: Duration = Duration::from_secs(2);

/// What the machine can do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub verify_per_s_per_core: f64,
    pub cores: usize,
}

impl Limit {
    /// Payments a second at which `nodes` nodes that each check everything use up the machine.
    pub fn payments_per_s(&self, nodes: usize) -> f64 {
        self.verify_per_s_per_core * self.cores as f64 / nodes.max(1) as f64
    }
}

/// Checks batches of [`BATCH`] payments on all cores for about `duration`, keys decompressed each time. `None` if a
/// signature does not verify: then the input is damaged.
pub fn measure(payments: &[Payment], genesis: &GenesisId, duration: Duration) -> Option<Limit> {
    let cores = rayon::current_num_threads();
    let started = Instant::now();
    let done: Option<Vec<usize>> = (0..cores)
        .into_par_iter()
        .map(|core| {
            let mut checked = 0;
            let mut seed = [core as u8; 32];
            for batch in payments.chunks(BATCH).cycle().skip(core) {
                if started.elapsed() >= duration {
                    break;
                }
                seed[31] = seed[31].wrapping_add(1);
                if !verify_payments(batch, genesis, seed).is_empty() {
                    return None;
                }
                checked += batch.len();
            }
            Some(checked)
        })
        .collect();
    let checked: usize = done?.iter().sum();
    let per_s = checked as f64 / started.elapsed().as_secs_f64();
    Some(Limit { verify_per_s_per_core: per_s / cores as f64, cores })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn good_signatures_are_counted_and_a_bad_one_is_not_passed_over() {
        let plan = Plan::of_2016(5, 600);
        let genesis = GenesisId([4; 32]);
        let receiver = plan.receiver();
        let payer = |index| plan.payer(index, receiver, |number| plan.account(number));
        let payment = |index| plan.payment(index, &payer(index), 9, &genesis);
        let mut payments: Vec<Payment> = (0..600).map(payment).collect();
        let limit = measure(&payments, &genesis, Duration::from_millis(30)).unwrap();
        assert!(limit.verify_per_s_per_core > 0.0 && limit.payments_per_s(3) < limit.payments_per_s(1));
        payments[70] = payments[71].body().with_signature(payments[70].signature());
        assert_eq!(measure(&payments, &genesis, Duration::from_millis(30)), None);
    }
}
