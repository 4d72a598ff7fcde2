//! A validator whose disk was lost asks the others for a snapshot before its core exists, as `node run` does. Some of
//! them lie, and power may fail in the middle.

use std::sync::Arc;

use zeni_consensus::Millis;
use zeni_consensus::snapshot::{
    Assembled, Assembly, FalseSnapshot, Fetch, Manifest, PACE_MS, PageName, PageWriter, Part, page_hash,
};
use zeni_ledger::encoding::Encoder;
use zeni_ledger::{Account, AccountId, ValidatorIndex};
use zeni_storage::{
    Export, Fault as DiskFault, FileOverlay, Install, Limits, MemoryFiles, SafetyFile, StorageError, abandon_snapshot,
    can_take_snapshot, is_unfinished,
};

use super::Simulation;
use crate::network::ProcessId;
use crate::violation::Violation;

/// Of a thousand starts on an empty disk, so many ask for a snapshot; the others execute from genesis.
const ASKS: u64 = 750;
/// Of a thousand of these, so many are cut by a power failure after at most so many changes of the disk.
const CUT: u64 = 250;
const CUT_AFTER_MAX: u64 = 120;
/// Of a thousand snapshots of a liar, so many are false as a whole; of the others, so many pages.
const FALSE_MANIFESTS: u64 = 500;
const FALSE_PAGES: u64 = 300;
/// Of a thousand of its snapshots that are true as a whole, so many are offered and never served.
const DRIPPED: u64 = 200;

/// What one validator serves.
struct Served {
    peer: ValidatorIndex,
    export: Export<MemoryFiles>,
    manifest: Manifest,
    /// A page that only a liar has.
    invented: Option<(PageName, Vec<u8>)>,
    lies: bool,
    /// It lets everyone wait for its pages.
    drips: bool,
}

impl Simulation {
    /// Returns by snapshot, if the disk is empty and others have one.
    pub(super) fn return_by_snapshot(&mut self, node: ProcessId) -> Result<(), Violation> {
        match self.try_snapshot(node) {
            Ok(()) => Ok(()),
            // The start fails over the same fault, and then tries again.
            Err(_) if self.nodes[node].disk_faulty => Ok(()),
            Err(error) => Err(Violation::CannotStart { node, what: error.to_string() }),
        }
    }

    fn try_snapshot(&mut self, node: ProcessId) -> Result<(), StorageError> {
        let files = self.nodes[node].files.clone();
        if is_unfinished(&files)? {
            abandon_snapshot(&files, &mut FileOverlay::open(&files)?)?;
        }
        let forgot = match SafetyFile::open(files.clone(), self.world.genesis_id)?.read() {
            Ok(record) => record.is_none_or(|record| record.readmitted),
            Err(StorageError::SafetyLost) => true,
            Err(error) => return Err(error),
        };
        if !forgot || !can_take_snapshot(&files)? || !self.disk_dice.chance(ASKS) {
            return Ok(());
        }
        let served = self.served(node);
        if served.is_empty() {
            return Ok(());
        }
        if self.disk_dice.chance(CUT) {
            files.inject(DiskFault::PowerCut { after: self.disk_dice.below(CUT_AFTER_MAX) });
            self.nodes[node].disk_faulty = true;
        }
        let mut fetch = Fetch::new(self.world.genesis.clone());
        for served in &served {
            // A liar's certificate is a true one.
            if let Err(error) = fetch.offer(served.peer, served.manifest.clone()) {
                self.note(node, "snapshot refused", &[], || error.to_string());
            }
        }
        while let Some(manifest) = fetch.begin() {
            let height = manifest.block().height;
            let mut install = Install::begin(files.clone(), FileOverlay::open(&files)?)?;
            match self.transfer(&mut fetch, manifest, &served, &mut install)? {
                Some(Ok(assembled)) => {
                    let limits = Limits { segment_bytes: self.profile.segment_bytes };
                    install.finish(&assembled, &self.world.genesis, limits)?;
                    self.facts.snapshots += 1;
                    self.note(node, "snapshot", &[&height.to_le_bytes()], || format!("at height {height}"));
                    return Ok(());
                }
                Some(Err(error)) => {
                    let liars = fetch.refute();
                    self.note(node, "false snapshot", &[], || format!("of {liars:?}: {error}"));
                }
                None => self.note(node, "snapshot stranded", &[&height.to_le_bytes()], String::new),
            }
        }
        abandon_snapshot(&files, &mut FileOverlay::open(&files)?)
    }

