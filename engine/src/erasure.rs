//! The erasure code: Reed-Solomon, stripe by stripe, in bounded memory.
//!
//! The code works on columns of 64 bytes and every share is a multiple of that, so encoding several stripes in one call
//! over the concatenated shares of each piece gives the very bytes of encoding them one by one (a test proves it). One
//! call takes about 4 MiB of segment: larger ones fall out of the CPU's caches, and a decode call costs 0.2 ms whatever
//! its size. Decoding is never called while all wanted data shares are present, and when a single stripe is rebuilt only
//! the wanted columns of it are.

use crate::segment::{COLUMN, Geometry, SharePart};
use bytes::{Bytes, BytesMut};
use reed_solomon_simd::{DecoderResult, ReedSolomonDecoder, ReedSolomonEncoder};
use std::ops::Range;

/// One window of a segment as pieces: what each piece carries of it. Every piece's bytes are an allocation of their own,
/// so that a slow piece keeps only its own alive.
#[derive(Debug, Clone)]
pub struct PieceWindow {
    window: u32,
    pieces: Vec<Bytes>,
}

impl PieceWindow {
    /// The window's number.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// The bytes of one piece, the shares of the window's stripes back to back; `None` if there is no such piece.
    pub fn piece(&self, number: u16) -> Option<&Bytes> {
        self.pieces.get(usize::from(number))
    }
}

/// Turns windows of a segment into pieces. Keeps its working space and buffers between calls.
pub struct Encoder {
    geometry: Geometry,
    code: Option<ReedSolomonEncoder>,
    spare: Vec<BytesMut>,
}

impl Encoder {
    /// For one segment, or all of the same measures.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, code: None, spare: Vec::new() }
    }

    /// Encodes one window. `read` fills a buffer with the segment's bytes from an offset on, and is called once for each
    /// data share, in order.
    pub fn encode<E>(
        &mut self,
        window: u32,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<PieceWindow, E> {
        let geometry = self.geometry;
        let stripes = geometry.window(window);
        let length = (geometry.piece_bytes(&stripes).end - geometry.piece_bytes(&stripes).start) as usize;
        let mut pieces: Vec<BytesMut> = (0..geometry.total()).map(|_| self.buffer(length)).collect();
        let required = usize::from(geometry.required());
        let (data, parity) = pieces.split_at_mut(required);

        let mut start = 0;
        for stripe in stripes.clone() {
            let end = start + geometry.share_length(stripe) as usize;
            for (piece, buffer) in (0..).zip(data.iter_mut()) {
                let bytes = geometry.share_bytes(stripe, piece);
                let (filled, padding) = buffer[start..end].split_at_mut((bytes.end - bytes.start) as usize);
                if !filled.is_empty() {
                    read(bytes.start, filled)?;
                }
                padding.fill(0);
            }
            start = end;
        }

        if !parity.is_empty() {
            let mut start = 0;
            for stripes in equal_shares(&geometry, stripes) {
                let end = start + stripes.len() * geometry.share_length(stripes.start) as usize;
                self.encode_range(data, parity, start..end);
                start = end;
            }
        }
        Ok(PieceWindow { window, pieces: pieces.into_iter().map(BytesMut::freeze).collect() })
    }

    /// Takes back the buffers of a window that nobody else holds any more, for the next one.
    pub fn recycle(&mut self, window: PieceWindow) {
        let room = usize::from(self.geometry.total()).saturating_sub(self.spare.len());
        self.spare.extend(window.pieces.into_iter().filter_map(|bytes| bytes.try_into_mut().ok()).take(room));
    }

    /// A buffer of `length` bytes of no particular value.
    fn buffer(&mut self, length: usize) -> BytesMut {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    fn encode_range(&mut self, data: &[BytesMut], parity: &mut [BytesMut], range: Range<usize>) {
        const VALID: &str = "a geometry has at most 256 pieces and shares of whole columns";
        let code = match &mut self.code {
            Some(code) => {
                code.reset(data.len(), parity.len(), range.len()).expect(VALID);
                code
            }
            empty => empty.insert(ReedSolomonEncoder::new(data.len(), parity.len(), range.len()).expect(VALID)),
        };
        for shard in data {
            code.add_original_shard(&shard[range.clone()]).expect(VALID);
        }
        let encoded = code.encode().expect(VALID);
        for (into, from) in parity.iter_mut().zip(encoded.recovery_iter()) {
            into[range.clone()].copy_from_slice(from);
        }
    }
}

/// Consecutive stripes of which the same pieces' shares are at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeGroup {
    /// The stripes.
    pub stripes: Range<u32>,
    /// (piece, its share of every stripe in order): no piece twice.
    pub shares: Vec<(u16, Vec<Bytes>)>,
}

