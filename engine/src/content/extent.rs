//! Pure functions over lists of extents: sorted by offset, not overlapping, what none covers is a hole.
//!
//! A list that comes from outside goes through [`check`] once; everything else relies on it.

use super::{run, window};
use crate::bucket::{Extent, MAX_OFFSET, RangeChange, Sealed};
use std::ops::Range;

/// An extent, or its place in a list, breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("extent {index} {fault}")]
pub struct BadExtent {
    /// Its index in the list.
    pub index: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What may be wrong with an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Length 0.
    #[error("is empty")]
    Empty,
    /// It ends beyond the largest file offset.
    #[error("ends beyond the largest file")]
    Overflow,
    /// It crosses a border of windows.
    #[error("crosses a window border")]
    WindowCrossing,
    /// Its run is longer than any can be.
    #[error("names a run that is too long")]
    RunTooLong,
    /// It reaches beyond the end of its run.
    #[error("leaves its run")]
    LeavesRun,
    /// Its sealed run key has the wrong length.
    #[error("has a malformed run key")]
    RunKey,
    /// It starts before the one in front of it ends.
    #[error("overlaps the one before or is out of order")]
    Overlap,
    /// It is not within the range it was given for.
    #[error("is outside of its range")]
    OutOfRange,
}

/// Checks one extent by itself.
pub fn check_one(extent: &Extent) -> Result<(), Fault> {
    if extent.length == 0 {
        return Err(Fault::Empty);
    }
    let end = extent.offset.checked_add(extent.length).filter(|end| *end <= MAX_OFFSET).ok_or(Fault::Overflow)?;
    if window::window_of(extent.offset) != window::window_of(end - 1) {
        return Err(Fault::WindowCrossing);
    }
    if extent.run_length > run::MAX_LENGTH {
        return Err(Fault::RunTooLong);
    }
    let run_end = extent.run_offset.checked_add(extent.length);
    if run_end.is_none_or(|end| end > extent.run_length) {
        return Err(Fault::LeavesRun);
    }
    if extent.run_key.bytes.len() != Sealed::KEY_LEN {
        return Err(Fault::RunKey);
    }
    Ok(())
}

/// Checks a list from outside: every extent, their order, and that none overlap.
pub fn check(extents: &[Extent]) -> Result<(), BadExtent> {
    check_within(extents, 0..MAX_OFFSET)
}

/// Like [`check`], and every extent must lie within `range`.
pub fn check_within(extents: &[Extent], range: Range<u64>) -> Result<(), BadExtent> {
    let mut free_from = 0;
    for (index, extent) in extents.iter().enumerate() {
        let bad = |fault| BadExtent { index, fault };
        check_one(extent).map_err(bad)?;
        if extent.offset < free_from {
            return Err(bad(Fault::Overlap));
        }
        if extent.offset < range.start || extent.end() > range.end {
            return Err(bad(Fault::OutOfRange));
        }
        free_from = extent.end();
    }
    Ok(())
}

/// True if `next` is the direct continuation of `extent`: in the file, in the run, and in the same window.
pub fn continues(extent: &Extent, next: &Extent) -> bool {
    extent.end() == next.offset
        && extent.run == next.run
        && extent.run_length == next.run_length
        && extent.cipher == next.cipher
        && extent.run_offset + extent.length == next.run_offset
        && window::window_of(extent.offset) == window::window_of(next.offset)
}

/// The part of an extent within `range`.
pub fn clip(extent: &Extent, range: &Range<u64>) -> Option<Extent> {
    let start = extent.offset.max(range.start);
    let end = extent.end().min(range.end);
    (start < end).then(|| Extent {
        offset: start,
        length: end - start,
        run_offset: extent.run_offset + (start - extent.offset),
        ..extent.clone()
    })
}

/// Cuts an extent at the borders of windows.
pub fn split_at_windows(extent: &Extent) -> impl Iterator<Item = Extent> + '_ {
    window::split(extent.offset..extent.end()).filter_map(|(_, part)| clip(extent, &part))
}

/// The extent that covers the byte at `offset`.
pub fn find(extents: &[Extent], offset: u64) -> Option<&Extent> {
    let after = extents.partition_point(|extent| extent.offset <= offset);
    extents[..after].last().filter(|extent| offset < extent.end())
}

/// The extents that have bytes within `range`, whole.
pub fn intersecting<'a>(extents: &'a [Extent], range: &Range<u64>) -> &'a [Extent] {
    &extents[intersecting_indices(extents, range)]
}

/// What lies within `range`: the extents clipped to it.
pub fn cut(extents: &[Extent], range: &Range<u64>) -> Vec<Extent> {
    clipped(extents, range).collect()
}

/// The bytes of `range` in order: each stretch with the extent that covers it, or `None` for a hole.
pub fn stretches<'a>(
    extents: &'a [Extent],
    range: Range<u64>,
) -> impl Iterator<Item = (Range<u64>, Option<&'a Extent>)> + 'a {
    let mut rest = intersecting(extents, &range).iter().peekable();
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let start = at;
        let covering = rest.next_if(|extent| extent.offset <= start);
        at = match (covering, rest.peek()) {
            (Some(extent), _) => extent.end().min(range.end),
            (None, Some(next)) => next.offset,
            (None, None) => range.end,
        };
        Some((start..at, covering))
    })
}

/// Replaces the bytes of `range`: what was there is cut out, `new` (checked, within `range`) comes in, the rest is a hole.
pub fn replace(extents: &mut Vec<Extent>, range: &Range<u64>, new: &[Extent]) {
    if range.is_empty() {
        return;
    }
    let old = intersecting_indices(extents, range);
    let before = extents[old.clone()].first().and_then(|extent| clip(extent, &(0..range.start)));
    let after = extents[old.clone()].last().and_then(|extent| clip(extent, &(range.end..u64::MAX)));
    extents.splice(old, before.into_iter().chain(new.iter().cloned()).chain(after));
}

/// Applies many changes (sorted, not overlapping, each with checked extents within its range) in one pass.
pub fn replace_ranges(extents: &[Extent], changes: &[RangeChange]) -> Vec<Extent> {
    let added: usize = changes.iter().map(|change| change.extents.len() + 2).sum();
    let mut result = Vec::with_capacity(extents.len() + added);
    let mut kept_from = 0;
    for change in changes {
        result.extend(clipped(extents, &(kept_from..change.offset)));
        result.extend_from_slice(&change.extents);
        kept_from = change.offset.saturating_add(change.length);
    }
    result.extend(clipped(extents, &(kept_from..u64::MAX)));
    result
}

/// Drops everything at and after `size`.
pub fn truncate(extents: &mut Vec<Extent>, size: u64) {
    replace(extents, &(size..u64::MAX), &[]);
}

/// Joins extents that continue one another under the same sealed run key.
pub fn merge(extents: &mut Vec<Extent>) {
    extents.dedup_by(|next, extent| {
        let joins = continues(extent, next) && extent.run_key == next.run_key;
        if joins {
            extent.length += next.length;
        }
        joins
    });
}

fn clipped<'a>(extents: &'a [Extent], range: &'a Range<u64>) -> impl Iterator<Item = Extent> + 'a {
    intersecting(extents, range).iter().filter_map(|extent| clip(extent, range))
}

fn intersecting_indices(extents: &[Extent], range: &Range<u64>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    let first = extents.partition_point(|extent| extent.end() <= range.start);
    let after = extents.partition_point(|extent| extent.offset < range.end);
    first..after
}
