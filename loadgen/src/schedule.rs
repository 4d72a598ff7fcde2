//! When each payment is to be sent: the storm's phases cut into chunks that travel as one submission.
//!
//! At a given rate every payment has its own intended moment, whatever became of those before it (open loop): a slow
//! answer delays no later payment, and waiting is counted as latency instead of hiding it. A chunk leaves when its
//! last payment is due. At full speed a chunk is intended when there is room for it.

use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;

use crate::scenario::{Phase, Rate};

/// How much of a phase travels together at a given rate, in microseconds: the wait that chunking adds at most.
pub const CHUNK_SPAN_US: u64 = 15_000;

/// Payments that are submitted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Index of the first payment.
    pub first: u64,
    pub count: u32,
    pub pace: Pace,
}

/// How a chunk's moment is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Payment `origin` is intended at `started_us`, each further one 1/rate later.
    Open { started_us: u64, origin: u64, rate_per_s: u32 },
    /// As soon as fewer than `in_flight` submissions wait for an answer.
    Closed { in_flight: usize },
}

impl Chunk {
    /// When a payment of this chunk is intended to be sent, in microseconds from the start of the storm; at full speed
    /// that is when the chunk leaves.
    pub fn intended_us(&self, index: u64, leaves_us: u64) -> u64 {
        match self.pace {
            Pace::Open { started_us, origin, rate_per_s } => {
                started_us + spaced(index.saturating_sub(origin), rate_per_s)
            }
            Pace::Closed { .. } => leaves_us,
        }
    }

    /// When the chunk is to leave: with its last payment. `None` at full speed.
    pub fn due_us(&self) -> Option<u64> {
        match self.pace {
            Pace::Open { .. } => Some(self.intended_us(self.first + u64::from(self.count) - 1, 0)),
            Pace::Closed { .. } => None,
        }
    }
}

/// Microseconds that `count` payments take at a rate.
pub fn spaced(count: u64, rate_per_s: u32) -> u64 {
    let us = u128::from(count) * 1_000_000 / u128::from(rate_per_s);
    u64::try_from(us).expect("a phase ends within the lifetime of the machine")
}

/// How many payments the phases send of `total`; `None` if that depends on the speed.
pub fn planned(phases: &[Phase], total: u64) -> Option<u64> {
    let mut planned = 0u64;
    for phase in phases {
        planned += match (phase.payments, phase.duration_s, phase.rate_per_s) {
            (Some(payments), _, _) => payments,
            (None, Some(duration_s), Rate::PerSecond(rate)) => duration_s * u64::from(rate),
            (None, Some(_), Rate::Full(_)) => return None,
            (None, None, _) => total,
        };
    }
    Some(planned.min(total))
}

/// Cuts a storm's phases into chunks.
#[derive(Debug)]
pub struct Pacer {
    phases: Vec<Phase>,
    /// Payments of the whole plan.
    total: u64,
    /// A payment may leave once the one that lies so far before it is final, and all before that: then its payer's window
    /// takes it. `None` if windows take everything.
    span: Option<u64>,
    /// Index of the next payment.
    next: u64,
    phase: usize,
    phase_first: u64,
    phase_started_us: u64,
}

impl Pacer {
    /// A pacer of `total` payments. The first phase starts at 0 µs.
    pub fn new(phases: Vec<Phase>, total: u64) -> Self {
        Self { phases, total, span: None, next: 0, phase: 0, phase_first: 0, phase_started_us: 0 }
    }

    /// The same for payments that need the one `span` before them to be final. No chunk is longer than that.
    pub fn within(self, span: Option<u64>) -> Self {
        Self { span, ..self }
    }

    /// When the running phase started, in microseconds; once all are over, when the last one ended.
    pub fn phase_started_us(&self) -> u64 {
        self.phase_started_us
    }

    /// How far before a payment the one lies that must be final first.
    pub fn span(&self) -> Option<u64> {
        self.span
    }

    /// The next chunk, asked for at `now_us`; `None` once all phases are over.
    pub fn next_chunk(&mut self, now_us: u64) -> Option<Chunk> {
        loop {
            let phase = *self.phases.get(self.phase)?;
            let left = self.left_in_phase(&phase, now_us);
            if left == 0 {
                self.end_phase(&phase, now_us);
                continue;
            }
            let (most, pace) = match phase.rate_per_s {
                Rate::PerSecond(rate_per_s) => {
                    let together = u64::from(rate_per_s) * CHUNK_SPAN_US / 1_000_000;
                    let started_us = self.phase_started_us;
                    (together, Pace::Open { started_us, origin: self.phase_first, rate_per_s })
                }
                Rate::Full(_) => (u64::MAX, Pace::Closed { in_flight: phase.in_flight }),
            };
            let count = left.min(most.clamp(1, self.together_max()));
            let first = self.next;
            self.next += count;
            return Some(Chunk { first, count: count as u32, pace });
        }
    }

    /// Payments that may travel together, at most.
    fn together_max(&self) -> u64 {
        let most = SUBMISSION_PAYMENTS_MAX as u64;
        self.span.map_or(most, |span| most.min(span))
    }

    fn left_in_phase(&self, phase: &Phase, now_us: u64) -> u64 {
        let done = self.next - self.phase_first;
        let planned = match (phase.payments, phase.duration_s, phase.rate_per_s) {
            (Some(payments), _, _) => payments,
            (None, Some(duration_s), Rate::PerSecond(rate)) => duration_s * u64::from(rate),
            (None, Some(duration_s), Rate::Full(_)) => {
                let over = now_us >= self.phase_started_us + duration_s * 1_000_000;
                if over { done } else { u64::MAX }
            }
            (None, None, _) => u64::MAX,
        };
        (planned - done.min(planned)).min(self.total - self.next)
    }

