//! What a cluster of cores does, seen from outside.

#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod cluster;

use std::sync::Arc;

use cluster::{Cluster, INTERVAL_MS, account, payment, validator_key};
use zeni_consensus::schedule::Schedule;
use zeni_consensus::{Effect, Event, Follower, HaltReason, Input, Message, Mode, Peer, Refusal, Status, Verdict};
use zeni_ledger::block::transactions_root;
use zeni_ledger::{
    AccountId, Batch, BatchDigest, Block, BlockHeader, BlockId, ReceiptsRoot, SignatureBytes, StateRoot,
    ValidatorIndex, VerifiedBatch,
};

fn from(validator: u16) -> Peer {
    Peer::Validator(ValidatorIndex(validator))
}

#[test]
fn a_lone_validator_accepts_and_includes_a_payment() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    assert_eq!(cluster.ask(0, &[pay]), [Verdict::Accepted { copies: 1 }]);
    cluster.run_slots(2);
    assert_eq!((cluster.balance(0, 0), cluster.balance(0, 1)), (990, 1_010));
    assert_eq!(cluster.core(0).pending_payments(), 0);
}

#[test]
fn three_validators_commit_a_block_in_every_slot_and_agree() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    let height = cluster.height(0);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(2, &[pay]);
    cluster.run_slots(10);
    assert!(cluster.agree());
    assert_eq!(cluster.height(1), height + 10);
    assert!((0..3).all(|node| cluster.balance(node, 1) == 1_010));
}

#[test]
fn a_resubmission_tells_how_many_nodes_have_it() {
    let mut cluster = Cluster::start(3);
    cluster.run(500);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(0, &[pay]);
    let again = cluster.ask(0, &[pay]);
    assert_eq!(again, [Verdict::Known { copies: 3 }]);
    assert_eq!(cluster.core(1).pending_copies(&pay.id(&cluster.genesis.id())), 3);
    cluster.run_slots(2);
    assert_eq!(cluster.ask(0, &[pay]), [Verdict::Refused(Refusal::SequenceUsed)]);
}

#[test]
fn refuses_what_can_be_known_at_once() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let genesis = cluster.genesis.clone();
    let good = payment(&genesis, 0, 1, 0, 10).body();
    let sign = |body: zeni_ledger::payment::PaymentBody| body.with_signature(SignatureBytes([0; 64]));
    let now_s = (cluster.now.0 / 1_000) as u32;
    let cases = [
        (
            sign(zeni_ledger::payment::PaymentBody { network: 8, ..good }),
            Refusal::WrongNetwork { found: 8, expected: 7 },
        ),
        (sign(zeni_ledger::payment::PaymentBody { valid_until: now_s - 1, ..good }), Refusal::Expired),
        (
            sign(zeni_ledger::payment::PaymentBody { valid_until: now_s + 7_300, ..good }),
            Refusal::ValidUntilTooFar { validity_max_s: 7_200 },
        ),
        (sign(zeni_ledger::payment::PaymentBody { flags: 4, ..good }), Refusal::UnknownFlags { flags: 4 }),
        (sign(zeni_ledger::payment::PaymentBody { to: account(0), ..good }), Refusal::ToSelf),
        (sign(zeni_ledger::payment::PaymentBody { to: AccountId([1; 32]), ..good }), Refusal::UnknownReceiver),
        (sign(zeni_ledger::payment::PaymentBody { from: AccountId([1; 32]), ..good }), Refusal::UnknownAccount),
        (sign(zeni_ledger::payment::PaymentBody { token: zeni_ledger::TokenId(2), ..good }), Refusal::UnknownToken),
        (payment(&genesis, 0, 1, 0, 0), Refusal::ZeroAmount),
        (payment(&genesis, 0, 1, 128, 1), Refusal::SequenceOutOfWindow),
    ];
    for (bad, refusal) in cases {
        assert_eq!(cluster.ask(0, &[bad]), [Verdict::Refused(refusal)]);
    }
    assert_eq!(cluster.core(0).pending_payments(), 0);
}

