//! The API over a scripted follower and scripted nodes, asked as HTTP clients ask.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch};
use tower::ServiceExt;
use zeni_api_server::api::Api;
use zeni_api_server::chronicle::Chronicle;
use zeni_api_server::config::Limits;
use zeni_api_server::final_state::{Executed, FinalState};
use zeni_api_server::follower::{AccountView, Question, SequenceView};
use zeni_api_server::gathering::Gathering;
use zeni_api_server::pending::Pending;
use zeni_api_server::progress::Progress;
use zeni_api_server::proof_log::ProofLog;
use zeni_api_server::routes::{PROOFS_AT_ONCE_MAX, router};
use zeni_api_server::submissions::Submissions;
use zeni_api_server::waiting::WAITING_PAYMENTS_MAX;
use zeni_client::{NodeAddress, NodePool, PoolConfig};
use zeni_consensus::ChainChange;
use zeni_ledger::{CommitCertificate, FinalBlock, StateRoot};
use zeni_schemas::Role;
use zeni_storage::index::{Index, IndexConfig};
use zeni_storage::{DiskFiles, EvidenceFile};
use zeni_transport::TransportConfig;

use super::fake_node::dialler;
use super::ledger::{Branch, MemoryArchive, World};

pub(crate) struct Harness {
    pub(crate) world: Arc<World>,
    pub(crate) api: Arc<Api>,
    pub(crate) router: Router,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) archive: Arc<MemoryArchive>,
    /// What is canonical.
    branch: Arc<Mutex<Branch>>,
    _dir: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    /// Status and problem code; checks that it is a problem document.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{:?}", self.bytes);
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16());
        (self.status.as_u16(), document["code"].as_str().unwrap().to_owned())
    }
}

impl Harness {
    pub(crate) fn new(world: &Arc<World>, nodes: Vec<NodeAddress>) -> Self {
        Self::with_limits(world, nodes, Limits { node_timeout_ms: 500, ..Limits::default() })
    }

    pub(crate) fn with_limits(world: &Arc<World>, nodes: Vec<NodeAddress>, limits: Limits) -> Self {
        let harness = Self::start(world, nodes, limits);
        harness.api.progress.finish_replay();
        harness
    }

    /// One that has not yet executed what was on its disk.
    pub(crate) fn replaying(world: &Arc<World>, nodes: Vec<NodeAddress>) -> Self {
        Self::start(world, nodes, Limits::default())
    }

    fn start(world: &Arc<World>, nodes: Vec<NodeAddress>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index_config = IndexConfig { depth: 2, ..IndexConfig::default() };
        let index = Index::open(&dir.path().join("index"), world.genesis.block_id(), index_config).unwrap().index;
        let archive = Arc::new(MemoryArchive::default());
        let proof_log = Arc::new(ProofLog::open(&dir.path().join("proofs.log"), &world.id).unwrap());
        let chronicle = Chronicle::new(world.genesis.clone(), archive.clone(), Arc::new(index), proof_log).unwrap();
        let chronicle = Arc::new(chronicle);
        let transport =
            TransportConfig { handshake_deadline: Duration::from_millis(300), ..TransportConfig::default() };
        let pool_config = PoolConfig {
            attempt_timeout: Duration::from_millis(limits.node_timeout_ms),
            call_timeout: limits.request_timeout(),
            in_flight_max: limits.submissions_max,
            ..PoolConfig::default()
        };
        let progress = Arc::new(Progress::new(nodes.len()));
        let files = DiskFiles::open(&dir.path().join("data")).unwrap();
        let (evidence, _) = EvidenceFile::open(&files, world.id).unwrap();
        let pool = Arc::new(NodePool::new(&dialler(world.id, Role::Client, transport), nodes, pool_config));
        let (questions, asked) = mpsc::channel(16);
        let branch = Arc::new(Mutex::new(Branch::new(world)));
        tokio::spawn(answer(branch.clone(), archive.clone(), chronicle.clone(), asked));
        let stop = watch::Sender::new(false);
        let api = Arc::new(Api {
            chronicle,
            pending: Pending::start(pool.clone()),
            gathering: Gathering::start(pool.clone(), limits.submissions_max),
            nodes: pool,
            progress,
            evidence: Arc::new(evidence),
            submissions: Submissions::new(1_000),
            questions,
            limits,
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            event_streams: Arc::new(Semaphore::new(limits.event_streams_max)),
            proofs: Arc::new(Semaphore::new(PROOFS_AT_ONCE_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_PAYMENTS_MAX)),
            stopping: stop.subscribe(),
        });
        let router = router(api.clone());
        Self { world: world.clone(), api, router, stop, archive, branch, _dir: dir }
    }

    /// Makes this branch canonical, as the follower would tell.
    pub(crate) fn become_canonical(&self, branch: &Branch) {
        let former = std::mem::replace(&mut *self.branch.lock().unwrap(), branch.clone());
        let pairs = former.blocks.iter().zip(&branch.blocks);
        let common = pairs.take_while(|(left, right)| left.id == right.id).count();
        self.publish(&branch.change_from(&former, common));
    }

    /// Tells of a decision as the follower would.
    pub(crate) fn decide(&self, certificate: &CommitCertificate) {
        self.api.chronicle.proof_log().keep_certificate(certificate).unwrap();
        self.api.chronicle.publish_final(certificate).unwrap();
    }

    pub(crate) fn publish(&self, change: &ChainChange) {
        change.applied.iter().for_each(|applied| self.archive.store(applied));
        self.api.chronicle.publish(change).unwrap();
    }

    /// Makes the canonical block at `height` final, as the follower would tell.
    pub(crate) fn become_final(&self, height: u64) {
        let certificate = certificate(&self.branch.lock().unwrap(), height);
        self.decide(&certificate);
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, media_type: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header("content-type", media_type).body(body.into()).unwrap();
        self.ask(request).await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, "application/json", body.to_string()).await
    }
}

/// A decision, without the signatures: those are checked before the chronicle hears of it.
pub(crate) fn certificate(branch: &Branch, height: u64) -> CommitCertificate {
    let block = FinalBlock { id: branch.blocks[height as usize - 1].id, height };
    CommitCertificate { decision: height, round: 0, block, signatures: Vec::new() }
}

/// Stands in for the follower's thread.
async fn answer(
    branch: Arc<Mutex<Branch>>,
    archive: Arc<MemoryArchive>,
    chronicle: Arc<Chronicle>,
    mut questions: mpsc::Receiver<Question>,
) {
    let mut final_state = FinalState::default();
    while let Some(question) = questions.recv().await {
        let branch = branch.lock().unwrap().clone();
        let state = &branch.state;
        let question = match question {
            Question::Account(question) => question,
            Question::FinalAccount(question) => {
                let block_at = |height| branch.block_at(height);
                let executed = Executed { state, head: branch.tip, height: branch.height(), block_at };
                let found = final_state.account(&question.id, chronicle.last_final(), &executed, &*archive);
                question.reply.send(found).ok();
                continue;
            }
            Question::Sequences(question) => {
                question.reply.send(SequenceView::of(state, branch.height(), &question.sequences)).ok();
                continue;
            }
        };
        let proof = question.with_proof.then(|| zeni_ledger::proof::prove(state, &question.id).to_bytes());
        let state_root: StateRoot = state.root();
        let account = state.account(&question.id).cloned();
        let view = AccountView { height: branch.height(), head: branch.tip, state_root, account, proof };
        question.reply.send(view).ok();
    }
}
