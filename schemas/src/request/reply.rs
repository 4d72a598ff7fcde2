//! [`Reply`]s as frames.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use zeni_consensus::Verdict;
use zeni_consensus::snapshot::{Manifest, PAGE_BYTES_MAX};
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::account::ACCOUNT_BYTES_MAX;
use zeni_ledger::{BlockId, GenesisId, PublicKey, StateRoot};

use super::verdict::{decode_verdict, encode_verdict};
use super::{
    ANSWER_BYTES_MAX, AccountInfo, NodeInfo, PROOF_BYTES_MAX, REASON_BYTES_MAX, REPLY, Reply, RequestError,
    STATUS_IDS_MAX, VERSION_BYTES_MAX,
};
use crate::convert::{byte_vector, mode, mode_code};
use crate::error::WireError;
use crate::frame::{builder, check_bytes, check_count};
use crate::generated::zeni::wire;

const VERDICT_BYTES: usize = 12 + 32;

/// Writes one reply. Texts beyond their limits are cut.
///
/// # Panics
/// If verdicts, counts, an account, a proof or a page are beyond the limits of their requests.
pub fn encode_reply(reply: &Reply) -> Vec<u8> {
    let mut builder = builder(match reply {
        Reply::Submitted(verdicts) => verdicts.len() * VERDICT_BYTES,
        Reply::Node(_) | Reply::Refused(_) => REASON_BYTES_MAX,
        Reply::Account(info) => info.account.as_ref().map_or(0, Vec::len) + info.proof.len(),
        Reply::Pending(copies) => copies.len() * 2,
        Reply::Snapshot(manifest) => manifest.pages() * 32,
        Reply::SnapshotPage(records) => records.len(),
    });
    let (body_type, body) = encode_body(&mut builder, reply);
    let root = wire::Reply::create(&mut builder, &wire::ReplyArgs { body_type, body: Some(body) });
    REPLY.finish(builder, root)
}

fn encode_body(builder: &mut FlatBufferBuilder<'_>, reply: &Reply) -> (wire::ReplyBody, WIPOffset<UnionWIPOffset>) {
    match reply {
        Reply::Submitted(verdicts) => (wire::ReplyBody::Submitted, encode_verdicts(builder, verdicts)),
        Reply::Node(info) => (wire::ReplyBody::NodeInfo, encode_node(builder, info)),
        Reply::Account(info) => (wire::ReplyBody::AccountInfo, encode_account(builder, info)),
        Reply::Pending(copies) => {
            assert!(copies.len() <= STATUS_IDS_MAX, "at most {STATUS_IDS_MAX} ids are asked at once");
            let copies = Some(builder.create_vector(copies));
            let table = wire::Pending::create(builder, &wire::PendingArgs { copies });
            (wire::ReplyBody::Pending, table.as_union_value())
        }
        Reply::Refused(error) => (wire::ReplyBody::Refused, encode_error(builder, error)),
        Reply::Snapshot(manifest) => {
            let manifest = Some(byte_vector(builder, &manifest.to_bytes()));
            let table = wire::Snapshot::create(builder, &wire::SnapshotArgs { manifest });
            (wire::ReplyBody::Snapshot, table.as_union_value())
        }
        Reply::SnapshotPage(records) => {
            assert!(records.len() <= PAGE_BYTES_MAX, "a page is at most {PAGE_BYTES_MAX} bytes long");
            let records = Some(byte_vector(builder, records));
            let table = wire::SnapshotPage::create(builder, &wire::SnapshotPageArgs { records });
            (wire::ReplyBody::SnapshotPage, table.as_union_value())
        }
    }
}

fn encode_verdicts(builder: &mut FlatBufferBuilder<'_>, verdicts: &[Verdict]) -> WIPOffset<UnionWIPOffset> {
    assert!(verdicts.len() <= SUBMISSION_PAYMENTS_MAX, "a verdict answers a payment");
    let mut pending = Vec::new();
    let verdicts: Vec<wire::Verdict> = verdicts.iter().map(|verdict| encode_verdict(verdict, &mut pending)).collect();
    let args = wire::SubmittedArgs {
        verdicts: Some(builder.create_vector(&verdicts)),
        pending: Some(builder.create_vector(&pending)),
    };
    wire::Submitted::create(builder, &args).as_union_value()
}

fn encode_node(builder: &mut FlatBufferBuilder<'_>, info: &NodeInfo) -> WIPOffset<UnionWIPOffset> {
    let args = wire::NodeInfoArgs {
        genesis: Some(&wire::Bytes32(info.genesis.0)),
        key: Some(&wire::Bytes32(info.key.0)),
        boot: info.boot,
        mode: mode_code(info.mode),
        height: info.height,
        slot: info.slot,
        head: Some(&wire::Bytes32(info.head.0)),
        state_root: Some(&wire::Bytes32(info.state_root.0)),
        pending: info.pending,
        live: info.live,
        version: Some(builder.create_string(cut(&info.version, VERSION_BYTES_MAX))),
    };
    wire::NodeInfo::create(builder, &args).as_union_value()
}

fn encode_account(builder: &mut FlatBufferBuilder<'_>, info: &AccountInfo) -> WIPOffset<UnionWIPOffset> {
    assert!(info.proof.len() <= PROOF_BYTES_MAX, "a proof is at most {PROOF_BYTES_MAX} bytes long");
    if let Some(account) = &info.account {
        assert!(account.len() <= ACCOUNT_BYTES_MAX, "an account is at most {ACCOUNT_BYTES_MAX} bytes long");
    }
    let args = wire::AccountInfoArgs {
        height: info.height,
        head: Some(&wire::Bytes32(info.head.0)),
        state_root: Some(&wire::Bytes32(info.state_root.0)),
        account: info.account.as_ref().map(|account| byte_vector(builder, account)),
        proof: Some(byte_vector(builder, &info.proof)),
    };
    wire::AccountInfo::create(builder, &args).as_union_value()
}

