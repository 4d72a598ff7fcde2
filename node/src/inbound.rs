//! Messages of validators and followers on their way in: who may say what, and where it goes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use zeni_consensus::sync::IN_FLIGHT_PER_PEER_MAX;
use zeni_consensus::{Input, Message, Peer, Status};
use zeni_ledger::{Batch, BatchDigest, VerifiedBatch};

use crate::config::Limits;
use crate::copies::{Passage, Seen};
use crate::core_queue::Task;
use crate::links::kind;
use crate::serve_blocks::QUESTIONS_MAX;
use crate::services::Services;
use crate::verify::suspicion::Suspicion;
use crate::verify::work::{What, Work};

/// Requests for batches of one connection that wait to be served, at most: as many as a peer has open if each of them
/// asks for one batch, and as many again whose answers it has given up waiting for. Further ones are not served; who
/// asked asks again or elsewhere after a while.
pub const FETCHES_MAX: usize = 2 * IN_FLIGHT_PER_PEER_MAX;

/// What a connection's readers share.
#[derive(Debug)]
pub struct Inbound {
    peer: Peer,
    suspicion: Suspicion,
    /// Room for messages, and for batches, that are on their way to the core.
    messages: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    fetches: mpsc::Sender<Vec<BatchDigest>>,
    questions: mpsc::Sender<Message>,
}

/// What a connection's readers were asked: for batches, and for blocks.
#[derive(Debug)]
pub struct Asked {
    pub fetches: mpsc::Receiver<Vec<BatchDigest>>,
    pub questions: mpsc::Receiver<Message>,
}

/// Why a connection is closed for what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// A follower sent what only validators may send.
    #[error("a follower may not send a {0}")]
    NotForFollowers(&'static str),
    /// A validator sent another one's status.
    #[error("a status of another validator than the sender")]
    ForeignStatus,
    /// The connection leads back to this very process.
    #[error("the connection leads to this process itself")]
    Myself,
}

impl Offence {
    /// A stable code for metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotForFollowers(_) => "not_for_followers",
            Self::ForeignStatus => "foreign_status",
            Self::Myself => "myself",
        }
    }
}

impl Inbound {
    /// Also returns what is to be served.
    pub fn new(peer: Peer, limits: &Limits) -> (Self, Asked) {
        let (fetches, asked_fetches) = mpsc::channel(FETCHES_MAX);
        let (questions, asked_questions) = mpsc::channel(QUESTIONS_MAX);
        let asked = Asked { fetches: asked_fetches, questions: asked_questions };
        let (messages, batches) = (Semaphore::new(limits.peer_messages), Semaphore::new(limits.peer_batches));
        let (messages, batches) = (Arc::new(messages), Arc::new(batches));
        (Self { peer, suspicion: Suspicion::default(), messages, batches, fetches, questions }, asked)
    }

    /// Takes one message. Waits while too many of this connection are on their way: then its peer must wait too.
    pub async fn take(&self, message: Message<Batch>, services: &Services) -> Result<(), Offence> {
        metrics::counter!("zeni_peer_messages_total", "kind" => kind(&message), "direction" => "in").increment(1);
        if !self.admits(&message, services)? {
            return Ok(());
        }
        if let Message::FetchBatches(digests) = message {
            self.take_fetch(digests);
            return Ok(());
        }
        match message.try_map_batch(Err::<VerifiedBatch, Batch>) {
            Ok(question @ (Message::FetchBlocks { .. } | Message::FetchAncestors { .. })) => {
                if self.questions.try_send(question).is_err() {
                    metrics::counter!("zeni_block_questions_dropped_total").increment(1);
                }
            }
            Ok(message) => {
                let permit = acquire(&self.messages).await;
                services.core.control(Task::Step(Input::Message { from: self.peer, message }), Some(permit.into()));
            }
            Err(batch) => {
                let room = acquire(&self.batches).await;
                self.take_batch(batch, room, services);
            }
        }
        Ok(())
    }

    fn take_fetch(&self, digests: Vec<BatchDigest>) {
        if self.fetches.try_send(digests).is_err() {
            metrics::counter!("zeni_fetches_dropped_total").increment(1);
        }
    }

    /// Only what is neither stored nor under way is worth checking every signature.
    fn take_batch(&self, batch: Batch, room: OwnedSemaphorePermit, services: &Services) {
        let from = self.peer;
        match services.under_way.look(batch, &services.genesis.id(), &services.reader) {
            Seen::Stored(batch) => {
                metrics::counter!("zeni_batch_copies_total", "found" => "stored").increment(1);
                let message = Message::Batch(batch);
                services.core.batch(Task::Step(Input::Message { from, message }), Some(room.into()));
            }
            Seen::UnderWay => {
                metrics::counter!("zeni_batch_copies_total", "found" => "under_way").increment(1);
            }
            Seen::New(batch, claim) => {
                let what = What::Batch { from, batch, passage: Passage::new(room, Some(claim)) };
                services.verify.send(Work { what, suspicion: self.suspicion.clone() });
            }
        }
    }

    /// Whether this peer's message goes on; an offence closes the connection.
    fn admits(&self, message: &Message<Batch>, services: &Services) -> Result<bool, Offence> {
        let Peer::Validator(sender) = self.peer else {
            return match message {
                Message::FetchBlocks { .. } | Message::FetchAncestors { .. } | Message::FetchBatches(_) => Ok(true),
                other => Err(Offence::NotForFollowers(kind(other))),
            };
        };
        match message {
            // Validators pass on what speaks under this node's own key, so that twins hear of each other.
            Message::Status(Status { validator, .. }) if *validator != sender && *validator != services.me => {
                Err(Offence::ForeignStatus)
            }
            Message::Status(Status { boot, .. }) if sender == services.me && *boot == services.boot => {
                Err(Offence::Myself)
            }
            Message::Status(_) => Ok(true),
            // Under this node's own key speaks a twin: the core must see its statuses, and nothing else of it.
            _ => Ok(sender != services.me),
        }
    }
}

async fn acquire(room: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(room).acquire_owned().await.expect("nobody closes these semaphores")
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeni_consensus::Millis;
    use zeni_consensus::peers::Peers;
    use zeni_consensus::sync::Fetcher;
    use zeni_ledger::ValidatorIndex;

    /// What a validator that learns of one batch after another has open at one peer, question by question.
    fn open_questions() -> Vec<Vec<BatchDigest>> {
        let (mut fetcher, mut peers, now) = (Fetcher::default(), Peers::default(), Millis(0));
        peers.connected(ValidatorIndex(0));
        peers.heard(ValidatorIndex(0), now);
        let mut questions = Vec::new();
        for number in 0..1_000_u32 {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&number.to_le_bytes());
            fetcher.want(BatchDigest(digest));
            questions.extend(fetcher.questions(now, &peers).into_iter().map(|(_, digests)| digests));
        }
        questions
    }

    #[test]
    fn none_of_the_questions_that_a_peer_has_open_is_dropped_even_if_it_asks_twice() {
        let questions = open_questions();
        assert!(questions.len() > 64, "{} questions are no crowd", questions.len());
        let (inbound, mut asked) = Inbound::new(Peer::Validator(ValidatorIndex(0)), &Limits::default());
        questions.iter().chain(&questions).for_each(|digests| inbound.take_fetch(digests.clone()));
        let waiting: Vec<_> = std::iter::from_fn(|| asked.fetches.try_recv().ok()).collect();
        assert_eq!(waiting, [questions.clone(), questions].concat());
    }
}
