//! The pieces a node holds: append-only logs, and an index that can be rebuilt from them.
//!
//! - A piece is written where it stays while it streams in ([`Incoming`]); a footer makes it valid.
//! - [`Store::commit`] and [`Store::delete`] return only what survives a power cut; those that come together share one
//!   sync of each log.
//! - After a write or sync has failed nothing more is written (what the disk then holds is unknown); reading goes on.
//! - Methods without `async` do blocking I/O, but for [`Store::admit`].

mod commit;
mod compact;
mod incoming;
mod index;
mod log;
mod piece;
mod record;
mod recover;
mod space;

pub(crate) use log::sync_directory;

pub use compact::Compacted;
pub use incoming::Incoming;
pub use piece::Piece;
pub use space::Bytes;

use crate::disk::{self, Lost};
use crate::group::Group;
use commit::{Committer, Done, Operation};
use index::{Index, Location};
use log::{Log, LogError};
use parking_lot::Mutex;
use record::{BadLog, Nonce, ShareSums, UNIT};
use space::{Found, Space};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use strewn_engine::ids::PieceId;
use strewn_wire::node::SHARE;

/// How a store is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes that logs may take.
    pub capacity: u64,
    /// Bytes of the file system that stay free for others.
    pub reserve: u64,
    /// A log that would exceed this many bytes is followed by a new one.
    pub roll: u64,
}

impl StoreOptions {
    /// With the default reserve and log size.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, reserve: RESERVE, roll: ROLL }
    }
}

/// Bytes of the file system that stay free.
const RESERVE: u64 = 256 << 20;
/// Size of a log.
const ROLL: u64 = 1 << 30;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("piece store: {0}")]
    Io(#[from] io::Error),
    /// SQLite failed.
    #[error("piece index: {0}")]
    Index(#[from] rusqlite::Error),
    /// A log was written by another version of the program.
    #[error("{0}")]
    Version(String),
    /// No random numbers.
    #[error("random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io(error) => Self::Io(error),
            LogError::Bad(error @ BadLog::Version(_)) => Self::Version(error.to_string()),
            LogError::Bad(error @ BadLog::Damaged) => Self::Io(io::Error::other(error)),
        }
    }
}

/// Why a store does not do what is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Capacity or disk is exhausted.
    #[error("no room for the piece")]
    Full,
    /// A piece of this id but other content is stored.
    #[error("piece exists with other content")]
    Exists,
    /// There certainly is no such piece.
    #[error("no such piece")]
    NotFound,
    /// What is on disk is not what was written.
    #[error("piece damaged")]
    Damaged,
    /// The disk or the database failed.
    #[error("{0}")]
    Failed(String),
}

impl From<Lost> for StoreError {
    fn from(lost: Lost) -> Self {
        Self::Failed(lost.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(format!("piece index: {error}"))
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Failed(format!("piece log: {error}")),
        }
    }
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io(error) => error.into(),
            LogError::Bad(_) => Self::Damaged,
        }
    }
}

/// See the module.
pub struct Store {
    shared: Arc<Shared>,
    commits: Arc<Group<Committer>>,
    damaged_logs: u64,
}

struct Shared {
    directory: PathBuf,
    options: StoreOptions,
    index_path: PathBuf,
    /// `None` once the store is closed.
    index: Mutex<Option<Index>>,
    space: Arc<Space>,
    /// Why nothing is written any more.
    failed: OnceLock<String>,
    /// Jobs go on when the store is dropped; so must the lock.
    _lock: Option<Arc<File>>,
}

