//! Where pieces lie: an SQLite database that can be lost. The logs are the truth.
//!
//! A transaction is written after the logs it speaks of were synced, and is not synced itself: after a power cut the index
//! may be some transactions behind, and the logs are read again from its marks.
//! - `applied`: every commit with a sequence number up to this one is in the index.
//! - mark of a log: no record before this offset can still become valid (other than those in the index).

use super::record::record_length;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use strewn_engine::ids::PieceId;
use strewn_wire::node::MAX_PIECE;

/// Where a piece lies and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) log: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) seq: u64,
    pub(crate) expires: i64,
    pub(crate) root: [u8; 32],
}

/// The database.
pub(crate) struct Index {
    connection: Connection,
}

/// Changes that belong together.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) put: Vec<(PieceId, Location)>,
    pub(crate) removed: Vec<PieceId>,
    /// New marks of logs.
    pub(crate) marks: Vec<(u64, u64)>,
    /// Logs that are gone.
    pub(crate) forget: Vec<u64>,
    /// Highest sequence number that is now covered.
    pub(crate) applied: u64,
}

/// Version of the tables; another one is rebuilt from the logs.
const VERSION: i64 = 1;

/// Page cache of a connection in KiB: a process may hold a hundred nodes.
const CACHE_KIB: i64 = 256;

const TABLES: &str = "
    CREATE TABLE piece (
        id BLOB PRIMARY KEY, log INTEGER NOT NULL, at INTEGER NOT NULL, length INTEGER NOT NULL,
        seq INTEGER NOT NULL, expires INTEGER NOT NULL, root BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX piece_log ON piece (log, at);
    CREATE INDEX piece_expires ON piece (expires) WHERE expires < 9223372036854775807;
    CREATE TABLE mark (log INTEGER PRIMARY KEY, at INTEGER NOT NULL);
    CREATE TABLE applied (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL);
    INSERT INTO applied VALUES (1, 0);
";

impl Index {
    /// Opens the index of the store with this name, or makes an empty one in place of what is missing, damaged, or of
    /// another store or version.
    pub(crate) fn open(path: &Path, store: &[u8; 16]) -> rusqlite::Result<Self> {
        match Self::open_existing(path, store) {
            Ok(Some(index)) => return Ok(index),
            Ok(None) => {}
            // In use by somebody, not damaged.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => return Err(error),
            Err(error) => tracing::warn!(%error, "piece index unusable, rebuilding it from the logs"),
        }
        remove(path);
        let connection = connect(path)?;
        connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION};"))?;
        connection.execute("CREATE TABLE store (name BLOB NOT NULL)", [])?;
        connection.execute("INSERT INTO store VALUES (?1)", [&store[..]])?;
        connection.execute_batch("COMMIT")?;
        Ok(Self { connection })
    }

    fn open_existing(path: &Path, store: &[u8; 16]) -> rusqlite::Result<Option<Self>> {
        if !path.exists() || suspect_path(path).exists() {
            return Ok(None);
        }
        let connection = connect(path)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != VERSION {
            return Ok(None);
        }
        let name: Vec<u8> = connection.query_row("SELECT name FROM store", [], |row| row.get(0))?;
        let index = Self { connection };
        index.applied()?;
        Ok((name == store).then_some(index))
    }

    /// The piece, if there is one.
    pub(crate) fn get(&self, piece: &PieceId) -> rusqlite::Result<Option<Location>> {
        self.connection
            .prepare_cached("SELECT log, at, length, seq, expires, root FROM piece WHERE id = ?1")?
            .query_row([&piece.as_bytes()[..]], |row| location(row, 0))
            .optional()
    }

    /// Everything up to this sequence number is here.
    pub(crate) fn applied(&self) -> rusqlite::Result<u64> {
        self.connection.query_row("SELECT seq FROM applied", [], |row| unsigned(row, 0))
    }

    /// Marks by log.
    pub(crate) fn marks(&self) -> rusqlite::Result<BTreeMap<u64, u64>> {
        let mut statement = self.connection.prepare("SELECT log, at FROM mark")?;
        statement.query_map([], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))?.collect()
    }

    /// Bytes of live records by log, and the number of live pieces.
    pub(crate) fn live(&self) -> rusqlite::Result<(BTreeMap<u64, u64>, u64)> {
        let (mut live, mut count) = (BTreeMap::new(), 0);
        let mut statement = self.connection.prepare("SELECT log, length FROM piece")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            *live.entry(unsigned(row, 0)?).or_default() += record_length(piece_length(row, 1)?);
            count += 1;
        }
        Ok((live, count))
    }

    /// Up to `limit` pieces of a log from an offset on.
    pub(crate) fn of_log(&self, log: u64, from: u64, limit: u32) -> rusqlite::Result<Vec<(PieceId, Location)>> {
        let sql = "SELECT id, log, at, length, seq, expires, root FROM piece WHERE log = ?1 AND at >= ?2
                   ORDER BY at LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement
            .query_map(params![log as i64, from as i64, limit], |row| Ok((piece_id(row, 0)?, location(row, 1)?)))?;
        rows.collect()
    }

    /// Up to `limit` pieces that expired before `now` (seconds since 1970).
    pub(crate) fn expired(&self, now: i64, limit: u32) -> rusqlite::Result<Vec<PieceId>> {
        let sql = "SELECT id FROM piece WHERE expires < ?1 AND expires < 9223372036854775807 LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_map(params![now, limit], |row| piece_id(row, 0))?.collect()
    }

    /// Applies changes, all or none.
    pub(crate) fn apply(&mut self, changes: &Changes) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut put =
                transaction.prepare_cached("INSERT OR REPLACE INTO piece VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            for (piece, at) in &changes.put {
                insert(&mut put, piece, at)?;
            }
            let mut remove = transaction.prepare_cached("DELETE FROM piece WHERE id = ?1")?;
            for piece in &changes.removed {
                remove.execute([&piece.as_bytes()[..]])?;
            }
            set_marks(&transaction, changes.marks.iter().copied())?;
            let mut forget = transaction.prepare_cached("DELETE FROM mark WHERE log = ?1")?;
            for log in &changes.forget {
                forget.execute([*log as i64])?;
            }
            set_applied(&transaction, changes.applied)?;
        }
        transaction.commit()
    }
}

