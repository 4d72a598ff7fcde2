//! Stored batches for peers and followers that ask by digest: read off the core thread, a few at a time.

use bytes::Bytes;
use tokio::sync::mpsc;
use zeni_consensus::{ArchiveError, Message};
use zeni_ledger::{Batch, BatchDigest, DecodeError};
use zeni_schemas::message::encode;
use zeni_storage::{DiskFiles, Reader};

/// Batches that were read and wait to be sent on one connection, at most.
pub const SERVED_MAX: usize = 4;

/// Serves one connection until it ends: batches go to `bulk`, the digests of those that are not there to `control`.
pub async fn serve(
    mut fetches: mpsc::Receiver<Vec<BatchDigest>>,
    reader: Reader<DiskFiles>,
    bulk: mpsc::Sender<Bytes>,
    control: mpsc::Sender<Bytes>,
) {
    while let Some(digests) = fetches.recv().await {
        let mut missing = Vec::new();
        for digest in digests {
            match read(reader.clone(), digest).await {
                Ok(Some(frame)) => {
                    metrics::counter!("zeni_peer_messages_total", "kind" => "batch", "direction" => "out").increment(1);
                    if bulk.send(frame).await.is_err() {
                        return;
                    }
                }
                Ok(None) => missing.push(digest),
                Err(error) => {
                    tracing::error!(%digest, %error, "a stored batch cannot be read");
                    missing.push(digest);
                }
            }
        }
        let answer: Message<Batch> = Message::Missing(missing.clone());
        if !missing.is_empty() && control.send(Bytes::from(encode(&answer))).await.is_err() {
            return;
        }
    }
}

/// The frame of one batch.
async fn read(reader: Reader<DiskFiles>, digest: BatchDigest) -> Result<Option<Bytes>, ArchiveError> {
    let read = move || -> Result<Option<Bytes>, ArchiveError> {
        let Some(bytes) = reader.raw_batch(&digest)? else { return Ok(None) };
        let damaged =
            |error: DecodeError| ArchiveError::Damaged { location: format!("batch {digest}"), what: error.to_string() };
        let batch = Batch::from_bytes(&bytes).map_err(damaged)?;
        Ok(Some(Bytes::from(encode(&Message::Batch(batch)))))
    };
    tokio::task::spawn_blocking(read).await.expect("reading a batch does not panic and is not aborted")
}
