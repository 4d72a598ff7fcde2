//! Fetching what is missing: batches in parallel by digest from any peer, blocks by locator from one.

use std::collections::{BTreeMap, BTreeSet};

use zeni_ledger::{BatchDigest, BlockId, ValidatorIndex};

use crate::message::FETCH_BATCHES_MAX;
use crate::peers::Peers;
use crate::time::Millis;

/// Batches of blocks that are wanted at once, at most; what does not fit is wanted once half of them are here.
pub const WANTED_MAX: usize = 65_536;
/// Batches wanted because one peer says that they wait in its pool, at most. What does not fit is offered again.
pub const POOL_WANTED_PER_PEER_MAX: usize = 16_384;
/// Batches asked of one peer and not answered yet, at most: 46 MB if all are full.
pub const IN_FLIGHT_PER_PEER_MAX: usize = 256;
/// A peer is asked for more once it may be asked for this many, so that few questions ask for many batches.
pub const ASKED_TOGETHER_MIN: usize = 32;
/// After this long without any batch that it was asked for, another peer is asked.
pub const FETCH_TIMEOUT_MS: u64 = 3_000;
/// After this long another peer is asked for a batch, whatever else the first one delivers meanwhile.
pub const FETCH_PATIENCE_MS: u64 = 10 * FETCH_TIMEOUT_MS;
/// Idle wants that one step looks at, at most.
const WANTS_LOOKED_AT_MAX: usize = 4_096;
/// When every reachable peer was asked in vain, the next round begins after this long, and after each further round
/// twice as long, up to [`FETCH_REST_MAX_MS`]: what nobody has any more is not asked for without end.
pub const FETCH_REST_MS: u64 = 500;
/// The longest rest between two rounds. A new connection ends every rest.
pub const FETCH_REST_MAX_MS: u64 = 32_000;

#[derive(Debug, Clone, Default)]
struct Want {
    /// The peer in whose pool it waits; `None` if a block lists it. What no block lists is given up when nobody has it.
    offered_by: Option<ValidatorIndex>,
    asked: Option<Asked>,
    /// Who said that it has not got it, or did not answer. Cleared once everyone is in it.
    tried: BTreeSet<ValidatorIndex>,
    /// Nobody is asked before this: everyone was.
    rests_until: Option<Millis>,
    /// Rounds in which everyone was asked in vain.
    rounds: u32,
    order: u64,
}

/// Whom a batch was asked of last.
#[derive(Debug, Clone, Copy)]
struct Asked {
    peer: ValidatorIndex,
    at: Millis,
    deadline: Millis,
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
    /// When each peer delivered something that it was asked for.
    delivered: BTreeMap<ValidatorIndex, Millis>,
    /// Wants of each peer's pool.
    offered: BTreeMap<ValidatorIndex, usize>,
    orders: u64,
}

impl Fetcher {
    /// How many batches of blocks are wanted.
    pub fn len(&self) -> usize {
        self.wants.len() - self.offered.values().sum::<usize>()
    }

    /// Whether no batch of a block is wanted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wants a batch that a block lists.
    pub fn want(&mut self, digest: BatchDigest) {
        if let Some(want) = self.wants.get_mut(&digest) {
            if let Some(peer) = want.offered_by.take() {
                self.withdraw(peer);
            }
        } else if self.len() < WANTED_MAX {
            self.add(digest, None);
        }
    }

    /// Wants a batch that waits in the pool of `peer`.
    pub fn want_offered(&mut self, digest: BatchDigest, peer: ValidatorIndex) {
        let offered = self.offered.entry(peer).or_default();
        if *offered < POOL_WANTED_PER_PEER_MAX && !self.wants.contains_key(&digest) {
            *offered += 1;
            self.add(digest, Some(peer));
        }
    }

    fn add(&mut self, digest: BatchDigest, offered_by: Option<ValidatorIndex>) {
        self.orders += 1;
        self.idle.insert(self.orders, digest);
        self.wants.insert(digest, Want { order: self.orders, offered_by, ..Want::default() });
    }

