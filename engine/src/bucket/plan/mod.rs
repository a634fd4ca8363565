//! What a commit does to a bucket, worked out without touching it.
//!
//! [`plan()`] reads the rows that a batch concerns through [`Rows`], checks all conditions and everything that must hold
//! afterwards, and returns the rows to write. Whoever keeps the rows (the in-memory bucket, a satellite's metabase)
//! applies the [`Plan`] within the transaction in which it was made; a refusal needs no undoing.
//!
//! The order of checks, and so the refusal a batch gets, is: conditions in the order of the operations; names, kinds and
//! counts; removed directories; cycles; new runs; extents.

mod content;
mod shape;
mod stream;
mod tree;

pub use shape::check_shape;
pub use stream::{RESULTS_KEPT, Turn, digest, turn};

use super::*;
use crate::ids::{InodeId, RunId, SegmentId};
use std::collections::{HashMap, HashSet};

/// An inode's row with what the keeper counts besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeRow {
    /// The row as it is handed out.
    pub inode: Inode,
    /// Entries of a directory, else 0.
    pub children: u64,
}

/// A run as its keeper knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Plaintext bytes.
    pub length: u64,
    /// Extents that refer to it, at least 1.
    pub references: u64,
    /// The segments its parts lie in, one per part; empty if it is inline.
    pub segments: Vec<SegmentId>,
}

/// The state a batch is checked against. Every answer is of one moment: the transaction the plan is applied in.
pub trait Rows {
    /// Failure of the store.
    type Error;

    /// The bucket's root directory.
    fn root(&self) -> InodeId;

    /// One name.
    fn entry(&mut self, parent: InodeId, name: &EncryptedName) -> Result<Option<Entry>, Self::Error>;

    /// One inode.
    fn inode(&mut self, inode: InodeId) -> Result<Option<InodeRow>, Self::Error>;

    /// The directory that names `directory`; `None` for the root.
    fn parent(&mut self, directory: InodeId) -> Result<Option<InodeId>, Self::Error>;

    /// Extents of a file that intersect `from..to`, whole, sorted.
    fn extents(&mut self, inode: InodeId, from: u64, to: u64) -> Result<Vec<Extent>, Self::Error>;

    /// Extents of a file that are parts of inline runs, sorted.
    fn inline_extents(&mut self, inode: InodeId) -> Result<Vec<Extent>, Self::Error>;

    /// Number of windows of a file that have a tag.
    fn windows(&mut self, inode: InodeId) -> Result<u64, Self::Error>;

    /// One run.
    fn run(&mut self, run: RunId) -> Result<Option<RunRow>, Self::Error>;

    /// Length of a stored segment that the committing key may refer to.
    fn segment(&mut self, segment: SegmentId) -> Result<Option<u64>, Self::Error>;
}

/// What came of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All conditions hold: apply this.
    Apply(Plan),
    /// Nothing may be applied.
    Refuse {
        /// Index of the operation.
        operation: u32,
        /// Why.
        reason: Refusal,
    },
}

/// Rows to write. Applying it is blind: no row needs to be read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Names with what they name afterwards.
    pub entries: Vec<(InodeId, EncryptedName, Option<Entry>)>,
    /// Inodes with their rows afterwards; with `None` its extents and tags go too.
    pub inodes: Vec<(InodeId, Option<InodeRow>)>,
    /// Extents of inodes that stay.
    pub extents: Vec<ExtentChange>,
    /// Tags of inodes that stay: those given, and `None` for windows that lost their last extent.
    pub tags: Vec<(InodeId, u64, Option<WindowTag>)>,
    /// Runs that come, change their number of references, or go.
    pub runs: Vec<(RunId, RunChange)>,
    /// By how much the references of segments change.
    pub segments: Vec<(SegmentId, i64)>,
    /// By how much the bytes that extents cover change. Sizes are never summed up: anybody sets them to anything.
    pub bytes: i64,
    /// By how much the number of inodes changes.
    pub inode_count: i64,
    /// For the change feed: names that changed.
    pub changed_entries: Vec<(InodeId, EncryptedName)>,
    /// For the change feed: inodes that were put or changed their number of names.
    pub changed_inodes: Vec<InodeId>,
}

/// How the extents of one file change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentChange {
    /// The file.
    pub inode: InodeId,
    /// Offsets of extents that go (one may come back changed).
    pub removed: Vec<u64>,
    /// Extents that come, and whether their run is inline.
    pub inserted: Vec<(Extent, bool)>,
}

/// How a run changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunChange {
    /// It comes, with so many references.
    New {
        /// Plaintext bytes.
        length: u64,
        /// Where it lies.
        place: RunPlace,
        /// Extents that refer to it.
        references: u64,
    },
    /// It stays, with so many references.
    References(u64),
    /// Nothing refers to it any more.
    Removed,
}

/// Works out what `commit`, of the right shape ([`check_shape`]), does to the state behind `rows`.
pub fn plan<R: Rows>(rows: &mut R, commit: &Commit) -> Result<Outcome, R::Error> {
    let result = (|| {
        let mut tree = tree::Tree::new(rows, commit);
        tree.check_conditions()?;
        tree.apply()?;
        // A mount can give up the move that closes a circle; what names are missing because of it shows then.
        tree.check_cycles()?;
        tree.check_names()?;
        let (mut plan, old_sizes) = tree.into_plan();
        content::plan_content(rows, commit, &old_sizes, &mut plan)?;
        Ok(plan)
    })();
    match result {
        Ok(plan) => Ok(Outcome::Apply(plan)),
        Err(Stop::Refused(operation, reason)) => Ok(Outcome::Refuse { operation: operation as u32, reason }),
        Err(Stop::Rows(error)) => Err(error),
    }
}

/// Why planning ends early.
enum Stop<E> {
    Refused(usize, Refusal),
    Rows(E),
}

impl<E> From<E> for Stop<E> {
    fn from(error: E) -> Self {
        Self::Rows(error)
    }
}
