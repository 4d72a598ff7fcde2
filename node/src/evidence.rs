//! What this node saw validators do wrong: kept on its disk, told to followers, shown to people.
//!
//! Each node keeps what it saw itself. Validators do not pass evidence on to one another: what one of them can show, an
//! offender can make up at no cost, and a pool of it to check and store would be one more thing to fill.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use zeni_consensus::{Evidence, Message};
use zeni_ledger::{Batch, Genesis};
use zeni_schemas::message::encode;
use zeni_storage::{DiskFiles, EvidenceFile, Keeping, Kept, StorageError, Unreadable, identity};

use crate::clock;
use crate::serve_blocks::Unsent;

/// Pieces that are read at once, at most.
const PAGE: usize = 64;

/// The node's evidence file.
#[derive(Debug)]
pub struct EvidenceKeeper {
    file: EvidenceFile<DiskFiles>,
}

impl EvidenceKeeper {
    /// Opens the file of a data directory.
    pub fn open(files: &DiskFiles, genesis: &Genesis) -> Result<Self, StorageError> {
        let (file, unreadable) = EvidenceFile::open(files, genesis.id())?;
        if let Unreadable { bytes, set_aside: Some(set_aside) } = &unreadable {
            tracing::error!(bytes, set_aside, "a part of the evidence cannot be read");
        }
        let keeper = Self { file };
        keeper.count();
        Ok(keeper)
    }

    /// Has a piece that the core saw on disk. Whether it is new and was kept.
    pub fn keep(&self, evidence: &Evidence) -> Result<bool, StorageError> {
        let keeping = self.file.keep(evidence, clock::now().0)?;
        let (kind, offender) = (evidence.kind().code(), evidence.offender());
        match keeping {
            Keeping::Kept(kept) => {
                tracing::error!(kind, %offender, place = %kept.place, id = %kept.id, "evidence is kept");
                self.count();
            }
            Keeping::Known => {}
            Keeping::Enough => metrics::counter!("zeni_evidence_dropped_total", "kind" => kind).increment(1),
        }
        Ok(matches!(keeping, Keeping::Kept(_)))
    }

    fn count(&self) {
        metrics::gauge!("zeni_evidence_kept").set(self.file.len() as f64);
    }

    /// Sends a follower everything that is kept, one piece after the other, each once most of what waits before it has
    /// left. Ends with the last, or with the connection.
    pub async fn tell(self: Arc<Self>, control: mpsc::Sender<Bytes>, sent: Arc<Notify>) {
        let (mut next, unsent) = (0, Unsent { control: &control, sent: &sent });
        loop {
            let keeper = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || keeper.next_from(next)).await;
            match read {
                Ok(Ok(Some((kept, frame)))) => {
                    next = kept.number + 1;
                    unsent.wait_until_few().await;
                    if let Some(frame) = frame
                        && control.send(frame).await.is_err()
                    {
                        // The connection is closing, and says why itself.
                        return;
                    }
                }
                Ok(Ok(None)) => return,
                Ok(Err(error)) => return tracing::error!(%error, "kept evidence cannot be read"),
                Err(error) => return tracing::error!(%error, "reading evidence failed"),
            }
        }
    }

    /// The next piece as a frame; without one if it has rotted.
    fn next_from(&self, number: u64) -> Result<Option<(Kept, Option<Bytes>)>, StorageError> {
        let Some(kept) = self.file.kept(number, 1).first().copied() else { return Ok(None) };
        let evidence = self.file.read(&kept)?;
        let frame = |evidence| Bytes::from(encode(&Message::<Batch>::Evidence(Box::new(evidence))));
        Ok(Some((kept, evidence.map(frame))))
    }
}

/// Why a directory's evidence cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    #[error("there is no directory {0}")]
    NoDirectory(PathBuf),
    #[error("{0} holds no ledger")]
    NoLedger(PathBuf),
    #[error("{0}")]
    Storage(#[from] StorageError),
    #[error("{path} cannot be written: {error}")]
    Write { path: PathBuf, error: std::io::Error },
}

/// A piece, as [`show`] tells it, for people.
pub fn line(piece: &Value) -> String {
    let text = |name: &str| piece[name].as_str().unwrap_or_default().to_owned();
    let (offender, bytes, found_ms) = (&piece["offender"], &piece["bytes"], &piece["found_ms"]);
    format!(
        "{} {} by validator {offender} at {}, found at {found_ms} ms, {bytes} bytes",
        text("id"),
        text("kind"),
        text("place")
    )
}

/// What a stopped node has kept, the oldest first. With `export`, each piece is also written there as `ID.evidence`, for
/// `zeni evidence verify`.
pub fn show(data: &Path, export: Option<&Path>) -> Result<Vec<Value>, ShowError> {
    if !data.is_dir() {
        return Err(ShowError::NoDirectory(data.to_owned()));
    }
    let files = DiskFiles::open(data)?;
    let genesis = identity(&files)?.ok_or_else(|| ShowError::NoLedger(data.to_owned()))?;
    let (file, _) = EvidenceFile::open(&files, genesis)?;
    let (mut shown, mut next) = (Vec::new(), 0);
    loop {
        let page = file.kept(next, PAGE);
        let Some(last) = page.last() else { return Ok(shown) };
        next = last.number + 1;
        for kept in page {
            let evidence = file.read(&kept)?;
            if let (Some(directory), Some(evidence)) = (export, &evidence) {
                let path = directory.join(format!("{}.evidence", kept.id));
                let written = std::fs::write(&path, evidence.to_bytes());
                written.map_err(|error| ShowError::Write { path, error })?;
            }
            shown.push(describe(&kept, evidence.is_some()));
        }
    }
}

fn describe(kept: &Kept, is_readable: bool) -> Value {
    json!({
        "id": kept.id.to_string(),
        "kind": kept.kind.code(),
        "offender": kept.offender.0,
        "place": kept.place.to_string(),
        "found_ms": kept.found_ms,
        "bytes": kept.bytes,
        "readable": is_readable,
    })
}
