//! Whether finality goes on, and whether a run may end as it did.

use zeni_consensus::{Archive, HaltReason, Mode};
use zeni_ledger::BlockId;

use super::{Happening, Simulation};
use crate::network::ProcessId;
use crate::progress::{Members, Standing};
use crate::violation::Violation;

/// How often it is looked whether finality goes on, in milliseconds.
const LOOK_EVERY_MS: u64 = 1_000;
/// A quorum that is active and connected for longer than this makes something final. Rounds whose proposer is away take
/// some seconds, more each; and if one of them is locked on a block, it waits until it proposes it itself.
const STALL_MS_MAX: u64 = 75_000;

impl Simulation {
    pub(super) fn look(&mut self) -> Result<(), Violation> {
        self.queue.at(self.now + LOOK_EVERY_MS, Happening::Look);
        let genesis = self.world.genesis.clone();
        let standings: Vec<Standing> = (0..self.profile.validators).map(|node| self.standing(node)).collect();
        let is_quorum = |stake| genesis.fault_model.is_quorum(stake, genesis.total_stake());
        match self.progress.look(self.now, STALL_MS_MAX, &standings, is_quorum) {
            Some(members) => Err(Violation::FinalityStalls { members, waited_ms: STALL_MS_MAX }),
            None => Ok(()),
        }
    }

    fn standing(&self, node: ProcessId) -> Standing {
        let takes_part = |node: ProcessId| {
            let machine = &self.nodes[node];
            let fit =
                |process: &crate::process::Process| process.mode() == Some(Mode::Active) && !process.forgot_votes();
            let heard = !machine.paused && !machine.halted && !self.network.bulk_dropped.contains(&node);
            heard && !self.is_liar(node) && !self.is_twinned(node) && machine.process.as_ref().is_some_and(fit)
        };
        let exchanges = |other: &ProcessId| {
            let connected = self.network.connection(node, *other).is_some() && !self.network.is_broken(node, *other);
            takes_part(*other) && (*other == node || connected)
        };
        let others = (0..self.profile.validators).filter(exchanges);
        let linked = if takes_part(node) { others.fold(0, |linked, other| linked | 1 << other) } else { 0 as Members };
        let process = self.nodes[node].process.as_ref();
        let (final_height, height) = process.map_or((0, 0), |process| (process.last_final().height, process.head().1));
        Standing { linked, final_height, height, stake: self.world.genesis.validators[node].stake }
    }

    fn is_twinned(&self, node: ProcessId) -> bool {
        let twin = &self.nodes[self.twin()];
        twin.validator.is_some() && twin.validator == self.nodes[node].validator
    }

    /// Why the run may end so, if it may: quorums decided differently, and that takes more twins and lost votes than the fault
    /// model allows for; or nothing becomes final because what is final already is on no disk any more.
    pub(super) fn excuse(&self, violation: &Violation) -> Option<String> {
        match violation {
            Violation::Halted { reason: HaltReason::ConflictingFinality { .. }, .. }
            | Violation::FinalConflict { .. } => self.checker.ballots.excuse_conflict(),
            Violation::Apart { .. }
            | Violation::NotFinal { .. }
            | Violation::NotActive { .. }
            | Violation::FinalityStalls { .. } => self.lost_final(),
            _ => None,
        }
    }

    /// What of the newest final chain is on no validator's disk, though a certificate tells of it.
    fn lost_final(&self) -> Option<String> {
        let certificate = self.checker.ballots.newest()?;
        let mut id = certificate.block.id;
        while id != self.world.genesis.block_id() {
            let readers = || self.nodes[..self.profile.validators].iter().filter_map(|node| node.process.as_ref());
            let stored = |id: &BlockId| readers().find_map(|process| process.reader.block(id).ok().flatten());
            let Some(block) = stored(&id) else {
                return Some(format!("block {id} is final by decision {}, and on no disk", certificate.decision));
            };
            let lost = block.digests.iter().find(|digest| !readers().any(|process| process.reader.has_batch(digest)));
            if let Some(digest) = lost {
                return Some(format!("batch {digest} of the final block {id} is on no disk"));
            }
            id = block.header.parent;
        }
        None
    }
}
