//! A storm from its scenario file to its report.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use zeni_ledger::Genesis;

use crate::api_audit;
use crate::audit::{self, AuditError, Balances, Verified};
use crate::book::Book;
use crate::clock;
use crate::dispatch::{ApiGate, Dispatch, DispatchError, Gate, PaymentsFile};
use crate::double_spends::{Pairs, Resolved};
use crate::events;
use crate::faults::{FaultError, Faults, Scene};
use crate::finals::{Finals, SharedFinals};
use crate::findings::{self, Findings};
use crate::follow;
use crate::limit::{self, Limit};
use crate::network::{NetworkError, Programs};
use crate::overload;
use crate::prepare::{self, PrepareError, Prepared};
use crate::process::ProcessError;
use crate::relay::Relay;
use crate::report::Report;
use crate::resources::{self, Meter, Usage};
use crate::router::{Preference, Router};
use crate::scenario::{API_SERVER, Overload, Phase, Rate, Scenario, ScenarioError, Target};
use crate::schedule::Pacer;
use crate::stage::{self, Stage, StageError};
use crate::stored::{self, StoredError};
use crate::storm_clock::StormClock;
use crate::tracker::Tracker;
use crate::watch::{self, LOADGEN};
use crate::witness::{self, Notebook};

/// Between the stage being set and the first payment.
const BREATH: Duration = Duration::from_millis(500);

/// Where a run works.
#[derive(Debug, Clone)]
pub struct Places {
    /// Prepared input, used again by later runs.
    pub data: PathBuf,
    /// Run directories.
    pub runs: PathBuf,
    pub programs: Programs,
}

