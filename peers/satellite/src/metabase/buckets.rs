//! Buckets: making, finding, removing them.

use super::Error;
use super::codec::*;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use strewn_engine::bucket::{self, BucketSettings, Cipher, Kind, Sealed, Timestamp, Usage};
use strewn_engine::ids::{ApiKeyId, BucketId, InodeId};
use strewn_engine::redundancy::Redundancy;
use strewn_wire::satellite::{BucketInfo, CreateBucket};

/// Most buckets a satellite keeps.
pub(crate) const MAX_BUCKETS: i64 = 100_000;

/// What never changes about a bucket: the `info` column, postcard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fixed {
    root_key: Sealed,
    derivation: bytes::Bytes,
    pub(crate) segment_size: u64,
    cipher: Cipher,
    pub(crate) redundancy: Redundancy,
    epoch: u64,
    created: i64,
}

/// A bucket's row.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    /// Its number in the other tables.
    pub(crate) number: i64,
    pub(crate) bucket: BucketId,
    pub(crate) name: String,
    pub(crate) root: InodeId,
    pub(crate) api_key: ApiKeyId,
    pub(crate) fixed: Fixed,
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) quota: Option<u64>,
    pub(crate) feed_first: u64,
    pub(crate) feed_bytes: u64,
}

impl Bucket {
    /// What is told of it.
    pub(crate) fn info(&self) -> BucketInfo {
        let fixed = &self.fixed;
        BucketInfo {
            name: self.name.clone(),
            settings: BucketSettings {
                bucket: self.bucket,
                root: self.root,
                segment_size: fixed.segment_size,
                cipher: fixed.cipher,
                epoch: fixed.epoch,
            },
            redundancy: fixed.redundancy,
            root_key: fixed.root_key.clone(),
            derivation: fixed.derivation.clone(),
            created: fixed.created,
        }
    }

    /// How [`Reach`](super::lines::Reach) names it.
    pub(crate) fn place(&self) -> (i64, BucketId, InodeId) {
        (self.number, self.bucket, self.root)
    }

    /// What it holds, given what the nodes could still take.
    pub(crate) fn usage(&self, available: u64) -> Usage {
        let left = self.quota.map_or(u64::MAX, |quota| quota.saturating_sub(self.bytes));
        Usage { bytes: self.bytes, inodes: self.inodes, quota: self.quota, available: available.min(left) }
    }
}

macro_rules! columns {
    () => {
        "number, bucket, name, root, api_key, info, sequence, bytes, inodes, quota, feed_first, feed_bytes"
    };
}

/// The bucket with this id.
pub(crate) fn by_id(connection: &Connection, bucket: BucketId) -> Result<Bucket, Error> {
    let sql = concat!("SELECT ", columns!(), " FROM buckets WHERE bucket = ?1 AND name IS NOT NULL");
    one(connection, sql, bucket.as_bytes(), || format!("bucket {bucket}"))
}

/// The bucket with this name.
pub(crate) fn by_name(connection: &Connection, name: &str) -> Result<Bucket, Error> {
    let sql = concat!("SELECT ", columns!(), " FROM buckets WHERE name = ?1");
    one(connection, sql, name, || format!("bucket {name:?}"))
}

/// All buckets by name.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Bucket>, Error> {
    let sql = concat!("SELECT ", columns!(), " FROM buckets WHERE name IS NOT NULL ORDER BY name");
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut buckets = Vec::new();
    while let Some(row) = rows.next()? {
        buckets.push(bucket_row(row)?);
    }
    Ok(buckets)
}

