//! Rules that can be broken on purpose, to see that the checkers notice: those of the core, and those of the shell
//! around it.

#[cfg(feature = "mutants")]
use zeni_consensus::mutation::Mutant;
use zeni_consensus::mutation::Mutation;

/// The rule that every node of a run breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Breakage {
    #[default]
    None,
    #[cfg(feature = "mutants")]
    Core(Mutant),
    /// Clients are answered before the log is synced.
    ReplyBeforeSync,
    /// Peers are told that a batch is stored before the log is synced.
    ConfirmBeforeSync,
    /// The safety record stays in memory.
    SafetyUnwritten,
    /// A failed sync counts as done.
    SyncErrorIgnored,
}

impl Breakage {
    /// Every way in which a run can be broken.
    pub fn all() -> Vec<Self> {
        #[cfg(feature = "mutants")]
        let core = Mutant::ALL.map(Self::Core).to_vec();
        #[cfg(not(feature = "mutants"))]
        let core = Vec::new();
        let shell = [Self::ReplyBeforeSync, Self::ConfirmBeforeSync, Self::SafetyUnwritten, Self::SyncErrorIgnored];
        core.into_iter().chain(shell).collect()
    }

    /// What it is called in reports and on the command line.
    pub fn name(self) -> String {
        match self {
            #[cfg(feature = "mutants")]
            Self::Core(mutant) => format!("{mutant:?}"),
            other => format!("{other:?}"),
        }
    }

    /// The core's part in it.
    pub fn mutation(self) -> Mutation {
        match self {
            #[cfg(feature = "mutants")]
            Self::Core(mutant) => Mutation::of(mutant),
            _ => Mutation::none(),
        }
    }
}
