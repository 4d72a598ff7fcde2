//! The connections that stand, and how messages reach them: encoded once, queued for each in bounded queues of two
//! classes, so that a large batch never delays a status and a slow peer never delays the committer.
//!
//! Several connections of one validator may stand at once: one is about to close, or two nodes run with one key. What
//! tells where a node stands goes to all of them (that is how twins find each other); batches and requests go to the
//! newest only. A connection under this node's own key hears statuses and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use zeni_consensus::{Input, Message, Peer};
use zeni_ledger::ValidatorIndex;
use zeni_schemas::message::encode;

use crate::core_queue::{CoreSender, Task};

/// Numbers connections in the order in which they were made; never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// The sending side of one connection.
#[derive(Debug, Clone)]
pub struct Link {
    /// Everything but batches.
    pub control: mpsc::Sender<Bytes>,
    /// Batches as they are pushed.
    pub bulk: mpsc::Sender<Bytes>,
    /// Notified once when the connection is to be closed because its peer does not take what it is sent.
    pub cut: Arc<Notify>,
}

/// Every connection of a validator or a follower.
#[derive(Debug)]
pub struct Links {
    me: ValidatorIndex,
    core: CoreSender,
    standing: RwLock<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    next: u64,
    links: BTreeMap<LinkId, (Peer, Link)>,
}

/// Whom a connection speaks for, before it has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    Validator(ValidatorIndex),
    Follower,
}

impl Links {
    pub fn new(me: ValidatorIndex, core: CoreSender) -> Self {
        Self { me, core, standing: RwLock::default() }
    }

    /// Adds a connection and tells the core of a validator's. Its number and its name in the core are returned.
    pub fn add(&self, remote: Remote, link: Link) -> (LinkId, Peer) {
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing.next += 1;
        let id = LinkId(standing.next);
        let peer = match remote {
            Remote::Validator(validator) => Peer::Validator(validator),
            Remote::Follower => Peer::Follower(id.0),
        };
        standing.links.insert(id, (peer, link));
        // Still under the lock, so that the core hears connects and disconnects in the order in which they happened.
        if let Remote::Validator(validator) = remote
            && validator != self.me
        {
            self.core.control(Task::Step(Input::Connected(validator)), None);
        }
        self.count(&standing);
        (id, peer)
    }

    /// Removes a connection, and tells the core if it was the last one of a validator.
    pub fn remove(&self, id: LinkId) {
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        let Some((peer, _)) = standing.links.remove(&id) else { return };
        let stands = standing.links.values().any(|(other, _)| *other == peer);
        if let Peer::Validator(validator) = peer
            && validator != self.me
            && !stands
        {
            self.core.control(Task::Step(Input::Disconnected(validator)), None);
        }
        self.count(&standing);
    }

    /// Whether a connection of this validator stands.
    pub fn is_connected(&self, validator: ValidatorIndex) -> bool {
        self.standing().links.values().any(|(peer, _)| *peer == Peer::Validator(validator))
    }

    /// Queues a message for one peer. One that is gone hears nothing.
    pub fn send(&self, to: Peer, message: &Message) {
        let newest_only = !tells_where_sender_stands(message);
        let standing = self.standing();
        let links = standing.links.iter().rev().filter(|(_, (peer, _))| *peer == to);
        let links = links.take(if newest_only { 1 } else { usize::MAX });
        queue(links.map(|(id, (_, link))| (*id, link)), message);
    }

    /// Queues a message for every connected validator.
    pub fn broadcast(&self, message: &Message) {
        let newest_only = !tells_where_sender_stands(message);
        let standing = self.standing();
        let mut served = Vec::new();
        let links = standing.links.iter().rev().filter(|(_, (peer, _))| match peer {
            Peer::Validator(validator) if *validator == self.me => matches!(message, Message::Status(_)),
            Peer::Validator(_) if newest_only && served.contains(peer) => false,
            Peer::Validator(_) => {
                served.push(*peer);
                true
            }
            Peer::Follower(_) => false,
        });
        let links: Vec<_> = links.map(|(id, (_, link))| (*id, link)).collect();
        queue(links.into_iter(), message);
    }

    /// Queues a message for every follower.
    pub fn publish(&self, message: &Message) {
        let standing = self.standing();
        let links = standing.links.iter().filter(|(_, (peer, _))| matches!(peer, Peer::Follower(_)));
        queue(links.map(|(id, (_, link))| (*id, link)), message);
    }

    fn standing(&self) -> RwLockReadGuard<'_, Standing> {
        self.standing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, standing: &Standing) {
        let mut validators: Vec<Peer> = standing.links.values().map(|(peer, _)| *peer).collect();
        validators.retain(|peer| matches!(peer, Peer::Validator(validator) if *validator != self.me));
        validators.sort_unstable();
        validators.dedup();
        let followers = standing.links.values().filter(|(peer, _)| matches!(peer, Peer::Follower(_))).count();
        metrics::gauge!("zeni_peers_connected").set(validators.len() as f64);
        metrics::gauge!("zeni_followers_connected").set(followers as f64);
    }
}

