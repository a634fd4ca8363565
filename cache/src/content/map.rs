//! What is known of a file's bytes: which are here, which wait for the network, what the network has. Pure bookkeeping.
//!
//! A byte is, in this order: **dirty** (data here that no cut took yet, or a hole made here), **frozen** (the same, taken by a
//! cut whose extents are not known yet), **remote** (an extent of the network's, with what queued cuts change), else a hole.
//! `present` says for data of any of these that the backing holds it; dirty and frozen data is always present.

mod count;
mod parts;

pub(crate) use parts::Part;

use super::clones::{Clones, Held, Origin};
use super::saved::Saved;
use crate::cut::batch::{Base, Renewed};
use rangemap::{RangeMap, RangeSet};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use strewn_engine::bucket::{Extent, MAX_INLINE, WindowTag};
use strewn_engine::content::{WINDOW, extent, window};

/// Files up to this size are kept in memory instead of a data file.
pub(crate) const MAX_MEMORY: u64 = 64 * 1024;

/// Bytes of a stretch that is rewritten when it lies in more than [`STRETCH_EXTENTS`] extents. Divides a window.
const STRETCH: u64 = 4 << 20;
/// See [`STRETCH`].
const STRETCH_EXTENTS: usize = 64;

/// What a local change put into a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Bytes, in the backing.
    Data,
    /// Nothing.
    Hole,
}

/// Where the bytes that are here lie.
#[derive(Debug, Clone)]
pub(crate) enum Backing {
    /// In memory, from offset 0; shorter than the file if the rest is not here.
    Memory(Arc<Vec<u8>>),
    /// In the data file of this generation.
    File,
}

impl Backing {
    /// No bytes, in memory.
    pub(crate) fn nothing() -> Self {
        /// One for all: most files in memory have none there.
        static NOTHING: LazyLock<Arc<Vec<u8>>> = LazyLock::new(Arc::default);
        Self::Memory(NOTHING.clone())
    }
}

/// Ranges that a cut took and whose extents are not in `windows` yet.
#[derive(Debug, Clone)]
pub(crate) struct Frozen {
    /// The cut.
    pub(crate) cut: u64,
    /// What it took.
    pub(crate) ranges: Arc<Vec<(Range<u64>, Fill)>>,
    /// Where the data is still to be sealed from; `None` once it is in sealed files, and for what was in memory.
    pub(crate) unsealed: Option<Unsealed>,
}

/// A data file that a cut is to be sealed from.
#[derive(Debug, Clone)]
pub(crate) struct Unsealed {
    /// Which one.
    pub(crate) generation: u64,
    /// What of it was overwritten before.
    pub(crate) saved: Arc<Saved>,
}

/// The network's extents of one window, with what queued cuts change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    /// Sorted, not overlapping.
    pub(crate) extents: Vec<Extent>,
}

