//! The one place where something becomes true: groups of puts, moves and deletes.
//!
//! Order within a group: footers and tombstones are written, every log touched is synced, the index follows, and only then
//! does anybody hear of it.

use super::incoming::Filled;
use super::index::{Changes, Location};
use super::log::Log;
use super::record::{Footer, Header, UNIT, record_length};
use super::space::Place;
use super::{Shared, StoreError};
use crate::group::Batch;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strewn_engine::ids::PieceId;

/// What can be committed.
pub(crate) enum Operation {
    Put(Filled),
    /// A copy of the piece that lies at this place, to take over from it. Keeps its content and expiry.
    Move(Filled, Location),
    Delete(PieceId),
    /// A tombstone carried over from a log that is to go, as it was.
    Carry(Header),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Stored,
    /// True if the copy took over.
    Moved(bool),
    /// True if there was something to delete.
    Deleted(bool),
    Carried,
}

pub(crate) struct Committer {
    shared: Arc<Shared>,
    pieces: AtomicU64,
    sequence: Mutex<Sequence>,
}

#[derive(Clone, Copy)]
struct Sequence {
    last: u64,
    synced: u64,
}

/// A group in the making.
struct Work {
    sequence: Sequence,
    /// Pieces as they are after what was done so far.
    pieces: HashMap<PieceId, Option<Location>>,
    places: Vec<(Place, u64)>,
    /// Copies of records that no longer count: log, offset, length.
    dead: Vec<(u64, u64, u64)>,
    added: u64,
    removed: u64,
}

impl Batch for Committer {
    type Item = Operation;
    type Outcome = Result<Done, StoreError>;

    fn run(&self, operations: Vec<Operation>) -> Vec<Self::Outcome> {
        let count = operations.len();
        self.commit(operations).unwrap_or_else(|error| vec![Err(error); count])
    }
}

impl Committer {
    /// Goes on from sequence number `last`; everything up to it is synced.
    pub(crate) fn new(shared: Arc<Shared>, last: u64, pieces: u64) -> Self {
        let sequence = Mutex::new(Sequence { last, synced: last });
        Self { shared, pieces: AtomicU64::new(pieces), sequence }
    }

    /// Pieces that exist.
    pub(crate) fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    /// An error is one of all operations: none of them may count as done.
    fn commit(&self, operations: Vec<Operation>) -> Result<Vec<Result<Done, StoreError>>, StoreError> {
        self.shared.check()?;
        let mut work = Work::new(*self.sequence.lock());
        let mut outcomes = Vec::with_capacity(operations.len());
        for operation in operations {
            let outcome = self.step(&mut work, operation);
            match outcome {
                // Refusals change nothing; after anything else it is unknown what the log holds.
                Ok(_) | Err(StoreError::Exists | StoreError::Full) => outcomes.push(outcome),
                Err(error) => return Err(self.shared.fail(error)),
            }
        }
        if !work.places.is_empty() {
            self.finish(work).map_err(|error| self.shared.fail(error))?;
        }
        Ok(outcomes)
    }

    fn step(&self, work: &mut Work, operation: Operation) -> Result<Done, StoreError> {
        match operation {
            Operation::Put(filled) => match self.lookup(work, &filled.piece)? {
                Some(existing) if existing.root == filled.root => Ok(Done::Stored),
                Some(_) => Err(StoreError::Exists),
                None => {
                    work.added += 1;
                    work.store(filled).map(|()| Done::Stored)
                }
            },
            Operation::Move(filled, from) => {
                if self.lookup(work, &filled.piece)? != Some(from) {
                    return Ok(Done::Moved(false));
                }
                work.dead.push((from.log, from.offset, record_length(from.length)));
                work.store(filled).map(|()| Done::Moved(true))
            }
            Operation::Delete(piece) => match self.lookup(work, &piece)? {
                None => Ok(Done::Deleted(false)),
                Some(at) => {
                    let place = self.shared.place(UNIT)?;
                    work.sequence.last += 1;
                    self.tombstone(work, place, &Header::Tombstone { piece, seq: work.sequence.last, log: at.log })?;
                    work.removed += 1;
                    work.dead.push((at.log, at.offset, record_length(at.length)));
                    work.pieces.insert(piece, None);
                    Ok(Done::Deleted(true))
                }
            },
            Operation::Carry(header) => {
                let place = self.shared.place(UNIT)?;
                self.tombstone(work, place, &header).map(|()| Done::Carried)
            }
        }
    }

    fn lookup(&self, work: &Work, piece: &PieceId) -> Result<Option<Location>, StoreError> {
        match work.pieces.get(piece) {
            Some(known) => Ok(*known),
            None => self.shared.index(|index| index.get(piece)),
        }
    }

    fn tombstone(&self, work: &mut Work, place: Place, header: &Header) -> Result<(), StoreError> {
        let written = place.log.write_at(place.offset, &header.encode(&place.log.nonce));
        work.places.push((place, 0));
        written.map_err(fatal)
    }

    fn finish(&self, work: Work) -> Result<(), StoreError> {
        let touched: BTreeMap<u64, Arc<Log>> =
            work.places.iter().map(|(place, _)| (place.log.number, place.log.clone())).collect();
        for log in touched.values() {
            log.sync().map_err(fatal)?;
        }
        let dead: Vec<_> = work.dead.iter().map(|(log, _, length)| (*log, *length)).collect();
        let mut changes = Changes {
            marks: self.shared.space.keep(work.places, &dead),
            applied: work.sequence.last,
            ..Changes::default()
        };
        for (piece, at) in work.pieces {
            match at {
                Some(at) => changes.put.push((piece, at)),
                None => changes.removed.push(piece),
            }
        }
        self.shared.index(|index| index.apply(&changes))?;
        *self.sequence.lock() = Sequence { last: work.sequence.last, synced: work.sequence.last };
        self.pieces.fetch_add(work.added, Ordering::Relaxed);
        self.pieces.fetch_sub(work.removed, Ordering::Relaxed);
        for (number, offset, length) in work.dead {
            if let Some(log) = self.shared.space.log(number)? {
                log.punch(offset, length);
            }
        }
        Ok(())
    }
}

impl Work {
    fn new(sequence: Sequence) -> Self {
        let (pieces, places, dead) = (HashMap::new(), Vec::new(), Vec::new());
        Self { sequence, pieces, places, dead, added: 0, removed: 0 }
    }

    /// Writes the footer.
    fn store(&mut self, filled: Filled) -> Result<(), StoreError> {
        let Filled { place, piece, length, expires, header, root, shares } = filled;
        self.sequence.last += 1;
        let seq = self.sequence.last;
        let footer = Footer { piece, seq, synced: self.sequence.synced, root, header, shares };
        let at = Location { log: place.log.number, offset: place.offset, length, seq, expires, root };
        let written = place.log.write_at(place.offset + UNIT + length, &footer.encode(length));
        self.pieces.insert(piece, Some(at));
        self.places.push((place, record_length(length)));
        written.map_err(fatal)
    }
}

/// A write that may be half done is no mere lack of room.
fn fatal(error: std::io::Error) -> StoreError {
    StoreError::Failed(format!("piece log: {error}"))
}
