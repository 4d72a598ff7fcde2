//! Talking to peers: statuses, batches and their confirmations, pools.

use zeni_ledger::{BatchDigest, ValidatorIndex, VerifiedBatch};

use super::Core;
use crate::ahead::Draft;
use crate::archive::Archive;
use crate::effect::{Effect, Event, HaltReason};
use crate::finality::FinalityMessage;
use crate::input::Peer;
use crate::message::{MESSAGE_DIGESTS_MAX, Message, Status};
use crate::mutation::Mutant;
use crate::replica::send;
use crate::time::Millis;

/// A status is sent this often, and whenever the head or the mode changes.
pub(super) const STATUS_INTERVAL_MS: u64 = 1_000;
/// Pools are compared on each connection and, for what a peer did not confirm since the last time, this often.
pub(super) const POOL_EXCHANGE_INTERVAL_MS: u64 = 2_000;

impl Core {
    /// Takes a message of a peer.
    pub(super) fn receive(
        &mut self,
        now: Millis,
        from: Peer,
        message: Message,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        if let Peer::Validator(validator) = from
            && validator != self.config.me
        {
            self.replica.peers.heard(validator, now);
        }
        let Some(message) = self.replica.serve(now, from, message, archive, out)? else { return Ok(()) };
        let Peer::Validator(validator) = from else {
            out.push(Effect::Event(Event::Misbehaviour { peer: from, what: "a follower spoke as a validator" }));
            return Ok(());
        };
        match message {
            Message::Status(status) => self.receive_status(now, validator, status, out)?,
            Message::Batch(batch) => self.receive_batch(now, validator, batch, out),
            Message::Stored(digests) => {
                for digest in &digests {
                    if !self.replica.batches.confirm(digest, validator) {
                        self.replica.batch_announced(digest);
                    }
                }
            }
            Message::Pool(digests) => self.receive_pool(validator, &digests, out),
            Message::Draft { slot, parent, start, digests } => {
                self.receive_draft(validator, Draft { slot, parent, digests }, start, out);
            }
            Message::Finality(message) => self.receive_finality(now, validator, *message, out)?,
            // Each node keeps what it saw itself.
            Message::Evidence(_) => {
                out.push(Effect::Event(Event::Misbehaviour { peer: from, what: "evidence for followers" }));
            }
            // Served above, or answered outside the core.
            _ => {}
        }
        Ok(())
    }

    /// A new connection: say where this node stands and what waits in its pool.
    pub(super) fn connected(&mut self, validator: ValidatorIndex, out: &mut Vec<Effect>) {
        if validator != self.config.me {
            self.replica.peer_connected(validator);
        }
        out.push(send(validator, Message::Status(self.status())));
        if self.mutation.is(Mutant::NoPoolExchange) {
            return;
        }
        let digests: Vec<BatchDigest> = self.pool.digests().map(|(_, digest)| digest).collect();
        for chunk in digests.chunks(MESSAGE_DIGESTS_MAX) {
            out.push(send(validator, Message::Pool(chunk.to_vec())));
        }
    }

    fn receive_status(
        &mut self,
        now: Millis,
        from: ValidatorIndex,
        status: Status,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        if status.validator == self.config.me {
            return self.meet_twin(now, status, out);
        }
        if status.validator != from {
            let peer = Peer::Validator(from);
            out.push(Effect::Event(Event::Misbehaviour { peer, what: "a status of another validator" }));
            return Ok(());
        }
        // Whoever made another block final by the same decision must hear of this one.
        let differs = || status.decision == self.replica.decision() && status.last_final != self.last_final();
        if status.decision < self.replica.newest_decision() || differs() {
            self.tell_certificate(now, from, out);
        }
        let boot = status.boot;
        let current = Message::Status(status.clone());
        if let Some(before) = self.replica.peers.note_status(status, now).filter(|before| before.boot != boot) {
            // Two boots under one key: a restart, or two nodes. Each is told of the other; only a live twin can echo.
            out.push(send(from, Message::Status(before)));
            out.push(send(from, current));
        }
        Ok(())
    }

