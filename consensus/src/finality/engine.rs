//! One validator's part in making decisions, one after another.
//!
//! **Calling order.** [`Engine::start`] begins a decision (or [`Engine::recover`] goes on with one after a crash); from
//! then on [`Engine::receive`], [`Engine::propose`], [`Engine::judge`] and [`Engine::tick`] may be called in any order.
//! Every call returns outputs in order. All [`Output::Log`] entries of a call, and the [`Engine::guard`] as it is after
//! the call, must be on disk before any [`Output::Send`] of it leaves; the entries first. After [`Output::Decided`] the
//! engine rests until the next start. It reads no clock: timers run out when [`Engine::tick`] says that it is so late.

mod context;
mod convert;
mod timers;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use arc_malachitebft_core_consensus as engine;
use arc_malachitebft_core_types::{
    CertificateError, Context as _, Round, ThresholdParam, ThresholdParams, Validity, ValueOrigin, ValuePayload,
    VoteExtensionPolicy,
};
use engine::{Effect, Input, Params, Resumable as _, Resume, State};
use zeni_ledger::{CommitCertificate, FinalBlock, Genesis, GenesisId, PublicKey, SignatureBytes, ValidatorIndex};

pub use timers::Timeouts;

use crate::finality::guard::{Guard, Signed, SignsTwice, Step};
use crate::finality::log::LogEntry;
use crate::finality::message::{DoubleSigning, FinalityMessage, SignedProposal};
use crate::time::Millis;
use context::{Address, Decision, Validators, Value, Zeni, round_number};
use convert::{
    our_commit, our_entry, our_evidence, our_polka, our_proposal, our_round, our_vote, their_entry, their_polka,
    their_proposal, their_round, their_vote,
};
use timers::Timers;

/// Decisions ahead of the running one whose messages are kept, at most.
const DECISIONS_AHEAD_MAX: usize = 4;
/// Messages kept of each such decision for every validator, at most.
const MESSAGES_AHEAD_PER_VALIDATOR: usize = 8;
/// Proposals of the running decision that wait for a verdict, at most. If there are more, because nobody's verdict comes
/// or because a proposer signs many, those of the lowest round give way: nobody votes there any more.
const AWAITING_MAX: usize = 64;

/// Who votes, and for which ledger.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub me: ValidatorIndex,
    pub key: ed25519_dalek::SigningKey,
    pub genesis: Arc<Genesis>,
    pub timeouts: Timeouts,
    /// The share of all stake that a quorum must exceed, as numerator and denominator.
    pub quorum: (u64, u64),
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Append to the log of the running decision.
    Log(LogEntry),
    /// Send to every validator.
    Send(FinalityMessage),
    /// It is this validator's turn to propose: answer with [`Engine::propose`], or the round passes.
    Propose { decision: u64, round: u32 },
    /// A block is proposed: say with [`Engine::judge`] whether it may become final, as soon as that is known.
    Judge(FinalBlock),
    /// A quorum decided. The same decision may be told again after a recovery.
    Decided(CommitCertificate),
    /// A validator signed twice.
    Evidence(DoubleSigning),
}

/// Why the engine cannot go on. Its process must not sign anything any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineFailure {
    #[error(transparent)]
    SignsTwice(#[from] SignsTwice),
    #[error("the finality engine failed: {0}")]
    Engine(String),
}

/// One validator's finality engine.
pub struct Engine {
    state: State<Zeni>,
    validators: Validators,
    voter: Voter,
    timers: Timers,
    /// Whether a decision is open.
    running: bool,
    /// Proposals of the running decision without a verdict.
    awaiting: Vec<SignedProposal>,
    /// Verdicts on blocks in the running decision.
    verdicts: BTreeMap<FinalBlock, bool>,
}

/// What answers the engine's questions.
#[derive(Debug)]
struct Voter {
    me: ValidatorIndex,
    key: ed25519_dalek::SigningKey,
    genesis: Arc<Genesis>,
    genesis_id: GenesisId,
    timeouts: Timeouts,
    guard: Guard,
}

