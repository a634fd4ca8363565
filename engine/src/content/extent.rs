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

/// Bytes that extents cover together.
pub fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.length).sum()
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

/// The bytes of `range` in order: each stretch with the (whole) extent that covers it, or `None` for a hole.
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bucket::Cipher;
    use crate::content::WINDOW;
    use crate::ids::RunId;
    use proptest::prelude::*;

    const RUN_LENGTH: u64 = 1_000;

    /// An extent of the run with this number.
    pub(crate) fn extent(offset: u64, length: u64, run: u8, run_offset: u64) -> Extent {
        Extent {
            offset,
            length,
            run: RunId::from_bytes([run; 16]),
            run_length: RUN_LENGTH,
            run_offset,
            cipher: Cipher::Aes256Gcm,
            run_key: Sealed { generation: 0, bytes: vec![run; Sealed::KEY_LEN].into() },
        }
    }

    /// Lists are compared byte by byte on a stretch around a window border.
    const SPAN: u64 = 120;
    const START: u64 = WINDOW - SPAN / 2;
    const END: u64 = START + SPAN;

    /// What each byte of the stretch is: a byte of a run, or a hole.
    type Model = Vec<Option<(RunId, u64)>>;

    fn model(extents: &[Extent]) -> Model {
        let byte = |at| find(extents, at).map(|extent| (extent.run, extent.run_offset + (at - extent.offset)));
        (START..END).map(byte).collect()
    }

    /// A range of the stretch and what is written there: a run, or a hole.
    fn change() -> impl Strategy<Value = (Range<u64>, Option<u8>)> {
        let range = (START..END, 1..SPAN).prop_map(|(start, length)| start..(start + length).min(END));
        (range, prop::option::weighted(0.7, 0u8..4))
    }

    /// The extents of a write: the run's bytes lie as the file's, so that writes can continue one another.
    fn written(range: &Range<u64>, run: Option<u8>) -> Vec<Extent> {
        let whole = run.map(|run| extent(range.start, range.end - range.start, run, range.start - START));
        whole.iter().flat_map(|extent| split_at_windows(extent).collect::<Vec<_>>()).collect()
    }

    fn list() -> impl Strategy<Value = Vec<Extent>> {
        prop::collection::vec(change(), 0..12).prop_map(|changes| {
            changes.iter().fold(Vec::new(), |mut extents, (range, run)| {
                replace(&mut extents, range, &written(range, *run));
                extents
            })
        })
    }

    proptest! {
        #[test]
        fn replacing_is_writing_bytes(mut extents in list(), (range, run) in change()) {
            let mut expected = model(&extents);
            for at in range.clone() {
                expected[(at - START) as usize] = run.map(|run| (RunId::from_bytes([run; 16]), at - START));
            }
            replace(&mut extents, &range, &written(&range, run));
            prop_assert_eq!(check_within(&extents, START..END), Ok(()));
            prop_assert_eq!(model(&extents), expected);
        }

        #[test]
        fn many_changes_at_once_are_the_same_as_one_by_one(
            extents in list(), mut changes in prop::collection::vec(change(), 0..6)
        ) {
            changes.sort_by_key(|(range, _)| range.start);
            changes.dedup_by(|(next, _), (range, _)| next.start < range.end);
            let mut expected = extents.clone();
            for (range, run) in &changes {
                replace(&mut expected, range, &written(range, *run));
            }
            let changes: Vec<_> = changes.iter().map(|(range, run)| RangeChange {
                offset: range.start, length: range.end - range.start, extents: written(range, *run),
            }).collect();
            prop_assert_eq!(replace_ranges(&extents, &changes), expected);
        }

        #[test]
        fn cutting_keeps_what_is_inside(extents in list(), (range, _) in change()) {
            let part = cut(&extents, &range);
            prop_assert_eq!(check_within(&part, range.clone()), Ok(()));
            let mut expected = model(&extents);
            for (at, byte) in (START..END).zip(&mut expected) {
                byte.take_if(|_| !range.contains(&at));
            }
            prop_assert_eq!(model(&part), expected);
            prop_assert!(intersecting(&extents, &range).iter().all(|extent| clip(extent, &range).is_some()));
            let inside = extents.iter().filter(|extent| clip(extent, &range).is_some()).count();
            prop_assert_eq!(intersecting(&extents, &range).len(), inside);
        }

        #[test]
        fn stretches_are_the_range_in_order(extents in list(), (range, _) in change()) {
            let mut at = range.start;
            for (part, extent) in stretches(&extents, range.clone()) {
                prop_assert_eq!(part.start, at);
                prop_assert!(part.start < part.end && part.end <= range.end);
                for byte in part.clone() {
                    prop_assert_eq!(find(&extents, byte), extent);
                }
                at = part.end;
            }
            prop_assert_eq!(at, range.end);
        }

        #[test]
        fn merging_changes_nothing_but_the_rows(extents in list()) {
            let mut merged = extents.clone();
            merge(&mut merged);
            prop_assert_eq!(check(&merged), Ok(()));
            prop_assert_eq!(model(&merged), model(&extents));
            prop_assert!(merged.is_sorted_by(|extent, next| !continues(extent, next)));
        }

        #[test]
        fn truncating_leaves_nothing_behind(mut extents in list(), size in START..=END) {
            let expected = cut(&extents, &(0..size));
            truncate(&mut extents, size);
            prop_assert_eq!(extents, expected);
        }

        #[test]
        fn checking_never_panics(
            rows in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), 0usize..60), 0..4)
        ) {
            let rows: Vec<_> = rows.into_iter().map(|(offset, length, run_length, run_offset, key)| Extent {
                offset, length, run_length, run_offset,
                run_key: Sealed { generation: 0, bytes: vec![0; key].into() },
                ..extent(0, 1, 1, 0)
            }).collect();
            if check(&rows).is_ok() {
                prop_assert!(rows.iter().all(|row| row.end() <= MAX_OFFSET && row.run_offset + row.length <= row.run_length));
            }
        }
    }

    #[test]
    fn every_fault_is_found_and_named() {
        let good = extent(10, 10, 1, 0);
        let last = Extent { offset: MAX_OFFSET - 10, ..good.clone() };
        let key = Sealed { generation: 0, bytes: vec![0; 47].into() };
        assert_eq!(check(&[good.clone(), extent(20, 5, 1, 0), last.clone()]), Ok(()));
        let faults = [
            (Extent { length: 0, ..good.clone() }, Fault::Empty),
            (Extent { length: 11, ..last.clone() }, Fault::Overflow),
            (Extent { offset: u64::MAX, ..good.clone() }, Fault::Overflow),
            (Extent { length: u64::MAX, ..good.clone() }, Fault::Overflow),
            (Extent { offset: WINDOW - 9, ..good.clone() }, Fault::WindowCrossing),
            (Extent { run_length: run::MAX_LENGTH + 1, ..good.clone() }, Fault::RunTooLong),
            (Extent { run_offset: RUN_LENGTH - 9, ..good.clone() }, Fault::LeavesRun),
            (Extent { run_offset: u64::MAX, ..good.clone() }, Fault::LeavesRun),
            (Extent { run_key: key, ..good.clone() }, Fault::RunKey),
        ];
        for (bad, fault) in faults {
            assert_eq!(check(&[extent(0, 5, 1, 0), bad]), Err(BadExtent { index: 1, fault }));
        }
        let overlap = Err(BadExtent { index: 1, fault: Fault::Overlap });
        assert_eq!(check(&[good.clone(), extent(19, 5, 1, 0)]), overlap);
        assert_eq!(check(&[good.clone(), extent(0, 5, 1, 0)]), overlap);
        let outside = BadExtent { index: 0, fault: Fault::OutOfRange };
        assert_eq!(check_within(std::slice::from_ref(&good), 11..100), Err(outside));
        assert_eq!(check_within(std::slice::from_ref(&good), 0..19), Err(outside));
        assert_eq!(outside.to_string(), "extent 0 is outside of its range");
    }

    #[test]
    fn only_true_continuations_are_joined() {
        let first = extent(10, 10, 1, 100);
        let next = extent(20, 5, 1, 110);
        let mut list = vec![first.clone(), next.clone()];
        merge(&mut list);
        assert_eq!(list, [extent(10, 15, 1, 100)]);
        let strangers = [
            Extent { offset: 21, ..next.clone() },
            Extent { run_offset: 111, ..next.clone() },
            Extent { run: RunId::from_bytes([2; 16]), ..next.clone() },
            Extent { run_length: RUN_LENGTH + 1, ..next.clone() },
            Extent { cipher: Cipher::ChaCha20Poly1305, ..next.clone() },
            Extent { run_key: Sealed { generation: 1, ..next.run_key.clone() }, ..next.clone() },
        ];
        for stranger in strangers {
            let mut list = vec![first.clone(), stranger];
            merge(&mut list);
            assert_eq!(list.len(), 2);
        }
        let mut border = vec![extent(WINDOW - 10, 10, 1, 0), extent(WINDOW, 10, 1, 10)];
        merge(&mut border);
        assert_eq!(border.len(), 2, "a border of windows stays");
    }
}
