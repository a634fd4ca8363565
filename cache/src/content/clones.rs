//! Clones: what was copied from a place that the network has is not sealed and uploaded a second time.
//!
//! A copy is written like any other bytes: into the data file, journaled, dirty. What makes it a clone is that its **origin** is
//! known: the part of a run that holds the same bytes. A run never changes, so an origin stays true whatever becomes of the
//! file it was found in; but it is a hint, and may be forgotten at any time.
//!
//! - **Committed** is an extent that refers to the run, with the run's key sealed under the key of this file. The cut that takes
//!   dirty bytes with an origin makes it, and seals nothing of them.
//! - **Refused**: whether the run is still there, and whether the grant may refer to it, only the network knows when it applies the
//!   batch: another mount may have removed the last file that referred to it. Then the cuts are taken apart as after any
//!   refusal, origins are forgotten, and the bytes go up like others.
//! - So until the network has the batch the bytes are **held**: the data file is not evicted, since no sealed file has them. What is
//!   cut off is held no more. What is written over them still is: if a power cut takes that write back, there has to be something.
//! - **Recorded** are the bytes, as for every write; origins are not. After a restart what no batch has taken goes up like other
//!   bytes. What a batch holds is journaled with it ([`Mutation::Held`](crate::record::Mutation::Held)), once the data file is
//!   durable. If the network does not have that batch at the next opening, what it holds is written again, and goes up after
//!   it: a data file that outlived a crash may have newer bytes than the run, of a write that was lost.
//!
//! A run's key opens all of the run, and goes to whoever is given the file. So another file's run is cloned **as a whole** or
//! not at all: only if the file has all of it and all of it is being copied ([`Clones::completes`]). Nobody comes to read what
//! was never copied, or was overwritten before. Within one file any part may be cloned.
//!
//! Bytes that are not here are fetched before they are copied, and never cloned unseen: until the batch is there nothing but
//! the bytes here would keep what was promised, if another mount removes their file.

use rangemap::{RangeMap, RangeSet};
use std::ops::Range;
use strewn_engine::bucket::{Cipher, Extent, MAX_INLINE, MAX_OFFSET, Sealed};
use strewn_engine::ids::RunId;
use strewn_engine::keys::InodeKeys;

/// Shorter stretches are sealed anew: a file must not come to lie in too many extents, nor keep whole runs for little.
pub(crate) const SHORTEST: u64 = 64 << 10;

/// The run that bytes of a file are equal to a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    run: RunId,
    run_length: u64,
    cipher: Cipher,
    /// Under the key of the file that the bytes were copied into.
    run_key: Sealed,
    /// Offset in the run less offset in the file, modulo 2^64.
    shift: u64,
}

impl Origin {
    /// Of what was copied from an extent at `from` of one file to `to` of another. `None` for what is better sealed anew.
    pub(crate) fn new((extent, keys): (&Extent, &InodeKeys), from: u64, (to, into): (u64, &InodeKeys)) -> Option<Self> {
        // It may be inline, which a file may have little of.
        if extent.run_length <= MAX_INLINE as u64 {
            return None;
        }
        let key = keys.open_run_key(extent).ok()?;
        let shift = extent.run_offset.wrapping_sub(extent.offset).wrapping_add(from).wrapping_sub(to);
        let run_key = into.seal_run_key(extent.run, &key);
        Some(Self { run: extent.run, run_length: extent.run_length, cipher: extent.cipher, run_key, shift })
    }

    /// Where the whole run would lie in the file; `None` if that is not within a file.
    pub(crate) fn whole(&self) -> Option<Range<u64>> {
        let start = 0u64.wrapping_sub(self.shift);
        let end = start.checked_add(self.run_length).filter(|end| *end <= MAX_OFFSET)?;
        Some(start..end)
    }

    /// A range of the file as a part of the run.
    pub(crate) fn extent(&self, range: &Range<u64>) -> Extent {
        Extent {
            offset: range.start,
            length: range.end - range.start,
            run: self.run,
            run_length: self.run_length,
            run_offset: range.start.wrapping_add(self.shift),
            cipher: self.cipher,
            run_key: self.run_key.clone(),
        }
    }
}

/// Bytes of a batch on its way that are nowhere else on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The cut it is of.
    pub(crate) cut: u64,
    /// Those that were not cut off since.
    pub(crate) ranges: RangeSet<u64>,
}

/// What of a file was cloned.
#[derive(Debug, Default)]
pub(crate) struct Clones {
    /// Of dirty bytes.
    origins: RangeMap<u64, Origin>,
    /// By cut.
    held: Vec<Held>,
    /// The stretch that was copied last, as long as more of its run is to come.
    last: Option<(Range<u64>, Origin)>,
}

impl Clones {
    /// True if there is nothing to know.
    pub(crate) fn is_empty(&self) -> bool {
        self.origins.is_empty() && self.held.is_empty() && self.last.is_none()
    }

    /// True if all of a run comes to be in the file, of which there are `asked` bytes still to be copied: what lies before them
    /// was copied just now.
    pub(crate) fn completes(&self, origin: &Origin, asked: &Range<u64>) -> bool {
        let Some(whole) = origin.whole() else { return false };
        let copied = self.last.as_ref().filter(|(range, last)| last == origin && range.end == asked.start);
        let from = copied.map_or(asked.start, |(range, _)| range.start);
        from <= whole.start && whole.end <= asked.end
    }

    /// Notes where dirty bytes came from.
    pub(crate) fn note(&mut self, range: Range<u64>, origin: Origin) {
        let before = self.last.take().filter(|(before, last)| *last == origin && before.end == range.start);
        let copied = before.map_or(range.start, |(before, _)| before.start)..range.end;
        if origin.whole().is_some_and(|whole| range.end < whole.end) {
            self.last = Some((copied, origin.clone()));
        }
        self.origins.insert(range, origin);
    }

