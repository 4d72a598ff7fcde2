//! What each process used, summed over its restarts: read from /proc once a second, just before it is ended, and at both
//! ends of the storm.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Kernel clock ticks in a second, as /proc counts processor time. Linux fixes it at 100 for user space.
const TICKS_PER_S: f64 = 100.0;

/// What a process used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// User and system time, start-up and audit included.
    pub cpu_s: f64,
    /// The same from the first intended send until the last acknowledged payment was final; `None` if that never was.
    #[serde(default)]
    pub storm_cpu_s: Option<f64>,
    /// The largest resident size of any of its lives.
    pub rss_max_bytes: u64,
    /// Resident size once all nodes were active, before the storm; `None` if it did not run then.
    #[serde(default)]
    pub rss_after_start_bytes: Option<u64>,
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
    /// Bytes that the machine had sent over its loopback when the storm began, and when its last payment was final.
    loopback: (Option<u64>, Option<u64>),
}

#[derive(Debug, Default)]
struct Lives {
    pid: Option<u32>,
    ended: Usage,
    current: Usage,
    /// Processor time of all lives when the storm began, and when its last payment was final.
    storm: (Option<f64>, Option<f64>),
    rss_after_start_bytes: Option<u64>,
}

impl Lives {
    fn total(&self) -> Usage {
        let storm_cpu_s = match self.storm {
            (Some(began_s), Some(ended_s)) => Some(in_ticks(ended_s - began_s)),
            _ => None,
        };
        let rss_after_start_bytes = self.rss_after_start_bytes;
        Usage { storm_cpu_s, rss_after_start_bytes, ..sum(&self.ended, &self.current) }
    }
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

    /// The storm begins: all processes that were noted are as they are after their start.
    pub fn begin_storm(&mut self) {
        self.loopback = (loopback_sent_bytes(), None);
        for lives in self.read_again() {
            lives.storm.0 = Some(lives.total().cpu_s);
            lives.rss_after_start_bytes = lives.pid.and_then(resident_bytes);
        }
    }

    /// The last acknowledged payment is final.
    pub fn end_storm(&mut self) {
        self.loopback.1 = loopback_sent_bytes();
        for lives in self.read_again() {
            lives.storm.1 = Some(lives.total().cpu_s);
        }
    }

    /// Bytes that all programs of this machine sent each other during the storm, headers included; `None` if that is not
    /// known.
    pub fn loopback_sent_bytes(&self) -> Option<u64> {
        self.loopback.1?.checked_sub(self.loopback.0?)
    }

    /// All processes, each read again that lives.
    fn read_again(&mut self) -> impl Iterator<Item = &mut Lives> {
        for lives in self.processes.values_mut() {
            if let Some(usage) = lives.pid.and_then(read) {
                lives.current = Usage { fsyncs: lives.current.fsyncs, ..usage };
            }
        }
        self.processes.values_mut()
    }

    /// What the process used in all its lives; `None` if it was never seen.
    pub fn total(&self, name: &str) -> Option<Usage> {
        self.processes.get(name).map(Lives::total)
    }
}

/// Free of the digits that subtraction adds.
fn in_ticks(seconds: f64) -> f64 {
    (seconds * TICKS_PER_S).round() / TICKS_PER_S
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
        ..Usage::default()
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

/// The resident size of a process now; `None` if it is gone.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(parse_field(&status, "VmRSS:")? * 1_024)
}

/// Bytes that this machine sent over its loopback so far, headers included; `None` if it does not tell.
fn loopback_sent_bytes() -> Option<u64> {
    parse_sent(&fs::read_to_string("/proc/net/dev").ok()?, "lo:")
}

/// Bytes sent over an interface, of /proc/net/dev: eight figures of what was received stand before them.
fn parse_sent(devices: &str, interface: &str) -> Option<u64> {
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix(interface))?;
    line.split_whitespace().nth(8)?.parse().ok()
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
    fn the_storm_is_counted_from_its_beginning_to_its_end_over_all_lives() {
        let mut meter = Meter::default();
        // No process has this id, so what was noted stays.
        let usage = |cpu_s| Usage { cpu_s, ..Usage::default() };
        meter.note("node-1", u32::MAX, usage(5.0));
        meter.begin_storm();
        assert_eq!(meter.total("node-1").unwrap().storm_cpu_s, None, "it has not ended");
        meter.note("node-1", u32::MAX, usage(7.5));
        meter.note("node-1", u32::MAX - 1, usage(2.0));
        meter.end_storm();
        meter.note("node-1", u32::MAX - 1, usage(9.0));
        let total = meter.total("node-1").unwrap();
        assert_eq!((total.cpu_s, total.storm_cpu_s, total.rss_after_start_bytes), (16.5, Some(4.5), None));
        meter.note("node-2", std::process::id(), usage(0.0));
        assert_eq!(meter.loopback_sent_bytes().is_some(), loopback_sent_bytes().is_some());
        meter.begin_storm();
        let this = meter.total("node-2").unwrap();
        assert!(this.rss_after_start_bytes.is_some_and(|bytes| bytes > 100_000 && bytes <= this.rss_max_bytes));
    }

    #[test]
    fn bytes_sent_are_read_behind_those_received() {
        let devices = "Inter-|   Receive  |  Transmit\n face |bytes packets\n  eth0: 9 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n    \
                       lo: 7001 70 0 0 0 0 0 0 7002 70 0 0 0 0 0 0\n";
        assert_eq!(parse_sent(devices, "lo:"), Some(7_002));
        assert_eq!(parse_sent(devices, "wlan0:"), None);
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
