//! The inode record: what only key holders know of an inode.
//!
//! ```text
//! version = 1 (1) | postcard of Record
//! ```
//! sealed by [`InodeKeys::seal_record`](crate::keys::InodeKeys::seal_record).

use crate::bucket::{self, Kind, MAX_OFFSET, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Bytes>;

/// Longest name of an extended attribute in bytes.
pub const MAX_XATTR_NAME: usize = 255;
/// Most bytes of all names and values of an inode's extended attributes together.
pub const MAX_XATTR_BYTES: usize = 64 * 1024;
/// Most extended attributes of an inode.
pub const MAX_XATTRS: usize = 1024;
/// Longest target of a symlink in bytes.
pub const MAX_TARGET: usize = 4095;
/// Largest `mode`: permission bits, set-user-id, set-group-id and sticky.
pub const MAX_MODE: u32 = 0o7777;

const VERSION: u8 = 1;
const NANOS: u32 = 1_000_000_000;

/// Attributes of an inode as `stat` and `getxattr` show them, without what the tree counts (nlink).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Kind; never changes.
    pub kind: Kind,
    /// Permission bits, `0..=0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes of a file; of the target of a symlink; else 0.
    pub size: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Device number of device nodes.
    pub rdev: u64,
    /// Target of a symlink, 1..=4095 bytes without NUL; else empty.
    pub target: Bytes,
    /// Extended attributes: at most [`MAX_XATTRS`], names 1..=255 bytes without NUL, 64 KiB in all with their names.
    pub xattrs: Arc<Xattrs>,
}

/// What an inode's key holder seals with it at each commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The attributes.
    pub attributes: Attributes,
    /// [`content_hash`](crate::content::window::content_hash) over the tags of the file's windows; of none for others.
    pub content: [u8; 32],
    /// Directories: the newest entry change that `attributes` already reflect. A later one overrides their times.
    pub entries_as_of: Timestamp,
}

/// A record or attributes outside of the bounds, or bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid inode record: {0}")]
pub struct InvalidRecord(pub &'static str);

impl Attributes {
    /// Checks all bounds; attributes that fail cannot be stored.
    pub fn check(&self) -> Result<(), InvalidRecord> {
        ensure(self.mode <= MAX_MODE, "mode")?;
        let times = [self.atime, self.mtime, self.ctime, self.btime];
        ensure(times.iter().all(|time| time.nanos < NANOS), "nanoseconds")?;
        match self.kind {
            Kind::Symlink => {
                ensure((1..=MAX_TARGET).contains(&self.target.len()), "length of the target")?;
                ensure(!self.target.contains(&0), "NUL in the target")?;
                ensure(self.size == self.target.len() as u64, "size of a symlink")?;
            }
            Kind::File => {
                ensure(self.target.is_empty(), "target of a file")?;
                ensure(self.size <= MAX_OFFSET, "size")?;
            }
            _ => {
                ensure(self.target.is_empty(), "target of what is no symlink")?;
                ensure(self.size == 0, "size of what is no file")?;
            }
        }
        check_xattrs(&self.xattrs)
    }
}

/// Checks names, number and total size of extended attributes.
pub fn check_xattrs(xattrs: &Xattrs) -> Result<(), InvalidRecord> {
    ensure(xattrs.len() <= MAX_XATTRS, "number of extended attributes")?;
    let mut total = 0usize;
    for (name, value) in xattrs {
        ensure((1..=MAX_XATTR_NAME).contains(&name.len()), "length of an extended attribute's name")?;
        ensure(!name.contains(&0), "NUL in an extended attribute's name")?;
        total = total.saturating_add(name.len()).saturating_add(value.len());
    }
    ensure(total <= MAX_XATTR_BYTES, "bytes of extended attributes")
}

impl Record {
    /// Checks all bounds; a record that fails cannot be stored.
    pub fn check(&self) -> Result<(), InvalidRecord> {
        ensure(self.entries_as_of.nanos < NANOS, "nanoseconds")?;
        self.attributes.check()
    }

    /// The attributes to show. Entry changes of a directory touch no sealed record, so its times come from the row's clear
    /// change time where that is newer than what the record reflects. A ctime never goes back.
    pub fn effective(&self, row: &bucket::Inode) -> Attributes {
        let mut attributes = self.attributes.clone();
        // Clear, so anybody's: a malformed one must not reach the kernel.
        let changed = Timestamp { nanos: row.entries_changed.nanos.min(NANOS - 1), ..row.entries_changed };
        if attributes.kind == Kind::Directory && changed > self.entries_as_of {
            attributes.mtime = changed;
            attributes.ctime = attributes.ctime.max(changed);
        }
        attributes
    }

    /// The plaintext that is sealed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain structs encode")
    }

    /// Reads what was sealed, with all bounds checked.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        let Some((&VERSION, body)) = bytes.split_first() else { return Err(InvalidRecord("version")) };
        let (record, rest) = postcard::take_from_bytes::<Self>(body).map_err(|_| InvalidRecord("encoding"))?;
        ensure(rest.is_empty(), "trailing bytes")?;
        record.check()?;
        Ok(record)
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), InvalidRecord> {
    holds.then_some(()).ok_or(InvalidRecord(what))
}
