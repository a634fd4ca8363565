//! What was paid and what was spent, per limit: a budget that no crash and no replay can stretch.
//!
//! The rules, for a limit with budget B of which the uplink's highest order pays P <= B:
//! - Bytes move only while spent + bytes <= P, whatever orders are sent again.
//! - **Get:** before the first byte that would exceed what is noted as spent, more is noted and synced: the next multiple
//!   of [`STEP`] (at most B). After a crash all that was noted counts as spent. So the bytes served before a crash are at
//!   most those noted, those served after it at most B minus those noted: never more than B in all.
//! - **Put:** a limit names one piece, and a stored piece is never replaced. So nothing more can be stored under the limit
//!   while the piece exists, and [`Ledger::sync`] comes before any piece is deleted. The note of a put needs no sync of its
//!   own.
//! - What a limit is worth to the node is the highest order it noted: after a crash it may lose the pay of what came after
//!   its last note (at most one step of a get; of a put, what was not synced before a power cut), never can it ask for more.
//! - A limit is forgotten when it has expired and was settled (or cannot be any more, a day after it was made). The ledger
//!   then notes how far: limits that expired before are refused even if the clock is set back.
//!
//! After a clean close exactly what moved counts as spent.

mod account;
mod file;
mod record;

use crate::disk::{self, Lost};
use crate::group::{Batch, Group};
use crate::verify::Limit;
use account::Accounts;
use file::File;
use parking_lot::Mutex;
use record::{Frames, Record};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use strewn_engine::ids::{SatelliteId, Serial};
use strewn_engine::order::{Order, OrderLimit, Signed};

/// Bytes of gets that are noted as spent ahead of time.
pub const STEP: u64 = 8 << 20;

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("ledger: {0}")]
    Io(#[from] std::io::Error),
    /// Written by another version of the program.
    #[error("ledger of version {0}, this program knows version {known}", known = record::VERSION)]
    Version(u32),
}

/// Why bytes may not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The orders do not cover the bytes.
    #[error("{spent} bytes spent, {paid} ordered")]
    Unpaid {
        /// Bytes that count as moved.
        spent: u64,
        /// Highest order.
        paid: u64,
    },
    /// The limit expired before limits that are forgotten already.
    #[error("limit has expired")]
    Expired,
    /// Another limit has the same serial number.
    #[error("serial number of another limit")]
    OtherLimit,
    /// Too many limits at a time.
    #[error("too many limits")]
    Busy,
    /// The ledger cannot be written.
    #[error("ledger: {0}")]
    Failed(String),
}

impl From<Lost> for LedgerError {
    fn from(lost: Lost) -> Self {
        Self::Failed(lost.to_string())
    }
}

/// See the module.
pub struct Ledger {
    book: Arc<Book>,
    notes: Arc<Group<Book>>,
}

struct Book {
    accounts: Mutex<Accounts>,
    /// `None` once the ledger is closed.
    file: Mutex<Option<File>>,
    /// Notes are written when the ledger is dropped; so must the lock be held.
    _lock: Option<Arc<fs::File>>,
}

/// What is to be written down.
enum Note {
    /// That a limit's gets have spent more than was noted.
    Get(Serial),
    /// What a put has spent and ordered.
    Put(Serial),
    Settled(Vec<Serial>),
    /// Nothing more, but durably.
    Sync,
    /// Only what is still needed at this second, in a new file; true: exactly as it is, because nothing follows.
    Rewrite(i64, bool),
}

impl Ledger {
    /// Opens the ledger in file `path`, or makes it. `lock` is held as long as anything may still be written.
    pub fn open(path: &Path, now: i64, lock: Option<Arc<fs::File>>) -> Result<Self, OpenError> {
        let bytes = file::read(path)?;
        let mut frames = Frames::new(bytes.as_deref().unwrap_or_default());
        let mut accounts = Accounts::replay(&mut frames, now);
        let remembered = accounts.len();
        accounts.forget(now);
        let resumed = match &bytes {
            Some(bytes) if accounts.len() == remembered => File::resume(path, bytes, &frames)?,
            _ => None,
        };
        let file = match resumed {
            Some(file) => file,
            // Nothing is appended behind a torn tail, and what is forgotten stays so. An empty ledger can as well be lost.
            None => File::create(path, &accounts.records(false), bytes.is_some())?,
        };
        let book = Arc::new(Book { accounts: Mutex::new(accounts), file: Mutex::new(Some(file)), _lock: lock });
        let notes = Group::new(book.clone());
        Ok(Self { book, notes })
    }

    /// Takes an order, which the caller has verified; one that is not higher than those before changes nothing.
    pub fn pay(&self, limit: &Limit, order: &Order, signed: &Signed<Order>) -> Result<(), LedgerError> {
        self.book.accounts.lock().pay(limit, order, signed)
    }

