//! Who pays whom how much: a pure function of a payment's index, so that nothing about a storm need be remembered.
//!
//! The experiment of 2016: account i holds i units of token 1 (i = 1 … N) and pays all of it to one receiver. So the
//! receiver's balance at the end, N(N+1)/2, tells whether each payment was executed exactly once.

use zeni_ledger::hash::hash_parts;
use zeni_ledger::identity::PublicKey;
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{AccountId, Amount, GenesisId, Payment, Sequence, TokenId};

use ed25519_dalek::SigningKey;

/// The token of every storm.
pub const TOKEN: TokenId = TokenId(1);
/// The network number that storms' payments carry.
pub const NETWORK: u32 = 2_016;

const ACCOUNT_DOMAIN: &str = "zeni storm account v1";
const ROLE_DOMAIN: &str = "zeni storm role v1";

/// Everything about a storm's payments that its seed and size decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Paying accounts; the receiver comes on top.
    pub accounts: u64,
}

/// Someone besides the paying accounts who needs a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A validator, by its place in genesis.
    Validator(u16),
    /// The load generator as a client that submits.
    Submitter,
    /// The load generator as a follower of the chain.
    Watcher,
    /// The API server.
    ApiServer,
    /// The account that every payment goes to.
    Receiver,
    /// The account that owes the token.
    Issuer,
}

impl Plan {
    /// Payments of the whole plan.
    pub fn payments(&self) -> u64 {
        self.accounts
    }

    /// The key of the account with this number, 1 … [`Self::accounts`].
    pub fn account_key(&self, number: u64) -> SigningKey {
        let seed = hash_parts(ACCOUNT_DOMAIN, &[&self.seed.to_le_bytes(), &number.to_le_bytes()]);
        SigningKey::from_bytes(&seed)
    }

    /// What the account with this number holds at genesis.
    pub fn holding(&self, number: u64) -> Amount {
        Amount(number)
    }

    /// The key of someone besides the payers.
    pub fn role_key(&self, role: Role) -> SigningKey {
        let (name, place) = match role {
            Role::Validator(place) => ("validator", place),
            Role::Submitter => ("submitter", 0),
            Role::Watcher => ("watcher", 0),
            Role::ApiServer => ("api server", 0),
            Role::Receiver => ("receiver", 0),
            Role::Issuer => ("issuer", 0),
        };
        let parts: [&[u8]; 3] = [&self.seed.to_le_bytes(), name.as_bytes(), &place.to_le_bytes()];
        SigningKey::from_bytes(&hash_parts(ROLE_DOMAIN, &parts))
    }

    /// The account that every payment goes to.
    pub fn receiver(&self) -> AccountId {
        account_of(&self.role_key(Role::Receiver))
    }

    /// What payment `index` (from 0) moves: known without its key, so that a tracker can check what it sees.
    pub fn amount(&self, index: u64) -> Amount {
        self.holding(index + 1)
    }

    /// Payment `index`, signed. `receiver` is [`Self::receiver`], which is worth computing once.
    pub fn payment(&self, index: u64, receiver: AccountId, valid_until: u32, genesis: &GenesisId) -> Payment {
        let key = self.account_key(index + 1);
        let mut reference = [0; 16];
        reference[..8].copy_from_slice(&index.to_le_bytes());
        let body = PaymentBody {
            network: NETWORK,
            valid_until,
            from: account_of(&key),
            to: receiver,
            sequence: Sequence(0),
            amount: self.amount(index),
            token: TOKEN,
            flags: 0,
            reference,
        };
        body.sign(&key, genesis)
    }

    /// The index of a payment of this plan, by its reference; `None` if it is somebody else's.
    pub fn index_of(&self, payment: &Payment) -> Option<u64> {
        let reference = payment.reference();
        let (head, tail) = reference.split_at(8);
        let index = u64::from_le_bytes(head.try_into().expect("half of 16 bytes"));
        let ours = tail == [0; 8] && index < self.payments() && payment.amount() == self.amount(index);
        ours.then_some(index)
    }

    /// What the receiver holds once the first `count` payments are executed.
    pub fn received(&self, count: u64) -> i128 {
        let count = i128::from(count);
        count * (count + 1) / 2
    }
}

/// The account that a key alone controls.
pub fn account_of(key: &SigningKey) -> AccountId {
    AccountId(key.verifying_key().to_bytes())
}

/// The public half of a key.
pub fn public_of(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { seed: 7, accounts: 100 };

    #[test]
    fn the_receiver_of_2016_holds_what_was_reported() {
        let plan = Plan { seed: 1, accounts: 10_800_000 };
        assert_eq!(plan.received(plan.payments()), 58_320_005_400_000);
    }

    #[test]
    fn the_sum_of_amounts_is_what_the_receiver_is_to_hold() {
        let sum: i128 = (0..PLAN.payments()).map(|index| i128::from(PLAN.amount(index).0)).sum();
        assert_eq!(sum, PLAN.received(PLAN.payments()));
    }

    #[test]
    fn a_payment_tells_its_index_and_a_strangers_does_not() {
        let genesis = GenesisId([3; 32]);
        let payment = PLAN.payment(41, PLAN.receiver(), 9, &genesis);
        assert_eq!(PLAN.index_of(&payment), Some(41));
        let other_amount = PaymentBody { amount: Amount(1), ..payment.body() };
        assert_eq!(PLAN.index_of(&other_amount.with_signature(payment.signature())), None);
        let beyond = PaymentBody { reference: [0xff; 16], ..payment.body() };
        assert_eq!(PLAN.index_of(&beyond.with_signature(payment.signature())), None);
    }

    #[test]
    fn keys_of_roles_accounts_and_seeds_differ() {
        let other = Plan { seed: 8, ..PLAN };
        let keys = [
            PLAN.account_key(1),
            PLAN.account_key(2),
            other.account_key(1),
            PLAN.role_key(Role::Validator(0)),
            PLAN.role_key(Role::Validator(1)),
            PLAN.role_key(Role::Submitter),
            PLAN.role_key(Role::Watcher),
            PLAN.role_key(Role::ApiServer),
            PLAN.role_key(Role::Receiver),
            PLAN.role_key(Role::Issuer),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().map(|key| key.to_bytes()).collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
