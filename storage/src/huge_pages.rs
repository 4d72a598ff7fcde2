//! Memory in huge pages.
//!
//! The state of ten million accounts lies over a gigabyte that execution reads at random: with pages of 4 KiB nearly every read
//! first misses the processor's table of pages. Where Linux gives huge pages to those who ask (`madvise`, the usual
//! setting), glibc's allocator asks if it is told so by an environment variable at the start of the process.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where glibc (since 2.35) reads its settings: <https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html>.
const TUNABLES: &str = "GLIBC_TUNABLES";
const SETTING: &str = "glibc.malloc.hugetlb";

/// Lets this process begin anew, under the same id and with the same arguments, with an allocator that asks for huge pages.
/// Returns at once if it was told before whether to ask (`glibc.malloc.hugetlb=0` turns this off), and if it cannot begin
/// anew, which makes it slower and nothing else. To be called before anything else is done.
pub fn prefer_huge_pages() {
    let tunables = env::var(TUNABLES).unwrap_or_default();
    let (Ok(program), mut arguments) = (env::current_exe(), env::args_os()) else { return };
    if tunables.contains(SETTING) || !cfg!(target_env = "gnu") {
        return;
    }
    let ask = format!("{SETTING}=1");
    let tunables = if tunables.is_empty() { ask } else { format!("{tunables}:{ask}") };
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).env(TUNABLES, tunables).exec();
    eprintln!("huge pages cannot be asked for: {error}");
}
