//! The rules of the Zeni ledger, and nothing else: no I/O, no clock, no thread, no randomness of its own.
//!
//! Read in this order: [`amount`] and [`identity`] name the things; [`payment`], [`batch`] and [`block`] are the
//! canonical bytes that nodes sign; [`account`] and [`state`] are what a ledger remembers; [`execute`] is the one
//! function that changes it; [`proof`] lets a stranger check a part of it, [`finality`] that it is final, and
//! [`finality_receipt`] both at once, in one file.

pub mod account;
pub mod amount;
pub mod batch;
pub mod block;
pub mod encoding;
pub mod execute;
pub mod finality;
pub mod finality_receipt;
pub mod genesis;
pub mod hash;
pub mod identity;
pub mod merkle;
pub mod operation;
pub mod payment;
pub mod proof;
pub mod receipt;
pub mod rewind;
pub mod signature;
pub mod state;
pub mod transaction;
pub mod undo;
pub mod window;

pub use account::Account;
pub use amount::{Amount, Balance, Sequence, TokenId};
pub use batch::{Batch, VerifiedBatch};
pub use block::{Block, BlockHeader, SignedHeader};
pub use encoding::DecodeError;
pub use finality::{CommitCertificate, FinalBlock};
pub use finality_receipt::FinalityReceipt;
pub use genesis::Genesis;
pub use hash::{BatchDigest, BlockId, GenesisId, ReceiptsRoot, StateRoot, TransactionId, TransactionsRoot};
pub use identity::{AccountId, PublicKey, SignatureBytes, ValidatorIndex};
pub use operation::Operation;
pub use payment::Payment;
pub use receipt::{Outcome, Receipt, Rejection};
pub use state::State;
pub use transaction::Transaction;
pub use undo::Undo;
