//! What validators signed for the finality engine, what quorums of them decided, and what was lost of it: so whether a second
//! vote or a second decision is the code's doing, or that of faults beyond those that finality promises to survive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zeni_consensus::finality::FinalityMessage;
use zeni_consensus::finality::guard::Step;
use zeni_ledger::finality::{FinalityVote, VoteKind};
use zeni_ledger::{CommitCertificate, FinalBlock, ValidatorIndex};

use crate::network::ProcessId;
use crate::violation::Violation;
use crate::world::World;

/// Where a process signed: validator, decision, round and step.
type Place = (ProcessId, ValidatorIndex, u64, u32, Step);

/// What was signed there, and how often the process had lost its memory before.
#[derive(Debug, Clone, Copy)]
struct Vote {
    digest: [u8; 32],
    life: usize,
}

/// The newest decision whose certificate one process's log holds.
#[derive(Debug, Clone, Copy, Default)]
struct Certified {
    durable: u64,
    appended: u64,
}

/// All votes and decisions of a run.
#[derive(Debug)]
pub struct Ballots {
    world: Arc<World>,
    /// The validator that votes as it likes.
    liar: Option<ValidatorIndex>,
    /// Validators of which two processes ran at once.
    twins: BTreeSet<ValidatorIndex>,
    voted: BTreeMap<Place, Vote>,
    /// In which of its lives a process first signed in a decision.
    first: BTreeMap<(ProcessId, u64), usize>,
    /// Of each time that a process lost votes: the last decision in which it had signed.
    losses: BTreeMap<ProcessId, Vec<u64>>,
    /// Of each decision a certificate for every block that was decided.
    decided: BTreeMap<u64, Vec<CommitCertificate>>,
    /// By validator.
    certified: Vec<Certified>,
}

impl Ballots {
    pub fn new(world: Arc<World>) -> Self {
        Self {
            liar: None,
            twins: BTreeSet::new(),
            voted: BTreeMap::new(),
            first: BTreeMap::new(),
            losses: BTreeMap::new(),
            decided: BTreeMap::new(),
            certified: vec![Certified::default(); world.validators()],
            world,
        }
    }

    /// This validator votes as it likes.
    pub fn distrust(&mut self, liar: ValidatorIndex) {
        self.liar = Some(liar);
    }

    /// A second process runs with this validator's key.
    pub fn twinned(&mut self, validator: ValidatorIndex) {
        self.twins.insert(validator);
    }

    /// A process lost, beyond the faults that disks are allowed, something that it had signed or logged.
    pub fn lost(&mut self, process: ProcessId) {
        let open = self.first.range((process, 0)..=(process, u64::MAX)).next_back();
        let open = open.map_or(0, |((_, decision), _)| *decision);
        self.losses.entry(process).or_default().push(open);
    }

    fn life(&self, process: ProcessId) -> usize {
        self.losses.get(&process).map_or(0, Vec::len)
    }

    /// A vote or proposal of its own leaves a process.
    pub fn voted(
        &mut self,
        process: ProcessId,
        validator: ValidatorIndex,
        message: &FinalityMessage,
    ) -> Result<(), Violation> {
        let genesis = &self.world.genesis_id;
        let (decision, round, step, digest) = match message {
            FinalityMessage::Vote(signed) if signed.voter == validator => {
                let vote = &signed.vote;
                let step = if vote.kind == VoteKind::Prevote { Step::Prevote } else { Step::Precommit };
                (vote.decision, vote.round, step, vote.digest(genesis))
            }
            FinalityMessage::Proposal(signed) if signed.proposer == validator => {
                let proposal = &signed.proposal;
                (proposal.decision, proposal.round, Step::Propose, proposal.digest(genesis))
            }
            _ => return Ok(()),
        };
        let life = self.life(process);
        self.first.entry((process, decision)).or_insert(life);
        match self.voted.insert((process, validator, decision, round, step), Vote { digest, life }) {
            Some(before) if before.digest != digest && !self.forgot(process, decision, before.life) => {
                Err(Violation::VotedTwice { validator: validator.0, decision, round })
            }
            _ => Ok(()),
        }
    }

