//! What the satellite keeps and hands out: rows in ciphertext.

use crate::ids::{InodeId, RunId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A moment as POSIX times have it: seconds since 1970 (may be negative) and 0..1_000_000_000 nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds within the second, 0..=999_999_999.
    pub nanos: u32,
}

/// What an inode is. Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// The cipher of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

/// A name under its directory's key: 16 bytes SIV and the padded name, 48..=272 bytes, a multiple of 16.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct EncryptedName(Vec<u8>);

impl EncryptedName {
    /// Shortest encrypted name in bytes.
    pub const MIN: usize = 16 + 32;
    /// Longest encrypted name in bytes.
    pub const MAX: usize = 16 + 256;

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for EncryptedName {
    type Error = InvalidRow;
    fn try_from(bytes: Vec<u8>) -> Result<Self, InvalidRow> {
        let fits = (Self::MIN..=Self::MAX).contains(&bytes.len()) && (bytes.len() - 16).is_multiple_of(32);
        fits.then_some(Self(bytes)).ok_or(InvalidRow("encrypted name"))
    }
}

impl From<EncryptedName> for Vec<u8> {
    fn from(name: EncryptedName) -> Self {
        name.0
    }
}

impl std::fmt::Debug for EncryptedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncryptedName({}…)", data_encoding::HEXLOWER.encode(&self.0[..8]))
    }
}

/// A row of the wrong shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct InvalidRow(pub &'static str);

/// Something sealed with AES-256-SIV under a key of the given generation (0 until a subtree is re-keyed).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sealed {
    /// Key generation, so that re-keying can tell old rows from new.
    pub generation: u32,
    /// SIV and ciphertext: 16 bytes longer than the plaintext.
    pub bytes: Bytes,
}

impl Sealed {
    /// Longest sealed record in bytes: 64 KiB of extended attributes, a symlink target, fixed fields and headroom.
    pub const MAX_RECORD: usize = 80 * 1024;
    /// A sealed 32-byte key.
    pub const KEY_LEN: usize = 16 + 32;
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The directory.
    pub parent: InodeId,
    /// The name under the directory's key.
    pub name: EncryptedName,
    /// What it names.
    pub child: InodeId,
    /// The child's kind.
    pub kind: Kind,
    /// The child's key under the directory's key ([`Sealed::KEY_LEN`] bytes).
    pub key: Sealed,
}

/// What the satellite keeps of an inode. Everything else is in the sealed record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// The inode.
    pub inode: InodeId,
    /// Its kind.
    pub kind: Kind,
    /// Row version: 1 when created, larger after every commit that puts the inode. The record is bound to it.
    pub version: u64,
    /// Names of a non-directory; 2 + subdirectories of a directory. Counted by the satellite.
    pub nlink: u32,
    /// Logical size in bytes (files), length of the target (symlinks), else 0. The record repeats it.
    pub size: u64,
    /// The sealed [`Record`](crate::record::Record), at most [`Sealed::MAX_RECORD`] bytes.
    pub record: Sealed,
    /// When the inode was last put (clear, set by the uplink).
    pub changed: Timestamp,
    /// Directories: newest time of an entry change (clear; newest wins). Zero for others and for fresh directories.
    pub entries_changed: Timestamp,
}

/// A page of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPage {
    /// Entries in the order of their encrypted names, each with its child.
    pub entries: Vec<(Entry, Inode)>,
    /// True if more follow the last one.
    pub more: bool,
    /// Sequence number of the bucket when the page was read.
    pub sequence: u64,
}

/// A stretch of a file: part of a run. Offsets and lengths in plaintext bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Length, at least 1. An extent never crosses a window border (64 MiB of file offset).
    pub length: u64,
    /// The run.
    pub run: RunId,
    /// Length of the whole run, at least `run_offset + length`.
    pub run_length: u64,
    /// Where the extent starts within the run.
    pub run_offset: u64,
    /// Cipher of the run.
    pub cipher: Cipher,
    /// The run's key under the file's key ([`Sealed::KEY_LEN`] bytes).
    pub run_key: Sealed,
}

impl Extent {
    /// Where the whole run would lie in the file; `None` if it would begin before or end beyond all files.
    pub fn whole_run(&self) -> Option<std::ops::Range<u64>> {
        let start = self.offset.checked_sub(self.run_offset)?;
        let end = start.checked_add(self.run_length).filter(|end| *end <= MAX_OFFSET)?;
        Some(start..end)
    }

    /// Offset of the first byte after the extent. The bounds are checked when a row is parsed, so this cannot overflow.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// Keyed BLAKE3 over one window's extents; see [`crate::content::window`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowTag(pub [u8; 32]);

/// Extents of a file with what proves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents {
    /// Row version of the inode these belong to.
    pub version: u64,
    /// Extents that intersect the asked range, sorted, not overlapping.
    pub extents: Vec<Extent>,
    /// Tags of all windows that have extents: (window number, tag), sorted. At most [`MAX_WINDOWS`].
    pub tags: Vec<(u64, WindowTag)>,
}

/// Most windows of a file that hold data: 65,536 (4 TiB of data in a file; holes do not count).
pub const MAX_WINDOWS: usize = 65_536;

/// Largest file offset: files end below 2^63.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// Where a new run lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPlace {
    /// In the metabase: one encrypted block, at most [`MAX_INLINE`] + 16 bytes.
    Inline(Bytes),
    /// In a segment that this key has put.
    Segment {
        /// The segment.
        segment: crate::ids::SegmentId,
        /// Offset of the run's first ciphertext byte within the segment.
        offset: u64,
        /// Ciphertext bytes: the run's blocks back to back.
        length: u64,
    },
}

/// Most plaintext bytes of an inline run.
pub const MAX_INLINE: usize = 4096;

/// Most inline bytes of a file, over all its runs.
pub const MAX_INLINE_FILE: u64 = 64 * 1024;

/// One change of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Sequence number of the commit, increasing by one per commit of the bucket.
    pub sequence: u64,
    /// Who committed it, so that a mount can skip its own.
    pub mount: crate::ids::MountId,
    /// Directories whose entries changed, with the names that did.
    pub entries: Vec<(InodeId, EncryptedName)>,
    /// Inodes that were put, or of which the number of names changed.
    pub inodes: Vec<InodeId>,
}

/// A stretch of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Epoch of the bucket.
    pub epoch: u64,
    /// Changes in order; empty if none came in time.
    pub changes: Vec<Change>,
    /// Newest sequence number covered.
    pub sequence: u64,
    /// True if the feed no longer reaches back to what was asked: everything must be revalidated.
    pub gap: bool,
}

/// What a bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of all files that are not in holes; what several files share counts for each.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Most bytes the bucket may hold; `None` for no limit but the nodes'.
    pub quota: Option<u64>,
    /// Bytes of user data that the online nodes could still take at the bucket's redundancy.
    pub available: u64,
}
