//! What is swept up: segments nobody refers to, rows of removed buckets, old orders.

use super::Error;
use super::codec::*;
use rusqlite::{Connection, OptionalExtension, params};

/// Segments that were begun or finished and are referred to by nothing go after this many seconds.
pub(crate) const SEGMENT_GRACE: i64 = 24 * 3600;

/// Settled orders are remembered this many seconds after their limit was made: longer than a node may settle them.
pub(crate) const ORDERS_KEPT: i64 = 3 * 24 * 3600;

/// Most rows of a kind that go in one transaction, so that others get their turn.
const STEP: i64 = 1_000;

/// What one step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Segments removed.
    pub segments: u64,
    /// Rows of removed buckets that went.
    pub rows: u64,
    /// Settled orders forgotten.
    pub orders: u64,
}

impl Swept {
    /// True if nothing was left to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another step's.
    pub(crate) fn add(&mut self, other: Self) {
        self.segments += other.segments;
        self.rows += other.rows;
        self.orders += other.orders;
    }
}

/// One step. `now`: seconds since 1970.
pub(crate) fn step(connection: &Connection, now: i64) -> Result<Swept, Error> {
    let sql = "DELETE FROM orders WHERE serial IN (SELECT serial FROM orders WHERE created < ?1 LIMIT ?2)";
    let orders = connection.prepare_cached(sql)?.execute(params![now - ORDERS_KEPT, STEP])? as u64;
    Ok(Swept { segments: segments(connection, now)?, rows: removed_bucket(connection)?, orders })
}

fn segments(connection: &Connection, now: i64) -> Result<u64, Error> {
    let sql = "SELECT bucket, segment FROM segments WHERE refs = 0 AND idle_since < ?1 LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![now - SEGMENT_GRACE, STEP])?;
    let mut idle = Vec::new();
    while let Some(row) = rows.next()? {
        idle.push((row.get::<_, i64>(0)?, blob(row, 1)?.to_vec()));
    }
    for (bucket, segment) in &idle {
        let sql = "DELETE FROM pieces WHERE bucket = ?1 AND segment = ?2";
        connection.prepare_cached(sql)?.execute(params![bucket, segment])?;
        let sql = "DELETE FROM segments WHERE bucket = ?1 AND segment = ?2";
        connection.prepare_cached(sql)?.execute(params![bucket, segment])?;
    }
    Ok(idle.len() as u64)
}

/// Takes some rows of a removed bucket away, and the bucket itself after the last of them.
fn removed_bucket(connection: &Connection) -> Result<u64, Error> {
    let sql = "SELECT number FROM buckets WHERE name IS NULL LIMIT 1";
    let bucket: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    let Some(bucket) = bucket else { return Ok(0) };
    const BY_KEY: [(&str, &str); 10] = [
        ("entries", "(bucket, parent, name)"),
        ("inodes", "id"),
        ("extents", "(bucket, inode, offset)"),
        ("tags", "(bucket, inode, window)"),
        ("runs", "id"),
        ("run_parts", "(bucket, run, first)"),
        ("pieces", "(bucket, segment, number)"),
        ("segments", "(bucket, segment)"),
        ("results", "(bucket, mount, number)"),
        ("feed", "(bucket, sequence)"),
    ];
    let mut gone = 0;
    for (table, key) in BY_KEY {
        let columns = key.trim_matches(['(', ')']);
        let sql = format!(
            "DELETE FROM {table} WHERE {key} IN (SELECT {columns} FROM {table} WHERE bucket = ?1 LIMIT {STEP})"
        );
        gone += connection.prepare_cached(&sql)?.execute([bucket])? as u64;
    }
    if gone == 0 {
        gone += connection.execute("DELETE FROM streams WHERE bucket = ?1", [bucket])? as u64;
        gone += connection.execute("DELETE FROM lease_holders WHERE bucket = ?1", [bucket])? as u64;
        gone += connection.execute("DELETE FROM leases WHERE bucket = ?1", [bucket])? as u64;
        gone += connection.execute("DELETE FROM buckets WHERE number = ?1", [bucket])? as u64;
    }
    Ok(gone)
}
