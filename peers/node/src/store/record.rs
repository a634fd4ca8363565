//! The format of a piece log, version 1. All numbers are little-endian.
//!
//! A log is a header and records, each a multiple of [`UNIT`] bytes long and aligned to it:
//! ```text
//! log header, 128 bytes            record header, 128 bytes            footer's end, 128 bytes
//!   0  magic "strewnPL"              0  magic "SWNR"                     0  magic "SWNC"
//!   8  version u32 = 1               4  kind u32: 1 piece, 2 tombstone   4  number of shares u32
//!  12  zeros                         8  the log's nonce [16]             8  sequence number u64
//!  16  log number u64               24  record length u64               16  synced u64
//!  24  nonce [16]                   32  piece id [32]                   24  root [32]
//!  40  zeros                        64  piece length u64                56  piece id [32]
//! 124  CRC32C of 0..124             72  sequence number u64 (tombstone) 88  CRC32C of the record header u32
//!                                   80  piece expires i64 (MAX: never)  92  CRC32C of the share table u32
//!                                   88  log of the dead piece u64       96  zeros
//!                                   96  zeros                          124  CRC32C of 0..124
//!                                  124  CRC32C of 0..124
//!
//! piece record:   header | data | share table: (leaf hash [32], CRC32C of the share u32) per share | zeros | footer's end
//! tombstone:      header
//! ```
//! - The header of a piece is written when its place is reserved, the data as it comes, the footer when all of it is
//!   there: a record without a valid footer was given up.
//! - The nonce is random per log, so that no piece can contain what passes for a record.
//! - Sequence numbers count commits over all logs of a store. Of all records that name a piece the highest number says
//!   what is true. `synced`: all records up to this number were synced before this footer was written.

use strewn_engine::ids::PieceId;
use strewn_wire::node::{MAX_PIECE, SHARE};

/// Alignment and header length in bytes; a header never straddles a disk sector.
pub(crate) const UNIT: u64 = 128;

/// [`UNIT`] as a buffer length.
pub(crate) const HEADER: usize = UNIT as usize;

/// Version of the format.
pub(crate) const VERSION: u32 = 1;

/// Bytes per share in the share table.
const ENTRY: usize = 36;

const LOG_MAGIC: &[u8; 8] = b"strewnPL";
const RECORD_MAGIC: &[u8; 4] = b"SWNR";
const COMMIT_MAGIC: &[u8; 4] = b"SWNC";
const PIECE: u32 = 1;
const TOMBSTONE: u32 = 2;

/// Sixteen random bytes that name a log.
pub(crate) type Nonce = [u8; 16];

/// Expiry of a piece that never expires.
pub(crate) const NEVER: i64 = i64::MAX;

/// First bytes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogHeader {
    pub(crate) number: u64,
    pub(crate) nonce: Nonce,
}

/// Why a log header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadLog {
    #[error("not a piece log, or its header is damaged")]
    Damaged,
    #[error("piece log of version {0}, this program knows version {VERSION}")]
    Version(u32),
}

impl LogHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(LOG_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.nonce);
        seal(bytes)
    }

    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Self, BadLog> {
        if &bytes[..8] != LOG_MAGIC || !is_sealed(bytes) {
            return Err(BadLog::Damaged);
        }
        match u32_at(bytes, 8) {
            VERSION => Ok(Self { number: u64_at(bytes, 16), nonce: array_at(bytes, 24) }),
            other => Err(BadLog::Version(other)),
        }
    }
}

/// What a record header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// A place for a piece of `length` bytes.
    Piece { piece: PieceId, length: u64, expires: i64 },
    /// The piece is deleted as of `seq`; it was in log `log`.
    Tombstone { piece: PieceId, seq: u64, log: u64 },
}

impl Header {
    /// Length of the whole record.
    pub(crate) fn record_length(&self) -> u64 {
        match self {
            Self::Piece { length, .. } => record_length(*length),
            Self::Tombstone { .. } => UNIT,
        }
    }

