//! Single payments as JSON over HTTP, on connections that are kept, to an API server before three nodes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::task::JoinSet;
use zeni_client::api::{ApiClient, ApiError};
use zeni_ledger::Payment;
use zeni_ledger::payment::PAYMENT_BYTES;

use crate::context::{Context, say, write};
use crate::error::{BenchError, file_error};
use crate::machine::own_cpu_s;
use crate::network::{required, settings};
use crate::report::{Findings, Unit, Yardstick};
use crate::sampler::Sampler;
use crate::storm::{Storm, cpu_s, nodes_cpu_s};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The last line that the load generator prints when its network is up.
const UP: &str = "Ctrl-C ends it";
/// After a refusal that says no time, and the longest that is waited whatever it says.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest latency that is told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// Sends payments one by one on several connections, as fast as they are answered.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let (seconds, connections) = context.choose((2, vec![8]), (10, vec![64, 256, 1_024]));
    let storm = Storm::new("bench-api-single", context.choose(20_000, 200_000));
    let mut told = settings(&storm);
    told["seconds_each"] = json!(seconds);
    told["connections"] = json!(connections);
    let mut findings = Findings::of(told);
    let scenario = context.scratch.join("scenarios").join(format!("{}.toml", storm.name));
    write(&scenario, &storm.toml())?;
    let payments = PaymentsFile::open(&prepared(context, &scenario)?)?;
    for _ in context.rounds("api-single") {
        for number in &connections {
            // A network of its own: each payment can be made once.
            let network = Network::start(context, &scenario)?;
            let mut sampler = Sampler::of(network.child.id());
            sampler.look();
            let (begun, own) = (Instant::now(), own_cpu_s());
            let sent = send(&network.api, &payments, *number, Duration::from_secs(seconds))?;
            sampler.look();
            let (cpu, own) = (sampler.between(begun, Instant::now()), own_cpu_s() - own);
            network.stop()?;
            let name = |what: &str| format!("{number:4} connections: {what}");
            let accepted = sent.latencies.len() as f64;
            findings.add(name("accepted"), Unit::PaymentsPerS, accepted / sent.seconds);
            findings.add(name("p50"), Unit::Milliseconds, sent.latencies.value_at_quantile(0.5) as f64 / 1e3);
            findings.add(name("p99"), Unit::Milliseconds, sent.latencies.value_at_quantile(0.99) as f64 / 1e3);
            findings.add(name("refused"), Unit::Count, sent.refused as f64);
            let each = |seconds: f64| seconds * 1e6 / accepted;
            findings.add(name("API server"), Unit::CpuMicrosPerPayment, each(cpu_s(&cpu, "api-server")));
            findings.add(name("a node"), Unit::CpuMicrosPerPayment, each(nodes_cpu_s(&cpu) / 3.0));
            findings.add(name("this client"), Unit::CpuMicrosPerPayment, each(own));
        }
    }
    for number in &connections {
        findings.against(&format!("{number:4} connections: accepted"), &context.limit, Yardstick::Nodes(3));
        findings.against(&format!("{number:4} connections: API server"), &context.limit, Yardstick::OneCore);
    }
    findings.notes.push(
        "This client runs on the same cores; each payment's JSON is written as it is sent. A node gathers a batch for \
         20 to 100 ms before it answers, so a connection that waits for its answer makes ten to fifty payments a \
         second, whatever the CPU."
            .into(),
    );
    Ok(findings)
}

/// Has the input of a scenario made and says where its payments are.
fn prepared(context: &Context, scenario: &Path) -> Result<PathBuf, BenchError> {
    let program = context.program("loadgen");
    let mut command = Command::new(&program);
    command.arg("prepare").arg(scenario).arg("--data").arg(&context.data).stderr(Stdio::inherit());
    let done = command.output().map_err(file_error("starting", &program))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let directory = text.split_once(" payments in ").and_then(|(_, rest)| rest.split_once(" (ledger"));
    match directory {
        Some((directory, _)) if done.status.success() => Ok(Path::new(directory).join("payments.bin")),
        _ => Err(BenchError::Program { program: "loadgen".into(), status: done.status.to_string(), words: text }),
    }
}

/// Signed payments on disk, each taken once.
#[derive(Debug)]
struct PaymentsFile {
    file: File,
    path: PathBuf,
    count: u64,
}

impl PaymentsFile {
    fn open(path: &Path) -> Result<Self, BenchError> {
        let file = File::open(path).map_err(file_error("opening", path))?;
        let bytes = file.metadata().map_err(file_error("measuring", path))?.len();
        Ok(Self { file, path: path.to_path_buf(), count: bytes / PAYMENT_BYTES as u64 })
    }

