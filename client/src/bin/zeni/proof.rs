//! `zeni proof`: finality receipts, fetched from an API server and checked with the genesis file alone.

use std::collections::VecDeque;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, Subcommand};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use zeni_client::api::{ApiClient, ApiError};
use zeni_ledger::finality_receipt::{FINALITY_RECEIPT_BYTES_MAX, Fact, Proven};
use zeni_ledger::{AccountId, FinalityReceipt, Genesis, GenesisId, Outcome, TransactionId};

use super::proven::proven_answer;
use super::{Answer, Failure, Server, parse_account, usage};

/// Proofs of one call, at most.
const PROOFS_MAX: usize = 100_000;
/// Bytes of the largest genesis file, and of the largest list of ids.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Tries of one proof that the server is too busy for.
const BUSY_TRIES_MAX: u32 = 10;
/// Between two tries, if the server does not say.
const PAUSE_S: u64 = 1;
const EXTENSION: &str = "proof";

#[derive(Subcommand)]
pub(super) enum ProofCommand {
    /// Checks a proof without a network and tells what it proves.
    Verify {
        file: PathBuf,
        #[command(flatten)]
        genesis: GenesisFile,
        #[command(flatten)]
        expected: Expected,
    },
    /// Fetches the proofs of payments.
    Get(Get),
    /// Fetches the proof of what an account holds at the last final block, or that it does not exist.
    Account {
        /// The account, zeni1….
        account: String,
        #[command(flatten)]
        out: Out,
        #[command(flatten)]
        server: Server,
    },
    /// Replaces every byte of proofs, one after the other, by one random other value, and expects each such file to be
    /// refused. A test of this program, not of the proofs.
    Selftest {
        /// Proofs, or directories of them (*.proof).
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        genesis: GenesisFile,
        /// Repeats a run. Without it: a random one, which is told.
        #[arg(long)]
        seed: Option<u64>,
    },
}

#[derive(Args)]
pub(super) struct GenesisFile {
    /// The ledger's genesis file: whom the proof must convince trusts this file and nothing else.
    #[arg(long)]
    genesis: PathBuf,
}

/// What the proof must prove. Without any of them every proof that holds is good, of a rejected payment too.
#[derive(Args)]
pub(super) struct Expected {
    /// It must be of this payment: 64 hexadecimal digits.
    #[arg(long, value_name = "ID", conflicts_with = "account")]
    payment: Option<String>,
    /// The payment must have moved the money; a proof that it was rejected is refused.
    #[arg(long, conflicts_with = "account")]
    applied: bool,
    /// It must be of this account, zeni1….
    #[arg(long)]
    account: Option<String>,
}

#[derive(Args)]
pub(super) struct Get {
    /// Payments' ids, 64 hexadecimal digits each.
    ids: Vec<String>,
    /// A file with more of them, one a line.
    #[arg(long)]
    ids_file: Option<PathBuf>,
    /// Takes the payments that the blocks from this height on executed.
    #[arg(long, requires = "count")]
    from_block: Option<u64>,
    /// How many of them.
    #[arg(long, requires = "from_block")]
    count: Option<usize>,
    /// Seconds to wait for payments that are not final yet.
    #[arg(long, default_value_t = 0)]
    wait: u64,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    server: Server,
}