    pub(crate) fn encode(&self, nonce: &Nonce) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let (kind, piece, length, seq, expires, log) = match *self {
            Self::Piece { piece, length, expires } => (PIECE, piece, length, 0, expires, 0),
            Self::Tombstone { piece, seq, log } => (TOMBSTONE, piece, 0, seq, NEVER, log),
        };
        bytes[..4].copy_from_slice(RECORD_MAGIC);
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..24].copy_from_slice(nonce);
        bytes[24..32].copy_from_slice(&self.record_length().to_le_bytes());
        bytes[32..64].copy_from_slice(piece.as_bytes());
        bytes[64..72].copy_from_slice(&length.to_le_bytes());
        bytes[72..80].copy_from_slice(&seq.to_le_bytes());
        bytes[80..88].copy_from_slice(&expires.to_le_bytes());
        bytes[88..96].copy_from_slice(&log.to_le_bytes());
        seal(bytes)
    }

    /// The header, or `None` if these bytes are none of the log with this nonce.
    pub(crate) fn decode(bytes: &[u8; HEADER], nonce: &Nonce) -> Option<Self> {
        if &bytes[..4] != RECORD_MAGIC || &bytes[8..24] != nonce || !is_sealed(bytes) {
            return None;
        }
        let piece = PieceId::from_bytes(array_at(bytes, 32));
        let header = match u32_at(bytes, 4) {
            PIECE => Self::Piece { piece, length: u64_at(bytes, 64), expires: i64::from_le_bytes(array_at(bytes, 80)) },
            TOMBSTONE => Self::Tombstone { piece, seq: u64_at(bytes, 72), log: u64_at(bytes, 88) },
            _ => return None,
        };
        let possible = match header {
            Self::Piece { length, .. } => (1..=MAX_PIECE).contains(&length),
            Self::Tombstone { .. } => true,
        };
        (possible && u64_at(bytes, 24) == header.record_length()).then_some(header)
    }
}

/// What makes a piece record valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) piece: PieceId,
    pub(crate) seq: u64,
    pub(crate) synced: u64,
    pub(crate) root: [u8; 32],
    /// CRC32C of the record header, which ties the two together.
    pub(crate) header: u32,
    pub(crate) shares: Vec<ShareSums>,
}

/// What a store keeps of each share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareSums {
    /// Hash of the leaf in the piece's tree.
    pub(crate) leaf: [u8; 32],
    /// CRC32C of its bytes.
    pub(crate) crc: u32,
}

impl Footer {
    /// The bytes from the end of the data to the end of the record of a piece of `length` bytes.
    pub(crate) fn encode(&self, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; footer_length(length)];
        for (entry, share) in bytes.chunks_exact_mut(ENTRY).zip(&self.shares) {
            entry[..32].copy_from_slice(&share.leaf);
            entry[32..].copy_from_slice(&share.crc.to_le_bytes());
        }
        let table = crc32c::crc32c(&bytes[..self.shares.len() * ENTRY]);
        let mut end = [0; HEADER];
        end[..4].copy_from_slice(COMMIT_MAGIC);
        end[4..8].copy_from_slice(&(self.shares.len() as u32).to_le_bytes());
        end[8..16].copy_from_slice(&self.seq.to_le_bytes());
        end[16..24].copy_from_slice(&self.synced.to_le_bytes());
        end[24..56].copy_from_slice(&self.root);
        end[56..88].copy_from_slice(self.piece.as_bytes());
        end[88..92].copy_from_slice(&self.header.to_le_bytes());
        end[92..96].copy_from_slice(&table.to_le_bytes());
        let at = bytes.len() - HEADER;
        bytes[at..].copy_from_slice(&seal(end));
        bytes
    }

    /// The footer of a piece of `length` bytes, from the bytes between the end of its data and the end of its record.
    pub(crate) fn decode(bytes: &[u8], length: u64) -> Option<Self> {
        if bytes.len() != footer_length(length) {
            return None;
        }
        let (table, end) = bytes.split_last_chunk::<HEADER>()?;
        let shares = share_count(length) as usize;
        let table = table.get(..shares * ENTRY)?;
        let valid = &end[..4] == COMMIT_MAGIC
            && is_sealed(end)
            && u32_at(end, 4) as usize == shares
            && u32_at(end, 92) == crc32c::crc32c(table);
        valid.then(|| Self {
            piece: PieceId::from_bytes(array_at(end, 56)),
            seq: u64_at(end, 8),
            synced: u64_at(end, 16),
            root: array_at(end, 24),
            header: u32_at(end, 88),
            shares: table.chunks_exact(ENTRY).map(share_sums).collect(),
        })
    }
}

