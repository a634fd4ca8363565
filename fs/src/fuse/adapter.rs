//! One method per kernel request. How they are run is in `run`.

mod run;

use super::answer::Answerer;
use super::backings::Backings;
use super::buffers::Buffers;
use super::notify::StaleAttributes;
use super::polling::{About, Polling};
use super::{MAX_BACKGROUND, MAX_REQUEST, Options, convert};
use crate::Volume;
use crate::error::Result;
use crate::volume::{Allocate, Reach, RenameMode, SetAttributes, SetXattr, WriteMode, Written};
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use strewn_cache::{Position, Seek};
use strewn_engine::ids::InodeId;
use tokio::runtime::Handle;

/// What the kernel is asked for, each where it has it. Deliberately absent: the writeback cache (its dirty pages would be
/// beyond the journal), locks (the kernel's own are right on one mount), SETXATTR_EXT (the library panics on it),
/// ATOMIC_O_TRUNC (the kernel then empties a running program before it finds that it must refuse with ETXTBSY).
const CAPABILITIES: [InitFlags; 7] = [
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DO_READDIRPLUS,
    // A default access control list takes the place of the umask.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_READDIRPLUS_AUTO,
];

/// Lines asked of the volume at a time; a listing goes on until the kernel's buffer is full.
const LINES: usize = 128;
/// The same with attributes, of which fewer fit.
const LINES_PLUS: usize = 32;

/// Longest name, as statfs tells it.
const MAX_NAME: u32 = 255;

/// lseek(2): the next data.
const SEEK_DATA: i32 = 3;
/// lseek(2): the next hole.
const SEEK_HOLE: i32 = 4;

/// Block size that statfs tells.
const STATFS_BLOCK: u32 = 4096;

/// Inode ids are never used twice, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// Longest that fsync and close may take where they wait for the network. What does not move ends at the cache's deadline;
/// this bounds a queue that moves slowly.
const COMMIT_DEADLINE: Duration = Duration::from_secs(3600);

pub(super) struct Adapter {
    volume: Arc<Volume>,
    answerer: Answerer,
    buffers: Buffers,
    passthrough: bool,
    backings: Arc<Backings>,
    ttl: Duration,
    deadline: Duration,
    fsync_deadline: Duration,
    close_deadline: Duration,
    polling: Option<Polling>,
    stale: Arc<StaleAttributes>,
}

impl Adapter {
    pub(super) fn new(volume: Arc<Volume>, runtime: Handle, options: Options, polling: Option<Polling>) -> Self {
        let waits = |reach: Reach| if reach == Reach::Network { COMMIT_DEADLINE } else { options.deadline };
        let promises = volume.promises();
        Self {
            fsync_deadline: waits(promises.fsync),
            close_deadline: waits(promises.close),
            volume,
            answerer: Answerer::new(runtime),
            deadline: options.deadline,
            buffers: Buffers::default(),
            passthrough: options.passthrough && promises.fsync == Reach::Machine,
            backings: Arc::default(),
            ttl: options.ttl,
            polling,
            stale: Arc::default(),
        }
    }

    /// What tells the kernel of attributes, once it can.
    pub(super) fn stale_attributes(&self) -> Arc<StaleAttributes> {
        self.stale.clone()
    }

