//! Builds and runs the project's programs in release.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::workspace::{Failure, cargo, exit_code, run};

/// Builds these packages and returns the directory of their programs.
pub(crate) fn release(root: &Path, packages: &[&str]) -> Result<PathBuf, Failure> {
    let mut build = cargo(root);
    build.args(["build", "--release", "--locked"]);
    for package in packages {
        build.args(["--package", package]);
    }
    let status = run(&mut build)?;
    if !status.success() {
        return Err(Failure::Build { status });
    }
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec();
    let metadata = metadata.map_err(|error| Failure::Other(format!("cargo metadata: {error}")))?;
    Ok(metadata.target_directory.join("release").into_std_path_buf())
}

/// Builds and runs the simulator with these arguments; for a campaign with a profile that takes minutes more to build.
pub(crate) fn simulate(root: &Path, campaign: bool, arguments: &[String]) -> Result<ExitCode, Failure> {
    let mut simulator = cargo(root);
    let profile = if campaign { "campaign" } else { "release" };
    simulator.args(["run", "--quiet", "--profile", profile, "--locked", "--package", "zeni-simulator"]);
    // Cores that can break a rule are built only here, so that no other build has them.
    simulator.args(["--features", "mutants", "--"]).args(arguments);
    run(&mut simulator).map(exit_code)
}
