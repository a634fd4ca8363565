//! The index: what the cache knows and could ask the network for again, kept across restarts and out of memory. A cache of
//! a cache: nothing is ever recovered from it, and it may lose rows at any time.
//!
//! What it must never do is return a row that was forgotten. How that is kept:
//! - Changes are collected in memory by key, newest wins, and applied in batches, each one transaction. A reader looks there
//!   first. So the database always shows the state after some change, never a mixture.
//! - When too much is waiting, rows are **dropped by forgetting them**: instead of storing the new row the old one is deleted. If
//!   even the deletions are too many, the whole index is emptied. A change that takes away is never dropped alone.
//! - A batch that cannot be applied (disk full, damage) is followed by an empty database; if that cannot be made either,
//!   the index stays silent until the next start.
//! - After a crash the database is as it was some moments before. What only an orderly close may say goes with a mark
//!   ([`Index::set_closed`]) that the next opening takes away, durably.
//! - A missing row means nothing, so a listing needs a mark that it is whole ([`Index::put_listing`]). It goes with the
//!   first entry that is dropped, and is not taken if any row was lost since the entries were put ([`Index::losses`]).
//! - A row about ranges of a data file names the file's generation, drawn anew for every file, so it cannot speak for a
//!   later one. Stored as not synced, it is deleted when the machine has rebooted. Stored as synced, it outlives one reboot
//!   that comes before the next opening: opening the index makes it, durably, one that is not synced.
//!
//! Values are opaque. An answer is true at the moment of the call; who puts it into memory checks under his own lock that
//! nothing was forgotten meanwhile.

mod database;
mod pending;

use crate::journal::BootId;
use bytes::Bytes;
use database::Database;
use parking_lot::{Condvar, Mutex, MutexGuard};
use pending::Pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strewn_engine::ids::InodeId;
use tokio::sync::{mpsc, oneshot, watch};

/// Most bytes of changes that wait; beyond, new rows are forgotten instead of stored.
pub const MAX_WAITING: usize = 8 << 20;
/// Most changes that wait; beyond, the index is emptied.
pub const MAX_CHANGES: usize = 100_000;
/// A batch is applied once its oldest change is this old …
const BATCH_AFTER: Duration = Duration::from_millis(200);
/// … or it has this many.
const BATCH_CHANGES: usize = 2_000;
/// Most reads that wait.
const MAX_READS: usize = 64;
/// How often a read is repeated because batches were applied meanwhile, before it is given up.
const READ_RETRIES: usize = 8;

/// A place in the change feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feed {
    /// Epoch of the bucket.
    pub epoch: u64,
    /// Everything up to this change has been told.
    pub sequence: u64,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// Its number in the directory.
    pub cookie: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// What was stored for it.
    pub value: Bytes,
}

/// Entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The mark of [`Index::put_listing`]: the index has all entries of the directory. `None`: it has some.
    pub whole: Option<Bytes>,
    /// Those asked for.
    pub rows: Vec<EntryRow>,
}

/// An index. Clones share it; the last one dropped applies what waits and stops its threads.
#[derive(Clone)]
pub struct Index {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    /// The mark of the orderly close that came before the opening.
    closed: Mutex<Option<Bytes>>,
    reads: Mutex<Option<mpsc::Sender<Read>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

type Read = Box<dyn FnOnce(&mut Reader) + Send>;

struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    /// Wakes the writer.
    wake: Condvar,
    /// Number of the last change that was applied.
    applied: watch::Sender<u64>,
    /// Batches applied so far.
    batches: AtomicU64,
    /// Times the database was replaced by an empty one; readers open it again.
    rebuilt: AtomicU64,
}

struct State {
    waiting: Pending,
    /// Being applied.
    applying: Option<Arc<Pending>>,
    /// Changes made so far.
    changes: u64,
    since: Option<Instant>,
    /// Somebody waits for this change to be applied.
    wanted: u64,
    /// Times that rows were lost which somebody put.
    losses: u64,
    /// A reader found the database damaged.
    damaged: bool,
    /// The database cannot be used; rows are neither kept nor found.
    silent: bool,
    closing: bool,
}

impl Index {
    /// Opens the index in a file, made if it is not there. One that is damaged, or of another version, is deleted. Blocks.
    pub fn open(path: &Path, boot: BootId) -> Self {
        let database = Database::open_or_rebuild(path, boot);
        let silent = database.is_none();
        Self::start(path, database, silent)
    }

