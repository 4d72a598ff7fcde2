//! Sends a storm: takes chunks from the pacer when they are due and delivers each until every payment is settled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zeni_ledger::Payment;
use zeni_ledger::payment::PAYMENT_BYTES;

use crate::book::{Book, Tick};
use crate::delivery::{Answer, Delivery, Failure, Next, Settled};
use crate::http::Http;
use crate::latency::Latencies;
use crate::link::Link;
use crate::overload::Offers;
use crate::router::Router;
use crate::schedule::{Chunk, Pace, Pacer};
use crate::storm_clock::StormClock;

/// Submissions that wait for an answer at a given rate, at most. Beyond it the storm falls behind its schedule, which
/// counts as latency.
pub const IN_FLIGHT_MAX: usize = 4_096;

/// Between two looks at whether windows have moved.
const WINDOW_LOOK: Duration = Duration::from_millis(5);

/// A way into the ledger.
#[derive(Debug, Clone)]
pub enum Gate {
    Node(Arc<Link>),
    /// The API server.
    Api(Arc<ApiGate>),
}

/// The API server's HTTP address and the client that speaks to it.
#[derive(Debug)]
pub struct ApiGate {
    pub http: Http,
    pub address: String,
}

impl Gate {
    pub fn is_up(&self) -> bool {
        match self {
            Self::Node(link) => link.is_up(),
            Self::Api(_) => true,
        }
    }

    /// Submits payments and gives the answer to each.
    pub async fn submit(&self, payments: Vec<Payment>, deadline: Duration) -> Result<Vec<Answer>, Failure> {
        match self {
            Self::Node(link) => link.submit(payments, deadline).await,
            Self::Api(api) => {
                let body = Bytes::copy_from_slice(Payment::slice_as_bytes(&payments));
                drop(payments);
                api.http.submit(&api.address, body, deadline).await
            }
        }
    }
}

/// The prepared payments, read where they are needed.
#[derive(Debug)]
pub struct PaymentsFile {
    file: File,
}

impl PaymentsFile {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// Payments `first` to `first + count`.
    pub fn read(&self, first: u64, count: usize) -> io::Result<Vec<Payment>> {
        let mut bytes = vec![0; count * PAYMENT_BYTES];
        self.file.read_exact_at(&mut bytes, first * PAYMENT_BYTES as u64)?;
        Ok(Payment::slice_from_bytes(&bytes).expect("a multiple of the payment's length").to_vec())
    }
}

/// What a storm leaves behind besides its book.
#[derive(Debug)]
pub struct Outcome {
    pub accepted: Latencies,
    /// Payments refused for good, by code.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Submissions that went out again, by what had happened.
    pub resends: BTreeMap<&'static str, u64>,
    /// When the last payment left for the first time, in microseconds from the start.
    pub last_sent_us: u64,
    /// When the last payment was accepted, from the same moment.
    pub last_accepted_us: u64,
    /// The last phase, once it was sent.
    pub last_phase: Stretch,
    /// Of an overload, once it is over.
    pub offers: Option<Offers>,
}

impl Outcome {
    /// Notes that a payment is accepted for the first time.
    pub fn accept(&mut self, intended_us: u64, now_us: u64) {
        self.accepted.record(intended_us, now_us);
        self.last_accepted_us = self.last_accepted_us.max(now_us);
    }
}

/// A stretch of the storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stretch {
    /// Microseconds from the start of the storm.
    pub began_us: u64,
    pub ended_us: u64,
    /// Payments that were accepted in it.
    pub accepted: u64,
}

impl Stretch {
    /// Payments accepted a second; 0 if it had no length.
    pub fn accepted_per_s(&self) -> f64 {
        let span_us = self.ended_us.saturating_sub(self.began_us);
        if span_us == 0 { 0.0 } else { self.accepted as f64 * 1e6 / span_us as f64 }
    }
}

/// Why a storm could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error("reading prepared payments: {0}")]
    Read(#[from] io::Error),
    #[error("the storm cannot go on: {0}")]
    Abort(String),
}

/// Everything that deliveries share.
#[derive(Debug)]
pub struct Dispatch {
    pub book: Arc<Book>,
    pub file: PaymentsFile,
    pub gates: Vec<Gate>,
    pub router: Router,
    pub clock: StormClock,
    pub submit_timeout: Duration,
    outcome: Mutex<Outcome>,
}

impl Dispatch {
    pub fn new(
        book: Arc<Book>,
        file: PaymentsFile,
        gates: Vec<Gate>,
        router: Router,
        clock: StormClock,
        submit_timeout: Duration,
        expected_us: u64,
    ) -> Arc<Self> {
        let outcome = Outcome {
            accepted: Latencies::new(expected_us),
            refusals: BTreeMap::new(),
            resends: BTreeMap::new(),
            last_sent_us: 0,
            last_accepted_us: 0,
            last_phase: Stretch::default(),
            offers: None,
        };
        let outcome = Mutex::new(outcome);
        Arc::new(Self { book, file, gates, router, clock, submit_timeout, outcome })
    }