/// Whatever a payment is promised holds on every branch on the last final block (decision 0006).
#[test]
fn a_payers_window_begins_where_the_last_final_block_left_it() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(4);
    let genesis = cluster.genesis.clone();
    let pays = |sequences: std::ops::Range<u64>| -> Vec<zeni_ledger::Payment> {
        sequences.map(|sequence| payment(&genesis, 0, 1, sequence, 1)).collect()
    };
    let all = |verdicts: &[Verdict], expected: Verdict| assert!(verdicts.iter().all(|verdict| *verdict == expected));
    let taken = Verdict::Accepted { copies: 1 };
    all(&cluster.ask(0, &pays(0..100)), taken);
    let other: Vec<_> = (0..20).map(|sequence| payment(&genesis, 2, 3, sequence, 1)).collect();
    all(&cluster.ask(0, &other), taken);
    cluster.run_slots(6);
    assert_eq!(cluster.core(0).state().account(&account(0)).unwrap().next_sequence().0, 100);
    // The others are gone: blocks go on, and none becomes final.
    cluster.kill(1);
    cluster.kill(2);
    cluster.run_slots(8);
    all(&cluster.ask(0, &pays(100..200)), taken);
    cluster.run_slots(3);
    assert_eq!(cluster.core(0).state().account(&account(0)).unwrap().next_sequence().0, 200);
    assert_eq!(cluster.balance(0, 1), 1_200);
    let beyond = Verdict::Refused(Refusal::SequenceOutOfWindow);
    all(&cluster.ask(0, &pays(200..228)), taken);
    all(&cluster.ask(0, &pays(228..300)), beyond);
    // A restart forgets nothing of it.
    cluster.kill(0);
    cluster.boot(0);
    cluster.run_slots(70);
    assert_eq!(cluster.core(0).state().account(&account(0)).unwrap().next_sequence().0, 228);
    all(&cluster.ask(0, &pays(228..300)), beyond);
    // Another payer has a window of its own.
    assert_eq!(cluster.ask(0, &[payment(&genesis, 2, 3, 147, 1)]), [taken]);
    assert_eq!(cluster.ask(0, &[payment(&genesis, 2, 3, 148, 1)]), [beyond]);
    cluster.boot(1);
    cluster.boot(2);
    cluster.run_slots(12);
    all(&cluster.ask(0, &pays(228..300)), taken);
    cluster.run_slots(4);
    assert_eq!(cluster.balance(2, 1), 1_300);
}

/// What costs reads of the disk is not for strangers to ask for.
#[test]
fn windows_at_the_last_final_block_are_gathered_for_payers_that_exist_and_never_twice() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(4);
    let genesis = cluster.genesis.clone();
    cluster.kill(1);
    cluster.kill(2);
    for sequence in 0..8 {
        cluster.ask(0, &[payment(&genesis, 0, 1, sequence, 1)]);
        cluster.run_slots(1);
    }
    let reads = |cluster: &Cluster| cluster.nodes[0].disk.undo_reads.get();
    let before = reads(&cluster);
    let unknown = Verdict::Refused(Refusal::UnknownAccount);
    assert_eq!(cluster.ask(0, &[payment(&genesis, 99, 1, 500, 1)]), [unknown]);
    // No window begins below 0: that needs no look.
    assert_eq!(cluster.ask(0, &[payment(&genesis, 2, 1, 127, 1)]), [Verdict::Accepted { copies: 1 }]);
    assert_eq!(reads(&cluster), before);
    let beyond = Verdict::Refused(Refusal::SequenceOutOfWindow);
    assert_eq!(cluster.ask(0, &[payment(&genesis, 3, 1, 128, 1)]), [beyond]);
    let gathered = reads(&cluster);
    assert!(gathered > before, "the blocks above the last final one are more than memory keeps");
    assert_eq!(cluster.ask(0, &[payment(&genesis, 4, 1, 128, 1)]), [beyond]);
    assert_eq!(reads(&cluster), gathered);
}

