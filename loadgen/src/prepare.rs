//! Makes a storm's input once: a genesis, its account file and every payment already signed.
//!
//! Signing is the expensive part (about 35 µs a payment), and a load generator that signs while it storms measures
//! itself. So all of it is on disk before, in a directory named by its parameters, and later runs use it again. The
//! payments are signed over the genesis id; their `valid_until` is the last that genesis allows, which is how long the
//! directory stays good.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zeni_ledger::genesis::{
    ACCOUNT_RECORD_BYTES, ACCOUNTS_MAGIC, FaultModel, Purpose, Rules, Token, Validator, accounts_digest,
};
use zeni_ledger::hash::hash_parts;
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{AccountId, Amount, Genesis, GenesisId, Payment};

use crate::plan::{self, NETWORK, Payer, Plan, Receivers, Role, TOKEN};

/// How long prepared payments are valid: the longest validity that a storm's genesis grants.
pub const VALIDITY_S: u32 = 7 * 86_400;
/// Prepared data is made again once less than this is left of its validity, so that no run outlives it.
pub const VALIDITY_LEFT_MIN_S: u64 = 86_400;
/// Names of the files in a prepared directory.
pub const GENESIS_FILE: &str = "genesis.toml";
pub const ACCOUNTS_FILE: &str = "accounts.bin";
pub const PAYMENTS_FILE: &str = "payments.bin";
pub const META_FILE: &str = "meta.json";

/// Counts up whenever the same parameters would give other files.
const FORMAT: u32 = 1;
const KEY_DOMAIN: &str = "zeni storm data v1";
/// Accounts or payments that are in memory at a time: 11.5 MB of payments.
const CHUNK: u64 = 65_536;
/// Payers whose payments are made together, at least, if there are so many: their payments lie together in the file.
const PAYERS_MIN: u64 = 1_024;
/// Work that takes longer than this tells how far it is.
const SILENT: Duration = Duration::from_secs(2);

/// What decides the content of a prepared directory, apart from the moment of its making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    pub seed: u64,
    pub accounts: u64,
    pub nodes: u16,
    pub block_interval_ms: u64,
    /// The state tree has 2^depth buckets.
    pub state_depth: u32,
    /// Batches that one block may list.
    pub batches_max: u32,
    /// Not written for the crash model, so that what was prepared before there was a choice keeps its name.
    #[serde(default = "crash", skip_serializing_if = "is_crash")]
    pub fault_model: FaultModel,
    /// Accounts that pay; all if absent. Not written then, and so for the next two, so that what was prepared before keeps
    /// its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paying_accounts: Option<u64>,
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub payments_per_account: u64,
    #[serde(default, skip_serializing_if = "is_hot")]
    pub receivers: Receivers,
}

/// How often an account pays of which nothing is said.
pub const fn once() -> u64 {
    1
}

/// Whether it need not be written down.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub const fn is_once(payments: &u64) -> bool {
    *payments == 1
}

/// Whether it need not be written down.
pub fn is_hot(receivers: &Receivers) -> bool {
    *receivers == Receivers::Hot
}

/// The fault model of whoever does not choose one.
pub const fn crash() -> FaultModel {
    FaultModel::Crash
}

/// Whether it need not be written down.
pub fn is_crash(model: &FaultModel) -> bool {
    *model == FaultModel::Crash
}

/// What `meta.json` tells of a prepared directory. It is written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    pub format: u32,
    pub parameters: Parameters,
    /// 64 hexadecimal digits.
    pub genesis_id: String,
    /// Unix milliseconds; also the genesis time.
    pub created_ms: u64,
    /// Unix seconds; of every payment.
    pub valid_until: u32,
    pub payments: u64,
    /// How long making it took, in milliseconds.
    pub prepare_ms: u64,
}

/// Why input cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("{action} {}: {error}", path.display())]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error("a storm has 1 to {most} accounts, not {found}", most = ACCOUNTS_MAX)]
    Accounts { found: u64 },
    #[error(
        "{payers} of {accounts} accounts that pay {payments_per_account} times each are no storm: one at least, two if they \
         pay each other, and {PAYMENTS_MAX} payments at most"
    )]
    Payments { accounts: u64, payers: u64, payments_per_account: u64 },
    #[error("genesis would be refused: {0}")]
    Genesis(#[from] zeni_ledger::genesis::GenesisError),
    #[error("{} does not describe prepared input: {what}; delete the directory and prepare again", path.display())]
    Meta { path: PathBuf, what: String },
}

