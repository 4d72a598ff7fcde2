//! The verifier thread: collects work into jobs and runs a bounded number of them on the rayon pool.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use zeni_ledger::Genesis;

use crate::verify::job::{Job, Weigh};
use crate::verify::work::{Checked, Verifier, Work};

/// How long a small job waits for company while a core is free.
const COMPANY_WAIT: Duration = Duration::from_millis(2);

/// Takes what verification found. Called on the pool's threads.
pub type Deliver = Arc<dyn Fn(Checked) + Send + Sync>;

/// Where work is handed in. What waits is bounded by the limits that let it in, see [`crate::core_queue`].
#[derive(Debug, Clone)]
pub struct VerifySender {
    works: Sender<Work>,
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
        let _ = self.works.send(work);
    }

    /// Pieces of work that wait.
    pub fn depth(&self) -> usize {
        self.works.len()
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
    let thread =
        VerifierThread { works, slots, free, jobs_max, pool, verifier: Arc::new(Verifier::new(genesis)), deliver };
    let handle = std::thread::Builder::new().name("verifier".into()).spawn(move || thread.run())?;
    Ok((VerifySender { works: sender }, handle))
}

struct VerifierThread {
    works: Receiver<Work>,
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
    fn run(self) {
        let mut left_over = None;
        while let Some(work) = left_over.take().or_else(|| self.works.recv().ok()) {
            if work.suspicion.is_raised() {
                self.take_slot();
                self.start(vec![work]);
                continue;
            }
            let mut job = Job::default();
            left_over = job.push(work).err();
            self.collect(&mut job, &mut left_over);
            self.fill_until_slot(&mut job, &mut left_over);
            self.start(job.into_works());
        }
        for _ in 0..self.jobs_max {
            self.take_slot();
        }
    }

    /// Waits a little for company.
    fn collect(&self, job: &mut Job<Work>, left_over: &mut Option<Work>) {
        let deadline = Instant::now() + COMPANY_WAIT;
        while !job.is_worthwhile() && left_over.is_none() {
            let Ok(work) = self.works.recv_deadline(deadline) else { return };
            *left_over = join(job, work);
        }
    }

    /// Waits for a slot; while all are taken the job grows for nothing.
    fn fill_until_slot(&self, job: &mut Job<Work>, left_over: &mut Option<Work>) {
        while !job.is_full() && left_over.is_none() {
            select! {
                recv(self.slots) -> _ => return,
                recv(self.works) -> work => match work {
                    Ok(work) => *left_over = join(job, work),
                    Err(_) => break,
                },
            }
        }
        self.take_slot();
    }

    fn take_slot(&self) {
        self.slots.recv().expect("this thread holds a sender of slots");
    }

    fn start(&self, works: Vec<Work>) {
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

/// Adds `work` to the job, or gives it back if it belongs to the next one.
fn join(job: &mut Job<Work>, work: Work) -> Option<Work> {
    if work.suspicion.is_raised() { Some(work) } else { job.push(work).err() }
}
