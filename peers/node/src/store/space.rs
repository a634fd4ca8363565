//! Which bytes of which log are taken: the room of a store, places for records, and open log files.
//!
//! A place is handed out at the end of the current log before its record is written, so that pieces of any size stream in
//! side by side without being staged. A place that is given up is dead, but for one in the current log: the end moves back
//! over it, or the next record of just that size takes it.

use super::log::{Log, LogError};
use super::record::{Nonce, UNIT, record_length};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Open files of logs other than the current one.
const OPEN_LOGS: usize = 8;

/// Bytes of all kinds in a store. `used` = live + dead + places being written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// What the logs occupy.
    pub used: u64,
    /// Records of pieces that exist.
    pub live: u64,
    /// Places of pieces that are being received or wait for their sync.
    pub open: u64,
    /// Everything else: deleted and given up records, tombstones, log headers.
    pub dead: u64,
    /// Admitted, without a place yet.
    pub promised: u64,
}

/// See the module.
pub(crate) struct Space {
    directory: PathBuf,
    roll: u64,
    logs: Mutex<Logs>,
    /// Held while a new log is made, so that only one is.
    rolling: Mutex<()>,
    used: AtomicU64,
    promised: AtomicU64,
}

struct Logs {
    by_number: BTreeMap<u64, State>,
    current: u64,
    /// Given up places of the current log: offset and length, and the other way round.
    spare: BTreeMap<u64, u64>,
    spare_by_length: BTreeSet<(u64, u64)>,
    /// Counts uses of files, to find the one unused for longest.
    tick: u64,
}

struct State {
    file: Option<(Arc<Log>, u64)>,
    end: u64,
    live: u64,
    /// Places without a record yet: offset and length.
    open: BTreeMap<u64, u64>,
    /// The mark the index has.
    mark: u64,
}

/// A log as recovery found it.
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) end: u64,
    pub(crate) live: u64,
}

/// Room for a record that is admitted. Gives it back when dropped.
pub(crate) struct Promise {
    space: Arc<Space>,
    length: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.space.promised.fetch_sub(self.length, Ordering::Relaxed);
    }
}

/// A place for one record. Given up when dropped.
pub(crate) struct Place {
    space: Arc<Space>,
    pub(crate) log: Arc<Log>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    kept: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Before the place can be taken again.
        self.log.punch(self.offset, self.length);
        self.space.logs.lock().give_up(self, &self.space.used);
    }
}

impl Space {
    /// The space of the logs found, the last of which is the current one.
    pub(crate) fn new(directory: PathBuf, roll: u64, found: Vec<Found>, current: Arc<Log>) -> Self {
        let used = found.iter().map(|log| log.end).sum();
        let state = |found: Found| {
            let file = (found.number == current.number).then(|| (current.clone(), 0));
            (found.number, State { file, end: found.end, live: found.live, open: BTreeMap::new(), mark: found.end })
        };
        let by_number = found.into_iter().map(state).collect();
        let logs = Logs {
            by_number,
            current: current.number,
            spare: BTreeMap::new(),
            spare_by_length: BTreeSet::new(),
            tick: 0,
        };
        Self {
            directory,
            roll,
            logs: Mutex::new(logs),
            rolling: Mutex::new(()),
            used: AtomicU64::new(used),
            promised: AtomicU64::new(0),
        }
    }

    /// Admits a piece of `length` bytes if the store stays within `limit` bytes. Does no I/O.
    pub(crate) fn admit(self: &Arc<Self>, length: u64, limit: u64) -> Option<Promise> {
        let length = record_length(length);
        let promised = self.promised.fetch_add(length, Ordering::Relaxed) + length;
        let promise = Promise { space: self.clone(), length };
        (self.used.load(Ordering::Relaxed).saturating_add(promised) <= limit).then_some(promise)
    }

