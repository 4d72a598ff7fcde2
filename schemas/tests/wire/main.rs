//! Every kind of frame: round trips, golden bytes, limits, and bytes that are none.

mod checks;
mod golden;
mod hello;
mod messages;
mod requests;
