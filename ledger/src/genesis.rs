//! Genesis: the TOML file that fixes a ledger's rules, validators and tokens, and the binary account file it names.
//!
//! The genesis id is the digest of its canonical bytes. Validator addresses and names are hints for people and
//! transports; they are not in the id, so a validator may move.
//!
//! The account file: the magic `ZENIACC1`, a count u64, then 44 bytes for each account: id 32, token u32, amount u64
//! (0: an account that holds nothing yet). The issuer of a token is opened by its token and need not stand there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::amount::{Amount, Balance, TokenId};
use crate::block::BLOCK_BATCHES_LIMIT;
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::hash::{BlockId, GenesisId, array_from_hex, hash_parts};
use crate::identity::{AccountId, PublicKey, ValidatorIndex};
use crate::state::{DEPTH_MAX, DEPTH_MIN, OpenError, State};

/// First bytes of an account file.
pub const ACCOUNTS_MAGIC: &[u8; 8] = b"ZENIACC1";
/// Bytes of one account in the file.
pub const ACCOUNT_RECORD_BYTES: usize = 44;
/// Validators of one ledger, at most.
pub const VALIDATORS_MAX: usize = 256;
/// Tokens that genesis may define, at most.
pub const TOKENS_MAX: usize = 1_024;

const GENESIS_DOMAIN: &str = "zeni genesis v1";
const GENESIS_BLOCK_DOMAIN: &str = "zeni genesis block v1";
const ACCOUNTS_DOMAIN: &str = "zeni accounts v1";

/// What a ledger is for. Storms and faults run only on `test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    Test,
    Production,
}

/// Which faults finality must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultModel {
    /// Quorum above 1/2 of stake; validators may stop but not lie.
    Crash,
    /// Quorum above 2/3 of stake; less than a third may do anything.
    Byzantine,
}

/// A validator as genesis names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validator {
    pub name: String,
    pub key: PublicKey,
    pub stake: u64,
    /// Where peers reach it, `host:port`; a hint that a node's config may replace.
    pub address: String,
}

/// A token as genesis defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub symbol: String,
    /// Digits behind the point when people read amounts.
    pub decimals: u8,
    pub issuer: AccountId,
}

/// What execution must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub network: u32,
    /// How far ahead `valid_until` may lie, in seconds.
    pub validity_max_s: u32,
    pub tokens: BTreeMap<TokenId, Token>,
}

/// Everything that genesis fixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    pub purpose: Purpose,
    pub fault_model: FaultModel,
    /// Slot 0 begins here, Unix milliseconds.
    pub time_ms: u64,
    pub block_interval_ms: u64,
    /// The state tree has 2^depth buckets.
    pub state_depth: u32,
    /// Batches that one block may list.
    pub batches_max: u32,
    pub rules: Rules,
    pub validators: Vec<Validator>,
    /// How many accounts the account file holds, and its digest.
    pub accounts: u64,
    pub accounts_digest: [u8; 32],
    /// The account file, relative to the genesis file; a hint.
    pub accounts_file: String,
}

