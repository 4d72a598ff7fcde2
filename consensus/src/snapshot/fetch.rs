//! Who is asked for which page of which snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zeni_ledger::{Genesis, GenesisId, ValidatorIndex};

use super::{FalseSnapshot, Manifest, PageName, page_hash};
use crate::time::Millis;

/// Pages that one peer is asked for at once, at most.
pub const IN_FLIGHT_PER_PEER_MAX: usize = 4;
/// Pages that are asked for, or here and not taken yet, at most: 16 MiB.
pub const WINDOW_PAGES: usize = 32;
/// The time over which the pace of a peer is judged. Only time in which it was asked for something counts.
pub const PACE_MS: u64 = 60_000;
/// Bytes that the sources of one transfer send within [`PACE_MS`] of such time, at least, each its share: 256 KiB a
/// second, a quarter of what a slow link (1 MB/s) carries.
pub const PACE_BYTES_MIN: u64 = 15 << 20;

/// The search for a snapshot among peers, and its transfer. Whoever says something false is not asked again.
#[derive(Debug)]
pub struct Fetch {
    genesis: Arc<Genesis>,
    genesis_id: GenesisId,
    offers: BTreeMap<ValidatorIndex, Manifest>,
    discredited: BTreeSet<ValidatorIndex>,
    transfer: Option<Transfer>,
}

#[derive(Debug)]
struct Transfer {
    manifest: Manifest,
    /// Who offered these pages, those included that do not answer any more.
    vouchers: BTreeSet<ValidatorIndex>,
    /// Who is asked, and at what pace each answers.
    sources: BTreeMap<ValidatorIndex, Pace>,
    /// Places of pages that are asked for, and whom.
    asked: BTreeMap<usize, ValidatorIndex>,
    /// Pages that are here and not taken yet, by place.
    arrived: BTreeMap<usize, Vec<u8>>,
    /// Pages that were taken.
    taken: usize,
}

/// How one source answers, of late.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// Since when it has been asked for something without a break.
    asked_since: Option<Millis>,
    /// For how long it was before that.
    asked_ms: u64,
    /// What it sent in all of that time.
    bytes: u64,
}

impl Fetch {
    pub fn new(genesis: Arc<Genesis>) -> Self {
        let genesis_id = genesis.id();
        let (offers, discredited, transfer) = (BTreeMap::new(), BTreeSet::new(), None);
        Self { genesis, genesis_id, offers, discredited, transfer }
    }

    /// Takes a peer's manifest.
    ///
    /// # Errors
    /// If its certificate does not hold, or it can be no snapshot: its sender is discredited.
    pub fn offer(&mut self, from: ValidatorIndex, manifest: Manifest) -> Result<(), FalseSnapshot> {
        if self.discredited.contains(&from) {
            return Ok(());
        }
        let certificate = || Ok(manifest.certificate.verify(&self.genesis, &self.genesis_id)?);
        match manifest.check_pages(&self.genesis).and_then(|()| certificate()) {
            Ok(()) => {
                self.offers.insert(from, manifest);
                Ok(())
            }
            Err(error) => {
                self.discredit(from);
                Err(error)
            }
        }
    }

    /// Begins the transfer of the highest snapshot on offer; among equals, of the one that most peers have. `None` if
    /// no offer is left.
    pub fn begin(&mut self) -> Option<Manifest> {
        let vouchers = |manifest: &Manifest| -> BTreeSet<ValidatorIndex> {
            let same = self.offers.iter().filter(|(_, other)| other.is_of_same_pages(manifest));
            same.map(|(peer, _)| *peer).collect()
        };
        let rank = |manifest: &&Manifest| (manifest.block().height, vouchers(manifest).len());
        let manifest = self.offers.values().max_by_key(rank)?.clone();
        let vouchers = vouchers(&manifest);
        let sources = vouchers.iter().map(|peer| (*peer, Pace::default())).collect();
        let (asked, arrived) = (BTreeMap::new(), BTreeMap::new());
        self.transfer = Some(Transfer { manifest: manifest.clone(), vouchers, sources, asked, arrived, taken: 0 });
        Some(manifest)
    }

    /// What to ask whom now. Each question is to be followed by [`Self::page`] or [`Self::unanswered`].
    ///
    /// `now`, here and below, counts from any beginning and never goes back.
    pub fn questions(&mut self, now: Millis) -> Vec<(ValidatorIndex, PageName)> {
        let Some(transfer) = &mut self.transfer else { return Vec::new() };
        let mut questions = Vec::new();
        let end = transfer.manifest.pages().min(transfer.taken + WINDOW_PAGES);
        for place in transfer.taken..end {
            if transfer.asked.contains_key(&place) || transfer.arrived.contains_key(&place) {
                continue;
            }
            let load = |peer: &ValidatorIndex| transfer.asked.values().filter(|asked| *asked == peer).count();
            let least = transfer.sources.iter_mut().min_by_key(|(peer, _)| load(peer));
            let Some((peer, pace)) = least.filter(|(peer, _)| load(peer) < IN_FLIGHT_PER_PEER_MAX) else { break };
            let peer = *peer;
            pace.asked_since.get_or_insert(now);
            transfer.asked.insert(place, peer);
            questions.push((peer, transfer.manifest.page(place)));
        }
        questions
    }

