//! How one seed's world behaves: sizes, speeds and error rates, drawn from the seed.

use zeni_consensus::chain::Bounds;

use crate::dice::Dice;

/// Slots with faults, at least.
pub const SLOTS_MIN: u64 = 200;
/// Payments that clients submit, at least.
pub const PAYMENTS_MIN: u64 = 500;
/// Faults, at least. Those that strike a whole network count once.
pub const FAULTS_MIN: u64 = 10;

/// What was drawn for a seed.
#[derive(Debug, Clone)]
pub struct Profile {
    pub validators: usize,
    pub block_interval_ms: u64,
    /// Slots of the safety phase; healing comes after.
    pub slots: u64,
    pub payments: u64,
    pub faults: u64,
    /// How long a starting node waits for the others.
    pub joining_ms: u64,
    /// Often so small that blocks and reorganisations take many steps, and undo records come from the disk.
    pub bounds: Bounds,
    pub latency_ms: (u64, u64),
    /// Of a thousand messages.
    pub loss: u64,
    pub duplication: u64,
    /// Whether messages of one class on one connection may overtake each other.
    pub reorders: bool,
    pub sync_ms: (u64, u64),
    /// Of a thousand syncs; such a one takes up to a second.
    pub slow_sync: u64,
    pub checkpoint_every_ms: u64,
    /// Accounts that a node gathers for a checkpoint in one turn.
    pub gathered_accounts_max: u64,
    pub segment_bytes: u64,
    /// The validator that lies, if one does.
    pub byzantine: Option<usize>,
    /// Whether more than two thirds of all stake make a quorum, and not more than half.
    pub byzantine_quorums: bool,
}

impl Profile {
    pub fn draw(dice: &mut Dice) -> Self {
        let validators = [3, 1, 2, 4, 5, 7][dice.weighted(&[60, 3, 9, 14, 9, 5])];
        let block_interval_ms = dice.between(1_000, 3_000);
        let rough = dice.chance(650);
        Self {
            validators,
            block_interval_ms,
            slots: dice.between(SLOTS_MIN + 5, SLOTS_MIN + 30),
            payments: dice.between(PAYMENTS_MIN + 10, PAYMENTS_MIN + 150),
            faults: dice.between(FAULTS_MIN, FAULTS_MIN + 8),
            joining_ms: dice.between(4_000, 20_000),
            bounds: match dice.chance(500) {
                true => {
                    Bounds { step_payments_max: dice.between(1, 40), undo_accounts_kept: dice.between(0, 200) as usize }
                }
                false => Bounds::default(),
            },
            latency_ms: (dice.between(0, 20), dice.between(20, if rough { 600 } else { 80 })),
            loss: if rough { dice.between(1, 60) } else { 0 },
            duplication: if rough { dice.between(0, 40) } else { 0 },
            reorders: rough && dice.chance(700),
            sync_ms: (0, dice.between(1, 40)),
            slow_sync: dice.between(0, 20),
            checkpoint_every_ms: dice.between(3_000, 60_000),
            gathered_accounts_max: if dice.chance(700) { dice.between(1, 12) } else { u64::MAX },
            segment_bytes: dice.between(8 << 10, 128 << 10),
            byzantine: (validators >= 4 && dice.chance(400)).then(|| dice.place(validators)),
            byzantine_quorums: validators >= 4 && dice.chance(600),
        }
    }

    /// When faults end and healing begins, in milliseconds of virtual time since genesis.
    pub fn heal_at(&self) -> u64 {
        self.slots * self.block_interval_ms
    }

    /// How long after that every node must stand at one head: restarts, two rounds of joining, liveness windows and
    /// a good number of slots.
    pub fn healing_ms(&self) -> u64 {
        2 * self.joining_ms + 25_000 + 25 * self.block_interval_ms
    }
}
