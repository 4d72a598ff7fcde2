//! One seed, one run: processes with real cores and real storage in virtual time, under faults, then healed.

mod clients;
mod faults;
mod finale;
mod liar;
mod life;
mod oversight;
mod perjury;
mod shell;
mod snapshot;
mod wires;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use zeni_consensus::{CheckpointDelta, Input, Message, Millis, Mode, RequestId};
use zeni_ledger::ValidatorIndex;
use zeni_ledger::genesis::FaultModel;
use zeni_ledger::signature::Memo;
use zeni_storage::MemoryFiles;

use crate::breakage::Breakage;
use crate::checker::{Checker, DiskId};
use crate::dice::{Concern, Dice};
use crate::network::{ConnectionId, Network, ProcessId};
use crate::process::Process;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::promises::Promises;
use crate::queue::Queue;
use crate::trace::Trace;
use crate::violation::Violation;
use crate::workload::Workload;
use crate::world::{GENESIS_TIME_MS, World};

use faults::{Fault, FaultKind};

/// Events of one run for each process and slot, at most: honest ones need a fifth of it.
const EVENTS_PER_SLOT_MAX: u64 = 150;
/// Steps of one process at one moment, at most.
const STEPS_AT_ONCE_MAX: u32 = 2_000;

/// What a run was.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// The run ended early, as it may under faults beyond what finality promises to survive.
    pub excused: Option<Excused>,
    pub trace: [u8; 32],
    pub facts: Facts,
}

/// Why a violation is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excused {
    pub violation: Violation,
    pub reason: String,
}

/// What happened in a run, for the shares in reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    pub events: u64,
    pub slots: u64,
    pub payments: u64,
    pub acknowledged: u64,
    pub faults: u64,
    pub blocks: u64,
    /// Blocks taken back by any node.
    pub undone: u64,
    pub crashes: u64,
    /// Starts that found a torn tail.
    pub torn_writes: u64,
    pub lost_disks: u64,
    /// Validators that returned from a lost disk by a snapshot.
    pub snapshots: u64,
    /// Starts that found damaged records, and healed them.
    pub damaged: u64,
    /// Starts from a checkpoint.
    pub checkpoint_starts: u64,
    pub partitions: u64,
    /// Processes that stopped because another one ran with their key.
    pub twins_stopped: u64,
    pub equivocations: u64,
    pub invalid_blocks: u64,
    /// The last decision of the finality engine.
    pub decisions: u64,
    /// Pairs of contradicting votes that nodes found.
    pub double_votes: u64,
    /// The longest time in which a calm quorum made nothing final, in milliseconds.
    pub stalled_ms: u64,
}

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    Wake {
        node: ProcessId,
        boot: u64,
        serial: u64,
    },
    Committed {
        node: ProcessId,
        boot: u64,
    },
    Deliver {
        from: ProcessId,
        to: ProcessId,
        connection: ConnectionId,
        message: Message,
    },
    /// Two processes try to connect.
    Dial {
        one: ProcessId,
        other: ProcessId,
    },
    /// A connection over which nothing comes through is given up.
    KeepAlive {
        one: ProcessId,
        other: ProcessId,
    },
    /// A process notices that a connection is gone.
    Notice {
        node: ProcessId,
        boot: u64,
        gone: ProcessId,
    },
    Submit,
    /// A client sends payments to a node.
    Arrive {
        node: ProcessId,
        wishes: Vec<usize>,
    },
    Retry {
        wish: usize,
    },
    Fault(FaultKind),
    EndFault(Fault),
    Start {
        node: ProcessId,
    },
    /// Power fails at one node, and is back soon.
    PowerFailure {
        node: ProcessId,
    },
    Readmit {
        node: ProcessId,
    },
    Checkpoint {
        node: ProcessId,
        boot: u64,
    },
    /// Goes on gathering a checkpoint.
    Gather {
        node: ProcessId,
        boot: u64,
    },
    CheckpointWritten {
        node: ProcessId,
        boot: u64,
        delta: Box<CheckpointDelta>,
    },
    Resume {
        node: ProcessId,
    },
    Heal,
    Probe,
    Sample,
    /// The checker looks whether finality goes on.
    Look,
    /// The liar says something of itself.
    Perjure,
}

/// What waits for a paused process.
#[derive(Debug)]
enum Stimulus {
    Input(Input),
    Fetch { from: ProcessId, digests: Vec<zeni_ledger::BatchDigest> },
    Committed,
}

/// A fault that waits for its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ambush {
    /// Power fails once its next own block left, and is back after so many milliseconds.
    AtProposal(u64),
    /// It is killed while it syncs, and starts again after so many milliseconds; so many later power fails.
    InSync(u64, u64),
}

