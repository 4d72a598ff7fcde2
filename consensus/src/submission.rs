//! What a node answers to a submitted payment.

use zeni_ledger::execute::{Validity, validity};
use zeni_ledger::genesis::Rules;
use zeni_ledger::payment::KNOWN_FLAGS;
use zeni_ledger::window::SequenceError;
use zeni_ledger::{Amount, Payment, TransactionId};

/// Payments in one submission, at most.
pub const SUBMISSION_PAYMENTS_MAX: usize = 1_024;

/// The answer to one payment of a submission, given once what it says is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On disk at `copies` nodes so far (at least this one).
    Accepted { copies: u16 },
    /// It was accepted before and waits in the pool.
    Known { copies: u16 },
    /// It was not taken; nothing of it was stored.
    Refused(Refusal),
}

/// Why a payment was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the payment is made for network {found}, this is network {expected}")]
    WrongNetwork { found: u32, expected: u32 },
    #[error("the payment's valid_until has passed")]
    Expired,
    #[error("the payment's valid_until is more than {validity_max_s} seconds ahead")]
    ValidUntilTooFar { validity_max_s: u32 },
    #[error("the sequence is used")]
    SequenceUsed,
    #[error(
        "the sequence is beyond the account's window at the last final block; try again once payments before it are final"
    )]
    SequenceOutOfWindow,
    #[error("the sequence is used by the waiting payment {by}")]
    SequencePending { by: TransactionId },
    #[error("the token does not exist")]
    UnknownToken,
    #[error("the paying account does not exist")]
    UnknownAccount,
    #[error("the receiving account does not exist")]
    UnknownReceiver,
    #[error("the amount is zero")]
    ZeroAmount,
    #[error("payer and receiver are the same account")]
    ToSelf,
    #[error("flag bits {flags:#x} have no meaning in this version")]
    UnknownFlags { flags: u32 },
    #[error("the signature does not verify")]
    BadSignature,
    /// No node of this version gives it: the sequence window already bounds what one payer can have waiting, and a
    /// payment beyond it is [`Self::SequenceOutOfWindow`]. It keeps its number, which golden files and clients name.
    #[error("the payer has {limit} payments waiting; try again after the next block")]
    PendingLimit { limit: u16 },
    #[error("the node is at its limit; try again in {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u32 },
    #[error("the node's disk is at its watermark; it takes no payments until space is freed")]
    DiskFull,
}

/// The checks of a payment that need neither its signature nor the state: the shell makes them before it spends a
/// signature check, the core relies on them. `now_ms` is the time of arrival, Unix milliseconds.
pub fn check_fields(payment: &Payment, rules: &Rules, now_ms: u64) -> Result<(), Refusal> {
    if payment.network() != rules.network {
        return Err(Refusal::WrongNetwork { found: payment.network(), expected: rules.network });
    }
    let unknown = payment.flags() & !KNOWN_FLAGS;
    if unknown != 0 {
        return Err(Refusal::UnknownFlags { flags: unknown });
    }
    if payment.amount() == Amount(0) {
        return Err(Refusal::ZeroAmount);
    }
    if payment.from() == payment.to() {
        return Err(Refusal::ToSelf);
    }
    if !rules.tokens.contains_key(&payment.token()) {
        return Err(Refusal::UnknownToken);
    }
    match validity(payment, rules, now_ms) {
        Validity::Valid => Ok(()),
        Validity::Expired => Err(Refusal::Expired),
        Validity::TooFar => Err(Refusal::ValidUntilTooFar { validity_max_s: rules.validity_max_s }),
    }
}

impl Refusal {
    /// A stable code for metrics, wire and HTTP problems.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WrongNetwork { .. } => "wrong_network",
            Self::Expired => "expired",
            Self::ValidUntilTooFar { .. } => "valid_until_too_far",
            Self::SequenceUsed => "sequence_used",
            Self::SequenceOutOfWindow => "sequence_out_of_window",
            Self::SequencePending { .. } => "sequence_pending",
            Self::UnknownToken => "unknown_token",
            Self::UnknownAccount => "unknown_account",
            Self::UnknownReceiver => "unknown_receiver",
            Self::ZeroAmount => "zero_amount",
            Self::ToSelf => "to_self",
            Self::UnknownFlags { .. } => "unknown_flags",
            Self::BadSignature => "bad_signature",
            Self::PendingLimit { .. } => "pending_limit",
            Self::Overloaded { .. } => "overloaded",
            Self::DiskFull => "disk_full",
        }
    }

    /// Whether the same bytes may be taken later or by another node.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::PendingLimit { .. } | Self::Overloaded { .. } | Self::DiskFull | Self::SequenceOutOfWindow)
    }
}

impl From<SequenceError> for Refusal {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::Used => Self::SequenceUsed,
            SequenceError::OutOfWindow => Self::SequenceOutOfWindow,
        }
    }
}