/// Why a run has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum StormError {
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    #[error(transparent)]
    Fault(#[from] FaultError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Stored(#[from] StoredError),
    #[error("{action} {}: {error}", path.display())]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error("the prepared payments do not verify; delete {} and prepare again", path.display())]
    BadInput { path: PathBuf },
    #[error("a task of the run ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Runs a scenario and writes its report. Dropping the future kills every process that it started.
pub async fn run(scenario: Scenario, places: &Places) -> Result<(Report, PathBuf), StormError> {
    let now_ms = clock::unix_ms();
    let prepare_begun = Instant::now();
    let prepared = prepare_off_thread(&places.data, &scenario, now_ms).await?;
    let prepare_s = if prepared.reused { 0.0 } else { prepare_begun.elapsed().as_secs_f64() };
    let deadline = Instant::now() + Duration::from_secs(scenario.timeouts.run_s);
    let directory = places.runs.join(format!("{}-{}", scenario.name, clock::compact(now_ms)));
    fs::create_dir_all(&directory).map_err(file_error("creating", &directory))?;
    eprintln!("run directory {}", directory.display());
    let limit = measure_limit(&prepared).await?;
    let patience = Duration::from_secs(scenario.timeouts.start_s);
    let cut = scenario.cut_at_first();
    let relayed = scenario.needs_relay().then_some(cut.as_slice());
    let stage = stage::set(&directory, &prepared, &scenario.network, relayed, &places.programs, patience).await?;
    let (init_s, active_s) = (stage.init.as_secs_f64(), stage.active.as_secs_f64());
    stage.allow_halts(scenario.audit.halt).await;
    eprintln!("all nodes active after {active_s:.1} s; storming");
    let path = prepared.payments_file();
    let file = PaymentsFile::open(&path).map_err(file_error("opening", &path))?;
    let mut run = Run::new(scenario, &prepared, file, stage);
    let mut failures = run.storm(deadline).await?;
    // A storm that broke down is looked at as it lies.
    let settle = if failures.is_empty() { Duration::from_secs(run.scenario.timeouts.settle_s) } else { BREATH };
    let settle_until = deadline.min(Instant::now() + settle);
    let halt = run.scenario.audit.halt;
    let halts = if halt { settle_until } else { Instant::now() };
    let halts = run.watched(audit::halts(&run.scene.clone(), halts), &mut failures).await;
    // Nodes that are to halt are asked nothing: what they say last is why.
    let settle_until = if halt { Instant::now() } else { settle_until };
    let (scene, plan) = (run.scene.clone(), prepared.plan());
    let settled = run.watched(audit::settle(&scene, &run.book, settle_until), &mut failures).await;
    let api_server = run.watched(api_audit::settle(&scene, &plan, settle_until), &mut failures).await;
    let double_spends = match run.double_spends.clone() {
        Some(pairs) => run.watched(pairs.resolve(&scene, settle_until), &mut failures).await,
        None => Resolved::default(),
    };
    // What was cut off is recorded and counts as failed, so that no threshold is passed by a fault without an end.
    let faults_until = settle_until.max(Instant::now() + BREATH).min(deadline);
    let faults = std::mem::take(&mut run.faults).end(faults_until);
    let (faults, cut_off) = run.watched(faults, &mut failures).await?;
    failures.extend(cut_off);
    let balances = match halt {
        true => Vec::new(),
        false => audit::balances(&scene.links, plan.judged_account()).await.unwrap_or_else(|error| {
            failures.push(error.to_string());
            Vec::new()
        }),
    };
    let payers = match halt {
        true => Balances::default(),
        false => {
            let sample = plan.sample(run.book.len().min(plan.payers), audit::SAMPLE_MAX);
            let made = findings::made(&run, &plan);
            run.watched(audit::sampled(&scene.links, &plan, &sample, made), &mut failures).await
        }
    };
    let api_server = api_server.transpose().unwrap_or_else(|error| {
        failures.push(error);
        None
    });
    let misbehaviour = watch::misbehaviour(&scene).await;
    let halts = if halt { halts } else { audit::halted(&scene).await.0 };
    let verified = run.close(deadline, &mut failures).await?;
    let findings = Findings {
        settled,
        balances,
        payers,
        api_server,
        double_spends,
        verified,
        halts,
        misbehaviour,
        faults,
        limit,
        failures,
        prepare_s,
        init_s,
        active_s,
        now_ms,
    };
    let report = findings::report(&run, &prepared, findings);
    stored::write(&directory, &report)?;
    Ok((report, directory))
}

/// A storm that is on.
#[derive(Debug)]
pub struct Run {
    pub scenario: Scenario,
    pub genesis: Genesis,
    pub book: Arc<Book>,
    pub scene: Scene,
    pub dispatch: Arc<Dispatch>,
    pub finals: SharedFinals,
    /// Sent to both sides of partitions, if the scenario says so.
    pub double_spends: Option<Arc<Pairs>>,
    stage: Stage,
    faults: Faults,
    /// The tracker's follower and the witnesses.
    ears: JoinSet<()>,
    /// Notes what the processes use between the storm's ends.
    noting: JoinSet<()>,
}

impl Run {
    fn new(scenario: Scenario, prepared: &Prepared, file: PaymentsFile, stage: Stage) -> Self {
        let clock = StormClock::starting_in(BREATH);
        let payments = scenario.payments();
        let book = Arc::new(Book::new(payments));
        let (plan, genesis_id) = (prepared.plan(), prepared.genesis_id);
        let double_spends = Pairs::of(&scenario, &plan, prepared.meta.valid_until, &genesis_id).map(Arc::new);
        let mut tracker = Tracker::new(plan, &prepared.genesis, Arc::clone(&book));
        tracker.watch(double_spends.iter().flat_map(|pairs| pairs.ids()));
        let tracker = Arc::new(Mutex::new(tracker));
        let scene = Scene {
            network: Arc::clone(&stage.network),
            meter: Arc::new(Mutex::new(Meter::default())),
            links: stage.links.clone(),
            everyone: stage.everyone.clone(),
            tracker,
            http: stage.http.clone(),
            api: stage.api.clone(),
            lanes: stage.relay.as_ref().map(Relay::lanes),
            clock,
            patience: Duration::from_secs(scenario.timeouts.stop_s),
            ends_in_halt: scenario.audit.halt,
        };
        let gates = gates(&scenario, &stage);
        let preference = match scenario.target {
            Target::One => Preference::One(scenario.target_place()),
            Target::Spread => Preference::Spread,
            Target::Api => Preference::One(0),
        };
        let router = Router::new(preference, gates.len());
        let submit_timeout = Duration::from_millis(scenario.timeouts.submit_ms);
        let overload_us = scenario.overload.map_or(0, |overload| overload.duration_s * 1_000_000);
        let expected_us = expected_us(&scenario.phases, payments) + overload_us;
        let dispatch = Dispatch::new(Arc::clone(&book), file, gates, router, clock, submit_timeout, expected_us);
        let mut ears = JoinSet::new();
        let nodes = stage.links.iter().map(|link| link.node.clone()).collect();
        let watcher = stage.watcher.clone();
        let first = scenario.watched_place();
        ears.spawn(follow::follow(Arc::clone(&scene.tracker), nodes, first, watcher, clock));
        let genesis = prepared.genesis.clone();
        let finals = hear_everybody(&genesis, &scene, &stage, &mut ears);
        if let Some(pairs) = &double_spends {
            ears.spawn(Arc::clone(pairs).send(scene.everyone.clone(), clock));
        }
        let faults = Faults::default();
        Self {
            scenario,
            genesis,
            book,
            scene,
            dispatch,
            finals,
            double_spends,
            stage,
            faults,
            ears,
            noting: JoinSet::new(),
        }
    }

    /// Sends all payments while faults happen, until every payment is settled or `deadline` has passed.
    async fn storm(&mut self, deadline: Instant) -> Result<Vec<String>, StormError> {
        self.faults = Faults::start(&self.scene, &self.scenario.faults);
        let pacer = Pacer::new(self.scenario.phases.clone(), self.book.len());
        let pacer = pacer.within(self.scenario.window_span());
        let book = Arc::clone(&self.book);
        let (all_answered, answered) = oneshot::channel();
        self.noting.spawn(watch::note_storm(self.scene.clone(), Arc::clone(&book), answered));
        let sending = async {
            Arc::clone(&self.dispatch).run(pacer).await?;
            match self.scenario.overload {
                Some(wanted) => offer(&self.dispatch, wanted).await,
                None => Ok(()),
            }
        };
        tokio::select! {
            sent = sending => sent?,
            error = watch::watch(self.scene.clone(), &book) => return Ok(vec![error.to_string()]),
            () = sleep_until(deadline) => {
                return Ok(vec![format!("not all payments were answered within {} s", self.scenario.timeouts.run_s)]);
            }
        }
        // Whoever would hear it is gone only if the run is.
        let _ = all_answered.send(());
        // A fault that outlasts the payments still happens and is undone; the run waits for it, and for what follows.
        let last_us = self.scenario.faults.iter().map(|fault| fault.end_s() * 1_000_000).max().unwrap_or(0);
        let wait = deadline.min(self.scene.clock.instant(last_us).into());
        tokio::select! {
            error = watch::watch(self.scene.clone(), &book) => Ok(vec![error.to_string()]),
            () = sleep_until(wait) => Ok(Vec::new()),
        }
    }

    /// Does something while the processes are watched; what ends meanwhile is a failure.
    async fn watched<T>(&self, work: impl Future<Output = T>, failures: &mut Vec<String>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                error = watch::watch(self.scene.clone(), &self.book) => failures.push(error.to_string()),
            }
        }
    }

    /// Takes the last readings, stops what was started here, and verifies the data if the scenario says so.
    async fn close(&mut self, deadline: Instant, failures: &mut Vec<String>) -> Result<Vec<Verified>, StormError> {
        failures.extend(self.stage.relay.as_mut().map(Relay::failures).unwrap_or_default());
        let names = watch::names(&self.scene).await;
        watch::note_fsyncs(&self.scene, &names).await;
        // Whoever settled may have seen the last payment final just before it did.
        let _ = tokio::time::timeout(2 * watch::FINAL_LOOK, self.noting.join_next()).await;
        self.noting.abort_all();
        self.ears.abort_all();
        let killed = {
            let mut network = self.stage.network.lock().await;
            network.members.iter().for_each(|member| watch::note_usage(&self.scene, member));
            let killed = network.stop(self.scene.patience).await?;
            failures.extend(network.members.iter_mut().flat_map(|member| member.process.take_bad_ends()));
            killed
        };
        failures.extend(killed.iter().map(|name| format!("{name} did not stop within {:?}", self.scene.patience)));
        let mine = !self.stage.network.lock().await.members.is_empty();
        if !mine || !self.scenario.audit.verify {
            return Ok(Vec::new());
        }
        let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(60));
        match audit::verify(&self.scene, patience).await {
            Ok(verified) => Ok(verified),
            Err(error) => {
                failures.push(error.to_string());
                Ok(Vec::new())
            }
        }
    }

    /// Bytes that all programs of this machine sent each other during the storm.
    pub fn loopback_sent_bytes(&self) -> Option<u64> {
        self.scene.meter.lock().unwrap_or_else(PoisonError::into_inner).loopback_sent_bytes()
    }

    /// What every process used, this one included.
    pub fn resources(&self) -> BTreeMap<String, Usage> {
        watch::note_this(&self.scene);
        let meter = self.scene.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::new();
        if let Ok(network) = self.stage.network.try_lock() {
            for member in &network.members {
                if let Some(usage) = meter.total(&member.process.name) {
                    let disk_bytes = resources::directory_bytes(&member.data);
                    all.insert(member.process.name.clone(), Usage { disk_bytes, ..usage });
                }
            }
        }
        all.extend(meter.total(LOADGEN).map(|usage| (LOADGEN.to_owned(), usage)));
        all
    }
}