fn share_sums(entry: &[u8]) -> ShareSums {
    ShareSums { leaf: array_at(entry, 0), crc: u32_at(entry, 32) }
}

/// CRC32C of a record header as the footer repeats it.
pub(crate) fn header_crc(header: &[u8; HEADER]) -> u32 {
    u32_at(header, 124)
}

/// Number of shares of a piece of `length` bytes (1..=[`MAX_PIECE`]).
pub(crate) fn share_count(length: u64) -> u64 {
    length.div_ceil(SHARE)
}

/// Bytes from the end of the data of a piece to the end of its record.
pub(crate) fn footer_length(length: u64) -> usize {
    (record_length(length) - UNIT - length) as usize
}

/// Bytes that a piece of `length` bytes takes in a log.
pub(crate) fn record_length(length: u64) -> u64 {
    (UNIT + length + share_count(length) * ENTRY as u64).next_multiple_of(UNIT) + UNIT
}

/// Puts the CRC of the first 124 bytes behind them.
fn seal(mut bytes: [u8; HEADER]) -> [u8; HEADER] {
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn is_sealed(bytes: &[u8; HEADER]) -> bool {
    crc32c::crc32c(&bytes[..124]) == u32_at(bytes, 124)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Fields lie at fixed places of buffers whose length was checked.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes were cut out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip_and_any_flipped_bit_is_seen(
            piece in any::<[u8; 32]>(), length in 1..=MAX_PIECE, expires: i64, nonce: Nonce, bit in 0..HEADER * 8,
        ) {
            let header = Header::Piece { piece: PieceId::from_bytes(piece), length, expires };
            let mut bytes = header.encode(&nonce);
            prop_assert_eq!(Header::decode(&bytes, &nonce), Some(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&bytes, &nonce), None);
        }

        #[test]
        fn footers_round_trip_and_any_flipped_bit_is_seen(
            piece in any::<[u8; 32]>(), root in any::<[u8; 32]>(), seq: u64, synced: u64, header: u32,
            length in 1..=40 * SHARE, bit: proptest::sample::Index,
        ) {
            let shares = (0..share_count(length)).map(|i| ShareSums { leaf: [i as u8; 32], crc: i as u32 * 77 }).collect();
            let footer = Footer { piece: PieceId::from_bytes(piece), seq, synced, root, header, shares };
            let mut bytes = footer.encode(length);
            prop_assert_eq!(bytes.len() as u64 + UNIT + length, record_length(length));
            prop_assert_eq!(Footer::decode(&bytes, length), Some(footer.clone()));
            let covered = footer.shares.len() * ENTRY * 8;
            let bit = bit.index(covered + HEADER * 8);
            let at = if bit < covered { bit } else { bytes.len() * 8 - HEADER * 8 + bit - covered };
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(Footer::decode(&bytes, length), None);
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), length in 1..=MAX_PIECE) {
            let _ = Footer::decode(&bytes, length);
            if let Some(head) = bytes.first_chunk() {
                let _ = Header::decode(head, &[0; 16]);
                let _ = LogHeader::decode(head);
            }
        }
    }

    #[test]
    fn a_log_of_another_version_is_named() {
        let mut bytes = LogHeader { number: 1, nonce: [2; 16] }.encode();
        bytes[8] = 9;
        assert_eq!(LogHeader::decode(&seal(bytes)), Err(BadLog::Version(9)));
        assert_eq!(LogHeader::decode(&bytes), Err(BadLog::Damaged));
    }
}
