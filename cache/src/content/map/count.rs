//! How many bytes of a file are not in holes.

use super::{Content, Fill, Part};
use rangemap::RangeMap;
use std::ops::Range;
use strewn_engine::content::{WINDOW, extent};

/// Largest file of which `allocated` looks at the extents that the network has.
const MAX_EXACT: u64 = 1 << 20;
/// Most changed ranges that `allocated` compares with the extents.
const MAX_CHANGES: usize = 1024;

impl Content {
    /// Bytes below `size` that are not known to be holes. `counted` is how many the network's extents cover, if known.
    pub(crate) fn allocated(&self, size: u64, counted: Option<u64>) -> u64 {
        if self.local {
            return self.present.overlapping(0..size).map(|range| range.end.min(size) - range.start).sum();
        }
        if let Some(counted) = counted {
            return self.changed_from(counted).min(size);
        }
        // Walking a large file's extents on every stat would cost more than an exact number is worth.
        if size > MAX_EXACT {
            return size;
        }
        let holes = |part: &Part| if let Part::Hole(range) = part { range.end - range.start } else { 0 };
        size - self.parts(0..size).iter().map(holes).sum::<u64>()
    }

    /// What local changes make of `counted` bytes that the network's extents cover. Where those are not loaded, what was
    /// written counts as new, and a hole as nothing less.
    fn changed_from(&self, counted: u64) -> u64 {
        let frozen = self.frozen.iter().flat_map(|frozen| frozen.ranges.iter());
        if self.dirty.len() + self.frozen.iter().map(|frozen| frozen.ranges.len()).sum::<usize>() > MAX_CHANGES {
            let taken = frozen.filter(|(_, fill)| *fill == Fill::Data).map(|(range, _)| range.end - range.start);
            return counted.saturating_add(self.dirty_bytes()).saturating_add(taken.sum());
        }
        let mut newest: RangeMap<u64, Fill> = RangeMap::new();
        frozen.for_each(|(range, fill)| newest.insert(range.clone(), *fill));
        self.dirty.iter().for_each(|(range, fill)| newest.insert(range.clone(), *fill));
        newest.iter().fold(counted, |counted, (range, fill)| {
            let written = if *fill == Fill::Data { range.end - range.start } else { 0 };
            counted.saturating_add(written).saturating_sub(self.covered(range))
        })
    }

    /// Bytes of a range that loaded extents cover.
    fn covered(&self, range: &Range<u64>) -> u64 {
        let windows = self.windows.range(range.start / WINDOW..range.end.div_ceil(WINDOW));
        let within = windows.flat_map(|(_, window)| extent::intersecting(&window.extents, range));
        within.map(|extent| extent.end().min(range.end) - extent.offset.max(range.start)).sum()
    }

    /// How many bytes the network's extents cover, if all of them are loaded.
    pub(crate) fn count(&self) -> Option<u64> {
        let all = self.tags.as_ref()?.keys().all(|number| self.windows.contains_key(number));
        all.then(|| self.windows.values().map(|window| extent::total(&window.extents)).sum())
    }
}
