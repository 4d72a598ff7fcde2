//! The real binary: exit codes, and what it says of a config.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn api_server(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_api-server")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A directory with the example genesis, a key, and a config that has `more` in front of its tables.
fn config(directory: &Path, more: &str) -> PathBuf {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    fs::copy(deploy.join("genesis.example.toml"), directory.join("genesis.toml")).unwrap();
    let key = directory.join("key");
    fs::write(&key, "11".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let path = directory.join("api-server.toml");
    let node = format!("[[node]]\nkey = \"{}\"\naddress = \"127.0.0.1:7400\"\n", "aa".repeat(32));
    fs::write(&path, format!("genesis = \"genesis.toml\"\ndata = \"data\"\nkey = \"key\"\n{more}\n{node}")).unwrap();
    path
}

const LISTEN: &str = "listen = \"127.0.0.1:0\"";

#[test]
fn a_config_in_order_is_told_without_touching_anything() {
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path(), LISTEN);
    let checked = api_server(&["run", "--check-config", "--config", path.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
    assert!(said(&checked).contains("is in order"), "{}", said(&checked));
    assert!(!directory.path().join("data").exists());
}

#[test]
fn every_error_of_the_config_and_of_the_files_it_names_exits_2() {
    for (more, remove, complaint) in [
        ("listen = \"127.0.0.1:0\"\nlisen = 3", None, "lisen"),
        ("listen = \"127.0.0.1:0\"\nlog = { filter = \"a=b=c\" }", None, "log.filter"),
        ("listen = \"127.0.0.1:0\"\nlimits = { connections_max = 0 }", None, "connections_max"),
        (LISTEN, Some("genesis.toml"), "genesis.toml"),
        (LISTEN, Some("key"), "key cannot be read"),
        (LISTEN, Some("api-server.toml"), "api-server.toml"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = config(directory.path(), more);
        if let Some(file) = remove {
            fs::remove_file(directory.path().join(file)).unwrap();
        }
        for check in [true, false] {
            let arguments = ["run", "--config", path.to_str().unwrap(), "--check-config"];
            let refused = api_server(&arguments[..if check { 4 } else { 3 }]);
            assert_eq!(refused.status.code(), Some(2), "{more} {remove:?}: {}", said(&refused));
            assert!(said(&refused).contains(complaint), "{more} {remove:?}: {}", said(&refused));
        }
    }
    assert_eq!(api_server(&["run", "--confg", "x"]).status.code(), Some(2));
}

#[test]
fn a_start_that_fails_with_a_good_config_exits_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path(), &format!("listen = \"{}\"", taken.local_addr().unwrap()));
    let failed = api_server(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(said(&failed).contains("cannot be served"), "{}", said(&failed));
}

#[test]
fn the_help_tells_the_exit_codes_and_what_each_argument_is() {
    let help = said(&api_server(&["--help"]));
    assert!(help.contains("2 misconfigured"), "{help}");
    let help = said(&api_server(&["run", "--help"]));
    for part in ["--config <FILE>", "--check-config", "deploy/api-server.toml"] {
        assert!(help.contains(part), "{help}");
    }
}
