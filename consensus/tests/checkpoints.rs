//! What a checkpoint holds, however it is gathered.

#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod cluster;

use cluster::{Cluster, TOKEN, payment};
use zeni_ledger::State;

#[test]
fn a_checkpoint_holds_each_account_as_it_was_at_the_last_final_block() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let mut expected = cluster.genesis.state(&cluster.file).unwrap();
    let mut heights = Vec::new();
    for sequence in 0..12 {
        let pay = payment(&cluster.genesis, 0, 1, sequence, 1);
        cluster.ask(0, &[pay]);
        cluster.run_slots(1);
        if sequence % 4 == 3 {
            let node = &mut cluster.nodes[0];
            let core = node.core.as_mut().unwrap();
            let last = core.last_final();
            let delta = core.checkpoint(&node.disk).unwrap().unwrap();
            assert_eq!((delta.to, delta.height), (last.id, last.height));
            for account in delta.accounts {
                assert!(expected.replace(account));
            }
            assert_eq!(expected.token_sums()[&TOKEN], 0);
            let block = node.disk.block_ids[&delta.to].clone();
            assert_eq!(expected.commit(), block.header.state_root, "height {}", delta.height);
            assert!(core.checkpoint(&node.disk).unwrap().is_none());
            heights.push(delta.height);
        }
    }
    assert!(heights.is_sorted() && heights[0] < heights[2], "{heights:?}");
}

#[test]
fn nothing_is_checkpointed_that_is_not_final() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    cluster.kill(1);
    cluster.kill(2);
    cluster.run_slots(4);
    let node = &mut cluster.nodes[0];
    let core = node.core.as_mut().unwrap();
    let (last, head) = (core.last_final(), core.status().height);
    assert!(last.height > 0 && last.height + 3 <= head, "{last:?} below {head}");
    assert_eq!(core.checkpoint(&node.disk).unwrap().unwrap().to, last.id);
}

/// Gathers `most` accounts at a time, and runs the cluster for a while after each piece. Returns how many pieces it took.
fn gather(cluster: &mut Cluster, expected: &mut State, most: u64, mut between: impl FnMut(&mut Cluster)) -> u64 {
    let node = &mut cluster.nodes[0];
    let core = node.core.as_mut().unwrap();
    core.begin_checkpoint(true, &node.disk).unwrap();
    let goal = core.last_final();
    for piece in 1..1_000 {
        let node = &mut cluster.nodes[0];
        let core = node.core.as_mut().unwrap();
        assert!(core.is_gathering());
        if let Some(delta) = core.gather_checkpoint(most, &node.disk).unwrap() {
            assert_eq!((delta.to, delta.height), (goal.id, goal.height));
            for account in delta.accounts {
                assert!(expected.replace(account));
            }
            let block = node.disk.block_ids[&delta.to].clone();
            assert_eq!(expected.commit(), block.header.state_root, "height {}", delta.height);
            return piece;
        }
        between(cluster);
    }
    panic!("never complete")
}

#[test]
fn a_checkpoint_gathered_in_pieces_while_the_chain_goes_on_is_that_of_the_block_it_began_with() {
    let mut cluster = Cluster::start(1);
    cluster.run_slots(1);
    let genesis = cluster.genesis.clone();
    let mut expected = genesis.state(&cluster.file).unwrap();
    let mut sequences = [0u64; 10];
    let mut pay_all = |cluster: &mut Cluster| {
        for (payer, sequence) in sequences.iter_mut().enumerate() {
            let pay = payment(&genesis, payer as u8, (payer as u8 + 1) % 12, *sequence, 1);
            *sequence += 1;
            cluster.submit(0, &[pay]);
        }
        cluster.run_slots(1);
    };
    for most in [1, 3, 40] {
        (0..3).for_each(|_| pay_all(&mut cluster));
        let before = cluster.core(0).accounts_behind_checkpoint();
        assert!(before >= 20, "{before}");
        // Blocks touch the same accounts again while they are gathered, before and after their turn.
        let pieces = gather(&mut cluster, &mut expected, most, &mut pay_all);
        assert!(pieces > 1 || most == 40, "{pieces} pieces of {most}");
        assert!(cluster.core(0).accounts_behind_checkpoint() < before + 30 * pieces);
    }
    assert!(gather(&mut cluster, &mut expected, u64::MAX, |_| {}) == 1);
    assert_eq!(cluster.core(0).accounts_behind_checkpoint(), 0);
    let node = &mut cluster.nodes[0];
    node.core.as_mut().unwrap().begin_checkpoint(true, &node.disk).unwrap();
    assert!(!node.core.as_ref().unwrap().is_gathering(), "there is nothing behind it");
}

#[test]
fn a_node_that_catches_up_checkpoints_on_the_way_to_the_last_final_block() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(1);
    let mut expected = cluster.genesis.state(&cluster.file).unwrap();
    cluster.kill(2);
    for sequence in 0..12 {
        let pay = payment(&cluster.genesis, 0, 1, sequence, 1);
        cluster.submit(0, &[pay]);
        cluster.run_slots(1);
    }
    cluster.boot(2);
    let mut heights = Vec::new();
    for _ in 0..2_000 {
        cluster.run_one();
        let node = &mut cluster.nodes[2];
        let core = node.core.as_mut().unwrap();
        let (last, status) = (core.last_final(), core.status());
        if last.height > status.height + 2
            && let Some(delta) = core.checkpoint(&node.disk).unwrap()
        {
            assert_eq!((delta.to, delta.height), (status.head, status.height));
            for account in delta.accounts {
                assert!(expected.replace(account));
            }
            let block = node.disk.block_ids[&delta.to].clone();
            assert_eq!(expected.commit(), block.header.state_root, "height {}", delta.height);
            heights.push(delta.height);
        }
    }
    assert!(heights.len() > 2, "{heights:?}");
    cluster.run_slots(2);
    assert!(cluster.agree());
}
