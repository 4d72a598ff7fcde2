//! What is looked at once a second: the disk's free space, the queues, the handshakes turned away, the process.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::time::{MissedTickBehavior, interval};
use zeni_consensus::Input;
use zeni_storage::{DiskFiles, Files};
use zeni_transport::{CloseCode, Endpoint};

use crate::core_queue::Task;
use crate::process;
use crate::services::Services;

const EVERY: Duration = Duration::from_secs(1);

/// Tells when the disk crosses its watermark.
#[derive(Debug)]
pub struct Watermark {
    bytes: u64,
    full: bool,
}

impl Watermark {
    pub fn new(bytes: u64) -> Self {
        Self { bytes, full: false }
    }

    /// Whether the disk counts as full from now on, if that changed. It counts as free again only with an eighth more
    /// space than the watermark, so that it does not flicker.
    pub fn cross(&mut self, free: u64) -> Option<bool> {
        let full = if self.full { free < self.bytes.saturating_add(self.bytes / 8) } else { free < self.bytes };
        (std::mem::replace(&mut self.full, full) != full).then_some(full)
    }
}

/// Watches until it is aborted.
pub async fn watch(files: DiskFiles, endpoint: Endpoint, services: Arc<Services>) {
    let mut watermark = Watermark::new(services.limits.disk_watermark_bytes);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look_at_disk(&files, &mut watermark, &services);
        look_at_queues(&services);
        look_at_door(&endpoint);
        process::observe();
    }
}

fn look_at_disk(files: &DiskFiles, watermark: &mut Watermark, services: &Services) {
    let free = match files.free_bytes() {
        Ok(free) => free,
        Err(error) => {
            tracing::error!(%error, "the free space of the data directory cannot be told");
            return;
        }
    };
    gauge!("zeni_disk_free_bytes").set(free as f64);
    let Some(full) = watermark.cross(free) else { return };
    gauge!("zeni_disk_full").set(if full { 1.0 } else { 0.0 });
    if full {
        tracing::error!(free, watermark = services.limits.disk_watermark_bytes, "disk full: payments are refused");
    } else {
        tracing::info!(free, "the disk has room again");
    }
    services.core.control(Task::Step(Input::DiskFull(full)), None);
}

fn look_at_queues(services: &Services) {
    let core = services.core.depths();
    let depths = [
        ("ingress_payments", services.admission.payments()),
        ("ingress_requests", services.admission.requests()),
        ("verify", services.verify.depth()),
        ("core_control", core.control),
        ("core_batches", core.batches),
        ("core_submissions", core.submissions),
    ];
    for (queue, depth) in depths {
        gauge!("zeni_queue_depth", "queue" => queue).set(depth as f64);
    }
}

fn look_at_door(endpoint: &Endpoint) {
    let refusals = endpoint.refusals();
    for code in CloseCode::ALL {
        counter!("zeni_connections_refused_total", "reason" => code.name()).absolute(refusals.count(*code));
    }
    counter!("zeni_connections_refused_total", "reason" => "failed").absolute(refusals.failed());
    counter!("zeni_unknown_peers_total").absolute(refusals.count(CloseCode::UnknownPeer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_is_crossed_once_and_left_with_some_room() {
        let mut watermark = Watermark::new(800);
        let crossings: Vec<_> = [900, 799, 0, 800, 899, 900, 800].map(|free| watermark.cross(free)).to_vec();
        assert_eq!(crossings, [None, Some(true), None, None, None, Some(false), None]);
    }
}
