//! An overload and how the ledger bore it.

use serde::{Deserialize, Serialize};

use super::{per_s, told};
use crate::overload::Offers;

/// What was offered in an overload, and what came of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OverloadReport {
    /// Payments a second that the phase before it had accepted.
    pub accepted_before_tps: f64,
    /// Payments a second that the whole slots of the phase before it list, from one interval after its beginning on. All of
    /// them are final in the end.
    pub calibrated_tps: Option<f64>,
    /// The same of the overload.
    pub goodput_tps: Option<f64>,
    pub goodput_ratio: Option<f64>,
    /// Payments a second that were really offered, or withheld, whatever rate was wanted.
    #[serde(default)]
    pub offered_tps: Option<f64>,
    pub offers: Offers,
}

/// The share of an overload's payments that must have been offered at their times.
const OFFERED_SHARE_MIN: f64 = 0.95;
/// The share of an overload's rate at which payments must really have been offered, those that were withheld included: a
/// load generator without time to offer them would call half of the rate an overload.
const RATE_SHARE_MIN: f64 = 0.95;

impl OverloadReport {
    /// The share of payments that were offered of those that were to be.
    fn offered_share(&self) -> f64 {
        let Offers { offered, withheld, .. } = self.offers;
        offered as f64 / (offered + withheld).max(1) as f64
    }

    /// What does not hold, in words.
    pub(super) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.offers.ran_out {
            broken.push("the overload ran out of payments".into());
        }
        let share = self.offered_share();
        if share < OFFERED_SHARE_MIN {
            broken.push(format!("{share:.3} of the overload were offered, at least {OFFERED_SHARE_MIN} are wanted"));
        }
        let wanted = self.offers.rate_per_s;
        if self.offers.per_s().is_none_or(|found| found < RATE_SHARE_MIN * f64::from(wanted)) {
            broken.push(format!(
                "the overload was offered at {}, at least {RATE_SHARE_MIN} of {wanted}/s are wanted",
                per_s(self.offers.per_s())
            ));
        }
        let hasty = self.offers.refused_without_time;
        if hasty > 0 {
            broken.push(format!("{hasty} payments were refused without a time to come back"));
        }
        broken
    }

    /// For the terminal.
    pub(super) fn in_words(&self) -> String {
        let Offers { rate_per_s, offered, accepted, unanswered, withheld, refused, .. } = &self.offers;
        let refused: Vec<String> = refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        format!(
            "  overload at {rate_per_s}/s, really at {}: offered {offered}, accepted {accepted}, refused {}, unanswered \
             {unanswered}, withheld {withheld}\n  goodput {}, before it {}, ratio {}",
            per_s(self.offered_tps),
            refused.join(", "),
            per_s(self.goodput_tps),
            per_s(self.calibrated_tps),
            told(self.goodput_ratio)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use crate::report_sample::sample;
    use crate::scenario::Overload;

    /// A report of a storm that had ninety of a hundred thousand payments refused in its overload.
    fn overloaded(change: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = sample();
        report.settings.overload = Some(Overload { times: 3.0, duration_s: 60, in_flight: 64 });
        report.settings.thresholds.goodput_ratio_min = Some(0.9);
        (report.accepted, report.included) = (report.offered - 90, report.offered - 88);
        report.overload = Some(OverloadReport {
            goodput_ratio: Some(0.95),
            offers: Offers { ended_us: 1_000_000, rate_per_s: 100, offered: 100, accepted: 10, ..Offers::default() },
            ..OverloadReport::default()
        });
        change(&mut report);
        report.judge();
        report.failures
    }

    #[test]
    fn in_an_overload_payments_may_be_refused_and_nothing_else_is_forgiven() {
        let offers =
            |report: &mut Report, change: fn(&mut Offers)| change(&mut report.overload.as_mut().unwrap().offers);
        assert_eq!(overloaded(|_| {}), Vec::<String>::new());
        assert_eq!(overloaded(|report| report.lost = 1), ["1 acknowledged payments are lost: in no final block"]);
        assert_eq!(overloaded(|report| report.included = report.accepted - 1).len(), 1);
        let without = overloaded(|report| report.overload = None);
        assert_eq!(without, ["there is no record of the overload", "goodput_ratio is unknown, at least 0.9 is wanted"]);
        assert_eq!(overloaded(|report| offers(report, |offers| offers.withheld = 6)).len(), 1);
        assert_eq!(overloaded(|report| offers(report, |offers| offers.withheld = 5)), Vec::<String>::new());
        assert_eq!(overloaded(|report| offers(report, |offers| offers.ran_out = true)).len(), 1);
        assert_eq!(overloaded(|report| offers(report, |offers| offers.refused_without_time = 1)).len(), 1);
        let slow = |ended_us| overloaded(|report| report.overload.as_mut().unwrap().offers.ended_us = ended_us);
        assert_eq!(slow(1_050_000), Vec::<String>::new());
        assert_eq!(slow(2_000_000), ["the overload was offered at 50/s, at least 0.95 of 100/s are wanted"]);
        assert_eq!(slow(0), ["the overload was offered at -, at least 0.95 of 100/s are wanted"]);
        let low = overloaded(|report| report.overload.as_mut().unwrap().goodput_ratio = Some(0.89));
        assert_eq!(low, ["goodput_ratio is 0.890, at least 0.9 is wanted"]);
    }
}