    fn read(&self) -> Result<Vec<Payment>, BenchError> {
        let mut bytes = vec![0; self.count as usize * PAYMENT_BYTES];
        self.file.read_exact_at(&mut bytes, 0).map_err(file_error("reading", &self.path))?;
        let found = Payment::slice_from_bytes(&bytes).map(<[Payment]>::to_vec);
        required(found, "the payments are cut off")
    }
}

/// Three nodes and an API server, held up by a load generator.
#[derive(Debug)]
struct Network {
    child: Child,
    /// `http://host:port`.
    api: String,
}

impl Network {
    fn start(context: &Context, scenario: &Path) -> Result<Self, BenchError> {
        let program = context.program("loadgen");
        let mut command = Command::new(&program);
        command.arg("up").arg(scenario).arg("--data").arg(&context.data);
        command.arg("--runs").arg(context.scratch.join("runs")).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(file_error("starting", &program))?;
        let output = required(child.stdout.take(), "the load generator has no output")?;
        let mut api = None;
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("API ").and_then(|rest| rest.trim().strip_suffix("/v1/network")) {
                api = Some(url.to_owned());
            }
            if line.starts_with(UP) {
                say("  the network is up");
                return Ok(Self { child, api: required(api, "the network has no API server")? });
            }
        }
        let status = child.wait().map_err(file_error("waiting for", &program))?.to_string();
        Err(BenchError::Program { program: "loadgen".into(), status, words: "its network did not come up".into() })
    }

    /// Ends it with all of its processes.
    fn stop(mut self) -> Result<(), BenchError> {
        let program = Path::new("loadgen");
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, Signal::TERM).map_err(|error| file_error("ending", program)(error.into()))?;
        }
        let status = self.child.wait().map_err(file_error("waiting for", program))?;
        match status.success() {
            true => Ok(()),
            false => {
                let words = "its network did not end well".into();
                Err(BenchError::Program { program: "loadgen".into(), status: status.to_string(), words })
            }
        }
    }
}

impl Drop for Network {
    /// Whatever happened, nothing is left: killing the load generator kills what it started.
    fn drop(&mut self) {
        let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
        if !ended && self.child.kill().and_then(|()| self.child.wait()).is_err() {
            say("the load generator of api-single could not be ended");
        }
    }
}

/// What became of the payments.
#[derive(Debug)]
struct Sent {
    /// Of accepted ones, in microseconds.
    latencies: Histogram<u64>,
    refused: u64,
    seconds: f64,
}

fn send(api: &str, file: &PaymentsFile, connections: usize, duration: Duration) -> Result<Sent, BenchError> {
    let payments = Arc::new(file.read()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(file_error("starting", Path::new("the runtime")))?;
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut sent = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let client = ApiClient::new(api, PATIENCE)?;
            tasks.spawn(connection(client, payments.clone(), next.clone(), started + duration));
        }
        let mut all = Sent { latencies: histogram(), refused: 0, seconds: 0.0 };
        while let Some(done) = tasks.join_next().await {
            let done = done.map_err(|error| BenchError::Wrong(format!("a connection's task ended: {error}")))??;
            let added = all.latencies.add(&done.latencies);
            added.map_err(|error| BenchError::Wrong(format!("latencies: {error}")))?;
            all.refused += done.refused;
        }
        Ok::<_, BenchError>(all)
    })?;
    sent.seconds = started.elapsed().as_secs_f64();
    match sent.latencies.is_empty() {
        true => Err(BenchError::Wrong(format!("no payment was accepted, {} were refused", sent.refused))),
        false => Ok(sent),
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_US, 3).expect("three digits up to a minute is a valid range")
}

/// One connection, kept: the next payment as soon as the one before is answered, until the time is over or none is
/// left.
async fn connection(
    client: ApiClient,
    payments: Arc<Vec<Payment>>,
    next: Arc<AtomicU64>,
    until: Instant,
) -> Result<Sent, BenchError> {
    let mut sent = Sent { latencies: histogram(), refused: 0, seconds: 0.0 };
    while Instant::now() < until {
        let Some(payment) = payments.get(next.fetch_add(1, Ordering::Relaxed) as usize) else { break };
        let begun = Instant::now();
        match client.submit(payment).await {
            Ok(_) => {
                let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                sent.latencies.saturating_record(micros);
            }
            Err(error @ ApiError::Problem { .. }) => {
                sent.refused += 1;
                let pause = error.retry_after_s().map_or(PAUSE, Duration::from_secs);
                tokio::time::sleep(pause.min(PAUSE_MAX)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
