//! Bytes of journal and snapshot files: headers, checksums, and reading them in order.

use super::{BootId, Error, MAX_PAYLOAD};
use crate::disk::DiskFile;
use std::io;
use std::sync::Arc;

pub(super) const VERSION: u32 = 1;
pub(super) const FILE_HEADER: u64 = 64;
pub(super) const RECORD_HEADER: u64 = 32;
/// Records start at multiples of this.
pub(super) const ALIGN: u64 = 8;

const MAGIC_JOURNAL: [u8; 8] = *b"strewnJ\0";
const MAGIC_SNAPSHOT: [u8; 8] = *b"strewnS\0";
/// Bytes fetched at a time when a file is read through.
const READ_STEP: usize = 1 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Journal,
    Snapshot,
}

/// The first [`FILE_HEADER`] bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) kind: FileKind,
    pub(super) number: u64,
    /// Journal: its first record is `base + 1`. Snapshot: the state after record `base`.
    pub(super) base: u64,
    pub(super) boot: BootId,
}

/// What the first bytes of a file turned out to be.
pub(super) enum ParsedHeader {
    Valid(FileHeader),
    /// All zeros: made, never begun.
    Blank,
    Invalid,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER as usize] {
        let mut bytes = [0; FILE_HEADER as usize];
        bytes[..8].copy_from_slice(match self.kind {
            FileKind::Journal => &MAGIC_JOURNAL,
            FileKind::Snapshot => &MAGIC_SNAPSHOT,
        });
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.base.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.boot.0);
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Fails only for a valid header of another version.
    pub(super) fn parse(bytes: &[u8; FILE_HEADER as usize], number: u64) -> Result<ParsedHeader, Error> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(ParsedHeader::Blank);
        }
        let kind = match &bytes[..8] {
            magic if magic == MAGIC_JOURNAL => FileKind::Journal,
            magic if magic == MAGIC_SNAPSHOT => FileKind::Snapshot,
            _ => return Ok(ParsedHeader::Invalid),
        };
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Ok(ParsedHeader::Invalid);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(Error::Version { file: number, version });
        }
        if u64_at(bytes, 16) != number {
            return Ok(ParsedHeader::Invalid);
        }
        let mut boot = [0; 16];
        boot.copy_from_slice(&bytes[32..48]);
        Ok(ParsedHeader::Valid(FileHeader { kind, number, base: u64_at(bytes, 24), boot: BootId(boot) }))
    }
}

/// What a record is; the value is its mark in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Mark {
    Change = 0x4752_4843,       // "CHRG"
    SnapshotPart = 0x5452_5053, // "SPRT"
    SnapshotEnd = 0x444e_4553,  // "SEND"
}

impl Mark {
    fn parse(value: u32) -> Option<Self> {
        [Self::Change, Self::SnapshotPart, Self::SnapshotEnd].into_iter().find(|&mark| mark as u32 == value)
    }
}

/// The [`RECORD_HEADER`] bytes before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) mark: Mark,
    /// Payload bytes.
    pub(super) length: u32,
    pub(super) sequence: u64,
    /// Every change up to this one was durable when the record was written.
    pub(super) synced: u64,
    pub(super) payload_crc: u32,
}

impl RecordHeader {
    pub(super) fn encode(&self, file: u64) -> [u8; RECORD_HEADER as usize] {
        let mut bytes = [0; RECORD_HEADER as usize];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.mark as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.synced.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = header_crc(file, &bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8], file: u64) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER as usize] = bytes.try_into().ok()?;
        let mark = Mark::parse(u32_at(bytes, 4))?;
        let length = u32_at(bytes, 0);
        let intact = u32_at(bytes, 28) == header_crc(file, &bytes[..28]) && length as usize <= MAX_PAYLOAD;
        intact.then(|| Self {
            mark,
            length,
            sequence: u64_at(bytes, 8),
            synced: u64_at(bytes, 16),
            payload_crc: u32_at(bytes, 24),
        })
    }
}

/// The file number goes into the checksum, so that a record counts only in the file it was written to.
fn header_crc(file: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file.to_le_bytes()), bytes)
}

