//! The journal: an append-only log of changes that survives the process at once and a power cut after a sync.
//!
//! It knows sequence numbers and bytes, not what they mean. Files are `journal/<16 hex digits>`, numbered without reuse;
//! each is a journal file, written by one process in one boot, or a snapshot. Numbers are little-endian.
//!
//! ```text
//! file    0  magic       8   "strewnJ\0" journal, "strewnS\0" snapshot
//!         8  version     4   1
//!        12  zero        4
//!        16  number      8   the file's own
//!        24  base        8   journal: its first change is base + 1; snapshot: the state after change base
//!        32  boot id    16   of the machine when the file was begun
//!        48  zero       12
//!        60  CRC32C      4   of bytes 0..60
//!        64  records, back to back
//!
//! record  0  length      4   of the payload, at most MAX_PAYLOAD
//!         4  mark        4   "CHRG" change, "SPRT" part of a snapshot, "SEND" end of a snapshot
//!         8  sequence    8   change: its number; part: 1, 2, …; end: one more than the last part
//!        16  synced      8   every change up to this one was durable when this record was written
//!        24  CRC32C      4   of the payload
//!        28  CRC32C      4   of the file number (8 bytes) and bytes 0..28
//!        32  payload, then zeros up to a multiple of 8
//! ```
//!
//! Journal files are written with zeros ahead of the records, because a sync that only changes data is cheaper than one
//! that also moves the end of the file.
//!
//! **Recovery** starts at the newest complete snapshot (or at file 1 with base 0) and follows the journal files after it. A
//! file with base *b* cuts off every record after *b* in earlier files: they were lost, or not believed, when it was begun.
//! The chain ends at the first record that is not whole. If a record behind that place says that the missing one had been
//! durable, the disk lost what it had promised: that is [`Damage`], never passed over in silence. Otherwise it is the
//! tail that a power cut tore, and nobody was told that it was safe. Recovery changes nothing before it has made a new
//! file durable, so a crash during it is harmless.
//!
//! **Snapshots** are files of their own beside the journal file that takes the changes after their point, so changes go on
//! while one is written. Afterwards older files are *retired*: no longer needed to recover, still readable by position
//! until they are evicted whole.

mod format;
mod recover;
mod snapshot;
mod store;
mod writer;

pub use recover::{Record, RecordKind, Records, Recovered};
pub use snapshot::{Prepared, Snapshot};

use crate::disk::{self, Disk};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of one record's payload.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// Changes are durable this long after they were appended, plus the sync itself: together less than a second.
pub const SYNC_AFTER: Duration = Duration::from_millis(500);

/// How far ahead of the records zeros are written.
pub const PREWRITE: u64 = 4 << 20;

/// Number of a change, from 1 without gaps. 0 stands before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

/// Where the payload of a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Number of the journal or snapshot file.
    pub file: u64,
    /// Offset of the payload's first byte.
    pub offset: u64,
    /// Payload bytes.
    pub length: u32,
}

/// A change that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its number.
    pub sequence: Sequence,
    /// Where its payload lies.
    pub payload: Position,
}

/// A file that is no longer needed to recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// Its number.
    pub file: u64,
    /// Bytes it takes.
    pub bytes: u64,
}

/// One run of the machine: changes at every boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// The id of this boot, from the kernel.
    pub fn current() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.trim().chars().filter(|&digit| digit != '-').collect();
        let number =
            u128::from_str_radix(&digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// Settings of a journal.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This boot of the machine.
    pub boot: BootId,
    /// See [`SYNC_AFTER`]. Writers are held back ([`Journal::admit`]) when a sync is later than twice this.
    pub sync_after: Duration,
    /// See [`PREWRITE`]; 0 writes none.
    pub prewrite: u64,
    /// Go on with what lies before a damaged place instead of refusing. What lies behind it is lost.
    pub accept_damage: bool,
}

impl Settings {
    /// The defaults in this boot.
    pub fn new(boot: BootId) -> Self {
        Self { boot, sync_after: SYNC_AFTER, prewrite: PREWRITE, accept_damage: false }
    }
}

/// A place where a change that had been durable cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "change {missing} cannot be read in journal file {file:016x} at offset {offset}, though it was durable: {reason}"
)]
pub struct Damage {
    /// File in which the chain of changes breaks off.
    pub file: u64,
    /// Offset there.
    pub offset: u64,
    /// Number of the first change that is missing.
    pub missing: u64,
    /// What proves it.
    pub reason: String,
}

