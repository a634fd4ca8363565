//! Extents, window tags, and the references of runs and segments.

use super::*;
use crate::content::{WINDOW, extent, run};

type Checked<R, T = ()> = Result<T, Stop<<R as Rows>::Error>>;

/// Adds to `plan`, which knows the inodes already, what happens to content.
pub(super) fn plan_content<R: Rows>(
    rows: &mut R,
    commit: &Commit,
    old_sizes: &HashMap<InodeId, u64>,
    plan: &mut Plan,
) -> Checked<R> {
    let new = commit.runs.iter().map(|run| (run.run, run)).collect();
    let mut content =
        Content { rows, new, runs: HashMap::new(), order: Vec::new(), segments: HashMap::new(), bytes: 0 };
    for (index, operation) in commit.operations.iter().enumerate() {
        if let Operation::PutInode(put) = operation
            && put.kind == Kind::File
        {
            let old_size = old_sizes.get(&put.inode).copied().unwrap_or(0);
            content.put(index, put, old_size, plan)?;
        }
    }
    let removed = plan.inodes.iter().filter(|(_, row)| row.is_none());
    for inode in removed.map(|(inode, _)| *inode).collect::<Vec<_>>() {
        for extent in content.rows.extents(inode, 0, u64::MAX)? {
            content.count(&extent, -1)?;
        }
    }
    content.finish(plan);
    Ok(())
}

struct Content<'a, R: Rows> {
    rows: &'a mut R,
    new: HashMap<RunId, &'a NewRun>,
    runs: HashMap<RunId, RunState<'a>>,
    order: Vec<RunId>,
    /// Lengths of the segments that new runs name.
    segments: HashMap<SegmentId, Option<u64>>,
    /// Bytes of the extents that come, less those that go.
    bytes: i64,
}

/// A run that extents of the batch come or go of.
struct RunState<'a> {
    before: Option<RunRow>,
    new: Option<&'a NewRun>,
    change: i64,
}

impl RunState<'_> {
    fn length(&self) -> Option<u64> {
        self.before.as_ref().map(|row| row.length).or(self.new.map(|new| new.length))
    }

    fn is_inline(&self) -> bool {
        match (&self.before, self.new) {
            (Some(row), _) => row.segments.is_empty(),
            (None, Some(new)) => matches!(new.place, RunPlace::Inline(_)),
            (None, None) => false,
        }
    }
}

impl<'a, R: Rows> Content<'a, R> {
    fn put(&mut self, index: usize, put: &PutInode, old_size: u64, plan: &mut Plan) -> Checked<R> {
        let bad = |what: String| Stop::Refused(index, Refusal::BadExtents(what));
        let mut brings_inline = false;
        for range in &put.ranges {
            let within = range.offset..range.offset + range.length;
            extent::check_within(&range.extents, within).map_err(|wrong| bad(wrong.to_string()))?;
            for extent in &range.extents {
                let run = self.run(index, extent.run)?;
                match run.length() {
                    None => return Err(bad(format!("unknown run {:?}", extent.run))),
                    Some(length) if length != extent.run_length => return Err(bad("length of the run".to_owned())),
                    Some(_) => brings_inline |= run.is_inline(),
                }
            }
        }
        let mut before = Vec::new();
        if put.expected_version > 0 {
            for (from, to) in touched(put, old_size) {
                before.extend(self.rows.extents(put.inode, from, to)?);
            }
        }
        let after = after(&before, put);
        if brings_inline {
            self.check_inline(put).map_err(|stop| stop.or(bad))?;
        }
        let (removed, inserted) = difference(&before, &after);
        let tags = tags(put, &before, &after, &removed, &inserted).map_err(bad)?;
        self.check_windows(index, put, &before, &tags)?;
        for extent in &removed {
            self.count(extent, -1)?;
        }
        let mut change = ExtentChange { inode: put.inode, removed: Vec::new(), inserted: Vec::new() };
        change.removed.extend(removed.iter().map(|extent| extent.offset));
        for extent in inserted {
            let inline = self.count(extent, 1)?;
            change.inserted.push((extent.clone(), inline));
        }
        if !change.removed.is_empty() || !change.inserted.is_empty() {
            plan.extents.push(change);
        }
        plan.tags.extend(tags.into_iter().map(|(window, tag)| (put.inode, window, tag)));
        Ok(())
    }

