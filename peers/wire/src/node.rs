//! What an uplink (or auditor, or repairer) says to a storage node.
//!
//! A stream is kept and carries one transfer after the other:
//! ```text
//! put:   Request::Put, then (Order, raw data frame)*, then End;       reply: Reply::Stored after the node's disk has it
//! get:   Request::Get, then Order;                                    reply: Reply::Share per share, then Reply::End
//! ```
//! An order covers cumulative bytes of its limit and comes before the bytes it pays for.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use strewn_engine::order::{Order, OrderLimit, Receipt, Signed};

/// Version of this protocol.
pub const VERSION: u16 = 1;

/// Largest frame in either direction: 256 KiB of data and headroom.
pub const MAX_FRAME: usize = 256 * 1024 + 16 * 1024;

/// Opens a transfer, or carries it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Request {
    /// Stores a piece of exactly `length` bytes made of shares of `share` bytes (the last may be shorter).
    Put { limit: Signed<OrderLimit>, length: u64, share: u32 },
    /// Pays.
    Order(Signed<Order>),
    /// Piece bytes of a put, at most 256 KiB.
    Data(Bytes),
    /// End of a put's data.
    End,
    /// Gives up a put; the stream stays usable.
    Cancel,
    /// Reads shares `first..first + count`, each with its proof. An order for their bytes follows.
    Get { limit: Signed<OrderLimit>, first: u32, count: u32 },
    /// Removes a piece.
    Delete { limit: Signed<OrderLimit> },
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Reply {
    Failed(NodeError),
    /// The piece is durable.
    Stored(Signed<Receipt>),
    /// One share and the siblings that prove it, leaf to root.
    Share {
        number: u32,
        data: Bytes,
        proof: Vec<[u8; 32]>,
        length: u64,
    },
    End,
    Deleted,
}

/// Why a node refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NodeError {
    /// The limit is not valid here: other node, unknown satellite, expired, wrong action, bad signature.
    #[error("order limit refused: {0}")]
    Limit(String),
    /// The orders do not cover the bytes.
    #[error("not paid: {0}")]
    Unpaid(String),
    /// No such piece.
    #[error("no such piece")]
    NotFound,
    /// No room.
    #[error("node is full")]
    Full,
    /// The piece is damaged on disk.
    #[error("piece damaged")]
    Damaged,
    /// The request breaks the protocol.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Disk failure.
    #[error("node failed: {0}")]
    Internal(String),
    /// Too busy now.
    #[error("node is busy")]
    Busy,
}
