//! Three validators: they agree, go on when two are gone, and the two come back to the same chain.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kit;

use kit::{Client, Network, OPENING_BALANCE, account, all_accepted, dial_when_up, wait_until};
use zeni_consensus::Mode;
use zeni_ledger::Payment;
use zeni_node::Node;

const ACCOUNTS: usize = 12;

/// So many payments of one unit from each account to the last one, each account at one node.
fn round(network: &Network, node: usize, nodes: usize, first_sequence: u64, count: u64) -> Vec<Payment> {
    let payers = (0..ACCOUNTS - 1).filter(|payer| payer % nodes == node);
    payers
        .flat_map(|payer| (first_sequence..first_sequence + count).map(move |sequence| (payer, sequence)))
        .map(|(payer, sequence)| network.pay(payer, ACCOUNTS - 1, sequence, 1))
        .collect()
}

async fn wait_active(client: &Client) {
    wait_until("the node is active", async || client.node().await.mode == Mode::Active).await;
}

/// Waits until all clients' nodes stand at one head with nothing pending.
async fn wait_equal(clients: &[&Client]) {
    wait_until("all nodes stand at one block with nothing pending", async || {
        let mut infos = Vec::new();
        for client in clients {
            infos.push(client.node().await);
        }
        let first = (infos[0].head, infos[0].state_root);
        infos.iter().all(|info| (info.head, info.state_root) == first && info.pending == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agree_survive_the_loss_of_two_and_agree_again() {
    let network = Network::new(3, ACCOUNTS, 500);
    let mut nodes: Vec<Node> = (0..3).map(|number| network.start_new(number)).collect();
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(dial_when_up(&network, number).await);
    }
    for client in &clients {
        wait_active(client).await;
    }
    for (number, client) in clients.iter().enumerate() {
        assert!(all_accepted(&client.submit_when_ready(round(&network, number, 3, 0, 20)).await));
    }
    let receiver = account(&network.accounts[ACCOUNTS - 1]);
    let start = i128::from(OPENING_BALANCE);
    let payers = ACCOUNTS as i128 - 1;
    for client in &clients {
        client.wait_for_balance(receiver, start + 20 * payers).await;
    }
    nodes.pop().unwrap().stop().await.unwrap();
    nodes.pop().unwrap().stop().await.unwrap();
    assert!(all_accepted(&clients[0].submit_when_ready(round(&network, 0, 1, 20, 20)).await));
    clients[0].wait_for_balance(receiver, start + 40 * payers).await;
    for (number, client) in clients.iter_mut().enumerate().skip(1) {
        nodes.push(network.start(number));
        *client = dial_when_up(&network, number).await;
    }
    for client in &clients {
        client.wait_for_balance(receiver, start + 40 * payers).await;
        wait_active(client).await;
    }
    wait_equal(&clients.iter().collect::<Vec<_>>()).await;
    for node in nodes {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_rotten_segment_heals_from_its_peer() {
    let network = Network::new(2, ACCOUNTS, 300);
    let mut nodes: Vec<Node> = (0..2).map(|number| network.start_new(number)).collect();
    let client = dial_when_up(&network, 0).await;
    for first in (0..60).step_by(10) {
        assert!(all_accepted(&client.submit_when_ready(round(&network, 0, 1, first, 10)).await));
    }
    let receiver = account(&network.accounts[ACCOUNTS - 1]);
    let expected = i128::from(OPENING_BALANCE) + 60 * (ACCOUNTS as i128 - 1);
    let second = dial_when_up(&network, 1).await;
    for client in [&client, &second] {
        client.wait_for_balance(receiver, expected).await;
    }
    nodes.pop().unwrap().stop().await.unwrap();
    let segment = network.path("data1").join("chain-00000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    nodes.push(network.start(1));
    let second = dial_when_up(&network, 1).await;
    second.wait_for_balance(receiver, expected).await;
    wait_equal(&[&client, &second]).await;
    for node in nodes {
        node.stop().await.unwrap();
    }
    let (data, genesis) = (network.path("data1"), network.path("genesis.toml"));
    let verified = zeni_node::verify_data::verify_data(&data, &genesis).unwrap();
    assert_eq!(i128::from(verified.transactions.applied), 60 * (ACCOUNTS as i128 - 1));
}
