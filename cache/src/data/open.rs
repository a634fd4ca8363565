//! Open data files, of which at most [`OPEN_FILES`] are kept, and what of them is not durable yet.

use super::riding::Riding;
use super::{DataId, Error, directory, missing, name};
use crate::disk::{Disk, DiskFile};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

/// Most data files kept open. More are open while they are used: a mount may have 64 in all.
pub(super) const OPEN_FILES: usize = 48;
/// Syncs of files that share a lane wait for each other.
const SYNC_LANES: usize = 16;
/// Sequential writes are sent to the disk in steps of this, so that the sync at the end is short.
const WRITE_BACK: u64 = 8 << 20;

pub(super) struct Handles {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    /// One sync of a file at a time: the kernel reports a lost write to one caller only, and the others must not be told
    /// that all is well before that one has written it down. Who waited often finds the work done. Nobody who holds a lane
    /// takes another one.
    lanes: [Mutex<()>; SYNC_LANES],
}

/// Never locked while anything is read, written or synced.
struct State {
    open: LruCache<DataId, Open>,
    /// Announced by `fresh`, not made yet.
    fresh: HashSet<DataId>,
    /// Made, their names not durable yet, or not known to be.
    unnamed: HashSet<DataId>,
    /// Files with changes that are not durable, with the number of changes so far. Kept apart from the open handles, so
    /// that a file closed meanwhile is still known to need its sync.
    dirty: HashMap<DataId, u64>,
    /// Files whose sync failed.
    failed: HashMap<DataId, Arc<io::Error>>,
    changes: u64,
}

struct Open {
    file: Arc<dyn DiskFile>,
    /// Stretch of sequential writes not sent to the disk yet.
    stretch: (u64, u64),
    riding: Riding,
}

impl Handles {
    pub(super) fn new(disk: Arc<dyn Disk>, unnamed: HashSet<DataId>) -> Self {
        let state = State {
            open: LruCache::unbounded(),
            fresh: HashSet::new(),
            unnamed,
            dirty: HashMap::new(),
            failed: HashMap::new(),
            changes: 0,
        };
        Self { disk, state: Mutex::new(state), lanes: Default::default() }
    }

    pub(super) fn announce(&self, id: DataId) {
        self.state.lock().fresh.insert(id);
    }

    /// The open file; `None` if it was announced and not made yet.
    pub(super) fn get(&self, id: DataId) -> Result<Option<Arc<dyn DiskFile>>, Error> {
        {
            let mut state = self.state.lock();
            if let Some(open) = state.open.get(&id) {
                return Ok(Some(open.file.clone()));
            }
            if state.fresh.contains(&id) {
                return Ok(None);
            }
        }
        let file = self.disk.open(&name(id)).map_err(|error| missing(id, error))?;
        self.keep(id, file).map(Some)
    }

    pub(super) fn get_or_create(&self, id: DataId) -> Result<Arc<dyn DiskFile>, Error> {
        if let Some(file) = self.get(id)? {
            return Ok(file);
        }
        let file = match self.disk.create(&name(id)) {
            Ok(file) => file,
            // Another writer was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&name(id))?,
            Err(error) => return Err(error.into()),
        };
        {
            let mut state = self.state.lock();
            if state.fresh.remove(&id) {
                state.unnamed.insert(id);
            }
        }
        self.keep(id, file)
    }

    pub(super) fn mark_dirty(&self, id: DataId) {
        let mut state = self.state.lock();
        state.changes += 1;
        let change = state.changes;
        state.dirty.insert(id, change);
    }

    pub(super) fn is_dirty(&self, id: DataId) -> bool {
        self.state.lock().dirty.contains_key(&id)
    }

    /// Fails if a sync of the file ever failed.
    pub(super) fn check(&self, id: DataId) -> Result<(), Error> {
        self.state.lock().failed.get(&id).map_or(Ok(()), |cause| Err(Error::Io(cause.clone())))
    }