    /// Bytes spent, and bytes paid for by the highest order.
    pub fn balance(&self, serial: &Serial) -> (u64, u64) {
        self.book.accounts.lock().balance(serial)
    }

    /// Spends bytes of a put.
    pub fn spend_on_put(&self, serial: &Serial, bytes: u64) -> Result<(), LedgerError> {
        self.book.accounts.lock().spend(serial, bytes).map(drop)
    }

    /// Notes what was spent and ordered for a put, before it is acknowledged.
    pub async fn note_put(&self, serial: &Serial) -> Result<(), LedgerError> {
        self.notes.submit(Note::Put(*serial)).await?
    }

    /// Spends bytes of a get; when it returns they may move, and are spent even after a crash.
    pub async fn spend_on_get(&self, serial: &Serial, bytes: u64) -> Result<(), LedgerError> {
        let is_noted = self.book.accounts.lock().spend(serial, bytes)?;
        if is_noted { Ok(()) } else { self.notes.submit(Note::Get(*serial)).await? }
    }

    /// Makes everything noted durable.
    pub async fn sync(&self) -> Result<(), LedgerError> {
        self.notes.submit(Note::Sync).await?
    }

    /// Up to `count` limits of a satellite that spend no more, with their highest orders, to be sent to it.
    pub fn orders_to_settle(
        &self,
        satellite: SatelliteId,
        now: i64,
        count: usize,
    ) -> Vec<(Signed<OrderLimit>, Signed<Order>)> {
        self.book.accounts.lock().orders_to_settle(satellite, now, count)
    }

    /// Notes that the satellite has accepted the orders of these limits.
    pub async fn settled(&self, serials: Vec<Serial>) -> Result<(), LedgerError> {
        self.notes.submit(Note::Settled(serials)).await?
    }

    /// Forgets what is over and writes the file anew if that is worth it; makes everything noted durable.
    pub async fn tidy(&self, now: i64) -> Result<(), LedgerError> {
        let book = self.book.clone();
        if disk::run(move || book.is_worth_rewriting(now)).await? {
            return self.notes.submit(Note::Rewrite(now, false)).await?;
        }
        self.sync().await
    }

    /// Writes down exactly what was spent. Nothing can be spent any more.
    pub async fn close(&self, now: i64) -> Result<(), LedgerError> {
        self.book.accounts.lock().close();
        self.notes.submit(Note::Rewrite(now, true)).await?
    }

    /// Limits that are remembered.
    pub fn limits(&self) -> usize {
        self.book.accounts.lock().len()
    }
}

impl Batch for Book {
    type Item = Note;
    type Outcome = Result<(), LedgerError>;

    fn run(&self, notes: Vec<Note>) -> Vec<Self::Outcome> {
        let count = notes.len();
        let result = self.write(notes).map_err(|error| {
            tracing::error!(%error, "the ledger cannot be written: nothing is served any more");
            self.accounts.lock().fail(&error)
        });
        vec![result; count]
    }
}

impl Book {
    fn write(&self, notes: Vec<Note>) -> std::io::Result<()> {
        let mut records = Vec::new();
        let mut noted = Vec::new();
        let (mut sync, mut rewrite) = (false, None);
        {
            let mut accounts = self.accounts.lock();
            for note in notes {
                match note {
                    Note::Get(serial) => {
                        sync = true;
                        noted.extend(accounts.note_get(serial, &mut records));
                    }
                    Note::Put(serial) => noted.extend(accounts.note_put(serial, &mut records)),
                    Note::Settled(serials) => {
                        serials.iter().for_each(|serial| accounts.settle(serial));
                        records.extend(serials.into_iter().map(|serial| Record::Settled { serial }));
                    }
                    Note::Sync => sync = true,
                    Note::Rewrite(now, exact) => rewrite = Some((now, exact)),
                }
            }
        }
        let mut slot = self.file.lock();
        let file = slot.as_mut().ok_or_else(|| std::io::Error::other("closed"))?;
        file.append(&records)?;
        if sync {
            file.sync()?;
        }
        self.accounts.lock().set_noted(&noted);
        let Some((now, exact)) = rewrite else { return Ok(()) };
        let records = {
            let mut accounts = self.accounts.lock();
            if exact && accounts.is_written() {
                file.sync()?;
                *slot = None;
                return Ok(());
            }
            accounts.forget(now);
            accounts.records(exact)
        };
        file.rewrite(&records)?;
        self.accounts.lock().set_written(&records);
        if exact {
            *slot = None;
        }
        Ok(())
    }

    /// True if most of the file is of no use any more.
    fn is_worth_rewriting(&self, now: i64) -> bool {
        let useful = self.accounts.lock().useful(now) as u64;
        self.file.lock().as_ref().map_or(0, File::length) > file::GROW + 2 * useful * ACCOUNT_BYTES
    }
}

/// About what one limit takes in the file.
const ACCOUNT_BYTES: u64 = 512;

#[cfg(test)]
mod tests;