/// One pass through the engine.
struct Pass<'a> {
    now: Millis,
    voter: &'a mut Voter,
    timers: &'a mut Timers,
    out: &'a mut Vec<Output>,
    /// Proposals that the engine took.
    proposals: Vec<SignedProposal>,
    decided: bool,
    refused: Option<SignsTwice>,
    /// The log is being replayed: it holds what it holds.
    replaying: bool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("me", &self.voter.me)
            .field("decision", &self.decision())
            .field("round", &self.round())
            .field("running", &self.running)
            .field("guard", &self.voter.guard)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that rests. `guard` knows what this validator signed last, ever.
    pub fn new(config: EngineConfig, guard: Guard) -> Self {
        let EngineConfig { me, key, genesis, timeouts, quorum } = config;
        let genesis_id = genesis.id();
        let validators = Validators::of(&genesis);
        let threshold_params = ThresholdParams {
            quorum: ThresholdParam::new(quorum.0, quorum.1),
            // In the crash model too: a lower share stops progress when one is ahead, a higher one when one was cut off.
            honest: ThresholdParam::F_PLUS_ONE,
        };
        let params = Params {
            address: Address(me),
            threshold_params,
            value_payload: ValuePayload::ProposalAndParts,
            enabled: true,
        };
        let ahead = MESSAGES_AHEAD_PER_VALIDATOR * genesis.validators.len();
        let context = Zeni { genesis: genesis_id };
        let state = State::new(context, Decision(0), validators.clone(), params, DECISIONS_AHEAD_MAX, ahead);
        Self {
            state,
            validators,
            voter: Voter { me, key, genesis, genesis_id, timeouts, guard },
            timers: Timers::default(),
            running: false,
            awaiting: Vec::new(),
            verdicts: BTreeMap::new(),
        }
    }

    /// The decision that runs or ended last; 0 before the first.
    pub fn decision(&self) -> u64 {
        self.state.height().0
    }

    /// The round of the running decision.
    pub fn round(&self) -> Option<u32> {
        self.state.round().as_u32().filter(|_| self.running)
    }

    /// Whether a decision is open.
    pub const fn is_running(&self) -> bool {
        self.running
    }

    /// What was signed last.
    pub const fn guard(&self) -> Guard {
        self.voter.guard
    }

    /// Who proposes in a round.
    pub fn proposer(&self, decision: u64, round: u32) -> ValidatorIndex {
        use arc_malachitebft_core_types::Validator as _;
        self.state.ctx.select_proposer(&self.validators, Decision(decision), Round::new(round)).address().0
    }

    /// Proposals of the running decision without a verdict.
    pub fn awaiting(&self) -> &[SignedProposal] {
        &self.awaiting
    }

    /// The last round of the running decision in which a quorum is known to have prevoted for a block, and that block.
    pub fn newest_polka(&self) -> Option<(u32, FinalBlock)> {
        let polkas = self.state.driver.polka_certificates().iter().filter(|_| self.running);
        polkas.map(|polka| (round_number(polka.round), polka.value_id.0)).max()
    }

    /// The prevotes of a quorum for a block in a round of the running decision.
    pub fn polka(&self, round: u32, block: FinalBlock) -> Option<FinalityMessage> {
        let polka = self.state.driver.polka_certificate(Round::new(round), &Value(block)).filter(|_| self.running);
        polka.map(|polka| FinalityMessage::Polka(our_polka(polka)))
    }

    /// Messages of coming decisions that are kept for them.
    pub fn messages_ahead(&self) -> usize {
        self.state.input_queue.size()
    }

    /// When [`Self::tick`] has something to do, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.timers.next()
    }

    /// Begins a decision. A running one is given up: another's certificate told how it ended.
    ///
    /// # Errors
    /// The engine is broken or would sign twice; nothing of this call may be said, and nothing be signed any more.
    ///
    /// # Panics
    /// If it is not above every decision before: a second start of one could sign twice.
    pub fn start(&mut self, now: Millis, decision: u64) -> Result<Vec<Output>, EngineFailure> {
        assert!(decision > self.decision(), "decision {decision} begins once");
        let mut out = self.give_up();
        self.begin(decision);
        let validators = self.validators.clone();
        let policy = VoteExtensionPolicy::default();
        self.pass(now, Input::StartHeight(Decision(decision), validators, false, None, policy), false, &mut out)?;
        self.apply_verdicts(now, &mut out)?;
        Ok(out)
    }

    /// Goes on with a decision that a crash interrupted: `log` is everything that was logged for it and is on disk.
    ///
    /// # Errors
    /// The engine is broken or would sign twice; nothing of this call may be said, and nothing be signed any more.
    ///
    /// # Panics
    /// If a decision was begun before.
    pub fn recover(&mut self, now: Millis, decision: u64, log: &[LogEntry]) -> Result<Vec<Output>, EngineFailure> {
        assert!(self.decision() == 0 && decision > 0, "recovery comes first");
        log.iter().for_each(|entry| self.remember(entry));
        self.begin(decision);
        let inputs: Vec<Input<Zeni>> = log.iter().filter_map(their_entry).collect();
        self.state.index_wal_entries(&inputs);
        let (validators, policy) = (self.validators.clone(), VoteExtensionPolicy::default());
        let mut replayed = Vec::new();
        let restart = Input::StartHeight(Decision(decision), validators, true, None, policy);
        self.pass(now, restart, true, &mut replayed)?;
        for entry in log {
            match entry {
                LogEntry::Proposal(signed) => self.await_verdict(*signed),
                LogEntry::Verdict { block, valid, .. } => {
                    self.verdicts.insert(*block, *valid);
                }
                _ => {}
            }
            if let Some(input) = their_entry(entry).filter(|_| self.running) {
                self.pass(now, input, true, &mut replayed)?;
            }
        }
        self.state.reset_entries_index();
        let mut out: Vec<Output> =
            replayed.into_iter().filter(|output| self.stands_after_replay(output, log)).collect();
        let unjudged = self.awaiting.iter().map(|signed| signed.proposal.block);
        out.extend(unjudged.filter(|block| !self.verdicts.contains_key(block)).map(Output::Judge));
        self.apply_verdicts(now, &mut out)?;
        Ok(out)
    }

    /// Raises the guard by an entry of the log, which may know of a signature that the guard's own record had not been told
    /// of when the process died.
    pub fn remember(&mut self, entry: &LogEntry) {
        let me = self.voter.me;
        let own = match entry {
            LogEntry::Vote(signed) if signed.voter == me => self.voter.vote_place(signed),
            LogEntry::Proposal(signed) if signed.proposer == me => self.voter.proposal_place(signed),
            _ => return,
        };
        // One that is not above the guard's is known to it.
        let _ = self.voter.guard.allow(own);
    }

    /// Of what a replay says, only what still has a meaning: nothing is logged again (but a vote whose entry was torn off
    /// behind what led to it is cast now, and logged), and a proposal is asked for only in the present round and if the log
    /// holds none.
    fn stands_after_replay(&self, output: &Output, log: &[LogEntry]) -> bool {
        match output {
            Output::Log(entry) => !log.contains(entry),
            Output::Judge(_) => false,
            Output::Propose { round, .. } => {
                let mine = |entry: &LogEntry| match entry {
                    LogEntry::Proposal(signed) => signed.proposer == self.voter.me && signed.proposal.round == *round,
                    _ => false,
                };
                self.round() == Some(*round) && !log.iter().any(mine)
            }
            Output::Send(_) | Output::Decided(_) | Output::Evidence(_) => true,
        }
    }

    fn begin(&mut self, decision: u64) {
        debug_assert!(decision > 0, "decisions count from 1");
        self.running = true;
        self.awaiting.clear();
        self.verdicts.clear();
    }

    /// Ends the running decision without a decision of its own. Returns the evidence it gathered.
    pub fn give_up(&mut self) -> Vec<Output> {
        if !std::mem::take(&mut self.running) {
            return Vec::new();
        }
        self.timers.clear();
        let evidence = engine::MisbehaviorEvidence {
            proposals: self.state.driver.take_proposal_evidence(),
            votes: self.state.driver.take_vote_evidence(),
        };
        our_evidence(&evidence).into_iter().map(Output::Evidence).collect()
    }

    /// Takes a message of another validator, or one that it passed on. Commit certificates are for whoever owns the engine:
    /// see [`CommitCertificate::verify`] and [`Self::start`].
    ///
    /// # Errors
    /// The engine is broken or would sign twice; nothing of this call may be said, and nothing be signed any more.
    pub fn receive(&mut self, now: Millis, message: &FinalityMessage) -> Result<Vec<Output>, EngineFailure> {
        let mut out = Vec::new();
        let ahead = message.decision() > self.decision();
        let of_now = self.running && message.decision() == self.decision();
        if !ahead && !of_now {
            return Ok(out);
        }
        let input = match message {
            FinalityMessage::Proposal(signed) => Input::Proposal(their_proposal(signed)),
            FinalityMessage::Vote(signed) => Input::Vote(their_vote(signed)),
            FinalityMessage::Polka(certificate) if !ahead => Input::PolkaCertificate(their_polka(certificate)),
            FinalityMessage::Round(certificate) if !ahead => Input::RoundCertificate(their_round(certificate)),
            FinalityMessage::Polka(_) | FinalityMessage::Round(_) | FinalityMessage::Commit(_) => return Ok(out),
        };
        // What is kept for later is checked now: a stranger's words shall not fill the room of a validator's.
        if !ahead || self.voter.holds(message) {
            self.pass(now, input, false, &mut out)?;
            self.apply_verdicts(now, &mut out)?;
        }
        Ok(out)
    }

    /// Proposes a block, as [`Output::Propose`] asked. Ignored if that round is over.
    ///
    /// # Errors
    /// The engine is broken or would sign twice; nothing of this call may be said, and nothing be signed any more.
    pub fn propose(&mut self, now: Millis, round: u32, block: FinalBlock) -> Result<Vec<Output>, EngineFailure> {
        let mut out = Vec::new();
        if self.running {
            let (height, round) = (self.state.height(), Round::new(round));
            let value = engine::LocallyProposedValue::new(height, round, Value(block));
            self.verdicts.insert(block, true);
            self.pass(now, Input::Propose(value), false, &mut out)?;
            self.apply_verdicts(now, &mut out)?;
        }
        Ok(out)
    }

    /// Says whether a proposed block may become final.
    ///
    /// # Errors
    /// The engine is broken or would sign twice; nothing of this call may be said, and nothing be signed any more.
    pub fn judge(&mut self, now: Millis, block: FinalBlock, valid: bool) -> Result<Vec<Output>, EngineFailure> {
        let mut out = Vec::new();
        if self.running && self.awaiting.iter().any(|signed| signed.proposal.block == block) {
            self.verdicts.insert(block, valid);
            self.apply_verdicts(now, &mut out)?;
        }
        Ok(out)
    }

    /// Lets timers run out.
    ///
    /// # Errors
    /// The engine is broken or would sign twice; nothing of this call may be said, and nothing be signed any more.
    pub fn tick(&mut self, now: Millis) -> Result<Vec<Output>, EngineFailure> {
        let mut out = Vec::new();
        while let Some(timeout) = self.timers.take_due(now) {
            self.pass(now, Input::TimeoutElapsed(timeout), false, &mut out)?;
            self.apply_verdicts(now, &mut out)?;
        }
        Ok(out)
    }

    /// Tells the engine of every verdict that its proposals wait for.
    fn apply_verdicts(&mut self, now: Millis, out: &mut Vec<Output>) -> Result<(), EngineFailure> {
        while self.running {
            let known = |signed: &SignedProposal| self.verdicts.contains_key(&signed.proposal.block);
            let Some(place) = self.awaiting.iter().position(known) else { break };
            let SignedProposal { proposer, proposal, .. } = self.awaiting.remove(place);
            let value = engine::ProposedValue {
                height: Decision(proposal.decision),
                round: Round::new(proposal.round),
                valid_round: proposal.valid_round.map_or(Round::Nil, Round::new),
                proposer: Address(proposer),
                value: Value(proposal.block),
                validity: Validity::from_bool(self.verdicts[&proposal.block]),
            };
            self.pass(now, Input::ProposedValue(value, ValueOrigin::Consensus), false, out)?;
        }
        Ok(())
    }

    fn await_verdict(&mut self, signed: SignedProposal) {
        self.awaiting.push(signed);
        if self.awaiting.len() > AWAITING_MAX && !self.verdicts.contains_key(&signed.proposal.block) {
            let rounds = self.awaiting.iter().enumerate().map(|(place, signed)| (signed.proposal.round, place));
            let (_, lowest) = rounds.min().expect("there are many");
            self.awaiting.remove(lowest);
        }
    }

    /// Hands one input to the engine and carries out what it asks.
    fn pass(
        &mut self,
        now: Millis,
        input: Input<Zeni>,
        replaying: bool,
        out: &mut Vec<Output>,
    ) -> Result<(), EngineFailure> {
        let mut pass = Pass {
            now,
            voter: &mut self.voter,
            timers: &mut self.timers,
            out,
            proposals: Vec::new(),
            decided: false,
            refused: None,
            replaying,
        };
        let state = &mut self.state;
        let done: Result<(), engine::Error<Zeni>> = engine::process!(
            input: input, state: state, metrics: &(),
            with: effect => Ok::<_, Infallible>(pass.carry_out(effect))
        );
        let Pass { proposals, decided, refused, out, .. } = pass;
        prove_again(&self.state, out);
        proposals.into_iter().for_each(|signed| self.await_verdict(signed));
        if let Some(refused) = refused {
            return Err(refused.into());
        }
        done.map_err(|error| EngineFailure::Engine(error.to_string()))?;
        if decided {
            self.running = false;
        }
        if !self.running {
            self.timers.clear();
        }
        Ok(())
    }
}

