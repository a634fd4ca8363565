//! Appending and syncing: the one place that writes journal files.
//!
//! Two parties share [`State`] under one lock that is held across a `pwrite` into the page cache and nothing slower:
//! callers of [`Shared::append`], and the journal's own thread, which syncs for everybody who waits, syncs what nobody
//! waits for after a while, and writes zeros ahead. Records reach the kernel in the order of their numbers, so the death of
//! the process leaves no gap.

use super::format::{self, FILE_HEADER, FileHeader, FileKind, Mark, RECORD_HEADER, RecordHeader};
use super::recover::{Chain, Recovered};
use super::store::{self, Live, Store};
use super::{Appended, Error, MAX_PAYLOAD, Position, Sequence, Settings};
use crate::disk::{self, Disk, DiskFile};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::watch;

/// Zeros written ahead in one step, with the lock held.
const ZEROS: &[u8] = &[0; 64 * 1024];
/// Of the kernel's page cache.
const PAGE: u64 = 4096;

/// Owns the thread; dropping it ends the journal.
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) store: Store,
    pub(super) state: Mutex<State>,
    /// Wakes the thread.
    wake: Condvar,
    /// Tells waiters what is durable.
    progress: watch::Sender<Progress>,
    /// The same for threads that block.
    advanced: Condvar,
}

pub(super) struct State {
    /// Where changes go.
    pub(super) active: Active,
    /// Earlier files that hold changes that are not durable yet, oldest first.
    pub(super) unsynced: Vec<Arc<dyn DiskFile>>,
    /// Number of the last change.
    pub(super) last: u64,
    /// Every change up to this one is durable.
    pub(super) synced: u64,
    /// Somebody waits for this change to be durable.
    wanted: u64,
    /// When the oldest change that is not durable was appended, or somewhat earlier.
    unsynced_since: Option<Instant>,
    /// The first failure; it stays.
    failed: Option<Arc<io::Error>>,
    /// The number of the next file.
    pub(super) next_number: u64,
    /// A snapshot is being written.
    pub(super) snapshotting: bool,
    stopping: bool,
}

/// The journal file that takes changes.
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Up to here the file was written, with records or zeros.
    written: u64,
    /// False once writing ahead failed: there may be just enough room for records.
    ahead: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) synced: u64,
    failed: Option<Arc<io::Error>>,
}

