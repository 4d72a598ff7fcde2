//! Where the workspace is, and how its programs are called.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// Why a command of the project failed to run at all.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A program could not be started.
    Start { program: String, error: std::io::Error },
    /// A file that was named does not exist.
    NoScenario { path: PathBuf, known: Vec<String> },
    /// A build failed; cargo has said why.
    Build { status: ExitStatus },
    /// Anything else, in words.
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { program, error } => write!(f, "{program} cannot be started: {error}"),
            Self::NoScenario { path, known } => {
                write!(f, "there is no scenario {}; known are {}", path.display(), known.join(", "))
            }
            Self::Build { status } => write!(f, "the build failed ({status})"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

/// The workspace's directory.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// The cargo that started this, in the workspace's directory.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.status().map_err(|error| Failure::Start { program, error })
}

/// A status as the exit code of this process. A program that a signal ended failed.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
