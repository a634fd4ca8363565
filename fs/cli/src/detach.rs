//! Going on in the background: the command starts itself again in a session of its own and returns once that one is ready.
//!
//! The child's standard error goes to a log file; its first line on standard output is what the parent passes on. If the
//! child ends before that line, the parent shows what it said or logged and fails as it did.

use crate::config;
use crate::error::{Context, Failure, Outcome};
use crate::log;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set in the environment of the process that goes on: its log file.
pub(crate) const DETACHED: &str = "STREWN_DETACHED";

/// Set in the environment of a child in the same session whose standard output is read until it is ready.
pub(crate) const HEARD: &str = "STREWN_HEARD";

/// Most of a failed child's log that is shown, in bytes.
const SHOWN_LOG: u64 = 8 * 1024;

/// Longest first line that is waited for, in bytes.
const FIRST_LINE: u64 = 64 * 1024;

/// Begins the first line of a child that failed; message, hint and exit code follow as JSON.
const FAILED: &str = "failed ";

/// Tells the process that waits for this one, if there is one, why nothing came of it. True if that one will say it: not once
/// this one was ready, for nobody listens any more, and not of one that goes on in the background, whose log has it too.
pub(crate) fn tell(failure: &Failure) -> bool {
    if !is_detached() && std::env::var_os(HEARD).is_none() {
        return false;
    }
    // The log may be on a full disk.
    let told =
        serde_json::to_string(failure).is_ok_and(|told| crate::output::line(format_args!("{FAILED}{told}")).is_ok());
    told && !is_detached()
}

/// Why a child failed, if its first line tells that.
pub(crate) fn told(line: &str) -> Option<Failure> {
    serde_json::from_str(line.strip_prefix(FAILED)?).ok()
}

/// True in the process that goes on: it has left the terminal's session.
pub(crate) fn is_detached() -> bool {
    std::env::var_os(DETACHED).is_some()
}

/// In the process that goes on: the file that its standard error is.
pub(crate) fn log_file() -> Option<PathBuf> {
    std::env::var_os(DETACHED).map(PathBuf::from)
}

/// Leaves the terminal's session. To be called first in the process that goes on.
pub(crate) fn enter() -> Outcome {
    match rustix::process::setsid() {
        // EPERM: it leads a group already, as when it was started with one.
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error).context("starting a session"),
    }
}

/// Runs this same command line in the background, logging to `log`; gives its first line once it is ready.
pub(crate) fn respawn(log: &Path) -> Outcome<String> {
    if let Some(dir) = log.parent() {
        config::private_dir(dir)?;
    }
    let what = || format!("opening {}", log.display());
    let mut file = log::open(log).context(what())?;
    let begin = file.seek(SeekFrom::End(0)).context(what())?;
    let program = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg0(std::env::args_os().next().unwrap_or_else(|| "strewn".into()))
        .env(DETACHED, std::path::absolute(log).context(what())?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file.try_clone().context(what())?)
        .spawn()
        .context("starting in the background")?;
    let mut first = String::new();
    let stdout = child.stdout.take().expect("it was piped");
    BufReader::new(stdout).take(FIRST_LINE).read_line(&mut first).context("waiting for the background process")?;
    if let Some(failure) = told(&first) {
        return Err(failure);
    }
    if first.ends_with('\n') {
        return Ok(first.trim_end().to_owned());
    }
    let status = child.wait().context("waiting for the background process")?;
    file.seek(SeekFrom::Start(begin)).context(what())?;
    let mut said = String::new();
    file.take(SHOWN_LOG).read_to_string(&mut said).context(what())?;
    let said = said.trim().strip_prefix("strewn: ").unwrap_or(said.trim()).to_owned();
    let failure = if said.is_empty() { format!("the background process ended with {status}") } else { said };
    Err(Failure::new(failure))
}
