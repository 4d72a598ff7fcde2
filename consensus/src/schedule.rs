//! Who may propose in a slot, and in which order the others stand by.

use zeni_ledger::{Genesis, GenesisId, ValidatorIndex};

const DOMAIN: &str = "zeni schedule v1";

/// The deterministic, stake-weighted order of proposers of every slot.
#[derive(Debug, Clone)]
pub struct Schedule {
    genesis: GenesisId,
    stakes: Vec<u64>,
}

impl Schedule {
    pub fn new(genesis: &Genesis) -> Self {
        let stakes = genesis.validators.iter().map(|validator| validator.stake).collect();
        Self { genesis: genesis.id(), stakes }
    }

    /// How many validators there are.
    pub fn validators(&self) -> usize {
        self.stakes.len()
    }

    /// All validators in the order in which they may propose in `slot`: each next one is drawn from those left with a
    /// probability in proportion to its stake.
    pub fn order(&self, slot: u64) -> Vec<ValidatorIndex> {
        let seed = zeni_ledger::hash::hash_parts(DOMAIN, &[&self.genesis.0, &slot.to_le_bytes()]);
        let mut draws = blake3::Hasher::new_keyed(&seed).finalize_xof();
        let mut left: Vec<usize> = (0..self.stakes.len()).collect();
        let mut total: u128 = self.stakes.iter().map(|stake| u128::from(*stake)).sum();
        let mut order = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let mut bytes = [0; 8];
            draws.fill(&mut bytes);
            // Stakes are below 2^40 and validators below 2^8, so the product fits and the bias is below 2^-16.
            let mut point = (u128::from(u64::from_le_bytes(bytes)) * total) >> 64;
            let place = left.iter().position(|validator| {
                let stake = u128::from(self.stakes[*validator]);
                let hit = point < stake;
                point = point.saturating_sub(stake);
                hit
            });
            let validator = left.remove(place.expect("the point lies below the sum of the stakes left"));
            total -= u128::from(self.stakes[validator]);
            order.push(ValidatorIndex(validator as u16));
        }
        order
    }

    /// The place of a validator in the order of `slot`; `None` if there is no such validator.
    pub fn rank(&self, slot: u64, validator: ValidatorIndex) -> Option<u16> {
        self.order(slot).iter().position(|candidate| *candidate == validator).map(|rank| rank as u16)
    }

    /// What a block of this rank adds to its chain's weight: the first proposer's counts most.
    pub fn weight(&self, rank: u16) -> u128 {
        (self.stakes.len() as u128).saturating_sub(u128::from(rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(stakes: &[u64]) -> Schedule {
        Schedule { genesis: GenesisId([7; 32]), stakes: stakes.to_vec() }
    }

    #[test]
    fn every_order_names_each_validator_once() {
        let schedule = schedule(&[5, 1, 3, 1]);
        for slot in 0..200 {
            let mut order = schedule.order(slot);
            for (rank, validator) in order.iter().enumerate() {
                assert_eq!(schedule.rank(slot, *validator), Some(rank as u16));
            }
            order.sort_unstable();
            assert_eq!(order, (0..4).map(ValidatorIndex).collect::<Vec<_>>());
        }
        assert_eq!(schedule.rank(0, ValidatorIndex(4)), None);
    }

    #[test]
    fn the_first_place_follows_the_stake() {
        let schedule = schedule(&[6, 3, 1]);
        let mut firsts = [0u32; 3];
        for slot in 0..10_000 {
            firsts[schedule.order(slot)[0].as_usize()] += 1;
        }
        for (count, expected) in firsts.iter().zip([6_000u32, 3_000, 1_000]) {
            assert!(count.abs_diff(expected) < 300, "{firsts:?}");
        }
    }

    #[test]
    fn earlier_ranks_weigh_more() {
        let schedule = schedule(&[1, 1, 1]);
        assert_eq!([0, 1, 2].map(|rank| schedule.weight(rank)), [3, 2, 1]);
    }
}