/// The content of a file.
#[derive(Debug)]
pub(crate) struct Content {
    /// Names the data file, if there is one.
    pub(crate) generation: u64,
    /// Where present bytes lie.
    pub(crate) backing: Backing,
    /// Valid bytes of the backing.
    pub(crate) present: RangeSet<u64>,
    /// Local changes since the last cut.
    pub(crate) dirty: RangeMap<u64, Fill>,
    /// Local changes in cuts without extents, oldest first.
    pub(crate) frozen: Vec<Frozen>,
    /// What of it was cloned, if anything.
    pub(crate) clones: Option<Box<Clones>>,
    /// Loaded windows.
    pub(crate) windows: BTreeMap<u64, Window>,
    /// Tags of all windows with extents, once known.
    pub(crate) tags: Option<BTreeMap<u64, WindowTag>>,
    /// True while the network (with the queued cuts) can have no extent of the file: nothing to load.
    pub(crate) local: bool,
    /// Somebody else replaced what changes here were made on: the windows have those alone, and what is not in them is
    /// no hole but lost.
    pub(crate) torn: bool,
    /// Plaintext bytes of inline runs the file may refer to; `None` if unknown.
    pub(crate) inlined: Option<u64>,
    /// Changes with every batch made of the file, which changes its extents.
    pub(crate) batches: u32,
    /// Counts changes made here, around and around.
    pub(crate) changes: u32,
    /// Journal position of the newest write whose bytes are in the data file alone.
    pub(crate) written: u64,
    /// Journal position up to which the data file is durable.
    pub(crate) synced: u64,
    /// The index may have a row about the data file: that present bytes are those of the content with this hash.
    pub(crate) kept: Option<[u8; 32]>,
    /// The index was asked for the bytes of this small file, since they left memory.
    pub(crate) recalled: bool,
    /// Ranges that are being fetched.
    pub(crate) fetching: RangeSet<u64>,
    /// Readers of the data file right now; it is not evicted meanwhile.
    pub(crate) readers: u16,
    /// How often the data file is lent to the kernel, which reads it by itself; it is not evicted meanwhile.
    pub(crate) lent: u8,
    /// Programs may change the data file by themselves.
    pub(crate) exposed: bool,
    /// Serialises whoever changes bytes of the backing; nothing before somebody does.
    pub(crate) guard: Option<Arc<tokio::sync::Mutex<()>>>,
    /// How it is being read.
    pub(crate) read_ahead: super::read_ahead::ReadAhead,
}

impl Content {
    /// An empty file that exists only here.
    pub(crate) fn new_local() -> Self {
        Self { local: true, inlined: Some(0), tags: Some(BTreeMap::new()), ..Self::new_remote() }
    }

    /// A file of the network's of which nothing is here.
    pub(crate) fn new_remote() -> Self {
        Self {
            generation: 0,
            backing: Backing::nothing(),
            present: RangeSet::new(),
            dirty: RangeMap::new(),
            frozen: Vec::new(),
            clones: None,
            windows: BTreeMap::new(),
            tags: None,
            local: false,
            torn: false,
            inlined: None,
            batches: 0,
            changes: 0,
            written: 0,
            synced: 0,
            kept: None,
            recalled: false,
            fetching: RangeSet::new(),
            readers: 0,
            lent: 0,
            exposed: false,
            guard: None,
            read_ahead: Default::default(),
        }
    }