/// Whoever proposes a block again, because a quorum prevoted for it in an earlier round, sends those prevotes along. The
/// others vote for it only if they have seen them, and nobody else repeats them: without that, validators that precommitted
/// then wait for the others for ever.
fn prove_again(state: &State<Zeni>, out: &mut Vec<Output>) {
    let polka = |output: &Output| match output {
        Output::Send(FinalityMessage::Proposal(SignedProposal { proposal, .. })) => {
            let round = Round::new(proposal.valid_round?);
            state.driver.polka_certificate(round, &Value(proposal.block)).map(our_polka)
        }
        _ => None,
    };
    let mut place = 0;
    while place < out.len() {
        let is_sent = |polka: &FinalityMessage| {
            out[..place].iter().any(|sent| matches!(sent, Output::Send(message) if message == polka))
        };
        if let Some(polka) = polka(&out[place]).map(FinalityMessage::Polka).filter(|polka| !is_sent(polka)) {
            out.insert(place, Output::Send(polka));
            place += 1;
        }
        place += 1;
    }
}

impl Pass<'_> {
    /// Does what the engine asks and gives it the answer. It cannot fail: an error would leave the engine in the middle
    /// of a transition. What must not be signed is noted, and ends the engine after the pass.
    fn carry_out(&mut self, effect: Effect<Zeni>) -> Resume<Zeni> {
        match effect {
            Effect::CancelAllTimeouts(resume) => {
                self.timers.clear();
                resume.resume_with(())
            }
            Effect::CancelTimeout(timeout, resume) => {
                self.timers.cancel(&timeout);
                resume.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, resume) => {
                self.timers.set(timeout, self.now, &self.voter.timeouts);
                resume.resume_with(())
            }
            Effect::StartRound(_, _, _, _, resume) => resume.resume_with(()),
            Effect::PublishConsensusMsg(message, resume) => {
                let message = match message {
                    engine::SignedConsensusMsg::Vote(signed) => FinalityMessage::Vote(our_vote(&signed)),
                    engine::SignedConsensusMsg::Proposal(signed) => FinalityMessage::Proposal(our_proposal(&signed)),
                };
                self.send(message);
                resume.resume_with(())
            }
            Effect::PublishLivenessMsg(message, resume) => {
                let message = match message {
                    engine::LivenessMsg::Vote(signed) => FinalityMessage::Vote(our_vote(&signed)),
                    engine::LivenessMsg::PolkaCertificate(polka) => FinalityMessage::Polka(our_polka(&polka)),
                    engine::LivenessMsg::SkipRoundCertificate(round) => FinalityMessage::Round(our_round(&round)),
                };
                self.send(message);
                resume.resume_with(())
            }
            Effect::RepublishVote(signed, resume) => {
                self.send(FinalityMessage::Vote(our_vote(&signed)));
                resume.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, resume) => {
                self.send(FinalityMessage::Round(our_round(&certificate)));
                resume.resume_with(())
            }
            Effect::GetValue(height, round, _, resume) => {
                self.out.push(Output::Propose { decision: height.0, round: round_number(round) });
                resume.resume_with(())
            }
            // The proposal itself follows, and blocks are fetched as the chain's own.
            Effect::RestreamProposal(_, _, _, _, _, resume) => resume.resume_with(()),
            Effect::Decide(certificate, _, resume) => {
                self.decided = true;
                self.out.push(Output::Decided(our_commit(&certificate)));
                resume.resume_with(())
            }
            Effect::Finalize(_, _, evidence, resume) => {
                self.out.extend(our_evidence(&evidence).into_iter().map(Output::Evidence));
                resume.resume_with(())
            }
            Effect::WalAppend(_, input, resume) => {
                self.log(&input);
                resume.resume_with(())
            }
            other => self.answer(other),
        }
    }

    /// Signs and verifies.
    fn answer(&mut self, effect: Effect<Zeni>) -> Resume<Zeni> {
        let voter = &mut *self.voter;
        let checked = |holds: bool| if holds { Ok(()) } else { Err(CertificateError::VerificationError(None)) };
        match effect {
            Effect::SignVote(vote, resume) => {
                let ours = vote.ours();
                let place = voter.place(ours.decision, ours.round, step_of(ours.kind), ours.digest(&voter.genesis_id));
                let signature = self.sign(place);
                resume.resume_with(arc_malachitebft_core_types::SignedMessage::new(vote, signature.into()))
            }
            Effect::SignProposal(proposal, resume) => {
                let ours = proposal.ours();
                let place = voter.place(ours.decision, ours.round, Step::Propose, ours.digest(&voter.genesis_id));
                let signature = self.sign(place);
                resume.resume_with(arc_malachitebft_core_types::SignedMessage::new(proposal, signature.into()))
            }
            Effect::VerifySignature(signed, key, resume) => {
                let (id, signature): (_, SignatureBytes) = (&voter.genesis_id, signed.signature.into());
                let key: PublicKey = key.0;
                resume.resume_with(match &signed.message {
                    engine::ConsensusMsg::Vote(vote) => vote.ours().signature_holds(id, &key, signature),
                    engine::ConsensusMsg::Proposal(proposal) => proposal.ours().signature_holds(id, &key, signature),
                })
            }
            Effect::VerifyCommitCertificate(certificate, _, _, resume) => {
                let certificate = our_commit(&certificate);
                resume.resume_with(checked(certificate.verify(&voter.genesis, &voter.genesis_id).is_ok()))
            }
            Effect::VerifyPolkaCertificate(certificate, _, _, resume) => {
                let certificate = our_polka(&certificate);
                resume.resume_with(checked(certificate.verify(&voter.genesis, &voter.genesis_id).is_ok()))
            }
            Effect::VerifyRoundCertificate(certificate, _, _, resume) => {
                let certificate = our_round(&certificate);
                resume.resume_with(checked(certificate.verify(&voter.genesis, &voter.genesis_id).is_ok()))
            }
            // Decisions of others come as certificates to whoever owns the engine, and votes have no extensions: these
            // are never asked, and nothing is granted if they are.
            Effect::VerifyExtendedCommitCertificate(_, _, _, _, resume) => resume.resume_with(checked(false)),
            Effect::ExtendVote(_, _, _, _, resume) => resume.resume_with(None),
            Effect::VerifyVoteExtension(_, _, _, _, _, _, resume) => {
                resume.resume_with(Err(engine::VoteExtensionError::InvalidVoteExtension))
            }
            Effect::CertVerifiedSyncValue(_, _, resume) => resume.resume_with(()),
            Effect::CertRejectedSyncValue(_, _, _, resume) => resume.resume_with(()),
            _ => Resume::Continue,
        }
    }

    fn send(&mut self, message: FinalityMessage) {
        self.out.push(Output::Send(message));
    }

    fn log(&mut self, input: &Input<Zeni>) {
        let Some(entry) = our_entry(input) else { return };
        if self.replaying {
            self.out.push(Output::Log(entry));
            return;
        }
        if let LogEntry::Proposal(signed) = &entry {
            self.proposals.push(*signed);
            if signed.proposer != self.voter.me {
                self.out.push(Output::Judge(signed.proposal.block));
            }
        }
        self.out.push(Output::Log(entry));
    }

    fn sign(&mut self, place: Signed) -> SignatureBytes {
        // Whatever follows on a signature that was refused is not signed either.
        match self.refused.map_or_else(|| self.voter.guard.allow(place), Err) {
            Ok(()) => zeni_ledger::signature::sign(&self.voter.key, &place.digest),
            Err(refused) => {
                self.refused.get_or_insert(refused);
                SignatureBytes([0; 64])
            }
        }
    }
}

