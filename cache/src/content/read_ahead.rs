//! How far to fetch ahead of a reader: nothing for random reads, more the longer a reader goes on in sequence. Pure.

/// The first stretch fetched ahead in bytes.
const FIRST: u64 = 256 * 1024;

/// Reads may start this far from where the last one ended and still count as in sequence: kernels reorder a little.
const SLACK: u64 = 256 * 1024;

/// What is known of how one file is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReadAhead {
    /// Where the last read ended.
    next: u64,
    /// Bytes to fetch ahead; 0 after a jump.
    ahead: u64,
    /// Up to where fetching has been asked for.
    asked: u64,
}

impl ReadAhead {
    /// Notes a read of `offset..end`; gives the range to fetch beyond it, if any, at most `most` bytes ahead.
    pub(crate) fn read(&mut self, offset: u64, end: u64, most: u64) -> Option<std::ops::Range<u64>> {
        let in_sequence = offset <= self.next.saturating_add(SLACK) && end.saturating_add(SLACK) >= self.next;
        if !in_sequence {
            *self = Self { next: end, ahead: 0, asked: end };
            return None;
        }
        self.next = self.next.max(end);
        self.ahead = (self.ahead * 2).clamp(FIRST.min(most), most);
        let until = self.next.saturating_add(self.ahead);
        let from = self.asked.max(self.next);
        // Half used up before more is asked for, so that requests stay large.
        if until <= from || until - from < self.ahead / 2 {
            return None;
        }
        self.asked = until;
        Some(from..until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_asks_for_more_and_more_without_gaps_or_repeats() {
        let mut policy = ReadAhead::default();
        let (mut at, mut asked) = (0, 0);
        let most = 4 << 20;
        for _ in 0..200 {
            let end = at + 128 * 1024;
            if let Some(range) = policy.read(at, end, most) {
                assert_eq!(range.start, asked.max(end));
                asked = range.end;
            }
            assert!(asked <= end + most);
            at = end;
        }
        assert!(asked >= at + most / 2, "a long sequence is fetched far ahead");
    }

    #[test]
    fn jumps_ask_for_nothing() {
        let mut policy = ReadAhead::default();
        policy.read(0, 4096, 1 << 20);
        for offset in [10 << 20, 500 << 20, 90 << 20] {
            assert_eq!(policy.read(offset, offset + 4096, 1 << 20), None);
        }
        assert!(policy.read(90 << 20 | 4096, 90 << 20 | 8192, 1 << 20).is_some());
    }

    #[test]
    fn no_budget_means_no_fetching() {
        assert_eq!(ReadAhead::default().read(0, 4096, 0), None);
    }
}
