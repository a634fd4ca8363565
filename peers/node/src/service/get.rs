//! Shares go out: while some are sent, the next ones are read.

use super::{Connection, STEP, ServeError, Stop, lost, refused, unpaid};
use crate::disk;
use crate::store::{Piece, StoreError};
use crate::verify::{Limit, Purpose};
use std::sync::Arc;
use strewn_engine::order::{Order, OrderLimit, Signed};
use strewn_wire::frame::FrameError;
use strewn_wire::node::{MAX_DATA, NodeError, Reply, SHARE, write_shares};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Shares sent with one message.
const TOGETHER: u32 = (MAX_DATA / SHARE as usize) as u32;

/// Shares read and proven, ready to be sent.
struct Batch {
    first: u32,
    proofs: Vec<Vec<[u8; 32]>>,
    data: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    pub(super) async fn get(
        &mut self,
        limit: &Signed<OrderLimit>,
        order: &Signed<Order>,
        first: u32,
        count: u32,
    ) -> Result<(), ServeError> {
        let reply = match self.send(limit, order, first, count).await {
            Ok(()) => Reply::End,
            Err(Stop::Refused(error)) => Reply::Failed(error),
            Err(Stop::Ended(error)) => return Err(error),
        };
        self.reply(&reply).await
    }

    async fn send(
        &mut self,
        limit: &Signed<OrderLimit>,
        order: &Signed<Order>,
        first: u32,
        count: u32,
    ) -> Result<(), Stop> {
        let _permit = self.permit()?;
        let limit = self.limit(limit, Purpose::Get)?;
        self.pay(&limit, order)?;
        self.node.faults.wait(0).await;
        let (piece, batch) = self.open(&limit, first, count).await?;
        let end = first + count;
        let mut next = self.affordable(&limit, batch)?;
        let mut spare = Vec::new();
        loop {
            let mut batch = next;
            self.node.ledger.spend_on_get(&limit.terms.serial, batch.data.len() as u64).await.map_err(unpaid)?;
            self.node.faults.wait(batch.proofs.len() as u32).await;
            if self.node.faults.is_corrupt() {
                batch.data.iter_mut().step_by(SHARE as usize).for_each(|byte| *byte ^= 1);
            }
            let after = batch.first + batch.proofs.len() as u32;
            let data = std::mem::take(&mut batch.data);
            let sending = write_shares(&mut self.stream, batch.first, batch.proofs, piece.length(), &data);
            if after == end {
                timed(sending).await?;
                return Ok(());
            }
            let reading = read(&piece, after, (end - after).min(TOGETHER), spare);
            let (sent, read) = tokio::join!(timed(sending), reading);
            sent?;
            spare = data;
            next = self.affordable(&limit, read?)?;
        }
    }

    /// Opens the piece and reads the first shares, in one job.
    async fn open(&self, limit: &Limit, first: u32, count: u32) -> Result<(Arc<Piece>, Batch), Stop> {
        let (store, id) = (self.node.store.clone(), limit.terms.piece);
        let job = move || {
            let piece = store.piece(&id)?;
            let within = count > 0 && first.checked_add(count).is_some_and(|end| end <= piece.shares());
            let batch = within.then(|| read_batch(&piece, first, count.min(TOGETHER), Vec::new()));
            Ok((Arc::new(piece), batch.transpose()?))
        };
        match disk::run(job).await.map_err(lost)?.map_err(refused)? {
            (piece, Some(batch)) => Ok((piece, batch)),
            (piece, None) => {
                let reason = format!("shares {first} and {count} more of {}", piece.shares());
                Err(Stop::Ended(ServeError::Invalid(reason)))
            }
        }
    }

    /// The shares of a batch that are paid for.
    fn affordable(&self, limit: &Limit, mut batch: Batch) -> Result<Batch, Stop> {
        let (spent, paid) = self.node.ledger.balance(&limit.terms.serial);
        let affordable = paid.saturating_sub(spent);
        if affordable < batch.data.len() as u64 {
            let shares = (affordable / SHARE) as usize;
            if shares == 0 {
                return Err(Stop::Refused(NodeError::Unpaid { spent, paid }));
            }
            batch.proofs.truncate(shares);
            batch.data.truncate(shares * SHARE as usize);
        }
        Ok(batch)
    }
}

async fn timed(sending: impl Future<Output = Result<(), FrameError>>) -> Result<(), Stop> {
    Ok(timeout(STEP, sending).await.map_err(|_| ServeError::TimedOut)??)
}

/// Reads into a buffer that was used before.
async fn read(piece: &Arc<Piece>, first: u32, count: u32, buffer: Vec<u8>) -> Result<Batch, Stop> {
    let piece = piece.clone();
    disk::run(move || read_batch(&piece, first, count, buffer)).await.map_err(lost)?.map_err(refused)
}

fn read_batch(piece: &Piece, first: u32, count: u32, mut data: Vec<u8>) -> Result<Batch, StoreError> {
    piece.shares_into(first, count, &mut data)?;
    let proofs = (first..first + count).map(|share| piece.prove(share).ok_or(StoreError::Damaged));
    Ok(Batch { first, proofs: proofs.collect::<Result<_, _>>()?, data })
}
