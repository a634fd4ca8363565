//! The SQLite file of the index.
//!
//! Version 3: `ranges(inode, value, synced)`, `files(inode, value)`, `entries(directory, name, cookie, value)`,
//! `listings(directory, value)` with the marks of directories whose entries are all there, `facts(name, value)` with the
//! boot it was last used in (16 bytes), how often it was opened (8 bytes, big-endian), the feed position (epoch and
//! sequence, 8 bytes each, big-endian) and the mark of an orderly close. Another version is no index.

use super::pending::{Directory, Pending};
use super::{EntryRow, Feed, Listing};
use crate::journal::BootId;
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strewn_engine::ids::InodeId;

/// "strI": what the file says it is.
const APPLICATION: i32 = 0x7374_7249;
const VERSION: i32 = 3;
/// How long one connection waits for the other.
const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements kept.
const STATEMENTS: usize = 32;

const SCHEMA: &str = "
CREATE TABLE ranges(inode BLOB PRIMARY KEY, value BLOB NOT NULL, synced INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE files(inode BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entries(directory BLOB NOT NULL, name BLOB NOT NULL, cookie INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY(directory, name)) WITHOUT ROWID;
CREATE UNIQUE INDEX entries_by_cookie ON entries(directory, cookie);
CREATE TABLE listings(directory BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE facts(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";

const TABLES: [&str; 5] = ["ranges", "files", "entries", "listings", "facts"];
/// Tables of what the feed tells news about.
const NAMES: [&str; 2] = ["entries", "listings"];
/// Facts that speak of these tables.
const FEED: &str = "feed";
const CLOSED: &str = "closed";

pub(super) struct Database {
    connection: Connection,
    boot: BootId,
    /// The mark of the orderly close that came before this opening.
    closed: Option<Bytes>,
}

impl Database {
    /// `None` if neither the old nor an empty one can be had.
    pub(super) fn open_or_rebuild(path: &Path, boot: BootId) -> Option<Self> {
        if let Ok(database) = Self::open(path, boot) {
            return Some(database);
        }
        Self::rebuild(path, boot).map_err(|error| tracing::warn!(%error, "the cache runs without an index")).ok()
    }

    /// Deletes what is there and makes an empty one.
    pub(super) fn rebuild(path: &Path, boot: BootId) -> rusqlite::Result<Self> {
        for file in files(path) {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(rusqlite::Error::InvalidPath(file));
                }
                _ => {}
            }
        }
        sync_directory_of(path).map_err(|_| rusqlite::Error::InvalidPath(path.into()))?;
        let connection = Connection::open(path)?;
        // Before anything is written: it cannot be changed afterwards.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "application_id", APPLICATION)?;
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", VERSION)?;
        drop(connection);
        Self::open(path, boot)
    }

    pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        Self::prepare(&connection)?;
        Ok(Self { connection, boot: BootId([0; 16]), closed: None })
    }

    pub(super) fn boot(&self) -> BootId {
        self.boot
    }

    pub(super) fn take_closed(&mut self) -> Option<Bytes> {
        self.closed.take()
    }

    /// Applies a batch, all or nothing; marks of whole listings only if they count.
    pub(super) fn apply(&mut self, batch: &Pending, listings: bool) -> rusqlite::Result<()> {
        let boot = self.boot;
        let transaction = self.connection.transaction()?;
        if batch.cleared {
            for table in TABLES {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
            set_fact(&transaction, "boot", &boot.0)?;
        }
        if batch.names_cleared {
            clear_names(&transaction)?;
        }
        if batch.files_cleared {
            transaction.execute("DELETE FROM files", [])?;
        }
        for (inode, value) in &batch.ranges {
            match value {
                Some((value, synced)) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO ranges(inode, value, synced) VALUES (?1, ?2, ?3)")?
                    .execute(params![inode.as_bytes(), &value[..], synced])?,
                None => {
                    transaction.prepare_cached("DELETE FROM ranges WHERE inode = ?1")?.execute([inode.as_bytes()])?
                }
            };
        }
        for (inode, value) in &batch.files {
            match value {
                Some(value) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO files(inode, value) VALUES (?1, ?2)")?
                    .execute(params![inode.as_bytes(), &value[..]])?,
                None => {
                    transaction.prepare_cached("DELETE FROM files WHERE inode = ?1")?.execute([inode.as_bytes()])?
                }
            };
        }
        for (inode, directory) in &batch.directories {
            apply_directory(&transaction, *inode, directory, listings)?;
        }
        if let Some(feed) = batch.feed {
            set_fact(&transaction, FEED, &[feed.epoch.to_be_bytes(), feed.sequence.to_be_bytes()].concat())?;
        }
        if let Some(mark) = &batch.closed {
            set_fact(&transaction, CLOSED, mark)?;
        }
        transaction.commit()?;
        if batch.cleared || batch.files_cleared {
            // What was emptied gives its room back.
            let mut vacuum = self.connection.prepare("PRAGMA incremental_vacuum")?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
        }
        Ok(())
    }

    pub(super) fn file(&self, inode: InodeId) -> rusqlite::Result<Option<Bytes>> {
        self.value("SELECT value FROM files WHERE inode = ?1", inode)
    }

    pub(super) fn entries(&self, directory: InodeId, after: u64, limit: u32) -> rusqlite::Result<Listing> {
        // One transaction, so that the mark speaks of these rows.
        let transaction = self.connection.unchecked_transaction()?;
        let whole = self.value("SELECT value FROM listings WHERE directory = ?1", directory)?;
        let rows = self
            .connection
            .prepare_cached(
                "SELECT cookie, name, value FROM entries WHERE directory = ?1 AND cookie > ?2 ORDER BY cookie LIMIT ?3",
            )?
            .query_map(params![directory.as_bytes(), stored(after), limit], |row| {
                Ok(EntryRow { cookie: cookie(row.get(0)?), name: row.get(1)?, value: bytes(row.get(2)?) })
            })?
            .collect::<rusqlite::Result<_>>()?;
        transaction.commit()?;
        Ok(Listing { whole, rows })
    }

    pub(super) fn ranges_after(&self, after: Option<InodeId>, limit: u32) -> rusqlite::Result<Vec<(InodeId, Bytes)>> {
        let after = after.map_or_else(Vec::new, |inode| inode.as_bytes().to_vec());
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self
            .connection
            .prepare_cached("SELECT inode, value FROM ranges WHERE inode > ?1 ORDER BY inode LIMIT ?2")?
            .query_map(params![after, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        rows.into_iter()
            .map(|(inode, value)| {
                let inode = InodeId::try_from(&inode[..]).map_err(|_| rusqlite::Error::InvalidQuery)?;
                Ok((inode, value.into()))
            })
            .collect()
    }

    pub(super) fn feed(&self) -> rusqlite::Result<Option<Feed>> {
        Ok(self.fact(FEED)?.and_then(|value| {
            let (epoch, sequence) = value.split_first_chunk::<8>()?;
            Some(Feed { epoch: u64::from_be_bytes(*epoch), sequence: u64::from_be_bytes(sequence.try_into().ok()?) })
        }))
    }

    fn open(path: &Path, boot: BootId) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if (application, version) != (APPLICATION, VERSION) {
            return Err(rusqlite::Error::InvalidQuery);
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A power cut may take the last batches, never a part of one.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        Self::prepare(&connection)?;
        let mut database = Self { connection, boot, closed: None };
        database.withdraw_promises()?;
        Ok(database)
    }

    /// Takes back, durably, that the last close was an orderly one, and that rows about data files outlive a reboot: the files
    /// may be written again from here on.
    fn withdraw_promises(&mut self) -> rusqlite::Result<()> {
        let rebooted = self.fact("boot")?.as_deref() != Some(&self.boot.0[..]);
        let opened = self.fact("opened")?.and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?)));
        self.closed = self.fact(CLOSED)?.map(Bytes::from);
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let transaction = self.connection.transaction()?;
        if rebooted {
            transaction.execute("DELETE FROM ranges WHERE synced = 0", [])?;
            set_fact(&transaction, "boot", &self.boot.0)?;
        }
        transaction.execute("UPDATE ranges SET synced = 0 WHERE synced <> 0", [])?;
        transaction.execute("DELETE FROM facts WHERE name = ?1", [CLOSED])?;
        // Always a change, so that there is always a sync: the last opening may have been killed in the middle of its own.
        set_fact(&transaction, "opened", &opened.unwrap_or(0).wrapping_add(1).to_be_bytes())?;
        transaction.commit()?;
        self.connection.pragma_update(None, "synchronous", "NORMAL")
    }

    fn prepare(connection: &Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(())
    }

    fn value(&self, query: &str, inode: InodeId) -> rusqlite::Result<Option<Bytes>> {
        self.connection.prepare_cached(query)?.query_row([inode.as_bytes()], |row| row.get(0).map(bytes)).optional()
    }

    fn fact(&self, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        self.connection
            .prepare_cached("SELECT value FROM facts WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()
    }
}

fn apply_directory(
    transaction: &Transaction<'_>,
    inode: InodeId,
    directory: &Directory,
    listings: bool,
) -> rusqlite::Result<()> {
    match &directory.listing {
        Some(Some(value)) if listings => {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO listings(directory, value) VALUES (?1, ?2)")?
                .execute(params![inode.as_bytes(), &value[..]])?;
        }
        None => {}
        _ => {
            transaction.prepare_cached("DELETE FROM listings WHERE directory = ?1")?.execute([inode.as_bytes()])?;
        }
    }
    // What goes away first: a cookie is unique, and may have moved to another name.
    let (gone, kept): (Vec<_>, Vec<_>) = directory.entries.iter().partition(|(_, value)| value.is_none());
    for (name, value) in gone.into_iter().chain(kept) {
        match value {
            Some((cookie, value)) => transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO entries(directory, name, cookie, value) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![inode.as_bytes(), name, stored(*cookie), &value[..]])?,
            None => transaction
                .prepare_cached("DELETE FROM entries WHERE directory = ?1 AND name = ?2")?
                .execute(params![inode.as_bytes(), name])?,
        };
    }
    Ok(())
}

fn clear_names(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in NAMES {
        transaction.execute(&format!("DELETE FROM {table}"), [])?;
    }
    transaction.execute("DELETE FROM facts WHERE name IN (?1, ?2)", [FEED, CLOSED])?;
    Ok(())
}

fn set_fact(connection: &Connection, name: &str, value: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO facts(name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])?;
    Ok(())
}

/// What was deleted must not come back after a power cut.
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn bytes(value: Vec<u8>) -> Bytes {
    value.into()
}

/// SQLite's integers are signed; flipping the sign bit keeps the order of unsigned ones.
fn stored(cookie: u64) -> i64 {
    (cookie ^ (1 << 63)) as i64
}

fn cookie(stored: i64) -> u64 {
    stored as u64 ^ (1 << 63)
}

/// Reads all of a database.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let answer = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|connection| connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)));
    match answer {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(answer) => Err(answer),
        Err(error) => Err(error.to_string()),
    }
}

/// The database and the files SQLite keeps beside it.
pub(super) fn files(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let path = path.to_path_buf();
    ["", "-wal", "-shm", "-journal"].into_iter().map(move |suffix| {
        let mut file = path.clone().into_os_string();
        file.push(suffix);
        file.into()
    })
}
