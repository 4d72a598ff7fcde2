//! [`Message`]s as frames.
//!
//! The core keeps every message within its own constants; [`encode`] asserts that, [`decode`] checks it.

use std::sync::Arc;

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, Vector, WIPOffset};
use zeni_consensus::evidence::EVIDENCE_BYTES_MAX;
use zeni_consensus::finality::FinalityMessage;
use zeni_consensus::finality::message::FINALITY_MESSAGE_BYTES_MAX;
use zeni_consensus::message::{
    FETCH_BATCHES_MAX, LOCATOR_MAX, MESSAGE_BLOCKS_BYTES_MAX, MESSAGE_BLOCKS_MAX, MESSAGE_DIGESTS_MAX, Status,
    VALIDATORS_MAX,
};
use zeni_consensus::{Evidence, Message};
use zeni_ledger::batch::BATCH_BYTES_MAX;
use zeni_ledger::block::BLOCK_BYTES_MAX;
use zeni_ledger::{Batch, BatchDigest, Block, BlockId, FinalBlock, ValidatorIndex};

use crate::convert::{byte_vector, bytes32_vector, mode, mode_code, read_bytes32};
use crate::error::WireError;
use crate::frame::{ENVELOPE_BYTES, FrameKind, builder, check_bytes, check_count};
use crate::generated::zeni::wire;

/// Bytes of the longest frame with a [`Message::Batch`].
pub const BATCH_FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + ENVELOPE_BYTES;
/// Bytes of the longest frame with any other message: [`Message::Blocks`] is the longest.
pub const CONTROL_FRAME_BYTES_MAX: usize = BLOCKS_BYTES_MAX + MESSAGE_BLOCKS_MAX * BLOCK_TABLE_BYTES + ENVELOPE_BYTES;
/// Bytes of the longest frame with a message of any kind.
pub const MESSAGE_BYTES_MAX: usize = max(BATCH_FRAME_BYTES_MAX, CONTROL_FRAME_BYTES_MAX);

const BLOCKS_BYTES_MAX: usize = max(MESSAGE_BLOCKS_BYTES_MAX, BLOCK_BYTES_MAX);
/// Around each of several blocks: its table, the vector's length, padding, its place in the list.
const BLOCK_TABLE_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;
const ECHO_BYTES: usize = 16;
/// Bytes of most messages about finality and of most evidence; a builder grows for the others.
const FINALITY_BYTES: usize = 512;

const FRAME: FrameKind =
    FrameKind { what: "message", bytes_max: MESSAGE_BYTES_MAX, tables_max: MESSAGE_BLOCKS_MAX + 2, identifier: "ZNMS" };

const fn max(left: usize, right: usize) -> usize {
    if left > right { left } else { right }
}

/// Bytes of the longest frame with this kind of body; `None` for a kind that this build does not know.
const fn frame_bytes_max(body: wire::MessageBody) -> Option<usize> {
    let contents = match body {
        wire::MessageBody::Status => VALIDATORS_MAX * ECHO_BYTES,
        wire::MessageBody::Batch => BATCH_BYTES_MAX,
        wire::MessageBody::Draft => DIGEST_BYTES + MESSAGE_DIGESTS_MAX * DIGEST_BYTES,
        wire::MessageBody::Stored | wire::MessageBody::Pool | wire::MessageBody::Missing => {
            MESSAGE_DIGESTS_MAX * DIGEST_BYTES
        }
        wire::MessageBody::Block => BLOCK_BYTES_MAX,
        wire::MessageBody::FetchBlocks => LOCATOR_MAX * DIGEST_BYTES,
        wire::MessageBody::FetchAncestors => DIGEST_BYTES,
        wire::MessageBody::Blocks => return Some(CONTROL_FRAME_BYTES_MAX),
        wire::MessageBody::FetchBatches => FETCH_BATCHES_MAX * DIGEST_BYTES,
        wire::MessageBody::Finality => FINALITY_MESSAGE_BYTES_MAX,
        wire::MessageBody::Evidence => EVIDENCE_BYTES_MAX,
        _ => return None,
    };
    Some(contents + ENVELOPE_BYTES)
}

/// Something whose canonical bytes are a batch: a verified one inside a node, a plain one elsewhere.
pub trait AsBatch {
    fn as_batch(&self) -> &Batch;
}

