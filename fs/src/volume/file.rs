//! Opening, reading and writing files.

use super::tree::{refuse, truncate};
use super::{Caller, Lent, Volume, rules};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::FutureExt;
use rustix::io::Errno;
use std::time::{Duration, Instant};
use strewn_cache::{Change, Position, Seek, Stop, Transaction};
use strewn_engine::bucket::{Kind, MAX_OFFSET, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// Most bytes of data one copy_file_range moves; a longer one is short, as the call allows, and is continued.
const MAX_COPY: u64 = 16 << 20;
/// Most bytes with holes: what the kernel's interface can tell in 32 bits.
const MAX_RANGE: u64 = 1 << 31;
/// What [`Volume::seek`] calls data or a hole, in bytes. Disks have such a unit, and who looks for it takes what he finds.
const PAGE: u64 = 4096;
/// Bytes that are looked through for a hole at a time.
const COPY_STEP: u64 = 1 << 20;

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Open {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Cut to nothing (`O_TRUNC`).
    pub truncate: bool,
    /// Refuse what exists (`O_EXCL`); only where files are made.
    pub exclusive: bool,
    /// Leave the access time alone (`O_NOATIME`).
    pub no_atime: bool,
    /// Past the kernel's copies (`O_DIRECT`).
    pub direct: bool,
}

/// An open file.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Copies of the content that the kernel has from an earlier open are still good.
    pub keep_copies: bool,
    /// Names the open file for [`fsync`](Volume::fsync), [`flush`](Volume::flush) and [`release`](Volume::release).
    pub handle: u64,
    /// The kernel has to be given a file for it.
    pub lent: Option<Lent>,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where the first byte went.
    pub offset: u64,
    /// Size of the file afterwards.
    pub size: u64,
    /// It took set-user-id or set-group-id away: a kernel does not expect that of a write.
    pub stripped: bool,
}

/// How a write is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteMode {
    /// Where: [`Position::End`] appends atomically.
    pub position: Position,
    /// The writer if he has no privilege: strips set-user-id and set-group-id.
    pub unprivileged: Option<Caller>,
}

/// Nobody asks how much room there is for fewer bytes than this.
const ALLOCATE_UNASKED: u64 = 64 << 20;

/// What fallocate(2) is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Reach the size; holes read as zeros anyway.
    Extend,
    /// Nothing but checks: nothing beyond the end is kept ready.
    KeepSize,
    /// Make a hole, the size stays.
    PunchHole,
    /// Zeros; the size stays.
    ZeroKeepSize,
    /// Zeros, up to beyond the end.
    Zero,
}

impl Volume {
    /// Opens a file. Errors: `EISDIR` for writing a directory, `ELOOP` for a symlink, `EROFS`.
    pub async fn open(&self, caller: Caller, inode: InodeId, open: Open) -> Result<Opened> {
        self.check_open(caller, inode, open).await?;
        self.open_file(inode, open).await
    }

    /// Opens a directory for listing. A copy of the listing may be kept for `most` of time, unless it changes.
    pub async fn open_dir(&self, caller: Caller, inode: InodeId, open: Open, most: Duration) -> Result<Opened> {
        self.check_open(caller, inode, open).await?;
        Ok(self.opened_listing(inode, most))
    }

    async fn check_open(&self, caller: Caller, inode: InodeId, open: Open) -> Result<()> {
        if open.write || open.truncate {
            self.writable()?;
        }
        let now = self.now();
        let attributes = self
            .cache
            .transact(|tx| {
                match tx.kind(inode)? {
                    Kind::Symlink => return Err(refuse(Errno::LOOP)),
                    Kind::Directory if open.write || open.truncate => return Err(refuse(Errno::ISDIR)),
                    Kind::File if open.truncate => truncate(tx, inode, 0, caller, now)?,
                    _ => {}
                }
                tx.attributes(inode)
            })
            .await?;
        if open.truncate {
            self.show_change(inode, Change::Size).await?;
        }
        if open.read && !open.no_atime && !self.cache.options().read_only {
            self.note_access(inode, attributes, now);
        }
        Ok(())
    }

    /// At open: reads that the kernel answers from its own copies are never seen here.
    fn note_access(&self, inode: InodeId, mut attributes: Attributes, now: Timestamp) {
        self.nodes.merge_access(inode, &mut attributes);
        if self.access_times.is_due(&attributes, now) {
            self.nodes.access(inode, now);
        }
    }

