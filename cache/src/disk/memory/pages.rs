//! Bytes of a file in pages that copies share; what is all zeros takes no room.

use rangemap::RangeSet;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

const PAGE: u64 = 4096;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

type Page = [u8; PAGE as usize];

/// The bytes of a file. Clones are cheap.
#[derive(Default, Clone)]
pub(super) struct Pages {
    length: u64,
    /// By number; one that is not there is all zeros. Bytes beyond `length` are zeros.
    pages: BTreeMap<u64, Arc<Page>>,
    /// What was written and not given back, zeros included: what it takes of a disk.
    taken: RangeSet<u64>,
}

impl Pages {
    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Fills the buffer from `offset`; gives how many bytes there were.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let length = (buffer.len() as u64).min(self.length.saturating_sub(offset)) as usize;
        for (number, within, done, step) in steps(offset, length) {
            let target = &mut buffer[done..done + step];
            match self.pages.get(&number) {
                Some(page) => target.copy_from_slice(&page[within..within + step]),
                None => target.fill(0),
            }
        }
        length
    }

    /// Writes, growing the file.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (number, within, done, step) in steps(offset, bytes.len()) {
            let part = &bytes[done..done + step];
            if self.pages.contains_key(&number) || !is_zero(part) {
                let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE as usize]));
                Arc::make_mut(page)[within..within + step].copy_from_slice(part);
            }
        }
        if !bytes.is_empty() {
            let end = offset + bytes.len() as u64;
            self.length = self.length.max(end);
            self.taken.insert(offset..end);
        }
    }

    /// Writes zeros, growing the file.
    pub(super) fn write_zeros(&mut self, range: Range<u64>) {
        self.resize(self.length.max(range.end));
        self.clear(range.start, range.end - range.start);
        self.taken.insert(range);
    }

    /// Bytes taken of a disk.
    pub(super) fn taken(&self) -> u64 {
        self.taken.iter().map(|range| range.end - range.start).sum()
    }

    /// Bytes that writing a range would take more.
    pub(super) fn missing(&self, range: Range<u64>) -> u64 {
        let known = self.taken.overlapping(&range).map(|part| part.end.min(range.end) - part.start.max(range.start));
        (range.end - range.start).saturating_sub(known.sum())
    }

    /// Makes a range zeros, up to the end of the file.
    pub(super) fn clear(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.length);
        if offset >= end {
            return;
        }
        self.taken.remove(offset..end);
        let touched: Vec<u64> =
            self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(number, _)| *number).collect();
        for number in touched {
            let start = number * PAGE;
            if offset <= start && start + PAGE <= end {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number) {
                let (from, to) = (offset.max(start) - start, end.min(start + PAGE) - start);
                Arc::make_mut(page)[from as usize..to as usize].fill(0);
            }
        }
    }

    /// Cuts or grows.
    pub(super) fn resize(&mut self, length: u64) {
        if length < self.length {
            self.clear(length, self.length - length);
            self.pages.split_off(&length.div_ceil(PAGE));
        }
        self.length = length;
    }

    /// Bytes of pages that are not all zeros.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.values().filter(|page| !is_zero(&page[..])).count() as u64 * PAGE
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        self.read(0, &mut bytes);
        bytes
    }
}

/// True if there are only zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Cuts a range at pages: page, offset in it, bytes before, bytes.
fn steps(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let step = (PAGE as usize - within).min(length - done);
        let result = (step > 0).then_some((at / PAGE, within, done, step));
        done += step;
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_hold_what_a_vector_holds(steps in proptest::collection::vec((0u8..3, 0u64..20_000, 0usize..9_000, any::<u8>()), 0..20)) {
            let (mut pages, mut plain) = (Pages::default(), Vec::new());
            for (what, offset, length, byte) in steps {
                let end = offset as usize + length;
                match what {
                    // Writing nothing changes nothing, wherever.
                    0 if length == 0 => pages.write(offset, &[]),
                    0 => {
                        pages.write(offset, &vec![byte % 4; length]);
                        plain.resize(plain.len().max(end), 0);
                        plain[offset as usize..end].fill(byte % 4);
                    }
                    1 => {
                        pages.clear(offset, length as u64);
                        let (from, to) = (plain.len().min(offset as usize), plain.len().min(end));
                        plain[from..to].fill(0);
                    }
                    _ => {
                        pages.resize(offset);
                        plain.resize(offset as usize, 0);
                    }
                }
                prop_assert_eq!(pages.len(), plain.len() as u64);
                prop_assert!(pages.to_vec() == plain);
            }
        }
    }
}
