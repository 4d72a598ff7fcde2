//! Figures computed from what was seen: throughput, the dip of a fault, resynchronisation. Pure functions.

use crate::book::Tick;
use crate::finals::Finals;
use crate::report::BlockFinal;
use crate::tracker::Listed;

/// What the storm's figures need to know of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLoad {
    pub slot: u64,
    /// Payments of the storm that it was the first to list.
    pub payments: u64,
}

impl From<&Listed> for BlockLoad {
    fn from(block: &Listed) -> Self {
        Self { slot: block.slot, payments: block.ours }
    }
}

/// The ledger's slots in real time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Slot 0 begins here, Unix milliseconds.
    pub genesis_ms: u64,
    pub interval_ms: u64,
}

impl Slots {
    /// The first slot that begins at or after a moment.
    fn first_from(&self, unix_ms: u64) -> u64 {
        unix_ms.saturating_sub(self.genesis_ms).div_ceil(self.interval_ms)
    }

    /// The first slot that has not ended at a moment: all before it have.
    fn first_unended(&self, unix_ms: u64) -> u64 {
        unix_ms.saturating_sub(self.genesis_ms) / self.interval_ms
    }
}

/// How throughput changed in a fault: payments in the whole slots from one interval after the fault until the restart,
/// divided by those in as many whole slots just before the fault. `None` if there is no such slot, or nothing was
/// included before.
pub fn dip_ratio(blocks: &[BlockLoad], slots: Slots, fault_ms: u64, restart_ms: u64) -> Option<f64> {
    let first = slots.first_from(fault_ms + slots.interval_ms);
    let end = slots.first_unended(restart_ms);
    let count = end.checked_sub(first).filter(|count| *count > 0)?;
    let fault = slots.first_unended(fault_ms);
    let before = payments_in(blocks, fault.checked_sub(count)?, fault);
    let during = payments_in(blocks, first, end);
    (before > 0).then(|| during as f64 / before as f64)
}

/// Payments a second that the whole slots from one interval after the beginning of a stretch until its end list. `None` if
/// there is no such slot.
pub fn goodput_tps(blocks: &[BlockLoad], slots: Slots, began_ms: u64, ended_ms: u64) -> Option<f64> {
    let (first, end) = (slots.first_from(began_ms + slots.interval_ms), slots.first_unended(ended_ms));
    let count = end.checked_sub(first).filter(|count| *count > 0)?;
    Some(payments_in(blocks, first, end) as f64 * 1_000.0 / (count * slots.interval_ms) as f64)
}

fn payments_in(blocks: &[BlockLoad], from: u64, until: u64) -> u64 {
    blocks.iter().filter(|block| (from..until).contains(&block.slot)).map(|block| block.payments).sum()
}

/// What is decided already when a fault strikes may still be told for so long, in microseconds.
const STRUCK_GRACE_US: u64 = 2_000_000;

/// Blocks that became final anywhere from [`STRUCK_GRACE_US`] after a fault had struck until its end. `None` if it was
/// shorter.
pub fn final_during(finals: &Finals, struck_us: u64, ended_us: u64) -> Option<u64> {
    let from_us = struck_us + STRUCK_GRACE_US;
    let at = |us| finals.height_at(Tick::from_us(us));
    (from_us < ended_us).then(|| at(ended_us) - at(from_us))
}

/// Seconds from the end of a fault until a block became final that no node called final before. `None` if none did.
pub fn first_final_s(finals: &Finals, ended_us: u64) -> Option<f64> {
    let first = finals.first_after(Tick::from_us(ended_us))?;
    Some(first.as_us().saturating_sub(ended_us) as f64 / 1e6)
}

/// How long blocks took from the beginning of their slots until they were final, in milliseconds: of every final block
/// that lists payments of the storm. `unix_ms` tells the wall time of a tick. `None` if there is none.
pub fn block_final_ms(blocks: &[Listed], slots: Slots, unix_ms: impl Fn(Tick) -> u64) -> Option<BlockFinal> {
    let took = |block: &Listed| {
        let begins_ms = slots.genesis_ms + block.slot * slots.interval_ms;
        Some(unix_ms(block.finalised?).saturating_sub(begins_ms))
    };
    let mut took: Vec<u64> = blocks.iter().filter(|block| block.ours > 0).filter_map(took).collect();
    took.sort_unstable();
    // The least that this share of all did not exceed.
    let at = |quantile: f64| took[((took.len() as f64 * quantile).ceil() as usize).max(1) - 1];
    let max = *took.last()?;
    Some(BlockFinal { p50: at(0.5), p99: at(0.99), max, blocks: took.len() as u64 })
}

/// Payments a second from the first intended send until the last one was final and all nodes were equal.
pub fn mean_tps(payments: u64, first_intended_us: u64, all_equal_us: u64) -> Option<f64> {
    let span_us = all_equal_us.checked_sub(first_intended_us).filter(|span| *span > 0)?;
    Some(payments as f64 * 1e6 / span_us as f64)
}

/// Payments a second in the fullest block: what it lists over the time since the slot of the block before it. The
/// storm's first block is left out unless it is the only one, for the slot before it began before the storm.
pub fn best_block_tps(blocks: &[BlockLoad], interval_ms: u64) -> Option<f64> {
    let rate = |pair: &[BlockLoad]| {
        let slots = pair[1].slot.saturating_sub(pair[0].slot).max(1);
        pair[1].payments as f64 * 1_000.0 / (slots * interval_ms) as f64
    };
    let best = blocks.windows(2).map(rate).reduce(f64::max);
    best.or_else(|| blocks.first().map(|block| block.payments as f64 * 1_000.0 / interval_ms as f64))
}

