//! What clients submit: mostly good payments, and every kind of bad ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeni_consensus::Verdict;
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{AccountId, Amount, Payment, Sequence, SignatureBytes, TokenId, TransactionId};

use crate::dice::Dice;
use crate::world::{GENESIS_TIME_MS, VALIDITY_MAX_S, World};

/// Times that a client sends the same bytes, at most.
const TRIES_MAX: u32 = 5;

/// A payment that a client wants on the ledger.
#[derive(Debug, Clone)]
pub struct Wish {
    pub payment: Payment,
    pub id: TransactionId,
    tries: u32,
    settled: bool,
}

/// The clients.
#[derive(Debug)]
pub struct Workload {
    world: Arc<World>,
    dice: Dice,
    /// The next sequence of each account, as its owner counts.
    next: BTreeMap<AccountId, u64>,
    wishes: Vec<Wish>,
}

/// Which kind of payment is made.
const KINDS: [(Kind, u64); 13] = [
    (Kind::Good, 660),
    (Kind::DoubleSpend, 60),
    (Kind::Again, 60),
    (Kind::Spent, 40),
    (Kind::TooMuch, 50),
    (Kind::SoonExpired, 30),
    (Kind::LongValid, 30),
    (Kind::Mint, 30),
    (Kind::BeyondWindow, 10),
    (Kind::WindowEdge, 80),
    (Kind::UnknownReceiver, 10),
    (Kind::Malformed, 10),
    (Kind::Expired, 10),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Good,
    DoubleSpend,
    Again,
    Spent,
    TooMuch,
    SoonExpired,
    LongValid,
    Mint,
    BeyondWindow,
    WindowEdge,
    UnknownReceiver,
    Malformed,
    Expired,
}

impl Workload {
    pub fn new(world: Arc<World>, dice: Dice) -> Self {
        Self { world, dice, next: BTreeMap::new(), wishes: Vec::new() }
    }

    pub fn wish(&self, place: usize) -> &Wish {
        &self.wishes[place]
    }

    /// Payments made so far.
    pub fn len(&self) -> usize {
        self.wishes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.wishes.is_empty()
    }

    /// What a client submits at once, at `now_ms` of virtual time: places of payments, new or old. Each inner list goes
    /// to a node of its own.
    pub fn submit(&mut self, now_ms: u64) -> Vec<Vec<usize>> {
        let count = if self.dice.chance(700) { 1 } else { self.dice.between(2, 8) };
        let mut lists = vec![Vec::new()];
        for _ in 0..count {
            let weights = KINDS.map(|(_, weight)| weight);
            match KINDS[self.dice.weighted(&weights)].0 {
                Kind::DoubleSpend => {
                    let body = self.good(now_ms);
                    let other = PaymentBody { amount: Amount(body.amount.0 + 1), ..body };
                    let (first, second) = (self.add(body), self.add(other));
                    lists[0].push(first);
                    lists.push(vec![second]);
                }
                Kind::Again if !self.wishes.is_empty() => {
                    let place = self.dice.place(self.wishes.len());
                    lists.push(vec![place]);
                }
                kind => {
                    let body = self.body(kind, now_ms);
                    let place = self.add(body);
                    lists[0].push(place);
                }
            }
        }
        lists.retain(|list| !list.is_empty());
        lists
    }

    /// A good payment for after healing: from an issuer, so that it is applied, and not only executed.
    pub fn probe(&mut self, now_ms: u64) -> usize {
        let body = self.body(Kind::Mint, now_ms);
        self.add(body)
    }

    /// Whether the client sends the payment once more; counts the try.
    pub fn tries_again(&mut self, place: usize) -> bool {
        let wish = &mut self.wishes[place];
        wish.tries += 1;
        !wish.settled && wish.tries <= TRIES_MAX
    }

    /// The client reads a verdict.
    pub fn answered(&mut self, place: usize, verdict: &Verdict) {
        let settled = match verdict {
            Verdict::Accepted { .. } | Verdict::Known { .. } => true,
            Verdict::Refused(refusal) => !refusal.is_transient(),
        };
        self.wishes[place].settled |= settled;
    }

    fn add(&mut self, body: PaymentBody) -> usize {
        // Signatures are checked in a node's ingress, in front of the core: no one looks at these bytes here.
        let payment = body.with_signature(SignatureBytes([0x51; 64]));
        let id = payment.id(&self.world.genesis_id);
        self.wishes.push(Wish { payment, id, tries: 0, settled: false });
        self.wishes.len() - 1
    }

    fn account(&mut self) -> AccountId {
        self.world.accounts[self.dice.place(self.world.accounts.len())]
    }

    fn token(&mut self) -> TokenId {
        self.world.tokens[self.dice.place(self.world.tokens.len())]
    }

    fn sequence(&mut self, of: AccountId) -> Sequence {
        let next = self.next.entry(of).or_default();
        *next += 1;
        Sequence(*next - 1)
    }

    fn good(&mut self, now_ms: u64) -> PaymentBody {
        let from = self.account();
        let mut to = self.account();
        while to == from {
            to = self.account();
        }
        PaymentBody {
            network: self.world.genesis.rules.network,
            valid_until: unix_s(now_ms) + self.dice.between(300, 3_000) as u32,
            from,
            to,
            sequence: self.sequence(from),
            amount: Amount(self.dice.between(1, 300)),
            token: self.token(),
            flags: 0,
            reference: u128::from(self.dice.word()).to_le_bytes(),
        }
    }

    fn body(&mut self, kind: Kind, now_ms: u64) -> PaymentBody {
        if let Kind::Mint = kind {
            let token = self.token();
            let from = self.world.issuer(token);
            let sequence = self.sequence(from);
            return PaymentBody { from, token, sequence, ..self.good(now_ms) };
        }
        let body = self.good(now_ms);
        match kind {
            Kind::Spent => PaymentBody { sequence: Sequence(self.dice.below(body.sequence.0 + 1)), ..body },
            Kind::TooMuch => PaymentBody { amount: Amount(self.dice.between(1_000_000, u64::MAX)), ..body },
            Kind::SoonExpired => PaymentBody { valid_until: unix_s(now_ms) + self.dice.between(0, 20) as u32, ..body },
            Kind::LongValid => PaymentBody { valid_until: unix_s(now_ms) + VALIDITY_MAX_S, ..body },
            Kind::BeyondWindow => {
                PaymentBody { sequence: Sequence(body.sequence.0 + self.dice.between(1_000, 1 << 40)), ..body }
            }
            Kind::WindowEdge => {
                PaymentBody { sequence: Sequence(body.sequence.0 + self.dice.between(120, 127)), ..body }
            }
            Kind::UnknownReceiver => PaymentBody { to: AccountId([0xee; 32]), ..body },
            Kind::Malformed => match self.dice.below(5) {
                0 => PaymentBody { amount: Amount(0), ..body },
                1 => PaymentBody { to: body.from, ..body },
                2 => PaymentBody { flags: 4, ..body },
                3 => PaymentBody { token: TokenId(99), ..body },
                _ => PaymentBody { network: 8, ..body },
            },
            Kind::Expired => PaymentBody { valid_until: unix_s(now_ms) - 100, ..body },
            _ => body,
        }
    }
}

fn unix_s(now_ms: u64) -> u32 {
    ((GENESIS_TIME_MS + now_ms) / 1_000) as u32
}
