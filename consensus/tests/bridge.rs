//! What finality does to a cluster of cores, seen from outside.

#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod cluster;

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster::{Cluster, INTERVAL_MS, payment, validator_key};
use ed25519_dalek::Signer as _;
use zeni_consensus::finality::message::{RoundReason, RoundVote};
use zeni_consensus::finality::{FinalityMessage, LogEntry, PolkaCertificate, RoundCertificate, SignedProposal};
use zeni_consensus::schedule::Schedule;
use zeni_consensus::{Event, HaltReason, Input, Message, Mode, Peer, SafetyRecord, Verdict};
use zeni_ledger::block::transactions_root;
use zeni_ledger::finality::{FinalityProposal, FinalityVote, VoteKind};
use zeni_ledger::{Block, BlockHeader, BlockId, CommitCertificate, FinalBlock, SignatureBytes, ValidatorIndex};

fn from(validator: u16) -> Peer {
    Peer::Validator(ValidatorIndex(validator))
}

fn final_height(cluster: &Cluster, node: u16) -> u64 {
    cluster.core(node).last_final().height
}

/// A certificate of a block, signed by these validators.
fn certify(cluster: &Cluster, decision: u64, block: FinalBlock, signers: &[u16]) -> CommitCertificate {
    let mut certificate = CommitCertificate { decision, round: 0, block, signatures: Vec::new() };
    let digest = certificate.vote().digest(&cluster.genesis.id());
    let sign =
        |signer: &u16| (ValidatorIndex(*signer), SignatureBytes(validator_key(*signer).sign(&digest).to_bytes()));
    certificate.signatures = signers.iter().map(sign).collect();
    certificate
}

fn tell(cluster: &mut Cluster, node: u16, message: FinalityMessage) {
    cluster.give(node, Input::Message { from: from(1), message: Message::Finality(Box::new(message)) });
}

/// An empty block in the next slot that has begun by then, on top of a canonical block of node 0's.
fn side_block(cluster: &mut Cluster, below: u64, proposer: u16) -> Arc<Block> {
    let core = cluster.core(0);
    let height = core.status().height - below;
    let parent = core.block_at(height).unwrap();
    let slot = cluster.genesis.slot_at(cluster.now.0);
    let archived = cluster.nodes[0].disk.block_ids[&parent].header;
    let header = BlockHeader {
        proposer: ValidatorIndex(proposer),
        rank: Schedule::new(&cluster.genesis).rank(slot, ValidatorIndex(proposer)).unwrap(),
        height: height + 1,
        slot,
        parent,
        transactions_root: transactions_root(&[]),
        state_root: archived.state_root,
        receipts_root: zeni_ledger::receipt::receipts_root(&[]),
        receipts: 0,
    };
    Arc::new(Block::sign(header, Vec::new(), &validator_key(proposer), &cluster.genesis.id()))
}

fn id_of(cluster: &Cluster, block: &Block) -> FinalBlock {
    FinalBlock { id: block.id(&cluster.genesis.id()), height: block.header.height }
}

#[test]
fn every_block_becomes_final_everywhere_soon_after_its_slot() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(5);
    cluster.run(INTERVAL_MS / 2);
    let height = cluster.height(0);
    assert!(height >= 5);
    for node in 0..3 {
        assert_eq!(cluster.core(node).last_final(), cluster.core(0).last_final());
        assert_eq!(final_height(&cluster, node), height, "half a slot is enough on a fast network");
        let told = cluster.nodes[usize::from(node)].events.iter().filter_map(|event| match event {
            Event::Final(certificate) => Some(certificate.clone()),
            _ => None,
        });
        let told: Vec<CommitCertificate> = told.collect();
        let genesis = &cluster.genesis;
        assert!(told.iter().all(|certificate| certificate.verify(genesis, &genesis.id()).is_ok()));
        assert!(told.windows(2).all(|pair| pair[0].block.height < pair[1].block.height));
        let published = cluster.nodes[usize::from(node)].published.iter();
        let commits = published.filter(|message| matches!(message, Message::Finality(_))).count();
        assert!(commits >= told.len(), "followers are told");
    }
}

