//! Segment files.

use super::{Error, MAX_SEGMENT, VERSION};
use crate::disk::{self, Disk, DiskFile};
use std::io;
use std::sync::Arc;
use strewn_engine::bucket::SegmentSource;
use strewn_engine::ids::SegmentId;

const DIRECTORY: &str = "sealed";
const MAGIC: [u8; 8] = *b"strewnE\0";
const TRAILER: u64 = 44;
/// Bytes read at a time to check a segment.
const READ_STEP: usize = 1 << 20;

/// A segment being written.
pub struct SegmentWriter {
    disk: Arc<dyn Disk>,
    segment: SegmentId,
    file: Arc<dyn DiskFile>,
    /// Checksum of the first `checked` bytes, as long as they are written in order.
    crc: u32,
    checked: u64,
    in_order: bool,
    end: u64,
}

/// A finished segment: immutable.
pub struct SealedSegment {
    file: Arc<dyn DiskFile>,
    length: u64,
}

impl SegmentWriter {
    pub(super) fn begin(disk: Arc<dyn Disk>, segment: SegmentId) -> Result<Self, Error> {
        let name = name(segment);
        disk::remove_if_there(&*disk, &name)?;
        let file = disk.create(&name)?;
        Ok(Self { disk, segment, file, crc: 0, checked: 0, in_order: true, end: 0 })
    }

    /// Writes ciphertext at an offset; what is never written reads as zeros. Ascending offsets are cheapest.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > MAX_SEGMENT {
            return Err(Error::TooLarge(end));
        }
        self.file.write_at(offset, &[bytes])?;
        self.end = self.end.max(end);
        self.in_order &= offset >= self.checked;
        if self.in_order {
            self.check_zeros(offset);
            self.crc = crc32c::crc32c_append(self.crc, bytes);
            self.checked = end;
        }
        Ok(())
    }

    /// Makes the segment durable at this length, which holds all that was written.
    pub fn finish(mut self, length: u64) -> Result<Arc<SealedSegment>, Error> {
        if length < self.end || length > MAX_SEGMENT {
            return Err(Error::TooLarge(length.max(self.end)));
        }
        if self.in_order {
            self.check_zeros(length);
        } else {
            self.file.set_len(length)?;
            self.crc = checksum(&*self.file, length)?;
        }
        let trailer = Trailer { segment: self.segment, length, crc: self.crc };
        self.file.write_at(length, &[&trailer.encode()])?;
        self.file.sync()?;
        self.disk.sync_dir(DIRECTORY)?;
        Ok(Arc::new(SealedSegment { file: self.file, length }))
    }

    /// Lets the checksum go on over a hole up to `offset`.
    fn check_zeros(&mut self, offset: u64) {
        const ZEROS: &[u8] = &[0; 4096];
        while self.checked < offset {
            let step = (offset - self.checked).min(ZEROS.len() as u64);
            self.crc = crc32c::crc32c_append(self.crc, &ZEROS[..step as usize]);
            self.checked += step;
        }
    }
}

impl SealedSegment {
    pub(super) fn open(disk: &dyn Disk, segment: SegmentId) -> Result<Self, Error> {
        let name = name(segment);
        let file = disk.open(&name).map_err(|error| Error::opening(&name, error))?;
        let corrupt = |reason| Error::Corrupt { name: name.clone(), reason };
        let trailer = read_trailer(&*file, segment)?.ok_or_else(|| corrupt("it is not finished"))?;
        if checksum(&*file, trailer.length)? != trailer.crc {
            return Err(corrupt("its checksum is wrong"));
        }
        Ok(Self { file, length: trailer.length })
    }
}

impl SegmentSource for SealedSegment {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(offset, buffer)
    }
}

struct Trailer {
    segment: SegmentId,
    length: u64,
    crc: u32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER as usize] {
        let mut bytes = [0; TRAILER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..40].copy_from_slice(self.segment.as_bytes());
        let crc = crc32c::crc32c(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8; TRAILER as usize]) -> Option<Self> {
        let crc = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
        let length = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
        let segment = SegmentId::try_from(&bytes[24..40]).ok()?;
        let trailer = Self { segment, length, crc };
        (trailer.encode() == *bytes).then_some(trailer)
    }
}

/// The trailer, if the file ends with one of this segment that fits.
fn read_trailer(file: &dyn DiskFile, segment: SegmentId) -> Result<Option<Trailer>, Error> {
    let Some(length) = file.length()?.checked_sub(TRAILER) else { return Ok(None) };
    let mut bytes = [0; TRAILER as usize];
    file.read_exact_at(length, &mut bytes)?;
    let fits = |trailer: &Trailer| trailer.segment == segment && trailer.length == length && length <= MAX_SEGMENT;
    Ok(Trailer::parse(&bytes).filter(fits))
}

fn checksum(file: &dyn DiskFile, length: u64) -> io::Result<u32> {
    let mut buffer = vec![0; READ_STEP.min(length as usize)];
    let mut crc = 0;
    let mut offset = 0;
    while offset < length {
        let step = (length - offset).min(buffer.len() as u64) as usize;
        file.read_exact_at(offset, &mut buffer[..step])?;
        crc = crc32c::crc32c_append(crc, &buffer[..step]);
        offset += step as u64;
    }
    Ok(crc)
}

/// Whole segments; others are removed.
pub(super) fn list(disk: &dyn Disk) -> Result<Vec<(SegmentId, u64)>, Error> {
    let mut whole = Vec::new();
    for listed in disk.list(DIRECTORY)? {
        let Ok(segment) = listed.name.parse::<SegmentId>() else { continue };
        let file = disk.open(&name(segment))?;
        match read_trailer(&*file, segment)? {
            Some(trailer) => whole.push((segment, trailer.length)),
            None => disk::remove_if_there(disk, &name(segment))?,
        }
    }
    Ok(whole)
}

/// Name of a segment on the disk.
pub(super) fn name(segment: SegmentId) -> String {
    format!("{DIRECTORY}/{segment}")
}
