//! After the storm: are all payments in the chain, do all nodes hold the same, is the receiver's balance right?

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use zeni_ledger::{Account, AccountId};
use zeni_schemas::request::{AccountInfo, Reply, Request};

use crate::book::Book;
use crate::delivery::Failure;
use crate::faults::{Scene, node_info};
use crate::follow;
use crate::link::Link;
use crate::network::{Member, futures_join};
use crate::plan::{Plan, TOKEN};
use crate::process::ProcessError;

/// Between two looks at all nodes.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// How often a question is put again whose answer was lost.
const ATTEMPTS: usize = 5;

/// Nodes whose data is verified at the same time, at most: each takes a core and as much memory as a node, 3 GiB at 10.8
/// million accounts.
pub const VERIFIED_AT_ONCE: usize = 2;
/// Between two lines that tell how far verifying is.
const TELL: Duration = Duration::from_secs(3);
/// Payers whose balances are asked for, at most.
pub const SAMPLE_MAX: u64 = 1_000;
/// Wrong balances that are told in words, at most; one is enough to fail.
const WRONG_TOLD_MAX: usize = 8;

/// Where a node stood at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    pub node: String,
    pub height: u64,
    pub block: String,
    pub state_root: String,
}

/// What `node verify` prints of a stopped node's data. Fields beyond these are left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    #[serde(default)]
    pub node: String,
    pub height: u64,
    pub block: String,
    pub state_root: String,
    /// Payments applied, rejected and skipped in the whole chain, and applied ones that differ from each other.
    pub applied: u64,
    pub rejected: u64,
    pub skipped: u64,
    pub distinct: u64,
    /// Each token's sum, as the node prints it: all must be zero.
    pub sums: serde_json::Value,
}

impl Verified {
    /// Whether every token sums to zero.
    pub fn sums_are_zero(&self) -> bool {
        fn zero(value: &serde_json::Value) -> bool {
            match value {
                serde_json::Value::Object(fields) => fields.values().all(zero),
                serde_json::Value::Array(entries) => entries.iter().all(|entry| match entry.get("sum") {
                    Some(sum) => zero(sum),
                    None => zero(entry),
                }),
                serde_json::Value::Number(number) => number.as_i64() == Some(0),
                serde_json::Value::String(text) => text == "0",
                serde_json::Value::Null | serde_json::Value::Bool(_) => false,
            }
        }
        zero(&self.sums)
    }
}

/// How the storm settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub states: Vec<NodeState>,
    pub equal: bool,
    /// Whether the tracked chain ends at the nodes' block: only then is what it lists what they hold.
    pub tracked: bool,
    /// When all of it was true for the first time, and every acknowledged payment final, in microseconds from the start of
    /// the storm.
    pub at_us: u64,
}

/// Why an audit could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("{node} does not answer: {failure}")]
    Silent { node: String, failure: Failure },
    #[error("{node} answers with an account that cannot be read: {what}")]
    Account { node: String, what: String },
    #[error("node verify on {node}: {error}")]
    Verify { node: String, error: ProcessError },
    #[error("node verify on {node} prints what cannot be read: {error}")]
    Output { node: String, error: serde_json::Error },
}

