//! The rules of POSIX that the volume answers for, one test each.

mod attributes;
mod content;
mod names;
#[path = "../support/mod.rs"]
mod support;
mod volume;

use rustix::io::Errno;
use strewn_cache::{Position, Seek};
use strewn_engine::bucket::{Kind, MAX_OFFSET, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_fs::volume::{
    Allocate, Caller, Entry, Open, RenameMode, SetAttributes, SetTime, SetXattr, Shown, Stat, WriteMode,
};
use strewn_fs::{Error, Volume};
use support::{Fixture, ROOT, ROOT_INODE, USER, options};

pub(crate) type Result<T> = std::result::Result<T, Error>;

pub(crate) const AT_START: WriteMode = WriteMode { position: Position::At(0), unprivileged: None };
pub(crate) const MAKE: Open =
    Open { read: true, write: true, truncate: false, exclusive: true, no_atime: false, direct: false };

pub(crate) async fn file(volume: &Volume, parent: InodeId, name: &[u8]) -> InodeId {
    volume.create(ROOT, parent, name, 0o644, MAKE).await.unwrap().0.stat.inode
}

pub(crate) async fn directory(volume: &Volume, parent: InodeId, name: &[u8]) -> InodeId {
    volume.mkdir(ROOT, parent, name, 0o755).await.unwrap().stat.inode
}

pub(crate) async fn stat(volume: &Volume, inode: InodeId) -> Stat {
    volume.getattr(inode).await.unwrap()
}

pub(crate) async fn rename(
    volume: &Volume,
    from: (InodeId, &[u8]),
    to: (InodeId, &[u8]),
    mode: RenameMode,
) -> Result<()> {
    volume.rename(from.0, from.1, to.0, to.1, mode).await
}

pub(crate) fn errno<T: std::fmt::Debug>(result: Result<T>) -> Errno {
    result.unwrap_err().errno()
}

pub(crate) fn now(fixture: &Fixture) -> Timestamp {
    use strewn_fs::clock::Clock;
    fixture.clock.now()
}
