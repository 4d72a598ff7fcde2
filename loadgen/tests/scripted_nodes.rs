//! Sending and following against scripted nodes: real QUIC, answers from a script.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use tokio::task::JoinSet;
use zeni_consensus::finality::FinalityMessage;
use zeni_consensus::{Message, Mode, Refusal, Verdict};
use zeni_ledger::block::transactions_root;
use zeni_ledger::genesis::FaultModel;
use zeni_ledger::{
    Batch, BatchDigest, Block, BlockHeader, BlockId, CommitCertificate, FinalBlock, Payment, PublicKey, ReceiptsRoot,
    SignatureBytes, StateRoot, ValidatorIndex,
};
use zeni_loadgen::book::Book;
use zeni_loadgen::dispatch::{Dispatch, DispatchError, Gate, PaymentsFile};
use zeni_loadgen::faults::{Faults, Scene};
use zeni_loadgen::finals::{self, Finals, Judged};
use zeni_loadgen::follow;
use zeni_loadgen::http::Http;
use zeni_loadgen::link::{self, Link, NodeAddress};
use zeni_loadgen::network::Network;
use zeni_loadgen::overload::{Offers, offer};
use zeni_loadgen::plan::{Receivers, Role as KeyOf};
use zeni_loadgen::prepare::{Parameters, Prepared, prepare};
use zeni_loadgen::relay::{Fronts, Relay};
use zeni_loadgen::router::{Preference, Router};
use zeni_loadgen::scenario::{Fault, FaultKind, Full, Overload, Phase, Rate};
use zeni_loadgen::schedule::Pacer;
use zeni_loadgen::storm_clock::StormClock;
use zeni_loadgen::tracker::Tracker;
use zeni_loadgen::witness::{Notebook, witness};
use zeni_schemas::message;
use zeni_schemas::request::{NodeInfo, Reply, Request, RequestError, decode_request, encode_reply};
use zeni_schemas::{Hello, Role};
use zeni_transport::{Class, CloseCode, Connection, Endpoint, TransportConfig};

/// Far more than any of these tests should take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until a submission goes to another node.
const SUBMIT_TIMEOUT: Duration = Duration::from_millis(300);
const ACCOUNTS: u64 = 3_000;

fn prepared(root: &std::path::Path) -> Prepared {
    let parameters = Parameters {
        seed: 9,
        accounts: ACCOUNTS,
        nodes: 3,
        block_interval_ms: 1_000,
        state_depth: 8,
        batches_max: 64,
        fault_model: FaultModel::Crash,
        paying_accounts: None,
        payments_per_account: 1,
        receivers: Receivers::Hot,
    };
    prepare(root, &parameters, zeni_loadgen::clock::unix_ms()).unwrap()
}

/// What a scripted node answers to the nth request that it hears; `None` leaves it without an answer.
type Script = Arc<dyn Fn(usize, &Request) -> Option<Reply> + Send + Sync>;

struct Node {
    address: NodeAddress,
    endpoint: Endpoint,
    heard: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

fn node(prepared: &Prepared, place: u16, script: Script) -> Node {
    let plan = prepared.plan();
    let key = plan.role_key(KeyOf::Validator(place));
    let own = Hello::new(prepared.genesis_id, Role::Validator);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let admit = |_: &PublicKey| Some(Role::Follower);
    let endpoint = Endpoint::bind(any, &key, own, admit, TransportConfig::default()).unwrap();
    let quic = endpoint.local_address().unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let mut serving = JoinSet::new();
    let (listening, counter) = (endpoint.clone(), Arc::clone(&heard));
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Some(connection) = listening.accept().await {
            connections.spawn(answer(connection, Arc::clone(&script), Arc::clone(&counter)));
        }
    });
    let address = NodeAddress { name: format!("node-{}", place + 1), quic, key: endpoint.key() };
    Node { address, endpoint, heard, _serving: serving }
}

