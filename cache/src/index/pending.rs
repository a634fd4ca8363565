//! Changes of the index that wait to be applied: by key, newest wins.

use super::Feed;
use bytes::Bytes;
use std::collections::HashMap;
use strewn_engine::ids::InodeId;

/// Rough cost of a change besides its name and value.
const OVERHEAD: usize = 64;

/// For each key a row to store, or `None` to forget it.
#[derive(Default)]
pub(super) struct Pending {
    /// Everything of before is forgotten.
    pub(super) cleared: bool,
    /// All entries and listings of before are forgotten, and the feed position.
    pub(super) names_cleared: bool,
    /// All small files of before are forgotten.
    pub(super) files_cleared: bool,
    pub(super) ranges: HashMap<InodeId, Option<(Bytes, bool)>>,
    pub(super) directories: HashMap<InodeId, Directory>,
    pub(super) files: HashMap<InodeId, Option<Bytes>>,
    pub(super) feed: Option<Feed>,
    /// The mark of an orderly close.
    pub(super) closed: Option<Bytes>,
    bytes: usize,
    changes: usize,
}

#[derive(Default)]
pub(super) struct Directory {
    /// The mark that the entries are all: set, or taken away.
    pub(super) listing: Option<Option<Bytes>>,
    pub(super) entries: HashMap<Vec<u8>, Option<(u64, Bytes)>>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        let cleared = self.cleared || self.names_cleared || self.files_cleared;
        !cleared && self.changes == 0 && self.feed.is_none() && self.closed.is_none()
    }

    /// Bytes it takes, roughly. Never less than what the rows hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes in it; overwriting one counts again, so that this only ever overestimates.
    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    pub(super) fn set_ranges(&mut self, inode: InodeId, value: Option<(Bytes, bool)>) {
        self.count(value.as_ref().map_or(0, |(value, _)| value.len()));
        self.ranges.insert(inode, value);
    }

    pub(super) fn set_file(&mut self, inode: InodeId, value: Option<Bytes>) {
        self.count(value.as_ref().map_or(0, Bytes::len));
        self.files.insert(inode, value);
    }

    pub(super) fn set_entry(&mut self, directory: InodeId, name: &[u8], value: Option<(u64, Bytes)>) {
        self.count(name.len() + value.as_ref().map_or(0, |(_, value)| value.len()));
        self.directories.entry(directory).or_default().entries.insert(name.into(), value);
    }

    pub(super) fn set_listing(&mut self, directory: InodeId, value: Option<Bytes>) {
        self.count(value.as_ref().map_or(0, Bytes::len));
        self.directories.entry(directory).or_default().listing = Some(value);
    }

    /// Turns all marks into none.
    pub(super) fn forget_listings(&mut self) {
        for directory in self.directories.values_mut() {
            directory.listing = directory.listing.take().map(|_| None);
        }
    }

    pub(super) fn set_feed(&mut self, feed: Feed) {
        self.feed = Some(feed);
    }

    pub(super) fn set_closed(&mut self, mark: Bytes) {
        self.closed = Some(mark);
    }

    /// Forgets small files. What is counted stays counted.
    pub(super) fn clear_files(&mut self) {
        self.files_cleared = true;
        self.files.clear();
    }

    /// Forgets entries, listings and the feed position. What is counted stays counted.
    pub(super) fn clear_names(&mut self) {
        self.names_cleared = true;
        self.directories.clear();
        (self.feed, self.closed) = (None, None);
    }

    pub(super) fn clear(&mut self) {
        *self = Self { cleared: true, ..Self::default() };
    }

    /// `Some` if this layer decides: the row, or that there is none.
    pub(super) fn file(&self, inode: InodeId) -> Option<Option<Bytes>> {
        self.or_cleared(self.files.get(&inode).cloned()).or(self.files_cleared.then_some(None))
    }

    pub(super) fn feed(&self) -> Option<Option<Feed>> {
        self.or_names_cleared(self.feed.map(Some))
    }

    /// True if entries of a directory wait here.
    pub(super) fn touches(&self, directory: InodeId) -> bool {
        self.cleared || self.names_cleared || self.directories.contains_key(&directory)
    }

    fn or_cleared<T>(&self, row: Option<Option<T>>) -> Option<Option<T>> {
        row.or(self.cleared.then_some(None))
    }

    fn or_names_cleared<T>(&self, row: Option<Option<T>>) -> Option<Option<T>> {
        self.or_cleared(row).or(self.names_cleared.then_some(None))
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes + OVERHEAD;
        self.changes += 1;
    }
}
