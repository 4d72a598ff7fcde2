//! What goes wrong: when, to whom, for how long.

use zeni_consensus::Mode;
use zeni_storage::{Fault as DiskFault, Files};

use super::{Ambush, Happening, Simulation};
use crate::dice::Dice;
use crate::network::ProcessId;
use crate::profile::Profile;
use crate::violation::Violation;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// Power fails: unsynced writes are lost or torn.
    Crash,
    /// The process dies, the machine does not.
    Kill,
    /// Power fails again while the node recovers.
    CrashInRecovery,
    /// Power fails right after a block was proposed, and is back at once.
    CrashAtProposal,
    /// The process is killed while it syncs, starts at once, and then power fails.
    KillInSync,
    /// The node is stopped cleanly and started again.
    CleanStop,
    /// Power fails everywhere.
    CrashAll,
    /// Power fails everywhere but at one node.
    CrashAllButOne,
    /// A disk is lost with everything on it.
    LoseDisk,
    /// A bit flips on the disk of a stopped node.
    FlipBit,
    /// A sync fails.
    SyncError,
    /// Some processes cannot talk with the others.
    Partition,
    /// What one process says, or hears, is lost.
    OneWay,
    /// A process stands still.
    Pause,
    /// A clock is set.
    ClockJump,
    /// A node's bulk queues are full: the batches that it pushes are dropped.
    BulkDrop,
    /// One connection breaks.
    Disconnect,
    /// A second process runs with a validator's key, on a copy of its disk.
    Twin,
}

/// Two processes with one key hear of each other within this time, if nothing disturbs the network.
const TWINS_MEET_MS: u64 = 15_000;

const WEIGHTS: [(FaultKind, u64); 18] = [
    (FaultKind::Crash, 16),
    (FaultKind::Kill, 6),
    (FaultKind::CrashInRecovery, 6),
    (FaultKind::CrashAtProposal, 6),
    (FaultKind::KillInSync, 5),
    (FaultKind::CleanStop, 5),
    (FaultKind::CrashAll, 4),
    (FaultKind::CrashAllButOne, 5),
    (FaultKind::LoseDisk, 5),
    (FaultKind::FlipBit, 5),
    (FaultKind::SyncError, 5),
    (FaultKind::Partition, 14),
    (FaultKind::OneWay, 8),
    (FaultKind::Pause, 8),
    (FaultKind::ClockJump, 4),
    (FaultKind::BulkDrop, 4),
    (FaultKind::Disconnect, 5),
    (FaultKind::Twin, 2),
];

/// A node that lost its disk may have been this many blocks, less one, ahead of the others.
const NEAR_BLOCKS: usize = 4;

/// A fault that lasts, to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Blocked(Vec<(ProcessId, ProcessId)>),
    BulkDropped(ProcessId),
    /// Once they had time to hear of each other, at least one of two twins must have stopped.
    Twin,
}

/// When which kind of fault strikes, in milliseconds of virtual time.
pub(super) fn plan(dice: &mut Dice, profile: &Profile) -> Vec<(u64, FaultKind)> {
    let (first, last) = (5_000, profile.heal_at() - 5_000);
    let weights = WEIGHTS.map(|(_, weight)| weight);
    let fault = |_| (dice.between(first, last), WEIGHTS[dice.weighted(&weights)].0);
    (0..profile.faults).map(fault).collect()
}

impl Simulation {
    /// A fault strikes. What may not strike now is a crash instead.
    pub(super) fn strike(&mut self, kind: FaultKind) -> Result<(), Violation> {
        let node = self.fault_dice.place(self.profile.validators + 1);
        let validator = self.fault_dice.place(self.profile.validators);
        self.facts.faults += 1;
        self.disturbed_ms = self.now;
        self.note(node, "FAULT", &[&[kind as u8]], || format!("{kind:?}"));
        match kind {
            FaultKind::Crash => self.strike_crash(node),
            FaultKind::Kill => {
                let restart = self.outage();
                self.kill(node, Some(restart));
            }
            FaultKind::CrashInRecovery => self.strike_recovery(node),
            FaultKind::CrashAtProposal => {
                let restart = self.fault_dice.between(10, 700);
                self.nodes[validator].ambush = Some(Ambush::AtProposal(restart));
            }
            FaultKind::KillInSync => {
                let (restart, crash) = (self.fault_dice.between(10, 300), self.fault_dice.between(1, 500));
                self.nodes[node].ambush = Some(Ambush::InSync(restart, crash));
            }
            FaultKind::CleanStop => {
                let restart = self.outage();
                self.stop(node, Some(restart))?;
            }
            FaultKind::CrashAll => self.strike_crash_all(None),
            FaultKind::CrashAllButOne => self.strike_crash_all(Some(validator)),
            FaultKind::LoseDisk if self.may_damage(validator) => {
                let restart = self.outage();
                self.lose_disk(validator, restart)?;
            }
            FaultKind::FlipBit if self.may_damage(node) => self.strike_flip(node)?,
            FaultKind::SyncError => self.strike_sync(node),
            FaultKind::Partition => self.strike_partition(),
            FaultKind::OneWay => self.strike_one_way(node),
            FaultKind::Pause => self.strike_pause(node),
            FaultKind::ClockJump => self.nodes[node].clock_ms = self.fault_dice.between(0, 400) as i64 - 200,
            FaultKind::BulkDrop => {
                self.network.bulk_dropped.insert(validator);
                let end = self.now + self.fault_dice.between(1_000, 30_000);
                self.queue.at(end, Happening::EndFault(Fault::BulkDropped(validator)));
            }
            FaultKind::Disconnect => self.strike_disconnect(node),
            FaultKind::Twin if self.profile.validators >= 3 => self.strike_twin(validator)?,
            FaultKind::LoseDisk | FaultKind::FlipBit | FaultKind::Twin => self.strike_crash(node),
        }
        Ok(())
    }