/// A validator that lies can batch what nobody honest would take: no honest one says that it is taken.
#[test]
fn a_payment_beyond_its_window_is_refused_though_anothers_batch_holds_it() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    let genesis = cluster.genesis.clone();
    let (within, beyond) = (payment(&genesis, 0, 1, 127, 1), payment(&genesis, 2, 1, 128, 1));
    let batch = Batch::sign(ValidatorIndex(2), 1, vec![within, beyond], &validator_key(2), &genesis.id());
    let message = Message::Batch(VerifiedBatch::vouch(batch, &genesis.id()));
    cluster.give(0, Input::Message { from: from(2), message });
    let verdicts = cluster.ask(0, &[within, beyond]);
    assert!(matches!(verdicts[0], Verdict::Known { .. }), "{verdicts:?}");
    assert_eq!(verdicts[1], Verdict::Refused(Refusal::SequenceOutOfWindow));
}

#[test]
fn one_bad_payment_costs_its_neighbours_nothing() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let genesis = cluster.genesis.clone();
    let (first, bad, last) =
        (payment(&genesis, 0, 1, 0, 1), payment(&genesis, 2, 1, 500, 1), payment(&genesis, 3, 1, 0, 1));
    let verdicts = cluster.ask(0, &[first, bad, last]);
    let taken = Verdict::Accepted { copies: 1 };
    assert_eq!(verdicts, [taken, Verdict::Refused(Refusal::SequenceOutOfWindow), taken]);
}

#[test]
fn a_second_payment_of_one_sequence_is_told_who_uses_it() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let (first, second) = (payment(&cluster.genesis, 0, 1, 0, 1), payment(&cluster.genesis, 0, 2, 0, 1));
    let by = first.id(&cluster.genesis.id());
    assert_eq!(cluster.ask(0, &[first]), [Verdict::Accepted { copies: 1 }]);
    assert_eq!(cluster.ask(0, &[second]), [Verdict::Refused(Refusal::SequencePending { by })]);
}

#[test]
fn a_full_disk_refuses_and_takes_again_when_there_is_room() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let pay = payment(&cluster.genesis, 0, 1, 0, 1);
    cluster.give(0, Input::DiskFull(true));
    assert_eq!(cluster.ask(0, &[pay]), [Verdict::Refused(Refusal::DiskFull)]);
    cluster.give(0, Input::DiskFull(false));
    assert_eq!(cluster.ask(0, &[pay]), [Verdict::Accepted { copies: 1 }]);
}

#[test]
fn the_survivor_of_three_fills_every_slot() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    cluster.kill(1);
    cluster.kill(2);
    cluster.run_slots(12);
    let height = cluster.height(0);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(0, &[pay]);
    cluster.run_slots(20);
    assert_eq!(cluster.height(0), height + 20);
    assert_eq!(cluster.balance(0, 1), 1_010);
    cluster.boot(1);
    cluster.boot(2);
    cluster.run_slots(5);
    assert!(cluster.agree());
    assert!((0..3).all(|node| cluster.mode(node) == Mode::Active));
}

#[test]
fn both_sides_of_a_partition_go_on_and_the_heavier_chain_wins_with_nothing_lost() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    cluster.cut(0, 2);
    cluster.cut(1, 2);
    let genesis = cluster.genesis.clone();
    cluster.ask(0, &[payment(&genesis, 0, 5, 0, 10)]);
    cluster.ask(2, &[payment(&genesis, 1, 5, 0, 20)]);
    // Both sides are paid by the same sequence of account 2: one of the two must win everywhere.
    cluster.ask(0, &[payment(&genesis, 2, 5, 0, 100)]);
    cluster.ask(2, &[payment(&genesis, 2, 6, 0, 100)]);
    cluster.run_slots(20);
    assert_eq!((cluster.balance(0, 5), cluster.balance(2, 5), cluster.balance(2, 6)), (1_110, 1_020, 1_100));
    cluster.heal();
    cluster.run_slots(5);
    assert!(cluster.agree());
    assert_eq!((cluster.balance(2, 5), cluster.balance(2, 6)), (1_130, 1_000));
    let reorganised = cluster.nodes[2].events.iter().any(|event| match event {
        Event::Chain(change) => !change.undone.is_empty() && !change.requeued.is_empty(),
        _ => false,
    });
    assert!(reorganised, "the lighter side takes its blocks back and re-queues their batches");
}

