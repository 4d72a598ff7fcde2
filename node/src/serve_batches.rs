//! Stored batches for peers and followers that ask by digest: read off the core thread, a few at a time, and sent only
//! once they are on disk.

use bytes::Bytes;
use tokio::sync::mpsc;
use zeni_consensus::{ArchiveError, Message};
use zeni_ledger::{Batch, BatchDigest, DecodeError};
use zeni_schemas::message::encode;
use zeni_storage::{Files, Reader};

use crate::unsynced::Unsynced;

/// Batches that were read and wait to be sent on one connection, at most.
pub const SERVED_MAX: usize = 4;

/// Serves one connection until it ends: batches go to `bulk`, the digests of those that are not there to `control`.
pub async fn serve<F: Files>(
    mut fetches: mpsc::Receiver<Vec<BatchDigest>>,
    reader: Reader<F>,
    unsynced: &Unsynced,
    bulk: mpsc::Sender<Bytes>,
    control: mpsc::Sender<Bytes>,
) {
    while let Some(digests) = fetches.recv().await {
        let mut missing = Vec::new();
        for digest in digests {
            match read(reader.clone(), digest).await {
                Ok(Some(frame)) => {
                    // Not before it was read: a batch that comes in between would be missed.
                    unsynced.wait(&digest).await;
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
async fn read<F: Files>(reader: Reader<F>, digest: BatchDigest) -> Result<Option<Bytes>, ArchiveError> {
    let read = move || -> Result<Option<Bytes>, ArchiveError> {
        let Some(bytes) = reader.raw_batch(&digest)? else { return Ok(None) };
        let damaged =
            |error: DecodeError| ArchiveError::Damaged { location: format!("batch {digest}"), what: error.to_string() };
        let batch = Batch::from_bytes(&bytes).map_err(damaged)?;
        Ok(Some(Bytes::from(encode(&Message::Batch(batch)))))
    };
    tokio::task::spawn_blocking(read).await.expect("reading a batch does not panic and is not aborted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use zeni_consensus::Record;
    use zeni_ledger::{Genesis, ValidatorIndex, VerifiedBatch};
    use zeni_schemas::message::decode;
    use zeni_storage::{Limits, MemoryFiles, Store};

    use crate::committer::{Say, Turn};

    fn store(genesis: &Genesis) -> Store<MemoryFiles> {
        let files = MemoryFiles::new();
        Store::init(&files, &genesis.id()).unwrap();
        Store::open(files, genesis, Limits::default()).unwrap().0
    }

    #[tokio::test]
    async fn a_batch_is_served_only_after_the_sync_that_its_turn_waits_for() {
        let genesis = Genesis::from_toml(include_str!("../../deploy/genesis.example.toml")).unwrap();
        let (mut store, unsynced) = (store(&genesis), Arc::new(Unsynced::default()));
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let batch = Batch::sign(ValidatorIndex(0), 1, Vec::new(), &key, &genesis.id());
        let batch = VerifiedBatch::vouch(batch, &genesis.id());
        let mut turn = Turn::default();
        unsynced.append(&mut store, &Record::Batch(batch.clone()), &mut turn).unwrap();
        let (fetch, fetches) = mpsc::channel(1);
        let ((bulk, mut served), (control, mut answers)) = (mpsc::channel(1), mpsc::channel(1));
        let (reader, shared) = (store.reader(), Arc::clone(&unsynced));
        let serving = tokio::spawn(async move { serve(fetches, reader, &shared, bulk, control).await });
        fetch.send(vec![batch.digest()]).await.unwrap();
        while unsynced.waiting() == 0 && served.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(served.is_empty(), "it was served before it was synced");
        let [Say::Synced(digest)] = &turn.say[..] else { panic!("{turn:?}") };
        unsynced.synced(digest);
        let frame = served.recv().await.unwrap();
        assert_eq!(decode(&frame).unwrap(), Message::Batch(batch.batch().clone()));
        // Known to be on disk now, it is served at once.
        fetch.send(vec![batch.digest()]).await.unwrap();
        assert_eq!(served.recv().await, Some(frame));
        drop(fetch);
        serving.await.unwrap();
        assert!(answers.recv().await.is_none(), "something was missing");
    }
}
