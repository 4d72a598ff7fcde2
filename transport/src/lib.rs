//! QUIC between the processes of a ledger: both sides authenticated by their ed25519 keys, framing, flow control.
//!
//! An [`Endpoint`] dials with [`Endpoint::connect`] and takes connections with [`Endpoint::accept`]. Either way a
//! [`Connection`] exists only after the TLS handshake with raw public keys (RFC 7250), the admission policy and the
//! exchange of [`Hello`](zeni_schemas::Hello)s; who fails one of them is closed with its [`CloseCode`], counted, and
//! costs nobody else anything. A connection carries:
//!
//! - frames on unidirectional streams ([`Connection::open_frames`], [`Connection::accept_frames`]), control before
//!   bulk, so that a large batch never delays a status;
//! - requests, one bidirectional stream for each ([`Connection::request`], [`Connection::accept_request`]).
//!
//! Every stream has its own flow-control window: who does not read stalls that stream alone. Lengths are checked
//! against named limits before anything is allocated for them. This crate reads clocks (deadlines) and spawns one task
//! for accepting and one for each handshake; everything else happens in the caller's tasks.

mod admission;
mod close;
mod config;
mod connection;
mod endpoint;
mod frames;
mod greeting;
mod identity;
mod places;
mod requests;
mod tls;

pub use admission::{Admission, Refusals};
pub use close::{CloseCode, Lost};
pub use config::{ConfigError, TransportConfig};
pub use connection::Connection;
pub use endpoint::{BindError, ConnectError, Endpoint};
pub use frames::{Class, FrameError, FrameReceiver, FrameSender};
pub use greeting::GreetingError;
pub use requests::{IncomingRequest, RequestFailure, RespondError};
pub use tls::TlsError;

#[cfg(test)]
mod tests;