/// Sets a witness on every node process, and on the API server's events if there is one.
fn hear_everybody(genesis: &Genesis, scene: &Scene, stage: &Stage, ears: &mut JoinSet<()>) -> SharedFinals {
    let nodes = stage.nodes.iter().map(|node| node.name.clone());
    let sources: Vec<String> = nodes.chain(stage.api.iter().map(|_| API_SERVER.to_owned())).collect();
    let finals = Arc::new(Mutex::new(Finals::new(genesis, sources)));
    for (source, node) in stage.nodes.iter().enumerate() {
        let tracker = Arc::clone(&scene.tracker);
        let notebook = Notebook { finals: Arc::clone(&finals), tracker, clock: scene.clock };
        ears.spawn(witness::witness(notebook, source, node.clone(), stage.watcher.clone()));
    }
    if let Some(address) = &stage.api {
        let (finals, http) = (Arc::clone(&finals), stage.http.clone());
        ears.spawn(events::listen(finals, stage.nodes.len(), http, address.clone()));
    }
    finals
}

fn gates(scenario: &Scenario, stage: &Stage) -> Vec<Gate> {
    match (scenario.target, &stage.api) {
        (Target::Api, Some(address)) => {
            vec![Gate::Api(Arc::new(ApiGate { http: stage.http.clone(), address: address.clone() }))]
        }
        _ => stage.links.iter().map(|link| Gate::Node(Arc::clone(link))).collect(),
    }
}

