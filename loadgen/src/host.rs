//! What machine, build and command a report comes from.

use std::fs;

use crate::report::Host;

/// The machine that this runs on; what cannot be read stays empty.
pub fn host() -> Host {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory_kib: u64 = memory.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
    Host {
        name: read("/proc/sys/kernel/hostname").trim().to_owned(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: memory_kib * 1_024,
    }
}

/// The command line as it was given.
pub fn command() -> String {
    let quote = |argument: String| match argument.contains([' ', '"', '\'', '$']) {
        true => format!("{argument:?}"),
        false => argument,
    };
    std::env::args().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_machine_and_the_command() {
        let host = host();
        assert!(host.cores > 0 && host.memory_bytes > 1 << 20, "{host:?}");
        assert!(command().contains("loadgen"), "{}", command());
    }
}