#[test]
fn a_restarted_node_keeps_what_it_accepted() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(0, &[pay]);
    cluster.kill(0);
    cluster.boot(0);
    cluster.run_slots(3);
    assert_eq!(cluster.balance(0, 1), 1_010);
}

#[test]
fn a_restarted_node_waits_to_hear_everyone_or_a_minute() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    (0..3).for_each(|node| cluster.kill(node));
    cluster.boot(0);
    cluster.run(59_000);
    assert_eq!(cluster.mode(0), Mode::Joining);
    let height = cluster.height(0);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    assert_eq!(cluster.ask(0, &[pay]), [Verdict::Accepted { copies: 1 }], "it takes payments meanwhile");
    cluster.run(5_000);
    assert_eq!(cluster.mode(0), Mode::Active);
    assert!(cluster.height(0) > height);
}

#[test]
fn a_paused_node_joins_anew() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(2);
    let before = cluster.nodes[0].events.len();
    cluster.now = cluster.now + 20_000;
    cluster.give(0, Input::Tick);
    let modes: Vec<Mode> = cluster.nodes[0].events[before..]
        .iter()
        .filter_map(|event| if let Event::Mode(mode) = event { Some(*mode) } else { None })
        .collect();
    assert_eq!(modes, [Mode::Joining, Mode::Syncing, Mode::Active], "alone in its ledger it has nobody to wait for");
}

#[test]
fn no_slot_is_signed_twice_across_a_restart() {
    let mut cluster = Cluster::start(1);
    cluster.run(INTERVAL_MS + 300);
    let slot = cluster.core(0).status().slot;
    cluster.kill(0);
    // The block was lost with the log's tail, the safety record was not.
    cluster.nodes[0].disk.blocks.clear();
    cluster.nodes[0].disk.certificates.clear();
    cluster.nodes[0].disk.finality.clear();
    cluster.boot(0);
    cluster.run(300);
    assert_eq!(cluster.height(0), 0, "slot {slot} stays empty");
    cluster.run_slots(1);
    assert_eq!(cluster.core(0).status().slot, slot + 1);
}

#[test]
fn a_block_in_the_log_counts_as_signed_though_the_safety_record_is_older() {
    let mut cluster = Cluster::start(1);
    cluster.run(INTERVAL_MS + 300);
    let (slot, height) = (cluster.core(0).status().slot, cluster.height(0));
    cluster.kill(0);
    // The crash came between the two writes; and the block turns out false, so the node stands below its slot again.
    let disk = &mut cluster.nodes[0].disk;
    disk.certificates.clear();
    disk.finality.clear();
    let own = disk.blocks.pop().unwrap();
    assert_eq!(own.header.slot, slot);
    let header = BlockHeader { state_root: StateRoot([1; 32]), ..own.header };
    let block = Arc::new(Block::sign(header, Vec::new(), &validator_key(0), &cluster.genesis.id()));
    disk.block_ids.insert(block.id(&cluster.genesis.id()), block.clone());
    disk.blocks.push(block);
    disk.safety.as_mut().unwrap().last_signed_slot = slot - 1;
    cluster.boot(0);
    cluster.run(300);
    assert_eq!(cluster.height(0), height - 1, "slot {slot} is not signed again");
    cluster.run_slots(1);
    assert_eq!(cluster.core(0).status().slot, slot + 1);
}

#[test]
fn a_node_without_its_safety_record_only_follows() {
    let mut cluster = Cluster::start(2);
    cluster.run_slots(2);
    cluster.kill(1);
    cluster.nodes[1].disk = cluster::Disk::default();
    cluster.boot(1);
    cluster.run_slots(80);
    assert_eq!(cluster.mode(1), Mode::FollowOnly);
    assert!(cluster.agree() && cluster.height(1) > 70);
    let proposed = cluster.nodes[1].events.iter().rev().take_while(|event| !matches!(event, Event::Mode(_)));
    assert!(!proposed.into_iter().any(|event| matches!(event, Event::Proposed { .. })));
}

