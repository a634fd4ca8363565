//! The public face of the cache.

use crate::blocking::blocking;
use crate::cut::queue::WHOLE_BATCHES;
use crate::cut::tasks;
use crate::disk::{Disk, FileDisk, OpenError};
use crate::foreground::Foreground;
use crate::journal::BootId;
use crate::lease::{self, Leasing};
use crate::outgoing::Outgoing;
use crate::passthrough::Look;
use crate::room::Limits;
use crate::shared::{Attempt, Counters, OPEN_SEGMENTS, Shared};
use crate::store::Store;
use crate::{
    Change, Error, FileState, Invalidation, Listener, Loan, Options, Root, Status, Stop, Stored, Transaction, Unused,
    encryption, maintain, news, recover, upload, warm,
};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strewn_engine::bucket::{BucketService, Usage};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Invalidations that wait for their follower: at most 6 MiB of them. Whoever removes a large tree elsewhere makes as many in a
/// moment, and after [`Invalidation::All`] nothing is known of names that are gone.
const INVALIDATIONS: usize = 1 << 17;
/// Portions of unused names that wait for somebody to let go of them.
const UNUSED: usize = 2;
/// How often a drain shows its progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// A cache. Clones share it.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
    root: InodeId,
    /// The lock of its directory, if it has one.
    lock: Option<Arc<FileDisk>>,
    tasks: Arc<Tasks>,
}

/// Background tasks; they end when the cache is closed or the last clone is dropped.
struct Tasks {
    handles: Mutex<Vec<JoinHandle<()>>>,
    invalidations: Mutex<Option<mpsc::Receiver<Invalidation>>>,
    unused: Mutex<Option<mpsc::Receiver<Vec<Unused>>>>,
    closing: watch::Sender<bool>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At this offset.
    At(u64),
    /// At the end of the file, atomically (O_APPEND).
    End,
}

/// What [`Cache::seek`] looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next byte in a hole; the end of the file counts as one.
    Hole,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where the first byte went.
    pub offset: u64,
    /// Size of the file afterwards.
    pub size: u64,
}

impl Cache {
    /// Opens the cache in `directory` (made if absent, locked while open) for one bucket and root, brings back what was
    /// pending, and starts its background tasks. Works without the network once the root has been seen.
    ///
    /// Errors: [`Error::Disk`] (also when another mount holds the directory or it belongs to another bucket or root),
    /// [`Error::Network`] when the root was never seen and the network is away, [`Error::Corrupt`] when the root key does
    /// not open it.
    pub async fn open(
        directory: &Path,
        bucket: Arc<dyn BucketService>,
        root: Root,
        options: Options,
    ) -> Result<Self, Error> {
        let path = directory.to_owned();
        let disk = blocking(move || Ok(FileDisk::open(&path)?)).await?;
        let boot = BootId::current()?;
        let mut cache = Self::open_on(disk.clone(), boot, bucket, root, options).await?;
        cache.lock = Some(disk);
        Ok(cache)
    }