#[test]
fn alone_nothing_becomes_final_and_after_the_return_the_survivors_blocks_do() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    cluster.kill(1);
    cluster.kill(2);
    cluster.run_slots(1);
    let pay = payment(&cluster.genesis, 0, 1, 0, 10);
    assert_eq!(cluster.ask(0, &[pay]), [Verdict::Accepted { copies: 1 }]);
    let (height, last) = (cluster.height(0), final_height(&cluster, 0));
    cluster.run_slots(20);
    assert!(cluster.height(0) >= height + 15, "it goes on including");
    assert!(final_height(&cluster, 0) <= last + 1, "and makes nothing final but what was decided before");
    let survivors = cluster.core(0).status().head;
    let top = cluster.height(0);
    // They return and see each other before the survivor: they wait for it.
    cluster.cut(0, 1);
    cluster.cut(0, 2);
    cluster.boot(1);
    cluster.boot(2);
    cluster.run_slots(10);
    assert_eq!((cluster.mode(1), cluster.mode(2)), (Mode::Joining, Mode::Joining));
    cluster.heal();
    cluster.run_slots(5);
    for node in 0..3 {
        assert_eq!(cluster.core(node).block_at(top), Some(survivors), "node {node} has the survivor's chain");
        assert!(final_height(&cluster, node) > top, "node {node}");
        assert_eq!(cluster.balance(node, 1), 1_010);
    }
}

#[test]
fn a_decision_moves_a_node_to_a_lighter_chain_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    // Node 0 is alone with a heavy chain, on which a payment is included.
    cluster.cut(0, 1);
    cluster.cut(0, 2);
    cluster.run_slots(1);
    let light = side_block(&mut cluster, 1, 1);
    cluster.ask(0, &[payment(&cluster.genesis, 0, 1, 0, 10)]);
    cluster.run_slots(15);
    assert_eq!(cluster.balance(0, 1), 1_010);
    let block = id_of(&cluster, &light);
    let decision = cluster.core(0).status().decision + 1;
    let certificate = certify(&cluster, decision, block, &[1, 2]);
    tell(&mut cluster, 0, FinalityMessage::Commit(certificate));
    assert_ne!(cluster.core(0).last_final(), block, "its block is not here yet");
    cluster.give(0, Input::Message { from: from(1), message: Message::Block(light) });
    cluster.run(20);
    assert_eq!(cluster.core(0).last_final(), block);
    assert_eq!(cluster.core(0).block_at(block.height), Some(block.id));
    assert_eq!(cluster.balance(0, 1), 1_000, "what was included above is taken back");
    cluster.run_slots(4);
    assert_eq!(cluster.balance(0, 1), 1_010, "and included again");
    assert_eq!(cluster.nodes[0].halted, None);
}

/// Whoever precommitted a block waits for the votes of the others, and they have executed a heavier one.
#[test]
fn a_block_that_a_quorum_prevoted_for_is_executed_whatever_it_weighs() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    cluster.cut(0, 1);
    cluster.cut(0, 2);
    cluster.run_slots(2);
    let light = side_block(&mut cluster, 1, 1);
    cluster.run_slots(15);
    let block = id_of(&cluster, &light);
    cluster.give(0, Input::Message { from: from(1), message: Message::Block(light) });
    cluster.run(20);
    let weight = cluster.core(0).status().weight;
    assert_ne!(cluster.core(0).block_at(block.height), Some(block.id), "it is the lighter one");
    let decision = cluster.core(0).status().decision + 1;
    let vote = FinalityVote { kind: VoteKind::Prevote, decision, round: 0, block: Some(block) };
    let digest = vote.digest(&cluster.genesis.id());
    let sign = |signer: u16| (ValidatorIndex(signer), SignatureBytes(validator_key(signer).sign(&digest).to_bytes()));
    let polka = |signers: &[u16]| {
        let signatures = signers.iter().copied().map(sign).collect();
        FinalityMessage::Polka(PolkaCertificate { decision, round: 0, block, signatures })
    };
    tell(&mut cluster, 0, polka(&[1]));
    cluster.run(20);
    assert_ne!(cluster.core(0).block_at(block.height), Some(block.id), "one prevote is no quorum");
    tell(&mut cluster, 0, polka(&[1, 2]));
    cluster.run(20);
    assert_eq!(cluster.core(0).block_at(block.height), Some(block.id));
    assert!(cluster.core(0).status().weight < weight);
    assert_ne!(cluster.core(0).last_final(), block, "prevotes make nothing final");
    // Another decision was made after all: the polka means nothing any more.
    let heavy = cluster.nodes[0]
        .disk
        .blocks
        .iter()
        .find(|other| other.header.height == block.height && other.id(&cluster.genesis.id()) != block.id);
    let heavy = id_of(&cluster, &heavy.unwrap().clone());
    let certificate = certify(&cluster, decision, heavy, &[1, 2]);
    tell(&mut cluster, 0, FinalityMessage::Commit(certificate));
    cluster.run(20);
    assert_eq!(cluster.core(0).block_at(heavy.height), Some(heavy.id));
    assert!(cluster.core(0).status().weight >= weight);
}