#[test]
fn a_node_that_hears_its_live_twin_stops() {
    let mut cluster = Cluster::start(2);
    cluster.run_slots(2);
    let mine = cluster.core(0).status();
    let mut twin = mine.clone();
    twin.boot += 77;
    cluster.give(0, Input::Message { from: from(1), message: Message::Status(twin.clone()) });
    assert!(cluster.is_up(0), "an old status of an earlier boot proves nothing");
    twin.echoes = vec![(ValidatorIndex(0), mine.nonce)];
    let said = cluster.said_to_itself.len();
    cluster.give(0, Input::Message { from: from(1), message: Message::Status(twin.clone()) });
    assert_eq!(cluster.nodes[0].halted, Some(HaltReason::TwinFound { boot: twin.boot }));
    let echo = (ValidatorIndex(0), twin.nonce);
    let told = |message: &Message| matches!(message, Message::Status(status) if status.echoes.contains(&echo));
    assert!(cluster.said_to_itself[said..].iter().any(told), "its last word lets the twin know");
}

/// A block on validator 0's head, signed by `proposer` for the next slot in which it has `rank`.
fn forged(cluster: &Cluster, proposer: u16, change: fn(&mut BlockHeader)) -> Arc<Block> {
    let status = cluster.core(0).status();
    let slot = cluster.genesis.slot_at(cluster.now.0) + 1;
    let schedule = Schedule::new(&cluster.genesis);
    let mut header = BlockHeader {
        proposer: ValidatorIndex(proposer),
        rank: schedule.rank(slot, ValidatorIndex(proposer)).unwrap(),
        height: status.height + 1,
        slot,
        parent: status.head,
        transactions_root: transactions_root(&[]),
        state_root: StateRoot([1; 32]),
        receipts_root: ReceiptsRoot([2; 32]),
        receipts: 0,
    };
    change(&mut header);
    Arc::new(Block::sign(header, Vec::new(), &validator_key(proposer), &cluster.genesis.id()))
}

#[test]
fn a_batch_that_is_not_here_counts_as_a_full_one_while_its_chain_is_waited_for() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(0, &[pay]);
    assert_eq!(cluster.core(0).backlog(), 1);
    let digests = vec![BatchDigest([7; 32]), BatchDigest([8; 32])];
    let header = BlockHeader { transactions_root: transactions_root(&digests), ..forged(&cluster, 1, |_| ()).header };
    let block = Arc::new(Block::sign(header, digests, &validator_key(1), &cluster.genesis.id()));
    cluster.run(cluster.genesis.slot_time_ms(header.slot) - cluster.now.0 - 1);
    give_block(&mut cluster, &block);
    assert_eq!(cluster.core(0).backlog(), 1, "nobody says that it stands on this block");
    let mut status = cluster.core(1).status();
    (status.head, status.height) = (block.id(&cluster.genesis.id()), header.height);
    status.weight += 1;
    cluster.give(0, Input::Message { from: from(1), message: Message::Status(status) });
    assert_eq!(cluster.core(0).backlog(), 2 * 1_024 + 1);
    cluster.run_slots(5);
    assert_eq!(cluster.core(0).backlog(), 0, "nobody delivered them");
}

