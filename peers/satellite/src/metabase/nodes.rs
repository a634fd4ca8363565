//! Storage nodes as they are remembered, and the orders they settled.

use super::Error;
use super::codec::*;
use crate::registry::Known;
use rusqlite::{Connection, OptionalExtension, params};
use strewn_engine::ids::NodeId;
use strewn_engine::order::{Action, Order, OrderLimit};

/// Remembers a node.
pub(crate) fn save(connection: &Connection, node: NodeId, known: &Known, now: i64) -> Result<(), Error> {
    let sql = "INSERT INTO nodes (node, joined, state) VALUES (?1, ?2, ?3) \
               ON CONFLICT (node) DO UPDATE SET state = excluded.state";
    connection.prepare_cached(sql)?.execute(params![node.as_bytes(), now, encoded(known)])?;
    Ok(())
}

/// All nodes.
pub(crate) fn all(connection: &Connection) -> Result<Vec<(NodeId, Known)>, Error> {
    let mut statement = connection.prepare("SELECT node, state FROM nodes")?;
    let mut rows = statement.query([])?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next()? {
        nodes.push((id(row, 0)?, decoded(row, 1)?));
    }
    Ok(nodes)
}

/// Credits a verified order. Only what exceeds the highest order settled before on the same limit is earned.
pub(crate) fn settle(connection: &Connection, limit: &OrderLimit, order: &Order) -> Result<(), Error> {
    let sql = "SELECT bytes FROM orders WHERE serial = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let before: Option<i64> = statement.query_row([limit.serial.as_bytes()], |row| row.get(0)).optional()?;
    let before = before.map_or(0, i64::unsigned_abs);
    let sql = "INSERT INTO orders (serial, node, bytes, created) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (serial) DO UPDATE SET bytes = max(bytes, excluded.bytes)";
    let node = limit.node.as_bytes();
    let row = params![limit.serial.as_bytes(), node, column(order.bytes), limit.created.seconds];
    connection.prepare_cached(sql)?.execute(row)?;
    let sql = "INSERT INTO earned (node, action, bytes) VALUES (?1, ?2, ?3) \
               ON CONFLICT (node, action) DO UPDATE SET bytes = bytes + excluded.bytes";
    let earned = column(order.bytes.saturating_sub(before));
    connection.prepare_cached(sql)?.execute(params![node, action_code(limit.action), earned])?;
    Ok(())
}

/// Bytes a node was ever credited for, over all actions.
pub(crate) fn earned(connection: &Connection, node: NodeId) -> Result<u64, Error> {
    let sql = "SELECT coalesce(sum(bytes), 0) FROM earned WHERE node = ?1";
    let bytes: i64 = connection.query_row(sql, [node.as_bytes()], |row| row.get(0))?;
    Ok(bytes.unsigned_abs())
}

/// Codes are stored: never change them.
fn action_code(action: Action) -> i64 {
    match action {
        Action::Put => 0,
        Action::Get => 1,
        Action::Delete => 2,
        Action::GetAudit => 3,
        Action::GetRepair => 4,
        Action::PutRepair => 5,
        Action::PutGracefulExit => 6,
    }
}