async fn answer(connection: Connection, script: Script, heard: Arc<AtomicUsize>) {
    let mut unanswered = Vec::new();
    while let Ok(request) = connection.accept_request().await {
        let body = decode_request(&request.body).unwrap();
        match script(heard.fetch_add(1, Relaxed), &body) {
            Some(reply) => request.respond(encode_reply(&reply)).await.unwrap_or_default(),
            None => unanswered.push(request),
        }
    }
}

fn accept_all(request: &Request) -> Option<Reply> {
    match request {
        Request::Submit(payments) => Some(Reply::Submitted(vec![Verdict::Accepted { copies: 1 }; payments.len()])),
        _ => Some(Reply::Refused(RequestError::Forbidden)),
    }
}

/// What sends to the first of these nodes, with the others to fall back on, and keeps their links up.
async fn dispatch_to(prepared: &Prepared, nodes: &[&Node]) -> (Arc<Dispatch>, JoinSet<()>) {
    let key = prepared.plan().role_key(KeyOf::Submitter);
    let endpoint = link::dialler(&key, prepared.genesis_id, Role::Client).unwrap();
    let mut keepers = JoinSet::new();
    let links: Vec<Arc<Link>> = nodes.iter().map(|node| Link::new(node.address.clone(), endpoint.clone())).collect();
    links.iter().for_each(|link| drop(keepers.spawn(Arc::clone(link).keep_up())));
    while !links.iter().all(|link| link.is_up()) {
        tokio::task::yield_now().await;
    }
    let book = Arc::new(Book::new(ACCOUNTS));
    let file = PaymentsFile::open(&prepared.payments_file()).unwrap();
    let gates: Vec<Gate> = links.into_iter().map(Gate::Node).collect();
    let router = Router::new(Preference::One(0), gates.len());
    let clock = StormClock::starting_in(Duration::ZERO);
    (Dispatch::new(book, file, gates, router, clock, SUBMIT_TIMEOUT, 1_000_000), keepers)
}

/// All prepared payments at full speed.
fn pacer() -> Pacer {
    let phase = Phase { payments: None, duration_s: None, rate_per_s: Rate::Full(Full::Full), in_flight: 2 };
    Pacer::new(vec![phase], ACCOUNTS)
}

/// Sends all prepared payments to the first of these nodes, with the others to fall back on.
async fn send(prepared: &Prepared, nodes: &[&Node]) -> (Result<(), DispatchError>, Arc<Dispatch>) {
    let (dispatch, _keepers) = dispatch_to(prepared, nodes).await;
    let sent = tokio::time::timeout(PATIENCE, Arc::clone(&dispatch).run(pacer())).await.expect("the storm hangs");
    (sent, dispatch)
}

/// Offers all prepared payments to a node until it has taken them.
async fn overload(prepared: &Prepared, node: &Node) -> (Offers, Arc<Dispatch>) {
    let (dispatch, _keepers) = dispatch_to(prepared, &[node]).await;
    let wanted = Overload { times: 2.0, duration_s: PATIENCE.as_secs(), in_flight: 3 };
    let offers = tokio::time::timeout(2 * PATIENCE, offer(Arc::clone(&dispatch), wanted, 50_000)).await;
    (offers.expect("the overload hangs").unwrap(), dispatch)
}

#[tokio::test]
async fn in_an_overload_what_is_refused_is_offered_again_and_told_by_reason() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let busy = node(
        &prepared,
        0,
        Arc::new(|number, request| match (number % 3, request) {
            (0, _) => Some(Reply::Refused(RequestError::Overloaded { retry_after_ms: 20 })),
            (1, Request::Submit(payments)) => {
                let mut verdicts = vec![Verdict::Accepted { copies: 1 }; payments.len()];
                verdicts[0] = Verdict::Refused(Refusal::DiskFull);
                Some(Reply::Submitted(verdicts))
            }
            _ => accept_all(request),
        }),
    );
    let (offers, dispatch) = overload(&prepared, &busy).await;
    assert!(offers.ran_out, "{offers:?}");
    let refused: u64 = offers.refused.values().sum();
    assert!(offers.refused.keys().all(|reason| ["disk_full", "overloaded"].contains(&reason.as_str())), "{offers:?}");
    assert!(offers.refused["overloaded"] > 0 && offers.refused_without_time == 0, "{offers:?}");
    assert_eq!((offers.accepted, offers.unanswered), (ACCOUNTS, 0));
    assert_eq!(offers.offered, ACCOUNTS + refused);
    let tally = dispatch.book.tally();
    assert_eq!((tally.sent, tally.accepted, tally.refused), (ACCOUNTS, ACCOUNTS, 0));
}

