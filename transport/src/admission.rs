//! Who may connect: handshakes off the accept loop, each with a deadline, so that a slow peer holds up nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn::Incoming;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use zeni_ledger::PublicKey;
use zeni_schemas::{Hello, Role};

use crate::close::{CloseCode, Lost};
use crate::config::TransportConfig;
use crate::connection::Connection;
use crate::greeting;
use crate::identity::proven_key;
use crate::places::Places;

/// The highest role that a key may have here; `None` for a key that may not connect. Asked in every handshake, so a
/// policy can change while the endpoint runs. A role includes those below it: see [`Role`].
pub type Admission = Arc<dyn Fn(&PublicKey) -> Option<Role> + Send + Sync>;

/// Counts the connections that were turned away, by reason.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; CloseCode::ALL.len()],
    failed: AtomicU64,
}

impl Refusals {
    /// How many were closed with this code before they were connections.
    pub fn count(&self, code: CloseCode) -> u64 {
        self.counts[usize::from(code.number())].load(Ordering::Relaxed)
    }

    /// How many failed in TLS or vanished before their hello.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn add(&self, code: CloseCode) {
        self.counts[usize::from(code.number())].fetch_add(1, Ordering::Relaxed);
    }
}

/// What every handshake needs.
pub(crate) struct Door {
    pub(crate) own: Hello,
    pub(crate) admission: Admission,
    pub(crate) config: Arc<TransportConfig>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) places: Arc<Places>,
}

/// Takes connections until the endpoint is closed.
pub(crate) async fn run(quic: quinn::Endpoint, door: Arc<Door>, ready: mpsc::Sender<Connection>) {
    let handshakes = Arc::new(Semaphore::new(door.config.handshakes_max));
    while let Some(incoming) = quic.accept().await {
        let Ok(slot) = Arc::clone(&handshakes).try_acquire_owned() else {
            tracing::debug!(from = %incoming.remote_address(), "no room for another handshake");
            door.refusals.add(CloseCode::Busy);
            incoming.refuse();
            continue;
        };
        // Under pressure a dialler proves its address before it costs a handshake.
        let pressed = handshakes.available_permits() < door.config.handshakes_max / 2;
        if pressed && incoming.may_retry() {
            match incoming.retry() {
                Ok(()) => {}
                Err(error) => error.into_incoming().refuse(),
            }
            continue;
        }
        let (door, ready) = (Arc::clone(&door), ready.clone());
        tokio::spawn(async move {
            if let Some(connection) = admit(incoming, &door).await {
                // Nobody accepts any more: the endpoint is going, and this connection goes with it.
                ready.send(connection).await.ok();
            }
            drop(slot);
        });
    }
}

async fn admit(incoming: Incoming, door: &Door) -> Option<Connection> {
    let from = incoming.remote_address();
    let quic = match timeout(door.config.handshake_deadline, async { incoming.accept()?.await }).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "a handshake failed");
            door.refusals.failed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Err(_) => {
            tracing::debug!(%from, "a handshake took too long");
            door.refusals.add(CloseCode::HandshakeTimeout);
            return None;
        }
    };
    let refusal = match timeout(door.config.handshake_deadline, greet(&quic, door)).await {
        Ok(Ok(connection)) => return Some(connection),
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::Because(CloseCode::HandshakeTimeout),
    };
    match refusal {
        Refusal::Because(code) => {
            tracing::debug!(%from, %code, "a peer was refused");
            quic.close(code.into(), code.name().as_bytes());
            door.refusals.add(code);
        }
        Refusal::Vanished(lost) => {
            tracing::debug!(%from, %lost, "a peer vanished before its hello");
            door.refusals.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    None
}

enum Refusal {
    Because(CloseCode),
    Vanished(Lost),
}

impl From<greeting::GreetingError> for Refusal {
    fn from(error: greeting::GreetingError) -> Self {
        match error {
            greeting::GreetingError::Lost(lost) => Self::Vanished(lost),
            other => Self::Because(other.close_code()),
        }
    }
}

/// Admits the key before a byte of its hello is read. From then on it holds one of its places: who proves its key and
/// never greets takes no more handshakes than that.
async fn greet(quic: &quinn::Connection, door: &Door) -> Result<Connection, Refusal> {
    let unknown = Refusal::Because(CloseCode::UnknownPeer);
    let Some(peer) = proven_key(quic.peer_identity()) else { return Err(unknown) };
    let Some(highest) = (door.admission)(&peer) else { return Err(unknown) };
    let Some(place) = door.places.take(peer, highest) else { return Err(Refusal::Because(CloseCode::Busy)) };
    let greeted = greeting::hear(quic, &door.own).await?;
    let role = greeted.peer.role;
    if role > highest {
        return Err(Refusal::Because(CloseCode::RoleRefused));
    }
    greeted.answer(&door.own).await?;
    Ok(Connection::new(peer, role, quic.clone(), Arc::clone(&door.config)).at(place))
}
