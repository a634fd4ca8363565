//! One piece log as a file.

use super::record::{BadLog, HEADER, LogHeader, Nonce, UNIT};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A log's file and what its header says.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) number: u64,
    pub(crate) nonce: Nonce,
    file: File,
}

/// Why a log file could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Bad(#[from] BadLog),
}

impl Log {
    /// Makes an empty log that survives a power cut.
    pub(crate) fn create(directory: &Path, number: u64, nonce: Nonce) -> io::Result<Self> {
        let (path, temporary) = (path(directory, number), directory.join("new.tmp"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all_at(&LogHeader { number, nonce }.encode(), 0)?;
        file.sync_data()?;
        std::fs::rename(&temporary, &path)?;
        sync_directory(directory)?;
        Ok(Self { number, nonce, file })
    }

    /// Opens log `number`.
    pub(crate) fn open(directory: &Path, number: u64) -> Result<Self, LogError> {
        let file = OpenOptions::new().read(true).write(true).open(path(directory, number))?;
        let mut head = [0; HEADER];
        match file.read_exact_at(&mut head, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(BadLog::Damaged.into()),
            other => other?,
        }
        let header = LogHeader::decode(&head)?;
        if header.number != number {
            return Err(BadLog::Damaged.into());
        }
        Ok(Self { number, nonce: header.nonce, file })
    }

    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(crate) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(crate) fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the disk space between two offsets back, but for the first [`UNIT`] bytes (the header, which tells how long
    /// the record is). Only saves space: a file system that cannot do it changes nothing.
    pub(crate) fn punch(&self, offset: u64, length: u64) {
        use rustix::fs::{FallocateFlags, fallocate};
        let start = (offset + UNIT).next_multiple_of(PAGE);
        let end = (offset + length) / PAGE * PAGE;
        if start < end
            && let Err(error) =
                fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, end - start)
        {
            tracing::debug!(log = self.number, %error, "disk space of a dead record was not given back");
        }
    }
}

/// Holes are whole pages.
const PAGE: u64 = 4096;

/// Where log `number` lies.
pub(crate) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.log"))
}

/// Numbers of the logs in a directory, ascending.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".log")).filter(|n| n.len() == 16);
        numbers.extend(number.and_then(|n| u64::from_str_radix(n, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes created, renamed and removed names durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