    fn withdraw(&mut self, peer: ValidatorIndex) {
        let offered = self.offered.get_mut(&peer).expect("who offered a batch is counted");
        *offered -= 1;
    }

    /// The batch is here.
    pub fn done(&mut self, digest: &BatchDigest, now: Millis) {
        if let Some(asked) = self.wants.get(digest).and_then(|want| want.asked) {
            self.delivered.insert(asked.peer, now);
        }
        self.give_up(digest);
    }

    fn give_up(&mut self, digest: &BatchDigest) {
        if let Some(want) = self.wants.remove(digest) {
            self.idle.remove(&want.order);
            self.end_question(digest, &want);
            if let Some(peer) = want.offered_by {
                self.withdraw(peer);
            }
        }
    }

    fn end_question(&mut self, digest: &BatchDigest, want: &Want) {
        if let Some(until) = want.rests_until {
            self.deadlines.remove(&(until, *digest));
        }
        if let Some(asked) = want.asked {
            self.deadlines.remove(&(asked.deadline, *digest));
            if let Some(count) = self.in_flight.get_mut(&asked.peer) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// `peer` has not got the batch.
    pub fn missing_at(&mut self, digest: &BatchDigest, peer: ValidatorIndex) {
        let asked_it = |want: &Want| want.asked.is_some_and(|asked| asked.peer == peer);
        if self.wants.get(digest).is_some_and(asked_it) {
            self.retry(digest);
        }
    }

    fn retry(&mut self, digest: &BatchDigest) {
        let Some(mut want) = self.wants.remove(digest) else { return };
        self.end_question(digest, &want);
        want.rests_until = None;
        if let Some(asked) = want.asked.take() {
            want.tried.insert(asked.peer);
        }
        self.idle.insert(want.order, *digest);
        self.wants.insert(*digest, want);
    }

    /// Somebody connected, who may have what all others have not: the rests are over.
    pub fn peer_connected(&mut self) {
        let resting = |(digest, want): (&BatchDigest, &mut Want)| {
            want.rounds = 0;
            want.rests_until.map(|_| *digest)
        };
        let resting: Vec<BatchDigest> = self.wants.iter_mut().filter_map(resting).collect();
        resting.iter().for_each(|digest| self.retry(digest));
    }

    /// A peer says that it has the batch: a rest is over.
    pub fn announced(&mut self, digest: &BatchDigest) {
        if let Some(want) = self.wants.get_mut(digest).filter(|want| want.rests_until.is_some()) {
            want.rounds = 0;
            self.retry(digest);
        }
    }

    /// Ends the questions whose time is over. Whoever still delivers is given more time: what it was asked for stands
    /// in its queue.
    fn expire(&mut self, now: Millis) {
        while let Some((deadline, digest)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now).copied() {
            let asked = self.wants.get_mut(&digest).and_then(|want| want.asked.as_mut());
            let extended = asked.and_then(|asked| {
                let delivered = *self.delivered.get(&asked.peer)?;
                let later = (delivered + FETCH_TIMEOUT_MS).min(asked.at + FETCH_PATIENCE_MS);
                (later > now).then(|| asked.deadline = later)?;
                Some(later)
            });
            match extended {
                Some(later) => {
                    self.deadlines.remove(&(deadline, digest));
                    self.deadlines.insert((later, digest));
                }
                None => self.retry(&digest),
            }
        }
    }

    /// What to ask now, of whom: each idle want goes to the reachable peer that was not tried and is asked least.
    pub fn questions(&mut self, now: Millis, peers: &Peers) -> Vec<(ValidatorIndex, Vec<BatchDigest>)> {
        self.expire(now);
        let reachable = peers.reachable(now);
        let room = |peer: &ValidatorIndex| {
            IN_FLIGHT_PER_PEER_MAX - self.in_flight.get(peer).copied().unwrap_or(0).min(IN_FLIGHT_PER_PEER_MAX)
        };
        let mut rooms: BTreeMap<ValidatorIndex, usize> =
            reachable.iter().map(|peer| (*peer, room(peer))).filter(|(_, room)| *room >= ASKED_TOGETHER_MIN).collect();
        let mut questions: BTreeMap<ValidatorIndex, Vec<BatchDigest>> = BTreeMap::new();
        let (mut asked, mut given_up) = (Vec::new(), Vec::new());
        for (order, digest) in self.idle.iter().take(WANTS_LOOKED_AT_MAX) {
            if rooms.values().all(|room| *room == 0) {
                break;
            }
            let want = self.wants.get_mut(digest).expect("an idle want is a want");
            if reachable.iter().all(|peer| want.tried.contains(peer)) {
                if want.offered_by.is_some() {
                    given_up.push(*digest);
                    continue;
                }
                want.tried.clear();
                let until = now + FETCH_REST_MS.saturating_mul(1 << want.rounds.min(31)).min(FETCH_REST_MAX_MS);
                want.rounds += 1;
                want.rests_until = Some(until);
                self.deadlines.insert((until, *digest));
                asked.push(*order);
                continue;
            }
            let candidates = rooms.iter_mut().filter(|(peer, room)| **room > 0 && !want.tried.contains(*peer));
            let Some((peer, room)) = candidates.max_by_key(|(_, room)| **room) else { continue };
            *room -= 1;
            *self.in_flight.entry(*peer).or_default() += 1;
            let deadline = now + FETCH_TIMEOUT_MS;
            want.asked = Some(Asked { peer: *peer, at: now, deadline });
            self.deadlines.insert((deadline, *digest));
            questions.entry(*peer).or_default().push(*digest);
            asked.push(*order);
        }
        for order in asked {
            self.idle.remove(&order);
        }
        for digest in given_up {
            self.give_up(&digest);
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
    /// Who did not answer with anything new, and when it was asked. Others are asked first for a while.
    failed: BTreeMap<ValidatorIndex, Millis>,
    /// Blocks asked by id, when last, and how often, so that an orphan is not asked for at every message.
    ancestors: BTreeMap<BlockId, (Millis, u32)>,
}

/// For this long after a question for blocks that led nowhere, other peers are asked first.
const BLOCK_SYNC_REST_MS: u64 = 10 * FETCH_TIMEOUT_MS;
/// Orphans asked for at once, at most.
const ANCESTORS_MAX: usize = 64;

impl BlockSync {
    /// Whether a question may be asked now; if so, notes it.
    pub fn ask(&mut self, peer: ValidatorIndex, now: Millis) -> bool {
        if !self.is_free(now) {
            return false;
        }
        if let Some((silent, at)) = self.asked.replace((peer, now)) {
            self.failed.insert(silent, at);
        }
        true
    }

    /// Whether no question is open.
    fn is_free(&self, now: Millis) -> bool {
        self.asked.is_none_or(|(_, at)| now.since(at) >= FETCH_TIMEOUT_MS)
    }

    /// Whether others are to be asked before this peer.
    pub fn is_last_choice(&self, peer: ValidatorIndex, now: Millis) -> bool {
        let open = self.asked.is_some_and(|(asked, _)| asked == peer);
        open || self.failed.get(&peer).is_some_and(|at| now.since(*at) < BLOCK_SYNC_REST_MS)
    }

    /// `peer` answered. True if it was asked.
    pub fn answered(&mut self, peer: ValidatorIndex) -> bool {
        let expected = self.asked.is_some_and(|(asked, _)| asked == peer);
        if expected {
            self.asked = None;
            self.failed.remove(&peer);
        }
        expected
    }

    /// Whether a block may be asked for by id now; if so, notes it and says how often it was asked for of late.
    pub fn ask_ancestors(&mut self, id: BlockId, now: Millis) -> Option<u32> {
        self.ancestors.retain(|_, (at, _)| now.since(*at) < 2 * FETCH_TIMEOUT_MS);
        let before = self.ancestors.get(&id).copied();
        let free = match before {
            Some((at, _)) => now.since(at) >= FETCH_TIMEOUT_MS,
            None => self.ancestors.len() < ANCESTORS_MAX,
        };
        free.then(|| {
            let times = before.map_or(0, |(_, times)| times + 1);
            self.ancestors.insert(id, (now, times));
            times
        })
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
        fetcher.done(&digest(1), rest);
        assert!(fetcher.is_empty() && fetcher.next_deadline().is_none());
    }

    #[test]
    fn gives_a_peer_that_delivers_more_time_but_not_for_ever() {
        let (mut fetcher, peers) = (Fetcher::default(), peers(1, Millis(0)));
        (0..200).for_each(|number| fetcher.want(digest(number)));
        assert_eq!(fetcher.questions(Millis(0), &peers).iter().map(|(_, digests)| digests.len()).sum::<usize>(), 200);
        for second in 1..FETCH_PATIENCE_MS / 1_000 {
            let mut peers = peers.clone();
            let now = Millis(second * 1_000);
            peers.heard(ValidatorIndex(0), now);
            fetcher.done(&digest(second as u16), now);
            assert!(fetcher.questions(now, &peers).is_empty(), "after {second} s it still delivers");
        }
        let mut peers = peers.clone();
        peers.heard(ValidatorIndex(0), Millis(FETCH_PATIENCE_MS));
        fetcher.questions(Millis(FETCH_PATIENCE_MS), &peers);
        let again = fetcher.questions(Millis(FETCH_PATIENCE_MS + FETCH_REST_MS), &peers);
        assert!(!again.is_empty(), "patience ended");
    }

    #[test]
    fn a_peer_s_offers_are_bounded_and_given_up_when_nobody_has_them() {
        let (mut fetcher, peers) = (Fetcher::default(), peers(2, Millis(0)));
        let offer = |fetcher: &mut Fetcher| {
            for number in 0..40_000 {
                fetcher.want_offered(digest(number), ValidatorIndex(0));
            }
        };
        offer(&mut fetcher);
        assert_eq!(fetcher.wants.len(), POOL_WANTED_PER_PEER_MAX);
        fetcher.want(digest(50_000));
        assert_eq!(fetcher.len(), 1, "a block's batch is wanted beside them");
        let mut now = Millis(0);
        while fetcher.wants.len() > 1 && now < Millis(100_000_000) {
            for (peer, digests) in fetcher.questions(now, &peers) {
                digests.iter().for_each(|digest| fetcher.missing_at(digest, peer));
            }
            now = now + 1;
        }
        assert!(fetcher.wants.contains_key(&digest(50_000)), "only offers are given up");
        assert_eq!(fetcher.offered.get(&ValidatorIndex(0)), Some(&0));
    }

    #[test]
    fn asks_for_many_at_once_or_waits() {
        let (mut fetcher, peers) = (Fetcher::default(), peers(1, Millis(0)));
        (0..1_000).for_each(|number| fetcher.want(digest(number)));
        fetcher.questions(Millis(0), &peers);
        (0..ASKED_TOGETHER_MIN as u16 - 1).for_each(|number| fetcher.done(&digest(number), Millis(1)));
        assert!(fetcher.questions(Millis(1), &peers).is_empty());
        fetcher.done(&digest(ASKED_TOGETHER_MIN as u16 - 1), Millis(1));
        let asked = fetcher.questions(Millis(1), &peers);
        assert_eq!(asked.iter().map(|(_, digests)| digests.len()).sum::<usize>(), ASKED_TOGETHER_MIN);
    }

    #[test]
    fn whoever_does_not_answer_for_blocks_is_asked_last() {
        let mut sync = BlockSync::default();
        let (silent, other) = (ValidatorIndex(0), ValidatorIndex(1));
        assert!(sync.ask(silent, Millis(0)) && !sync.ask(other, Millis(1)));
        let later = Millis(FETCH_TIMEOUT_MS);
        assert!(sync.is_last_choice(silent, later) && !sync.is_last_choice(other, later));
        assert!(sync.ask(other, later));
        assert!(sync.is_last_choice(silent, later) && sync.answered(other));
        assert!(!sync.is_last_choice(silent, Millis(BLOCK_SYNC_REST_MS)));
    }

    #[test]
    fn asks_nobody_when_nobody_is_reachable() {
        let mut fetcher = Fetcher::default();
        fetcher.want(digest(1));
        assert!(fetcher.questions(Millis(0), &Peers::default()).is_empty());
    }
}
