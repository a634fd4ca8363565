//! The ledger's file: appended to in frames into zeros written ahead, and now and then replaced as a whole.

use super::OpenError;
use super::record::{self, Frames, Record, VERSION};
use crate::store::sync_directory;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of zeros written ahead.
pub(crate) const GROW: u64 = 64 * 1024;

/// An open ledger file.
pub(crate) struct File {
    path: PathBuf,
    file: std::fs::File,
    /// Where the next frame goes.
    end: u64,
    /// Up to here there are zeros.
    allocated: u64,
    /// Number of the next frame.
    number: u64,
    is_dirty: bool,
    /// True until the name of a new file is durable.
    is_new: bool,
}

/// The bytes of the ledger at `path`, of this version; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if bytes.iter().all(|byte| *byte == 0) {
        // Made just before the power went, and never synced.
        return Ok(None);
    }
    match record::version(&bytes) {
        Some(VERSION) => Ok(Some(bytes)),
        Some(other) => Err(OpenError::Version(other)),
        None => Err(io::Error::other("not a ledger, or its header is damaged").into()),
    }
}

impl File {
    /// Goes on behind the frames of a file, of which these are the bytes; `None` if there is anything else behind them.
    pub(crate) fn resume(path: &Path, bytes: &[u8], frames: &Frames<'_>) -> io::Result<Option<Self>> {
        let (end, number) = frames.end();
        if bytes.get(end..).is_none_or(|rest| rest.iter().any(|byte| *byte != 0)) {
            return Ok(None);
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let (path, end, allocated) = (path.to_owned(), end as u64, bytes.len() as u64);
        // What a killed process has written may not have reached the disk.
        Ok(Some(Self { path, file, end, allocated, number, is_dirty: true, is_new: false }))
    }

    /// Replaces the file at `path` by one with these records, durably if `sync`, else with the next sync.
    pub(crate) fn create(path: &Path, records: &[Record], sync: bool) -> io::Result<Self> {
        let (temporary, mut bytes) = (path.with_extension("tmp"), record::header().to_vec());
        let number = append(&mut bytes, 1, records)?;
        let end = bytes.len() as u64;
        let allocated = allocation(end);
        bytes.resize(allocated as usize, 0);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        if sync {
            file.sync_data()?;
        }
        std::fs::rename(&temporary, path)?;
        let mut new = Self { path: path.to_owned(), file, end, allocated, number, is_dirty: true, is_new: true };
        if sync {
            new.sync()?;
        }
        Ok(new)
    }

    /// Appends records, without a sync.
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        self.number = append(&mut bytes, self.number, records)?;
        let end = self.end + bytes.len() as u64;
        if allocation(end) > self.allocated {
            self.allocated = allocation(end);
            bytes.resize((self.allocated - self.end) as usize, 0);
        }
        self.is_dirty = true;
        self.file.write_all_at(&bytes, self.end)?;
        self.end = end;
        Ok(())
    }

    /// Makes what was appended durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync_data()?;
            self.is_dirty = false;
        }
        if self.is_new {
            if let Some(directory) = self.path.parent() {
                sync_directory(directory)?;
            }
            self.is_new = false;
        }
        Ok(())
    }

    /// Replaces everything, durably.
    pub(crate) fn rewrite(&mut self, records: &[Record]) -> io::Result<()> {
        *self = Self::create(&self.path, records, true)?;
        Ok(())
    }

    /// Bytes in use.
    pub(crate) fn length(&self) -> u64 {
        self.end
    }
}

/// Appends frames from `number` on and returns the next number.
fn append(bytes: &mut Vec<u8>, mut number: u64, records: &[Record]) -> io::Result<u64> {
    for record in records {
        record::append(bytes, number, record).map_err(io::Error::other)?;
        number += 1;
    }
    Ok(number)
}

/// Length of a file whose frames end at `end`: zeros follow, at least those that end it.
fn allocation(end: u64) -> u64 {
    (end + 8).next_multiple_of(GROW)
}