    /// Sends all phases and waits until every payment is settled. Dropping the future stops everything.
    pub async fn run(self: Arc<Self>, mut pacer: Pacer) -> Result<(), DispatchError> {
        tokio::time::sleep_until(self.clock.instant(0).into()).await;
        let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut deliveries = JoinSet::new();
        let (mut number, mut all_final_below) = (0, 0);
        // When the running phase began, and how many payments were accepted before it.
        let (mut began_us, mut before) = (0, 0);
        while let Some(chunk) = pacer.next_chunk(self.clock.now_us()) {
            if pacer.phase_started_us() != began_us {
                (began_us, before) = (pacer.phase_started_us(), self.book.counts().1);
            }
            // At full speed each submission takes as much room as leaves place for `in_flight` of them.
            let weight = match chunk.pace {
                Pace::Open { .. } => 1,
                Pace::Closed { in_flight } => (IN_FLIGHT_MAX / in_flight.max(1)).max(1),
            };
            if let Some(due_us) = chunk.due_us() {
                tokio::time::sleep_until(self.clock.instant(due_us).into()).await;
            }
            self.wait_for_windows(&chunk, pacer.span(), &mut all_final_below).await;
            let permit = Arc::clone(&room).acquire_many_owned(weight as u32).await;
            let permit = permit.expect("the semaphore is never closed");
            let dispatch = Arc::clone(&self);
            deliveries.spawn(async move {
                let delivered = dispatch.deliver(number, chunk).await;
                drop(permit);
                delivered
            });
            number += 1;
            while let Some(ended) = deliveries.try_join_next() {
                settled_or_panicked(ended)?;
            }
        }
        let accepted = self.book.counts().1 - before;
        let last_phase = Stretch { began_us, ended_us: self.clock.now_us(), accepted };
        self.with_outcome(|outcome| outcome.last_phase = last_phase);
        while let Some(ended) = deliveries.join_next().await {
            settled_or_panicked(ended)?;
        }
        Ok(())
    }

    /// Waits until the windows of a chunk's payers take it: everything is final that lies `span` payments before, or further.
    /// `all_final_below` counts payments from the first that are final.
    async fn wait_for_windows(&self, chunk: &Chunk, span: Option<u64>, all_final_below: &mut u64) {
        let end = chunk.first + u64::from(chunk.count);
        let needed = span.map_or(0, |span| end.saturating_sub(span));
        loop {
            while *all_final_below < needed && self.book.finalised(*all_final_below).is_some() {
                *all_final_below += 1;
            }
            if *all_final_below >= needed {
                return;
            }
            tokio::time::sleep(WINDOW_LOOK).await;
        }
    }

    /// What the storm left behind. Meaningful once it has ended.
    pub fn with_outcome<T>(&self, read: impl FnOnce(&mut Outcome) -> T) -> T {
        read(&mut self.outcome.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn deliver(&self, number: u64, chunk: Chunk) -> Result<(), DispatchError> {
        let leaves_us = self.clock.now_us();
        for index in chunk.first..chunk.first + u64::from(chunk.count) {
            self.book.send(index, Tick::from_us(chunk.intended_us(index, leaves_us)));
        }
        self.with_outcome(|outcome| outcome.last_sent_us = outcome.last_sent_us.max(leaves_us));
        let mut delivery = Delivery::new(chunk.count);
        let mut avoid = None;
        loop {
            let gate = self.router.choose(number, avoid, |gate| self.gates[gate].is_up(), self.clock.now_us());
            let left = self.read_left(&chunk, &delivery)?;
            let next = match self.gates[gate].submit(left, self.submit_timeout).await {
                Ok(answers) => {
                    self.router.trust(gate);
                    self.settle(&chunk, leaves_us, &mut delivery, &answers)
                }
                Err(failure) => {
                    if failure == Failure::Timeout {
                        self.router.suspect(gate, self.clock.now_us());
                    }
                    self.count_resend(&failure);
                    delivery.failed(failure)
                }
            };
            match next {
                Next::Done => return Ok(()),
                Next::Abort(what) => return Err(DispatchError::Abort(what)),
                Next::Again { after_ms, elsewhere } => {
                    avoid = elsewhere.then_some(gate);
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                }
            }
        }
    }

    /// Reads what is left of a chunk: for every attempt anew, so that nothing of it is held while it waits for its answer.
    fn read_left(&self, chunk: &Chunk, delivery: &Delivery) -> io::Result<Vec<Payment>> {
        let all = self.file.read(chunk.first, chunk.count as usize)?;
        let left = delivery.left();
        if left.len() == all.len() { Ok(all) } else { Ok(left.iter().map(|place| all[*place as usize]).collect()) }
    }

    fn settle(&self, chunk: &Chunk, leaves_us: u64, delivery: &mut Delivery, answers: &[Answer]) -> Next {
        let now_us = self.clock.now_us();
        self.with_outcome(|outcome| {
            delivery.answered(answers, |place, settled| {
                let index = chunk.first + u64::from(place);
                match settled {
                    Settled::Accepted => {
                        if self.book.accept(index) {
                            outcome.accept(chunk.intended_us(index, leaves_us), now_us);
                        }
                    }
                    Settled::Refused { code } => {
                        self.book.refuse(index);
                        *outcome.refusals.entry(code).or_default() += 1;
                    }
                }
            })
        })
    }

    fn count_resend(&self, failure: &Failure) {
        let what = match failure {
            Failure::Timeout => "timeout",
            Failure::Disconnected(_) => "disconnected",
            Failure::Overloaded { .. } => "overloaded",
            Failure::Stopping => "stopping",
            Failure::Fatal(_) => return,
        };
        self.with_outcome(|outcome| *outcome.resends.entry(what).or_default() += 1);
    }
}

/// What came of a task that sends.
pub fn settled_or_panicked(
    ended: Result<Result<(), DispatchError>, tokio::task::JoinError>,
) -> Result<(), DispatchError> {
    match ended {
        Ok(delivered) => delivered,
        Err(error) => Err(DispatchError::Abort(format!("a delivery ended unexpectedly: {error}"))),
    }
}