    /// Whether a quorum prevoted for a block: `itself` perhaps not aloud yet, and those that vote as they like or forgot votes
    /// may have.
    pub fn has_polka(&self, itself: Option<ValidatorIndex>, decision: u64, round: u32, block: FinalBlock) -> bool {
        let genesis = &self.world.genesis;
        let vote = FinalityVote { kind: VoteKind::Prevote, decision, round, block: Some(block) };
        let digest = vote.digest(&self.world.genesis_id);
        let cast: BTreeSet<ValidatorIndex> = self
            .voted
            .iter()
            .filter(|((_, _, of, at, step), vote)| {
                (*of, *at, *step) == (decision, round, Step::Prevote) && vote.digest == digest
            })
            .map(|((_, voter, ..), _)| *voter)
            .collect();
        let may_have = |validator: &ValidatorIndex| {
            let unfaithful = self.twins.contains(validator) || self.liar == Some(*validator);
            cast.contains(validator)
                || unfaithful
                || Some(*validator) == itself
                || self.losses.contains_key(&validator.as_usize())
        };
        let validators = genesis.validators.iter().zip((0..).map(ValidatorIndex));
        let stake = validators.filter(|(_, index)| may_have(index)).map(|(validator, _)| validator.stake).sum();
        genesis.fault_model.is_quorum(stake, genesis.total_stake())
    }

    /// Whether a process may not know any more what it signed in that decision in that life: it lost its memory since, while
    /// this was the decision it was in, or nobody else knows how it ended. (It may itself, by these votes.)
    fn forgot(&self, process: ProcessId, decision: u64, life: usize) -> bool {
        let since = self.losses.get(&process).map_or(&[][..], |losses| &losses[life..]);
        let mut others = self.certified.iter().enumerate().filter(|(validator, _)| *validator != process);
        let mut unknown = || others.all(|(_, certified)| certified.appended < decision);
        since.contains(&decision) || !since.is_empty() && unknown()
    }

    /// A process appended a certificate.
    pub fn certified(&mut self, process: ProcessId, certificate: &CommitCertificate) {
        let known = self.decided.entry(certificate.decision).or_default();
        if known.iter().all(|known| known.block != certificate.block) {
            known.push(certificate.clone());
        }
        if let Some(certified) = self.certified.get_mut(process) {
            certified.appended = certified.appended.max(certificate.decision);
        }
    }

    /// What a process appended is durable.
    pub fn synced(&mut self, process: ProcessId) {
        if let Some(certified) = self.certified.get_mut(process) {
            certified.durable = certified.appended;
        }
    }

    /// What a process appended and did not sync is lost.
    pub fn crashed(&mut self, process: ProcessId) {
        if let Some(certified) = self.certified.get_mut(process) {
            certified.appended = certified.durable;
        }
    }

    /// After a start: the newest decision whose certificate the log holds.
    pub fn holds(&mut self, process: ProcessId, decision: u64) {
        if let Some(certified) = self.certified.get_mut(process) {
            *certified = Certified { durable: decision, appended: decision };
        }
    }

    /// A certificate of a decision.
    pub fn decision(&self, decision: u64) -> Option<&CommitCertificate> {
        self.decided.get(&decision)?.first()
    }

    /// The decision that the log of any validator knows last, and its certificate.
    pub fn newest(&self) -> Option<&CommitCertificate> {
        let newest = self.certified.iter().map(|certified| certified.appended).max()?;
        self.decided.get(&newest)?.first()
    }

