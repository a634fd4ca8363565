//! What is remembered of leases over a restart: the newest epoch of each bucket, and who holds something.

use super::Error;
use super::codec::*;
use rusqlite::{Connection, params};
use std::collections::HashMap;
use strewn_engine::bucket::lease::{Saved, SavedHolder};
use strewn_engine::ids::BucketId;

/// What is kept of a bucket's leases; what was kept before is forgotten.
pub(crate) fn save(connection: &Connection, bucket: i64, saved: &Saved) -> Result<(), Error> {
    let sql = "INSERT INTO leases (bucket, epoch) VALUES (?1, ?2) ON CONFLICT (bucket) DO UPDATE SET epoch = ?2";
    connection.prepare_cached(sql)?.execute(params![bucket, column(saved.epoch)])?;
    connection.prepare_cached("DELETE FROM lease_holders WHERE bucket = ?1")?.execute([bucket])?;
    let sql = "INSERT INTO lease_holders (bucket, holder, epoch, number) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = connection.prepare_cached(sql)?;
    for holder in &saved.holders {
        insert.execute(params![bucket, holder.mount.as_bytes(), column(holder.epoch), column(holder.number)])?;
    }
    Ok(())
}

/// What is kept of all buckets.
pub(crate) fn all(connection: &Connection) -> Result<HashMap<BucketId, Saved>, Error> {
    let sql = "SELECT buckets.bucket, leases.epoch FROM leases JOIN buckets ON number = leases.bucket";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut all: HashMap<BucketId, Saved> = HashMap::new();
    while let Some(row) = rows.next()? {
        all.insert(id(row, 0)?, Saved { epoch: number(row, 1)?, holders: Vec::new() });
    }
    let sql = "SELECT buckets.bucket, holder, epoch, lease_holders.number \
               FROM lease_holders JOIN buckets ON buckets.number = lease_holders.bucket";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let saved = all.entry(id(row, 0)?).or_default();
        let holder = SavedHolder { mount: id(row, 1)?, epoch: number(row, 2)?, number: number(row, 3)? };
        saved.epoch = saved.epoch.max(holder.epoch);
        saved.holders.push(holder);
    }
    Ok(all)
}