/// Waits until every acknowledged payment is in a final block of the chain that is tracked, and all nodes stand at the
/// block where that chain ends; or until `deadline` has passed. Then gives what it saw last.
pub async fn settle(scene: &Scene, book: &Book, deadline: tokio::time::Instant) -> Settled {
    loop {
        let states = states(scene).await;
        let at_us = scene.clock.now_us();
        let equal = all_equal(&states, scene.links.len());
        let head = follow::with(&scene.tracker, |tracker| (tracker.head().height, tracker.head().id.to_string()));
        let tracked = is_head(&states, &head);
        let (_, accepted, _, included) = book.counts();
        let complete = included >= accepted && book.finals() >= accepted && book.tally().unfinal == 0;
        if equal && tracked && complete || tokio::time::Instant::now() >= deadline {
            return Settled { states, equal, tracked, at_us };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether every node that answered stands at this block. Heights alone do not tell: a tracker that was left on another
/// branch counts payments that the nodes' chain does not hold.
fn is_head(states: &[NodeState], (height, id): &(u64, String)) -> bool {
    !states.is_empty() && states.iter().all(|state| state.height == *height && state.block == *id)
}

/// Whether all of `nodes` nodes answered, and the same.
pub fn all_equal(states: &[NodeState], nodes: usize) -> bool {
    let same = |state: &NodeState, other: &NodeState| {
        (state.height, &state.block, &state.state_root) == (other.height, &other.block, &other.state_root)
    };
    states.len() == nodes && states.windows(2).all(|pair| same(&pair[0], &pair[1]))
}

/// A node that stopped for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halted {
    pub node: String,
    /// In its own words.
    pub reason: String,
}

/// Waits until every node process has halted, or `deadline` has passed. Gives those that have.
pub async fn halts(scene: &Scene, deadline: tokio::time::Instant) -> Vec<Halted> {
    loop {
        let (halted, all) = halted(scene).await;
        if all || tokio::time::Instant::now() >= deadline {
            return halted;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The node processes that have halted, as far as it was noticed, and whether that is all of them.
pub async fn halted(scene: &Scene) -> (Vec<Halted>, bool) {
    let network = scene.network.lock().await;
    let nodes = network.members.iter().take(network.nodes.len());
    let halted = |member: &Member| {
        let reason = member.process.halt()?.to_owned();
        Some(Halted { node: member.process.name.clone(), reason })
    };
    let halted: Vec<Halted> = nodes.filter_map(halted).collect();
    let all = halted.len() == network.nodes.len();
    (halted, all)
}

/// Asks every node where it stands, all at once; those that do not answer are left out.
pub async fn states(scene: &Scene) -> Vec<NodeState> {
    let mut asking = tokio::task::JoinSet::new();
    for (place, link) in scene.links.iter().cloned().enumerate() {
        asking.spawn(async move { (place, node_info(&link, LOOK_DEADLINE).await, link.node.name.clone()) });
    }
    let mut found = Vec::new();
    while let Some(Ok((place, info, node))) = asking.join_next().await {
        if let Ok(info) = info {
            let (block, state_root) = (info.head.to_string(), info.state_root.to_string());
            found.push((place, NodeState { node, height: info.height, block, state_root }));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, state)| state).collect()
}

/// An account's balance as each node tells it.
pub async fn balances(links: &[Arc<Link>], id: AccountId) -> Result<Vec<i128>, AuditError> {
    let mut balances = Vec::new();
    for link in links {
        let info = account(link, id).await?;
        balances.push(balance(&info).map_err(|what| AuditError::Account { node: link.node.name.clone(), what })?);
    }
    Ok(balances)
}

/// Balances of payers, as every node told them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balances {
    /// How many payers were asked for at each node.
    pub asked: u64,
    /// Those that are not what the plan says, in words; not all of them if there are many.
    pub wrong: Vec<String>,
}

/// Asks every node for the balances of these payers, all nodes at once, and compares them with what the plan says of them
/// once each has made as many payments as `made` says.
pub async fn sampled(links: &[Arc<Link>], plan: &Plan, payers: &[u64], made: impl Fn(u64) -> u64) -> Balances {
    let expected: Arc<[(u64, AccountId, i128)]> =
        payers.iter().map(|payer| (*payer, plan.payer_account(*payer), plan.balance(*payer, &made))).collect();
    let mut asking = tokio::task::JoinSet::new();
    for link in links {
        asking.spawn(wrong_at(Arc::clone(link), Arc::clone(&expected)));
    }
    let mut wrong: Vec<String> = asking.join_all().await.concat();
    wrong.sort_unstable();
    wrong.truncate(WRONG_TOLD_MAX);
    Balances { asked: payers.len() as u64, wrong }
}

async fn wrong_at(link: Arc<Link>, expected: Arc<[(u64, AccountId, i128)]>) -> Vec<String> {
    let (mut wrong, node) = (Vec::new(), &link.node.name);
    for (payer, id, expected) in expected.iter() {
        let found = match account(&link, *id).await {
            Ok(info) => balance(&info),
            // Nobody else of that node is asked, for each would be waited for in vain.
            Err(error) => return vec![error.to_string()],
        };
        match found {
            Ok(found) if found == *expected => {}
            Ok(found) => wrong.push(format!("payer {payer} holds {found} at {node}, not {expected}")),
            Err(what) => wrong.push(format!("payer {payer} at {node}: {what}")),
        }
    }
    wrong
}

async fn account(link: &Link, id: AccountId) -> Result<AccountInfo, AuditError> {
    let mut failure = Failure::Timeout;
    for _ in 0..ATTEMPTS {
        match link.ask(&Request::Account(id), LOOK_DEADLINE).await {
            Ok(Reply::Account(info)) => return Ok(info),
            Ok(other) => failure = Failure::Fatal(format!("an account is asked, the answer is {other:?}")),
            Err(error) => failure = error,
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(AuditError::Silent { node: link.node.name.clone(), failure })
}

fn balance(info: &AccountInfo) -> Result<i128, String> {
    let bytes = info.account.as_ref().ok_or("it does not exist")?;
    let mut decoder = zeni_ledger::encoding::Decoder::new(bytes);
    let account = Account::decode(&mut decoder).map_err(|error| error.to_string())?;
    decoder.finish().map_err(|error| error.to_string())?;
    Ok(account.balance(TOKEN).units())
}

/// Runs `node verify` on the data of each stopped node that has no twin, [`VERIFIED_AT_ONCE`] at a time, and tells on stderr
/// how far that is.
pub async fn verify(scene: &Scene, patience: Duration) -> Result<Vec<Verified>, AuditError> {
    let network = scene.network.lock().await;
    let honest: Vec<&String> = network.honest().map(|node| &node.name).collect();
    let members: Vec<&Member> =
        network.members.iter().filter(|member| honest.contains(&&member.process.name)).collect();
    let progress = Progress::new(members.iter().map(|member| member.process.name.clone()).collect());
    let room = Semaphore::new(VERIFIED_AT_ONCE);
    let all = futures_join(members.iter().enumerate().map(|(place, member)| {
        let (progress, room, genesis) = (&progress, &room, &network.genesis_file);
        async move {
            let _permit = room.acquire().await.expect("the semaphore is never closed");
            progress.begins(place, Instant::now());
            let verified = verify_one(member, genesis, patience).await;
            progress.ends(place, Instant::now());
            verified
        }
    }));
    tokio::select! {
        verified = all => verified.into_iter().collect(),
        never = progress.tell_on() => match never {},
    }
}

async fn verify_one(member: &Member, genesis: &Path, patience: Duration) -> Result<Verified, AuditError> {
    let node = member.process.name.clone();
    let path = |path: &Path| path.display().to_string();
    let arguments = ["verify".into(), "--data".into(), path(&member.data), "--genesis".into(), path(genesis)];
    let output = member.process.run_well(&arguments, patience).await;
    let output = output.map_err(|error| AuditError::Verify { node: node.clone(), error })?;
    let verified: Verified =
        serde_json::from_slice(&output).map_err(|error| AuditError::Output { node: node.clone(), error })?;
    Ok(Verified { node, ..verified })
}

/// How far verifying is.
#[derive(Debug)]
struct Progress {
    nodes: Vec<String>,
    /// When each node's verifying began and ended.
    times: Mutex<Vec<(Option<Instant>, Option<Instant>)>>,
}

impl Progress {
    fn new(nodes: Vec<String>) -> Self {
        let times = Mutex::new(vec![(None, None); nodes.len()]);
        Self { nodes, times }
    }

    fn times(&self) -> MutexGuard<'_, Vec<(Option<Instant>, Option<Instant>)>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, place: usize, now: Instant) {
        self.times()[place].0 = Some(now);
    }

    fn ends(&self, place: usize, now: Instant) {
        self.times()[place].1 = Some(now);
    }

    async fn tell_on(&self) -> Infallible {
        loop {
            tokio::time::sleep(TELL).await;
            eprintln!("{}", self.line(Instant::now()));
        }
    }

    fn line(&self, now: Instant) -> String {
        let times = self.times();
        let each = self.nodes.iter().zip(times.iter()).map(|(node, (began, ended))| match (began, ended) {
            (None, _) => format!("{node} waits"),
            (Some(began), None) => format!("{node} for {} s", now.duration_since(*began).as_secs()),
            (Some(began), Some(ended)) => format!("{node} done in {} s", ended.duration_since(*began).as_secs()),
        });
        format!("verifying the nodes' data: {}", each.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(node: &str, height: u64, root: &str) -> NodeState {
        NodeState { node: node.into(), height, block: "b".into(), state_root: root.into() }
    }

    #[test]
    fn nodes_are_equal_only_if_all_answer_the_same() {
        let (one, two) = (state("node-1", 5, "r"), state("node-2", 5, "r"));
        assert!(all_equal(&[one.clone(), two.clone()], 2));
        assert!(!all_equal(&[one.clone(), two], 3));
        assert!(!all_equal(&[one.clone(), state("node-2", 6, "r")], 2));
        assert!(!all_equal(&[one, state("node-2", 5, "s")], 2));
    }

    #[test]
    fn progress_tells_of_each_node_whether_it_waits_is_verified_or_done() {
        let progress = Progress::new(["node-1", "node-2", "node-3"].map(String::from).into());
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        progress.begins(0, began);
        progress.begins(1, after(2));
        progress.ends(0, after(5));
        let told = progress.line(after(9));
        assert_eq!(told, "verifying the nodes' data: node-1 done in 5 s, node-2 for 7 s, node-3 waits");
    }

    #[test]
    fn the_tracked_chain_is_the_nodes_only_if_it_ends_at_their_block() {
        let states = [state("node-1", 5, "r"), state("node-2", 5, "r")];
        assert!(is_head(&states, &(5, "b".into())));
        assert!(!is_head(&states, &(5, "of another branch".into())));
        assert!(!is_head(&states, &(4, "b".into())));
        assert!(!is_head(&[], &(0, "b".into())));
    }

    #[test]
    fn sums_are_read_in_every_shape_and_must_all_be_zero() {
        let verified = |sums: &str| Verified {
            node: String::new(),
            height: 1,
            block: String::new(),
            state_root: String::new(),
            applied: 0,
            rejected: 0,
            skipped: 0,
            distinct: 0,
            sums: serde_json::from_str(sums).unwrap(),
        };
        for zero in [r#"{"1":"0"}"#, r#"{"1":0}"#, r#"[{"token":1,"sum":"0"}]"#] {
            assert!(verified(zero).sums_are_zero(), "{zero}");
        }
        for other in [r#"{"1":"0","2":"-5"}"#, r#"{"1":1}"#, r#"[{"token":1,"sum":"7"}]"#, "null"] {
            assert!(!verified(other).sums_are_zero(), "{other}");
        }
    }
}
