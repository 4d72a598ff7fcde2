//! The processes of a network that this load generator started itself, and what it may do to them.
//!
//! Each runs on a leash: `loadgen leash` asks the kernel to kill it when the load generator dies, then becomes the
//! program (`exec`), so the process id stays the same and no way of ending the load generator leaves one behind.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};

/// The subcommand that puts a process on the leash.
pub const LEASH: &str = "leash";

/// Bytes of a log that are read at a time, at most: what a start tells stands within them.
const LOG_READ_MAX: u64 = 4 << 20;

/// What a node exits with when it has stopped for good.
const HALTED: i32 = 3;
/// How the last line of such a node's log begins; the reason follows.
const LAST_WORDS: &str = "node: ";
/// Bytes at the end of a log that are searched for last words.
const LAST_WORDS_WITHIN: u64 = 64 << 10;

/// Why a process could not be started, harmed or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("{name}: {action}: {error}")]
    Io { name: String, action: &'static str, error: io::Error },
    #[error("{name} ended by itself ({status}); its last words are in {}", log.display())]
    Ended { name: String, status: ExitStatus, log: PathBuf },
    #[error("{name} failed ({status}); see {}", log.display())]
    Failed { name: String, status: ExitStatus, log: PathBuf },
    #[error("{name} did not end within {after:?}; see {}", log.display())]
    Slow { name: String, after: Duration, log: PathBuf },
}

/// A program with its arguments, started and restarted under one name.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    /// The load generator's own program, which holds the leash.
    leash: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    /// Signals sent to the child that end it.
    sent: Vec<Signal>,
    /// Ends that these signals do not explain, or that were no clean ones; in words.
    bad_ends: Vec<String>,
    may_halt: bool,
    /// Why it halted.
    halt: Option<String>,
}

impl Process {
    /// A process that is not started yet. Its output is appended to `log`.
    pub fn new(name: String, leash: PathBuf, program: PathBuf, arguments: Vec<String>, log: PathBuf) -> Self {
        let (child, sent, bad_ends, may_halt, halt) = (None, Vec::new(), Vec::new(), false, None);
        Self { name, leash, program, arguments, log, child, sent, bad_ends, may_halt, halt }
    }

    /// From now on it may halt for good, if it says why.
    pub fn allow_halt(&mut self) {
        self.may_halt = true;
    }

