//! The end of a run: everything heals, and then everyone must agree.

use std::collections::BTreeSet;

use zeni_consensus::Mode;
use zeni_ledger::execute::execute;
use zeni_ledger::{BlockId, VerifiedBatch};

use super::{Happening, Simulation};
use crate::network::ProcessId;
use crate::trace::short;
use crate::violation::Violation;

/// How often it is looked whether the nodes agree, in milliseconds.
const SAMPLE_EVERY_MS: u64 = 20;
/// Slots in which they must agree at one moment.
const SAMPLE_SLOTS: u64 = 4;

impl Simulation {
    /// Faults end: the network is clean, clocks are near, whoever is down starts.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.note(0, "HEAL", &[], String::new);
        self.healed = true;
        self.network.unblock_all();
        (self.profile.loss, self.profile.duplication, self.profile.latency_ms) = (0, 0, (1, 40));
        self.profile.slow_sync = 0;
        if self.nodes[self.twin()].validator.is_some() {
            self.abandon_twin();
        }
        for node in 0..=self.follower() {
            self.nodes[node].clock_ms /= 4;
            self.nodes[node].ambush = None;
            self.resume(node)?;
            self.queue.at(self.now + self.fault_dice.below(1_000), Happening::Start { node });
            self.queue.at(self.now + self.fault_dice.below(3_000), Happening::Readmit { node });
            for other in 0..node {
                self.queue.at(self.now + 1_000, Happening::Dial { one: node, other });
            }
        }
        let healing = self.profile.healing_ms();
        self.queue.at(self.now + healing / 2, Happening::Probe);
        self.queue.at(self.now + healing, Happening::Sample);
        Ok(())
    }

    /// Whether everyone agrees at this moment; if so, everything is checked and the run is over.
    pub(super) fn sample(&mut self) -> Result<bool, Violation> {
        let first = self.profile.heal_at() + self.profile.healing_ms();
        let heads: Vec<Option<(BlockId, u64)>> =
            (0..=self.follower()).map(|node| self.nodes[node].process.as_ref().map(|process| process.head())).collect();
        let agreed = heads.iter().all(|head| head.is_some() && *head == heads[0]);
        let inactive = (0..self.follower()).find(|node| self.mode(*node) != Some(Mode::Active));
        let behind = (0..=self.follower()).find_map(|node| {
            let process = self.nodes[node].process.as_ref()?;
            let (height, head) = (process.last_final().height, process.head().1);
            (height < head).then_some(Violation::NotFinal { node, height, head })
        });
        if agreed && inactive.is_none() && behind.is_none() {
            self.check_end()?;
            return Ok(true);
        }
        if self.now >= first + SAMPLE_SLOTS * self.profile.block_interval_ms {
            if let Some(node) = inactive {
                return Err(match self.mode(node) {
                    Some(mode) => Violation::NotActive { node, mode },
                    None => Violation::CannotStart { node, what: "it does not run".into() },
                });
            }
            if let Some(behind) = behind.filter(|_| agreed) {
                return Err(behind);
            }
            let head = |head: &Option<(BlockId, u64)>| {
                head.map_or("none".into(), |(id, height)| format!("{} at {height}", short(&id.0)))
            };
            return Err(Violation::Apart { heads: heads.iter().map(head).collect::<Vec<_>>().join(", ") });
        }
        self.queue.at(self.now + SAMPLE_EVERY_MS, Happening::Sample);
        Ok(false)
    }

    fn mode(&self, node: ProcessId) -> Option<Mode> {
        self.nodes[node].process.as_ref().and_then(|process| process.mode())
    }

    fn check_end(&mut self) -> Result<(), Violation> {
        let chain = self.checker.chain(0).to_vec();
        self.check_equal(&chain)?;
        self.check_roots(&chain)?;
        self.checker.check_ends(&chain)?;
        for probe in &self.probes {
            let payment = self.workload.wish(*probe).id;
            if !self.checker.is_executed(0, &payment) {
                return Err(Violation::NotLive { payment });
            }
        }
        let head = *chain.last().expect("genesis is always there");
        self.note(0, "END", &[&head.0], || format!("head {} at {}", short(&head.0), chain.len() - 1));
        Ok(())
    }

    /// Every process has the same chain and the same accounts, byte for byte.
    fn check_equal(&self, chain: &[BlockId]) -> Result<(), Violation> {
        let state = |node: ProcessId| self.nodes[node].process.as_ref().expect("everyone runs").state();
        let block = *chain.last().expect("genesis is always there");
        for node in 0..=self.follower() {
            let process = self.nodes[node].process.as_ref().expect("everyone runs");
            if process.chain() != chain || self.checker.chain(node) != chain {
                let (height, what) = (chain.len() as u64 - 1, "its chain is not that of node 0".into());
                return Err(Violation::Chain { node, height, block, what });
            }
            let differs = state(0).accounts().zip(state(node).accounts()).find(|(one, other)| one != other);
            if let Some((account, _)) = differs {
                let (account, what) = (account.id(), "it is not that of node 0".into());
                return Err(Violation::State { node, block, account, what });
            }
        }
        Ok(())
    }

    /// The chain, executed once more on a fresh state, gives the roots in its headers, and lists nothing twice.
    fn check_roots(&self, chain: &[BlockId]) -> Result<(), Violation> {
        let reader = &self.nodes[0].process.as_ref().expect("everyone runs").reader;
        let mut state = self.world.state.clone();
        let (mut listed, mut slot) = (BTreeSet::new(), 0);
        for (height, id) in chain.iter().enumerate().skip(1) {
            let broken =
                |what: &str| Violation::Chain { node: 0, height: height as u64, block: *id, what: what.into() };
            let block = zeni_consensus::Archive::block(reader, id).ok().flatten();
            let block = block.ok_or_else(|| broken("its log does not hold it"))?;
            let header = &block.header;
            if header.slot <= slot || !block.digests.iter().all(|digest| listed.insert(*digest)) {
                return Err(broken("its slot does not rise, or it lists a batch again"));
            }
            slot = header.slot;
            let batch = |digest| self.checker.model.batch(digest).cloned();
            let batches: Option<Vec<VerifiedBatch>> = block.digests.iter().map(batch).collect();
            let batches = batches.ok_or_else(|| broken("it lists a batch that nobody stored"))?;
            let slot_time_ms = self.world.genesis.slot_time_ms(slot);
            let executed = execute(&mut state, &self.world.genesis.rules, slot_time_ms, &batches);
            if (executed.state_root, executed.receipts_root) != (header.state_root, header.receipts_root) {
                return Err(broken("its roots are not those of its execution"));
            }
        }
        Ok(())
    }
}