    pub(super) fn sync(&self, id: DataId) -> Result<(), Error> {
        self.check(id)?;
        let Some(mut covered) = self.state.lock().dirty.get(&id).copied() else { return Ok(()) };
        // Before the lane is taken: to make room for it another file may have to be synced, in a lane of its own.
        let file = self.get(id)?;
        let _lane = self.lanes[id.inode.as_bytes()[0] as usize % SYNC_LANES].lock();
        self.check(id)?;
        let unnamed = {
            let state = self.state.lock();
            let Some(&now) = state.dirty.get(&id) else { return Ok(()) };
            if file.is_some() {
                covered = now;
            }
            state.unnamed.contains(&id)
        };
        if let Some(file) = file {
            let synced = file.sync().and_then(|()| if unnamed { self.disk.sync_dir(&directory(id)) } else { Ok(()) });
            if let Err(error) = synced {
                let mut state = self.state.lock();
                let cause = state.failed.entry(id).or_insert_with(|| Arc::new(error)).clone();
                return Err(Error::Io(cause));
            }
            if unnamed {
                self.state.lock().unnamed.remove(&id);
            }
        }
        let mut state = self.state.lock();
        if state.dirty.get(&id) == Some(&covered) {
            state.dirty.remove(&id);
        }
        Ok(())
    }

    pub(super) fn forget(&self, id: DataId) {
        let mut state = self.state.lock();
        state.open.pop(&id);
        state.fresh.remove(&id);
        state.unnamed.remove(&id);
        state.dirty.remove(&id);
        state.failed.remove(&id);
    }

    /// Tells of a write, so that long sequential ones are sent to the disk while they go on. True if its bytes are to ride in
    /// its record.
    pub(super) fn hint(&self, id: DataId, offset: u64, length: u64) -> bool {
        let (due, rides) = {
            let mut state = self.state.lock();
            let Some(open) = state.open.peek_mut(&id) else { return false };
            let rides = open.riding.wrote(&(offset..offset.saturating_add(length)));
            let (start, end) = open.stretch;
            let start = if offset == end { start } else { offset };
            let end = offset.saturating_add(length);
            let due = end - start >= WRITE_BACK;
            open.stretch = (if due { end } else { start }, end);
            (due.then(|| (open.file.clone(), start, end - start)), rides)
        };
        if let Some((file, start, length)) = due {
            file.start_writeback(start, length);
        }
        rides
    }

    /// Somebody asked for the file to be durable.
    pub(super) fn end_run(&self, id: DataId) {
        if let Some(open) = self.state.lock().open.peek_mut(&id) {
            open.riding.synced();
        }
    }

    /// Closes the file unless it has changes that are not durable: their failure must find somebody to tell. True if it is
    /// closed.
    pub(super) fn close(&self, id: DataId) -> bool {
        let mut state = self.state.lock();
        let closes = !state.dirty.contains_key(&id);
        if closes {
            state.open.pop(&id);
        }
        closes
    }

    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.state.lock().open.len()
    }

    /// Keeps an opened file, and closes others if there are too many.
    fn keep(&self, id: DataId, file: Arc<dyn DiskFile>) -> Result<Arc<dyn DiskFile>, Error> {
        {
            let mut state = self.state.lock();
            if let Some(open) = state.open.get(&id) {
                return Ok(open.file.clone());
            }
            state.open.put(id, Open { file: file.clone(), stretch: (0, 0), riding: Riding::default() });
        }
        self.close_surplus()?;
        Ok(file)
    }

    fn close_surplus(&self) -> Result<(), Error> {
        loop {
            let oldest = {
                let mut state = self.state.lock();
                if state.open.len() <= OPEN_FILES {
                    return Ok(());
                }
                let clean = state.open.iter().rev().map(|(id, _)| *id).find(|id| !state.dirty.contains_key(id));
                if let Some(id) = clean {
                    state.open.pop(&id);
                    continue;
                }
                state.open.peek_lru().map(|(id, _)| *id)
            };
            // A failed write-out of a file that nobody has open may never be reported, so a dirty file is synced before it
            // is closed. The failure is kept for those who ask for that file.
            if let Some(id) = oldest
                && self.sync(id).is_err()
            {
                self.state.lock().open.pop(&id);
            }
        }
    }
}
