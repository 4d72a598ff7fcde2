//! Wire formats: FlatBuffers for every message that crosses a process, and their bounded parsing into types.
//!
//! One encoding per kind of frame: [`hello`] opens a connection, [`message`] is what validators and followers hear,
//! [`request`] is what clients ask and are answered. Every decoder checks the length against a named limit, then the
//! size prefix and the file identifier, then the structure (depth, tables, apparent size bounded), then counts; only
//! then is anything allocated. Batches, blocks, accounts and proofs travel as the canonical bytes that `zeni_ledger`
//! owns, because those are what is signed and hashed: FlatBuffers tables have no canonical form.
//!
//! Every frame carries its own length in front, so that no truncated frame and none with bytes behind it passes.

mod convert;
mod error;
mod frame;
pub mod hello;
pub mod message;
pub mod request;

pub use error::WireError;
pub use hello::{Hello, PROTOCOL_VERSION, Role};

#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    dead_code,
    elided_lifetimes_in_paths,
    missing_debug_implementations,
    unreachable_pub,
    unsafe_code,
    unused_imports,
    unused_qualifications
)]
mod generated;
