//! Mounting and unmounting, by our own system calls.
//!
//! The kernel's mount table is the one source of truth: everything here looks a mount up in `/proc/self/mountinfo`, names
//! it by its mount id, and checks that it is still the one meant before it lets go of it. Nothing here waits for a
//! drive to answer for longer than [`ANSWER_WITHIN`]: a mount whose process is stuck must not hang the tools that
//! look at it.
//!
//! As root the mount is made with mount(2) under the type `fuse.strewn`, and an entry in `/run/mount/utab` makes a plain
//! umount(8) run our helper, which waits until the network has everything. Other users go through the set-user-id helper
//! `fusermount3`.

mod fusermount;
mod table;
mod utab;

pub use table::MountEntry;
pub use utab::Utab;

use crate::volume::{AccessTimes, Noted};
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::HashSet;
use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// The file system type in the mount table.
pub const FS_TYPE: &str = "fuse.strewn";
/// Type and subtype as the kernel and `fusermount3` want them.
const SUBTYPE: &str = "strewn";
/// The device of FUSE.
const DEVICE: &str = "/dev/fuse";
/// Largest read request in bytes: what the kernel's page limit allows.
const MAX_READ: u32 = 1 << 20;
/// How long a mounted drive may take to show that it lives.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How to mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// What the mount table shows as the device, for example `strewn:photos`. Empty: `strewn`.
    pub source: String,
    /// No changes.
    pub read_only: bool,
    /// Let other users in, as far as file modes allow. By default only if root mounts.
    pub allow_other: Option<bool>,
    /// Honour set-user-id bits; only root may ask.
    pub suid: bool,
    /// Honour device nodes; only root may ask.
    pub dev: bool,
    /// Run no programs from it.
    pub noexec: bool,
    /// What is shown of how access times are kept: the kernel leaves that to the volume.
    pub access_times: AccessTimes,
    /// Mount over a directory that is not empty.
    pub nonempty: bool,
}

/// A fresh mount, not served yet: nobody must touch the mount point until the device is served.
#[derive(Debug)]
pub struct Mounted {
    /// The device to serve requests from. The mount is dead once it is closed.
    pub fd: OwnedFd,
    /// What to unmount later.
    pub point: MountPoint,
}

/// A mount of ours. The kernel gives ids out again soon after an unmount, so a mount is only taken for the same one if
/// place, device number and source agree with what was seen, too; and whoever serves a drive lets go of it while it is
/// still served, not later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    entry: MountEntry,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// No mount begins there.
    Nothing,
    /// A drive that answers.
    Drive(MountPoint),
    /// A drive whose process is gone: every access fails with ENOTCONN.
    Stale(MountPoint),
    /// A drive that did not answer in time.
    Silent(MountPoint),
    /// A mount of another type.
    Other(String),
}

/// Why a drive was not mounted. The messages say what to do next.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MountError {
    #[error(
        "this machine has no {DEVICE}: load the FUSE module (as root: modprobe fuse), or pass the device into the container"
    )]
    NoDevice,
    #[error("no permission to mount at {path}: {reason}")]
    Permission { path: PathBuf, reason: String },
    #[error("{0} does not exist: create it first (mkdir -p)")]
    Missing(PathBuf),
    #[error("{0} is not a directory: a drive needs an empty directory to be mounted on")]
    NotADirectory(PathBuf),
    #[error("{0} is not empty: choose an empty directory, or mount over it with -o nonempty")]
    NotEmpty(PathBuf),
    #[error("{path} is already in use by {what}: unmount it first, or choose another directory")]
    AlreadyMounted { path: PathBuf, what: String },
    #[error("the drive at {0} was left behind by a process that died: clear it first (strewn umount {0})")]
    Stale(PathBuf),
    #[error("fusermount3 is not installed: install the package fuse3, or mount as root")]
    NoHelper,
    #[error(
        "other users can only be let in if /etc/fuse.conf has a line user_allow_other: add it, or mount without -o allow_other"
    )]
    AllowOther,
    #[error("cannot mount at {path}: {reason}")]
    Failed { path: PathBuf, reason: String },
}