    /// Inline runs of a file, each counted once and whole, stay within their limit.
    fn check_inline(&mut self, put: &PutInode) -> Result<(), Inline<R::Error>> {
        let before = match put.expected_version {
            0 => Vec::new(),
            _ => self.rows.inline_extents(put.inode).map_err(Inline::Rows)?,
        };
        let mut counted = HashSet::new();
        let mut bytes = 0u64;
        for extent in after(&before, put) {
            let known = self.runs.get(&extent.run);
            if known.is_none_or(RunState::is_inline) && counted.insert(extent.run) {
                bytes = bytes.saturating_add(extent.run_length);
            }
        }
        if bytes > MAX_INLINE_FILE { Err(Inline::TooMuch(bytes)) } else { Ok(()) }
    }

    fn check_windows(
        &mut self,
        index: usize,
        put: &PutInode,
        before: &[Extent],
        tags: &[(u64, Option<WindowTag>)],
    ) -> Checked<R> {
        let old: HashSet<u64> = before.iter().map(window).collect();
        let fresh = tags.iter().filter(|(window, tag)| tag.is_some() && !old.contains(window)).count() as u64;
        if fresh == 0 {
            return Ok(());
        }
        let gone = tags.iter().filter(|(_, tag)| tag.is_none()).count() as u64;
        let windows = if put.expected_version > 0 { self.rows.windows(put.inode)? } else { 0 };
        if (windows + fresh).saturating_sub(gone) > MAX_WINDOWS as u64 {
            return Err(Stop::Refused(index, Refusal::BadExtents("too many windows".to_owned())));
        }
        Ok(())
    }

    /// The run, read once and, if the batch brings it, checked.
    fn run(&mut self, index: usize, id: RunId) -> Checked<R, &mut RunState<'a>> {
        if !self.runs.contains_key(&id) {
            let before = self.rows.run(id)?;
            let new = self.new.get(&id).copied();
            if let Some(new) = new {
                self.check_new(new, before.as_ref())?
                    .map_err(|what| Stop::Refused(index, Refusal::BadExtents(what)))?;
            }
            self.order.push(id);
            self.runs.insert(id, RunState { before, new, change: 0 });
        }
        Ok(self.runs.get_mut(&id).expect("inserted above"))
    }

    fn check_new(&mut self, new: &NewRun, before: Option<&RunRow>) -> Checked<R, Result<(), String>> {
        if let Some(row) = before {
            let same = row.length == new.length;
            return Ok(if same { Ok(()) } else { Err("run known with another length".to_owned()) });
        }
        let RunPlace::Segment { segment, offset, length } = new.place else { return Ok(Ok(())) };
        let stored = match self.segments.get(&segment) {
            Some(stored) => *stored,
            None => {
                let stored = self.rows.segment(segment)?;
                self.segments.insert(segment, stored);
                stored
            }
        };
        Ok(match (stored, offset.checked_add(length)) {
            (None, _) => Err(format!("unknown segment {segment:?}")),
            _ if length != run::ciphertext_len(new.length) => Err("length of the run's blocks".to_owned()),
            (Some(stored), Some(end)) if end <= stored => Ok(()),
            _ => Err("run beyond its segment".to_owned()),
        })
    }

    /// Counts an extent that comes or goes; tells whether its run is inline.
    fn count(&mut self, extent: &Extent, change: i64) -> Checked<R, bool> {
        let run = match self.runs.contains_key(&extent.run) {
            true => self.runs.get_mut(&extent.run).expect("asked just now"),
            // Not of this batch's own extents, so no refusal can come of it.
            false => self.run(0, extent.run)?,
        };
        run.change += change;
        let inline = run.is_inline();
        self.bytes = self.bytes.saturating_add(change.saturating_mul(i64::try_from(extent.length).unwrap_or(i64::MAX)));
        Ok(inline)
    }

    fn finish(mut self, plan: &mut Plan) {
        plan.bytes = self.bytes;
        let mut segments = HashMap::new();
        let mut order = Vec::new();
        let mut refer = |segment: SegmentId, change: i64| {
            *segments.entry(segment).or_insert_with(|| {
                order.push(segment);
                0
            }) += change;
        };
        for id in self.order {
            let Some(run) = self.runs.remove(&id) else { continue };
            let references = run.before.as_ref().map_or(0, |row| row.references).saturating_add_signed(run.change);
            let change = match (run.before, run.new) {
                (Some(_), _) if run.change == 0 => continue,
                (Some(row), _) if references == 0 => {
                    row.segments.iter().for_each(|segment| refer(*segment, -1));
                    RunChange::Removed
                }
                (Some(_), _) => RunChange::References(references),
                (None, Some(new)) if references > 0 => {
                    if let RunPlace::Segment { segment, .. } = new.place {
                        refer(segment, 1);
                    }
                    RunChange::New { length: new.length, place: new.place.clone(), references }
                }
                (None, _) => continue,
            };
            plan.runs.push((id, change));
        }
        let changed = order.into_iter().map(|segment| (segment, segments[&segment]));
        plan.segments.extend(changed.filter(|(_, change)| *change != 0));
    }
}

