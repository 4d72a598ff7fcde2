//! Pairs of payments that spend the same money under the same sequence, one on each side of a partition; and what became
//! of them.
//!
//! A pair's sender is an account that pays nothing else. Each side pays a receiver of its own, which gets nothing else
//! either, so that the two receivers' balances tell what was executed, whatever anyone says about single payments.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{AccountId, GenesisId, Payment, Sequence, TransactionId};

use crate::audit;
use crate::delivery::{Answer, Failure};
use crate::faults::Scene;
use crate::follow;
use crate::http::Http;
use crate::link::Link;
use crate::plan::{NETWORK, Plan, TOKEN, account_of};
use crate::report::DoubleSpends;
use crate::scenario::{Fault, Scenario};
use crate::storm_clock::StormClock;

/// Accounts that the receivers of both sides take from the storm's.
pub const RECEIVERS: u64 = 2;
/// Pairs of one scenario, at most.
pub const PAIRS_MAX: u64 = 1_000;
/// Unresolved pairs that are told in words, at most.
const FAILURES_TOLD_MAX: usize = 8;
/// How long one submission may take.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(2);
/// Between two looks at what the API server tells.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Two payments of which one may be executed.
#[derive(Debug, Clone)]
pub struct Pair {
    /// One for each side of the fault.
    pub payments: [Payment; 2],
    pub ids: [TransactionId; 2],
    /// When both are sent, in microseconds from the start of the storm.
    at_us: u64,
    /// The nodes that they are sent to, by name.
    pub sides: [String; 2],
}

/// All pairs of a storm, and which of them both sides took.
#[derive(Debug)]
pub struct Pairs {
    pub pairs: Vec<Pair>,
    pub receivers: [AccountId; 2],
    /// What the receivers hold at genesis.
    holdings: [i128; 2],
    made: Mutex<Vec<bool>>,
}

/// What became of all pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    pub counts: DoubleSpends,
    /// What was wrong, in words.
    pub failures: Vec<String>,
}

impl Pairs {
    /// The pairs that a scenario's faults ask for. Its last accounts are theirs.
    pub fn of(scenario: &Scenario, plan: &Plan, valid_until: u32, genesis: &GenesisId) -> Option<Self> {
        let wanted: Vec<(&Fault, u64)> =
            scenario.faults.iter().filter_map(|fault| Some((fault, fault.double_spends?))).collect();
        if wanted.is_empty() {
            return None;
        }
        let mut numbers = (1..=plan.accounts).rev();
        let mut next = || numbers.next().expect("a checked scenario has accounts for all pairs");
        let receivers = [next(), next()];
        let accounts = receivers.map(|number| account_of(&plan.account_key(number)));
        let mut pairs = Vec::new();
        for (fault, count) in wanted {
            let sides = fault.sides().expect("a checked scenario has double spends only where there are two sides");
            for place in 1..=count {
                let sender = next();
                let payments = [0, 1].map(|side| pay(plan, sender, accounts[side], side as u8, valid_until, genesis));
                let ids = [0, 1].map(|side: usize| payments[side].id(genesis));
                let at_us = fault.at_s * 1_000_000 + fault.duration_s * 1_000_000 * place / (count + 1);
                pairs.push(Pair { payments, ids, at_us, sides: sides.clone() });
            }
        }
        let made = Mutex::new(vec![false; pairs.len()]);
        let holdings = receivers.map(|number| i128::from(plan.holding(number).0));
        Some(Self { pairs, receivers: accounts, holdings, made })
    }

