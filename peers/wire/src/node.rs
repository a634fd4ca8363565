//! What an uplink (or auditor, or repairer) says to a storage node.
//!
//! A piece is cut into shares of [`SHARE`] bytes, the last may be shorter. A stream is kept and carries one transfer after
//! the other; messages travel as frames of at most [`MAX_MESSAGE`] bytes, piece bytes follow their message raw, without a
//! frame of their own, so that neither end copies them:
//! ```text
//! put:     Put, then (Order* Data + raw bytes)*, then End       reply: Stored, once the node's disk has the piece
//! get:     Get with its order                                   reply: (Shares + raw bytes)*, then End
//! delete:  Delete                                               reply: Deleted, once durable
//! ```
//! - An order covers cumulative bytes of its limit, over all streams and transfers, and comes before the bytes it pays for:
//!   data bytes of a put, share bytes of a get.
//! - [`Reply::Failed`] ends a transfer, not the stream. It can come at any time during a put: the uplink should watch for
//!   it while it sends. It then sends [`Request::End`] or [`Request::Cancel`] (the node drops what comes before), after
//!   which the next transfer may begin. A cancelled put that has not failed is answered by [`Reply::End`].
//! - [`NodeError::Invalid`] ends the stream.
//! - A get may ask for more than it can pay: the node sends what is paid and then fails.