    /// Takes the answer to a question, which came at `at`.
    ///
    /// # Errors
    /// If it is not the page that the manifest names: its sender is discredited, and others are asked.
    pub fn page(
        &mut self,
        from: ValidatorIndex,
        name: PageName,
        page: Vec<u8>,
        at: Millis,
    ) -> Result<(), FalseSnapshot> {
        let Some(transfer) = &mut self.transfer else { return Ok(()) };
        let Some(place) = transfer.close(from, name) else { return Ok(()) };
        transfer.note_pace(from, page.len(), at);
        if transfer.manifest.hash(name) != Some(&page_hash(&page)) {
            self.discredit(from);
            return Err(FalseSnapshot::PageHash(name));
        }
        transfer.arrived.insert(place, page);
        Ok(())
    }

    /// A peer does not answer a question: it is not asked any more in this transfer, nor chosen for another one.
    pub fn unanswered(&mut self, from: ValidatorIndex, name: PageName) {
        if let Some(transfer) = &mut self.transfer
            && transfer.close(from, name).is_some()
        {
            self.leave(from);
        }
    }

    /// Leaves for good who sends pages more slowly than [`PACE_BYTES_MIN`], so that nobody holds up a return by dripping
    /// them, and names it. Every answer that has come is to be taken first.
    pub fn leave_slow(&mut self, now: Millis) -> Vec<ValidatorIndex> {
        let Some(transfer) = &mut self.transfer else { return Vec::new() };
        let share = PACE_BYTES_MIN.div_ceil(transfer.sources.len().max(1) as u64);
        let mut slow = Vec::new();
        for (peer, pace) in &mut transfer.sources {
            let asked_ms = pace.asked_ms + pace.asked_since.map_or(0, |since| now.since(since));
            if asked_ms < PACE_MS {
                continue;
            }
            if pace.bytes < share.saturating_mul(asked_ms) / PACE_MS {
                slow.push(*peer);
            }
            *pace = Pace { asked_since: pace.asked_since.map(|_| now), ..Pace::default() };
        }
        slow.iter().for_each(|peer| self.discredit(*peer));
        slow
    }

    /// The next page in order, if it is here: blocks first, from the certified one down, then accounts.
    pub fn next_page(&mut self) -> Option<Vec<u8>> {
        let transfer = self.transfer.as_mut()?;
        let page = transfer.arrived.remove(&transfer.taken)?;
        transfer.taken += 1;
        Some(page)
    }

    /// Whether every page was taken.
    pub fn is_complete(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.taken == transfer.manifest.pages())
    }

    /// Whether pages are missing and nobody is left who could send them: another transfer may [`Self::begin`].
    pub fn is_stranded(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| {
            let here = transfer.taken + transfer.arrived.len();
            transfer.sources.is_empty() && here < transfer.manifest.pages()
        })
    }

    /// What the pages hold is false although they have their hashes: everyone who offered them is discredited, and
    /// named.
    pub fn refute(&mut self) -> Vec<ValidatorIndex> {
        let vouchers = self.transfer.take().map_or(BTreeSet::new(), |transfer| transfer.vouchers);
        vouchers.iter().for_each(|peer| self.discredit(*peer));
        vouchers.into_iter().collect()
    }

    /// The transfer cannot go on for reasons that lie here: what it is about is not chosen again, and nobody is
    /// discredited.
    pub fn give_up(&mut self) {
        let vouchers = self.transfer.take().map_or(BTreeSet::new(), |transfer| transfer.vouchers);
        vouchers.iter().for_each(|peer| self.leave(*peer));
    }

    fn discredit(&mut self, peer: ValidatorIndex) {
        self.discredited.insert(peer);
        self.leave(peer);
    }

    fn leave(&mut self, peer: ValidatorIndex) {
        self.offers.remove(&peer);
        if let Some(transfer) = &mut self.transfer {
            transfer.sources.remove(&peer);
            transfer.asked.retain(|_, asked| *asked != peer);
        }
    }
}

impl Transfer {
    /// Ends a question. Its page's place; `None` if it was not open.
    fn close(&mut self, from: ValidatorIndex, name: PageName) -> Option<usize> {
        let manifest = &self.manifest;
        let open = self.asked.iter().find(|(place, asked)| **asked == from && manifest.page(**place) == name);
        let place = open.map(|(place, _)| *place)?;
        self.asked.remove(&place);
        Some(place)
    }

    /// Notes that a source sent so many bytes. While it is asked for nothing its time stands still.
    fn note_pace(&mut self, from: ValidatorIndex, bytes: usize, at: Millis) {
        let is_asked = self.asked.values().any(|asked| *asked == from);
        let Some(pace) = self.sources.get_mut(&from) else { return };
        pace.bytes += bytes as u64;
        if !is_asked && let Some(since) = pace.asked_since.take() {
            pace.asked_ms += at.since(since);
        }
    }
}
