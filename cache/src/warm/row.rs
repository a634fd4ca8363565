//! The row about a data file.

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};

/// Most ranges that are named; the rest is fetched again.
const MAX_RANGES: usize = 16_384;
const VERSION: u8 = 1;

/// What a data file holds.
///
/// ```text
/// version = 1 (1) | postcard: generation, content hash (32), size, synced, ranges as (start, length), each start counted
///                   from the end of the range before
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The data file.
    pub(crate) generation: u64,
    /// Hash over the window tags of the content that the bytes are of: equal hash, equal bytes.
    pub(crate) content: [u8; 32],
    /// Size of the file in bytes.
    pub(crate) size: u64,
    /// The bytes were durable.
    pub(crate) synced: bool,
    /// Where the bytes are; within the size.
    pub(crate) ranges: RangeSet<u64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    generation: u64,
    content: [u8; 32],
    size: u64,
    synced: bool,
    ranges: Vec<(u64, u64)>,
}

impl Row {
    /// Encodes it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut ranges = Vec::new();
        let mut at = 0;
        for range in self.ranges.iter().take(MAX_RANGES) {
            ranges.push((range.start - at, range.end - range.start));
            at = range.end;
        }
        let Self { generation, content, size, synced, .. } = *self;
        let stored = Stored { generation, content, size, synced, ranges };
        postcard::to_extend(&stored, vec![VERSION]).expect("plain data always encodes into memory")
    }

    /// Decodes it; `None` if it is none of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, body) = bytes.split_first()? else { return None };
        let (Stored { generation, content, size, synced, ranges: stored }, []) =
            postcard::take_from_bytes(body).ok()?
        else {
            return None;
        };
        let mut ranges = RangeSet::new();
        let mut at = 0u64;
        for (gap, length) in stored {
            let start = at.checked_add(gap)?;
            at = start.checked_add(length).filter(|end| *end <= size && *end > start)?;
            ranges.insert(start..at);
        }
        Some(Self { generation, content, size, synced, ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Row {
        Row {
            generation: 0x0123_4567_89ab_cdef,
            content: [7; 32],
            size: 300_000,
            synced: true,
            ranges: [0..65_520, 131_040..300_000].into_iter().collect(),
        }
    }

    /// Written by the first release that kept rows; must stay readable.
    const OLD: &str = include_str!("../../tests/data/ranges-v1.hex");

    #[test]
    fn reads_the_bytes_of_the_first_release() {
        let bytes = data_encoding::HEXLOWER.decode(OLD.trim().as_bytes()).expect("hexadecimal");
        assert_eq!(Row::decode(&bytes), Some(sample()));
        assert_eq!(sample().encode(), bytes);
    }

    #[test]
    fn refuses_what_is_no_row() {
        let good = sample().encode();
        assert_eq!(Row::decode(&[]), None);
        assert_eq!(Row::decode(&[&[9], &good[1..]].concat()), None);
        assert_eq!(Row::decode(&[&good[..], &[0]].concat()), None);
        let beyond = Row { size: 299_999, ..sample() };
        assert_eq!(Row::decode(&beyond.encode()), None);
    }

    #[test]
    fn names_a_bounded_number_of_ranges() {
        let ranges = (0..2 * MAX_RANGES as u64).map(|i| 10 * i..10 * i + 5).collect();
        let row = Row { size: 1 << 30, ranges, ..sample() };
        let found = Row::decode(&row.encode()).expect("a row");
        assert_eq!(found.ranges.len(), MAX_RANGES);
        assert!(found.ranges.iter().all(|range| row.ranges.gaps(range).next().is_none()));
    }

    proptest! {
        #[test]
        fn never_panics_on_outside_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Row::decode(&bytes);
            bytes.insert(0, VERSION);
            if let Some(row) = Row::decode(&bytes) {
                prop_assert!(row.ranges.last().is_none_or(|range| range.end <= row.size));
            }
        }
    }
}
