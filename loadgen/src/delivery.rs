//! What becomes of one submitted chunk: a state machine without I/O, fed with answers and failures.
//!
//! The same signed bytes may go to several nodes; the ledger executes them at most once. So a submission whose fate is
//! unknown is simply sent again, to another node. Once that has happened, "sequence used" means that the payment is in.

/// The shortest wait before the same bytes go out again, in milliseconds.
pub const RETRY_MIN_MS: u64 = 20;
/// The longest such wait, whatever a node asks for, in milliseconds.
pub const RETRY_MAX_MS: u64 = 5_000;

/// What a node says of one payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// On disk at one node at least, now or from before.
    Accepted,
    /// Its sequence is used by an executed payment.
    SequenceUsed,
    /// Not now, and why.
    Later { after_ms: u64, code: &'static str },
    /// Never.
    Refused { code: &'static str },
}

/// Why a submission got no answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer in time; the payments may have been taken.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke or there is none; the payments may have been taken.
    #[error("the connection is gone: {0}")]
    Disconnected(String),
    /// The node took nothing, and says when to try again.
    #[error("the node is at its limit")]
    Overloaded { after_ms: u64 },
    /// The node took nothing and is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The node will never serve this: the storm itself is wrong.
    #[error("the node refuses the request: {0}")]
    Fatal(String),
}

/// How a payment's submission ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Acknowledged: it must be in the chain in the end.
    Accepted,
    /// Not taken.
    Refused { code: &'static str },
}

/// What to do next with a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Done,
    /// Send what is left again after a while: to another node, or to the same one.
    Again {
        after_ms: u64,
        elsewhere: bool,
    },
    /// The run cannot go on.
    Abort(String),
}

/// The payments of one chunk that are not settled yet.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Places in the chunk.
    left: Vec<u32>,
    /// An earlier attempt may have been taken without our hearing of it.
    uncertain: bool,
    failures: u32,
}

impl Delivery {
    /// A delivery of `count` payments.
    pub fn new(count: u32) -> Self {
        Self { left: (0..count).collect(), uncertain: false, failures: 0 }
    }

    /// Places in the chunk that are to be sent, in order.
    pub fn left(&self) -> &[u32] {
        &self.left
    }

    /// Takes the answers to what was left, in order, and tells which payments are settled by them.
    pub fn answered(&mut self, answers: &[Answer], mut settled: impl FnMut(u32, Settled)) -> Next {
        if answers.len() != self.left.len() {
            return Next::Abort(format!("{} answers to {} payments", answers.len(), self.left.len()));
        }
        self.failures = 0;
        let mut after_ms = 0;
        let mut still_left = Vec::new();
        for (place, answer) in self.left.iter().zip(answers) {
            match *answer {
                Answer::Accepted => settled(*place, Settled::Accepted),
                Answer::SequenceUsed if self.uncertain => settled(*place, Settled::Accepted),
                Answer::SequenceUsed => settled(*place, Settled::Refused { code: "sequence_used" }),
                Answer::Refused { code } => settled(*place, Settled::Refused { code }),
                Answer::Later { after_ms: asked, .. } => {
                    after_ms = after_ms.max(asked);
                    still_left.push(*place);
                }
            }
        }
        self.left = still_left;
        match self.left.is_empty() {
            true => Next::Done,
            false => Next::Again { after_ms: after_ms.clamp(RETRY_MIN_MS, RETRY_MAX_MS), elsewhere: false },
        }
    }

    /// Takes a failure of the whole submission.
    pub fn failed(&mut self, failure: Failure) -> Next {
        match failure {
            Failure::Fatal(what) => Next::Abort(what),
            Failure::Overloaded { after_ms } => {
                Next::Again { after_ms: after_ms.clamp(RETRY_MIN_MS, RETRY_MAX_MS), elsewhere: false }
            }
            Failure::Stopping => self.elsewhere(),
            Failure::Timeout | Failure::Disconnected(_) => {
                self.uncertain = true;
                self.elsewhere()
            }
        }
    }

