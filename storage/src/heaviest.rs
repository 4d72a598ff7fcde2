//! Which of the stored blocks are the canonical chain.
//!
//! A core stores a block only once it and its ancestors are executed there, so every stored block counts, and the
//! heaviest chain of them is what the core followed: a block weighs (validators − rank), ties go to the lower id.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use zeni_consensus::schedule::Schedule;
use zeni_ledger::{Block, BlockId, CommitCertificate, Genesis};

/// The ids of the canonical chain from height 1 to its head; empty if genesis is the head. It holds the block of the last
/// certificate, if that is stored. Blocks that do not descend from genesis through stored blocks are left out.
pub(crate) fn heaviest_chain(
    blocks: &HashMap<BlockId, Arc<Block>>,
    certificates: &[CommitCertificate],
    genesis: &Genesis,
) -> Vec<BlockId> {
    let (root, schedule) = (genesis.block_id(), Schedule::new(genesis));
    let mut order: Vec<(u64, BlockId)> = blocks.iter().map(|(id, block)| (block.header.height, *id)).collect();
    order.sort_unstable();
    let mut weights = HashMap::from([(root, 0u128)]);
    for (_, id) in &order {
        let header = &blocks[id].header;
        let Some(below) = weights.get(&header.parent) else { continue };
        weights.insert(*id, below + schedule.weight(header.rank));
    }
    let stored = certificates.iter().filter(|certificate| weights.contains_key(&certificate.block.id));
    let last = stored.max_by_key(|certificate| certificate.decision).map_or(root, |last| last.block.id);
    // What stands on the last final block.
    let mut standing = HashSet::from([last]);
    let mut best = (weights[&last], Reverse(last));
    for (_, id) in &order {
        if standing.contains(&blocks[id].header.parent) && weights.contains_key(id) {
            standing.insert(*id);
            best = best.max((weights[id], Reverse(*id)));
        }
    }
    let mut chain = Vec::new();
    let mut current = best.1.0;
    while current != root {
        chain.push(current);
        current = blocks[&current].header.parent;
    }
    chain.reverse();
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::World;

    fn map(world: &World, blocks: &[Arc<Block>]) -> HashMap<BlockId, Arc<Block>> {
        blocks.iter().map(|block| (block.id(&world.id), block.clone())).collect()
    }

    #[test]
    fn what_is_final_wins_over_the_greater_weight() {
        let mut world = World::new(3);
        let base = world.extend(1, &[]);
        let light = world.extend_ranked(2, 2);
        world.rewind_to(&base);
        let heavy = world.extend_ranked(2, 0);
        let all = map(&world, &[base.clone(), light.clone(), heavy.clone()]);
        let ids = |blocks: &[&Arc<Block>]| blocks.iter().map(|block| block.id(&world.id)).collect::<Vec<_>>();
        let chain = |certificates: &[CommitCertificate]| heaviest_chain(&all, certificates, &world.genesis);
        assert_eq!(chain(&[]), ids(&[&base, &heavy]));
        let final_base = world.certify(1, &base);
        assert_eq!(chain(std::slice::from_ref(&final_base)), ids(&[&base, &heavy]));
        assert_eq!(chain(&[final_base, world.certify(2, &light)]), ids(&[&base, &light]));
    }

    #[test]
    fn the_greater_weight_wins_over_the_greater_height() {
        let mut world = World::new(3);
        let base = world.extend(1, &[]);
        let light: Vec<_> = [2, 3].map(|slot| world.extend_ranked(slot, 2)).into();
        world.rewind_to(&base);
        let heavy = world.extend_ranked(2, 0);
        let all = [&[base.clone(), heavy.clone()][..], &light].concat();
        let chain = heaviest_chain(&map(&world, &all), &[], &world.genesis);
        assert_eq!(chain, [base.id(&world.id), heavy.id(&world.id)]);
    }

    #[test]
    fn equal_weights_go_to_the_lower_id_and_orphans_are_left_out() {
        let mut world = World::new(3);
        let base = world.extend(1, &[]);
        let first = world.extend_ranked(2, 1);
        world.rewind_to(&base);
        let second = world.extend_ranked(3, 1);
        let orphan = world.extend_ranked(9, 0);
        let lower = first.id(&world.id).min(second.id(&world.id));
        let all = map(&world, &[base.clone(), first, second.clone()]);
        assert_eq!(heaviest_chain(&all, &[], &world.genesis), [base.id(&world.id), lower]);
        assert_eq!(heaviest_chain(&map(&world, &[orphan, second]), &[], &world.genesis), []);
    }
}