/// Accounts of one storm, at most.
pub const ACCOUNTS_MAX: u64 = 100_000_000;
/// Payments of one storm, at most: the book keeps a few bytes of each in memory.
pub const PAYMENTS_MAX: u64 = 100_000_000;

impl Parameters {
    pub fn plan(&self) -> Plan {
        Plan {
            seed: self.seed,
            accounts: self.accounts,
            payers: self.paying_accounts.unwrap_or(self.accounts),
            payments_per_account: self.payments_per_account,
            receivers: self.receivers,
        }
    }

    fn check(&self) -> Result<(), PrepareError> {
        let (accounts, payments_per_account) = (self.accounts, self.payments_per_account);
        if !(1..=ACCOUNTS_MAX).contains(&accounts) {
            return Err(PrepareError::Accounts { found: accounts });
        }
        let payers = self.paying_accounts.unwrap_or(accounts);
        let least = if self.receivers == Receivers::Spread { 2 } else { 1 };
        let payments =
            payers.checked_mul(payments_per_account).filter(|payments| (1..=PAYMENTS_MAX).contains(payments));
        match payments.filter(|_| (least..=accounts).contains(&payers)) {
            Some(_) => Ok(()),
            None => Err(PrepareError::Payments { accounts, payers, payments_per_account }),
        }
    }

    /// Three nodes, twenty accounts and blocks of a second.
    #[cfg(test)]
    pub(crate) fn small(seed: u64) -> Self {
        Self {
            seed,
            accounts: 20,
            nodes: 3,
            block_interval_ms: 1_000,
            state_depth: 4,
            batches_max: 64,
            fault_model: FaultModel::Crash,
            paying_accounts: None,
            payments_per_account: 1,
            receivers: Receivers::Hot,
        }
    }

    /// Names the directory: readable in front, exact behind.
    pub fn key(&self) -> String {
        let text = serde_json::to_vec(&(FORMAT, self)).expect("plain numbers");
        let digest = GenesisId(hash_parts(KEY_DOMAIN, &[&text])).to_string();
        format!("{}-{}", self.accounts, &digest[..12])
    }
}

/// A complete prepared directory.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub directory: PathBuf,
    pub meta: Meta,
    pub genesis: Genesis,
    pub genesis_id: GenesisId,
    /// Whether an earlier run had made it.
    pub reused: bool,
}

impl Prepared {
    pub fn plan(&self) -> Plan {
        self.meta.parameters.plan()
    }

    pub fn accounts_file(&self) -> PathBuf {
        self.directory.join(ACCOUNTS_FILE)
    }

    pub fn payments_file(&self) -> PathBuf {
        self.directory.join(PAYMENTS_FILE)
    }

    /// Opens a directory that [`prepare`] completed and checks that its parts belong together.
    pub fn open(directory: &Path) -> Result<Self, PrepareError> {
        let path = directory.join(META_FILE);
        let text = fs::read(&path).map_err(file_error("reading", &path))?;
        let damaged = |what: String| PrepareError::Meta { path: path.clone(), what };
        let meta: Meta = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let genesis_path = directory.join(GENESIS_FILE);
        let genesis = fs::read_to_string(&genesis_path).map_err(file_error("reading", &genesis_path))?;
        let genesis = Genesis::from_toml(&genesis)?;
        let genesis_id = genesis.id();
        if genesis_id.to_string() != meta.genesis_id {
            return Err(damaged(format!("the genesis beside it has the id {genesis_id}, not {}", meta.genesis_id)));
        }
        let payments = directory.join(PAYMENTS_FILE);
        let length = fs::metadata(&payments).map_err(file_error("reading", &payments))?.len();
        if length != meta.payments * PAYMENT_BYTES as u64 {
            return Err(damaged(format!("the payments beside it have {length} bytes")));
        }
        Ok(Self { directory: directory.to_path_buf(), meta, genesis, genesis_id, reused: true })
    }