    /// A place for a record of `length` bytes, in a new log if the current one is full.
    pub(crate) fn place(self: &Arc<Self>, length: u64, nonce: impl Fn() -> Nonce) -> Result<Place, LogError> {
        loop {
            let full = match self.logs.lock().take(length, self.roll, &self.used) {
                Taken::Place(log, offset) => {
                    return Ok(Place { space: self.clone(), log, offset, length, kept: false });
                }
                Taken::Full(number) => number,
            };
            self.roll(full, &nonce)?;
        }
    }

    /// Makes another log the current one if `full` is.
    pub(crate) fn roll(&self, full: u64, nonce: impl Fn() -> Nonce) -> Result<(), LogError> {
        let _only_one = self.rolling.lock();
        if self.logs.lock().current != full {
            return Ok(());
        }
        let log = Arc::new(Log::create(&self.directory, full + 1, nonce())?);
        let mut logs = self.logs.lock();
        let state = State { file: Some((log, 0)), end: UNIT, live: 0, open: BTreeMap::new(), mark: 0 };
        logs.by_number.insert(full + 1, state);
        logs.current = full + 1;
        logs.spare.clear();
        logs.spare_by_length.clear();
        self.used.fetch_add(UNIT, Ordering::Relaxed);
        Ok(())
    }