/// Whoever precommitted a block votes for nothing else, and it may be long before it proposes itself.
#[test]
fn a_proposer_names_the_block_that_a_quorum_prevoted_for() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    cluster.cut(0, 1);
    cluster.cut(0, 2);
    cluster.run_slots(8);
    let (decision, height) = (cluster.core(0).status().decision + 1, final_height(&cluster, 0) + 1);
    let block = FinalBlock { id: cluster.core(0).block_at(height).unwrap(), height };
    assert!(cluster.height(0) > height);
    let sign = |vote: FinalityVote, signer: u16| {
        SignatureBytes(validator_key(signer).sign(&vote.digest(&cluster.genesis.id())).to_bytes())
    };
    let prevote = FinalityVote { kind: VoteKind::Prevote, decision, round: 0, block: Some(block) };
    let signatures = [1, 2].map(|signer| (ValidatorIndex(signer), sign(prevote, signer))).to_vec();
    let polka = FinalityMessage::Polka(PolkaCertificate { decision, round: 0, block, signatures });
    // Rounds pass without a decision, until node 0 comes first in one.
    let rounds: Vec<FinalityMessage> = (0..12)
        .map(|round| {
            let vote = FinalityVote { kind: VoteKind::Precommit, decision, round, block: None };
            let of = |signer| RoundVote {
                kind: vote.kind,
                block: None,
                voter: ValidatorIndex(signer),
                signature: sign(vote, signer),
            };
            let votes = [1, 2].map(of).to_vec();
            FinalityMessage::Round(RoundCertificate { decision, round, reason: RoundReason::Precommits, votes })
        })
        .collect();
    tell(&mut cluster, 0, polka);
    for round in rounds {
        tell(&mut cluster, 0, round);
        cluster.run(20);
    }
    let proposed = cluster.nodes[0].disk.finality.iter().filter_map(|(of, entry)| match entry {
        LogEntry::Proposal(signed) if *of == decision && signed.proposer == ValidatorIndex(0) => {
            Some(signed.proposal.block)
        }
        _ => None,
    });
    let proposed: BTreeSet<FinalBlock> = proposed.collect();
    assert_eq!(proposed, BTreeSet::from([block]));
}

#[test]
fn two_decisions_that_contradict_each_other_halt_a_node_and_it_says_why() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(4);
    cluster.cut(0, 1);
    cluster.cut(0, 2);
    cluster.run(INTERVAL_MS);
    let decision = cluster.core(0).status().decision;
    let last = cluster.core(0).last_final();
    let other = FinalBlock { id: BlockId([9; 32]), height: last.height };
    // The same decision, and another block.
    let certificate = certify(&cluster, decision, other, &[1, 2]);
    tell(&mut cluster, 0, FinalityMessage::Commit(certificate));
    let halted = cluster.nodes[0].halted.clone();
    assert!(matches!(halted, Some(HaltReason::ConflictingFinality { before, .. }) if before == last.id), "{halted:?}");

    // A later decision, and a block beside what is final.
    let mut cluster = Cluster::start(3);
    cluster.run_slots(6);
    cluster.cut(0, 1);
    cluster.cut(0, 2);
    cluster.run_slots(1);
    let beside = side_block(&mut cluster, 4, 1);
    let above = FinalBlock { height: cluster.height(0) + 5, ..id_of(&cluster, &beside) };
    let certificate = certify(&cluster, cluster.core(0).status().decision + 3, above, &[1, 2]);
    tell(&mut cluster, 0, FinalityMessage::Commit(certificate));
    assert_eq!(cluster.nodes[0].halted, None, "whether it contradicts is not known yet");
    cluster.give(0, Input::Message { from: from(1), message: Message::Block(beside) });
    assert!(matches!(cluster.nodes[0].halted, Some(HaltReason::ConflictingFinality { .. })));
}