    /// Removes the index of a file, as far as it can be. Blocks.
    pub fn remove(path: &Path) {
        for file in database::files(path) {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "cannot remove the index");
                }
                _ => {}
            }
        }
    }

    /// Bytes that the index of a file takes on disk.
    pub(crate) fn bytes_of(path: &Path) -> u64 {
        let lengths = database::files(path).filter_map(|file| std::fs::metadata(file).ok());
        lengths.map(|metadata| metadata.len()).sum()
    }

    /// Reads all of an index that nobody has open, and says what is wrong with it. One that is not there is fine. Blocks.
    pub(crate) fn check(path: &Path) -> Result<(), String> {
        if path.exists() { database::check(path) } else { Ok(()) }
    }

    /// An index that keeps nothing.
    pub fn none() -> Self {
        Self::start(Path::new(""), None, true)
    }

    fn start(path: &Path, mut database: Option<Database>, silent: bool) -> Self {
        let state = State {
            waiting: Pending::default(),
            applying: None,
            changes: 0,
            since: None,
            wanted: 0,
            losses: 0,
            damaged: false,
            silent,
            closing: false,
        };
        let shared = Arc::new(Shared {
            path: path.into(),
            state: Mutex::new(state),
            wake: Condvar::new(),
            applied: watch::Sender::new(0),
            batches: AtomicU64::new(0),
            rebuilt: AtomicU64::new(0),
        });
        let closed = Mutex::new(database.as_mut().and_then(Database::take_closed));
        let handle = Handle { shared: shared.clone(), closed, reads: Mutex::default(), threads: Mutex::default() };
        if let Some(database) = database {
            let (reads, requests) = mpsc::channel(MAX_READS);
            let theirs = shared.clone();
            let writer = std::thread::Builder::new().name("strewn-index".into()).spawn(move || theirs.write(database));
            let theirs = shared.clone();
            let reader = std::thread::Builder::new()
                .name("strewn-lookup".into())
                .spawn(move || Reader::new(theirs).run(requests));
            match (writer, reader) {
                (Ok(writer), Ok(reader)) => {
                    *handle.reads.lock() = Some(reads);
                    *handle.threads.lock() = vec![writer, reader];
                }
                // Without threads nothing is kept; one that did start ends with the handle.
                (writer, reader) => {
                    shared.state.lock().silent = true;
                    handle.threads.lock().extend(writer.into_iter().chain(reader));
                }
            }
        }
        Self { handle: Arc::new(handle) }
    }

    /// Keeps an entry of a directory. Cookies are unique in a directory.
    pub fn put_entry(&self, directory: InodeId, name: &[u8], cookie: u64, value: Bytes) {
        self.change(|waiting, full| {
            waiting.set_entry(directory, name, (!full).then_some((cookie, value)));
            if full {
                waiting.set_listing(directory, None);
            }
        });
    }

    /// How often rows were lost so far. Asked for before the entries of a listing are put.
    pub fn losses(&self) -> u64 {
        self.handle.shared.state.lock().losses
    }

    /// Marks the entries of a directory as all there are, unless rows were lost since [`Self::losses`] said `losses`. The
    /// mark holds while entries are put and forgotten one by one; its value is the caller's.
    pub fn put_listing(&self, directory: InodeId, losses: u64, value: Bytes) {
        self.change_knowing(|waiting, full, now| {
            waiting.set_listing(directory, (!full && losses == now).then_some(value));
        });
    }

    /// Keeps which ranges of an inode a data file holds. `synced`: the file is durable; if not, the row is gone after a reboot.
    pub fn put_ranges(&self, inode: InodeId, value: Bytes, synced: bool) {
        self.change(|waiting, full| waiting.set_ranges(inode, (!full).then_some((value, synced))));
    }

    /// Forgets which ranges of an inode there are.
    pub fn forget_ranges(&self, inode: InodeId) {
        self.change(|waiting, _| waiting.set_ranges(inode, None));
    }

    /// Forgets which ranges of an inode there are, so that no process finds them again in this boot of the machine. False if
    /// that cannot be had: then the data file must stay as the row says, or go.
    pub async fn forget_ranges_surely(&self, inode: InodeId) -> bool {
        self.forget_ranges(inode);
        self.flush().await;
        !self.handle.shared.state.lock().silent
    }

    /// Keeps the bytes of a small file.
    pub fn put_file(&self, inode: InodeId, value: Bytes) {
        self.change(|waiting, full| waiting.set_file(inode, (!full).then_some(value)));
    }

    /// Forgets the bytes of a small file.
    pub fn forget_file(&self, inode: InodeId) {
        self.change(|waiting, _| waiting.set_file(inode, None));
    }

    /// The bytes of a small file.
    pub async fn file(&self, inode: InodeId) -> Option<Bytes> {
        let known = move |pending: &Pending| pending.file(inode);
        self.find(known, move |database| database.file(inode)).await
    }

    /// Forgets all small files.
    pub fn forget_files(&self) {
        self.change(|waiting, _| waiting.clear_files());
    }

    /// Forgets entries, listings and the feed position.
    pub fn forget_names(&self) {
        self.change(|waiting, _| waiting.clear_names());
        self.handle.shared.state.lock().losses += 1;
    }

    /// Marks that the rows were put by an orderly close, for the next opening alone. What the mark says is the caller's.
    pub fn set_closed(&self, mark: Bytes) {
        self.change(|waiting, _| waiting.set_closed(mark));
    }

    /// The mark of the orderly close that came right before this opening; once.
    pub fn take_closed(&self) -> Option<Bytes> {
        self.handle.closed.lock().take()
    }

    /// Sets how far the change feed was followed: all rows of before have been told of it.
    pub fn set_feed(&self, feed: Feed) {
        self.change(|waiting, _| waiting.set_feed(feed));
    }

    /// Entries of a directory with cookies above `after`, in the order of their cookies, at most `limit`. `None` if the index
    /// could not be read, which is not the same as empty.
    pub async fn entries(&self, directory: InodeId, after: u64, limit: u32) -> Option<Listing> {
        let touched = {
            let state = self.handle.shared.state.lock();
            state.layers().any(|pending| pending.touches(directory))
        };
        if touched {
            self.flush().await;
        }
        self.read(move |database| database.entries(directory, after, limit)).await
    }

    /// All rows about ranges after an inode, in the order of inodes, at most `limit`. For the start, before anything changes.
    pub async fn ranges_after(&self, after: Option<InodeId>, limit: u32) -> Vec<(InodeId, Bytes)> {
        self.flush().await;
        self.read(move |database| database.ranges_after(after, limit)).await.unwrap_or_default()
    }

    /// How far the change feed was followed.
    pub async fn feed(&self) -> Option<Feed> {
        self.find(|pending| pending.feed(), |database| database.feed()).await
    }

    /// Waits until everything changed before is applied (or the index fell silent).
    pub async fn flush(&self) {
        let mut applied = self.handle.shared.applied.subscribe();
        let wanted = {
            let mut state = self.handle.shared.state.lock();
            if state.silent {
                return;
            }
            state.wanted = state.changes;
            self.handle.shared.wake.notify_one();
            state.changes
        };
        // The sender lives as long as `self`.
        let _ = applied.wait_for(|&applied| applied >= wanted).await;
    }

    /// False if it keeps nothing.
    pub fn is_open(&self) -> bool {
        !self.handle.shared.state.lock().silent
    }

    /// Applies what waits, durably, and closes the file. From then on nothing is kept or found. Blocks.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Bytes the index takes on disk. Blocks shortly.
    pub fn bytes_on_disk(&self) -> u64 {
        Self::bytes_of(&self.handle.shared.path)
    }

    /// Makes a change; the second argument says whether rows must be forgotten instead of stored.
    fn change(&self, change: impl FnOnce(&mut Pending, bool)) {
        self.change_knowing(|waiting, full, _| change(waiting, full));
    }

    /// The same, also told how often rows were lost.
    fn change_knowing(&self, change: impl FnOnce(&mut Pending, bool, u64)) {
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        if state.silent {
            return;
        }
        let full = state.waiting.bytes() >= MAX_WAITING;
        let losses = state.losses;
        change(&mut state.waiting, full, losses);
        if full {
            // At worst the change was none that puts a row: then a listing is put in vain.
            state.losses += 1;
        }
        if state.waiting.changes() > MAX_CHANGES {
            state.waiting.clear();
            state.losses += 1;
        }
        state.changes += 1;
        if state.since.is_none() {
            state.since = Some(Instant::now());
            shared.wake.notify_one();
        } else if state.waiting.changes() >= BATCH_CHANGES {
            shared.wake.notify_one();
        }
    }

    /// Looks a key up in what waits, then in the database.
    async fn find<T: Send + 'static>(
        &self,
        known: impl Fn(&Pending) -> Option<Option<T>>,
        query: impl Fn(&Database) -> rusqlite::Result<Option<T>> + Clone + Send + 'static,
    ) -> Option<T> {
        let shared = &self.handle.shared;
        for _ in 0..READ_RETRIES {
            let before = shared.batches.load(Ordering::Acquire);
            if let Some(answer) = shared.state.lock().layers().find_map(&known) {
                return answer;
            }
            let found = self.read(query.clone()).await?;
            let state = shared.state.lock();
            if let Some(answer) = state.layers().find_map(&known) {
                return answer;
            }
            // A batch applied meanwhile may have changed the row after it was read.
            if shared.batches.load(Ordering::Acquire) == before {
                return if state.silent { None } else { found };
            }
        }
        None
    }

    /// Runs a query on the reader's thread; `None` if it could not be run.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let run: Read = Box::new(move |reader| {
            // The caller may have gone.
            let _ = answer.send(reader.run_query(query));
        });
        let reads = self.handle.reads.lock().clone()?;
        reads.send(run).await.ok()?;
        drop(reads);
        answered.await.ok().flatten()
    }
}

