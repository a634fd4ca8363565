//! Looking up, and reading and changing attributes.

use super::tree::{directory, existing, pinned_stat, refuse, stat};
use super::{Caller, Entry, Stat, Volume, acl, parse_name, rules};
use crate::error::Result;
use bytes::Bytes;
use rustix::io::Errno;
use strewn_cache::{Change, Stop, Transaction};
use strewn_engine::bucket::{Kind, MAX_OFFSET, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// Largest fraction of a second.
const MAX_NANOS: u32 = 999_999_999;

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the operation (`UTIME_NOW`).
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes to change; `None` stays (`UTIME_OMIT` for times). All `None` asks to strip privileges and nothing else, as
/// the kernel does before a write that changes no attribute it knows of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits, `0..=0o7777`; more are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size of a file.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

impl Volume {
    /// What a name names. Errors: `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub async fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Entry> {
        let name = parse_name(name)?;
        let found = self
            .cache
            .transact(|tx| {
                directory(tx, parent)?;
                let inode = existing(tx, parent, &name)?;
                pinned_stat(tx, inode)
            })
            .await?;
        Ok(self.entry(found))
    }

    /// Attributes. Errors: `ESTALE`.
    pub async fn getattr(&self, inode: InodeId) -> Result<Stat> {
        let found = self.cache.transact(|tx| stat(tx, inode)).await?;
        Ok(self.as_seen(found))
    }

    /// Changes attributes, all or none, and returns them.
    ///
    /// chown of anything but a directory, and truncate by a caller without privilege, strip set-user-id and set-group-id;
    /// both strip file capabilities. Errors: `EISDIR` and `EINVAL` for the size of what has none, `EFBIG`,
    /// `EPERM` for owners where the mount shows others.
    pub async fn setattr(&self, caller: Caller, inode: InodeId, change: SetAttributes) -> Result<Stat> {
        self.writable()?;
        let change = self.shown.owners_to_change(change)?;
        let now = self.now();
        let changed = self
            .cache
            .transact(|tx| {
                let mut attributes = tx.attributes(inode)?;
                self.nodes.merge_access(inode, &mut attributes);
                if let Some(size) = change.size {
                    set_size(tx, inode, &attributes, size)?;
                }
                apply(&mut attributes, change, caller, now);
                tx.set_attributes(inode, attributes)?;
                stat(tx, inode)
            })
            .await?;
        if change.size.is_some() {
            self.show_change(inode, Change::Size).await?;
        }
        if change.atime.is_some() {
            self.nodes.clear_access(inode);
        }
        Ok(self.as_seen(changed))
    }

    /// Target of a symlink. Errors: `EINVAL` for anything else.
    pub async fn readlink(&self, inode: InodeId) -> Result<Bytes> {
        let attributes = self.cache.transact(|tx| tx.attributes(inode)).await?;
        match attributes.kind {
            Kind::Symlink => Ok(attributes.target),
            _ => Err(Errno::INVAL.into()),
        }
    }
}

fn set_size(tx: &mut Transaction<'_>, inode: InodeId, attributes: &Attributes, size: u64) -> Result<(), Stop> {
    match attributes.kind {
        Kind::File if size > MAX_OFFSET => Err(refuse(Errno::FBIG)),
        Kind::File => tx.resize(inode, size),
        Kind::Directory => Err(refuse(Errno::ISDIR)),
        _ => Err(refuse(Errno::INVAL)),
    }
}

fn apply(attributes: &mut Attributes, change: SetAttributes, caller: Caller, now: Timestamp) {
    let owned = change.uid.is_some() || change.gid.is_some();
    let strip_only = change == SetAttributes::default();
    if owned || strip_only || (change.size.is_some() && !caller.is_privileged()) {
        rules::drop_set_id(attributes, caller);
    }
    if owned || strip_only || change.size.is_some() {
        rules::drop_capabilities(attributes);
    }
    if let Some(mode) = change.mode {
        attributes.mode = mode & rules::MODE_BITS;
        acl::follow_mode(attributes);
    }
    attributes.uid = change.uid.unwrap_or(attributes.uid);
    attributes.gid = change.gid.unwrap_or(attributes.gid);
    if change.size.is_some() {
        // Also if it is the size that it has: `: > file` is how make's stamps are made.
        attributes.mtime = now;
    }
    let resolve = |time| match time {
        SetTime::Now => now,
        SetTime::At(time) => Timestamp { nanos: time.nanos.min(MAX_NANOS), ..time },
    };
    attributes.atime = change.atime.map_or(attributes.atime, resolve);
    attributes.mtime = change.mtime.map_or(attributes.mtime, resolve);
    attributes.ctime = now;
}