/// Shares from which the bytes cannot be rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer than k shares, and not all wanted ones.
    #[error("{present} shares of {required} needed")]
    TooFewShares {
        /// Shares at hand.
        present: u16,
        /// Shares that rebuild a stripe.
        required: u16,
    },
    /// Shares that are not of this segment: a wrong number or length.
    #[error("shares do not fit the segment")]
    Malformed,
}

/// Turns shares back into the segment's bytes. Keeps its working space between calls.
pub struct Decoder {
    geometry: Geometry,
    code: Option<ReedSolomonDecoder>,
    /// The shares of one piece back to back.
    shard: Vec<u8>,
}

impl Decoder {
    /// For one segment, or all of the same measures.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, code: None, shard: Vec::new() }
    }

    /// Appends to `out` those of the segment's bytes `range` that lie in the stripes of `group`, rebuilding what is
    /// missing from any k shares.
    pub fn read(&mut self, group: &StripeGroup, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let present = self.index(group)?;
        for stripes in equal_shares(&self.geometry, group.stripes.clone()) {
            let within =
                self.geometry.stripe_bytes(stripes.start).start..self.geometry.stripe_bytes(stripes.end - 1).end;
            let (start, end) = (range.start.max(within.start), range.end.min(within.end));
            if start < end {
                self.read_equal(group, &present, stripes, start..end, out)?;
            }
        }
        Ok(())
    }

    /// Checks a group; gives the position of each piece in it.
    fn index(&self, group: &StripeGroup) -> Result<Vec<Option<usize>>, DecodeError> {
        let mut present = vec![None; usize::from(self.geometry.total())];
        if group.stripes.end > self.geometry.stripes() {
            return Err(DecodeError::Malformed);
        }
        for (position, (piece, shares)) in group.shares.iter().enumerate() {
            let slot = present.get_mut(usize::from(*piece)).ok_or(DecodeError::Malformed)?;
            let fits = |(stripe, share): (u32, &Bytes)| share.len() == self.geometry.share_length(stripe) as usize;
            let whole = shares.len() == group.stripes.len() && group.stripes.clone().zip(shares).all(fits);
            if slot.replace(position).is_some() || !whole {
                return Err(DecodeError::Malformed);
            }
        }
        Ok(present)
    }

    /// Reads from stripes of equal shares: one decode call, or none.
    fn read_equal(
        &mut self,
        group: &StripeGroup,
        present: &[Option<usize>],
        stripes: Range<u32>,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let geometry = self.geometry;
        let share = geometry.share_length(stripes.start) as usize;
        let first = (stripes.start - group.stripes.start) as usize;
        let is_missing = |part: &SharePart| present[usize::from(part.piece)].is_none();
        let columns = match stripes.len() {
            1 => wanted_columns(geometry.parts(range.clone()).filter(is_missing)),
            _ if geometry.parts(range.clone()).any(|part| is_missing(&part)) => 0..share,
            _ => 0..0,
        };
        let rebuilt = match columns.is_empty() {
            true => None,
            false => {
                let shares = first..first + stripes.len();
                Some(rebuild(&geometry, &mut self.code, &mut self.shard, group, present, shares, columns.clone())?)
            }
        };
        out.reserve((range.end - range.start) as usize);
        for part in geometry.parts(range) {
            let index = (part.stripe - stripes.start) as usize;
            let bytes = part.bytes.start as usize..part.bytes.end as usize;
            match (present[usize::from(part.piece)], &rebuilt) {
                (Some(position), _) => out.extend_from_slice(&group.shares[position].1[first + index][bytes]),
                (None, Some(rebuilt)) => {
                    let shard = rebuilt.restored_original(part.piece.into()).expect("a missing data shard is restored");
                    let at = index * share + bytes.start - columns.start;
                    out.extend_from_slice(&shard[at..at + bytes.len()]);
                }
                (None, None) => unreachable!("something missing makes the columns non-empty"),
            }
        }
        Ok(())
    }
}

/// Decodes some columns of some stripes from exactly k shares, data first.
fn rebuild<'a>(
    geometry: &Geometry,
    code: &'a mut Option<ReedSolomonDecoder>,
    shard: &mut Vec<u8>,
    group: &StripeGroup,
    present: &[Option<usize>],
    shares: Range<usize>,
    columns: Range<usize>,
) -> Result<DecoderResult<'a>, DecodeError> {
    const VALID: &str = "a geometry has at most 256 pieces and shares of whole columns";
    let required = usize::from(geometry.required());
    let parity = usize::from(geometry.total()) - required;
    let too_few = DecodeError::TooFewShares { present: group.shares.len() as u16, required: geometry.required() };
    if group.shares.len() < required || parity == 0 {
        return Err(too_few);
    }
    let length = shares.len() * columns.len();
    let code = match code {
        Some(code) => {
            code.reset(required, parity, length).expect(VALID);
            code
        }
        empty => empty.insert(ReedSolomonDecoder::new(required, parity, length).expect(VALID)),
    };
    let positions = present.iter().enumerate().filter_map(|(piece, position)| Some((piece, (*position)?)));
    for (piece, position) in positions.take(required) {
        let parts = &group.shares[position].1[shares.clone()];
        let bytes = match parts {
            [one] => &one[columns.clone()],
            several => {
                shard.clear();
                several.iter().for_each(|part| shard.extend_from_slice(part));
                &*shard
            }
        };
        match piece < required {
            true => code.add_original_shard(piece, bytes).expect(VALID),
            false => code.add_recovery_shard(piece - required, bytes).expect(VALID),
        }
    }
    Ok(code.decode().expect(VALID))
}

