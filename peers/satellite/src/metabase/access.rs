//! API keys, revocations and operators' tickets.

use super::Error;
use super::codec::id;
use rusqlite::{Connection, params};
use strewn_engine::bucket;
use strewn_engine::grant::Tail;
use strewn_engine::ids::{ApiKeyId, NodeId};

/// Registers the head of a new key.
pub(crate) fn add_key(connection: &Connection, key: ApiKeyId, now: i64) -> Result<(), Error> {
    connection.execute("INSERT INTO api_keys (id, created) VALUES (?1, ?2)", params![key.as_bytes(), now])?;
    Ok(())
}

/// Heads of all keys.
pub(crate) fn keys(connection: &Connection) -> Result<Vec<ApiKeyId>, Error> {
    let mut statement = connection.prepare("SELECT id FROM api_keys")?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(id(row, 0)?);
    }
    Ok(keys)
}

/// Kills a key and its children.
pub(crate) fn revoke(connection: &Connection, tail: Tail, now: i64) -> Result<(), Error> {
    let sql = "INSERT INTO revocations (tail, revoked) VALUES (?1, ?2) ON CONFLICT (tail) DO NOTHING";
    connection.execute(sql, params![&tail.0, now])?;
    Ok(())
}

/// All revoked tails.
pub(crate) fn revocations(connection: &Connection) -> Result<Vec<Tail>, Error> {
    let mut statement = connection.prepare("SELECT tail FROM revocations")?;
    let tails = statement.query_map([], |row| row.get(0).map(Tail))?;
    Ok(tails.collect::<Result<_, _>>()?)
}

/// Registers a ticket by its hash.
pub(crate) fn add_ticket(connection: &Connection, hash: &[u8; 32], now: i64) -> Result<(), Error> {
    connection.execute("INSERT INTO tickets (hash, created) VALUES (?1, ?2)", params![&hash[..], now])?;
    Ok(())
}

/// Uses a ticket up. The node that used it may come with it again.
pub(crate) fn use_ticket(connection: &Connection, hash: &[u8; 32], node: NodeId) -> Result<(), Error> {
    let sql = "UPDATE tickets SET node = ?2 WHERE hash = ?1 AND (node IS NULL OR node = ?2)";
    match connection.execute(sql, params![&hash[..], node.as_bytes()])? {
        1 => Ok(()),
        _ => Err(ticket_refused()),
    }
}

/// Fails if a key with these tails was revoked. Asked again within the transactions that change something, so that nothing
/// is applied after a revocation was acknowledged.
pub(crate) fn check_alive(connection: &Connection, tails: &[Tail]) -> Result<(), Error> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM revocations WHERE tail = ?1")?;
    for tail in tails {
        if statement.exists(params![&tail.0])? {
            return Err(bucket::Error::Forbidden("the grant was revoked".to_owned()).into());
        }
    }
    Ok(())
}

/// Fails unless the node may use the ticket.
pub(crate) fn check_ticket(connection: &Connection, hash: &[u8; 32], node: NodeId) -> Result<(), Error> {
    let sql = "SELECT 1 FROM tickets WHERE hash = ?1 AND (node IS NULL OR node = ?2)";
    match connection.prepare_cached(sql)?.exists(params![&hash[..], node.as_bytes()])? {
        true => Ok(()),
        false => Err(ticket_refused()),
    }
}

fn ticket_refused() -> Error {
    bucket::Error::Forbidden("this ticket is unknown or was used by another node".to_owned()).into()
}
