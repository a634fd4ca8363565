//! Making, linking and removing names.

use super::file::{Open, Opened};
use super::tree::{
    MAX_NAMES, MAX_SUBDIRECTORIES, existing, inode_changed, living_directory, names_changed, pinned_stat, refuse,
    truncate,
};
use super::{Caller, Entry, Stat, Volume, acl, parse_name, rules};
use crate::error::Result;
use bytes::Bytes;
use rustix::io::Errno;
use strewn_cache::{Change, Name, Stop, Transaction};
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_engine::record::{Attributes, MAX_TARGET};

/// What is to be made.
struct Make {
    kind: Kind,
    mode: u32,
    rdev: u64,
    target: Bytes,
}

impl Volume {
    /// Makes a directory. Errors: `EEXIST`, `EMLINK`.
    pub async fn mkdir(&self, caller: Caller, parent: InodeId, name: &[u8], mode: u32) -> Result<Entry> {
        self.make(caller, parent, name, Make { kind: Kind::Directory, mode, rdev: 0, target: Bytes::new() }).await
    }

    /// Makes an empty file, fifo, socket or device node; the type bits of `mode` say which. `rdev` is the device number as
    /// the kernel's interfaces have it (12 bits major, 20 bits minor). Errors: `EEXIST`, `EINVAL` for other types.
    pub async fn mknod(&self, caller: Caller, parent: InodeId, name: &[u8], mode: u32, rdev: u64) -> Result<Entry> {
        let kind = match rules::kind_of_mode(mode) {
            None | Some(Kind::Directory | Kind::Symlink) => return Err(Errno::INVAL.into()),
            Some(kind) => kind,
        };
        let rdev = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { rdev } else { 0 };
        self.make(caller, parent, name, Make { kind, mode, rdev, target: Bytes::new() }).await
    }

    /// Makes a symlink. Errors: `EEXIST`, `ENAMETOOLONG` for a target beyond 4,095 bytes, `ENOENT` for an empty one.
    pub async fn symlink(&self, caller: Caller, parent: InodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        match target.len() {
            0 => return Err(Errno::NOENT.into()),
            1..=MAX_TARGET if target.contains(&0) => return Err(Errno::INVAL.into()),
            1..=MAX_TARGET => {}
            _ => return Err(Errno::NAMETOOLONG.into()),
        }
        let target = Bytes::copy_from_slice(target);
        self.make(caller, parent, name, Make { kind: Kind::Symlink, mode: 0o777, rdev: 0, target }).await
    }

    /// Makes a file if the name is free, and opens it. An existing one is refused with `EEXIST` if `open.exclusive`, else
    /// opened like [`open`](Self::open) does.
    pub async fn create(
        &self,
        caller: Caller,
        parent: InodeId,
        name: &[u8],
        mode: u32,
        open: Open,
    ) -> Result<(Entry, Opened)> {
        self.writable()?;
        let name = parse_name(name)?;
        let now = self.now();
        let make = Make { kind: Kind::File, mode, rdev: 0, target: Bytes::new() };
        let made = self
            .cache
            .transact(|tx| {
                let directory = living_directory(tx, parent)?;
                let Some(inode) = tx.entry(parent, &name)? else {
                    return make.run(tx, caller, (parent, &directory), &name, now);
                };
                match tx.kind(inode)? {
                    _ if open.exclusive => return Err(refuse(Errno::EXIST)),
                    Kind::Directory => return Err(refuse(Errno::ISDIR)),
                    Kind::Symlink => return Err(refuse(Errno::LOOP)),
                    Kind::File if open.truncate => truncate(tx, inode, 0, caller, now)?,
                    _ => {}
                }
                pinned_stat(tx, inode)
            })
            .await?;
        let entry = self.entry(made);
        let opened = async {
            if open.truncate {
                self.show_change(entry.stat.inode, Change::Size).await?;
            }
            self.open_file(entry.stat.inode, open).await
        };
        match opened.await {
            Ok(opened) => Ok((entry, opened)),
            Err(error) => {
                // The reference goes to nobody.
                self.forget(entry.stat.inode, 1);
                Err(error)
            }
        }
    }