#[test]
fn a_node_that_signs_nothing_does_not_wait_for_a_liar_for_ever_either() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    cluster.kill(0);
    cluster.nodes[0].disk = cluster::Disk::default();
    cluster.boot(0);
    cluster.run_slots(2);
    assert_eq!(cluster.mode(0), Mode::FollowOnly);
    // From here on it hears of its peers only that one of them stands on a block of batches that nobody has.
    cluster.silence(0, 1);
    cluster.silence(0, 2);
    let digests = vec![BatchDigest([7; 32])];
    let header = BlockHeader { transactions_root: transactions_root(&digests), ..forged(&cluster, 1, |_| ()).header };
    let block = Arc::new(Block::sign(header, digests, &validator_key(1), &cluster.genesis.id()));
    cluster.run(cluster.genesis.slot_time_ms(header.slot) - cluster.now.0 - 1);
    give_block(&mut cluster, &block);
    let mut status = cluster.core(1).status();
    (status.head, status.height) = (block.id(&cluster.genesis.id()), header.height);
    status.weight += 1_000;
    let mut backlogs = Vec::new();
    for _ in 0..5 {
        cluster.give(0, Input::Message { from: from(1), message: Message::Status(status.clone()) });
        backlogs.push(cluster.core(0).backlog());
        cluster.run_slots(1);
    }
    assert_eq!((backlogs[0], backlogs[4]), (1_024, 0), "{backlogs:?}");
}

fn give_block(cluster: &mut Cluster, block: &Arc<Block>) {
    cluster.give(0, Input::Message { from: from(1), message: Message::Block(block.clone()) });
}

#[test]
fn a_block_with_false_roots_is_found_out_and_the_chain_goes_on() {
    let mut cluster = Cluster::start(2);
    cluster.run_slots(2);
    let root = cluster.core(0).state().root();
    let block = forged(&cluster, 1, |_| {});
    cluster.now = zeni_consensus::Millis(cluster.genesis.slot_time_ms(block.header.slot));
    give_block(&mut cluster, &block);
    let id = block.id(&cluster.genesis.id());
    let found =
        cluster.nodes[0].events.iter().any(|event| matches!(event, Event::InvalidBlock { block, .. } if *block == id));
    assert!(found);
    assert_eq!(cluster.core(0).state().root(), root);
    let height = cluster.height(0);
    cluster.run_slots(4);
    assert!(cluster.height(0) >= height + 3);
}

#[test]
fn blocks_of_wrong_rank_signature_or_place_are_misbehaviour() {
    let changes: [fn(&mut BlockHeader); 4] = [
        |header| header.rank ^= 1,
        |header| header.proposer.0 = 7,
        |header| header.proposer.0 ^= 1,
        |header| header.height += 1,
    ];
    for change in changes {
        let mut cluster = Cluster::start(2);
        cluster.run_slots(2);
        let block = forged(&cluster, 1, change);
        cluster.now = zeni_consensus::Millis(cluster.genesis.slot_time_ms(block.header.slot));
        give_block(&mut cluster, &block);
        let counted = cluster.nodes[0].events.iter().any(|event| matches!(event, Event::Misbehaviour { .. }));
        assert!(counted, "{:?}", block.header);
    }
}

#[test]
fn a_block_is_held_until_its_slot_begins() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(2);
    let mut other = Cluster::start(1);
    other.run_slots(6);
    let block = other.nodes[0].disk.blocks[2].clone();
    for earlier in &other.nodes[0].disk.blocks[..2] {
        give_block(&mut cluster, earlier);
    }
    cluster.now = zeni_consensus::Millis(cluster.genesis.slot_time_ms(block.header.slot) - 501);
    let height = cluster.height(0);
    let mut node = cluster;
    give_block(&mut node, &block);
    assert_eq!(node.height(0), height);
    node.now = zeni_consensus::Millis(node.genesis.slot_time_ms(block.header.slot) - 500);
    node.give(0, Input::Tick);
    assert_eq!(node.core(0).status().head, block.id(&node.genesis.id()));
}

#[test]
fn two_blocks_of_one_proposer_for_one_slot_are_evidence() {
    let mut cluster = Cluster::start(2);
    cluster.run_slots(2);
    let (one, two) =
        (forged(&cluster, 1, |_| {}), forged(&cluster, 1, |header| header.state_root = StateRoot([9; 32])));
    cluster.now = zeni_consensus::Millis(cluster.genesis.slot_time_ms(one.header.slot));
    give_block(&mut cluster, &one);
    give_block(&mut cluster, &two);
    let seen = |event: &Event| matches!(event, Event::Equivocation { proposer: ValidatorIndex(1), .. });
    assert!(cluster.nodes[0].events.iter().any(seen));
}

