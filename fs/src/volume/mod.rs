//! The file system operations of a drive, as async methods on plain types.
//!
//! A volume owns no content and no tree: both are the cache's. What it owns is POSIX (who may be renamed over whom, which
//! times change, what a write strips), the numbers that inodes go by outside, and access times that nobody else knows yet.
//!
//! **References.** Every method that returns an [`Entry`] counts one reference to its inode, as the kernel does; it is given
//! back with [`Volume::forget`]. A referenced inode stays known and keeps its content when its last name goes. An open
//! file lives by the reference it was opened through.
//!
//! Permissions are the kernel's to check (`default_permissions`); a volume checks what the kernel does not.
//!
//! One file per group of operations: [`attributes`], [`namespace`], [`rename`], [`directory`], [mod@file], [`xattr`],
//! [`promises`], [`space`]; [`path`] serves those who have no kernel.

mod acl;
mod attributes;
mod caller;
mod directory;
mod file;
mod namespace;
mod nodes;
mod passthrough;
pub mod path;
mod promises;
mod rename;
mod rules;
mod shown;
mod space;
mod tree;
mod xattr;

pub use attributes::{SetAttributes, SetTime};
pub use caller::Caller;
use directory::Ends;
pub use directory::{DirectoryLine, Listed};
pub use file::{Allocate, Open, Opened, WriteMode, Written};
pub use nodes::ROOT_NUMBER;
pub use passthrough::Lent;
pub use promises::{Promises, Reach};
pub use rename::RenameMode;
pub use rules::{AccessTimes, Noted};
pub use shown::Shown;
pub use space::Space;
pub use xattr::SetXattr;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use nodes::Nodes;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use strewn_cache::{Cache, Name, Stop, Transaction};
use strewn_engine::bucket::{Timestamp, Usage};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// What stat(2) tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The inode.
    pub inode: InodeId,
    /// Mode, owner, times, size and the rest.
    pub attributes: Attributes,
    /// Names of a non-directory; 2 + subdirectories of a directory; 0 once removed.
    pub nlink: u32,
    /// Bytes that are not holes.
    pub allocated: u64,
}

/// A stat together with a counted reference to its inode.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the reference has to be given back"]
pub struct Entry {
    /// The number the inode goes by.
    pub number: u64,
    /// What it is.
    pub stat: Stat,
}

/// A mounted bucket, or the subtree of one that its grant opens.
pub struct Volume {
    cache: Cache,
    clock: Arc<dyn Clock>,
    nodes: Nodes,
    access_times: AccessTimes,
    promises: Promises,
    shown: Shown,
    /// The number of the newest open file.
    handles: AtomicU64,
    /// Files may be lent to the kernel.
    lends: AtomicBool,
    usage: Mutex<Option<Usage>>,
    ends: Ends,
}

impl Volume {
    /// A volume over a cache, on the machine's clock.
    pub fn new(cache: Cache) -> Self {
        Self::with_clock(cache, Arc::new(SystemClock))
    }

    /// A volume over a cache, on a clock of its own.
    pub fn with_clock(cache: Cache, clock: Arc<dyn Clock>) -> Self {
        let nodes = Nodes::new(cache.root());
        let (promises, handles) = (Promises::default(), AtomicU64::new(0));
        Self {
            cache,
            clock,
            nodes,
            access_times: AccessTimes::default(),
            promises,
            shown: Shown::default(),
            handles,
            lends: AtomicBool::new(false),
            usage: Mutex::new(None),
            ends: Ends::default(),
        }
    }

    /// The same volume, with other promises.
    pub fn with_promises(self, promises: Promises) -> Self {
        Self { promises, ..self }
    }

    /// The same volume, with owners and permissions shown as `shown` says.
    pub fn showing(self, shown: Shown) -> Self {
        Self { shown, ..self }
    }

    /// What it promises.
    pub fn promises(&self) -> Promises {
        self.promises
    }

    /// The same volume, which notes reads as `access_times` says.
    pub fn with_access_times(self, access_times: AccessTimes) -> Self {
        Self { access_times, ..self }
    }

    /// The cache under the volume: for draining, status and closing.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The root directory. It needs no reference.
    pub fn root(&self) -> InodeId {
        self.cache.root()
    }

    /// The inode that goes by a number. Errors: `ESTALE` if no reference to it is counted.
    pub fn inode(&self, number: u64) -> Result<InodeId> {
        self.nodes.inode(number).ok_or(Errno::STALE.into())
    }

    /// The number that an inode goes by: the same on every mount and after a fresh cache.
    pub fn number(&self, inode: InodeId) -> u64 {
        self.nodes.number(inode)
    }

    /// Gives back `count` references. The last one lets go of an inode without names. Never waits.
    pub fn forget(&self, inode: InodeId, count: u64) {
        if inode == self.root() {
            return;
        }
        let given_back = self.nodes.forget(inode, count);
        self.unpin(&[(inode, given_back)]);
    }

    /// Gives back references by number, as the kernel does. An unknown number is ignored.
    pub fn forget_number(&self, number: u64, count: u64) {
        if let Some(inode) = self.nodes.inode(number) {
            self.forget(inode, count);
        }
    }

    /// Gives back all references: the kernel sends no word of them when it unmounts.
    pub fn forget_all(&self) {
        self.unpin(&self.nodes.drain());
    }

    /// Notes that other mounts changed the content of an inode, so that copies in the kernel do not outlive the next open.
    /// The number to tell the kernel; `None` if it knows nothing of the inode.
    pub fn changed_elsewhere(&self, inode: InodeId) -> Option<u64> {
        self.nodes.changed_elsewhere(inode)
    }

    /// True while a file of it is open.
    pub fn is_open(&self, inode: InodeId) -> bool {
        self.nodes.is_open(inode)
    }

    /// Like [`changed_elsewhere`](Self::changed_elsewhere), for all inodes that are referenced.
    pub fn all_changed_elsewhere(&self) -> Vec<u64> {
        self.nodes.all_changed_elsewhere()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn writable(&self) -> Result<()> {
        if self.cache.options().read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    /// Counts a reference (the transaction that made `stat` has pinned the inode).
    fn entry(&self, stat: Stat) -> Entry {
        let number = self.nodes.reference(stat.inode);
        Entry { number, stat: self.as_seen(stat) }
    }

    /// The stat as callers see it: with the newest access time known here, and with the owners that are shown.
    fn as_seen(&self, mut stat: Stat) -> Stat {
        self.nodes.merge_access(stat.inode, &mut stat.attributes);
        self.shown.apply(&mut stat);
        stat
    }

    fn unpin(&self, pins: &[(InodeId, u64)]) {
        let unpinned = self.cache.try_transact(|tx: &mut Transaction<'_>| {
            for (inode, count) in pins {
                tx.unpin(*inode, *count);
            }
            Ok::<(), Stop>(())
        });
        // With the cache all references end.
        if let Some(Err(error)) = unpinned.filter(|unpinned| !matches!(unpinned, Err(strewn_cache::Error::Closed))) {
            tracing::warn!(%error, "could not let go of inodes");
        }
    }
}

/// Parses a name. Errors: `ENAMETOOLONG` beyond 255 bytes, `ENOENT` if empty, else `EINVAL`.
fn parse_name(bytes: &[u8]) -> Result<Name> {
    Name::new(bytes).map_err(|_| {
        Error::from(match bytes {
            [] => Errno::NOENT,
            long if long.len() > Name::MAX => Errno::NAMETOOLONG,
            _ => Errno::INVAL,
        })
    })
}
