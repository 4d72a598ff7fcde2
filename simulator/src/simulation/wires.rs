//! What happens between processes: connections come and go, messages are late, lost, doubled and overtaken.

use std::sync::Arc;

use zeni_consensus::finality::FinalityMessage;
use zeni_consensus::finality::message::RoundReason;
use zeni_consensus::{Archive, Input, Message, Peer};
use zeni_ledger::finality::{FinalityVote, VoteKind};
use zeni_ledger::{BatchDigest, Block, FinalBlock, SignatureBytes, ValidatorIndex};

use super::{Happening, Simulation, Stimulus};
use crate::network::{Class, ConnectionId, ProcessId};
use crate::trace::short;
use crate::violation::Violation;

impl Simulation {
    /// Sends to one peer, or to every connected validator. As in the node, what tells where the sender stands goes to
    /// every connection under a validator's key, and everything else to the newest.
    pub(super) fn send_to(&mut self, from: ProcessId, to: Option<Peer>, message: &Message) {
        let all = matches!(message, Message::Status(_) | Message::Stored(_) | Message::Pool(_) | Message::Block(_));
        let mut served = Vec::new();
        for process in self.network.neighbours(from) {
            let peer = self.name_of(process, from);
            let wanted = to.map_or(matches!(peer, Peer::Validator(_)), |to| to == peer);
            if wanted && (all || !served.contains(&peer)) {
                served.push(peer);
                self.transmit(from, process, message.clone());
            }
        }
    }

    /// Sends to every follower that is connected.
    pub(super) fn publish(&mut self, from: ProcessId, message: &Message) {
        for process in self.network.neighbours(from) {
            if self.nodes[process].validator.is_none() {
                self.transmit(from, process, message.clone());
            }
        }
    }

    /// How `at` names a process that it is connected with.
    fn name_of(&self, process: ProcessId, at: ProcessId) -> Peer {
        match self.nodes[process].validator {
            Some(validator) => Peer::Validator(validator),
            None => Peer::Follower(self.network.connection(process, at).map_or(0, |connection| connection.0)),
        }
    }

    pub(super) fn transmit(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        let Some(connection) = self.network.connection(from, to) else { return };
        let class = if matches!(message, Message::Batch(_)) { Class::Bulk } else { Class::Control };
        let dropped = class == Class::Bulk && self.network.bulk_dropped.contains(&from);
        if dropped || self.network.is_blocked(from, to) || self.network_dice.chance(self.profile.loss) {
            return;
        }
        let copies = if self.network_dice.chance(self.profile.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            let (low, high) = self.profile.latency_ms;
            let mut at = self.now + self.network_dice.between(low, high);
            if !self.profile.reorders {
                at = self.network.in_order(connection, to, class, at);
            }
            self.queue.at(at, Happening::Deliver { from, to, connection, message: message.clone() });
        }
    }

    pub(super) fn deliver(
        &mut self,
        from: ProcessId,
        to: ProcessId,
        connection: ConnectionId,
        message: Message,
    ) -> Result<(), Violation> {
        if self.network.connection(from, to) != Some(connection) || self.nodes[to].process.is_none() {
            return Ok(());
        }
        let (kind, id) = (name(&message), fingerprint(&message));
        self.note(to, kind, &[&(from as u32).to_le_bytes(), &id], || format!("from n{from} {}", describe(&message)));
        let peer = self.name_of(from, to);
        match (message, self.nodes[to].validator) {
            (Message::FetchBatches(digests), Some(_)) => self.stimulate(to, Stimulus::Fetch { from, digests }),
            (Message::Block(block), _) => {
                let message = Message::Block(block.clone());
                self.stimulate(to, Stimulus::Input(Input::Message { from: peer, message }))?;
                self.check_taken(to, &block)
            }
            (message, _) => self.stimulate(to, Stimulus::Input(Input::Message { from: peer, message })),
        }
    }

    /// Whether a process that just received a block whose slot has begun prefers it, if it must.
    fn check_taken(&self, node: ProcessId, block: &Block) -> Result<(), Violation> {
        let begun = self.world.genesis.slot_time_ms(block.header.slot) <= self.clock(node).0;
        match &self.nodes[node].process {
            Some(process)
                if begun && !process.is_executing() && !self.nodes[node].paused && !self.nodes[node].halted =>
            {
                self.checker.check_taken(node, block, |digest| process.reader.has_batch(digest))
            }
            _ => Ok(()),
        }
    }

    /// Answers a question for batches from the archive, outside the core.
    pub(super) fn serve_batches(&mut self, node: ProcessId, asker: ProcessId, digests: &[BatchDigest]) {
        let Some(process) = &self.nodes[node].process else { return };
        let mut missing = Vec::new();
        let mut found = Vec::new();
        for digest in digests {
            match process.reader.batch(digest) {
                Ok(Some(batch)) => found.push(batch),
                Ok(None) | Err(_) => missing.push(*digest),
            }
        }
        found.into_iter().for_each(|batch| self.transmit(node, asker, Message::Batch(batch)));
        if !missing.is_empty() {
            self.transmit(node, asker, Message::Missing(missing));
        }
    }

