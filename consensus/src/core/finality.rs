//! The bridge between the chain and the finality engine: what is proposed to become final, what is found valid, and
//! what a decision does to the chain.
//!
//! - A decision begins when a block above the last final one is executed here, and this validator is active.
//! - The proposer names the highest canonical block that it and, by their last statuses, a quorum have executed.
//! - Nobody begins, judges or proposes while a live peer offers a heavier chain that may still be executed here (until two
//!   slots pass in which it comes no nearer, so that nobody is held back by what is offered and never delivered).
//! - A proposed block is valid if it was executed here and stands on the last final block; whether it is canonical here
//!   does not matter. An unknown one is asked for, and its verdict withheld until it is executed: never *invalid*.
//! - While a decision is open, fork choice prefers what stands on the block of its newest polka, so that everybody executes
//!   what some have precommitted; and who knows a polka of an earlier round tells it when a round begins.
//! - A decision becomes the root of fork choice, here and at whoever is told of it by its certificate.

use std::collections::{BTreeMap, BTreeSet};

use zeni_ledger::{BlockId, FinalBlock, ValidatorIndex};

use super::Core;
use crate::archive::Record;
use crate::effect::{Effect, Event, HaltReason};
use crate::finality::engine::Timeouts;
use crate::finality::{Engine, EngineConfig, EngineFailure, FinalityMessage, Guard, LogEntry, Output};
use crate::message::{Message, Mode};
use crate::mutation::Mutant;
use crate::replica::send;
use crate::time::Millis;
use crate::tree::Validity;

/// Whoever says that it is behind is sent the same certificate again after this long.
const CERTIFICATE_REST_MS: u64 = 500;

/// What one validator's core knows about its votes.
#[derive(Debug)]
pub(super) struct Ballot {
    config: EngineConfig,
    engine: Engine,
    /// What the log held at the start for the decision that it ends in, until the engine has it: it speaks only once this
    /// validator is active.
    unreplayed: Option<(u64, Vec<LogEntry>)>,
    /// The round in which this validator has to propose, and found nothing to propose yet.
    proposal_due: Option<u32>,
    /// The last round at whose beginning the others were told of a polka of an earlier one.
    told_polka: Option<(u64, u32)>,
    /// Which certificate each validator was sent last, and when.
    told: BTreeMap<ValidatorIndex, (u64, Millis)>,
    /// Since when every validator was heard by one that forgot what it signed.
    heard_all_since: Option<Millis>,
}

impl Ballot {
    /// Of the log counts what belongs to the decision behind `newest`, since its start. False beside it: the guard knows of
    /// a signature in that decision that the log has not got.
    pub(super) fn new(config: EngineConfig, guard: Guard, log: Vec<(u64, LogEntry)>, newest: u64) -> (Self, bool) {
        let mut entries: Vec<LogEntry> = Vec::new();
        for (_, entry) in log.into_iter().filter(|(decision, _)| *decision == newest + 1) {
            if entry == LogEntry::Start {
                entries.clear();
            }
            entries.push(entry);
        }
        // What the log alone tells of this validator's signatures.
        let mut told = Engine::new(config.clone(), Guard::default());
        entries.iter().for_each(|entry| told.remember(entry));
        let remembers = !guard.is_above(newest) || told.guard().covers(&guard);
        let mut engine = Engine::new(config.clone(), guard);
        entries.iter().for_each(|entry| engine.remember(entry));
        let ballot = Self {
            config,
            engine,
            unreplayed: (!entries.is_empty()).then_some((newest + 1, entries)),
            proposal_due: None,
            told_polka: None,
            told: BTreeMap::new(),
            heard_all_since: None,
        };
        (ballot, remembers)
    }

