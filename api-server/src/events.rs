//! The event stream: every block in order, every reorganisation between them, and how far the chain is final.
//!
//! A reader is a cursor on the chain and nothing more. Whenever the head moves, the cursor walks: back while its block
//! is no longer canonical (one `reorg` event), then forward block by block. So a slow, a resumed and a live reader see
//! the same, nothing is queued for anyone, and no event can be lost.

use zeni_ledger::BlockId;

use crate::chronicle::{CanonicalBlock, Chronicle, ChronicleError, LastFinal};

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
    /// A block that the reader was told of, and everything below it, can never be taken back.
    Final {
        last_final: LastFinal,
        /// Where the reader stands: it comes back to that.
        told: Cursor,
    },
}

/// `Last-Event-ID`: height, index within that height (0 is the block, 1 a reorganisation to it, 2 that something became
/// final while it was the last one told), and the block's id,
/// with colons between. The id tells a reader who comes back whether its block was replaced meanwhile; whole, because a
/// block that is no longer canonical is found by its whole id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    pub height: u64,
    pub index: u32,
    /// `None` in the short form, which readers of earlier versions kept.
    pub block: Option<BlockId>,
}

impl EventId {
    /// Reads `height:index:block` or `height:index`.
    pub fn parse(text: &str) -> Option<Self> {
        let (height, rest) = text.split_once(':')?;
        let (index, block) = match rest.split_once(':') {
            Some((index, block)) => (index, Some(BlockId::from_hex(block)?)),
            None => (rest, None),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(height) || !digits(index) {
            return None;
        }
        Some(Self { height: height.parse().ok()?, index: index.parse().ok()?, block })
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.height, self.index)?;
        self.block.map_or(Ok(()), |block| write!(f, ":{block}"))
    }
}

impl ChainEvent {
    pub fn id(&self) -> EventId {
        match self {
            Self::Block(found) => EventId { height: found.block.header.height, index: 0, block: Some(found.id) },
            Self::Reorg { height, id, .. } => EventId { height: *height, index: 1, block: Some(*id) },
            Self::Final { told, .. } => EventId { height: told.height, index: 2, block: Some(told.id) },
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

    /// Begins behind the last event that a reader has. The second value is a reorganisation that it has to be told first.
    ///
    /// A block that was replaced is walked back from. One that this server never had (it lost its log, or the event came
    /// from another server) may stand on any branch: then everything is told again from genesis on.
    pub fn behind_event(chronicle: &Chronicle, last: EventId) -> Result<(Self, Option<ChainEvent>), ChronicleError> {
        let Some(block) = last.block else { return Self::behind(chronicle, last.height) };
        match Self::behind_block(chronicle, block) {
            Ok(cursor) => Ok((cursor, None)),
            Err(ResumeError::UnknownBlock(_)) => {
                let start = Self { height: 0, id: chronicle.genesis().block_id() };
                Ok((start, Some(ChainEvent::Reorg { height: 0, id: start.id, undone: vec![block] })))
            }
            Err(ResumeError::Chronicle(error)) => Err(error),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_read_as_they_are_written_and_in_their_short_form() {
        let whole = EventId { height: 10, index: 1, block: Some(BlockId([0xab; 32])) };
        assert_eq!(EventId::parse(&whole.to_string()), Some(whole));
        assert_eq!(EventId::parse("10:1"), Some(EventId { block: None, ..whole }));
        for text in ["", "10", ":", "10:", "10:1:", "10:1:ab", "10:x", "+1:0", "1:-0", &format!("{whole}:")] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }
}