#[tokio::test]
async fn in_an_overload_a_used_sequence_is_good_news_only_for_an_offer_of_unknown_fate() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let lost = Arc::new(Mutex::new(Vec::new()));
    let forgetful = {
        let lost = Arc::clone(&lost);
        move |number: usize, request: &Request| {
            let Request::Submit(payments) = request else { return accept_all(request) };
            let mut lost = lost.lock().unwrap();
            if number == 0 {
                lost.extend(payments.iter().map(Payment::reference));
                return None;
            }
            // The last payment of all was used by somebody else.
            let last = |payment: &Payment| payment.amount().0 == ACCOUNTS;
            let verdict = |payment: &Payment| match last(payment) || lost.contains(&payment.reference()) {
                true => Verdict::Refused(Refusal::SequenceUsed),
                false => Verdict::Accepted { copies: 1 },
            };
            Some(Reply::Submitted(payments.iter().map(verdict).collect()))
        }
    };
    let node = node(&prepared, 0, Arc::new(forgetful));
    let (offers, dispatch) = overload(&prepared, &node).await;
    let lost = lost.lock().unwrap().len() as u64;
    assert!(offers.ran_out && lost > 0, "{offers:?}");
    assert_eq!((offers.accepted, offers.unanswered), (ACCOUNTS - 1, lost));
    assert_eq!(offers.refused, [("sequence_used".to_owned(), 1)].into());
    assert_eq!((dispatch.book.tally().accepted, dispatch.book.tally().refused), (ACCOUNTS - 1, 1));
}

#[tokio::test]
async fn a_payment_waits_until_the_one_that_its_window_begins_after_is_final() {
    const SPAN: u64 = 1_000;
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let good = node(&prepared, 0, Arc::new(|_, request| accept_all(request)));
    let (dispatch, _keepers) = dispatch_to(&prepared, &[&good]).await;
    let book = Arc::clone(&dispatch.book);
    let sending = tokio::spawn(dispatch.run(pacer().within(Some(SPAN))));
    let all = async {
        let mut finals = 0;
        while !sending.is_finished() {
            let (sent, accepted, ..) = book.counts();
            assert!(sent <= finals + SPAN, "{sent} payments left while {finals} were final");
            if accepted == sent && finals < sent {
                book.finalise(finals, zeni_loadgen::book::Tick(1));
                finals += 1;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the storm hangs");
    sending.await.unwrap().unwrap();
    assert_eq!(book.tally().accepted, ACCOUNTS);
}

#[tokio::test]
async fn every_payment_is_accepted_once_by_a_good_node() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let good = node(&prepared, 0, Arc::new(|_, request| accept_all(request)));
    let (sent, dispatch) = send(&prepared, &[&good]).await;
    sent.unwrap();
    let tally = dispatch.book.tally();
    assert_eq!((tally.sent, tally.accepted, tally.refused), (ACCOUNTS, ACCOUNTS, 0));
    assert_eq!(good.heard.load(Relaxed), 3, "3,000 payments are three submissions");
}

#[tokio::test]
async fn what_a_silent_node_leaves_open_goes_to_another() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let silent = node(&prepared, 0, Arc::new(|_, _| None));
    let good = node(&prepared, 1, Arc::new(|_, request| accept_all(request)));
    let (sent, dispatch) = send(&prepared, &[&silent, &good]).await;
    sent.unwrap();
    assert_eq!(dispatch.book.tally().accepted, ACCOUNTS);
    assert!(silent.heard.load(Relaxed) >= 1 && good.heard.load(Relaxed) >= 3);
    assert!(dispatch.with_outcome(|outcome| outcome.resends["timeout"]) >= 1);
    let (sent_us, accepted_us) = dispatch.with_outcome(|outcome| (outcome.last_sent_us, outcome.last_accepted_us));
    let waited = accepted_us >= SUBMIT_TIMEOUT.as_micros() as u64;
    assert!(waited && accepted_us >= sent_us, "the last was accepted at {accepted_us} µs, sent at {sent_us} µs");
}

#[tokio::test]
async fn an_overloaded_node_is_asked_again_for_what_it_put_off() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let busy = node(
        &prepared,
        0,
        Arc::new(move |number, request| {
            let Request::Submit(payments) = request else { return accept_all(request) };
            seen.lock().unwrap().push(payments.len());
            let overloaded = Verdict::Refused(Refusal::Overloaded { retry_after_ms: 20 });
            match number {
                0 => Some(Reply::Refused(RequestError::Overloaded { retry_after_ms: 20 })),
                1 => {
                    let mut verdicts = vec![Verdict::Accepted { copies: 1 }; payments.len()];
                    verdicts[..10].fill(overloaded);
                    Some(Reply::Submitted(verdicts))
                }
                _ => accept_all(request),
            }
        }),
    );
    let (sent, dispatch) = send(&prepared, &[&busy]).await;
    sent.unwrap();
    assert_eq!(dispatch.book.tally().accepted, ACCOUNTS);
    let asked: Vec<usize> = asked.lock().unwrap().clone();
    assert_eq!((asked.len(), asked.contains(&10)), (5, true), "{asked:?}");
}

