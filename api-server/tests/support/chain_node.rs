//! A scripted node that serves a chain to followers, as far as the follower's protocol goes.

use std::sync::Arc;

use tokio::sync::watch;
use zeni_consensus::finality::FinalityMessage;
use zeni_consensus::{Evidence, Message, Mode, Status, Verdict};
use zeni_ledger::{BlockId, FinalBlock, VerifiedBatch};
use zeni_schemas::Role;
use zeni_schemas::message::{decode, encode};
use zeni_schemas::request::{NodeInfo, Reply, Request};
use zeni_transport::{Class, Connection, FrameError, FrameSender};

use super::fake_node::{Answer, FakeNode, public};
use super::ledger::{Branch, VALIDATORS, World};

/// Starts the node of validator `seed - 1`, serving whatever branch stands in the channel.
pub(crate) fn start(world: &Arc<World>, seed: u8, branch: watch::Receiver<Branch>) -> FakeNode {
    start_with(world, seed, branch, Has::default())
}

/// As [`start`], without a single batch: a node whose base is the head.
pub(crate) fn start_without_batches(world: &Arc<World>, seed: u8, branch: watch::Receiver<Branch>) -> FakeNode {
    start_with(world, seed, branch, Has { batches: false, ..Has::default() })
}

/// As [`start`], and tells every follower of this evidence.
pub(crate) fn start_with_evidence(
    world: &Arc<World>,
    seed: u8,
    branch: watch::Receiver<Branch>,
    evidence: Vec<Evidence>,
) -> FakeNode {
    start_with(world, seed, branch, Has { evidence, ..Has::default() })
}

/// What a node has besides its blocks.
#[derive(Clone)]
struct Has {
    batches: bool,
    evidence: Vec<Evidence>,
}

impl Default for Has {
    fn default() -> Self {
        Self { batches: true, evidence: Vec::new() }
    }
}

fn start_with(world: &Arc<World>, seed: u8, branch: watch::Receiver<Branch>, has: Has) -> FakeNode {
    let (genesis, told) = (world.id, branch.clone());
    let script = move |request: &Request| match request {
        Request::Submit(payments) => {
            Answer::Reply(Reply::Submitted(vec![Verdict::Accepted { copies: 1 }; payments.len()]))
        }
        Request::Pending(ids) => Answer::Reply(Reply::Pending(vec![0; ids.len()])),
        Request::Node => {
            let branch = told.borrow();
            Answer::Reply(Reply::Node(NodeInfo {
                genesis,
                key: public(seed),
                boot: 1,
                mode: Mode::Active,
                height: branch.height(),
                slot: 0,
                head: branch.tip,
                state_root: branch.state.root(),
                pending: 0,
                live: 1,
                version: "scripted".into(),
            }))
        }
        Request::Account(_) | Request::Snapshot { .. } | Request::SnapshotPage { .. } => Answer::Nothing,
    };
    FakeNode::start_with(seed, world.id, script, move |connection| {
        let (branch, has) = (branch.clone(), has.clone());
        Box::pin(async move {
            if connection.role() == Role::Follower {
                // The follower left, or the test ended.
                serve(&connection, seed, branch, has).await.ok();
            }
        })
    })
}

async fn serve(
    connection: &Connection,
    seed: u8,
    mut branch: watch::Receiver<Branch>,
    has: Has,
) -> Result<(), FrameError> {
    let mut control = connection.open_frames(Class::Control).await?;
    let mut bulk = connection.open_frames(Class::Bulk).await?;
    tell(&mut control, seed, &branch).await?;
    for piece in has.evidence {
        control.send(encode::<VerifiedBatch>(&Message::Evidence(Box::new(piece)))).await?;
    }
    let mut questions = connection.accept_frames().await?;
    loop {
        tokio::select! {
            changed = branch.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                tell(&mut control, seed, &branch).await?;
            }
            question = questions.recv() => {
                let Some(frame) = question? else { return Ok(()) };
                let now = branch.borrow().clone();
                match decode(&frame).unwrap() {
                    Message::FetchBatches(digests) if !has.batches => {
                        control.send(encode::<VerifiedBatch>(&Message::Missing(digests))).await?;
                    }
                    question => answer(question, &now, &mut control, &mut bulk).await?,
                }
            }
        }
    }
}

async fn tell(control: &mut FrameSender, seed: u8, branch: &watch::Receiver<Branch>) -> Result<(), FrameError> {
    let status = {
        let branch = branch.borrow();
        Status {
            validator: zeni_ledger::ValidatorIndex(u16::from(seed) - 1),
            boot: 1,
            nonce: 1,
            echoes: Vec::new(),
            mode: Mode::Active,
            head: branch.tip,
            height: branch.height(),
            slot: branch.blocks.last().map_or(0, |applied| applied.block.header.slot),
            weight: u128::from(branch.height()) * u128::from(VALIDATORS),
            pool: 0,
            decision: branch.certified.as_ref().map_or(0, |certificate| certificate.decision),
            last_final: branch
                .certified
                .as_ref()
                .map_or(FinalBlock { id: branch.tip, height: 0 }, |certificate| certificate.block),
        }
    };
    control.send(encode::<VerifiedBatch>(&Message::Status(status))).await?;
    let certified = branch.borrow().certified.clone();
    if let Some(certificate) = certified {
        let message = Message::Finality(Box::new(FinalityMessage::Commit(certificate)));
        control.send(encode::<VerifiedBatch>(&message)).await?;
    }
    Ok(())
}

async fn answer(
    question: Message<zeni_ledger::Batch>,
    branch: &Branch,
    control: &mut FrameSender,
    bulk: &mut FrameSender,
) -> Result<(), FrameError> {
    match question {
        Message::FetchBlocks { locator } => {
            let place = |id: &BlockId| branch.blocks.iter().position(|applied| applied.id == *id);
            let from = locator.iter().find_map(place).map_or(0, |place| place + 1);
            let blocks = branch.blocks[from..].iter().take(64).map(|applied| applied.block.clone()).collect();
            control.send(encode::<VerifiedBatch>(&Message::Blocks(blocks))).await
        }
        Message::FetchBatches(digests) => {
            for batch in branch.blocks.iter().flat_map(|applied| &applied.batches) {
                if digests.contains(&batch.digest()) {
                    bulk.send(encode(&Message::Batch(batch.clone()))).await?;
                }
            }
            Ok(())
        }
        other => panic!("a follower in step does not ask {other:?}"),
    }
}
