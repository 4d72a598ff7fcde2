//! Prepares, replays and judges payment storms.
//!
//! Read in this order: [`plan`] says who pays whom, [`prepare`] puts that on disk; [`scenario`] is what a storm is to
//! be. [`stage`] sets up a [`network`] of [`process`]es. [`schedule`], [`delivery`], [`router`] and [`dispatch`] send,
//! [`overload`] more than is taken; [`follow`] and [`tracker`] watch the chain; both write into the [`book`]. A [`witness`] of each node, and one of the
//! API server's [`events`], keep in [`finals`] what was called final. [`faults`] happen meanwhile, those of the network in
//! the [`relay`] between the nodes, and [`double_spends`] across a partition. Then [`audit`] asks what came of it,
//! [`measure`] computes, [`findings`] collects, and [`report`] judges. [`storm`] is the whole from beginning to end.

pub mod api_audit;
pub mod audit;
pub mod book;
pub mod chart;
pub mod clock;
pub mod delivery;
pub mod dispatch;
pub mod double_spends;
pub mod events;
pub mod faults;
pub mod finals;
pub mod findings;
pub mod follow;
pub mod host;
pub mod html;
pub mod http;
pub mod latency;
pub mod limit;
pub mod link;
pub mod measure;
pub mod network;
pub mod overload;
pub mod plan;
pub mod prepare;
pub mod process;
pub mod relay;
pub mod report;
pub mod resources;
pub mod router;
pub mod scenario;
pub mod schedule;
pub mod stage;
pub mod stored;
pub mod storm;
pub mod storm_clock;
pub mod tracker;
pub mod up;
pub mod watch;
pub mod witness;

#[cfg(test)]
mod report_sample;
