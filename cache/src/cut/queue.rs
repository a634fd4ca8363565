//! Batches that wait for the network. All of a batch is on disk, in the file of its cut; memory holds what is asked for all
//! the time, so that a network that is away for long takes disk and hardly any memory. The rest is read when it is needed.

use super::batch::Batch;
use super::seal::Segment;
use crate::Error;
use crate::blocking::blocking;
use crate::shared::{Pipeline, Shared};
use bytes::Bytes;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use strewn_engine::bucket::{PutInode, RunPlace, Sealed};
use strewn_engine::ids::{InodeId, RunId, SegmentId};

/// Whole batches kept in memory: the one that is sent next, and one that is read from.
pub(crate) const WHOLE_BATCHES: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

/// What memory holds of a batch.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The cut it is of.
    pub(crate) cut: u64,
    /// Its place in the stream.
    pub(crate) number: u64,
    /// The segments it needs.
    pub(crate) segments: Vec<Segment>,
    /// Bytes of data in it.
    pub(crate) bytes: u64,
    /// How many changes it makes.
    pub(crate) operations: usize,
    puts: HashMap<InodeId, Put>,
    runs: HashMap<RunId, Place>,
}

/// What memory holds of a put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Put {
    /// Row version that it expects; 0 if it creates the inode.
    pub(crate) expected_version: u64,
    record: Fingerprint,
}

/// Tells the record of a put from others.
type Fingerprint = [u8; 16];

fn fingerprint(record: &Sealed) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&record.generation.to_le_bytes()).update(&record.bytes);
    let mut fingerprint = Fingerprint::default();
    hasher.finalize_xof().fill(&mut fingerprint);
    fingerprint
}

impl Put {
    /// True if it is this record that it puts.
    pub(crate) fn puts(&self, record: &Sealed) -> bool {
        self.record == fingerprint(record)
    }
}

/// Where a run of a batch lies until the network has it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// In the batch of this cut: this one of its runs.
    Batch { cut: u64, index: usize },
    /// From this byte of a sealed segment on.
    Segment { segment: SegmentId, offset: u64 },
}

impl Queued {
    pub(crate) fn of(batch: &Batch) -> Self {
        let Batch { cut, ref commit, ref segments, bytes, .. } = *batch;
        let put = |put: &PutInode| {
            (put.inode, Put { expected_version: put.expected_version, record: fingerprint(&put.record) })
        };
        let runs = commit.runs.iter().enumerate().map(|(index, new)| {
            let place = match new.place {
                RunPlace::Inline(_) => Place::Batch { cut, index },
                RunPlace::Segment { segment, offset, .. } => Place::Segment { segment, offset },
            };
            (new.run, place)
        });
        Self {
            cut,
            number: commit.number,
            segments: segments.clone(),
            bytes,
            operations: commit.operations.len(),
            puts: batch.puts().map(put).collect(),
            runs: runs.collect(),
        }
    }

    /// Inodes it puts.
    pub(crate) fn puts(&self) -> impl ExactSizeIterator<Item = InodeId> {
        self.puts.keys().copied()
    }

    /// What it puts of an inode.
    pub(crate) fn put_of(&self, inode: InodeId) -> Option<&Put> {
        self.puts.get(&inode)
    }

    /// Inodes it creates.
    pub(crate) fn created(&self) -> impl Iterator<Item = InodeId> {
        self.puts.iter().filter(|(_, put)| put.expected_version == 0).map(|(inode, _)| *inode)
    }
}

impl Pipeline {
    /// Where a run lies that the network does not have yet.
    pub(crate) fn place_of(&self, run: RunId) -> Option<Place> {
        self.queued.iter().find_map(|queued| queued.runs.get(&run)).copied()
    }

    /// Cuts whose batches put an inode, oldest first.
    fn cuts_that_put(&self, inode: InodeId) -> Vec<u64> {
        let puts = self.queued.iter().filter(|queued| queued.put_of(inode).is_some());
        puts.map(|queued| queued.cut).collect()
    }

    fn is_queued(&self, cut: u64) -> bool {
        self.queued.iter().any(|queued| queued.cut == cut)
    }
}

impl Shared {
    /// All of a batch in the queue.
    pub(crate) async fn whole_batch(self: &Arc<Self>, cut: u64) -> Result<Arc<Batch>, Error> {
        if let Some(batch) = self.batches.lock().get(&cut) {
            return Ok(batch.clone());
        }
        let shared = self.clone();
        let batch = blocking(move || Batch::read(&shared.store, cut)).await?;
        let batch = Arc::new(batch);
        // One that has left the queue meanwhile is of no use to anybody else.
        let state = self.state.lock();
        if state.pipeline.is_queued(cut) {
            self.batches.lock().put(cut, batch.clone());
        }
        drop(state);
        Ok(batch)
    }

    /// Ciphertext of a run that is in the batch itself; `None` if the batch has left the queue.
    pub(crate) async fn inline_run(self: &Arc<Self>, cut: u64, index: usize) -> Result<Option<Bytes>, Error> {
        let Some(batch) = self.unless_gone(cut).await? else { return Ok(None) };
        match batch.commit.runs.get(index).map(|new| &new.place) {
            Some(RunPlace::Inline(bytes)) => Ok(Some(bytes.clone())),
            _ => Err(Error::Corrupt(format!("the batch of cut {cut} is not the one that was written"))),
        }
    }

    /// What the batches in the queue put of an inode, oldest first; `None` if one of them left the queue meanwhile.
    pub(crate) async fn queued_puts(self: &Arc<Self>, inode: InodeId) -> Result<Option<QueuedPuts>, Error> {
        let mut found = QueuedPuts { inode, cuts: self.state.lock().pipeline.cuts_that_put(inode), puts: Vec::new() };
        for cut in &found.cuts {
            let Some(batch) = self.unless_gone(*cut).await? else { return Ok(None) };
            found.puts.extend(batch.puts().filter(|put| put.inode == inode).cloned());
        }
        Ok(Some(found))
    }

    async fn unless_gone(self: &Arc<Self>, cut: u64) -> Result<Option<Arc<Batch>>, Error> {
        match self.whole_batch(cut).await {
            Ok(batch) => Ok(Some(batch)),
            // Its file goes with it.
            Err(_) if !self.state.lock().pipeline.is_queued(cut) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What batches put of an inode.
#[derive(Debug)]
pub(crate) struct QueuedPuts {
    inode: InodeId,
    cuts: Vec<u64>,
    /// Oldest first.
    pub(crate) puts: Vec<PutInode>,
}

impl QueuedPuts {
    /// True as long as no other batch puts the inode.
    pub(crate) fn are_all(&self, pipeline: &Pipeline) -> bool {
        pipeline.cuts_that_put(self.inode) == self.cuts
    }
}