    /// Up to `length` bytes from `offset`; fewer only at the end of the file. What had no answer, and is not here, fails at
    /// once if it is read again immediately, as the kernel does: its caller waited for the deadline already.
    pub async fn read(&self, inode: InodeId, offset: u64, length: usize) -> Result<Bytes> {
        if self.nodes.is_second_attempt(inode, Instant::now()) {
            // What is here needs no answer.
            let here = self.cache.read(inode, offset, length).now_or_never();
            return match here {
                Some(read) => Ok(read?),
                None => {
                    self.nodes.second_attempt_failed(inode);
                    Err(Error::deadline())
                }
            };
        }
        let read = self.cache.read(inode, offset, length).await.map_err(Error::from);
        if read.as_ref().is_err_and(|error| error.errno() == Errno::TIMEDOUT) {
            self.nodes.read_unanswered(inode, Instant::now());
        }
        read
    }

    /// Writes all of `data`, or nothing while the future is pending: it may be dropped and begun anew. Errors: `EFBIG`
    /// beyond 2^63 - 1, `ENOSPC`, `EDQUOT`.
    pub async fn write(&self, inode: InodeId, data: &[u8], mode: WriteMode) -> Result<Written> {
        self.writable()?;
        if let Position::At(offset) = mode.position {
            end_of(offset, data.len() as u64)?;
        }
        self.until_shown(inode).await;
        let mut stripped = false;
        let mut note = self.note_write(inode, mode.unprivileged);
        let at = self.cache.write(inode, mode.position, data, |attributes| stripped |= note(attributes)).await?;
        self.show_written(inode, at.offset..at.offset + data.len() as u64).await?;
        Ok(Written { offset: at.offset, size: at.size, stripped })
    }

    /// What writing to a file now does to its attributes; true if it took set-user-id or set-group-id away.
    fn note_write(&self, inode: InodeId, unprivileged: Option<Caller>) -> impl FnMut(&mut Attributes) -> bool + Send {
        let now = self.now();
        move |attributes| {
            self.nodes.merge_access(inode, attributes);
            (attributes.mtime, attributes.ctime) = (now, now);
            if !rules::has_privileges(attributes) {
                return false;
            }
            rules::drop_capabilities(attributes);
            unprivileged.is_some_and(|caller| rules::drop_set_id(attributes, caller))
        }
    }

    /// fallocate(2). Errors: `ENODEV` for what is no file, `EINVAL` for nothing, `EFBIG`, `ENOSPC`.
    pub async fn fallocate(
        &self,
        caller: Caller,
        inode: InodeId,
        offset: u64,
        length: u64,
        how: Allocate,
    ) -> Result<()> {
        self.writable()?;
        if length == 0 {
            return Err(Errno::INVAL.into());
        }
        let end = end_of(offset, length)?;
        if how != Allocate::PunchHole {
            self.check_room(inode, offset, end).await?;
        }
        let now = self.now();
        let holes = matches!(how, Allocate::PunchHole | Allocate::ZeroKeepSize | Allocate::Zero);
        self.cache
            .transact(|tx| {
                let before = file(tx, inode)?;
                if holes {
                    tx.punch(inode, offset, length)?;
                }
                let grows = matches!(how, Allocate::Extend | Allocate::Zero) && end > before.size;
                if grows {
                    tx.resize(inode, end)?;
                }
                let mut attributes = tx.attributes(inode)?;
                (attributes.mtime, attributes.ctime) = (now, now);
                rules::drop_capabilities(&mut attributes);
                if !caller.is_privileged() {
                    rules::drop_set_id(&mut attributes, caller);
                }
                tx.set_attributes(inode, attributes)
            })
            .await?;
        self.show_change(inode, if holes { Change::Hole(offset..end) } else { Change::Size }).await
    }

    /// What is allocated is not set aside, but what there is no room for even now is refused.
    async fn check_room(&self, inode: InodeId, offset: u64, end: u64) -> Result<()> {
        let size = self.cache.transact(|tx| Ok(file(tx, inode)?.size)).await?;
        let more = end - offset.max(size).min(end);
        match more > ALLOCATE_UNASKED && more > self.statfs().await.free {
            true => Err(Errno::NOSPC.into()),
            false => Ok(()),
        }
    }

