//! The metrics of the process: who collects them. `METRICS.md` tells what each one means.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Buckets of latency histograms, in seconds.
const SECONDS_BUCKETS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Between two rounds in which the metrics recorder folds what it gathered.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder, which is the process's only one. Within a tokio runtime.
pub fn record_metrics() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new();
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS_BUCKETS)?;
    let handle = builder.install_recorder()?;
    describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

macro_rules! describe {
    ($($kind:ident $name:literal $text:literal;)*) => {
        /// Every metric of the server and what it counts.
        pub const METRICS: &[(&str, &str)] = &[$(($name, $text),)*];

        fn describe() {
            $(metrics::$kind!($name, $text);)*
        }
    };
}

describe! {
    describe_counter "zeni_api_requests_total" "HTTP requests answered, by route, status and problem code.";
    describe_histogram "zeni_api_request_seconds" "Time of one HTTP request, by route.";
    describe_counter "zeni_api_submissions_total" "Payments submitted, by verdict.";
    describe_counter "zeni_api_gathered_groups_total" "Requests to nodes that carried payments submitted one at a time.";
    describe_gauge "zeni_api_submissions_remembered" "Submitted payments remembered until the chain holds them.";
    describe_gauge "zeni_api_payments_waited_for" "Payments of submissions that wait to be answered.";
    describe_gauge "zeni_api_final_height" "Height of the last final block that was executed here.";
    describe_gauge "zeni_api_follower_height" "Height of the canonical head that was executed here.";
    describe_gauge "zeni_api_follower_lag_blocks" "Blocks that the best node is ahead.";
    describe_counter "zeni_api_blocks_total" "Blocks that became canonical here.";
    describe_counter "zeni_api_blocks_undone_total" "Blocks taken back by changes of the canonical chain.";
    describe_counter "zeni_api_payments_total" "Payments in blocks that became canonical here, by outcome.";
    describe_counter "zeni_api_invalid_blocks_total" "Blocks that did not give the roots in their headers.";
    describe_counter "zeni_api_misbehaviour_total" "What no correct node sends.";
    describe_gauge "zeni_api_evidence_kept" "Pieces of evidence against validators on disk here.";
    describe_gauge "zeni_api_node_up" "1 if the node answered the last question, by its place in the config.";
    describe_gauge "zeni_api_node_failovers" "Submissions that went to another node, since the start.";
    describe_counter "zeni_api_follow_failovers_total" "Times that the followed node was lost or left.";
    describe_gauge "zeni_api_index_lag_blocks" "Blocks executed and not yet in the index.";
    describe_gauge "zeni_api_index_flushed_height" "Height up to which the index is on disk.";
    describe_gauge "zeni_api_index_memory_payments" "Payments that the index holds in memory only.";
    describe_counter "zeni_api_index_rebuilt_total" "Indexes found unusable at start and built again.";
    describe_gauge "zeni_api_checkpoint_height" "Height of the last checkpoint written.";
    describe_gauge "process_resident_memory_bytes" "Resident memory of the process.";
    describe_gauge "process_cpu_seconds" "User and system time of the process since its start.";
    describe_gauge "process_open_fds" "Open file descriptors of the process.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn described() -> BTreeSet<String> {
        METRICS.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    /// Every metric that some source file counts.
    fn counted(directory: &Path) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names.extend(counted(&path));
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            for call in ["metrics::counter!(\"", "metrics::gauge!(\"", "metrics::histogram!(\""] {
                let behind = source.split(call).skip(1);
                names.extend(behind.map(|behind| behind.split('"').next().unwrap().to_owned()));
            }
        }
        // This file spells the calls out to look for them.
        names.retain(|name| name.starts_with("zeni_") || name.starts_with("process_"));
        names
    }

    #[test]
    fn every_metric_that_is_counted_is_described_and_no_other() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert_eq!(counted(&source), described());
    }

    #[test]
    fn the_document_explains_every_metric_and_no_other() {
        let rows = include_str!("../METRICS.md").lines().filter_map(|line| line.strip_prefix("| `"));
        let explained: BTreeSet<String> = rows.map(|row| row.split(['`', '{']).next().unwrap().to_owned()).collect();
        assert_eq!(explained, described());
    }
}
