//! The API server: follows the chain, executes it itself, keeps its own index, and answers HTTP.
//!
//! One OS thread ([`follower`]) owns the follower and its log; another ([`keeper`]) writes index and checkpoints in the
//! background. Requests read the log and the index from any thread ([`chronicle`]), and ask the follower's thread for
//! accounts. Submissions go to the nodes at once and are answered when one of them has them on disk; what clients ask of
//! the nodes' pools is merged into one question at a time ([`pending`]). Finality receipts are put together from log, index
//! and [`proof_log`] ([`proofs`]), and of accounts as the last final block left them ([`final_state`]).

pub mod api;
pub mod block_receipts;
pub mod chronicle;
pub mod config;
pub mod events;
pub mod final_state;
pub mod follower;
pub mod gathering;
pub mod keeper;
pub mod node_watch;
pub mod payment_json;
pub mod pending;
pub mod problem;
pub mod process;
pub mod progress;
pub mod proof_log;
pub mod proofs;
mod repeat;
pub mod routes;
pub mod run;
pub mod server;
pub mod status_json;
pub mod store;
pub mod submissions;
pub mod telemetry;
pub mod waiting;

pub use zeni_client::rfc3339;