impl Handle {
    /// Makes what was recovered durable, begins a new file after it, and starts the thread.
    pub(super) fn start(disk: Arc<dyn Disk>, settings: Settings, chain: Chain) -> Result<(Self, Recovered), Error> {
        let recovered = Recovered::new(disk.clone(), settings.boot, &chain);
        let store = Store::new(disk.clone());
        adopt(&store, &chain)?;
        let active = begin_somehow(&store, &settings, &chain)?;
        if chain.damage.is_none() {
            for &number in &chain.garbage {
                // The new file overrules it; the next recovery tries again.
                if let Err(error) = disk::remove_if_there(&*disk, &store::name(number)) {
                    tracing::warn!(file = number, %error, "cannot remove a journal file that holds nothing any more");
                }
            }
        }
        store.lock().live.insert(active.number, Live::default());
        let state = State {
            next_number: active.number + 1,
            active,
            unsynced: Vec::new(),
            last: chain.last,
            synced: chain.last,
            wanted: 0,
            unsynced_since: None,
            failed: None,
            snapshotting: false,
            stopping: false,
        };
        let shared = Arc::new(Shared {
            settings,
            store,
            state: Mutex::new(state),
            wake: Condvar::new(),
            progress: watch::Sender::new(Progress { synced: chain.last, failed: None }),
            advanced: Condvar::new(),
        });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("strewn-journal".into()).spawn(move || theirs.run())?;
        Ok((Self { shared, thread: Some(thread) }, recovered))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Takes over the files of the chain. What the last process left in the page cache becomes durable before it counts so.
fn adopt(store: &Store, chain: &Chain) -> Result<(), Error> {
    for file in &chain.files {
        let open = store.disk.open(&store::name(file.header.number))?;
        open.sync()?;
        let changes = if file.header.kind == FileKind::Journal { file.end - FILE_HEADER } else { 0 };
        let live = Live { changes, end: file.end, length: open.length()? };
        store.lock().live.insert(file.header.number, live);
    }
    if !chain.files.is_empty() {
        store.disk.sync_dir(store::DIRECTORY)?;
    }
    let mut files = store.lock();
    for &(number, bytes) in &chain.retired {
        files.add_retired(number, bytes);
    }
    Ok(())
}

/// Begins a new file. A full disk must not keep pending changes from being brought to the network, so retired files, which
/// are only a cache, make room if there is none.
fn begin_somehow(store: &Store, settings: &Settings, chain: &Chain) -> Result<Active, Error> {
    loop {
        let error = match begin(&*store.disk, settings, chain) {
            Ok(active) => return Ok(active),
            Err(error) => error,
        };
        disk::remove_if_there(&*store.disk, &store::name(chain.next_number))?;
        let oldest = store.lock().retired().first().map(|retired| retired.file);
        match (&error, oldest) {
            (Error::NoSpace, Some(oldest)) => store.evict(oldest)?,
            _ => return Err(error),
        };
    }
}

/// Makes a new file after the chain, durable with its name.
fn begin(disk: &dyn Disk, settings: &Settings, chain: &Chain) -> Result<Active, Error> {
    let number = chain.next_number;
    let header = FileHeader { kind: FileKind::Journal, number, base: chain.last, boot: settings.boot };
    let mut active = Active::create(disk, number, settings)?;
    active.write_header(&header)?;
    active.file.sync()?;
    disk.sync_dir(store::DIRECTORY)?;
    Ok(active)
}

impl Active {
    /// Makes a file filled with zeros for a while; neither it nor its name is durable yet.
    pub(super) fn create(disk: &dyn Disk, number: u64, settings: &Settings) -> Result<Self, Error> {
        let file = disk.create(&store::name(number))?;
        let mut active = Self { number, file, end: FILE_HEADER, written: 0, ahead: settings.prewrite > 0 };
        while active.ahead && active.written < settings.prewrite {
            active.write_ahead();
        }
        Ok(active)
    }

    pub(super) fn write_header(&mut self, header: &FileHeader) -> io::Result<()> {
        self.file.write_at(0, &[&header.encode()])?;
        self.written = self.written.max(FILE_HEADER);
        Ok(())
    }

    /// Writes one step of zeros at the end.
    fn write_ahead(&mut self) {
        match self.file.write_at(self.written, &[ZEROS]) {
            Ok(()) => self.written += ZEROS.len() as u64,
            // Records are smaller and may still fit; whether they do, they find out themselves.
            Err(_) => self.ahead = false,
        }
    }

    /// True when records come close to where the zeros end. Not while they are already beyond: then zeros would only slow
    /// a burst down; the next sync ends it.
    fn wants_ahead(&self, prewrite: u64) -> bool {
        self.ahead && self.end <= self.written && self.written - self.end < prewrite / 2
    }

    pub(super) fn live(&self) -> Live {
        Live { changes: self.end - FILE_HEADER, end: self.end, length: self.written }
    }
}

/// Zeros to write after a record from `start` to `end`, so that the kernel need not read a page from disk, which it may have
/// forgotten since zeros were written ahead, only to change its beginning. A page that the record before began is known.
fn rest_of_page(start: u64, end: u64) -> u64 {
    let rest = end.next_multiple_of(PAGE) - end;
    if end - end % PAGE < start { 0 } else { rest }
}

impl Shared {
    pub(super) fn append(&self, parts: &[&[u8]]) -> Result<Appended, Error> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if length > MAX_PAYLOAD {
            return Err(Error::TooLarge(length));
        }
        let length = length as u32;
        let payload_crc = format::payload_crc(parts);
        let mut state = self.state.lock();
        state.check()?;
        let sequence = state.last + 1;
        let header = RecordHeader { mark: Mark::Change, length, sequence, synced: state.synced, payload_crc };
        let header = header.encode(state.active.number);
        let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 2);
        all.push(&header);
        all.extend(parts);
        all.push(format::padding(length));
        let start = state.active.end;
        let end = start + format::record_length(length);
        let rest = rest_of_page(start, end);
        all.push(&ZEROS[..rest as usize]);
        if let Err(error) = state.active.file.write_at(start, &all) {
            // Whatever was written of it lies behind the end and is overwritten by the next record.
            return Err(if disk::is_full(&error) { Error::NoSpace } else { self.poison(&mut state, error) });
        }
        state.active.end = end;
        state.active.written = state.active.written.max(end + rest);
        state.last = sequence;
        let first = state.unsynced_since.is_none();
        if first {
            state.unsynced_since = Some(Instant::now());
        }
        // Once per burst: the thread looks after the rest itself.
        if first || state.active.wants_ahead(self.settings.prewrite) {
            self.wake.notify_one();
        }
        let payload = Position { file: state.active.number, offset: start + RECORD_HEADER, length };
        Ok(Appended { sequence: Sequence(sequence), payload })
    }

    pub(super) async fn sync(&self, upto: Sequence) -> Result<(), Error> {
        let mut progress = self.subscribe();
        let upto = match self.want(upto)? {
            Some(upto) => upto,
            None => return Ok(()),
        };
        let reached = progress.wait_for(|progress| progress.failed.is_some() || progress.synced >= upto).await;
        // The sender lives in `self`.
        let reached = reached.expect("the journal outlives its waiters");
        reached.failed.as_ref().map_or(Ok(()), |cause| Err(Error::Poisoned(cause.clone())))
    }