    /// The file of a log; `None` if there is no such log (any more).
    pub(crate) fn log(&self, number: u64) -> Result<Option<Arc<Log>>, LogError> {
        match self.logs.lock().open_file(number) {
            None => return Ok(None),
            Some(Some(log)) => return Ok(Some(log)),
            Some(None) => {}
        }
        let log = match Log::open(&self.directory, number) {
            Ok(log) => Arc::new(log),
            // Compacted just now.
            Err(LogError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound && !self.exists(number) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.logs.lock().keep_file(log.clone());
        Ok(Some(log))
    }

    /// True if there is such a log.
    pub(crate) fn exists(&self, number: u64) -> bool {
        self.logs.lock().by_number.contains_key(&number)
    }

    /// Keeps places as records, live by `live` bytes. Returns the marks that follow from it.
    pub(crate) fn keep(&self, places: Vec<(Place, u64)>, dead: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut logs = self.logs.lock();
        for (mut place, live) in places {
            // It is a record now: neither punched nor given up.
            place.kept = true;
            if let Some(state) = logs.by_number.get_mut(&place.log.number) {
                state.open.remove(&place.offset);
                state.live += live;
            }
        }
        for (number, length) in dead {
            if let Some(state) = logs.by_number.get_mut(number) {
                state.live = state.live.saturating_sub(*length);
            }
        }
        logs.new_marks()
    }

    /// Forgets a log whose file is gone.
    pub(crate) fn forget(&self, number: u64) {
        if let Some(state) = self.logs.lock().by_number.remove(&number) {
            self.used.fetch_sub(state.end, Ordering::Relaxed);
        }
    }

    /// The log, other than `current`, or with at least `rollable` dead bytes, most of which is dead; and whether it is
    /// the current one.
    pub(crate) fn mostly_dead(&self, rollable: u64) -> Option<(u64, bool)> {
        let logs = self.logs.lock();
        let candidate = |(number, state): (&u64, &State)| {
            let dead = state.dead();
            let is_current = *number == logs.current;
            let worth = dead * 2 >= state.end && state.open.is_empty() && (!is_current || dead >= rollable);
            worth.then_some((dead, *number, is_current))
        };
        logs.by_number.iter().filter_map(candidate).max().map(|(_, number, is_current)| (number, is_current))
    }

    /// True if nothing of a log is being written, so that what the index knows of it is all there is.
    pub(crate) fn is_quiet(&self, number: u64) -> bool {
        self.logs.lock().by_number.get(&number).is_none_or(|state| state.open.is_empty())
    }

    /// Numbers and ends of all logs.
    pub(crate) fn ends(&self) -> Vec<(u64, u64)> {
        self.logs.lock().by_number.iter().map(|(number, state)| (*number, state.end)).collect()
    }

    /// What is taken.
    pub(crate) fn bytes(&self) -> Bytes {
        let logs = self.logs.lock();
        let mut bytes = Bytes { promised: self.promised.load(Ordering::Relaxed), ..Bytes::default() };
        for state in logs.by_number.values() {
            bytes.used += state.end;
            bytes.live += state.live;
            bytes.open += state.open.values().sum::<u64>();
            bytes.dead += state.dead();
        }
        bytes
    }
}

enum Taken {
    Place(Arc<Log>, u64),
    Full(u64),
}

impl State {
    fn dead(&self) -> u64 {
        self.end.saturating_sub(self.live + self.open.values().sum::<u64>())
    }
}

impl Logs {
    fn take(&mut self, length: u64, roll: u64, used: &AtomicU64) -> Taken {
        let current = self.current;
        let spare = self.spare_by_length.range((length, 0)..=(length, u64::MAX)).next().copied();
        let Some(state) = self.by_number.get_mut(&current) else { return Taken::Full(current) };
        let Some((log, _)) = &state.file else { return Taken::Full(current) };
        let offset = match spare {
            Some((_, offset)) => {
                self.spare_by_length.remove(&(length, offset));
                self.spare.remove(&offset);
                offset
            }
            None if state.end > UNIT && state.end + length > roll => return Taken::Full(current),
            None => {
                used.fetch_add(length, Ordering::Relaxed);
                state.end += length;
                state.end - length
            }
        };
        state.open.insert(offset, length);
        Taken::Place(log.clone(), offset)
    }

    fn give_up(&mut self, place: &Place, used: &AtomicU64) {
        let Some(state) = self.by_number.get_mut(&place.log.number) else { return };
        if state.open.remove(&place.offset).is_none() || place.log.number != self.current {
            return;
        }
        self.spare.insert(place.offset, place.length);
        self.spare_by_length.insert((place.length, place.offset));
        while let Some((offset, length)) = self.spare.last_key_value().map(|(offset, length)| (*offset, *length))
            && offset + length == state.end
        {
            self.spare.remove(&offset);
            self.spare_by_length.remove(&(length, offset));
            state.end = offset;
            used.fetch_sub(length, Ordering::Relaxed);
        }
    }

    /// No record before the mark can still become valid: it lies before every open or spare place.
    fn new_marks(&mut self) -> Vec<(u64, u64)> {
        let spare = self.spare.keys().next().copied();
        let mut marks = Vec::new();
        for (number, state) in &mut self.by_number {
            let open = state.open.first_key_value().map(|(offset, _)| *offset);
            let spare = spare.filter(|_| *number == self.current);
            let mark = open.into_iter().chain(spare).fold(state.end, u64::min);
            if mark != state.mark {
                state.mark = mark;
                marks.push((*number, mark));
            }
        }
        marks
    }

    fn open_file(&mut self, number: u64) -> Option<Option<Arc<Log>>> {
        self.tick += 1;
        let tick = self.tick;
        let state = self.by_number.get_mut(&number)?;
        Some(state.file.as_mut().map(|(log, used)| {
            *used = tick;
            log.clone()
        }))
    }

    fn keep_file(&mut self, log: Arc<Log>) {
        let (current, tick) = (self.current, self.tick);
        if let Some(state) = self.by_number.get_mut(&log.number) {
            state.file = Some((log, tick));
        }
        let others = |(number, state): (&u64, &State)| {
            let (_, used) = state.file.as_ref().filter(|_| *number != current)?;
            Some((*used, *number))
        };
        let open: Vec<_> = self.by_number.iter().filter_map(others).collect();
        if open.len() > OPEN_LOGS
            && let Some((_, oldest)) = open.into_iter().min()
            && let Some(state) = self.by_number.get_mut(&oldest)
        {
            state.file = None;
        }
    }
}
