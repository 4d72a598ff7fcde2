//! What observers are told: each event of the core as metrics and log lines, after it is on disk.

use metrics::{counter, gauge, histogram};
use tracing::{debug, error, info, warn};
use zeni_consensus::{Applied, ChainChange, Event, Mode};
use zeni_ledger::{BlockId, CommitCertificate, Outcome, Rejection};

/// Every mode and its name, as metrics and logs show it.
pub const MODES: [(Mode, &str); 4] = [
    (Mode::Joining, "joining"),
    (Mode::Syncing, "syncing"),
    (Mode::Active, "active"),
    (Mode::FollowOnly, "follow_only"),
];

/// The name of a mode.
pub fn mode_name(mode: Mode) -> &'static str {
    MODES.iter().find(|(known, _)| *known == mode).map_or("unknown", |(_, name)| name)
}

/// Counts and logs one event.
pub fn observe(event: &Event) {
    match event {
        Event::Chain(change) => chain(change),
        Event::Mode(mode) => {
            show_mode(*mode);
            info!(mode = mode_name(*mode), "mode");
        }
        Event::Proposed { block, height, slot, batches } => {
            counter!("zeni_blocks_proposed_total").increment(1);
            debug!(%block, height, slot, batches, "proposed");
        }
        Event::Misbehaviour { peer, what } => {
            counter!("zeni_misbehaviour_total", "kind" => *what).increment(1);
            warn!(?peer, what, "misbehaviour");
        }
        Event::BadBatch { author, digest, .. } => {
            counter!("zeni_misbehaviour_total", "kind" => "bad_batch").increment(1);
            error!(%author, %digest, "evidence: a validator signed a batch with a bad payment signature");
        }
        Event::Equivocation { proposer, slot, first, second, .. } => {
            counter!("zeni_misbehaviour_total", "kind" => "equivocation").increment(1);
            error!(%proposer, slot, %first, %second, "evidence: a validator signed two blocks for one slot");
        }
        Event::Final(certificate) => {
            let CommitCertificate { decision, round, block, signatures } = certificate;
            gauge!("zeni_final_height").set(block.height as f64);
            counter!("zeni_decisions_total").increment(1);
            counter!("zeni_decision_rounds_total").increment(u64::from(*round) + 1);
            info!(decision, round, height = block.height, block = %block.id, signatures = signatures.len(), "final");
        }
        Event::DoubleSigning(evidence) => {
            counter!("zeni_misbehaviour_total", "kind" => "double_vote").increment(1);
            error!(signer = %evidence.signer(), ?evidence, "evidence: a validator signed twice in one round");
        }
        Event::VotesForgotten(refused) => {
            counter!("zeni_votes_forgotten_total").increment(1);
            error!(%refused, "the log lost a vote of this validator: it votes again once every validator was heard");
        }
        Event::InvalidBlock { block, proposer } => {
            counter!("zeni_misbehaviour_total", "kind" => "invalid_block").increment(1);
            error!(%block, %proposer, "evidence: a validator signed a block whose roots its execution does not give");
        }
    }
}

/// Sets the gauge of each mode: 1 for the present one.
pub fn show_mode(mode: Mode) {
    for (known, name) in MODES {
        gauge!("zeni_mode", "mode" => name).set(if known == mode { 1.0 } else { 0.0 });
    }
}

fn chain(change: &ChainChange) {
    if !change.undone.is_empty() {
        let depth = change.undone.len();
        counter!("zeni_reorgs_total").increment(1);
        histogram!("zeni_reorg_depth").record(depth as f64);
        let from: Option<&BlockId> = change.undone.first();
        warn!(depth, from = from.map(tracing::field::display), "reorganisation");
    }
    for applied in &change.applied {
        block(applied);
    }
}

fn block(applied: &Applied) {
    let (header, executed) = (&applied.block.header, &applied.executed);
    counter!("zeni_blocks_total").increment(1);
    counter!("zeni_payments_included_total").increment(executed.applied);
    counter!("zeni_payments_skipped_total").increment(executed.skipped);
    for rejection in Rejection::ALL {
        let rejected = Outcome::Rejected(rejection);
        let count = executed.receipts.iter().filter(|receipt| receipt.outcome == rejected).count();
        if count > 0 {
            counter!("zeni_payments_rejected_total", "reason" => rejection.code()).increment(count as u64);
        }
    }
    info!(
        height = header.height,
        slot = header.slot,
        block = %applied.id,
        proposer = %header.proposer,
        rank = header.rank,
        batches = applied.batches.len(),
        applied = executed.applied,
        rejected = executed.rejected,
        skipped = executed.skipped,
        "block"
    );
}
