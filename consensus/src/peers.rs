//! Who was heard from, when, and what they last said.

use std::collections::BTreeMap;

use zeni_ledger::ValidatorIndex;

use crate::batches::ValidatorSet;
use crate::message::{Mode, Status};
use crate::time::Millis;

/// A validator is live if it was heard from in the last 10 s.
pub const LIVE_MS: u64 = 10_000;
/// An active validator confirms batches soon; one that was silent for three statuses is not waited for.
pub const CONFIRMING_MS: u64 = 3_000;

/// What is known of one peer.
#[derive(Debug, Clone, Default)]
struct PeerState {
    connected: bool,
    heard: Option<Millis>,
    status: Option<(Status, Millis)>,
}

/// The other validators.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    peers: BTreeMap<ValidatorIndex, PeerState>,
}

impl Peers {
    pub fn connected(&mut self, validator: ValidatorIndex) {
        self.peers.entry(validator).or_default().connected = true;
    }

    /// The last connection is gone: whoever closed it, nothing will be heard over it.
    pub fn disconnected(&mut self, validator: ValidatorIndex) {
        let peer = self.peers.entry(validator).or_default();
        peer.connected = false;
        peer.heard = None;
    }

    pub fn is_connected(&self, validator: ValidatorIndex) -> bool {
        self.peers.get(&validator).is_some_and(|peer| peer.connected)
    }

    /// Notes that something of this peer arrived.
    pub fn heard(&mut self, validator: ValidatorIndex, now: Millis) {
        self.peers.entry(validator).or_default().heard = Some(now);
    }

    /// Keeps a peer's status and returns the one before it.
    pub fn note_status(&mut self, status: Status, now: Millis) -> Option<Status> {
        self.peers.entry(status.validator).or_default().status.replace((status, now)).map(|(before, _)| before)
    }

    /// Whether the validator told its status in the last [`LIVE_MS`].
    pub fn told_status(&self, validator: ValidatorIndex, now: Millis) -> bool {
        let told = self.peers.get(&validator).and_then(|peer| peer.status.as_ref());
        self.is_live(validator, now) && told.is_some_and(|(_, at)| now.since(*at) <= LIVE_MS)
    }

    pub fn status(&self, validator: ValidatorIndex) -> Option<&Status> {
        self.peers.get(&validator).and_then(|peer| peer.status.as_ref()).map(|(status, _)| status)
    }

    /// Whether the validator was heard from in the last [`LIVE_MS`].
    pub fn is_live(&self, validator: ValidatorIndex, now: Millis) -> bool {
        self.peers.get(&validator).and_then(|peer| peer.heard).is_some_and(|heard| now.since(heard) <= LIVE_MS)
    }

    /// Every validator heard from in the last [`LIVE_MS`].
    pub fn live(&self, now: Millis) -> ValidatorSet {
        self.heard_within(LIVE_MS, now)
    }

    /// Every validator heard from in the last [`CONFIRMING_MS`] that takes part. One that is still catching up verifies
    /// what it missed first, so its confirmations come late.
    pub fn confirming(&self, now: Millis) -> ValidatorSet {
        let mut set = self.heard_within(CONFIRMING_MS, now);
        let told = self.peers.iter().filter_map(|(validator, peer)| Some((validator, &peer.status.as_ref()?.0)));
        told.filter(|(_, status)| status.mode != Mode::Active).for_each(|(validator, _)| set.remove(*validator));
        set
    }

    fn heard_within(&self, span_ms: u64, now: Millis) -> ValidatorSet {
        let recent = |peer: &PeerState| peer.heard.is_some_and(|heard| now.since(heard) <= span_ms);
        let mut set = ValidatorSet::default();
        self.peers.iter().filter(|(_, peer)| recent(peer)).for_each(|(validator, _)| set.insert(*validator));
        set
    }

    /// Connected and live validators, by index.
    pub fn reachable(&self, now: Millis) -> Vec<ValidatorIndex> {
        let reachable = |validator: &&ValidatorIndex| self.is_connected(**validator) && self.is_live(**validator, now);
        self.peers.keys().filter(reachable).copied().collect()
    }

    /// The last statuses of live peers.
    pub fn live_statuses(&self, now: Millis) -> impl Iterator<Item = &Status> {
        self.peers
            .iter()
            .filter(move |(validator, _)| self.is_live(**validator, now))
            .filter_map(|(_, peer)| peer.status.as_ref().map(|(status, _)| status))
    }

    /// The last nonce of each validator that ever told one.
    pub fn nonces(&self) -> Vec<(ValidatorIndex, u64)> {
        self.peers
            .iter()
            .filter_map(|(validator, peer)| peer.status.as_ref().map(|(status, _)| (*validator, status.nonce)))
            .collect()
    }

    /// Forgets who is live, as after a pause in which this process heard nobody.
    pub fn forget_liveness(&mut self) {
        for peer in self.peers.values_mut() {
            peer.heard = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validator_is_live_for_ten_seconds_after_its_last_word() {
        let mut peers = Peers::default();
        let validator = ValidatorIndex(3);
        assert!(!peers.is_live(validator, Millis(0)));
        peers.heard(validator, Millis(1_000));
        assert!(peers.is_live(validator, Millis(11_000)));
        assert!(!peers.is_live(validator, Millis(11_001)));
        assert!(peers.live(Millis(1_000)).contains(validator));
    }
}
