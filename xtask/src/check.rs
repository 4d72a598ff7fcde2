//! Runs the workspace's tests and sums up cargo's result lines.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use crate::workspace::{Failure, cargo, exit_code};

/// Counts of one or more result lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs `cargo test --workspace` on the release profile, whose dependencies a storm uses too (overflow checks are on in
/// it; a second profile would double the time of a first build), and shows what it says, and a sum at the end.
pub(crate) fn test(root: &Path, arguments: &[String]) -> Result<ExitCode, Failure> {
    let mut command = cargo(root);
    command.args(["test", "--locked", "--release"]);
    if arguments.is_empty() {
        command.args(["--workspace", "--no-fail-fast"]);
    }
    command.args(arguments).stdout(Stdio::piped());
    let start = |error| Failure::Start { program: "cargo test".into(), error };
    let mut child = command.spawn().map_err(start)?;
    let mut counts = Counts::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.map_err(start)?;
            println!("{line}");
            if let Some(found) = parse(&line) {
                counts.passed += found.passed;
                counts.failed += found.failed;
                counts.ignored += found.ignored;
            }
        }
    }
    let status = child.wait().map_err(start)?;
    println!("all together: {} passed, {} failed, {} ignored", counts.passed, counts.failed, counts.ignored);
    Ok(exit_code(status))
}

/// Reads `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
fn parse(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |name: &str| {
        let part = rest.split("; ").find_map(|part| part.strip_suffix(name))?;
        part.trim().parse().ok()
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted_and_others_are_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.5s";
        assert_eq!(parse(line), Some(Counts { passed: 12, failed: 3, ignored: 1 }));
        assert_eq!(parse("test ledger::result: ok. 5 passed"), None);
    }
}
