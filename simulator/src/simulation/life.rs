//! Processes come and go: starts, crashes, kills, clean stops, lost disks and their re-admission.

use zeni_consensus::finality::Guard;
use zeni_consensus::{Mode, SafetyRecord};
use zeni_storage::{SafetyFile, Start};

use super::{Happening, Simulation};
use crate::network::ProcessId;
use crate::process::{Identity, StartError, Started, init, start};
use crate::promises::Promises;
use crate::violation::Violation;

/// Slots beyond the present one for which a re-admitted validator can have signed, as in `node readmit`.
const READMIT_SLOTS_AHEAD: u64 = 2;

impl Simulation {
    /// Makes a new data directory on an empty disk.
    pub(super) fn init_disk(&mut self, node: ProcessId, with_safety: bool) -> Result<(), Violation> {
        init(&self.nodes[node].files, &self.world, with_safety)
            .map_err(|error| Violation::CannotStart { node, what: error.to_string() })
    }

    /// Starts a process from its disk, unless it runs.
    pub(super) fn start(&mut self, node: ProcessId) -> Result<(), Violation> {
        if self.nodes[node].process.is_some() {
            return Ok(());
        }
        self.disturbed_ms = self.now;
        let machine = &mut self.nodes[node];
        machine.boots += 1;
        (machine.paused, machine.halted, machine.ambush) = (false, false, None);
        machine.inbox.clear();
        machine.heard.clear();
        machine.told.clear();
        machine.started_ms = self.now;
        let identity = Identity {
            validator: machine.validator,
            boot: self.disk_dice.word(),
            nonce: self.disk_dice.word(),
            joining_ms: self.profile.joining_ms,
            bounds: self.profile.bounds,
            breakage: self.breakage,
        };
        if identity.validator.is_some() {
            self.return_by_snapshot(node)?;
        }
        let now = self.clock(node);
        match start(&self.nodes[node].files, &self.world, &identity, self.profile.segment_bytes, now) {
            Ok(started) => self.started(node, started),
            Err(error) => self.start_failed(node, &error),
        }
    }

    /// A start may fail once if a power cut was on its way; otherwise never.
    fn start_failed(&mut self, node: ProcessId, error: &StartError) -> Result<(), Violation> {
        self.note(node, "start failed", &[], || error.to_string());
        if !std::mem::take(&mut self.nodes[node].disk_faulty) {
            return Err(Violation::CannotStart { node, what: error.to_string() });
        }
        self.nodes[node].maybe_mended = true;
        self.lose_unsynced(node);
        let at = self.now + self.fault_dice.between(100, 3_000);
        self.queue.at(at, Happening::Start { node });
        Ok(())
    }

    fn started(&mut self, node: ProcessId, started: Started) -> Result<(), Violation> {
        let Started { process, first, report, safety, decision } = started;
        self.facts.torn_writes += u64::from(!report.torn.is_empty());
        self.facts.checkpoint_starts += u64::from(matches!(report.start, Start::Checkpoint { .. }));
        let machine = &mut self.nodes[node];
        let signed_slot = safety.map(|record| record.last_signed_slot);
        let maybe_mended = std::mem::take(&mut machine.maybe_mended);
        if let Some(file) = machine.damaged.take() {
            self.facts.damaged += u64::from(!report.damage.is_empty());
            // A bit that flips in the last records looks like a torn write. What rots elsewhere can be made anew, but for the
            // safety record: an operator writes another.
            let damaged = report.damage.iter().map(|damage| &damage.file);
            let torn = report.torn.iter().map(|torn| &torn.file);
            let seen = damaged.chain(torn.filter(|torn| **torn == file)).any(|file| file.starts_with("chain-"));
            let log_damaged = seen || maybe_mended && file.starts_with("chain-");
            if report.safety_damaged || log_damaged {
                self.checker.ballots.lost(node);
            }
            if log_damaged {
                self.checker.forget_final(node);
            }
            machine.promises.forget_lost(&process.reader, signed_slot, &self.checker);
        } else {
            machine.promises.check(node, &process.reader, signed_slot, &self.checker)?;
            if !report.damage.is_empty() {
                let what = format!("damage where none was done: {:?}", report.damage);
                return Err(Violation::CannotStart { node, what });
            }
        }
        if machine.validator.is_some() {
            self.checker.holds(machine.disk, |digest| process.reader.has_batch(digest));
        }
        self.checker.ballots.holds(node, decision);
        let (start, torn, damage) = (report.start, report.torn.len(), report.damage.len());
        let (boot, height, root) = (machine.boots, process.head().1, process.last_final());
        self.note(node, "started", &[&boot.to_le_bytes(), &height.to_le_bytes()], || {
            let last = format!("its log ends with decision {decision}, final at {}", root.height);
            format!("boot {boot} from {start:?}, torn {torn}, damage {damage}; {last}")
        });
        self.checker.started(node, process.chain(), root, process.state())?;
        let follows_only = process.mode() == Some(Mode::FollowOnly);
        self.nodes[node].process = Some(process);
        if follows_only {
            let soon = if self.healed { (100, 1_000) } else { (5_000, 40_000) };
            let at = self.now + self.fault_dice.between(soon.0, soon.1);
            self.queue.at(at, Happening::Readmit { node });
        }
        for other in self.processes() {
            let at = self.now + self.network_dice.between(5, 500);
            if other != node {
                self.queue.at(at, Happening::Dial { one: node, other });
            }
        }
        let at = self.now + self.disk_dice.between(1, self.profile.checkpoint_every_ms);
        self.queue.at(at, Happening::Checkpoint { node, boot });
        self.carry_out(node, first)
    }

