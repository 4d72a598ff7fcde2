//! [`Request`]s as frames.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use zeni_consensus::snapshot::{PageName, Part};
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{AccountId, BlockId, Payment, TransactionId};

use super::{REQUEST, Request, STATUS_IDS_MAX};
use crate::convert::{bytes32_vector, read_bytes32};
use crate::error::WireError;
use crate::frame::{builder, check_bytes, check_count};
use crate::generated::zeni::wire;

/// Bytes of the longest request that is no submission.
const QUESTION_BYTES_MAX: usize = STATUS_IDS_MAX * 32 + crate::frame::ENVELOPE_BYTES;

/// Writes one request. Payments are copied as they are.
///
/// # Panics
/// If there are more payments or ids than [`Request`] allows; whoever takes them from outside counts first.
pub fn encode_request(request: &Request) -> Vec<u8> {
    let mut builder = builder(match request {
        Request::Submit(payments) => payments.len() * PAYMENT_BYTES,
        Request::Pending(ids) => ids.len() * 32,
        Request::Node | Request::Account(_) | Request::Snapshot { .. } | Request::SnapshotPage { .. } => 64,
    });
    let (body_type, body) = encode_body(&mut builder, request);
    let root = wire::Request::create(&mut builder, &wire::RequestArgs { body_type, body: Some(body) });
    REQUEST.finish(builder, root)
}

fn encode_body(
    builder: &mut FlatBufferBuilder<'_>,
    request: &Request,
) -> (wire::RequestBody, WIPOffset<UnionWIPOffset>) {
    match request {
        Request::Submit(payments) => {
            assert!(payments.len() <= SUBMISSION_PAYMENTS_MAX, "at most {SUBMISSION_PAYMENTS_MAX} payments at once");
            let payments = payments.iter().map(|payment| wire::Payment(*payment.as_bytes()));
            let payments = Some(builder.create_vector_from_iter(payments));
            let table = wire::Submit::create(builder, &wire::SubmitArgs { payments });
            (wire::RequestBody::Submit, table.as_union_value())
        }
        Request::Node => {
            let table = wire::AskNode::create(builder, &wire::AskNodeArgs {});
            (wire::RequestBody::AskNode, table.as_union_value())
        }
        Request::Account(account) => {
            let args = wire::AskAccountArgs { account: Some(&wire::Bytes32(account.0)) };
            (wire::RequestBody::AskAccount, wire::AskAccount::create(builder, &args).as_union_value())
        }
        Request::Pending(ids) => {
            assert!(ids.len() <= STATUS_IDS_MAX, "at most {STATUS_IDS_MAX} ids at once");
            let ids = Some(bytes32_vector(builder, ids, TransactionId::as_bytes));
            let table = wire::AskPending::create(builder, &wire::AskPendingArgs { ids });
            (wire::RequestBody::AskPending, table.as_union_value())
        }
        Request::Snapshot { height_min } => {
            let table = wire::AskSnapshot::create(builder, &wire::AskSnapshotArgs { height_min: *height_min });
            (wire::RequestBody::AskSnapshot, table.as_union_value())
        }
        Request::SnapshotPage { block, page } => {
            let part = match page.part {
                Part::Blocks => wire::SnapshotPart::Blocks,
                Part::Accounts => wire::SnapshotPart::Accounts,
            };
            let block = Some(&wire::Bytes32(block.0));
            let args = wire::AskSnapshotPageArgs { block, part, number: page.number };
            (wire::RequestBody::AskSnapshotPage, wire::AskSnapshotPage::create(builder, &args).as_union_value())
        }
    }
}

/// Reads one request. Payments are counted and copied; nothing in them is judged.
///
/// # Errors
/// [`WireError`] if the bytes are no request or beyond a limit.
pub fn decode_request(bytes: &[u8]) -> Result<Request, WireError> {
    let root = REQUEST.root::<wire::Request<'_>>(bytes)?;
    if let Some(table) = root.body_as_submit() {
        check_count("payments of a submission", table.payments().len(), SUBMISSION_PAYMENTS_MAX)?;
        let payments = Payment::slice_from_bytes(table.payments().bytes());
        return Ok(Request::Submit(payments.expect("a vector of payments is a multiple of their length").to_vec()));
    }
    check_bytes("request", bytes.len(), QUESTION_BYTES_MAX)?;
    if root.body_as_ask_node().is_some() {
        return Ok(Request::Node);
    }
    if let Some(table) = root.body_as_ask_account() {
        return Ok(Request::Account(AccountId(table.account().0)));
    }
    if let Some(table) = root.body_as_ask_pending() {
        check_count("ids of a request", table.ids().len(), STATUS_IDS_MAX)?;
        return Ok(Request::Pending(read_bytes32(table.ids(), TransactionId)));
    }
    if let Some(table) = root.body_as_ask_snapshot() {
        return Ok(Request::Snapshot { height_min: table.height_min() });
    }
    if let Some(table) = root.body_as_ask_snapshot_page() {
        let part = match table.part() {
            wire::SnapshotPart::Blocks => Part::Blocks,
            wire::SnapshotPart::Accounts => Part::Accounts,
            other => return Err(WireError::UnknownCode { what: "part of a snapshot", found: u32::from(other.0) }),
        };
        let page = PageName { part, number: table.number() };
        return Ok(Request::SnapshotPage { block: BlockId(table.block().0), page });
    }
    Err(WireError::UnknownCode { what: "request", found: u32::from(root.body_type().0) })
}
