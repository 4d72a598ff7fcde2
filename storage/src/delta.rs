//! The delta file: a checkpoint step, whole on disk before the checkpoint is touched, so that a crash at any moment
//! leaves the old checkpoint or the new one.
//!
//! Magic `ZENIDLT1`, genesis id 32, from 32, to 32, height u64, accounts u64, each account's canonical bytes, BLAKE3
//! of all before 32. An incomplete file does not have its hash; the checkpoint was not touched then.

use zeni_consensus::CheckpointDelta;
use zeni_ledger::account::ACCOUNT_BYTES_MAX;
use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::{Account, BlockId, GenesisId};

use crate::error::StorageError;
use crate::files::{File, Files};

const NAME: &str = "checkpoint.delta";
const MAGIC: [u8; 8] = *b"ZENIDLT1";
const HEADER_BYTES: usize = 8 + 3 * 32 + 8 + 8;
/// Bytes read or written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A complete delta file.
#[derive(Debug)]
pub(crate) struct StoredDelta<F: Files> {
    file: F::File,
    /// Where the accounts end.
    end: u64,
    pub(crate) from: BlockId,
    pub(crate) to: BlockId,
    pub(crate) height: u64,
    accounts: u64,
}

/// What stands in place of a delta file.
#[derive(Debug)]
pub(crate) enum DeltaFile<F: Files> {
    Absent,
    Incomplete,
    Complete(StoredDelta<F>),
}

/// Writes a step, durable on return.
pub(crate) fn write<F: Files>(files: &F, genesis: &GenesisId, delta: &CheckpointDelta) -> Result<(), StorageError> {
    remove(files)?;
    let file = files.create(NAME).map_err(StorageError::io(NAME, "creating"))?;
    let (mut hasher, mut offset) = (blake3::Hasher::new(), 0);
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        let written = file.write_at(offset, bytes).map_err(StorageError::io(NAME, "writing"));
        offset += bytes.len() as u64;
        written
    };
    let mut encoder = Encoder::with_capacity(CHUNK_BYTES + ACCOUNT_BYTES_MAX);
    encoder.raw(&MAGIC).raw(&genesis.0).raw(&delta.from.0).raw(&delta.to.0);
    encoder.u64(delta.height).u64(delta.accounts.len() as u64);
    for account in &delta.accounts {
        account.encode(&mut encoder);
        if encoder.as_bytes().len() >= CHUNK_BYTES {
            put(encoder.as_bytes())?;
            encoder = Encoder::with_capacity(CHUNK_BYTES + ACCOUNT_BYTES_MAX);
        }
    }
    put(encoder.as_bytes())?;
    let hash = *hasher.finalize().as_bytes();
    file.write_at(offset, &hash).map_err(StorageError::io(NAME, "writing"))?;
    file.sync_data().map_err(StorageError::io(NAME, "syncing"))?;
    files.sync_directory().map_err(StorageError::io(NAME, "syncing the directory of"))
}

/// Removes the file, durable on return. It may be absent.
pub(crate) fn remove<F: Files>(files: &F) -> Result<(), StorageError> {
    match files.remove(NAME) {
        Ok(()) => files.sync_directory().map_err(StorageError::io(NAME, "syncing the directory of")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::io(NAME, "removing")(error)),
    }
}

/// Reads the file's header and checks its hash.
pub(crate) fn open<F: Files>(files: &F, genesis: &GenesisId) -> Result<DeltaFile<F>, StorageError> {
    let file = match files.open(NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(DeltaFile::Absent),
        Err(error) => return Err(StorageError::io(NAME, "opening")(error)),
    };
    let len = file.len().map_err(StorageError::io(NAME, "measuring"))?;
    let Some(end) = len.checked_sub(32).filter(|end| *end >= HEADER_BYTES as u64) else {
        return Ok(DeltaFile::Incomplete);
    };
    let mut hasher = blake3::Hasher::new();
    let mut header = Vec::new();
    for offset in (0..end).step_by(CHUNK_BYTES) {
        let chunk = read(&file, offset, (end - offset).min(CHUNK_BYTES as u64))?;
        hasher.update(&chunk);
        if offset == 0 {
            header = chunk;
        }
    }
    if hasher.finalize().as_bytes()[..] != read(&file, end, 32)? {
        return Ok(DeltaFile::Incomplete);
    }
    match read_header(&mut Decoder::new(&header)) {
        Ok((found, from, to, height, accounts)) if found == *genesis => {
            Ok(DeltaFile::Complete(StoredDelta { file, end, from, to, height, accounts }))
        }
        Ok((found, ..)) => Err(StorageError::OtherGenesis { found, expected: *genesis }),
        Err(_) => Ok(DeltaFile::Incomplete),
    }
}

