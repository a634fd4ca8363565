//! The inode record: what only key holders know of an inode.

use crate::bucket::{Kind, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Bytes>;

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
    /// Target of a symlink, 1..=4095 bytes; else empty.
    pub target: Bytes,
    /// Extended attributes: names 1..=255 bytes, values at most 64 KiB, 64 KiB in all.
    pub xattrs: Arc<Xattrs>,
}