    /// Gives a file another name. Errors: `EEXIST`, `EPERM` for directories, `EMLINK`, `ENOENT` if it has no name left.
    pub async fn link(&self, inode: InodeId, parent: InodeId, name: &[u8]) -> Result<Entry> {
        self.writable()?;
        let name = parse_name(name)?;
        let now = self.now();
        let linked = self
            .cache
            .transact(|tx| {
                living_directory(tx, parent)?;
                if tx.kind(inode)? == Kind::Directory {
                    return Err(refuse(Errno::PERM));
                }
                if tx.entry(parent, &name)?.is_some() {
                    return Err(refuse(Errno::EXIST));
                }
                match tx.nlink(inode)? {
                    0 => return Err(refuse(Errno::NOENT)),
                    MAX_NAMES.. => return Err(refuse(Errno::MLINK)),
                    _ => {}
                }
                tx.set_entry(parent, &name, Some(inode))?;
                names_changed(tx, parent, now)?;
                inode_changed(tx, inode, now)?;
                pinned_stat(tx, inode)
            })
            .await?;
        Ok(self.entry(linked))
    }

    /// Removes a name of anything but a directory. The content stays while references are held. Errors: `EISDIR`.
    pub async fn unlink(&self, parent: InodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |tx, inode| match tx.kind(inode)? {
            Kind::Directory => Err(refuse(Errno::ISDIR)),
            _ => Ok(()),
        })
        .await
    }

    /// Removes an empty directory. Errors: `ENOTDIR`, `ENOTEMPTY`.
    pub async fn rmdir(&self, parent: InodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |tx, inode| {
            if tx.kind(inode)? != Kind::Directory {
                return Err(refuse(Errno::NOTDIR));
            }
            if tx.is_empty(inode)? { Ok(()) } else { Err(refuse(Errno::NOTEMPTY)) }
        })
        .await
    }

    async fn make(&self, caller: Caller, parent: InodeId, name: &[u8], make: Make) -> Result<Entry> {
        self.writable()?;
        let name = parse_name(name)?;
        let now = self.now();
        let made = self
            .cache
            .transact(|tx| {
                let directory = living_directory(tx, parent)?;
                if tx.entry(parent, &name)?.is_some() {
                    return Err(refuse(Errno::EXIST));
                }
                make.run(tx, caller, (parent, &directory), &name, now)
            })
            .await?;
        Ok(self.entry(made))
    }

    async fn remove(
        &self,
        parent: InodeId,
        name: &[u8],
        check: impl Fn(&Transaction<'_>, InodeId) -> Result<(), Stop> + Send + Sync,
    ) -> Result<()> {
        self.writable()?;
        let name = parse_name(name)?;
        let now = self.now();
        self.cache
            .transact(|tx| {
                let inode = existing(tx, parent, &name)?;
                check(tx, inode)?;
                inode_changed(tx, inode, now)?;
                tx.set_entry(parent, &name, None)?;
                names_changed(tx, parent, now)
            })
            .await?;
        Ok(())
    }
}

impl Make {
    /// Makes it under a name that is free, pinned for the reference that will be counted.
    fn run(
        &self,
        tx: &mut Transaction<'_>,
        caller: Caller,
        (parent, directory): (InodeId, &Attributes),
        name: &Name,
        now: Timestamp,
    ) -> Result<Stat, Stop> {
        if self.kind == Kind::Directory && tx.nlink(parent)? >= MAX_SUBDIRECTORIES {
            return Err(refuse(Errno::MLINK));
        }
        let (mode, xattrs) = acl::inherit(directory, self.kind, self.mode & rules::MODE_BITS, caller.umask);
        let (gid, mode) = rules::inherit(directory, self.kind, caller.gid, mode);
        let inode = tx.create(Attributes {
            kind: self.kind,
            mode,
            uid: caller.uid,
            gid,
            size: self.target.len() as u64,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            rdev: self.rdev,
            target: self.target.clone(),
            xattrs,
        })?;
        tx.set_entry(parent, name, Some(inode))?;
        names_changed(tx, parent, now)?;
        pinned_stat(tx, inode)
    }
}
