//! The safety record: what a validator must never forget, or it could sign twice.
//!
//! It lives in a file of its own that no backup restores. The payload: version u16 (2), last signed slot u64, whether the
//! validator was re-admitted u8, and the guard of the finality engine ([`zeni_consensus::finality::Guard`]).
//!
//! Every record is written into both slots, one after the other. A write cut anywhere leaves the old record or the new
//! one; and a byte that rots later in either slot cannot bring back an older record, under which the validator would
//! sign a second time.

use zeni_consensus::SafetyRecord;
use zeni_consensus::finality::Guard;
use zeni_ledger::GenesisId;
use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};

use crate::error::StorageError;
use crate::files::Files;
use crate::slot::{Content, SlotFile};

const NAME: &str = "safety";
const MAGIC: [u8; 8] = *b"ZENISAF1";
const VERSION: u16 = 2;

/// The open safety file of one validator.
#[derive(Debug)]
pub struct SafetyFile<F: Files> {
    files: F,
    genesis: GenesisId,
    slots: Option<SlotFile<F>>,
    found: Found,
}

#[derive(Debug, Clone, Copy)]
enum Found {
    Nothing,
    Record(SafetyRecord),
    Damaged,
}

impl<F: Files> SafetyFile<F> {
    /// Opens the file. That it is missing or damaged is for [`Self::read`] to say; nothing is created here.
    ///
    /// # Errors
    /// I/O; a record of another ledger or of a newer version.
    pub fn open(files: F, genesis: GenesisId) -> Result<Self, StorageError> {
        let (slots, found) = match SlotFile::open(&files, NAME, MAGIC, genesis)? {
            None => (None, Found::Nothing),
            Some((slots, Content::Damaged)) => (Some(slots), Found::Damaged),
            Some((_, Content::Payload { genesis: found, .. })) if found != genesis => {
                return Err(StorageError::OtherGenesis { found, expected: genesis });
            }
            Some((slots, Content::Payload { payload, .. })) => {
                let found = match decode(&payload) {
                    Ok(record) => Found::Record(record),
                    Err(DecodeError::UnknownVersion { found, known, .. }) => {
                        return Err(StorageError::UnknownVersion { file: NAME.into(), found, known });
                    }
                    Err(_) => Found::Damaged,
                };
                (Some(slots), found)
            }
        };
        Ok(Self { files, genesis, slots, found })
    }

    /// The record as of the last write; `None` if none was ever written here (or the file is gone).
    ///
    /// # Errors
    /// [`StorageError::SafetyLost`] if the file is there and neither slot is readable.
    pub fn read(&self) -> Result<Option<SafetyRecord>, StorageError> {
        match self.found {
            Found::Nothing => Ok(None),
            Found::Record(record) => Ok(Some(record)),
            Found::Damaged => Err(StorageError::SafetyLost),
        }
    }

    /// Syncs since the file was opened: two a write.
    pub fn syncs(&self) -> u64 {
        self.slots.as_ref().map_or(0, SlotFile::syncs)
    }

    /// Replaces the record, durable on return. The first write creates the file.
    pub fn write(&mut self, record: &SafetyRecord) -> Result<(), StorageError> {
        let payload = encode(record);
        match &mut self.slots {
            Some(slots) => slots.write(&payload)?,
            None => self.slots = Some(SlotFile::create(&self.files, NAME, MAGIC, self.genesis, &payload)?),
        }
        self.slots.iter_mut().try_for_each(|slots| slots.write(&payload))?;
        self.found = Found::Record(*record);
        Ok(())
    }
}

fn encode(record: &SafetyRecord) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.u16(VERSION).u64(record.last_signed_slot).u8(record.readmitted.into());
    record.guard.encode(&mut encoder);
    encoder.finish()
}

