//! How memory is asked for.
//!
//! A node takes in and lets go of buffers of some hundred kilobytes thousands of times a second, and of some ten megabytes with
//! each block. glibc's allocator gives such ones back to Linux at once, and each time they are asked for Linux clears their
//! pages anew: half a microsecond of each payment. An environment variable at the start of a process tells it to keep them.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where glibc reads its settings: <https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html>.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// Buffers up to 32 MiB (the most that glibc allows) come from what the process has, and it keeps up to 256 MiB of free memory.
const KEEP: &str = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=268435456";

/// Says that this process began anew. Where a process has more rights than its user, glibc hides the settings from it, and it
/// would begin anew for ever.
const BEGUN_ANEW: &str = "ZENI_BEGUN_ANEW";

/// Lets this process begin anew, under the same id and with the same arguments, with an allocator that keeps what is freed.
/// Returns at once if `GLIBC_TUNABLES` is set, which an operator may have done with better reason, and if it cannot begin
/// anew, which makes it slower and nothing else. To be called before anything else is done.
pub fn keep_freed_memory() {
    let (Ok(program), mut arguments) = (env::current_exe(), env::args_os()) else { return };
    if [TUNABLES, BEGUN_ANEW].iter().any(|name| env::var_os(name).is_some()) || !cfg!(target_env = "gnu") {
        return;
    }
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).env(TUNABLES, KEEP).env(BEGUN_ANEW, "1").exec();
    eprintln!("the allocator cannot be told to keep freed memory: {error}");
}
