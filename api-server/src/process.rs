//! What the operating system says of this process; the names and units are those that a node serves.

use std::fs;

/// Clock ticks in a second, as `/proc` counts CPU time on every Linux that we know.
const TICKS_PER_S: f64 = 100.0;
const PAGE_BYTES: f64 = 4_096.0;

/// Sets the gauges of memory, CPU time and descriptors. Where there is no `/proc`, they stay unset.
pub fn observe() {
    if let Some(pages) = field("/proc/self/statm", 1) {
        metrics::gauge!("process_resident_memory_bytes").set(pages * PAGE_BYTES);
    }
    if let (Some(user), Some(system)) = (stat_field(11), stat_field(12)) {
        metrics::gauge!("process_cpu_seconds").set((user + system) / TICKS_PER_S);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(descriptors.count() as f64);
    }
}

fn field(file: &str, place: usize) -> Option<f64> {
    fs::read_to_string(file).ok()?.split_ascii_whitespace().nth(place)?.parse().ok()
}

/// A field of `/proc/self/stat`, counted behind the process's name, which may hold spaces.
fn stat_field(place: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_ascii_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn the_process_tells_its_memory_cpu_time_and_descriptors() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, observe);
        let page = recorder.handle().render();
        let value = |name: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} is not served: {page}")).parse().unwrap()
        };
        // Input, output and error; and the directory that is being read.
        assert!(value("process_open_fds") >= 4.0);
        assert!(value("process_resident_memory_bytes") >= PAGE_BYTES);
        assert!(value("process_cpu_seconds") >= 0.0);
    }
}
