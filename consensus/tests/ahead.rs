//! Execution ahead of the slot: what a draft brings about, and what it cannot.

#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod cluster;

use cluster::{Cluster, Disk, INTERVAL_MS, payment};
use zeni_consensus::schedule::Schedule;
use zeni_consensus::{Effect, Event, Follower, Input, Message, Millis, Peer, Record, Recovered};
use zeni_ledger::{BatchDigest, BlockId, ValidatorIndex};

const NODES: u16 = 3;

/// A cluster in the middle of a slot whose block is there, and who will propose in the next one.
fn in_mid_slot() -> (Cluster, u16) {
    let mut cluster = Cluster::start(NODES);
    cluster.run_slots(4);
    let into_slot = (cluster.now.0 - cluster.genesis.slot_time_ms(0)) % INTERVAL_MS;
    cluster.run(INTERVAL_MS + INTERVAL_MS / 4 - into_slot);
    let slot = cluster.genesis.slot_at(cluster.now.0);
    assert_eq!(cluster.core(0).status().slot, slot, "the slot has its block");
    let proposer = Schedule::new(&cluster.genesis).order(slot + 1)[0];
    (cluster, proposer.0)
}

fn pay(cluster: &mut Cluster, node: u16, payer: u8) {
    let pay = payment(&cluster.genesis, payer, payer + 1, 0, 10);
    cluster.submit(node, &[pay]);
    cluster.run(40);
}

/// What node `node` has executed ahead for the next slot.
fn ahead(cluster: &Cluster, node: u16) -> Vec<BatchDigest> {
    cluster.core(node).executed_ahead().map_or(Vec::new(), |(_, batches)| batches.to_vec())
}

fn draft(cluster: &mut Cluster, to: u16, from: u16, start: u32, digests: Vec<BatchDigest>) {
    let slot = cluster.genesis.slot_at(cluster.now.0) + 1;
    let parent = cluster.core(to).status().head;
    let message = Message::Draft { slot, parent, start, digests };
    cluster.give(to, Input::Message { from: Peer::Validator(ValidatorIndex(from)), message });
}

fn pooled(cluster: &Cluster, node: u16) -> Vec<BatchDigest> {
    cluster.nodes[usize::from(node)].disk.batch_order.iter().map(|meta| meta.digest).collect()
}

#[test]
fn all_execute_what_the_next_proposer_will_list_and_the_block_is_that() {
    let (mut cluster, proposer) = in_mid_slot();
    for payer in 0..6 {
        pay(&mut cluster, u16::from(payer) % NODES, payer * 2);
    }
    cluster.run(100);
    let drafted = ahead(&cluster, proposer);
    assert_eq!(drafted.len(), 6, "everything that waits");
    assert!((0..NODES).all(|node| ahead(&cluster, node) == drafted));
    let (height, root) = (cluster.height(0), cluster.core(0).state().root());
    assert_eq!(cluster.balance(0, 0), 1_000, "the state is that of the head");
    cluster.run_slots(1);
    let block = cluster.nodes[0].disk.blocks.iter().find(|block| block.header.height == height + 1).unwrap();
    assert_eq!((block.header.proposer.0, &block.digests), (proposer, &drafted));
    assert!(cluster.agree() && cluster.core(0).state().root() != root);
    assert_eq!((cluster.balance(0, 0), cluster.balance(0, 1)), (990, 1_010));
}

/// What it executed on its old head would be in vain, and what it lacks of the heavier chain would wait for that.
#[test]
fn who_hears_of_a_heavier_chain_executes_nothing_ahead_on_its_own_but_not_for_ever() {
    let (mut cluster, proposer) = in_mid_slot();
    let other = (0..NODES).find(|node| *node != proposer).unwrap();
    let mut status = cluster.core(other).status();
    (status.head, status.height, status.weight) = (BlockId([9; 32]), status.height + 1, status.weight + 1);
    cluster.silence(proposer, other);
    let message = Message::Status(status);
    cluster.give(proposer, Input::Message { from: Peer::Validator(ValidatorIndex(other)), message });
    pay(&mut cluster, proposer, 0);
    cluster.run(100);
    assert_eq!(ahead(&cluster, proposer), []);
    cluster.run_slots(5);
    assert_eq!(cluster.balance(proposer, 1), 1_010, "nobody delivered that chain");
}

#[test]
fn a_block_that_is_not_what_was_drafted_is_executed_all_the_same() {
    let (mut cluster, proposer) = in_mid_slot();
    let victim = (0..NODES).find(|node| *node != proposer).unwrap();
    // Nothing of the true draft reaches it; what it hears has another order.
    cluster.cut(proposer, victim);
    for payer in [0, 2, 4] {
        pay(&mut cluster, victim, payer);
    }
    let mut turned: Vec<_> = pooled(&cluster, victim);
    turned.reverse();
    cluster.heal();
    cluster.run(100);
    draft(&mut cluster, victim, proposer, 0, turned.clone());
    assert_eq!(ahead(&cluster, victim), turned);
    cluster.run_slots(2);
    assert!(cluster.agree());
    assert!((0..NODES).all(|node| cluster.balance(node, 1) == 1_010 && cluster.balance(node, 5) == 1_010));
    let invalid = |event: &Event| matches!(event, Event::InvalidBlock { .. });
    assert!(!cluster.nodes.iter().any(|node| node.events.iter().any(invalid)));
}

