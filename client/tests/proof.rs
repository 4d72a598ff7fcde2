//! `zeni proof` on files, without a network: what it tells, and how it refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ledger/tests/golden");

const KINDS: [&str; 4] = ["payment", "applied", "account", "absent"];

/// A directory with the golden proofs and their genesis.
fn proofs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in KINDS {
        let text = std::fs::read_to_string(format!("{GOLDEN}/finality_receipt.{name}.hex")).unwrap();
        let bytes = hex::decode(text.split_whitespace().collect::<String>()).unwrap();
        std::fs::write(dir.path().join(format!("{name}.proof")), bytes).unwrap();
    }
    std::fs::copy(format!("{GOLDEN}/finality_receipt.genesis.toml"), dir.path().join("genesis.toml")).unwrap();
    std::fs::copy(format!("{GOLDEN}/genesis.toml"), dir.path().join("other.toml")).unwrap();
    dir
}

fn zeni(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zeni")).current_dir(dir).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn verify(dir: &Path, file: &str, genesis: &str) -> (Option<i32>, Value) {
    let output = zeni(dir, &["--json", "proof", "verify", file, "--genesis", genesis]);
    (output.status.code(), json(&output))
}

#[test]
fn tells_what_each_kind_of_proof_proves() {
    let dir = proofs();
    let (code, payment) = verify(dir.path(), "payment.proof", "genesis.toml");
    assert_eq!(code, Some(0), "{payment}");
    for (name, value) in
        [("proven", "payment"), ("amount", "1234567"), ("outcome", "rejected"), ("reason", "insufficient_balance")]
    {
        assert_eq!(payment[name], value);
    }
    assert_eq!((&payment["height"], &payment["certified_height"]), (&1.into(), &2.into()));
    assert_eq!((payment["signers"].to_string(), &payment["stake"]), ("[\"tokyo\",\"osaka\"]".into(), &3.into()));
    assert_eq!(payment["time"], "2023-11-14T22:14:35Z");
    let (code, account) = verify(dir.path(), "account.proof", "genesis.toml");
    assert_eq!((code, &account["proven"]), (Some(0), &"account".into()));
    assert_eq!(account["balances"][1]["token"], 7);
    let (code, absent) = verify(dir.path(), "absent.proof", "genesis.toml");
    assert_eq!((code, &absent["proven"]), (Some(0), &"absence".into()));
    let text = zeni(dir.path(), &["proof", "verify", "payment.proof", "--genesis", "genesis.toml"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("1234567 JPY")
            && text.contains("rejected: the payer holds less")
            && text.contains("3 of 3 stake"),
        "{text}"
    );
}

#[test]
fn refuses_a_true_proof_of_something_else() {
    let dir = proofs();
    let verify = |file: &str, expected: &[&str]| {
        let arguments = [&["--json", "proof", "verify", file, "--genesis", "genesis.toml"], expected].concat();
        let output = zeni(dir.path(), &arguments);
        (output.status.code(), json(&output))
    };
    let (id, account) =
        (verify("payment.proof", &[]).1["id"].clone(), verify("absent.proof", &[]).1["account"].clone());
    let (id, account) = (id.as_str().unwrap(), account.as_str().unwrap());
    assert_eq!(verify("payment.proof", &["--payment", id]).0, Some(0));
    assert_eq!(verify("absent.proof", &["--account", account]).0, Some(0));
    let applied = verify("applied.proof", &["--applied"]);
    assert_eq!((applied.0, &applied.1["outcome"]), (Some(0), &"applied".into()), "{}", applied.1);
    let paid = applied.1["id"].as_str().unwrap();
    assert_eq!(verify("applied.proof", &["--payment", paid, "--applied"]).0, Some(0));
    let other_id = "0".repeat(64);
    for (file, expected, why) in [
        ("payment.proof", &["--payment", id, "--applied"][..], "was rejected"),
        ("payment.proof", &["--payment", &other_id], "another payment"),
        ("applied.proof", &["--payment", id, "--applied"], "another payment"),
        ("payment.proof", &["--account", account], "not of an account"),
        ("absent.proof", &["--payment", id], "not of a payment"),
        ("absent.proof", &["--applied"], "not of a payment"),
        ("account.proof", &["--account", account], "another account"),
    ] {
        let (code, refused) = verify(file, expected);
        assert_eq!((code, &refused["error"]), (Some(6), &"other_statement".into()), "{file} {expected:?}");
        assert!(refused["detail"].as_str().unwrap().contains(why), "{refused}");
    }
    assert_eq!(verify("payment.proof", &["--payment", "12"]).0, Some(2));
    // One byte more than the longest proof.
    let long = vec![0; zeni_ledger::finality_receipt::FINALITY_RECEIPT_BYTES_MAX + 1];
    std::fs::write(dir.path().join("long.proof"), long).unwrap();
    let (code, refused) = verify("long.proof", &[]);
    assert_eq!((code, &refused["error"]), (Some(6), &"malformed".into()));
}

#[test]
fn refuses_with_a_reason_and_an_exit_code_of_its_own() {
    let dir = proofs();
    let (code, refused) = verify(dir.path(), "payment.proof", "other.toml");
    assert_eq!((code, &refused["error"]), (Some(6), &"other_genesis".into()));
    let good = std::fs::read(dir.path().join("payment.proof")).unwrap();
    for (place, reason) in [(0, "malformed"), (50, "certificate"), (good.len() - 1, "not_in_block")] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        std::fs::write(dir.path().join("bad.proof"), bad).unwrap();
        let (code, refused) = verify(dir.path(), "bad.proof", "genesis.toml");
        assert_eq!((code, &refused["error"]), (Some(6), &reason.into()), "byte {place}");
    }
    let (code, refused) = verify(dir.path(), "nowhere.proof", "genesis.toml");
    assert_eq!((code, &refused["error"]), (Some(1), &"io".into()));
    let (code, refused) = verify(dir.path(), "payment.proof", "payment.proof");
    assert_eq!((code, &refused["error"]), (Some(2), &"usage".into()));
}

#[test]
fn the_selftest_tries_every_byte_and_repeats_by_its_seed() {
    let dir = proofs();
    let run = || zeni(dir.path(), &["--json", "proof", "selftest", ".", "--genesis", "genesis.toml", "--seed", "7"]);
    let bytes: u64 =
        KINDS.map(|name| std::fs::metadata(dir.path().join(format!("{name}.proof"))).unwrap().len()).iter().sum();
    let output = run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = json(&output);
    assert_eq!((&told["files"], &told["refused"], &told["seed"]), (&KINDS.len().into(), &bytes.into(), &7.into()));
    std::fs::write(dir.path().join("broken.proof"), b"ZENIPROF").unwrap();
    assert_eq!(run().status.code(), Some(6));
}
