//! Binary Merkle trees over lists. The root binds the number of leaves, and leaves are hashed in another domain than
//! nodes: without the first, a duplicated last leaf gives a second list the same root (CVE-2012-2459; Symbol's chain
//! had the same fault in 2025), without the second a node can pass for a leaf (RFC 6962, section 2.1).

use crate::hash::{TreeDomain, hash_parts};

const LEAF_DOMAIN: TreeDomain = TreeDomain::new("zeni merkle leaf v1");
const NODE_DOMAIN: TreeDomain = TreeDomain::new("zeni merkle node v1");
const ROOT_DOMAIN: &str = "zeni merkle root v1";

/// Paths are never longer: a list has at most 2^32 leaves.
pub const PATH_MAX: usize = 32;

/// The hash of a leaf's canonical bytes.
pub fn leaf_hash(bytes: &[u8]) -> [u8; 32] {
    LEAF_DOMAIN.hash(bytes)
}

/// The hash of two children.
pub fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(left);
    pair[32..].copy_from_slice(right);
    NODE_DOMAIN.hash(&pair)
}

fn root_hash(count: u64, top: &[u8; 32]) -> [u8; 32] {
    hash_parts(ROOT_DOMAIN, &[&count.to_le_bytes(), top])
}

/// The root of a list of leaf hashes. An odd node at the end of a level moves up as it is.
pub fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    root_hash(leaves.len() as u64, &top(leaves).unwrap_or([0; 32]))
}

/// The node above all of these neighbours of one level, without what the root binds besides; `None` above nothing.
///
/// The tops of runs of 2^n leaves, of which the last may be shorter, are the tree's level n.
pub fn top(level: &[[u8; 32]]) -> Option<[u8; 32]> {
    let mut level = level.to_vec();
    while level.len() > 1 {
        level = level_above(&level);
    }
    level.first().copied()
}

fn level_above(level: &[[u8; 32]]) -> Vec<[u8; 32]> {
    level
        .chunks(2)
        .map(|pair| match pair {
            [left, right] => node_hash(left, right),
            odd => odd[0],
        })
        .collect()
}

/// The root of a list that grows leaf by leaf: the tops of its complete subtrees, the largest first, and nothing else.
#[derive(Debug, Clone, Default)]
pub struct Frontier {
    count: u64,
    tops: Vec<[u8; 32]>,
}

impl Frontier {
    /// Adds a leaf's hash behind the others.
    pub fn push(&mut self, leaf: [u8; 32]) {
        let mut top = leaf;
        // Each trailing one bit of the count is a subtree that this leaf completes the twin of.
        for _ in 0..self.count.trailing_ones() {
            let left = self.tops.pop().expect("there is a subtree for each one bit of the count");
            top = node_hash(&left, &top);
        }
        self.tops.push(top);
        self.count += 1;
    }

    /// What [`root`] is of all leaves so far.
    pub fn root(&self) -> [u8; 32] {
        let top = self.tops.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        root_hash(self.count, &top.unwrap_or([0; 32]))
    }
}

/// The siblings of leaf `index` from the bottom up; `None` if there is no such leaf.
pub fn path(leaves: &[[u8; 32]], index: usize) -> Option<Vec<[u8; 32]>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut level, mut position, mut siblings) = (leaves.to_vec(), index, Vec::new());
    while level.len() > 1 {
        if let Some(sibling) = level.get(position ^ 1) {
            siblings.push(*sibling);
        }
        level = level_above(&level);
        position /= 2;
    }
    Some(siblings)
}

/// Whether `leaf` stands at `index` of a list of `count` leaves whose root is `expected`. A path that is longer or
/// shorter than that place needs is refused.
pub fn verify(expected: &[u8; 32], count: u64, index: u64, leaf: &[u8; 32], siblings: &[[u8; 32]]) -> bool {
    if index >= count {
        return false;
    }
    let (mut hash, mut position, mut width) = (*leaf, index, count);
    let mut rest = siblings.iter();
    while width > 1 {
        if position ^ 1 < width {
            let Some(sibling) = rest.next() else { return false };
            hash = if position % 2 == 0 { node_hash(&hash, sibling) } else { node_hash(sibling, &hash) };
        }
        position /= 2;
        width = width.div_ceil(2);
    }
    rest.next().is_none() && root_hash(count, &hash) == *expected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: usize) -> Vec<[u8; 32]> {
        (0..count).map(|number| leaf_hash(&number.to_le_bytes())).collect()
    }

    #[test]
    fn every_leaf_of_every_small_list_is_proved_and_no_other_place_is() {
        for count in 1..=20 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for index in 0..count {
                let path = path(&leaves, index).unwrap();
                for place in 0..=count {
                    let proved = verify(&root, count as u64, place as u64, &leaves[index], &path);
                    assert_eq!(proved, place == index, "leaf {index} at {place} of {count}");
                }
                assert!(!verify(&root, count as u64 + 1, index as u64, &leaves[index], &path));
            }
        }
    }

    #[test]
    fn a_frontier_has_the_root_of_the_list() {
        let (leaves, mut frontier) = (leaves(70), Frontier::default());
        for count in 0..leaves.len() {
            assert_eq!(frontier.root(), root(&leaves[..count]), "{count} leaves");
            frontier.push(leaves[count]);
        }
    }

    #[test]
    fn a_path_is_the_path_within_a_run_and_the_path_of_the_runs_top() {
        for count in 1..=20 {
            let leaves = leaves(count);
            let tops: Vec<_> = leaves.chunks(4).map(|run| top(run).unwrap()).collect();
            for index in 0..count {
                let mut joined = path(&leaves[index / 4 * 4..(index / 4 * 4 + 4).min(count)], index % 4).unwrap();
                joined.extend(path(&tops, index / 4).unwrap());
                assert_eq!(Some(joined), path(&leaves, index), "leaf {index} of {count}");
            }
        }
    }

    #[test]
    fn a_duplicated_last_leaf_changes_the_root() {
        let mut list = leaves(3);
        let before = root(&list);
        list.push(list[2]);
        assert_ne!(root(&list), before);
    }

    #[test]
    fn paths_of_wrong_length_are_refused() {
        let list = leaves(5);
        let mut path = path(&list, 1).unwrap();
        path.push([0; 32]);
        assert!(!verify(&root(&list), 5, 1, &list[1], &path));
        path.truncate(1);
        assert!(!verify(&root(&list), 5, 1, &list[1], &path));
    }

    #[test]
    fn the_empty_list_has_a_root_of_its_own() {
        assert_ne!(root(&[]), root(&[[0; 32]]));
        assert!(!verify(&root(&[]), 0, 0, &[0; 32], &[]));
        assert_eq!(path(&[], 0), None);
    }
}
