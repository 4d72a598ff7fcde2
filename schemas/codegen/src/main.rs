//! `zeni-schemas-codegen OUT SCHEMA`: writes Rust code for a schema and all that it includes into the directory OUT,
//! with the flatc that belongs to the FlatBuffers runtime in use.

use std::env;
use std::process::{Command, ExitCode};

const OPTIONS: [&str; 3] = ["--rust", "--gen-all", "--rust-module-root-file"];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [out, schema] = arguments.as_slice() else {
        eprintln!("usage: zeni-schemas-codegen OUT SCHEMA");
        return ExitCode::FAILURE;
    };
    match Command::new(flatc_fork::flatc()).args(OPTIONS).arg("-o").arg(out).arg(schema).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("flatc ended with {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("flatc could not be started: {error}");
            ExitCode::FAILURE
        }
    }
}