    /// A range is a hole now.
    pub(crate) fn forget(&mut self, range: &Range<u64>) {
        self.origins.remove(range.clone());
        self.held.iter_mut().for_each(|held| held.ranges.remove(range.clone()));
        self.held.retain(|held| !held.ranges.is_empty());
    }

    /// A range has other bytes now, or is to be sealed anew.
    pub(crate) fn forget_origins(&mut self, range: &Range<u64>) {
        self.origins.remove(range.clone());
    }

    /// A cut takes the dirty bytes of a file of this size: those it need not seal, by offset.
    pub(crate) fn freeze(&mut self, cut: u64, size: u64) -> Vec<(Range<u64>, Origin)> {
        let within = |(range, origin): (Range<u64>, Origin)| (range.start..range.end.min(size), origin);
        let long = |(range, _): &(Range<u64>, Origin)| range.end >= range.start.saturating_add(SHORTEST);
        let taken: Vec<_> = std::mem::take(&mut self.origins).into_iter().map(within).filter(long).collect();
        self.hold(cut, taken.iter().map(|(range, _)| range.clone()).collect());
        taken
    }

    /// Bytes are to stay until the network has the cut.
    pub(crate) fn hold(&mut self, cut: u64, ranges: RangeSet<u64>) {
        if !ranges.is_empty() {
            self.held.push(Held { cut, ranges });
        }
    }

    /// The network has the cut, and all before.
    pub(crate) fn committed(&mut self, cut: u64) {
        self.held.retain(|held| held.cut > cut);
    }

    /// What is held.
    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strewn_engine::secret::Key;

    fn origin(from: u64, to: u64) -> Option<Origin> {
        let (source, target) = (InodeKeys::new(&Key::from_bytes([1; 32])), InodeKeys::new(&Key::from_bytes([2; 32])));
        let key = Key::from_bytes([3; 32]);
        let run = strewn_engine::content::run::run_id(&key);
        let extent = Extent {
            offset: 1_000_000,
            length: 500_000,
            run,
            run_length: 700_000,
            run_offset: 150_000,
            cipher: Cipher::Aes256Gcm,
            run_key: source.seal_run_key(run, &key),
        };
        let origin = Origin::new((&extent, &source), from, (to, &target))?;
        let cloned = origin.extent(&(to..to + 10));
        assert!(target.open_run_key(&cloned).is_ok_and(|opened| opened == key), "sealed for the other file");
        Some(origin)
    }

    #[test]
    fn an_origin_says_which_part_of_the_run_it_is() {
        for to in [0, 7, 1_000_003, 1 << 40] {
            let extent = origin(1_000_003, to).unwrap().extent(&(to + 5..to + 25));
            assert_eq!((extent.offset, extent.length, extent.run_offset), (to + 5, 20, 150_008));
        }
        assert_eq!(origin(1_000_003, 50), origin(1_000_103, 150), "steps of one copy are one stretch");
    }

    #[test]
    fn a_run_is_cloned_only_if_all_of_it_is_copied() {
        // The run lies at 850,000..1,550,000 of the file it is copied from, and at 100..700,100 of the other.
        let origin = origin(1_000_000, 150_100).unwrap();
        assert_eq!(origin.whole(), Some(100..700_100));
        let mut clones = Clones::default();
        let completes = |clones: &Clones, asked: Range<u64>| clones.completes(&origin, &asked);
        assert!(completes(&clones, 0..700_100) && completes(&clones, 100..u64::MAX));
        assert!(!completes(&clones, 101..u64::MAX) && !completes(&clones, 0..700_099));
        clones.note(100..300, origin.clone());
        clones.note(300..400, origin.clone());
        assert!(completes(&clones, 400..800_000) && !completes(&clones, 401..800_000));
        clones.freeze(1, u64::MAX);
        assert!(completes(&clones, 400..800_000), "whatever cuts take meanwhile");
        clones.note(400..700_100, origin.clone());
        clones.freeze(2, u64::MAX);
        clones.committed(2);
        assert!(clones.is_empty(), "nothing more is to come");
        assert_eq!(self::origin(1_000_000, 0).unwrap().whole(), None, "it would begin before the file");
    }

    #[test]
    fn only_long_stretches_are_cloned_and_held_until_the_network_has_them() {
        let mut clones = Clones::default();
        let origin = origin(1_000_000, 0).unwrap();
        clones.note(0..SHORTEST, origin.clone());
        clones.note(SHORTEST..2 * SHORTEST, origin.clone());
        clones.note(3 * SHORTEST..4 * SHORTEST, origin.clone());
        clones.forget_origins(&(SHORTEST / 2..SHORTEST));
        // The first half is too short, and of the last one the end is cut off.
        let taken = clones.freeze(4, 4 * SHORTEST - 1);
        assert_eq!(taken, [(SHORTEST..2 * SHORTEST, origin.clone())]);
        clones.note(8 * SHORTEST..9 * SHORTEST, origin);
        assert_eq!(clones.freeze(5, u64::MAX).len(), 1);
        clones.forget_origins(&(SHORTEST..2 * SHORTEST));
        clones.forget(&(SHORTEST..SHORTEST + 1));
        let held: Vec<_> = clones.held().iter().map(|held| (held.cut, held.ranges.first().cloned().unwrap())).collect();
        assert_eq!(held, [(4, SHORTEST + 1..2 * SHORTEST), (5, 8 * SHORTEST..9 * SHORTEST)]);
        clones.committed(4);
        assert_eq!(clones.held().len(), 1);
        clones.forget(&(0..u64::MAX));
        assert!(clones.is_empty());
    }
}
