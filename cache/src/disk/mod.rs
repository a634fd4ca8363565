//! The disk under everything that must survive a crash.
//!
//! A seam with two implementations and one that encrypts another ([`EncryptedDisk`]): [`FileDisk`], a directory of the local
//! file system, and [`MemoryDisk`], which knows what was synced and what was not and produces the images a power cut may
//! leave. Journal, data files, sealed segments and blobs touch the disk only through it.
//!
//! Names are `directory/file` paths below the cache directory; missing parents are made. What is promised:
//! - after [`DiskFile::write_at`] returned, the bytes survive the death of the process;
//! - after [`DiskFile::sync`] returned, bytes and length survive a power cut;
//! - after [`Disk::sync_dir`] returned, the names made, renamed and removed in that directory do, too.

mod encrypted;
mod file;
mod memory;

pub use encrypted::EncryptedDisk;
pub(crate) use file::read_full;
pub use file::{FileDisk, OpenError};
pub use memory::{Failing, MemoryDisk, Watcher};

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A set of named files.
pub trait Disk: Send + Sync + 'static {
    /// Makes an empty file for reading and writing. [`io::ErrorKind::AlreadyExists`] if there is one.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing. [`io::ErrorKind::NotFound`] if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, atomically replacing what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Open files stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names of a directory durable.
    fn sync_dir(&self, directory: &str) -> io::Result<()>;

    /// The files of a directory in no order; none if there is no such directory. Directories in it are not listed.
    fn list(&self, directory: &str) -> io::Result<Vec<Listed>>;

    /// Bytes that can still be written.
    fn free(&self) -> io::Result<u64>;

    /// Where a name lies in the local file system, if it does.
    fn path(&self, name: &str) -> Option<PathBuf>;
}

/// An open file. All methods may be called concurrently.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all parts one after the other from `offset`, growing the file. On an error any part of it may be written.
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Length in bytes. A disk may fill up to 15 bytes with zeros at the end of a file.
    fn length(&self) -> io::Result<u64>;

    /// Bytes of disk that the file takes.
    fn allocated(&self) -> io::Result<u64>;

    /// Cuts or grows (with a hole) to `length` bytes.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes content and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;

    /// Turns a range into a hole that reads as zeros; never changes the length.
    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Begins to write a range out without waiting: a hint that makes a later sync short.
    fn start_writeback(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }
}

impl dyn DiskFile {
    /// Fills the whole buffer or fails with [`io::ErrorKind::UnexpectedEof`].
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.read_at(offset, buffer)? {
            read if read == buffer.len() => Ok(()),
            read => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{read} of {} bytes at offset {offset}", buffer.len()),
            )),
        }
    }
}

/// A file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name within the directory.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// Bytes of disk it takes.
    pub allocated: u64,
}

/// True if the error says that the disk (or the quota on it) is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Removes a name that may already be gone.
pub(crate) fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