#[derive(Args)]
pub(super) struct Out {
    /// The directory to write to, made if it is not there. A proof that is there already is replaced.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

pub(super) async fn run(command: ProofCommand) -> Result<Answer, Failure> {
    match command {
        ProofCommand::Verify { file, genesis, expected } => {
            let wanted = expected.parse()?;
            let (genesis, id) = genesis.load()?;
            let proven = check(&file, &read_proof(&file)?, &genesis, &id)?;
            let answer = proven_answer(&proven, &genesis, &id);
            match wanted.missed_by(&proven.fact) {
                None => Ok(answer),
                Some(what) => {
                    let file = file.display().to_string();
                    Err(Failure::OtherProof { file, what, proves: answer.text })
                }
            }
        }
        ProofCommand::Get(get) => fetch(&get).await,
        ProofCommand::Account { account, out, server } => {
            let account = parse_account("ACCOUNT", &account)?;
            let bytes = server.client()?.account_proof(&account).await?;
            let file = out.write(&format!("account-{account}"), &bytes)?;
            Ok(Answer { json: json!({ "files": [file.display().to_string()] }), text: file.display().to_string() })
        }
        ProofCommand::Selftest { paths, genesis, seed } => {
            let (genesis, id) = genesis.load()?;
            selftest(&collect(&paths)?, &genesis, &id, seed.unwrap_or_else(rand::random))
        }
    }
}

impl GenesisFile {
    fn load(&self) -> Result<(Genesis, GenesisId), Failure> {
        let bytes = read(&self.genesis, TEXT_BYTES_MAX)?;
        let refused = |reason: String| usage(format!("--genesis {}: {reason}", self.genesis.display()));
        let text = String::from_utf8(bytes).map_err(|error| refused(error.to_string()))?;
        let genesis = Genesis::from_toml(&text).map_err(|error| refused(error.to_string()))?;
        let id = genesis.id();
        Ok((genesis, id))
    }
}

/// [`Expected`], parsed.
struct Wanted {
    payment: Option<TransactionId>,
    applied: bool,
    account: Option<AccountId>,
}

impl Expected {
    fn parse(&self) -> Result<Wanted, Failure> {
        Ok(Wanted {
            payment: self.payment.as_deref().map(parse_id).transpose()?,
            applied: self.applied,
            account: self.account.as_deref().map(|account| parse_account("--account", account)).transpose()?,
        })
    }
}

impl Wanted {
    /// What a true statement is not that it should be.
    fn missed_by(&self, fact: &Fact) -> Option<&'static str> {
        let of_payment = self.payment.is_some() || self.applied;
        match fact {
            Fact::Payment { .. } if self.account.is_some() => Some("it is of a payment, not of an account"),
            Fact::Account { .. } if of_payment => Some("it is of an account, not of a payment"),
            Fact::Payment { id, .. } if self.payment.is_some_and(|payment| payment != *id) => {
                Some("it is of another payment")
            }
            Fact::Account { id, .. } if self.account.is_some_and(|account| account != *id) => {
                Some("it is of another account")
            }
            Fact::Payment { outcome: Outcome::Rejected(_), .. } if self.applied => {
                Some("the payment was rejected: no money moved")
            }
            Fact::Payment { .. } | Fact::Account { .. } => None,
        }
    }
}

impl Out {
    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let file = self.out.join(format!("{name}.{EXTENSION}"));
        let written = std::fs::create_dir_all(&self.out).and_then(|()| std::fs::write(&file, bytes));
        written.map_err(|error| Failure::Io(format!("{} cannot be written: {error}", file.display())))?;
        Ok(file)
    }
}

/// Reads a file of at most `bytes_max` bytes.
fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let bytes = read_at_most(path, bytes_max + 1)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::Io(format!("{} is longer than {bytes_max} bytes", path.display())));
    }
    Ok(bytes)
}

/// Reads a proof. One byte more than the longest tells the checker that it is too long.
fn read_proof(path: &Path) -> Result<Vec<u8>, Failure> {
    read_at_most(path, FINALITY_RECEIPT_BYTES_MAX as u64 + 1)
}

