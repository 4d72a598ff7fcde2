//! Looks after a running storm once a second: what the processes use, whether they live, and how far the storm is.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::book::Book;
use crate::faults::Scene;
use crate::follow;
use crate::network::Member;
use crate::process::ProcessError;
use crate::resources::{self, Usage};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at whether everything is final.
pub const FINAL_LOOK: Duration = Duration::from_millis(50);
/// Looks between two readings of the metrics.
const METRICS_EVERY: u64 = 5;
/// How long reading metrics may take.
const METRICS_DEADLINE: Duration = Duration::from_millis(500);
/// The name of this process in the report.
pub const LOADGEN: &str = "loadgen";
/// The nodes' counter of syncs.
const FSYNCS: &str = "zeni_fsyncs_total";
/// The nodes' counter of what no correct node does, by kind.
const MISBEHAVIOUR: &str = "zeni_misbehaviour_total";

/// Notes what a member uses now.
pub fn note_usage(scene: &Scene, member: &Member) {
    if let Some(pid) = member.process.pid()
        && let Some(usage) = resources::read(pid)
    {
        note(scene, &member.process.name, pid, usage);
    }
}

/// Reads the metrics of these members and notes their syncs.
pub async fn note_fsyncs(scene: &Scene, names: &[String]) {
    let wanted: Vec<(String, u32, String)> = {
        let network = scene.network.lock().await;
        let members = network.members.iter().filter(|member| names.contains(&member.process.name));
        members
            .filter_map(|member| Some((member.process.name.clone(), member.process.pid()?, member.metrics.to_string())))
            .collect()
    };
    for (name, pid, address) in wanted {
        let Ok(page) = scene.http.get(&address, "/metrics", METRICS_DEADLINE).await else { continue };
        let fsyncs = resources::parse_counter(&String::from_utf8_lossy(&page.body), FSYNCS);
        if let Some(usage) = resources::read(pid) {
            note(scene, &name, pid, Usage { fsyncs, ..usage });
        }
    }
}

/// What the nodes without twins have counted of others' misbehaviour, by node and kind. One that does not answer has counted
/// nothing.
pub async fn misbehaviour(scene: &Scene) -> BTreeMap<String, BTreeMap<String, u64>> {
    let wanted: Vec<(String, String)> = {
        let network = scene.network.lock().await;
        let honest: Vec<&String> = network.honest().map(|node| &node.name).collect();
        let members = network.members.iter().filter(|member| honest.contains(&&member.process.name));
        members.map(|member| (member.process.name.clone(), member.metrics.to_string())).collect()
    };
    let mut found = BTreeMap::new();
    for (name, address) in wanted {
        let Ok(page) = scene.http.get(&address, "/metrics", METRICS_DEADLINE).await else { continue };
        let counted = resources::parse_by_label(&String::from_utf8_lossy(&page.body), MISBEHAVIOUR, "kind");
        if !counted.is_empty() {
            found.insert(name, counted);
        }
    }
    found
}

/// Notes what every process uses at the first intended send, and again once all payments were answered, which `answered`
/// tells, and those that were acknowledged are final. Gives nothing up: a storm that breaks down has no end.
pub async fn note_storm(scene: Scene, book: Arc<Book>, answered: oneshot::Receiver<()>) {
    tokio::time::sleep_until(scene.clock.instant(0).into()).await;
    scene.network.lock().await.members.iter().for_each(|member| note_usage(&scene, member));
    note_this(&scene);
    let meter = || scene.meter.lock().unwrap_or_else(PoisonError::into_inner);
    meter().begin_storm();
    if answered.await.is_err() {
        return;
    }
    while book.finals() < book.counts().1 {
        tokio::time::sleep(FINAL_LOOK).await;
    }
    meter().end_storm();
}

/// Notes what this process uses now.
pub fn note_this(scene: &Scene) {
    let pid = std::process::id();
    if let Some(usage) = resources::read(pid) {
        note(scene, LOADGEN, pid, usage);
    }
}

fn note(scene: &Scene, name: &str, pid: u32, usage: Usage) {
    scene.meter.lock().unwrap_or_else(PoisonError::into_inner).note(name, pid, usage);
}

/// Watches for as long as it is polled. Ends only when a process ended that nobody asked to.
pub async fn watch(scene: Scene, book: &Book) -> ProcessError {
    let mut before = book.counts().1;
    for look in 1.. {
        tokio::time::sleep(LOOK).await;
        // While a fault holds the network, its processes are looked after by it.
        if let Ok(mut network) = scene.network.try_lock() {
            for member in &mut network.members {
                if let Err(error) = member.process.check() {
                    return error;
                }
                note_usage(&scene, member);
            }
        }
        if look % METRICS_EVERY == 0 {
            let names: Vec<String> = names(&scene).await;
            note_fsyncs(&scene, &names).await;
        }
        before = tell(&scene, book, before);
    }
    unreachable!("looks are counted in 32 bits")
}

/// Names of all members.
pub async fn names(scene: &Scene) -> Vec<String> {
    scene.network.lock().await.members.iter().map(|member| member.process.name.clone()).collect()
}

/// Tells how far the storm is: one line that is written over on a terminal.
fn tell(scene: &Scene, book: &Book, before: u64) -> u64 {
    let (sent, accepted, refused, included) = book.counts();
    let (height, undone) = follow::with(&scene.tracker, |tracker| (tracker.head().height, tracker.undone()));
    let up: String = scene.everyone.iter().map(|link| if link.is_up() { '●' } else { '○' }).collect();
    let seconds = scene.clock.now_us() / 1_000_000;
    let mut line = format!(
        "{seconds:>5} s  nodes {up}  height {height}  sent {sent}  accepted {accepted} (+{}/s)  included {included}, final \
         {} of {}",
        accepted.saturating_sub(before),
        book.finals(),
        book.len(),
    );
    if refused > 0 {
        line.push_str(&format!("  refused {refused}"));
    }
    if undone > 0 {
        line.push_str(&format!("  undone blocks {undone}"));
    }
    match std::io::stderr().is_terminal() {
        true => eprint!("\r\x1b[K{line}"),
        false => eprintln!("{line}"),
    }
    accepted
}
