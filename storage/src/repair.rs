//! Opening a stream for appending: torn tails are moved aside, damaged segments rewritten.
//!
//! **Healing.** A damaged segment is kept under another name, and a new one of the same number takes its place with
//! every record of it that is readable. What it lost is what the stored blocks list or descend from and the log does
//! not hold ([`crate::Opened::missing`]); it is fetched from peers and appended like any other record. The log is a
//! set of records as far as its readers are concerned, so a healed record need not stand in its old place; and no
//! second way of writing records is needed.

use std::sync::Arc;

use crate::error::{Damage, DamageKind, StorageError, TornTail};
use crate::examine::{Examined, Survey, read_front};
use crate::files::{File, Files};
use crate::frame::{self, Frame, Kind};
use crate::segment::{self, FRAMES_AT, Header, Seal};
use crate::stream::{Active, Place, Segment, Stream, Which, write_draft};

/// What opening found and mended.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    pub(crate) torn: Vec<TornTail>,
    pub(crate) damage: Vec<Damage>,
    /// The last damage in the log: its segment and offset.
    pub(crate) last_in_log: Option<(u32, u64)>,
}

impl<F: Files> Stream<F> {
    /// Takes up the segments of a survey, mending what must be. `visit` is shown every record in order and says whether
    /// it decodes. It is shown the records of a rewritten segment a second time: the later place holds. `before` is called
    /// before a segment is rewritten, after which nobody can tell that it was damaged.
    pub(crate) fn take_up(
        &mut self,
        survey: &Survey,
        mended: &mut Mended,
        visit: &mut dyn FnMut(Place, &Frame<'_>) -> bool,
        before: &mut dyn FnMut(Which) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut survey = survey.clone();
        for index in 0..survey.segments.len() {
            let number = survey.segments[index].number;
            let mut show = |_: u32, offset: usize, frame: &Frame<'_>| visit(place(number, offset, frame), frame);
            let mut examined = survey.examine(&self.files, index, &mut show)?;
            if !examined.damage.is_empty() {
                if self.which == Which::Chain {
                    let last = examined.damage.iter().map(|damage| (number, damage.offset)).max();
                    mended.last_in_log = mended.last_in_log.max(last);
                }
                before(self.which)?;
                let header = self.rewrite(&survey, index, &examined)?;
                mended.damage.append(&mut examined.damage);
                survey.segments[index].heal(header);
                examined = survey.examine(&self.files, index, &mut show)?;
                if let Some(damage) = examined.damage.first() {
                    let source = std::io::Error::other(format!("what was just written is damaged: {damage}"));
                    let file = survey.segments[index].file.clone();
                    return Err(StorageError::Io { file, doing: "rewriting", source });
                }
            }
            self.adopt(&survey, index, &examined, mended)?;
        }
        Ok(())
    }

    /// Opens a whole segment for reading, and the last one for appending if it has no seal.
    fn adopt(
        &mut self,
        survey: &Survey,
        index: usize,
        examined: &Examined,
        mended: &mut Mended,
    ) -> Result<(), StorageError> {
        let found = &survey.segments[index];
        let header = found.header.expect("a segment without a header was rewritten");
        let walk = examined.walk.as_ref().expect("a segment with a header was walked over");
        let name = found.file.clone();
        let file = self.files.open(&name).map_err(StorageError::io(&name, "opening"))?;
        let mut len = examined.len;
        if let Some(offset) = examined.torn_at {
            mended.torn.push(self.move_tail(found.number, &file, offset, len)?);
            len = offset;
        }
        let segment = Arc::new(Segment { name, key: header.key(), file });
        self.shared.add(found.number, segment.clone());
        self.shared.bytes.fetch_add(len, std::sync::atomic::Ordering::Relaxed);
        self.last_number = found.number;
        match walk.seal {
            Some(seal) => self.link = seal.next,
            None => self.resume(Active { segment, end: len, records: walk.records, chain: walk.chain }),
        }
        Ok(())
    }

    /// Copies a torn tail into a file of its own and cuts it off, in this order.
    fn move_tail(&self, number: u32, file: &F::File, offset: u64, len: u64) -> Result<TornTail, StorageError> {
        let name = self.which.file(number.into(), "log");
        let mut tail = vec![0; (len - offset) as usize];
        file.read_at(offset, &mut tail).map_err(StorageError::io(&name, "reading"))?;
        let kept = self.free_name(number, "torn")?;
        write_draft(&self.files, &kept, &tail)?;
        self.files.sync_directory().map_err(StorageError::io(&kept, "syncing the directory of"))?;
        file.truncate(offset).map_err(StorageError::io(&name, "truncating"))?;
        file.sync_data().map_err(StorageError::io(&name, "syncing"))?;
        Ok(TornTail { file: name, offset, bytes: len - offset, kept })
    }

    /// Puts a new segment with every readable record in the place of a damaged one, which is kept aside.
    fn rewrite(&self, survey: &Survey, index: usize, examined: &Examined) -> Result<Header, StorageError> {
        let found = &survey.segments[index];
        let header = self.next_header(found.number, self.link)?;
        let (key, mut chain) = (header.key(), header.hash());
        let mut bytes = header.to_bytes();
        let mut records = 0;
        if let Some(old) = found.header {
            let image = read_front(&self.files, &found.file, u64::MAX)?;
            segment::walk(&found.file, &old, &image, &mut |offset, frame| {
                let here = |damage: &Damage| damage.offset == offset as u64 && damage.what == DamageKind::Undecodable;
                if !examined.damage.iter().any(here) {
                    let (head, payload) = (&frame.head, frame.payload);
                    let (frame, hash) = frame::encode(&key, &chain, head.kind, &head.key, payload);
                    bytes.extend_from_slice(&frame);
                    (chain, records) = (hash, records + 1);
                }
                true
            });
        }
        let next = survey.segments.get(index + 1).and_then(|next| next.header);
        let seal = Seal { records, next: next.map_or(chain, |next| next.previous) };
        bytes.extend_from_slice(&frame::encode(&key, &chain, Kind::Seal, &[0; 32], &seal.to_bytes()).0);

        let draft = self.which.file(found.number.into(), "new");
        write_draft(&self.files, &draft, &bytes)?;
        let sync = || self.files.sync_directory().map_err(StorageError::io(&draft, "syncing the directory of"));
        sync()?;
        if !found.missing {
            let kept = self.free_name(found.number, "damaged")?;
            self.files.rename(&found.file, &kept).map_err(StorageError::io(&found.file, "renaming"))?;
        }
        self.files.rename(&draft, &found.file).map_err(StorageError::io(&draft, "renaming"))?;
        sync()?;
        Ok(header)
    }

    /// A file name that is not taken: `chain-00000001.torn-1` and so on.
    fn free_name(&self, number: u32, ending: &str) -> Result<String, StorageError> {
        let names = self.files.list().map_err(StorageError::io("the data directory", "listing"))?;
        let free = (1u32..).map(|count| self.which.file(number.into(), &format!("{ending}-{count}")));
        Ok(free.into_iter().find(|name| !names.contains(name)).expect("fewer than 2^32 files"))
    }
}

/// Finishes or drops what a crash left of a rewriting: a sealed draft whose segment is gone takes its place.
pub(crate) fn settle_drafts<F: Files>(files: &F, which: Which) -> Result<(), StorageError> {
    let names = files.list().map_err(StorageError::io("the data directory", "listing"))?;
    for draft in &names {
        let Some(number) = which.number(draft, "new") else { continue };
        let name = which.file(number, "log");
        let sealed = match segment::read_header(&read_front(files, draft, FRAMES_AT as u64)?) {
            segment::FoundHeader::Whole(header) => {
                let walk = segment::walk(draft, &header, &read_front(files, draft, u64::MAX)?, &mut |_, _| true);
                walk.seal.is_some() && walk.damage.is_empty()
            }
            _ => false,
        };
        if sealed && !names.contains(&name) {
            files.rename(draft, &name).map_err(StorageError::io(draft, "renaming"))?;
        } else {
            files.remove(draft).map_err(StorageError::io(draft, "removing"))?;
        }
        files.sync_directory().map_err(StorageError::io(&name, "syncing the directory of"))?;
    }
    Ok(())
}

fn place(segment: u32, offset: usize, frame: &Frame<'_>) -> Place {
    Place { segment, offset: offset as u32, bytes: frame.len() as u32 }
}
