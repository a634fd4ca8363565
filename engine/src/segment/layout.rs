//! Where runs lie in segments: planning over lengths alone.
//!
//! A run of a block or more starts on a multiple of the share, so that its blocks coincide with shares and a small read
//! touches one node. Smaller runs are packed behind one another and into the gaps between the larger ones, so that the
//! small files of many directories share a segment. What no run covers is zeros.

use crate::content::BLOCK;
use crate::redundancy::MAX_SHARE;
use std::collections::BTreeSet;

/// Where a run lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the segment within the plan, from 0.
    pub segment: usize,
    /// Offset of the run's first byte within the segment.
    pub offset: u64,
}

/// A run that no segment can hold: empty, or longer than a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a run of {length} bytes does not fit a segment of {segment_size}")]
pub struct RunTooLong {
    length: u64,
    segment_size: u64,
}

/// Places runs of these ciphertext lengths (1..=`segment_size` bytes): the places in the order of `lengths`, and the
/// length of each segment. Places the long runs first, so that the short ones fill their gaps.
pub fn plan(segment_size: u64, lengths: &[u64]) -> Result<(Vec<Place>, Vec<u64>), RunTooLong> {
    let mut packer = Packer::new(segment_size);
    let mut places = vec![Place { segment: 0, offset: 0 }; lengths.len()];
    for long in [true, false] {
        for (place, &length) in places.iter_mut().zip(lengths).filter(|(_, length)| (**length >= BLOCK) == long) {
            *place = packer.place(length)?;
        }
    }
    Ok((places, packer.lengths))
}

/// Places runs one by one.
#[derive(Debug, Clone)]
pub struct Packer {
    segment_size: u64,
    /// Length of each segment so far. Long runs are only ever added to the last one.
    lengths: Vec<u64>,
    /// Free stretches (length, segment, offset): between the runs, and behind the last run of all segments but the last.
    gaps: BTreeSet<(u64, usize, u64)>,
}

impl Packer {
    /// Nothing placed yet. Segments hold at most `segment_size` bytes.
    pub fn new(segment_size: u64) -> Self {
        Self { segment_size, lengths: Vec::new(), gaps: BTreeSet::new() }
    }

    /// Places a run of `length` ciphertext bytes.
    pub fn place(&mut self, length: u64) -> Result<Place, RunTooLong> {
        if length == 0 || length > self.segment_size {
            return Err(RunTooLong { length, segment_size: self.segment_size });
        }
        if length >= BLOCK {
            return Ok(self.append(length, u64::from(MAX_SHARE)));
        }
        let smallest_that_fits = self.gaps.range((length, 0, 0)..).next().copied();
        Ok(match smallest_that_fits {
            Some(gap) => self.fill(gap, length),
            None => self.append(length, 1),
        })
    }

    /// Length of each segment begun so far.
    pub fn lengths(&self) -> &[u64] {
        &self.lengths
    }

    fn fill(&mut self, gap: (u64, usize, u64), length: u64) -> Place {
        let (free, segment, offset) = gap;
        self.gaps.remove(&gap);
        self.add_gap(segment, offset + length, free - length);
        self.lengths[segment] = self.lengths[segment].max(offset + length);
        Place { segment, offset }
    }

    fn append(&mut self, length: u64, alignment: u64) -> Place {
        if let Some(&end) = self.lengths.last() {
            let segment = self.lengths.len() - 1;
            let offset = end.next_multiple_of(alignment);
            if offset + length <= self.segment_size {
                self.add_gap(segment, end, offset - end);
                self.lengths[segment] = offset + length;
                return Place { segment, offset };
            }
        }
        if let Some(&end) = self.lengths.last() {
            self.add_gap(self.lengths.len() - 1, end, self.segment_size - end);
        }
        self.lengths.push(length);
        Place { segment: self.lengths.len() - 1, offset: 0 }
    }

    fn add_gap(&mut self, segment: usize, offset: u64, length: u64) {
        if length > 0 {
            self.gaps.insert((length, segment, offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_runs_start_on_shares_and_short_ones_fill_the_gaps() {
        let (places, lengths) = plan(256 << 10, &[100, 70_000, 65_536, 50_000, 200_000, 10_000]).unwrap();
        let at = |segment, offset| Place { segment, offset };
        assert_eq!(
            places,
            [at(0, 70_000), at(0, 0), at(0, 131_072), at(0, 70_100), at(1, 0), at(0, 120_100)],
            "the shortest gap that fits is taken first"
        );
        assert_eq!(lengths, [196_608, 200_000]);
    }

    #[test]
    fn refuses_what_fits_no_segment() {
        for length in [0, 65_537] {
            assert!(plan(65_536, &[1, length]).is_err(), "{length}");
        }
        assert_eq!(plan(65_536, &[]).unwrap(), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_or_leave_their_segment(
            size in 65_536u64..1_000_000,
            lengths in prop::collection::vec(prop_oneof![3 => 1u64..5_000, 1 => 1u64..65_536, 1 => 65_536u64..300_000], 0..200),
        ) {
            let lengths: Vec<u64> = lengths.into_iter().map(|length| length.min(size)).collect();
            let (places, segments) = plan(size, &lengths).unwrap();
            prop_assert_eq!(places.len(), lengths.len());
            let mut taken: Vec<_> = places.iter().zip(&lengths).map(|(p, l)| (p.segment, p.offset, p.offset + l)).collect();
            taken.sort_unstable();
            for pair in taken.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0 || pair[0].2 <= pair[1].1, "overlap: {pair:?}");
            }
            for (segment, length) in segments.iter().enumerate() {
                let last = taken.iter().filter(|t| t.0 == segment).map(|t| t.2).max();
                prop_assert_eq!(last, Some(*length), "a segment ends with its last run");
                prop_assert!(*length <= size);
            }
            for (place, length) in places.iter().zip(&lengths) {
                prop_assert!(*length < BLOCK || place.offset % u64::from(MAX_SHARE) == 0);
            }
        }

        #[test]
        fn short_runs_alone_leave_no_gap_worth_one(lengths in prop::collection::vec(1u64..5_000, 1..500)) {
            let (_, segments) = plan(65_536, &lengths).unwrap();
            let bytes: u64 = lengths.iter().sum();
            let (_, full) = segments.split_last().unwrap();
            prop_assert!(full.iter().all(|length| *length > 65_536 - 5_000), "{segments:?} for {bytes}");
        }
    }
}
