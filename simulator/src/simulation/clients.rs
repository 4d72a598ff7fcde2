//! Clients: they submit to nodes, wait for verdicts, and go elsewhere with the same bytes if none comes.

use zeni_consensus::{Input, RequestId};

use super::{Happening, Simulation, Stimulus};
use crate::network::ProcessId;
use crate::profile::PAYMENTS_MIN;
use crate::trace::short;
use crate::violation::Violation;

/// Payments that a client submits at once, on average, for spreading submissions over the run.
const PAYMENTS_PER_SUBMISSION: u64 = 2;

impl Simulation {
    /// Spreads submissions over the phase with faults.
    pub(super) fn schedule_submissions(&mut self) {
        let last = self.profile.heal_at() - 2_000;
        for number in 0..self.profile.payments.div_ceil(PAYMENTS_PER_SUBMISSION) {
            let spread = 2_000 + number * PAYMENTS_PER_SUBMISSION * (last - 4_000) / self.profile.payments;
            self.queue.at(spread + self.network_dice.below(2_000), Happening::Submit);
        }
    }

    pub(super) fn submit(&mut self) -> Result<(), Violation> {
        // Chance may have made few payments so far: towards the end, what is missing is submitted at once.
        let late = self.now > self.profile.heal_at() / 10 * 9;
        loop {
            for wishes in self.workload.submit(self.now) {
                self.send_wishes(wishes);
            }
            if !late || self.workload.len() as u64 >= PAYMENTS_MIN {
                return Ok(());
            }
        }
    }

    fn send_wishes(&mut self, wishes: Vec<usize>) {
        let node = self.network_dice.place(self.profile.validators);
        for wish in &wishes {
            self.workload.tries_again(*wish);
            let wait = self.network_dice.between(3_000, 12_000);
            self.queue.at(self.now + wait, Happening::Retry { wish: *wish });
        }
        let at = self.now + self.network_dice.between(0, 50);
        self.queue.at(at, Happening::Arrive { node, wishes });
    }

    pub(super) fn retry(&mut self, wish: usize) -> Result<(), Violation> {
        if self.workload.tries_again(wish) {
            let node = self.network_dice.place(self.profile.validators);
            self.queue.at(self.now, Happening::Arrive { node, wishes: vec![wish] });
            let wait = self.network_dice.between(3_000, 12_000);
            self.queue.at(self.now + wait, Happening::Retry { wish });
        }
        Ok(())
    }

    pub(super) fn arrive(&mut self, node: ProcessId, wishes: Vec<usize>) -> Result<(), Violation> {
        if self.nodes[node].process.is_none() {
            return Ok(());
        }
        let payments: Vec<_> = wishes
            .iter()
            .map(|wish| {
                let wish = self.workload.wish(*wish);
                (wish.payment, wish.id)
            })
            .collect();
        let ids: Vec<&[u8]> = payments.iter().map(|(_, id)| &id.0[..]).collect();
        self.trace.note(self.now, node, "submission", &ids, || {
            payments.iter().map(|(_, id)| short(&id.0)).collect::<Vec<_>>().join(" ")
        });
        self.requests_made += 1;
        let request = RequestId(self.requests_made);
        self.requests.insert((node, self.nodes[node].boots, request), wishes);
        self.stimulate(node, Stimulus::Input(Input::Submission { request, payments }))
    }

    /// After healing, good payments at every node: they must come through.
    pub(super) fn probe(&mut self) -> Result<(), Violation> {
        for node in 0..self.profile.validators {
            let wish = self.workload.probe(self.now);
            self.probes.push(wish);
            self.workload.tries_again(wish);
            self.arrive(node, vec![wish])?;
        }
        Ok(())
    }
}
