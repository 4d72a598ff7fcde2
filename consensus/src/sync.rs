//! Fetching what is missing: batches in parallel by digest from any peer, blocks by locator from one.

use std::collections::{BTreeMap, BTreeSet};

use zeni_ledger::{BatchDigest, BlockId, ValidatorIndex};

use crate::message::FETCH_BATCHES_MAX;
use crate::peers::Peers;
use crate::time::Millis;

/// Batches wanted at once, at most; what does not fit is wanted again when its block is looked at next.
pub const WANTED_MAX: usize = 65_536;
/// Batches asked of one peer and not answered yet, at most: 46 MB if all are full.
pub const IN_FLIGHT_PER_PEER_MAX: usize = 256;
/// After this long without an answer another peer is asked.
pub const FETCH_TIMEOUT_MS: u64 = 3_000;
/// When every reachable peer was asked in vain, the next round begins after this long.
pub const FETCH_REST_MS: u64 = 500;

#[derive(Debug, Clone, Default)]
struct Want {
    /// Who was asked last, and when.
    asked: Option<(ValidatorIndex, Millis)>,
    /// Who said that it has not got it, or did not answer. Cleared once everyone is in it.
    tried: BTreeSet<ValidatorIndex>,
    /// Nobody is asked before this: everyone was.
    rests_until: Option<Millis>,
    order: u64,
}

/// The batches that this node wants and whom it asked.
#[derive(Debug, Default)]
pub struct Fetcher {
    wants: BTreeMap<BatchDigest, Want>,
    /// Wanted batches that nobody is asked for now, in the order of wanting.
    idle: BTreeMap<u64, BatchDigest>,
    /// Asked ones by deadline.
    deadlines: BTreeSet<(Millis, BatchDigest)>,
    in_flight: BTreeMap<ValidatorIndex, usize>,
    orders: u64,
}

impl Fetcher {
    /// How many batches are wanted.
    pub fn len(&self) -> usize {
        self.wants.len()
    }

    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// Wants a batch, first of `likely` if it is connected.
    pub fn want(&mut self, digest: BatchDigest) {
        if self.wants.len() >= WANTED_MAX || self.wants.contains_key(&digest) {
            return;
        }
        self.orders += 1;
        self.idle.insert(self.orders, digest);
        self.wants.insert(digest, Want { order: self.orders, ..Want::default() });
    }

    /// The batch is here, or nobody needs it any more.
    pub fn done(&mut self, digest: &BatchDigest) {
        if let Some(want) = self.wants.remove(digest) {
            self.idle.remove(&want.order);
            self.end_question(digest, &want);
        }
    }