impl AsBatch for Batch {
    fn as_batch(&self) -> &Batch {
        self
    }
}

impl AsBatch for zeni_ledger::VerifiedBatch {
    fn as_batch(&self) -> &Batch {
        self.batch()
    }
}

/// Writes one message. A batch costs three copies of its bytes and nothing per payment.
///
/// # Panics
/// If the message is beyond the limits that [`zeni_consensus::message`] names, which no core produces.
pub fn encode<B: AsBatch>(message: &Message<B>) -> Vec<u8> {
    let mut builder = builder(contents_len(message));
    let (kind, body) = encode_body(&mut builder, message);
    let root = wire::Message::create(&mut builder, &wire::MessageArgs { body_type: kind, body: Some(body) });
    FRAME.finish(builder, root)
}

fn contents_len<B: AsBatch>(message: &Message<B>) -> usize {
    match message {
        Message::Status(status) => status.echoes.len() * ECHO_BYTES,
        Message::Batch(batch) => batch.as_batch().encoded_len(),
        Message::Stored(digests)
        | Message::Pool(digests)
        | Message::FetchBatches(digests)
        | Message::Missing(digests) => digests.len() * DIGEST_BYTES,
        Message::Block(block) => block.encoded_len(),
        Message::Draft { digests, .. } => DIGEST_BYTES + digests.len() * DIGEST_BYTES,
        Message::FetchBlocks { locator } => locator.len() * DIGEST_BYTES,
        Message::FetchAncestors { .. } => DIGEST_BYTES,
        Message::Blocks(blocks) => blocks.iter().map(|block| block.encoded_len() + BLOCK_TABLE_BYTES).sum(),
        Message::Finality(_) | Message::Evidence(_) => FINALITY_BYTES,
    }
}

fn encode_body<B: AsBatch>(
    builder: &mut FlatBufferBuilder<'_>,
    message: &Message<B>,
) -> (wire::MessageBody, WIPOffset<UnionWIPOffset>) {
    match message {
        Message::Status(status) => (wire::MessageBody::Status, encode_status(builder, status)),
        Message::Batch(batch) => {
            let bytes = Some(byte_vector(builder, &batch.as_batch().to_bytes()));
            let table = wire::Batch::create(builder, &wire::BatchArgs { bytes });
            (wire::MessageBody::Batch, table.as_union_value())
        }
        Message::Stored(digests) => {
            let digests = Some(digest_vector(builder, digests, MESSAGE_DIGESTS_MAX));
            let table = wire::Stored::create(builder, &wire::StoredArgs { digests });
            (wire::MessageBody::Stored, table.as_union_value())
        }
        Message::Pool(digests) => {
            let digests = Some(digest_vector(builder, digests, MESSAGE_DIGESTS_MAX));
            let table = wire::Pool::create(builder, &wire::PoolArgs { digests });
            (wire::MessageBody::Pool, table.as_union_value())
        }
        Message::Block(block) => (wire::MessageBody::Block, encode_block(builder, block).as_union_value()),
        Message::Draft { slot, parent, start, digests } => {
            let digests = Some(digest_vector(builder, digests, MESSAGE_DIGESTS_MAX));
            let parent = Some(&wire::Bytes32(parent.0));
            let table = wire::Draft::create(builder, &wire::DraftArgs { slot: *slot, parent, start: *start, digests });
            (wire::MessageBody::Draft, table.as_union_value())
        }
        Message::FetchBlocks { locator } => {
            assert!(locator.len() <= LOCATOR_MAX, "a locator has at most {LOCATOR_MAX} ids");
            let locator = Some(bytes32_vector(builder, locator, BlockId::as_bytes));
            let table = wire::FetchBlocks::create(builder, &wire::FetchBlocksArgs { locator });
            (wire::MessageBody::FetchBlocks, table.as_union_value())
        }
        Message::FetchAncestors { id, known_height } => {
            let args = wire::FetchAncestorsArgs { id: Some(&wire::Bytes32(id.0)), known_height: *known_height };
            let table = wire::FetchAncestors::create(builder, &args);
            (wire::MessageBody::FetchAncestors, table.as_union_value())
        }
        Message::Blocks(blocks) => (wire::MessageBody::Blocks, encode_blocks(builder, blocks)),
        Message::FetchBatches(digests) => {
            let digests = Some(digest_vector(builder, digests, FETCH_BATCHES_MAX));
            let table = wire::FetchBatches::create(builder, &wire::FetchBatchesArgs { digests });
            (wire::MessageBody::FetchBatches, table.as_union_value())
        }
        Message::Missing(digests) => {
            let digests = Some(digest_vector(builder, digests, MESSAGE_DIGESTS_MAX));
            let table = wire::Missing::create(builder, &wire::MissingArgs { digests });
            (wire::MessageBody::Missing, table.as_union_value())
        }
        Message::Finality(message) => {
            let bytes = Some(byte_vector(builder, &message.to_bytes()));
            let table = wire::Finality::create(builder, &wire::FinalityArgs { bytes });
            (wire::MessageBody::Finality, table.as_union_value())
        }
        Message::Evidence(evidence) => {
            let bytes = Some(byte_vector(builder, &evidence.to_bytes()));
            let table = wire::Evidence::create(builder, &wire::EvidenceArgs { bytes });
            (wire::MessageBody::Evidence, table.as_union_value())
        }
    }
}

