//! Data files: the plain bytes of larger files, one sparse file per inode, at the offsets they have in the inode.
//!
//! A data file is `data/<2 hex>/<inode>.<generation>`, both in hexadecimal, the first two digits again as directory. It has
//! no header: it is mapped into the kernel as it is (passthrough). What of it means anything is known to journal and
//! index alone; what they do not name is garbage or a hole.
//!
//! Truncating to nothing starts a new **generation**, a name never used before, so that the old bytes stay until the
//! record that gives them up is durable; one that the kernel reads by itself is cleared then instead. Generations are drawn at random: a row that outlived its file can never be
//! taken for a row about a later one.
//!
//! A file is durable when [`DataFiles::sync`] returned, together with its name. A failed sync is remembered: the kernel
//! reports it once, we report it until the file is removed.

mod alone;
mod occupied;
mod open;
mod riding;

use crate::disk::{self, Disk, DiskFile};
use alone::Others;
use bytes::BytesMut;
use occupied::Occupied;
use open::Handles;
use parking_lot::Mutex;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::ids::InodeId;

/// The directory of all data files.
const DIRECTORY: &str = "data";
/// Hexadecimal digits of the inode that name the directory of a file.
const FAN_OUT: usize = 2;

/// One data file: an inode, and which of its files over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct DataId {
    /// The inode.
    pub inode: InodeId,
    /// Drawn by [`DataFiles::fresh`].
    pub generation: u64,
}

/// A data file that was there when the data files were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub id: DataId,
    /// Length in bytes.
    pub length: u64,
    /// Bytes of disk it takes.
    pub allocated: u64,
}

/// Why a data file did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The disk is full.
    #[error("no space for file content")]
    NoSpace,
    /// Larger than a file of this disk may be.
    #[error("no file on the cache disk may be so large")]
    TooLarge,
    /// There is no such file (any more).
    #[error("a data file of inode {} is missing", .0.inode)]
    Missing(DataId),
    /// The disk failed; after a failed sync, the first cause.
    #[error("data file: {0}")]
    Io(Arc<io::Error>),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            _ if disk::is_full(&error) => Self::NoSpace,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

/// The data files of a cache. Clones share them. All methods but [`Self::sync`] are plain calls into the page cache (which
/// may wait for the disk when it has to read, or when too much is unwritten).
#[derive(Clone)]
pub struct DataFiles {
    disk: Arc<dyn Disk>,
    handles: Arc<Handles>,
    occupied: Arc<Mutex<Occupied>>,
}

impl DataFiles {
    /// Lists what is there. Blocks.
    pub fn open(disk: Arc<dyn Disk>) -> Result<(Self, Vec<Found>), Error> {
        let mut found = Vec::new();
        for first in 0..=u8::MAX {
            for listed in disk.list(&format!("{DIRECTORY}/{first:02x}"))? {
                // Names that are not ours are left alone.
                if let Some(id) = parse(&listed.name) {
                    found.push(Found { id, length: listed.length, allocated: listed.allocated });
                }
            }
        }
        // Whether an earlier process made their names durable is not known.
        let unnamed = found.iter().map(|file| file.id).collect();
        let mut occupied = Occupied::default();
        found.iter().for_each(|file| occupied.found(file.id, file.allocated, file.length));
        let handles = Arc::new(Handles::new(disk.clone(), unnamed));
        Ok((Self { handles, disk, occupied: Arc::new(Mutex::new(occupied)) }, found))
    }

    /// A file of the inode that never was before. It is made by the first write to it; until then it reads as empty.
    pub fn fresh(&self, inode: InodeId) -> Result<DataId, Error> {
        let generation = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let id = DataId { inode, generation };
        self.handles.announce(id);
        Ok(id)
    }

    /// Writes `parts` one after the other from `offset`. On an error any part of the range may be written. True if the bytes
    /// should ride in the record of the write as well.
    pub fn write_at(&self, id: DataId, offset: u64, parts: &[&[u8]]) -> Result<bool, Error> {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        self.occupy(id, offset..offset.saturating_add(length));
        self.change(id, |file| file.write_at(offset, parts))?;
        Ok(self.handles.hint(id, offset, length))
    }

    /// Somebody asked for the file to be durable: small writes ride again.
    pub(crate) fn end_run(&self, id: DataId) {
        self.handles.end_run(id);
    }

    /// Appends up to `length` bytes from `offset` to `buffer`; fewer only at the end of the file. Returns how many.
    pub fn read_at(&self, id: DataId, offset: u64, length: usize, buffer: &mut BytesMut) -> Result<usize, Error> {
        let Some(file) = self.handles.get(id)? else { return Ok(0) };
        let start = buffer.len();
        buffer.resize(start + length, 0);
        let read = file.read_at(offset, &mut buffer[start..]);
        buffer.truncate(start + *read.as_ref().unwrap_or(&0));
        Ok(read?)
    }

    /// Fills `buffer` from `offset`; what lies behind the end of the file reads as zeros, like a hole.
    pub fn read_into(&self, id: DataId, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let read = match self.handles.get(id)? {
            Some(file) => file.read_at(offset, buffer)?,
            None => 0,
        };
        buffer[read..].fill(0);
        Ok(())
    }

