//! What a range is made of.

use super::{Content, Fill};
use rangemap::RangeMap;
use std::ops::Range;
use strewn_engine::bucket::Extent;
use strewn_engine::content::WINDOW;

/// What a byte range is made of, in the order of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// In the backing.
    Present(Range<u64>),
    /// A hole.
    Hole(Range<u64>),
    /// In an extent of the network's that is not here.
    Remote(Range<u64>, Extent),
    /// In a window whose extents are not loaded.
    Unknown(Range<u64>),
}

enum Meaning {
    Present,
    Hole,
    Unknown,
    Remote(Extent),
}

impl Content {
    /// What local changes, dirty or frozen, make of the byte at `offset`, and up to where that holds (at most `end`).
    fn local_fill(&self, offset: u64, end: u64) -> (Option<Fill>, u64) {
        let (dirty, mut until) = lookup(&self.dirty, offset, end);
        if dirty.is_some() {
            return (dirty, until);
        }
        for frozen in self.frozen.iter().rev() {
            let index = frozen.ranges.partition_point(|(range, _)| range.end <= offset);
            match frozen.ranges.get(index) {
                Some((range, fill)) if range.start <= offset => return (Some(*fill), until.min(range.end)),
                Some((range, _)) => until = until.min(range.start),
                None => {}
            }
        }
        (None, until)
    }

    /// What `range` is made of.
    pub(crate) fn parts(&self, range: Range<u64>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (part, end) = self.part(at, range.end);
            push(&mut parts, part, at..end);
            at = end;
        }
        parts
    }

    fn part(&self, at: u64, end: u64) -> (Meaning, u64) {
        let (present, end) = match self.present.get(&at) {
            Some(range) => (true, range.end.min(end)),
            None => (false, self.present.overlapping(at..end).next().map_or(end, |next| next.start.min(end))),
        };
        if present {
            return (Meaning::Present, end);
        }
        let (fill, end) = self.local_fill(at, end);
        if fill.is_some() || self.local {
            return (Meaning::Hole, end);
        }
        let number = at / WINDOW;
        let end = end.min(number.saturating_add(1).saturating_mul(WINDOW));
        let uncovered = if self.torn { Meaning::Unknown } else { Meaning::Hole };
        if let Some(tags) = &self.tags
            && !tags.contains_key(&number)
        {
            return (uncovered, end);
        }
        let Some(window) = self.windows.get(&number) else { return (Meaning::Unknown, end) };
        let index = window.extents.partition_point(|extent| extent.end() <= at);
        match window.extents.get(index) {
            Some(extent) if extent.offset <= at => (Meaning::Remote(extent.clone()), end.min(extent.end())),
            Some(extent) => (uncovered, end.min(extent.offset)),
            None => (uncovered, end),
        }
    }

    /// What of `ranges` still is that extent's and not here.
    pub(crate) fn still_remote(&self, ranges: &[Range<u64>], extent: &Extent) -> Vec<Range<u64>> {
        let parts = ranges.iter().flat_map(|range| self.parts(range.clone()));
        let same = |found: &Extent, range: &Range<u64>| {
            found.run == extent.run
                && found.run_offset + (range.start - found.offset) == extent.run_offset + (range.start - extent.offset)
        };
        parts
            .filter_map(|part| match part {
                Part::Remote(range, found) if same(&found, &range) => Some(range),
                _ => None,
            })
            .collect()
    }
}

/// Appends a part, merging neighbours of the same meaning.
fn push(parts: &mut Vec<Part>, meaning: Meaning, range: Range<u64>) {
    match (parts.last_mut(), &meaning) {
        (Some(Part::Present(last)), Meaning::Present)
        | (Some(Part::Hole(last)), Meaning::Hole)
        | (Some(Part::Unknown(last)), Meaning::Unknown) => last.end = range.end,
        (Some(Part::Remote(last, of)), Meaning::Remote(extent)) if of == extent => last.end = range.end,
        _ => parts.push(match meaning {
            Meaning::Present => Part::Present(range),
            Meaning::Hole => Part::Hole(range),
            Meaning::Unknown => Part::Unknown(range),
            Meaning::Remote(extent) => Part::Remote(range, extent),
        }),
    }
}

/// The value at `offset` of a range map, and up to where (at most `end`) it, or its absence, holds.
fn lookup(map: &RangeMap<u64, Fill>, offset: u64, end: u64) -> (Option<Fill>, u64) {
    match map.get_key_value(&offset) {
        Some((range, fill)) => (Some(*fill), range.end.min(end)),
        None => (None, map.overlapping(offset..end).next().map_or(end, |(next, _)| next.start.min(end))),
    }
}