    /// Dirty bytes of data.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty.iter().filter(|(_, fill)| **fill == Fill::Data).map(|(range, _)| range.end - range.start).sum()
    }

    /// Dirty bytes of data within a range.
    pub(crate) fn dirty_within(&self, range: &Range<u64>) -> u64 {
        self.dirty
            .overlapping(range)
            .filter(|(_, fill)| **fill == Fill::Data)
            .map(|(part, _)| part.end.min(range.end) - part.start.max(range.start))
            .sum()
    }

    /// Notes bytes written to the backing.
    pub(crate) fn wrote(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.change_clones(|clones| clones.forget_origins(&range));
        self.present.insert(range.clone());
        self.dirty.insert(range, Fill::Data);
    }

    /// Notes which runs have the bytes of dirty ranges.
    pub(crate) fn cloned(&mut self, origins: &[(Range<u64>, Origin)]) {
        for (range, origin) in origins {
            self.clones.get_or_insert_default().note(range.clone(), origin.clone());
        }
    }

    /// A cut takes what is dirty: the ranges whose bytes runs have, and which are held for it from here on.
    pub(crate) fn freeze_clones(&mut self, cut: u64, size: u64) -> Vec<(Range<u64>, Origin)> {
        let mut taken = Vec::new();
        self.change_clones(|clones| taken = clones.freeze(cut, size));
        taken
    }

    /// The network has a cut: nothing is held for it any more.
    pub(crate) fn clones_committed(&mut self, cut: u64) {
        self.change_clones(|clones| clones.committed(cut));
    }

    /// What is dirty is sealed like other bytes, and nothing is held: all that was on its way is dirty again.
    pub(crate) fn forget_clones(&mut self) {
        self.clones = None;
    }

    /// As found in the journal: bytes in the data file are held for a cut.
    pub(crate) fn hold(&mut self, held: Held) {
        self.clones.get_or_insert_default().hold(held.cut, held.ranges);
    }

    /// Bytes that are in no sealed file and not known to be on the network, though nothing of them is dirty.
    pub(crate) fn held(&self) -> &[Held] {
        self.clones.as_deref().map_or(&[], Clones::held)
    }

    fn change_clones(&mut self, change: impl FnOnce(&mut Clones)) {
        let Some(clones) = self.clones.as_deref_mut() else { return };
        change(clones);
        if clones.is_empty() {
            self.clones = None;
        }
    }

    /// Makes ranges dirty again, older ones first; what is dirty already is newer.
    pub(crate) fn thaw(&mut self, ranges: Vec<(Range<u64>, Fill)>, size: u64) {
        self.dirty = self.thawed(ranges, size);
    }

    /// What is dirty once these ranges are dirty again; see [`Self::thaw`]. What was cut off beyond the end stays cut off.
    pub(crate) fn thawed(&self, ranges: Vec<(Range<u64>, Fill)>, size: u64) -> RangeMap<u64, Fill> {
        let mut thawed = RangeMap::new();
        let newer = self.dirty.iter().map(|(range, fill)| (range.clone(), *fill));
        for (range, fill) in ranges.into_iter().chain(newer) {
            match fill {
                Fill::Hole if range.is_empty() => {}
                Fill::Hole => thawed.insert(range, Fill::Hole),
                Fill::Data => {
                    let range = range.start..range.end.min(size);
                    if range.is_empty() {
                        continue;
                    }
                    for part in self.present.overlapping(&range) {
                        thawed.insert(part.start.max(range.start)..part.end.min(range.end), Fill::Data);
                    }
                }
            }
        }
        thawed
    }

    /// Makes whole stretches dirty that are touched, lie in many extents and are here: the next cut puts them in one run.
    pub(crate) fn widen(&mut self, size: u64) {
        let touched: BTreeSet<u64> = self
            .dirty
            .iter()
            .flat_map(|(range, _)| range.start / STRETCH..range.end.min(size).div_ceil(STRETCH))
            .collect();
        for number in touched {
            let stretch = number * STRETCH..((number + 1) * STRETCH).min(size);
            let Some(window) = self.windows.get(&(stretch.start / WINDOW)) else { continue };
            if stretch.is_empty() || extent::intersecting(&window.extents, &stretch).len() <= STRETCH_EXTENTS {
                continue;
            }
            let parts = self.parts(stretch);
            if !parts.iter().all(|part| matches!(part, Part::Present(_) | Part::Hole(_))) {
                continue;
            }
            for part in parts {
                if let Part::Present(range) = part {
                    self.change_clones(|clones| clones.forget_origins(&range));
                    self.dirty.insert(range, Fill::Data);
                }
            }
        }
    }

    /// Bytes of a range are not to be believed any more: clean ones may be had again, and dirty ones are what is here.
    pub(crate) fn distrust(&mut self, range: Range<u64>) {
        self.change_clones(|clones| clones.forget_origins(&range));
        for part in self.clean(&range) {
            self.present.remove(part);
        }
    }

    /// The parts of a range in which nothing was changed here that no batch has.
    fn clean(&self, range: &Range<u64>) -> RangeSet<u64> {
        let mut clean = RangeSet::from_iter([range.clone()]);
        let local = self.dirty.overlapping(range).map(|(part, _)| part);
        for part in local.chain(self.frozen.iter().flat_map(|frozen| frozen.ranges.iter().map(|(part, _)| part))) {
            clean.remove(part.clone());
        }
        clean
    }

    /// The first window of a range with clean bytes whose extents are to be loaded before [`Self::clean_extents`] knows them.
    pub(crate) fn unloaded(&self, range: &Range<u64>) -> Option<u64> {
        if self.local || self.torn {
            return None;
        }
        let has_extents = |number: &u64| self.tags.as_ref().is_none_or(|tags| tags.contains_key(number));
        let wanted = self.clean(range).into_iter().flat_map(window::covering);
        wanted.filter(has_extents).find(|number| !self.windows.contains_key(number))
    }

    /// What the clean bytes of a range are on the network, as far as that is loaded: extents cut to the range.
    pub(crate) fn clean_extents(&self, range: &Range<u64>) -> Vec<Extent> {
        if self.local || self.torn {
            return Vec::new();
        }
        let cut = |part: Range<u64>| {
            let windows = window::covering(part.clone()).filter_map(|number| self.windows.get(&number));
            windows.flat_map(move |window| extent::cut(&window.extents, &part))
        };
        self.clean(range).into_iter().flat_map(cut).collect()
    }

    /// True if all of an extent's run is in the file, as one stretch, and clean.
    pub(crate) fn has_whole_run(&self, of: &Extent) -> bool {
        let Some(whole) = of.whole_run() else { return false };
        let mut at = whole.start;
        for extent in self.clean_extents(&whole) {
            if extent.offset != at || extent.run != of.run || extent.run_offset != at - whole.start {
                return false;
            }
            at = extent.end();
        }
        at == whole.end
    }

    /// Notes a hole made here. A file that no network knows needs no mark: what nothing covers is a hole.
    pub(crate) fn cleared(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.change_clones(|clones| clones.forget(&range));
        self.present.remove(range.clone());
        if self.local && self.frozen.is_empty() {
            self.dirty.remove(range);
        } else {
            self.dirty.insert(range, Fill::Hole);
        }
    }

    /// The parts of `range` which cuts are still to seal from this data file and that were not saved for them.
    pub(crate) fn sealing(&self, range: &Range<u64>) -> Vec<(Range<u64>, Arc<Saved>)> {
        let mut sealing = Vec::new();
        for frozen in &self.frozen {
            // A file that was begun anew has another one.
            let here = frozen.unsealed.as_ref().filter(|unsealed| unsealed.generation == self.generation);
            let Some(Unsealed { saved, .. }) = here else { continue };
            let first = frozen.ranges.partition_point(|(part, _)| part.end <= range.start);
            let parts = frozen.ranges[first..].iter().take_while(|(part, _)| part.start < range.end);
            for (part, _) in parts.filter(|(_, fill)| *fill == Fill::Data) {
                let missing = saved.missing(&(part.start.max(range.start)..part.end.min(range.end)));
                sealing.extend(missing.into_iter().map(|part| (part, saved.clone())));
            }
        }
        sealing
    }

    /// Takes in loaded windows.
    pub(crate) fn take_windows(&mut self, base: Base) {
        for (number, extents) in base.windows {
            if number == 0 && self.inlined.is_none() {
                self.inlined = Some(inline_bytes(&extents));
            }
            self.windows.insert(number, Window { extents });
        }
        (self.tags, self.torn) = (Some(base.tags), base.torn);
    }

    /// Extents are to be loaded anew; if the network does not have the file, there is nothing to load.
    pub(crate) fn forget_extents(&mut self, local: bool) {
        self.windows.clear();
        (self.tags, self.inlined, self.local) = match local {
            true => (Some(BTreeMap::new()), Some(0), true),
            false => (None, None, false),
        };
        self.torn = false;
        self.batches = self.batches.wrapping_add(1);
    }

    /// Takes in what a batch makes of the extents.
    pub(crate) fn take_batch(&mut self, cut: u64, renewed: &Renewed) {
        self.frozen.retain(|frozen| frozen.cut != cut);
        for (number, extents) in &renewed.windows {
            self.windows.insert(*number, Window { extents: extents.clone() });
        }
        self.windows.retain(|number, _| renewed.tags.contains_key(number));
        if let Some(extents) = renewed.windows.get(&0) {
            self.inlined = Some(inline_bytes(extents));
        }
        (self.tags, self.torn) = (Some(renewed.tags.clone()), renewed.torn);
        self.local = false;
        self.batches = self.batches.wrapping_add(1);
    }

    /// True if its bytes are in the data file of this generation.
    pub(crate) fn is_in_file(&self, generation: u64) -> bool {
        self.generation == generation && matches!(self.backing, Backing::File)
    }

    /// Whether somebody is changing bytes of the backing, or about to.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.try_lock().is_err())
    }

    /// Whether clean bytes may go: nothing of it is dirty, frozen, held, being fetched or read.
    pub(crate) fn is_evictable(&self) -> bool {
        self.held().is_empty()
            && self.dirty.is_empty()
            && self.frozen.is_empty()
            && self.readers == 0
            && self.lent == 0
            && self.fetching.is_empty()
    }
}

