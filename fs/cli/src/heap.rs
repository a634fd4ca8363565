//! One heap for all threads of a mount.
//!
//! glibc gives threads arenas of their own, and what is freed in one is of no use to the others: under load a mount took half as
//! much memory again. How many there are is read from the environment when a process starts, so it is started anew, with
//! the same id, arguments and files.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// What glibc reads; others ignore it.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Returns if there is one heap, or there cannot be. To be called before anything is opened.
pub(crate) fn unite() {
    if std::env::var_os(ARENAS).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "strewn".into());
    let error = Command::new(program).arg0(name).args(arguments).env(ARENAS, "1").exec();
    tracing::debug!(%error, "the heaps stay apart");
}
