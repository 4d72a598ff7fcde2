//! The verifier thread: collects work into jobs and runs a bounded number of them on the rayon pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError, Sender, bounded, select, unbounded};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use zeni_ledger::Genesis;

use crate::verify::job::Weigh;
use crate::verify::lines::Lines;
use crate::verify::work::{Checked, Verifier, Work};

/// How long a small job waits for company while a core is free.
const COMPANY_WAIT: Duration = Duration::from_millis(2);

/// Takes what verification found. Called on the pool's threads.
pub type Deliver = Arc<dyn Fn(Checked) + Send + Sync>;

/// Where work is handed in. What waits is bounded by the limits that let it in, see [`crate::core_queue`].
#[derive(Debug, Clone)]
pub struct VerifySender {
    works: Sender<Work>,
    /// Pieces of work that no job has taken.
    waiting: Arc<AtomicUsize>,
}

/// Why the pool cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("cannot start the verification threads: {0}")]
    Rayon(#[from] ThreadPoolBuildError),
    #[error("cannot start the verifier thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl VerifySender {
    /// Queues work. After the verifier ended it goes nowhere: the process is ending too.
    pub fn send(&self, work: Work) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.works.send(work);
    }

    /// Pieces of work that wait.
    pub fn depth(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Starts the verifier. It ends when every sender is dropped and every job is delivered.
///
/// `jobs_max` jobs run or wait for a core; 0 chooses one more than there are cores.
pub fn start(
    genesis: &Genesis,
    jobs_max: usize,
    deliver: Deliver,
) -> Result<(VerifySender, JoinHandle<()>), PoolError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs_max = if jobs_max == 0 { cores + 1 } else { jobs_max };
    let pool = ThreadPoolBuilder::new().num_threads(cores).thread_name(|place| format!("verify-{place}")).build()?;
    let (sender, works) = unbounded();
    let (free, slots) = bounded(jobs_max);
    for _ in 0..jobs_max {
        free.send(()).expect("the channel holds every slot");
    }
    let (verifier, waiting) = (Arc::new(Verifier::new(genesis)), Arc::new(AtomicUsize::new(0)));
    let thread = VerifierThread {
        works,
        waiting: Arc::clone(&waiting),
        lines: Lines::default(),
        slots,
        free,
        jobs_max,
        pool,
        verifier,
        deliver,
    };
    let handle = std::thread::Builder::new().name("verifier".into()).spawn(move || thread.run())?;
    Ok((VerifySender { works: sender, waiting }, handle))
}

struct VerifierThread {
    works: Receiver<Work>,
    waiting: Arc<AtomicUsize>,
    lines: Lines<Work>,
    /// A token for each job that may start.
    slots: Receiver<()>,
    free: Sender<()>,
    jobs_max: usize,
    pool: ThreadPool,
    verifier: Arc<Verifier>,
    deliver: Deliver,
}

/// Gives a slot back, also when the job panics.
struct Slot(Sender<()>);

impl Drop for Slot {
    fn drop(&mut self) {
        // The verifier thread that would take it may have ended.
        let _ = self.0.send(());
    }
}

impl VerifierThread {
    fn run(mut self) {
        let mut more = true;
        while more || !self.lines.is_empty() {
            if self.lines.is_empty() {
                let work = self.works.recv();
                more = self.line_up(work) && self.collect();
            }
            more = more && self.line_up_until_slot();
            if !more {
                self.take_slot();
            }
            match self.lines.take_job() {
                Some(job) => self.start(job),
                None => self.give_slot_back(),
            }
        }
        for _ in 0..self.jobs_max {
            self.take_slot();
        }
    }

    /// False if all senders are gone.
    fn line_up(&mut self, work: Result<Work, RecvError>) -> bool {
        let Ok(work) = work else { return false };
        let suspicion = work.suspicion.clone();
        self.lines.push(&suspicion, work);
        true
    }

    /// Waits a little for company. False if all senders are gone.
    fn collect(&mut self) -> bool {
        let deadline = Instant::now() + COMPANY_WAIT;
        while !self.lines.is_worthwhile() {
            match self.works.recv_deadline(deadline) {
                Ok(work) => self.line_up(Ok(work)),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            };
        }
        true
    }

    /// Takes a slot; while none is free the jobs grow for nothing. False, without a slot, if all senders are gone.
    fn line_up_until_slot(&mut self) -> bool {
        loop {
            let work = select! {
                recv(self.slots) -> _ => return true,
                recv(self.works) -> work => work,
            };
            if !self.line_up(work) {
                return false;
            }
        }
    }

    fn take_slot(&self) {
        self.slots.recv().expect("this thread holds a sender of slots");
    }

    fn give_slot_back(&self) {
        self.free.send(()).expect("this thread holds a receiver of slots");
    }

    fn start(&self, works: Vec<Work>) {
        self.waiting.fetch_sub(works.len(), Ordering::Relaxed);
        let (verifier, deliver) = (Arc::clone(&self.verifier), Arc::clone(&self.deliver));
        let slot = Slot(self.free.clone());
        let signatures: usize = works.iter().map(Weigh::signatures).sum();
        metrics::histogram!("zeni_verify_batch_size").record(signatures as f64);
        self.pool.spawn(move || {
            let slot = slot;
            for checked in verifier.check(works, rand::random()) {
                deliver(checked);
            }
            drop(slot);
        });
    }
}