use crate::frame::{self, FrameError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::IoSlice;
use strewn_engine::order::{Order, OrderLimit, Receipt, Signed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of this protocol.
pub const VERSION: u16 = 1;

/// Bytes of every share but the last: the leaf of a piece's hash tree.
pub const SHARE: u64 = strewn_engine::redundancy::MAX_SHARE as u64;

/// Largest raw data behind one message: four shares.
pub const MAX_DATA: usize = 256 * 1024;

/// Largest frame in either direction, data not counted.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// Longest piece: that of a 64 MiB segment with k = 1.
pub const MAX_PIECE: u64 = 64 << 20;

/// Opens a transfer, or carries it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Request {
    /// Stores a piece of exactly `length` bytes, 1..=[`MAX_PIECE`].
    Put { limit: Signed<OrderLimit>, length: u64 },
    /// Pays for data of a put.
    Order(Signed<Order>),
    /// Piece bytes of a put: `length` raw bytes (1..=[`MAX_DATA`]) follow. See [`write_data`] and [`read_raw`].
    Data { length: u32 },
    /// End of a put's data.
    End,
    /// Gives up a put; the stream stays usable.
    Cancel,
    /// Reads shares `first..first + count`, each with its proof; the order pays for them.
    Get { limit: Signed<OrderLimit>, order: Signed<Order>, first: u32, count: u32 },
    /// Removes a piece. That it does not exist is no error.
    Delete { limit: Signed<OrderLimit> },
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Reply {
    Failed(NodeError),
    /// The piece is durable.
    Stored(Signed<Receipt>),
    /// Whole shares from number `first` on, one per proof; `data` raw bytes follow (1..=[`MAX_DATA`]): [`SHARE`] bytes each,
    /// the piece's last share what is left of `length`. A proof is the siblings from leaf to root.
    Shares {
        first: u32,
        proofs: Vec<Vec<[u8; 32]>>,
        length: u64,
        data: u32,
    },
    /// Everything asked for was sent; or the put was given up.
    End,
    Deleted,
}

/// Why a node refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NodeError {
    /// The limit is not valid here: other node, unknown satellite, expired, wrong action, bad signature.
    #[error("order limit refused: {0}")]
    Limit(String),
    /// The orders do not cover the bytes. `spent` bytes of the limit are used up (after a crash of the node up to a
    /// reservation step more than it moved); an order must exceed that. Another limit helps.
    #[error("not paid: {spent} bytes spent, {paid} ordered")]
    Unpaid {
        /// Bytes of the limit that the node counts as moved.
        spent: u64,
        /// The highest order it has.
        paid: u64,
    },
    /// No such piece.
    #[error("no such piece")]
    NotFound,
    /// No room.
    #[error("node is full")]
    Full,
    /// The piece is damaged on disk.
    #[error("piece damaged")]
    Damaged,
    /// Another piece of that id is stored; it stays.
    #[error("piece exists with other content")]
    Exists,
    /// The request breaks the protocol; the stream ends.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Disk failure.
    #[error("node failed: {0}")]
    Internal(String),
    /// Too busy now.
    #[error("node is busy")]
    Busy,
}

/// Sends piece bytes of a put, 1..=[`MAX_DATA`], with the order that pays for them, in one vectored write if the stream
/// can. Does not flush.
pub async fn write_data(
    stream: &mut (impl AsyncWrite + Unpin),
    order: Option<Signed<Order>>,
    data: &[u8],
) -> Result<(), FrameError> {
    let mut head = Vec::with_capacity(256);
    if let Some(order) = order {
        frame::append(&mut head, &Request::Order(order), MAX_MESSAGE)?;
    }
    frame::append(&mut head, &Request::Data { length: raw_length(data)? }, MAX_MESSAGE)?;
    write_both(stream, &head, data).await
}

/// Sends shares `first..` of a piece of `length` bytes, one per proof, in one vectored write if the stream can. Does not
/// flush.
pub async fn write_shares(
    stream: &mut (impl AsyncWrite + Unpin),
    first: u32,
    proofs: Vec<Vec<[u8; 32]>>,
    length: u64,
    data: &[u8],
) -> Result<(), FrameError> {
    let mut head = Vec::with_capacity(1024);
    frame::append(&mut head, &Reply::Shares { first, proofs, length, data: raw_length(data)? }, MAX_MESSAGE)?;
    write_both(stream, &head, data).await
}

/// Receives the `length` raw bytes behind a [`Request::Data`] or [`Reply::Shares`] into `buffer`, which is reused and
/// then holds exactly these. Refuses lengths outside 1..=[`MAX_DATA`] before it allocates.
pub async fn read_raw(
    stream: &mut (impl AsyncRead + Unpin),
    length: u32,
    buffer: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let length = length as usize;
    if length == 0 || length > MAX_DATA {
        return Err(FrameError::TooLong { length, limit: MAX_DATA });
    }
    buffer.resize(length, 0);
    stream.read_exact(buffer).await?;
    Ok(())
}

/// As [`read_raw`], into bytes of their own.
pub async fn read_raw_bytes(stream: &mut (impl AsyncRead + Unpin), length: u32) -> Result<Bytes, FrameError> {
    let mut buffer = Vec::new();
    read_raw(stream, length, &mut buffer).await?;
    Ok(buffer.into())
}

fn raw_length(data: &[u8]) -> Result<u32, FrameError> {
    match data.len() {
        length @ 1..=MAX_DATA => Ok(length as u32),
        length => Err(FrameError::TooLong { length, limit: MAX_DATA }),
    }
}

/// Writes `head` and `data` with as few writes as the stream allows.
async fn write_both(stream: &mut (impl AsyncWrite + Unpin), head: &[u8], data: &[u8]) -> Result<(), FrameError> {
    let mut sent = 0;
    while sent < head.len() {
        let n = stream.write_vectored(&[IoSlice::new(&head[sent..]), IoSlice::new(data)]).await?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        sent += n;
    }
    stream.write_all(&data[sent - head.len()..]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    proptest! {
        #[test]
        fn shares_arrive_as_sent(data in proptest::collection::vec(any::<u8>(), 1..5000), proof in any::<[u8; 32]>()) {
            block_on(async {
                let (mut a, mut b) = tokio::io::duplex(100);
                let proofs = vec![vec![proof]];
                let send = write_shares(&mut a, 7, proofs.clone(), 99, &data);
                let receive = async {
                    let reply: Option<Reply> = frame::read(&mut b, MAX_MESSAGE).await.expect("frame");
                    assert_eq!(reply, Some(Reply::Shares { first: 7, proofs, length: 99, data: data.len() as u32 }));
                    read_raw_bytes(&mut b, data.len() as u32).await.expect("raw")
                };
                let (sent, received) = tokio::join!(send, receive);
                sent.expect("sent");
                assert_eq!(received, data);
            });
        }
    }

    #[test]
    fn raw_lengths_are_bounded() {
        block_on(async {
            let mut sink = Vec::new();
            assert!(matches!(write_data(&mut sink, None, &[]).await, Err(FrameError::TooLong { .. })));
            let long = vec![0; MAX_DATA + 1];
            assert!(matches!(write_data(&mut sink, None, &long).await, Err(FrameError::TooLong { .. })));
            assert!(matches!(read_raw_bytes(&mut &long[..], u32::MAX).await, Err(FrameError::TooLong { .. })));
            assert!(matches!(read_raw_bytes(&mut &long[..], 0).await, Err(FrameError::TooLong { .. })));
        });
    }
}
