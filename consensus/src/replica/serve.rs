//! Answers to peers that ask for blocks, and what else needs no vote.

use std::sync::Arc;

use zeni_ledger::{Block, BlockId};

use super::Replica;
use crate::archive::Archive;
use crate::effect::{Effect, HaltReason};
use crate::input::Peer;
use crate::message::{MESSAGE_BLOCKS_BYTES_MAX, MESSAGE_BLOCKS_MAX, Message};
use crate::time::Millis;

impl Replica {
    /// Answers the messages that need no vote. Gives the others back.
    pub(crate) fn serve(
        &mut self,
        now: Millis,
        from: Peer,
        message: Message,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Message>, HaltReason> {
        let validator = match from {
            Peer::Validator(validator) => Some(validator),
            Peer::Follower(_) => None,
        };
        match message {
            Message::FetchBlocks { locator } => {
                let blocks = self.blocks_behind(&locator, archive)?;
                out.push(Effect::Send { to: from, message: Message::Blocks(blocks) });
            }
            Message::FetchAncestors { id, known_height } => {
                let blocks = self.ancestors(id, known_height, archive)?;
                out.push(Effect::Send { to: from, message: Message::Blocks(blocks) });
            }
            Message::Block(block) => self.receive_block(now, validator, block, out),
            Message::Blocks(blocks) => {
                if let Some(validator) = validator {
                    self.receive_blocks(now, validator, blocks, out);
                }
            }
            Message::Missing(digests) => {
                if let Some(validator) = validator {
                    self.batches_missing(validator, &digests);
                }
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }
    /// Answers a question for the blocks behind a locator.
    pub(crate) fn blocks_behind(
        &self,
        locator: &[BlockId],
        archive: &dyn Archive,
    ) -> Result<Vec<Arc<Block>>, HaltReason> {
        let tree = self.chain.tree();
        let Some(common) = locator.iter().find(|id| tree.is_canonical(id)) else { return Ok(Vec::new()) };
        let mut height = tree.expect(common).height;
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        while blocks.len() < MESSAGE_BLOCKS_MAX {
            height += 1;
            let Some(id) = tree.canonical_at(height) else { break };
            let Some(block) = self.chain.block(&id, archive)? else { break };
            bytes += block.encoded_len();
            if bytes > MESSAGE_BLOCKS_BYTES_MAX && !blocks.is_empty() {
                break;
            }
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// Answers a question for a block and its ancestors above a height: rising, and the last is the one asked for.
    pub(crate) fn ancestors(
        &self,
        id: BlockId,
        known_height: u64,
        archive: &dyn Archive,
    ) -> Result<Vec<Arc<Block>>, HaltReason> {
        let (mut blocks, mut bytes, mut current) = (Vec::new(), 0, id);
        while blocks.len() < MESSAGE_BLOCKS_MAX {
            let Some(block) = self.chain.block(&current, archive)? else { break };
            bytes += block.encoded_len();
            if bytes > MESSAGE_BLOCKS_BYTES_MAX && !blocks.is_empty() {
                break;
            }
            current = block.header.parent;
            let reached = block.header.height <= known_height;
            blocks.push(block);
            if reached && blocks.len() > 1 {
                break;
            }
        }
        blocks.reverse();
        Ok(blocks)
    }
}
