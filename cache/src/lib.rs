//! The write-back segment cache: a mount's replica of its bucket on the local disk.
//!
//! It holds the tree a mount knows, the bytes it has, and what the network does not have yet. Changes are
//! [`Transaction`]s: read the state, decide, change it; one journal record makes them atomic and durable. In the
//! background, cuts of the pending state are sealed and committed to the bucket.
//!
//! What a caller may rely on is the durability table of strewn-semantics(7).

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::{self, BucketService, Usage};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;
use strewn_engine::secret::Key;

/// Settings of a cache; see [`Options::default`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Most bytes of data files, journal and sealed segments on disk.
    pub budget: u64,
    /// Most bytes that may wait for the network; beyond it writers wait, then get [`Error::NoSpace`].
    pub dirty_limit: u64,
    /// A cut is due after this long without changes.
    pub cut_idle: Duration,
    /// A cut is due once this many bytes are dirty.
    pub cut_bytes: u64,
    /// A cut is due once the oldest change is this old.
    pub cut_age: Duration,
    /// Most bytes fetched ahead of a sequential reader.
    pub read_ahead: u64,
    /// How long an operation may wait for the network or for room before it fails.
    pub deadline: Duration,
    /// No changes.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: 10 << 30,
            dirty_limit: 5 << 30,
            cut_idle: Duration::from_secs(1),
            cut_bytes: 64 << 20,
            cut_age: Duration::from_secs(10),
            read_ahead: 16 << 20,
            deadline: Duration::from_secs(30),
            read_only: false,
        }
    }
}

/// The directory a cache shows as its root.
#[derive(Debug, Clone)]
pub struct Root {
    /// Its inode.
    pub inode: InodeId,
    /// Its key.
    pub key: Key,
}

/// A cache. Clones share it.
#[derive(Clone)]
pub struct Cache {}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At this offset.
    At(u64),
    /// At the end of the file, atomically (O_APPEND).
    End,
}

/// Why an operation of the cache failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's own refusal from inside a transaction: an errno.
    #[error("refused: errno {0}")]
    Errno(i32),
    /// The network did not answer before the deadline, or answered with an error.
    #[error(transparent)]
    Network(#[from] bucket::Error),
    /// What came from the network does not authenticate.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The cache disk or its budget is full and did not drain before the deadline.
    #[error("the cache is full: {0}")]
    NoSpace(String),
    /// The cache disk failed.
    #[error("cache disk: {0}")]
    Disk(Arc<std::io::Error>),
    /// Mounted read-only, by option or by grant.
    #[error("read-only")]
    ReadOnly,
    /// The inode is not known any more.
    #[error("stale inode")]
    Stale,
}
