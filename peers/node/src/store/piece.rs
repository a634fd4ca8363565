//! A stored piece, opened for reading.

use super::index::Location;
use super::log::Log;
use super::record::{Footer, share_count};
use super::recover::read_footer;
use super::{Shared, StoreError, check_shares};
use std::sync::Arc;
use strewn_engine::ids::PieceId;
use strewn_engine::piece::{PieceShape, PieceTree};

/// A piece that can be read, also after it was deleted or moved meanwhile.
pub struct Piece {
    log: Arc<Log>,
    at: Location,
    footer: Footer,
    tree: PieceTree,
}

/// Times a piece is looked up while its log is being compacted.
const LOOKUPS: usize = 8;

impl Piece {
    pub(super) fn open(shared: &Shared, piece: &PieceId) -> Result<Self, StoreError> {
        for _ in 0..LOOKUPS {
            let at = shared.index(|index| index.get(piece))?.ok_or(StoreError::NotFound)?;
            if let Some(log) = shared.space.log(at.log)? {
                return Self::read(log, at, *piece);
            }
        }
        // The index names a log that is not there: its header is damaged, or it was taken away.
        Err(StoreError::Damaged)
    }

    fn read(log: Arc<Log>, at: Location, piece: PieceId) -> Result<Self, StoreError> {
        let footer = read_footer(&log, at.offset, at.length, piece)?;
        let footer = footer.filter(|f| f.seq == at.seq && f.root == at.root).ok_or(StoreError::Damaged)?;
        let shape = PieceShape::new(at.length).map_err(|_| StoreError::Damaged)?;
        let leaves = footer.shares.iter().map(|share| share.leaf).collect();
        let tree = PieceTree::from_leaves(shape, leaves).map_err(|_| StoreError::Damaged)?;
        Ok(Self { log, at, footer, tree })
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.at.length
    }

    /// Number of shares.
    pub fn shares(&self) -> u32 {
        share_count(self.at.length) as u32
    }

    /// The root it was stored with.
    pub fn root(&self) -> &[u8; 32] {
        &self.at.root
    }

    /// The measures of its shares.
    pub fn shape(&self) -> PieceShape {
        self.tree.shape()
    }

    /// The siblings that prove a share.
    pub fn prove(&self, share: u32) -> Option<Vec<[u8; 32]>> {
        self.tree.prove(share)
    }

    /// Reads shares `first..first + count`, as far as there are any, into `data`. Wrong bytes are
    /// [`StoreError::Damaged`].
    pub fn shares_into(&self, first: u32, count: u32, data: &mut Vec<u8>) -> Result<(), StoreError> {
        match check_shares(&self.log, &self.at, &self.footer.shares, first as usize, count as usize, data) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::Damaged),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(StoreError::Damaged),
            Err(e) => Err(e.into()),
        }
    }
}
