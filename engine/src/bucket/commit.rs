//! How a bucket changes: one atomic batch of conditional row operations.
//!
//! All conditions of a batch are checked against the state before it, then all operations are applied; then what must
//! hold afterwards is checked (no cycle, every directory has one name, removed directories are empty, every
//! entry names an inode, extents stay within their runs and do not overlap). Any failure refuses the whole batch and
//! names the operation. So a rename is two [`SetEntry`], and two files swap names with two as well. A [`CheckGone`] keeps
//! one from removing what somebody else has changed meanwhile.
//!
//! Rights: adding a name needs write at the parent; removing or replacing one needs delete (replacing: both); putting an
//! existing inode needs write and delete on it; naming an inode that existed before the batch (link, move) needs that the
//! caller can reach it through an entry within its caveats before the batch.
//!
//! A name and an inode may come only once in a batch. A new run that no new extent refers to is not kept.
//! Setting a name from nothing to nothing only checks that it is free.
//!
//! An inode whose last name goes disappears with its extents; runs and segments are reference-counted through extents.

use super::lease::Lapse;
use super::rows::*;
use crate::ids::{CommitId, InodeId, MountId, RunId};
use serde::{Deserialize, Serialize};

/// Most operations in a batch, not counting [`CheckGone`], of which there are at most as many.
pub const MAX_OPERATIONS: usize = 4_096;
/// Most extents over all operations of a batch.
pub const MAX_EXTENTS: usize = 65_536;
/// Most new runs in a batch.
pub const MAX_RUNS: usize = 65_536;
/// Most bytes of an encoded batch.
pub const MAX_COMMIT_BYTES: usize = 32 << 20;

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Idempotency id: a replay of the same batch under the same id returns the first result.
    pub id: CommitId,
    /// The stream this batch belongs to.
    pub mount: MountId,
    /// Its number in the stream, from 1; batches apply in order without gaps. (A refused batch uses up no number, but its id
    /// stays refused: what follows it needs an id of its own.)
    pub number: u64,
    /// What changes.
    pub operations: Vec<Operation>,
    /// Runs that the new extents refer to and that are not yet known.
    pub runs: Vec<NewRun>,
}

/// One row operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Compare and set one name.
    SetEntry(SetEntry),
    /// Create an inode, or compare and set its row and replace ranges of its extents.
    PutInode(PutInode),
    /// Compare the version of an inode that the batch takes names of, if these are the last.
    CheckGone(CheckGone),
}

/// Compare and set one name of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEntry {
    /// The directory.
    pub parent: InodeId,
    /// The name.
    pub name: EncryptedName,
    /// What it must name before: an inode, or nothing.
    pub expected: Option<InodeId>,
    /// What it names afterwards: an inode, or nothing.
    pub target: Option<Target>,
    /// The time of the change, for the directory's clear change time (newest wins).
    pub time: Timestamp,
}

/// What an entry comes to name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The child.
    pub child: InodeId,
    /// Its kind, equal to that of its inode.
    pub kind: Kind,
    /// Its key under the directory's key.
    pub key: Sealed,
}

/// If an inode has no name after the batch, or none but what the batch sets, it must have this version: else somebody changed
/// what is about to go, and who removes it has not seen that. A name that the batch sets is for who still has it open. One of
/// the names of the batch must name it before, and the batch must not put it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckGone {
    /// The inode.
    pub inode: InodeId,
    /// Its version.
    pub version: u64,
}

/// Create an inode (`expected_version` 0) or replace its record and ranges of its extents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutInode {
    /// The inode.
    pub inode: InodeId,
    /// Its kind; must not change.
    pub kind: Kind,
    /// The version it must have before; 0: it must not exist.
    pub expected_version: u64,
    /// The version it has afterwards, larger than `expected_version`.
    pub version: u64,
    /// Logical size afterwards. Extents beyond it are dropped.
    pub size: u64,
    /// The sealed record, bound to (inode, kind, version).
    pub record: Sealed,
    /// Time of the change, clear.
    pub changed: Timestamp,
    /// Ranges to replace, sorted, not overlapping.
    pub ranges: Vec<RangeChange>,
    /// New tags of touched windows, sorted by window; `None` for a window that holds no extent any more (such a window may
    /// be left out: its tag goes by itself). A window whose extents change and that still holds some must have its tag here.
    pub tags: Vec<(u64, Option<WindowTag>)>,
}

/// Replaces `offset..offset + length` of a file: old extents are cut there, `extents` come in, the rest is a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeChange {
    /// First byte.
    pub offset: u64,
    /// Bytes, at least 1.
    pub length: u64,
    /// New extents within the range, sorted, not overlapping, none crossing a window border.
    pub extents: Vec<Extent>,
}

/// A run that the batch brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRun {
    /// The run.
    pub run: RunId,
    /// Its plaintext length in bytes.
    pub length: u64,
    /// Where its blocks lie.
    pub place: RunPlace,
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommitReply {
    /// Applied (now, or when it was first sent) as this sequence number of the bucket.
    Applied {
        /// Sequence number.
        sequence: u64,
    },
    /// Not applied.
    Refused {
        /// Index of the operation in the batch.
        operation: u32,
        /// Why.
        reason: Refusal,
    },
    /// Not applied, because of leases; nothing of it is remembered, so the same batch may be sent again.
    Lapsed(Lapse),
}

/// Why a batch was refused. The state is as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The name does not name what was expected.
    #[error("the name changed")]
    EntryChanged {
        /// What it names.
        found: Option<InodeId>,
    },
    /// The inode has another version (0: it does not exist).
    #[error("the inode changed")]
    VersionChanged {
        /// Its version.
        found: u64,
    },
    /// The directory does not exist or is none.
    #[error("no such directory")]
    NoDirectory,
    /// The entry would name an inode that does not exist, or of another kind.
    #[error("no such inode")]
    NoInode,
    /// A directory would disappear with entries in it.
    #[error("directory not empty")]
    NotEmpty,
    /// A directory would be inside itself.
    #[error("directory inside itself")]
    Cycle,
    /// A directory would have two names, or an inode would be put that has none.
    #[error("wrong number of names")]
    Names,
    /// Extents overlap, overflow, cross a window, leave their run, or name an unknown run or segment.
    #[error("bad extents: {0}")]
    BadExtents(String),
}
