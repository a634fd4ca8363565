//! The table in which mount helpers leave notes for umount(8), `/run/mount/utab`.
//!
//! umount(8) runs `/sbin/umount.fuse.strewn` for a mount that has an entry here. A line is
//! `SRC=… TARGET=… ROOT=/ OPTS=…`, values with blanks, backslashes and the like as `\ooo`. The table is replaced as a whole
//! under the lock that util-linux takes, so that other entries stay as they are.

use super::table::unescape;
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/run/mount";
const TABLE: &str = "utab";
const LOCK: &str = "utab.lock";
const TEMPORARY: &str = "utab.strewn";
/// The table is small; a larger one is not ours to read.
const MAX_TABLE: u64 = 16 << 20;

/// The table in a directory.
pub struct Utab {
    directory: PathBuf,
}

impl Utab {
    /// The system's table.
    pub fn system() -> Self {
        Self::in_directory(DIRECTORY.into())
    }

    /// The table in another directory.
    pub fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Adds an entry for a mount point, in place of one that may have been left there.
    pub fn add(&self, target: &Path, source: &str) -> io::Result<()> {
        let mut line = b"SRC=".to_vec();
        escape(source.as_bytes(), &mut line);
        line.extend(b" TARGET=");
        escape(target.as_os_str().as_bytes(), &mut line);
        line.extend(b" ROOT=/ OPTS=uhelper=fuse.strewn\n");
        self.replace(target, &line)
    }

    /// Removes the entry of a mount point, if there is one.
    pub fn remove(&self, target: &Path) -> io::Result<()> {
        match fs::metadata(self.directory.join(TABLE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => self.replace(target, b""),
        }
    }

    /// Rewrites the table without the lines of `target`, and with `line` at its end.
    fn replace(&self, target: &Path, line: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let _lock = self.lock()?;
        let path = self.directory.join(TABLE);
        let mut table = self.others(&path, target)?;
        table.extend(line);
        let temporary = self.directory.join(TEMPORARY);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(&table)?;
        // The directory lives in memory: there is nothing to sync.
        fs::rename(&temporary, &path)
    }

    /// Every line that is not about `target`.
    fn others(&self, path: &Path, target: &Path) -> io::Result<Vec<u8>> {
        let table = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Ok(metadata) if metadata.len() > MAX_TABLE => return Err(io::ErrorKind::FileTooLarge.into()),
            _ => fs::read(path)?,
        };
        let about = |line: &[u8]| {
            let mut fields = line.split(|&byte| byte == b' ');
            fields.any(|field| {
                field.strip_prefix(b"TARGET=").is_some_and(|value| unescape(value) == target.as_os_str().as_bytes())
            })
        };
        let lines = table.split_inclusive(|&byte| byte == b'\n');
        Ok(lines.filter(|line| !about(line.strip_suffix(b"\n").unwrap_or(line))).collect::<Vec<_>>().concat())
    }

    fn lock(&self) -> io::Result<File> {
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(self.directory.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }
}

fn escape(text: &[u8], into: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b'\\' | b'#' | b'"' => into.extend(format!("\\{byte:03o}").bytes()),
            _ => into.push(byte),
        }
    }
}
