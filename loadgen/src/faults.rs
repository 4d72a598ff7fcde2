//! Carries out a scenario's faults at their times, undoes each, and watches the fallen come back.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use zeni_consensus::Mode;
use zeni_schemas::request::{NodeInfo, Reply, Request};

use crate::follow::{self, SharedTracker};
use crate::http::Http;
use crate::link::Link;
use crate::measure::{self, Look};
use crate::network::{Network, NetworkError};
use crate::process::ProcessError;
use crate::relay::{Lanes, Strike, Struck};
use crate::resources::Meter;
use crate::scenario::{API_SERVER, Fault, FaultKind};
use crate::storm_clock::StormClock;
use crate::watch;

/// Between two looks at a process that came back.
const LOOK: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// What a node logs when it starts from a checkpoint.
const CHECKPOINT_LOADED: &str = "starting from the checkpoint";

/// What faults work on.
#[derive(Debug, Clone)]
pub struct Scene {
    pub network: Arc<Mutex<Network>>,
    pub meter: Arc<std::sync::Mutex<Meter>>,
    /// To the nodes without twins.
    pub links: Vec<Arc<Link>>,
    /// To all node processes.
    pub everyone: Vec<Arc<Link>>,
    pub tracker: SharedTracker,
    pub http: Http,
    /// HTTP address of the API server.
    pub api: Option<String>,
    /// The directions between nodes, if they lead through the relay.
    pub lanes: Option<Arc<Lanes>>,
    pub clock: StormClock,
    /// Until a process that was asked to stop is killed.
    pub patience: Duration,
    /// The nodes are to halt, so nobody comes back from a fault.
    pub ends_in_halt: bool,
}

/// What a fault did and when, in microseconds from the start of the storm.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRecord {
    pub fault: Fault,
    pub began_us: u64,
    /// When the processes were started again (or went on), or everything passed again.
    pub ended_us: u64,
    /// When everything that it ends had ended, or everything that it strikes was struck.
    pub struck_us: u64,
    /// False if the run was over before that; the times are then the scenario's as far as they were still to come.
    pub undone: bool,
    /// The longest that one of them took until it was active and within one block of the head; after a fault of the
    /// network, until all nodes were active and stood at the same block. `None` if that never was.
    pub resync_s: Option<f64>,
    /// Processes that had to be killed because they did not stop.
    pub unwilling: Vec<String>,
    /// Nodes that came back without having loaded a checkpoint, by their logs; `None` as long as that is not known.
    pub without_checkpoint: Option<Vec<String>>,
    /// Datagrams that a fault of the network struck; `None` for other faults, and until it is undone.
    pub struck: Option<Struck>,
    /// Whether anyone is waited for once it is undone.
    pub awaited: bool,
}

impl FaultRecord {
    /// A fault of which nothing has happened yet.
    fn planned(fault: Fault) -> Self {
        let (began_us, ended_us) = (fault.at_s * 1_000_000, fault.end_s() * 1_000_000);
        Self {
            fault,
            began_us,
            ended_us,
            struck_us: began_us,
            undone: false,
            resync_s: None,
            unwilling: Vec::new(),
            without_checkpoint: None,
            struck: None,
            awaited: true,
        }
    }
}

/// A record that its fault's task writes and that outlives the task.
type SharedRecord = Arc<std::sync::Mutex<FaultRecord>>;

/// The faults of a storm, each on its way.
#[derive(Debug, Default)]
pub struct Faults {
    tasks: JoinSet<Result<(), NetworkError>>,
    records: Vec<SharedRecord>,
}

impl Faults {
    /// Sets every fault on its way. They go no further once this is dropped, and the network is then whole again.
    pub fn start(scene: &Scene, faults: &[Fault]) -> Self {
        let mut all = Self::default();
        for fault in faults {
            let record = FaultRecord { awaited: !scene.ends_in_halt, ..FaultRecord::planned(fault.clone()) };
            let record = Arc::new(std::sync::Mutex::new(record));
            all.tasks.spawn(carry_out(scene.clone(), fault.clone(), Arc::clone(&record)));
            all.records.push(record);
        }
        all
    }

