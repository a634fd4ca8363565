//! Reading: what is here from memory or the data file, the rest from the network, each stretch [fetched](super::fetch) once.
//!
//! A sequential reader has the next stretches fetched ahead in the background.

use super::fetch::{Fetch, Keep, plan_fetch};
use super::map::{Backing, Part};
use crate::Error;
use crate::cache::Seek;
use crate::load::Gone;
use crate::shared::Shared;
use crate::tree::Tree;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use strewn_engine::bucket;
use strewn_engine::content::{BLOCK_PLAIN, window};
use strewn_engine::ids::InodeId;
use strewn_engine::secret::Key;

/// Stretches fetched ahead side by side.
const PARALLEL_AHEAD: usize = 4;
/// Rounds of finding out, fetching and looking again before a read of a file that changes all the time gives up.
const MOST_ROUNDS: usize = 1_000;

/// What a byte is part of, for a read that keeps nothing.
enum Through {
    /// Nothing: the file ends.
    End,
    /// A hole of so many bytes.
    Hole(usize),
    /// These bytes.
    Memory(Bytes),
    /// This range of the data file of this generation, which is held open for reading meanwhile.
    File(u64, Range<u64>),
    /// A window whose extents are to be loaded.
    Window(u64, Key),
    /// A stretch that is not here.
    Fetch(Fetch),
}

/// What stands between a read and its bytes.
enum Plan {
    /// All is here.
    Memory(Bytes),
    /// All is here; data and zeros, in order. The data file is held open for reading meanwhile.
    File { generation: u64, range: Range<u64>, data: Vec<Range<u64>> },
    /// Somebody fetches part of it already.
    Wait,
    /// The index may have it.
    Recall,
    /// A window's extents are to be loaded.
    Window(u64, Key),
    /// To be fetched: the stretch is marked as being fetched.
    Fetch(Fetch),
}

impl Shared {
    /// See [`Cache::read`](crate::Cache::read).
    pub(crate) async fn read(self: &Arc<Self>, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Error> {
        let mut progress = self.progress.subscribe();
        for round in 0..MOST_ROUNDS {
            match self.plan_read(inode, offset, length, round == 0)? {
                Plan::Memory(bytes) => return Ok(bytes),
                Plan::File { generation, range, data } => return self.read_file(inode, generation, range, &data),
                Plan::Wait => self.wait_for_fetch(&mut progress).await?,
                Plan::Recall => self.recall(inode).await?,
                Plan::Window(number, key) => self.load_window(inode, &key, number, Gone::IsAnError).await?,
                Plan::Fetch(fetch) => {
                    if !self.fetch(fetch, Keep::IfRoom).await? {
                        return self.read_through(inode, offset, length).await;
                    }
                }
            }
        }
        Err(Error::Network(bucket::Error::Unavailable(String::from("the file changes faster than it is read"))))
    }

    /// See [`Cache::seek`](crate::Cache::seek).
    pub(crate) async fn seek(
        self: &Arc<Self>,
        inode: InodeId,
        within: Range<u64>,
        what: Seek,
    ) -> Result<Option<u64>, Error> {
        loop {
            let (key, number) = {
                let state = self.state.lock();
                let node = state.tree.node(inode).ok_or(Error::Stale)?;
                let content = node.content.as_deref().ok_or(Error::Errno(EINVAL))?;
                let size = node.attributes.size;
                if within.start >= size {
                    return Ok(None);
                }
                let mut unknown = None;
                let mut found = None;
                for part in content.parts(within.start..within.end.min(size)) {
                    match (part, what) {
                        (Part::Unknown(range), _) => unknown = Some(range.start),
                        (Part::Hole(range), Seek::Hole) => found = Some(range.start),
                        (Part::Present(range) | Part::Remote(range, _), Seek::Data) => found = Some(range.start),
                        _ => continue,
                    }
                    break;
                }
                match (unknown, what) {
                    (Some(at), _) => (node.key.clone(), window::window_of(at)),
                    // Every file ends in a hole.
                    (None, Seek::Hole) => return Ok(found.or((within.end >= size).then_some(size))),
                    (None, Seek::Data) => return Ok(found),
                }
            };
            self.load_window(inode, &key, number, Gone::IsAnError).await?;
        }
    }

    fn plan_read(self: &Arc<Self>, inode: InodeId, offset: u64, length: usize, first: bool) -> Result<Plan, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        state.tree.touch(inode);
        let node = state.tree.node_mut(inode).ok_or(Error::Stale)?;
        let size = node.attributes.size;
        let forgotten = Tree::is_forgotten_small(node);
        let content = node.content.as_deref_mut().ok_or(Error::Errno(EINVAL))?;
        let end = offset.saturating_add(length as u64).min(size);
        if offset >= end {
            return Ok(Plan::Memory(Bytes::new()));
        }
        if forgotten {
            return Ok(Plan::Recall);
        }
        let ahead = if first { content.read_ahead.read(offset, end, self.options.read_ahead) } else { None };
        let mut data = Vec::new();
        for part in content.parts(offset..end) {
            match part {
                Part::Present(range) => data.push(range),
                // Where programs store into the data file by themselves a hole is what is in there.
                Part::Hole(range) if content.exposed => data.push(range),
                Part::Hole(_) => {}
                Part::Unknown(range) => return Ok(Plan::Window(window::window_of(range.start), node.key.clone())),
                Part::Remote(range, extent) => {
                    let fetch = plan_fetch(inode, node.key.clone(), range.start, extent, end);
                    if content.fetching.overlaps(&fetch.range) {
                        return Ok(Plan::Wait);
                    }
                    content.fetching.insert(fetch.range.clone());
                    return Ok(Plan::Fetch(fetch));
                }
            }
        }
        let plan = match &content.backing {
            Backing::Memory(bytes) => Plan::Memory(copy_parts(bytes, offset..end, &data)),
            Backing::File => {
                content.readers += 1;
                Plan::File { generation: content.generation, range: offset..end, data }
            }
        };
        if let Some(range) = ahead.filter(|range| range.start < size) {
            self.spawn_read_ahead(inode, range.start..range.end.min(size));
        }
        Ok(plan)
    }

