//! Who pays whom how much: a pure function of a payment's index, so that nothing about a storm need be remembered.
//!
//! The experiment of 2016: account i holds i units of token 1 (i = 1 … N) and pays all of it to one receiver. So the
//! receiver's balance at the end, N(N+1)/2, tells whether each payment was executed exactly once.
//!
//! A plan may also let a part of the accounts pay, spread evenly over all of them, and let each pay several times: account
//! i then holds k·i and pays i in each of k payments. Every payer's first payment comes before anyone's second. And each
//! payer may pay another one instead of the one receiver; since each holds all that it pays from the beginning, no order of
//! execution makes a payment fail.

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::Sha512;
use zeni_ledger::hash::hash_parts;
use zeni_ledger::identity::PublicKey;
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{AccountId, Amount, GenesisId, Payment, Sequence, SignatureBytes, TokenId};

/// The token of every storm.
pub const TOKEN: TokenId = TokenId(1);
/// The network number that storms' payments carry.
pub const NETWORK: u32 = 2_016;

const ACCOUNT_DOMAIN: &str = "zeni storm account v1";
const ROLE_DOMAIN: &str = "zeni storm role v1";
const STRIDE_DOMAIN: &str = "zeni storm stride v1";
const SAMPLE_DOMAIN: &str = "zeni storm sample v1";

/// Who the payments go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Receivers {
    /// All to one account, which pays nothing.
    #[default]
    Hot,
    /// Each paying account to another one, which lies the same seeded number of payers further on for all.
    Spread,
}

/// Everything about a storm's payments that its seed and size decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Accounts that hold something; the one receiver comes on top.
    pub accounts: u64,
    /// How many of them pay: 1 to [`Self::accounts`]; 2 at least if receivers are spread.
    pub payers: u64,
    /// How often each payer pays.
    pub payments_per_account: u64,
    pub receivers: Receivers,
}

/// A payer as its payments see it: worth computing once for all of them.
#[derive(Debug)]
pub struct Payer {
    secret: ExpandedSecretKey,
    public: VerifyingKey,
    from: AccountId,
    to: AccountId,
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
    /// The plan of 2016: each account pays once, all to one receiver.
    pub const fn of_2016(seed: u64, accounts: u64) -> Self {
        Self { seed, accounts, payers: accounts, payments_per_account: 1, receivers: Receivers::Hot }
    }

    /// Payments of the whole plan.
    pub fn payments(&self) -> u64 {
        self.payers * self.payments_per_account
    }

    /// The number of the account that payer `payer` (from 0) is. What the division leaves over, at the end, does not pay.
    pub fn number(&self, payer: u64) -> u64 {
        1 + payer * (self.accounts / self.payers)
    }

    /// Who sends payment `index`, from 0.
    pub fn payer_of(&self, index: u64) -> u64 {
        index % self.payers
    }

    /// How many payers further on the one lies that a payer pays.
    fn stride(&self) -> u64 {
        let hash = hash_parts(STRIDE_DOMAIN, &[&self.seed.to_le_bytes()]);
        let drawn = u64::from_le_bytes(hash[..8].try_into().expect("a part of 32 bytes"));
        1 + drawn % (self.payers - 1).max(1)
    }

    /// What all payments of payer `payer` share. `hot` is [`Self::receiver`], which is worth computing once, and `account` gives
    /// accounts by their numbers as [`Self::account`] does.
    ///
    /// # Panics
    /// If `account` gives what is no key. If it gives another key than the payer's its payments do not verify.
    pub fn payer(&self, payer: u64, hot: AccountId, account: impl Fn(u64) -> AccountId) -> Payer {
        let number = self.number(payer);
        let from = account(number);
        let to = match self.receivers {
            Receivers::Hot => hot,
            Receivers::Spread => account(self.number((payer + self.stride()) % self.payers)),
        };
        let secret = ExpandedSecretKey::from(&self.account_secret(number));
        let public = VerifyingKey::from_bytes(&from.0).expect("an account of this plan is a key");
        Payer { secret, public, from, to }
    }

    /// The account of payer `payer`.
    pub fn payer_account(&self, payer: u64) -> AccountId {
        self.account(self.number(payer))
    }

    /// The key of the account with this number, 1 … [`Self::accounts`].
    pub fn account_key(&self, number: u64) -> SigningKey {
        SigningKey::from_bytes(&self.account_secret(number))
    }

    fn account_secret(&self, number: u64) -> [u8; 32] {
        hash_parts(ACCOUNT_DOMAIN, &[&self.seed.to_le_bytes(), &number.to_le_bytes()])
    }

