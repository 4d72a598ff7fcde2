//! What programs need to talk to a ledger's nodes, and wallets to pay.
//!
//! - [`NodePool`] asks nodes over QUIC and fails over: the same signed bytes go to another node when one does not
//!   answer in time. Payments are idempotent by their id, so that is safe.
//! - [`follow`] keeps one connection that hears the chain from whichever node is reachable.
//! - [`wallet`] keeps keys in files and signs payments.
//! - [`api`] speaks HTTP to an API server, as the `zeni` command line does.
//! - [`rfc3339`] writes moments for people and JSON.

pub mod api;
pub mod follow;
mod node;
mod pool;
pub mod rfc3339;
pub mod wallet;

pub use node::{NodeAddress, NodeError};
pub use pool::{Attempt, NodePool, PoolConfig, PoolError};
