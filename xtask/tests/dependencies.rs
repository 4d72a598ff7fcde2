//! Holds the house's floor plan: which crate of the workspace may depend on which, and who may name what from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Each crate and the crates of the workspace that it may depend on (build and normal dependencies).
const ALLOWED: [(&str, &[&str]); 12] = [
    ("zeni-ledger", &[]),
    ("zeni-consensus", &["zeni-ledger"]),
    ("zeni-schemas", &["zeni-ledger", "zeni-consensus"]),
    ("zeni-transport", &["zeni-ledger", "zeni-consensus", "zeni-schemas"]),
    ("zeni-client", &["zeni-ledger", "zeni-consensus", "zeni-schemas", "zeni-transport"]),
    ("zeni-storage", &["zeni-ledger", "zeni-consensus", "zeni-schemas"]),
    ("zeni-node", &["zeni-ledger", "zeni-consensus", "zeni-schemas", "zeni-transport", "zeni-storage"]),
    (
        "zeni-api-server",
        &["zeni-ledger", "zeni-consensus", "zeni-schemas", "zeni-transport", "zeni-client", "zeni-storage"],
    ),
    ("zeni-loadgen", &["zeni-ledger", "zeni-consensus", "zeni-schemas", "zeni-transport", "zeni-client"]),
    ("zeni-simulator", &["zeni-ledger", "zeni-consensus", "zeni-schemas", "zeni-storage"]),
    (
        "zeni-benchmarks",
        &["zeni-ledger", "zeni-consensus", "zeni-schemas", "zeni-transport", "zeni-client", "zeni-storage"],
    ),
    ("xtask", &[]),
];

/// Crates from outside that only these crates of the workspace may name.
const RESERVED: [(&str, &[&str]); 10] = [
    ("arc-malachitebft-core-consensus", &["zeni-consensus"]),
    ("arc-malachitebft-core-types", &["zeni-consensus"]),
    ("sled", &["zeni-storage"]),
    ("axum", &["zeni-api-server"]),
    ("quinn", &["zeni-transport"]),
    ("rustls", &["zeni-transport"]),
    ("flatbuffers", &["zeni-schemas"]),
    ("hyper", &["zeni-api-server", "zeni-client", "zeni-loadgen"]),
    ("tower", &["zeni-api-server"]),
    ("metrics-exporter-prometheus", &["zeni-node", "zeni-api-server"]),
];

/// What the pure crates must never name: threads, clocks, sockets, files, randomness.
const IMPURE: [&str; 10] =
    ["tokio", "rayon", "crossbeam-channel", "quinn", "rand", "tracing", "metrics", "rustix", "libc", "hyper"];

fn metadata() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata reads the workspace")
}

/// Names of what a package depends on, tests aside.
fn names(package: &Package) -> BTreeSet<&str> {
    let built = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    built.map(|dependency| dependency.name.as_str()).collect()
}

#[test]
fn every_crate_has_its_place_in_the_house() {
    let metadata = metadata();
    let found: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let planned: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, planned, "a new crate needs its line in ALLOWED and in ARCHITECTURE.md");
}

#[test]
fn crates_depend_only_on_what_is_below_them() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for package in &metadata.packages {
        let below = allowed[package.name.as_str()];
        let ours = names(package).into_iter().filter(|name| allowed.contains_key(name));
        let wrong: Vec<&str> = ours.filter(|name| !below.contains(name)).collect();
        assert!(wrong.is_empty(), "{} depends on {wrong:?}; allowed are {below:?}", package.name);
    }
}

#[test]
fn programs_never_import_one_another() {
    // Not even through each other: the plan itself must not allow it.
    let programs = ["zeni-node", "zeni-api-server", "zeni-loadgen"];
    for (name, below) in ALLOWED {
        assert!(!below.iter().any(|lower| programs.contains(lower)), "{name} may depend on a program");
    }
}

#[test]
fn what_is_reserved_is_named_by_its_owners_only() {
    let metadata = metadata();
    for (outside, owners) in RESERVED {
        let naming: BTreeSet<&str> = (metadata.packages.iter())
            .filter(|package| names(package).contains(outside))
            .map(|package| package.name.as_str())
            .collect();
        let wrong: Vec<&&str> = naming.iter().filter(|name| !owners.contains(*name)).collect();
        assert!(wrong.is_empty(), "{wrong:?} name {outside}, which belongs to {owners:?}");
    }
}

#[test]
fn the_pure_crates_name_nothing_impure() {
    let metadata = metadata();
    for package in
        metadata.packages.iter().filter(|package| ["zeni-ledger", "zeni-consensus"].contains(&package.name.as_str()))
    {
        let names = names(package);
        let wrong: Vec<&&str> = IMPURE.iter().filter(|name| names.contains(*name)).collect();
        assert!(wrong.is_empty(), "{} names {wrong:?}", package.name);
    }
}

#[test]
fn only_the_simulator_remembers_verdicts_on_signatures() {
    // A program that did would be as right, but nothing else is to depend on it.
    let mut naming = BTreeSet::new();
    for package in &metadata().packages {
        let root = package.manifest_path.parent().expect("a manifest stands in a directory");
        let sources = ["src", "tests", "benches", "examples"].map(|place| root.join(place).into_std_path_buf());
        let names_it = sources.into_iter().flat_map(|place| rust_files(&place)).any(|file| {
            let text = std::fs::read_to_string(&file).expect("a source file is text");
            text.contains("Memo::begin")
        });
        if names_it && package.name.as_str() != "xtask" {
            naming.insert(package.name.to_string());
        }
    }
    assert_eq!(naming, BTreeSet::from(["zeni-ledger".to_owned(), "zeni-simulator".to_owned()]));
}

fn rust_files(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a directory of the workspace can be listed").path());
    let files = paths.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|file| file.extension().is_some_and(|ending| ending == "rs")).collect()
}

#[test]
fn sled_is_pinned_to_the_version_that_was_tested() {
    let metadata = metadata();
    let storage =
        metadata.packages.iter().find(|package| package.name.as_str() == "zeni-storage").expect("storage exists");
    let sled = storage.dependencies.iter().find(|dependency| dependency.name == "sled").expect("storage names sled");
    assert_eq!(sled.req.to_string(), "=1.0.0-alpha.124");
}

#[test]
fn the_finality_engine_is_of_one_version_in_all_its_crates() {
    // Its crates are released together and depend on each other with `^`; one that moved alone was never tested.
    let lock = include_str!("../../Cargo.lock");
    let versions: Vec<(&str, &str)> = lock
        .split("[[package]]")
        .filter_map(|package| {
            let field = |name: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_matches([' ', '=', '"']))
            };
            field("name").filter(|name| name.starts_with("arc-malachitebft-")).zip(field("version"))
        })
        .collect();
    assert_eq!(versions.len(), 6, "{versions:?}");
    assert!(versions.iter().all(|(_, version)| *version == "0.8.2"), "{versions:?}");
}
