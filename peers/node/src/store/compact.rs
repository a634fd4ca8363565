//! Gets the space of a mostly dead log back: what lives in it is copied to the current log, then the file is removed.
//!
//! One log at a time, and one that was begun is finished before any other, also after a crash (the file `retiring` names
//! it). So no copy of a piece is left behind in a log when the tombstone of its successor is dropped: a tombstone is
//! carried over as long as the log of the piece it buried exists.

use super::commit::{Done, Operation};
use super::incoming::Filled;
use super::index::{self, Location};
use super::log::{self, Log, sync_directory};
use super::record::{Header, UNIT, header_crc, record_length};
use super::recover::{self, Event};
use super::{Shared, Store, StoreError, random_nonce};
use crate::disk;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use strewn_engine::ids::PieceId;
use tokio::task::JoinSet;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Live pieces that were copied.
    pub moved: u64,
    /// Length of the log that is gone.
    pub removed: u64,
}

/// Dead bytes for which the current log is closed to be compacted.
const ROLLABLE: u64 = 64 << 20;
/// Records copied before they are committed together.
const TOGETHER: u32 = 64;
/// Bytes copied at a time.
const COPY: usize = 1 << 20;

impl Store {
    /// Compacts the log that is most worth it, if any is: at least half dead, and nothing being written to it.
    pub async fn compact(&self) -> Result<Option<Compacted>, StoreError> {
        self.compact_if(ROLLABLE).await
    }

    /// As [`compact`](Self::compact), closing the current log for `rollable` dead bytes.
    pub(crate) async fn compact_if(&self, rollable: u64) -> Result<Option<Compacted>, StoreError> {
        let shared = self.shared.clone();
        shared.check()?;
        let Some(number) = disk::run(move || choose(&shared, rollable)).await?? else { return Ok(None) };
        let moved = self.move_all(number).await?;
        let shared = self.shared.clone();
        let tombstones = disk::run(move || tombstones(&shared, number)).await??;
        for some in tombstones.chunks(TOGETHER as usize) {
            self.commit_all(some.iter().map(|header| Operation::Carry(*header)).collect()).await?;
        }
        let shared = self.shared.clone();
        let removed = disk::run(move || remove(&shared, number)).await??;
        Ok(Some(Compacted { moved, removed }))
    }

    /// Copies what lives in a log; returns the number of pieces.
    pub(super) async fn move_all(&self, number: u64) -> Result<u64, StoreError> {
        let mut moved = 0;
        loop {
            let shared = self.shared.clone();
            let operations = disk::run(move || copy_some(&shared, number)).await??;
            if operations.is_empty() {
                return Ok(moved);
            }
            moved += operations.len() as u64;
            self.commit_all(operations).await?;
        }
    }

    async fn commit_all(&self, operations: Vec<Operation>) -> Result<(), StoreError> {
        let mut set = JoinSet::new();
        for operation in operations {
            let commits = self.commits.clone();
            set.spawn(async move { commits.submit(operation).await });
        }
        while let Some(outcome) = set.join_next().await {
            match outcome.map_err(|e| StoreError::Failed(e.to_string()))??? {
                // A copy that was not wanted any more gave its place up.
                Done::Moved(_) | Done::Carried | Done::Deleted(_) => {}
                other @ Done::Stored => return Err(StoreError::Failed(format!("compaction was answered {other:?}"))),
            }
        }
        Ok(())
    }
}

fn retiring_path(shared: &Shared) -> PathBuf {
    shared.directory.join("retiring")
}

/// The log to compact, noted durably and closed.
pub(super) fn choose(shared: &Shared, rollable: u64) -> Result<Option<u64>, StoreError> {
    if let Some(number) = retiring(shared)? {
        return Ok(Some(number));
    }
    let Some((number, is_current)) = shared.space.mostly_dead(rollable) else { return Ok(None) };
    if is_current {
        let nonce = random_nonce().map_err(|e| StoreError::Failed(e.to_string()))?;
        shared.space.roll(number, || nonce)?;
    }
    if !shared.space.is_quiet(number) {
        return Ok(None);
    }
    let (path, temporary) = (retiring_path(shared), shared.directory.join("retiring.tmp"));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(number.to_string().as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&temporary, &path)?;
    sync_directory(&shared.directory)?;
    Ok(Some(number))
}

/// The log whose compaction was begun, if it still exists.
fn retiring(shared: &Shared) -> Result<Option<u64>, StoreError> {
    let text = match std::fs::read_to_string(retiring_path(shared)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok(text.parse().ok().filter(|number| shared.space.exists(*number) && shared.space.is_quiet(*number)))
}

/// Copies of the first pieces that live in the log.
fn copy_some(shared: &Arc<Shared>, number: u64) -> Result<Vec<Operation>, StoreError> {
    let Some(log) = shared.space.log(number)? else { return Ok(Vec::new()) };
    let pieces = shared.index(|index| index.of_log(number, 0, TOGETHER))?;
    let operation = |(piece, at)| match copy(shared, &log, piece, at) {
        Ok(filled) => Ok(Operation::Move(filled, at)),
        Err(StoreError::Damaged) => {
            tracing::error!(%piece, "a piece has no readable footer and cannot be proven any more, dropping it");
            Ok(Operation::Delete(piece))
        }
        Err(error) => Err(error),
    };
    pieces.into_iter().map(operation).collect()
}

/// Copies a record, damaged data included: what is damaged stays provably so.
fn copy(shared: &Shared, log: &Log, piece: PieceId, at: Location) -> Result<Filled, StoreError> {
    let footer = recover::read_footer(log, at.offset, at.length, piece)?.ok_or(StoreError::Damaged)?;
    let place = shared.place(record_length(at.length))?;
    let header = Header::Piece { piece, length: at.length, expires: at.expires }.encode(&place.log.nonce);
    place.log.write_at(place.offset, &header)?;
    let mut buffer = vec![0; COPY.min(at.length as usize)];
    let mut done = 0;
    while done < at.length {
        let part = (at.length - done).min(COPY as u64) as usize;
        log.read_at(at.offset + UNIT + done, &mut buffer[..part])?;
        place.log.write_at(place.offset + UNIT + done, &buffer[..part])?;
        done += part as u64;
    }
    let (length, expires, header) = (at.length, at.expires, header_crc(&header));
    Ok(Filled { place, piece, length, expires, header, root: footer.root, shares: footer.shares })
}

/// Tombstones of the log that are still needed.
fn tombstones(shared: &Shared, number: u64) -> Result<Vec<Header>, StoreError> {
    let mut needed = Vec::new();
    if let Some(log) = shared.space.log(number)? {
        recover::scan(&log, UNIT, |_, event| {
            if let Event::Tombstone { piece, seq, log } = event
                && log != number
                && shared.space.exists(log)
            {
                needed.push(Header::Tombstone { piece, seq, log });
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(needed)
}

/// Removes the log, in which nothing lives.
fn remove(shared: &Shared, number: u64) -> Result<u64, StoreError> {
    let length = shared.space.ends().into_iter().find(|(n, _)| *n == number).map_or(0, |(_, end)| end);
    std::fs::remove_file(log::path(&shared.directory, number))?;
    sync_directory(&shared.directory)?;
    shared.space.forget(number);
    shared.index(|index| index.apply(&index::Changes { forget: vec![number], ..index::Changes::default() }))?;
    std::fs::remove_file(retiring_path(shared))?;
    Ok(length)
}
