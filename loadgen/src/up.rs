//! A local network without a storm, for people to look at.

use std::fs;
use std::time::Duration;

use crate::clock;
use crate::plan::Role;
use crate::prepare;
use crate::process::ProcessError;
use crate::scenario::Scenario;
use crate::stage::{self, Stage};
use crate::storm::{Places, StormError};

/// Between two looks at whether all processes live.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the network of a scenario, prints its addresses and keeps it up until `end`, then stops it cleanly. An error
/// if a process ends by itself.
pub async fn up(scenario: &Scenario, places: &Places, end: impl Future<Output = ()>) -> Result<(), StormError> {
    let now_ms = clock::unix_ms();
    let prepared = prepare::prepare(&places.data, &scenario.parameters(), now_ms)?;
    let directory = places.runs.join(format!("up-{}", clock::compact(now_ms)));
    let created = fs::create_dir_all(&directory);
    created.map_err(|error| StormError::File { action: "creating", path: directory.clone(), error })?;
    let patience = Duration::from_secs(scenario.timeouts.start_s);
    let stage = stage::set(&directory, &prepared, &scenario.network, None, &places.programs, patience).await?;
    println!("ledger {} with {} accounts", prepared.genesis_id, prepared.meta.parameters.accounts);
    if let Some(api) = &stage.api {
        println!("API         http://{api}/v1/network");
        println!("readiness   http://{api}/readyz");
    }
    for node in &stage.nodes {
        println!("{:<11} quic {} key {}", node.name, node.quic, node.key);
    }
    for member in &stage.network.lock().await.members {
        println!("{:<11} http://{}/metrics", member.process.name, member.metrics);
    }
    let plan = prepared.plan();
    println!("an account with money: {}", crate::plan::account_of(&plan.account_key(plan.accounts)));
    let watcher = hex::encode(plan.role_key(Role::Submitter).verifying_key().to_bytes());
    println!("nodes admit the client key {watcher}");
    println!("directory {}\nCtrl-C ends it", directory.display());
    tokio::select! {
        error = look_after(&stage) => return Err(error.into()),
        () = end => {}
    }
    stage.network.lock().await.stop(Duration::from_secs(scenario.timeouts.stop_s)).await?;
    Ok(())
}

/// Ends when a process has ended by itself.
async fn look_after(stage: &Stage) -> ProcessError {
    loop {
        tokio::time::sleep(LOOK).await;
        for member in &mut stage.network.lock().await.members {
            if let Err(error) = member.process.check() {
                return error;
            }
        }
    }
}