/// Why a genesis or its account file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    #[error("genesis is not valid TOML of its kind: {0}")]
    Toml(String),
    #[error("genesis: {field} is {found}; {expected}")]
    Field { field: String, found: String, expected: String },
    #[error("the account file does not begin with ZENIACC1")]
    NotAnAccountFile,
    #[error("the account file is damaged: {0}")]
    Accounts(#[from] DecodeError),
    #[error("the account file has the digest {found}, genesis names {expected}; it belongs to another ledger")]
    OtherAccounts { found: String, expected: String },
    #[error("account {id}: {error}")]
    Open { id: AccountId, error: OpenError },
    #[error("account {id} holds token {token}, which genesis does not define")]
    UnknownToken { id: AccountId, token: TokenId },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GenesisFile {
    network: u32,
    purpose: Purpose,
    fault_model: FaultModel,
    time_ms: u64,
    block_interval_ms: u64,
    validity_max_s: u32,
    state_depth: u32,
    batches_max: u32,
    accounts: AccountsEntry,
    token: Vec<TokenEntry>,
    validator: Vec<ValidatorEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountsEntry {
    file: String,
    count: u64,
    blake3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    id: u32,
    symbol: String,
    decimals: u8,
    issuer: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidatorEntry {
    name: String,
    key: String,
    stake: u64,
    address: String,
}

impl Genesis {
    /// Parses and checks a genesis file.
    pub fn from_toml(text: &str) -> Result<Self, GenesisError> {
        let file: GenesisFile = toml::from_str(text).map_err(|error| GenesisError::Toml(error.to_string()))?;
        let mut tokens = BTreeMap::new();
        for entry in &file.token {
            let issuer = entry.issuer.parse().map_err(|error| field("token.issuer", &entry.issuer, error))?;
            let token = Token { symbol: entry.symbol.clone(), decimals: entry.decimals, issuer };
            if tokens.insert(TokenId(entry.id), token).is_some() {
                return Err(field("token.id", entry.id, "each id stands once"));
            }
        }
        let validators = file.validator.iter().map(parse_validator).collect::<Result<_, _>>()?;
        let accounts_digest = array_from_hex(&file.accounts.blake3)
            .ok_or_else(|| field("accounts.blake3", &file.accounts.blake3, "64 hexadecimal digits"))?;
        let genesis = Self {
            purpose: file.purpose,
            fault_model: file.fault_model,
            time_ms: file.time_ms,
            block_interval_ms: file.block_interval_ms,
            state_depth: file.state_depth,
            batches_max: file.batches_max,
            rules: Rules { network: file.network, validity_max_s: file.validity_max_s, tokens },
            validators,
            accounts: file.accounts.count,
            accounts_digest,
            accounts_file: file.accounts.file,
        };
        genesis.check()?;
        Ok(genesis)
    }

    /// Writes the file that [`Self::from_toml`] reads.
    pub fn to_toml(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let file = GenesisFile {
            network: self.rules.network,
            purpose: self.purpose,
            fault_model: self.fault_model,
            time_ms: self.time_ms,
            block_interval_ms: self.block_interval_ms,
            validity_max_s: self.rules.validity_max_s,
            state_depth: self.state_depth,
            batches_max: self.batches_max,
            accounts: AccountsEntry {
                file: self.accounts_file.clone(),
                count: self.accounts,
                blake3: hex(&self.accounts_digest),
            },
            token: (self.rules.tokens.iter())
                .map(|(id, token)| TokenEntry {
                    id: id.0,
                    symbol: token.symbol.clone(),
                    decimals: token.decimals,
                    issuer: token.issuer.to_string(),
                })
                .collect(),
            validator: (self.validators.iter())
                .map(|validator| ValidatorEntry {
                    name: validator.name.clone(),
                    key: validator.key.to_string(),
                    stake: validator.stake,
                    address: validator.address.clone(),
                })
                .collect(),
        };
        toml::to_string(&file).expect("plain tables of text and numbers")
    }

    /// Checks every bound that the rest of the code relies on.
    fn check(&self) -> Result<(), GenesisError> {
        let in_range = |name: &str, found: u64, least: u64, most: u64| match (least..=most).contains(&found) {
            true => Ok(()),
            false => Err(field(name, found, format!("it lies from {least} to {most}"))),
        };
        in_range("block_interval_ms", self.block_interval_ms, 200, 600_000)?;
        in_range("validity_max_s", self.rules.validity_max_s.into(), 1, 30 * 86_400)?;
        in_range("state_depth", self.state_depth.into(), DEPTH_MIN.into(), DEPTH_MAX.into())?;
        in_range("batches_max", self.batches_max.into(), 1, BLOCK_BATCHES_LIMIT as u64)?;
        in_range("number of validators", self.validators.len() as u64, 1, VALIDATORS_MAX as u64)?;
        in_range("number of tokens", self.rules.tokens.len() as u64, 1, TOKENS_MAX as u64)?;
        in_range("time_ms", self.time_ms, 0, u64::from(u32::MAX) * 1_000)?;
        let keys: BTreeSet<&PublicKey> = self.validators.iter().map(|validator| &validator.key).collect();
        if keys.len() != self.validators.len() {
            return Err(field("validator.key", "a key that stands twice", "each validator has a key of its own"));
        }
        for validator in &self.validators {
            in_range("validator.stake", validator.stake, 1, 1 << 40)?;
        }
        Ok(())
    }

    /// The ledger's name: the digest of everything that fixes its rules.
    pub fn id(&self) -> GenesisId {
        let mut encoder = Encoder::default();
        encoder.u8(self.purpose as u8).u8(self.fault_model as u8).u64(self.time_ms).u64(self.block_interval_ms);
        encoder.u32(self.state_depth).u32(self.batches_max).u32(self.rules.network).u32(self.rules.validity_max_s);
        encoder.u32(self.rules.tokens.len() as u32);
        for (id, token) in &self.rules.tokens {
            encoder.u32(id.0).u8(token.decimals).raw(&token.issuer.0);
            encoder.u32(token.symbol.len() as u32).raw(token.symbol.as_bytes());
        }
        encoder.u32(self.validators.len() as u32);
        for validator in &self.validators {
            encoder.raw(&validator.key.0).u64(validator.stake);
        }
        encoder.u64(self.accounts).raw(&self.accounts_digest);
        GenesisId(hash_parts(GENESIS_DOMAIN, &[encoder.as_bytes()]))
    }

    /// The parent of the first block: it has height 0 and slot 0, and no bytes.
    pub fn block_id(&self) -> BlockId {
        BlockId(hash_parts(GENESIS_BLOCK_DOMAIN, &[&self.id().0]))
    }

    /// When a slot begins, Unix milliseconds.
    pub fn slot_time_ms(&self, slot: u64) -> u64 {
        self.time_ms.saturating_add(slot.saturating_mul(self.block_interval_ms))
    }

    /// The slot that contains a moment; 0 before genesis.
    pub fn slot_at(&self, unix_ms: u64) -> u64 {
        unix_ms.saturating_sub(self.time_ms) / self.block_interval_ms
    }

    /// The validator with this key.
    pub fn validator_by_key(&self, key: &PublicKey) -> Option<ValidatorIndex> {
        let place = self.validators.iter().position(|validator| validator.key == *key)?;
        Some(ValidatorIndex(place as u16))
    }

    /// Builds the first state from the bytes of the account file, which must be those that genesis names.
    pub fn state(&self, account_file: &[u8]) -> Result<State, GenesisError> {
        let mut state = self.unhashed_state(account_file)?;
        state.commit();
        Ok(state)
    }

    /// As [`Self::state`], for whoever changes accounts before it asks for the root: that comes with the next
    /// [`State::commit`].
    pub fn unhashed_state(&self, account_file: &[u8]) -> Result<State, GenesisError> {
        let found = accounts_digest(account_file);
        if found != self.accounts_digest {
            let hex = |bytes: [u8; 32]| GenesisId(bytes).to_string();
            return Err(GenesisError::OtherAccounts { found: hex(found), expected: hex(self.accounts_digest) });
        }
        let records = records_of(account_file)?;
        if records.len() as u64 != self.accounts {
            return Err(field("accounts.count", self.accounts, format!("the account file holds {}", records.len())));
        }
        let mut issued: BTreeMap<TokenId, i128> = BTreeMap::new();
        // Issuers that the file does not name are opened with the accounts that it does.
        let mut absent: BTreeSet<AccountId> = self.rules.tokens.values().map(|definition| definition.issuer).collect();
        for (id, token, amount) in records.iter().map(read_record) {
            absent.remove(&id);
            if !self.rules.tokens.contains_key(&token) {
                return Err(GenesisError::UnknownToken { id, token });
            }
            *issued.entry(token).or_default() += i128::from(amount.0);
        }
        let absent: Vec<AccountId> = absent.into_iter().collect();
        let id = |number: usize| match records.get(number) {
            Some(record) => read_record(record).0,
            None => absent[number - records.len()],
        };
        let account = |number: usize| {
            let mut account = Account::new(id(number));
            if let Some(record) = records.get(number) {
                let (_, token, amount) = read_record(record);
                assert!(account.set_balance(token, Balance::new(amount.0.into())), "a new account holds one token");
            }
            account
        };
        let built = State::of_accounts(self.state_depth, records.len() + absent.len(), id, account);
        let mut state = built.map_err(|(id, error)| GenesisError::Open { id, error })?;
        self.charge_issuers(&mut state, &issued)?;
        Ok(state)
    }

    /// Each issuer owes what the accounts hold.
    fn charge_issuers(&self, state: &mut State, issued: &BTreeMap<TokenId, i128>) -> Result<(), GenesisError> {
        for (token, definition) in &self.rules.tokens {
            let id = definition.issuer;
            let mut account = state.account(&id).cloned().expect("every issuer was opened");
            let owed = issued.get(token).copied().unwrap_or(0);
            let balance = Balance::new(account.balance(*token).units() - owed);
            if !account.set_balance(*token, balance) {
                return Err(field("token.issuer", id, "an account issues at most 1,024 tokens"));
            }
            assert!(state.replace(account), "it was found just now");
        }
        Ok(())
    }
}

fn parse_validator(entry: &ValidatorEntry) -> Result<Validator, GenesisError> {
    let key = PublicKey::from_hex(&entry.key)
        .ok_or_else(|| field("validator.key", &entry.key, "an ed25519 public key in 64 hexadecimal digits"))?;
    let (name, address) = (entry.name.clone(), entry.address.clone());
    Ok(Validator { name, key, stake: entry.stake, address })
}

fn field(name: &str, found: impl ToString, expected: impl ToString) -> GenesisError {
    GenesisError::Field { field: name.into(), found: found.to_string(), expected: expected.to_string() }
}

/// The digest by which genesis names an account file.
pub fn accounts_digest(account_file: &[u8]) -> [u8; 32] {
    hash_parts(ACCOUNTS_DOMAIN, &[account_file])
}

/// The bytes of an account file.
pub fn account_file(records: impl ExactSizeIterator<Item = (AccountId, TokenId, Amount)>) -> Vec<u8> {
    let mut encoder = Encoder::with_capacity(16 + records.len() * ACCOUNT_RECORD_BYTES);
    encoder.raw(ACCOUNTS_MAGIC).u64(records.len() as u64);
    for (id, token, amount) in records {
        encoder.raw(&id.0).u32(token.0).u64(amount.0);
    }
    encoder.finish()
}

/// Reads the records of an account file; its length must be exactly what its count says.
pub fn account_records(
    account_file: &[u8],
) -> Result<impl ExactSizeIterator<Item = (AccountId, TokenId, Amount)> + '_, GenesisError> {
    Ok(records_of(account_file)?.iter().map(read_record))
}

fn records_of(account_file: &[u8]) -> Result<&[[u8; ACCOUNT_RECORD_BYTES]], GenesisError> {
    let mut decoder = Decoder::new(account_file);
    if decoder.raw(8).ok() != Some(&ACCOUNTS_MAGIC[..]) {
        return Err(GenesisError::NotAnAccountFile);
    }
    let count = decoder.u64()?;
    let (records, rest) = account_file[16..].as_chunks::<ACCOUNT_RECORD_BYTES>();
    if records.len() as u64 != count || !rest.is_empty() {
        let found = account_file.len() as u64;
        return Err(DecodeError::Invalid { what: "length of the account file", found }.into());
    }
    Ok(records)
}

fn read_record(record: &[u8; ACCOUNT_RECORD_BYTES]) -> (AccountId, TokenId, Amount) {
    let mut decoder = Decoder::new(record);
    let id = AccountId(decoder.array().expect("44 bytes hold an id"));
    let token = TokenId(decoder.u32().expect("44 bytes hold a token"));
    (id, token, Amount(decoder.u64().expect("44 bytes hold an amount")))
}