#[test]
fn a_draft_is_followed_up_to_the_first_batch_that_no_block_may_list() {
    let (mut cluster, proposer) = in_mid_slot();
    let victim = (0..NODES).find(|node| *node != proposer).unwrap();
    pay(&mut cluster, victim, 0);
    cluster.run_slots(1);
    let listed = pooled(&cluster, victim)[0];
    let slot = cluster.genesis.slot_at(cluster.now.0);
    let proposer = Schedule::new(&cluster.genesis).order(slot + 1)[0].0;
    let victim = (0..NODES).find(|node| *node != proposer).unwrap();
    cluster.cut(proposer, victim);
    pay(&mut cluster, victim, 2);
    pay(&mut cluster, victim, 4);
    let waiting = pooled(&cluster, victim)[1..].to_vec();
    for (told, executed) in [
        (vec![waiting[0], waiting[0], waiting[1]], 1),
        (vec![waiting[1], listed, waiting[0]], 1),
        (vec![waiting[0], waiting[1], BatchDigest([7; 32])], 2),
    ] {
        draft(&mut cluster, victim, proposer, 0, told.clone());
        assert_eq!(ahead(&cluster, victim), told[..executed]);
    }
    // Whoever proposes on top of it lists nothing that would make its block false.
    cluster.heal();
    cluster.run_slots(3);
    assert!(cluster.agree());
    assert!((0..NODES).all(|node| cluster.balance(node, 3) == 1_010 && cluster.balance(node, 5) == 1_010));
}

#[test]
fn a_draft_with_a_gap_or_for_another_block_or_slot_is_not_followed() {
    let (mut cluster, proposer) = in_mid_slot();
    let victim = (0..NODES).find(|node| *node != proposer).unwrap();
    cluster.cut(proposer, victim);
    for payer in [0, 2] {
        pay(&mut cluster, victim, payer);
    }
    let waiting = pooled(&cluster, victim);
    draft(&mut cluster, victim, proposer, 1, waiting[1..].to_vec());
    assert!(ahead(&cluster, victim).is_empty(), "what comes before is not known");
    let slot = cluster.genesis.slot_at(cluster.now.0) + 1;
    let head = cluster.core(victim).status().head;
    for (slot, parent) in [(slot, BlockId([1; 32])), (slot + 1, head), (slot + 9, head), (slot - 1, head)] {
        let message = Message::Draft { slot, parent, start: 0, digests: waiting.clone() };
        let from = Peer::Validator(ValidatorIndex(proposer));
        cluster.give(victim, Input::Message { from, message });
        assert!(ahead(&cluster, victim).is_empty(), "slot {slot}");
    }
    draft(&mut cluster, victim, proposer, 0, waiting[..1].to_vec());
    draft(&mut cluster, victim, proposer, 1, waiting[1..].to_vec());
    assert_eq!(ahead(&cluster, victim), waiting);
}

#[test]
fn who_stands_in_for_a_dead_proposer_goes_on_with_its_draft() {
    let (mut cluster, proposer) = in_mid_slot();
    for payer in [0, 2, 4] {
        pay(&mut cluster, proposer, payer);
    }
    cluster.run(100);
    let stands_in = (0..NODES).find(|node| *node != proposer).unwrap();
    let drafted = ahead(&cluster, stands_in);
    assert_eq!(drafted.len(), 3);
    let height = cluster.height(stands_in);
    cluster.kill(proposer);
    cluster.run_slots(3);
    let mut blocks = cluster.nodes[usize::from(stands_in)].disk.blocks.iter();
    let block = blocks.rfind(|block| block.header.height == height + 1).unwrap();
    assert_eq!(block.digests, drafted);
    assert_eq!(cluster.balance(stands_in, 5), 1_010);
}

#[test]
fn who_begins_its_draft_again_and_again_is_not_followed_any_more() {
    let (mut cluster, proposer) = in_mid_slot();
    let victim = (0..NODES).find(|node| *node != proposer).unwrap();
    cluster.cut(proposer, victim);
    for payer in [0, 2] {
        pay(&mut cluster, victim, payer);
    }
    let waiting = pooled(&cluster, victim);
    let turned: Vec<_> = waiting.iter().rev().copied().collect();
    for number in 0..20 {
        let told = if number % 2 == 0 { &waiting } else { &turned };
        draft(&mut cluster, victim, proposer, 0, told.clone());
        // The eighth is the last one.
        let followed = if number >= 7 { &turned } else { told };
        assert_eq!(&ahead(&cluster, victim), followed, "draft {number}");
    }
}