    /// Two processes connect, if both run, the way is free both ways, and neither is the other one's twin.
    pub(super) fn dial(&mut self, one: ProcessId, other: ProcessId) -> Result<(), Violation> {
        let run = self.nodes[one].process.is_some() && self.nodes[other].process.is_some();
        let validators = (self.nodes[one].validator, self.nodes[other].validator);
        let related = validators.0 == validators.1;
        let answers = !self.nodes[one].paused && !self.nodes[other].paused;
        if !run || related || self.network.is_broken(one, other) || self.network.connection(one, other).is_some() {
            return Ok(());
        }
        if !answers {
            self.queue.at(self.now + 1_000, Happening::Dial { one, other });
            return Ok(());
        }
        self.network.connect(one, other);
        self.note(one, "connected", &[&(other as u32).to_le_bytes()], || format!("with n{other}"));
        for (node, validator) in [(one, validators.1), (other, validators.0)] {
            if let Some(validator) = validator {
                self.stimulate(node, Stimulus::Input(Input::Connected(validator)))?;
            }
        }
        Ok(())
    }

    /// A connection is gone; both ends notice sooner or later, and try again once the way is free.
    pub(super) fn disconnect(&mut self, one: ProcessId, other: ProcessId, notice_ms: u64) {
        if !self.network.cut(one, other) {
            return;
        }
        self.note(one, "cut", &[&(other as u32).to_le_bytes()], || format!("from n{other}"));
        for (node, gone) in [(one, other), (other, one)] {
            let boot = self.nodes[node].boots;
            let at = self.now + self.network_dice.below(notice_ms + 1);
            self.queue.at(at, Happening::Notice { node, boot, gone });
        }
    }

    pub(super) fn notice(&mut self, node: ProcessId, boot: u64, gone: ProcessId) -> Result<(), Violation> {
        let Some(validator) = self.nodes[gone].validator else { return Ok(()) };
        let stands = |process: &ProcessId| self.nodes[*process].validator == Some(validator);
        if !self.is_running(node, boot) || self.network.neighbours(node).iter().any(stands) {
            return Ok(());
        }
        self.stimulate(node, Stimulus::Input(Input::Disconnected(validator)))
    }

    pub(super) fn keep_alive(&mut self, one: ProcessId, other: ProcessId) -> Result<(), Violation> {
        let silent = self.nodes[one].paused || self.nodes[other].paused;
        if self.network.is_broken(one, other) || silent {
            self.disconnect(one, other, 2_000);
            if silent {
                self.queue.at(self.now + 1_000, Happening::Dial { one, other });
            }
        }
        Ok(())
    }

    /// Blocks one direction; if that lasts, the connection is given up.
    pub(super) fn block(&mut self, from: ProcessId, to: ProcessId) {
        self.network.block(from, to);
        let at = self.now + self.network_dice.between(3_000, 9_000);
        self.queue.at(at, Happening::KeepAlive { one: from, other: to });
    }

    pub(super) fn unblock(&mut self, from: ProcessId, to: ProcessId) {
        self.network.unblock(from, to);
        let at = self.now + self.network_dice.between(50, 2_000);
        self.queue.at(at, Happening::Dial { one: from, other: to });
    }

    /// Processes that the network knows: the twin only while it runs.
    pub(super) fn processes(&self) -> Vec<ProcessId> {
        (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_twin || self.nodes[*node].process.is_some()).collect()
    }
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::Status(_) => "status",
        Message::Batch(_) => "batch",
        Message::Stored(_) => "stored",
        Message::Pool(_) => "pool",
        Message::Block(_) => "block",
        Message::Draft { .. } => "draft",
        Message::FetchBlocks { .. } => "fetch blocks",
        Message::FetchAncestors { .. } => "fetch anc.",
        Message::Blocks(_) => "blocks",
        Message::FetchBatches(_) => "fetch batches",
        Message::Missing(_) => "missing",
        Message::Finality(_) => "finality",
        Message::Evidence(_) => "evidence",
    }
}

