//! Steps that transactions of several operations share.

use super::{Caller, Stat, rules};
use rustix::io::Errno;
use strewn_cache::{Name, Stop, Transaction};
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// Most directories between one and its root that are walked before the tree is called a loop.
const MAX_DEPTH: usize = 1 << 20;

/// Most names of a file; one more is `EMLINK`.
pub(super) const MAX_NAMES: u32 = 1 << 20;

/// Most subdirectories of a directory; one more is `EMLINK`.
pub(super) const MAX_SUBDIRECTORIES: u32 = u32::MAX - 8;

pub(super) fn refuse(errno: Errno) -> Stop {
    Stop::Errno(errno.raw_os_error())
}

/// Attributes of what must be a directory.
pub(super) fn directory(tx: &Transaction<'_>, inode: InodeId) -> Result<Attributes, Stop> {
    let attributes = tx.attributes(inode)?;
    match attributes.kind {
        Kind::Directory => Ok(attributes),
        _ => Err(refuse(Errno::NOTDIR)),
    }
}

/// Attributes of what must be a directory that can take a new name.
pub(super) fn living_directory(tx: &Transaction<'_>, inode: InodeId) -> Result<Attributes, Stop> {
    let attributes = directory(tx, inode)?;
    if tx.nlink(inode)? == 0 {
        return Err(refuse(Errno::NOENT));
    }
    Ok(attributes)
}

/// What a name names, or `ENOENT`.
pub(super) fn existing(tx: &Transaction<'_>, parent: InodeId, name: &Name) -> Result<InodeId, Stop> {
    tx.entry(parent, name)?.ok_or(refuse(Errno::NOENT))
}

pub(super) fn stat(tx: &Transaction<'_>, inode: InodeId) -> Result<Stat, Stop> {
    Ok(Stat { inode, attributes: tx.attributes(inode)?, nlink: tx.nlink(inode)?, allocated: tx.allocated(inode)? })
}

/// A stat, and a pin for the reference that will be counted with it.
pub(super) fn pinned_stat(tx: &mut Transaction<'_>, inode: InodeId) -> Result<Stat, Stop> {
    tx.pin(inode)?;
    stat(tx, inode)
}

/// Times of a directory whose names changed.
pub(super) fn names_changed(tx: &mut Transaction<'_>, directory: InodeId, now: Timestamp) -> Result<(), Stop> {
    let mut attributes = tx.attributes(directory)?;
    (attributes.mtime, attributes.ctime) = (now, now);
    tx.set_attributes(directory, attributes)
}

/// ctime of an inode that gained, lost or changed a name.
pub(super) fn inode_changed(tx: &mut Transaction<'_>, inode: InodeId, now: Timestamp) -> Result<(), Stop> {
    let mut attributes = tx.attributes(inode)?;
    attributes.ctime = now;
    tx.set_attributes(inode, attributes)
}

/// True if `inner` is `outer` or lies below it.
pub(super) fn is_within(tx: &Transaction<'_>, inner: InodeId, outer: InodeId) -> Result<bool, Stop> {
    let mut at = inner;
    for _ in 0..MAX_DEPTH {
        if at == outer {
            return Ok(true);
        }
        let above = tx.parent(at)?;
        if above == at {
            return Ok(false);
        }
        at = above;
    }
    Err(refuse(Errno::LOOP))
}

/// Cuts or extends a file, and strips what that strips.
pub(super) fn truncate(
    tx: &mut Transaction<'_>,
    inode: InodeId,
    size: u64,
    caller: Caller,
    now: Timestamp,
) -> Result<(), Stop> {
    tx.resize(inode, size)?;
    let mut attributes = tx.attributes(inode)?;
    (attributes.mtime, attributes.ctime) = (now, now);
    rules::drop_capabilities(&mut attributes);
    if !caller.is_privileged() {
        rules::drop_set_id(&mut attributes, caller);
    }
    tx.set_attributes(inode, attributes)
}