impl Handle {
    fn close(&self) {
        self.shared.state.lock().closing = true;
        self.shared.wake.notify_one();
        *self.reads.lock() = None;
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
        let mut state = self.shared.state.lock();
        state.silent = true;
        self.shared.applied.send_replace(u64::MAX);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// Where a reader looks before the database, newest first.
    fn layers(&self) -> impl Iterator<Item = &Pending> {
        std::iter::once(&self.waiting).chain(self.applying.as_deref())
    }
}

impl Shared {
    /// The writer.
    fn write(&self, database: Database) {
        let mut database = Some(database);
        let mut state = self.state.lock();
        while let Some(open) = database.take() {
            if !self.wait_for_batch(&mut state) {
                return;
            }
            let batch = Arc::new(std::mem::take(&mut state.waiting));
            let upto = state.changes;
            let damaged = std::mem::take(&mut state.damaged);
            state.applying = Some(batch.clone());
            state.since = None;
            let (next, lost) = MutexGuard::unlocked(&mut state, || self.apply(open, &batch, damaged));
            if lost {
                state.losses += 1;
                state.waiting.forget_listings();
            }
            // Before the layer goes, so that a reader who finds neither knows that it has to look again.
            self.batches.fetch_add(1, Ordering::Release);
            state.applying = None;
            if next.is_none() {
                state.silent = true;
                state.waiting = Pending::default();
            }
            let upto = if next.is_none() { u64::MAX } else { upto };
            self.applied.send_replace(upto);
            database = next;
        }
    }