    fn usable(&self, parameters: &Parameters, now_ms: u64) -> bool {
        let left_s = u64::from(self.meta.valid_until).saturating_sub(now_ms / 1_000);
        self.meta.format == FORMAT && self.meta.parameters == *parameters && left_s >= VALIDITY_LEFT_MIN_S
    }
}

/// Gives the prepared directory of these parameters below `root`, making it unless a complete and fresh one is there.
pub fn prepare(root: &Path, parameters: &Parameters, now_ms: u64) -> Result<Prepared, PrepareError> {
    parameters.check()?;
    let directory = root.join(parameters.key());
    match Prepared::open(&directory) {
        Ok(prepared) if prepared.usable(parameters, now_ms) => return Ok(prepared),
        Ok(_) => remove(&directory)?,
        Err(error) if directory.exists() => {
            eprintln!("loadgen: making prepared input again: {error}");
            remove(&directory)?;
        }
        Err(_) => {}
    }
    let unfinished = root.join(format!(".{}.{}", parameters.key(), std::process::id()));
    if unfinished.exists() {
        remove(&unfinished)?;
    }
    fs::create_dir_all(&unfinished).map_err(file_error("creating", &unfinished))?;
    make(&unfinished, parameters, now_ms)?;
    fs::rename(&unfinished, &directory).map_err(file_error("renaming to", &directory))?;
    let prepared = Prepared::open(&directory)?;
    Ok(Prepared { reused: false, ..prepared })
}

fn make(directory: &Path, parameters: &Parameters, now_ms: u64) -> Result<(), PrepareError> {
    let started = Instant::now();
    let plan = parameters.plan();
    let accounts = directory.join(ACCOUNTS_FILE);
    write_accounts(&accounts, &plan)?;
    // The digest is over the whole file: 44 bytes an account, read once, as every node does at its start.
    let bytes = fs::read(&accounts).map_err(file_error("reading", &accounts))?;
    let genesis = genesis(parameters, now_ms, accounts_digest(&bytes));
    // Parsing it again applies every check that a node will.
    let genesis = Genesis::from_toml(&genesis.to_toml())?;
    let path = directory.join(GENESIS_FILE);
    fs::write(&path, genesis.to_toml()).map_err(file_error("writing", &path))?;
    let valid_until = valid_until(now_ms);
    write_payments(&directory.join(PAYMENTS_FILE), &plan, &bytes, valid_until, &genesis.id())?;
    let meta = Meta {
        format: FORMAT,
        parameters: parameters.clone(),
        genesis_id: genesis.id().to_string(),
        created_ms: now_ms,
        valid_until,
        payments: plan.payments(),
        prepare_ms: started.elapsed().as_millis() as u64,
    };
    let path = directory.join(META_FILE);
    let text = serde_json::to_string_pretty(&meta).expect("plain fields");
    fs::write(&path, text).map_err(file_error("writing", &path))
}

/// The last `valid_until` that a block in slot 0 accepts, and so every later one.
fn valid_until(genesis_ms: u64) -> u32 {
    u32::try_from(genesis_ms / 1_000).expect("genesis refuses times beyond 32 bits of seconds") + VALIDITY_S
}

fn genesis(parameters: &Parameters, now_ms: u64, accounts_digest: [u8; 32]) -> Genesis {
    let plan = parameters.plan();
    let issuer = plan::account_of(&plan.role_key(Role::Issuer));
    let token = Token { symbol: "STORM".into(), decimals: 6, issuer };
    let validators = (0..parameters.nodes).map(|place| Validator {
        name: node_name(place),
        key: plan::public_of(&plan.role_key(Role::Validator(place))),
        stake: 1,
        address: format!("127.0.0.1:{}", 7_001 + place),
    });
    Genesis {
        purpose: Purpose::Test,
        fault_model: parameters.fault_model,
        time_ms: now_ms,
        block_interval_ms: parameters.block_interval_ms,
        state_depth: parameters.state_depth,
        batches_max: parameters.batches_max,
        rules: Rules { network: NETWORK, validity_max_s: VALIDITY_S, tokens: [(TOKEN, token)].into() },
        validators: validators.collect(),
        accounts: parameters.accounts + 1,
        accounts_digest,
        accounts_file: ACCOUNTS_FILE.into(),
    }
}

/// The name of the validator at this place, from `node-1`.
pub fn node_name(place: u16) -> String {
    format!("node-{}", place + 1)
}

