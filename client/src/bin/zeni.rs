//! `zeni`: a wallet for the command line. It keeps keys in files, signs here, and speaks HTTP to an API server.

#[path = "zeni/proof.rs"]
mod proof;
#[path = "zeni/proven.rs"]
mod proven;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use zeni_client::api::{ApiClient, ApiError, StatusAnswer};
use zeni_client::wallet::{Key, KeyFileError, Order};
use zeni_consensus::Evidence;
use zeni_consensus::evidence::EVIDENCE_BYTES_MAX;
use zeni_ledger::finality_receipt::FinalityReceiptError;
use zeni_ledger::hash::array_from_hex;
use zeni_ledger::{AccountId, Amount, Genesis, GenesisId, Sequence, TokenId, TransactionId};

/// Bytes of the largest genesis file.
const GENESIS_BYTES_MAX: u64 = 16 << 20;
/// Between two looks at a payment that is waited for.
const POLL: Duration = Duration::from_millis(500);

const EXIT_CODES: &str = "Exit codes: 0 done; 1 the tool failed; 2 wrong usage; 3 the payment was refused or \
                          rejected, or what is to be evidence shows nothing; 4 the outcome is not known yet: ask \
                          with `zeni status`; 5 not found; 6 a proof does not hold.";

#[derive(Parser)]
#[command(name = "zeni", version, about = "Pays and shows balances on a Zeni ledger", after_help = EXIT_CODES)]
struct Cli {
    /// Answer in JSON, one document on standard output.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes keys and shows their accounts.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Signs a payment and submits it.
    Pay(Pay),
    /// Shows what an account holds.
    Balance {
        /// The account, zeni1….
        account: String,
        #[command(flatten)]
        server: Server,
    },
    /// Checks evidence against validators.
    #[command(subcommand)]
    Evidence(EvidenceCommand),
    /// Shows how certain a payment is.
    Status {
        /// The payment's id, 64 hexadecimal digits.
        id: String,
        #[command(flatten)]
        server: Server,
    },
    /// Fetches proofs that a payment or an account's balance is final, and checks them without a network.
    #[command(subcommand)]
    Proof(proof::ProofCommand),
}

#[derive(Subcommand)]
enum EvidenceCommand {
    /// Checks a piece, as `GET /v1/evidence/ID` or `node evidence --export` give it, without a network.
    Verify {
        file: PathBuf,
        /// The ledger's genesis file.
        #[arg(long)]
        genesis: PathBuf,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Writes a new key file, which only you can read, and shows its account. Never overwrites.
    New { file: PathBuf },
    /// Shows the account of a key file.
    Show { file: PathBuf },
}

#[derive(Args)]
struct Server {
    /// The API server.
    #[arg(long, env = "ZENI_API", default_value = "http://127.0.0.1:8080")]
    api: String,
    /// Seconds for each request.
    #[arg(long, default_value_t = 20)]
    request_timeout: u64,
}

#[derive(Args)]
struct Pay {
    /// The payer's key file.
    #[arg(long)]
    key: PathBuf,
    /// The receiving account, zeni1….
    #[arg(long)]
    to: String,
    /// How much, in the token's minor units: digits alone.
    #[arg(long)]
    amount: String,
    /// The token's number.
    #[arg(long)]
    token: u32,
    /// Your own reference, up to 32 hexadecimal digits.
    #[arg(long, default_value = "")]
    reference: String,
    /// The payment's sequence. Without it: the account's next one.
    #[arg(long)]
    sequence: Option<u64>,
    /// Seconds after which the payment can no longer be executed.
    #[arg(long, default_value_t = 600)]
    valid_for: u32,
    /// What to wait for.
    #[arg(long, value_enum, default_value_t = WaitFor::Accepted)]
    wait: WaitFor,
    /// Seconds to wait for inclusion or finality.
    #[arg(long, default_value_t = 120)]
    wait_timeout: u64,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WaitFor {
    /// At least one node has it on disk.
    Accepted,
    /// A block holds it.
    Included,
    /// A block holds it that can never be taken back.
    Final,
}

/// Why the command did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Io(String),
    #[error("{file} shows nothing against anybody: {error}")]
    NoEvidence { file: String, error: String },
    #[error("payment {id} was rejected: {reason}")]
    Rejected { id: TransactionId, reason: String },
    #[error("it is not known whether payment {id} was taken ({error}); ask with: zeni status {id}")]
    Unclear { id: TransactionId, error: ApiError },
    #[error("payment {id} is {status} and no more after {seconds} s; ask with: zeni status {id}")]
    NotYet { id: TransactionId, status: String, seconds: u64 },
    #[error("{file}: {error}")]
    Proof { file: String, error: FinalityReceiptError },
    #[error("{file} holds, but {what}:\n{proves}")]
    OtherProof { file: String, what: &'static str, proves: String },
    #[error("{file} is still accepted with another value of byte {place}; seed {seed}")]
    Accepted { file: String, place: usize, seed: u64 },
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Rejected { .. } | Self::NoEvidence { .. } => 3,
            Self::Unclear { .. } | Self::NotYet { .. } => 4,
            Self::Api(ApiError::Problem { status: 404, .. }) => 5,
            Self::Api(error) if matches!(error.code(), Some("not_final_yet" | "no_final_block")) => 4,
            Self::Api(ApiError::Problem { status: 409 | 422, .. }) => 3,
            Self::Proof { .. } | Self::OtherProof { .. } | Self::Accepted { .. } => 6,
            Self::Key(_) | Self::Api(_) | Self::Io(_) => 1,
        }
    }

