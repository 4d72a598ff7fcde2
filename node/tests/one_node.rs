//! One node alone: it takes payments, refuses bad ones each by its code, and keeps what it accepted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kit;

use kit::{Network, OPENING_BALANCE, account, all_accepted, remove_file, wait_until};
use zeni_consensus::{Mode, Refusal, Verdict};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{AccountId, Amount, SignatureBytes, TokenId};
use zeni_node::init::{Past, Standing};
use zeni_node::{Setup, StartError, clock, init, readmit};
use zeni_schemas::request::{Reply, Request, RequestError};

#[tokio::test(flavor = "multi_thread")]
async fn accepts_a_payment_and_includes_it() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let client = network.client(0).await;
    let verdicts = client.submit_when_ready(vec![network.pay(0, 1, 0, 250)]).await;
    assert_eq!(verdicts, [Verdict::Accepted { copies: 1 }]);
    client.wait_for_balance(account(&network.accounts[1]), i128::from(OPENING_BALANCE) + 250).await;
    assert_eq!(client.balance(account(&network.accounts[0])).await, i128::from(OPENING_BALANCE) - 250);
    let info = client.node().await;
    assert_eq!((info.mode, info.pending), (Mode::Active, 0));
    assert!(info.height > 0);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_each_bad_payment_by_its_own_code_and_takes_the_good_one_beside_them() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let client = network.client(0).await;
    let body = network.body(0, 1, 0, 1);
    let far = PaymentBody { valid_until: body.valid_until + 100_000, ..body };
    let late = PaymentBody { valid_until: (clock::now().0 / 1_000) as u32 - 1, ..body };
    let bodies = [
        (PaymentBody { network: 1, ..body }, "wrong_network"),
        (late, "expired"),
        (far, "valid_until_too_far"),
        (PaymentBody { sequence: zeni_ledger::Sequence(1_000), ..body }, "sequence_out_of_window"),
        (PaymentBody { token: TokenId(9), ..body }, "unknown_token"),
        (PaymentBody { to: AccountId([8; 32]), ..body }, "unknown_receiver"),
        (PaymentBody { amount: Amount(0), ..body }, "zero_amount"),
        (PaymentBody { to: body.from, ..body }, "to_self"),
        (PaymentBody { flags: 1, ..body }, "unknown_flags"),
    ];
    let genesis = network.genesis.id();
    let mut payments: Vec<_> = bodies.iter().map(|(body, _)| body.sign(&network.accounts[0], &genesis)).collect();
    payments.push(body.with_signature(SignatureBytes([7; 64])));
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[99; 32]);
    payments.push(PaymentBody { from: account(&stranger), ..body }.sign(&stranger, &genesis));
    payments.push(network.pay(0, 1, 0, 1));
    let verdicts = client.submit_when_ready(payments.clone()).await;
    let codes: Vec<&str> = verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::Refused(refusal) => refusal.code(),
            Verdict::Accepted { .. } => "accepted",
            Verdict::Known { .. } => "known",
        })
        .collect();
    let mut expected: Vec<&str> = bodies.iter().map(|(_, code)| *code).collect();
    expected.extend(["bad_signature", "unknown_account", "accepted"]);
    assert_eq!(codes, expected);
    let again = client.submit(vec![network.pay(0, 1, 0, 1), network.pay(0, 1, 0, 2)]).await;
    assert!(
        matches!(
            again[..],
            [Verdict::Known { .. }, Verdict::Refused(Refusal::SequencePending { .. } | Refusal::SequenceUsed)]
                | [Verdict::Refused(Refusal::SequenceUsed), Verdict::Refused(Refusal::SequenceUsed)]
        ),
        "{again:?}"
    );
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_signature_among_1024_is_refused_alone() {
    let network = Network::new(1, 16, 200);
    let node = network.start_new(0);
    let client = network.client(0).await;
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 100, 1)]).await));
    let mut payments: Vec<_> =
        (0..1_024).map(|number| network.pay(number % 16, (number + 1) % 16, (number / 16) as u64, 1)).collect();
    let mut bytes = *payments[700].as_bytes();
    bytes[120] ^= 1;
    payments[700] = zeni_ledger::Payment::from_bytes(bytes);
    let verdicts = client.submit(payments.clone()).await;
    assert_eq!(verdicts[700], Verdict::Refused(Refusal::BadSignature));
    let others: Vec<_> = verdicts.iter().enumerate().filter(|(place, _)| *place != 700).collect();
    let refused: Vec<_> = others.iter().filter(|(_, verdict)| !matches!(verdict, Verdict::Accepted { .. })).collect();
    assert!(refused.is_empty(), "{refused:?}");
    // The connection is under suspicion now, and still served.
    assert!(all_accepted(&client.submit(vec![network.pay(0, 1, 101, 1)]).await));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_empty_requests_get_an_answer_that_says_so() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let client = network.client(0).await;
    assert!(matches!(client.ask(&Request::Submit(Vec::new())).await, Reply::Refused(RequestError::Malformed(_))));
    for bytes in [&b""[..], b"junk", &[0xff; 500]] {
        let reply = client.connection.request(bytes.to_vec()).await.unwrap();
        let reply = zeni_schemas::request::decode_reply(&reply).unwrap();
        assert!(matches!(reply, Reply::Refused(RequestError::Malformed(_))), "{reply:?}");
    }
    assert_eq!(
        client.ask(&Request::Pending(vec![network.pay(0, 1, 0, 1).id(&network.genesis.id())])).await,
        Reply::Pending(vec![0])
    );
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_still_has_what_it_accepted() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let client = network.client(0).await;
    assert!(all_accepted(&client.submit_when_ready((0..50).map(|n| network.pay(0, 1, n, 1)).collect()).await));
    node.stop().await.unwrap();
    let node = network.start(0);
    let client = network.client(0).await;
    client.wait_for_balance(account(&network.accounts[1]), i128::from(OPENING_BALANCE) + 50).await;
    let again = client.submit_when_ready(vec![network.pay(0, 1, 0, 1)]).await;
    assert_eq!(again, [Verdict::Refused(Refusal::SequenceUsed)]);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_safety_record_only_follows_until_it_is_readmitted() {
    let network = Network::new(1, 2, 200);
    network.start_new(0).stop().await.unwrap();
    remove_file(&network.path("data0"), "safety");
    let node = network.start(0);
    let client = network.client(0).await;
    assert_eq!(client.node().await.mode, Mode::FollowOnly);
    node.stop().await.unwrap();
    let before = network.genesis.slot_at(clock::now().0);
    let record = readmit::readmit(&network.setup(0), clock::now()).unwrap();
    assert!(record.last_signed_slot >= before + 2);
    let again = readmit::readmit(&network.setup(0), clock::now());
    assert!(matches!(again, Err(readmit::ReadmitError::NotLost { .. })));
    let node = network.start(0);
    let client = network.client(0).await;
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 0, 9)]).await));
    client.wait_for_balance(account(&network.accounts[1]), i128::from(OPENING_BALANCE) + 9).await;
    assert!(client.node().await.slot > record.last_signed_slot);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_replacement_disk_only_follows_until_it_is_readmitted() {
    let network = Network::new(1, 2, 200);
    network.start_new(0).stop().await.unwrap();
    std::fs::remove_dir_all(network.path("data0")).unwrap();
    assert_eq!(init::init(&network.setup(0), Past::Unknown).unwrap(), Standing::FollowsOnly);
    let node = network.start(0);
    assert_eq!(network.client(0).await.node().await.mode, Mode::FollowOnly);
    node.stop().await.unwrap();
    let record = readmit::readmit(&network.setup(0), clock::now()).unwrap();
    let node = network.start(0);
    let client = network.client(0).await;
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 0, 9)]).await));
    client.wait_for_balance(account(&network.accounts[1]), i128::from(OPENING_BALANCE) + 9).await;
    assert!(client.node().await.slot > record.last_signed_slot);
    node.stop().await.unwrap();
}

