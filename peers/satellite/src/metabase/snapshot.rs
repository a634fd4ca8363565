//! Everything in a bucket, for comparing it with the one in memory.

use super::codec::*;
use super::tree::{extent_row, inode_row};
use super::{Error, buckets};
use rusqlite::{Connection, Row};
use strewn_engine::bucket::memory::Snapshot;
use strewn_engine::bucket::plan::RunRow;
use strewn_engine::bucket::{EncryptedName, Entry, WindowTag};
use strewn_engine::ids::BucketId;

pub(crate) fn snapshot(connection: &Connection, bucket: BucketId) -> Result<Snapshot, Error> {
    let bucket = buckets::by_id(connection, bucket)?;
    let all = |sql: &str| -> Result<_, Error> { Ok(connection.prepare(sql)?) };
    let number_of = bucket.number;
    let entries =
        "SELECT parent, name, child, kind, generation, key FROM entries WHERE bucket = ?1 ORDER BY parent, name";
    let inodes = concat!("SELECT ", inode_columns!(), " FROM inodes WHERE bucket = ?1 ORDER BY inode");
    let extents =
        concat!("SELECT inode, ", extent_columns!(), " FROM extents WHERE bucket = ?1 ORDER BY inode, offset");
    let tags = "SELECT inode, window, tag FROM tags WHERE bucket = ?1 ORDER BY inode, window";
    let runs = "SELECT run, length, refs, (SELECT group_concat(hex(segment)) FROM run_parts p WHERE p.bucket = r.bucket \
                AND p.run = r.run) FROM runs r WHERE bucket = ?1 ORDER BY run";
    let segments = "SELECT segment, length, refs FROM segments WHERE bucket = ?1 ORDER BY segment";
    let runs = collect(&mut all(runs)?, number_of, |row| {
        let parts: Option<String> = row.get(3)?;
        let segments = parts.iter().flat_map(|parts| parts.split(',')).map(|part| part.parse().unwrap()).collect();
        Ok((id(row, 0)?, RunRow { length: number(row, 1)?, references: number(row, 2)?, segments }))
    })?;
    Ok(Snapshot {
        sequence: bucket.sequence,
        bytes: bucket.bytes,
        entries: collect(&mut all(entries)?, number_of, |row| {
            let name = EncryptedName::try_from(blob(row, 1)?.to_vec()).unwrap();
            Ok(Entry { parent: id(row, 0)?, name, child: id(row, 2)?, kind: kind(row, 3)?, key: sealed(row, 4)? })
        })?,
        inodes: collect(&mut all(inodes)?, number_of, |row| inode_row(row, 0))?,
        extents: collect(&mut all(extents)?, number_of, |row| Ok((id(row, 0)?, extent_row(row, 1)?)))?,
        tags: collect(&mut all(tags)?, number_of, |row| {
            Ok((id(row, 0)?, number(row, 1)?, WindowTag(blob(row, 2)?.try_into().unwrap())))
        })?,
        runs,
        segments: collect(&mut all(segments)?, number_of, |row| Ok((id(row, 0)?, number(row, 1)?, number(row, 2)?)))?,
    })
}

fn collect<T>(
    statement: &mut rusqlite::Statement<'_>,
    bucket: i64,
    read: impl Fn(&Row<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let mut rows = statement.query([bucket])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}
