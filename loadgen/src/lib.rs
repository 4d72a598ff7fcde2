//! Prepares, replays and judges payment storms.

pub mod clock;
pub mod plan;
pub mod prepare;