    /// Like [`open`](Self::open), on any disk and in any boot of a machine: the seam under which power cuts are simulated.
    pub async fn open_on(
        disk: Arc<dyn Disk>,
        boot: BootId,
        bucket: Arc<dyn BucketService>,
        root: Root,
        options: Options,
    ) -> Result<Self, Error> {
        let (settings, of, encrypted) = (bucket.settings().clone(), root.clone(), options.encrypt);
        let disk = blocking(move || encryption::open(disk, &settings, &of, encrypted)).await?;
        let (settings, of) = (bucket.settings().clone(), root.clone());
        let (theirs, wanted) = (disk.clone(), options.index);
        let (store, found, mount, index) = blocking(move || {
            let (store, found) = Store::open(theirs.clone())?;
            let mount = recover::identify(&store, &settings, &of)?;
            // Before anything is written to a data file: it takes back what it says of them.
            let index = warm::open_index(&*theirs, boot, wanted);
            Ok((store, found, mount, index))
        })
        .await?;
        let (rows, of) = (warm::read_rows(&index).await, root.clone());
        let (store, journal, state, rebooted) = blocking(move || {
            let (journal, state, rebooted) = recover::open(&store, found, disk, boot, &of, mount, rows)?;
            Ok((store, journal, state, rebooted))
        })
        .await?;
        let kept = warm::names::Kept::find(&index, journal.last().0).await;
        let (invalidations, follower) = mpsc::channel(INVALIDATIONS);
        let (unused, letting_go) = mpsc::channel(UNUSED);
        let (closing, _) = watch::channel(false);
        // Not the stream of batches, which may begin anew: what this cache held before has to be known as its own.
        let leasing = Leasing::new(mount, options.clock.clone());
        let foreground = Arc::new(Foreground::new());
        let shared = Arc::new(Shared {
            options,
            leasing,
            bucket,
            store,
            journal,
            index,
            feed: Mutex::default(),
            state: Mutex::new(state),
            gate: tokio::sync::RwLock::new(()),
            progress: watch::channel(0).0,
            loading: Mutex::new(HashMap::new()),
            sources: Mutex::new(LruCache::new(OPEN_SEGMENTS)),
            batches: Mutex::new(LruCache::new(WHOLE_BATCHES)),
            closing: closing.clone(),
            closed: AtomicBool::new(false),
            counters: Counters::default(),
            limits: Limits::default(),
            loans: Default::default(),
            outgoing: Arc::new(Outgoing::new(foreground.clone())),
            foreground,
            invalidations,
            unused,
            crowded: tokio::sync::Notify::new(),
            followed: watch::channel(None).0,
            missed: tokio::sync::Notify::new(),
            loading_missed: tokio::sync::Mutex::new(()),
        });
        shared.look_at_disk()?;
        shared.know_root(&root).await?;
        if rebooted {
            // What was not believed must not be found again.
            shared.snapshot().await?;
        }
        shared.resume_exposed();
        shared.wake_up(kept).await;
        let tasks = Tasks {
            handles: Mutex::default(),
            invalidations: Mutex::new(Some(follower)),
            unused: Mutex::new(Some(letting_go)),
            closing,
        };
        let cache = Self { shared, root: root.inode, lock: None, tasks: Arc::new(tasks) };
        cache.start();
        Ok(cache)
    }

    fn start(&self) {
        let shared = || self.shared.clone();
        let mut handles = vec![
            tokio::spawn(maintain::keep_house(shared())),
            tokio::spawn(maintain::keep_memory(shared())),
            tokio::spawn(news::follow(shared())),
        ];
        if !self.shared.options.read_only {
            handles.push(tokio::spawn(tasks::take_cuts(shared())));
            handles.push(tokio::spawn(tasks::seal_cuts(shared())));
            handles.push(tokio::spawn(tasks::make_batches(shared())));
            handles.push(tokio::spawn(upload::upload(shared())));
            if self.shared.options.leases {
                handles.push(tokio::spawn(lease::keep(shared())));
            }
        }
        self.tasks.handles.lock().extend(handles);
    }