fn digest_vector<'a>(
    builder: &mut FlatBufferBuilder<'a>,
    digests: &[BatchDigest],
    limit: usize,
) -> WIPOffset<Vector<'a, wire::Bytes32>> {
    assert!(digests.len() <= limit, "this message has at most {limit} digests, not {}", digests.len());
    bytes32_vector(builder, digests, BatchDigest::as_bytes)
}

fn encode_status(builder: &mut FlatBufferBuilder<'_>, status: &Status) -> WIPOffset<UnionWIPOffset> {
    assert!(status.echoes.len() <= VALIDATORS_MAX, "a status echoes at most {VALIDATORS_MAX} validators");
    let echoes = status.echoes.iter().map(|(validator, nonce)| wire::Echo::new(*nonce, validator.0));
    let echoes = builder.create_vector_from_iter(echoes);
    let args = wire::StatusArgs {
        validator: status.validator.0,
        boot: status.boot,
        nonce: status.nonce,
        echoes: Some(echoes),
        mode: mode_code(status.mode),
        head: Some(&wire::Bytes32(status.head.0)),
        height: status.height,
        slot: status.slot,
        weight_low: status.weight as u64,
        weight_high: (status.weight >> 64) as u64,
        pool: status.pool,
        decision: status.decision,
        final_height: status.last_final.height,
        final_block: Some(&wire::Bytes32(status.last_final.id.0)),
    };
    wire::Status::create(builder, &args).as_union_value()
}

fn encode_block<'a>(builder: &mut FlatBufferBuilder<'a>, block: &Block) -> WIPOffset<wire::Block<'a>> {
    let bytes = Some(byte_vector(builder, &block.to_bytes()));
    wire::Block::create(builder, &wire::BlockArgs { bytes })
}

fn encode_blocks(builder: &mut FlatBufferBuilder<'_>, blocks: &[Arc<Block>]) -> WIPOffset<UnionWIPOffset> {
    assert!(blocks.len() <= MESSAGE_BLOCKS_MAX, "at most {MESSAGE_BLOCKS_MAX} blocks go into one message");
    let tables: Vec<_> = blocks.iter().map(|block| encode_block(builder, block)).collect();
    let blocks = Some(builder.create_vector(&tables));
    wire::Blocks::create(builder, &wire::BlocksArgs { blocks }).as_union_value()
}

/// Reads one message. Nobody has vouched for a signature in it yet.
///
/// # Errors
/// [`WireError`] if the bytes are no message or beyond a limit.
pub fn decode(bytes: &[u8]) -> Result<Message<Batch>, WireError> {
    let root = FRAME.root::<wire::Message<'_>>(bytes)?;
    let kind = root.body_type();
    let what = kind.variant_name().unwrap_or("message");
    let unknown = WireError::UnknownCode { what: "message", found: u32::from(kind.0) };
    check_bytes(what, bytes.len(), frame_bytes_max(kind).ok_or_else(|| unknown.clone())?)?;
    decode_body(&root)?.ok_or(unknown)
}

