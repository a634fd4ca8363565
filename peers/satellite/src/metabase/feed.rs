//! The change feed: the newest changes of a bucket, bounded in number and bytes.

use super::Error;
use super::buckets::Bucket;
use super::codec::*;
use super::lines::Reach;
use rusqlite::{Connection, params};
use strewn_engine::bucket::plan::Plan;
use strewn_engine::bucket::{Change, Changes, memory};
use strewn_engine::ids::MountId;

/// Changes the feed reaches back.
pub(crate) const FEED_KEPT: u64 = memory::FEED_KEPT as u64;

/// Most bytes of all changes in the feed of a bucket; the newest is kept whatever its size.
pub(crate) const FEED_KEPT_BYTES: u64 = 64 << 20;

/// Most bytes of changes in one answer; the first is given whatever its size.
const PAGE_BYTES: usize = 8 << 20;

/// Counts a commit into its bucket, appends it to the feed and cuts the feed to its bounds. Returns the sequence number.
pub(crate) fn append(connection: &Connection, bucket: &Bucket, mount: MountId, plan: &Plan) -> Result<u64, Error> {
    let sequence = bucket.sequence + 1;
    let (entries, inodes) = (plan.changed_entries.clone(), plan.changed_inodes.clone());
    let change = encoded(&Change { sequence, mount, entries, inodes });
    let sql = "INSERT INTO feed (bucket, sequence, change) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![bucket.number, column(sequence), change])?;
    let (mut first, mut bytes) = (bucket.feed_first, bucket.feed_bytes + change.len() as u64);
    let sql = "DELETE FROM feed WHERE bucket = ?1 AND sequence = ?2 RETURNING length(change)";
    let mut drop_first = connection.prepare_cached(sql)?;
    while first < sequence && (sequence - first >= FEED_KEPT || bytes > FEED_KEPT_BYTES) {
        let length: i64 = drop_first.query_row(params![bucket.number, column(first)], |row| row.get(0))?;
        bytes = bytes.saturating_sub(length.unsigned_abs());
        first += 1;
    }
    let sql = "UPDATE buckets SET sequence = ?2, bytes = max(bytes + ?3, 0), inodes = max(inodes + ?4, 0), \
               feed_first = ?5, feed_bytes = ?6 WHERE number = ?1";
    connection.prepare_cached(sql)?.execute(params![
        bucket.number,
        column(sequence),
        plan.bytes,
        plan.inode_count,
        column(first),
        column(bytes),
    ])?;
    Ok(sequence)
}

/// Changes after a sequence number, of what is within reach: names in directories within it, so that what left is shown
/// where it left, and inodes that are within it now.
pub(crate) fn page(
    connection: &Connection,
    bucket: &Bucket,
    after: u64,
    reach: Option<&mut Reach<'_>>,
) -> Result<Changes, Error> {
    let epoch = bucket.info().settings.epoch;
    if after > bucket.sequence || after + 1 < bucket.feed_first {
        return Ok(Changes { epoch, changes: Vec::new(), sequence: bucket.sequence, gap: true });
    }
    let sql = "SELECT change FROM feed WHERE bucket = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket.number, column(after), memory::FEED_PAGE as i64])?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        bytes += blob(row, 0)?.len();
        if bytes > PAGE_BYTES && !changes.is_empty() {
            break;
        }
        changes.push(decoded::<Change>(row, 0)?);
    }
    let sequence = changes.last().map_or(after, |change| change.sequence);
    if let Some(reach) = reach {
        for change in &mut changes {
            keep_covered(change, reach)?;
        }
    }
    Ok(Changes { epoch, changes, sequence, gap: false })
}

fn keep_covered(change: &mut Change, reach: &mut Reach<'_>) -> Result<(), Error> {
    let mut entries = Vec::new();
    for (directory, name) in change.entries.drain(..) {
        if reach.covers(directory)? {
            entries.push((directory, name));
        }
    }
    change.entries = entries;
    let mut inodes = Vec::new();
    for inode in change.inodes.drain(..) {
        if reach.covers(inode)? {
            inodes.push(inode);
        }
    }
    change.inodes = inodes;
    Ok(())
}