/// Two final blocks that contradict each other, known to one node each: all halt once they meet, whoever is ahead.
#[test]
fn every_node_halts_once_those_meet_that_know_contradicting_decisions() {
    for ahead in 0..3 {
        let mut cluster = Cluster::start(3);
        cluster.run_slots(4);
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            cluster.cut(one, other);
        }
        cluster.run_slots(1);
        let decision = cluster.core(0).status().decision + 1;
        let beside = [1, 2].map(|proposer| side_block(&mut cluster, 1, proposer));
        let blocks = beside.each_ref().map(|block| id_of(&cluster, block));
        for node in [0, 1] {
            let place = usize::from(node);
            cluster.give(node, Input::Message { from: from(2), message: Message::Block(beside[place].clone()) });
            let certificate = certify(&cluster, decision, blocks[place], &[1, 2]);
            tell(&mut cluster, node, FinalityMessage::Commit(certificate));
        }
        cluster.run_slots(2);
        if ahead < 2 {
            // One of the two goes on, so that the other is only sent a later decision than its own.
            let core = cluster.core(ahead);
            let next = FinalBlock { id: core.status().head, height: core.status().height };
            let certificate = certify(&cluster, decision + 1, next, &[1, 2]);
            tell(&mut cluster, ahead, FinalityMessage::Commit(certificate));
        }
        cluster.run(20);
        for node in &cluster.nodes {
            assert_eq!(node.halted, None, "they have not met");
        }
        cluster.heal();
        cluster.run_slots(3);
        for node in 0..3 {
            let halted = &cluster.nodes[node].halted;
            assert!(matches!(halted, Some(HaltReason::ConflictingFinality { .. })), "{ahead}, node {node}: {halted:?}");
        }
    }
}

/// What made a node halt is in its log, so that a supervisor which starts it again does not make it forget.
#[test]
#[should_panic(expected = "ConflictingFinality")]
fn a_node_that_halted_over_contradicting_decisions_does_not_start_again() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(4);
    cluster.kill(1);
    cluster.kill(2);
    let (decision, last) = (cluster.core(0).status().decision, cluster.core(0).last_final());
    let other = FinalBlock { id: BlockId([9; 32]), height: last.height };
    let certificate = certify(&cluster, decision, other, &[1, 2]);
    tell(&mut cluster, 0, FinalityMessage::Commit(certificate));
    if cluster.nodes[0].halted.is_some() {
        cluster.boot(0);
    }
}

#[test]
fn a_certificate_that_does_not_hold_is_misbehaviour_and_changes_nothing() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    let before = cluster.core(0).last_final();
    let head = FinalBlock { id: cluster.core(0).status().head, height: cluster.height(0) + 1 };
    let decision = cluster.core(0).status().decision + 1;
    let mut forged = certify(&cluster, decision, head, &[1, 2]);
    forged.signatures[0].1.0[3] ^= 1;
    for certificate in [certify(&cluster, decision, head, &[1]), forged] {
        tell(&mut cluster, 0, FinalityMessage::Commit(certificate));
        let said = |event: &Event| matches!(event, Event::Misbehaviour { what, .. } if what.contains("certificate"));
        assert!(cluster.nodes[0].events.iter().any(said));
        assert_eq!((cluster.core(0).last_final(), cluster.nodes[0].halted.clone()), (before, None));
        cluster.nodes[0].events.clear();
    }
}

