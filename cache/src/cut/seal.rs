//! Encrypting what a cut took: new runs under fresh keys, packed into sealed segment files. Blocks; needs no network.

use super::freeze::{FrozenCut, FrozenInode, Source};
use crate::Error;
use crate::content::map::Fill;
use crate::sealed::SegmentWriter;
use crate::store::Store;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::bucket::{BucketSettings, Extent, MAX_INLINE, MAX_INLINE_FILE, NewRun, RangeChange, RunPlace};
use strewn_engine::content::{BLOCK, BLOCK_PLAIN, extent, run};
use strewn_engine::ids::SegmentId;
use strewn_engine::keys::InodeKeys;
use strewn_engine::secret::Key;
use strewn_engine::segment::Packer;

/// Ciphertext bytes collected before they are written to a segment file.
const WRITE_STEP: u64 = 16 * BLOCK;

/// The sealed data of a cut.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    /// New extents of each inode, in the order of the cut's inodes.
    pub(crate) changes: Vec<Vec<RangeChange>>,
    /// All new runs.
    pub(crate) runs: Vec<NewRun>,
    /// Sealed segment files.
    pub(crate) segments: Vec<Segment>,
}

/// A sealed segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) length: u64,
}

/// Seals the data of a cut. After an error no segment file of it is left.
pub(crate) fn seal(store: &Store, settings: &BucketSettings, frozen: &FrozenCut) -> Result<Sealed, Error> {
    let mut sealer = Sealer::new(store, settings);
    let changes = frozen.inodes.iter().map(|inode| sealer.inode(inode)).collect::<Result<Vec<_>, _>>();
    let sealed = changes.and_then(|changes| {
        let (runs, segments) = sealer.finish()?;
        Ok(Sealed { changes, runs, segments })
    });
    if sealed.is_err() {
        for id in sealer.segments.iter().map(|(id, _)| id).chain(&sealer.begun) {
            store.remove_segment(*id);
        }
    }
    sealed
}

struct Sealer<'a> {
    store: &'a Store,
    settings: &'a BucketSettings,
    packer: Packer,
    segments: Vec<(SegmentId, SegmentWriter)>,
    /// Segments that are being finished.
    begun: Vec<SegmentId>,
    runs: Vec<NewRun>,
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

impl<'a> Sealer<'a> {
    fn new(store: &'a Store, settings: &'a BucketSettings) -> Self {
        Self {
            store,
            settings,
            packer: Packer::new(settings.segment_size),
            segments: Vec::new(),
            begun: Vec::new(),
            runs: Vec::new(),
            plain: Vec::new(),
            cipher: Vec::new(),
        }
    }

    /// The new extents of one inode.
    fn inode(&mut self, inode: &FrozenInode) -> Result<Vec<RangeChange>, Error> {
        let keys = InodeKeys::new(&inode.key);
        let mut inlined = inode.inlined.unwrap_or(MAX_INLINE_FILE);
        let mut changes = Vec::with_capacity(inode.ranges.len());
        for (range, fill) in inode.ranges.iter() {
            let range = range.start..range.end.min(inode.attributes.size);
            if range.is_empty() {
                continue;
            }
            let mut change = RangeChange { offset: range.start, length: range.end - range.start, extents: Vec::new() };
            let parts = if *fill == Fill::Data { inode.parts(&range) } else { Vec::new() };
            for (part, origin) in parts {
                if let Some(origin) = origin {
                    change.extents.extend(extent::split_at_windows(&origin.extent(&part)));
                    continue;
                }
                for part in split(part, longest_run(self.settings.segment_size)) {
                    self.run(inode, &keys, part, &mut inlined, &mut change.extents)?;
                }
            }
            changes.push(change);
        }
        Ok(changes)
    }

    /// Seals one run and adds the extents that refer to it.
    fn run(
        &mut self,
        inode: &FrozenInode,
        keys: &InodeKeys,
        range: Range<u64>,
        inlined: &mut u64,
        extents: &mut Vec<Extent>,
    ) -> Result<(), Error> {
        let length = range.end - range.start;
        let key = draw_key()?;
        let cipher = run::RunCipher::new(self.settings.cipher, &key, length);
        let inline = length <= MAX_INLINE as u64 && *inlined + length <= MAX_INLINE_FILE;
        let place = if inline {
            *inlined += length;
            self.inline(inode, &cipher, &range)?
        } else {
            self.in_segment(inode, &cipher, &range)?
        };
        self.runs.push(NewRun { run: cipher.run(), length, place });
        let whole = Extent {
            offset: range.start,
            length,
            run: cipher.run(),
            run_length: length,
            run_offset: 0,
            cipher: self.settings.cipher,
            run_key: keys.seal_run_key(cipher.run(), &key),
        };
        extents.extend(extent::split_at_windows(&whole));
        Ok(())
    }

