//! The public face of the cache.

use crate::{Error, Invalidation, Options, Root, Status, Stop, Transaction};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use strewn_engine::bucket::{BucketService, Usage};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;
use tokio::sync::mpsc;

/// A cache. Clones share it.
#[derive(Clone)]
pub struct Cache {
    options: Arc<Options>,
    root: InodeId,
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At this offset.
    At(u64),
    /// At the end of the file, atomically (O_APPEND).
    End,
}

/// What [`Cache::seek`] looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next byte in a hole; the end of the file counts as one.
    Hole,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where the first byte went.
    pub offset: u64,
    /// Size of the file afterwards.
    pub size: u64,
}

impl Cache {
    /// Opens the cache in `directory` (made if absent, locked while open) for one bucket and root, brings back what was
    /// pending, and starts its background tasks. Works without the network once the root has been seen.
    ///
    /// Errors: [`Error::Disk`] (also when another mount holds the directory or it belongs to another bucket or root),
    /// [`Error::Network`] when the root was never seen and the network is away, [`Error::Corrupt`] when the root key does
    /// not open it.
    pub async fn open(
        directory: &Path,
        bucket: Arc<dyn BucketService>,
        root: Root,
        options: Options,
    ) -> Result<Self, Error> {
        let _ = (directory, bucket);
        Ok(Self { options: Arc::new(options), root: root.inode })
    }

    /// The inode of the root directory.
    pub fn root(&self) -> InodeId {
        self.root
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Runs `body` against the tree and applies its changes as one atomic, journaled step when it returns `Ok`.
    ///
    /// `body` may run several times: when it stops with [`Stop::Missing`], the cache loads what was missing from the
    /// network and runs it anew (nothing of the stopped run remains). It holds the lock of the tree: no waiting inside.
    pub async fn transact<T, F>(&self, body: F) -> Result<T, Error>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop> + Send,
        T: Send,
    {
        let _ = body;
        Err(Error::Closed)
    }

    /// Like [`transact`](Self::transact), but never waits: `None` if something would have to be loaded. For what must not
    /// block, such as forgetting kernel references.
    pub fn try_transact<T, F>(&self, body: F) -> Option<Result<T, Error>>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop>,
    {
        let _ = body;
        None
    }

    /// Writes `data` and, in the same atomic step, lets `update` change attributes (times, mode bits; the size is already
    /// the new one and must be left alone). Pages of a hole between the old end and `offset` read as zeros.
    ///
    /// Errors: [`Error::NoSpace`], [`Error::Quota`], [`Error::ReadOnly`], [`Error::TooLarge`] beyond 2^63 - 1.
    pub async fn write<F>(&self, inode: InodeId, position: Position, data: &[u8], update: F) -> Result<Written, Error>
    where
        F: FnOnce(&mut Attributes) + Send,
    {
        let _ = (inode, position, data, update);
        Err(Error::Closed)
    }

    /// Reads up to `length` bytes from `offset`; shorter only at the end of the file.
    pub async fn read(&self, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Error> {
        let _ = (inode, offset, length);
        Err(Error::Closed)
    }

    /// The first offset at or after `offset` that is data or hole; `None` where lseek(2) says ENXIO.
    pub async fn seek(&self, inode: InodeId, offset: u64, what: Seek) -> Result<Option<u64>, Error> {
        let _ = (inode, offset, what);
        Err(Error::Closed)
    }

    /// Makes an inode durable on this machine: its content, and with it everything that was journaled before. Also reports,
    /// once, that an upload of it failed for good. `data_only` leaves out nothing but is a hint (fdatasync).
    pub async fn sync(&self, inode: InodeId, data_only: bool) -> Result<(), Error> {
        let _ = (inode, data_only);
        Err(Error::Closed)
    }

    /// Makes everything durable on this machine.
    pub async fn sync_all(&self) -> Result<(), Error> {
        Err(Error::Closed)
    }

    /// Waits until everything that was pending when it was called is on the network; calls `progress` about twice a
    /// second. [`Error::Pending`] says what is left when the network stays away for [`Options::deadline`] without progress;
    /// the queue is kept.
    pub async fn drain<F: FnMut(&Status) + Send>(&self, progress: F) -> Result<(), Error> {
        let _ = progress;
        Err(Error::Closed)
    }

    /// How it is going.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// What the bucket holds and may hold.
    pub async fn usage(&self) -> Result<Usage, Error> {
        Err(Error::Closed)
    }

    /// What other mounts changed, for whoever keeps copies (the kernel). The first call gets the receiver; it is bounded, and
    /// what does not fit becomes one [`Invalidation::All`].
    pub fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        None
    }

    /// Stops the background tasks, makes everything durable on this machine and gives up the lock. What the network does not
    /// have is kept for the next opening.
    pub async fn close(&self) -> Result<(), Error> {
        Err(Error::Closed)
    }
}
