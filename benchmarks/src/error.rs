//! Why a benchmark gives no figures.

use std::io;
use std::path::{Path, PathBuf};

/// Why a benchmark gives no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("{action} {}: {error}", path.display())]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error(transparent)]
    Storage(#[from] zeni_storage::StorageError),
    #[error(transparent)]
    Genesis(#[from] zeni_ledger::genesis::GenesisError),
    #[error("the core halted: {0}")]
    Halted(#[from] zeni_consensus::HaltReason),
    #[error("the API server: {0}")]
    Api(#[from] zeni_client::api::ApiError),
    #[error("{}: {what}", path.display())]
    Json { path: PathBuf, what: serde_json::Error },
    /// A program failed; its own words.
    #[error("{program} failed ({status}): {words}")]
    Program { program: String, status: String, words: String },
    /// A storm whose figures mean nothing.
    #[error("the storm {name} is not to be measured: {}", failures.join("; "))]
    Storm { name: String, failures: Vec<String> },
    /// What was measured is not what was meant.
    #[error("{0}")]
    Wrong(String),
}

/// Turns an I/O error into one that tells of what.
pub(crate) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BenchError + use<> {
    let path = path.to_path_buf();
    move |error| BenchError::File { action, path, error }
}
