//! The piece protocol ([`strewn_wire::node`]) over any stream: one transfer after the other.
//!
//! [`Connection::serve`] reads requests; `put` and `get` move pieces. A refusal ends a transfer and is answered; anything
//! that breaks the protocol, an error of the stream or a deadline ends the stream.

mod get;
mod put;

use crate::disk::Lost;
use crate::ledger::LedgerError;
use crate::node::Inner;
use crate::store::StoreError;
use crate::verify::{Limit, Purpose, Refusal};
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::order::{Order, OrderLimit, Signed};
use strewn_wire::frame::{self, FrameError};
use strewn_wire::node::{MAX_MESSAGE, NodeError, Reply, Request};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

/// How long a stream may rest between transfers.
const IDLE: Duration = Duration::from_secs(600);
/// How long the other side may take for the next message or for taking ours.
const STEP: Duration = Duration::from_secs(60);
/// How long a transfer may take.
const TRANSFER: Duration = Duration::from_secs(1_800);
/// Messages are read through a buffer of this many bytes; piece bytes beyond it are not copied.
const READ_BUFFER: usize = 4_096;

/// Why a stream ended other than by its opener's will.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The stream failed or broke off, or what came was no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other side broke the protocol.
    #[error("protocol broken: {0}")]
    Invalid(String),
    /// The other side was too slow.
    #[error("stream timed out")]
    TimedOut,
    /// The node is being closed.
    #[error("node is closing")]
    Closing,
}

/// What ends a transfer early.
enum Stop {
    /// A refusal: the stream goes on.
    Refused(NodeError),
    Ended(ServeError),
}

impl<E: Into<ServeError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Ended(error.into())
    }
}

/// A stream being served.
pub(crate) struct Connection<'a, S> {
    node: &'a Inner,
    stream: BufReader<S>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'a, S> {
    pub(crate) fn new(node: &'a Inner, stream: S) -> Self {
        Self { node, stream: BufReader::with_capacity(READ_BUFFER, stream) }
    }

    /// Serves until the other side ends the stream.
    pub(crate) async fn serve(mut self) -> Result<(), ServeError> {
        let result = self.requests().await;
        let reason = match &result {
            Err(ServeError::Invalid(reason)) => reason.clone(),
            Err(ServeError::Frame(error @ (FrameError::TooLong { .. } | FrameError::Malformed(_)))) => {
                error.to_string()
            }
            _ => return result,
        };
        // The stream ends in any case.
        let _ = self.reply(&Reply::Failed(NodeError::Invalid(reason))).await;
        let _ = timeout(STEP, self.stream.shutdown()).await;
        result
    }

    async fn requests(&mut self) -> Result<(), ServeError> {
        while let Some(request) = self.next(IDLE).await? {
            let node = self.node;
            let transfer = async {
                match request {
                    Request::Put { limit, length } => self.put(&limit, length).await,
                    Request::Get { limit, order, first, count } => self.get(&limit, &order, first, count).await,
                    Request::Delete { limit } => self.delete(&limit).await,
                    Request::Order(_) | Request::Data { .. } | Request::End | Request::Cancel => {
                        Err(ServeError::Invalid("no put is under way".into()))
                    }
                }
            };
            unless_closing(node, TRANSFER, transfer).await??;
        }
        Ok(())
    }

    async fn delete(&mut self, limit: &Signed<OrderLimit>) -> Result<(), ServeError> {
        let reply = match self.remove(limit).await {
            Ok(()) => Reply::Deleted,
            Err(Stop::Refused(error)) => Reply::Failed(error),
            Err(Stop::Ended(error)) => return Err(error),
        };
        self.reply(&reply).await
    }

    async fn remove(&self, limit: &Signed<OrderLimit>) -> Result<(), Stop> {
        let _permit = self.permit()?;
        let limit = self.limit(limit, Purpose::Delete)?;
        self.node.faults.wait(0).await;
        self.node.delete(limit.terms.piece).await.map_err(refused)
    }

    /// The next message within `patience`; `None` if the stream ended.
    async fn next(&mut self, patience: Duration) -> Result<Option<Request>, ServeError> {
        let read = frame::read(&mut self.stream, MAX_MESSAGE);
        Ok(unless_closing(self.node, patience, read).await??)
    }

    async fn reply(&mut self, reply: &Reply) -> Result<(), ServeError> {
        let send = async {
            frame::write(&mut self.stream, reply, MAX_MESSAGE).await?;
            Ok::<_, FrameError>(self.stream.flush().await?)
        };
        Ok(timeout(STEP, send).await.map_err(|_| ServeError::TimedOut)??)
    }

    /// A place among the transfers of the node.
    fn permit(&self) -> Result<SemaphorePermit<'a>, Stop> {
        self.node.transfers.try_acquire().map_err(|_| Stop::Refused(NodeError::Busy))
    }

    fn limit(&self, limit: &Signed<OrderLimit>, purpose: Purpose) -> Result<Arc<Limit>, Stop> {
        self.node.verifier.limit(limit, purpose, self.node.now()).map_err(limit_refused)
    }

    /// Takes an order.
    fn pay(&self, limit: &Limit, signed: &Signed<Order>) -> Result<(), Stop> {
        let order = limit.order(signed).map_err(limit_refused)?;
        self.node.ledger.pay(limit, &order, signed).map_err(unpaid)
    }
}

/// Runs a step with a deadline; ends it when the node closes.
async fn unless_closing<T>(node: &Inner, patience: Duration, step: impl Future<Output = T>) -> Result<T, ServeError> {
    let mut closing = node.closing.subscribe();
    tokio::select! {
        biased;
        // The sender lives as long as the node.
        _ = closing.wait_for(|closing| *closing) => Err(ServeError::Closing),
        result = timeout(patience, step) => result.map_err(|_| ServeError::TimedOut),
    }
}

fn limit_refused(refusal: Refusal) -> Stop {
    Stop::Refused(NodeError::Limit(refusal.to_string()))
}

fn unpaid(error: LedgerError) -> Stop {
    Stop::Refused(match error {
        LedgerError::Unpaid { spent, paid } => NodeError::Unpaid { spent, paid },
        LedgerError::Expired | LedgerError::OtherLimit => NodeError::Limit(error.to_string()),
        LedgerError::Busy => NodeError::Busy,
        LedgerError::Failed(reason) => NodeError::Internal(reason),
    })
}

fn refused(error: StoreError) -> Stop {
    Stop::Refused(match error {
        StoreError::Full => NodeError::Full,
        StoreError::Exists => NodeError::Exists,
        StoreError::NotFound => NodeError::NotFound,
        StoreError::Damaged => NodeError::Damaged,
        StoreError::Failed(reason) => NodeError::Internal(reason),
    })
}

fn lost(lost: Lost) -> Stop {
    Stop::Refused(NodeError::Internal(lost.to_string()))
}

#[cfg(test)]
mod tests;
