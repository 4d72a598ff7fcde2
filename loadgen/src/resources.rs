//! What each process used, summed over its restarts: read from /proc once a second and just before it is ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Kernel clock ticks in a second, as /proc counts processor time. Linux fixes it at 100 for user space.
const TICKS_PER_S: f64 = 100.0;

/// What a process used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// User and system time.
    pub cpu_s: f64,
    /// The largest resident size of any of its lives.
    pub rss_max_bytes: u64,
    /// Bytes of its data directory at the end.
    pub disk_bytes: u64,
    /// Bytes that it had written to disks.
    pub written_bytes: u64,
    /// Syncs of log and safety record, as its metrics tell; `None` if it does not tell.
    pub fsyncs: Option<u64>,
}

/// Collects the usage of processes over their lives.
#[derive(Debug, Default)]
pub struct Meter {
    processes: BTreeMap<String, Lives>,
}

#[derive(Debug, Default)]
struct Lives {
    pid: Option<u32>,
    ended: Usage,
    current: Usage,
}

impl Meter {
    /// Notes what the process with this name uses in its present life. A new id begins a new life.
    pub fn note(&mut self, name: &str, pid: u32, usage: Usage) {
        let lives = self.processes.entry(name.to_owned()).or_default();
        if lives.pid.is_some_and(|before| before != pid) {
            lives.ended = sum(&lives.ended, &lives.current);
            lives.current = Usage::default();
        }
        lives.pid = Some(pid);
        lives.current = Usage { fsyncs: usage.fsyncs.or(lives.current.fsyncs), ..usage };
    }

    /// What the process used in all its lives; `None` if it was never seen.
    pub fn total(&self, name: &str) -> Option<Usage> {
        self.processes.get(name).map(|lives| sum(&lives.ended, &lives.current))
    }
}

fn sum(before: &Usage, now: &Usage) -> Usage {
    let fsyncs = match (before.fsyncs, now.fsyncs) {
        (None, None) => None,
        (before, now) => Some(before.unwrap_or(0) + now.unwrap_or(0)),
    };
    Usage {
        cpu_s: before.cpu_s + now.cpu_s,
        rss_max_bytes: before.rss_max_bytes.max(now.rss_max_bytes),
        disk_bytes: now.disk_bytes,
        written_bytes: before.written_bytes + now.written_bytes,
        fsyncs,
    }
}

/// Reads what a process uses now; `None` if it is gone.
pub fn read(pid: u32) -> Option<Usage> {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let cpu_s = parse_cpu(&file("stat")?)?;
    let rss_max_bytes = parse_field(&file("status")?, "VmHWM:").unwrap_or(0) * 1_024;
    // Readable by the owner alone; without it the rest is still worth telling.
    let written_bytes = file("io").and_then(|io| parse_field(&io, "write_bytes:")).unwrap_or(0);
    Some(Usage { cpu_s, rss_max_bytes, written_bytes, ..Usage::default() })
}

/// User and system time of a line of /proc/PID/stat. The program's name may hold spaces and parentheses.
fn parse_cpu(stat: &str) -> Option<f64> {
    let behind_name = stat.rsplit_once(')')?.1;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_S)
}

fn parse_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The sum of all samples of a counter in Prometheus text.
pub fn parse_counter(metrics: &str, name: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

/// The samples of a counter in Prometheus text, summed by one of its labels.
pub fn parse_by_label(metrics: &str, name: &str, label: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')) else { continue };
        let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
        let wanted = labels.split(',').find_map(|pair| pair.strip_prefix(label)?.strip_prefix("=\""));
        let value: Option<f64> = value.parse().ok();
        if let (Some(wanted), Some(value)) = (wanted.and_then(|text| text.strip_suffix('"')), value) {
            *found.entry(wanted.to_owned()).or_default() += value as u64;
        }
    }
    found
}

/// Bytes of all files below a directory; what vanishes meanwhile counts as nothing.
pub fn directory_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => directory_bytes(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |metadata| metadata.len()),
        _ => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_by_a_label() {
        let text = "# TYPE zeni_misbehaviour_total counter\nzeni_misbehaviour_total{kind=\"equivocation\"} 2\n\
                    zeni_misbehaviour_total{node=\"a\",kind=\"double_vote\"} 3\n\
                    zeni_misbehaviour_total{node=\"b\",kind=\"double_vote\"} 4\nzeni_misbehaviour_totals{kind=\"x\"} 9\n";
        let found = parse_by_label(text, "zeni_misbehaviour_total", "kind");
        assert_eq!(found, [("double_vote".to_owned(), 7), ("equivocation".to_owned(), 2)].into());
    }

    #[test]
    fn lives_are_summed_and_peaks_are_not() {
        let mut meter = Meter::default();
        let usage = |cpu_s, rss_max_bytes, fsyncs| Usage { cpu_s, rss_max_bytes, fsyncs, ..Usage::default() };
        meter.note("node-1", 7, usage(1.0, 100, Some(10)));
        meter.note("node-1", 7, usage(3.0, 300, None));
        meter.note("node-1", 8, usage(0.5, 200, Some(4)));
        let total = meter.total("node-1").unwrap();
        assert_eq!((total.cpu_s, total.rss_max_bytes, total.fsyncs), (3.5, 300, Some(14)));
        assert_eq!(meter.total("node-2"), None);
    }

    #[test]
    fn reads_this_process() {
        let usage = read(std::process::id()).unwrap();
        assert!(usage.rss_max_bytes > 100_000, "{usage:?}");
        assert_eq!(read(u32::MAX), None);
    }

    #[test]
    fn a_program_name_with_parentheses_does_not_confuse() {
        let stat = "42 (a) b)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(parse_cpu(stat), Some(2.0));
        assert_eq!(parse_cpu("42"), None);
    }

    #[test]
    fn counters_are_summed_over_their_labels() {
        let text = "# HELP zeni_fsyncs_total x\nzeni_fsyncs_total{file=\"log\"} 7\nzeni_fsyncs_total{file=\"safety\"} 5\n\
                    zeni_fsyncs_total_other 90\nzeni_height 3\n";
        assert_eq!(parse_counter(text, "zeni_fsyncs_total"), Some(12));
        assert_eq!(parse_counter(text, "zeni_height"), Some(3));
        assert_eq!(parse_counter(text, "zeni_slot"), None);
    }

    #[test]
    fn a_directory_is_as_large_as_all_that_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("below")).unwrap();
        fs::write(root.path().join("a"), [0; 10]).unwrap();
        fs::write(root.path().join("below/b"), [0; 32]).unwrap();
        assert_eq!(directory_bytes(root.path()), 42);
        assert_eq!(directory_bytes(&root.path().join("none")), 0);
    }
}