fn encode_error(builder: &mut FlatBufferBuilder<'_>, error: &RequestError) -> WIPOffset<UnionWIPOffset> {
    let args = match error {
        RequestError::Overloaded { retry_after_ms } => wire::RefusedArgs {
            code: wire::RefusalCode::Overloaded,
            retry_after_ms: *retry_after_ms,
            ..Default::default()
        },
        RequestError::Forbidden => wire::RefusedArgs { code: wire::RefusalCode::Forbidden, ..Default::default() },
        RequestError::Malformed(reason) => wire::RefusedArgs {
            code: wire::RefusalCode::Malformed,
            reason: Some(builder.create_string(cut(reason, REASON_BYTES_MAX))),
            ..Default::default()
        },
        RequestError::Stopping => wire::RefusedArgs { code: wire::RefusalCode::Stopping, ..Default::default() },
        RequestError::NotHere => wire::RefusedArgs { code: wire::RefusalCode::NotHere, ..Default::default() },
    };
    wire::Refused::create(builder, &args).as_union_value()
}

/// The longest start of `text` that has at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Reads one reply. Whether it answers the request is for the caller to say, so are accounts and proofs.
///
/// # Errors
/// [`WireError`] if the bytes are no reply or beyond a limit.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, WireError> {
    let root = REPLY.root::<wire::Reply<'_>>(bytes)?;
    if let Some(table) = root.body_as_snapshot() {
        let manifest = Manifest::from_bytes(table.manifest().bytes());
        return manifest
            .map(Reply::Snapshot)
            .map_err(|source| WireError::Contents { what: "manifest of a snapshot", source });
    }
    if let Some(table) = root.body_as_snapshot_page() {
        check_bytes("page of a snapshot", table.records().len(), PAGE_BYTES_MAX)?;
        return Ok(Reply::SnapshotPage(table.records().bytes().to_vec()));
    }
    check_bytes("reply", bytes.len(), ANSWER_BYTES_MAX)?;
    if let Some(table) = root.body_as_submitted() {
        let (verdicts, pending) = (table.verdicts(), table.pending());
        check_count("verdicts of a reply", verdicts.len(), SUBMISSION_PAYMENTS_MAX)?;
        let verdicts = verdicts.iter().map(|verdict| decode_verdict(verdict, &pending));
        return verdicts.collect::<Result<_, _>>().map(Reply::Submitted);
    }
    if let Some(table) = root.body_as_node_info() {
        return decode_node(&table).map(Reply::Node);
    }
    if let Some(table) = root.body_as_account_info() {
        return decode_account(&table).map(Reply::Account);
    }
    if let Some(table) = root.body_as_pending() {
        check_count("counts of a reply", table.copies().len(), STATUS_IDS_MAX)?;
        return Ok(Reply::Pending(table.copies().iter().collect()));
    }
    if let Some(table) = root.body_as_refused() {
        return decode_error(&table).map(Reply::Refused);
    }
    Err(WireError::UnknownCode { what: "reply", found: u32::from(root.body_type().0) })
}

fn decode_node(table: &wire::NodeInfo<'_>) -> Result<NodeInfo, WireError> {
    check_bytes("version of a node", table.version().len(), VERSION_BYTES_MAX)?;
    Ok(NodeInfo {
        genesis: GenesisId(table.genesis().0),
        key: PublicKey(table.key().0),
        boot: table.boot(),
        mode: mode(table.mode())?,
        height: table.height(),
        slot: table.slot(),
        head: BlockId(table.head().0),
        state_root: StateRoot(table.state_root().0),
        pending: table.pending(),
        live: table.live(),
        version: table.version().to_owned(),
    })
}

fn decode_account(table: &wire::AccountInfo<'_>) -> Result<AccountInfo, WireError> {
    let (account, proof) = (table.account().map(|account| account.bytes()), table.proof().bytes());
    check_bytes("account of a reply", account.map_or(0, <[u8]>::len), ACCOUNT_BYTES_MAX)?;
    check_bytes("proof of a reply", proof.len(), PROOF_BYTES_MAX)?;
    Ok(AccountInfo {
        height: table.height(),
        head: BlockId(table.head().0),
        state_root: StateRoot(table.state_root().0),
        account: account.map(<[u8]>::to_vec),
        proof: proof.to_vec(),
    })
}

fn decode_error(table: &wire::Refused<'_>) -> Result<RequestError, WireError> {
    match table.code() {
        wire::RefusalCode::Overloaded => Ok(RequestError::Overloaded { retry_after_ms: table.retry_after_ms() }),
        wire::RefusalCode::Forbidden => Ok(RequestError::Forbidden),
        wire::RefusalCode::Malformed => {
            let reason = table.reason().unwrap_or_default();
            check_bytes("reason of a refusal", reason.len(), REASON_BYTES_MAX)?;
            Ok(RequestError::Malformed(reason.to_owned()))
        }
        wire::RefusalCode::Stopping => Ok(RequestError::Stopping),
        wire::RefusalCode::NotHere => Ok(RequestError::NotHere),
        other => Err(WireError::UnknownCode { what: "refusal", found: u32::from(other.0) }),
    }
}
