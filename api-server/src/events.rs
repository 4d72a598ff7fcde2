//! The event stream: every block in order, and every reorganisation between them.
//!
//! A reader is a cursor on the chain and nothing more. Whenever the head moves, the cursor walks: back while its block
//! is no longer canonical (one `reorg` event), then forward block by block. So a slow, a resumed and a live reader see
//! the same, nothing is queued for anyone, and no event can be lost.

use zeni_ledger::BlockId;

use crate::chronicle::{CanonicalBlock, Chronicle, ChronicleError};

/// Events that one look gives, at most; the reader looks again.
pub const EVENTS_MAX: usize = 64;

/// The last block that a reader was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub height: u64,
    pub id: BlockId,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEvent {
    /// This block is canonical now.
    Block(CanonicalBlock),
    /// Blocks above `height` that the reader was told of are no longer canonical. Those that replace them follow.
    Reorg {
        height: u64,
        id: BlockId,
        /// From the former head down, as far as the reader's place is known.
        undone: Vec<BlockId>,
    },
}

/// `Last-Event-ID`: height, a colon, the event's index within that height. 0 is the block, 1 a reorganisation to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    pub height: u64,
    pub index: u32,
}

impl EventId {
    /// Reads `height:index`.
    pub fn parse(text: &str) -> Option<Self> {
        let (height, index) = text.split_once(':')?;
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(height) || !digits(index) {
            return None;
        }
        Some(Self { height: height.parse().ok()?, index: index.parse().ok()? })
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.height, self.index)
    }
}

impl ChainEvent {
    pub fn id(&self) -> EventId {
        match self {
            Self::Block(found) => EventId { height: found.block.header.height, index: 0 },
            Self::Reorg { height, .. } => EventId { height: *height, index: 1 },
        }
    }
}

/// Why a reader cannot begin where it asks to.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error("block {0} is not in the log; begin from a height instead")]
    UnknownBlock(BlockId),
    #[error(transparent)]
    Chronicle(#[from] ChronicleError),
}

impl Cursor {
    /// Begins behind the head: only what happens from now on.
    pub fn at_head(chronicle: &Chronicle) -> Self {
        let head = chronicle.head();
        Self { height: head.height, id: head.id }
    }

    /// Begins behind a height. If the chain is shorter by now, its blocks were taken back: the second value is the
    /// reorganisation that the reader has to be told first.
    pub fn behind(chronicle: &Chronicle, height: u64) -> Result<(Self, Option<ChainEvent>), ChronicleError> {
        if let Some(id) = chronicle.id_at(height)? {
            return Ok((Self { height, id }, None));
        }
        let cursor = Self::at_head(chronicle);
        let event = ChainEvent::Reorg { height: cursor.height, id: cursor.id, undone: Vec::new() };
        Ok((cursor, Some(event)))
    }

    /// Begins behind a block, canonical or not: if it is not, a reorganisation comes first.
    pub fn behind_block(chronicle: &Chronicle, id: BlockId) -> Result<Self, ResumeError> {
        if chronicle.genesis().block_id() == id {
            return Ok(Self { height: 0, id });
        }
        let block = chronicle.any_block(&id)?.ok_or(ResumeError::UnknownBlock(id))?;
        Ok(Self { height: block.header.height, id })
    }

    /// The next events, at most [`EVENTS_MAX`]; empty if the reader knows everything.
    pub fn advance(&mut self, chronicle: &Chronicle) -> Result<Vec<ChainEvent>, ChronicleError> {
        let mut events = Vec::new();
        let mut undone = Vec::new();
        while chronicle.id_at(self.height)? != Some(self.id) {
            let block = chronicle.any_block(&self.id)?;
            let block = block.ok_or_else(|| ChronicleError::Lacking { what: "block", id: self.id.to_string() })?;
            undone.push(self.id);
            *self = Self { height: block.header.height.saturating_sub(1), id: block.header.parent };
        }
        if !undone.is_empty() {
            events.push(ChainEvent::Reorg { height: self.height, id: self.id, undone });
        }
        while events.len() < EVENTS_MAX {
            let Some(found) = chronicle.block_at(self.height + 1)? else { break };
            if found.block.header.parent != self.id {
                break;
            }
            *self = Self { height: self.height + 1, id: found.id };
            events.push(ChainEvent::Block(found));
        }
        Ok(events)
    }
}