impl Store {
    /// Opens the store in `directory`, which is made if it does not exist; `name` tells its index from another store's.
    /// `lock` is held as long as anything may still be written.
    pub fn open(
        directory: &Path,
        name: &[u8; 16],
        options: StoreOptions,
        lock: Option<Arc<File>>,
    ) -> Result<Self, OpenError> {
        std::fs::create_dir_all(directory)?;
        let index_path = directory.join("index.db");
        let mut index = Index::open(&index_path, name)?;
        let recovered = match recover::recover(directory, &mut index) {
            Err(OpenError::Index(error)) => {
                tracing::warn!(%error, "piece index unusable, rebuilding it from the logs");
                drop(index);
                index::remove(&index_path);
                index = Index::open(&index_path, name)?;
                recover::recover(directory, &mut index)?
            }
            other => other?,
        };
        let mut logs = recovered.logs;
        let current = match recovered.last {
            Some(last) => last,
            None => {
                let number = recovered.highest + 1;
                logs.push(Found { number, end: UNIT, live: 0 });
                Arc::new(Log::create(directory, number, random_nonce()?)?)
            }
        };
        let space = Arc::new(Space::new(directory.to_owned(), options.roll, logs, current));
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            options,
            index_path,
            index: Mutex::new(Some(index)),
            space,
            failed: OnceLock::new(),
            _lock: lock,
        });
        let committer = Committer::new(shared.clone(), recovered.seq, recovered.pieces);
        Ok(Self { shared, commits: Group::new(Arc::new(committer)), damaged_logs: recovered.damaged })
    }

    /// Makes room for a piece of `length` bytes (1..=[`MAX_PIECE`](strewn_wire::node::MAX_PIECE)). Dropping what it returns
    /// gives the room back.
    pub fn admit(&self, piece: PieceId, length: u64, expires: Option<i64>) -> Result<Incoming, StoreError> {
        let shared = &self.shared;
        shared.check()?;
        let promise = shared.space.admit(length, shared.options.capacity).ok_or(StoreError::Full)?;
        if shared.free_disk()? < record::record_length(length) {
            return Err(StoreError::Full);
        }
        Ok(Incoming::new(shared.clone(), promise, piece, length, expires.unwrap_or(record::NEVER)))
    }

    /// Makes a wholly received piece durable and returns its root. If the very same piece is stored already, that one
    /// stays.
    pub async fn commit(&self, incoming: Incoming) -> Result<[u8; 32], StoreError> {
        let root = incoming.root();
        match self.commits.submit(Operation::Put(incoming.fill()?)).await?? {
            Done::Stored => Ok(root),
            _ => Err(StoreError::Failed("a put was answered as something else".into())),
        }
    }

    /// Removes a piece durably; false if there is none.
    pub async fn delete(&self, piece: PieceId) -> Result<bool, StoreError> {
        Ok(matches!(self.commits.submit(Operation::Delete(piece)).await??, Done::Deleted(true)))
    }

    /// Opens a piece for reading.
    pub fn piece(&self, piece: &PieceId) -> Result<Piece, StoreError> {
        Piece::open(&self.shared, piece)
    }

    /// Up to `limit` pieces whose time was over before `now`, in seconds since 1970.
    pub fn expired(&self, now: i64, limit: u32) -> Result<Vec<PieceId>, StoreError> {
        self.shared.index(|index| index.expired(now, limit))
    }

    /// What is taken.
    pub fn bytes(&self) -> Bytes {
        self.shared.space.bytes()
    }

    /// Pieces that exist.
    pub fn pieces(&self) -> u64 {
        self.commits.batch().pieces()
    }

    /// Logs whose header could not be read when the store was opened.
    pub fn damaged_logs(&self) -> u64 {
        self.damaged_logs
    }

    /// Bytes that could still be stored, as capacity and disk have it.
    pub fn free(&self) -> u64 {
        let bytes = self.bytes();
        let room = self.shared.options.capacity.saturating_sub(bytes.used + bytes.promised);
        if self.shared.failed.get().is_some() { 0 } else { room.min(self.shared.free_disk().unwrap_or(0)) }
    }

    /// Why nothing is written any more, if so.
    pub fn failed(&self) -> Option<&str> {
        self.shared.failed.get().map(String::as_str)
    }

    /// Waits until every commit and delete that was begun is done, even those whose caller went away.
    pub async fn idle(&self) {
        self.commits.idle().await;
    }

    /// Waits for what is being written, then gives the index free. Nothing works any more.
    pub async fn close(&self) {
        self.shared.failed.get_or_init(|| "closed".into());
        self.idle().await;
        let shared = self.shared.clone();
        if disk::run(move || drop(shared.index.lock().take())).await.is_err() {
            tracing::error!("the piece index was not closed");
        }
    }

    /// Flips a bit of every share on disk, for tests of what happens then; returns the number of pieces.
    pub fn damage_all(&self) -> Result<u64, StoreError> {
        let mut count = 0;
        for (number, end) in self.shared.space.ends() {
            let Some(log) = self.shared.space.log(number)? else { continue };
            let limit = u32::try_from(end / UNIT).unwrap_or(u32::MAX);
            for (_, at) in self.shared.index(|index| index.of_log(number, 0, limit))? {
                for share in (at.offset + UNIT..at.offset + UNIT + at.length).step_by(SHARE as usize) {
                    let mut byte = [0];
                    log.read_at(share, &mut byte)?;
                    log.write_at(share, &[byte[0] ^ 1])?;
                }
                count += 1;
            }
        }
        Ok(count)
    }
}

impl Shared {
    /// Refuses once writing has failed.
    fn check(&self) -> Result<(), StoreError> {
        self.failed.get().map_or(Ok(()), |reason| Err(StoreError::Failed(reason.clone())))
    }

    /// Notes that nothing must be written any more.
    fn fail(&self, error: StoreError) -> StoreError {
        tracing::error!(%error, "the piece store writes no more");
        let reason = self.failed.get_or_init(|| error.to_string());
        StoreError::Failed(reason.clone())
    }

    /// Asks the index; notes when it turns out damaged.
    fn index<T>(&self, ask: impl FnOnce(&mut Index) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let result = match self.index.lock().as_mut() {
            Some(index) => ask(index),
            None => return Err(StoreError::Failed("closed".into())),
        };
        if let Err(error) = &result
            && !matches!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
            )
        {
            index::mark_suspect(&self.index_path);
        }
        Ok(result?)
    }

    /// Bytes of the file system that may still be taken.
    fn free_disk(&self) -> Result<u64, StoreError> {
        let disk = rustix::fs::statvfs(&self.directory).map_err(io::Error::from)?;
        Ok((disk.f_bavail.saturating_mul(disk.f_frsize)).saturating_sub(self.options.reserve))
    }

    /// A place in the logs.
    fn place(&self, length: u64) -> Result<space::Place, StoreError> {
        let nonce = random_nonce().map_err(|e| StoreError::Failed(e.to_string()))?;
        Ok(self.space.place(length, || nonce)?)
    }
}

/// Reads up to `count` shares from `first` on into `data`; false if one is not what was written.
fn check_shares(
    log: &Log,
    at: &Location,
    sums: &[ShareSums],
    first: usize,
    count: usize,
    data: &mut Vec<u8>,
) -> io::Result<bool> {
    let start = first as u64 * SHARE;
    let end = (start + count as u64 * SHARE).min(at.length);
    data.resize(end.saturating_sub(start) as usize, 0);
    log.read_at(at.offset + UNIT + start, data)?;
    let sums = sums.get(first..).unwrap_or_default();
    Ok(data.chunks(SHARE as usize).zip(sums).all(|(share, sums)| crc32c::crc32c(share) == sums.crc))
}

fn random_nonce() -> Result<Nonce, getrandom::Error> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests;
