//! The local file system as a disk.

use super::{Disk, DiskFile, Listed};
use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The file whose lock says that a process uses the directory; it holds that process's id in decimal.
const LOCK: &str = "lock";
/// Most parts handed to one `pwritev`; Linux takes 1,024.
const MAX_PARTS: usize = 64;
/// How long a killed process is waited for that still holds the lock.
const DYING: Duration = Duration::from_secs(10);
/// How often.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Large writes are handed to the file system in pieces up to multiples of this. It keeps what it is handed at once in one
/// unit of its page cache and walks over all of that for every small overwrite: with units of 1 MiB an overwrite of 4 KiB
/// costs three times as much.
const PIECE: u64 = 256 << 10;
/// Unit of `st_blocks`.
const STAT_UNIT: u64 = 512;

/// A directory with mode 0700, locked for one process while this value lives.
pub struct FileDisk {
    root: PathBuf,
    /// Held for its lock.
    lock: File,
}

/// Why a cache directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("the cache directory {path} is in use by {}; unmount that drive first or choose another directory", holder(*.pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds the lock, if it wrote its id.
        pid: Option<u32>,
    },
    /// It belongs to somebody else or is readable by others and could not be changed.
    #[error("the cache directory {path} is not private: {reason}")]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot open the cache directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

impl FileDisk {
    /// Makes the directory if it is missing (mode 0700), and locks it.
    pub fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let failed = |source| OpenError::Io { path: path.into(), source };
        make_directories(path).map_err(failed)?;
        check_private(path)?;
        let lock = lock(path)?;
        Ok(Arc::new(Self { root: path.into(), lock }))
    }

    /// Lets other processes use the directory; the owner of this value uses it no more.
    pub fn release(&self) -> io::Result<()> {
        Ok(rustix::fs::flock(&self.lock, FlockOperation::Unlock)?)
    }

    fn locate(&self, name: &str) -> io::Result<PathBuf> {
        let relative = Path::new(name);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a name below the cache: {name:?}")));
        }
        Ok(self.root.join(relative))
    }
}

impl Disk for FileDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.locate(name)?;
        let attempt = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match attempt() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directories(path.parent().unwrap_or(&self.root))?;
                attempt()?
            }
            other => other?,
        };
        Ok(Arc::new(Opened { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.locate(name)?)?;
        Ok(Arc::new(Opened { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.locate(from)?, self.locate(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.locate(name)?)
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        File::open(self.locate(directory)?)?.sync_all()
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Listed>> {
        let entries = match fs::read_dir(self.locate(directory)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            // A name that is not UTF-8 is not ours.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                found.push(Listed { name, length: metadata.len(), allocated: metadata.blocks() * STAT_UNIT });
            }
        }
        Ok(found)
    }

    fn free(&self) -> io::Result<u64> {
        let space = rustix::fs::fstatvfs(&self.lock)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.locate(name).ok()
    }
}

struct Opened {
    file: File,
}

impl DiskFile for Opened {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.file, offset, buffer)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let [part] = parts else { return self.write_parts(offset, parts) };
        let (mut at, mut rest) = (offset, *part);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min((PIECE - at % PIECE) as usize));
            self.file.write_all_at(piece, at)?;
            (at, rest) = (at + piece.len() as u64, later);
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * STAT_UNIT)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros(offset, length),
            other => Ok(other?),
        }
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        // DONTNEED starts write-out of dirty pages like sync_file_range does and drops only pages that are clean.
        let length = std::num::NonZeroU64::new(length);
        let _ = rustix::fs::fadvise(&self.file, offset, length, Advice::DontNeed);
    }
}

/// Fills the buffer from an offset as far as the file goes.
pub(crate) fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Opened {
    fn write_parts(&self, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        for group in parts.chunks(MAX_PARTS) {
            let mut slices: Vec<IoSlice<'_>> =
                group.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
            let mut left = slices.as_mut_slice();
            while !left.is_empty() {
                match rustix::io::pwritev(&self.file, left, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut left, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// For file systems without holes.
    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let end = offset.saturating_add(length).min(self.file.metadata()?.len());
        let mut at = offset;
        while at < end {
            let step = (end - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }
}

/// Makes a directory and its missing parents, each name durable before anything is put below it.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directories(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(parent)?.sync_all(),
    }
}

/// The directory must be ours; if others may enter, that is taken back.
fn check_private(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { path: path.into(), source };
    let not_private = |reason: String| OpenError::NotPrivate { path: path.into(), reason };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(not_private(format!("it belongs to user {}, not to {user}", metadata.uid())));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|error| not_private(error.to_string()))?;
    }
    Ok(())
}

/// The process that holds the lock, if it wrote its id: a courtesy, so unreadable means unknown.
fn read_holder(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

/// True for a process that is gone, or was killed and has yet to close its files: its memory is given back before them.
pub(super) fn is_dying(pid: u32) -> bool {
    matches!(fs::read_link(format!("/proc/{pid}/exe")), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { path: path.into(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(failed)?;
    let until = Instant::now() + DYING;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let pid = read_holder(&file);
        if !pid.is_some_and(is_dying) || Instant::now() >= until {
            return Err(OpenError::InUse { path: path.into(), pid });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    file.set_len(0).map_err(failed)?;
    write!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}
