//! The ledger node: QUIC ingress, parallel verification, one core thread, group commit, peers and metrics around the
//! pure core of `zeni_consensus`.
//!
//! A payment's way: [`session`] takes a request from its connection, [`requests`] refuses what needs no signature check
//! and counts the rest in through [`admission`], [`verify`] checks signatures in merged jobs, [`core_thread`] steps the
//! core and appends to the log, [`committer`] syncs, and only then [`release`] answers and sends.

pub mod admission;
pub mod bulk;
pub mod checked;
pub mod checkpoint;
pub mod clock;
pub mod committer;
pub mod config;
pub mod copies;
pub mod core_queue;
pub mod core_thread;
pub mod dial;
pub mod doors;
pub mod events;
pub mod evidence;
pub mod inbound;
pub mod init;
pub mod inspect;
pub mod key;
pub mod links;
pub mod lost_disk;
pub mod node;
pub mod pace;
pub mod process;
pub mod questions;
pub mod readmit;
pub mod recovery;
pub mod release;
pub mod requests;
pub mod run;
pub mod screen;
pub mod serve_batches;
pub mod serve_blocks;
pub mod services;
pub mod session;
pub mod setup;
pub mod snapshots;
pub mod submission;
pub mod telemetry;
pub mod unsynced;
pub mod verify;
pub mod verify_data;
pub mod watch;

pub use config::Config;
pub use node::{Failure, Node, StartError};
pub use setup::{Setup, SetupError};
