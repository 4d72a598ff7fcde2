//! Submissions: judge each payment, gather the good ones, cut and sign a batch, answer.

use std::collections::BTreeMap;

use zeni_ledger::execute::{Validity, validity};
use zeni_ledger::state::Place;
use zeni_ledger::window::WINDOW_WIDTH;
use zeni_ledger::{Account, Batch, BatchDigest, Payment, TransactionId, VerifiedBatch};

use super::Core;
use crate::archive::Archive;
use crate::effect::{Effect, HaltReason};
use crate::input::RequestId;
use crate::message::Message;
use crate::mutation::Mutant;
use crate::pool::Waiting;
use crate::replica::CLOCK_TOLERANCE_MS;
use crate::submission::{Refusal, Verdict, check_fields};
use crate::time::Millis;

/// A batch is cut at this many payments.
pub(super) const BATCH_CUT_PAYMENTS: usize = zeni_ledger::batch::BATCH_PAYMENTS_MAX;
/// Or this long after its first payment, when few arrive ...
pub(super) const BATCH_DELAY_MIN_MS: u64 = 20;
/// ... and up to this long under load, so that batches are worth their overhead.
pub(super) const BATCH_DELAY_MAX_MS: u64 = 100;
/// When to try again, told with [`Refusal::Overloaded`].
const RETRY_AFTER_MS: u32 = 500;

/// The batch being formed and the submissions that wait for it.
#[derive(Debug, Default)]
pub(super) struct Forming {
    payments: Vec<Payment>,
    /// Which submission each payment belongs to, and its place there.
    origins: Vec<(RequestId, usize)>,
    since: Option<Millis>,
    delay_ms: u64,
    open: BTreeMap<RequestId, OpenRequest>,
    /// Payments taken in this second and in the one before it.
    second: u64,
    taken: [u64; 2],
}

#[derive(Debug)]
struct OpenRequest {
    verdicts: Vec<Verdict>,
    waiting: usize,
}

impl Forming {
    /// When the batch must be cut.
    pub(super) fn due(&self) -> Option<Millis> {
        self.since.map(|since| since + self.delay_ms)
    }

    fn count(&mut self, now: Millis) {
        let second = now.0 / 1_000;
        if second != self.second {
            self.taken = [0, if second == self.second + 1 { self.taken[0] } else { 0 }];
            self.second = second;
        }
        self.taken[0] += 1;
    }

    /// Longer under load, where that makes batches larger: 20 ms up to 5,000 payments a second, 100 ms from 25,000.
    fn delay(&self) -> u64 {
        let rate = self.taken[0].max(self.taken[1]);
        (rate / 250).clamp(BATCH_DELAY_MIN_MS, BATCH_DELAY_MAX_MS)
    }
}

impl Core {
    /// Judges every payment of a submission and answers as soon as all of them are on disk or refused.
    pub(super) fn submit(
        &mut self,
        now: Millis,
        request: RequestId,
        payments: Vec<(Payment, TransactionId)>,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        // Lower ones are within every window that begins at 0, wherever the account's own does.
        let state = self.replica.chain.state();
        let asks = |payment: &Payment| payment.sequence().0 >= WINDOW_WIDTH && state.account(&payment.from()).is_some();
        if self.replaying.is_none() && payments.iter().any(|(payment, _)| asks(payment)) {
            self.replica.chain.gather_windows(archive)?;
        }
        let mut verdicts = Vec::with_capacity(payments.len());
        let mut taken = Vec::new();
        let payers = self.state().find_all(payments.iter().map(|(payment, _)| payment.from()));
        for (place, (payment, id)) in payments.into_iter().enumerate() {
            match self.judge(now, &payment, &id, payers[place]) {
                Some(verdict) => verdicts.push(verdict),
                None => {
                    verdicts.push(Verdict::Accepted { copies: 1 });
                    self.pool.form(&payment, id);
                    taken.push((place, payment));
                }
            }
        }
        if taken.is_empty() || self.mutation.is(Mutant::AnswerBeforeWrite) {
            out.push(Effect::Reply { request, verdicts: verdicts.clone() });
        }
        if taken.is_empty() {
            return Ok(());
        }
        if !self.mutation.is(Mutant::AnswerBeforeWrite) {
            self.forming.open.insert(request, OpenRequest { verdicts, waiting: taken.len() });
        }
        for (place, payment) in taken {
            self.forming.count(now);
            if self.forming.since.is_none() {
                self.forming.since = Some(now);
                self.forming.delay_ms = self.forming.delay();
            }
            self.forming.payments.push(payment);
            self.forming.origins.push((request, place));
            if self.forming.payments.len() == BATCH_CUT_PAYMENTS {
                self.cut(now, out);
            }
        }
        Ok(())
    }

