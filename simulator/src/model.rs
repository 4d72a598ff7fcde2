//! A small, obvious ledger of the simulator's own: it executes blocks by the rules as DESIGN tells them, and shares no
//! code with the real one. What a core says of a block is compared with what this says.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use zeni_consensus::schedule::Schedule;
use zeni_ledger::receipt::{Outcome, Rejection};
use zeni_ledger::{AccountId, BatchDigest, Block, BlockId, Payment, State, TokenId, TransactionId, VerifiedBatch};

use crate::world::World;

/// Sequences from the lowest unused one that may be used.
const WINDOW: u64 = 128;

/// One account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    pub balances: BTreeMap<TokenId, i128>,
    /// Every sequence ever used.
    pub used: BTreeSet<u64>,
}

impl Book {
    /// The lowest unused sequence.
    pub fn next(&self) -> u64 {
        (0..).find(|sequence| !self.used.contains(sequence)).expect("no account uses 2^64 sequences")
    }

    pub fn balance(&self, token: TokenId) -> i128 {
        self.balances.get(&token).copied().unwrap_or(0)
    }
}

/// All accounts.
pub type Books = BTreeMap<AccountId, Book>;

/// What became of a listed payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Executed(Outcome),
    /// Skipped: its sequence was used before, by itself or by another payment.
    SequenceUsed,
    Expired,
    /// Skipped for a reason for which it should not have been accepted, or not yet have been listed.
    Untimely(&'static str),
}

/// A block as the model sees it.
#[derive(Debug, Clone)]
pub struct ModelBlock {
    pub parent: BlockId,
    pub height: u64,
    pub slot: u64,
    /// Of the whole chain up to here.
    pub weight: u128,
    /// All accounts after it.
    pub books: Rc<Books>,
    /// Every digest that it or an ancestor lists.
    listed: Rc<BTreeSet<BatchDigest>>,
    /// What it lists itself.
    pub digests: Vec<BatchDigest>,
    /// Every payment that it lists, in order.
    pub fates: Vec<(TransactionId, Fate)>,
}

/// Every block and batch that any node ever stored, executed once each.
#[derive(Debug)]
pub struct Model {
    world: Arc<World>,
    schedule: Schedule,
    blocks: BTreeMap<BlockId, ModelBlock>,
    batches: BTreeMap<BatchDigest, VerifiedBatch>,
}

impl Model {
    pub fn new(world: Arc<World>) -> Self {
        let root = ModelBlock {
            parent: world.genesis.block_id(),
            height: 0,
            slot: 0,
            weight: 0,
            books: Rc::new(books(&world)),
            listed: Rc::default(),
            digests: Vec::new(),
            fates: Vec::new(),
        };
        let blocks = BTreeMap::from([(world.genesis.block_id(), root)]);
        Self { schedule: Schedule::new(&world.genesis), world, blocks, batches: BTreeMap::new() }
    }

    /// Notes a batch that a node stored.
    pub fn learn_batch(&mut self, batch: &VerifiedBatch) {
        self.batches.entry(batch.digest()).or_insert_with(|| batch.clone());
    }

    pub fn batch(&self, digest: &BatchDigest) -> Option<&VerifiedBatch> {
        self.batches.get(digest)
    }

    pub fn block(&self, id: &BlockId) -> Option<&ModelBlock> {
        self.blocks.get(id)
    }

    /// Every block that was executed.
    pub fn blocks(&self) -> impl Iterator<Item = (&BlockId, &ModelBlock)> {
        self.blocks.iter()
    }

    /// Executes a block that a node adopted, unless it was executed before. Says which rule of the chain it breaks.
    pub fn execute(&mut self, id: BlockId, block: &Block) -> Result<&ModelBlock, String> {
        if !self.blocks.contains_key(&id) {
            let executed = self.execute_new(block)?;
            self.blocks.insert(id, executed);
        }
        Ok(&self.blocks[&id])
    }

