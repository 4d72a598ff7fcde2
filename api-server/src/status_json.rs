//! What is told of a payment's status, wherever it is told.

use serde_json::{Value, json};
use zeni_ledger::{BlockId, Genesis, Outcome, TransactionId};

use crate::api::{Doubt, PaymentStatus};
use crate::chronicle::{Inclusion, SequenceUse};
use crate::rfc3339;

/// The reason of a rejection, and the code of a refusal and of a warning, when another payment used the sequence.
pub const SEQUENCE_USED: &str = "sequence_used";

/// The part of a status whose change is a change of status: neither depth nor copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    status: &'static str,
    block: Option<BlockId>,
    outcome: Option<Outcome>,
    used_by: Option<TransactionId>,
    is_late: bool,
}

impl PaymentStatus {
    /// The word for it in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Included(_) => "included",
            Self::Final(_) => "final",
            Self::Rejected(..) | Self::Superseded(_) => "rejected",
            Self::Expired { .. } => "expired",
            Self::Unknown => "unknown",
        }
    }

    /// Where it stands on the chain, if a block executed it.
    pub const fn inclusion(&self) -> Option<Inclusion> {
        match self {
            Self::Included(inclusion) | Self::Final(inclusion) | Self::Rejected(inclusion, _) => Some(*inclusion),
            _ => None,
        }
    }

    /// What readers of a stream are told a change of.
    pub fn mark(&self) -> Mark {
        let bare = Mark { status: self.name(), block: None, outcome: None, used_by: None, is_late: false };
        match self {
            Self::Included(inclusion) | Self::Final(inclusion) | Self::Rejected(inclusion, _) => {
                Mark { block: Some(inclusion.block), outcome: Some(inclusion.outcome), ..bare }
            }
            Self::Accepted { doubt: Some(Doubt::SequenceUsed(used)), .. } | Self::Superseded(used) => {
                Mark { used_by: Some(used.by), ..bare }
            }
            Self::Accepted { doubt: Some(Doubt::Late), .. } => Mark { is_late: true, ..bare },
            Self::Accepted { doubt: None, .. } | Self::Expired { .. } | Self::Unknown => bare,
        }
    }
}

/// The status document.
pub fn status_json(genesis: &Genesis, id: &TransactionId, status: &PaymentStatus) -> Value {
    let mut document = json!({ "id": id.to_string(), "status": status.name(), "final": status.is_terminal() });
    match status {
        PaymentStatus::Accepted { copies, accepted_ms, doubt } => {
            document["copies"] = (*copies).into();
            document["accepted_at"] = accepted_ms.map(rfc3339::format_ms).into();
            match doubt {
                Some(Doubt::SequenceUsed(used)) => {
                    document["warning"] = SEQUENCE_USED.into();
                    document["detail"] = "another payment used its sequence in a block that is not final; unless a \
                                          reorganisation takes that one back, this one will not be executed"
                        .into();
                    add_user(&mut document, used);
                }
                Some(Doubt::Late) => {
                    document["warning"] = "valid_until_passed".into();
                    document["detail"] = "the head is too late for it and no final block is yet; unless a \
                                          reorganisation goes back to before its valid_until, it expires"
                        .into();
                }
                None => {}
            }
        }
        PaymentStatus::Included(inclusion)
        | PaymentStatus::Final(inclusion)
        | PaymentStatus::Rejected(inclusion, _) => add_inclusion(&mut document, genesis, inclusion),
        PaymentStatus::Superseded(used) => {
            document["reason"] = SEQUENCE_USED.into();
            document["detail"] = "another payment used its sequence in a final block".into();
            add_user(&mut document, used);
        }
        PaymentStatus::Expired { valid_until } => document["valid_until"] = rfc3339::format_s(*valid_until).into(),
        PaymentStatus::Unknown => {}
    }
    document
}

/// Who used the sequence.
pub fn add_user(document: &mut Value, used: &SequenceUse) {
    document["used_by"] = used.by.to_string().into();
    document["used_by_height"] = used.height.into();
    document["used_by_final"] = used.is_final.into();
}

fn add_inclusion(document: &mut Value, genesis: &Genesis, inclusion: &Inclusion) {
    document["height"] = inclusion.height.into();
    document["block"] = inclusion.block.to_string().into();
    document["block_time"] = rfc3339::format_ms(genesis.slot_time_ms(inclusion.slot)).into();
    document["depth"] = inclusion.depth.into();
    document["batch"] = inclusion.batch.into();
    document["position"] = inclusion.position.into();
    document["outcome"] = outcome_name(inclusion.outcome).into();
    if let Outcome::Rejected(rejection) = inclusion.outcome {
        document["reason"] = rejection.code().into();
        document["detail"] = rejection.to_string().into();
    }
}

/// `applied` or `rejected`.
pub const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Applied => "applied",
        Outcome::Rejected(_) => "rejected",
    }
}