    /// Why two quorums may have decided differently, if faults explain it. After the first of two decisions, in the order of
    /// rounds, its faithful signers are locked: the other one needs a quorum without them. Unfaithful are those that ran
    /// twice, lie, or lost what they signed.
    pub fn excuse_conflict(&self) -> Option<String> {
        let genesis = &self.world.genesis;
        let (decision, certificates) = self.decided.iter().find(|(_, certificates)| certificates.len() > 1)?;
        let first = certificates.iter().min_by_key(|certificate| certificate.round)?;
        let signers: BTreeSet<ValidatorIndex> = first.signatures.iter().map(|(signer, _)| *signer).collect();
        let forgot = |signer: &ValidatorIndex| {
            let process = signer.as_usize();
            self.first.get(&(process, *decision)).is_some_and(|first| self.life(process) > *first)
        };
        let twins: Vec<u16> = signers.intersection(&self.twins).map(|signer| signer.0).collect();
        let forgetful: Vec<u16> = signers.iter().filter(|signer| forgot(signer)).map(|signer| signer.0).collect();
        let lies = |signer: &ValidatorIndex| self.liar == Some(*signer);
        let faithful =
            |signer: &&ValidatorIndex| !twins.contains(&signer.0) && !forgetful.contains(&signer.0) && !lies(signer);
        let stake = |signer: &ValidatorIndex| genesis.validators[signer.as_usize()].stake;
        let locked: u64 = signers.iter().filter(faithful).map(stake).sum();
        let total = genesis.total_stake();
        let possible = genesis.fault_model.is_quorum(total - locked, total);
        possible.then(|| {
            let of = signers.iter().map(|signer| signer.0).collect::<Vec<_>>();
            format!(
                "decision {decision} was signed by {of:?}: of them ran twice {twins:?}, lost their votes {forgetful:?}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::{Concern, Dice};
    use crate::profile::Profile;
    use zeni_consensus::finality::message::SignedVote;
    use zeni_ledger::{BlockId, SignatureBytes};

    fn ballots() -> Ballots {
        let mut dice = Dice::new(3, Concern::World);
        let profile = Profile { validators: 3, byzantine_quorums: false, ..Profile::draw(&mut dice) };
        let mut world = World::new(&mut dice, &profile);
        let genesis = Arc::make_mut(&mut world.genesis);
        genesis.validators.iter_mut().for_each(|validator| validator.stake = 1);
        Ballots::new(Arc::new(world))
    }

    fn block(number: u8) -> FinalBlock {
        FinalBlock { id: BlockId([number; 32]), height: 5 }
    }

    fn vote(ballots: &mut Ballots, voter: u16, decision: u64, number: u8) -> Result<(), Violation> {
        let vote = FinalityVote { kind: VoteKind::Precommit, decision, round: 0, block: Some(block(number)) };
        let signed = SignedVote { voter: ValidatorIndex(voter), vote, signature: SignatureBytes([0; 64]) };
        ballots.voted(voter.into(), ValidatorIndex(voter), &FinalityMessage::Vote(signed))
    }

    fn certificate(decision: u64, number: u8, signers: &[u16]) -> CommitCertificate {
        let signature = |signer: &u16| (ValidatorIndex(*signer), SignatureBytes([0; 64]));
        let signatures = signers.iter().map(signature).collect();
        CommitCertificate { decision, round: 0, block: block(number), signatures }
    }

    #[test]
    fn a_second_vote_is_excused_only_in_the_decision_in_which_the_votes_were_lost() {
        let mut ballots = ballots();
        vote(&mut ballots, 0, 1, 1).unwrap();
        vote(&mut ballots, 0, 2, 2).unwrap();
        assert_eq!(vote(&mut ballots, 0, 2, 2), Ok(()), "the same vote again");
        assert!(matches!(vote(&mut ballots, 0, 2, 3), Err(Violation::VotedTwice { decision: 2, .. })));
        ballots.certified(1, &certificate(1, 1, &[0, 1]));
        ballots.lost(0);
        assert_eq!(vote(&mut ballots, 0, 2, 4), Ok(()), "it was open when it was lost");
        assert!(vote(&mut ballots, 0, 2, 5).is_err(), "once more is once too often");
        assert!(vote(&mut ballots, 0, 1, 6).is_err(), "another knows how decision 1 ended");
    }

    #[test]
    fn a_lost_decision_that_nobody_knows_may_be_voted_on_again() {
        let mut ballots = ballots();
        vote(&mut ballots, 0, 1, 1).unwrap();
        ballots.certified(0, &certificate(1, 1, &[0]));
        vote(&mut ballots, 0, 2, 2).unwrap();
        ballots.lost(0);
        ballots.holds(0, 0);
        assert_eq!(vote(&mut ballots, 0, 1, 3), Ok(()));
    }

    #[test]
    fn contradicting_decisions_are_excused_by_those_who_signed_and_forgot_or_ran_twice_alone() {
        let mut honest = ballots();
        for (voter, number) in [(0, 1), (1, 1)] {
            vote(&mut honest, voter, 1, number).unwrap();
        }
        honest.certified(0, &certificate(1, 1, &[0, 1]));
        honest.certified(2, &certificate(1, 2, &[1, 2]));
        assert_eq!(honest.excuse_conflict(), None);
        honest.twinned(ValidatorIndex(2));
        assert_eq!(honest.excuse_conflict(), None, "it did not sign the first");
        honest.twinned(ValidatorIndex(1));
        assert!(honest.excuse_conflict().unwrap().contains("ran twice [1]"));
        honest.twins.clear();
        honest.lost(2);
        assert_eq!(honest.excuse_conflict(), None);
        honest.lost(0);
        assert!(honest.excuse_conflict().unwrap().contains("lost their votes [0]"));
    }
}