    pub(super) fn sync_blocking(&self, upto: Sequence) -> Result<(), Error> {
        let Some(upto) = self.want(upto)? else { return Ok(()) };
        let mut state = self.state.lock();
        self.advanced.wait_while(&mut state, |state| state.failed.is_none() && state.synced < upto);
        state.check()
    }

    pub(super) async fn admit(&self) -> Result<(), Error> {
        match self.late() {
            Some(last) => self.sync(last).await,
            None => self.state.lock().check(),
        }
    }

    /// The last change, if the oldest one that is not durable should long be.
    pub(super) fn late(&self) -> Option<Sequence> {
        let state = self.state.lock();
        let limit = self.settings.sync_after * 2;
        state.unsynced_since.is_some_and(|since| since.elapsed() > limit).then_some(Sequence(state.last))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Asks the thread for a sync; `None` if there is nothing to wait for.
    fn want(&self, upto: Sequence) -> Result<Option<u64>, Error> {
        let mut state = self.state.lock();
        state.check()?;
        let upto = upto.0.min(state.last);
        if upto <= state.synced {
            return Ok(None);
        }
        if upto > state.wanted {
            state.wanted = upto;
            self.wake.notify_one();
        }
        Ok(Some(upto))
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.state.lock().check().err()
    }

    pub(super) fn last(&self) -> Sequence {
        Sequence(self.state.lock().last)
    }

    /// Bytes of changes since the last snapshot, and bytes of all files.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let active = self.state.lock().active.live();
        let files = self.store.lock();
        (files.size_since_snapshot() + active.changes, files.bytes() + active.length)
    }

    /// The thread.
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let failed = state.failed.is_some();
            let deadline = state.unsynced_since.map(|since| since + self.settings.sync_after);
            let due = state.wanted > state.synced || deadline.is_some_and(|deadline| deadline <= Instant::now());
            if !failed && (due || state.stopping && state.synced < state.last) {
                self.sync_once(&mut state);
            } else if state.stopping {
                return;
            } else if !failed && state.active.wants_ahead(self.settings.prewrite) {
                self.write_ahead(&mut state);
            } else {
                match deadline {
                    Some(deadline) if !failed => {
                        self.wake.wait_until(&mut state, deadline);
                    }
                    _ => self.wake.wait(&mut state),
                }
            }
        }
    }

    /// One group commit: everything appended by now.
    fn sync_once(&self, state: &mut MutexGuard<'_, State>) {
        let target = state.last;
        let started = Instant::now();
        let earlier = state.unsynced.clone();
        let active = state.active.file.clone();
        // Oldest first: a change is never durable before the ones it follows.
        let result = MutexGuard::unlocked(state, || earlier.iter().chain([&active]).try_for_each(|file| file.sync()));
        if let Err(error) = result {
            self.poison(state, error);
            return;
        }
        // What was active may have been added meanwhile: it holds changes after the target and stays.
        state.unsynced.retain(|file| !earlier.iter().any(|done| Arc::ptr_eq(done, file)));
        state.unsynced_since = (state.last > target).then_some(started);
        // The burst that outran the zeros is over.
        state.active.written = state.active.written.max(state.active.end);
        self.advance(state, target);
    }

    /// Everything up to `synced` is durable.
    pub(super) fn advance(&self, state: &mut MutexGuard<'_, State>, synced: u64) {
        state.synced = state.synced.max(synced);
        let synced = state.synced;
        self.progress.send_modify(|progress| progress.synced = synced);
        self.advanced.notify_all();
    }

    /// Writes zeros until there are enough, letting others in between the steps.
    fn write_ahead(&self, state: &mut MutexGuard<'_, State>) {
        let number = state.active.number;
        while state.active.ahead
            && state.active.number == number
            && state.active.written < state.active.end + self.settings.prewrite
            && state.wanted <= state.synced
            && !state.stopping
        {
            state.active.write_ahead();
            MutexGuard::bump(state);
        }
    }

    /// Remembers the first failure and returns it as the error of every later call.
    pub(super) fn poison(&self, state: &mut MutexGuard<'_, State>, error: io::Error) -> Error {
        let cause = state.failed.get_or_insert_with(|| Arc::new(error)).clone();
        tracing::error!(error = %cause, "the journal failed");
        self.progress.send_modify(|progress| progress.failed = Some(cause.clone()));
        self.advanced.notify_all();
        Error::Poisoned(cause)
    }
}

impl State {
    pub(super) fn check(&self) -> Result<(), Error> {
        self.failed.as_ref().map_or(Ok(()), |cause| Err(Error::Poisoned(cause.clone())))
    }
}
