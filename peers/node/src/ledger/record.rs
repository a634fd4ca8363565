//! The format of the ledger file, version 1. Numbers are little-endian.
//!
//! ```text
//! header, 32 bytes              frames, each padded with zeros to a multiple of 8 bytes
//!   0  magic "strewnLG"           0  length of the payload u32, 1..=4096; 0: the end
//!   8  version u32 = 1            4  CRC32C of number and payload u32
//!  12  zeros                      8  number u64: 1, 2, 3, ...
//!  28  CRC32C of 0..28           16  payload: postcard of a Record
//! ```
//! Behind the last frame the file is zeros, written ahead, so that a sync moves no metadata.

use serde::{Deserialize, Serialize};
use strewn_engine::ids::Serial;
use strewn_engine::order::{Order, OrderLimit, Signed};

/// Version of the format.
pub(crate) const VERSION: u32 = 1;
/// Length of the header.
pub(crate) const HEADER: usize = 32;
/// Length of a frame without payload.
const FRAME: usize = 16;
/// Longest payload.
const MAX_PAYLOAD: usize = 4096;

const MAGIC: &[u8; 8] = b"strewnLG";

/// What the ledger notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// A limit with what is known of it; replaces what was.
    Account { limit: Signed<OrderLimit>, spent: u64, order: Option<Signed<Order>> },
    /// At most this many bytes of the limit are spent.
    Spent { serial: Serial, spent: u64 },
    /// The highest order of a limit.
    Order { serial: Serial, order: Signed<Order> },
    /// The satellite has paid.
    Settled { serial: Serial },
    /// Limits that expire up to this second are refused, whatever the clock says.
    Horizon { seconds: i64 },
}

/// The header of a ledger.
pub(crate) fn header() -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The version that a header names, or `None` if it is none.
pub(crate) fn version(bytes: &[u8]) -> Option<u32> {
    let header = bytes.first_chunk::<HEADER>()?;
    let valid = &header[..8] == MAGIC && crc32c::crc32c(&header[..28]) == u32_at(header, 28)?;
    if valid { u32_at(header, 8) } else { None }
}

/// Appends a record as frame `number`.
pub(crate) fn append(buffer: &mut Vec<u8>, number: u64, record: &Record) -> Result<(), postcard::Error> {
    let payload = postcard::to_allocvec(record)?;
    if payload.len() > MAX_PAYLOAD {
        return Err(postcard::Error::SerializeBufferFull);
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &payload);
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&crc.to_le_bytes());
    buffer.extend_from_slice(&number.to_le_bytes());
    buffer.extend_from_slice(&payload);
    buffer.resize(buffer.len().next_multiple_of(8), 0);
    Ok(())
}

/// The records of a ledger file, in order.
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    number: u64,
}

impl<'a> Frames<'a> {
    /// The frames of a file whose header was checked.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: HEADER, number: 1 }
    }

    /// Where the frames read so far end, and the number of the next one.
    pub(crate) fn end(&self) -> (usize, u64) {
        (self.at, self.number)
    }

    /// True if what follows the last good frame holds a later one: not a torn tail, but damage to what was synced.
    pub(crate) fn is_damaged(&self) -> bool {
        let mut later = (self.at..self.bytes.len()).step_by(8).filter_map(|at| frame_at(self.bytes, at));
        later.any(|(number, _, _)| number > self.number)
    }
}

impl Iterator for Frames<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let (number, record, next) = frame_at(self.bytes, self.at)?;
        if number != self.number {
            return None;
        }
        (self.at, self.number) = (next, number + 1);
        Some(record)
    }
}

/// Number, record and end of the frame at `at`.
fn frame_at(bytes: &[u8], at: usize) -> Option<(u64, Record, usize)> {
    let head = bytes.get(at..at.checked_add(FRAME)?)?;
    let length = u32_at(head, 0)? as usize;
    if length == 0 || length > MAX_PAYLOAD {
        return None;
    }
    let payload = bytes.get(at + FRAME..at + FRAME + length)?;
    let number = head.get(8..)?;
    if crc32c::crc32c_append(crc32c::crc32c(number), payload) != u32_at(head, 4)? {
        return None;
    }
    let number = u64::from_le_bytes(number.try_into().ok()?);
    let (record, rest) = postcard::take_from_bytes(payload).ok()?;
    rest.is_empty().then(|| (number, record, (at + FRAME + length).next_multiple_of(8)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn serial(i: u8) -> Serial {
        Serial::from_bytes([i; 16])
    }

    proptest! {
        #[test]
        fn a_cut_or_flipped_file_gives_a_prefix(count in 1u8..20, cut: proptest::sample::Index, bit in 0u8..8) {
            let record = |i| Record::Spent { serial: serial(i), spent: u64::from(i) << 40 };
            let records: Vec<_> = (0..count).map(record).collect();
            let mut bytes = header().to_vec();
            for (i, record) in records.iter().enumerate() {
                append(&mut bytes, i as u64 + 1, record).expect("encodes");
            }
            prop_assert_eq!(Frames::new(&bytes).collect::<Vec<_>>(), records.clone());
            let at = HEADER + cut.index(bytes.len() - HEADER);
            let prefix: Vec<_> = Frames::new(&bytes[..at]).collect();
            prop_assert!(records.starts_with(&prefix));
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let mut frames = Frames::new(&flipped);
            let read: Vec<_> = frames.by_ref().collect();
            // Padding is not covered, and need not be.
            prop_assert!(records.starts_with(&read));
            if read.len() + 1 < records.len() {
                prop_assert!(frames.is_damaged());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = version(&bytes);
            let mut frames = Frames::new(&bytes);
            let _ = frames.by_ref().count();
            let _ = frames.is_damaged();
        }
    }
}
