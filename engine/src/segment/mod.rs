//! How a segment is cut into stripes, shares and pieces, and where runs lie in it.
//!
//! ```text
//!             piece 0   piece 1  …  piece k-1 | piece k  …  piece n-1
//! stripe 0    share     share       share     | parity      parity        64 KiB each
//! stripe 1    share     share       share     | parity      parity        64 KiB each
//! last        share     share       share     | parity      parity        what is left / k, rounded up to 64 bytes
//! ```
//! The segment's bytes run through the data shares of stripe 0, then of stripe 1, and so on; zeros fill the last stripe.
//! Piece i is share i of every stripe, so that pieces 0..k hold the data itself. A segment shorter than a full stripe
//! is one last stripe. The parity depends on both k and n: pieces of one segment only mix under one redundancy.

mod layout;

pub use layout::{Packer, Place, RunTooLong, plan};

use crate::piece::PieceShape;
use crate::redundancy::{MAX_SHARE, Redundancy};
use std::ops::Range;

/// Longest segment in bytes.
pub const MAX_SEGMENT: u64 = 64 << 20;

/// Data shares that are encoded, decoded and held together, about: the fastest number for the code.
pub const WINDOW_SHARES: u16 = 64;

/// Segment bytes of a window, about: 4 MiB. A window is one stripe where a stripe is longer.
pub const WINDOW: u64 = WINDOW_SHARES as u64 * MAX_SHARE as u64;

/// Shares are multiples of this many bytes: the column width of the code.
pub const COLUMN: u32 = 64;

/// A segment that cannot be: empty, too long, or of an invalid redundancy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no segment of {length} bytes at {redundancy} in shares of {share} bytes")]
pub struct InvalidGeometry {
    length: u64,
    redundancy: Redundancy,
    share: u32,
}

/// The measures of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    required: u16,
    total: u16,
    /// Share of a full stripe.
    share: u32,
    length: u64,
    full_stripes: u32,
    /// Share of the last stripe if that one is not full, else 0.
    last_share: u32,
}

/// Bytes of one share: what a byte range of a segment comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharePart {
    /// The stripe, also the number of the share within the piece.
    pub stripe: u32,
    /// The data piece.
    pub piece: u16,
    /// Bytes of the share.
    pub bytes: Range<u32>,
    /// Where the first of them lies in the segment.
    pub offset: u64,
}

impl Geometry {
    /// Measures of a segment of 1..=[`MAX_SEGMENT`] bytes.
    pub fn new(redundancy: Redundancy, length: u64) -> Result<Self, InvalidGeometry> {
        Self::with_share(redundancy, length, MAX_SHARE)
    }

    /// The same with shares of another size, a power of two of 1 KiB..=64 KiB, so that tests can have many stripes in
    /// few bytes.
    pub fn with_share(redundancy: Redundancy, length: u64, share: u32) -> Result<Self, InvalidGeometry> {
        let fits = (1..=MAX_SEGMENT).contains(&length) && redundancy.is_valid() && PieceShape::is_share(share);
        if !fits {
            return Err(InvalidGeometry { length, redundancy, share });
        }
        let required = u64::from(redundancy.required);
        let stripe = required * u64::from(share);
        let last_share = (length % stripe).div_ceil(required).next_multiple_of(u64::from(COLUMN));
        Ok(Self {
            required: redundancy.required,
            total: redundancy.total,
            share,
            length,
            full_stripes: (length / stripe) as u32,
            last_share: last_share as u32,
        })
    }

    /// k: data pieces, and pieces needed.
    pub fn required(&self) -> u16 {
        self.required
    }

    /// n: pieces in all.
    pub fn total(&self) -> u16 {
        self.total
    }

    /// Length of the segment in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Stripes, and so shares per piece: at least 1.
    pub fn stripes(&self) -> u32 {
        self.full_stripes + u32::from(self.last_share > 0)
    }

    /// Length of every share of a stripe in bytes; `stripe` < [`stripes`](Self::stripes).
    pub fn share_length(&self, stripe: u32) -> u32 {
        if stripe < self.full_stripes { self.share } else { self.last_share }
    }

