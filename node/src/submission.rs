//! A client's submission on its way: every position gets its verdict at the door, at verification or from the core.

use tokio::sync::oneshot;
use zeni_consensus::{Refusal, Verdict};

use crate::admission::Admitted;

/// A submission that is taken in and not answered yet.
#[derive(Debug)]
pub struct PendingSubmission {
    /// By position; `None` where the verdict is still to come.
    verdicts: Vec<Option<Verdict>>,
    answer: oneshot::Sender<Vec<Verdict>>,
    /// Makes room for others when the answer is given.
    admitted: Admitted,
}

impl PendingSubmission {
    /// A submission of so many payments, none of them judged. The answer comes through the receiver.
    pub fn new(payments: usize, admitted: Admitted) -> (Self, oneshot::Receiver<Vec<Verdict>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { verdicts: vec![None; payments], answer, admitted }, receiver)
    }

    /// Refuses the payment at `position`.
    pub fn refuse(&mut self, position: usize, refusal: Refusal) {
        self.verdicts[position] = Some(Verdict::Refused(refusal));
        metrics::counter!("zeni_payments_refused_total", "reason" => refusal.code()).increment(1);
    }

    /// Whether every payment has its verdict.
    pub fn is_judged(&self) -> bool {
        self.verdicts.iter().all(Option::is_some)
    }

    /// Fills the open positions with `rest`, in order, and answers.
    ///
    /// # Panics
    /// If `rest` has not one verdict for each open position: the core answers each payment that it was given.
    pub fn answer(self, rest: Vec<Verdict>) {
        let mut rest = rest.into_iter();
        let verdicts: Vec<Verdict> = (self.verdicts.into_iter())
            .map(|verdict| {
                verdict.unwrap_or_else(|| rest.next().expect("a verdict for each payment given to the core"))
            })
            .collect();
        assert!(rest.next().is_none(), "the core gave more verdicts than it was given payments");
        // A client that is gone does not hear its answer; it will ask for the status of its payments.
        let _ = self.answer.send(verdicts);
        drop(self.admitted);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::admission::Admission;
    use crate::config::Limits;
    use crate::core_queue::Backlog;
    use std::sync::Arc;

    pub(crate) fn pending(payments: usize) -> (PendingSubmission, oneshot::Receiver<Vec<Verdict>>) {
        let admission = Arc::new(Admission::new(Limits::default()));
        let idle = Backlog { payments: 0, most: u64::MAX };
        PendingSubmission::new(payments, admission.admit(&Arc::default(), payments, idle).unwrap())
    }

    #[test]
    fn verdicts_stand_in_the_order_of_the_payments() {
        let (mut submission, mut answer) = pending(4);
        submission.refuse(1, Refusal::ZeroAmount);
        submission.refuse(3, Refusal::BadSignature);
        assert!(!submission.is_judged());
        submission.answer(vec![Verdict::Accepted { copies: 1 }, Verdict::Known { copies: 2 }]);
        let expected = [
            Verdict::Accepted { copies: 1 },
            Verdict::Refused(Refusal::ZeroAmount),
            Verdict::Known { copies: 2 },
            Verdict::Refused(Refusal::BadSignature),
        ];
        assert_eq!(answer.try_recv().unwrap(), expected);
    }

    #[test]
    fn a_submission_refused_altogether_needs_nobody_else() {
        let (mut submission, mut answer) = pending(1);
        submission.refuse(0, Refusal::ToSelf);
        assert!(submission.is_judged());
        submission.answer(Vec::new());
        assert_eq!(answer.try_recv().unwrap(), [Verdict::Refused(Refusal::ToSelf)]);
    }
}