/// One machine: a disk, and a process on it while it runs.
#[derive(Debug)]
struct Node {
    validator: Option<ValidatorIndex>,
    files: MemoryFiles,
    disk: DiskId,
    promises: Promises,
    process: Option<Process>,
    boots: u64,
    /// What its clock shows beyond the true time, in milliseconds.
    clock_ms: i64,
    paused: bool,
    inbox: VecDeque<Stimulus>,
    /// The file that was damaged behind its back since the last start.
    damaged: Option<String>,
    /// A start failed since: it may have mended the file, so that the next one finds nothing wrong.
    maybe_mended: bool,
    /// A storage error is to be expected.
    disk_faulty: bool,
    /// Second process under a validator's key, gone after healing.
    is_twin: bool,
    started_ms: u64,
    /// Its core stopped for good; the process ends once that is released.
    halted: bool,
    /// Whose status it heard since its start, and which mode each one told last.
    told: BTreeMap<ValidatorIndex, Mode>,
    /// When it heard each validator last, while a connection to it stands.
    heard: BTreeMap<ValidatorIndex, u64>,
    ambush: Option<Ambush>,
}

/// The run of one seed.
#[derive(Debug)]
pub struct Simulation {
    profile: Profile,
    world: Arc<World>,
    breakage: Breakage,
    now: u64,
    queue: Queue<Happening>,
    nodes: Vec<Node>,
    network: Network,
    network_dice: Dice,
    disk_dice: Dice,
    fault_dice: Dice,
    liar_dice: Dice,
    workload: Workload,
    /// Which payments a request holds.
    requests: BTreeMap<(ProcessId, u64, RequestId), Vec<usize>>,
    requests_made: u64,
    probes: Vec<usize>,
    /// When the last fault struck or ended, or a process started.
    disturbed_ms: u64,
    healed: bool,
    disks: DiskId,
    checker: Checker,
    progress: Progress,
    trace: Trace,
    facts: Facts,
}

/// Runs a seed. `prints` writes every event to standard output.
pub fn run(seed: u64, breakage: Breakage, prints: bool) -> Outcome {
    // All nodes of a seed check the same blocks, votes and certificates.
    let _verdicts = Memo::begin();
    let mut simulation = Simulation::new(seed, breakage, prints);
    let mut violation = simulation.run().err();
    let reason = violation.as_ref().and_then(|violation| simulation.excuse(violation));
    let excused = reason.map(|reason| Excused { violation: violation.take().expect("it has an excuse"), reason });
    let mut facts = simulation.facts;
    facts.events = simulation.trace.events();
    facts.payments = simulation.workload.len() as u64;
    facts.acknowledged = simulation.checker.acknowledged() as u64;
    facts.slots = simulation.now / simulation.profile.block_interval_ms;
    facts.stalled_ms = simulation.progress.longest_ms;
    Outcome { seed, violation, excused, trace: simulation.trace.hash(), facts }
}

/// Who lies instead of `liar`, if its stake is more than the fault model allows for. In the crash model only its blocks lie,
/// and anybody's may.
fn bearable(world: &World, liar: usize) -> Option<usize> {
    let genesis = &world.genesis;
    let allowed = |validator: &usize| 3 * genesis.validators[*validator].stake < genesis.total_stake();
    match genesis.fault_model {
        FaultModel::Crash => Some(liar),
        FaultModel::Byzantine => std::iter::once(liar).chain(0..genesis.validators.len()).find(allowed),
    }
}