    /// What the validators that can be reached have to serve.
    fn served(&mut self, node: ProcessId) -> Vec<Served> {
        let mut served = Vec::new();
        for other in (0..self.profile.validators).filter(|other| *other != node) {
            let machine = &self.nodes[other];
            let Some(process) = machine.process.as_ref().filter(|_| !machine.paused && !machine.halted) else {
                continue;
            };
            if self.network.is_broken(node, other) {
                continue;
            }
            let genesis = &self.world.genesis;
            let made = Export::make(&machine.files, &process.checkpoint, &process.reader, genesis, 1, &mut |_| true);
            // One whose disk fails just then gives none.
            let Ok(Some(export)) = made else { continue };
            let (peer, lies, mut manifest) =
                (ValidatorIndex(other as u16), self.is_liar(other), export.manifest().clone());
            let mut invented = None;
            if lies && self.liar_dice.chance(FALSE_MANIFESTS) {
                invented = self.invent(&export, &mut manifest);
            }
            let drips = lies && invented.is_none() && self.liar_dice.chance(DRIPPED);
            served.push(Served { peer, export, manifest, invented, lies, drips });
        }
        served
    }

    /// A page that the manifest is made to name: another content of one account, more blocks than there are, or an
    /// account that genesis has not.
    fn invent(&mut self, export: &Export<MemoryFiles>, manifest: &mut Manifest) -> Option<(PageName, Vec<u8>)> {
        let lie = self.liar_dice.below(3);
        let (part, hashes) = match lie {
            1 => (Part::Blocks, &mut manifest.blocks),
            _ => (Part::Accounts, &mut manifest.accounts),
        };
        let last = PageName { part, number: hashes.len().checked_sub(1)? as u32 };
        let more = PageName { part, number: hashes.len() as u32 };
        let (name, page) = match lie {
            0 => {
                let mut page = export.page(last).ok().flatten()?;
                *page.last_mut()? ^= 1;
                hashes.pop();
                (last, page)
            }
            1 => (more, export.page(last).ok().flatten()?),
            _ => {
                let (stranger, mut content) = (Account::new(AccountId([0xff; 32])), Encoder::default());
                stranger.encode_content(&mut content);
                let mut writer = PageWriter::default();
                writer.account(&stranger.id(), content.as_bytes());
                (more, writer.finish()?)
            }
        };
        hashes.push(page_hash(&page));
        Some((name, page))
    }

    /// `None` if nobody is left who serves it.
    fn transfer(
        &mut self,
        fetch: &mut Fetch,
        manifest: Manifest,
        served: &[Served],
        install: &mut Install<MemoryFiles, FileOverlay<MemoryFiles>>,
    ) -> Result<Option<Result<Assembled, FalseSnapshot>>, StorageError> {
        let mut assembly = Assembly::new(Arc::clone(&self.world.genesis), self.world.state.clone(), manifest);
        let mut now = Millis(0);
        while !fetch.is_complete() {
            if fetch.is_stranded() {
                return Ok(None);
            }
            let mut waits = true;
            for (peer, name) in fetch.questions(now) {
                let from = served.iter().find(|served| served.peer == peer).expect("only who offered is asked");
                if from.drips {
                    continue;
                }
                waits = false;
                let Some(mut page) = from.page(name) else {
                    fetch.unanswered(peer, name);
                    continue;
                };
                if from.lies && from.invented.is_none() && self.liar_dice.chance(FALSE_PAGES) {
                    page[0] ^= 1;
                }
                // A false page is thrown away, and asked of others.
                if let Err(error) = fetch.page(peer, name, page, now) {
                    self.note(peer.as_usize(), "false page", &[], || error.to_string());
                }
            }
            // Nothing else happens until who lets everyone wait is left.
            if waits {
                now = now + PACE_MS;
                for peer in fetch.leave_slow(now) {
                    self.note(peer.as_usize(), "slow snapshot", &[], String::new);
                }
            }
            while let Some(page) = fetch.next_page() {
                match assembly.take(&page) {
                    Ok(accounts) => install.accounts(&accounts)?,
                    Err(error) => return Ok(Some(Err(error))),
                }
            }
        }
        Ok(Some(assembly.finish()))
    }
}

impl Served {
    fn page(&self, name: PageName) -> Option<Vec<u8>> {
        match &self.invented {
            Some((invented, page)) if *invented == name => Some(page.clone()),
            _ => self.export.page(name).ok().flatten(),
        }
    }
}
