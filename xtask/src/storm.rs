//! The main job: builds node, API server and load generator, and lets the load generator do the rest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::build;
use crate::workspace::{Failure, exit_code, run};

const SCENARIOS: &str = "loadgen/scenarios";

/// Runs a scenario.
pub(crate) fn storm(root: &Path, scenario: &str) -> Result<ExitCode, Failure> {
    loadgen(root, "storm", scenario)
}

/// Starts a scenario's network and keeps it up.
pub(crate) fn up(root: &Path, scenario: &str) -> Result<ExitCode, Failure> {
    loadgen(root, "up", scenario)
}

fn loadgen(root: &Path, command: &str, scenario: &str) -> Result<ExitCode, Failure> {
    let scenario = find(root, scenario)?;
    let programs = build::release(root)?;
    let mut loadgen = Command::new(programs.join("loadgen"));
    loadgen.arg(command).arg(scenario).current_dir(root);
    let target = programs.parent().unwrap_or(root);
    loadgen.arg("--data").arg(target.join("storm-data")).arg("--runs").arg(target.join("storm"));
    run(&mut loadgen).map(exit_code)
}

/// The file that is meant: a path, or the name of one of the repository's scenarios.
fn find(root: &Path, scenario: &str) -> Result<PathBuf, Failure> {
    let directory = root.join(SCENARIOS);
    let by_name = directory.join(scenario).with_extension("toml");
    let by_path = PathBuf::from(scenario);
    let found = [by_path.clone(), root.join(&by_path), by_name].into_iter().find(|path| path.is_file());
    found.map(|path| std::path::absolute(&path).unwrap_or(path)).ok_or_else(|| {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut known: Vec<String> =
            entries.filter_map(|entry| entry.path().file_stem().map(OsStr::to_string_lossy).map(Into::into)).collect();
        known.sort();
        Failure::NoScenario { path: by_path, known }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn a_scenario_is_found_by_name_and_by_path() {
        let root = workspace::root();
        let by_name = find(&root, "quick").unwrap();
        assert_eq!(by_name, find(&root, "loadgen/scenarios/quick.toml").unwrap());
        assert_eq!(by_name, find(&root, by_name.to_str().unwrap()).unwrap());
    }

    #[test]
    fn an_unknown_scenario_is_answered_with_the_known_ones() {
        let error = find(&workspace::root(), "quack").unwrap_err().to_string();
        assert!(error.contains("quack") && error.contains("quick") && error.contains("storm-1m"), "{error}");
    }
}