    pub(super) fn read_file(
        &self,
        inode: InodeId,
        generation: u64,
        range: Range<u64>,
        data: &[Range<u64>],
    ) -> Result<Bytes, Error> {
        let mut buffer = BytesMut::zeroed((range.end - range.start) as usize);
        let mut read = || {
            for part in data {
                let (start, end) = ((part.start - range.start) as usize, (part.end - range.start) as usize);
                self.store.read_data(inode, generation, part.start, &mut buffer[start..end])?;
            }
            Ok(())
        };
        let result = read();
        if let Some(content) = self.state.lock().tree.node_mut(inode).and_then(|node| node.content.as_deref_mut()) {
            content.readers = content.readers.saturating_sub(1);
        }
        if self.somebody_waits() {
            self.bump();
        }
        result.map(|()| buffer.freeze())
    }

    async fn wait_for_fetch(&self, progress: &mut tokio::sync::watch::Receiver<u64>) -> Result<(), Error> {
        match tokio::time::timeout(self.options.deadline, progress.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Network(bucket::Error::Unreachable(String::from("a fetch does not go on")))),
        }
    }

    /// Loads the extents of one window.
    pub(crate) async fn load_window(
        self: &Arc<Self>,
        inode: InodeId,
        key: &Key,
        number: u64,
        gone: Gone,
    ) -> Result<(), Error> {
        let epoch = {
            let state = self.state.lock();
            let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
            content.ok_or(Error::Stale)?.batches
        };
        let base = self.load_extents(inode, key, &BTreeSet::from([number]), gone).await?;
        let mut state = self.state.lock();
        let content = state.tree.node(inode).and_then(|node| node.content.as_deref()).ok_or(Error::Stale)?;
        // A batch made meanwhile knows better; the caller looks again.
        if content.batches == epoch {
            state.tree.take_windows(inode, base);
        }
        Ok(())
    }

    /// Reads where there is no room to keep what is fetched.
    async fn read_through(self: &Arc<Self>, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Error> {
        let mut bytes = BytesMut::with_capacity(length);
        loop {
            let at = offset + bytes.len() as u64;
            let left = length - bytes.len();
            match self.plan_through(inode, at, left)? {
                Through::End => return Ok(bytes.freeze()),
                Through::Hole(count) => bytes.resize(bytes.len() + count, 0),
                Through::Memory(here) => bytes.extend_from_slice(&here),
                Through::File(generation, range) => {
                    bytes.extend_from_slice(&self.read_file(inode, generation, range.clone(), &[range])?);
                }
                Through::Window(number, key) => self.load_window(inode, &key, number, Gone::IsAnError).await?,
                Through::Fetch(fetch) => {
                    let plain = self.fetch_plain(&fetch).await?;
                    let from = (at - fetch.range.start) as usize;
                    let count = left.min(plain.len() - from);
                    bytes.extend_from_slice(&plain[from..from + count]);
                }
            }
        }
    }

    /// What the byte at `at` is part of.
    fn plan_through(&self, inode: InodeId, at: u64, left: usize) -> Result<Through, Error> {
        let mut state = self.state.lock();
        let node = state.tree.node_mut(inode).ok_or(Error::Stale)?;
        let end = at.saturating_add(left as u64).min(node.attributes.size);
        let content = node.content.as_deref_mut().ok_or(Error::Errno(EINVAL))?;
        let Some(part) = content.parts(at..end).into_iter().next() else { return Ok(Through::End) };
        Ok(match part {
            Part::Hole(range) if content.exposed => {
                content.readers += 1;
                Through::File(content.generation, range)
            }
            Part::Hole(range) => Through::Hole(range_len(&range) as usize),
            Part::Unknown(range) => Through::Window(window::window_of(range.start), node.key.clone()),
            Part::Remote(range, extent) => Through::Fetch(plan_fetch(inode, node.key.clone(), at, extent, range.end)),
            Part::Present(range) => match &content.backing {
                Backing::Memory(bytes) => {
                    Through::Memory(copy_parts(bytes, range.clone(), std::slice::from_ref(&range)))
                }
                Backing::File => {
                    content.readers += 1;
                    Through::File(content.generation, range)
                }
            },
        })
    }

    /// Fetches a range in the background. A failure costs nothing: whoever reads it asks again.
    fn spawn_read_ahead(self: &Arc<Self>, inode: InodeId, range: Range<u64>) {
        let shared = self.clone();
        let parts = split_blocks(range);
        tokio::spawn(async move {
            use futures::stream::{self, StreamExt};
            let shared = &shared;
            stream::iter(parts)
                .for_each_concurrent(PARALLEL_AHEAD, |part| async move {
                    if let Err(error) = shared.prefetch(inode, part, Keep::IfRoom).await {
                        tracing::debug!("read-ahead: {error}");
                    }
                })
                .await;
        });
    }

    /// Brings a range here.
    pub(crate) async fn prefetch(self: &Arc<Self>, inode: InodeId, range: Range<u64>, keep: Keep) -> Result<(), Error> {
        let mut progress = self.progress.subscribe();
        for _ in 0..MOST_ROUNDS {
            if *self.closing.borrow() {
                return Err(Error::Closed);
            }
            match self.plan_read(inode, range.start, (range.end - range.start) as usize, false)? {
                Plan::Memory(_) => return Ok(()),
                Plan::File { .. } => {
                    self.release_reader(inode);
                    return Ok(());
                }
                Plan::Wait => self.wait_for_fetch(&mut progress).await?,
                Plan::Recall => self.recall(inode).await?,
                Plan::Window(number, key) => self.load_window(inode, &key, number, Gone::IsAnError).await?,
                Plan::Fetch(fetch) => {
                    if !self.fetch(fetch, keep).await? {
                        return Err(Error::NoSpace(String::from("no room to keep what is fetched")));
                    }
                }
            }
        }
        Ok(())
    }

    fn release_reader(&self, inode: InodeId) {
        if let Some(content) = self.state.lock().tree.node_mut(inode).and_then(|node| node.content.as_deref_mut()) {
            content.readers = content.readers.saturating_sub(1);
        }
    }
}

fn copy_parts(bytes: &[u8], range: Range<u64>, data: &[Range<u64>]) -> Bytes {
    let mut buffer = BytesMut::zeroed((range.end - range.start) as usize);
    for part in data {
        let source = &bytes[part.start as usize..part.end as usize];
        let start = (part.start - range.start) as usize;
        buffer[start..start + source.len()].copy_from_slice(source);
    }
    buffer.freeze()
}

pub(super) fn range_len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Cuts a range at multiples of about a megabyte.
fn split_blocks(range: Range<u64>) -> Vec<Range<u64>> {
    let step = 16 * BLOCK_PLAIN;
    let mut parts = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = ((at / step + 1) * step).min(range.end);
        parts.push(at..end);
        at = end;
    }
    parts
}

const EINVAL: i32 = 22;
