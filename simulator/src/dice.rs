//! Where chance comes from: one stream of numbers for each concern of a seed, so that a change in one leaves the
//! others as they were.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream of chance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    World = 1,
    Network = 2,
    Disk = 3,
    Faults = 4,
    Clients = 5,
    Byzantine = 6,
}

/// A stream of chance.
#[derive(Debug, Clone)]
pub struct Dice {
    rng: ChaCha8Rng,
}

impl Dice {
    /// The stream of one concern of one seed.
    pub fn new(seed: u64, concern: Concern) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(concern as u64);
        Self { rng }
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.rng.random_range(0..bound) }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..=high.max(low))
    }

    /// True this often in a thousand times.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }

    /// A place in a list of this length.
    pub fn place(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Any 64 bits.
    pub fn word(&mut self) -> u64 {
        self.rng.random()
    }

    /// The place of one of these weights, each as likely as it weighs.
    ///
    /// # Panics
    /// If all weights are 0.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut point = self.below(weights.iter().sum());
        let hit = weights.iter().position(|weight| {
            let hit = point < *weight;
            point = point.saturating_sub(*weight);
            hit
        });
        hit.expect("a point below the sum lies in one of the weights")
    }
}