    /// False when the index is closed and nothing waits.
    fn wait_for_batch(&self, state: &mut MutexGuard<'_, State>) -> bool {
        loop {
            let waits = !state.waiting.is_empty();
            if state.closing && !waits {
                return false;
            }
            let due = state.since.map(|since| since + BATCH_AFTER);
            let asked = state.wanted > *self.applied.borrow();
            let ready = state.waiting.changes() >= BATCH_CHANGES || due.is_some_and(|due| due <= Instant::now());
            if state.damaged || asked || waits && (ready || state.closing) {
                return true;
            }
            match due {
                Some(due) => {
                    self.wake.wait_until(state, due);
                }
                None => self.wake.wait(state),
            }
        }
    }

    /// Applies a batch; also says whether rows of before were lost. A batch that fails leaves an empty index: rows that it
    /// would have taken away must not stay.
    fn apply(&self, mut database: Database, batch: &Pending, damaged: bool) -> (Option<Database>, bool) {
        if !damaged {
            match database.apply(batch, true) {
                Ok(()) => return (Some(database), false),
                Err(error) => tracing::warn!(%error, "the index could not be changed and is made anew"),
            }
        }
        // Into the empty one, without marks: the entries they spoke of may be gone.
        let fresh = self.rebuild(database).and_then(|mut fresh| fresh.apply(batch, false).ok().map(|()| fresh));
        (fresh, true)
    }

    fn rebuild(&self, database: Database) -> Option<Database> {
        let boot = database.boot();
        drop(database);
        let fresh = Database::rebuild(&self.path, boot);
        self.rebuilt.fetch_add(1, Ordering::Release);
        fresh.map_err(|error| tracing::warn!(%error, "the index cannot be made anew and keeps nothing for now")).ok()
    }
}

/// The thread that reads, on a connection of its own.
struct Reader {
    shared: Arc<Shared>,
    database: Option<Database>,
    /// The value of [`Shared::rebuilt`] the connection was opened at.
    opened: u64,
}

impl Reader {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, database: None, opened: 0 }
    }

    fn run(mut self, mut requests: mpsc::Receiver<Read>) {
        while let Some(request) = requests.blocking_recv() {
            request(&mut self);
        }
    }

    /// `None` if the database could not be read, or was replaced meanwhile.
    fn run_query<T>(&mut self, query: impl FnOnce(&Database) -> rusqlite::Result<T>) -> Option<T> {
        let rebuilt = self.shared.rebuilt.load(Ordering::Acquire);
        if self.opened != rebuilt {
            self.database = None;
        }
        if self.database.is_none() {
            self.database = Database::open_to_read(&self.shared.path).ok();
            self.opened = rebuilt;
        }
        let result = query(self.database.as_ref()?);
        if self.shared.rebuilt.load(Ordering::Acquire) != rebuilt {
            return None;
        }
        result
            .map_err(|error| {
                tracing::warn!(%error, "the index could not be read and is made anew");
                self.database = None;
                self.shared.state.lock().damaged = true;
                self.shared.wake.notify_one();
            })
            .ok()
    }
}

#[cfg(test)]
mod tests;
