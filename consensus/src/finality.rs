//! The finality engine: a quorum of validators agrees which block of the chain can never be taken back.
//!
//! [`Engine`] embeds Tendermint as others keep it (`arc-malachitebft-core-consensus`) behind this crate's own types: it
//! takes the time, messages and verdicts as arguments and returns what is to be logged, sent and decided. What the
//! engine does not do, and this module does: signatures and certificates are checked here, timers are data, every
//! signature is guarded against a second one, and the log can be replayed after a crash.

pub mod engine;
pub mod guard;
pub mod log;
pub mod message;

pub use engine::{Engine, EngineConfig, EngineFailure, Output};
pub use guard::{Guard, Signed};
pub use log::{LogEntry, LoggedTimeout};
pub use message::{DoubleSigning, FinalityMessage, PolkaCertificate, RoundCertificate, SignedProposal, SignedVote};
