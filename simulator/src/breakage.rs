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
    /// Votes leave before they are on disk.
    VoteBeforeSync,
    /// A block leaves before it is on disk.
    ProposeBeforeSync,
    /// Certificates are not written to the log.
    CertificateUnwritten,
}

impl Breakage {
    /// Every way in which a run can be broken.
    pub fn all() -> Vec<Self> {
        #[cfg(feature = "mutants")]
        let core = Mutant::ALL.map(Self::Core).to_vec();
        #[cfg(not(feature = "mutants"))]
        let core = Vec::new();
        let shell = [
            Self::ReplyBeforeSync,
            Self::ConfirmBeforeSync,
            Self::SafetyUnwritten,
            Self::SyncErrorIgnored,
            Self::VoteBeforeSync,
            Self::ProposeBeforeSync,
            Self::CertificateUnwritten,
        ];
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

    /// Seeds in which it must be noticed.
    pub fn seeds_max(self) -> u64 {
        match self {
            // They need two branches of one weight, a clock that is ahead, a liar's proposal, a crash between a vote and its sync
            // after which it votes otherwise, or a payment beyond its window on one branch alone.
            #[cfg(feature = "mutants")]
            Self::Core(Mutant::NoHold | Mutant::VoteBesideRoot) => 120,
            #[cfg(feature = "mutants")]
            Self::Core(Mutant::FirstSeenWins) => 1_500,
            #[cfg(feature = "mutants")]
            Self::Core(Mutant::WindowAtHead) => 600,
            #[cfg(feature = "mutants")]
            Self::Core(Mutant::ListTwice | Mutant::RankUnchecked) => 100,
            Self::VoteBeforeSync => 300,
            _ => 25,
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
