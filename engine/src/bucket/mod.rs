//! The bucket service: all that an uplink asks of a network about one bucket, in ciphertext.
//!
//! This is a seam with two implementations: `memory::MemoryBucket` here, and the network's in `strewn-peers`.
//! Everything above it (cache, drive) sees only these types; nothing in them needs a key to be stored or checked.
//!
//! A bucket is a tree of inodes. An [`Entry`] names a child in a directory; an [`Inode`] is what the satellite keeps of
//! an inode; [`Extent`]s say which parts of a file are parts of which runs; what no extent covers is a hole. The tree
//! changes only by a [`Commit`].

mod commit;
pub mod lease;
pub mod memory;
pub mod plan;
mod rows;

pub use commit::*;
pub use rows::*;

use crate::ids::{BucketId, InodeId, RunId, SegmentId};
use bytes::Bytes;
use lease::{HeldLease, LeaseReply, LeaseRequest};
use std::sync::Arc;
use std::time::Duration;

/// The ciphertext of a segment, as the sealed file of a cache holds it. Reading the same range twice gives the same bytes.
pub trait SegmentSource: Send + Sync {
    /// Length in bytes, 1..=the bucket's segment size.
    fn len(&self) -> u64;

    /// True when there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset`; the range lies within [`len`](Self::len).
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

impl SegmentSource for Bytes {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let start = offset as usize;
        let part = self.get(start..start + buffer.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// One bucket of a network, reached with one access grant.
///
/// Every method checks the grant's caveats at the satellite and fails with [`Error::Forbidden`] outside of them. Methods
/// retry what is safe to retry for a while, then fail with [`Error::Unreachable`]; they never turn unreachable into
/// absent. All take `&self` and may be called concurrently.
#[async_trait::async_trait]
pub trait BucketService: Send + Sync + 'static {
    /// The bucket's fixed settings, as read when it was opened.
    fn settings(&self) -> &BucketSettings;

    /// The entry `name` of directory `parent` with its child's row, or `None` if there certainly is none.
    async fn entry(&self, parent: InodeId, name: &EncryptedName) -> Result<Option<(Entry, Inode)>, Error>;

    /// Entries of `directory` in the order of their encrypted names, after `after`, at most `limit`
    /// (1..=[`MAX_PAGE`]), each with its child's row.
    async fn entries(&self, directory: InodeId, after: Option<&EncryptedName>, limit: u32) -> Result<EntryPage, Error>;

    /// The row of one inode. [`Error::NotFound`] if it certainly does not exist.
    async fn inode(&self, inode: InodeId) -> Result<Inode, Error>;

    /// The extents of a file that intersect `offset..offset + length` (whole extents, sorted), and all window tags.
    async fn extents(&self, inode: InodeId, offset: u64, length: u64) -> Result<Extents, Error>;

    /// Ciphertext of blocks `first..first + count` of a run that `inode` refers to: `count` blocks of
    /// [`BLOCK`](crate::content::BLOCK) bytes, the last block of the run possibly shorter. The bytes are those that were
    /// uploaded, proven against their piece roots; whether they decrypt is for the caller to check.
    async fn run_blocks(&self, inode: InodeId, run: RunId, first: u64, count: u64) -> Result<Bytes, Error>;

    /// Stores a segment durably on the network so that a commit may refer to it. Beginning the same id again resumes or
    /// does nothing. Segments that no commit refers to within a day are collected.
    async fn put_segment(&self, segment: SegmentId, source: Arc<dyn SegmentSource>) -> Result<(), Error>;

    /// Applies a batch, all or nothing, made under a lease or under none. `Ok` with [`CommitReply::Refused`] or
    /// [`CommitReply::Lapsed`] means nothing was applied.
    async fn commit(&self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error>;

    /// Asks for names, gives names up, and renews what is held: see [`lease`]. One request at a time per mount.
    async fn lease(&self, request: &LeaseRequest) -> Result<LeaseReply, Error>;

    /// Waits up to `wait` until a mount that believes to hold something under this epoch has to ask what became of it, with
    /// [`lease`](Self::lease): somebody wants some of it, or it is over. False if that is not so.
    async fn recalled(&self, lease: HeldLease, wait: Duration) -> Result<bool, Error>;

    /// Changes after sequence number `after`; waits up to `wait` for the first one, then returns what there is. After
    /// `u64::MAX` there is nothing: the answer is a gap, and where the feed ends now.
    async fn changes(&self, after: u64, wait: Duration) -> Result<Changes, Error>;

    /// What the bucket holds and may hold.
    async fn usage(&self) -> Result<Usage, Error>;

    /// How the segments are stored that hold blocks of a run that `inode` refers to, in the order of the blocks; none for
    /// an inline run. Of some age at most.
    async fn run_segments(&self, inode: InodeId, run: RunId) -> Result<Vec<SegmentState>, Error>;
}

/// How a segment is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentState {
    /// The segment.
    pub segment: SegmentId,
    /// Pieces that are believed to exist.
    pub pieces: u32,
    /// Pieces of them that are enough to read it.
    pub required: u32,
}

/// What never changes about a bucket.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BucketSettings {
    /// The bucket.
    pub bucket: BucketId,
    /// Inode of the bucket's root directory.
    pub root: InodeId,
    /// Largest segment in bytes (ciphertext), 64 MiB unless set otherwise; 64 KiB..=64 MiB.
    pub segment_size: u64,
    /// Cipher of new runs.
    pub cipher: Cipher,
    /// Changes when the satellite was restored from a snapshot; sequence numbers of different epochs do not compare.
    pub epoch: u64,
}

/// Largest page of [`BucketService::entries`].
pub const MAX_PAGE: u32 = 4_096;

/// A page of [`BucketService::entries`] ends, with `more`, once its records have this many bytes.
pub const MAX_PAGE_BYTES: usize = 16 << 20;

/// Why the service did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum Error {
    /// The satellite or too many nodes did not answer; nothing is known. Try again later.
    #[error("network unreachable: {0}")]
    Unreachable(String),
    /// The grant does not allow this (or has expired or been revoked).
    #[error("access denied: {0}")]
    Forbidden(String),
    /// What was named does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The bucket or project is full.
    #[error("quota exceeded: {0}")]
    Quota(String),
    /// Not enough nodes to store a segment as the redundancy asks.
    #[error("too few storage nodes: {found} available, {needed} needed")]
    TooFewNodes {
        /// Nodes that could be used.
        found: u32,
        /// Nodes the redundancy needs.
        needed: u32,
    },
    /// The network does not hold enough honest pieces to answer.
    #[error("data unavailable: {0}")]
    Unavailable(String),
    /// The request broke a rule of the protocol: a bug, or a peer that lies.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The same commit id came with other content, or a batch number out of order.
    #[error("commit out of order: {0}")]
    OutOfOrder(String),
    /// The peer failed inside (disk, database).
    #[error("peer failed: {0}")]
    Internal(String),
}

impl Error {
    /// True if the same request may succeed later without anything being changed by the user.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TooFewNodes { .. } | Self::Unavailable(_) | Self::Internal(_))
    }
}