    /// A lasting fault ends.
    pub(super) fn end_fault(&mut self, fault: &Fault) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        if let Fault::Twin = fault {
            return self.end_twin();
        }
        self.disturbed_ms = self.now;
        match fault {
            Fault::Blocked(ways) => {
                self.note(0, "unblocked", &[], || format!("{ways:?}"));
                ways.iter().for_each(|(from, to)| self.unblock(*from, *to));
            }
            Fault::BulkDropped(node) => {
                self.network.bulk_dropped.remove(node);
            }
            Fault::Twin => {}
        }
        Ok(())
    }

    /// How long a node is down: mostly short, sometimes long enough to fall far behind.
    fn outage(&mut self) -> u64 {
        match self.fault_dice.below(10) {
            0..4 => self.fault_dice.between(10, 1_000),
            4..8 => self.fault_dice.between(1_000, 15_000),
            _ => self.fault_dice.between(15_000, 90_000),
        }
    }

    fn strike_crash(&mut self, node: ProcessId) {
        let restart = self.outage();
        self.crash(node, Some(restart));
    }

    fn strike_recovery(&mut self, node: ProcessId) {
        let restart = self.fault_dice.between(100, 3_000);
        self.crash(node, Some(restart));
        let after = self.fault_dice.below(60);
        self.nodes[node].files.inject(DiskFault::PowerCut { after });
        self.nodes[node].disk_faulty = true;
    }

    fn strike_crash_all(&mut self, spared: Option<ProcessId>) {
        for node in (0..=self.follower()).filter(|node| Some(*node) != spared) {
            let restart = self.outage().min(30_000);
            self.crash(node, Some(restart));
        }
    }

    /// A disk may be lost or damaged while every other validator runs, has its safety record, stands on the same chain
    /// but for its last blocks, and holds all of it: otherwise the last copy of a block or batch could be gone, and
    /// nobody promised anything for that. A follower's disk may always.
    fn may_damage(&self, node: ProcessId) -> bool {
        if node >= self.profile.validators {
            return true;
        }
        let chain = self.checker.chain(node);
        let near = chain[chain.len().saturating_sub(NEAR_BLOCKS).min(chain.len() - 1)];
        let keeps_it = |other: ProcessId| {
            let Some(process) = &self.nodes[other].process else { return false };
            process.mode() != Some(Mode::FollowOnly) && process.holds_its_chain() && process.chain().contains(&near)
        };
        self.profile.validators > 1 && (0..self.profile.validators).filter(|other| *other != node).all(keeps_it)
    }

    fn strike_flip(&mut self, node: ProcessId) -> Result<(), Violation> {
        let restart = self.outage();
        if self.fault_dice.chance(600) {
            self.stop(node, Some(restart))?;
        } else {
            self.crash(node, Some(restart));
        }
        let files = self.nodes[node].files.clone();
        let names = files.list().expect("a directory in memory can be listed");
        let names: Vec<String> = names.into_iter().filter(|name| rots(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let name = names[self.fault_dice.place(names.len())].clone();
        let len = files.content(&name).map_or(0, |content| content.len() as u64);
        if len > 0 {
            let (offset, bit) = (self.fault_dice.below(len), self.fault_dice.below(8));
            files.flip(&name, offset, 1 << bit);
            self.nodes[node].damaged = Some(name.clone());
            self.note(node, "flipped", &[name.as_bytes(), &offset.to_le_bytes()], || format!("{name} at {offset}"));
        }
        Ok(())
    }

    fn strike_sync(&mut self, node: ProcessId) {
        if self.nodes[node].process.is_some() {
            let after = self.fault_dice.below(6);
            self.nodes[node].files.inject(DiskFault::Sync { after });
            self.nodes[node].disk_faulty = true;
        }
    }

    fn strike_partition(&mut self) {
        let processes = self.processes();
        let sides: Vec<bool> = processes.iter().map(|_| self.fault_dice.chance(500)).collect();
        let mut ways = Vec::new();
        for (one, other) in pairs(&processes) {
            if sides[one] != sides[other] {
                ways.extend([(processes[one], processes[other]), (processes[other], processes[one])]);
            }
        }
        self.facts.partitions += u64::from(!ways.is_empty());
        self.block_for_a_while(ways);
    }

    fn strike_one_way(&mut self, node: ProcessId) {
        let (others, silent) = (self.processes(), self.fault_dice.chance(500));
        let others = others.into_iter().filter(|other| *other != node);
        let ways = others.map(|other| if silent { (node, other) } else { (other, node) }).collect();
        self.facts.partitions += 1;
        self.block_for_a_while(ways);
    }

    fn block_for_a_while(&mut self, ways: Vec<(ProcessId, ProcessId)>) {
        self.note(0, "blocked", &[], || format!("{ways:?}"));
        ways.iter().for_each(|(from, to)| self.block(*from, *to));
        let lasts = if self.fault_dice.chance(700) { (500, 15_000) } else { (15_000, 60_000) };
        let end = self.now + self.fault_dice.between(lasts.0, lasts.1);
        self.queue.at(end, Happening::EndFault(Fault::Blocked(ways)));
    }

    fn strike_pause(&mut self, node: ProcessId) {
        if self.nodes[node].process.is_none() || self.nodes[node].paused {
            return;
        }
        self.nodes[node].paused = true;
        let lasts = self.fault_dice.between(300, 25_000);
        self.queue.at(self.now + lasts, Happening::Resume { node });
        for other in self.network.neighbours(node) {
            let at = self.now + self.network_dice.between(3_000, 9_000);
            self.queue.at(at, Happening::KeepAlive { one: node, other });
        }
    }

    fn strike_disconnect(&mut self, node: ProcessId) {
        let neighbours = self.network.neighbours(node);
        if neighbours.is_empty() {
            return;
        }
        let other = neighbours[self.fault_dice.place(neighbours.len())];
        self.disconnect(node, other, 1_000);
        let at = self.now + self.fault_dice.between(10, 3_000);
        self.queue.at(at, Happening::Dial { one: node, other });
    }

    /// Someone starts a copy of a validator's machine.
    fn strike_twin(&mut self, of: ProcessId) -> Result<(), Violation> {
        let (twin, Some(validator)) = (self.twin(), self.nodes[of].validator) else { return Ok(()) };
        if self.nodes[twin].validator.is_some() || self.nodes[of].process.is_none() {
            return Ok(());
        }
        self.checker.excuse(validator);
        self.checker.ballots.twinned(validator);
        self.nodes[twin].files = self.nodes[of].files.snapshot();
        self.nodes[twin].validator = Some(validator);
        self.nodes[twin].clock_ms = self.fault_dice.between(0, 400) as i64 - 200;
        let lasts = self.fault_dice.between(20_000, 60_000);
        self.queue.at(self.now + lasts, Happening::EndFault(Fault::Twin));
        self.start(twin)
    }

    /// The second machine is switched off. If the network was quiet long enough, and an honest validator heard both and
    /// told them of each other, one of the two had to stop itself. (A follower tells nobody whom it hears.)
    fn end_twin(&mut self) -> Result<(), Violation> {
        let Some(validator) = self.nodes[self.twin()].validator else { return Ok(()) };
        let runs = |node: ProcessId| self.nodes[node].process.is_some() && !self.nodes[node].paused;
        let quiet = self.now - self.disturbed_ms >= TWINS_MEET_MS && !self.network.is_disturbed();
        let witnesses = (0..self.profile.validators).filter(|node| *node != validator.as_usize());
        let witnessed = witnesses.filter(|node| !self.is_liar(*node)).any(runs);
        if quiet && witnessed && runs(self.twin()) && runs(validator.as_usize()) {
            return Err(Violation::TwinsLive { validator: validator.0 });
        }
        self.abandon_twin();
        Ok(())
    }
}

/// Files whose bits may flip: what a checkpoint step or the safety record loses is found by other tests.
fn rots(name: &str) -> bool {
    name.ends_with(".log") || name == "checkpoint.overlay" || name == "safety"
}

fn pairs(processes: &[ProcessId]) -> impl Iterator<Item = (usize, usize)> + use<> {
    let count = processes.len();
    (0..count).flat_map(move |one| (one + 1..count).map(move |other| (one, other)))
}
