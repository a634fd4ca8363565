//! Disk that data files take, in whole pages: counted before bytes are written, given back when the file is gone.

use super::DataId;
use rangemap::RangeSet;
use std::collections::HashMap;
use std::ops::Range;

/// What a file system gives a file at least.
const PAGE: u64 = 4096;

/// What all data files take.
#[derive(Debug, Default)]
pub(super) struct Occupied {
    files: HashMap<DataId, File>,
    total: u64,
}

#[derive(Debug, Default)]
struct File {
    /// What it took when it was found; where, nobody knows.
    found: u64,
    /// Whole pages written since.
    pages: RangeSet<u64>,
    /// Bytes in them.
    written: u64,
    /// Where it ends.
    end: u64,
}

impl File {
    /// Never less than what the file takes: what was found and is written again counts twice, up to the whole file.
    fn bytes(&self) -> u64 {
        (self.found + self.written).min(self.end)
    }
}

impl Occupied {
    /// A file that was there.
    pub(super) fn found(&mut self, id: DataId, allocated: u64, length: u64) {
        let end = pages(&(0..length)).end.max(allocated);
        self.change(id, |file| (file.found, file.end) = (allocated, end));
    }

    /// Most bytes that writing a range takes more.
    pub(super) fn needs(&self, id: DataId, range: &Range<u64>) -> u64 {
        let pages = pages(range);
        let Some(file) = self.files.get(&id) else { return pages.end - pages.start };
        let after = File {
            found: file.found,
            written: file.written + new_bytes(&file.pages, &pages),
            end: file.end.max(pages.end),
            ..File::default()
        };
        after.bytes() - file.bytes()
    }

    /// A range is about to be written.
    pub(super) fn add(&mut self, id: DataId, range: &Range<u64>) {
        let pages = pages(range);
        if pages.is_empty() {
            return;
        }
        self.change(id, |file| {
            file.written += new_bytes(&file.pages, &pages);
            file.end = file.end.max(pages.end);
            file.pages.insert(pages);
        });
    }

    /// A range was given back to the disk, up to `u64::MAX` for the end of the file.
    pub(super) fn cut(&mut self, id: DataId, range: &Range<u64>) {
        // Only whole pages go.
        let whole = range.start.next_multiple_of(PAGE)..range.end / PAGE * PAGE;
        if whole.is_empty() || !self.files.contains_key(&id) {
            return;
        }
        self.change(id, |file| {
            file.written -= whole.end - whole.start - new_bytes(&file.pages, &whole);
            file.pages.remove(whole.clone());
            if range.end == u64::MAX {
                file.end = whole.start;
            }
        });
    }

    /// The file is gone.
    pub(super) fn remove(&mut self, id: DataId) {
        self.total -= self.files.remove(&id).map_or(0, |file| file.bytes());
    }

    /// Bytes of a file.
    pub(super) fn of(&self, id: DataId) -> u64 {
        self.files.get(&id).map_or(0, File::bytes)
    }

    /// Bytes of all files.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn change(&mut self, id: DataId, change: impl FnOnce(&mut File)) {
        let file = self.files.entry(id).or_default();
        let before = file.bytes();
        change(file);
        self.total = self.total - before + file.bytes();
    }
}

fn pages(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return range.start..range.start;
    }
    range.start / PAGE * PAGE..range.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

/// Bytes of a range that the set does not have.
fn new_bytes(known: &RangeSet<u64>, range: &Range<u64>) -> u64 {
    let here = |part: &Range<u64>| part.end.min(range.end) - part.start.max(range.start);
    range.end - range.start - known.overlapping(range).map(here).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use strewn_engine::ids::InodeId;

    const ID: DataId = DataId { inode: InodeId::from_bytes([1; 16]), generation: 7 };

    #[test]
    fn pages_count_once_and_come_back() {
        let mut occupied = Occupied::default();
        assert_eq!(occupied.needs(ID, &(100..200)), PAGE);
        occupied.add(ID, &(100..200));
        occupied.add(ID, &(0..PAGE + 1));
        assert_eq!((occupied.total(), occupied.needs(ID, &(0..2 * PAGE)), occupied.of(ID)), (2 * PAGE, 0, 2 * PAGE));
        occupied.add(ID, &(10 * PAGE..12 * PAGE));
        occupied.cut(ID, &(1..11 * PAGE + 1));
        assert_eq!(occupied.total(), 2 * PAGE, "pages that are partly in use stay");
        occupied.cut(ID, &(PAGE..u64::MAX));
        assert_eq!(occupied.total(), PAGE);
        occupied.remove(ID);
        occupied.remove(ID);
        assert_eq!(occupied.total(), 0);
    }

    #[test]
    fn what_was_found_counts_at_most_as_the_whole_file() {
        let mut occupied = Occupied::default();
        occupied.found(ID, 8 * PAGE, 10 * PAGE);
        assert_eq!(occupied.needs(ID, &(0..PAGE)), PAGE);
        occupied.add(ID, &(0..10 * PAGE));
        assert_eq!(occupied.total(), 10 * PAGE);
        assert_eq!(occupied.needs(ID, &(10 * PAGE..11 * PAGE)), PAGE);
    }
}
