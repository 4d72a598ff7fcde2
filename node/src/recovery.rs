//! From a data directory to a core that stands where the last process left it.

use std::sync::Arc;

use zeni_consensus::{Config, Core, Effect, HaltReason, Millis};
use zeni_storage::{
    Checkpoint, Discarded, DiskFiles, Export, Limits, RecoveryReport, SafetyFile, SledOverlay, Start, StorageError,
    Store, identity,
};

use crate::evidence::EvidenceKeeper;
use crate::setup::{GenesisFileError, Setup, unhashed_genesis_state};

/// The directory, within the data directory, that sled keeps the checkpoint in.
pub const CHECKPOINT_DIRECTORY: &str = "checkpoint";

/// Everything open and ready to run.
#[derive(Debug)]
pub struct Recovery {
    pub files: DiskFiles,
    pub core: Core,
    /// The core's first effects.
    pub effects: Vec<Effect>,
    pub store: Store<DiskFiles>,
    pub checkpoint: Checkpoint<DiskFiles, SledOverlay>,
    pub safety: SafetyFile<DiskFiles>,
    pub evidence: Arc<EvidenceKeeper>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(
        "{directory} holds no ledger; make it one with: node init --config FILE (and --first-start if this validator has never run)"
    )]
    NotInitialised { directory: String },
    #[error("the data directory: {0}")]
    Storage(StorageError),
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    #[error("the core does not start: {0}")]
    Core(#[from] HaltReason),
}

/// Opens the data directory and rebuilds the core.
pub fn recover(setup: &Setup, boot: u64, now: Millis) -> Result<Recovery, RecoveryError> {
    let directory = &setup.config.data;
    let not_initialised = || RecoveryError::NotInitialised { directory: directory.display().to_string() };
    let explain = |error| match error {
        StorageError::NotInitialised => not_initialised(),
        other => RecoveryError::Storage(other),
    };
    // Opening would make the directory; a mistyped path shall not.
    if !directory.is_dir() {
        return Err(not_initialised());
    }
    let files = DiskFiles::open(directory).map_err(explain)?;
    // Nothing is made in a directory that is not this ledger's.
    let expected = setup.genesis.id();
    match identity(&files).map_err(explain)? {
        Some(found) if found != expected => {
            return Err(RecoveryError::Storage(StorageError::OtherGenesis { found, expected }));
        }
        Some(_) => {}
        None => return Err(not_initialised()),
    }
    let overlay = SledOverlay::open(&directory.join(CHECKPOINT_DIRECTORY)).map_err(explain)?;
    let first_state = || {
        unhashed_genesis_state(&setup.genesis, &setup.config.genesis)
            .map_err(|error| StorageError::GenesisState(error.to_string()))
    };
    let found = zeni_storage::recover(files.clone(), overlay, &setup.genesis, first_state, Limits::default());
    let zeni_storage::Recovery { recovered, store, safety, checkpoint, report } = found.map_err(explain)?;
    Export::discard(&files).map_err(explain)?;
    tell(&report, recovered.safety.is_none());
    let evidence = Arc::new(EvidenceKeeper::open(&files, &setup.genesis).map_err(explain)?);
    let config = Config {
        me: setup.me,
        key: setup.key.clone(),
        boot,
        nonce: rand::random(),
        joining_ms: setup.config.limits.joining_ms,
        bounds: zeni_consensus::chain::Bounds::default(),
    };
    let (core, effects) = Core::recover(config, Arc::clone(&setup.genesis), recovered, now)?;
    Ok(Recovery { files, core, effects, store, checkpoint, safety, evidence })
}

/// Counts and logs what the start found.
fn tell(report: &RecoveryReport, safety_lost: bool) {
    metrics::counter!("zeni_torn_tails_total").absolute(report.torn.len() as u64);
    metrics::counter!("zeni_storage_damage_total").absolute(report.damage.len() as u64);
    let rebuilt = matches!(report.start, Start::Discarded(_));
    metrics::counter!("zeni_checkpoint_rebuilt_total").absolute(u64::from(rebuilt));
    match &report.start {
        Start::Genesis => tracing::info!("starting from genesis"),
        Start::Checkpoint { height } => {
            metrics::gauge!("zeni_checkpoint_height").set(*height as f64);
            tracing::info!(height, "starting from the checkpoint");
        }
        Start::Discarded(reason) => discarded(reason),
    }
    if let Some(base) = report.base {
        tracing::info!(height = base.height, block = %base.id, "the log begins at the state of a snapshot");
        if matches!(report.start, Start::Genesis | Start::Discarded(_)) {
            tracing::error!(
                "that state is lost with the checkpoint: this node executes from genesis as peers give it the batches; to \
                 fetch a snapshot instead, move the data directory aside and run: node init --config FILE"
            );
        }
    }
    if !report.missing.is_empty() {
        let (blocks, batches) = (report.missing.blocks.len(), report.missing.batches.len());
        tracing::warn!(blocks, batches, "the log misses records; they are fetched from peers");
    }
    if safety_lost {
        tracing::error!(
            damaged = report.safety_damaged,
            "the safety record is lost: this node only follows until an operator runs: node readmit --config FILE"
        );
    }
}

fn discarded(reason: &Discarded) {
    tracing::error!(%reason, "the checkpoint cannot be used and is rebuilt from the log");
}
