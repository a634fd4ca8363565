//! Segments and their pieces: begun, finished, found again.

use super::Error;
use super::codec::*;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use strewn_engine::bucket;
use strewn_engine::ids::{ApiKeyId, NodeId, RunId, SegmentId};
use strewn_engine::redundancy::Redundancy;

/// Most segments that a key may have begun and not finished.
pub(crate) const MAX_OPEN: i64 = 256;

/// A segment's row.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) api_key: ApiKeyId,
    pub(crate) length: u64,
    pub(crate) redundancy: Redundancy,
    pub(crate) finished: bool,
    pub(crate) pending: Pending,
}

/// Where the pieces of an upload go: the `pending` column, postcard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// The node of every piece that has one.
    pub(crate) nodes: Vec<(u16, NodeId)>,
    /// Nodes that failed: not asked again for this segment.
    pub(crate) failed: Vec<NodeId>,
}

/// A stored piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) number: u16,
    pub(crate) node: NodeId,
    pub(crate) root: [u8; 32],
}

/// A segment, if it was begun.
pub(crate) fn find(connection: &Connection, bucket: i64, segment: SegmentId) -> Result<Option<Segment>, Error> {
    let sql = "SELECT api_key, length, redundancy, finished, coalesce(pending, x'0000') FROM segments \
               WHERE bucket = ?1 AND segment = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket, segment.as_bytes()])?;
    rows.next()?.map(segment_row).transpose()
}

/// Fails if a key has as many unfinished segments as it may.
pub(crate) fn check_open(connection: &Connection, api_key: ApiKeyId) -> Result<(), Error> {
    let sql = "SELECT count(*) FROM segments WHERE api_key = ?1 AND finished = 0";
    let mut statement = connection.prepare_cached(sql)?;
    let open: i64 = statement.query_row([api_key.as_bytes()], |row| row.get(0))?;
    match open < MAX_OPEN {
        true => Ok(()),
        false => Err(bucket::Error::Quota(format!("{open} segments are begun and not finished")).into()),
    }
}

/// Begins a segment. The caller has looked: there is none of this id. `now`: seconds since 1970.
pub(crate) fn begin(
    connection: &Connection,
    bucket: i64,
    segment: SegmentId,
    new: &Segment,
    now: i64,
) -> Result<(), Error> {
    let sql = "INSERT INTO segments (bucket, segment, api_key, length, redundancy, refs, finished, idle_since, pending) \
               VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![
        bucket,
        segment.as_bytes(),
        new.api_key.as_bytes(),
        column(new.length),
        encoded(&new.redundancy),
        now,
        encoded(&new.pending),
    ])?;
    Ok(())
}

/// Changes where the pieces of an upload go.
pub(crate) fn set_pending(
    connection: &Connection,
    bucket: i64,
    segment: SegmentId,
    pending: &Pending,
) -> Result<(), Error> {
    let sql = "UPDATE segments SET pending = ?3 WHERE bucket = ?1 AND segment = ?2 AND finished = 0";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![bucket, segment.as_bytes(), encoded(pending)])?;
    Ok(())
}

/// Ends an upload.
pub(crate) fn finish(
    connection: &Connection,
    bucket: i64,
    segment: SegmentId,
    pieces: &[Piece],
    now: i64,
) -> Result<(), Error> {
    let sql = "UPDATE segments SET finished = 1, pending = NULL, idle_since = ?3 WHERE bucket = ?1 AND segment = ?2";
    connection.prepare_cached(sql)?.execute(params![bucket, segment.as_bytes(), now])?;
    let sql = "INSERT INTO pieces (bucket, segment, number, node, root) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut statement = connection.prepare_cached(sql)?;
    for piece in pieces {
        let node = piece.node.as_bytes();
        statement.execute(params![bucket, segment.as_bytes(), piece.number, node, &piece.root])?;
    }
    Ok(())
}

/// The pieces of a finished segment, by number.
pub(crate) fn pieces(connection: &Connection, bucket: i64, segment: SegmentId) -> Result<Vec<Piece>, Error> {
    let sql = "SELECT number, node, root FROM pieces WHERE bucket = ?1 AND segment = ?2 ORDER BY number";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket, segment.as_bytes()])?;
    let mut pieces = Vec::new();
    while let Some(row) = rows.next()? {
        let number = u16::try_from(small(row, 0)?).map_err(|_| Error::Damaged("number of a piece".to_owned()))?;
        let root = blob(row, 2)?.try_into().map_err(|_| Error::Damaged("root of a piece".to_owned()))?;
        pieces.push(Piece { number, node: id(row, 1)?, root });
    }
    Ok(pieces)
}

/// True if blocks of the run lie in the segment.
pub(crate) fn holds(connection: &Connection, bucket: i64, run: RunId, segment: SegmentId) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM run_parts WHERE bucket = ?1 AND run = ?2 AND segment = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.exists(params![bucket, run.as_bytes(), segment.as_bytes()])?)
}

fn segment_row(row: &Row<'_>) -> Result<Segment, Error> {
    Ok(Segment {
        api_key: id(row, 0)?,
        length: number(row, 1)?,
        redundancy: decoded(row, 2)?,
        finished: row.get(3)?,
        pending: decoded(row, 4)?,
    })
}