/// Makes a bucket of checked fields. The same request again, by the same key, finds what it made.
pub(crate) fn create(
    connection: &Connection,
    new: &CreateBucket,
    redundancy: Redundancy,
    api_key: ApiKeyId,
    now: Timestamp,
) -> Result<Bucket, Error> {
    if let Some(bucket) = existing(connection, new, api_key)? {
        return Ok(bucket);
    }
    let count: i64 = connection.query_row("SELECT count(*) FROM buckets", [], |row| row.get(0))?;
    if count >= MAX_BUCKETS {
        return Err(bucket::Error::Quota("too many buckets".to_owned()).into());
    }
    let epoch = connection.query_row("SELECT epoch FROM satellite", [], |row| row.get::<_, i64>(0))?;
    let fixed = Fixed {
        root_key: new.root_key.clone(),
        derivation: new.derivation.clone(),
        segment_size: new.segment_size,
        cipher: new.cipher,
        redundancy,
        epoch: epoch.unsigned_abs(),
        created: now.seconds,
    };
    connection.execute(
        "INSERT INTO buckets (bucket, name, api_key, root, info, sequence, bytes, inodes, quota, feed_first, feed_bytes) \
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 1, NULL, 1, 0)",
        params![new.bucket.as_bytes(), new.name, api_key.as_bytes(), new.root.as_bytes(), encoded(&fixed)],
    )?;
    connection.execute(
        "INSERT INTO inodes (bucket, inode, kind, version, nlink, children, size, generation, record, changed_s, \
         changed_ns, entries_s, entries_ns) VALUES (?1, ?2, ?3, 1, 2, 0, 0, ?4, ?5, ?6, ?7, 0, 0)",
        params![
            connection.last_insert_rowid(),
            new.root.as_bytes(),
            kind_code(Kind::Directory),
            new.record.generation,
            &new.record.bytes[..],
            now.seconds,
            now.nanos,
        ],
    )?;
    by_id(connection, new.bucket)
}

fn existing(connection: &Connection, new: &CreateBucket, api_key: ApiKeyId) -> Result<Option<Bucket>, Error> {
    let sql = concat!("SELECT ", columns!(), " FROM buckets WHERE name = ?1 OR bucket = ?2");
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![new.name, new.bucket.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let taken = || bucket::Error::Invalid(format!("bucket {:?} exists already", new.name));
    if row.get_ref(2)?.as_str_or_null().ok().flatten() != Some(&new.name) {
        return Err(taken().into());
    }
    let bucket = bucket_row(row)?;
    let same = bucket.bucket == new.bucket && bucket.root == new.root && bucket.api_key == api_key;
    if same && bucket.fixed.root_key == new.root_key { Ok(Some(bucket)) } else { Err(taken().into()) }
}

/// Takes a bucket's name and id away. Its rows go bit by bit afterwards.
pub(crate) fn remove(connection: &Connection, bucket: &Bucket, force: bool) -> Result<(), Error> {
    if bucket.inodes > 1 && !force {
        return Err(bucket::Error::Invalid(format!("bucket {:?} is not empty", bucket.name)).into());
    }
    connection.execute("UPDATE buckets SET name = NULL WHERE number = ?1", [bucket.number])?;
    Ok(())
}

/// Sets the most bytes of files, holes not counted, that a bucket may hold.
pub(crate) fn set_quota(connection: &Connection, bucket: &Bucket, quota: Option<u64>) -> Result<(), Error> {
    let quota = quota.map(column);
    connection.execute("UPDATE buckets SET quota = ?2 WHERE number = ?1", params![bucket.number, quota])?;
    Ok(())
}

fn one(
    connection: &Connection,
    sql: &str,
    key: impl rusqlite::ToSql,
    what: impl FnOnce() -> String,
) -> Result<Bucket, Error> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([key])?;
    match rows.next()? {
        Some(row) => bucket_row(row),
        None => Err(bucket::Error::NotFound(what()).into()),
    }
}

fn bucket_row(row: &Row<'_>) -> Result<Bucket, Error> {
    let quota = row.get::<_, Option<i64>>(9)?;
    Ok(Bucket {
        number: row.get(0)?,
        bucket: id(row, 1)?,
        name: row.get(2)?,
        root: id(row, 3)?,
        api_key: id(row, 4)?,
        fixed: decoded(row, 5)?,
        sequence: number(row, 6)?,
        bytes: number(row, 7)?,
        inodes: number(row, 8)?,
        quota: quota.map(i64::unsigned_abs),
        feed_first: number(row, 10)?,
        feed_bytes: number(row, 11)?,
    })
}