/// Why a drive was not unmounted. The messages say what to do next.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum UnmountError {
    #[error("no drive is mounted at {0}")]
    NotMounted(PathBuf),
    #[error("{path} is not a drive but a mount of type {fs_type}")]
    NotOurs { path: PathBuf, fs_type: String },
    #[error("{0} is covered by another mount: unmount that first")]
    Covered(PathBuf),
    #[error(
        "{0} is in use: close the files and leave the directories on it (fuser -vm {0} lists who uses it), or detach it with --lazy"
    )]
    Busy(PathBuf),
    #[error("no permission to unmount {0}: ask the user who mounted it, or root")]
    Permission(PathBuf),
    #[error("fusermount3 is not installed: install the package fuse3, or unmount as root")]
    NoHelper,
    #[error("cannot unmount {path}: {reason}")]
    Failed { path: PathBuf, reason: String },
}

/// Mounts a drive on a directory. Serve the returned device at once.
///
/// Blocks for at most [`ANSWER_WITHIN`] if something is mounted there that does not answer.
pub fn mount(path: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let path = check(path, options)?;
    let (fd, by_root) = if is_root() {
        match mount_directly(&path, options)? {
            Some(fd) => (fd, true),
            // Root without the right to mount, as in a container: the helper cannot do more, but says why.
            None => (fusermount::mount(&path, &helper_options(options))?, false),
        }
    } else {
        (fusermount::mount(&path, &helper_options(options))?, false)
    };
    let failed = |reason: String| MountError::Failed { path: path.clone(), reason };
    let entries = table::read().map_err(|error| failed(format!("cannot read the mount table: {error}")))?;
    let top = table::top_at(&entries, &path).filter(|entry| entry.fs_type == FS_TYPE);
    let entry = top.ok_or_else(|| failed("the mount vanished at once".into()))?.clone();
    if by_root {
        // Without the entry a plain umount(8) does not wait for the network. The drive works all the same.
        if let Err(error) = Utab::system().add(&path, source(options)) {
            tracing::warn!(%error, "plain umount will not wait for uploads: use strewn umount");
        }
    }
    Ok(Mounted { fd, point: MountPoint { entry } })
}

/// What is mounted at a path. Waits at most [`ANSWER_WITHIN`] for a drive to show that it lives.
pub fn at(path: &Path) -> io::Result<At> {
    let path = resolve(path)?;
    let entries = table::read()?;
    let Some(top) = table::top_at(&entries, &path) else { return Ok(At::Nothing) };
    if top.fs_type != FS_TYPE {
        return Ok(At::Other(top.fs_type.clone()));
    }
    let point = MountPoint { entry: top.clone() };
    Ok(match probe(path) {
        Some(Err(error)) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NOTCONN) => {
            At::Stale(point)
        }
        // Any answer is an answer, also a refusal.
        Some(_) => At::Drive(point),
        None => At::Silent(point),
    })
}

/// All drives in the mount table.
pub fn all() -> io::Result<Vec<MountEntry>> {
    Ok(table::read()?.into_iter().filter(|entry| entry.fs_type == FS_TYPE).collect())
}

/// The names of all places that something is mounted on, as far as this process sees, without what leads there.
pub(crate) fn names_mounted_on() -> io::Result<HashSet<OsString>> {
    Ok(table::names(&table::read()?))
}

/// True if something is mounted on a place within any drive, as far as this process sees.
pub(crate) fn is_mounted_on_a_drive() -> io::Result<bool> {
    Ok(table::is_any_on(&table::read()?, FS_TYPE))
}

/// Clears a drive that a process left behind when it died. True if there was one.
pub fn clean_stale(path: &Path) -> Result<bool, UnmountError> {
    let state = at(path).map_err(|error| UnmountError::Failed { path: path.into(), reason: error.to_string() })?;
    let At::Stale(point) = state else { return Ok(false) };
    point.detach()?;
    Ok(true)
}