    /// A record of every fault in the order of their times, and in words which of them were not over by `deadline`:
    /// these are cut off.
    pub async fn end(mut self, deadline: tokio::time::Instant) -> Result<(Vec<FaultRecord>, Vec<String>), FaultError> {
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended??;
            }
            Ok::<_, FaultError>(())
        };
        if let Ok(ended) = tokio::time::timeout_at(deadline, all).await {
            ended?;
        }
        self.tasks.shutdown().await;
        let mut records: Vec<FaultRecord> = self.records.iter().map(|record| locked(record).clone()).collect();
        records.sort_by_key(|record| record.began_us);
        let failures = records.iter().filter_map(FaultRecord::not_over).collect();
        Ok((records, failures))
    }
}

impl FaultRecord {
    fn not_over(&self) -> Option<String> {
        let Fault { kind, at_s, .. } = &self.fault;
        let back = if self.fault.rule().is_some() { "all nodes stood at one block" } else { "its targets were back" };
        let what = if self.undone { back } else { "it was undone" };
        let over = self.resync_s.is_some() || self.undone && !self.awaited;
        (!over).then(|| format!("the {kind} of {} at {at_s} s: the run was over before {what}", self.fault.whom()))
    }
}

/// Why faults could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("a fault's task ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
}

fn locked(record: &SharedRecord) -> std::sync::MutexGuard<'_, FaultRecord> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the fault's time, carries it out, undoes it and waits until its targets are back.
async fn carry_out(scene: Scene, fault: Fault, record: SharedRecord) -> Result<(), NetworkError> {
    tokio::time::sleep_until(scene.clock.instant(fault.at_s * 1_000_000).into()).await;
    watch::note_fsyncs(&scene, &fault.targets).await;
    let began_us = scene.clock.now_us();
    locked(&record).began_us = began_us;
    tracing::info!(kind = %fault.kind, whom = fault.whom(), "fault begins");
    // The lanes let everything pass again when this is dropped, also if the task is cut off.
    let strike = strike(&scene, &fault).await;
    let unwilling = begin(&scene, &fault).await?;
    {
        let mut record = locked(&record);
        (record.unwilling, record.struck_us) = (unwilling, scene.clock.now_us());
    }
    let end_us = began_us + fault.duration_s * 1_000_000;
    tokio::time::sleep_until(scene.clock.instant(end_us).into()).await;
    let ended_us = scene.clock.now_us();
    let log_ends = end(&scene, &fault).await?;
    let struck = strike.as_ref().map(Strike::struck);
    drop(strike);
    {
        let mut record = locked(&record);
        (record.ended_us, record.undone, record.struck) = (ended_us, true, struck);
    }
    tracing::info!(kind = %fault.kind, whom = fault.whom(), "fault undone");
    if scene.ends_in_halt {
        return Ok(());
    }
    if struck.is_some() {
        let resync_s = come_together(&scene, ended_us).await;
        let mut record = locked(&record);
        (record.resync_s, record.without_checkpoint) = (Some(resync_s), Some(Vec::new()));
        return Ok(());
    }
    let mut resync_s = Some(0.0f64);
    for target in &fault.targets {
        let back = come_back(&scene, target, ended_us).await;
        resync_s = resync_s.zip(back).map(|(longest, this)| longest.max(this));
    }
    let without_checkpoint = without_checkpoint(&scene, &log_ends).await?;
    let mut record = locked(&record);
    (record.resync_s, record.without_checkpoint) = (resync_s, Some(without_checkpoint));
    Ok(())
}

/// Harms the network between nodes if that is what the fault does.
async fn strike(scene: &Scene, fault: &Fault) -> Option<Strike> {
    let rule = fault.rule()?;
    let lanes = scene.lanes.as_ref().expect("the stage has a relay if a fault of the scenario needs one");
    let nodes = &scene.network.lock().await.nodes;
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    Some(lanes.strike(&fault.ways(&names), rule))
}

/// Harms all targets at once, and waits until those that are to end have ended.
async fn begin(scene: &Scene, fault: &Fault) -> Result<Vec<String>, NetworkError> {
    let mut network = scene.network.lock().await;
    let signal = match fault.kind {
        FaultKind::Stop | FaultKind::Restart => Signal::TERM,
        FaultKind::Kill => Signal::KILL,
        FaultKind::Pause => Signal::STOP,
        FaultKind::Partition | FaultKind::Delay | FaultKind::Loss => return Ok(Vec::new()),
    };
    for target in &fault.targets {
        if let Some(member) = network.member(target) {
            watch::note_usage(scene, member);
            member.process.signal(signal)?;
        }
    }
    let mut unwilling = Vec::new();
    for target in &fault.targets {
        let Some(member) = network.member(target) else { continue };
        match fault.kind {
            FaultKind::Kill => member.process.kill().await?,
            FaultKind::Stop | FaultKind::Restart => {
                if !member.process.stop(scene.patience).await? {
                    unwilling.push(target.clone());
                }
            }
            FaultKind::Pause | FaultKind::Partition | FaultKind::Delay | FaultKind::Loss => {}
        }
    }
    Ok(unwilling)
}