/// CRC32C of payload parts.
pub(super) fn payload_crc(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

/// Bytes that a record with this payload takes in the file.
pub(super) fn record_length(payload: u32) -> u64 {
    (RECORD_HEADER + u64::from(payload)).next_multiple_of(ALIGN)
}

/// Zeros after the payload up to the next record.
pub(super) fn padding(payload: u32) -> &'static [u8] {
    let used = RECORD_HEADER + u64::from(payload);
    &[0; ALIGN as usize][..(used.next_multiple_of(ALIGN) - used) as usize]
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads a file through from front to back with few large reads.
pub(super) struct Reader {
    file: Arc<dyn DiskFile>,
    number: u64,
    buffer: Vec<u8>,
    /// File offset of `buffer[0]`.
    start: u64,
    offset: u64,
}

impl Reader {
    pub(super) fn new(file: Arc<dyn DiskFile>, number: u64, offset: u64) -> Self {
        Self { file, number, buffer: Vec::new(), start: offset, offset }
    }

    /// Where the next record begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The record here if it is whole: its header and payload. `None` if not, without moving.
    pub(super) fn next(&mut self) -> io::Result<Option<(RecordHeader, &[u8])>> {
        let number = self.number;
        let Some(header) = self.peek(0, RECORD_HEADER)?.and_then(|bytes| RecordHeader::parse(bytes, number)) else {
            return Ok(None);
        };
        match self.peek(RECORD_HEADER, u64::from(header.length))? {
            Some(payload) if crc32c::crc32c(payload) == header.payload_crc => {}
            _ => return Ok(None),
        }
        let payload = (self.offset - self.start + RECORD_HEADER) as usize;
        self.offset += record_length(header.length);
        Ok(Some((header, &self.buffer[payload..payload + header.length as usize])))
    }

    /// Looks through the rest of the file for headers of changes, wherever they are, and calls `found` with their
    /// offset. What cannot be told by length any more is found by its mark and checksum.
    pub(super) fn scan(&mut self, mut found: impl FnMut(u64, RecordHeader)) -> io::Result<()> {
        let mark = (Mark::Change as u32).to_le_bytes();
        let number = self.number;
        while let Some(bytes) = self.peek(0, RECORD_HEADER)? {
            if bytes[4..8] == mark
                && let Some(header) = RecordHeader::parse(bytes, number)
            {
                found(self.offset, header);
            }
            self.offset += ALIGN;
        }
        Ok(())
    }

    /// `length` bytes from `ahead` bytes after the current offset; `None` if the file ends before.
    fn peek(&mut self, ahead: u64, length: u64) -> io::Result<Option<&[u8]>> {
        let from = self.offset + ahead;
        let loaded = self.start + self.buffer.len() as u64;
        if from + length > loaded {
            self.load((ahead + length) as usize)?;
        }
        let at = (from - self.start) as usize;
        Ok(self.buffer.get(at..at + length as usize))
    }

    /// Drops what lies before the current offset and reads on until at least `needed` bytes are there, or the file ends.
    fn load(&mut self, needed: usize) -> io::Result<()> {
        let done = ((self.offset - self.start) as usize).min(self.buffer.len());
        self.buffer.drain(..done);
        self.start = self.offset;
        let kept = self.buffer.len();
        // What is not there costs no memory: a length out of a header is only believed as far as the file goes.
        let rest = self.file.length()?.saturating_sub(self.start);
        let target = (needed.max(READ_STEP) as u64).min(rest) as usize;
        if target > kept {
            self.buffer.resize(target, 0);
            let read = self.file.read_at(self.start + kept as u64, &mut self.buffer[kept..])?;
            self.buffer.truncate(kept + read);
        }
        Ok(())
    }
}

/// Reads and parses a file's header.
pub(super) fn read_header(file: &dyn DiskFile, number: u64) -> Result<ParsedHeader, Error> {
    let mut bytes = [0; FILE_HEADER as usize];
    match file.read_at(0, &mut bytes)? {
        read if read == bytes.len() => FileHeader::parse(&bytes, number),
        _ if bytes.iter().all(|&byte| byte == 0) => Ok(ParsedHeader::Blank),
        _ => Ok(ParsedHeader::Invalid),
    }
}
