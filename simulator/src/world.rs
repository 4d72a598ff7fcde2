//! The ledger of one seed: validators with random stakes, a few tokens, some forty accounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator, account_file, accounts_digest};
use zeni_ledger::{AccountId, Amount, Genesis, GenesisId, PublicKey, State, TokenId};

use crate::dice::Dice;
use crate::profile::Profile;

/// Slot 0 begins here, Unix milliseconds.
pub const GENESIS_TIME_MS: u64 = 1_700_000_000_000;
/// How far ahead `valid_until` may lie, in seconds.
pub const VALIDITY_MAX_S: u32 = 7_200;
/// Accounts that hold something at genesis, issuers aside.
pub const ACCOUNTS: usize = 40;
const STATE_DEPTH: u32 = 4;
const BATCHES_MAX: u32 = 64;

/// What all nodes of a seed share.
#[derive(Debug)]
pub struct World {
    pub genesis: Arc<Genesis>,
    pub genesis_id: GenesisId,
    /// The state at genesis.
    pub state: State,
    /// The validators' keys.
    pub keys: Vec<SigningKey>,
    pub accounts: Vec<AccountId>,
    pub tokens: Vec<TokenId>,
}

impl World {
    pub fn new(dice: &mut Dice, profile: &Profile) -> Self {
        let (validators, block_interval_ms) = (profile.validators, profile.block_interval_ms);
        let keys: Vec<SigningKey> = (0..validators).map(|_| SigningKey::from_bytes(&bytes(dice))).collect();
        let tokens: Vec<TokenId> = (1..=dice.between(1, 4) as u32).map(TokenId).collect();
        let accounts: Vec<AccountId> = (0..ACCOUNTS).map(|_| AccountId(bytes(dice))).collect();
        let mut defined = BTreeMap::new();
        for token in &tokens {
            let (symbol, issuer) = (format!("T{}", token.0), AccountId(bytes(dice)));
            defined.insert(*token, Token { symbol, decimals: 0, issuer });
        }
        let mut holdings = Vec::with_capacity(accounts.len());
        for account in &accounts {
            holdings.push((*account, tokens[dice.place(tokens.len())], Amount(dice.between(0, 10_000))));
        }
        let file = account_file(holdings.into_iter());
        let validator = |(number, key): (usize, &SigningKey)| Validator {
            name: format!("validator-{number}"),
            key: PublicKey(key.verifying_key().to_bytes()),
            stake: dice.between(1, 5),
            address: String::new(),
        };
        let genesis = Genesis {
            purpose: Purpose::Test,
            fault_model: if profile.byzantine_quorums { FaultModel::Byzantine } else { FaultModel::Crash },
            time_ms: GENESIS_TIME_MS,
            block_interval_ms,
            state_depth: STATE_DEPTH,
            batches_max: BATCHES_MAX,
            rules: Rules { network: 7, validity_max_s: VALIDITY_MAX_S, tokens: defined },
            validators: keys.iter().enumerate().map(validator).collect(),
            accounts: accounts.len() as u64,
            accounts_digest: accounts_digest(&file),
            accounts_file: String::new(),
        };
        let state = genesis.state(&file).expect("the file is the one that genesis names");
        Self { genesis_id: genesis.id(), genesis: Arc::new(genesis), state, keys, accounts, tokens }
    }

    /// How many validators there are.
    pub fn validators(&self) -> usize {
        self.keys.len()
    }

    /// Who issues a token.
    pub fn issuer(&self, token: TokenId) -> AccountId {
        self.genesis.rules.tokens[&token].issuer
    }
}

fn bytes(dice: &mut Dice) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&dice.word().to_le_bytes()));
    bytes
}
