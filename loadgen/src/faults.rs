//! Carries out a scenario's faults at their times, undoes each, and watches the fallen come back.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::Mutex;
use zeni_consensus::Mode;
use zeni_schemas::request::{NodeInfo, Reply, Request};

use crate::follow::{self, SharedTracker};
use crate::http::Http;
use crate::link::Link;
use crate::measure::{self, Look};
use crate::network::{Network, NetworkError};
use crate::process::ProcessError;
use crate::resources::Meter;
use crate::scenario::{API_SERVER, Fault, FaultKind};
use crate::storm_clock::StormClock;
use crate::watch;

/// Between two looks at a process that came back.
const LOOK: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// What faults work on.
#[derive(Debug, Clone)]
pub struct Scene {
    pub network: Arc<Mutex<Network>>,
    pub meter: Arc<std::sync::Mutex<Meter>>,
    pub links: Vec<Arc<Link>>,
    pub tracker: SharedTracker,
    pub http: Http,
    /// HTTP address of the API server.
    pub api: Option<String>,
    pub clock: StormClock,
    /// Until a process that was asked to stop is killed.
    pub patience: Duration,
}

/// What a fault did and when, in microseconds from the start of the storm.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRecord {
    pub fault: Fault,
    pub began_us: u64,
    /// When the processes were started again (or went on).
    pub ended_us: u64,
    /// The longest that one of them took until it was active and within one block of the head; `None` if one never was.
    pub resync_s: Option<f64>,
    /// Processes that had to be killed because they did not stop.
    pub unwilling: Vec<String>,
}

/// Waits for the fault's time, carries it out, undoes it and waits until its targets are back.
pub async fn carry_out(scene: Scene, fault: Fault) -> Result<FaultRecord, NetworkError> {
    tokio::time::sleep_until(scene.clock.instant(fault.at_s * 1_000_000).into()).await;
    watch::note_fsyncs(&scene, &fault.targets).await;
    let began_us = scene.clock.now_us();
    let unwilling = begin(&scene, &fault).await?;
    let end_us = began_us + fault.duration_s * 1_000_000;
    tokio::time::sleep_until(scene.clock.instant(end_us).into()).await;
    let ended_us = scene.clock.now_us();
    end(&scene, &fault).await?;
    tracing::info!(kind = %fault.kind, targets = ?fault.targets, "fault undone");
    let mut resync_s = Some(0.0f64);
    for target in &fault.targets {
        let back = come_back(&scene, target, ended_us).await;
        resync_s = resync_s.zip(back).map(|(longest, this)| longest.max(this));
    }
    Ok(FaultRecord { fault, began_us, ended_us, resync_s, unwilling })
}

/// Harms all targets at once, and waits until those that are to end have ended.
async fn begin(scene: &Scene, fault: &Fault) -> Result<Vec<String>, NetworkError> {
    let mut network = scene.network.lock().await;
    let signal = match fault.kind {
        FaultKind::Stop | FaultKind::Restart => Signal::TERM,
        FaultKind::Kill => Signal::KILL,
        FaultKind::Pause => Signal::STOP,
    };
    for target in &fault.targets {
        if let Some(member) = network.member(target) {
            watch::note_usage(scene, member);
            member.process.signal(signal)?;
        }
    }
    tracing::info!(kind = %fault.kind, targets = ?fault.targets, "fault begins");
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
            FaultKind::Pause => {}
        }
    }
    Ok(unwilling)
}

async fn end(scene: &Scene, fault: &Fault) -> Result<(), ProcessError> {
    let mut network = scene.network.lock().await;
    for target in &fault.targets {
        let Some(member) = network.member(target) else { continue };
        match fault.kind {
            FaultKind::Pause => member.process.signal(Signal::CONT)?,
            FaultKind::Stop | FaultKind::Kill | FaultKind::Restart => member.process.start()?,
        }
    }
    Ok(())
}

/// Looks at a process until it is back; `None` when the storm's time is over first (the future is dropped then).
async fn come_back(scene: &Scene, target: &str, started_us: u64) -> Option<f64> {
    if target == API_SERVER {
        return api_server_ready(scene, started_us).await;
    }
    let place = scene.links.iter().position(|link| link.node.name == target)?;
    loop {
        let best_height = best_height(scene).await;
        if let Ok(info) = node_info(&scene.links[place], LOOK_DEADLINE).await {
            let (active, height) = (info.mode == Mode::Active, info.height);
            let at_us = scene.clock.now_us();
            let look = Look { at_us, active, height, best_height: best_height.max(height) };
            if let Some(resync_s) = measure::resync_s(&[look], started_us) {
                return Some(resync_s);
            }
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