/// What distinguishes a message from others of its kind.
fn fingerprint(message: &Message) -> [u8; 8] {
    let of = |id: &[u8; 32]| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&id[..8]);
        bytes
    };
    let digests = |digests: &Vec<BatchDigest>| digests.first().map_or([0; 8], |digest| of(&digest.0));
    match message {
        Message::Status(status) => {
            let head = u64::from_le_bytes(of(&status.head.0));
            (head ^ status.height ^ status.boot ^ u64::from(status.pool) << 32).to_le_bytes()
        }
        Message::Batch(batch) => of(&batch.digest().0),
        Message::Stored(list) | Message::Pool(list) | Message::FetchBatches(list) | Message::Missing(list) => {
            digests(list)
        }
        Message::Block(block) => of(&block.header.state_root.0),
        Message::Draft { digests: list, .. } => digests(list),
        Message::FetchBlocks { locator } => locator.first().map_or([0; 8], |id| of(&id.0)),
        Message::FetchAncestors { id, .. } => of(&id.0),
        Message::Blocks(blocks) => (blocks.len() as u64).to_le_bytes(),
        Message::Finality(message) => of(blake3::hash(&message.to_bytes()).as_bytes()),
        Message::Evidence(evidence) => of(&evidence.id().0),
    }
}

fn describe(message: &Message) -> String {
    let digests = |list: &[BatchDigest]| {
        let mut text = list.iter().take(3).map(|digest| short(&digest.0)).collect::<Vec<_>>().join(" ");
        if list.len() > 3 {
            text.push_str(&format!(" and {} more", list.len() - 3));
        }
        text
    };
    match message {
        Message::Status(status) => format!(
            "{:?} head {} at {} slot {} weight {} pool {} final {} by decision {}",
            status.mode,
            short(&status.head.0),
            status.height,
            status.slot,
            status.weight,
            status.pool,
            status.last_final.height,
            status.decision
        ),
        Message::Batch(batch) => format!("{} of {} payments", short(&batch.digest().0), batch.payments().len()),
        Message::Stored(list) | Message::Pool(list) | Message::FetchBatches(list) | Message::Missing(list) => {
            digests(list)
        }
        Message::Block(block) => format!(
            "height {} slot {} of {} rank {} on {} with {}",
            block.header.height,
            block.header.slot,
            block.header.proposer,
            block.header.rank,
            short(&block.header.parent.0),
            digests(&block.digests)
        ),
        Message::Draft { slot, parent, start, digests: list } => {
            format!("for slot {slot} on {} behind {start}: {}", short(&parent.0), digests(list))
        }
        Message::FetchBlocks { locator } => format!("behind {}", short(&locator.first().map_or([0; 32], |id| id.0))),
        Message::FetchAncestors { id, known_height } => format!("{} above {known_height}", short(&id.0)),
        Message::Finality(message) => describe_finality(message),
        Message::Evidence(evidence) => format!("{} against {}", evidence.kind().code(), evidence.offender()),
        Message::Blocks(blocks) => {
            let heights = |block: Option<&Arc<Block>>| block.map_or(0, |block| block.header.height);
            format!("heights {} to {}", heights(blocks.first()), heights(blocks.last()))
        }
    }
}

fn describe_finality(message: &FinalityMessage) -> String {
    match message {
        FinalityMessage::Proposal(signed) => {
            let proposal = &signed.proposal;
            let again = proposal.valid_round.map_or(String::new(), |round| format!(", prevoted in round {round}"));
            let place = place(proposal.decision, proposal.round);
            format!("proposal {place} of v{}: {}{again}", signed.proposer.0, describe_block(Some(&proposal.block)))
        }
        FinalityMessage::Vote(signed) => format!("{} of v{}", describe_vote(&signed.vote), signed.voter.0),
        FinalityMessage::Polka(polka) => {
            let (place, by) = (place(polka.decision, polka.round), signers(&polka.signatures));
            format!("prevotes {place} for {} of {by}", describe_block(Some(&polka.block)))
        }
        FinalityMessage::Round(certificate) => {
            let why = if certificate.reason == RoundReason::Skip { "votes in" } else { "precommits before" };
            let votes: Vec<String> = certificate
                .signed_votes()
                .map(|signed| format!("v{} {}", signed.voter.0, describe_block(signed.vote.block.as_ref())))
                .collect();
            format!("{why} {}: {}", place(certificate.decision, certificate.round), votes.join(", "))
        }
        FinalityMessage::Commit(certificate) => {
            let (place, by) = (place(certificate.decision, certificate.round), signers(&certificate.signatures));
            format!("commit {place} for {} of {by}", describe_block(Some(&certificate.block)))
        }
    }
}

fn place(decision: u64, round: u32) -> String {
    format!("{decision}/{round}")
}

fn describe_vote(vote: &FinalityVote) -> String {
    let kind = if vote.kind == VoteKind::Prevote { "prevote" } else { "precommit" };
    format!("{kind} {} for {}", place(vote.decision, vote.round), describe_block(vote.block.as_ref()))
}

fn describe_block(block: Option<&FinalBlock>) -> String {
    block.map_or("nothing".into(), |block| format!("{} at {}", short(&block.id.0), block.height))
}

fn signers(signatures: &[(ValidatorIndex, SignatureBytes)]) -> String {
    signatures.iter().map(|(signer, _)| format!("v{}", signer.0)).collect::<Vec<_>>().join(" ")
}