    /// Cuts the file to `length` or lets it grow by a hole. To be called once the record that says so is durable.
    pub fn truncate(&self, id: DataId, length: u64) -> Result<(), Error> {
        self.change(id, |file| file.set_len(length))?;
        self.occupied.lock().cut(id, &(length..u64::MAX));
        Ok(())
    }

    /// Gives the bytes of a range back to the disk; they read as zeros. To be called once the record that says so is
    /// durable.
    pub fn punch(&self, id: DataId, offset: u64, length: u64) -> Result<(), Error> {
        self.change(id, |file| file.punch_hole(offset, length))?;
        self.occupied.lock().cut(id, &(offset..offset.saturating_add(length)));
        Ok(())
    }

    /// Most bytes of disk that writing a range takes more than the file takes now.
    pub fn needs(&self, id: DataId, range: &Range<u64>) -> u64 {
        self.occupied.lock().needs(id, range)
    }

    /// Counts a range as taken before it is written.
    pub fn occupy(&self, id: DataId, range: Range<u64>) {
        self.occupied.lock().add(id, &range);
    }

    /// Bytes of disk that count as the file's; at least [`allocated`](Self::allocated).
    pub fn occupied(&self, id: DataId) -> u64 {
        self.occupied.lock().of(id)
    }

    /// Bytes of disk that count as all files'.
    pub fn total(&self) -> u64 {
        self.occupied.lock().total()
    }

    /// Bytes of disk the file takes.
    pub fn allocated(&self, id: DataId) -> Result<u64, Error> {
        Ok(self.handles.get(id)?.map_or(Ok(0), |file| file.allocated())?)
    }

    /// Length of the file in bytes.
    pub fn length(&self, id: DataId) -> Result<u64, Error> {
        Ok(self.handles.get(id)?.map_or(Ok(0), |file| file.length())?)
    }

    /// True if everything written to the file by this process is durable. What an earlier process wrote counts as
    /// unsynced only to those who know better: sync what the journal does not call synced.
    pub fn is_clean(&self, id: DataId) -> bool {
        !self.handles.is_dirty(id)
    }

    /// Treats the file as written to, so that the next sync reaches the disk: for what another process left unsynced, or
    /// the kernel wrote past us.
    pub fn mark_dirty(&self, id: DataId) {
        self.handles.mark_dirty(id);
    }

    /// Waits until everything written to the file before survives a power cut.
    pub async fn sync(&self, id: DataId) -> Result<(), Error> {
        if !self.handles.is_dirty(id) {
            return self.handles.check(id);
        }
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.sync_blocking(id))
            .await
            .map_err(|error| Error::from(io::Error::other(error.to_string())))?
    }

    /// Like [`Self::sync`], for threads that may block.
    pub fn sync_blocking(&self, id: DataId) -> Result<(), Error> {
        self.handles.sync(id)
    }

    /// Removes a file; one that is not there is fine. To be called once the record that gives it up is durable.
    pub fn remove(&self, id: DataId) -> Result<(), Error> {
        self.handles.forget(id);
        disk::remove_if_there(&*self.disk, &name(id))?;
        self.occupied.lock().remove(id);
        Ok(())
    }

    /// A handle for reading that the kernel is to be given (passthrough); `None` where it could not be known later whether
    /// somebody still has the file open or mapped. [`Error::Missing`] on a disk that is no file system.
    pub fn open_to_lend(&self, id: DataId) -> Result<Option<std::fs::File>, Error> {
        let file = self.open_read_only(id)?;
        Ok((alone::others(&file) != Others::Unknown).then_some(file))
    }

    /// A handle for reading, whoever else has the file open.
    pub fn open_read_only(&self, id: DataId) -> Result<std::fs::File, Error> {
        let path = self.disk.path(&name(id)).ok_or(Error::Missing(id))?;
        std::fs::File::open(path).map_err(|error| missing(id, error))
    }

    /// True if nobody but `of`, a handle for reading of the file, has it open or mapped. Closes what is kept open here and clean.
    pub fn is_alone(&self, id: DataId, of: &std::fs::File) -> bool {
        self.handles.close(id) && alone::others(of) == Others::None
    }

    fn change(&self, id: DataId, change: impl FnOnce(&dyn DiskFile) -> io::Result<()>) -> Result<(), Error> {
        self.handles.check(id)?;
        let file = self.handles.get_or_create(id)?;
        let result = change(&*file);
        // Also after an error: part of it may be in the page cache.
        self.handles.mark_dirty(id);
        Ok(result?)
    }
}

fn missing(id: DataId, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::Missing(id),
        _ => error.into(),
    }
}

/// Directory of a file.
fn directory(id: DataId) -> String {
    format!("{DIRECTORY}/{}", &id.inode.to_string()[..FAN_OUT])
}

/// Name of a file on the disk.
fn name(id: DataId) -> String {
    format!("{}/{}.{:016x}", directory(id), id.inode, id.generation)
}

fn parse(name: &str) -> Option<DataId> {
    let (inode, generation) = name.split_once('.')?;
    let canonical = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !canonical(inode) || !canonical(generation) || generation.len() != 16 {
        return None;
    }
    Some(DataId { inode: inode.parse().ok()?, generation: u64::from_str_radix(generation, 16).ok()? })
}

#[cfg(test)]
mod tests;