fn read_at_most(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::Io(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(bytes_max).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn check(file: &Path, bytes: &[u8], genesis: &Genesis, id: &GenesisId) -> Result<Proven, Failure> {
    FinalityReceipt::check(bytes, genesis, id)
        .map_err(|error| Failure::Proof { file: file.display().to_string(), error })
}

async fn fetch(get: &Get) -> Result<Answer, Failure> {
    let client = get.server.client()?;
    let mut ids = get.ids.iter().map(|text| parse_id(text)).collect::<Result<VecDeque<_>, _>>()?;
    if let Some(path) = &get.ids_file {
        let text = read(path, TEXT_BYTES_MAX)?;
        let text = String::from_utf8(text).map_err(|error| usage(format!("{}: {error}", path.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        ids.extend(lines.map(parse_id).collect::<Result<Vec<_>, _>>()?);
    }
    if let (Some(height), Some(count)) = (get.from_block, get.count) {
        if count > PROOFS_MAX {
            return Err(usage(format!("--count is at most {PROOFS_MAX}")));
        }
        ids.extend(executed(&client, height, count).await?);
    }
    if ids.is_empty() {
        return Err(usage("name payments by their ids, by --ids-file, or by --from-block and --count"));
    }
    if ids.len() > PROOFS_MAX {
        return Err(usage(format!("{} proofs in one call; ask for at most {PROOFS_MAX}", ids.len())));
    }
    let deadline = Instant::now() + Duration::from_secs(get.wait);
    let mut files = Vec::with_capacity(ids.len());
    for id in ids {
        let bytes = fetch_one(&client, &id, deadline).await?;
        files.push(get.out.write(&format!("payment-{id}"), &bytes)?.display().to_string());
    }
    let text = match &files[..] {
        [file] => file.clone(),
        files => format!("{} proofs in {}", files.len(), get.out.out.display()),
    };
    Ok(Answer { json: json!({ "files": files }), text })
}

/// One proof; comes back while the server is busy, and for what is not final yet until the deadline.
async fn fetch_one(client: &ApiClient, id: &TransactionId, deadline: Instant) -> Result<Bytes, Failure> {
    let mut tries = 1;
    loop {
        let error = match client.payment_proof(id).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        let again = match error.code() {
            Some("overloaded") => tries < BUSY_TRIES_MAX,
            Some("not_final_yet") => Instant::now() < deadline,
            _ => false,
        };
        if !again {
            return Err(error.into());
        }
        tries += 1;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(PAUSE_S));
        tokio::time::sleep(Duration::from_secs(error.retry_after_s().unwrap_or(PAUSE_S)).min(left)).await;
    }
}

/// Ids of `count` payments that the blocks from `height` on executed.
async fn executed(client: &ApiClient, height: u64, count: usize) -> Result<Vec<TransactionId>, Failure> {
    let (mut ids, mut height, mut from) = (Vec::new(), height, 0);
    while ids.len() < count {
        let page = match client.block_payments(height, from).await {
            Err(ApiError::Problem { code, .. }) if code == "unknown_block" => {
                let found = ids.len();
                return Err(usage(format!("the blocks below {height} executed {found} payments, fewer than {count}")));
            }
            page => page?,
        };
        from = from.saturating_add(u32::try_from(page.payments.len()).unwrap_or(u32::MAX));
        if page.payments.is_empty() || from >= page.receipts {
            (height, from) = (height + 1, 0);
        }
        let left = count - ids.len();
        for payment in page.payments.iter().take(left) {
            let malformed = || Failure::Io("the API server's payment id is malformed".into());
            ids.push(TransactionId::from_hex(&payment.id).ok_or_else(malformed)?);
        }
    }
    Ok(ids)
}

fn parse_id(text: &str) -> Result<TransactionId, Failure> {
    TransactionId::from_hex(text).ok_or_else(|| usage(format!("{text:?}: an id is 64 hexadecimal digits")))
}

/// The proofs that these paths name, in one order whatever the file system's.
fn collect(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = |error| Failure::Io(format!("{} cannot be read: {error}", path.display()));
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push(file);
            }
        }
    }
    files.sort_unstable();
    match files.len() {
        0 => Err(usage(format!("there are no *.{EXTENSION} files"))),
        found if found > PROOFS_MAX => Err(usage(format!("{found} proofs; at most {PROOFS_MAX} in one call"))),
        _ => Ok(files),
    }
}

/// Each file must hold, and none of them with any byte replaced.
fn selftest(files: &[PathBuf], genesis: &Genesis, id: &GenesisId, seed: u64) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let share = files.len().div_ceil(workers);
    let tried = std::thread::scope(|scope| {
        let shares: Vec<_> = files
            .chunks(share)
            .enumerate()
            .map(|(number, files)| scope.spawn(move || selftest_share(files, genesis, id, seed, number * share)))
            .collect();
        let mut tried = 0;
        for share in shares {
            tried += share.join().unwrap_or_else(|_| Err(Failure::Io("a thread panicked".into())))?;
        }
        Ok::<usize, Failure>(tried)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let json = json!({ "files": files.len(), "changed": tried, "refused": tried, "seed": seed, "seconds": seconds });
    let text = format!(
        "{} proofs hold; each of the {tried} files with one byte replaced is refused (seed {seed}, {seconds:.1} s)",
        files.len()
    );
    Ok(Answer { json, text })
}

/// How many changed files were refused: all of them. The file at place n draws from the seed plus n.
fn selftest_share(
    files: &[PathBuf],
    genesis: &Genesis,
    id: &GenesisId,
    seed: u64,
    first: usize,
) -> Result<usize, Failure> {
    let mut tried = 0;
    for (place, file) in files.iter().enumerate() {
        let bytes = read_proof(file)?;
        check(file, &bytes, genesis, id)?;
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add((first + place) as u64));
        let other = |byte: u8| byte.wrapping_add(rng.random_range(1..=u8::MAX));
        if let Some(place) = FinalityReceipt::first_accepted_change(&bytes, genesis, id, other) {
            return Err(Failure::Accepted { file: file.display().to_string(), place, seed });
        }
        tried += bytes.len();
    }
    Ok(tried)
}