    /// The account with this number. That is as dear as signing; who has the account file reads it there.
    pub fn account(&self, number: u64) -> AccountId {
        account_of(&self.account_key(number))
    }

    /// What the account with this number holds at genesis: all that it would pay.
    pub fn holding(&self, number: u64) -> Amount {
        Amount(number * self.payments_per_account)
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

    /// The one receiver. Where receivers are spread it gets nothing.
    pub fn receiver(&self) -> AccountId {
        account_of(&self.role_key(Role::Receiver))
    }

    /// What payment `index` (from 0) moves: known without its key, so that a tracker can check what it sees.
    pub fn amount(&self, index: u64) -> Amount {
        Amount(self.number(self.payer_of(index)))
    }

    /// Payment `index`, signed. `payer` is the one of [`Self::payer_of`].
    pub fn payment(&self, index: u64, payer: &Payer, valid_until: u32, genesis: &GenesisId) -> Payment {
        let mut reference = [0; 16];
        reference[..8].copy_from_slice(&index.to_le_bytes());
        let body = PaymentBody {
            network: NETWORK,
            valid_until,
            from: payer.from,
            to: payer.to,
            sequence: Sequence(index / self.payers),
            amount: self.amount(index),
            token: TOKEN,
            flags: 0,
            reference,
        };
        // A signing key would compute the public key anew.
        let unsigned = body.with_signature(SignatureBytes([0; 64]));
        let signature = raw_sign::<Sha512>(&payer.secret, &unsigned.signed_bytes(genesis), &payer.public);
        body.with_signature(SignatureBytes(signature.to_bytes()))
    }

    /// The index of a payment of this plan, by its reference; `None` if it is somebody else's.
    pub fn index_of(&self, payment: &Payment) -> Option<u64> {
        let reference = payment.reference();
        let (head, tail) = reference.split_at(8);
        let index = u64::from_le_bytes(head.try_into().expect("half of 16 bytes"));
        let ours = tail == [0; 8] && index < self.payments() && payment.amount() == self.amount(index);
        ours.then_some(index)
    }

    /// How many of the first `count` payments each payer sends.
    pub fn first(&self, count: u64) -> impl Fn(u64) -> u64 + use<> {
        let (full, rest) = (count / self.payers, count % self.payers);
        move |payer| full + u64::from(payer < rest)
    }

    /// What the one receiver holds once each payer has made as many payments as `made` says.
    pub fn received(&self, made: impl Fn(u64) -> u64) -> i128 {
        match self.receivers {
            Receivers::Hot => (0..self.payers).map(|payer| self.paid(payer, &made)).sum(),
            Receivers::Spread => 0,
        }
    }

    /// What payer `payer` holds then.
    pub fn balance(&self, payer: u64, made: impl Fn(u64) -> u64) -> i128 {
        let received = match self.receivers {
            Receivers::Hot => 0,
            Receivers::Spread => self.paid((payer + self.payers - self.stride()) % self.payers, &made),
        };
        i128::from(self.holding(self.number(payer)).0) - self.paid(payer, &made) + received
    }

    fn paid(&self, payer: u64, made: impl Fn(u64) -> u64) -> i128 {
        i128::from(made(payer)) * i128::from(self.number(payer))
    }

    /// The account by whose balance a storm is judged: the one receiver, or where receivers are spread the last payer.
    pub fn judged_account(&self) -> AccountId {
        match self.receivers {
            Receivers::Hot => self.receiver(),
            Receivers::Spread => self.payer_account(self.payers - 1),
        }
    }

    /// What that account holds once each payer has made as many payments as `made` says.
    pub fn judged_balance(&self, made: impl Fn(u64) -> u64) -> i128 {
        match self.receivers {
            Receivers::Hot => self.received(made),
            Receivers::Spread => self.balance(self.payers - 1, made),
        }
    }

    /// Payers whose balances are looked at in the end: all of the first `among` if those are `most` at most, otherwise as
    /// many by the seed, of which some may be the same.
    pub fn sample(&self, among: u64, most: u64) -> Vec<u64> {
        let drawn = |place: u64| {
            let hash = hash_parts(SAMPLE_DOMAIN, &[&self.seed.to_le_bytes(), &place.to_le_bytes()]);
            u64::from_le_bytes(hash[..8].try_into().expect("a part of 32 bytes")) % among
        };
        let all = among <= most;
        (0..among.min(most)).map(|place| if all { place } else { drawn(place) }).collect()
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

    const PLAN: Plan = Plan::of_2016(7, 100);
    /// Ten of a hundred accounts pay three times each.
    const FEW: Plan = Plan { payers: 10, payments_per_account: 3, receivers: Receivers::Spread, ..PLAN };
    const GENESIS: GenesisId = GenesisId([3; 32]);

    fn payment(plan: &Plan, index: u64) -> Payment {
        let payer = plan.payer(plan.payer_of(index), plan.receiver(), |number| plan.account(number));
        plan.payment(index, &payer, 9, &GENESIS)
    }

    #[test]
    fn the_receiver_of_2016_holds_what_was_reported() {
        let plan = Plan::of_2016(1, 10_800_000);
        assert_eq!(plan.received(plan.first(plan.payments())), 58_320_005_400_000);
    }

    #[test]
    fn the_sum_of_amounts_is_what_the_receiver_is_to_hold() {
        for plan in [PLAN, Plan { receivers: Receivers::Hot, ..FEW }] {
            for count in [0, 1, 14, plan.payments()] {
                let sum: i128 = (0..count).map(|index| i128::from(plan.amount(index).0)).sum();
                assert_eq!(sum, plan.received(plan.first(count)));
                assert_eq!((plan.judged_account(), plan.judged_balance(plan.first(count))), (plan.receiver(), sum));
            }
        }
    }

    #[test]
    fn a_payment_is_signed_as_its_payers_key_signs() {
        for plan in [PLAN, FEW] {
            let payment = payment(&plan, 7);
            let key = plan.account_key(plan.number(7));
            assert_eq!(payment, payment.body().sign(&key, &GENESIS));
        }
    }

    #[test]
    fn payers_lie_apart_and_pay_all_they_hold_in_as_many_payments_with_rising_sequences() {
        let plan = Plan { receivers: Receivers::Hot, ..FEW };
        assert_eq!(
            (0..10).map(|payer| plan.number(payer)).collect::<Vec<_>>(),
            [1, 11, 21, 31, 41, 51, 61, 71, 81, 91]
        );
        let payments: Vec<Payment> = (0..30).map(|index| payment(&plan, index)).collect();
        for payer in 0..10 {
            let own: Vec<&Payment> =
                payments.iter().filter(|payment| payment.from() == plan.payer_account(payer)).collect();
            assert_eq!(own.iter().map(|payment| payment.sequence().0).collect::<Vec<_>>(), [0, 1, 2]);
            let paid: u64 = own.iter().map(|payment| payment.amount().0).sum();
            assert_eq!(Amount(paid), plan.holding(plan.number(payer)));
            assert_eq!(plan.balance(payer, plan.first(30)), 0);
        }
    }

    #[test]
    fn spread_receivers_are_paid_by_one_other_payer_each_and_their_balances_are_what_payments_say() {
        let stride = FEW.stride();
        assert!((1..10).contains(&stride));
        for count in [0, 7, 10, 23, 30] {
            let mut balances: std::collections::BTreeMap<AccountId, i128> =
                (0..10).map(|payer| (FEW.payer_account(payer), i128::from(FEW.holding(FEW.number(payer)).0))).collect();
            for index in 0..count {
                let payment = payment(&FEW, index);
                let amount = i128::from(payment.amount().0);
                *balances.get_mut(&payment.from()).unwrap() -= amount;
                *balances.get_mut(&payment.to()).unwrap() += amount;
                assert_ne!(payment.from(), payment.to());
            }
            for payer in 0..10 {
                assert_eq!(
                    balances[&FEW.payer_account(payer)],
                    FEW.balance(payer, FEW.first(count)),
                    "{count} {payer}"
                );
            }
            assert_eq!(FEW.judged_balance(FEW.first(count)), balances[&FEW.judged_account()]);
        }
        let two = Plan { payers: 2, ..FEW };
        assert_eq!(two.stride(), 1);
    }

    #[test]
    fn a_sample_is_everybody_or_as_many_as_are_wanted() {
        assert_eq!(PLAN.sample(4, 10), [0, 1, 2, 3]);
        let drawn = PLAN.sample(100, 10);
        assert!(drawn.len() == 10 && drawn.iter().all(|payer| *payer < 100));
        assert_ne!(drawn, Plan { seed: 8, ..PLAN }.sample(100, 10));
    }

    #[test]
    fn a_payment_tells_its_index_and_a_strangers_does_not() {
        let payment = payment(&PLAN, 41);
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