fn decode_body(root: &wire::Message<'_>) -> Result<Option<Message<Batch>>, WireError> {
    let message = if let Some(status) = root.body_as_status() {
        Message::Status(decode_status(&status)?)
    } else if let Some(table) = root.body_as_batch() {
        let batch = Batch::from_bytes(table.bytes().bytes());
        Message::Batch(batch.map_err(|source| WireError::Contents { what: "batch", source })?)
    } else if let Some(table) = root.body_as_stored() {
        Message::Stored(decode_digests(table.digests(), MESSAGE_DIGESTS_MAX)?)
    } else if let Some(table) = root.body_as_pool() {
        Message::Pool(decode_digests(table.digests(), MESSAGE_DIGESTS_MAX)?)
    } else if let Some(table) = root.body_as_block() {
        Message::Block(decode_block(&table)?)
    } else if let Some(table) = root.body_as_draft() {
        let digests = decode_digests(table.digests(), MESSAGE_DIGESTS_MAX)?;
        Message::Draft { slot: table.slot(), parent: BlockId(table.parent().0), start: table.start(), digests }
    } else if let Some(table) = root.body_as_fetch_blocks() {
        check_count("ids of a locator", table.locator().len(), LOCATOR_MAX)?;
        Message::FetchBlocks { locator: read_bytes32(table.locator(), BlockId) }
    } else if let Some(table) = root.body_as_fetch_ancestors() {
        Message::FetchAncestors { id: BlockId(table.id().0), known_height: table.known_height() }
    } else if let Some(table) = root.body_as_blocks() {
        Message::Blocks(decode_blocks(&table)?)
    } else if let Some(table) = root.body_as_fetch_batches() {
        Message::FetchBatches(decode_digests(table.digests(), FETCH_BATCHES_MAX)?)
    } else if let Some(table) = root.body_as_missing() {
        Message::Missing(decode_digests(table.digests(), MESSAGE_DIGESTS_MAX)?)
    } else if let Some(table) = root.body_as_finality() {
        let message = FinalityMessage::from_bytes(table.bytes().bytes());
        let message = message.map_err(|source| WireError::Contents { what: "finality message", source })?;
        Message::Finality(Box::new(message))
    } else if let Some(table) = root.body_as_evidence() {
        let evidence = Evidence::from_bytes(table.bytes().bytes());
        let evidence = evidence.map_err(|source| WireError::Contents { what: "evidence", source })?;
        Message::Evidence(Box::new(evidence))
    } else {
        return Ok(None);
    };
    Ok(Some(message))
}

fn decode_digests(vector: Vector<'_, wire::Bytes32>, limit: usize) -> Result<Vec<BatchDigest>, WireError> {
    check_count("digests of a message", vector.len(), limit)?;
    Ok(read_bytes32(vector, BatchDigest))
}

fn decode_status(table: &wire::Status<'_>) -> Result<Status, WireError> {
    check_count("echoes of a status", table.echoes().len(), VALIDATORS_MAX)?;
    let echoes = table.echoes().iter().map(|echo| (ValidatorIndex(echo.validator()), echo.nonce())).collect();
    Ok(Status {
        validator: ValidatorIndex(table.validator()),
        boot: table.boot(),
        nonce: table.nonce(),
        echoes,
        mode: mode(table.mode())?,
        head: BlockId(table.head().0),
        height: table.height(),
        slot: table.slot(),
        weight: u128::from(table.weight_high()) << 64 | u128::from(table.weight_low()),
        pool: table.pool(),
        decision: table.decision(),
        last_final: FinalBlock { id: BlockId(table.final_block().0), height: table.final_height() },
    })
}

fn decode_block(table: &wire::Block<'_>) -> Result<Arc<Block>, WireError> {
    let block = Block::from_bytes(table.bytes().bytes());
    block.map(Arc::new).map_err(|source| WireError::Contents { what: "block", source })
}

fn decode_blocks(table: &wire::Blocks<'_>) -> Result<Vec<Arc<Block>>, WireError> {
    let blocks = table.blocks();
    check_count("blocks of a message", blocks.len(), MESSAGE_BLOCKS_MAX)?;
    // One table may stand in the list several times, so the sum is not bounded by the frame's length.
    let sum = blocks.iter().map(|block| block.bytes().len()).sum();
    check_bytes("blocks of a message", sum, BLOCKS_BYTES_MAX)?;
    blocks.iter().map(|block| decode_block(&block)).collect()
}