/// Undoes a fault. Names of the nodes that were started again, each with the length of its log before that.
async fn end(scene: &Scene, fault: &Fault) -> Result<Vec<(String, u64)>, ProcessError> {
    let mut network = scene.network.lock().await;
    let mut log_ends = Vec::new();
    for target in &fault.targets {
        let Some(member) = network.member(target) else { continue };
        match fault.kind {
            FaultKind::Pause => member.process.signal(Signal::CONT)?,
            FaultKind::Stop | FaultKind::Kill | FaultKind::Restart => {
                // An API server executes its whole log again if its index calls for it.
                if target != API_SERVER {
                    log_ends.push((target.clone(), member.process.log_length()?));
                }
                member.process.start()?;
            }
            FaultKind::Partition | FaultKind::Delay | FaultKind::Loss => {}
        }
    }
    Ok(log_ends)
}

/// Those of the nodes that do not tell of a checkpoint in what they logged since they were started.
async fn without_checkpoint(scene: &Scene, log_ends: &[(String, u64)]) -> Result<Vec<String>, ProcessError> {
    let mut network = scene.network.lock().await;
    let mut without = Vec::new();
    for (name, log_end) in log_ends {
        let Some(member) = network.member(name) else { continue };
        if !member.process.log_since(*log_end)?.contains(CHECKPOINT_LOADED) {
            without.push(name.clone());
        }
    }
    Ok(without)
}