    /// A stable name for programs.
    fn code(&self) -> &str {
        match self {
            Self::Key(_) => "key_file",
            Self::Api(error) => error.code().unwrap_or("api"),
            Self::Usage(_) => "usage",
            Self::Io(_) => "io",
            Self::NoEvidence { .. } => "no_evidence",
            Self::Rejected { reason, .. } => reason,
            Self::Unclear { .. } => "unclear",
            Self::NotYet { .. } => "not_yet_included",
            Self::Proof { error, .. } => error.code(),
            Self::OtherProof { .. } => "other_statement",
            Self::Accepted { .. } => "accepted",
        }
    }
}

/// What a command found, for programs and for people.
struct Answer {
    json: Value,
    text: String,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("zeni: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(answer) if cli.json => println!("{}", answer.json),
        Ok(answer) => println!("{}", answer.text),
        Err(failure) => {
            if cli.json {
                println!("{}", json!({ "error": failure.code(), "detail": failure.to_string() }));
            }
            eprintln!("zeni: {failure}");
            return ExitCode::from(failure.exit_code());
        }
    }
    ExitCode::SUCCESS
}

async fn run(command: Command) -> Result<Answer, Failure> {
    match command {
        Command::Key(KeyCommand::New { file }) => {
            let key = Key::generate();
            key.save(&file)?;
            Ok(key_answer(&key))
        }
        Command::Key(KeyCommand::Show { file }) => Ok(key_answer(&Key::load(&file)?)),
        Command::Pay(pay) => submit(&pay).await,
        Command::Balance { account, server } => balance(&parse_account("ACCOUNT", &account)?, &server).await,
        Command::Evidence(EvidenceCommand::Verify { file, genesis }) => verify_evidence(&file, &genesis),
        Command::Status { id, server } => {
            let id = TransactionId::from_hex(&id).ok_or_else(|| usage("ID is 64 hexadecimal digits"))?;
            Ok(status_answer(&server.client()?.status(&id).await?))
        }
        Command::Proof(command) => proof::run(command).await,
    }
}

impl Server {
    fn client(&self) -> Result<ApiClient, ApiError> {
        ApiClient::new(&self.api, Duration::from_secs(self.request_timeout))
    }
}

fn usage(text: impl Into<String>) -> Failure {
    Failure::Usage(text.into())
}

fn parse_account(name: &str, text: &str) -> Result<AccountId, Failure> {
    text.parse().map_err(|error| usage(format!("{name}: {error}")))
}

