//! The files of a journal by number: which are live, which are retired, and open handles to read from.

use super::{Error, Retired};
use crate::disk::{self, Disk, DiskFile};
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The directory of all files.
pub(super) const DIRECTORY: &str = "journal";
/// Most files kept open for reading payloads.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(16).unwrap();

pub(super) struct Store {
    pub(super) disk: Arc<dyn Disk>,
    files: Mutex<Files>,
}

/// What is known of the files. Never locked while anything is written or synced.
pub(super) struct Files {
    /// Needed to recover: number to size.
    pub(super) live: BTreeMap<u64, Live>,
    retired: BTreeMap<u64, u64>,
    open: LruCache<u64, Arc<dyn DiskFile>>,
}

/// Sizes of a live file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    /// Bytes of records of changes; 0 for a snapshot. Kept by the writer while it appends to the file.
    pub(super) changes: u64,
    /// Where its records end.
    pub(super) end: u64,
    /// Bytes of the file.
    pub(super) length: u64,
}

impl Store {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        let files = Files { live: BTreeMap::new(), retired: BTreeMap::new(), open: LruCache::new(OPEN_FILES) };
        Self { disk, files: Mutex::new(files) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock()
    }

    /// A file to read from.
    pub(super) fn file(&self, number: u64) -> Result<Arc<dyn DiskFile>, Error> {
        {
            let mut files = self.files.lock();
            if !files.live.contains_key(&number) && !files.retired.contains_key(&number) {
                return Err(Error::Gone(number));
            }
            if let Some(file) = files.open.get(&number) {
                return Ok(file.clone());
            }
        }
        let file = self.disk.open(&name(number)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Gone(number),
            _ => error.into(),
        })?;
        let mut files = self.files.lock();
        // Evicted meanwhile: the handle is good for this once, but must not keep the bytes of a removed file allocated.
        if files.live.contains_key(&number) || files.retired.contains_key(&number) {
            files.open.put(number, file.clone());
        }
        Ok(file)
    }

    /// Removes a retired file and those before it: never one from the middle, so that an old snapshot is never left
    /// without the changes after it.
    pub(super) fn evict(&self, last: u64) -> Result<u64, Error> {
        let doomed = {
            let mut files = self.files.lock();
            if files.live.contains_key(&last) {
                return Err(Error::InUse(last));
            }
            if !files.retired.contains_key(&last) {
                return Err(Error::Gone(last));
            }
            let kept = files.retired.split_off(&(last + 1));
            let doomed = std::mem::replace(&mut files.retired, kept);
            for number in doomed.keys() {
                files.open.pop(number);
            }
            doomed
        };
        let mut freed = 0;
        for (&number, &bytes) in &doomed {
            if let Err(error) = disk::remove_if_there(&*self.disk, &name(number)) {
                self.files.lock().retired.extend(doomed.range(number..));
                return Err(error.into());
            }
            freed += bytes;
        }
        Ok(freed)
    }

    /// Retires every live file before `number`, and gives back the zeros behind their records.
    pub(super) fn retire_before(&self, number: u64) {
        let older: Vec<u64> = self.files.lock().live.range(..number).map(|(&file, _)| file).collect();
        for file in older {
            let end = self.files.lock().live.get(&file).map_or(0, |live| live.end);
            // Only tidiness: a file that stays longer costs space until it is evicted.
            let trimmed = self.disk.open(&name(file)).and_then(|open| {
                if open.length()? > end {
                    open.set_len(end)?;
                }
                open.length()
            });
            let bytes = trimmed.unwrap_or(end);
            let mut files = self.files.lock();
            files.live.remove(&file);
            files.retired.insert(file, bytes);
        }
    }
}

impl Files {
    pub(super) fn add_retired(&mut self, number: u64, bytes: u64) {
        self.retired.insert(number, bytes);
    }

    pub(super) fn retired(&self) -> Vec<Retired> {
        self.retired.iter().map(|(&file, &bytes)| Retired { file, bytes }).collect()
    }

    pub(super) fn size_since_snapshot(&self) -> u64 {
        self.live.values().map(|live| live.changes).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.live.values().map(|live| live.length).chain(self.retired.values().copied()).sum()
    }
}

/// Name of a file on the disk.
pub(super) fn name(number: u64) -> String {
    format!("{DIRECTORY}/{number:016x}")
}

/// Number of a file from its name within the directory.
pub(super) fn number(name: &str) -> Option<u64> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten()
}
