//! Streams of commits: their order, and the results that replays get.

use super::Error;
use super::codec::*;
use rusqlite::{Connection, OptionalExtension, params};
use strewn_engine::bucket::plan::{self, RESULTS_KEPT, Turn};
use strewn_engine::bucket::{self, Commit, CommitReply};
use strewn_engine::ids::ApiKeyId;

/// Decides whether a batch is next in its stream or came before. A stream belongs to the key that began it.
pub(crate) fn turn(
    connection: &Connection,
    bucket: i64,
    api_key: ApiKeyId,
    commit: &Commit,
    digest: &[u8; 32],
) -> Result<Turn, Error> {
    let sql = "SELECT api_key, last FROM streams WHERE bucket = ?1 AND mount = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket, commit.mount.as_bytes()])?;
    let last = match rows.next()? {
        None => 0,
        Some(row) if id::<ApiKeyId>(row, 0)? != api_key => {
            return Err(bucket::Error::Forbidden("the stream belongs to another key".to_owned()).into());
        }
        Some(row) => number(row, 1)?,
    };
    let sql = "SELECT digest, reply FROM results WHERE bucket = ?1 AND mount = ?2 AND id = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket, commit.mount.as_bytes(), commit.id.as_bytes()])?;
    let known = match rows.next()? {
        None => None,
        Some(row) => {
            let digest = blob(row, 0)?.try_into().map_err(|_| Error::Damaged("digest".to_owned()))?;
            Some((digest, decoded(row, 1)?))
        }
    };
    Ok(plan::turn(last, commit, digest, known)?)
}

/// Keeps a result, and forgets the one that is too old.
pub(crate) fn keep(
    connection: &Connection,
    bucket: i64,
    api_key: ApiKeyId,
    commit: &Commit,
    digest: &[u8; 32],
    reply: &CommitReply,
) -> Result<(), Error> {
    let applied = matches!(reply, CommitReply::Applied { .. });
    let mount = commit.mount.as_bytes();
    let sql = "INSERT INTO streams (bucket, mount, api_key, last, results) VALUES (?1, ?2, ?3, ?4, 1) \
               ON CONFLICT (bucket, mount) DO UPDATE SET last = last + ?4, results = results + 1 RETURNING results";
    let mut statement = connection.prepare_cached(sql)?;
    let stream = params![bucket, mount, api_key.as_bytes(), applied];
    let results: Option<i64> = statement.query_row(stream, |row| row.get(0)).optional()?;
    let number = results.ok_or_else(|| Error::Damaged("stream".to_owned()))?;
    let sql = "INSERT INTO results (bucket, mount, number, id, digest, reply) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![bucket, mount, number, commit.id.as_bytes(), &digest[..], encoded(reply)])?;
    let sql = "DELETE FROM results WHERE bucket = ?1 AND mount = ?2 AND number <= ?3";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![bucket, mount, number - column(RESULTS_KEPT)])?;
    Ok(())
}
