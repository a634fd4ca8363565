//! A disk in memory that knows what a power cut may lose.
//!
//! Every file has its durable content and a list of changes made since its last sync; the names of a directory likewise.
//! [`MemoryDisk::crash`] builds one of the disks that a power cut may leave: each change that was not synced is kept,
//! dropped or torn at sectors of 512 bytes or at any byte, independently of the others, so a later one may survive an
//! earlier one. Images share their pages with the disk they were taken of, so that one can be taken at every sync
//! ([`MemoryDisk::watch`]).

mod pages;

use super::{Disk, DiskFile, Listed};
use bytes::Bytes;
use pages::Pages;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SECTOR: u64 = 512;
const EIO: i32 = 5;
/// One call in so many takes this long on a disk that stumbles.
const STUMBLE_ONE_IN: u64 = 50;
/// Long enough for other threads to do what they are about to.
const STUMBLE: Duration = Duration::from_millis(1);

/// A disk in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when syncs are let go.
    released: Condvar,
    /// Calls take a while now and then.
    stumbles: AtomicBool,
}

/// A disk that fails now and then.
#[derive(Debug, Clone)]
pub struct Failing {
    /// Files whose names begin like this.
    pub below: String,
    /// One call in so many fails, on average; at least 1.
    pub one_in: u64,
    /// Which calls do.
    pub seed: u64,
    /// Reads fail.
    pub reads: bool,
    /// Writes fail; some of what they were to write is written, perhaps.
    pub writes: bool,
}

/// What is shown a disk as it is when a sync is asked for, before the sync takes effect.
pub type Watcher = Box<dyn Fn(MemoryDisk) + Send + Sync>;

type Names = BTreeMap<String, usize>;

#[derive(Default)]
struct State {
    names: Arc<Names>,
    durable_names: Arc<Names>,
    pending_names: Vec<NameChange>,
    files: Vec<Arc<Content>>,
    watcher: Option<Watcher>,
    capacity: Option<u64>,
    largest_file: Option<u64>,
    sync_error: Option<i32>,
    failing: Option<(Failing, Dice)>,
    failures: u64,
    /// Syncs of files whose names begin like this wait.
    syncs_held: Option<String>,
    syncs_waiting: usize,
    /// Writes are torn at sectors alone.
    whole_sectors: bool,
    syncs: u64,
}

/// Changes of names are about files: a name that was lost and made again is another one.
#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String, usize),
}

#[derive(Default, Clone)]
struct Content {
    bytes: Pages,
    durable: Pages,
    pending: Vec<Change>,
    /// Number of changes ever made, to know which ones a sync that was held covers.
    changes: u64,
}

#[derive(Clone)]
enum Change {
    Write(u64, Bytes),
    /// As many zeros, written.
    Zeros(u64, u64),
    Length(u64),
    Punch(u64, u64),
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that a power cut at this moment may leave; the same seed gives the same disk. This one is not changed.
    pub fn crash(&self, seed: u64) -> Self {
        let state = self.shared.state.lock();
        let mut dice = Dice(seed);
        let whole = state.whole_sectors;
        let files = state.files.iter().map(|file| Arc::new(file.crash(&mut dice, whole))).collect();
        let mut names = state.durable_names.clone();
        for change in &state.pending_names {
            if dice.roll(2) == 0 {
                change.apply(Arc::make_mut(&mut names));
            }
        }
        let state =
            State { files, names: names.clone(), durable_names: names, whole_sectors: whole, ..State::default() };
        self.shared.image(state)
    }

    /// The disk as the next process finds it after this one was killed: nothing lost, the same things unsynced.
    pub fn kill(&self) -> Self {
        let state = self.shared.state.lock().copy();
        self.shared.image(state)
    }

    /// From now on the watcher is shown what [`Self::kill`] gives, at every sync of a file or directory. It holds the lock of
    /// this disk meanwhile, so it must not use it.
    pub fn watch(&self, watcher: Option<Watcher>) {
        self.shared.state.lock().watcher = watcher;
    }

    /// From now on every sync fails with this errno; `None` ends it.
    pub fn fail_syncs(&self, errno: Option<i32>) {
        self.shared.state.lock().sync_error = errno;
    }

