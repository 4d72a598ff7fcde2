//! What became of an executed payment. Every payment that used a sequence leaves one receipt, applied or rejected.

use crate::encoding::{DecodeError, Decoder};
use crate::hash::{ReceiptsRoot, TransactionId};
use crate::merkle;

/// Why an executed payment moved no money. Its sequence is used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Rejection {
    #[error("flag bits are set that have no meaning in this version")]
    UnknownFlags,
    #[error("the amount is zero")]
    ZeroAmount,
    #[error("payer and receiver are the same account")]
    ToSelf,
    #[error("the token does not exist")]
    UnknownToken,
    #[error("the receiving account does not exist")]
    UnknownReceiver,
    #[error("the payer holds less than the amount")]
    InsufficientBalance,
    #[error("payer or receiver cannot hold another token or a greater balance")]
    HoldingsFull,
}

impl Rejection {
    pub const ALL: [Self; 7] = [
        Self::UnknownFlags,
        Self::ZeroAmount,
        Self::ToSelf,
        Self::UnknownToken,
        Self::UnknownReceiver,
        Self::InsufficientBalance,
        Self::HoldingsFull,
    ];

    /// A stable code for metrics, HTTP problems and people.
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownFlags => "unknown_flags",
            Self::ZeroAmount => "zero_amount",
            Self::ToSelf => "to_self",
            Self::UnknownToken => "unknown_token",
            Self::UnknownReceiver => "unknown_receiver",
            Self::InsufficientBalance => "insufficient_balance",
            Self::HoldingsFull => "holdings_full",
        }
    }
}

/// How an executed payment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Applied,
    Rejected(Rejection),
}

impl Outcome {
    /// The canonical byte: 0 applied, otherwise 1 + the rejection's place in [`Rejection::ALL`].
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Applied => 0,
            Self::Rejected(rejection) => 1 + rejection as u8,
        }
    }

    /// Reads the canonical byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Applied),
            other => Rejection::ALL.get(usize::from(other) - 1).map(|rejection| Self::Rejected(*rejection)),
        }
    }
}

/// One line of a block's result, in the order of execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Which of the block's batches holds the payment.
    pub batch: u32,
    /// Its place in that batch.
    pub position: u16,
    pub id: TransactionId,
    pub outcome: Outcome,
}

/// Bytes of an encoded receipt.
pub const RECEIPT_BYTES: usize = 4 + 2 + 32 + 1;

impl Receipt {
    /// The canonical bytes: batch u32, position u16, id 32, outcome u8.
    pub fn to_bytes(&self) -> [u8; RECEIPT_BYTES] {
        let mut bytes = [0; RECEIPT_BYTES];
        bytes[..4].copy_from_slice(&self.batch.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.position.to_le_bytes());
        bytes[6..38].copy_from_slice(&self.id.0);
        bytes[38] = self.outcome.to_byte();
        bytes
    }

    /// Parses canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let (batch, position, id) = (decoder.u32()?, decoder.u16()?, TransactionId(decoder.array()?));
        let byte = decoder.u8()?;
        decoder.finish()?;
        let outcome = Outcome::from_byte(byte)
            .ok_or(DecodeError::Invalid { what: "outcome of a receipt", found: u64::from(byte) })?;
        Ok(Self { batch, position, id, outcome })
    }

    /// The hash that stands for it in the receipts tree.
    pub fn leaf_hash(&self) -> [u8; 32] {
        merkle::leaf_hash(&self.to_bytes())
    }
}

/// The root that a block header carries.
pub fn receipts_root(receipts: &[Receipt]) -> ReceiptsRoot {
    let leaves: Vec<[u8; 32]> = receipts.iter().map(Receipt::leaf_hash).collect();
    ReceiptsRoot(merkle::root(&leaves))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_round_trip_and_unknown_bytes_are_refused() {
        let outcomes = Rejection::ALL.map(Outcome::Rejected);
        for outcome in outcomes.into_iter().chain([Outcome::Applied]) {
            assert_eq!(Outcome::from_byte(outcome.to_byte()), Some(outcome));
        }
        assert_eq!(Outcome::from_byte(8), None);
        assert_eq!(Outcome::from_byte(255), None);
    }

    #[test]
    fn receipts_round_trip_and_damaged_bytes_are_refused() {
        let outcome = Outcome::Rejected(Rejection::ToSelf);
        let receipt = Receipt { batch: 1, position: 2, id: TransactionId([3; 32]), outcome };
        let mut bytes = receipt.to_bytes();
        assert_eq!(bytes.len(), RECEIPT_BYTES);
        assert_eq!(Receipt::from_bytes(&bytes), Ok(receipt));
        assert_eq!(Receipt::from_bytes(&bytes[..38]), Err(DecodeError::Truncated { offset: 38, needed: 1 }));
        bytes[38] = 8;
        assert_eq!(Receipt::from_bytes(&bytes), Err(DecodeError::Invalid { what: "outcome of a receipt", found: 8 }));
    }
}
