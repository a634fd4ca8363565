//! What a bucket answers: entries, inodes, extents, places of runs.

use super::Error;
use super::buckets::Bucket;
use super::codec::*;
use super::tree::{extents_between, inode_row};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use strewn_engine::bucket::{self, EncryptedName, Entry, EntryPage, Extents, Inode, Kind, MAX_PAGE_BYTES, WindowTag};
use strewn_engine::content::BLOCK;
use strewn_engine::ids::{InodeId, RunId};
use strewn_wire::satellite::{RunLocation, RunPart};

/// Most extents in one answer.
pub(crate) const MAX_EXTENTS_REPLY: usize = 262_144;

/// Most files that are tried to see whether a grant reaches a run.
const MAX_REFERRING: i64 = 1_024;

/// An entry's own columns and its child's row.
macro_rules! entry_and_child {
    () => {
        "SELECT e.name, e.kind, e.generation, e.key, i.inode, i.kind, i.version, i.nlink, i.size, i.generation, i.record, \
         i.changed_s, i.changed_ns, i.entries_s, i.entries_ns, i.children \
         FROM entries e CROSS JOIN inodes i ON i.bucket = e.bucket AND i.inode = e.child \
         WHERE e.bucket = ?1 AND e.parent = ?2 "
    };
}

/// One name with its child.
pub(crate) fn entry(
    connection: &Connection,
    bucket: &Bucket,
    parent: InodeId,
    name: &EncryptedName,
) -> Result<Option<(Entry, Inode)>, Error> {
    let mut statement = connection.prepare_cached(concat!(entry_and_child!(), "AND e.name = ?3"))?;
    let mut rows = statement.query(params![bucket.number, parent.as_bytes(), name.as_bytes()])?;
    rows.next()?.map(|row| entry_row(row, parent)).transpose()
}

/// A page of a directory; `limit` has been checked.
pub(crate) fn entries(
    connection: &Connection,
    bucket: &Bucket,
    directory: InodeId,
    after: Option<&EncryptedName>,
    limit: u32,
) -> Result<EntryPage, Error> {
    if inode(connection, bucket, directory)?.kind != Kind::Directory {
        return Err(bucket::Error::NotFound(format!("directory {directory:?}")).into());
    }
    let sql = concat!(entry_and_child!(), "AND e.name > ?3 ORDER BY e.name LIMIT ?4");
    let mut statement = connection.prepare_cached(sql)?;
    // Names are never empty, so every name is after the empty one.
    let after = after.map_or(&[][..], EncryptedName::as_bytes);
    let mut rows = statement.query(params![bucket.number, directory.as_bytes(), after, i64::from(limit) + 1])?;
    let mut page = EntryPage { entries: Vec::new(), more: false, sequence: bucket.sequence };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if page.entries.len() == limit as usize || bytes >= MAX_PAGE_BYTES {
            page.more = true;
            break;
        }
        let (entry, child) = entry_row(row, directory)?;
        bytes += child.record.bytes.len();
        page.entries.push((entry, child));
    }
    Ok(page)
}

/// One inode.
pub(crate) fn inode(connection: &Connection, bucket: &Bucket, inode: InodeId) -> Result<Inode, Error> {
    let sql = concat!("SELECT ", inode_columns!(), " FROM inodes WHERE bucket = ?1 AND inode = ?2");
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket.number, inode.as_bytes()])?;
    match rows.next()? {
        Some(row) => Ok(inode_row(row, 0)?.inode),
        None => Err(bucket::Error::NotFound(format!("inode {inode:?}")).into()),
    }
}

/// Extents that intersect a range, and all tags.
pub(crate) fn extents(
    connection: &Connection,
    bucket: &Bucket,
    file: InodeId,
    offset: u64,
    length: u64,
) -> Result<Extents, Error> {
    let version = inode(connection, bucket, file)?.version;
    let end = offset.saturating_add(length);
    let extents = extents_between(connection, bucket.number, file, offset, end, MAX_EXTENTS_REPLY + 1)?;
    if extents.len() > MAX_EXTENTS_REPLY {
        let what = format!("more than {MAX_EXTENTS_REPLY} extents: ask for a smaller range");
        return Err(bucket::Error::Invalid(what).into());
    }
    let sql = "SELECT window, tag FROM tags WHERE bucket = ?1 AND inode = ?2 ORDER BY window";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket.number, file.as_bytes()])?;
    let mut tags = Vec::new();
    while let Some(row) = rows.next()? {
        let tag = blob(row, 1)?.try_into().map_err(|_| Error::Damaged("window tag".to_owned()))?;
        tags.push((number(row, 0)?, WindowTag(tag)));
    }
    Ok(Extents { version, extents, tags })
}