#[test]
fn a_batch_that_no_live_peer_confirmed_waits() {
    let mut cluster = Cluster::start(2);
    cluster.run_slots(2);
    cluster.silence(0, 1);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(0, &[pay]);
    cluster.run_slots(2);
    assert_eq!(cluster.balance(0, 1), 1_000, "its peer spoke within three seconds, so it is awaited");
    cluster.run_slots(5);
    assert_eq!(cluster.balance(0, 1), 1_010, "a silent peer is not");
}

#[test]
fn a_peer_that_says_goodbye_is_not_waited_for() {
    let mut cluster = Cluster::start(2);
    cluster.run_slots(2);
    cluster.kill(1);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(0, &[pay]);
    cluster.run_slots(1);
    assert_eq!(cluster.balance(0, 1), 1_010);
}

/// A validator that is ahead is waited for; one that offers a heavier chain, takes it back and offers it again is not.
#[test]
fn an_offer_taken_back_and_made_again_holds_nobody_back_for_long() {
    const SLOTS: u64 = 24;
    let mut cluster = Cluster::start(3);
    cluster.run_slots(4);
    cluster.kill(2);
    cluster.run_slots(1);
    for honest in [0, 1] {
        cluster.give(honest, Input::Connected(ValidatorIndex(2)));
    }
    let (height, newest) = (cluster.height(0), cluster.core(0).status().decision);
    let schedule = Schedule::new(&cluster.genesis);
    for number in 0..SLOTS {
        let honest = Status { validator: ValidatorIndex(2), boot: 99, nonce: 99, ..cluster.core(0).status() };
        let head = BlockId([number as u8 + 1; 32]);
        let lie = Status { weight: honest.weight + 1_000, height: honest.height + 1_000, head, ..honest.clone() };
        // Where it comes first itself nobody else's turn has come when it takes its offer back.
        let slot = cluster.genesis.slot_at(cluster.now.0);
        let takes_back = schedule.order(slot)[0].0 == 2;
        for status in [takes_back.then_some(honest), Some(lie)].into_iter().flatten() {
            for honest in [0, 1] {
                let message = Message::Status(status.clone());
                cluster.give(honest, Input::Message { from: from(2), message });
            }
            cluster.run(5);
        }
        cluster.run(cluster.genesis.slot_time_ms(slot + 1) + 10 - cluster.now.0);
    }
    let (blocks, decisions) = (cluster.height(0) - height, cluster.core(0).status().decision - newest);
    assert!(blocks >= SLOTS * 2 / 3, "{blocks} blocks in {SLOTS} slots");
    assert!(decisions >= SLOTS * 2 / 5, "{decisions} decisions in {SLOTS} slots");
}

#[test]
fn a_late_proposer_leaves_to_the_next_slot_what_came_after_its_own_began() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    let schedule = Schedule::new(&cluster.genesis);
    // A slot in which node 2 would come first, and the slot before it begins in a moment.
    let slot = (cluster.genesis.slot_at(cluster.now.0) + 2..).find(|slot| schedule.order(*slot)[0].0 == 2).unwrap();
    let (late, other) = (schedule.order(slot)[1].0, schedule.order(slot)[2].0);
    let before = cluster.genesis.slot_time_ms(slot) - 400;
    cluster.run(before - cluster.now.0);
    cluster.silence(0, 2);
    cluster.silence(1, 2);
    let early = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(late, &[early]);
    cluster.run(cluster.genesis.slot_time_ms(slot) + 20 - cluster.now.0);
    let tardy = payment(&cluster.genesis, 2, 3, 0, 10);
    cluster.ask(late, &[tardy]);
    assert_eq!(cluster.core(other).pending_payments(), 2, "both are confirmed before the late proposer speaks");
    cluster.run(INTERVAL_MS / 2 - 170);
    assert_eq!(cluster.core(late).status().slot, slot, "node 2 was waited for, then its turn passed");
    assert_eq!((cluster.balance(late, 1), cluster.balance(late, 3)), (1_010, 1_000));
    cluster.run(INTERVAL_MS * 3 / 2);
    assert_eq!(cluster.balance(late, 3), 1_010);
}