/// Most that inline runs among these extents may hold: each counts whole, and which are inline is not known.
fn inline_bytes(extents: &[Extent]) -> u64 {
    let small = extents.iter().filter(|extent| extent.run_length <= MAX_INLINE as u64);
    let runs: std::collections::HashMap<_, _> = small.map(|extent| (extent.run, extent.run_length)).collect();
    runs.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_holes_of_a_local_file() {
        let mut content = Content::new_local();
        content.wrote(10..20);
        content.wrote(20..30);
        content.cleared(15..18);
        assert_eq!(
            content.parts(0..40),
            [Part::Hole(0..10), Part::Present(10..15), Part::Hole(15..18), Part::Present(18..30), Part::Hole(30..40),]
        );
        assert_eq!(content.dirty_bytes(), 17);
        assert_eq!(content.dirty_within(&(14..19)), 2);
    }

    #[test]
    fn a_hole_hides_what_the_network_has() {
        let mut content = Content::new_remote();
        assert_eq!(content.parts(0..10), [Part::Unknown(0..10)]);
        content.tags = Some(BTreeMap::new());
        assert_eq!(content.parts(0..10), [Part::Hole(0..10)]);
        content.tags = None;
        content.cleared(2..4);
        assert_eq!(content.parts(0..10), [Part::Unknown(0..2), Part::Hole(2..4), Part::Unknown(4..10)]);
    }

    #[test]
    fn frozen_ranges_keep_their_meaning_until_their_extents_are_known() {
        let mut content = Content::new_remote();
        let saved = Arc::new(Saved::default());
        content.frozen.push(Frozen {
            cut: 1,
            ranges: Arc::new(vec![(0..5, Fill::Hole), (5..8, Fill::Data)]),
            unsealed: Some(Unsealed { generation: 0, saved: saved.clone() }),
        });
        content.present.insert(5..8);
        assert_eq!(content.parts(0..10), [Part::Hole(0..5), Part::Present(5..8), Part::Unknown(8..10)]);
        let sealing = |content: &Content, range: Range<u64>| -> Vec<(u64, u64)> {
            content.sealing(&range).into_iter().map(|(part, _)| (part.start, part.end)).collect()
        };
        assert_eq!(sealing(&content, 0..9), [(5, 8)]);
        assert_eq!(sealing(&content, 7..9), [(7, 8)]);
        assert_eq!([sealing(&content, 0..5), sealing(&content, 8..9)], [vec![], vec![]]);
        saved.put(6, bytes::Bytes::from_static(b"x"));
        assert_eq!(sealing(&content, 0..9), [(5, 6), (7, 8)]);
        content.generation = 1;
        assert_eq!(sealing(&content, 0..9), [], "it is in another data file");
    }
}
