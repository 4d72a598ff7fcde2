//! Answers from the core's state.

use zeni_consensus::Core;
use zeni_ledger::AccountId;
use zeni_ledger::encoding::Encoder;
use zeni_ledger::proof::prove;
use zeni_schemas::request::{AccountInfo, NodeInfo, Reply};

use crate::core_queue::Question;
use crate::core_thread::Identity;

/// Answers one question as of the canonical head.
pub fn answer(core: &Core, identity: &Identity, question: &Question) -> Reply {
    match question {
        Question::Node => Reply::Node(node(core, identity)),
        Question::Account(id) => Reply::Account(account(core, id)),
        Question::Pending(ids) => Reply::Pending(ids.iter().map(|id| core.pending_copies(id)).collect()),
    }
}

fn node(core: &Core, identity: &Identity) -> NodeInfo {
    let status = core.status();
    NodeInfo {
        genesis: identity.genesis.id(),
        key: identity.key,
        boot: identity.boot,
        mode: status.mode,
        height: status.height,
        slot: status.slot,
        head: status.head,
        state_root: core.state().root(),
        pending: core.pending_payments(),
        live: core.live_validators(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

fn account(core: &Core, id: &AccountId) -> AccountInfo {
    let (status, state) = (core.status(), core.state());
    let account = state.account(id).map(|account| {
        let mut encoder = Encoder::default();
        account.encode(&mut encoder);
        encoder.finish()
    });
    AccountInfo {
        height: status.height,
        head: status.head,
        state_root: state.root(),
        account,
        proof: prove(state, id).to_bytes(),
    }
}