fn decode(payload: &[u8]) -> Result<SafetyRecord, DecodeError> {
    let mut decoder = Decoder::new(payload);
    let found = decoder.u16()?;
    if found != VERSION {
        return Err(DecodeError::UnknownVersion { what: "safety record", found, known: VERSION });
    }
    let last_signed_slot = decoder.u64()?;
    let readmitted = match decoder.u8()? {
        0 => false,
        1 => true,
        found => return Err(DecodeError::Invalid { what: "re-admission in a safety record", found: found.into() }),
    };
    let record = SafetyRecord { last_signed_slot, readmitted, guard: Guard::decode(&mut decoder)? };
    decoder.finish()?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeni_consensus::finality::Signed;
    use zeni_consensus::finality::guard::Step;

    use crate::memory::{Fault, MemoryFiles};
    use crate::slot::SLOT_BYTES;

    const HOME: GenesisId = GenesisId([1; 32]);

    fn record(last_signed_slot: u64) -> SafetyRecord {
        let digest = [last_signed_slot as u8; 32];
        let signed = Signed { decision: last_signed_slot, round: 1, step: Step::Prevote, digest };
        let readmitted = last_signed_slot % 2 == 1;
        SafetyRecord { last_signed_slot, readmitted, guard: Guard::after(Some(signed)) }
    }

    fn reopened(files: &MemoryFiles) -> Result<Option<SafetyRecord>, StorageError> {
        SafetyFile::open(files.clone(), HOME).unwrap().read()
    }

    #[test]
    fn a_record_is_there_when_its_write_returns() {
        let files = MemoryFiles::new();
        let mut safety = SafetyFile::open(files.clone(), HOME).unwrap();
        assert_eq!(safety.read().unwrap(), None);
        for slot in 1..6 {
            safety.write(&record(slot)).unwrap();
            let copy = files.clone();
            copy.crash(&mut |_| 0);
            assert_eq!(reopened(&files).unwrap(), Some(record(slot)));
            safety = SafetyFile::open(files.clone(), HOME).unwrap();
        }
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_old_or_the_new_record() {
        for syncs in [0, 1] {
            for cut in 0..=SLOT_BYTES as u64 {
                let files = MemoryFiles::new();
                let mut safety = SafetyFile::open(files.clone(), HOME).unwrap();
                safety.write(&record(1)).unwrap();
                files.inject(Fault::Sync { after: syncs });
                safety.write(&record(2)).unwrap_err();
                // Choices of the crash: no name change to keep, tear, at the only write, behind `cut` bytes.
                let mut choices = [0, 2, 0, cut].into_iter();
                files.crash(&mut |bound| choices.next().unwrap_or(0) % bound);
                let found = reopened(&files).unwrap().unwrap();
                let whole = syncs == 1 || cut == SLOT_BYTES as u64;
                assert!(found == record(2) || (found == record(1) && !whole), "{found:?} after {cut} bytes");
            }
        }
    }

    #[test]
    fn a_failed_sync_is_never_forgotten() {
        let files = MemoryFiles::new();
        let mut safety = SafetyFile::open(files.clone(), HOME).unwrap();
        safety.write(&record(1)).unwrap();
        files.inject(Fault::Sync { after: 0 });
        safety.write(&record(2)).unwrap_err();
        assert!(matches!(safety.write(&record(3)), Err(StorageError::Poisoned { .. })));
        assert_eq!(safety.read().unwrap(), Some(record(1)));
    }

    #[test]
    fn two_damaged_slots_are_a_loss_and_another_ledgers_record_is_refused() {
        let files = MemoryFiles::new();
        let mut safety = SafetyFile::open(files.clone(), HOME).unwrap();
        safety.write(&record(7)).unwrap();
        safety.write(&record(8)).unwrap();
        let other = SafetyFile::open(files.clone(), GenesisId([2; 32]));
        assert!(matches!(other, Err(StorageError::OtherGenesis { .. })));
        for slot in [0, SLOT_BYTES as u64] {
            files.flip(NAME, slot + 30, 4);
            assert_eq!(reopened(&files).unwrap(), Some(record(8)), "one rotten slot brought an older record back");
            files.flip(NAME, slot + 30, 4);
        }
        files.flip(NAME, 30, 4);
        files.flip(NAME, SLOT_BYTES as u64 + 4_000, 4);
        assert!(matches!(reopened(&files), Err(StorageError::SafetyLost)));
    }
}
