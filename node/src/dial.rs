//! Keeps one connection to every other validator.
//!
//! Of two validators the one with the smaller index dials. The other one dials too when it has been without a
//! connection for [`PATIENCE`]: its peer may not know its present address. Failed attempts are repeated with growing,
//! jittered pauses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::sleep;
use zeni_ledger::{PublicKey, ValidatorIndex};
use zeni_transport::{ConnectError, Endpoint};

use crate::config::Config;
use crate::doors::Guests;
use crate::inbound::Offence;
use crate::services::Services;
use crate::session::End;

/// How long the validator that need not dial waits for the other one.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same just after its start: the other one may still hold the connection of the process before, and not dial.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
/// The pause after the first failure, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a dialler looks whether the connection still stands.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A validator and where it is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub validator: ValidatorIndex,
    pub name: String,
    pub key: PublicKey,
    /// `host:port`.
    pub address: String,
}

/// Why the config's peers make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "config [[peer]] names the validator {0:?}, which genesis does not; use the names of its [[validator]] entries"
)]
pub struct UnknownValidator(pub String);

/// Everyone to dial: the other validators, and this one itself if its address is not where this node listens. Who
/// answers there is a second node with the same key, or this node behind another address, which it notices.
pub fn neighbours(
    genesis: &zeni_ledger::Genesis,
    me: ValidatorIndex,
    config: &Config,
) -> Result<Vec<Neighbour>, UnknownValidator> {
    for peer in &config.peers {
        if !genesis.validators.iter().any(|validator| validator.name == peer.validator) {
            return Err(UnknownValidator(peer.validator.clone()));
        }
    }
    let listen = config.listen.to_string();
    let neighbours = genesis.validators.iter().enumerate().map(|(place, validator)| {
        let override_ = config.peers.iter().find(|peer| peer.validator == validator.name);
        Neighbour {
            validator: ValidatorIndex(place as u16),
            name: validator.name.clone(),
            key: validator.key,
            address: override_.map_or(&validator.address, |peer| &peer.address).clone(),
        }
    });
    Ok(neighbours.filter(|neighbour| neighbour.validator != me || neighbour.address != listen).collect())
}

/// Keeps a connection to one neighbour, for ever (or until it turns out to be this very process).
pub async fn keep(endpoint: Endpoint, neighbour: Neighbour, guests: Arc<Guests>, services: Arc<Services>) {
    let dials_first = services.me < neighbour.validator;
    let (mut pause, mut patience) = (PAUSE_MIN, FIRST_PATIENCE);
    let mut complaint = String::new();
    loop {
        if !dials_first {
            wait_in_vain(&neighbour, &services, patience).await;
            patience = PATIENCE;
        }
        if services.links.is_connected(neighbour.validator) {
            sleep(LOOK_EVERY).await;
            continue;
        }
        match dial(&endpoint, &neighbour).await {
            Ok(connection) => {
                complaint.clear();
                let start = Instant::now();
                let end = guests.receive(connection, Arc::clone(&services)).await;
                if matches!(end, Some(End::Offence(Offence::Myself))) {
                    tracing::debug!(name = neighbour.name, "the own address leads to this process");
                    return;
                }
                if start.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                }
            }
            Err(failure) => complain(&neighbour, failure.to_string(), &mut complaint),
        }
        // Jitter from a half to the whole, so that restarted nodes do not dial in step.
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Ends when no connection has stood for this long.
async fn wait_in_vain(neighbour: &Neighbour, services: &Services, mut patience: Duration) {
    let mut since = Instant::now();
    while since.elapsed() < patience {
        sleep(LOOK_EVERY).await;
        if services.links.is_connected(neighbour.validator) {
            (since, patience) = (Instant::now(), PATIENCE);
        }
    }
}

/// Why a validator was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialFailure {
    #[error("cannot resolve {address}: {error}")]
    Resolve { address: String, error: std::io::Error },
    #[error("{address} has no IP address")]
    NoAddress { address: String },
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Looks the name up and connects, once.
pub async fn dial(endpoint: &Endpoint, neighbour: &Neighbour) -> Result<zeni_transport::Connection, DialFailure> {
    let address = &neighbour.address;
    let resolve = |error| DialFailure::Resolve { address: address.clone(), error };
    let found = lookup_host(address).await.map_err(resolve)?.next();
    let found = found.ok_or_else(|| DialFailure::NoAddress { address: address.clone() })?;
    Ok(endpoint.connect(found, neighbour.key).await?)
}

/// Says the same thing once.
fn complain(neighbour: &Neighbour, text: String, before: &mut String) {
    if *before != text {
        tracing::warn!(name = neighbour.name, "no connection: {text}");
        *before = text;
    }
}
