//! Builds and runs the project's programs.
//!
//! Cargo chooses the features of third-party crates anew for every selection of packages and targets. So that storms, tests
//! and simulations share what they build, each of them selects the whole workspace and at least one test.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::workspace::{Failure, cargo, exit_code, run};

/// The programs of a storm.
const PROGRAMS: [&str; 3] = ["node", "api-server", "loadgen"];
/// The program of the benchmarks, which runs those of a storm.
const BENCH: &str = "bench";
/// A test of the load generator that needs nothing which the programs do not need.
const STORM_TEST: &str = "leash";
/// A test of the simulator: it builds no other program, so none that can break a rule.
const SIMULATOR_TEST: &str = "seeds";

/// Builds the programs of a storm in release and returns their directory.
pub(crate) fn release(root: &Path) -> Result<PathBuf, Failure> {
    release_of(root, &PROGRAMS)
}

/// Builds the benchmarks and the programs of a storm in release, and runs the benchmarks with these arguments.
pub(crate) fn bench(root: &Path, arguments: &[String]) -> Result<ExitCode, Failure> {
    let programs = release_of(root, &[&PROGRAMS[..], &[BENCH]].concat())?;
    let mut bench = Command::new(programs.join(BENCH));
    run(bench.arg("--root").arg(root).args(arguments).current_dir(root)).map(exit_code)
}

fn release_of(root: &Path, programs: &[&str]) -> Result<PathBuf, Failure> {
    let mut build = cargo(root);
    build.args(["build", "--release", "--locked", "--workspace", "--test", STORM_TEST]);
    for program in programs {
        build.args(["--bin", program]);
    }
    built(root, &mut build, "release")
}

/// Builds and runs the simulator with these arguments; for a campaign with a profile that takes minutes more to build.
pub(crate) fn simulate(root: &Path, campaign: bool, arguments: &[String]) -> Result<ExitCode, Failure> {
    let profile = if campaign { "campaign" } else { "release" };
    let mut build = cargo(root);
    build.args(["build", "--profile", profile, "--locked", "--workspace", "--test", SIMULATOR_TEST]);
    // Cores that can break a rule are built only here, so that no other build has them.
    build.args(["--bin", "simulator", "--features", "zeni-simulator/mutants"]);
    let programs = built(root, &mut build, profile)?;
    let mut simulator = Command::new(programs.join("simulator"));
    run(simulator.args(arguments).current_dir(root)).map(exit_code)
}

/// Runs a build and returns the directory of its programs.
fn built(root: &Path, build: &mut Command, profile: &str) -> Result<PathBuf, Failure> {
    let status = run(build)?;
    if !status.success() {
        return Err(Failure::Build { status });
    }
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec();
    let metadata = metadata.map_err(|error| Failure::Other(format!("cargo metadata: {error}")))?;
    Ok(metadata.target_directory.join(profile).into_std_path_buf())
}
