//! Ledgers, payments and batches to measure with.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use rayon::prelude::*;
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator, account_file, accounts_digest};
use zeni_ledger::hash::hash_parts;
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{
    Account, AccountId, Amount, Balance, Batch, Genesis, GenesisId, Payment, PublicKey, Sequence, SignatureBytes,
    State, TokenId, ValidatorIndex, VerifiedBatch,
};

/// The token of every benchmark.
pub(crate) const TOKEN: TokenId = TokenId(1);
/// Slot 0 of every benchmark's ledger, Unix milliseconds.
pub(crate) const GENESIS_MS: u64 = 1_700_000_000_000;
/// Payments of a batch where nothing speaks for another number.
pub(crate) const BATCH: usize = zeni_ledger::batch::BATCH_PAYMENTS_MAX;

const NETWORK: u32 = 2_016;
const ACCOUNT_DOMAIN: &str = "zeni benchmark account";
const KEY_DOMAIN: &str = "zeni benchmark key";
/// What an account holds at first: enough for every payment of one unit that a benchmark makes.
const HOLDING: u64 = 1_000;

/// Who is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receivers {
    /// All payments go to one account.
    Hot,
    /// Every payment goes to another account, far from its payer.
    Spread,
}

impl Receivers {
    pub(crate) const BOTH: [Self; 2] = [Self::Hot, Self::Spread];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Hot => "hot receiver",
            Self::Spread => "spread receivers",
        }
    }
}

/// An account that nobody has the key of.
pub(crate) fn account_id(number: u64) -> AccountId {
    AccountId(hash_parts(ACCOUNT_DOMAIN, &[&number.to_le_bytes()]))
}

fn key(number: u64) -> SigningKey {
    SigningKey::from_bytes(&hash_parts(KEY_DOMAIN, &[&number.to_le_bytes()]))
}

/// The key of the only validator.
pub(crate) fn validator_key() -> SigningKey {
    key(u64::MAX)
}

/// Rules with one token, whose issuer is account 0.
pub(crate) fn rules() -> Rules {
    let token = Token { symbol: "ZEN".into(), decimals: 0, issuer: account_id(0) };
    Rules { network: NETWORK, validity_max_s: 7 * 86_400, tokens: BTreeMap::from([(TOKEN, token)]) }
}

/// Signed payments, each by a key of its own, which is what makes checking them cost what it costs in a storm.
pub(crate) fn signed(count: usize, genesis: &GenesisId) -> Vec<Payment> {
    let payment = |number: usize| {
        let key = key(number as u64);
        let from = AccountId(key.verifying_key().to_bytes());
        body(from, account_id(0), 0, number as u64).sign(&key, genesis)
    };
    (0..count).into_par_iter().map(payment).collect()
}

fn body(from: AccountId, to: AccountId, sequence: u64, number: u64) -> PaymentBody {
    let mut reference = [0; 16];
    reference[..8].copy_from_slice(&number.to_le_bytes());
    PaymentBody {
        network: NETWORK,
        valid_until: (GENESIS_MS / 1_000) as u32 + 86_400,
        from,
        to,
        sequence: Sequence(sequence),
        amount: Amount(1),
        token: TOKEN,
        flags: 0,
        reference,
    }
}

/// Payments of one unit by `count` accounts from number `first` on (numbers begin anew behind `accounts`), unsigned:
/// for whatever never looks at signatures.
pub(crate) fn unsigned(
    accounts: u64,
    first: u64,
    count: u64,
    sequence: u64,
    receivers: Receivers,
) -> impl Iterator<Item = Payment> {
    // Odd and about the golden ratio's part of all accounts: neighbours pay far from each other, nobody is paid twice.
    let step = (accounts as f64 * 0.618) as u64 | 1;
    (0..count).map(move |place| {
        let payer = 1 + (first + place) % accounts;
        let receiver = match receivers {
            Receivers::Hot => 0,
            Receivers::Spread => 1 + (payer - 1 + step) % accounts,
        };
        let body = body(account_id(payer), account_id(receiver), sequence, payer);
        body.with_signature(SignatureBytes([0; 64]))
    })
}