    /// At once the first time; then ever slower, for there may be nobody to send it to.
    fn elsewhere(&mut self) -> Next {
        let doubled = RETRY_MIN_MS << self.failures.min(8);
        let after_ms = if self.failures == 0 { 0 } else { doubled.min(RETRY_MAX_MS / 10) };
        self.failures += 1;
        Next::Again { after_ms, elsewhere: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(delivery: &mut Delivery, answers: &[Answer]) -> (Next, Vec<(u32, Settled)>) {
        let mut settled = Vec::new();
        let next = delivery.answered(answers, |place, outcome| settled.push((place, outcome)));
        (next, settled)
    }

    #[test]
    fn accepted_payments_end_a_chunk() {
        let mut delivery = Delivery::new(2);
        let (next, settled) = answered(&mut delivery, &[Answer::Accepted, Answer::Accepted]);
        assert_eq!((next, settled.len()), (Next::Done, 2));
    }

    #[test]
    fn only_what_was_put_off_is_sent_again() {
        let mut delivery = Delivery::new(3);
        let answers =
            [Answer::Accepted, Answer::Later { after_ms: 70, code: "overloaded" }, Answer::Refused { code: "expired" }];
        let (next, settled) = answered(&mut delivery, &answers);
        assert_eq!(next, Next::Again { after_ms: 70, elsewhere: false });
        assert_eq!(settled, [(0, Settled::Accepted), (2, Settled::Refused { code: "expired" })]);
        assert_eq!(delivery.left(), [1]);
        assert_eq!(answered(&mut delivery, &[Answer::Accepted]), (Next::Done, vec![(1, Settled::Accepted)]));
    }

    #[test]
    fn a_used_sequence_is_good_news_only_after_an_attempt_of_unknown_fate() {
        let mut first = Delivery::new(1);
        let (_, settled) = answered(&mut first, &[Answer::SequenceUsed]);
        assert_eq!(settled, [(0, Settled::Refused { code: "sequence_used" })]);
        for failure in [Failure::Timeout, Failure::Disconnected("reset".into())] {
            let mut again = Delivery::new(1);
            assert_eq!(again.failed(failure), Next::Again { after_ms: 0, elsewhere: true });
            let (_, settled) = answered(&mut again, &[Answer::SequenceUsed]);
            assert_eq!(settled, [(0, Settled::Accepted)]);
        }
        let mut stopped = Delivery::new(1);
        stopped.failed(Failure::Stopping);
        stopped.failed(Failure::Overloaded { after_ms: 5 });
        let (_, settled) = answered(&mut stopped, &[Answer::SequenceUsed]);
        assert_eq!(settled, [(0, Settled::Refused { code: "sequence_used" })]);
    }

    #[test]
    fn an_overloaded_node_is_asked_again_when_it_says_within_bounds() {
        let wait = |after_ms| match Delivery::new(1).failed(Failure::Overloaded { after_ms }) {
            Next::Again { after_ms, elsewhere: false } => after_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!((wait(0), wait(300), wait(u64::MAX)), (RETRY_MIN_MS, 300, RETRY_MAX_MS));
    }

    #[test]
    fn with_nobody_there_it_asks_ever_slower_and_never_gives_up() {
        let mut delivery = Delivery::new(1);
        let mut before = 0;
        for _ in 0..100 {
            let Next::Again { after_ms, elsewhere: true } = delivery.failed(Failure::Timeout) else { panic!() };
            assert!(after_ms >= before && after_ms <= RETRY_MAX_MS / 10);
            before = after_ms;
        }
        assert_eq!(delivery.left(), [0]);
    }

    #[test]
    fn a_wrong_number_of_answers_aborts() {
        assert!(matches!(answered(&mut Delivery::new(2), &[Answer::Accepted]).0, Next::Abort(_)));
        assert!(matches!(Delivery::new(1).failed(Failure::Fatal("forbidden".into())), Next::Abort(_)));
    }
}