/// Offers more than is taken, by what the last phase had accepted.
async fn offer(dispatch: &Arc<Dispatch>, wanted: Overload) -> Result<(), DispatchError> {
    let max = dispatch.with_outcome(|outcome| outcome.last_phase).accepted_per_s();
    let rate_per_s = (max * wanted.times).round() as u32;
    eprintln!("the last phase had {max:.0} payments/s accepted; offering {rate_per_s}/s for {} s", wanted.duration_s);
    let offers = overload::offer(Arc::clone(dispatch), wanted, rate_per_s).await?;
    dispatch.with_outcome(|outcome| outcome.offers = Some(offers));
    Ok(())
}

/// How long the phases last at their rates; full speed is guessed, for it decides only how charts are cut.
fn expected_us(phases: &[Phase], payments: u64) -> u64 {
    const GUESS_PER_S: u64 = 20_000;
    let seconds = phases.iter().map(|phase| match (phase.duration_s, phase.rate_per_s) {
        (Some(duration_s), _) => duration_s,
        (None, Rate::PerSecond(rate)) => phase.payments.unwrap_or(payments) / u64::from(rate),
        (None, Rate::Full(_)) => phase.payments.unwrap_or(payments) / GUESS_PER_S,
    });
    seconds.sum::<u64>().max(1) * 1_000_000
}

async fn prepare_off_thread(root: &Path, scenario: &Scenario, now_ms: u64) -> Result<Prepared, StormError> {
    let (root, parameters) = (root.to_path_buf(), scenario.parameters());
    let prepared = tokio::task::spawn_blocking(move || prepare::prepare(&root, &parameters, now_ms)).await??;
    let how = if prepared.reused { "found" } else { "made" };
    eprintln!("prepared input {how} in {}", prepared.directory.display());
    Ok(prepared)
}

async fn measure_limit(prepared: &Prepared) -> Result<Limit, StormError> {
    let path = prepared.payments_file();
    let file = PaymentsFile::open(&path).map_err(file_error("opening", &path))?;
    let count = (prepared.meta.payments as usize).min(limit::SAMPLE_MAX);
    let sample = file.read(0, count).map_err(file_error("reading", &path))?;
    let genesis = prepared.genesis_id;
    let measured = tokio::task::spawn_blocking(move || limit::measure(&sample, &genesis, limit::MEASURE)).await?;
    let limit = measured.ok_or_else(|| StormError::BadInput { path: prepared.directory.clone() })?;
    eprintln!(
        "this machine checks {:.0} signatures a second on each of {} cores",
        limit.verify_per_s_per_core, limit.cores
    );
    Ok(limit)
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StormError + use<> {
    let path = path.to_path_buf();
    move |error| StormError::File { action, path, error }
}
