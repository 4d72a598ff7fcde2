//! A tiny network on loopback: genesis, keys, configs, nodes and a client.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test file uses its own part of the kit"
)]

pub mod process;

use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use tempfile::TempDir;
use zeni_consensus::Verdict;
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator, account_file, accounts_digest};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{AccountId, Amount, Genesis, Payment, PublicKey, Sequence, TokenId};
use zeni_node::{Node, Setup, StartError, clock, init};
use zeni_schemas::request::{NodeInfo, Reply, Request, decode_reply, encode_request};
use zeni_schemas::{Hello, Role};
use zeni_transport::{ConnectError, Connection, Endpoint, TransportConfig};

/// What every account holds at genesis.
pub const OPENING_BALANCE: u64 = 1_000_000;
pub const TOKEN: TokenId = TokenId(1);
pub const NETWORK: u32 = 77;

/// A ledger of its own in a directory of its own.
pub struct Network {
    pub directory: TempDir,
    pub genesis: Genesis,
    pub validators: Vec<SigningKey>,
    pub accounts: Vec<SigningKey>,
    pub client: SigningKey,
    pub follower: SigningKey,
}

fn key(kind: u8, number: usize) -> SigningKey {
    let mut seed = [kind; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SigningKey::from_bytes(&seed)
}

pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

pub fn account(key: &SigningKey) -> AccountId {
    AccountId(key.verifying_key().to_bytes())
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Network {
    pub fn new(validators: usize, accounts: usize, block_interval_ms: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let validators: Vec<SigningKey> = (0..validators).map(|number| key(1, number)).collect();
        let accounts: Vec<SigningKey> = (0..accounts).map(|number| key(2, number)).collect();
        let records: Vec<_> = accounts.iter().map(|key| (account(key), TOKEN, Amount(OPENING_BALANCE))).collect();
        let file = account_file(records.into_iter());
        std::fs::write(directory.path().join("accounts.bin"), &file).unwrap();
        let token = Token { symbol: "JPY".into(), decimals: 0, issuer: account(&key(3, 0)) };
        let genesis = Genesis {
            purpose: Purpose::Test,
            fault_model: FaultModel::Crash,
            time_ms: clock::now().0,
            block_interval_ms,
            state_depth: 4,
            batches_max: 64,
            rules: Rules { network: NETWORK, validity_max_s: 7_200, tokens: [(TOKEN, token)].into() },
            validators: (validators.iter().enumerate())
                .map(|(number, key)| Validator {
                    name: format!("node{number}"),
                    key: public(key),
                    stake: 1,
                    address: free_address().to_string(),
                })
                .collect(),
            accounts: accounts.len() as u64,
            accounts_digest: accounts_digest(&file),
            accounts_file: "accounts.bin".into(),
        };
        std::fs::write(directory.path().join("genesis.toml"), genesis.to_toml()).unwrap();
        for (number, key) in validators.iter().enumerate() {
            std::fs::write(directory.path().join(format!("key{number}")), hex(&key.to_bytes())).unwrap();
        }
        Self { directory, genesis, validators, accounts, client: key(4, 0), follower: key(5, 0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The text of a node's config. `more` is put before the tables.
    pub fn config_text(&self, number: usize, data: &str, listen: &str, more: &str) -> String {
        let mut text = format!(
            "genesis = \"genesis.toml\"\ndata = \"{data}\"\nkey = \"key{number}\"\nlisten = \"{listen}\"\n{more}\n"
        );
        for (name, key, role) in [("client", &self.client, "client"), ("follower", &self.follower, "follower")] {
            let key = public(key);
            writeln!(text, "[[client]]\nname = \"{name}\"\nkey = \"{key}\"\nrole = \"{role}\"").unwrap();
        }
        writeln!(text, "[limits]\njoining_ms = 2000\ndisk_watermark_bytes = 1").unwrap();
        text
    }

    /// Writes a node's config and returns its path.
    pub fn config(&self, number: usize, more: &str) -> PathBuf {
        let listen = &self.genesis.validators[number].address;
        let path = self.path(&format!("node{number}.toml"));
        std::fs::write(&path, self.config_text(number, &format!("data{number}"), listen, more)).unwrap();
        path
    }

    pub fn setup(&self, number: usize) -> Setup {
        Setup::load(&self.config(number, "")).unwrap()
    }

    /// Initialises a node's data directory and starts it.
    pub fn start_new(&self, number: usize) -> Node {
        init::init(&self.setup(number), init::Past::None).unwrap();
        self.start(number)
    }

    /// Starts a node on what its data directory holds. The socket of one that stopped in this process is free a moment
    /// later.
    pub fn start(&self, number: usize) -> Node {
        let start = Instant::now();
        loop {
            match Node::start(self.setup(number)) {
                Err(StartError::Bind(error)) if start.elapsed() < PATIENCE => {
                    eprintln!("{error}");
                    std::thread::sleep(LOOK_EVERY);
                }
                started => return started.unwrap(),
            }
        }
    }

    pub fn address(&self, number: usize) -> SocketAddr {
        self.genesis.validators[number].address.parse().unwrap()
    }

    /// A client of one node.
    pub async fn client(&self, number: usize) -> Client {
        self.dial(number, &self.client, Role::Client, TransportConfig::default()).await.unwrap()
    }

    /// Connects as anyone. Waits for a node that is just starting.
    pub async fn dial(
        &self,
        number: usize,
        key: &SigningKey,
        role: Role,
        config: TransportConfig,
    ) -> Result<Client, ConnectError> {
        let own = Hello::new(self.genesis.id(), role);
        let endpoint = Endpoint::dialler("127.0.0.1:0".parse().unwrap(), key, own, config).unwrap();
        let server = public(&self.validators[number]);
        let connection = endpoint.connect(self.address(number), server).await?;
        Ok(Client { endpoint, connection })
    }

    /// A payment of `amount` from one account to another.
    pub fn body(&self, from: usize, to: usize, sequence: u64, amount: u64) -> PaymentBody {
        PaymentBody {
            network: NETWORK,
            valid_until: (clock::now().0 / 1_000) as u32 + 600,
            from: account(&self.accounts[from]),
            to: account(&self.accounts[to]),
            sequence: Sequence(sequence),
            amount: Amount(amount),
            token: TOKEN,
            flags: 0,
            reference: [0; 16],
        }
    }

    pub fn pay(&self, from: usize, to: usize, sequence: u64, amount: u64) -> Payment {
        self.body(from, to, sequence, amount).sign(&self.accounts[from], &self.genesis.id())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One connection to one node.
pub struct Client {
    pub endpoint: Endpoint,
    pub connection: Connection,
}

impl Client {
    pub async fn ask(&self, request: &Request) -> Reply {
        let reply = self.connection.request(encode_request(request)).await.unwrap();
        decode_reply(&reply).unwrap()
    }

    pub async fn submit(&self, payments: Vec<Payment>) -> Vec<Verdict> {
        match self.ask(&Request::Submit(payments)).await {
            Reply::Submitted(verdicts) => verdicts,
            other => panic!("{other:?} is no answer to a submission"),
        }
    }

    /// Submits once the node takes payments: a starting one first executes what it has stored.
    pub async fn submit_when_ready(&self, payments: Vec<Payment>) -> Vec<Verdict> {
        let overloaded = |verdicts: &Vec<Verdict>| {
            verdicts
                .iter()
                .any(|verdict| matches!(verdict, Verdict::Refused(zeni_consensus::Refusal::Overloaded { .. })))
        };
        let start = Instant::now();
        loop {
            let verdicts = self.submit(payments.clone()).await;
            if !overloaded(&verdicts) {
                return verdicts;
            }
            assert!(start.elapsed() < PATIENCE, "the node stays overloaded");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub async fn node(&self) -> NodeInfo {
        match self.ask(&Request::Node).await {
            Reply::Node(info) => info,
            other => panic!("{other:?} is no answer to a question for the node"),
        }
    }

    /// What an account holds at the node's head, checked against its proof.
    pub async fn balance(&self, id: AccountId) -> i128 {
        let Reply::Account(info) = self.ask(&Request::Account(id)).await else { panic!("no account") };
        let proof = zeni_ledger::proof::AccountProof::from_bytes(&info.proof).unwrap();
        proof.verify(&info.state_root).unwrap();
        let bytes = info.account.expect("the account exists");
        let account = zeni_ledger::Account::decode(&mut zeni_ledger::encoding::Decoder::new(&bytes)).unwrap();
        account.balance(TOKEN).units()
    }

    pub async fn wait_for_balance(&self, id: AccountId, units: i128) {
        wait_until(&format!("{id} holds {units}"), async || self.balance(id).await == units).await;
    }
}

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until something holds, and fails the test if it does not come.
pub async fn wait_until(what: &str, holds: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether every payment was taken.
pub fn all_accepted(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| matches!(verdict, Verdict::Accepted { .. }))
}

/// Dials until a node that is just starting answers.
pub async fn dial_when_up(network: &Network, number: usize) -> Client {
    let start = Instant::now();
    loop {
        let config = TransportConfig { handshake_deadline: Duration::from_millis(500), ..TransportConfig::default() };
        match network.dial(number, &network.client, Role::Client, config).await {
            Ok(client) => return client,
            Err(error) => assert!(start.elapsed() < PATIENCE, "node {number} does not come up: {error}"),
        }
    }
}

/// Removes the first file of a directory whose name begins with `prefix`.
pub fn remove_file(directory: &Path, prefix: &str) {
    let entry = std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix) && entry.path().is_file());
    std::fs::remove_file(entry.unwrap().path()).unwrap();
}
