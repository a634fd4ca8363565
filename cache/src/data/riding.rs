//! Which small writes of a larger file ride in their records. An fsync after a few then syncs the journal alone; of many in
//! sequence it is quicker to sync the data file, which they go to anyway, than to write all of them twice. Pure.

use std::ops::Range;

/// Most bytes of a write that ride in its record.
const MOST_AT_ONCE: u64 = 32 * 1024;
/// Most bytes in sequence that do, between two syncs.
const MOST_IN_SEQUENCE: u64 = 1 << 20;

/// What was written to one file in sequence since it was synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Riding {
    end: u64,
    bytes: u64,
}

impl Riding {
    /// Notes a write; true if its bytes are to ride in its record.
    pub(super) fn wrote(&mut self, range: &Range<u64>) -> bool {
        let length = range.end - range.start;
        let before = if range.start == self.end { self.bytes } else { 0 };
        *self = Self { end: range.end, bytes: before + length };
        length <= MOST_AT_ONCE && self.bytes <= MOST_IN_SEQUENCE
    }

    /// The file was synced.
    pub(super) fn synced(&mut self) {
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_of_small_writes_rides_only_at_first() {
        let mut riding = Riding::default();
        let rode = (0..1_000).filter(|i| riding.wrote(&(i * 10_000..(i + 1) * 10_000))).count() as u64;
        assert_eq!(rode, MOST_IN_SEQUENCE / 10_000);
        riding.synced();
        assert!(riding.wrote(&(10_000_000..10_010_000)), "the run begins anew");
    }

    #[test]
    fn small_writes_here_and_there_ride_and_large_ones_never_do() {
        let mut riding = Riding::default();
        assert!((0..10_000).all(|i| riding.wrote(&(i * 9_000..i * 9_000 + 4_096))));
        assert!(!riding.wrote(&(0..MOST_AT_ONCE + 1)));
        assert!(riding.wrote(&(0..MOST_AT_ONCE)));
    }
}
