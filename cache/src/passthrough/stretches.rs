//! Which parts of a data file are not what they were: found by hashes of its stretches.

use crate::Error;
use crate::disk::read_full;
use std::fs::File;
use std::ops::Range;

/// Bytes of a stretch. What was stored into one byte of it goes to the network as so many.
const STRETCH: usize = 64 << 10;

/// What a data file was when it was last looked at: the hash of every stretch.
#[derive(Debug, Default)]
pub(super) struct Stretches(Vec<blake3::Hash>);

impl Stretches {
    /// What a file is now, and the ranges of it that differ. Blocks.
    pub(super) fn look(&self, file: &File) -> Result<(Self, Vec<Range<u64>>), Error> {
        let (mut now, mut changed) = (Vec::with_capacity(self.0.len()), Vec::<Range<u64>>::new());
        let mut buffer = vec![0; STRETCH];
        let mut at = 0;
        loop {
            let length = read_full(file, at, &mut buffer)?;
            if length == 0 {
                return Ok((Self(now), changed));
            }
            let hash = blake3::hash(&buffer[..length]);
            let range = at..at + length as u64;
            if self.0.get(now.len()) != Some(&hash) {
                match changed.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => changed.push(range.clone()),
                }
            }
            now.push(hash);
            at = range.end;
        }
    }
}

/// What of ranges of a file is not only zeros. Blocks.
pub(super) fn not_zero(file: &File, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, Error> {
    let mut found = Vec::new();
    let mut buffer = vec![0; STRETCH];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / STRETCH as u64 + 1) * STRETCH as u64);
            let length = read_full(file, at, &mut buffer[..(end - at) as usize])?;
            if buffer[..length].iter().any(|byte| *byte != 0) {
                found.push(at..end);
            }
            at = end;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn zeros_are_told_from_what_was_stored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.set_len(400_000).unwrap();
        assert!(not_zero(&file, &[10..100, 5_000..400_000]).unwrap().is_empty());
        file.write_all_at(&[1], 70_000).unwrap();
        file.write_all_at(&[1], 99).unwrap();
        assert_eq!(not_zero(&file, &[10..100, 5_000..400_000]).unwrap(), [10..100, 65_536..131_072]);
        assert!(not_zero(&file, &[10..99, 71_000..400_000]).unwrap().is_empty());
    }

    #[test]
    fn what_differs_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![1; 300_000]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let (first, changed) = Stretches::default().look(&file).unwrap();
        assert_eq!((changed.len(), &changed[0]), (1, &(0..300_000)), "nothing was known");
        let (second, changed) = first.look(&file).unwrap();
        assert_eq!(changed, []);
        file.write_all_at(&[2], 65_535).unwrap();
        file.write_all_at(&[2], 65_536).unwrap();
        file.write_all_at(&[2], 299_999).unwrap();
        let (third, changed) = second.look(&file).unwrap();
        assert_eq!(changed, [0..131_072, 262_144..300_000]);
        file.set_len(299_990).unwrap();
        let (_, changed) = third.look(&file).unwrap();
        assert_eq!((changed.len(), &changed[0]), (1, &(262_144..299_990)));
    }
}