/// Batches of these payments, as if their signatures were verified; the author's is none.
pub(crate) fn batches(payments: &[Payment], genesis: &GenesisId, first_number: u64) -> Vec<VerifiedBatch> {
    let batch = |(place, payments): (usize, &[Payment])| Batch {
        author: ValidatorIndex(0),
        number: first_number + place as u64,
        payments: payments.to_vec(),
        signature: SignatureBytes([0; 64]),
    };
    payments.chunks(BATCH).enumerate().map(batch).map(|batch| VerifiedBatch::vouch(batch, genesis)).collect()
}

/// Depth of a state tree with this many accounts: about two to a bucket, as the shipped scenarios have.
pub(crate) fn depth(accounts: u64) -> u32 {
    (accounts / 2).max(16).ilog2() + 1
}

/// A state in which every account has [`HOLDING`] units and account 0 owes them, not committed yet. `tell` hears of
/// every million.
pub(crate) fn state(accounts: u64, tell: impl Fn(u64)) -> State {
    let mut state = State::new(depth(accounts));
    for number in 0..=accounts {
        let mut account = Account::new(account_id(number));
        let units = if number == 0 { -i128::from(accounts * HOLDING) } else { i128::from(HOLDING) };
        assert!(account.set_balance(TOKEN, Balance::new(units)), "a new account takes one token");
        state.open(account).expect("each account opens once, and buckets hold two");
        if number % 1_000_000 == 0 && number > 0 {
            tell(number);
        }
    }
    state
}

/// A ledger of one validator, in which numbered accounts hold [`HOLDING`] units, and its account file.
pub(crate) fn genesis(accounts: u64, block_interval_ms: u64) -> (Genesis, Vec<u8>) {
    let ids: Vec<AccountId> = (1..=accounts).into_par_iter().map(account_id).collect();
    let file = account_file(ids.into_iter().map(|id| (id, TOKEN, Amount(HOLDING))));
    let validator = Validator {
        name: "node-1".into(),
        key: PublicKey(validator_key().verifying_key().to_bytes()),
        stake: 1,
        address: "127.0.0.1:7001".into(),
    };
    let genesis = Genesis {
        purpose: Purpose::Test,
        fault_model: FaultModel::Crash,
        time_ms: GENESIS_MS,
        block_interval_ms,
        state_depth: depth(accounts),
        batches_max: 2_048,
        rules: rules(),
        validators: vec![validator],
        accounts,
        accounts_digest: accounts_digest(&file),
        accounts_file: String::new(),
    };
    (genesis, file)
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use zeni_ledger::execute::execute;
    use zeni_ledger::signature::verify_payments;

    const ACCOUNTS: u64 = 1_000;

    #[test]
    fn every_payment_moves_money_whoever_receives() {
        for receivers in Receivers::BOTH {
            let mut state = state(ACCOUNTS, |_| ());
            state.commit();
            let payments: Vec<Payment> = unsigned(ACCOUNTS, 900, 500, 0, receivers).collect();
            let paid: BTreeSet<_> = payments.iter().map(|payment| payment.to().0).collect();
            assert_eq!(paid.len(), if receivers == Receivers::Hot { 1 } else { 500 });
            let batches = batches(&payments, &GenesisId([1; 32]), 1);
            let executed = execute(&mut state, &rules(), GENESIS_MS, &batches);
            assert_eq!((executed.applied, executed.rejected, executed.skipped), (500, 0, 0));
        }
    }

    #[test]
    fn signed_payments_are_of_as_many_keys_and_verify() {
        let genesis = GenesisId([3; 32]);
        let payments = signed(100, &genesis);
        let keys: BTreeSet<_> = payments.iter().map(|payment| payment.signer().0).collect();
        assert_eq!(keys.len(), 100);
        assert!(verify_payments(&payments, &genesis, [7; 32]).is_empty());
    }

    #[test]
    fn genesis_gives_the_state_that_is_built_without_it() {
        let (genesis, file) = genesis(ACCOUNTS, 1_000);
        let mut built = state(ACCOUNTS, |_| ());
        built.commit();
        assert_eq!(genesis.state(&file).unwrap().root(), built.root());
    }
}