    /// Power fails at one node: what was not synced is lost, or half of it. It starts again after `restart_ms`.
    pub(super) fn crash(&mut self, node: ProcessId, restart_ms: Option<u64>) {
        self.end(node, "crash");
        self.lose_unsynced(node);
        self.facts.crashes += 1;
        self.restart(node, restart_ms);
    }

    /// A process is killed; what it wrote stays, synced or not.
    pub(super) fn kill(&mut self, node: ProcessId, restart_ms: Option<u64>) {
        self.end(node, "kill");
        self.nodes[node].files.kill();
        self.facts.crashes += 1;
        self.restart(node, restart_ms);
    }

    /// A clean stop: what waits for a sync is released, segments are sealed.
    pub(super) fn stop(&mut self, node: ProcessId, restart_ms: Option<u64>) -> Result<(), Violation> {
        self.note(node, "stop", &[], String::new);
        if let Some(process) = self.nodes[node].process.take()
            && let Err(error) = process.store.seal()
        {
            if !self.nodes[node].disk_faulty {
                return Err(Violation::CannotStart { node, what: error.to_string() });
            }
            self.crash(node, restart_ms);
            return Ok(());
        }
        self.end(node, "stopped");
        self.nodes[node].files.kill();
        self.restart(node, restart_ms);
        Ok(())
    }

    /// Two processes have one key: this one heard of the other and stops for good. An operator starts the one on the
    /// validator's own machine again.
    pub(super) fn stop_for_twin(&mut self, node: ProcessId) {
        self.end(node, "halted");
        self.nodes[node].files.kill();
        if self.nodes[node].is_twin {
            self.abandon_twin();
        } else {
            let at = self.now + self.fault_dice.between(1_000, 20_000);
            self.queue.at(at, Happening::Start { node });
        }
    }

    /// The second machine with a validator's key is switched off, and its disk is gone.
    pub(super) fn abandon_twin(&mut self) {
        let twin = self.twin();
        self.end(twin, "abandoned");
        self.replace_disk(twin);
        self.nodes[twin].validator = None;
    }

    fn restart(&mut self, node: ProcessId, restart_ms: Option<u64>) {
        if let Some(restart_ms) = restart_ms {
            self.queue.at(self.now + restart_ms, Happening::Start { node });
        }
    }

    fn lose_unsynced(&mut self, node: ProcessId) {
        let dice = &mut self.disk_dice;
        self.nodes[node].files.crash(&mut |bound| dice.below(bound));
        self.checker.ballots.crashed(node);
        self.nodes[node].disk_faulty = false;
    }

    /// A process is gone, and its connections with it.
    fn end(&mut self, node: ProcessId, how: &'static str) {
        self.note(node, how, &[], String::new);
        let machine = &mut self.nodes[node];
        (machine.process, machine.paused) = (None, false);
        machine.inbox.clear();
        for other in self.network.neighbours(node) {
            self.disconnect(node, other, 4_000);
        }
        self.requests.retain(|(of, _, _), _| *of != node);
    }

    /// A node's disk is lost, the safety record with it. It starts on an empty one, and only follows.
    pub(super) fn lose_disk(&mut self, node: ProcessId, restart_ms: u64) -> Result<(), Violation> {
        self.end(node, "disk lost");
        self.replace_disk(node);
        self.facts.lost_disks += 1;
        self.init_disk(node, false)?;
        self.restart(node, Some(restart_ms));
        Ok(())
    }

    fn replace_disk(&mut self, node: ProcessId) {
        let machine = &mut self.nodes[node];
        machine.files.wipe();
        self.checker.ballots.lost(node);
        self.checker.ballots.holds(node, 0);
        self.checker.forget_final(node);
        self.checker.disk_lost(machine.disk);
        machine.disk = self.disks;
        (machine.promises, machine.damaged, machine.disk_faulty) = (Promises::default(), None, false);
        self.disks += 1;
    }

    /// An operator gives a validator without a safety record a new one, above every slot that it can have signed.
    pub(super) fn readmit(&mut self, node: ProcessId) -> Result<(), Violation> {
        let follows_only = |simulation: &Self| {
            let process = simulation.nodes[node].process.as_ref();
            process.is_some_and(|process| process.mode() == Some(Mode::FollowOnly))
        };
        if !follows_only(self) {
            return Ok(());
        }
        self.stop(node, Some(200))?;
        let slot = self.world.genesis.slot_at(self.clock(node).0) + READMIT_SLOTS_AHEAD;
        let record = SafetyRecord { last_signed_slot: slot, guard: Guard::default(), readmitted: true };
        let written = SafetyFile::open(self.nodes[node].files.clone(), self.world.genesis_id)
            .and_then(|mut safety| safety.write(&record));
        self.note(node, "readmitted", &[&slot.to_le_bytes()], || format!("above slot {slot}"));
        written.map_err(|error| Violation::CannotStart { node, what: error.to_string() })
    }
}
