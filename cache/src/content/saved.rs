//! Bytes that a cut took from a data file and that were overwritten before it had sealed them.
//!
//! Whoever overwrites them puts them here first; whoever seals reads the data file and then lays these over. As they are here
//! before the data file changes, it makes no difference when within that the file is read. They are dropped when the cut is
//! sealed; after a crash nobody needs them: a cut that was not sealed has not happened.

use bytes::Bytes;
use parking_lot::Mutex;
use rangemap::RangeSet;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes of memory that all cuts of a cache take for what they save; who would overwrite more waits for the sealing.
pub(crate) const MOST_SAVED: u64 = 16 << 20;
/// What a piece takes beside its bytes, about: many small ones are not to take many times as much memory.
const PIECE: u64 = 256;

/// Memory that all cuts of a cache take.
pub(crate) type Total = Arc<AtomicU64>;

/// What was saved of one file for one cut.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    pieces: Mutex<Pieces>,
    total: Total,
}

#[derive(Debug, Default)]
struct Pieces {
    covered: RangeSet<u64>,
    /// By offset; they do not overlap.
    bytes: BTreeMap<u64, Bytes>,
}

impl Saved {
    pub(crate) fn new(total: Total) -> Self {
        Self { pieces: Mutex::default(), total }
    }

    /// The parts of a range of which nothing is saved.
    pub(crate) fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.pieces.lock().covered.gaps(range).collect()
    }

    /// Saves what the data file has from an offset. Nothing of it may be saved already.
    pub(crate) fn put(&self, offset: u64, bytes: Bytes) {
        let length = bytes.len() as u64;
        if length == 0 {
            return;
        }
        self.total.fetch_add(PIECE + length, Ordering::Relaxed);
        let mut pieces = self.pieces.lock();
        pieces.covered.insert(offset..offset + length);
        pieces.bytes.insert(offset, bytes);
    }

    /// Lays what is saved over what was read of the data file from an offset.
    pub(crate) fn lay_over(&self, offset: u64, read: &mut [u8]) {
        let range = offset..offset + read.len() as u64;
        let pieces = self.pieces.lock();
        let before = pieces.bytes.range(..range.start).next_back();
        for (start, bytes) in before.into_iter().chain(pieces.bytes.range(range.clone())) {
            let (from, to) = ((*start).max(range.start), (start + bytes.len() as u64).min(range.end));
            if from < to {
                let saved = &bytes[(from - start) as usize..(to - start) as usize];
                read[(from - offset) as usize..(to - offset) as usize].copy_from_slice(saved);
            }
        }
    }

    /// Drops everything: the cut is sealed.
    pub(crate) fn clear(&self) {
        let pieces = std::mem::take(&mut *self.pieces.lock());
        let taken: u64 = pieces.bytes.values().map(|bytes| PIECE + bytes.len() as u64).sum();
        self.total.fetch_sub(taken, Ordering::Relaxed);
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A file of 200 bytes is overwritten here and there, and read as it was.
        #[test]
        fn what_was_overwritten_is_read_as_it_was(
            writes in prop::collection::vec((0usize..200, 1usize..40), 0..30),
            reads in prop::collection::vec((0usize..200, 1usize..80), 1..10),
        ) {
            let before: Vec<u8> = (1..=200).collect();
            let mut file = before.clone();
            let total = Total::default();
            let saved = Saved::new(total.clone());
            for (start, length) in writes {
                let range = start..(start + length).min(200);
                for part in saved.missing(&(range.start as u64..range.end as u64)) {
                    let part = part.start as usize..part.end as usize;
                    saved.put(part.start as u64, Bytes::copy_from_slice(&file[part]));
                }
                file[range].fill(0);
            }
            let overwritten = file.iter().filter(|byte| **byte == 0).count() as u64;
            prop_assert!(overwritten == 0 || total.load(Ordering::Relaxed) >= overwritten + PIECE);
            for (start, length) in reads {
                let range = start..(start + length).min(200);
                let mut read = file[range.clone()].to_vec();
                saved.lay_over(start as u64, &mut read);
                prop_assert_eq!(&read, &before[range]);
            }
            drop(saved);
            prop_assert_eq!(total.load(Ordering::Relaxed), 0);
        }
    }
}
