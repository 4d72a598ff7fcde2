//! Prepares, replays and judges payment storms.

pub mod audit;
pub mod book;
pub mod clock;
pub mod delivery;
pub mod dispatch;
pub mod faults;
pub mod follow;
pub mod http;
pub mod latency;
pub mod limit;
pub mod link;
pub mod measure;
pub mod network;
pub mod plan;
pub mod prepare;
pub mod process;
pub mod report;
pub mod resources;
pub mod router;
pub mod scenario;
pub mod schedule;
pub mod storm_clock;
pub mod tracker;
pub mod watch;
