//! The report in a run directory: written after a run, and judged again later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::html;
use crate::report::{HTML_FILE, REPORT_FILE, Report};

/// Why a report cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    #[error("{action} {}: {error}", path.display())]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error("{} is no report: {error}", path.display())]
    NoReport { path: PathBuf, error: serde_json::Error },
}

/// Writes `report.json` and `report.html` into a run directory.
pub fn write(directory: &Path, report: &Report) -> Result<(), StoredError> {
    let text = serde_json::to_string_pretty(report).expect("plain fields, every number finite");
    for (name, content) in [(REPORT_FILE, text), (HTML_FILE, html::render(report))] {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|error| StoredError::File { action: "writing", path, error })?;
    }
    Ok(())
}

/// Judges the report in a run directory again, and writes it again. What failed before stays failed.
pub fn judge_again(directory: &Path) -> Result<Report, StoredError> {
    let path = directory.join(REPORT_FILE);
    let text = fs::read(&path).map_err(|error| StoredError::File { action: "reading", path: path.clone(), error })?;
    let mut report: Report = serde_json::from_slice(&text).map_err(|error| StoredError::NoReport { path, error })?;
    report.judge();
    write(directory, &report)?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report_sample::sample;

    #[test]
    fn a_report_that_calls_itself_passed_is_judged_by_its_figures() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &sample()).unwrap();
        assert!(judge_again(directory.path()).unwrap().passed);
        let mut wrong = sample();
        wrong.lost = 1;
        assert!(wrong.passed && wrong.failures.is_empty());
        write(directory.path(), &wrong).unwrap();
        let judged = judge_again(directory.path()).unwrap();
        assert!(!judged.passed);
        assert_eq!(judge_again(directory.path()).unwrap(), judged, "it was written, and nothing is told twice");
    }

    #[test]
    fn what_was_found_in_the_run_stays_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let mut report = sample();
        report.failures.push("node-2 ended by itself".into());
        write(directory.path(), &report).unwrap();
        assert!(!judge_again(directory.path()).unwrap().passed);
    }
}
