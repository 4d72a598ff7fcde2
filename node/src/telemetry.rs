//! Metrics and logs of the process: who collects them and where they go. `METRICS.md` tells what each one means.

use std::net::SocketAddr;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Bounds of the histograms of durations, in seconds.
const SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Bounds of the histogram of signatures in one verification job.
const JOB_SIZES: [f64; 8] = [1.0, 16.0, 64.0, 128.0, 256.0, 512.0, 768.0, 1_024.0];
/// Bounds of the histogram of blocks taken back.
const DEPTHS: [f64; 7] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0];

/// Why logs or metrics cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("config log.filter is {filter:?}, which is no filter: {error}")]
    Filter { filter: String, error: tracing_subscriber::filter::ParseError },
    #[error("cannot start logging: {0}")]
    Logs(String),
    #[error("cannot serve metrics on {address}: {error}; choose another address or stop what uses it")]
    Metrics { address: SocketAddr, error: BuildError },
}

/// Starts logging to standard error. Once in a process.
pub fn start_logs(log: &Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| TelemetryError::Filter { filter: log.filter.clone(), error })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    started.map_err(|error| TelemetryError::Logs(error.to_string()))
}

/// Serves metrics over HTTP. Once in a process, within a tokio runtime.
pub fn start_metrics(address: SocketAddr) -> Result<(), TelemetryError> {
    let builder = || -> Result<(), BuildError> {
        PrometheusBuilder::new()
            .with_http_listener(address)
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full("zeni_verify_batch_size".into()), &JOB_SIZES)?
            .set_buckets_for_metric(Matcher::Full("zeni_reorg_depth".into()), &DEPTHS)?
            .install()
    };
    builder().map_err(|error| TelemetryError::Metrics { address, error })?;
    describe();
    Ok(())
}

macro_rules! describe {
    ($($kind:ident $name:literal $text:literal;)*) => {
        /// Every metric of the node and what it counts.
        pub const METRICS: &[(&str, &str)] = &[$(($name, $text),)*];

        fn describe() {
            $(metrics::$kind!($name, $text);)*
        }
    };
}

describe! {
    describe_gauge "zeni_height" "Height of the canonical head.";
    describe_gauge "zeni_final_height" "Height of the last final block that is executed here.";
    describe_counter "zeni_decisions_total" "Decisions of the finality engine, reached here or learnt.";
    describe_counter "zeni_decision_rounds_total" "Rounds that these decisions took: one each, if all goes well.";
    describe_counter "zeni_votes_forgotten_total" "Times that the log had lost a vote of this validator.";
    describe_gauge "zeni_slot" "The slot of the canonical head.";
    describe_gauge "zeni_head_slot_lag" "Slots between the clock and the canonical head.";
    describe_gauge "zeni_mode" "1 for the mode that the node is in, by mode.";
    describe_gauge "zeni_pool_batches" "Batches stored and not on the canonical chain.";
    describe_gauge "zeni_pool_payments" "Payments stored and not on the canonical chain.";
    describe_gauge "zeni_validators_live" "Validators heard from lately, this one included.";
    describe_counter "zeni_payments_accepted_total" "Payments of clients answered as accepted.";
    describe_counter "zeni_payments_known_total" "Payments of clients that were accepted before.";
    describe_counter "zeni_payments_refused_total" "Payments of clients that were not taken, by reason.";
    describe_counter "zeni_payments_included_total" "Payments applied in blocks that became canonical.";
    describe_counter "zeni_payments_rejected_total" "Payments rejected in blocks that became canonical, by reason.";
    describe_counter "zeni_payments_skipped_total" "Payments skipped in blocks that became canonical.";
    describe_counter "zeni_requests_refused_total" "Requests of clients that were not served, by reason.";
    describe_counter "zeni_blocks_total" "Blocks that became canonical.";
    describe_counter "zeni_blocks_proposed_total" "Blocks proposed here.";
    describe_counter "zeni_reorgs_total" "Changes of the canonical chain that took blocks back.";
    describe_histogram "zeni_reorg_depth" "Blocks taken back by one such change.";
    describe_histogram "zeni_block_execution_seconds" "Time of the core steps that changed the canonical chain.";
    describe_counter "zeni_fsyncs_total" "Syncs of log and safety record.";
    describe_histogram "zeni_fsync_seconds" "Time of one sync of the log.";
    describe_gauge "zeni_log_bytes" "Bytes of the log.";
    describe_counter "zeni_verify_signatures_total" "Payment signatures checked, by result.";
    describe_histogram "zeni_verify_batch_size" "Signatures of one verification job.";
    describe_gauge "zeni_queue_depth" "What waits in a queue, by queue.";
    describe_gauge "zeni_peers_connected" "Other validators with a connection.";
    describe_gauge "zeni_followers_connected" "Connections of followers.";
    describe_counter "zeni_peer_messages_total" "Messages of peers and followers, by kind and direction.";
    describe_counter "zeni_batch_pushes_dropped_total" "Batches not pushed because the peer's queue was full.";
    describe_counter "zeni_batch_copies_total" "Batches of peers not verified again, by what was found of them.";
    describe_counter "zeni_fetches_dropped_total" "Requests for batches not served because too many wait.";
    describe_counter "zeni_block_questions_dropped_total" "Questions for blocks not answered because too many wait.";
    describe_counter "zeni_slow_peers_total" "Connections closed because the peer did not take its messages.";
    describe_counter "zeni_connections_refused_total" "Connections turned away in the handshake, by reason.";
    describe_counter "zeni_unknown_peers_total" "Connections turned away because their key is not admitted.";
    describe_counter "zeni_oversized_frames_total" "Frames and requests above their length limit.";
    describe_counter "zeni_malformed_frames_total" "Frames and requests that could not be parsed.";
    describe_counter "zeni_misbehaviour_total" "What no correct peer does, by kind.";
    describe_gauge "zeni_evidence_kept" "Pieces of evidence against validators on this node's disk.";
    describe_counter "zeni_evidence_dropped_total" "Evidence that was not kept because there is enough, by kind.";
    describe_gauge "zeni_checkpoint_height" "Height of the last checkpoint.";
    describe_histogram "zeni_checkpoint_seconds" "Time to write one checkpoint.";
    describe_counter "zeni_checkpoint_failures_total" "Tries to write a checkpoint that failed.";
    describe_counter "zeni_torn_tails_total" "Torn ends of the log found at start.";
    describe_counter "zeni_storage_damage_total" "Damaged places of the log found at start.";
    describe_counter "zeni_checkpoint_rebuilt_total" "Checkpoints found damaged at start and rebuilt.";
    describe_gauge "zeni_disk_free_bytes" "Free space of the data directory's file system.";
    describe_gauge "zeni_disk_full" "1 while free space is below the watermark and no payments are taken.";
    describe_gauge "process_resident_memory_bytes" "Resident memory of the process.";
    describe_gauge "process_cpu_seconds" "User and system time of the process since its start.";
    describe_gauge "process_open_fds" "Open file descriptors of the process.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_explained_in_the_document() {
        let document = include_str!("../METRICS.md");
        for (name, _) in METRICS {
            assert!(
                document.contains(&format!("`{name}`")) || document.contains(&format!("`{name}{{")),
                "METRICS.md does not explain {name}"
            );
        }
    }
}