impl Voter {
    fn place(&self, decision: u64, round: u32, step: Step, digest: [u8; 32]) -> Signed {
        Signed { decision, round, step, digest }
    }

    fn vote_place(&self, signed: &crate::finality::SignedVote) -> Signed {
        let vote = &signed.vote;
        self.place(vote.decision, vote.round, step_of(vote.kind), vote.digest(&self.genesis_id))
    }

    fn proposal_place(&self, signed: &SignedProposal) -> Signed {
        let proposal = &signed.proposal;
        self.place(proposal.decision, proposal.round, Step::Propose, proposal.digest(&self.genesis_id))
    }

    /// Whether a proposal or vote is signed by the validator it names.
    fn holds(&self, message: &FinalityMessage) -> bool {
        match message {
            FinalityMessage::Proposal(signed) => signed.holds(&self.genesis, &self.genesis_id),
            FinalityMessage::Vote(signed) => signed.holds(&self.genesis, &self.genesis_id),
            FinalityMessage::Polka(_) | FinalityMessage::Round(_) | FinalityMessage::Commit(_) => false,
        }
    }
}

const fn step_of(kind: zeni_ledger::finality::VoteKind) -> Step {
    match kind {
        zeni_ledger::finality::VoteKind::Prevote => Step::Prevote,
        zeni_ledger::finality::VoteKind::Precommit => Step::Precommit,
    }
}