    /// Why it halted, in its own words; `None` if it has not.
    pub fn halt(&self) -> Option<&str> {
        self.halt.as_deref()
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Starts it. Must be called on a thread that lives as long as the load generator: the leash is tied to it.
    pub fn start(&mut self) -> Result<(), ProcessError> {
        let opened = || File::options().create(true).append(true).open(&self.log);
        let output = opened().map_err(|error| self.error("opening its log", error))?;
        let errors = output.try_clone().map_err(|error| self.error("opening its log", error))?;
        let mut command = Command::new(&self.leash);
        command.arg(LEASH).arg(std::process::id().to_string()).arg(&self.program).args(&self.arguments);
        // A process group of its own: Ctrl-C on the terminal reaches the load generator alone, which ends the rest.
        command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
        self.child = Some(command.spawn().map_err(|error| self.error("starting", error))?);
        self.sent.clear();
        Ok(())
    }

    /// Bytes in its log so far.
    pub fn log_length(&self) -> Result<u64, ProcessError> {
        match std::fs::metadata(&self.log) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.error("measuring its log", error)),
        }
    }

    /// Its log from byte `from` on, [`LOG_READ_MAX`] bytes at most.
    pub fn log_since(&self, from: u64) -> Result<String, ProcessError> {
        let read = || {
            let mut log = File::open(&self.log)?;
            log.seek(io::SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            log.take(LOG_READ_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes: Vec<u8> = read().map_err(|error| self.error("reading its log", error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a signal; nothing happens if it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        // An end before the signal is not the signal's doing.
        if let Some(status) = self.ended()? {
            self.note_end(status);
            return Ok(());
        }
        if matches!(signal, Signal::TERM | Signal::KILL) {
            self.sent.push(signal);
        }
        let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return Ok(()) };
        kill_process(pid, signal).map_err(|error| self.error("signalling", error.into()))
    }

    /// Asks it to end, and kills it if it has not after `patience`. True if it ended by itself.
    pub async fn stop(&mut self, patience: Duration) -> Result<bool, ProcessError> {
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)?;
        let Some(child) = &mut self.child else { return Ok(true) };
        let willing = match tokio::time::timeout(patience, child.wait()).await {
            Ok(status) => {
                let status = status.map_err(|error| self.error("waiting for its end", error))?;
                tracing::info!(process = self.name, "stopped: {status}");
                self.note_end(status);
                true
            }
            Err(_) => false,
        };
        if !willing {
            self.kill().await?;
        }
        self.child = None;
        Ok(willing)
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub async fn kill(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL)?;
        if let Some(child) = &mut self.child {
            let ended = child.wait().await;
            let status = ended.map_err(|error| self.error("waiting for its end", error))?;
            self.note_end(status);
        }
        Ok(())
    }

    /// An error if it was started and has ended although nobody asked it to, unless it halted and may.
    pub fn check(&mut self) -> Result<(), ProcessError> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                self.child = None;
                if self.takes_as_halt(status)? {
                    return Ok(());
                }
                Err(ProcessError::Ended { name: self.name.clone(), status, log: self.log.clone() })
            }
        }
    }

    /// Takes what [`Self::check`] did not tell: ends found while stopping, killing or signalling it that were not clean
    /// and not by a signal from here; in words.
    pub fn take_bad_ends(&mut self) -> Vec<String> {
        std::mem::take(&mut self.bad_ends)
    }

    /// Its status if it was started and has ended since it was looked at last.
    fn ended(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        let Some(child) = &mut self.child else { return Ok(None) };
        child.try_wait().map_err(|error| self.error("looking after it", error))
    }

    /// Whether this end is a halt that is allowed, which is then kept with its reason.
    fn takes_as_halt(&mut self, status: ExitStatus) -> Result<bool, ProcessError> {
        if !self.may_halt || status.code() != Some(HALTED) {
            return Ok(false);
        }
        let tail = self.log_since(self.log_length()?.saturating_sub(LAST_WORDS_WITHIN))?;
        self.halt = tail.lines().rev().find_map(|line| Some(line.strip_prefix(LAST_WORDS)?.to_owned()));
        Ok(self.halt.is_some())
    }

    fn note_end(&mut self, status: ExitStatus) {
        self.child = None;
        match self.takes_as_halt(status) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => self.bad_ends.push(error.to_string()),
        }
        let explained = match status.signal() {
            Some(signal) => self.sent.iter().any(|sent| sent.as_raw() == signal),
            None => status.success() && self.sent.contains(&Signal::TERM),
        };
        if !explained {
            let how = if self.sent.is_empty() { "ended by itself" } else { "did not end cleanly" };
            self.bad_ends.push(format!("{} {how} ({status}); its last words are in {}", self.name, self.log.display()));
        }
    }

    /// Runs the program with other arguments to its end, and gives its status and standard output.
    pub async fn run(&self, arguments: &[String], patience: Duration) -> Result<(ExitStatus, Vec<u8>), ProcessError> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| self.error("opening its log", error))?;
        let mut command = Command::new(&self.leash);
        command.arg(LEASH).arg(std::process::id().to_string()).arg(&self.program).args(arguments);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        match tokio::time::timeout(patience, command.output()).await {
            Ok(Ok(output)) => Ok((output.status, output.stdout)),
            Ok(Err(error)) => Err(self.error("running", error)),
            Err(_) => Err(ProcessError::Slow { name: self.name.clone(), after: patience, log: self.log.clone() }),
        }
    }

    /// As [`Self::run`], and it is an error if the program fails.
    pub async fn run_well(&self, arguments: &[String], patience: Duration) -> Result<Vec<u8>, ProcessError> {
        let (status, output) = self.run(arguments, patience).await?;
        match status.success() {
            true => Ok(output),
            false => Err(ProcessError::Failed { name: self.name.clone(), status, log: self.log.clone() }),
        }
    }

    fn error(&self, action: &'static str, error: io::Error) -> ProcessError {
        ProcessError::Io { name: self.name.clone(), action, error }
    }
}

/// Becomes `program`, to be killed when the process `parent` (which must have started this one) dies. Returns only if
/// that fails.
pub fn leash(parent: u32, program: &Path, arguments: &[String]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before the kernel was asked.
    let still_there = getppid().is_some_and(|found| found.as_raw_nonzero().get().cast_unsigned() == parent);
    if !still_there {
        return io::Error::other("the load generator is gone");
    }
    std::process::Command::new(program).args(arguments).exec()
}