/// Fails unless an extent of the file is part of the run.
pub(crate) fn check_refers(connection: &Connection, bucket: &Bucket, file: InodeId, run: RunId) -> Result<(), Error> {
    let sql = "SELECT 1 FROM extents WHERE bucket = ?1 AND run = ?2 AND inode = ?3 LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    match statement.exists(params![bucket.number, run.as_bytes(), file.as_bytes()])? {
        true => Ok(()),
        false => Err(bucket::Error::NotFound(format!("run {run:?} of {file:?}")).into()),
    }
}

/// Where blocks `first..first + count` of a run lie, as far as the run goes. Fails if `first` lies beyond it.
pub(crate) fn locate(
    connection: &Connection,
    bucket: &Bucket,
    run: RunId,
    first: u64,
    count: u64,
) -> Result<RunLocation, Error> {
    let invalid = |blocks: u64| bucket::Error::Invalid(format!("{count} blocks from {first} of {blocks}"));
    let end = first.checked_add(count).filter(|_| count >= 1);
    let sql = "SELECT inline FROM runs WHERE bucket = ?1 AND run = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let inline: Option<Option<Vec<u8>>> =
        statement.query_row(params![bucket.number, run.as_bytes()], |row| row.get(0)).optional()?;
    let inline = inline.ok_or_else(|| bucket::Error::NotFound(format!("run {run:?}")))?;
    if let Some(block) = inline {
        let begins = first == 0 && end.is_some();
        return if begins { Ok(RunLocation::Inline(Bytes::from(block))) } else { Err(invalid(1).into()) };
    }
    let sql =
        "SELECT first, count, segment, offset, length FROM run_parts WHERE bucket = ?1 AND run = ?2 ORDER BY first";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket.number, run.as_bytes()])?;
    let (mut parts, mut blocks) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let part = part_row(row)?;
        blocks = part.first.saturating_add(part.count);
        parts.extend(end.and_then(|end| clip(&part, first, end)));
    }
    match end {
        Some(_) if first < blocks => Ok(RunLocation::Segments(parts)),
        _ => Err(invalid(blocks).into()),
    }
}

/// True if there is such an inode.
pub(crate) fn inode_exists(connection: &Connection, bucket: &Bucket, inode: InodeId) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM inodes WHERE bucket = ?1 AND inode = ?2";
    Ok(connection.prepare_cached(sql)?.exists(params![bucket.number, inode.as_bytes()])?)
}

/// Files of which extents are parts of the run, at most [`MAX_REFERRING`].
pub(crate) fn referring_inodes(connection: &Connection, bucket: &Bucket, run: RunId) -> Result<Vec<InodeId>, Error> {
    let sql = "SELECT DISTINCT inode FROM extents WHERE bucket = ?1 AND run = ?2 LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket.number, run.as_bytes(), MAX_REFERRING])?;
    let mut inodes = Vec::new();
    while let Some(row) = rows.next()? {
        inodes.push(id(row, 0)?);
    }
    Ok(inodes)
}

/// The part of a part that holds blocks of `first..end`.
fn clip(part: &RunPart, first: u64, end: u64) -> Option<RunPart> {
    let from = first.max(part.first);
    let to = end.min(part.first.checked_add(part.count)?);
    if from >= to {
        return None;
    }
    let skipped = (from - part.first).checked_mul(BLOCK)?;
    let length = (to - from).checked_mul(BLOCK)?.min(part.length.checked_sub(skipped)?);
    Some(RunPart { first: from, count: to - from, segment: part.segment, offset: part.offset + skipped, length })
}

fn part_row(row: &Row<'_>) -> Result<RunPart, Error> {
    Ok(RunPart {
        first: number(row, 0)?,
        count: number(row, 1)?,
        segment: id(row, 2)?,
        offset: number(row, 3)?,
        length: number(row, 4)?,
    })
}

fn entry_row(row: &Row<'_>, parent: InodeId) -> Result<(Entry, Inode), Error> {
    let name = EncryptedName::try_from(blob(row, 0)?.to_vec()).map_err(|_| Error::Damaged("name".to_owned()))?;
    let child = inode_row(row, 4)?.inode;
    let entry = Entry { parent, name, child: child.inode, kind: kind(row, 1)?, key: sealed(row, 2)? };
    Ok((entry, child))
}
