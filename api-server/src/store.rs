//! Opens what the server keeps on its disk: log, checkpoint and index, and a follower that stands where they end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeni_consensus::{Archive, ArchiveError, Effect, Follower, HaltReason, Millis};
use zeni_ledger::genesis::GenesisError;
use zeni_ledger::{Genesis, State};
use zeni_storage::index::{Index, IndexConfig, IndexError};
use zeni_storage::{
    Checkpoint, DiskFiles, EvidenceFile, Limits, Recovery, RecoveryReport, SledOverlay, Start, StorageError, Store,
    identity, recover_disk,
};

use crate::chronicle::{Chronicle, ChronicleError};
use crate::proof_log::{ProofLog, ProofLogError};

/// Bytes of the largest genesis file.
const GENESIS_BYTES_MAX: u64 = 16 << 20;
/// Directory of the index within the data directory.
const INDEX_DIRECTORY: &str = "index";
/// The proof log within the data directory.
const PROOF_LOG: &str = "proofs.log";

/// Everything open.
#[derive(Debug)]
pub struct Ledger {
    pub follower: Follower,
    /// The follower's first effects.
    pub effects: Vec<Effect>,
    pub store: Store<DiskFiles>,
    pub checkpoint: Checkpoint<DiskFiles, SledOverlay>,
    pub chronicle: Arc<Chronicle>,
    pub evidence: Arc<EvidenceFile<DiskFiles>>,
    /// The index was damaged or belonged elsewhere, and is built again.
    pub index_rebuilt: bool,
}

/// Why the data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("{path} cannot be read: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} has {bytes} bytes; a genesis file has at most {GENESIS_BYTES_MAX}")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path}: {error}")]
    Genesis { path: PathBuf, error: GenesisError },
    #[error("the data directory: {0}")]
    Storage(#[from] StorageError),
    #[error("the log: {0}")]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Chronicle(#[from] ChronicleError),
    #[error(transparent)]
    ProofLog(#[from] ProofLogError),
    #[error("the follower does not start: {0}")]
    Follower(#[from] HaltReason),
}

/// Reads and checks a genesis file.
pub fn load_genesis(path: &Path) -> Result<Genesis, LedgerError> {
    let read = |error| LedgerError::Read { path: path.into(), error };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > GENESIS_BYTES_MAX {
        return Err(LedgerError::TooLarge { path: path.into(), bytes });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    Genesis::from_toml(&text).map_err(|error| LedgerError::Genesis { path: path.into(), error })
}

/// Builds the first state from the account file that stands beside the genesis file. Its root is not computed yet.
pub fn genesis_state(genesis: &Genesis, genesis_path: &Path) -> Result<State, LedgerError> {
    let path = genesis_path.parent().unwrap_or(Path::new(".")).join(&genesis.accounts_file);
    let bytes = std::fs::read(&path).map_err(|error| LedgerError::Read { path: path.clone(), error })?;
    genesis.unhashed_state(&bytes).map_err(|error| LedgerError::Genesis { path, error })
}

/// Opens the data directory, which is made if it is not there, and rebuilds the follower.
pub fn open(
    data: &Path,
    genesis: &Arc<Genesis>,
    genesis_path: &Path,
    depth: u64,
    now: Millis,
) -> Result<Ledger, LedgerError> {
    initialise(data, genesis)?;
    let config = IndexConfig { depth, ..IndexConfig::default() };
    let index_path = data.join(INDEX_DIRECTORY);
    let opened = Index::open(&index_path, genesis.block_id(), config)?;
    let (mut index, mut index_rebuilt) = (opened.index, opened.set_aside.is_some());
    let first_state =
        || genesis_state(genesis, genesis_path).map_err(|error| StorageError::GenesisState(error.to_string()));
    let mut found = recover_disk(data, genesis, first_state, Limits::default())?;
    let proof_log = ProofLog::open(&data.join(PROOF_LOG), &genesis.id())?;
    // An index that is ahead of its log (which was damaged or lost) tells of what cannot be shown or taken back.
    let (height, head) = index.head();
    if height > 0 && found.store.reader().block(&head)?.is_none() {
        tracing::warn!(height, block = %head, "the log does not hold the index's head");
        drop(index);
        Index::set_aside(&index_path)?;
        (index, index_rebuilt) = (Index::open(&index_path, genesis.block_id(), config)?.index, true);
    }
    // What executing a block gave is told only once. An index that does not reach up to the checkpoint, or stands on
    // another branch there, would miss it for ever, and so would the proof log; so the whole log is executed again.
    let stands_at = (found.recovered.checkpoint_height, found.recovered.checkpoint);
    let kept = stands_at.0 == 0 || proof_log.has_receipts(&stands_at.1);
    if index.block_at(stands_at.0)? != Some(stands_at.1) || !kept {
        tracing::warn!(height = stands_at.0, "index or proof log lacks the checkpoint's block; executing from genesis");
        found.checkpoint.reset()?;
        drop(found);
        found = recover_disk(data, genesis, first_state, Limits::default())?;
    }
    let index = Arc::new(index);
    tell(&found.report);
    let Recovery { recovered, store, checkpoint, .. } = found;
    for certificate in &recovered.certificates {
        proof_log.keep_certificate(certificate)?;
    }
    let reader = Arc::new(store.reader());
    let chronicle = Arc::new(Chronicle::new(Arc::clone(genesis), reader, index, Arc::new(proof_log))?);
    let (evidence, unreadable) = EvidenceFile::open(store.files(), genesis.id())?;
    if let Some(set_aside) = &unreadable.set_aside {
        tracing::error!(bytes = unreadable.bytes, set_aside, "a part of the evidence cannot be read");
    }
    let (follower, effects) = Follower::recover(Arc::clone(genesis), recovered, now)?;
    Ok(Ledger { follower, effects, store, checkpoint, chronicle, evidence: Arc::new(evidence), index_rebuilt })
}

/// Makes an empty data directory the ledger's. One of another ledger is refused before anything is written.
fn initialise(data: &Path, genesis: &Genesis) -> Result<(), LedgerError> {
    let files = DiskFiles::open(data)?;
    let expected = genesis.id();
    match identity(&files)? {
        Some(found) if found != expected => Err(StorageError::OtherGenesis { found, expected }.into()),
        Some(_) => Ok(()),
        None => Ok(Store::init(&files, &expected)?),
    }
}

fn tell(report: &RecoveryReport) {
    for damage in &report.damage {
        tracing::error!(%damage, "the log was damaged; what is missing is fetched from the nodes");
    }
    let missing = report.missing.batches.len() + report.missing.blocks.len();
    match &report.start {
        Start::Genesis => tracing::info!(torn = report.torn.len(), missing, "starting from genesis"),
        Start::Checkpoint { height } => {
            tracing::info!(height, torn = report.torn.len(), missing, "starting from a checkpoint");
        }
        Start::Discarded(reason) => {
            tracing::warn!(%reason, missing, "the checkpoint was discarded; starting from genesis");
        }
    }
}
