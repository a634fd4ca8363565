//! One piece moved over one stream: the uplink's side of [`strewn_wire::node`].

use super::streams::NodeStream;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use std::io;
use std::time::Duration;
use strewn_engine::order::{Order, OrderLimit, Receipt, Signed};
use strewn_wire::frame::{self, FrameError};
use strewn_wire::node::{self, MAX_DATA, MAX_MESSAGE, NodeError, Reply, Request};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A put pays this far ahead: the most bytes a node could keep without storing them.
const ORDER_STEP: u64 = 1 << 20;
/// How long a node may take to confirm that a put was given up, before its stream is dropped instead.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// Why a piece was not moved.
#[derive(Debug, thiserror::Error)]
pub(super) enum PieceError {
    /// The stream failed or ended.
    #[error("stream: {0}")]
    Lost(#[from] io::Error),
    /// The node refused.
    #[error("{0}")]
    Refused(NodeError),
    /// The node breaks the protocol.
    #[error("protocol broken: {0}")]
    Protocol(String),
    /// Nobody wants the piece any more.
    #[error("given up")]
    Cancelled,
}

impl From<FrameError> for PieceError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => Self::Lost(error),
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// Where [`put`] takes a piece from.
pub(super) trait PieceSource: Send {
    /// The next bytes of the piece, in any portions; `None` after the last; [`PieceError::Cancelled`] to give up.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, PieceError>> + Send;

    /// The stream took some more bytes.
    fn sent(&mut self);
}

/// Stores a piece of `length` bytes; returns the node's receipt. After `Ok` and [`PieceError::Cancelled`] the stream may be kept.
pub(super) async fn put(
    stream: &mut NodeStream,
    limit: &Signed<OrderLimit>,
    key: &SigningKey,
    length: u64,
    source: &mut impl PieceSource,
) -> Result<Signed<Receipt>, PieceError> {
    let (mut read, mut write) = tokio::io::split(&mut stream.stream);
    let reply = async { frame::read::<Reply>(&mut read, MAX_MESSAGE).await };
    tokio::pin!(reply);
    let sent = tokio::select! {
        biased;
        // An early answer can only be a refusal; what is half written makes the stream useless.
        early = &mut reply => return Err(refusal(early?)),
        sent = send(&mut write, limit, key, length, source) => sent,
    };
    match sent {
        Ok(()) => match reply.await? {
            Some(Reply::Stored(receipt)) => Ok(receipt),
            other => Err(refusal(other)),
        },
        Err(PieceError::Cancelled) => {
            let confirmed = async {
                frame::write(&mut write, &Request::Cancel, MAX_MESSAGE).await?;
                write.flush().await?;
                reply.await
            };
            match timeout(CANCEL_GRACE, confirmed).await {
                Ok(Ok(Some(Reply::End))) => Err(PieceError::Cancelled),
                Ok(Ok(other)) => Err(refusal(other)),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(PieceError::Lost(io::ErrorKind::TimedOut.into())),
            }
        }
        Err(error) => Err(error),
    }
}

async fn send(
    write: &mut (impl AsyncWrite + Unpin),
    limit: &Signed<OrderLimit>,
    key: &SigningKey,
    length: u64,
    source: &mut impl PieceSource,
) -> Result<(), PieceError> {
    let hash = limit.hash();
    let (mut sent, mut paid) = (0, 0);
    frame::write(write, &Request::Put { limit: limit.clone(), length }, MAX_MESSAGE).await?;
    while let Some(bytes) = source.next().await? {
        for data in bytes.chunks(MAX_DATA) {
            sent += data.len() as u64;
            let order = (sent > paid).then(|| {
                paid = (paid + ORDER_STEP).max(sent).min(length);
                Signed::new(&Order { limit: hash, bytes: paid }, key)
            });
            node::write_data(write, order, data).await?;
            source.sent();
        }
        // The next portion may be long in coming.
        write.flush().await?;
    }
    frame::write(write, &Request::End, MAX_MESSAGE).await?;
    Ok(write.flush().await?)
}

/// A share as a node sent it, not yet proven.
pub(super) struct SentShare {
    pub(super) number: u32,
    pub(super) bytes: Bytes,
    pub(super) proof: Vec<[u8; 32]>,
}

/// Where [`get`] brings shares.
pub(super) trait ShareSink: Send {
    /// A share has come; an error ends the request.
    fn arrived(&mut self, share: SentShare) -> impl Future<Output = Result<(), PieceError>> + Send;
}

/// Which shares of a piece to read, and what pays for them.
pub(super) struct GetRequest {
    pub(super) limit: Signed<OrderLimit>,
    pub(super) order: Signed<Order>,
    pub(super) first: u32,
    pub(super) count: u32,
    /// Length of the piece, as the segment's measures have it.
    pub(super) piece_length: u64,
}

/// Reads shares; hands each on as it comes. After `Ok` and [`PieceError::Refused`] the stream may be kept.
pub(super) async fn get(
    stream: &mut NodeStream,
    request: &GetRequest,
    sink: &mut impl ShareSink,
) -> Result<(), PieceError> {
    let &GetRequest { first, count, piece_length, .. } = request;
    let (limit, order) = (request.limit.clone(), request.order.clone());
    let stream = &mut stream.stream;
    frame::write(stream, &Request::Get { limit, order, first, count }, MAX_MESSAGE).await?;
    stream.flush().await?;
    let end = first.checked_add(count).ok_or_else(|| PieceError::Protocol("shares beyond the last".into()))?;
    let mut next = first;
    loop {
        match frame::read(stream, MAX_MESSAGE).await? {
            Some(Reply::Shares { first, proofs, length, data }) => {
                let within = first == next && !proofs.is_empty() && proofs.len() <= (end - next) as usize;
                if !within || length != piece_length {
                    return Err(PieceError::Protocol("shares nobody asked for".into()));
                }
                let mut bytes = node::read_raw_bytes(stream, data).await?;
                for proof in proofs {
                    let share = bytes.split_to(bytes.len().min(node::SHARE as usize));
                    sink.arrived(SentShare { number: next, bytes: share, proof }).await?;
                    next += 1;
                }
            }
            Some(Reply::End) if next == end => return Ok(()),
            Some(Reply::Failed(error)) => return Err(PieceError::Refused(error)),
            other => return Err(refusal(other)),
        }
    }
}

fn refusal(reply: Option<Reply>) -> PieceError {
    match reply {
        Some(Reply::Failed(error)) => PieceError::Refused(error),
        Some(_) => PieceError::Protocol("an answer that fits no question".into()),
        None => PieceError::Lost(io::ErrorKind::UnexpectedEof.into()),
    }
}
