//! A disk in memory that knows what a power cut may lose.
//!
//! Every file has its durable content and a list of changes made since its last sync; the names of a directory likewise.
//! [`MemoryDisk::crash`] builds one of the disks that a power cut may leave: each change that was not synced is kept,
//! dropped or torn at sectors of 512 bytes, independently of the others, so a later one may survive an earlier one.

use super::{Disk, DiskFile, Listed};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const SECTOR: u64 = 512;

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
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    files: Vec<Content>,
    capacity: Option<u64>,
    sync_error: Option<i32>,
    syncs_held: bool,
    syncs_waiting: usize,
    syncs: u64,
}

enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Number of changes ever made, to know which ones a sync that was held covers.
    changes: u64,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
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
        let mut image =
            State { files: state.files.iter().map(|file| file.crash(&mut dice)).collect(), ..State::default() };
        image.names = state.durable_names.clone();
        for change in &state.pending_names {
            if dice.roll(2) == 0 {
                change.apply(&mut image.names);
            }
        }
        image.durable_names = image.names.clone();
        Self::from_state(image)
    }

    /// The disk as the next process finds it after this one was killed: nothing lost, the same things unsynced.
    pub fn kill(&self) -> Self {
        let state = self.shared.state.lock();
        Self::from_state(State {
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending_names: state.pending_names.iter().map(NameChange::copy).collect(),
            files: state.files.clone(),
            ..State::default()
        })
    }

    /// From now on every sync fails with this errno; `None` ends it.
    pub fn fail_syncs(&self, errno: Option<i32>) {
        self.shared.state.lock().sync_error = errno;
    }

    /// Most bytes that all files together may hold; writes beyond fail with "no space".
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().capacity = bytes;
    }

    /// From now on file syncs wait inside until [`Self::release_syncs`].
    pub fn hold_syncs(&self) {
        self.shared.state.lock().syncs_held = true;
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.shared.state.lock().syncs_held = false;
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
        state.names.get(name).map(|&file| state.files[file].bytes.clone())
    }

    /// Puts a file there with these bytes, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.shared.state.lock();
        let file = state.files.len();
        state.files.push(Content { bytes: bytes.into(), durable: bytes.into(), ..Content::default() });
        state.names.insert(name.into(), file);
        state.durable_names.insert(name.into(), file);
    }

    /// Names of all files.
    pub fn names(&self) -> Vec<String> {
        self.shared.state.lock().names.keys().cloned().collect()
    }

    fn from_state(state: State) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(state), released: Condvar::new() }) }
    }
}

impl Disk for MemoryDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.names.insert(name.into(), file);
        state.pending_names.push(NameChange::Create(name.into(), file));
        Ok(Arc::new(Opened { shared: self.shared.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = *self.shared.state.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Opened { shared: self.shared.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.into(), file);
        state.pending_names.push(NameChange::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending_names.push(NameChange::Remove(name.into()));
        Ok(())
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.check_sync()?;
        let (here, elsewhere) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.touches(directory));
        state.pending_names = elsewhere;
        for change in here {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Listed>> {
        let state = self.shared.state.lock();
        let listed = state.names.iter().filter(|(name, _)| parent(name) == directory).map(|(name, &file)| {
            let name = name.rsplit('/').next().unwrap_or(name).to_string();
            let content = &state.files[file];
            Listed { name, length: content.bytes.len() as u64, allocated: content.allocated() }
        });
        Ok(listed.collect())
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
        let state = self.shared.state.lock();
        let bytes = &state.files[self.file].bytes;
        let start = (offset as usize).min(bytes.len());
        let length = buffer.len().min(bytes.len() - start);
        buffer[..length].copy_from_slice(&bytes[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let bytes = parts.concat();
        let used: u64 = state.names.values().map(|&file| state.files[file].bytes.len() as u64).sum();
        let grows = (offset + bytes.len() as u64).saturating_sub(state.files[self.file].bytes.len() as u64);
        if state.capacity.is_some_and(|capacity| used + grows > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.files[self.file].change(Change::Write(offset, bytes));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.shared.state.lock().files[self.file].bytes.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.shared.state.lock().files[self.file].allocated())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.shared.state.lock().files[self.file].change(Change::Length(length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let covered = state.files[self.file].changes;
        if state.syncs_held {
            state.syncs_waiting += 1;
            self.shared.released.wait_while(&mut state, |state| state.syncs_held);
            state.syncs_waiting -= 1;
        }
        state.check_sync()?;
        state.files[self.file].sync(covered);
        state.syncs += 1;
        Ok(())
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.shared.state.lock().files[self.file].change(Change::Punch(offset, length));
        Ok(())
    }
}

impl State {
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

    fn crash(&self, dice: &mut Dice) -> Content {
        let mut bytes = self.durable.clone();
        // Whole images in which nothing or everything survived are likely enough to be seen.
        let mood = dice.roll(6);
        for change in &self.pending {
            match (mood, dice.roll(3)) {
                (0, _) | (2.., 0) => {}
                (1, _) | (2.., 1) => change.apply(&mut bytes),
                (2.., _) => change.tear(&mut bytes, dice),
            }
        }
        Content { durable: bytes.clone(), bytes, ..Content::default() }
    }

    /// As if holes were kept by sector groups of a page.
    fn allocated(&self) -> u64 {
        self.bytes.chunks(4096).filter(|page| page.iter().any(|&byte| byte != 0)).count() as u64 * 4096
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, part) => write(bytes, *offset, part),
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Punch(offset, length) => {
                let start = (*offset as usize).min(bytes.len());
                let end = (offset.saturating_add(*length) as usize).min(bytes.len());
                bytes[start..end].fill(0);
            }
        }
    }

    /// Applies some of the sectors of a write, or all of another change.
    fn tear(&self, bytes: &mut Vec<u8>, dice: &mut Dice) {
        let Self::Write(offset, part) = self else { return self.apply(bytes) };
        let mut done = 0;
        while done < part.len() {
            let at = offset + done as u64;
            let step = ((SECTOR - at % SECTOR) as usize).min(part.len() - done);
            if dice.roll(2) == 0 {
                write(bytes, at, &part[done..done + step]);
            }
            done += step;
        }
    }
}

impl NameChange {
    /// Changes whose source is not there (it was lost) change nothing.
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }

    fn touches(&self, directory: &str) -> bool {
        let touched: BTreeSet<&str> = match self {
            Self::Create(name, _) | Self::Remove(name) => [parent(name)].into(),
            Self::Rename(from, to) => [parent(from), parent(to)].into(),
        };
        touched.contains(directory)
    }

    fn copy(&self) -> Self {
        match self {
            Self::Create(name, file) => Self::Create(name.clone(), *file),
            Self::Rename(from, to) => Self::Rename(from.clone(), to.clone()),
            Self::Remove(name) => Self::Remove(name.clone()),
        }
    }
}

fn write(bytes: &mut Vec<u8>, offset: u64, part: &[u8]) {
    let start = offset as usize;
    if bytes.len() < start + part.len() {
        bytes.resize(start + part.len(), 0);
    }
    bytes[start..start + part.len()].copy_from_slice(part);
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