    pub(super) fn guard(&self) -> Guard {
        self.engine.guard()
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// The timeouts that nodes use; those of the network between them bound how long a decision takes.
pub(super) const TIMEOUTS: Timeouts = Timeouts {
    propose_ms: 1_000,
    prevote_ms: 500,
    precommit_ms: 500,
    growth_ms: 250,
    rebroadcast_ms: 1_000,
    most_ms: 10_000,
};

impl Core {
    /// Takes a message about finality. One of a decision that is over here is answered with its certificate.
    pub(super) fn receive_finality(
        &mut self,
        now: Millis,
        from: ValidatorIndex,
        message: FinalityMessage,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        if let FinalityMessage::Commit(certificate) = message {
            self.learn(now, Some(from), certificate, out)?;
            return Ok(());
        }
        if message.decision() <= self.replica.newest_decision() {
            self.tell_certificate(now, from, out);
            return Ok(());
        }
        if self.votes(now) && self.ballot.unreplayed.is_none() {
            let outputs = self.ballot.engine.receive(now, &message);
            self.outcome(now, outputs, out)?;
        }
        Ok(())
    }

    /// Sends the last certificate to a validator that says it is behind.
    pub(super) fn tell_certificate(&mut self, now: Millis, to: ValidatorIndex, out: &mut Vec<Effect>) {
        let silent = self.mutation.is(Mutant::NoCertificateForLate);
        let Some(certificate) = self.replica.newest_certificate().filter(|_| !silent) else { return };
        let told = self.ballot.told.get(&to);
        let just_now =
            |(decision, at): &(u64, Millis)| *decision == certificate.decision && now.since(*at) < CERTIFICATE_REST_MS;
        if !told.is_some_and(just_now) {
            self.ballot.told.insert(to, (certificate.decision, now));
            let commit = FinalityMessage::Commit(certificate.clone());
            out.push(send(to, Message::Finality(Box::new(commit))));
        }
    }

    /// Takes a certificate: the engine's own decision, or one that is told.
    fn learn(
        &mut self,
        now: Millis,
        from: Option<ValidatorIndex>,
        certificate: zeni_ledger::CommitCertificate,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        let decision = certificate.decision;
        if self.replica.learn(now, from, certificate, out)? {
            self.next_status = now;
            if self.ballot.engine.decision() <= decision {
                let evidence = self.ballot.engine.give_up();
                self.rest();
                self.carry_out(now, evidence, out)?;
            }
        }
        Ok(())
    }

    /// Nothing is open any more.
    fn rest(&mut self) {
        self.ballot.proposal_due = None;
    }

    /// Whether this validator may vote now.
    fn votes(&self, now: Millis) -> bool {
        let Some(safety) = self.safety else { return false };
        self.mode == Mode::Active && (!safety.readmitted || self.knows_what_it_forgot(now))
    }

    /// A validator that forgot what it signed may have helped to make a decision of which nobody told it yet: it waits until
    /// every validator was heard for some time, and none knows a decision that is not known here.
    fn knows_what_it_forgot(&self, now: Millis) -> bool {
        let newest = self.replica.newest_decision();
        let told = |validator| self.replica.peers.status(validator).is_some_and(|status| status.decision <= newest);
        let waited = self.ballot.heard_all_since.is_some_and(|since| now.since(since) >= self.config.joining_ms);
        waited && self.others().all(told)
    }

    fn notice_who_is_heard(&mut self, now: Millis) {
        if !self.safety.is_some_and(|safety| safety.readmitted) {
            return;
        }
        if self.others().all(|validator| self.replica.peers.told_status(validator, now)) {
            self.ballot.heard_all_since.get_or_insert(now);
        } else {
            self.ballot.heard_all_since = None;
        }
    }

    /// Lets the engine do what is due: begin, judge, propose, and let timers run out.
    pub(super) fn drive_finality(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        self.replica.follow_finality(now, out)?;
        self.notice_who_is_heard(now);
        self.drive_engine(now, out)?;
        self.follow_decision(now, out);
        Ok(())
    }

    fn drive_engine(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        if self.replica.is_unfinished() || !self.votes(now) {
            return Ok(());
        }
        // Whoever was cut off and is heard again may offer more than is known here: it is executed before it is voted on.
        if !self.is_behind(now) {
            self.begin_decision(now, out)?;
            self.judge_final(now, out)?;
            self.propose_final(now, out)?;
        }
        let outputs = self.ballot.engine.tick(now);
        self.outcome(now, outputs, out)
    }

    fn begin_decision(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        let decision = self.replica.decision() + 1;
        let open = self.replica.newest_decision() < decision && self.replica.chain.stands_on_root();
        if self.ballot.engine.is_running() || !open || self.ballot.engine.decision() >= decision {
            return Ok(());
        }
        if self.safety.is_some_and(|safety| safety.readmitted) {
            return self.begin_anew(now, decision, out);
        }
        let outputs = match self.ballot.unreplayed.take() {
            Some((of, log)) if of == decision => self.ballot.engine.recover(now, decision, &log),
            _ if self.is_above_final() => return self.start_decision(now, decision, out),
            _ => return Ok(()),
        };
        self.outcome(now, outputs, out)
    }

    fn is_above_final(&self) -> bool {
        self.replica.chain.head_node().height > self.replica.chain.root().height
    }

    fn start_decision(&mut self, now: Millis, decision: u64, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        out.push(Effect::Append(Record::Finality { decision, entry: LogEntry::Start }));
        let outputs = self.ballot.engine.start(now, decision);
        self.outcome(now, outputs, out)
    }

    /// Begins with an engine that knows nothing of what this validator signed for the open decision: every other one was
    /// heard, and none knows how it ended.
    fn begin_anew(&mut self, now: Millis, decision: u64, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        if !self.is_above_final() {
            return Ok(());
        }
        let guard = Guard::behind(self.replica.newest_decision());
        self.ballot.engine = Engine::new(self.ballot.config.clone(), guard);
        self.ballot.unreplayed = None;
        if let Some(safety) = &mut self.safety {
            (safety.guard, safety.readmitted) = (guard, false);
            out.push(Effect::Safety(*safety));
        }
        self.start_decision(now, decision, out)
    }

    /// Carries out what the engine asks. If it would sign twice, its log has a hole: then what it signed is as good as
    /// forgotten, and it waits to hear of everybody before it votes again.
    fn outcome(
        &mut self,
        now: Millis,
        outputs: Result<Vec<Output>, EngineFailure>,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        match outputs {
            Ok(outputs) => self.carry_out(now, outputs, out),
            Err(EngineFailure::SignsTwice(refused)) => {
                out.push(Effect::Event(Event::VotesForgotten(refused)));
                let guard = self.ballot.engine.guard();
                self.ballot.engine = Engine::new(self.ballot.config.clone(), guard);
                self.ballot.heard_all_since = None;
                self.rest();
                if let Some(safety) = &mut self.safety {
                    (safety.guard, safety.readmitted) = (guard, true);
                    out.push(Effect::Safety(*safety));
                }
                Ok(())
            }
            Err(EngineFailure::Engine(what)) => Err(HaltReason::Finality(what)),
        }
    }

    /// Tells the chain what the open decision is about, asks for the blocks that are missing, and the others of a polka
    /// that they may not have heard of.
    fn follow_decision(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let engine = &self.ballot.engine;
        let proposed: BTreeMap<BlockId, ValidatorIndex> =
            engine.awaiting().iter().map(|signed| (signed.proposal.block.id, signed.proposer)).collect();
        let polka = engine.newest_polka();
        let (place, round) = ((engine.decision(), engine.round().unwrap_or(0)), engine.round());
        if let Some((of, block)) = polka.filter(|(of, _)| round > Some(*of) && self.ballot.told_polka != Some(place)) {
            let polka = engine.polka(of, block).map(|polka| Effect::Broadcast(Message::Finality(Box::new(polka))));
            out.extend(polka);
            self.ballot.told_polka = Some(place);
        }
        let preferred = polka.map(|(_, block)| block.id);
        let wanted: BTreeSet<BlockId> = proposed.keys().copied().chain(preferred).collect();
        for id in &wanted {
            self.replica.seek(now, *id, proposed.get(id).copied(), out);
        }
        self.replica.follow_decision(wanted, preferred);
    }

    /// Gives every verdict that can be given.
    fn judge_final(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        let blocks: BTreeSet<FinalBlock> =
            self.ballot.engine.awaiting().iter().map(|signed| signed.proposal.block).collect();
        for block in blocks {
            let Some(valid) = self.verdict(&block) else { continue };
            let outputs = self.ballot.engine.judge(now, block, valid);
            self.outcome(now, outputs, out)?;
        }
        Ok(())
    }

    /// Whether a block may become final; `None` while that is not known.
    fn verdict(&self, block: &FinalBlock) -> Option<bool> {
        let node = self.replica.chain.tree().node(&block.id)?;
        let stands = self.replica.chain.descends_from_root(&block.id);
        let above = block.height > self.replica.chain.root().height;
        match node.validity {
            _ if node.height != block.height => Some(false),
            _ if !(stands && above || self.mutation.is(Mutant::VoteBesideRoot)) => Some(false),
            Validity::Invalid => Some(false),
            // Only what was executed is stored, be it by an earlier process; and only what is stored will be there again.
            Validity::Valid | Validity::Unknown => {
                let executed = node.stored && node.missing == 0;
                (executed || self.mutation.is(Mutant::VoteUnexecuted)).then_some(true)
            }
        }
    }

    /// Proposes, if it is this validator's round and there is something that a quorum has executed.
    fn propose_final(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        let Some(round) = self.ballot.proposal_due else { return Ok(()) };
        if self.ballot.engine.round() != Some(round) {
            self.ballot.proposal_due = None;
            return Ok(());
        }
        let Some(block) = self.prevoted_by_quorum().or_else(|| self.executed_by_quorum()) else { return Ok(()) };
        self.ballot.proposal_due = None;
        let outputs = self.ballot.engine.propose(now, round, block);
        self.outcome(now, outputs, out)
    }

    /// The block of the newest polka, if it can become final here: whoever precommitted it is locked on it and votes for
    /// nothing else, and without that vote there may be no quorum until it proposes itself.
    fn prevoted_by_quorum(&self) -> Option<FinalBlock> {
        let (_, block) = self.ballot.engine.newest_polka()?;
        (self.verdict(&block) == Some(true)).then_some(block)
    }

    /// The highest canonical block above the last final one that this validator and, by their last statuses, a quorum
    /// have executed.
    fn executed_by_quorum(&self) -> Option<FinalBlock> {
        let tree = self.replica.chain.tree();
        let height_of = |validator: ValidatorIndex| match validator == self.config.me {
            true => Some(self.replica.chain.head_node().height),
            false => tree.canonical_ancestor(&self.replica.peers.status(validator)?.head),
        };
        let mut executed: Vec<(u64, u64)> = (self.genesis.validators.iter().zip(0..))
            .filter_map(|(validator, index)| Some((height_of(ValidatorIndex(index))?, validator.stake)))
            .collect();
        executed.sort_unstable_by_key(|(height, _)| std::cmp::Reverse(*height));
        let (total, mut stake) = (self.genesis.total_stake(), 0);
        let quorum = executed.into_iter().find_map(|(height, of)| {
            stake += of;
            self.genesis.fault_model.is_quorum(stake, total).then_some(height)
        });
        let height = quorum.filter(|height| *height > self.replica.chain.root().height)?;
        Some(FinalBlock { id: tree.canonical_at(height)?, height })
    }

    /// Does what the engine asks.
    fn carry_out(&mut self, now: Millis, outputs: Vec<Output>, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        let decision = self.ballot.engine.decision();
        let mut decided = None;
        for output in outputs {
            match output {
                Output::Log(entry) => out.push(Effect::Append(Record::Finality { decision, entry })),
                Output::Send(message) => out.push(Effect::Broadcast(Message::Finality(Box::new(message)))),
                Output::Propose { round, .. } => self.ballot.proposal_due = Some(round),
                // The engine keeps what it waits for, and the step ends with every verdict that can be given.
                Output::Judge(_) => {}
                Output::Decided(certificate) => decided = Some(certificate),
                Output::Evidence(evidence) => out.push(Effect::Event(Event::DoubleSigning(Box::new(evidence)))),
            }
        }
        self.note_guard(out);
        match decided {
            Some(certificate) => self.learn(now, None, certificate, out),
            None => Ok(()),
        }
    }

    fn note_guard(&mut self, out: &mut Vec<Effect>) {
        let guard = self.ballot.engine.guard();
        if let Some(safety) = self.safety.as_mut().filter(|safety| safety.guard != guard) {
            safety.guard = guard;
            out.push(Effect::Safety(*safety));
        }
    }

    /// When the engine has something to do, if nothing else happens.
    pub(super) fn next_finality(&self, now: Millis) -> Option<Millis> {
        self.ballot.engine.next_deadline().filter(|_| self.votes(now))
    }
}