fn read_header(decoder: &mut Decoder<'_>) -> Result<(GenesisId, BlockId, BlockId, u64, u64), DecodeError> {
    if decoder.array::<8>()? != MAGIC {
        return Err(DecodeError::Invalid { what: "magic of a delta file", found: 0 });
    }
    let (genesis, from, to) = (GenesisId(decoder.array()?), BlockId(decoder.array()?), BlockId(decoder.array()?));
    Ok((genesis, from, to, decoder.u64()?, decoder.u64()?))
}

impl<F: Files> StoredDelta<F> {
    /// Shows every account to `take`, some at a time.
    pub(crate) fn accounts(
        &self,
        take: &mut dyn FnMut(&[Account]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let (mut offset, mut left) = (HEADER_BYTES as u64, self.accounts);
        while left > 0 {
            let chunk = read(&self.file, offset, (self.end - offset).min((CHUNK_BYTES + ACCOUNT_BYTES_MAX) as u64))?;
            let mut decoder = Decoder::new(&chunk);
            let mut accounts = Vec::new();
            while left > 0 && chunk.len() - decoder.remaining() < CHUNK_BYTES {
                let damaged = |error: DecodeError| StorageError::CheckpointDamaged { what: error.to_string() };
                accounts.push(Account::decode(&mut decoder).map_err(damaged)?);
                left -= 1;
            }
            offset += (chunk.len() - decoder.remaining()) as u64;
            take(&accounts)?;
        }
        Ok(())
    }
}

fn read(file: &impl File, offset: u64, bytes: u64) -> Result<Vec<u8>, StorageError> {
    let mut buffer = vec![0; bytes as usize];
    file.read_at(offset, &mut buffer).map_err(StorageError::io(NAME, "reading"))?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryFiles;
    use zeni_ledger::{AccountId, Balance, TokenId};

    const HOME: GenesisId = GenesisId([1; 32]);

    fn delta(accounts: u32) -> CheckpointDelta {
        let account = |number: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            let mut account = Account::new(AccountId(id));
            assert!(account.set_balance(TokenId(1), Balance::new(i128::from(number) + 1)));
            account
        };
        let accounts = (0..accounts).map(account).collect();
        CheckpointDelta { from: BlockId([2; 32]), to: BlockId([3; 32]), height: 4, accounts }
    }

    #[test]
    fn a_step_of_many_chunks_comes_back_whole() {
        for count in [0, 1, 40_000] {
            let (files, step) = (MemoryFiles::new(), delta(count));
            write(&files, &HOME, &step).unwrap();
            let DeltaFile::Complete(stored) = open(&files, &HOME).unwrap() else { panic!("it is not complete") };
            let mut found = Vec::new();
            stored
                .accounts(&mut |accounts| {
                    found.extend_from_slice(accounts);
                    Ok(())
                })
                .unwrap();
            assert!((stored.from, stored.to, stored.height) == (step.from, step.to, step.height));
            assert_eq!(found, step.accounts);
        }
    }

    #[test]
    fn a_file_cut_or_flipped_anywhere_is_incomplete_and_another_ledgers_is_refused() {
        let files = MemoryFiles::new();
        write(&files, &HOME, &delta(3)).unwrap();
        assert!(matches!(open(&files, &GenesisId([9; 32])), Err(StorageError::OtherGenesis { .. })));
        let whole = files.content(NAME).unwrap();
        for length in 0..whole.len() {
            files.install(NAME, whole[..length].to_vec());
            assert!(matches!(open(&files, &HOME).unwrap(), DeltaFile::Incomplete), "cut to {length}");
            let mut flipped = whole.clone();
            flipped[length] ^= 8;
            files.install(NAME, flipped);
            assert!(matches!(open(&files, &HOME).unwrap(), DeltaFile::Incomplete), "flipped at {length}");
        }
        remove(&files).unwrap();
        assert!(matches!(open(&files, &HOME).unwrap(), DeltaFile::Absent));
    }
}
