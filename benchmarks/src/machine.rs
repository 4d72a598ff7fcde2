//! Where and of what figures were taken: the machine, the commit, the command; and what processes use.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Kernel clock ticks in a second, as /proc counts processor time. Linux fixes it at 100 for user space.
const TICKS_PER_S: f64 = 100.0;
/// Bytes of a page, as /proc counts resident memory.
const PAGE_BYTES: u64 = 4_096;

/// The machine; what cannot be read stays empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Which code checks batches of signatures here.
    pub(crate) backend: String,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// Hexadecimal; `unknown` outside a repository.
    pub(crate) id: String,
    /// Whether files differ from it.
    pub(crate) dirty: bool,
}

impl Machine {
    pub(crate) fn of_this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_kib * 1_024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            backend: zeni_ledger::signature::batch_backend().into(),
        }
    }
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

impl Commit {
    /// The commit that is checked out at `root`.
    pub(crate) fn at(root: &Path) -> Self {
        let git = |arguments: &[&str]| {
            let done = Command::new("git").args(arguments).current_dir(root).output().ok()?;
            done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
        };
        match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"])) {
            (Some(id), Some(changes)) => Self { id, dirty: !changes.is_empty() },
            _ => Self { id: "unknown".into(), dirty: true },
        }
    }
}

/// Lets this process, and whatever it starts, open as many files as it may: a thousand connections are more than shells
/// allow.
pub(crate) fn allow_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// The command line, as whoever runs the suite gives it.
pub(crate) fn command() -> String {
    written(&std::env::args().skip(1).collect::<Vec<_>>())
}

/// What `cargo xtask` adds (`--root` and the workspace's place) is not what was given.
fn written(arguments: &[String]) -> String {
    let given = match arguments {
        [flag, _, rest @ ..] if flag == "--root" => rest,
        all => all,
    };
    let quote = |argument: &String| match argument.contains([' ', '"', '\'', '$']) {
        true => format!("{argument:?}"),
        false => argument.clone(),
    };
    std::iter::once("cargo xtask bench".to_owned()).chain(given.iter().map(quote)).collect::<Vec<_>>().join(" ")
}

/// Processor time of a process or a thread from its line of /proc/…/stat, in seconds, with its parent's id. Its name
/// may hold spaces and parentheses.
pub(crate) fn parse_stat(stat: &str) -> Option<(u32, f64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let mut fields = fields.skip(9);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((parent, (user + system) as f64 / TICKS_PER_S))
}

/// Processor time of this process, in seconds, all threads together.
pub(crate) fn own_cpu_s() -> f64 {
    fs::read_to_string("/proc/self/stat").ok().and_then(|stat| parse_stat(&stat)).map_or(0.0, |(_, cpu_s)| cpu_s)
}

/// Resident bytes of this process.
pub(crate) fn own_rss_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}

/// Processor time of a process's threads by their names, digits at the end dropped (`verify-3` counts as `verify`).
pub(crate) fn threads_cpu_s(pid: u32) -> BTreeMap<String, f64> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map(|(name, _)| name);
        if let (Some(name), Some((_, cpu_s))) = (name, parse_stat(&stat)) {
            let name = name.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches('-');
            *threads.entry(name.to_owned()).or_default() += cpu_s;
        }
    }
    threads
}

/// Bytes of all files below a directory; what vanishes meanwhile counts as nothing.
pub(crate) fn directory_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.file_type() {
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
    fn a_line_of_stat_tells_parent_and_time_whatever_the_name() {
        assert_eq!(parse_stat("42 (a) b)) S 7 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0"), Some((7, 2.0)));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn the_command_is_what_was_given() {
        let arguments = ["--root", "/somewhere", "storm", "--scenario", "a b"].map(String::from);
        assert_eq!(written(&arguments), "cargo xtask bench storm --scenario \"a b\"");
        assert_eq!(written(&arguments[2..3]), "cargo xtask bench storm");
    }

    #[test]
    fn knows_this_machine_and_this_process() {
        let machine = Machine::of_this();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20 && !machine.backend.is_empty(), "{machine:?}");
        assert!(own_rss_bytes() > 100_000);
        assert!(!threads_cpu_s(std::process::id()).is_empty());
    }

    #[test]
    fn outside_a_repository_the_commit_is_unknown() {
        let nowhere = tempfile::tempdir().unwrap();
        assert_eq!(Commit::at(nowhere.path()), Commit { id: "unknown".into(), dirty: true });
    }

    #[test]
    fn a_directory_is_as_large_as_all_that_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("below")).unwrap();
        fs::write(root.path().join("a"), [0; 10]).unwrap();
        fs::write(root.path().join("below/b"), [0; 32]).unwrap();
        assert_eq!(directory_bytes(root.path()), 42);
    }
}
