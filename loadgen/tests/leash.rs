//! What the load generator does to processes, on real ones.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use zeni_loadgen::process::{Process, ProcessError};

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");
/// Far more than any of these waits should take.
const PATIENCE: Duration = Duration::from_secs(20);

fn process(directory: &Path, script: &str) -> Process {
    let arguments = vec!["-c".into(), script.into()];
    Process::new("subject".into(), LOADGEN.into(), "/bin/sh".into(), arguments, directory.join("log"))
}

/// The state letter of a process; `None` once it is gone.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_written(path: PathBuf) {
    until("the script never got so far", || path.exists()).await;
}

#[tokio::test]
async fn a_willing_process_stops_and_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = format!("trap 'exit 0' TERM; touch {}; while :; do sleep 0.05; done", ready.display());
    let mut process = process(directory.path(), &script);
    for _ in 0..2 {
        process.start().unwrap();
        let pid = process.pid().unwrap();
        until_written(ready.clone()).await;
        process.check().unwrap();
        assert!(process.stop(PATIENCE).await.unwrap());
        assert_eq!((state(pid), process.pid()), (None, None));
        assert_eq!(process.take_bad_ends(), Vec::<String>::new());
        std::fs::remove_file(&ready).unwrap();
    }
}

#[tokio::test]
async fn an_unwilling_process_is_killed_after_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 0.05; done", ready.display());
    let mut process = process(directory.path(), &script);
    process.start().unwrap();
    until_written(ready).await;
    assert!(!process.stop(Duration::from_millis(100)).await.unwrap());
    assert_eq!(process.pid(), None);
}

#[tokio::test]
async fn a_paused_process_stands_still_until_it_may_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = process(directory.path(), "while :; do sleep 0.05; done");
    process.start().unwrap();
    let pid = process.pid().unwrap();
    process.signal(Signal::STOP).unwrap();
    until("it is not stopped", || state(pid) == Some('T')).await;
    process.check().unwrap();
    process.signal(Signal::CONT).unwrap();
    until("it does not go on", || state(pid).is_some_and(|state| state != 'T')).await;
    process.kill().await.unwrap();
    assert_eq!(state(pid), None);
    assert_eq!(process.take_bad_ends(), Vec::<String>::new());
}

#[tokio::test]
async fn a_process_that_ends_by_itself_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = process(directory.path(), "echo last words >&2; exit 3");
    process.start().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline, "its end was not noticed");
        match process.check() {
            Ok(()) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, ProcessError::Ended { status, .. } if status.code() == Some(3)), "{error}");
    assert_eq!(std::fs::read_to_string(directory.path().join("log")).unwrap(), "last words\n");
}

#[tokio::test]
async fn a_stop_that_ends_with_a_failure_is_no_clean_end() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = format!("trap 'exit 4' TERM; touch {}; while :; do sleep 0.05; done", ready.display());
    let mut process = process(directory.path(), &script);
    process.start().unwrap();
    until_written(ready).await;
    assert!(process.stop(PATIENCE).await.unwrap());
    let bad = process.take_bad_ends();
    assert!(bad.len() == 1 && bad[0].contains("did not end cleanly") && bad[0].contains('4'), "{bad:?}");
    assert_eq!(process.take_bad_ends(), Vec::<String>::new());
}

#[tokio::test]
async fn a_signal_from_elsewhere_is_no_clean_end_also_if_it_is_found_while_stopping_or_killing() {
    for kill in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut process = process(directory.path(), "kill -SEGV $$");
        process.start().unwrap();
        let pid = process.pid().unwrap();
        until("it lives on", || matches!(state(pid), None | Some('Z'))).await;
        if kill {
            process.kill().await.unwrap();
        } else {
            assert!(process.stop(PATIENCE).await.unwrap());
        }
        let bad = process.take_bad_ends();
        assert!(bad.len() == 1 && bad[0].contains("ended by itself"), "{bad:?}");
        assert_eq!(process.pid(), None);
    }
}

#[tokio::test]
async fn a_process_that_ended_before_it_was_asked_is_no_clean_end_also_with_success() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = process(directory.path(), "exit 0");
    process.start().unwrap();
    let pid = process.pid().unwrap();
    until("it lives on", || matches!(state(pid), None | Some('Z'))).await;
    assert!(process.stop(PATIENCE).await.unwrap());
    assert_eq!(process.take_bad_ends().len(), 1);
}

#[tokio::test]
async fn dropping_a_process_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = process(directory.path(), "while :; do sleep 0.05; done");
    process.start().unwrap();
    let pid = process.pid().unwrap();
    drop(process);
    until("it lives on", || matches!(state(pid), None | Some('Z'))).await;
}

#[tokio::test]
async fn nothing_outlives_a_load_generator_that_is_killed() {
    // The shell stands for the load generator: it starts a process on the leash, tells its id, and is killed.
    let script = format!("{LOADGEN} leash $$ /bin/sleep 600 & echo $!; wait");
    let mut parent =
        Command::new("/bin/sh").args(["-c", &script]).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    until("the leash did not become sleep", || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "sleep"
    })
    .await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("it outlives its parent", || matches!(state(pid), None | Some('Z'))).await;
}

#[test]
fn a_leash_whose_parent_is_gone_starts_nothing() {
    let output = Command::new(LOADGEN).args(["leash", "1", "/bin/echo", "started"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_process_that_may_halt_and_says_why_is_no_failure_and_any_other_end_is() {
    let directory = tempfile::tempdir().unwrap();
    let ended = async |script: &str, may_halt: bool| {
        let mut process = process(directory.path(), script);
        if may_halt {
            process.allow_halt();
        }
        process.start().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match process.check() {
                Ok(()) if process.pid().is_none() => return Ok(process.halt().map(str::to_owned)),
                Ok(()) => assert!(Instant::now() < deadline, "{script}"),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let halts = "echo 'node: no more' >&2; exit 3";
    assert_eq!(ended(halts, true).await.unwrap().as_deref(), Some("no more"));
    for (script, may_halt) in [(halts, false), ("echo 'node: no more' >&2; exit 1", true)] {
        std::fs::remove_file(directory.path().join("log")).unwrap();
        assert!(matches!(ended(script, may_halt).await, Err(ProcessError::Ended { .. })), "{script}");
    }
    std::fs::remove_file(directory.path().join("log")).unwrap();
    assert!(ended("exit 3", true).await.is_err(), "it does not say why");
}