    fn execute_new(&self, block: &Block) -> Result<ModelBlock, String> {
        let header = &block.header;
        let parent = self.blocks.get(&header.parent).ok_or("its parent was never canonical anywhere")?;
        if header.height != parent.height + 1 {
            return Err(format!("height {} stands on height {}", header.height, parent.height));
        }
        if header.slot <= parent.slot {
            return Err(format!("slot {} does not rise above slot {}", header.slot, parent.slot));
        }
        let order = self.schedule.order(header.slot);
        if order.get(usize::from(header.rank)) != Some(&header.proposer) {
            return Err(format!("validator {} has not rank {} in slot {}", header.proposer, header.rank, header.slot));
        }
        let weight = parent.weight + (order.len() - usize::from(header.rank)) as u128;
        let mut fates = Vec::new();
        let (mut books, mut listed) = (parent.books.clone(), parent.listed.clone());
        for digest in &block.digests {
            if !Rc::make_mut(&mut listed).insert(*digest) {
                return Err(format!("batch {digest} is listed twice on this chain"));
            }
            let batch = self.batches.get(digest).ok_or_else(|| format!("batch {digest} is stored nowhere"))?;
            for (payment, transaction) in batch.payments().iter().zip(batch.ids()) {
                let slot_time_ms = self.world.genesis.slot_time_ms(header.slot);
                fates.push((*transaction, pay(Rc::make_mut(&mut books), &self.world, slot_time_ms, payment)));
            }
        }
        let (height, slot) = (header.height, header.slot);
        let digests = block.digests.clone();
        Ok(ModelBlock { parent: header.parent, height, slot, weight, books, listed, digests, fates })
    }
}

/// The accounts of genesis.
fn books(world: &World) -> Books {
    let book = |account: &zeni_ledger::Account| Book {
        balances: account.holdings().map(|(token, balance)| (token, balance.units())).collect(),
        used: BTreeSet::new(),
    };
    world.state.accounts().map(|account| (account.id(), book(account))).collect()
}

fn pay(books: &mut Books, world: &World, slot_time_ms: u64, payment: &Payment) -> Fate {
    let rules = &world.genesis.rules;
    if payment.network() != rules.network {
        return Fate::Untimely("another network");
    }
    let until_ms = u64::from(payment.valid_until()) * 1_000;
    if until_ms < slot_time_ms {
        return Fate::Expired;
    }
    if until_ms > slot_time_ms + u64::from(rules.validity_max_s) * 1_000 {
        return Fate::Untimely("valid for too long");
    }
    let Some(payer) = books.get_mut(&payment.from()) else { return Fate::Untimely("unknown payer") };
    let sequence = payment.sequence().0;
    if payer.used.contains(&sequence) {
        return Fate::SequenceUsed;
    }
    if sequence >= payer.next() + WINDOW {
        return Fate::Untimely("beyond the window");
    }
    payer.used.insert(sequence);
    Fate::Executed(match transfer(books, world, payment) {
        Ok(()) => Outcome::Applied,
        Err(rejection) => Outcome::Rejected(rejection),
    })
}

fn transfer(books: &mut Books, world: &World, payment: &Payment) -> Result<(), Rejection> {
    let (token, amount) = (payment.token(), i128::from(payment.amount().0));
    if payment.flags() != 0 {
        return Err(Rejection::UnknownFlags);
    }
    if amount == 0 {
        return Err(Rejection::ZeroAmount);
    }
    if payment.from() == payment.to() {
        return Err(Rejection::ToSelf);
    }
    let issuer = world.genesis.rules.tokens.get(&token).ok_or(Rejection::UnknownToken)?.issuer;
    if !books.contains_key(&payment.to()) {
        return Err(Rejection::UnknownReceiver);
    }
    let left = books[&payment.from()].balance(token) - amount;
    if left < 0 && payment.from() != issuer {
        return Err(Rejection::InsufficientBalance);
    }
    let mut add = |account: AccountId, units: i128| {
        let book = books.get_mut(&account).expect("payer and receiver were found");
        *book.balances.entry(token).or_default() += units;
    };
    add(payment.from(), -amount);
    add(payment.to(), amount);
    Ok(())
}