    /// From now on reads and writes fail now and then with EIO; `None` ends it.
    pub fn fail_now_and_then(&self, failing: Option<Failing>) {
        self.shared.state.lock().failing = failing.map(|failing| (failing.clone(), Dice(failing.seed)));
    }

    /// Reads and writes that failed so far.
    pub fn failures(&self) -> u64 {
        self.shared.state.lock().failures
    }

    /// From now on a power cut tears writes at sectors of 512 bytes alone, as disks do.
    pub fn keep_sectors_whole(&self) {
        self.shared.state.lock().whole_sectors = true;
    }

    /// From now on, on this disk and all images of it, a call takes a while now and then, before and after it takes effect:
    /// threads that use the disk interleave otherwise in every run.
    pub fn stumble(&self) {
        self.shared.stumbles.store(true, Ordering::Relaxed);
    }

    /// Most bytes that may be written into all files together; holes do not count. Writes beyond fail with "no space".
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().capacity = bytes;
    }

    /// Writes beyond so many bytes of a file fail from now on, as on disks that have no larger files.
    pub fn set_largest_file(&self, bytes: Option<u64>) {
        self.shared.state.lock().largest_file = bytes;
    }

    /// From now on file syncs wait inside until [`Self::release_syncs`].
    pub fn hold_syncs(&self) {
        self.hold_syncs_below("");
    }

    /// Like [`Self::hold_syncs`], for files whose names begin like this.
    pub fn hold_syncs_below(&self, prefix: &str) {
        self.shared.state.lock().syncs_held = Some(prefix.into());
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.shared.state.lock().syncs_held = None;
        self.shared.released.notify_all();
    }

    /// How many syncs wait in [`Self::hold_syncs`].
    pub fn syncs_waiting(&self) -> usize {
        self.shared.state.lock().syncs_waiting
    }

    /// How many file syncs succeeded.
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// The bytes of a file as readers see them.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.shared.state.lock();
        state.names.get(name).map(|&file| state.files[file].bytes.to_vec())
    }

    /// Puts a file there with these bytes, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.shared.state.lock();
        let file = state.files.len();
        let mut pages = Pages::default();
        pages.write(0, bytes);
        state.files.push(Arc::new(Content { bytes: pages.clone(), durable: pages, ..Content::default() }));
        Arc::make_mut(&mut state.names).insert(name.into(), file);
        Arc::make_mut(&mut state.durable_names).insert(name.into(), file);
    }

    /// Bytes written into all files together; holes do not count.
    pub fn used(&self) -> u64 {
        self.shared.state.lock().used()
    }

    /// Names of all files.
    pub fn names(&self) -> Vec<String> {
        self.shared.state.lock().names.keys().cloned().collect()
    }
}

