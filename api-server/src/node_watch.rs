//! Asks every node where it stands, and leaves a followed node that has fallen behind.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use zeni_client::NodePool;
use zeni_client::follow::FollowHandle;

use crate::progress::{NodeTold, Progress};

/// Between two rounds of questions.
const INTERVAL: Duration = Duration::from_secs(2);
/// Rounds in which another node must be ahead before the followed one is left: a block takes a moment to arrive.
const ROUNDS_BEHIND: u32 = 3;

/// Runs until the server stops.
pub async fn watch_nodes(
    nodes: Arc<NodePool>,
    progress: Arc<Progress>,
    follow: FollowHandle,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut behind = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Both a change and a gone sender mean the end.
            _ = stopping.changed() => return,
        }
        join_all((0..nodes.len()).map(|place| ask(&nodes, &progress, place))).await;
        match progress.better_node() {
            Some(better) if behind + 1 >= ROUNDS_BEHIND => {
                tracing::info!(node = better, "the followed node is behind; following another one");
                follow.prefer(better);
                behind = 0;
            }
            Some(_) => behind += 1,
            None => behind = 0,
        }
    }
}

async fn ask(nodes: &NodePool, progress: &Progress, place: usize) {
    let told = match nodes.node_info(place).await {
        Ok(info) => Some(NodeTold {
            mode: info.mode,
            height: info.height,
            pending: info.pending,
            live: info.live,
            version: info.version,
        }),
        Err(error) => {
            tracing::debug!(node = place, %error, "a node does not say where it stands");
            None
        }
    };
    let up = if told.is_some() { 1.0 } else { 0.0 };
    metrics::gauge!("zeni_api_node_up", "node" => place.to_string()).set(up);
    progress.saw(place, told);
}
