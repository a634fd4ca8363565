//! What fsync and close promise, and who hears of uploads that failed.

use super::{Opened, Volume};
use crate::error::{Error, Result};
use std::time::{Duration, Instant};
use strewn_cache::{FileState, Listener};
use strewn_engine::ids::InodeId;

/// How far bytes have to be before a call returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// They survive what this machine survives.
    #[default]
    Machine,
    /// They survive the loss of this machine.
    Network,
}

/// What a volume promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promises {
    /// fsync, fdatasync, msync and writes with `O_SYNC`.
    pub fsync: Reach,
    /// close; [`Reach::Machine`]: what a write promises.
    pub close: Reach,
}

impl Volume {
    /// Makes a file durable, content and attributes: on this machine, and if so [promised](Promises) on the network. Reports
    /// once per open file that its upload fails. Errors: `EIO`; `EDQUOT` and `ENOSPC` where these are why.
    pub async fn fsync(&self, inode: InodeId, handle: u64, data_only: bool) -> Result<()> {
        let synced = match self.cache.sync(inode, data_only).await {
            // What the network has is one moment of the whole drive, so all of it has to go.
            Ok(()) if self.promises.fsync == Reach::Network => self.cache.drain(|_| {}).await,
            synced => synced,
        };
        self.report(inode, Listener { handle, closer: None }, synced)
    }

    /// What close(2) waits for and reports: nothing unless [promised](Promises), and that the upload fails: once per open file
    /// and `closer`, since every process that was forked closes a copy.
    pub async fn flush(&self, inode: InodeId, handle: u64, closer: u64) -> Result<()> {
        let waits = self.promises.close == Reach::Network && self.cache.file_state(inode) != FileState::Committed;
        let flushed = if waits { self.cache.drain(|_| {}).await } else { Ok(()) };
        self.report(inode, Listener { handle, closer: Some(closer) }, flushed)
    }

    /// An open file is closed for good.
    pub fn release(&self, inode: InodeId, handle: u64) {
        self.closed(inode, handle);
        self.cache.release(inode, handle);
    }

    /// The same of a directory.
    pub fn release_dir(&self, inode: InodeId, handle: u64) {
        self.release(inode, handle);
        self.ends.forget(handle);
    }

    pub(super) fn opened_listing(&self, directory: InodeId, most: Duration) -> Opened {
        let handle = self.next_handle(false);
        self.nodes.opened(directory);
        let keep_copies = self.nodes.open_keeps_listing(directory, Instant::now(), most);
        Opened { keep_copies, handle, lent: None }
    }

    /// The reason why the upload of the file fails says more than that it is not there yet.
    fn report(&self, inode: InodeId, listener: Listener, result: Result<(), strewn_cache::Error>) -> Result<()> {
        let result = match self.cache.failure(inode, listener) {
            Some(failure) => Err(failure),
            None => result,
        };
        result.map_err(|error| Error::from(error).into_sync())
    }
}