#[tokio::test]
async fn refused_payments_are_told_by_their_code() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let strict = node(
        &prepared,
        0,
        Arc::new(|_, request| match request {
            Request::Submit(payments) => {
                Some(Reply::Submitted(vec![Verdict::Refused(Refusal::Expired); payments.len()]))
            }
            other => accept_all(other),
        }),
    );
    let (sent, dispatch) = send(&prepared, &[&strict]).await;
    sent.unwrap();
    assert_eq!(dispatch.book.tally().refused, ACCOUNTS);
    assert_eq!(dispatch.with_outcome(|outcome| outcome.refusals.clone()), [("expired", ACCOUNTS)].into());
}

#[tokio::test]
async fn a_node_that_forbids_it_ends_the_storm() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let closed = node(&prepared, 0, Arc::new(|_, _| Some(Reply::Refused(RequestError::Forbidden))));
    let (sent, _) = send(&prepared, &[&closed]).await;
    assert!(matches!(sent, Err(DispatchError::Abort(_))), "{sent:?}");
}

/// Two blocks of the storm, three batches of 1,000 payments in the first and none in the second.
fn chain(prepared: &Prepared) -> (Vec<Batch>, Vec<Arc<Block>>) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let id = prepared.genesis_id;
    let bytes = std::fs::read(prepared.payments_file()).unwrap();
    let payments = Payment::slice_from_bytes(&bytes).unwrap();
    let batches: Vec<Batch> = (payments.chunks(1_000).enumerate())
        .map(|(number, payments)| Batch::sign(ValidatorIndex(0), number as u64, payments.to_vec(), &key, &id))
        .collect();
    let mut blocks: Vec<Arc<Block>> = Vec::new();
    for listed in [&batches[..], &[]] {
        let digests: Vec<BatchDigest> = listed.iter().map(|batch| batch.digest(&id)).collect();
        let parent = blocks.last().map_or(prepared.genesis.block_id(), |block| block.id(&id));
        let header = BlockHeader {
            proposer: ValidatorIndex(0),
            rank: 0,
            height: blocks.len() as u64 + 1,
            slot: blocks.len() as u64 + 5,
            parent,
            transactions_root: transactions_root(&digests),
            state_root: StateRoot([2; 32]),
            receipts_root: ReceiptsRoot([3; 32]),
            receipts: 0,
        };
        blocks.push(Arc::new(Block::sign(header, digests, &key, &id)));
    }
    (batches, blocks)
}