    /// The inode of the root directory.
    pub fn root(&self) -> InodeId {
        self.root
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Runs `body` against the tree and applies its changes as one atomic, journaled step when it returns `Ok`.
    ///
    /// `body` may run several times: when it stops with [`Stop::Missing`], the cache loads what was missing from the
    /// network and runs it anew (nothing of the stopped run remains). It holds the lock of the tree: no waiting inside.
    pub async fn transact<T, F>(&self, body: F) -> Result<T, Error>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop> + Send,
        T: Send,
    {
        self.shared.foreground.note();
        self.shared.transact(body).await
    }

    /// Like [`transact`](Self::transact), but never waits: `None` if something would have to be loaded. For what must not
    /// block, such as forgetting kernel references.
    pub fn try_transact<T, F>(&self, mut body: F) -> Option<Result<T, Error>>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop>,
    {
        self.shared.foreground.note();
        match self.shared.attempt(&mut body, true, None) {
            Ok(Attempt::Done(value)) => Some(Ok(value)),
            Ok(Attempt::Missing(_) | Attempt::Uncovered(_) | Attempt::Held) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Writes `data` and, in the same atomic step, lets `update` change attributes (times, mode bits; the size is already
    /// the new one and must be left alone). Pages of a hole between the old end and `offset` read as zeros.
    ///
    /// Errors: [`Error::NoSpace`], [`Error::Quota`], [`Error::ReadOnly`], [`Error::TooLarge`] beyond 2^63 - 1.
    pub async fn write<F>(&self, inode: InodeId, position: Position, data: &[u8], update: F) -> Result<Written, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        self.shared.foreground.note();
        self.shared.write(inode, position, data, update).await
    }

    /// Reads up to `length` bytes from `offset`; shorter only at the end of the file.
    pub async fn read(&self, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Error> {
        self.shared.foreground.note();
        self.shared.read(inode, offset, length).await
    }

    /// Copies bytes from an offset of one file to an offset of another, or within one where both do not overlap. What the network
    /// has of them is not uploaded again. `now` bytes are copied, which go through memory, and `asked` in the end, by this call
    /// and those that follow: only a run that is copied as a whole may be shared by two files. `update` as for
    /// [`write`](Self::write). Returns how many bytes were copied: fewer at the end of the source, where it is 0. Holes are bytes
    /// like others. Fails as [`read`](Self::read) and [`write`](Self::write) do.
    pub async fn copy<F>(
        &self,
        source: (InodeId, u64),
        target: (InodeId, u64),
        (now, asked): (u64, u64),
        update: F,
    ) -> Result<u64, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        self.shared.foreground.note();
        self.shared.copy(source, target, (now, asked), update).await
    }

    /// The first offset at or after `offset` that is data or hole; `None` where lseek(2) says ENXIO.
    pub async fn seek(&self, inode: InodeId, offset: u64, what: Seek) -> Result<Option<u64>, Error> {
        self.shared.seek(inode, offset..u64::MAX, what).await
    }

    /// Like [`Self::seek`], looking at no more of the file than this range.
    pub async fn seek_within(&self, inode: InodeId, range: Range<u64>, what: Seek) -> Result<Option<u64>, Error> {
        self.shared.seek(inode, range, what).await
    }

    /// Makes an inode durable on this machine: its content, and with it everything that was journaled before. `data_only`
    /// leaves out nothing but is a hint (fdatasync).
    pub async fn sync(&self, inode: InodeId, data_only: bool) -> Result<(), Error> {
        let _ = data_only;
        let _busy = self.shared.foreground.busy();
        self.shared.sync_if_exposed(inode).await?;
        self.shared.sync_as_asked(inode).await?;
        Ok(self.shared.journal.sync(self.shared.journal.last()).await?)
    }

    /// Lends the data file of a file to the kernel, which reads it by itself from then on, for one more handle: `None` if the file
    /// is not lent and cannot be, since it is short, not whole in its data file, encrypted there, or too much is lent.
    ///
    /// While a file is lent, every change of its size and every hole is to be followed by [`show`](Self::show), and so is a write
    /// while it [`is_mirrored`](Self::is_mirrored). Only who has it by [`lend_exposed`](Self::lend_exposed) may store into its pages.
    pub async fn lend(&self, inode: InodeId) -> Result<Option<Loan>, Error> {
        self.shared.lend(inode).await
    }

    /// One more handle of a file that is lent; `None` if it is not. Never waits.
    pub fn lend_again(&self, inode: InodeId) -> Option<Loan> {
        self.shared.lend_again(inode)
    }

    /// The same, for who may store into its pages without telling. What he stores is found by looking at the data file.
    pub async fn lend_exposed(&self, inode: InodeId) -> Result<Option<Loan>, Error> {
        self.shared.lend_exposed(inode).await
    }

    /// A handle that was lent is closed. Never waits.
    pub fn take_back(&self, inode: InodeId) {
        self.shared.take_back(inode);
    }

    /// True if a file is lent. Never waits.
    pub fn is_lent(&self, inode: InodeId) -> bool {
        self.shared.is_lent(inode)
    }

    /// True if a file is lent and what is written to it shows to the kernel only after [`show`](Self::show). Never waits.
    pub fn is_mirrored(&self, inode: InodeId) -> bool {
        self.shared.is_mirrored(inode)
    }

    /// Lets the file that is lent show a change. Nothing happens if none is lent.
    pub async fn show(&self, inode: InodeId, change: Change) -> Result<(), Error> {
        self.shared.show(inode, change).await
    }

    /// Why the upload of a file fails at present, told once to each listener. A network that is away is no failure. Never
    /// waits.
    pub fn failure(&self, inode: InodeId, listener: Listener) -> Option<Error> {
        self.shared.state.lock().failures.tell(inode, listener)
    }

    /// An open file is closed, so that its handle may come again.
    pub fn release(&self, inode: InodeId, handle: u64) {
        self.shared.state.lock().failures.release(inode, handle);
    }

    /// How far a file is on its way to the network. Never waits.
    pub fn file_state(&self, inode: InodeId) -> FileState {
        self.shared.file_state(inode)
    }

    /// How the network stores what it has of a file: at most `most` segments are looked at. Asks the network.
    pub async fn stored(&self, inode: InodeId, most: usize) -> Result<Stored, Error> {
        self.shared.stored(inode, most).await
    }

    /// Makes everything durable on this machine.
    pub async fn sync_all(&self) -> Result<(), Error> {
        self.shared.sync_data_files().await?;
        Ok(self.shared.journal.sync(self.shared.journal.last()).await?)
    }

    /// Waits until everything that was pending when it was called is on the network; calls `progress` about twice a
    /// second. [`Error::Pending`] says what is left when the network stays away for [`Options::deadline`] without progress;
    /// the queue is kept.
    pub async fn drain<F: FnMut(&Status) + Send>(&self, progress: F) -> Result<(), Error> {
        self.drain_within(self.shared.options.deadline, progress).await
    }

    /// Like [`drain`](Self::drain), with a patience of its own: how long nothing may move before it is given up.
    pub async fn drain_within<F: FnMut(&Status) + Send>(&self, patience: Duration, progress: F) -> Result<(), Error> {
        self.shared.settle_all_exposed(Look::Now).await?;
        self.shared.drain(patience, PROGRESS_EVERY, progress).await
    }

    /// Takes what is pending as a cut at once, instead of when one is due; it goes up in the background. True if anything
    /// was pending.
    pub async fn cut(&self) -> Result<bool, Error> {
        Ok(self.shared.freeze().await?.is_some())
    }

    /// One round of what the background does twice a second: syncs data files, removes what is done, evicts what there is no
    /// room for.
    pub async fn keep_house(&self) -> Result<(), Error> {
        self.shared.house_round().await
    }

    /// Writes all pending state into a snapshot of the journal, so that the journal before it can go. Does nothing while a
    /// cut is being sealed.
    pub async fn snapshot(&self) -> Result<(), Error> {
        self.shared.snapshot().await
    }

    /// How it is going.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// True if the network answered the last request.
    pub fn is_reachable(&self) -> bool {
        self.shared.state.lock().pipeline.reachable
    }

    /// What the bucket holds and may hold.
    pub async fn usage(&self) -> Result<Usage, Error> {
        Ok(self.shared.ask(self.shared.bucket.usage()).await?)
    }

    /// What other mounts changed, for whoever keeps copies (the kernel). The first call gets the receiver; it is bounded, and
    /// what does not fit becomes one [`Invalidation::All`].
    pub fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        self.tasks.invalidations.lock().take()
    }

    /// Names that whoever refers to inodes (the kernel) may let go of, oldest use first, because memory is short: see
    /// [`Options::memory`]. The first call gets the receiver. No more are sent before these are taken. Whether a file is open is
    /// for the receiver to know.
    pub fn unused(&self) -> Option<mpsc::Receiver<Vec<Unused>>> {
        self.tasks.unused.lock().take()
    }

    /// Waits until what other mounts had committed up to sequence number `sequence` of the bucket is known here.
    /// [`Error::Network`] if the change feed does not bring it within [`Options::deadline`].
    pub async fn catch_up(&self, sequence: u64) -> Result<(), Error> {
        self.shared.catch_up(sequence).await
    }

    /// Stops the background tasks, makes everything durable on this machine and gives up the lock. What the network does not
    /// have is kept for the next opening.
    pub async fn close(&self) -> Result<(), Error> {
        self.tasks.closing.send_replace(true);
        self.shared.bump();
        let handles = std::mem::take(&mut *self.tasks.handles.lock());
        for handle in handles {
            if let Err(error) = handle.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        self.shared.hear_last_news().await;
        let kept = self.keep().await;
        self.shared.closed.store(true, Ordering::Release);
        // Who comes through the gate from here on finds the cache closed.
        drop(self.shared.gate.write().await);
        let kept = kept.and(self.shared.keep_for_next_time().await);
        if let Some(lock) = &self.lock {
            lock.release()?;
        }
        kept
    }

    async fn keep(&self) -> Result<(), Error> {
        self.shared.settle_all_exposed(Look::Now).await?;
        self.sync_all().await?;
        self.shared.snapshot().await
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            // With the name of the directory.
            OpenError::Io { ref source, .. } if !crate::disk::is_full(source) => {
                Self::Disk(Arc::new(std::io::Error::new(source.kind(), error)))
            }
            OpenError::Io { source, .. } => Self::from(source),
            other => Self::Disk(Arc::new(std::io::Error::other(other))),
        }
    }
}