    /// A status under this node's own key. One of another boot that echoes this boot's nonce is alive now: stop, with a
    /// last echo, without which the twin would never know.
    fn meet_twin(&mut self, now: Millis, status: Status, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        if status.boot == self.config.boot {
            return Ok(());
        }
        let boot = status.boot;
        let is_alive = status.echoes.contains(&(self.config.me, self.config.nonce));
        self.replica.peers.note_status(status, now);
        if is_alive && !self.mutation.is(Mutant::TwinIgnored) {
            out.push(send(self.config.me, Message::Status(self.status())));
            return Err(HaltReason::TwinFound { boot });
        }
        self.next_status = now;
        Ok(())
    }

    fn receive_batch(&mut self, now: Millis, from: ValidatorIndex, batch: VerifiedBatch, out: &mut Vec<Effect>) {
        let digest = batch.digest();
        self.replica.batches.confirm(&digest, from);
        if self.replica.batches.contains(&digest) {
            out.push(send(from, Message::Stored(vec![digest])));
            return;
        }
        let author = batch.batch().author;
        if author.as_usize() >= self.genesis.validators.len() {
            let peer = Peer::Validator(from);
            out.push(Effect::Event(Event::Misbehaviour { peer, what: "a batch of an unknown author" }));
            return;
        }
        let awaited = self.replica.chain.tree().awaits(&digest);
        if !awaited && !self.pool.has_room_for(author) {
            let peer = Peer::Validator(author);
            out.push(Effect::Event(Event::Misbehaviour { peer, what: "too many unlisted batches" }));
            return;
        }
        self.replica.store_batch(now, batch.clone(), out);
        self.replica.batches.confirm(&digest, from);
        if !self.replica.chain.lists(&digest) {
            let arrival = self.replica.batches.info(&digest).expect("stored just now").arrival;
            self.pool.add(arrival, &batch, false);
        }
        out.push(Effect::Broadcast(Message::Stored(vec![digest])));
    }

    fn receive_pool(&mut self, from: ValidatorIndex, digests: &[BatchDigest], out: &mut Vec<Effect>) {
        let mut stored = Vec::new();
        for digest in digests {
            if self.replica.batches.confirm(digest, from) {
                stored.push(*digest);
            } else if !self.mutation.is(Mutant::NoPoolExchange) {
                self.replica.batch_announced(digest);
                self.replica.want_offered(*digest, from);
            }
        }
        if !stored.is_empty() {
            out.push(send(from, Message::Stored(stored)));
        }
    }

    /// Sends the status if it is due, and compares pools with whoever did not confirm what waited last time.
    pub(super) fn say_hello(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if now >= self.next_status {
            self.next_status = now + STATUS_INTERVAL_MS;
            let status = Message::Status(self.status());
            out.push(Effect::Broadcast(status.clone()));
            out.push(Effect::Publish(status));
            // Who follows only now has not heard it.
            if let Some(certificate) = self.replica.newest_certificate() {
                let commit = FinalityMessage::Commit(certificate.clone());
                out.push(Effect::Publish(Message::Finality(Box::new(commit))));
            }
        }
        if now >= self.next_pool_exchange {
            self.next_pool_exchange = now + POOL_EXCHANGE_INTERVAL_MS;
            self.exchange_pools(now, out);
        }
    }

    fn exchange_pools(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.mutation.is(Mutant::NoPoolExchange) {
            return;
        }
        for peer in self.replica.peers.reachable(now) {
            let waited = self.pool.digests().take_while(|(arrival, _)| *arrival <= self.exchanged);
            let unconfirmed = |digest: &BatchDigest| {
                self.replica.batches.info(digest).is_some_and(|info| !info.holders.contains(peer))
            };
            let digests: Vec<BatchDigest> =
                waited.map(|(_, digest)| digest).filter(unconfirmed).take(MESSAGE_DIGESTS_MAX).collect();
            if !digests.is_empty() {
                out.push(send(peer, Message::Pool(digests)));
            }
        }
        self.exchanged = self.pool.digests().last().map_or(self.exchanged, |(arrival, _)| arrival);
    }
}