/// A node that tells its followers the first `blocks` blocks, answers questions for batches if it has them, and ends
/// the connection when it is asked for what it does not have.
fn teller(prepared: &Prepared, place: u16, blocks: usize, with_batches: bool) -> Node {
    let mut node = node(prepared, place, Arc::new(|_, request| accept_all(request)));
    let (batches, all) = chain(prepared);
    let (endpoint, id) = (node.endpoint.clone(), prepared.genesis_id);
    node._serving.abort_all();
    node._serving.spawn(async move {
        while let Some(connection) = endpoint.accept().await {
            let mut control = connection.open_frames(Class::Control).await.unwrap();
            let mut bulk = connection.open_frames(Class::Bulk).await.unwrap();
            let Ok(mut questions) = connection.accept_frames().await else { continue };
            while let Ok(Some(frame)) = questions.recv().await {
                match message::decode(&frame).unwrap() {
                    Message::FetchBlocks { .. } => {
                        let told: Message<Batch> = Message::Blocks(all[..blocks].to_vec());
                        control.send(message::encode(&told)).await.unwrap();
                    }
                    Message::FetchBatches(digests) if with_batches => {
                        for batch in batches.iter().filter(|batch| digests.contains(&batch.digest(&id))) {
                            bulk.send(message::encode(&Message::Batch(batch.clone()))).await.unwrap();
                        }
                    }
                    Message::FetchBatches(_) => connection.close(CloseCode::Busy),
                    other => panic!("a follower says {other:?}"),
                }
            }
        }
    });
    node
}

#[tokio::test]
async fn a_follower_goes_on_with_another_node_when_one_leaves_it() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    // The first knows one block and loses its connection over its batches; the second knows everything.
    let (first, second) = (teller(&prepared, 0, 1, false), teller(&prepared, 1, 2, true));
    let key = prepared.plan().role_key(KeyOf::Watcher);
    let endpoint = link::dialler(&key, prepared.genesis_id, Role::Follower).unwrap();
    let book = Arc::new(Book::new(ACCOUNTS));
    let tracker = Tracker::new(prepared.plan(), &prepared.genesis, Arc::clone(&book));
    let tracker = Arc::new(Mutex::new(tracker));
    let nodes = vec![first.address.clone(), second.address.clone()];
    let clock = StormClock::starting_in(Duration::ZERO);
    let done = async {
        while follow::with(&tracker, |tracker| tracker.head().height) < 2 {
            tokio::task::yield_now().await;
        }
    };
    let following = follow::follow(Arc::clone(&tracker), nodes, 0, endpoint, clock);
    tokio::select! {
        () = following => panic!("following never ends"),
        reached = tokio::time::timeout(PATIENCE, done) => reached.expect("the chain is never followed"),
    }
    assert_eq!(book.tally().included, ACCOUNTS);
}

/// A commit certificate of the last block of [`chain`], signed by these validators.
fn certificate(prepared: &Prepared, signers: &[u16]) -> CommitCertificate {
    let (_, blocks) = chain(prepared);
    let block = FinalBlock { id: blocks[1].id(&prepared.genesis_id), height: 2 };
    let mut certificate = CommitCertificate { decision: 1, round: 0, block, signatures: Vec::new() };
    let digest = certificate.vote().digest(&prepared.genesis_id);
    for signer in signers {
        let key = prepared.plan().role_key(KeyOf::Validator(*signer));
        certificate.signatures.push((ValidatorIndex(*signer), SignatureBytes(key.sign(&digest).to_bytes())));
    }
    certificate
}