/// Looks at a process until it is back, without end: the future is dropped when the run is over first. `None` if there is
/// nothing to look at.
async fn come_back(scene: &Scene, target: &str, started_us: u64) -> Option<f64> {
    if target == API_SERVER {
        return api_server_ready(scene, started_us).await;
    }
    let place = scene.links.iter().position(|link| link.node.name == target)?;
    loop {
        if let Ok(info) = node_info(&scene.links[place], LOOK_DEADLINE).await {
            let (active, height) = (info.mode == Mode::Active, info.height);
            let at_us = scene.clock.now_us();
            // The head is asked for after the target: one from before would let it be a block further behind.
            let best_height = best_height(scene).await.max(height);
            let look = Look { at_us, active, height, best_height };
            if let Some(resync_s) = measure::resync_s(&[look], started_us) {
                return Some(resync_s);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks at all nodes until they are active and stand at the same block, without end as [`come_back`]. Heights alone do
/// not tell: both sides of a partition go on.
async fn come_together(scene: &Scene, ended_us: u64) -> f64 {
    loop {
        let mut heads = Vec::new();
        for link in &scene.links {
            let info = node_info(link, LOOK_DEADLINE).await.ok();
            heads.push(info.filter(|info| info.mode == Mode::Active).map(|info| info.head));
        }
        if heads.iter().all(|head| head.is_some() && *head == heads[0]) {
            return (scene.clock.now_us() - ended_us) as f64 / 1e6;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn api_server_ready(scene: &Scene, started_us: u64) -> Option<f64> {
    let address = scene.api.as_ref()?;
    loop {
        let page = scene.http.get(address, "/readyz", LOOK_DEADLINE).await;
        if page.is_ok_and(|page| page.status.is_success()) {
            return Some((scene.clock.now_us() - started_us) as f64 / 1e6);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The greatest height that any node tells or the tracker knows.
async fn best_height(scene: &Scene) -> u64 {
    let mut best = follow::with(&scene.tracker, |tracker| tracker.blocks().len() as u64);
    for link in scene.links.iter().filter(|link| link.is_up()) {
        if let Ok(info) = node_info(link, LOOK_DEADLINE).await {
            best = best.max(info.height);
        }
    }
    best
}

/// Where a node stands.
pub async fn node_info(link: &Link, deadline: Duration) -> Result<NodeInfo, crate::delivery::Failure> {
    match link.ask(&Request::Node, deadline).await? {
        Reply::Node(info) => Ok(info),
        other => Err(crate::delivery::Failure::Fatal(format!("{} answers with {other:?}", link.node.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Book;
    use crate::link;
    use crate::network::Member;
    use crate::prepare::{Parameters, prepare};
    use crate::process::Process;
    use crate::tracker::Tracker;
    use zeni_schemas::Role;

    /// A scene with one node, which nobody ever reaches.
    fn scene_of_a_node_that_is_gone(root: &std::path::Path) -> Scene {
        let prepared = prepare(root, &Parameters::small(1), 1_760_000_000_000).unwrap();
        let plan = prepared.plan();
        let key = plan.role_key(crate::plan::Role::Submitter);
        let endpoint = link::dialler(&key, prepared.genesis_id, Role::Client).unwrap();
        let quic = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let node = link::NodeAddress { name: "node-1".into(), quic, key: prepared.genesis.validators[0].key };
        let network = Network {
            directory: root.to_path_buf(),
            genesis_file: root.join("genesis.toml"),
            nodes: vec![node.clone()],
            api: None,
            twins: Vec::new(),
            fronts: None,
            members: Vec::new(),
        };
        let tracker = Tracker::new(plan, &prepared.genesis, Arc::new(Book::new(20)));
        Scene {
            network: Arc::new(Mutex::new(network)),
            meter: Arc::default(),
            links: vec![Link::new(node, endpoint)],
            everyone: Vec::new(),
            tracker: Arc::new(std::sync::Mutex::new(tracker)),
            http: Http::default(),
            api: None,
            lanes: None,
            clock: StormClock::starting_in(Duration::ZERO),
            patience: Duration::from_secs(1),
            ends_in_halt: false,
        }
    }

    fn fault(at_s: u64) -> Fault {
        Fault::of_processes(FaultKind::Pause, vec!["node-1".into()], at_s, 0)
    }

    #[tokio::test]
    async fn a_fault_whose_target_never_comes_back_keeps_its_record_and_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let faults = Faults::start(&scene_of_a_node_that_is_gone(root.path()), &[fault(0)]);
        while !locked(&faults.records[0]).undone {
            tokio::task::yield_now().await;
        }
        let (records, failures) = faults.end(tokio::time::Instant::now()).await.unwrap();
        assert_eq!(records.iter().map(|record| (record.undone, record.resync_s)).collect::<Vec<_>>(), [(true, None)]);
        assert_eq!(failures, ["the pause of node-1 at 0 s: the run was over before its targets were back"]);
    }

    #[tokio::test]
    async fn nobody_is_waited_for_after_a_fault_that_the_nodes_do_not_outlive() {
        let root = tempfile::tempdir().unwrap();
        let scene = Scene { ends_in_halt: true, ..scene_of_a_node_that_is_gone(root.path()) };
        let faults = Faults::start(&scene, &[fault(0)]);
        let patience = tokio::time::Instant::now() + Duration::from_secs(30);
        let (records, failures) = faults.end(patience).await.unwrap();
        assert_eq!((records[0].undone, records[0].resync_s, failures), (true, None, Vec::new()));
    }

    #[tokio::test]
    async fn a_node_loaded_a_checkpoint_only_if_its_log_says_so_since_its_start() {
        let root = tempfile::tempdir().unwrap();
        let scene = scene_of_a_node_that_is_gone(root.path());
        let log = root.path().join("node-1.log");
        let before = format!("INFO zeni_node::recovery: {CHECKPOINT_LOADED} height=5\n");
        std::fs::write(&log, &before).unwrap();
        let program = std::path::PathBuf::from("/bin/true");
        let process = Process::new("node-1".into(), program.clone(), program.clone(), Vec::new(), log.clone());
        let metrics = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let member = Member { process, data: program.clone(), config: program, metrics };
        scene.network.lock().await.members.push(member);
        let log_ends = [("node-1".to_owned(), before.len() as u64)];
        std::fs::write(&log, format!("{before}INFO starting from genesis\n")).unwrap();
        assert_eq!(without_checkpoint(&scene, &log_ends).await.unwrap(), ["node-1"]);
        std::fs::write(&log, format!("{before}{before}")).unwrap();
        assert!(without_checkpoint(&scene, &log_ends).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_fault_that_never_began_keeps_its_record_and_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let faults = Faults::start(&scene_of_a_node_that_is_gone(root.path()), &[fault(3_600)]);
        let (records, failures) = faults.end(tokio::time::Instant::now()).await.unwrap();
        assert_eq!(records, [FaultRecord::planned(fault(3_600))]);
        assert_eq!(failures, ["the pause of node-1 at 3600 s: the run was over before it was undone"]);
    }
}
