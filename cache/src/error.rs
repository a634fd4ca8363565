//! Why operations of the cache fail, by what a caller can do about it.

use std::sync::Arc;
use strewn_engine::bucket;

/// Why an operation of the cache failed.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// The bucket's quota is used up: what is queued stays queued, new writes are refused.
    #[error("quota exceeded: {0}")]
    Quota(String),
    /// The cache disk failed.
    #[error("cache disk: {0}")]
    Disk(Arc<std::io::Error>),
    /// Mounted read-only, by option or by grant.
    #[error("read-only")]
    ReadOnly,
    /// The inode is not known any more.
    #[error("stale inode")]
    Stale,
    /// The operation would exceed a limit of the file system (size, number of names, extended attributes).
    #[error("too large: {0}")]
    TooLarge(String),
    /// The cache is closed.
    #[error("closed")]
    Closed,
    /// Not everything reached the network; the queue is kept.
    #[error("not on the network yet: {0}")]
    Pending(String),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::NoSpace(error.to_string());
        }
        Self::Disk(Arc::new(error))
    }
}