/// Why the inline limit could not be kept.
enum Inline<E> {
    Rows(E),
    TooMuch(u64),
}

impl<E> Inline<E> {
    fn or(self, bad: impl FnOnce(String) -> Stop<E>) -> Stop<E> {
        match self {
            Self::Rows(error) => Stop::Rows(error),
            Self::TooMuch(bytes) => bad(format!("{bytes} inline bytes")),
        }
    }
}

/// The stretches of a file, in whole windows, whose extents or tags a put may change: sorted, disjoint.
fn touched(put: &PutInode, old_size: u64) -> Vec<(u64, u64)> {
    let up = |offset: u64| offset.div_ceil(WINDOW) * WINDOW;
    let down = |offset: u64| offset / WINDOW * WINDOW;
    let ranges = put.ranges.iter().map(|range| (down(range.offset), up(range.offset + range.length)));
    let tags = put.tags.iter().map(|(window, _)| (window * WINDOW, (window + 1) * WINDOW));
    let cut = (put.size < old_size).then(|| (down(put.size), up(old_size)));
    let mut all: Vec<(u64, u64)> = ranges.chain(tags).chain(cut).collect();
    all.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(all.len());
    for (from, to) in all {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// `before` with the ranges of a put replaced and everything from its size on cut off.
fn after(before: &[Extent], put: &PutInode) -> Vec<Extent> {
    let mut after = extent::replace_ranges(before, &put.ranges);
    extent::truncate(&mut after, put.size);
    after
}

/// What is only in `before`, and what is only in `after`; both sorted.
fn difference<'e>(before: &'e [Extent], after: &'e [Extent]) -> (Vec<&'e Extent>, Vec<&'e Extent>) {
    let (mut removed, mut inserted) = (Vec::new(), Vec::new());
    let mut rest = after.iter().peekable();
    for old in before {
        while let Some(new) = rest.next_if(|new| new.offset < old.offset) {
            inserted.push(new);
        }
        match rest.next_if(|new| new.offset == old.offset) {
            Some(new) if new == old => {}
            Some(new) => {
                removed.push(old);
                inserted.push(new);
            }
            None => removed.push(old),
        }
    }
    inserted.extend(rest);
    (removed, inserted)
}

fn window(extent: &Extent) -> u64 {
    extent.offset / WINDOW
}

/// The tags to write: the given ones, which must be those of changed windows that hold extents, and `None` for changed windows
/// that hold none any more.
fn tags(
    put: &PutInode,
    before: &[Extent],
    after: &[Extent],
    removed: &[&Extent],
    inserted: &[&Extent],
) -> Result<Vec<(u64, Option<WindowTag>)>, String> {
    let had: HashSet<u64> = before.iter().map(window).collect();
    let holds: HashSet<u64> = after.iter().map(window).collect();
    let given: HashMap<u64, Option<WindowTag>> = put.tags.iter().copied().collect();
    for (window, tag) in &put.tags {
        if tag.is_some() != holds.contains(window) {
            return Err(format!("tag of window {window} and its extents do not agree"));
        }
    }
    let mut changed: Vec<u64> = removed.iter().chain(inserted).map(|extent| window(extent)).collect();
    changed.extend(given.keys().filter(|window| holds.contains(window) || had.contains(window)));
    changed.sort_unstable();
    changed.dedup();
    let tag = |window: u64| match given.get(&window) {
        Some(tag) => Ok((window, *tag)),
        None if holds.contains(&window) => Err(format!("window {window} changed without a new tag")),
        None => Ok((window, None)),
    };
    changed.into_iter().map(tag).collect()
}