/// What the logs say, put into the index as they are read, in any order; all or nothing.
pub(crate) struct Replay<'a> {
    transaction: rusqlite::Transaction<'a>,
    /// Sequence number of the latest tombstone of each piece.
    dead: HashMap<PieceId, u64>,
}

impl Index {
    /// Begins to take in what the logs say.
    pub(crate) fn replay(&mut self) -> rusqlite::Result<Replay<'_>> {
        Ok(Replay { transaction: self.connection.transaction()?, dead: HashMap::new() })
    }
}

impl Replay<'_> {
    /// A piece was stored.
    pub(crate) fn put(&self, piece: &PieceId, at: &Location) -> rusqlite::Result<()> {
        if self.dead.get(piece).is_some_and(|seq| *seq > at.seq) {
            return Ok(());
        }
        let sql = "INSERT INTO piece VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET
                   log = excluded.log, at = excluded.at, length = excluded.length, seq = excluded.seq,
                   expires = excluded.expires, root = excluded.root WHERE excluded.seq > seq";
        let mut statement = self.transaction.prepare_cached(sql)?;
        insert(&mut statement, piece, at)
    }

    /// A piece was deleted.
    pub(crate) fn delete(&mut self, piece: &PieceId, seq: u64) -> rusqlite::Result<()> {
        let latest = self.dead.entry(*piece).or_default();
        *latest = seq.max(*latest);
        let sql = "DELETE FROM piece WHERE id = ?1 AND seq < ?2";
        self.transaction.prepare_cached(sql)?.execute(params![&piece.as_bytes()[..], seq as i64])?;
        Ok(())
    }

    /// Ends it: everything up to `applied` is in.
    pub(crate) fn finish(self, marks: &BTreeMap<u64, u64>, applied: u64) -> rusqlite::Result<()> {
        self.transaction.execute("DELETE FROM mark", [])?;
        set_marks(&self.transaction, marks.iter().map(|(log, at)| (*log, *at)))?;
        set_applied(&self.transaction, applied)?;
        self.transaction.commit()
    }
}

fn insert(statement: &mut rusqlite::Statement<'_>, piece: &PieceId, at: &Location) -> rusqlite::Result<()> {
    statement.execute(params![
        &piece.as_bytes()[..],
        at.log as i64,
        at.offset as i64,
        at.length as i64,
        at.seq as i64,
        at.expires,
        &at.root[..]
    ])?;
    Ok(())
}

fn set_marks(connection: &Connection, marks: impl IntoIterator<Item = (u64, u64)>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO mark VALUES (?1, ?2)")?;
    for (log, at) in marks {
        statement.execute(params![log as i64, at as i64])?;
    }
    Ok(())
}

fn set_applied(connection: &Connection, seq: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE applied SET seq = max(seq, ?1)")?.execute([seq as i64])?;
    Ok(())
}

/// Notes that the index gave nonsense, so that the next start rebuilds it.
pub(crate) fn mark_suspect(path: &Path) {
    if let Err(error) = std::fs::write(suspect_path(path), []) {
        tracing::error!(%error, "cannot note that the piece index is damaged");
    }
}

fn suspect_path(path: &Path) -> std::path::PathBuf {
    path.with_extension("suspect")
}

/// Removes the database and what belongs to it.
pub(crate) fn remove(path: &Path) {
    for name in [path.to_owned(), path.with_extension("db-wal"), path.with_extension("db-shm"), suspect_path(path)] {
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %name.display(), "cannot remove the old piece index");
            }
            _ => {}
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // Exclusive: the node's lock keeps others out, and no shared memory file is needed. Making an empty database need not
    // be synced: what of it is lost is made again.
    connection.execute_batch(&format!(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{CACHE_KIB};"
    ))?;
    Ok(connection)
}

fn location(row: &Row<'_>, first: usize) -> rusqlite::Result<Location> {
    Ok(Location {
        log: unsigned(row, first)?,
        offset: unsigned(row, first + 1)?,
        length: piece_length(row, first + 2)?,
        seq: unsigned(row, first + 3)?,
        expires: row.get(first + 4)?,
        root: row.get(first + 5)?,
    })
}

fn piece_length(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let length = unsigned(row, column)?;
    let fits = (1..=MAX_PIECE).contains(&length);
    fits.then_some(length).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, length as i64))
}

fn piece_id(row: &Row<'_>, column: usize) -> rusqlite::Result<PieceId> {
    Ok(PieceId::from_bytes(row.get(column)?))
}

/// Numbers here stay far below 2^63; a negative one is damage.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}