#[test]
fn a_proposed_block_that_is_not_here_gets_no_vote_and_is_asked_for() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(3);
    cluster.cut(0, 1);
    cluster.cut(0, 2);
    cluster.run_slots(2);
    // A decision is open here, and node 1 or 2 proposes in one of its rounds.
    let decision = cluster.core(0).status().decision + 1;
    let unknown = FinalBlock { id: BlockId([7; 32]), height: cluster.height(0) };
    let logged = cluster.nodes[0].disk.finality.len();
    for proposer in [1, 2] {
        for round in 0..8 {
            let proposal = FinalityProposal { decision, round, valid_round: None, block: unknown };
            let digest = proposal.digest(&cluster.genesis.id());
            let signature = SignatureBytes(validator_key(proposer).sign(&digest).to_bytes());
            let signed = SignedProposal { proposer: ValidatorIndex(proposer), proposal, signature };
            tell(&mut cluster, 0, FinalityMessage::Proposal(signed));
        }
    }
    cluster.run_slots(10);
    let voted: BTreeSet<Option<BlockId>> = cluster.nodes[0].disk.finality[logged..]
        .iter()
        .filter_map(|(_, entry)| match entry {
            LogEntry::Vote(signed) if signed.voter == ValidatorIndex(0) => {
                Some(signed.vote.block.map(|block| block.id))
            }
            _ => None,
        })
        .collect();
    assert!(voted.iter().all(|block| *block != Some(unknown.id)), "{voted:?}");
    assert_eq!(cluster.nodes[0].halted, None);
}

#[test]
fn a_node_that_was_cut_off_is_sent_what_became_final() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    cluster.cut(0, 2);
    cluster.cut(1, 2);
    let before = final_height(&cluster, 2);
    cluster.run_slots(8);
    assert!(final_height(&cluster, 2) <= before + 1 && final_height(&cluster, 0) > before + 5);
    cluster.heal();
    cluster.run_slots(2);
    assert!(final_height(&cluster, 2) + 1 >= final_height(&cluster, 0));
    assert_eq!(cluster.nodes[2].halted, None);
}

#[test]
fn a_restart_goes_on_where_the_engine_was_and_knows_what_is_final() {
    let mut cluster = Cluster::start(3);
    for step in 0..40 {
        cluster.run(137);
        let node = step % 3;
        let before = cluster.core(node).last_final();
        cluster.kill(node);
        cluster.boot(node);
        assert_eq!(cluster.core(node).last_final(), before);
        cluster.run(20);
        assert!(cluster.nodes.iter().all(|node| node.halted.is_none()), "after restart {step}");
    }
    cluster.run_slots(5);
    assert_eq!(final_height(&cluster, 0), cluster.height(0));
    let double = |event: &Event| matches!(event, Event::DoubleSigning(_) | Event::VotesForgotten(_));
    assert!(!cluster.nodes.iter().any(|node| node.events.iter().any(double)));
}

#[test]
fn one_that_forgot_what_it_signed_votes_only_once_everybody_was_heard() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    for node in [1, 2] {
        cluster.kill(node);
    }
    cluster.run_slots(1);
    let last = final_height(&cluster, 0);
    // Node 1 lost everything that it had signed; without its vote nothing becomes final, and node 2 is away.
    let safety = SafetyRecord {
        last_signed_slot: cluster.genesis.slot_at(cluster.now.0) + 2,
        readmitted: true,
        ..SafetyRecord::default()
    };
    cluster.nodes[1].disk = cluster::Disk { safety: Some(safety), ..cluster::Disk::default() };
    cluster.boot(1);
    cluster.run_slots(100);
    assert_eq!(cluster.mode(1), Mode::Active);
    assert!(cluster.height(1) > last + 60, "it makes blocks");
    assert!(final_height(&cluster, 1) <= last + 1, "and gives no vote");
    cluster.boot(2);
    cluster.run_slots(5);
    assert!(cluster.core(1).status().decision > 0);
    cluster.run_slots(75);
    let forgot = cluster.nodes[1].disk.safety.unwrap().readmitted;
    assert!(!forgot, "it voted since it heard the third for as long as a joining takes");
    assert!(final_height(&cluster, 0) + 1 >= cluster.height(0));
}