    /// Length of every piece in bytes.
    pub fn piece_length(&self) -> u64 {
        u64::from(self.full_stripes) * u64::from(self.share) + u64::from(self.last_share)
    }

    /// The measures of every piece.
    pub fn piece(&self) -> PieceShape {
        PieceShape::with_share(self.piece_length(), self.share).expect("a geometry has valid shares and bytes")
    }

    /// Where share `stripe` starts in its piece.
    pub fn share_offset(&self, stripe: u32) -> u64 {
        u64::from(stripe) * u64::from(self.share)
    }

    /// The segment's bytes in a stripe, without its padding.
    pub fn stripe_bytes(&self, stripe: u32) -> Range<u64> {
        let full = self.stripe_length();
        let start = u64::from(stripe) * full;
        start.min(self.length)..(start + full).min(self.length)
    }

    /// The stripes that hold any of these bytes of the segment; bytes beyond its end are ignored.
    pub fn stripes_of(&self, bytes: Range<u64>) -> Range<u32> {
        let end = bytes.end.min(self.length);
        if bytes.start >= end {
            return 0..0;
        }
        let stripe = self.stripe_length();
        (bytes.start / stripe) as u32..end.div_ceil(stripe) as u32
    }

    /// The segment's bytes in one data share, without its padding: may be empty in the last stripe.
    pub fn share_bytes(&self, stripe: u32, piece: u16) -> Range<u64> {
        let share = u64::from(self.share_length(stripe));
        let start = u64::from(stripe) * self.stripe_length() + u64::from(piece) * share;
        start.min(self.length)..(start + share).min(self.length)
    }

    /// The data pieces whose share of `stripe` holds any of these bytes of the segment.
    pub fn pieces_of(&self, stripe: u32, bytes: &Range<u64>) -> Range<u16> {
        let within = self.stripe_bytes(stripe);
        let (start, end) = (bytes.start.max(within.start), bytes.end.min(within.end));
        if start >= end {
            return 0..0;
        }
        let share = u64::from(self.share_length(stripe));
        ((start - within.start) / share) as u16..(end - within.start).div_ceil(share) as u16
    }

    /// The share parts that hold these bytes of the segment, in order; bytes beyond its end are ignored.
    pub fn parts(&self, bytes: Range<u64>) -> impl Iterator<Item = SharePart> + use<> {
        let geometry = *self;
        self.stripes_of(bytes.clone()).flat_map(move |stripe| {
            let bytes = bytes.clone();
            geometry.pieces_of(stripe, &bytes).map(move |piece| {
                let share = geometry.share_bytes(stripe, piece);
                let (start, end) = (bytes.start.max(share.start), bytes.end.min(share.end));
                let within = (start - share.start) as u32..(end - share.start) as u32;
                SharePart { stripe, piece, bytes: within, offset: start }
            })
        })
    }

    /// Stripes of one window: as many as have [`WINDOW_SHARES`] data shares, at least one.
    pub fn window_stripes(&self) -> u32 {
        u32::from((WINDOW_SHARES / self.required).max(1))
    }

    /// Windows: stretches of stripes that are encoded together. At least 1.
    pub fn windows(&self) -> u32 {
        self.stripes().div_ceil(self.window_stripes())
    }

    /// The stripes of a window; empty beyond the last one.
    pub fn window(&self, window: u32) -> Range<u32> {
        let start = window.saturating_mul(self.window_stripes()).min(self.stripes());
        start..start.saturating_add(self.window_stripes()).min(self.stripes())
    }

    /// Bytes of each piece in a stretch of stripes.
    pub fn piece_bytes(&self, stripes: &Range<u32>) -> Range<u64> {
        let end = self.share_offset(stripes.end).min(self.piece_length());
        self.share_offset(stripes.start).min(end)..end
    }