    /// Sends every pair at its time, both payments at once, and notes which pairs both sides took. A side that is not
    /// there or refuses makes no pair.
    pub async fn send(self: Arc<Self>, links: Vec<Arc<Link>>, clock: StormClock) {
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        order.sort_by_key(|place| self.pairs[*place].at_us);
        for place in order {
            let pair = &self.pairs[place];
            tokio::time::sleep_until(clock.instant(pair.at_us).into()).await;
            let link = |side: usize| links.iter().find(|link| link.node.name == pair.sides[side]);
            let (one, two) = tokio::join!(submit(link(0), pair.payments[0]), submit(link(1), pair.payments[1]));
            let taken = [&one, &two].into_iter().all(|answers| matches!(answers.as_deref(), Ok([Answer::Accepted])));
            if !taken {
                tracing::warn!(?one, ?two, "a double spend was not taken by both sides");
            }
            self.made()[place] = taken;
        }
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the pairs: each that was made has exactly one payment in a final block of the tracked chain before
    /// the other, the API server tells so if there is one, and the receivers hold at every node what the winners moved and
    /// no more. Looks until all of this is so, or `deadline` has passed.
    pub async fn resolve(&self, scene: &Scene, deadline: Instant) -> Resolved {
        loop {
            let mut failures = Vec::new();
            let mut unresolved = 0;
            let listed = follow::with(&scene.tracker, |tracker| tracker.watched_final());
            let made = self.made().clone();
            let mut won = [0i128; 2];
            for (pair, made) in self.pairs.iter().zip(&made) {
                let winner = self.winner(pair, &listed);
                if let Some(side) = winner {
                    won[side] += i128::from(pair.payments[side].amount().0);
                }
                if !made {
                    continue;
                }
                let told = match winner {
                    None => Err("neither payment is in a final block".to_owned()),
                    Some(side) => {
                        api_tells(&scene.http, scene.api.as_deref(), pair.ids[side], pair.ids[1 - side]).await
                    }
                };
                if let Err(what) = told {
                    unresolved += 1;
                    failures.push(format!("the double spend {} / {}: {what}", pair.ids[0], pair.ids[1]));
                }
            }
            failures.truncate(FAILURES_TOLD_MAX);
            failures.extend(self.wrong_balances(scene, won).await);
            if failures.is_empty() || Instant::now() >= deadline {
                let counts = DoubleSpends { made: made.iter().filter(|made| **made).count() as u64, unresolved };
                return Resolved { counts, failures };
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The side whose payment comes first in the final chain: a sequence is used once.
    fn winner(&self, pair: &Pair, listed: &[TransactionId]) -> Option<usize> {
        let place = |side: usize| listed.iter().position(|id| *id == pair.ids[side]);
        match (place(0), place(1)) {
            (Some(one), Some(two)) => Some(usize::from(two < one)),
            (Some(_), None) => Some(0),
            (None, Some(_)) => Some(1),
            (None, None) => None,
        }
    }

    async fn wrong_balances(&self, scene: &Scene, won: [i128; 2]) -> Vec<String> {
        let mut wrong = Vec::new();
        for side in [0, 1] {
            let expected = self.holdings[side] + won[side];
            match audit::balances(&scene.links, self.receivers[side]).await {
                Ok(found) if found.iter().all(|found| *found == expected) => {}
                Ok(found) => wrong.push(format!(
                    "the receiver of double spends on side {} holds {found:?} at the nodes, not {expected}",
                    side + 1
                )),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        wrong
    }

    /// Ids of all payments, for the tracker to watch.
    pub fn ids(&self) -> BTreeSet<TransactionId> {
        self.pairs.iter().flat_map(|pair| pair.ids).collect()
    }
}

fn pay(plan: &Plan, sender: u64, to: AccountId, side: u8, valid_until: u32, genesis: &GenesisId) -> Payment {
    let key = plan.account_key(sender);
    // None of the plan's payments ends so: see `Plan::index_of`.
    let reference = [0xd0 + side; 16];
    let (from, amount) = (account_of(&key), plan.holding(sender));
    let (sequence, token) = (Sequence(0), TOKEN);
    PaymentBody { network: NETWORK, valid_until, from, to, sequence, amount, token, flags: 0, reference }
        .sign(&key, genesis)
}

async fn submit(link: Option<&Arc<Link>>, payment: Payment) -> Result<Vec<Answer>, Failure> {
    match link {
        Some(link) => link.submit(vec![payment], SUBMIT_DEADLINE).await,
        None => Err(Failure::Disconnected("no such node".into())),
    }
}

/// The API server's status of a payment, as far as it is needed. The status of one whose sequence another payment used
/// names that one: `"reason": "sequence_used"`, `"used_by"`: its id.
#[derive(Debug, Default, Deserialize)]
struct StatusPage {
    status: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    used_by: Option<String>,
    #[serde(rename = "final", default)]
    is_final: bool,
}

/// Whether the API server calls one payment final and names it to whoever asks for the other. Right away if there is none.
async fn api_tells(http: &Http, address: Option<&str>, won: TransactionId, lost: TransactionId) -> Result<(), String> {
    let Some(address) = address else { return Ok(()) };
    judge_pages(&page(http, address, won).await?, &page(http, address, lost).await?, won)
}

async fn page(http: &Http, address: &str, id: TransactionId) -> Result<StatusPage, String> {
    let page = http.get(address, &format!("/v1/payments/{id}"), LOOK_DEADLINE).await;
    let page = page.map_err(|error| format!("the API server does not answer about {id}: {error}"))?;
    if !page.status.is_success() {
        return Err(format!("the API server answers {} about {id}", page.status));
    }
    serde_json::from_slice(&page.body).map_err(|error| format!("its status cannot be read: {error}"))
}

fn judge_pages(winner: &StatusPage, loser: &StatusPage, won: TransactionId) -> Result<(), String> {
    if winner.status != "final" || !winner.is_final {
        return Err(format!("the API server calls the winner {:?}", winner.status));
    }
    if matches!(loser.status.as_str(), "included" | "final") {
        return Err(format!("the API server calls the loser {:?} beside the winner", loser.status));
    }
    let named = loser.used_by.as_deref() == Some(won.to_string().as_str());
    if !named || loser.reason.as_deref() != Some("sequence_used") {
        let StatusPage { status, reason, used_by, .. } = loser;
        return Err(format!(
            "the loser is not told the winner: its status is {status:?}, reason {reason:?}, used_by {used_by:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENESIS: GenesisId = GenesisId([3; 32]);

    fn pairs(count: u64) -> Pairs {
        let scenario = Scenario::parse(&format!(
            r#"
            name = "pairs"
            seed = 7
            accounts = 100
            target = "spread"
            network = {{ nodes = 3, block_interval_ms = 1000, state_depth = 4 }}
            phases = [{{ rate_per_s = 10 }}]

            [[faults]]
            kind = "partition"
            groups = [["node-1", "node-2"], ["node-3"]]
            at_s = 10
            duration_s = 12
            double_spends = {count}
            "#
        ));
        let plan = Plan::of_2016(7, 100);
        Pairs::of(&scenario.unwrap(), &plan, 9, &GENESIS).unwrap()
    }

    #[test]
    fn both_payments_of_a_pair_spend_the_same_and_no_two_pairs_do() {
        let pairs = pairs(3);
        let plan = Plan::of_2016(7, 100);
        let mut senders = BTreeSet::new();
        for pair in &pairs.pairs {
            let [one, two] = pair.payments.map(|payment| payment.body());
            assert_eq!((one.from, one.sequence, one.amount), (two.from, two.sequence, two.amount));
            assert_eq!([one.to, two.to], pairs.receivers);
            assert_eq!(pair.sides, ["node-1".to_owned(), "node-3".to_owned()]);
            assert!(pair.payments.iter().all(|payment| plan.index_of(payment).is_none()));
            assert!(senders.insert(one.from) && !pairs.receivers.contains(&one.from));
        }
        assert_eq!(pairs.pairs.iter().map(|pair| pair.at_us).collect::<Vec<_>>(), [13_000_000, 16_000_000, 19_000_000]);
        assert_eq!((pairs.ids().len(), pairs.holdings), (6, [100, 99]));
    }

    #[test]
    fn the_first_in_the_final_chain_wins() {
        let pairs = pairs(1);
        let pair = &pairs.pairs[0];
        let [one, two] = pair.ids;
        let other = TransactionId([9; 32]);
        let winner = |listed: &[TransactionId]| pairs.winner(pair, listed);
        assert_eq!([winner(&[other]), winner(&[one]), winner(&[other, two])], [None, Some(0), Some(1)]);
        assert_eq!([winner(&[one, two]), winner(&[two, one])], [Some(0), Some(1)]);
    }

    /// An API server that answers each request for a page once with what `pages` has for its path, 404 for anything else.
    async fn stub(pages: std::collections::BTreeMap<String, String>) -> (String, tokio::task::JoinHandle<()>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap();
                let (status, body) = pages.get(path).map_or(("404 Not Found", ""), |body| ("200 OK", body.as_str()));
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, serving)
    }

    #[tokio::test]
    async fn the_api_server_is_asked_for_both_payments_of_a_pair() {
        let (won, lost) = (TransactionId([5; 32]), TransactionId([6; 32]));
        let path = |id: TransactionId| format!("/v1/payments/{id}");
        let winner = r#"{"status":"final","final":true}"#.to_owned();
        let loser = format!(r#"{{"status":"rejected","reason":"sequence_used","used_by":"{won}","final":true}}"#);
        let http = Http::default();
        let (told, serving) = stub([(path(won), winner.clone()), (path(lost), loser)].into()).await;
        assert_eq!(api_tells(&http, Some(&told), won, lost).await, Ok(()));
        assert!(api_tells(&http, Some(&told), lost, won).await.is_err(), "the other one won");
        serving.abort();
        let (untold, serving) = stub([(path(won), winner)].into()).await;
        let what = api_tells(&http, Some(&untold), won, lost).await.unwrap_err();
        assert!(what.contains("404") && what.contains(&lost.to_string()), "{what}");
        serving.abort();
        assert_eq!(api_tells(&http, None, won, lost).await, Ok(()), "without an API server nobody is told");
    }

    #[test]
    fn the_loser_must_be_told_who_won() {
        let won = TransactionId([5; 32]);
        let read = |text: &str| serde_json::from_str::<StatusPage>(text).unwrap();
        let winner = read(r#"{"status":"final","final":true,"height":4}"#);
        let loser = format!(r#"{{"status":"rejected","reason":"sequence_used","used_by":"{won}","final":true}}"#);
        assert_eq!(judge_pages(&winner, &read(&loser), won), Ok(()));
        let bad = [
            loser.replace(&won.to_string(), &"00".repeat(32)),
            loser.replace("sequence_used", "balance"),
            r#"{"status":"accepted","warning":"sequence_used","final":false}"#.into(),
            r#"{"status":"final","final":true}"#.into(),
        ];
        for bad in bad {
            assert!(judge_pages(&winner, &read(&bad), won).is_err(), "{bad}");
        }
        let included = read(r#"{"status":"included","final":false}"#);
        assert!(judge_pages(&included, &read(&loser), won).unwrap_err().contains("winner"));
    }
}