/// A node that pushes batches without end, and tells both blocks of [`chain`], these certificates and the second block again.
fn teller_of_finality(prepared: &Prepared, place: u16, certificates: Vec<CommitCertificate>) -> Node {
    let mut node = node(prepared, place, Arc::new(|_, request| accept_all(request)));
    let (batches, blocks) = chain(prepared);
    let endpoint = node.endpoint.clone();
    node._serving.abort_all();
    node._serving.spawn(async move {
        let mut pushing = JoinSet::new();
        while let Some(connection) = endpoint.accept().await {
            let mut control = connection.open_frames(Class::Control).await.unwrap();
            let mut bulk = connection.open_frames(Class::Bulk).await.unwrap();
            let batch = message::encode(&Message::Batch(batches[0].clone()));
            pushing.spawn(async move { while bulk.send(batch.clone()).await.is_ok() {} });
            let Ok(mut questions) = connection.accept_frames().await else { continue };
            let Ok(Some(frame)) = questions.recv().await else { continue };
            assert!(matches!(message::decode(&frame).unwrap(), Message::FetchBlocks { .. }));
            let blocks: Vec<Arc<Block>> = blocks.clone();
            let certificates = certificates
                .iter()
                .cloned()
                .map(|certificate| Message::<Batch>::Finality(Box::new(FinalityMessage::Commit(certificate))));
            let told = [Message::Block(Arc::clone(&blocks[0])), Message::Block(Arc::clone(&blocks[1]))];
            for told in told.into_iter().chain(certificates) {
                control.send(message::encode(&told)).await.unwrap();
            }
            control.send(message::encode(&Message::<Batch>::Blocks(blocks))).await.unwrap();
            connection.closed().await;
        }
    });
    node
}