#[test]
fn a_node_that_was_away_fetches_what_it_missed() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    cluster.kill(2);
    for round in 0..40u64 {
        let pay = payment(&cluster.genesis, (round % 10) as u8, 11, round / 10, 1);
        cluster.ask(0, &[pay]);
        cluster.run_slots(3);
    }
    assert!(cluster.height(0) > 100);
    cluster.boot(2);
    cluster.run_slots(4);
    assert!(cluster.agree());
    assert_eq!(cluster.core(2).backlog(), 0);
    assert_eq!(cluster.balance(2, 11), 1_040);
    assert_eq!(cluster.mode(2), Mode::Active);
}

#[test]
fn a_follower_executes_what_it_is_told_and_follows_a_reorganisation() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    let state = cluster.genesis.state(&cluster.file).unwrap();
    let recovered = zeni_consensus::Recovered::at_genesis(&cluster.genesis, state);
    let (mut follower, _) = Follower::recover(cluster.genesis.clone(), recovered, cluster.now).unwrap();
    let mut disk = cluster::Disk::default();
    cluster.cut(0, 2);
    cluster.cut(1, 2);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    cluster.ask(2, &[pay]);
    cluster.run_slots(14);
    feed(&mut follower, &mut disk, &cluster, 2);
    assert_eq!(follower.head().0, cluster.core(2).status().head);
    cluster.heal();
    cluster.run_slots(4);
    feed(&mut follower, &mut disk, &cluster, 0);
    assert_eq!(follower.head().0, cluster.core(0).status().head);
    assert_eq!(follower.state().root(), cluster.core(0).state().root());
}

/// Lets a follower talk to one node until nothing more is said.
fn feed(follower: &mut Follower, disk: &mut cluster::Disk, cluster: &Cluster, node: u16) {
    let index = ValidatorIndex(node);
    let mut inputs = vec![
        Input::Connected(index),
        Input::Message { from: from(node), message: Message::Status(cluster.core(node).status()) },
    ];
    let source = &cluster.nodes[usize::from(node)].disk;
    for _ in 0..10_000 {
        let input = if inputs.is_empty() { Input::Tick } else { inputs.remove(0) };
        let idle = matches!(input, Input::Tick);
        let mut said = false;
        for effect in follower.step(cluster.now, input, disk) {
            match effect {
                Effect::Append(zeni_consensus::Record::Batch(batch)) => {
                    disk.batches.insert(batch.digest(), batch);
                }
                Effect::Append(zeni_consensus::Record::Block(block)) => {
                    disk.block_ids.insert(block.id(&cluster.genesis.id()), block);
                }
                Effect::AppendUndo { block, undo, .. } => {
                    disk.undos.insert(block, undo);
                }
                Effect::Send { message, .. } => {
                    said = true;
                    inputs.extend(answer(&message, source, cluster, node));
                }
                _ => {}
            }
        }
        if idle && !said && inputs.is_empty() {
            return;
        }
    }
    panic!("the follower never came to rest");
}

fn answer(message: &Message, source: &cluster::Disk, cluster: &Cluster, node: u16) -> Vec<Input> {
    let wrap = |message| Input::Message { from: from(node), message };
    match message {
        Message::FetchBatches(digests) => {
            digests.iter().map(|digest| wrap(Message::Batch(source.batches[digest].clone()))).collect()
        }
        Message::FetchBlocks { locator } => {
            let core = cluster.core(node);
            let common =
                (0..=core.status().height).rev().find(|height| locator.contains(&core.block_at(*height).unwrap()));
            let heights = common.unwrap() + 1..=core.status().height;
            let blocks =
                heights.map(|height| source.block_ids[&core.block_at(height).unwrap()].clone()).take(7).collect();
            vec![wrap(Message::Blocks(blocks))]
        }
        other => panic!("a follower does not say {other:?}"),
    }
}