    /// The verdict on a payment that is not to be taken now; `None` if it is.
    fn judge(&self, now: Millis, payment: &Payment, id: &TransactionId, payer: Option<Place>) -> Option<Verdict> {
        let overloaded = Refusal::Overloaded { retry_after_ms: RETRY_AFTER_MS };
        if self.replaying.is_some() {
            return Some(Verdict::Refused(overloaded));
        }
        if let Some(waiting) = self.pool.waiting(id) {
            // A payment in the forming batch is answered with it; asked for a second time before that, it counts as
            // not yet on disk anywhere and is to be asked again.
            return Some(match waiting {
                Waiting::Forming => Verdict::Refused(overloaded),
                Waiting::Batch(digest) => self
                    .beyond_window_by_another(payment, &digest)
                    .map_or_else(|| Verdict::Known { copies: self.pending_copies(id) }, Verdict::Refused),
            });
        }
        let refusal = self.refusal(now, payment, payer);
        let full = || {
            if self.disk_full {
                Some(Refusal::DiskFull)
            } else if !self.pool.has_room() || !self.pool.has_room_for(self.config.me) {
                Some(overloaded)
            } else {
                None
            }
        };
        refusal.or_else(full).map(Verdict::Refused)
    }

    fn refusal(&self, now: Millis, payment: &Payment, payer: Option<Place>) -> Option<Refusal> {
        if let Err(refusal) = check_fields(payment, &self.genesis.rules, now.0) {
            return Some(refusal);
        }
        if validity(payment, &self.genesis.rules, self.earliest_slot_time(now)) == Validity::TooFar {
            return Some(Refusal::ValidUntilTooFar { validity_max_s: self.genesis.rules.validity_max_s });
        }
        let state = self.state();
        let Some(payer) = payer.map(|place| state.at(place)) else { return Some(Refusal::UnknownAccount) };
        if let Err(error) = payer.window().check(payment.sequence()) {
            return Some(error.into());
        }
        if let Some(refusal) = self.beyond_final_window(payer, payment) {
            return Some(refusal);
        }
        if let Some(by) = self.pool.user_of(payment.from(), payment.sequence()) {
            return Some(Refusal::SequencePending { by });
        }
        state.account(&payment.to()).is_none().then_some(Refusal::UnknownReceiver)
    }

    /// Why no promise can be given that every branch executes this sequence, if none can.
    fn beyond_final_window(&self, payer: &Account, payment: &Payment) -> Option<Refusal> {
        if self.mutation.is(Mutant::WindowAtHead) {
            return None;
        }
        match self.replica.chain.is_within_final_window(payer, payment.sequence()) {
            Some(true) => None,
            Some(false) => Some(Refusal::SequenceOutOfWindow),
            None => Some(Refusal::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
        }
    }

    /// A payment waits in a batch: another validator's may hold one that nobody honest would have taken.
    fn beyond_window_by_another(&self, payment: &Payment, digest: &BatchDigest) -> Option<Refusal> {
        let author = self.replica.batches.info(digest).map(|info| info.meta.author);
        let payer = self.state().account(&payment.from()).filter(|_| author != Some(self.config.me))?;
        self.beyond_final_window(payer, payment)
    }

    /// The earliest time by which execution may judge a payment that is taken now: the running slot began before now,
    /// and a proposer whose clock is behind this one may still be in the slot before.
    fn earliest_slot_time(&self, now: Millis) -> u64 {
        let slot = self.genesis.slot_at(now.0.saturating_sub(CLOCK_TOLERANCE_MS));
        self.genesis.slot_time_ms(slot)
    }

    /// Cuts the forming batch if it waited long enough.
    pub(super) fn cut_if_due(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.forming.due().is_some_and(|due| now >= due) {
            self.cut(now, out);
        }
    }

    /// Signs the forming batch, has it stored, pushes it to every peer, and answers whose payments are all stored.
    fn cut(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.forming.since = None;
        let payments = std::mem::take(&mut self.forming.payments);
        let origins = std::mem::take(&mut self.forming.origins);
        self.batch_number += 1;
        let genesis = self.replica.chain.genesis_id();
        let batch = Batch::sign(self.config.me, self.batch_number, payments, &self.config.key, &genesis);
        let batch = VerifiedBatch::vouch(batch, &genesis);
        self.replica.store_batch(now, batch.clone(), out);
        let arrival = self.replica.batches.info(&batch.digest()).expect("stored just now").arrival;
        self.pool.add(arrival, &batch, true);
        out.push(Effect::Broadcast(Message::Batch(batch)));
        for (request, _) in origins {
            let Some(open) = self.forming.open.get_mut(&request) else { continue };
            open.waiting -= 1;
            if open.waiting == 0 {
                let open = self.forming.open.remove(&request).expect("it is there");
                out.push(Effect::Reply { request, verdicts: open.verdicts });
            }
        }
    }
}
