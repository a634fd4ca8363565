//! Settings of a cache, and what a mount shows as its root.

use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::ids::InodeId;
use strewn_engine::secret::Key;

/// Settings of a cache; see [`Options::default`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Most bytes of data files, journal, index and sealed segments on disk. At least what the journal takes and 4 MiB are used
    /// however small it is.
    pub budget: u64,
    /// Most bytes that may wait for the network; beyond it writers wait, then get [`Error::NoSpace`](crate::Error::NoSpace).
    pub dirty_limit: u64,
    /// A cut is due after this long without changes.
    pub cut_idle: Duration,
    /// A cut is due once this many bytes are dirty and nobody works on the drive.
    pub cut_bytes: u64,
    /// A cut is due once the oldest change is this old.
    pub cut_age: Duration,
    /// Most bytes fetched ahead of a sequential reader.
    pub read_ahead: u64,
    /// How long an operation may wait for the network or for room before it fails.
    pub deadline: Duration,
    /// Bytes of memory for what a mount knows of inodes and names, about; beyond it clean inodes that nobody refers to are
    /// forgotten, those that were not used for longest first, and who refers to others is asked to let go
    /// ([`Cache::unused`](crate::Cache::unused)). What is changed, open, or referred to all the same stays, and so do the names
    /// of directories that were listed; a quarter of this is for inodes however many names there are. While the network is
    /// away nothing is forgotten. Bytes of files are not counted here.
    pub memory: u64,
    /// Name of this machine in the names of conflict copies.
    pub host: String,
    /// Keep an index, so that clean bytes are found again after a restart. It holds keys and names in the clear, like the
    /// journal.
    pub index: bool,
    /// Nothing readable in the directory: journal and data files are encrypted, and there is no index. A directory that was
    /// first used one way cannot be used the other way before it was emptied.
    pub encrypt: bool,
    /// No changes.
    pub read_only: bool,
    /// Ask for leases on names before they come to be. Without, what several mounts create under one name is always kept by
    /// all of them, as conflict copies.
    pub leases: bool,
    /// By what leases run out.
    pub clock: Clock,
}

/// A clock that is never set: the time since any fixed moment.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// Any function that never goes back; tests move such clocks themselves.
    pub fn new(elapsed: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(elapsed))
    }

    /// What it shows.
    pub fn elapsed(&self) -> Duration {
        (self.0)()
    }
}

impl Default for Clock {
    /// Time since the machine was started, sleep included.
    fn default() -> Self {
        Self::new(|| {
            let time = clock_gettime(ClockId::Boottime);
            Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
        })
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({:?})", self.elapsed())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: 10 << 30,
            dirty_limit: 5 << 30,
            cut_idle: Duration::from_millis(700),
            cut_bytes: 64 << 20,
            cut_age: Duration::from_secs(10),
            read_ahead: 16 << 20,
            deadline: Duration::from_secs(30),
            memory: 128 << 20,
            host: String::from("local"),
            index: true,
            encrypt: false,
            read_only: false,
            leases: true,
            clock: Clock::default(),
        }
    }
}

/// What a cache shows as its root: a directory, or a file that is all there is.
#[derive(Debug, Clone)]
pub struct Root {
    /// Its inode.
    pub inode: InodeId,
    /// Its key.
    pub key: Key,
}
