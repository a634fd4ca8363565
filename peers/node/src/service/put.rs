//! A piece comes in: while one portion is hashed and written, the next one is received.

use super::{Connection, STEP, ServeError, Stop, limit_refused, lost, refused, unless_closing, unpaid};
use crate::disk::{self, Job};
use crate::store::{Incoming, StoreError};
use crate::verify::{Limit, Purpose};
use strewn_engine::order::{OrderLimit, Receipt, Signed};
use strewn_wire::node::{MAX_PIECE, NodeError, Reply, Request, SHARE, read_raw};
use tokio::io::{AsyncRead, AsyncWrite};

/// Where the piece is, and the buffers.
struct Sink {
    /// The piece, unless a job has it.
    incoming: Option<Incoming>,
    job: Option<Job<Written>>,
    /// A buffer that no job has.
    spare: Vec<u8>,
    /// Bytes still to be received.
    missing: u64,
}

struct Written {
    incoming: Incoming,
    buffer: Vec<u8>,
    result: Result<(), StoreError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    pub(super) async fn put(&mut self, limit: &Signed<OrderLimit>, length: u64) -> Result<(), ServeError> {
        // True once the uplink has said End or Cancel.
        let mut is_over = false;
        let reply = match self.store(limit, length, &mut is_over).await {
            Ok(Some(receipt)) => Reply::Stored(receipt),
            Ok(None) => Reply::End,
            Err(Stop::Refused(error)) => Reply::Failed(error),
            Err(Stop::Ended(error)) => return Err(error),
        };
        self.reply(&reply).await?;
        if is_over { Ok(()) } else { self.skip(length).await }
    }

    /// The receipt for the piece; `None` if it was given up.
    async fn store(
        &mut self,
        limit: &Signed<OrderLimit>,
        length: u64,
        is_over: &mut bool,
    ) -> Result<Option<Signed<Receipt>>, Stop> {
        if length == 0 || length > MAX_PIECE {
            return Err(Stop::Ended(ServeError::Invalid(format!("a piece of {length} bytes"))));
        }
        let _permit = self.permit()?;
        let limit = self.limit(limit, Purpose::Put)?;
        let terms = &limit.terms;
        if length > terms.bytes {
            return Err(limit_refused(crate::verify::Refusal::OverBudget(terms.bytes)));
        }
        self.node.faults.wait(0).await;
        if self.node.faults.is_full() {
            return Err(Stop::Refused(NodeError::Full));
        }
        let expires = terms.piece_expires.map(|at| at.seconds);
        let incoming = self.node.store.admit(terms.piece, length, expires).map_err(refused)?;
        let received = self.receive(&limit, incoming, length).await;
        // Refusals come before End.
        *is_over = received.is_ok();
        match received? {
            Some(incoming) => self.keep(&limit, incoming, length).await.map(Some),
            None => Ok(None),
        }
    }

    /// The whole piece; `None` if it was given up.
    async fn receive(&mut self, limit: &Limit, incoming: Incoming, length: u64) -> Result<Option<Incoming>, Stop> {
        let mut sink = Sink { incoming: Some(incoming), job: None, spare: Vec::new(), missing: length };
        loop {
            match self.next(STEP).await?.ok_or_else(broken_off)? {
                Request::Order(order) => self.pay(limit, &order)?,
                Request::Data { length } => {
                    if u64::from(length) > sink.missing {
                        return Err(Stop::Ended(ServeError::Invalid("more bytes than announced".into())));
                    }
                    let mut buffer = std::mem::take(&mut sink.spare);
                    unless_closing(self.node, STEP, read_raw(&mut self.stream, length, &mut buffer)).await??;
                    let bytes = u64::from(length);
                    self.node.ledger.spend_on_put(&limit.terms.serial, bytes).map_err(unpaid)?;
                    self.node.faults.wait(bytes.div_ceil(SHARE) as u32).await;
                    sink.write(buffer).await?;
                }
                Request::End if sink.missing == 0 => return Ok(Some(sink.finish().await?)),
                Request::Cancel => {
                    let incoming = sink.finish().await?;
                    disk::run(move || drop(incoming)).await.map_err(lost)?;
                    return Ok(None);
                }
                _ => return Err(Stop::Ended(ServeError::Invalid("not a message of a put".into()))),
            }
        }
    }

    async fn keep(&self, limit: &Limit, incoming: Incoming, length: u64) -> Result<Signed<Receipt>, Stop> {
        // Both before the receipt, in any order.
        let noted = self.node.ledger.note_put(&limit.terms.serial);
        let (noted, root) = tokio::join!(noted, self.node.store.commit(incoming));
        noted.map_err(unpaid)?;
        let root = root.map_err(refused)?;
        self.node.faults.wait(0).await;
        Ok(Signed::new(&Receipt { limit: limit.hash, length, root }, &self.node.key))
    }

    /// Drops what the uplink sends until it has heard that its put has failed.
    async fn skip(&mut self, length: u64) -> Result<(), ServeError> {
        let (mut missing, mut buffer) = (length, Vec::new());
        loop {
            match self.next(STEP).await?.ok_or_else(broken_off)? {
                Request::Order(_) => {}
                Request::Data { length } if u64::from(length) <= missing => {
                    unless_closing(self.node, STEP, read_raw(&mut self.stream, length, &mut buffer)).await??;
                    missing -= u64::from(length);
                }
                Request::End | Request::Cancel => return Ok(()),
                _ => return Err(ServeError::Invalid("not a message of a put".into())),
            }
        }
    }
}

impl Sink {
    /// Hands a portion to the disk, once the portion before is done.
    async fn write(&mut self, buffer: Vec<u8>) -> Result<(), Stop> {
        self.settle().await?;
        self.missing = self.missing.saturating_sub(buffer.len() as u64);
        let Some(mut incoming) = self.incoming.take() else { return Err(lost(disk::Lost)) };
        let job = disk::start(move || {
            let result = incoming.write(&buffer);
            Written { incoming, buffer, result }
        });
        self.job = Some(job);
        Ok(())
    }

    /// Waits for the job under way.
    async fn settle(&mut self) -> Result<(), Stop> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let written = job.await.map_err(lost)?;
        (self.incoming, self.spare) = (Some(written.incoming), written.buffer);
        written.result.map_err(refused)
    }

    async fn finish(mut self) -> Result<Incoming, Stop> {
        self.settle().await?;
        self.incoming.ok_or_else(|| lost(disk::Lost))
    }
}

fn broken_off() -> ServeError {
    ServeError::Frame(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
}
