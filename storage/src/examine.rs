//! Reading a stream from its files: which segments there are, and what of each is whole, torn or damaged. Changes
//! nothing; [`crate::repair`] does.

use zeni_ledger::GenesisId;

use crate::error::{Damage, DamageKind, StorageError, Subject};
use crate::files::{File, Files};
use crate::frame::Frame;
use crate::segment::{self, FRAMES_AT, FoundHeader, Header, Walk, damage};
use crate::stream::Which;

/// What is read at once of a file with unreadable sectors.
const SECTOR_BYTES: usize = 4_096;
/// `EIO`: the error of a disk that cannot read a sector.
pub(crate) const UNREADABLE: i32 = rustix::io::Errno::IO.raw_os_error();

/// A segment file as found, or the gap where one should be.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) number: u32,
    pub(crate) file: String,
    pub(crate) header: Option<Header>,
    /// What is wrong with file or header.
    damage: Option<Damage>,
    pub(crate) missing: bool,
}

/// What the directory says of a stream before any record is read.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    /// In rising order without gaps.
    pub(crate) segments: Vec<Found>,
    /// The stream was stopped cleanly, so that its last segment must have a seal.
    pub(crate) clean_stop: bool,
}

/// What became of one segment.
#[derive(Debug)]
pub(crate) struct Examined {
    /// `None` if the header is unreadable.
    pub(crate) walk: Option<Walk>,
    pub(crate) damage: Vec<Damage>,
    /// Where a torn tail begins.
    pub(crate) torn_at: Option<u64>,
    pub(crate) len: u64,
}

/// Finds a stream's segments and reads their headers.
///
/// `expected_last` is the number of the last segment as of a clean stop.
pub(crate) fn survey<F: Files>(
    files: &F,
    which: Which,
    genesis: &GenesisId,
    expected_last: Option<u32>,
) -> Result<Survey, StorageError> {
    let names = files.list().map_err(StorageError::io("the data directory", "listing"))?;
    let numbers = names.iter().filter_map(|name| which.number(name, "log"));
    let present: Vec<u32> =
        numbers.filter_map(|number| u32::try_from(number).ok()).filter(|number| *number > 0).collect();
    let last = present.iter().copied().max().into_iter().chain(expected_last).max().unwrap_or(0);
    let mut segments = Vec::with_capacity(present.len());
    for number in 1..=last {
        segments.push(find(files, which, genesis, number, present.contains(&number))?);
    }
    Ok(Survey { segments, clean_stop: expected_last.is_some() })
}

fn find<F: Files>(
    files: &F,
    which: Which,
    genesis: &GenesisId,
    number: u32,
    present: bool,
) -> Result<Found, StorageError> {
    let name = which.file(number.into(), "log");
    let mut found = Found { number, file: name.clone(), header: None, damage: None, missing: !present };
    if !present {
        found.damage = Some(damage(&name, 0, 0, DamageKind::MissingSegment, Subject::Unknown));
        return Ok(found);
    }
    let bytes = read_front(files, &name, FRAMES_AT as u64)?;
    let of_this_segment = |header: &Header| header.stream == which as u8 && header.number == u64::from(number);
    match segment::read_header(&bytes) {
        FoundHeader::Version(found) => {
            return Err(StorageError::UnknownVersion { file: name, found, known: segment::VERSION });
        }
        FoundHeader::Whole(header) | FoundHeader::OneCopy(header, _) if header.genesis != *genesis => {
            return Err(StorageError::OtherGenesis { found: header.genesis, expected: *genesis });
        }
        FoundHeader::Whole(header) if of_this_segment(&header) => found.header = Some(header),
        FoundHeader::OneCopy(header, offset) if of_this_segment(&header) => {
            found.damage = Some(damage(&name, offset as usize, 0, DamageKind::HeaderCopy, Subject::Unknown));
            found.header = Some(header);
        }
        _ => found.damage = Some(damage(&name, 0, bytes.len() as u64, DamageKind::Header, Subject::Unknown)),
    }
    Ok(found)
}

impl Found {
    /// The segment was written anew with this header.
    pub(crate) fn heal(&mut self, header: Header) {
        (self.header, self.damage, self.missing) = (Some(header), None, false);
    }
}

impl Survey {
    /// Reads one segment whole and judges it. `visit` is shown every readable record with its offset and says whether
    /// it decodes.
    pub(crate) fn examine<F: Files>(
        &self,
        files: &F,
        index: usize,
        visit: &mut dyn FnMut(u32, usize, &Frame<'_>) -> bool,
    ) -> Result<Examined, StorageError> {
        let found = &self.segments[index];
        let mut examined =
            Examined { walk: None, damage: found.damage.iter().cloned().collect(), torn_at: None, len: 0 };
        let Some(header) = &found.header else { return Ok(examined) };
        let image = read_front(files, &found.file, u64::MAX)?;
        examined.len = image.len() as u64;
        let mut walk =
            segment::walk(&found.file, header, &image, &mut |offset, frame| visit(found.number, offset, frame));
        examined.damage.append(&mut walk.damage);
        if found.number == 1 && header.previous != [0; 32] {
            examined.damage.push(damage(&found.file, 0, 0, DamageKind::Link, Subject::Unknown));
        }
        self.judge_end(index, &walk, &mut examined);
        examined.walk = Some(walk);
        Ok(examined)
    }

    /// Only the last segment may lack a seal, and only if there was no clean stop.
    fn judge_end(&self, index: usize, walk: &Walk, examined: &mut Examined) {
        let found = &self.segments[index];
        let may_be_torn = index + 1 == self.segments.len() && !self.clean_stop;
        match (&walk.seal, &walk.tail) {
            (Some(seal), _) => {
                let next = self.segments.get(index + 1).and_then(|next| next.header);
                if next.is_some_and(|next| next.previous != seal.next) {
                    examined.damage.push(damage(&found.file, walk.end, 0, DamageKind::Link, Subject::Unknown));
                }
            }
            (None, Some(tail)) if may_be_torn => examined.torn_at = Some(tail.offset),
            (None, Some(tail)) => examined.damage.push(tail.clone()),
            (None, None) if may_be_torn => {}
            (None, None) => {
                examined.damage.push(damage(&found.file, walk.end, 0, DamageKind::Unsealed, Subject::Unknown));
            }
        }
    }
}

/// The first bytes of a file, at most `limit`. Sectors that the disk cannot read any more come as zeros, so that they
/// are found as damage and healed like any other.
pub(crate) fn read_front<F: Files>(files: &F, name: &str, limit: u64) -> Result<Vec<u8>, StorageError> {
    let file = files.open(name).map_err(StorageError::io(name, "opening"))?;
    let len = file.len().map_err(StorageError::io(name, "measuring"))?.min(limit);
    let mut bytes = vec![0; len as usize];
    if file.read_at(0, &mut bytes).is_ok() {
        return Ok(bytes);
    }
    for (index, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
        match file.read_at((index * SECTOR_BYTES) as u64, sector) {
            Err(error) if error.raw_os_error() == Some(UNREADABLE) => sector.fill(0),
            read => read.map_err(StorageError::io(name, "reading"))?,
        }
    }
    Ok(bytes)
}