/// The account file in the format of `zeni_ledger::genesis`, without ever holding it whole.
fn write_accounts(path: &Path, plan: &Plan) -> Result<(), PrepareError> {
    let write_error = || file_error("writing", path);
    let mut file = BufWriter::new(File::create(path).map_err(write_error())?);
    file.write_all(ACCOUNTS_MAGIC).map_err(write_error())?;
    file.write_all(&(plan.accounts + 1).to_le_bytes()).map_err(write_error())?;
    let mut progress = Progress::new("accounts", plan.accounts);
    let mut records = Vec::new();
    for start in (1..=plan.accounts).step_by(CHUNK as usize) {
        let end = (start + CHUNK).min(plan.accounts + 1);
        let made = (0..(end - start) as usize).into_par_iter().map(|offset| {
            let number = start + offset as u64;
            let account = plan::account_of(&plan.account_key(number));
            account_record(&account, plan.holding(number))
        });
        made.collect_into_vec(&mut records);
        file.write_all(records.as_flattened()).map_err(write_error())?;
        progress.reached(end - 1);
    }
    file.write_all(&account_record(&plan.receiver(), Amount(0))).map_err(write_error())?;
    file.into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all()).map_err(write_error())
}

/// The account with this number in the account file.
fn account_at(accounts: &[u8], number: u64) -> AccountId {
    let at = ACCOUNTS_MAGIC.len() + size_of::<u64>() + (number as usize - 1) * ACCOUNT_RECORD_BYTES;
    AccountId(accounts[at..at + 32].try_into().expect("32 bytes"))
}

fn account_record(account: &AccountId, amount: Amount) -> [u8; ACCOUNT_RECORD_BYTES] {
    let mut record = [0; ACCOUNT_RECORD_BYTES];
    record[..32].copy_from_slice(&account.0);
    record[32..36].copy_from_slice(&TOKEN.0.to_le_bytes());
    record[36..].copy_from_slice(&amount.0.to_le_bytes());
    record
}

/// Payers in turn, each with a number of its payments, so that its keys are made once for all of these: making them costs as
/// much as signing one payment, so public keys are read from the account file, whose bytes `accounts` are.
fn write_payments(
    path: &Path,
    plan: &Plan,
    accounts: &[u8],
    valid_until: u32,
    genesis: &GenesisId,
) -> Result<(), PrepareError> {
    let write_error = || file_error("writing", path);
    let file = File::create(path).map_err(write_error())?;
    let hot = plan.receiver();
    let mut progress = Progress::new("payments", plan.payments());
    let mut done = 0;
    let (mut payers, mut payments): (Vec<Payer>, Vec<Payment>) = (Vec::new(), Vec::new());
    let together = (CHUNK / plan.payments_per_account).clamp(PAYERS_MIN, CHUNK).min(plan.payers);
    let rounds = CHUNK / together;
    for first in (0..plan.payers).step_by(together as usize) {
        let count = together.min(plan.payers - first) as usize;
        let account = |number| account_at(accounts, number);
        let known = (0..count).into_par_iter().map(|offset| plan.payer(first + offset as u64, hot, account));
        known.collect_into_vec(&mut payers);
        for round in (0..plan.payments_per_account).step_by(rounds as usize) {
            let rows = rounds.min(plan.payments_per_account - round);
            let signed = (0..count * rows as usize).into_par_iter().map(|place| {
                let (row, offset) = (place / count, place % count);
                let index = (round + row as u64) * plan.payers + first + offset as u64;
                plan.payment(index, &payers[offset], valid_until, genesis)
            });
            signed.collect_into_vec(&mut payments);
            for (row, payments) in payments.chunks(count).enumerate() {
                let index = (round + row as u64) * plan.payers + first;
                let at = index * PAYMENT_BYTES as u64;
                file.write_all_at(Payment::slice_as_bytes(payments), at).map_err(write_error())?;
            }
            done += payments.len() as u64;
            progress.reached(done);
        }
    }
    file.sync_all().map_err(write_error())
}