#[test]
fn a_follower_executes_ahead_what_its_node_does() {
    let (mut cluster, proposer) = in_mid_slot();
    let node = (0..NODES).find(|node| *node != proposer).unwrap();
    cluster.nodes[usize::from(node)].published.clear();
    let blocks = cluster.nodes[usize::from(node)].disk.blocks.clone();
    let recovered = Recovered::at_genesis(&cluster.genesis, cluster.genesis.state(&cluster.file).unwrap());
    let mut now = cluster.now;
    let (mut follower, _) = Follower::recover(cluster.genesis.clone(), recovered, now).unwrap();
    let mut disk = Disk::default();
    follower.step(now, Input::Tick, &disk);
    let from = Peer::Validator(ValidatorIndex(node));
    for payer in [0, 2, 4] {
        pay(&mut cluster, node, payer);
    }
    cluster.run(100);
    let drafted = ahead(&cluster, node);
    assert_eq!(drafted.len(), 3);
    let mut executed_ahead = 0;
    cluster.run_slots(2);
    now = cluster.now;
    let published = std::mem::take(&mut cluster.nodes[usize::from(node)].published);
    for message in blocks.into_iter().map(Message::Block).chain(published) {
        now = Millis(now.0 + 1);
        for effect in follower.step(now, Input::Message { from, message }, &disk) {
            match effect {
                Effect::Append(Record::Batch(batch)) => {
                    disk.batches.insert(batch.digest(), batch);
                }
                Effect::Append(Record::Block(block)) => {
                    disk.block_ids.insert(block.id(&cluster.genesis.id()), block);
                }
                Effect::AppendUndo { block, undo, .. } => {
                    disk.undos.insert(block, undo);
                }
                _ => {}
            }
        }
        executed_ahead = executed_ahead.max(follower.executed_ahead().len());
    }
    assert_eq!(executed_ahead, drafted.len());
    assert_eq!(follower.head().1, cluster.height(node));
    assert_eq!(follower.state().root(), cluster.core(node).state().root());
}

/// One validator, started anew while six batches of a payment each wait, just after a slot began: it drafted nothing.
fn started_with_six_batches() -> Cluster {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(2);
    let into_slot = (cluster.now.0 - cluster.genesis.slot_time_ms(0)) % INTERVAL_MS;
    cluster.run(INTERVAL_MS + 10 - into_slot);
    for payer in 0..6 {
        pay(&mut cluster, 0, payer * 2);
    }
    cluster.run(150);
    assert_eq!(pooled(&cluster, 0).len(), 6);
    cluster.kill(0);
    let slot = cluster.genesis.slot_at(cluster.now.0);
    cluster.now = Millis(cluster.genesis.slot_time_ms(slot + 1) + 1);
    cluster.boot(0);
    cluster
}

/// Lets it look every `pace_ms` until it has a block more. How many batches it had executed ahead after each step.
fn steps_until_block(cluster: &mut Cluster, pace_ms: u64) -> Vec<usize> {
    let height = cluster.nodes[0].disk.blocks.len();
    let mut steps = Vec::new();
    while cluster.nodes[0].disk.blocks.len() == height {
        assert!(steps.len() < 100, "no block: {steps:?}");
        cluster.now = cluster.now + pace_ms;
        cluster.give(0, Input::Tick);
        steps.push(ahead(cluster, 0).len());
    }
    steps
}

#[test]
fn a_proposer_executes_what_was_not_drafted_step_by_step_and_lists_it() {
    let mut cluster = started_with_six_batches();
    let steps = steps_until_block(&mut cluster, 1);
    assert!(steps.windows(2).all(|pair| pair[1] <= pair[0] + 2), "more than a step's worth at once: {steps:?}");
    assert!(steps.contains(&4), "{steps:?}");
    let block = cluster.nodes[0].disk.blocks.last().unwrap();
    assert_eq!(block.digests, pooled(&cluster, 0));
    assert_eq!(cluster.balance(0, 11), 1_010);
}

#[test]
fn a_proposer_whose_time_is_half_over_leaves_the_rest_to_the_next_block() {
    let mut cluster = started_with_six_batches();
    steps_until_block(&mut cluster, 200);
    let listed = cluster.nodes[0].disk.blocks.last().unwrap().digests.len();
    assert!((2..6).contains(&listed), "{listed}");
    cluster.run_slots(2);
    let listed: Vec<_> = cluster.nodes[0].disk.blocks.iter().flat_map(|block| block.digests.clone()).collect();
    assert_eq!(listed, pooled(&cluster, 0));
    assert!((0..6).all(|payer| cluster.balance(0, payer * 2 + 1) == 1_010));
}
