//! A validator that lies: its core is honest, but of the blocks that it signs others get something else.

use std::sync::Arc;

use zeni_consensus::Message;
use zeni_ledger::block::transactions_root;
use zeni_ledger::{BatchDigest, Block, ReceiptsRoot, StateRoot};

use super::Simulation;
use crate::network::ProcessId;

/// Of a thousand proposals.
const LIES: u64 = 350;
/// Slots by which a block from the future runs ahead, at most.
const AHEAD_SLOTS_MAX: u64 = 40;

impl Simulation {
    /// Perhaps sends something else than the block that the liar's core proposed. True if it did.
    pub(super) fn lie(&mut self, node: ProcessId, honest: &Block) -> bool {
        if self.healed || !self.liar_dice.chance(LIES) {
            return false;
        }
        let lie = self.liar_dice.below(8);
        self.note(node, "lie", &[&[lie as u8]], || format!("of kind {lie}"));
        let mut forged = vec![self.forge(node, honest, lie)];
        if lie >= 6 {
            // To some the honest block, to others another one for the same slot.
            forged.push(honest.clone());
        }
        for other in self.network.neighbours(node) {
            let block = &forged[self.liar_dice.place(forged.len())];
            self.transmit(node, other, Message::Block(Arc::new(block.clone())));
        }
        true
    }

    fn forge(&mut self, node: ProcessId, honest: &Block, lie: u64) -> Block {
        let (mut header, mut digests) = (honest.header, honest.digests.clone());
        match lie {
            0 => header.state_root = StateRoot([0x0f; 32]),
            1 => header.receipts_root = ReceiptsRoot([0x0f; 32]),
            2 => header.rank = header.rank.wrapping_sub(1).min(self.profile.validators as u16 - 1),
            3 => {
                header.slot += self.liar_dice.between(1, AHEAD_SLOTS_MAX);
                let schedule = zeni_consensus::schedule::Schedule::new(&self.world.genesis);
                header.rank = schedule.rank(header.slot, header.proposer).expect("the liar is a validator");
            }
            4 => digests.extend(honest.digests.first().copied()),
            5 => digests.push(BatchDigest([self.liar_dice.below(256) as u8; 32])),
            6 => digests.clear(),
            _ => header.slot = header.slot.saturating_sub(self.liar_dice.between(1, 3)).max(1),
        }
        header.transactions_root = transactions_root(&digests);
        Block::sign(header, digests, &self.world.keys[node], &self.world.genesis_id)
    }
}
