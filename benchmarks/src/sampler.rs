//! What the processes of a storm use over its course: read from /proc twice a second, or as often as a benchmark wants.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::machine::{parse_stat, threads_cpu_s};

/// Between two samples, where a storm lasts so long that half a second at its ends is little.
pub(crate) const PACE: Duration = Duration::from_millis(500);
/// Samples of one storm, at most: half a day.
const SAMPLES_MAX: usize = 100_000;
/// The name of the process that started the others.
pub(crate) const LOADGEN: &str = "loadgen";

/// What one process had used when it was looked at.
#[derive(Debug, Clone, Default, PartialEq)]
struct Used {
    cpu_s: f64,
    threads: BTreeMap<String, f64>,
}

/// All processes at one moment, by name and process id: a process that is started again has another.
#[derive(Debug)]
struct Sample {
    at: Instant,
    used: BTreeMap<(String, u32), Used>,
}

/// Samples of a load generator and of whatever it started.
#[derive(Debug)]
pub(crate) struct Sampler {
    loadgen: u32,
    samples: Vec<Sample>,
}

/// Processor time of one process over a stretch of time, in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) all_s: f64,
    /// By names of threads; those that ended are missing, so the sum may be less.
    pub(crate) threads_s: BTreeMap<String, f64>,
}

impl Sampler {
    pub(crate) fn of(loadgen: u32) -> Self {
        Self { loadgen, samples: Vec::new() }
    }

    /// Looks at all processes now.
    pub(crate) fn look(&mut self) {
        if self.samples.len() == SAMPLES_MAX {
            return;
        }
        let at = Instant::now();
        let mut used = BTreeMap::new();
        for (name, pid) in processes(self.loadgen) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| parse_stat(&stat));
            if let Some((_, cpu_s)) = stat {
                used.insert((name, pid), Used { cpu_s, threads: threads_cpu_s(pid) });
            }
        }
        self.samples.push(Sample { at, used });
    }

    /// What each process used between the samples nearest to two moments.
    pub(crate) fn between(&self, from: Instant, until: Instant) -> BTreeMap<String, Cpu> {
        let nearest = |moment: Instant| {
            let apart = |sample: &Sample| sample.at.max(moment) - sample.at.min(moment);
            (0..self.samples.len()).min_by_key(|place| apart(&self.samples[*place]))
        };
        match (nearest(from), nearest(until)) {
            (Some(first), Some(last)) if first < last => used_in(&self.samples[first..=last]),
            _ => BTreeMap::new(),
        }
    }
}

/// By process: the most that it was seen to have used, less what it had at the beginning.
fn used_in(samples: &[Sample]) -> BTreeMap<String, Cpu> {
    let before = &samples[0].used;
    // The most that was seen, not the last: a process that ends loses its threads before it is gone.
    let mut most: BTreeMap<&(String, u32), Used> = BTreeMap::new();
    for (process, used) in samples.iter().flat_map(|sample| &sample.used) {
        let seen = most.entry(process).or_default();
        seen.cpu_s = seen.cpu_s.max(used.cpu_s);
        for (thread, seconds) in &used.threads {
            let seen = seen.threads.entry(thread.clone()).or_default();
            *seen = seen.max(*seconds);
        }
    }
    let mut found: BTreeMap<String, Cpu> = BTreeMap::new();
    for (process, used) in most {
        let earlier = before.get(process);
        let cpu = found.entry(process.0.clone()).or_default();
        cpu.all_s += used.cpu_s - earlier.map_or(0.0, |used| used.cpu_s);
        for (thread, seconds) in &used.threads {
            let earlier = earlier.and_then(|used| used.threads.get(thread)).copied().unwrap_or(0.0);
            // Threads of a pool come and go, so one name may have less than before.
            *cpu.threads_s.entry(thread.clone()).or_default() += (seconds - earlier).max(0.0);
        }
    }
    found
}

/// The load generator and the nodes and API servers that it runs now, with their names.
fn processes(loadgen: u32) -> Vec<(String, u32)> {
    let mut found = vec![(LOADGEN.to_owned(), loadgen)];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).ok();
        if stat.and_then(|stat| parse_stat(&stat)).is_none_or(|(parent, _)| parent != loadgen) {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        found.extend(name_of(&command).map(|name| (name, pid)));
    }
    found
}

/// The name of a process of a storm by its command line (arguments that each end in a zero byte): that of the directory
/// in which its config lies. `None` if it does not run a ledger.
fn name_of(command: &[u8]) -> Option<String> {
    let text = str::from_utf8(command).ok()?;
    let mut arguments = text.split('\0').skip(1);
    if arguments.next() != Some("run") {
        return None;
    }
    let config = arguments.skip_while(|argument| *argument != "--config").nth(1)?;
    Some(Path::new(config).parent()?.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cpu_s: f64, core: f64) -> Used {
        Used { cpu_s, threads: BTreeMap::from([("core".to_owned(), core)]) }
    }

    fn sample(at: Instant, seen: &[(&str, u32, Used)]) -> Sample {
        let used = seen.iter().map(|(name, pid, used)| (((*name).to_owned(), *pid), used.clone()));
        Sample { at, used: used.collect() }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn a_process_is_counted_from_one_sample_to_another_over_its_lives() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let samples = vec![
            sample(at(0), &[("node-1", 7, used(1.0, 0.5))]),
            sample(at(1), &[("node-1", 7, used(3.0, 1.5))]),
            sample(at(2), &[("node-1", 7, used(4.0, 2.0))]),
            // It was started again.
            sample(at(3), &[("node-1", 8, used(0.5, 0.25))]),
            sample(at(4), &[("node-1", 8, used(2.5, 1.25))]),
            // It ends, its threads first.
            sample(at(5), &[("node-1", 8, Used { cpu_s: 2.5, threads: BTreeMap::new() })]),
        ];
        let sampler = Sampler { loadgen: 1, samples };
        let found = &sampler.between(at(1), at(3))["node-1"];
        near(found.all_s, 1.0 + 0.5);
        near(found.threads_s["core"], 0.5 + 0.25);
        let found = &sampler.between(at(0), at(5))["node-1"];
        near(found.all_s, 3.0 + 2.5);
        near(found.threads_s["core"], 1.5 + 1.25);
        assert!(sampler.between(at(4), at(4)).is_empty(), "no time passed");
    }

    #[test]
    fn processes_are_named_by_their_configs_and_only_those_that_run_count() {
        let name = |command: &str| name_of(command.replace(' ', "\0").as_bytes());
        assert_eq!(name("/p/node run --config /runs/x/node-2/node.toml "), Some("node-2".into()));
        assert_eq!(name("/p/api-server run --config /runs/x/api-server/api-server.toml "), Some("api-server".into()));
        assert_eq!(name("/p/node verify --data /runs/x/node-2/data "), None);
        assert_eq!(name("/p/loadgen leash 5 /p/node "), None);
    }

    #[test]
    fn this_process_is_seen_to_work() {
        let mut sampler = Sampler::of(std::process::id());
        sampler.look();
        let from = Instant::now();
        while from.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        sampler.look();
        let found = sampler.between(from, Instant::now());
        assert!(found[LOADGEN].all_s > 0.0, "{found:?}");
    }
}
