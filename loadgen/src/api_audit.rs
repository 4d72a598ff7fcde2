//! After the storm: does the API server, which executes the chain itself, stand where the nodes do and tell the same
//! balance?

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::audit::{self, NodeState};
use crate::faults::Scene;
use crate::plan::{Plan, TOKEN};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Where the API server stood at the end, and what it told of the receiver there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiState {
    pub height: u64,
    pub block: String,
    pub state_root: String,
    /// In the token's smallest unit.
    pub receiver_balance: String,
    /// Whether all nodes stood at the same block with the same state root.
    pub as_the_nodes: bool,
}

/// The API server's document of an account, as far as it is needed.
#[derive(Deserialize)]
struct AccountPage {
    balances: Vec<Holding>,
    height: u64,
    block: String,
    state_root: String,
}

#[derive(Deserialize)]
struct Holding {
    token: u32,
    balance: String,
}

/// Looks at the API server and all nodes until they stand at the same block, or `deadline` has passed; at least once.
/// Gives what it saw last, or in words why it saw nothing. `None` if there is no API server.
pub async fn settle(scene: &Scene, plan: &Plan, deadline: Instant) -> Option<Result<ApiState, String>> {
    let address = scene.api.as_ref()?;
    let path = format!("/v1/accounts/{}", plan.judged_account());
    loop {
        let seen = match scene.http.get(address, &path, LOOK_DEADLINE).await {
            Ok(page) if page.status.is_success() => read(&page.body),
            Ok(page) => Err(format!("the API server answers {} about the receiver", page.status)),
            Err(error) => Err(format!("the API server does not answer about the receiver: {error}")),
        };
        let seen = match seen {
            Ok(seen) => {
                let nodes = audit::states(scene).await;
                Ok(ApiState { as_the_nodes: nodes.len() == scene.links.len() && stands_with(&seen, &nodes), ..seen })
            }
            Err(error) => Err(error),
        };
        if seen.as_ref().is_ok_and(|seen| seen.as_the_nodes) || Instant::now() >= deadline {
            return Some(seen);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn read(body: &[u8]) -> Result<ApiState, String> {
    let page: AccountPage =
        serde_json::from_slice(body).map_err(|error| format!("the API server's account cannot be read: {error}"))?;
    let held = page.balances.into_iter().find(|holding| holding.token == TOKEN.0);
    let receiver_balance = held.map_or("0".into(), |holding| holding.balance);
    let AccountPage { height, block, state_root, .. } = page;
    Ok(ApiState { height, block, state_root, receiver_balance, as_the_nodes: false })
}

fn stands_with(api: &ApiState, nodes: &[NodeState]) -> bool {
    let same =
        |node: &NodeState| (node.height, &node.block, &node.state_root) == (api.height, &api.block, &api.state_root);
    nodes.iter().all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"{"account":"zn1","balances":[{"token":2,"balance":"7"},{"token":1,"balance":"5000050000"}],
        "height":21,"block":"ab","state_root":"cd","next_sequence":"0","final":false}"#;

    #[test]
    fn the_account_page_tells_the_head_and_the_balance_in_the_storms_token() {
        let seen = read(PAGE.as_bytes()).unwrap();
        assert_eq!((seen.height, seen.block.as_str(), seen.state_root.as_str()), (21, "ab", "cd"));
        assert_eq!(seen.receiver_balance, "5000050000");
        assert!(read(b"{}").is_err());
    }

    #[test]
    fn it_stands_with_the_nodes_only_at_the_same_height_block_and_root() {
        let seen = read(PAGE.as_bytes()).unwrap();
        let node = |height, block: &str, state_root: &str| NodeState {
            node: "node-1".into(),
            height,
            block: block.into(),
            state_root: state_root.into(),
        };
        assert!(stands_with(&seen, &[node(21, "ab", "cd"), node(21, "ab", "cd")]));
        for other in [node(22, "ab", "cd"), node(21, "xx", "cd"), node(21, "ab", "xx")] {
            assert!(!stands_with(&seen, &[node(21, "ab", "cd"), other]));
        }
    }
}
