//! rename(2) with its flags: the one operation with two of everything.

use super::tree::{
    MAX_SUBDIRECTORIES, directory, existing, inode_changed, is_within, living_directory, names_changed, refuse,
};
use super::{Volume, parse_name};
use crate::error::Result;
use rustix::io::Errno;
use strewn_cache::{Name, Stop, Transaction};
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::ids::InodeId;

/// What a rename does when the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces what is there.
    Replace,
    /// Refuses with `EEXIST`.
    NoReplace,
    /// Both change names; the new name must be taken.
    Exchange,
}

/// A name in a directory.
#[derive(Clone, Copy)]
struct Place<'a> {
    directory: InodeId,
    name: &'a Name,
}

impl Volume {
    /// Moves a name, atomically.
    ///
    /// Nothing happens if both name the same inode. Errors: `ENOENT`, `EEXIST`, `EISDIR` and `ENOTDIR` where only one of
    /// both is a directory, `ENOTEMPTY`, `EINVAL` into a directory's own subtree, `EMLINK`.
    pub async fn rename(
        &self,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.writable()?;
        let (name, new_name) = (parse_name(name)?, parse_name(new_name)?);
        let now = self.now();
        let from = Place { directory: parent, name: &name };
        let to = Place { directory: new_parent, name: &new_name };
        self.cache
            .transact(|tx| {
                directory(tx, from.directory)?;
                living_directory(tx, to.directory)?;
                let moved = existing(tx, from.directory, from.name)?;
                let there = tx.entry(to.directory, to.name)?;
                match (mode, there) {
                    (RenameMode::NoReplace, Some(_)) => Err(refuse(Errno::EXIST)),
                    (RenameMode::Exchange, None) => Err(refuse(Errno::NOENT)),
                    (_, Some(there)) if there == moved => Ok(()),
                    (RenameMode::Exchange, Some(there)) => exchange(tx, (from, moved), (to, there), now),
                    (_, there) => replace(tx, (from, moved), (to, there), now),
                }
            })
            .await?;
        Ok(())
    }
}

fn replace(
    tx: &mut Transaction<'_>,
    (from, moved): (Place<'_>, InodeId),
    (to, there): (Place<'_>, Option<InodeId>),
    now: Timestamp,
) -> Result<(), Stop> {
    check_move(tx, from.directory, moved, to.directory)?;
    if let Some(there) = there {
        check_replaced(tx, moved, there)?;
        inode_changed(tx, there, now)?;
    } else {
        check_room(tx, from.directory, moved, to.directory)?;
    }
    inode_changed(tx, moved, now)?;
    tx.set_entry(from.directory, from.name, None)?;
    tx.set_entry(to.directory, to.name, Some(moved))?;
    both_changed(tx, from.directory, to.directory, now)
}

fn exchange(
    tx: &mut Transaction<'_>,
    (from, moved): (Place<'_>, InodeId),
    (to, there): (Place<'_>, InodeId),
    now: Timestamp,
) -> Result<(), Stop> {
    check_move(tx, from.directory, moved, to.directory)?;
    check_move(tx, to.directory, there, from.directory)?;
    inode_changed(tx, moved, now)?;
    inode_changed(tx, there, now)?;
    tx.set_entry(from.directory, from.name, Some(there))?;
    tx.set_entry(to.directory, to.name, Some(moved))?;
    both_changed(tx, from.directory, to.directory, now)
}

/// A directory does not go below itself.
fn check_move(tx: &Transaction<'_>, from: InodeId, moved: InodeId, to: InodeId) -> Result<(), Stop> {
    if from != to && tx.kind(moved)? == Kind::Directory && is_within(tx, to, moved)? {
        return Err(refuse(Errno::INVAL));
    }
    Ok(())
}

fn check_replaced(tx: &Transaction<'_>, moved: InodeId, there: InodeId) -> Result<(), Stop> {
    let is_directory = |inode| tx.kind(inode).map(|kind| kind == Kind::Directory);
    match (is_directory(moved)?, is_directory(there)?) {
        (true, false) => Err(refuse(Errno::NOTDIR)),
        (false, true) => Err(refuse(Errno::ISDIR)),
        (true, true) if !tx.is_empty(there)? => Err(refuse(Errno::NOTEMPTY)),
        _ => Ok(()),
    }
}

fn check_room(tx: &Transaction<'_>, from: InodeId, moved: InodeId, to: InodeId) -> Result<(), Stop> {
    let another = from != to && tx.kind(moved)? == Kind::Directory;
    if another && tx.nlink(to)? >= MAX_SUBDIRECTORIES {
        return Err(refuse(Errno::MLINK));
    }
    Ok(())
}

fn both_changed(tx: &mut Transaction<'_>, from: InodeId, to: InodeId, now: Timestamp) -> Result<(), Stop> {
    names_changed(tx, from, now)?;
    if from != to {
        names_changed(tx, to, now)?;
    }
    Ok(())
}
