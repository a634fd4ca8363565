//! The tables, their version, and how a database file is opened.

use super::Error;
use rusqlite::Connection;
use std::path::Path;

/// Version of the tables below. Older ones are brought up to it, newer ones refused.
///
/// 1: all tables but those of leases. 2: leases. 3: the bytes of a bucket are those of its extents, no more the sizes of its files.
pub const SCHEMA_VERSION: i64 = 3;

/// "strw" in a database's header: tells a metabase from any other SQLite file.
const APPLICATION_ID: i64 = 0x7374_7277;

/// Pages (4 KiB) of the write-ahead log after which the writer itself checkpoints, should nobody else have.
const WAL_LIMIT_PAGES: i64 = 16_384;

/// How long a connection waits for another one. Only a checkpoint ever makes the writer wait.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Tables of version 1. Buckets have a small number, by which their rows are keyed; ids are BLOBs as in `strewn_engine::ids`.
const TABLES: &str = "
CREATE TABLE satellite (
  only      INTEGER PRIMARY KEY CHECK (only = 1),
  identity  BLOB NOT NULL,               -- public key of the satellite that owns this database
  epoch     INTEGER NOT NULL             -- epoch of new buckets
) STRICT;

CREATE TABLE api_keys (
  id        BLOB PRIMARY KEY,            -- heads of keys that were made here; secrets derive from the identity
  created   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
  tail      BLOB PRIMARY KEY,            -- a key whose line holds this tail is dead
  revoked   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tickets (
  hash      BLOB PRIMARY KEY,            -- BLAKE3 of the ticket
  created   INTEGER NOT NULL,
  node      BLOB                         -- who used it
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
  node      BLOB PRIMARY KEY,
  joined    INTEGER NOT NULL,
  state     BLOB NOT NULL                -- postcard of registry::Known
) STRICT, WITHOUT ROWID;

CREATE TABLE orders (
  serial    BLOB PRIMARY KEY,            -- one row per limit that was settled
  node      BLOB NOT NULL,
  bytes     INTEGER NOT NULL,            -- highest order
  created   INTEGER NOT NULL             -- of the limit
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_created ON orders (created);

CREATE TABLE earned (
  node      BLOB NOT NULL,
  action    INTEGER NOT NULL,
  bytes     INTEGER NOT NULL,
  PRIMARY KEY (node, action)
) STRICT, WITHOUT ROWID;

CREATE TABLE buckets (
  number       INTEGER PRIMARY KEY,
  bucket       BLOB NOT NULL UNIQUE,
  name         TEXT UNIQUE,              -- NULL once removed; its rows go bit by bit
  api_key      BLOB NOT NULL,            -- head of the key that made it
  root         BLOB NOT NULL,
  info         BLOB NOT NULL,            -- postcard of buckets::Fixed
  sequence     INTEGER NOT NULL,
  bytes        INTEGER NOT NULL,
  inodes       INTEGER NOT NULL,
  quota        INTEGER,
  feed_first   INTEGER NOT NULL,         -- oldest sequence number in the feed
  feed_bytes   INTEGER NOT NULL
) STRICT;

CREATE TABLE inodes (
  id           INTEGER PRIMARY KEY,      -- inodes that come together lie together
  bucket       INTEGER NOT NULL,
  inode        BLOB NOT NULL,
  kind         INTEGER NOT NULL,
  version      INTEGER NOT NULL,
  nlink        INTEGER NOT NULL,
  children     INTEGER NOT NULL,
  size         INTEGER NOT NULL,
  generation   INTEGER NOT NULL,
  record       BLOB NOT NULL,
  changed_s    INTEGER NOT NULL,
  changed_ns   INTEGER NOT NULL,
  entries_s    INTEGER NOT NULL,
  entries_ns   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX inodes_inode ON inodes (bucket, inode);

CREATE TABLE entries (
  bucket       INTEGER NOT NULL,
  parent       BLOB NOT NULL,
  name         BLOB NOT NULL,
  child        BLOB NOT NULL,
  kind         INTEGER NOT NULL,
  generation   INTEGER NOT NULL,
  key          BLOB NOT NULL,
  PRIMARY KEY (bucket, parent, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX entries_child ON entries (bucket, child);

CREATE TABLE extents (
  bucket       INTEGER NOT NULL,
  inode        BLOB NOT NULL,
  offset       INTEGER NOT NULL,
  length       INTEGER NOT NULL,
  run          BLOB NOT NULL,
  run_length   INTEGER NOT NULL,
  run_offset   INTEGER NOT NULL,
  cipher       INTEGER NOT NULL,
  generation   INTEGER NOT NULL,
  run_key      BLOB NOT NULL,
  inline       INTEGER NOT NULL,
  PRIMARY KEY (bucket, inode, offset)
) STRICT, WITHOUT ROWID;
CREATE INDEX extents_run ON extents (bucket, run, inode);
CREATE INDEX extents_inline ON extents (bucket, inode, offset) WHERE inline = 1;

CREATE TABLE tags (
  bucket       INTEGER NOT NULL,
  inode        BLOB NOT NULL,
  window       INTEGER NOT NULL,
  tag          BLOB NOT NULL,
  PRIMARY KEY (bucket, inode, window)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
  id           INTEGER PRIMARY KEY,
  bucket       INTEGER NOT NULL,
  run          BLOB NOT NULL,
  length       INTEGER NOT NULL,
  refs         INTEGER NOT NULL,         -- extents that refer to it
  inline       BLOB                      -- its one block, if it lies here
) STRICT;
CREATE UNIQUE INDEX runs_run ON runs (bucket, run);

CREATE TABLE run_parts (
  bucket       INTEGER NOT NULL,
  run          BLOB NOT NULL,
  first        INTEGER NOT NULL,         -- first block
  count        INTEGER NOT NULL,         -- blocks
  segment      BLOB NOT NULL,
  offset       INTEGER NOT NULL,         -- in the segment
  length       INTEGER NOT NULL,         -- ciphertext bytes
  PRIMARY KEY (bucket, run, first)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_parts_segment ON run_parts (bucket, segment);

CREATE TABLE segments (
  bucket       INTEGER NOT NULL,
  segment      BLOB NOT NULL,
  api_key      BLOB NOT NULL,            -- head of the key that began it
  length       INTEGER NOT NULL,
  redundancy   BLOB NOT NULL,            -- postcard
  refs         INTEGER NOT NULL,         -- run parts that lie in it
  finished     INTEGER NOT NULL,         -- 0 while it is being uploaded
  idle_since   INTEGER NOT NULL,         -- when it was begun, finished or lost its last reference
  pending      BLOB,                     -- postcard of segments::Pending, until it is finished
  PRIMARY KEY (bucket, segment)
) STRICT, WITHOUT ROWID;
CREATE INDEX segments_open ON segments (api_key) WHERE finished = 0;
CREATE INDEX segments_idle ON segments (idle_since) WHERE refs = 0;

CREATE TABLE pieces (
  bucket       INTEGER NOT NULL,
  segment      BLOB NOT NULL,
  number       INTEGER NOT NULL,
  node         BLOB NOT NULL,
  root         BLOB NOT NULL,
  PRIMARY KEY (bucket, segment, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
  bucket       INTEGER NOT NULL,
  mount        BLOB NOT NULL,
  api_key      BLOB NOT NULL,            -- head of the key that writes it
  last         INTEGER NOT NULL,         -- last applied number
  results      INTEGER NOT NULL,         -- results ever kept
  PRIMARY KEY (bucket, mount)
) STRICT, WITHOUT ROWID;

CREATE TABLE results (
  bucket       INTEGER NOT NULL,
  mount        BLOB NOT NULL,
  number       INTEGER NOT NULL,         -- counts results of the stream
  id           BLOB NOT NULL,
  digest       BLOB NOT NULL,
  reply        BLOB NOT NULL,            -- postcard of CommitReply
  PRIMARY KEY (bucket, mount, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX results_id ON results (bucket, mount, id);

CREATE TABLE feed (
  bucket       INTEGER NOT NULL,
  sequence     INTEGER NOT NULL,
  change       BLOB NOT NULL,            -- postcard of Change
  PRIMARY KEY (bucket, sequence)
) STRICT, WITHOUT ROWID;
";

/// Tables that came with version 2: what is remembered of leases over a restart.
const LEASES: &str = "
CREATE TABLE leases (
  bucket       INTEGER PRIMARY KEY,
  epoch        INTEGER NOT NULL          -- newest that was given out
) STRICT;

CREATE TABLE lease_holders (
  bucket       INTEGER NOT NULL,
  holder       BLOB NOT NULL,            -- a mount under its key: see service::leases
  epoch        INTEGER NOT NULL,
  number       INTEGER NOT NULL,         -- of the request with which the epoch began
  PRIMARY KEY (bucket, holder)
) STRICT, WITHOUT ROWID;
";

/// Opens the connection that writes, making the tables if the file is new.
pub(super) fn open_writer(path: &Path, identity: &[u8; 32]) -> Result<Connection, Error> {
    let mut connection = Connection::open(path)?;
    configure(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_LIMIT_PAGES)?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    prepare(&transaction, path, identity)?;
    transaction.commit()?;
    Ok(connection)
}

/// Opens one of the connections that read.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Error> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    Ok(connection)
}

/// Opens the connection that moves the write-ahead log into the database.
pub(super) fn open_checkpointer(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    configure(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(128);
    connection.pragma_update(None, "cache_size", -32 * 1024)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

fn prepare(connection: &Connection, path: &Path, identity: &[u8; 32]) -> Result<(), Error> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version, tables) {
        (0, 0, 0) => create(connection, identity)?,
        (APPLICATION_ID, SCHEMA_VERSION, _) => {}
        (APPLICATION_ID, 1, _) => {
            connection.execute_batch(LEASES)?;
            count_extents(connection)?;
        }
        (APPLICATION_ID, 2, _) => count_extents(connection)?,
        (APPLICATION_ID, found, _) => return Err(Error::OtherVersion { path: path.to_owned(), found }),
        _ => return Err(Error::NotAMetabase(path.to_owned())),
    }
    let owner: Vec<u8> = connection.query_row("SELECT identity FROM satellite", [], |row| row.get(0))?;
    if owner != identity { Err(Error::OtherSatellite(path.to_owned())) } else { Ok(()) }
}

fn create(connection: &Connection, identity: &[u8; 32]) -> Result<(), Error> {
    connection.execute_batch(TABLES)?;
    connection.execute_batch(LEASES)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    connection.execute("INSERT INTO satellite (only, identity, epoch) VALUES (1, ?1, 1)", [&identity[..]])?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(())
}

/// From version 2 to version 3.
fn count_extents(connection: &Connection) -> Result<(), Error> {
    let sql = "UPDATE buckets SET bytes = (SELECT coalesce(sum(length), 0) FROM extents WHERE bucket = buckets.number)";
    connection.execute(sql, [])?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(())
}
