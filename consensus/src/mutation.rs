//! Named one-line breaks of a rule, for the simulator to prove that its checkers would notice.
//!
//! They exist only in a build with the feature `mutants`; in every other build [`Mutation::is`] is a constant `false`.

#[cfg(feature = "mutants")]
use zeni_ledger::execute::{Executed, execute};
#[cfg(feature = "mutants")]
use zeni_ledger::genesis::Rules;
#[cfg(feature = "mutants")]
use zeni_ledger::window::{SequenceError, Window};
#[cfg(feature = "mutants")]
use zeni_ledger::{Account, Sequence, State, VerifiedBatch};

/// A rule that can be broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// A restarted node takes part at once.
    NoJoining,
    /// A node forgets which slot it signed last.
    SignTwice,
    /// A block is adopted for its weight, whatever its execution gives.
    AdoptUnchecked,
    /// Batches of an abandoned block do not return to the pool.
    ForgetAbandoned,
    /// Undo drops the last account of each block.
    UndoTooShort,
    /// A reorganisation executes the new branch on top of the old state.
    SkipUndo,
    /// Of chains of equal weight each node keeps the one that it saw first.
    FirstSeenWins,
    /// Batches that nobody else holds are listed while peers are live.
    ListUnconfirmed,
    /// A block may list a batch that an ancestor lists.
    ListTwice,
    /// Peers' pools are not compared, on connection or later.
    NoPoolExchange,
    /// Blocks of slots that have not begun are taken at once.
    NoHold,
    /// Slots need not rise along a chain.
    SlotsFall,
    /// The proposer's rank in a block is believed.
    RankUnchecked,
    /// A client is answered before its batch is cut and written.
    AnswerBeforeWrite,
    /// A payment is taken if it lies in its payer's window at the head, wherever that begins at the last final block.
    WindowAtHead,
    /// Fork choice goes by weight alone, whatever is final.
    IgnoreFinality,
    /// The finality engine starts anew after a crash, without its log and without its guard.
    ForgetVotes,
    /// Fork choice goes by weight alone while a decision is open, whatever a quorum prevoted for.
    IgnorePolka,
    /// Whoever is behind in finality is not sent the certificate that it missed.
    NoCertificateForLate,
    /// A block is voted for before it was executed.
    VoteUnexecuted,
    /// A block is voted for though it does not stand on the last final one.
    VoteBesideRoot,
    /// A told certificate is believed, whoever signed it.
    CertificateUnchecked,
    /// A round whose proposer is away does not end.
    NoRoundChange,
    /// The receipts root in a block is believed.
    ReceiptsUnchecked,
    /// At least the share that a quorum must exceed is enough for the engine.
    QuorumOffByOne,
    /// A payment that stands in a second batch of a branch is executed anew: a used sequence can be used again.
    ReuseSequence,
    /// A validator goes on beside another process with its key.
    TwinIgnored,
}

impl Mutant {
    pub const ALL: [Self; 27] = [
        Self::NoJoining,
        Self::SignTwice,
        Self::AdoptUnchecked,
        Self::ForgetAbandoned,
        Self::UndoTooShort,
        Self::SkipUndo,
        Self::FirstSeenWins,
        Self::ListUnconfirmed,
        Self::ListTwice,
        Self::NoPoolExchange,
        Self::NoHold,
        Self::SlotsFall,
        Self::RankUnchecked,
        Self::AnswerBeforeWrite,
        Self::WindowAtHead,
        Self::IgnoreFinality,
        Self::ForgetVotes,
        Self::IgnorePolka,
        Self::NoCertificateForLate,
        Self::VoteUnexecuted,
        Self::VoteBesideRoot,
        Self::CertificateUnchecked,
        Self::NoRoundChange,
        Self::ReceiptsUnchecked,
        Self::QuorumOffByOne,
        Self::ReuseSequence,
        Self::TwinIgnored,
    ];
}

/// The rule that this core breaks, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mutation {
    #[cfg(feature = "mutants")]
    mutant: Option<Mutant>,
}

impl Mutation {
    /// A core that keeps every rule.
    pub fn none() -> Self {
        Self::default()
    }

    /// A core that breaks one rule.
    #[cfg(feature = "mutants")]
    pub fn of(mutant: Mutant) -> Self {
        Self { mutant: Some(mutant) }
    }

    /// Whether this core breaks that rule.
    #[cfg(feature = "mutants")]
    pub fn is(self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether this core breaks that rule: never, in this build.
    #[cfg(not(feature = "mutants"))]
    pub const fn is(self, _: Mutant) -> bool {
        false
    }
}

/// Executes batches as [`execute`] does, but makes the used sequences of their payments unused first. The same on every
/// node, and taken back whole by the undo record, so that only who counts executions can notice.
#[cfg(feature = "mutants")]
pub(crate) fn execute_anew(state: &mut State, rules: &Rules, slot_time_ms: u64, batches: &[VerifiedBatch]) -> Executed {
    let mut before: Vec<Account> = Vec::new();
    for payment in batches.iter().flat_map(|batch| batch.payments()) {
        let Some(payer) = state.account(&payment.from()).cloned() else { continue };
        let Some(window) = reopened(payer.window(), payment.sequence()) else { continue };
        let mut changed = payer.clone();
        *changed.window_mut() = window;
        assert!(state.replace(changed), "it was there just now");
        if before.iter().all(|account| account.id() != payer.id()) {
            before.push(payer);
        }
    }
    let mut executed = execute(state, rules, slot_time_ms, batches);
    executed.undo.accounts.retain(|account| before.iter().all(|payer| payer.id() != account.id()));
    executed.undo.accounts.extend(before);
    executed
}

/// The window with a used sequence made unused; `None` if it is not used, or too low to be marked.
#[cfg(feature = "mutants")]
fn reopened(window: &Window, sequence: Sequence) -> Option<Window> {
    window.check(sequence).err().filter(|error| *error == SequenceError::Used)?;
    let (next, used) = (window.next(), window.used_bits());
    let Some(below) = next.0.checked_sub(sequence.0).filter(|below| *below > 0) else {
        return Window::from_parts(next, used & !(1 << (sequence.0 - next.0)));
    };
    let shifted = used.checked_shl(u32::try_from(below).ok()?)?;
    Window::from_parts(sequence, shifted | ((1 << below) - 1) & !1)
}