/// The columns of one stripe that hold all these parts: decoding is exact on whole columns only.
fn wanted_columns(parts: impl Iterator<Item = SharePart>) -> Range<usize> {
    let union = parts.map(|part| part.bytes).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
    union.map_or(0..0, |bytes| (bytes.start / COLUMN * COLUMN) as usize..bytes.end.next_multiple_of(COLUMN) as usize)
}

/// Cuts stripes into the full ones and the last one, which may have smaller shares.
fn equal_shares(geometry: &Geometry, stripes: Range<u32>) -> impl Iterator<Item = Range<u32>> + use<> {
    let is_full = |stripe: u32| geometry.share_length(stripe) == geometry.share_length(0);
    let cut = match stripes.clone().next_back() {
        Some(last) if !is_full(last) => last,
        _ => stripes.end,
    };
    [stripes.start..cut, cut..stripes.end].into_iter().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redundancy::{MAX_SHARE, Redundancy};
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// Bytes that differ everywhere, from a seed.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn encode(geometry: Geometry, segment: &[u8]) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(geometry);
        let mut pieces = vec![Vec::new(); usize::from(geometry.total())];
        for window in 0..geometry.windows() {
            let encoded = encoder
                .encode(window, |offset, buffer| {
                    buffer.copy_from_slice(&segment[offset as usize..offset as usize + buffer.len()]);
                    Ok::<_, Infallible>(())
                })
                .unwrap();
            for (number, piece) in (0..).zip(&mut pieces) {
                piece.extend_from_slice(encoded.piece(number).unwrap());
            }
            encoder.recycle(encoded);
        }
        pieces
    }

    /// The same by one call of the code per stripe, as the format says.
    fn encode_by_stripes(geometry: Geometry, segment: &[u8]) -> Vec<Vec<u8>> {
        let (k, parity) = (usize::from(geometry.required()), usize::from(geometry.total() - geometry.required()));
        let mut pieces = vec![Vec::new(); usize::from(geometry.total())];
        for stripe in 0..geometry.stripes() {
            let bytes = geometry.stripe_bytes(stripe);
            let mut data = segment[bytes.start as usize..bytes.end as usize].to_vec();
            data.resize(k * geometry.share_length(stripe) as usize, 0);
            let shares: Vec<&[u8]> = data.chunks(geometry.share_length(stripe) as usize).collect();
            let recovery = match parity {
                0 => vec![],
                _ => reed_solomon_simd::encode(k, parity, &shares).unwrap(),
            };
            for (piece, share) in pieces.iter_mut().zip(shares.into_iter().chain(recovery.iter().map(Vec::as_slice))) {
                piece.extend_from_slice(share);
            }
        }
        pieces
    }

    fn group(geometry: &Geometry, pieces: &[Vec<u8>], numbers: &[u16], stripes: Range<u32>) -> StripeGroup {
        let share = |piece: u16, stripe: u32| {
            let start = geometry.share_offset(stripe) as usize;
            let bytes = &pieces[usize::from(piece)][start..start + geometry.share_length(stripe) as usize];
            Bytes::copy_from_slice(bytes)
        };
        let shares = numbers.iter().map(|&p| (p, stripes.clone().map(|s| share(p, s)).collect())).collect();
        StripeGroup { stripes, shares }
    }

    fn geometry(k: u16, n: u16, length: u64, share: u32) -> Geometry {
        Geometry::with_share(Redundancy::new(k, k, n, n).unwrap(), length, share).unwrap()
    }

    #[test]
    fn every_k_and_n_at_the_edges() {
        for (k, n) in [(1, 1), (1, 2), (1, 256), (2, 2), (2, 3), (29, 110), (128, 256), (255, 256), (256, 256)] {
            let geometry = geometry(k, n, u64::from(k) * 1024 + 777, 1024);
            let segment = noise(geometry.length() as usize, u64::from(k));
            let pieces = encode(geometry, &segment);
            assert_eq!(pieces, encode_by_stripes(geometry, &segment), "{k}/{n}");
            let last: Vec<u16> = (n - k..n).collect();
            let mut out = Vec::new();
            let shares = group(&geometry, &pieces, &last, 0..geometry.stripes());
            Decoder::new(geometry).read(&shares, 0..u64::MAX, &mut out).unwrap();
            assert!(out == segment, "{k}/{n}");
        }
    }

    #[test]
    fn windows_of_full_shares_are_the_stripes_of_the_format() {
        let geometry = geometry(2, 5, 5 << 20, MAX_SHARE);
        assert_eq!((geometry.windows(), geometry.window(0)), (2, 0..32));
        let segment = noise(5 << 20, 1);
        assert!(encode(geometry, &segment) == encode_by_stripes(geometry, &segment));
    }

    #[test]
    fn too_few_or_foreign_shares_are_refused() {
        let geometry = geometry(3, 5, 5000, 1024);
        let pieces = encode(geometry, &noise(5000, 2));
        let mut decoder = Decoder::new(geometry);
        let mut read = |group: &StripeGroup, range: Range<u64>| decoder.read(group, range, &mut Vec::new());
        let two = group(&geometry, &pieces, &[0, 4], 0..1);
        assert_eq!(read(&two, 0..3000), Err(DecodeError::TooFewShares { present: 2, required: 3 }));
        assert_eq!(read(&two, 0..1024), Ok(()), "what is there can be read");
        let three = group(&geometry, &pieces, &[0, 1, 4], 0..1);
        let broken = |change: &dyn Fn(&mut StripeGroup)| {
            let mut group = three.clone();
            change(&mut group);
            group
        };
        for group in [
            broken(&|g| g.shares[2].0 = 5),
            broken(&|g| g.shares[2].0 = 0),
            broken(&|g| g.shares[0].1[0] = Bytes::from_static(&[0; 64])),
            broken(&|g| g.shares[0].1.clear()),
            broken(&|g| g.stripes = 1..2),
            broken(&|g| g.stripes = 2..3),
        ] {
            assert_eq!(read(&group, 0..5000), Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn buffers_come_back_only_when_nobody_holds_them() {
        let geometry = geometry(2, 4, 2048, 1024);
        let mut encoder = Encoder::new(geometry);
        let encode = |encoder: &mut Encoder, value: u8| {
            let fill = |_, buffer: &mut [u8]| {
                buffer.fill(value);
                Ok::<_, Infallible>(())
            };
            encoder.encode(0, fill).unwrap()
        };
        let first = encode(&mut encoder, 1);
        let held = first.piece(0).unwrap().clone();
        encoder.recycle(first);
        assert_eq!(encoder.spare.len(), 3);
        let second = encode(&mut encoder, 2);
        assert_eq!(held, [1; 1024][..]);
        assert_eq!(second.piece(0).unwrap(), &[2; 1024][..]);
    }

    proptest! {
        #[test]
        fn stripes_encoded_together_are_stripes_encoded_alone(
            k in 1u16..=12, parity in 0u16..=12, length in 1u64..60_000, seed in any::<u64>(),
        ) {
            let geometry = geometry(k, k + parity, length, 1024);
            let segment = noise(length as usize, seed);
            prop_assert!(encode(geometry, &segment) == encode_by_stripes(geometry, &segment));
        }

        #[test]
        fn any_k_pieces_give_back_any_range(
            k in 1u16..=9, parity in 0u16..=9, length in 1u64..40_000, seed in any::<u64>(),
            order in prop::collection::vec(any::<u32>(), 18), extra in 0usize..3,
            start in 0u64..40_000, wanted in 1u64..40_000, stripes in (0u32..40, 1u32..40),
        ) {
            let geometry = geometry(k, k + parity, length, 1024);
            let segment = noise(length as usize, seed);
            let pieces = encode(geometry, &segment);
            let mut numbers: Vec<u16> = (0..geometry.total()).collect();
            numbers.sort_by_key(|number| order[usize::from(*number)]);
            numbers.truncate(usize::from(k) + extra);
            let first = stripes.0 % geometry.stripes();
            let group = group(&geometry, &pieces, &numbers, first..(first + stripes.1).min(geometry.stripes()));
            let mut out = Vec::new();
            let mut decoder = Decoder::new(geometry);
            decoder.read(&group, start..start + wanted, &mut out).unwrap();
            decoder.read(&group, start..start + wanted, &mut out).unwrap();
            let held = geometry.stripe_bytes(group.stripes.start).start..geometry.stripe_bytes(group.stripes.end - 1).end;
            let (start, end) = (start.max(held.start), (start + wanted).min(held.end));
            let expected = if start < end { &segment[start as usize..end as usize] } else { &[] };
            prop_assert!(out == [expected, expected].concat());
        }
    }
}