    fn inline(&mut self, inode: &FrozenInode, cipher: &run::RunCipher, range: &Range<u64>) -> Result<RunPlace, Error> {
        let plain = self.read(inode, range.clone())?;
        let mut block = vec![0; plain.len() + run::TAG];
        cipher.seal_block_into(0, plain, &mut block);
        Ok(RunPlace::Inline(Bytes::from(block)))
    }

    fn in_segment(
        &mut self,
        inode: &FrozenInode,
        cipher: &run::RunCipher,
        range: &Range<u64>,
    ) -> Result<RunPlace, Error> {
        let length = run::ciphertext_len(range.end - range.start);
        let place = self.packer.place(length).map_err(|error| Error::TooLarge(error.to_string()))?;
        while self.segments.len() <= place.segment {
            let id = SegmentId::from_bytes(draw()?);
            self.segments.push((id, self.store.begin_segment(id)?));
        }
        let segment = self.segments[place.segment].0;
        let mut cipher_bytes = std::mem::take(&mut self.cipher);
        let mut written = 0;
        for (step, part) in split(range.clone(), WRITE_STEP / BLOCK * BLOCK_PLAIN).enumerate() {
            let first = step as u64 * (WRITE_STEP / BLOCK);
            let plain = self.read(inode, part)?;
            cipher_bytes.clear();
            cipher_bytes.resize(plain.len() + run::TAG * plain.len().div_ceil(BLOCK_PLAIN as usize), 0);
            let blocks = plain.chunks(BLOCK_PLAIN as usize).zip(cipher_bytes.chunks_mut(BLOCK as usize));
            for (index, (block, sealed)) in blocks.enumerate() {
                cipher.seal_block_into(first + index as u64, block, sealed);
            }
            self.segments[place.segment].1.write_at(place.offset + written, &cipher_bytes)?;
            written += cipher_bytes.len() as u64;
        }
        self.cipher = cipher_bytes;
        Ok(RunPlace::Segment { segment, offset: place.offset, length })
    }

    /// Plaintext of a range.
    fn read(&mut self, inode: &FrozenInode, range: Range<u64>) -> Result<&[u8], Error> {
        let length = (range.end - range.start) as usize;
        match &inode.source {
            Source::Memory(bytes) => {
                let start = range.start as usize;
                let missing = || Error::Corrupt(String::from("frozen bytes of a small file are missing"));
                self.plain.clear();
                self.plain.extend_from_slice(bytes.get(start..start + length).ok_or_else(missing)?);
            }
            Source::File(unsealed) => {
                self.plain.resize(length, 0);
                self.store.read_data(inode.inode, unsealed.generation, range.start, &mut self.plain)?;
                unsealed.saved.lay_over(range.start, &mut self.plain);
            }
        }
        Ok(&self.plain)
    }

    /// Makes the segment files durable.
    fn finish(&mut self) -> Result<(Vec<NewRun>, Vec<Segment>), Error> {
        let mut segments = Vec::with_capacity(self.segments.len());
        let lengths = self.packer.lengths().to_vec();
        for ((id, writer), length) in self.segments.drain(..).zip(lengths) {
            self.begun.push(id);
            self.store.finish_segment(id, writer, length)?;
            segments.push(Segment { id, length });
        }
        Ok((std::mem::take(&mut self.runs), segments))
    }
}

/// Most plaintext bytes of a run whose ciphertext fills whole blocks of one segment.
fn longest_run(segment_size: u64) -> u64 {
    (segment_size / BLOCK * BLOCK_PLAIN).clamp(BLOCK_PLAIN, run::MAX_LENGTH)
}

/// Cuts a range into parts of at most `most` bytes.
fn split(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(most as usize).map(move |start| start..start.saturating_add(most).min(end))
}

/// Draws random bytes.
pub(crate) fn draw<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Disk(Arc::new(std::io::Error::other(error.to_string()))))?;
    Ok(bytes)
}

fn draw_key() -> Result<Key, Error> {
    draw().map(Key::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_split_without_gaps() {
        assert_eq!(split(5..25, 10).collect::<Vec<_>>(), [5..15, 15..25]);
        assert_eq!(split(0..0, 10).count(), 0);
    }

    #[test]
    fn the_longest_run_fits_its_segment() {
        for size in [64 << 10, 100_000, 1 << 20, 64 << 20] {
            assert!(run::ciphertext_len(longest_run(size)) <= size, "{size}");
        }
    }
}