fn parse_amount(text: &str) -> Result<Amount, Failure> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let amount = if digits { text.parse().ok() } else { None };
    amount.map(Amount).ok_or_else(|| usage("--amount is a whole number of minor units, below 2^64, in digits alone"))
}

fn parse_reference(text: &str) -> Result<[u8; 16], Failure> {
    let padded = format!("{text:0<32}");
    array_from_hex(&padded).ok_or_else(|| usage("--reference has at most 32 hexadecimal digits"))
}

/// Reads a file of at most so many bytes.
fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let io = |error: std::io::Error| Failure::Io(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(bytes_max + 1).read_to_end(&mut bytes).map_err(io)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(Failure::Io(format!("{} is longer than {bytes_max} bytes", path.display()))),
        false => Ok(bytes),
    }
}

fn verify_evidence(file: &Path, genesis: &Path) -> Result<Answer, Failure> {
    let bytes = read_file(file, EVIDENCE_BYTES_MAX as u64)?;
    let text = String::from_utf8(read_file(genesis, GENESIS_BYTES_MAX)?);
    let text = text.map_err(|_| Failure::Io(format!("{} is no text", genesis.display())))?;
    let genesis = Genesis::from_toml(&text).map_err(|error| Failure::Io(format!("{}: {error}", genesis.display())))?;
    let not = |error: String| Failure::NoEvidence { file: file.display().to_string(), error };
    let evidence = Evidence::from_bytes(&bytes).map_err(|error| not(error.to_string()))?;
    let id = genesis.id();
    evidence.verify(&genesis, &id).map_err(|error| not(error.to_string()))?;
    let (kind, place, offender) = (evidence.kind().code(), evidence.place().to_string(), evidence.offender());
    let name = genesis.validators.get(offender.as_usize()).map_or("", |validator| &validator.name);
    let json = json!({
        "evidence": evidence.id().to_string(),
        "genesis": id.to_string(),
        "kind": kind,
        "offender": offender.0,
        "offender_name": name,
        "place": place,
    });
    Ok(Answer { json, text: format!("validator {offender} ({name}): {kind} at {place}") })
}

fn key_answer(key: &Key) -> Answer {
    let (account, public) = (key.account().to_string(), key.public().to_string());
    Answer { json: json!({ "account": account, "public_key": public }), text: account }
}

async fn balance(account: &AccountId, server: &Server) -> Result<Answer, Failure> {
    let client = server.client()?;
    let (network, answer) = (client.network().await?, client.account(account).await?);
    let symbol = |token: u32| {
        let known = network.tokens.iter().find(|known| known.id == token);
        known.map_or_else(|| format!("token {token}"), |known| known.symbol.clone())
    };
    let mut lines: Vec<String> = answer
        .balances
        .iter()
        .map(|held| format!("{} {} (token {})", held.balance, symbol(held.token), held.token))
        .collect();
    if lines.is_empty() {
        lines.push("holds nothing".into());
    }
    lines.push(format!("next sequence {}, at block {}", answer.next_sequence, answer.height));
    let json = serde_json::to_value(&answer).map_err(|error| Failure::Io(error.to_string()))?;
    Ok(Answer { json, text: lines.join("\n") })
}

async fn submit(pay: &Pay) -> Result<Answer, Failure> {
    let (to, amount) = (parse_account("--to", &pay.to)?, parse_amount(&pay.amount)?);
    let reference = parse_reference(&pay.reference)?;
    let key = Key::load(&pay.key)?;
    let client = pay.server.client()?;
    let network = client.network().await?;
    let genesis = GenesisId::from_hex(&network.genesis);
    let genesis = genesis.ok_or_else(|| Failure::Io("the API server's genesis id is malformed".into()))?;
    if pay.valid_for > network.validity_max_s {
        return Err(usage(format!("--valid-for is at most {} on this ledger", network.validity_max_s)));
    }
    let sequence = match pay.sequence {
        Some(sequence) => sequence,
        None => {
            let next = client.account(&key.account()).await?.next_sequence;
            next.parse().map_err(|_| Failure::Io("the API server's next sequence is malformed".into()))?
        }
    };
    let order = Order {
        network: network.network,
        valid_until: now_s()?.saturating_add(pay.valid_for),
        to,
        sequence: Sequence(sequence),
        amount,
        token: TokenId(pay.token),
        reference,
    };
    let payment = key.pay(&order, &genesis);
    let id = payment.id(&genesis);
    let answer = match client.submit(&payment).await {
        Ok(answer) => answer,
        Err(error) if error.is_unclear() => return Err(Failure::Unclear { id, error }),
        Err(error) => return Err(error.into()),
    };
    match pay.wait {
        WaitFor::Accepted => Ok(status_answer(&answer)),
        WaitFor::Included => wait_for(&client, id, &["included", "final"], pay.wait_timeout).await,
        WaitFor::Final => wait_for(&client, id, &["final"], pay.wait_timeout).await,
    }
}

