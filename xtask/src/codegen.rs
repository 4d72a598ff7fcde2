//! Generates Rust code from the FlatBuffers schemas, and checks that the committed code is that of the committed
//! schemas.
//!
//! The generator (flatc, built from C++ by `schemas/codegen`) is only needed when a schema changes. The check needs
//! nothing: `schemas/schemas.lock` records a BLAKE3 digest of every schema and every generated file as they were when
//! the code was generated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::{fmt, fs, io};

use crate::workspace::cargo;

const SCHEMAS: &str = "schemas/fbs";
const ROOT_SCHEMA: &str = "schemas/fbs/wire.fbs";
const GENERATED: &str = "schemas/src/generated";
const LOCK: &str = "schemas/schemas.lock";
const GENERATOR: &str = "schemas/codegen/Cargo.toml";
/// Where the generator is built and writes. Below `target`, so that nothing of it is ever committed.
const WORKPLACE: &str = "target/codegen";

/// Why code was not generated, or is not current.
#[derive(Debug)]
pub(crate) enum CodegenError {
    /// A file cannot be read or written.
    File { path: PathBuf, error: io::Error },
    /// The generator could not be started.
    Start(io::Error),
    /// The generator could not be built, or refused a schema; it has said why.
    Generator(ExitStatus),
    /// The generator wrote nothing.
    NoOutput(PathBuf),
    /// These files are not as they were when the code was generated.
    NotCurrent { differences: Vec<String> },
}

impl fmt::Display for CodegenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Start(error) => write!(f, "the code generator cannot be started: {error}"),
            Self::Generator(status) => {
                write!(f, "the code generator failed ({status}); building it needs cmake: pip install cmake")
            }
            Self::NoOutput(path) => write!(f, "the code generator wrote no Rust file below {}", path.display()),
            Self::NotCurrent { differences } => {
                write!(f, "generated code is not current; run `cargo xtask codegen` and commit:")?;
                differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
            }
        }
    }
}

impl std::error::Error for CodegenError {}

/// Generates the code and records what it was made from; with `check`, only compares with what is recorded.
pub(crate) fn run(root: &Path, check: bool) -> Result<(), CodegenError> {
    if check {
        let recorded = read_lock(&root.join(LOCK))?;
        let differences = differences(&recorded, &digests(root)?);
        return match differences.is_empty() {
            true => Ok(()),
            false => Err(CodegenError::NotCurrent { differences }),
        };
    }
    let out = root.join(WORKPLACE).join("out");
    remove(&out)?;
    fs::create_dir_all(&out).map_err(at(&out))?;
    generate(root, &out)?;
    let generated = root.join(GENERATED);
    remove(&generated)?;
    copy(&out, &generated)?;
    write_lock(&root.join(LOCK), &digests(root)?)
}

fn generate(root: &Path, out: &Path) -> Result<(), CodegenError> {
    let mut command = cargo(root);
    command.args(["run", "--locked", "--release", "--manifest-path", GENERATOR, "--target-dir", WORKPLACE, "--"]);
    let status = command.arg(out).arg(ROOT_SCHEMA).status().map_err(CodegenError::Start)?;
    if !status.success() {
        return Err(CodegenError::Generator(status));
    }
    match files(out, "rs")?.is_empty() {
        true => Err(CodegenError::NoOutput(out.to_path_buf())),
        false => Ok(()),
    }
}

/// Digests by path below the root, with slashes on every system.
type Digests = BTreeMap<String, String>;

fn digests(root: &Path) -> Result<Digests, CodegenError> {
    let mut digests = Digests::new();
    for (directory, ending) in [(SCHEMAS, "fbs"), (GENERATED, "rs")] {
        for path in files(&root.join(directory), ending)? {
            let bytes = fs::read(&path).map_err(at(&path))?;
            let below = path.strip_prefix(root).unwrap_or(&path);
            let name: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
            digests.insert(name.join("/"), blake3::hash(&bytes).to_hex().to_string());
        }
    }
    Ok(digests)
}

/// Every file below a directory with this ending.
fn files(directory: &Path, ending: &str) -> Result<Vec<PathBuf>, CodegenError> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).map_err(at(&directory))? {
            let path = entry.map_err(at(&directory))?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn differences(recorded: &Digests, found: &Digests) -> Vec<String> {
    let changed = recorded.iter().filter_map(|(path, digest)| match found.get(path) {
        None => Some(format!("{path} is gone")),
        Some(now) if now != digest => Some(format!("{path} has changed")),
        Some(_) => None,
    });
    let added = found.keys().filter(|path| !recorded.contains_key(*path)).map(|path| format!("{path} is new"));
    changed.chain(added).collect()
}

fn read_lock(path: &Path) -> Result<Digests, CodegenError> {
    let text = fs::read_to_string(path).map_err(at(path))?;
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once("  "));
    Ok(lines.map(|(digest, path)| (path.to_owned(), digest.to_owned())).collect())
}

fn write_lock(path: &Path, digests: &Digests) -> Result<(), CodegenError> {
    let mut text =
        String::from("# BLAKE3 of the schemas and of the code made from them; `cargo xtask codegen` writes it.\n");
    for (path, digest) in digests {
        text.push_str(&format!("{digest}  {path}\n"));
    }
    fs::write(path, text).map_err(at(path))
}

fn copy(from: &Path, to: &Path) -> Result<(), CodegenError> {
    for source in files(from, "rs")? {
        let target = to.join(source.strip_prefix(from).unwrap_or(&source));
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory).map_err(at(directory))?;
        }
        fs::copy(&source, &target).map_err(at(&target))?;
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<(), CodegenError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(directory)(error)),
        _ => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> CodegenError + '_ {
    |error| CodegenError::File { path: path.to_path_buf(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    #[test]
    fn the_committed_code_is_that_of_the_committed_schemas() {
        if let Err(error) = run(&root(), true) {
            panic!("{error}");
        }
    }

    #[test]
    fn a_changed_a_missing_and_a_new_file_are_named() {
        let digests = |pairs: &[(&str, &str)]| -> Digests {
            pairs.iter().map(|(path, digest)| (path.to_string(), digest.to_string())).collect()
        };
        let recorded = digests(&[("a.fbs", "1"), ("b.fbs", "2"), ("c.rs", "3")]);
        let found = digests(&[("a.fbs", "1"), ("b.fbs", "9"), ("d.rs", "4")]);
        assert_eq!(differences(&recorded, &found), ["b.fbs has changed", "c.rs is gone", "d.rs is new"]);
        assert_eq!(differences(&recorded, &recorded), Vec::<String>::new());
    }

    #[test]
    fn the_lock_reads_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("zeni-schemas-lock-{}", std::process::id()));
        let digests = digests(&root()).unwrap();
        write_lock(&path, &digests).unwrap();
        assert_eq!(read_lock(&path).unwrap(), digests);
        fs::remove_file(&path).unwrap();
    }
}