/// Why the journal did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A write or sync failed before, so it is unknown what is durable; no more changes are taken. The first cause.
    #[error("the journal failed and takes no more changes: {0}")]
    Poisoned(Arc<io::Error>),
    /// The disk is full. Nothing was appended; the journal goes on when there is room.
    #[error("no space for the journal")]
    NoSpace,
    /// The disk failed to read, or to make or list files.
    #[error("journal disk: {0}")]
    Io(Arc<io::Error>),
    /// More than [`MAX_PAYLOAD`] bytes.
    #[error("a record of {0} bytes is too large")]
    TooLarge(usize),
    /// Changes that were durable are unreadable; see [`Settings::accept_damage`].
    #[error("the journal is damaged: {0}")]
    Damaged(Damage),
    /// Written by another version of the program.
    #[error("journal file {file:016x} has format version {version}; this program reads version 1")]
    Version {
        /// The file.
        file: u64,
        /// Its version.
        version: u32,
    },
    /// The file of a position was evicted.
    #[error("journal file {0:016x} is gone")]
    Gone(u64),
    /// Bytes outside of the payload, or of the file.
    #[error("position outside of its record or file")]
    OutOfRange,
    /// One snapshot at a time.
    #[error("another snapshot is being written")]
    SnapshotRunning,
    /// The file is still needed to recover.
    #[error("journal file {0:016x} is in use")]
    InUse(u64),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if disk::is_full(&error) { Self::NoSpace } else { Self::Io(Arc::new(error)) }
    }
}

/// Reads what a disk holds as a journal in this boot would recover it, and changes nothing. Blocks.
///
/// Fails with [`Error::Damaged`] if changes that were durable are unreadable.
pub(crate) fn inspect(disk: &Arc<dyn Disk>, boot: BootId) -> Result<Recovered, Error> {
    let chain = recover::find(disk, &Settings::new(boot))?;
    Ok(Recovered::new(disk.clone(), boot, &chain))
}

/// An open journal. Clones share it; the last one dropped syncs what is written and stops its thread.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<writer::Handle>,
}

impl Journal {
    /// Recovers what the disk holds and begins a new file. Blocks.
    ///
    /// Fails with [`Error::Damaged`] without having changed anything, unless [`Settings::accept_damage`].
    pub fn open(disk: Arc<dyn Disk>, settings: Settings) -> Result<(Self, Recovered), Error> {
        let chain = recover::find(&disk, &settings)?;
        let (handle, recovered) = writer::Handle::start(disk, settings, chain)?;
        Ok((Self { handle: Arc::new(handle) }, recovered))
    }

    /// Appends a change whose payload is `parts` one after the other. When it returns, the change survives the death of
    /// the process. Cheap: one copy into the page cache, no wait for the disk. Callers that need an order between changes
    /// hold their own lock around it.
    pub fn append(&self, parts: &[&[u8]]) -> Result<Appended, Error> {
        self.handle.shared.append(parts)
    }

    /// Waits until every change up to `upto` survives a power cut. Waiters share syncs.
    pub async fn sync(&self, upto: Sequence) -> Result<(), Error> {
        self.handle.shared.sync(upto).await
    }

    /// Like [`Self::sync`], for threads that may block.
    pub fn sync_blocking(&self, upto: Sequence) -> Result<(), Error> {
        self.handle.shared.sync_blocking(upto)
    }

    /// Holds a writer back while the regular sync is late, so that no change stays unsafe for much longer than a second.
    /// To be called before a change, without locks held.
    pub async fn admit(&self) -> Result<(), Error> {
        self.handle.shared.admit().await
    }

    /// True while [`admit`](Self::admit) would wait.
    pub fn is_late(&self) -> bool {
        self.handle.shared.late().is_some()
    }

    /// What failed, if the journal takes no more changes.
    pub fn failure(&self) -> Option<Error> {
        self.handle.shared.failure()
    }

    /// The last change that survives a power cut.
    pub fn synced(&self) -> Sequence {
        Sequence(self.handle.shared.progress().synced)
    }

    /// The last change.
    pub fn last(&self) -> Sequence {
        self.handle.shared.last()
    }

    /// Bytes of changes since the point of the last complete snapshot: what a recovery would read.
    pub fn size_since_snapshot(&self) -> u64 {
        self.handle.shared.sizes().0
    }

    /// Bytes that live files (those a recovery needs, with their zeros ahead) and retired files take.
    pub fn bytes_on_disk(&self) -> u64 {
        self.handle.shared.sizes().1
    }

    /// First step of a snapshot: makes its files. Blocks; takes no lock that appends need.
    pub fn prepare_snapshot(&self) -> Result<Prepared, Error> {
        Prepared::new(self.handle.clone())
    }

    /// Appends bytes `range` of a payload to `buffer`.
    ///
    /// Fails with [`Error::Gone`] once the file was evicted.
    pub fn read_payload(&self, position: Position, range: Range<u32>, buffer: &mut BytesMut) -> Result<(), Error> {
        if range.start > range.end || range.end > position.length {
            return Err(Error::OutOfRange);
        }
        let file = self.handle.shared.store.file(position.file)?;
        let offset = position.offset.checked_add(range.start.into()).ok_or(Error::OutOfRange)?;
        let start = buffer.len();
        buffer.resize(start + range.len(), 0);
        file.read_exact_at(offset, &mut buffer[start..]).map_err(|error| {
            buffer.truncate(start);
            match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::OutOfRange,
                _ => error.into(),
            }
        })
    }

    /// Files that are no longer needed to recover, oldest first.
    pub fn retired(&self) -> Vec<Retired> {
        self.handle.shared.store.lock().retired()
    }

    /// Removes a retired file and every retired file before it; their payloads can no longer be read. Returns the bytes
    /// they took.
    pub fn evict(&self, file: u64) -> Result<u64, Error> {
        self.handle.shared.store.evict(file)
    }
}

#[cfg(test)]
mod tests;