impl MountPoint {
    /// The drive mounted at a path, whether it answers or not.
    pub fn find(path: &Path) -> Result<Self, UnmountError> {
        let failed = |error: io::Error| UnmountError::Failed { path: path.into(), reason: error.to_string() };
        let path = resolve(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => UnmountError::NotMounted(path.into()),
            _ => failed(error),
        })?;
        let entries = table::read().map_err(failed)?;
        match table::top_at(&entries, &path) {
            None => Err(UnmountError::NotMounted(path)),
            Some(top) if top.fs_type != FS_TYPE => Err(UnmountError::NotOurs { path, fs_type: top.fs_type.clone() }),
            Some(top) => Ok(Self { entry: top.clone() }),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.entry.path
    }

    /// The id in the mount table.
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// True if this only shows a drive that is mounted elsewhere, or a part of it: a bind mount.
    pub fn is_bound(&self) -> io::Result<bool> {
        let same = |other: &MountEntry| other.device == self.entry.device && other.id != self.entry.id;
        Ok(self.entry.root != Path::new("/") || table::read()?.iter().any(same))
    }

    /// True while the mount is in the mount table.
    pub fn is_mounted(&self) -> io::Result<bool> {
        Ok(table::read()?.iter().any(|entry| self.is(entry)))
    }

    /// Unmounts. Fails with [`UnmountError::Busy`] while it is used. A mount that is already gone is fine; one that took
    /// its place is left alone.
    pub fn unmount(&self) -> Result<(), UnmountError> {
        self.let_go(UnmountFlags::empty())
    }

    /// Takes the mount out of the tree at once; who uses it goes on until they are done.
    pub fn detach(&self) -> Result<(), UnmountError> {
        self.let_go(UnmountFlags::DETACH)
    }

    /// Unmounts, or detaches if it is in use. True if it was in use.
    pub fn unmount_or_detach(&self) -> Result<bool, UnmountError> {
        match self.unmount() {
            Err(UnmountError::Busy(_)) => self.detach().map(|()| true),
            other => other.map(|()| false),
        }
    }

    fn is(&self, entry: &MountEntry) -> bool {
        // What it is mounted on may have moved.
        *entry == MountEntry { parent: entry.parent, ..self.entry.clone() }
    }

    fn let_go(&self, flags: UnmountFlags) -> Result<(), UnmountError> {
        let path = self.path();
        let failed = |reason: String| UnmountError::Failed { path: path.into(), reason };
        let entries = table::read().map_err(|error| failed(format!("cannot read the mount table: {error}")))?;
        if !entries.iter().any(|entry| self.is(entry)) {
            return Ok(());
        }
        if !table::top_at(&entries, path).is_some_and(|top| self.is(top)) {
            return Err(UnmountError::Covered(path.into()));
        }
        let lazy = flags.contains(UnmountFlags::DETACH);
        match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => return Err(UnmountError::Busy(path.into())),
            Err(rustix::io::Errno::PERM) if !is_root() => fusermount::unmount(path, lazy)?,
            Err(rustix::io::Errno::PERM) => return Err(UnmountError::Permission(path.into())),
            Err(error) => return Err(failed(error.to_string())),
        }
        if is_root()
            && let Err(error) = Utab::system().remove(path)
        {
            tracing::warn!(%error, path = %path.display(), "a stale entry stays in the mount helper's table");
        }
        Ok(())
    }
}

/// Finds out whether a drive could be mounted on a directory, before anything else is set up; gives its real path.
///
/// Blocks like [`mount`].
pub fn check(path: &Path, options: &MountOptions) -> Result<PathBuf, MountError> {
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing(path.into()),
        io::ErrorKind::NotADirectory => MountError::NotADirectory(path.into()),
        io::ErrorKind::PermissionDenied => MountError::Permission {
            path: path.into(),
            reason: "the directory cannot be reached; check the permissions of it and its parents".into(),
        },
        _ => MountError::Failed { path: path.into(), reason: error.to_string() },
    };
    let used = |what: &str| MountError::AlreadyMounted { path: path.into(), what: what.into() };
    // The mount table first: touching a mount whose process hangs would hang us.
    match at(path).map_err(explain)? {
        At::Nothing => {}
        At::Drive(_) => return Err(used("another drive")),
        At::Silent(_) => return Err(used("a drive that does not answer")),
        At::Stale(_) => return Err(MountError::Stale(path.into())),
        At::Other(fs_type) => return Err(used(&format!("a file system of type {fs_type}"))),
    }
    let path = resolve(path).map_err(explain)?;
    if !fs::metadata(&path).map_err(explain)?.is_dir() {
        return Err(MountError::NotADirectory(path));
    }
    if !options.nonempty && fs::read_dir(&path).map_err(explain)?.next().is_some() {
        return Err(MountError::NotEmpty(path));
    }
    Ok(path)
}