#[tokio::test]
async fn a_witness_hears_what_is_final_though_it_reads_no_batch_and_believes_no_bare_word() {
    let root = tempfile::tempdir().unwrap();
    let prepared = prepared(root.path());
    let told = vec![certificate(&prepared, &[2]), certificate(&prepared, &[0, 2])];
    let node = teller_of_finality(&prepared, 0, told);
    let endpoint =
        link::dialler(&prepared.plan().role_key(KeyOf::Watcher), prepared.genesis_id, Role::Follower).unwrap();
    let book = Arc::new(Book::new(ACCOUNTS));
    let mut tracker = Tracker::new(prepared.plan(), &prepared.genesis, Arc::clone(&book));
    let clock = StormClock::starting_in(Duration::ZERO);
    // What it is told of final blocks reaches the tracker, whoever that one follows.
    let (batches, blocks) = chain(&prepared);
    for batch in batches {
        tracker.on_message(Message::Batch(batch), clock.tick());
    }
    tracker.on_message(Message::Blocks(blocks), clock.tick());
    let finals = Arc::new(Mutex::new(Finals::new(&prepared.genesis, vec!["node-1".into()])));
    let notebook = Notebook { finals: Arc::clone(&finals), tracker: Arc::new(Mutex::new(tracker)), clock };
    let done = async {
        while book.finals() < ACCOUNTS {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = witness(notebook, 0, node.address.clone(), endpoint) => panic!("it never ends"),
        reached = tokio::time::timeout(PATIENCE, done) => reached.expect("nothing becomes final"),
    }
    let (judged, failures) = finals::with(&finals, |finals| (finals.judge(), finals.failures()));
    assert_eq!(judged, Judged { finals: 1, reverted: 0, unknown: 0 });
    assert!(failures.len() == 1 && failures[0].contains("does not hold"), "one validator is no quorum: {failures:?}");
}

/// What a node tells of itself, active at this height.
fn active_at(prepared: &Prepared, place: u16, height: u64) -> Option<Reply> {
    Some(Reply::Node(NodeInfo {
        genesis: prepared.genesis_id,
        key: prepared.genesis.validators[usize::from(place)].key,
        boot: 1,
        mode: Mode::Active,
        height,
        slot: height,
        head: prepared.genesis.block_id(),
        state_root: StateRoot([2; 32]),
        pending: 0,
        live: 3,
        version: "0".into(),
    }))
}

/// A scene of these nodes, with a connection to each.
async fn scene(root: &std::path::Path, prepared: &Prepared, nodes: &[&Node]) -> (Scene, JoinSet<()>) {
    let plan = prepared.plan();
    let endpoint = link::dialler(&plan.role_key(KeyOf::Submitter), prepared.genesis_id, Role::Client).unwrap();
    let nodes: Vec<NodeAddress> = nodes.iter().map(|node| node.address.clone()).collect();
    let links: Vec<Arc<Link>> = nodes.iter().map(|node| Link::new(node.clone(), endpoint.clone())).collect();
    let mut keepers = JoinSet::new();
    links.iter().for_each(|link| drop(keepers.spawn(Arc::clone(link).keep_up())));
    while !links.iter().all(|link| link.is_up()) {
        tokio::task::yield_now().await;
    }
    let (directory, genesis_file) = (root.to_path_buf(), root.join("genesis.toml"));
    let network =
        Network { directory, genesis_file, nodes, api: None, twins: Vec::new(), fronts: None, members: Vec::new() };
    let tracker = Tracker::new(plan, &prepared.genesis, Arc::new(Book::new(ACCOUNTS)));
    let scene = Scene {
        network: Arc::new(tokio::sync::Mutex::new(network)),
        meter: Arc::default(),
        everyone: links.clone(),
        links,
        tracker: Arc::new(Mutex::new(tracker)),
        http: Http::default(),
        api: None,
        lanes: None,
        clock: StormClock::starting_in(Duration::ZERO),
        patience: PATIENCE,
        ends_in_halt: false,
    };
    (scene, keepers)
}

#[tokio::test]
async fn a_node_is_back_only_when_it_is_near_the_head_that_is_told_after_its_own_answer() {
    let root = tempfile::tempdir().unwrap();
    let prepared = Arc::new(prepared(root.path()));
    // The head moves by two blocks as soon as the target has answered for the first time; the target follows at its
    // third answer, for it is also asked when the best height is looked for.
    let target = {
        let prepared = Arc::clone(&prepared);
        node(&prepared.clone(), 0, Arc::new(move |nth, _| active_at(&prepared, 0, if nth < 2 { 5 } else { 7 })))
    };
    let other = {
        let (prepared, heard) = (Arc::clone(&prepared), Arc::clone(&target.heard));
        let height = move || if heard.load(Relaxed) == 0 { 5 } else { 7 };
        node(&prepared.clone(), 1, Arc::new(move |_, _| active_at(&prepared, 1, height())))
    };
    let (scene, _keepers) = scene(root.path(), &prepared, &[&other, &target]).await;
    let fault = Fault::of_processes(FaultKind::Pause, vec![target.address.name.clone()], 0, 0);
    let faults = Faults::start(&scene, &[fault]);
    let (records, failures) = faults.end(tokio::time::Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(failures, Vec::<String>::new());
    assert!(records[0].resync_s.is_some());
    assert!(target.heard.load(Relaxed) >= 3, "it was taken for back while it was two blocks behind");
}

/// As [`active_at`], at a block of one branch or another.
fn active_on(prepared: &Prepared, place: u16, branch: u8) -> Option<Reply> {
    let Some(Reply::Node(info)) = active_at(prepared, place, 5) else { unreachable!("it tells of itself") };
    Some(Reply::Node(NodeInfo { head: BlockId([branch; 32]), ..info }))
}

#[tokio::test]
async fn a_partition_is_over_only_when_all_nodes_stand_at_one_block_and_not_merely_as_high() {
    let root = tempfile::tempdir().unwrap();
    let prepared = Arc::new(prepared(root.path()));
    let on = |place, script: fn(usize) -> u8| {
        let prepared = Arc::clone(&prepared);
        node(&prepared.clone(), place, Arc::new(move |nth, _| active_on(&prepared, place, script(nth))))
    };
    // The second leaves its branch at its third answer.
    let (first, second) = (on(0, |_| 1), on(1, |nth| if nth < 2 { 2 } else { 1 }));
    let (mut scene, _keepers) = scene(root.path(), &prepared, &[&first, &second]).await;
    let relay =
        Relay::start(Fronts::bind(&scene.links.iter().map(|link| link.node.quic).collect::<Vec<_>>()).unwrap(), 1);
    scene.lanes = Some(relay.unwrap().lanes());
    let mut fault = Fault::of_processes(FaultKind::Partition, Vec::new(), 0, 0);
    fault.groups = scene.links.iter().map(|link| vec![link.node.name.clone()]).collect();
    let faults = Faults::start(&scene, &[fault]);
    let (records, failures) = faults.end(tokio::time::Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(failures, Vec::<String>::new());
    assert!(records[0].undone && records[0].resync_s.is_some() && records[0].struck.is_some());
    assert!(second.heard.load(Relaxed) >= 3, "it was taken for back on another branch");
}