/// A short name of a message's kind, for metrics and logs.
pub const fn kind<B>(message: &Message<B>) -> &'static str {
    match message {
        Message::Status(_) => "status",
        Message::Batch(_) => "batch",
        Message::Stored(_) => "stored",
        Message::Pool(_) => "pool",
        Message::Block(_) => "block",
        Message::Draft { .. } => "draft",
        Message::FetchBlocks { .. } => "fetch_blocks",
        Message::FetchAncestors { .. } => "fetch_ancestors",
        Message::Blocks(_) => "blocks",
        Message::FetchBatches(_) => "fetch_batches",
        Message::Missing(_) => "missing",
        Message::Finality(_) => "finality",
        Message::Evidence(_) => "evidence",
    }
}

const fn tells_where_sender_stands(message: &Message) -> bool {
    let says_what_is_stored = matches!(message, Message::Stored(_) | Message::Pool(_));
    says_what_is_stored || matches!(message, Message::Status(_) | Message::Block(_) | Message::Finality(_))
}

fn queue<'a>(links: impl Iterator<Item = (LinkId, &'a Link)>, message: &Message) {
    let mut encoded: Option<Bytes> = None;
    let is_bulk = matches!(message, Message::Batch(_));
    for (id, link) in links {
        let bytes = encoded.get_or_insert_with(|| Bytes::from(encode(message))).clone();
        let class = if is_bulk { &link.bulk } else { &link.control };
        match class.try_send(bytes) {
            Ok(()) => {
                metrics::counter!("zeni_peer_messages_total", "kind" => kind(message), "direction" => "out")
                    .increment(1);
            }
            Err(TrySendError::Full(_)) if is_bulk => {
                metrics::counter!("zeni_batch_pushes_dropped_total").increment(1);
            }
            Err(TrySendError::Full(_)) => {
                tracing::warn!(link = id.0, kind = kind(message), "a peer does not take its messages; closing");
                metrics::counter!("zeni_slow_peers_total").increment(1);
                link.cut.notify_one();
            }
            // The connection is closing; its task removes it.
            Err(TrySendError::Closed(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core_queue::{CoreReceiver, core_queue};
    use zeni_ledger::{Batch, BatchDigest, GenesisId, VerifiedBatch};

    const ME: ValidatorIndex = ValidatorIndex(0);
    const OTHER: ValidatorIndex = ValidatorIndex(1);

    struct Far {
        control: mpsc::Receiver<Bytes>,
        bulk: mpsc::Receiver<Bytes>,
        cut: Arc<Notify>,
    }

    fn link(room: usize) -> (Link, Far) {
        let ((control, far_control), (bulk, far_bulk)) = (mpsc::channel(room), mpsc::channel(room));
        let cut = Arc::new(Notify::new());
        (Link { control, bulk, cut: Arc::clone(&cut) }, Far { control: far_control, bulk: far_bulk, cut })
    }

    fn links() -> (Links, CoreReceiver) {
        let (sender, receiver) = core_queue();
        (Links::new(ME, sender), receiver)
    }

    fn stored() -> Message {
        Message::Stored(vec![BatchDigest([1; 32])])
    }

    fn batch() -> Message {
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let genesis = GenesisId([2; 32]);
        Message::Batch(VerifiedBatch::vouch(Batch::sign(OTHER, 1, Vec::new(), &key, &genesis), &genesis))
    }

    #[test]
    fn the_core_hears_of_the_last_connection_of_a_validator_only() {
        let (links, core) = links();
        let (first, _) = links.add(Remote::Validator(OTHER), link(1).0);
        let (second, _) = links.add(Remote::Validator(OTHER), link(1).0);
        links.remove(first);
        assert!(links.is_connected(OTHER));
        links.remove(second);
        assert!(!links.is_connected(OTHER));
        let inputs: Vec<String> = std::iter::from_fn(|| core.try_next())
            .map(|task| match task {
                Task::Step(input) => format!("{input:?}"),
                other => panic!("{other:?}"),
            })
            .collect();
        let connected = format!("{:?}", Input::Connected(OTHER));
        assert_eq!(inputs, [connected.clone(), connected, format!("{:?}", Input::Disconnected(OTHER))]);
    }

    #[test]
    fn standing_is_told_to_all_connections_and_batches_go_to_the_newest() {
        let (links, _core) = links();
        let ((one, mut old), (two, mut new)) = (link(4), link(4));
        links.add(Remote::Validator(OTHER), one);
        links.add(Remote::Validator(OTHER), two);
        links.broadcast(&stored());
        links.broadcast(&batch());
        links.send(Peer::Validator(OTHER), &batch());
        assert!(old.control.try_recv().is_ok() && new.control.try_recv().is_ok());
        assert!(old.bulk.try_recv().is_err());
        assert_eq!(new.bulk.len(), 2);
    }

    #[test]
    fn a_full_bulk_queue_drops_the_batch_and_a_full_control_queue_cuts_the_peer() {
        let (links, _core) = links();
        let (slow, mut far) = link(1);
        let (_, peer) = links.add(Remote::Follower, slow);
        links.publish(&batch());
        links.publish(&batch());
        assert_eq!(far.bulk.len(), 1);
        links.send(peer, &stored());
        links.send(peer, &stored());
        assert!(far.control.try_recv().is_ok());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(far.cut.notified());
    }

    #[test]
    fn a_connection_under_the_own_key_hears_nothing_but_statuses() {
        let (links, core) = links();
        let (own, mut far) = link(4);
        links.add(Remote::Validator(ME), own);
        links.broadcast(&stored());
        links.broadcast(&batch());
        assert!(far.control.try_recv().is_err() && far.bulk.try_recv().is_err());
        assert!(core.try_next().is_none());
    }
}