/// mount(2). `None` if the kernel does not let us.
fn mount_directly(path: &Path, options: &MountOptions) -> Result<Option<OwnedFd>, MountError> {
    let device = open_device(path)?;
    let failed = |reason: String| MountError::Failed { path: path.into(), reason };
    let mode = fs::metadata(path).map_err(|error| failed(error.to_string()))?.mode();
    let data = kernel_data(device.as_raw_fd(), mode, options);
    let data = CString::new(data).map_err(|error| failed(error.to_string()))?;
    match rustix::mount::mount(source(options), path, FS_TYPE, flags(options), &*data) {
        Ok(()) => Ok(Some(device.into())),
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(rustix::io::Errno::NODEV) => Err(MountError::NoDevice),
        Err(rustix::io::Errno::BUSY) => {
            Err(MountError::AlreadyMounted { path: path.into(), what: "another mount".into() })
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

fn open_device(path: &Path) -> Result<File, MountError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoDevice,
        io::ErrorKind::PermissionDenied => MountError::Permission {
            path: path.into(),
            reason: format!("{DEVICE} cannot be opened; check its permissions"),
        },
        _ if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => MountError::NoDevice,
        _ => MountError::Failed { path: path.into(), reason: format!("{DEVICE}: {error}") },
    })
}

/// Options the file system type takes. Numbers and fixed words only, so that nothing can be smuggled in.
fn kernel_data(device: i32, mode: u32, options: &MountOptions) -> String {
    let user = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    let mut data = format!(
        "fd={device},rootmode={mode:o},user_id={user},group_id={group},max_read={MAX_READ},default_permissions"
    );
    if options.allow_other.unwrap_or(is_root()) {
        data += ",allow_other";
    }
    data
}

fn flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOEXEC, options.noexec);
    let AccessTimes { files, directories } = options.access_times;
    flags.set(MountFlags::NOATIME, files == Noted::Never);
    flags.set(MountFlags::NODIRATIME, directories == Noted::Never && files != Noted::Never);
    flags.set(MountFlags::STRICTATIME, files == Noted::Always);
    flags
}

/// Options for `fusermount3`, which adds `nosuid,nodev` itself.
fn helper_options(options: &MountOptions) -> String {
    let mut words = vec![
        format!("fsname={}", fusermount::escape(source(options))),
        format!("subtype={SUBTYPE}"),
        String::from("default_permissions"),
        format!("max_read={MAX_READ}"),
    ];
    let optional = [
        (options.allow_other.unwrap_or(is_root()), "allow_other"),
        (options.read_only, "ro"),
        (options.noexec, "noexec"),
        (options.access_times.files == Noted::Never, "noatime"),
    ];
    words.extend(optional.into_iter().filter(|(wanted, _)| *wanted).map(|(_, word)| word.into()));
    words.join(",")
}

fn source(options: &MountOptions) -> &str {
    if options.source.is_empty() { SUBTYPE } else { &options.source }
}

/// The absolute path without symbolic links, also of a mount point that does not answer: its own directory is not asked.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let own = parent.canonicalize()?.join(name);
        if table::read()?.iter().any(|entry| entry.path == own) {
            return Ok(own);
        }
    }
    path.canonicalize()
}

/// Asks a mount for anything from a thread that may hang; `None` if no answer came in time.
fn probe(path: PathBuf) -> Option<io::Result<()>> {
    let (answer, answered) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        // The listener may have given up.
        let _ = answer.send(rustix::fs::statvfs(&path).map(|_| ()).map_err(io::Error::from));
    });
    answered.recv_timeout(ANSWER_WITHIN).ok()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests;