    fn end_question(&mut self, digest: &BatchDigest, want: &Want) {
        if let Some(until) = want.rests_until {
            self.deadlines.remove(&(until, *digest));
        }
        if let Some((peer, at)) = want.asked {
            self.deadlines.remove(&(at + FETCH_TIMEOUT_MS, *digest));
            if let Some(count) = self.in_flight.get_mut(&peer) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// `peer` has not got the batch.
    pub fn missing_at(&mut self, digest: &BatchDigest, peer: ValidatorIndex) {
        let asked_it = |want: &Want| want.asked.is_some_and(|(asked, _)| asked == peer);
        if self.wants.get(digest).is_some_and(asked_it) {
            self.retry(digest);
        }
    }

    fn retry(&mut self, digest: &BatchDigest) {
        let Some(mut want) = self.wants.remove(digest) else { return };
        self.end_question(digest, &want);
        want.rests_until = None;
        if let Some((peer, _)) = want.asked.take() {
            want.tried.insert(peer);
        }
        self.idle.insert(want.order, *digest);
        self.wants.insert(*digest, want);
    }

    /// What to ask now, of whom: each idle want goes to the reachable peer that was not tried and is asked least.
    pub fn questions(&mut self, now: Millis, peers: &Peers) -> Vec<(ValidatorIndex, Vec<BatchDigest>)> {
        while let Some((_, digest)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now).copied() {
            self.retry(&digest);
        }
        let reachable = peers.reachable(now);
        let mut questions: BTreeMap<ValidatorIndex, Vec<BatchDigest>> = BTreeMap::new();
        let mut asked = Vec::new();
        for (order, digest) in &self.idle {
            let want = self.wants.get_mut(digest).expect("an idle want is a want");
            if !reachable.is_empty() && reachable.iter().all(|peer| want.tried.contains(peer)) {
                want.tried.clear();
                want.rests_until = Some(now + FETCH_REST_MS);
                self.deadlines.insert((now + FETCH_REST_MS, *digest));
                asked.push(*order);
                continue;
            }
            let load = |peer: &ValidatorIndex| self.in_flight.get(peer).copied().unwrap_or(0);
            let candidates = reachable.iter().filter(|peer| !want.tried.contains(*peer));
            let Some(peer) = candidates.min_by_key(|peer| load(peer)).copied() else { break };
            if load(&peer) >= IN_FLIGHT_PER_PEER_MAX {
                if reachable.iter().all(|peer| load(peer) >= IN_FLIGHT_PER_PEER_MAX) {
                    break;
                }
                continue;
            }
            *self.in_flight.entry(peer).or_default() += 1;
            want.asked = Some((peer, now));
            self.deadlines.insert((now + FETCH_TIMEOUT_MS, *digest));
            questions.entry(peer).or_default().push(*digest);
            asked.push(*order);
        }
        for order in asked {
            self.idle.remove(&order);
        }
        let split = |(peer, digests): (ValidatorIndex, Vec<BatchDigest>)| {
            digests.chunks(FETCH_BATCHES_MAX).map(|chunk| (peer, chunk.to_vec())).collect::<Vec<_>>()
        };
        questions.into_iter().flat_map(split).collect()
    }

    /// When [`Self::questions`] has something to do again, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

/// One question for blocks at a time, so that an answer can be followed by the next question.
#[derive(Debug, Default)]
pub struct BlockSync {
    asked: Option<(ValidatorIndex, Millis)>,
    /// Blocks asked by id, and when, so that an orphan is not asked for at every message.
    ancestors: BTreeMap<BlockId, Millis>,
}

/// Orphans asked for at once, at most.
const ANCESTORS_MAX: usize = 64;

impl BlockSync {
    /// Whether a question may be asked now; if so, notes it.
    pub fn ask(&mut self, peer: ValidatorIndex, now: Millis) -> bool {
        let free = self.asked.is_none_or(|(_, at)| now.since(at) >= FETCH_TIMEOUT_MS);
        if free {
            self.asked = Some((peer, now));
        }
        free
    }

    /// `peer` answered. True if it was asked.
    pub fn answered(&mut self, peer: ValidatorIndex) -> bool {
        let expected = self.asked.is_some_and(|(asked, _)| asked == peer);
        if expected {
            self.asked = None;
        }
        expected
    }

    /// Whether a block may be asked for by id now; if so, notes it.
    pub fn ask_ancestors(&mut self, id: BlockId, now: Millis) -> bool {
        self.ancestors.retain(|_, at| now.since(*at) < FETCH_TIMEOUT_MS);
        let free = self.ancestors.len() < ANCESTORS_MAX && !self.ancestors.contains_key(&id);
        if free {
            self.ancestors.insert(id, now);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u16) -> BatchDigest {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        BatchDigest(bytes)
    }

    fn peers(count: u16, now: Millis) -> Peers {
        let mut peers = Peers::default();
        for validator in (0..count).map(ValidatorIndex) {
            peers.connected(validator);
            peers.heard(validator, now);
        }
        peers
    }

    #[test]
    fn spreads_questions_over_peers_within_their_bounds() {
        let (mut fetcher, peers) = (Fetcher::default(), peers(2, Millis(0)));
        for number in 0..1_000 {
            fetcher.want(digest(number));
        }
        let questions = fetcher.questions(Millis(0), &peers);
        assert!(questions.iter().all(|(_, digests)| digests.len() <= FETCH_BATCHES_MAX));
        for peer in [0, 1].map(ValidatorIndex) {
            let asked: usize = questions.iter().filter(|(of, _)| *of == peer).map(|(_, digests)| digests.len()).sum();
            assert_eq!(asked, IN_FLIGHT_PER_PEER_MAX);
        }
        assert!(fetcher.questions(Millis(1), &peers).is_empty(), "nothing is asked twice");
    }

    #[test]
    fn asks_another_peer_after_a_timeout_or_a_no() {
        let (mut fetcher, peers) = (Fetcher::default(), peers(2, Millis(0)));
        fetcher.want(digest(1));
        let first = fetcher.questions(Millis(0), &peers)[0].0;
        let second = fetcher.questions(Millis(FETCH_TIMEOUT_MS), &peers)[0].0;
        assert_ne!(first, second);
        fetcher.missing_at(&digest(1), second);
        let rest = Millis(FETCH_TIMEOUT_MS + 1);
        assert!(fetcher.questions(rest, &peers).is_empty(), "all were tried: nobody has it now");
        assert_eq!(fetcher.next_deadline(), Some(rest + FETCH_REST_MS));
        let third = fetcher.questions(rest + FETCH_REST_MS, &peers);
        assert_eq!(third.len(), 1, "after a rest the round begins again");
        fetcher.done(&digest(1));
        assert!(fetcher.is_empty() && fetcher.next_deadline().is_none());
    }

    #[test]
    fn asks_nobody_when_nobody_is_reachable() {
        let mut fetcher = Fetcher::default();
        fetcher.want(digest(1));
        assert!(fetcher.questions(Millis(0), &Peers::default()).is_empty());
    }
}