    /// A request came.
    fn note(&self, about: About) {
        if let Some(polling) = &self.polling {
            polling.note(about);
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel does not have it");
            }
        }
        // Where msync is to wait for the network it must reach us, which it does not from who maps a lent file. And the files
        // under the cache must not be stacked themselves, or this drive could not be stacked upon.
        if self.passthrough && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() {
            let stacks = config.set_max_stack_depth(1).is_ok();
            self.volume.allow_lending(stacks);
        }
        let refused = |what: &str| io::Error::other(format!("the FUSE library refuses the limit of {what}"));
        config.set_max_write(MAX_REQUEST).map_err(|_| refused("request size"))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| refused("background requests"))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (name, ttl) = (owned(name), self.ttl);
        let work = async move |volume: Arc<Volume>, parent| volume.lookup(parent, &name).await;
        self.run("lookup", parent, work, move |found| match found {
            Ok(entry) => reply.entry(&ttl, &convert::entry(&entry), GENERATION),
            // Inode 0 lets the kernel believe for a while that there is nothing; what comes is told to it.
            Err(error) if error.errno() == Errno::NOENT => reply.entry(&ttl, &convert::nothing(), GENERATION),
            Err(error) => reply.error(convert::errno(&error)),
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        self.volume.forget_number(number.0, count);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.ttl;
        let work = async move |volume: Arc<Volume>, inode| volume.getattr(inode).await;
        self.run("getattr", number, work, move |found| match found {
            Ok(stat) => reply.attr(&ttl, &convert::attributes(number.0, &stat)),
            Err(error) => reply.error(convert::errno(&error)),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let change = SetAttributes { mode, uid, gid, size, atime, mtime };
        let (caller, ttl) = (convert::caller(request), self.ttl);
        let work = async move |volume: Arc<Volume>, inode| volume.setattr(caller, inode, change).await;
        self.run("setattr", number, work, move |changed| match changed {
            Ok(stat) => reply.attr(&ttl, &convert::attributes(number.0, &stat)),
            Err(error) => reply.error(convert::errno(&error)),
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let work = async move |volume: Arc<Volume>, inode| volume.readlink(inode).await;
        self.run("readlink", number, work, |target| reply_data(target, reply));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name, mode) = (convert::maker(request, umask), owned(name), mode);
        self.run_entry("mknod", parent, reply, async move |volume, parent| {
            volume.mknod(caller, parent, &name, mode, rdev.into()).await
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (caller, name, mode) = (convert::maker(request, umask), owned(name), mode);
        self.run_entry("mkdir", parent, reply, async move |volume, parent| {
            volume.mkdir(caller, parent, &name, mode).await
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run_empty("unlink", parent, reply, async move |volume, parent| volume.unlink(parent, &name).await);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run_empty("rmdir", parent, reply, async move |volume, parent| volume.rmdir(parent, &name).await);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, name, target) = (convert::caller(request), owned(name), owned(target.as_os_str()));
        self.run_entry("symlink", parent, reply, async move |volume, parent| {
            volume.symlink(caller, parent, &name, &target).await
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (owned(name), owned(new_name));
        self.run_empty("rename", parent, reply, async move |volume, parent| {
            let mode = match flags {
                RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
                RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
                none if none.is_empty() => RenameMode::Replace,
                _ => return Err(Errno::INVAL.into()),
            };
            let new_parent = volume.inode(new_parent.0)?;
            volume.rename(parent, &name, new_parent, &new_name, mode).await
        });
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = owned(name);
        self.run_entry("link", parent, reply, async move |volume, parent| {
            let inode = volume.inode(number.0)?;
            volume.link(inode, parent, &name).await
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, open) = (convert::caller(request), convert::open(flags));
        let work = async move |volume: Arc<Volume>, inode| volume.open(caller, inode, open).await;
        let (volume, backings) = (self.volume.clone(), self.backings.clone());
        self.run("open", number, work, move |opened| match opened {
            Ok(opened) => match backings.admit(&volume, number.0, open, opened, |file| reply.open_backing(file)) {
                Some((handle, flags, Some(backing))) => reply.opened_passthrough(handle, flags, &backing),
                Some((handle, flags, None)) => reply.opened(handle, flags),
                None => reply.error(fuser::Errno::EIO),
            },
            Err(error) => reply.error(convert::errno(&error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, name, mode) = (convert::maker(request, umask), owned(name), mode);
        let (open, ttl) = (convert::open(OpenFlags(flags)), self.ttl);
        let work = async move |volume: Arc<Volume>, parent| volume.create(caller, parent, &name, mode, open).await;
        let (volume, backings) = (self.volume.clone(), self.backings.clone());
        self.run("create", parent, work, move |created| match created {
            Ok((entry, opened)) => {
                let attributes = convert::entry(&entry);
                match backings.admit(&volume, entry.number, open, opened, |file| reply.open_backing(file)) {
                    Some((handle, flags, Some(backing))) => {
                        reply.created_passthrough(&ttl, &attributes, GENERATION, handle, flags, &backing);
                    }
                    Some((handle, flags, None)) => reply.created(&ttl, &attributes, GENERATION, handle, flags),
                    None => reply.error(fuser::Errno::EIO),
                }
            }
            Err(error) => reply.error(convert::errno(&error)),
        });
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = async move |volume: Arc<Volume>, inode| volume.read(inode, offset, size as usize).await;
        self.note(About::Reading);
        self.run_within(self.deadline, "read", number, work, |data| reply_data(data, reply));
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Pages written back from a mapping go where they belong, whatever handle the kernel picked for them.
        let called = !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let appends = called && convert::is_append(flags);
        let position = if appends { Position::End } else { Position::At(offset) };
        let stranger = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then(|| convert::caller(request));
        let mode = WriteMode { position, unprivileged: stranger };
        let length = data.len() as u32;
        let stale = stranger.map(|_| self.stale.clone());
        let answer = move |written: Result<Written>| match written {
            Ok(written) => {
                if let Some(stale) = stale.filter(|_| written.stripped) {
                    stale.noted(number);
                }
                reply.written(length);
            }
            Err(error) => reply.error(convert::errno(&error)),
        };
        if called && convert::is_synchronous(flags) {
            // Where the kernel keeps no copy it leaves that to us.
            self.note(About::Durability);
            let data = self.buffers.copy(data);
            let work = async move |volume: Arc<Volume>, inode| {
                let written = volume.write(inode, &data, mode).await?;
                volume.fsync(inode, handle.0, true).await?;
                Ok(written)
            };
            return self.run_within(self.fsync_deadline, "write", number, work, answer);
        }
        self.note(About::Writing(data.len()));
        let attempt = async { self.volume.write(self.volume.inode(number.0)?, data, mode).await };
        if let Some(written) = self.answerer.at_once("write", attempt) {
            return answer(written);
        }
        // It has to wait, and has written nothing yet. The data is borrowed from the buffer that the next request is read into.
        let data = self.buffers.copy(data);
        let work = async move |volume: Arc<Volume>, inode| volume.write(inode, &data, mode).await;
        self.run_within(self.deadline, "write", number, work, answer);
    }

    fn flush(&self, _: &Request, number: INodeNo, handle: FileHandle, closer: LockOwner, reply: ReplyEmpty) {
        self.note(About::Names);
        let at = (number, self.close_deadline);
        self.run_durable("flush", at, reply, async move |volume, inode| volume.flush(inode, handle.0, closer.0).await);
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.note(About::Names);
        if Volume::is_lent_handle(handle.0) {
            self.backings.close(number.0);
        }
        if let Ok(inode) = self.volume.inode(number.0) {
            self.volume.release(inode, handle.0);
        }
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.note(About::Durability);
        let work = async move |volume: Arc<Volume>, inode| volume.fsync(inode, handle.0, data_only).await;
        self.run_durable("fsync", (number, self.fsync_deadline), reply, work);
    }

    fn opendir(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, open) = (convert::caller(request), convert::open(flags));
        // While the kernel lists from its copy it asks for no attributes, so they have to outlive the copy.
        let most = self.ttl / 2;
        let work = async move |volume: Arc<Volume>, inode| volume.open_dir(caller, inode, open, most).await;
        self.run("opendir", number, work, |opened| match opened {
            Ok(opened) => {
                let mut flags = FopenFlags::FOPEN_CACHE_DIR;
                flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_copies);
                reply.opened(FileHandle(opened.handle), flags);
            }
            Err(error) => reply.error(convert::errno(&error)),
        });
    }

    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let work = async move |volume: Arc<Volume>, inode| Ok(list(&volume, (inode, handle.0), offset, reply).await);
        self.run("readdir", number, work, |listed| match listed {
            Ok((reply, Ok(()))) => reply.ok(),
            Ok((reply, Err(error))) => reply.error(convert::errno(&error)),
            // The reply went with the work, and answered EIO as it was dropped.
            Err(_) => {}
        });
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let ttl = self.ttl;
        let work =
            async move |volume: Arc<Volume>, inode| Ok(list_plus(&volume, (inode, handle.0), offset, reply, ttl).await);
        self.run("readdirplus", number, work, |listed| match listed {
            Ok((reply, Ok(()))) => reply.ok(),
            Ok((reply, Err(error))) => reply.error(convert::errno(&error)),
            Err(_) => {}
        });
    }

    fn releasedir(&self, _: &Request, number: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.note(About::Names);
        if let Ok(inode) = self.volume.inode(number.0) {
            self.volume.release_dir(inode, handle.0);
        }
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.note(About::Durability);
        let work = async move |volume: Arc<Volume>, inode| volume.fsync(inode, handle.0, data_only).await;
        self.run_durable("fsyncdir", (number, self.fsync_deadline), reply, work);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let volume = self.volume.clone();
        let blocks = |bytes: u64| bytes / u64::from(STATFS_BLOCK);
        self.answerer.answer(
            self.deadline,
            "statfs",
            async move { Ok(volume.statfs().await) },
            move |space| match space {
                Ok(space) => reply.statfs(
                    blocks(space.total),
                    blocks(space.free),
                    blocks(space.free),
                    space.inodes,
                    space.free_inodes,
                    STATFS_BLOCK,
                    MAX_NAME,
                    STATFS_BLOCK,
                ),
                Err(error) => reply.error(convert::errno(&error)),
            },
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, name, value) = (convert::caller(request), owned(name), value.to_vec());
        self.run_empty("setxattr", number, reply, async move |volume, inode| {
            let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
            let mode = match flags {
                XattrFlags::CREATE => SetXattr::Create,
                XattrFlags::REPLACE => SetXattr::Replace,
                none if none.is_empty() => SetXattr::Any,
                _ => return Err(Errno::INVAL.into()),
            };
            volume.setxattr(caller, inode, &name, &value, mode).await
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = owned(name);
        let work = async move |volume: Arc<Volume>, inode| volume.getxattr(inode, &name).await;
        self.run("getxattr", number, work, move |value| reply_xattr(value, size, reply));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let privileged = convert::caller(request).is_privileged();
        let work = async move |volume: Arc<Volume>, inode| volume.listxattr(inode, privileged).await;
        self.run("listxattr", number, work, move |names| reply_xattr(names, size, reply));
    }

    fn removexattr(&self, _: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run_empty("removexattr", number, reply, async move |volume, inode| volume.removexattr(inode, &name).await);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = convert::caller(request);
        self.run_empty("fallocate", number, reply, async move |volume, inode| {
            let how = match FallocateFlags::from_bits_retain(mode.cast_unsigned()) {
                none if none.is_empty() => Allocate::Extend,
                FallocateFlags::KEEP_SIZE => Allocate::KeepSize,
                FallocateFlags::ZERO_RANGE => Allocate::Zero,
                both if both == FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE => Allocate::PunchHole,
                both if both == FallocateFlags::KEEP_SIZE | FallocateFlags::ZERO_RANGE => Allocate::ZeroKeepSize,
                _ => return Err(Errno::OPNOTSUPP.into()),
            };
            volume.fallocate(caller, inode, offset, length, how).await
        });
    }

    fn lseek(&self, _: &Request, number: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let work = async move |volume: Arc<Volume>, inode| {
            let what = match whence {
                SEEK_DATA => Seek::Data,
                SEEK_HOLE => Seek::Hole,
                _ => return Err(Errno::INVAL.into()),
            };
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            let found = volume.seek(inode, offset, what).await?;
            i64::try_from(found).map_err(|_| Errno::OVERFLOW.into())
        };
        self.run("lseek", number, work, |found| match found {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(convert::errno(&error)),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _: FileHandle,
        target_offset: u64,
        length: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let caller = convert::caller(request);
        let work = async move |volume: Arc<Volume>, source| {
            if !flags.is_empty() {
                return Err(Errno::INVAL.into());
            }
            let target = volume.inode(target.0)?;
            volume.copy_range(caller, (source, source_offset), (target, target_offset), length).await
        };
        self.run("copy_file_range", source, work, |copied: Result<u64>| match copied {
            // at most 2 GiB a call
            Ok(bytes) => reply.written(bytes as u32),
            Err(error) => reply.error(convert::errno(&error)),
        });
    }
}

/// Fills a listing, and hands it back with what went wrong.
async fn list(
    volume: &Volume,
    (inode, handle): (InodeId, u64),
    mut after: u64,
    mut reply: ReplyDirectory,
) -> (ReplyDirectory, Result<()>) {
    let end = match volume.end_of_dir(inode, handle, after).await {
        Ok(end) => end,
        Err(error) => return (reply, Err(error)),
    };
    while after < end {
        let lines = match volume.read_dir(inode, after, LINES).await {
            Ok(lines) => lines,
            Err(error) => return (reply, Err(error)),
        };
        for line in lines.iter().take_while(|line| line.cookie <= end) {
            let name = OsStr::from_bytes(&line.name);
            if reply.add(INodeNo(line.number), line.cookie, convert::file_type(line.kind), name) {
                return (reply, Ok(()));
            }
            after = line.cookie;
        }
        if lines.last().is_none_or(|line| line.cookie > end) {
            break;
        }
    }
    (reply, Ok(()))
}

/// Like [`list`], with attributes. References of lines that did not fit are given back.
async fn list_plus(
    volume: &Volume,
    (inode, handle): (InodeId, u64),
    mut after: u64,
    mut reply: ReplyDirectoryPlus,
    ttl: Duration,
) -> (ReplyDirectoryPlus, Result<()>) {
    let end = match volume.end_of_dir(inode, handle, after).await {
        Ok(end) => end,
        Err(error) => return (reply, Err(error)),
    };
    while after < end {
        let mut lines = match volume.read_dir_plus(inode, after, LINES_PLUS).await {
            Ok(lines) => lines.into_iter(),
            Err(error) => return (reply, Err(error)),
        };
        if lines.len() == 0 {
            break;
        }
        while let Some(line) = lines.next() {
            let name = OsStr::from_bytes(&line.name);
            let attributes = convert::entry(&line.entry);
            if line.cookie > end
                || reply.add(INodeNo(line.entry.number), line.cookie, name, &ttl, &attributes, GENERATION)
            {
                volume.give_back(std::iter::once(line).chain(lines));
                return (reply, Ok(()));
            }
            after = line.cookie;
        }
    }
    (reply, Ok(()))
}

fn owned(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

fn reply_data(data: Result<Bytes>, reply: ReplyData) {
    match data {
        Ok(data) => reply.data(&data),
        Err(error) => reply.error(convert::errno(&error)),
    }
}

/// A size of 0 asks how long the value is.
fn reply_xattr(value: Result<impl AsRef<[u8]>>, size: u32, reply: ReplyXattr) {
    match value.as_ref().map(|value| value.as_ref()) {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(value),
        Err(error) => reply.error(convert::errno(error)),
    }
}