    fn stripe_length(&self) -> u64 {
        u64::from(self.required) * u64::from(self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn measures_of_a_full_a_short_and_a_tiny_segment() {
        let full = Geometry::new(Redundancy::SMALL, 64 << 20).unwrap();
        assert_eq!((full.stripes(), full.piece_length(), full.windows()), (256, 16 << 20, 16));
        let standard = Geometry::new(Redundancy::STANDARD, 64 << 20).unwrap();
        assert_eq!((standard.stripes(), standard.windows(), standard.window(17)), (36, 18, 34..36));
        assert_eq!(standard.share_length(34), 65_536);
        // 64 MiB are 35 full stripes of 29 x 64 KiB and 589,824 bytes: 20,339 each, rounded up to 64.
        assert_eq!(standard.share_length(35), 20_352);
        assert_eq!(standard.piece_length(), 35 * 65_536 + 20_352);
        let tiny = Geometry::new(Redundancy::STANDARD, 1).unwrap();
        assert_eq!((tiny.stripes(), tiny.piece_length(), tiny.windows()), (1, 64, 1));
        assert!(tiny.share_bytes(0, 1).is_empty());
        let stripe = Geometry::new(Redundancy::SMALL, 4 * 65_536).unwrap();
        assert_eq!((stripe.stripes(), stripe.share_length(0)), (1, 65_536));
    }

    #[test]
    fn refuses_what_is_no_segment() {
        assert!(Geometry::new(Redundancy::SMALL, 0).is_err());
        assert!(Geometry::new(Redundancy::SMALL, MAX_SEGMENT + 1).is_err());
        assert!(Geometry::new(Redundancy { required: 0, ..Redundancy::SMALL }, 1).is_err());
        for share in [0, 64, 1000, 3 * 1024, 128 * 1024] {
            assert!(Geometry::with_share(Redundancy::SMALL, 1, share).is_err(), "{share}");
        }
    }

    fn geometry() -> impl Strategy<Value = Geometry> {
        (1u16..=40, 0u16..=20, 1u64..200_000, 0u32..=3).prop_map(|(k, parity, length, share)| {
            let redundancy = Redundancy::new(k, k, k + parity, k + parity).unwrap();
            Geometry::with_share(redundancy, length, 1024 << share).unwrap()
        })
    }

    proptest! {
        #[test]
        fn every_byte_lies_in_exactly_one_share(geometry in geometry()) {
            let mut next = 0;
            for stripe in 0..geometry.stripes() {
                prop_assert_eq!(geometry.share_length(stripe) % COLUMN, 0);
                prop_assert_eq!(geometry.stripe_bytes(stripe).start, next);
                for piece in 0..geometry.required() {
                    let bytes = geometry.share_bytes(stripe, piece);
                    prop_assert_eq!(bytes.start, next);
                    prop_assert!(bytes.end - bytes.start <= u64::from(geometry.share_length(stripe)));
                    next = bytes.end;
                }
            }
            prop_assert_eq!(next, geometry.length());
            let shares: u64 = (0..geometry.stripes()).map(|s| u64::from(geometry.share_length(s))).sum();
            prop_assert_eq!(shares, geometry.piece_length());
        }

        #[test]
        fn parts_are_the_range_and_map_back(geometry in geometry(), start in 0u64..220_000, length in 0u64..220_000) {
            let mut next = start;
            for part in geometry.parts(start..start + length) {
                let share = geometry.share_bytes(part.stripe, part.piece);
                prop_assert_eq!(part.offset, next);
                prop_assert!(part.bytes.start < part.bytes.end);
                prop_assert_eq!(share.start + u64::from(part.bytes.start), part.offset);
                next = share.start + u64::from(part.bytes.end);
                prop_assert!(next <= share.end);
            }
            let end = (start + length).min(geometry.length());
            prop_assert_eq!(next, if start < end { end } else { start });
        }

        #[test]
        fn windows_cover_all_stripes(geometry in geometry()) {
            let mut next = 0;
            let mut bytes = 0;
            for window in 0..geometry.windows() {
                let stripes = geometry.window(window);
                prop_assert_eq!(stripes.start, next);
                prop_assert!(!stripes.is_empty());
                next = stripes.end;
                prop_assert_eq!(geometry.piece_bytes(&stripes).start, bytes);
                bytes = geometry.piece_bytes(&stripes).end;
            }
            prop_assert_eq!(next, geometry.stripes());
            prop_assert_eq!(bytes, geometry.piece_length());
            prop_assert!(geometry.window(geometry.windows()).is_empty());
        }
    }
}
