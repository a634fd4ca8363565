//! A piece on its way in.

use super::record::{HEADER, Header, ShareSums, UNIT, header_crc, record_length, share_count};
use super::space::{Place, Promise};
use super::{Shared, StoreError};
use std::sync::Arc;
use strewn_engine::ids::PieceId;
use strewn_engine::piece::{PieceTree, RootBuilder};
use strewn_wire::node::SHARE;

/// A piece that is being received. It takes its place in a log with its first bytes; dropped, it gives it up.
pub struct Incoming {
    shared: Arc<Shared>,
    /// Until there is a place.
    promise: Option<Promise>,
    place: Option<Place>,
    piece: PieceId,
    length: u64,
    expires: i64,
    header: [u8; HEADER],
    written: u64,
    /// Boxed, because a piece goes from hand to hand and this is big.
    builder: Box<RootBuilder>,
    tree: Option<PieceTree>,
    /// CRC32C of the shares, the last one of those bytes that are here.
    crcs: Vec<u32>,
}

/// A piece that is wholly in its place, but for the footer.
pub(crate) struct Filled {
    pub(crate) place: Place,
    pub(crate) piece: PieceId,
    pub(crate) length: u64,
    pub(crate) expires: i64,
    pub(crate) header: u32,
    pub(crate) root: [u8; 32],
    pub(crate) shares: Vec<ShareSums>,
}

impl Incoming {
    pub(super) fn new(shared: Arc<Shared>, promise: Promise, piece: PieceId, length: u64, expires: i64) -> Self {
        Self {
            shared,
            promise: Some(promise),
            place: None,
            piece,
            length,
            expires,
            header: [0; HEADER],
            written: 0,
            builder: Box::default(),
            tree: None,
            crcs: Vec::with_capacity(share_count(length) as usize),
        }
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> u64 {
        self.length - self.written
    }

    /// Appends bytes; more than [`missing`](Self::missing) are an error. Blocking.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StoreError> {
        if data.len() as u64 > self.missing() {
            return Err(StoreError::Failed("more bytes than the piece has".into()));
        }
        if self.place.is_none() {
            self.take_place()?;
        }
        let Some(place) = &self.place else { return Ok(()) };
        place.log.write_at(place.offset + UNIT + self.written, data)?;
        self.sum(data);
        self.builder.update(data);
        self.written += data.len() as u64;
        if self.missing() == 0 {
            let builder = std::mem::take(&mut self.builder);
            self.tree = builder.finish().ok();
        }
        Ok(())
    }

    fn take_place(&mut self) -> Result<(), StoreError> {
        let place = self.shared.place(record_length(self.length))?;
        self.promise = None;
        let header = Header::Piece { piece: self.piece, length: self.length, expires: self.expires };
        self.header = header.encode(&place.log.nonce);
        place.log.write_at(place.offset, &self.header)?;
        self.place = Some(place);
        Ok(())
    }

    fn sum(&mut self, mut data: &[u8]) {
        let mut at = self.written;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min((SHARE - at % SHARE) as usize));
            match self.crcs.last_mut() {
                Some(crc) if !at.is_multiple_of(SHARE) => *crc = crc32c::crc32c_append(*crc, now),
                _ => self.crcs.push(crc32c::crc32c(now)),
            }
            at += now.len() as u64;
            data = later;
        }
    }

    /// The root, once nothing is missing; else zeros.
    pub fn root(&self) -> [u8; 32] {
        self.tree.as_ref().map_or([0; 32], PieceTree::root)
    }

    /// The whole piece, ready to be committed.
    pub(super) fn fill(self) -> Result<Filled, StoreError> {
        let (Some(place), Some(tree)) = (self.place, self.tree) else {
            return Err(StoreError::Failed("the piece is not whole".into()));
        };
        let shares = tree.leaves().iter().zip(&self.crcs).map(|(leaf, crc)| ShareSums { leaf: *leaf, crc: *crc });
        Ok(Filled {
            piece: self.piece,
            length: self.length,
            expires: self.expires,
            header: header_crc(&self.header),
            root: tree.root(),
            shares: shares.collect(),
            place,
        })
    }
}
