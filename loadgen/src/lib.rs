//! Prepares, replays and judges payment storms.

pub mod book;
pub mod clock;
pub mod delivery;
pub mod latency;
pub mod measure;
pub mod plan;
pub mod prepare;
pub mod scenario;
pub mod schedule;
pub mod tracker;