fn remove(directory: &Path) -> Result<(), PrepareError> {
    fs::remove_dir_all(directory).map_err(file_error("removing", directory))
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrepareError + use<> {
    let path = path.to_path_buf();
    move |error| PrepareError::File { action, path, error }
}

/// Tells on stderr how far long work is, once a second.
struct Progress {
    what: &'static str,
    total: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    fn new(what: &'static str, total: u64) -> Self {
        Self { what, total, started: Instant::now(), told: Instant::now() }
    }

    fn reached(&mut self, done: u64) {
        if self.started.elapsed() < SILENT || (self.told.elapsed() < Duration::from_secs(1) && done < self.total) {
            return;
        }
        self.told = Instant::now();
        let rate = done as f64 / self.started.elapsed().as_secs_f64();
        let left_s = (self.total - done) as f64 / rate.max(1.0);
        eprintln!("preparing {}: {done} of {}, {rate:.0}/s, {left_s:.0} s left", self.what, self.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signature, VerifyingKey};

    const NOW_MS: u64 = 1_760_000_000_123;

    fn parameters() -> Parameters {
        Parameters {
            accounts: 300,
            block_interval_ms: 3_000,
            state_depth: 6,
            batches_max: 2_048,
            ..Parameters::small(11)
        }
    }

    #[test]
    fn the_same_seed_and_moment_give_the_same_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = prepare(one.path(), &parameters(), NOW_MS).unwrap();
        let two = prepare(two.path(), &parameters(), NOW_MS).unwrap();
        for file in [GENESIS_FILE, ACCOUNTS_FILE, PAYMENTS_FILE] {
            let read = |prepared: &Prepared| fs::read(prepared.directory.join(file)).unwrap();
            assert!(read(&one) == read(&two), "{file} differs");
        }
    }

    #[test]
    fn the_fault_model_is_genesis_and_the_crash_model_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let crash = serde_json::to_string(&parameters()).unwrap();
        assert!(!crash.contains("fault_model"), "{crash}");
        let byzantine = Parameters { fault_model: FaultModel::Byzantine, nodes: 4, ..parameters() };
        assert_ne!(byzantine.key(), Parameters { nodes: 4, ..parameters() }.key());
        let prepared = prepare(root.path(), &byzantine, NOW_MS).unwrap();
        assert_eq!(prepared.genesis.fault_model, FaultModel::Byzantine);
        assert_eq!(Prepared::open(&prepared.directory).unwrap().meta.parameters, byzantine);
    }

    #[test]
    fn another_seed_gives_other_payments_and_another_directory() {
        let root = tempfile::tempdir().unwrap();
        let one = prepare(root.path(), &parameters(), NOW_MS).unwrap();
        let two = prepare(root.path(), &Parameters { seed: 12, ..parameters() }, NOW_MS).unwrap();
        assert_ne!(one.directory, two.directory);
        assert_ne!(fs::read(one.payments_file()).unwrap(), fs::read(two.payments_file()).unwrap());
    }

    #[test]
    fn a_complete_directory_is_used_again_until_it_is_too_old() {
        let root = tempfile::tempdir().unwrap();
        let first = prepare(root.path(), &parameters(), NOW_MS).unwrap();
        assert!(!first.reused);
        let later_ms = NOW_MS + 5 * 86_400_000;
        let second = prepare(root.path(), &parameters(), later_ms).unwrap();
        assert!(second.reused);
        assert_eq!(second.meta, first.meta);
        let too_late_ms = NOW_MS + 7 * 86_400_000;
        let third = prepare(root.path(), &parameters(), too_late_ms).unwrap();
        assert!(!third.reused);
        assert_eq!(third.meta.created_ms, too_late_ms);
    }

    #[test]
    fn an_incomplete_directory_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let first = prepare(root.path(), &parameters(), NOW_MS).unwrap();
        let payments = fs::read(first.payments_file()).unwrap();
        fs::write(first.payments_file(), &payments[..payments.len() - 1]).unwrap();
        let second = prepare(root.path(), &parameters(), NOW_MS).unwrap();
        assert!(!second.reused);
        assert!(fs::read(second.payments_file()).unwrap() == payments);
    }

    #[test]
    fn every_payment_verifies_and_is_executable_from_the_first_slot() {
        let root = tempfile::tempdir().unwrap();
        let prepared = prepare(root.path(), &parameters(), NOW_MS).unwrap();
        let bytes = fs::read(prepared.payments_file()).unwrap();
        let payments = Payment::slice_from_bytes(&bytes).unwrap();
        assert_eq!(payments.len() as u64, prepared.plan().payments());
        let rules = &prepared.genesis.rules;
        for (index, payment) in payments.iter().enumerate() {
            let key = VerifyingKey::from_bytes(&payment.signer().0).unwrap();
            let signature = Signature::from_bytes(&payment.signature().0);
            key.verify_strict(&payment.signed_bytes(&prepared.genesis_id), &signature).unwrap();
            assert_eq!(prepared.plan().index_of(payment), Some(index as u64));
            let validity = zeni_ledger::execute::validity(payment, rules, prepared.genesis.slot_time_ms(0));
            assert_eq!(validity, zeni_ledger::execute::Validity::Valid);
        }
    }

    #[test]
    fn executing_all_of_it_leaves_everybody_with_what_the_plan_says() {
        let spread = Receivers::Spread;
        let all = [
            parameters(),
            Parameters { paying_accounts: Some(40), payments_per_account: 7, ..parameters() },
            Parameters { paying_accounts: Some(40), payments_per_account: 7, receivers: spread, ..parameters() },
            Parameters { accounts: 1, payments_per_account: 128, ..parameters() },
            Parameters { receivers: spread, ..parameters() },
        ];
        for parameters in all {
            let root = tempfile::tempdir().unwrap();
            let prepared = prepare(root.path(), &parameters, NOW_MS).unwrap();
            let plan = prepared.plan();
            let mut state = prepared.genesis.state(&fs::read(prepared.accounts_file()).unwrap()).unwrap();
            assert_eq!(state.account(&plan.receiver()).unwrap().balance(TOKEN).units(), 0);
            let bytes = fs::read(prepared.payments_file()).unwrap();
            let payments = Payment::slice_from_bytes(&bytes).unwrap().to_vec();
            let key = plan.role_key(Role::Validator(0));
            let batch =
                zeni_ledger::Batch::sign(zeni_ledger::ValidatorIndex(0), 1, payments, &key, &prepared.genesis_id);
            let batch = zeni_ledger::VerifiedBatch::vouch(batch, &prepared.genesis_id);
            let executed = zeni_ledger::execute::execute(&mut state, &prepared.genesis.rules, NOW_MS, &[batch]);
            assert_eq!((executed.applied, executed.rejected, executed.skipped), (plan.payments(), 0, 0));
            let made = || plan.first(plan.payments());
            let units = |account| state.account(&account).unwrap().balance(TOKEN).units();
            assert_eq!(units(plan.receiver()), plan.received(made()));
            for payer in 0..plan.payers {
                assert_eq!(units(plan.payer_account(payer)), plan.balance(payer, made()), "{parameters:?} {payer}");
            }
        }
    }

    #[test]
    fn what_was_prepared_before_there_was_a_choice_of_payers_keeps_its_name() {
        let text = serde_json::to_string(&parameters()).unwrap();
        for new in ["paying_accounts", "payments_per_account", "receivers"] {
            assert!(!text.contains(new), "{text}");
        }
        assert_eq!(serde_json::from_str::<Parameters>(&text).unwrap(), parameters());
        let few = Parameters { paying_accounts: Some(20), ..parameters() };
        assert_ne!(few.key(), parameters().key());
    }

    #[test]
    fn payers_and_payments_beyond_their_bounds_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let bad = [
            Parameters { paying_accounts: Some(0), ..parameters() },
            Parameters { paying_accounts: Some(301), ..parameters() },
            Parameters { payments_per_account: 0, ..parameters() },
            Parameters { payments_per_account: PAYMENTS_MAX, ..parameters() },
            Parameters { payments_per_account: u64::MAX, ..parameters() },
            Parameters { paying_accounts: Some(1), receivers: Receivers::Spread, ..parameters() },
        ];
        for bad in bad {
            let refused = prepare(root.path(), &bad, NOW_MS);
            assert!(matches!(refused, Err(PrepareError::Payments { .. })), "{bad:?}");
        }
    }

    #[test]
    fn no_accounts_or_too_many_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for accounts in [0, ACCOUNTS_MAX + 1] {
            let refused = prepare(root.path(), &Parameters { accounts, ..parameters() }, NOW_MS);
            assert!(matches!(refused, Err(PrepareError::Accounts { found }) if found == accounts));
        }
    }
}
