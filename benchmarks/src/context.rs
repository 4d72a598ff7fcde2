//! What every benchmark is given: how often, how much, where, and the limit of this run.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{BenchError, file_error};
use crate::report::Limit;

/// What every benchmark is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) rounds: usize,
    /// Small inputs: shows that it works.
    pub(crate) quick: bool,
    /// Numbers of accounts, where a benchmark has a choice of them; its own if empty.
    pub(crate) accounts: Vec<u64>,
    /// Of `storm`.
    pub(crate) scenario: String,
    /// Of `catch-up`, in seconds.
    pub(crate) outage_s: u64,
    /// Variations of `growth`; all if empty.
    pub(crate) only: Vec<String>,
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Where the programs are.
    pub(crate) programs: PathBuf,
    /// Prepared payments of storms, used again by later ones.
    pub(crate) data: PathBuf,
    /// Temporary files and runs of storms.
    pub(crate) scratch: PathBuf,
    pub(crate) limit: Limit,
}

impl Context {
    /// One of two sizes.
    pub(crate) fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Numbers of accounts: as the command line says, or these.
    pub(crate) fn accounts_or(&self, quick: &[u64], full: &[u64]) -> Vec<u64> {
        match self.accounts.is_empty() {
            true => self.choose(quick, full).to_vec(),
            false => self.accounts.clone(),
        }
    }

    /// The rounds' numbers from 0; each is told when it begins.
    pub(crate) fn rounds(&self, what: &str) -> impl Iterator<Item = usize> + use<> {
        let (rounds, what) = (self.rounds, what.to_owned());
        (0..rounds).inspect(move |round| eprintln!("{what}: round {} of {rounds}", round + 1))
    }

    /// A directory on the disk of the build that vanishes with its handle.
    pub(crate) fn temporary(&self) -> Result<TempDir, BenchError> {
        fs::create_dir_all(&self.scratch).map_err(file_error("creating", &self.scratch))?;
        tempfile::tempdir_in(&self.scratch).map_err(file_error("creating a directory in", &self.scratch))
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// Tells on stderr what is going on.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Writes a file, its directory too if need be.
pub(crate) fn write(path: &Path, content: &str) -> Result<(), BenchError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(file_error("creating", directory))?;
    }
    fs::write(path, content).map_err(file_error("writing", path))
}
