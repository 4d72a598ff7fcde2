//! What every command of the node reads first: config, genesis and key, checked against one another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use zeni_ledger::genesis::GenesisError;
use zeni_ledger::{Genesis, PublicKey, State, ValidatorIndex};

use crate::config::{Config, ConfigError};
use crate::dial::{Neighbour, UnknownValidator, neighbours};
use crate::doors::{ClientIsValidator, Guests};
use crate::key::{self, KeyError};

/// A checked node before it touches its data directory.
#[derive(Debug)]
pub struct Setup {
    pub config: Config,
    pub genesis: Arc<Genesis>,
    pub key: SigningKey,
    pub me: ValidatorIndex,
    pub neighbours: Vec<Neighbour>,
    pub guests: Guests,
}

/// Why config, genesis and key do not go together.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    #[error("the key {key} is no validator's in genesis {genesis}; name the key file of one of its validators")]
    NotAValidator { key: PublicKey, genesis: PathBuf },
    #[error(transparent)]
    Peer(#[from] UnknownValidator),
    #[error(transparent)]
    Client(#[from] ClientIsValidator),
}

/// Why a genesis or its account file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GenesisFileError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Refused { path: PathBuf, error: GenesisError },
}

impl Setup {
    /// Reads and checks everything but the data directory and the account file.
    pub fn load(config: &Path) -> Result<Self, SetupError> {
        Self::of(Config::load(config)?)
    }

    /// As [`Self::load`], of a config that was read already.
    pub fn of(config: Config) -> Result<Self, SetupError> {
        let genesis = Arc::new(read_genesis(&config.genesis)?);
        let key = key::load(&config.key)?;
        let public = key::public(&key);
        let me = genesis
            .validator_by_key(&public)
            .ok_or_else(|| SetupError::NotAValidator { key: public, genesis: config.genesis.clone() })?;
        let neighbours = neighbours(&genesis, me, &config)?;
        let guests = Guests::new(&genesis, &config.clients)?;
        Ok(Self { config, genesis, key, me, neighbours, guests })
    }
}

/// Reads a genesis file.
pub fn read_genesis(path: &Path) -> Result<Genesis, GenesisFileError> {
    let text = fs::read_to_string(path).map_err(|error| GenesisFileError::Read { path: path.to_owned(), error })?;
    Genesis::from_toml(&text).map_err(|error| GenesisFileError::Refused { path: path.to_owned(), error })
}

/// Builds the first state from the account file beside the genesis file.
pub fn genesis_state(genesis: &Genesis, genesis_path: &Path) -> Result<State, GenesisFileError> {
    let mut state = unhashed_genesis_state(genesis, genesis_path)?;
    state.commit();
    Ok(state)
}

/// As [`genesis_state`], for whoever changes accounts before it asks for the root.
pub fn unhashed_genesis_state(genesis: &Genesis, genesis_path: &Path) -> Result<State, GenesisFileError> {
    let path = genesis_path.parent().unwrap_or(Path::new("")).join(&genesis.accounts_file);
    let bytes = fs::read(&path).map_err(|error| GenesisFileError::Read { path: path.clone(), error })?;
    genesis.unhashed_state(&bytes).map_err(|error| GenesisFileError::Refused { path, error })
}