impl Simulation {
    fn new(seed: u64, breakage: Breakage, prints: bool) -> Self {
        let mut dice = Dice::new(seed, Concern::World);
        let mut profile = Profile::draw(&mut dice);
        let world = Arc::new(World::new(&mut dice, &profile));
        profile.byzantine = profile.byzantine.and_then(|liar| bearable(&world, liar));
        let validators = profile.validators;
        // The validators, a follower, and room for a twin.
        let processes = validators + 2;
        let node = |process: ProcessId| Node {
            validator: (process < validators).then_some(ValidatorIndex(process as u16)),
            files: MemoryFiles::new(),
            disk: process,
            promises: Promises::default(),
            process: None,
            boots: 0,
            clock_ms: 0,
            paused: false,
            inbox: VecDeque::new(),
            damaged: None,
            maybe_mended: false,
            disk_faulty: false,
            is_twin: process > validators,
            started_ms: 0,
            halted: false,
            told: BTreeMap::new(),
            heard: BTreeMap::new(),
            ambush: None,
        };
        if prints {
            println!("{profile:#?}");
        }
        Self {
            workload: Workload::new(world.clone(), Dice::new(seed, Concern::Clients)),
            checker: Checker::new(world.clone(), processes),
            nodes: (0..processes).map(node).collect(),
            network: Network::default(),
            network_dice: Dice::new(seed, Concern::Network),
            disk_dice: Dice::new(seed, Concern::Disk),
            fault_dice: Dice::new(seed, Concern::Faults),
            liar_dice: Dice::new(seed, Concern::Byzantine),
            requests: BTreeMap::new(),
            requests_made: 0,
            probes: Vec::new(),
            disturbed_ms: 0,
            healed: false,
            disks: processes,
            progress: Progress::default(),
            trace: Trace::new(prints),
            facts: Facts::default(),
            now: 0,
            queue: Queue::default(),
            profile,
            world,
            breakage,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        self.begin()?;
        while let Some((at, happening)) = self.queue.pop() {
            self.now = at.max(self.now);
            if matches!(happening, Happening::Sample) {
                if self.sample()? {
                    return Ok(());
                }
                continue;
            }
            self.happen(happening)?;
            if self.trace.events() > self.profile.slots * self.nodes.len() as u64 * EVENTS_PER_SLOT_MAX {
                return Err(Violation::MessageStorm { events: self.trace.events() });
            }
        }
        unreachable!("samples are scheduled until one of them ends the run")
    }

    fn begin(&mut self) -> Result<(), Violation> {
        if let Some(liar) = self.profile.byzantine {
            self.checker.excuse(ValidatorIndex(liar as u16));
            if self.profile.byzantine_quorums {
                self.checker.ballots.distrust(ValidatorIndex(liar as u16));
                self.queue.at(3_000, Happening::Perjure);
            }
        }
        for node in 0..=self.follower() {
            self.init_disk(node, node < self.follower())?;
            self.nodes[node].clock_ms = self.fault_dice.between(0, 400) as i64 - 200;
            let at = self.fault_dice.below(2_000);
            self.queue.at(at, Happening::Start { node });
        }
        for fault in faults::plan(&mut self.fault_dice, &self.profile) {
            self.queue.at(fault.0, Happening::Fault(fault.1));
        }
        self.schedule_submissions();
        self.queue.at(self.profile.heal_at(), Happening::Heal);
        self.queue.at(0, Happening::Look);
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Wake { node, boot, serial } => self.wake(node, boot, serial),
            Happening::Committed { node, boot } => self.committed(node, boot),
            Happening::Deliver { from, to, connection, message } => self.deliver(from, to, connection, message),
            Happening::Dial { one, other } => self.dial(one, other),
            Happening::KeepAlive { one, other } => self.keep_alive(one, other),
            Happening::Notice { node, boot, gone } => self.notice(node, boot, gone),
            Happening::Submit => self.submit(),
            Happening::Arrive { node, wishes } => self.arrive(node, wishes),
            Happening::Retry { wish } => self.retry(wish),
            Happening::Fault(kind) => self.strike(kind),
            Happening::EndFault(fault) => self.end_fault(&fault),
            Happening::Start { node } => self.start(node),
            Happening::PowerFailure { node } => {
                let restart_ms = self.fault_dice.between(10, 3_000);
                self.crash(node, Some(restart_ms));
                Ok(())
            }
            Happening::Readmit { node } => self.readmit(node),
            Happening::Checkpoint { node, boot } => self.checkpoint(node, boot),
            Happening::Gather { node, boot } => self.gather(node, boot),
            Happening::CheckpointWritten { node, boot, delta } => self.checkpoint_written(node, boot, &delta),
            Happening::Resume { node } => self.resume(node),
            Happening::Heal => self.heal(),
            Happening::Probe => self.probe(),
            Happening::Sample => Ok(()),
            Happening::Look => self.look(),
            Happening::Perjure => self.perjure(),
        }
    }

    /// The process that follows.
    fn follower(&self) -> ProcessId {
        self.profile.validators
    }

    /// The process that may run with another one's key.
    fn twin(&self) -> ProcessId {
        self.profile.validators + 1
    }

    fn is_liar(&self, node: ProcessId) -> bool {
        self.profile.byzantine == Some(node)
    }

    /// What a node's clock shows.
    fn clock(&self, node: ProcessId) -> Millis {
        Millis((GENESIS_TIME_MS + self.now).saturating_add_signed(self.nodes[node].clock_ms))
    }

    fn is_running(&self, node: ProcessId, boot: u64) -> bool {
        self.nodes[node].process.is_some() && self.nodes[node].boots == boot
    }

    fn note(&mut self, node: ProcessId, kind: &'static str, ids: &[&[u8]], detail: impl FnOnce() -> String) {
        self.trace.note(self.now, node, kind, ids, detail);
    }
}