/// Compares a core's state with the model's accounts; says which account differs, and how.
pub fn compare(books: &Books, state: &State, tokens: &[TokenId]) -> Result<(), (AccountId, String)> {
    if state.len() != books.len() as u64 {
        let first = *books.keys().next().expect("a ledger has accounts");
        return Err((first, format!("{} accounts instead of {}", state.len(), books.len())));
    }
    for (id, book) in books {
        let Some(account) = state.account(id) else { return Err((*id, "it is not there".into())) };
        for token in tokens {
            let (found, expected) = (account.balance(*token).units(), book.balance(*token));
            if found != expected {
                return Err((*id, format!("{found} of token {} instead of {expected}", token.0)));
            }
        }
        let next = book.next();
        let used = book.used.range(next..).fold(0u128, |bits, sequence| bits | 1 << (sequence - next));
        let window = account.window();
        if (window.next().0, window.used_bits()) != (next, used) {
            return Err((*id, format!("its window is {window:?}, expected next {next} and used bits {used:#x}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::{Concern, Dice};
    use crate::profile::Profile;
    use crate::world::{GENESIS_TIME_MS, VALIDITY_MAX_S};
    use zeni_ledger::payment::PaymentBody;
    use zeni_ledger::{Amount, Sequence, SignatureBytes};

    const SLOT_TIME_MS: u64 = GENESIS_TIME_MS + 50_000;

    fn world() -> World {
        let mut dice = Dice::new(3, Concern::World);
        let profile = Profile { validators: 3, block_interval_ms: 1_000, ..Profile::draw(&mut dice) };
        World::new(&mut dice, &profile)
    }

    /// A payment by the issuer of the first token, who can always pay.
    fn mint(world: &World, sequence: u64) -> PaymentBody {
        let token = world.tokens[0];
        PaymentBody {
            network: world.genesis.rules.network,
            valid_until: (SLOT_TIME_MS / 1_000) as u32 + 60,
            from: world.issuer(token),
            to: world.accounts[0],
            sequence: Sequence(sequence),
            amount: Amount(5),
            token,
            flags: 0,
            reference: [0; 16],
        }
    }

    fn fate(books: &mut Books, world: &World, body: PaymentBody) -> Fate {
        pay(books, world, SLOT_TIME_MS, &body.with_signature(SignatureBytes([1; 64])))
    }

    #[test]
    fn a_sequence_is_used_once_and_within_the_window() {
        let (world, mut books) = (world(), books(&world()));
        assert_eq!(fate(&mut books, &world, mint(&world, 0)), Fate::Executed(Outcome::Applied));
        assert_eq!(fate(&mut books, &world, mint(&world, 0)), Fate::SequenceUsed);
        assert_eq!(fate(&mut books, &world, mint(&world, 1 + WINDOW)), Fate::Untimely("beyond the window"));
        assert_eq!(fate(&mut books, &world, mint(&world, WINDOW)), Fate::Executed(Outcome::Applied));
        assert_eq!(books[&mint(&world, 0).from].next(), 1);
    }

    #[test]
    fn validity_is_compared_with_the_slot_time() {
        let (world, mut books) = (world(), books(&world()));
        let until = |valid_until| PaymentBody { valid_until, ..mint(&world, 0) };
        let slot_s = (SLOT_TIME_MS / 1_000) as u32;
        assert_eq!(fate(&mut books, &world, until(slot_s - 1)), Fate::Expired);
        assert_eq!(fate(&mut books, &world, until(slot_s + VALIDITY_MAX_S + 1)), Fate::Untimely("valid for too long"));
        assert_eq!(fate(&mut books, &world, until(slot_s)), Fate::Executed(Outcome::Applied));
    }

    #[test]
    fn a_rejection_uses_the_sequence_and_moves_nothing() {
        let (world, mut books) = (world(), books(&world()));
        let (payer, token) = (world.accounts[1], world.tokens[0]);
        let before = books[&payer].balance(token);
        let body = PaymentBody { from: payer, amount: Amount(u64::MAX), ..mint(&world, 0) };
        let rejected = Fate::Executed(Outcome::Rejected(Rejection::InsufficientBalance));
        assert_eq!(fate(&mut books, &world, body), rejected);
        assert_eq!((books[&payer].balance(token), books[&payer].next()), (before, 1));
    }

    #[test]
    fn the_model_agrees_with_the_genesis_state_and_notices_a_changed_account() {
        let world = world();
        let mut books = books(&world);
        assert_eq!(compare(&books, &world.state, &world.tokens), Ok(()));
        *books.get_mut(&world.accounts[4]).unwrap().balances.entry(world.tokens[0]).or_default() += 1;
        assert_eq!(compare(&books, &world.state, &world.tokens).unwrap_err().0, world.accounts[4]);
    }
}
