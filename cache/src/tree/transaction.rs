//! What runs against the tree under its lock, and becomes one journal record.

use crate::Name;
use std::marker::PhantomData;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// Why a transaction's closure stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Something is not in memory: the cache loads it and runs the closure anew.
    Missing(Missing),
    /// The caller refuses: becomes [`Error::Errno`](crate::Error::Errno).
    Errno(i32),
    /// The inode is not known (forgotten or deleted): becomes [`Error::Stale`](crate::Error::Stale).
    Stale,
}

/// What is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Missing {
    /// One name of a directory.
    Entry(InodeId, Name),
    /// All names of a directory.
    Listing(InodeId),
}

/// A line of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Where to go on: give it as `after`. From 1, in order of arrival, never reused while the directory is in memory.
    pub cookie: u64,
    /// The name.
    pub name: Name,
    /// The child.
    pub inode: InodeId,
    /// Its kind.
    pub kind: Kind,
}

/// A view of the tree with the changes made so far in this transaction.
pub struct Transaction<'a> {
    tree: PhantomData<&'a mut ()>,
}

impl Transaction<'_> {
    /// Attributes of an inode.
    pub fn attributes(&self, inode: InodeId) -> Result<Attributes, Stop> {
        let _ = inode;
        Err(Stop::Stale)
    }

    /// Kind of an inode.
    pub fn kind(&self, inode: InodeId) -> Result<Kind, Stop> {
        let _ = inode;
        Err(Stop::Stale)
    }

    /// Names of a non-directory; 2 + subdirectories of a directory; 0 of an orphan.
    pub fn nlink(&self, inode: InodeId) -> Result<u32, Stop> {
        let _ = inode;
        Err(Stop::Stale)
    }

    /// Bytes of a file that are not holes, for `st_blocks`; an estimate where extents are not loaded.
    pub fn allocated(&self, inode: InodeId) -> Result<u64, Stop> {
        let _ = inode;
        Err(Stop::Stale)
    }

    /// What a name of a directory names.
    pub fn entry(&self, directory: InodeId, name: &Name) -> Result<Option<InodeId>, Stop> {
        let _ = (directory, name);
        Err(Stop::Stale)
    }

    /// True if a directory has no names.
    pub fn is_empty(&self, directory: InodeId) -> Result<bool, Stop> {
        let _ = directory;
        Err(Stop::Stale)
    }

    /// Up to `max` lines of a directory after cookie `after` (0 for the start), without `.` and `..`, not counting changes
    /// of this transaction. The inodes are in memory.
    pub fn read_dir(&self, directory: InodeId, after: u64, max: usize) -> Result<Vec<DirectoryEntry>, Stop> {
        let _ = (directory, after, max);
        Err(Stop::Stale)
    }

    /// The directory that holds a directory; the root is its own parent.
    pub fn parent(&self, directory: InodeId) -> Result<InodeId, Stop> {
        let _ = directory;
        Err(Stop::Stale)
    }

    /// True if open handles or kernel references pin the inode.
    pub fn is_pinned(&self, inode: InodeId) -> Result<bool, Stop> {
        let _ = inode;
        Err(Stop::Stale)
    }

    /// A new inode with these attributes (the kind is theirs, the size that of the symlink's target or 0). It needs a name, or
    /// a pin, in the same transaction, or it is dropped again.
    pub fn create(&mut self, attributes: Attributes) -> Result<InodeId, Stop> {
        let _ = attributes;
        Err(Stop::Stale)
    }

    /// Replaces attributes. Kind and size stay as they are whatever is given.
    pub fn set_attributes(&mut self, inode: InodeId, attributes: Attributes) -> Result<(), Stop> {
        let _ = (inode, attributes);
        Err(Stop::Stale)
    }

    /// Lets a name of a directory name `child`, or nothing. The tree counts nlink and knows the parent of a moved directory;
    /// what the name named before loses a name, and is dropped with the last one (once unpinned). The entry must be in
    /// memory: ask [`entry`](Self::entry) first. Times are the caller's to set.
    pub fn set_entry(&mut self, directory: InodeId, name: &Name, child: Option<InodeId>) -> Result<(), Stop> {
        let _ = (directory, name, child);
        Err(Stop::Stale)
    }

    /// Cuts a file at `size`, or extends it with a hole.
    pub fn resize(&mut self, inode: InodeId, size: u64) -> Result<(), Stop> {
        let _ = (inode, size);
        Err(Stop::Stale)
    }

    /// Makes a hole of `offset..offset + length`, up to the end of the file; the size stays.
    pub fn punch(&mut self, inode: InodeId, offset: u64, length: u64) -> Result<(), Stop> {
        let _ = (inode, offset, length);
        Err(Stop::Stale)
    }

    /// Counts one open handle or kernel reference: a pinned inode stays in memory and keeps its content when it loses its last
    /// name. Not journaled: after a crash nothing is pinned.
    pub fn pin(&mut self, inode: InodeId) -> Result<(), Stop> {
        let _ = inode;
        Err(Stop::Stale)
    }

    /// Takes back `count` pins. Unknown inodes are ignored.
    pub fn unpin(&mut self, inode: InodeId, count: u64) {
        let _ = (inode, count);
    }
}
