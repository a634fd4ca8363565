//! Where messages go: standard error, which in the background is a log file that must not grow for ever.
//!
//! When the file has become long it is renamed to `NAME.old`, in the place of the one before, and a new one becomes
//! standard error, so that panics and what libraries say end up there, too. Several processes may log to one file: who
//! finds that another one renamed it follows to the new one.

use crate::detach;
use crate::error::{Failure, Outcome};
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// A log file longer than this many bytes is put aside.
const MOST_LOG: u64 = 4 << 20;
/// So many bytes are written before it is looked again how long the file is.
const LOOK_AFTER: usize = 64 << 10;

/// Sends what this process has to say to standard error.
pub(crate) fn start(filter: &str) -> Outcome {
    let filter = EnvFilter::try_new(filter).map_err(|error| Failure::usage(format!("--log {filter:?}: {error}")))?;
    let file = detach::log_file().map(|path| Arc::new(Mutex::new(LogFile { path, unseen: LOOK_AFTER })));
    let writer = move || Writer { file: file.clone() };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    // A log that cannot be written (its disk is full, or gone) must not end the process: that complaint would panic.
    log.log_internal_errors(false).init();
    Ok(())
}

/// Writes one message.
struct Writer {
    file: Option<Arc<Mutex<LogFile>>>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &self.file {
            file.lock().make_room(bytes.len());
        }
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The file that standard error is.
struct LogFile {
    path: PathBuf,
    /// Bytes written since it was looked how long it is.
    unseen: usize,
}

impl LogFile {
    /// Before so many bytes are written. What fails here is tried again later: the log goes on where it is.
    fn make_room(&mut self, bytes: usize) {
        self.unseen = self.unseen.saturating_add(bytes);
        if self.unseen < LOOK_AFTER {
            return;
        }
        self.unseen = 0;
        let Ok(Some(next)) = next_file(&self.path, &io::stderr()) else { return };
        let _ = rustix::stdio::dup2_stderr(next);
    }
}

/// The file that takes the place of `current`: if that one is too long, or is not what `path` names any more.
fn next_file(path: &Path, current: &impl std::os::fd::AsFd) -> io::Result<Option<File>> {
    let here = rustix::fs::fstat(current)?;
    let named = match std::fs::metadata(path) {
        Ok(named) => Some((named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if named == Some((here.st_dev, here.st_ino)) {
        if u64::try_from(here.st_size).unwrap_or(0) <= MOST_LOG {
            return Ok(None);
        }
        std::fs::rename(path, old(path))?;
    }
    open(path).map(Some)
}

/// Opens a log file to go on at its end.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).open(path)
}

/// Where a long one goes.
fn old(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    #[test]
    fn a_long_log_is_put_aside_and_those_who_share_it_follow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mount.log");
        let (mut one, mut two) = (open(&path).unwrap(), open(&path).unwrap());
        one.write_all(b"short").unwrap();
        assert!(next_file(&path, &one).unwrap().is_none());
        one.write_all(&vec![b'x'; MOST_LOG as usize]).unwrap();
        let mut next = next_file(&path, &one).unwrap().expect("it is too long");
        next.write_all(b"next").unwrap();
        assert_eq!((length(&old(&path)), length(&path)), (MOST_LOG + 5, 4));
        two = next_file(&path, &two).unwrap().expect("it was put aside");
        two.write_all(b" too").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"next too");
        assert!(next_file(&path, &two).unwrap().is_none());
        // Somebody removes it: a new one is begun.
        std::fs::remove_file(&path).unwrap();
        next_file(&path, &two).unwrap().expect("a new one").write_all(b"anew").unwrap();
        assert_eq!(length(&path), 4);
    }
}