/// Asks until the payment has one of these statuses, or none of them can be hoped for.
async fn wait_for(client: &ApiClient, id: TransactionId, reached: &[&str], seconds: u64) -> Result<Answer, Failure> {
    let begun = Instant::now();
    loop {
        let status = match client.status(&id).await {
            Ok(answer) => {
                let detail = |name: &str| answer.details.get(name).and_then(Value::as_str);
                let is_reached = reached.contains(&answer.status.as_str());
                let is_refused = is_reached && detail("outcome") == Some("rejected");
                if is_refused || matches!(answer.status.as_str(), "rejected" | "expired") {
                    let reason = detail("reason").unwrap_or(&answer.status);
                    return Err(Failure::Rejected { id, reason: reason.into() });
                }
                if is_reached {
                    return Ok(status_answer(&answer));
                }
                answer.status
            }
            Err(error) if error.is_unclear() => "not known".into(),
            Err(error) => return Err(error.into()),
        };
        if begun.elapsed() >= Duration::from_secs(seconds) {
            return Err(Failure::NotYet { id, status, seconds });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn now_s() -> Result<u32, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.ok().and_then(|since| u32::try_from(since.as_secs()).ok());
    seconds.ok_or_else(|| Failure::Io("this machine's clock stands before 1970 or after 2106; set it".into()))
}

fn status_answer(answer: &StatusAnswer) -> Answer {
    let mut text = format!("{} {}", answer.id, answer.status);
    for (name, value) in &answer.details {
        if matches!(
            name.as_str(),
            "copies" | "height" | "depth" | "outcome" | "reason" | "used_by" | "warning" | "final"
        ) {
            let value = value.as_str().map_or_else(|| value.to_string(), String::from);
            text.push_str(&format!(" {name}={value}"));
        }
    }
    let mut json = json!({ "id": answer.id, "status": answer.status });
    if let Some(fields) = json.as_object_mut() {
        fields.extend(answer.details.clone());
    }
    Answer { json, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn amounts_are_digits_alone() {
        assert_eq!(parse_amount("18446744073709551615").ok(), Some(Amount(u64::MAX)));
        for text in ["", "-1", "+1", "1.0", "1e3", "18446744073709551616", "１"] {
            assert!(matches!(parse_amount(text), Err(Failure::Usage(_))), "{text}");
        }
    }

    #[test]
    fn references_are_filled_up_and_bounded() {
        assert_eq!(parse_reference("ab").ok().map(|bytes| bytes[0]), Some(0xab));
        assert!(parse_reference(&"0".repeat(33)).is_err() && parse_reference("xy").is_err());
    }

    #[test]
    fn refusals_exit_otherwise_than_failures() {
        let problem = |status, code: &str| {
            let (code, detail) = (code.into(), String::new());
            Failure::Api(ApiError::Problem { status, code, detail, retry_after_s: None }).exit_code()
        };
        assert_eq!(problem(422, "zero_amount"), 3);
        assert_eq!(problem(409, "sequence_used"), 3);
        assert_eq!(problem(404, "unknown_payment"), 5);
        assert_eq!((problem(409, "not_final_yet"), problem(409, "no_final_block")), (4, 4));
        assert_eq!(problem(503, "overloaded"), 1);
    }
}