impl Disk for MemoryDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Arc::default());
        Arc::make_mut(&mut state.names).insert(name.into(), file);
        state.pending_names.push(NameChange::Create(name.into(), file));
        Ok(Arc::new(Opened { shared: self.shared.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = *self.shared.state.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Opened { shared: self.shared.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let names = Arc::make_mut(&mut state.names);
        let file = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.into(), file);
        state.pending_names.push(NameChange::Rename(from.into(), to.into(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let file = Arc::make_mut(&mut state.names).remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending_names.push(NameChange::Remove(name.into(), file));
        Ok(())
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        self.shared.show(&state);
        state.check_sync()?;
        let (here, elsewhere) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.touches(directory));
        state.pending_names = elsewhere;
        for change in here {
            change.apply(Arc::make_mut(&mut state.durable_names));
        }
        Ok(())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Listed>> {
        let state = self.shared.state.lock();
        let listed = state.names.iter().filter(|(name, _)| parent(name) == directory).map(|(name, &file)| {
            let name = name.rsplit('/').next().unwrap_or(name).to_string();
            let content = &state.files[file];
            Listed { name, length: content.bytes.len(), allocated: content.allocated() }
        });
        Ok(listed.collect())
    }

    fn free(&self) -> io::Result<u64> {
        Ok(self.shared.state.lock().free())
    }

    fn path(&self, _name: &str) -> Option<PathBuf> {
        None
    }
}

struct Opened {
    shared: Arc<Shared>,
    file: usize,
}

impl DiskFile for Opened {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.shared.dawdle();
        let mut state = self.shared.state.lock();
        if state.fails(self.file, |failing| failing.reads).is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(state.files[self.file].bytes.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let change = Change::write(offset, parts);
        self.shared.dawdle();
        let mut state = self.shared.state.lock();
        if state.largest_file.is_some_and(|largest| change.range().end > largest) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if state.capacity.is_some() && state.files[self.file].bytes.missing(change.range()) > state.free() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(dice) = state.fails(self.file, |failing| failing.writes) {
            let whole = change.range();
            let done = dice.roll(whole.end - whole.start + 1) as usize;
            if done > 0 {
                let begun = Change::write(offset, &[&parts.concat()[..done]]);
                state.change(self.file, begun);
            }
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.change(self.file, change);
        drop(state);
        self.shared.dawdle();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.shared.state.lock().files[self.file].bytes.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.shared.state.lock().files[self.file].allocated())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.shared.state.lock().change(self.file, Change::Length(length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.shared.dawdle();
        let mut state = self.shared.state.lock();
        let covered = state.files[self.file].changes;
        if state.holds(self.file) {
            state.syncs_waiting += 1;
            self.shared.released.wait_while(&mut state, |state| state.holds(self.file));
            state.syncs_waiting -= 1;
        }
        self.shared.show(&state);
        state.check_sync()?;
        Arc::make_mut(&mut state.files[self.file]).sync(covered);
        state.syncs += 1;
        drop(state);
        self.shared.dawdle();
        Ok(())
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.shared.state.lock().change(self.file, Change::Punch(offset, length));
        Ok(())
    }
}

impl Shared {
    /// A disk like this one in another state.
    fn image(&self, state: State) -> MemoryDisk {
        let stumbles = AtomicBool::new(self.stumbles.load(Ordering::Relaxed));
        MemoryDisk { shared: Arc::new(Self { state: Mutex::new(state), released: Condvar::new(), stumbles }) }
    }

    /// Shows the watcher how it stands.
    fn show(&self, state: &State) {
        if let Some(watcher) = &state.watcher {
            watcher(self.image(state.copy()));
        }
    }

    /// Takes a while now and then. No lock is held.
    fn dawdle(&self) {
        static TURN: AtomicU64 = AtomicU64::new(0);
        if !self.stumbles.load(Ordering::Relaxed) {
            return;
        }
        match Dice(TURN.fetch_add(1, Ordering::Relaxed)).roll(STUMBLE_ONE_IN) {
            0 => std::thread::sleep(STUMBLE),
            1 => std::thread::sleep(STUMBLE / 10),
            2..10 => std::thread::yield_now(),
            _ => {}
        }
    }
}

impl State {
    /// Bytes that still fit.
    fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&file| self.files[file].bytes.taken()).sum()
    }

    fn copy(&self) -> Self {
        Self {
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            pending_names: self.pending_names.clone(),
            files: self.files.clone(),
            whole_sectors: self.whole_sectors,
            ..Self::default()
        }
    }

    /// True if syncs of a file are to wait.
    fn holds(&self, file: usize) -> bool {
        let held = |prefix: &String| self.names.iter().any(|(name, at)| *at == file && name.starts_with(prefix));
        self.syncs_held.as_ref().is_some_and(|prefix| prefix.is_empty() || held(prefix))
    }

    /// If a call to a file fails: chance for what it does all the same.
    fn fails(&mut self, file: usize, concerned: impl Fn(&Failing) -> bool) -> Option<&mut Dice> {
        let (failing, dice) = self.failing.as_mut().filter(|(failing, _)| concerned(failing))?;
        let below = |(name, at): (&String, &usize)| *at == file && name.starts_with(&failing.below);
        let fails = self.names.iter().any(below) && dice.roll(failing.one_in.max(1)) == 0;
        self.failures += u64::from(fails);
        fails.then_some(dice)
    }

    fn change(&mut self, file: usize, change: Change) {
        Arc::make_mut(&mut self.files[file]).change(change);
    }

    fn check_sync(&self) -> io::Result<()> {
        self.sync_error.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.bytes);
        self.pending.push(change);
        self.changes += 1;
    }

    /// Makes the changes up to number `covered` durable.
    fn sync(&mut self, covered: u64) {
        let first = self.changes - self.pending.len() as u64;
        let count = covered.saturating_sub(first) as usize;
        for change in self.pending.drain(..count) {
            change.apply(&mut self.durable);
        }
    }

    fn crash(&self, dice: &mut Dice, whole_sectors: bool) -> Content {
        let mut bytes = self.durable.clone();
        // Whole images in which nothing or everything survived are likely enough to be seen.
        let mood = dice.roll(6);
        for change in &self.pending {
            match (mood, dice.roll(3)) {
                (0, _) | (2.., 0) => {}
                (1, _) | (2.., 1) => change.apply(&mut bytes),
                (2, _) if !whole_sectors => change.tear_off(&mut bytes, dice),
                (2.., _) => change.tear(&mut bytes, dice),
            }
        }
        Content { durable: bytes.clone(), bytes, ..Content::default() }
    }

    /// As if holes were kept by sector groups of a page.
    fn allocated(&self) -> u64 {
        self.bytes.allocated()
    }
}

impl Change {
    fn write(offset: u64, parts: &[&[u8]]) -> Self {
        match parts.iter().all(|part| pages::is_zero(part)) {
            true => Self::Zeros(offset, parts.iter().map(|part| part.len() as u64).sum()),
            false => Self::Write(offset, parts.concat().into()),
        }
    }

    /// What a write covers.
    fn range(&self) -> Range<u64> {
        match self {
            Self::Write(offset, part) => *offset..offset + part.len() as u64,
            Self::Zeros(offset, length) => *offset..offset + length,
            Self::Length(_) | Self::Punch(..) => 0..0,
        }
    }

    fn apply(&self, bytes: &mut Pages) {
        match self {
            Self::Write(offset, part) => bytes.write(*offset, part),
            Self::Zeros(_, 0) => {}
            Self::Zeros(offset, length) => bytes.write_zeros(*offset..offset + length),
            Self::Length(length) => bytes.resize(*length),
            Self::Punch(offset, length) => bytes.clear(*offset, *length),
        }
    }

    /// Applies some of the sectors of a write, or all of another change.
    fn tear(&self, bytes: &mut Pages, dice: &mut Dice) {
        let Self::Write(offset, part) = self else { return self.apply(bytes) };
        let mut done = 0;
        while done < part.len() {
            let at = offset + done as u64;
            let step = ((SECTOR - at % SECTOR) as usize).min(part.len() - done);
            if dice.roll(2) == 0 {
                bytes.write(at, &part[done..done + step]);
            }
            done += step;
        }
    }

    /// Applies the beginning of a write up to some byte, or all of another change.
    fn tear_off(&self, bytes: &mut Pages, dice: &mut Dice) {
        let Self::Write(offset, part) = self else { return self.apply(bytes) };
        let kept = dice.roll(part.len() as u64 + 1) as usize;
        bytes.write(*offset, &part[..kept]);
    }
}

impl NameChange {
    /// What a name has become since stays.
    fn apply(&self, names: &mut Names) {
        let forget = |names: &mut Names, name: &String, file: &usize| {
            if names.get(name) == Some(file) {
                names.remove(name);
            }
        };
        match self {
            Self::Create(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Rename(from, to, file) => {
                forget(names, from, file);
                names.insert(to.clone(), *file);
            }
            Self::Remove(name, file) => forget(names, name, file),
        }
    }

    fn touches(&self, directory: &str) -> bool {
        let touched: BTreeSet<&str> = match self {
            Self::Create(name, _) | Self::Remove(name, _) => [parent(name)].into(),
            Self::Rename(from, to, _) => [parent(from), parent(to)].into(),
        };
        touched.contains(directory)
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// SplitMix64: enough chance for a simulation, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}
