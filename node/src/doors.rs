//! Who may connect, as whom, and the connections that come in.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use zeni_ledger::{Genesis, PublicKey, ValidatorIndex};
use zeni_schemas::Role;
use zeni_transport::{CloseCode, Connection, Endpoint};

use crate::admission::ClientShare;
use crate::config::{Client, ClientRole};
use crate::links::Remote;
use crate::requests::Asker;
use crate::services::Services;
use crate::session;
use crate::verify::suspicion::Suspicion;

/// Everyone who is admitted.
#[derive(Debug)]
pub struct Guests {
    guests: HashMap<PublicKey, Guest>,
}

#[derive(Debug)]
struct Guest {
    name: String,
    /// The highest role that it may have.
    role: Role,
    validator: Option<ValidatorIndex>,
    share: Arc<ClientShare>,
}

/// A client has a validator's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config [[client]] {client:?} has the key of validator {validator:?}; give it a key of its own")]
pub struct ClientIsValidator {
    pub client: String,
    pub validator: String,
}

impl Guests {
    /// The validators of genesis and the clients of the config.
    pub fn new(genesis: &Genesis, clients: &[Client]) -> Result<Self, ClientIsValidator> {
        let mut guests: HashMap<PublicKey, Guest> = HashMap::new();
        for (place, validator) in genesis.validators.iter().enumerate() {
            let guest = Guest {
                name: validator.name.clone(),
                role: Role::Validator,
                validator: Some(ValidatorIndex(place as u16)),
                share: Arc::default(),
            };
            guests.insert(validator.key, guest);
        }
        for client in clients {
            let role = match client.role {
                ClientRole::Client => Role::Client,
                ClientRole::Follower => Role::Follower,
            };
            let guest = Guest { name: client.name.clone(), role, validator: None, share: Arc::default() };
            if let Some(other) = guests.insert(client.key, guest)
                && other.validator.is_some()
            {
                return Err(ClientIsValidator { client: client.name.clone(), validator: other.name });
            }
        }
        Ok(Self { guests })
    }

    /// The highest role of each key that is admitted.
    pub fn roles(&self) -> HashMap<PublicKey, Role> {
        self.guests.iter().map(|(key, guest)| (*key, guest.role)).collect()
    }

    /// A new connection's place: whom it speaks for (`None`: it only asks) and who asks on it.
    fn place(&self, connection: &Connection) -> Option<(Option<Remote>, Asker, &str)> {
        let guest = self.guests.get(&connection.peer())?;
        let remote = match connection.role() {
            Role::Client => None,
            Role::Follower => Some(Remote::Follower),
            Role::Validator => Some(Remote::Validator(guest.validator?)),
        };
        let (share, is_validator) = (Arc::clone(&guest.share), guest.validator.is_some());
        let asker = Asker { share, suspicion: Suspicion::default(), is_validator };
        Some((remote, asker, &guest.name))
    }

    /// Runs one connection to its end.
    pub async fn receive(&self, connection: Connection, services: Arc<Services>) -> Option<session::End> {
        let address = connection.remote_address();
        let Some((remote, asker, name)) = self.place(&connection) else {
            connection.close(CloseCode::RoleRefused);
            return None;
        };
        tracing::info!(name, %address, role = ?connection.role(), "connected");
        let end = session::run(connection, remote, asker, services).await;
        tracing::info!(name, %address, reason = %end, "disconnected");
        Some(end)
    }
}

/// Takes connections until the endpoint is closed. The transport bounds how many there are.
pub async fn keep(endpoint: Endpoint, guests: Arc<Guests>, services: Arc<Services>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            connection = endpoint.accept() => {
                let Some(connection) = connection else { return };
                let (guests, services) = (Arc::clone(&guests), Arc::clone(&services));
                sessions.spawn(async move { guests.receive(connection, services).await });
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}