    /// At a given rate the next phase starts when the next payment would have been due; at full speed it starts now.
    fn end_phase(&mut self, phase: &Phase, now_us: u64) {
        self.phase_started_us = match phase.rate_per_s {
            Rate::PerSecond(rate) => self.phase_started_us + spaced(self.next - self.phase_first, rate),
            Rate::Full(_) => now_us,
        };
        self.phase_first = self.next;
        self.phase += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Full;

    fn phase(payments: Option<u64>, duration_s: Option<u64>, rate_per_s: Rate) -> Phase {
        Phase { payments, duration_s, rate_per_s, in_flight: 4 }
    }

    fn all(pacer: &mut Pacer, now_us: u64) -> Vec<Chunk> {
        std::iter::from_fn(|| pacer.next_chunk(now_us)).collect()
    }

    #[test]
    fn a_rate_gives_every_payment_its_own_moment() {
        let mut pacer = Pacer::new(vec![phase(Some(10_000), None, Rate::PerSecond(12_000))], 10_000);
        let chunks = all(&mut pacer, 0);
        assert!(chunks.iter().all(|chunk| chunk.count <= 180), "15 ms at 12,000/s are 180 payments");
        let mut expected = 0;
        for chunk in &chunks {
            assert_eq!(chunk.first, expected);
            expected += u64::from(chunk.count);
            for index in chunk.first..expected {
                assert_eq!(chunk.intended_us(index, 99), index * 1_000_000 / 12_000);
            }
            assert_eq!(chunk.due_us(), Some((expected - 1) * 1_000_000 / 12_000));
        }
        assert_eq!(expected, 10_000);
    }

    #[test]
    fn slow_rates_send_single_payments_and_fast_ones_full_chunks() {
        let mut slow = Pacer::new(vec![phase(Some(3), None, Rate::PerSecond(10))], 3);
        assert_eq!(all(&mut slow, 0).iter().map(|chunk| chunk.count).collect::<Vec<_>>(), [1, 1, 1]);
        let mut fast = Pacer::new(vec![phase(Some(2_000), None, Rate::PerSecond(500_000))], 2_000);
        assert_eq!(all(&mut fast, 0).iter().map(|chunk| chunk.count).collect::<Vec<_>>(), [1_024, 976]);
    }

    #[test]
    fn phases_follow_each_other_without_a_gap() {
        let phases = vec![
            phase(None, Some(2), Rate::PerSecond(100)),
            phase(Some(50), None, Rate::PerSecond(10)),
            phase(None, None, Rate::PerSecond(1_000)),
        ];
        let mut pacer = Pacer::new(phases, 1_000);
        let chunks = all(&mut pacer, 0);
        let started = |index: u64| {
            let chunk = chunks.iter().find(|chunk| chunk.first == index).expect("a phase begins with a chunk");
            chunk.intended_us(index, 0)
        };
        assert_eq!((started(200), started(250)), (2_000_000, 7_000_000));
        assert_eq!(chunks.last().map(|chunk| chunk.first + u64::from(chunk.count)), Some(1_000));
    }

    #[test]
    fn full_speed_takes_the_moment_it_is_asked_at_and_ends_by_the_clock() {
        let full = Rate::Full(Full::Full);
        let phases = vec![phase(None, Some(1), full), phase(Some(10), None, Rate::PerSecond(10))];
        let mut pacer = Pacer::new(phases, 10_000);
        let first = pacer.next_chunk(5).unwrap();
        assert_eq!((first.count, first.due_us(), first.intended_us(3, 77)), (1_024, None, 77));
        assert_eq!(pacer.next_chunk(999_999).unwrap().first, 1_024);
        let after = pacer.next_chunk(1_200_000).unwrap();
        assert_eq!((after.first, after.intended_us(2_048, 0)), (2_048, 1_200_000));
    }

    #[test]
    fn what_is_planned_is_what_is_sent() {
        let by_time = phase(None, Some(2), Rate::PerSecond(100));
        let rest = phase(None, None, Rate::Full(Full::Full));
        for phases in [vec![by_time], vec![by_time, rest], vec![phase(Some(30), None, Rate::PerSecond(9)), by_time]] {
            let sent = all(&mut Pacer::new(phases.clone(), 1_000), 0).iter().map(|chunk| u64::from(chunk.count)).sum();
            assert_eq!(planned(&phases, 1_000), Some(sent));
        }
        assert_eq!(planned(&[phase(None, Some(2), Rate::Full(Full::Full))], 1_000), None);
    }

    #[test]
    fn a_chunk_holds_no_payment_that_waits_for_another_of_it() {
        let pacer = |span| Pacer::new(vec![phase(None, None, Rate::Full(Full::Full))], 300).within(span);
        let counts = |span| all(&mut pacer(span), 0).iter().map(|chunk| chunk.count).collect::<Vec<_>>();
        assert_eq!((counts(Some(128)), counts(Some(5_000)), counts(None)), (vec![128, 128, 44], vec![300], vec![300]));
    }

    #[test]
    fn never_sends_more_than_there_is() {
        let mut pacer = Pacer::new(vec![phase(None, None, Rate::Full(Full::Full))], 1_500);
        let counts: Vec<u32> = all(&mut pacer, 0).iter().map(|chunk| chunk.count).collect();
        assert_eq!(counts, [1_024, 476]);
    }
}