/// A look at a node that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Microseconds from the start of the storm.
    pub at_us: u64,
    pub active: bool,
    pub height: u64,
    /// The greatest height that any node told by then.
    pub best_height: u64,
}

impl Look {
    /// Whether the node takes part and is within one block of the head.
    pub fn is_back(&self) -> bool {
        self.active && self.height + 1 >= self.best_height
    }
}

/// Seconds from a process's start until it was active and within one block of the head; `None` if it never was.
pub fn resync_s(looks: &[Look], process_start_us: u64) -> Option<f64> {
    let back = looks.iter().find(|look| look.at_us >= process_start_us && look.is_back())?;
    Some((back.at_us - process_start_us) as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: Slots = Slots { genesis_ms: 1_000_000, interval_ms: 3_000 };

    fn final_block(slot: u64, ours: u64, finalised: Option<u32>) -> Listed {
        let mut block = Listed::genesis(zeni_ledger::BlockId([0; 32]));
        (block.slot, block.ours, block.finalised) = (slot, ours, finalised.map(Tick));
        block
    }

    #[test]
    fn blocks_are_timed_from_their_slots_and_only_those_with_payments() {
        // The storm begins with slot 100; a tick is 10 µs.
        let unix_ms = |tick: Tick| slot_ms(100) + tick.as_us() / 1_000;
        let blocks: Vec<Listed> = (0..100).map(|place| final_block(100, 5, Some(100 * (place + 1)))).collect();
        let found = block_final_ms(&blocks, SLOTS, unix_ms).unwrap();
        assert_eq!(found, BlockFinal { p50: 50, p99: 99, max: 100, blocks: 100 });
        let other = [final_block(100, 0, Some(1)), final_block(100, 5, None), final_block(101, 5, Some(400_000))];
        let found = block_final_ms(&other, SLOTS, unix_ms).unwrap();
        assert_eq!(found, BlockFinal { p50: 1_000, p99: 1_000, max: 1_000, blocks: 1 });
        assert_eq!(block_final_ms(&other[..2], SLOTS, unix_ms), None);
    }

    fn series(payments: &[u64]) -> Vec<BlockLoad> {
        (payments.iter().enumerate())
            .map(|(place, payments)| BlockLoad { slot: 100 + place as u64, payments: *payments })
            .collect()
    }

    fn slot_ms(slot: u64) -> u64 {
        SLOTS.genesis_ms + slot * SLOTS.interval_ms
    }

    #[test]
    fn the_dip_compares_whole_slots_within_the_fault_to_as_many_before_it() {
        //              100  101  102  103  104 |105  106  107  108  109  110
        let blocks = series(&[10, 100, 100, 100, 100, 55, 90, 80, 70, 60, 10]);
        // The fault falls into slot 105. Slots 107 and 108 lie whole between one interval after it and the restart.
        let (fault, restart) = (slot_ms(105) + 500, slot_ms(109) + 100);
        let ratio = dip_ratio(&blocks, SLOTS, fault, restart).unwrap();
        assert!((ratio - 150.0 / 200.0).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn a_fault_exactly_on_a_slots_edge_counts_the_slot_one_interval_later() {
        let blocks = series(&[100, 100, 100, 50, 50, 50, 50]);
        let ratio = dip_ratio(&blocks, SLOTS, slot_ms(103), slot_ms(106)).unwrap();
        assert!((ratio - 0.5).abs() < 1e-9, "slots 104 and 105 against 101 and 102: {ratio}");
    }

    #[test]
    fn slots_without_a_block_count_as_nothing() {
        let mut blocks = series(&[100, 100, 100, 100, 100, 100, 100]);
        blocks.retain(|block| block.slot != 104);
        let ratio = dip_ratio(&blocks, SLOTS, slot_ms(103), slot_ms(106)).unwrap();
        assert!((ratio - 0.5).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn without_a_whole_slot_or_payments_before_there_is_no_dip() {
        let blocks = series(&[100; 7]);
        assert_eq!(dip_ratio(&blocks, SLOTS, slot_ms(103) + 1, slot_ms(105) + 2_999), None);
        assert_eq!(dip_ratio(&series(&[0, 0, 0, 5, 5, 5]), SLOTS, slot_ms(103), slot_ms(105)), None);
    }

    #[test]
    fn the_mean_spans_from_the_first_intended_send_until_all_is_equal() {
        assert_eq!(mean_tps(12_000, 500_000, 4_500_000), Some(3_000.0));
        assert_eq!(mean_tps(12_000, 5, 5), None);
    }

    #[test]
    fn the_best_block_is_measured_over_the_slots_it_filled() {
        let blocks = [(10, 0), (11, 3_000), (13, 9_000)].map(|(slot, payments)| BlockLoad { slot, payments });
        assert_eq!(best_block_tps(&blocks, 3_000), Some(1_500.0));
        assert_eq!(best_block_tps(&series(&[600]), 3_000), Some(200.0));
        assert_eq!(best_block_tps(&[], 3_000), None);
    }

    #[test]
    fn a_node_is_back_when_it_is_active_and_within_a_block() {
        let look = |at_us, active, height, best_height| Look { at_us, active, height, best_height };
        let looks = [
            look(500_000, true, 20, 20),
            look(1_200_000, false, 20, 20),
            look(1_900_000, true, 18, 20),
            look(3_500_000, true, 20, 21),
            look(4_000_000, true, 21, 21),
        ];
        assert_eq!(resync_s(&looks, 1_000_000), Some(2.5));
        assert_eq!(resync_s(&looks[..3], 1_000_000), None);
    }
}