#[test]
fn a_directory_that_holds_anything_gets_no_fresh_safety_record() {
    let network = Network::new(1, 2, 200);
    assert_eq!(init::init(&network.setup(0), Past::None).unwrap(), Standing::Signs);
    // What is left if a directory is restored without the files that no backup holds.
    for lost in ["identity", "safety"] {
        remove_file(&network.path("data0"), lost);
    }
    std::fs::write(network.path("data0").join("chain-00000001.log"), b"").unwrap();
    assert_eq!(init::init(&network.setup(0), Past::None).unwrap(), Standing::FollowsOnly);
}

#[test]
fn an_initialisation_that_was_cut_off_keeps_the_record_that_it_wrote() {
    let network = Network::new(1, 2, 200);
    init::init(&network.setup(0), Past::None).unwrap();
    remove_file(&network.path("data0"), "identity");
    assert_eq!(init::init(&network.setup(0), Past::None).unwrap(), Standing::Signs);
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_disk_watermark_payments_are_refused_and_nothing_else() {
    let network = Network::new(1, 2, 200);
    let mut setup = network.setup(0);
    setup.config.limits.disk_watermark_bytes = 1 << 60;
    init::init(&setup, Past::None).unwrap();
    let node = zeni_node::Node::start(setup).unwrap();
    let client = network.client(0).await;
    wait_until("the node notices its disk", async || {
        client.submit(vec![network.pay(0, 1, 0, 1)]).await == [Verdict::Refused(Refusal::DiskFull)]
    })
    .await;
    assert_eq!(client.balance(account(&network.accounts[1])).await, i128::from(OPENING_BALANCE));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_is_made_once_and_belongs_to_one_ledger() {
    let network = Network::new(1, 2, 200);
    let refused = zeni_node::Node::start(network.setup(0)).unwrap_err();
    assert!(refused.to_string().contains("node init"), "{refused}");
    init::init(&network.setup(0), Past::None).unwrap();
    assert!(init::init(&network.setup(0), Past::None).is_err());
    let other = Network::new(1, 3, 200);
    std::fs::write(
        other.path("other.toml"),
        other.config_text(0, network.path("data0").to_str().unwrap(), "127.0.0.1:0", ""),
    )
    .unwrap();
    let setup = Setup::load(&other.path("other.toml")).unwrap();
    let refused = zeni_node::Node::start(setup).unwrap_err();
    assert!(matches!(refused, StartError::Recovery(_)));
    assert!(refused.to_string().contains("belongs to the ledger"), "{refused}");
}