    /// The next data or hole at or after `offset`. Errors: `ENXIO` at and beyond the end, and where no more data follows.
    pub async fn seek(&self, inode: InodeId, offset: u64, what: Seek) -> Result<u64> {
        let size = self.cache.transact(|tx| Ok(file(tx, inode)?.size)).await?;
        if offset >= size {
            return Err(Errno::NXIO.into());
        }
        let mut page = offset - offset % PAGE;
        if what == Seek::Data {
            let data = self.cache.seek(inode, page, what).await?.ok_or(Errno::NXIO)?;
            return Ok((data - data % PAGE).max(offset));
        }
        while let Some(hole) = self.cache.seek(inode, page, what).await? {
            let whole = hole.next_multiple_of(PAGE);
            page = whole.saturating_add(PAGE);
            if whole < size && self.cache.seek_within(inode, whole..page, Seek::Data).await?.is_none() {
                return Ok(whole.max(offset));
            }
        }
        Ok(size)
    }

    /// Copies bytes from one file to another, or within one where both do not overlap; holes stay holes. Returns how many;
    /// fewer than asked at the end of the source and beyond 16 MiB of data or 2 GiB in all.
    pub async fn copy_range(
        &self,
        caller: Caller,
        (source, source_offset): (InodeId, u64),
        (target, target_offset): (InodeId, u64),
        length: u64,
    ) -> Result<u64> {
        self.writable()?;
        let length = length.min(MAX_RANGE);
        let (source_end, target_end) = (end_of(source_offset, length)?, end_of(target_offset, length)?);
        if source == target && source_offset < target_end && target_offset < source_end {
            return Err(Errno::INVAL.into());
        }
        let (mut copied, mut data) = (0, 0);
        while copied < length && data < MAX_COPY {
            let (from, to) = (source_offset + copied, target_offset + copied);
            match self.copy_step(caller, (source, from), (target, to), length - copied).await {
                Ok(Step::End) => break,
                Ok(Step::Hole(bytes)) => copied += bytes,
                Ok(Step::Data(bytes)) => (copied, data) = (copied + bytes, data + bytes),
                // what was copied is told first; the next call meets the error
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    /// Copies the next hole or the next few bytes, at most `length`.
    async fn copy_step(
        &self,
        caller: Caller,
        (source, from): (InodeId, u64),
        (target, to): (InodeId, u64),
        length: u64,
    ) -> Result<Step> {
        let size = self.cache.transact(|tx| file(tx, source)).await?.size;
        if from >= size {
            return Ok(Step::End);
        }
        let until = size.min(from.saturating_add(length));
        let next_data = self.cache.seek_within(source, from..until, Seek::Data).await?.unwrap_or(until);
        if next_data > from {
            let hole = next_data - from;
            self.fallocate(caller, target, to, hole, Allocate::Zero).await?;
            return Ok(Step::Hole(hole));
        }
        let step = until.min(from.saturating_add(COPY_STEP));
        let end = self.cache.seek_within(source, from..step, Seek::Hole).await?.unwrap_or(step);
        let wanted = end.saturating_sub(from).max(1);
        let mut note = self.note_write(target, (!caller.is_privileged()).then_some(caller));
        // The kernel has asked for what this takes away before it copies.
        let note = |attributes: &mut Attributes| {
            note(attributes);
        };
        self.until_shown(target).await;
        match self.cache.copy((source, from), (target, to), (wanted, length), note).await? {
            0 => Ok(Step::End),
            bytes => {
                self.show_written(target, to..to + bytes).await?;
                Ok(Step::Data(bytes))
            }
        }
    }
}

/// What was copied.
enum Step {
    /// The source ends.
    End,
    /// So many bytes of a hole.
    Hole(u64),
    /// So many bytes.
    Data(u64),
}

fn file(tx: &Transaction<'_>, inode: InodeId) -> Result<Attributes, Stop> {
    let attributes = tx.attributes(inode)?;
    match attributes.kind {
        Kind::File => Ok(attributes),
        _ => Err(refuse(Errno::NODEV)),
    }
}

/// The end of a range of a file, or `EFBIG`.
fn end_of(offset: u64, length: u64) -> Result<u64> {
    offset.checked_add(length).filter(|end| *end <= MAX_OFFSET).ok_or(Errno::FBIG.into())
}
