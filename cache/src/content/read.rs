//! Reading: what is here from memory or the data file, the rest from the network, each stretch fetched once.
//!
//! A fetched stretch is whole blocks of one run: proven block by block, cut to the extents that refer to it, written into the
//! backing as clean, and only then read. A sequential reader has the next stretches fetched ahead in the background.

use super::map::{Backing, MAX_MEMORY, Part};
use crate::Error;
use crate::cache::Seek;
use crate::cut::queue::Place;
use crate::load::Gone;
use crate::room::Need;
use crate::shared::{Shared, State};
use crate::tree::Tree;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use strewn_engine::bucket::{self, Extent};
use strewn_engine::content::{BLOCK, BLOCK_PLAIN, run, window};
use strewn_engine::ids::{InodeId, SegmentId};
use strewn_engine::keys::InodeKeys;
use strewn_engine::secret::Key;

/// Most blocks of a run fetched by one request: about 4 MiB.
const FETCH_BLOCKS: u64 = 64;
/// Stretches fetched ahead side by side.
const PARALLEL_AHEAD: usize = 4;
/// Rounds of finding out, fetching and looking again before a read of a file that changes all the time gives up.
const MOST_ROUNDS: usize = 1_000;

/// What becomes of fetched bytes.
enum Filling {
    /// They are in memory, or not wanted any more.
    Done,
    /// These ranges go into the data file of this generation.
    File(u64, Vec<Range<u64>>),
    /// There is no room.
    Room(Need),
}

/// Whether what is fetched is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// If there is room for it.
    IfRoom,
    /// Beyond the budget too: it is changed data that was given up as sealed, and is to be sealed anew.
    Always,
}

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

/// A stretch to fetch.
pub(crate) struct Fetch {
    inode: InodeId,
    key: Key,
    extent: Extent,
    /// Blocks of the run.
    blocks: Range<u64>,
    /// Bytes of the file that these blocks hold for the extent.
    range: Range<u64>,
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

    /// Fetches a stretch, proves it, and puts it into the backing. False if there is no room for it.
    async fn fetch(self: &Arc<Self>, fetch: Fetch, keep: Keep) -> Result<bool, Error> {
        let _fetching = Fetching { shared: self, inode: fetch.inode, range: fetch.range.clone() };
        let plain = self.fetch_plain(&fetch).await?;
        let Some(need) = self.fill(&fetch, &plain, keep).await? else { return Ok(true) };
        // A disk that cannot make room does not keep anybody from reading.
        let room = self.evict_for(need).await.unwrap_or_else(|error| {
            self.note_error(error);
            false
        });
        Ok(room && self.fill(&fetch, &plain, keep).await?.is_none())
    }

    /// The plaintext of a stretch's bytes.
    async fn fetch_plain(self: &Arc<Self>, fetch: &Fetch) -> Result<Vec<u8>, Error> {
        let Fetch { inode, key, extent, blocks, range, .. } = fetch;
        let run_key = InodeKeys::new(key).open_run_key(extent)?;
        let sealed = self.run_blocks(*inode, extent, blocks).await?;
        self.counters.fetched_bytes.fetch_add(sealed.len() as u64, Ordering::Relaxed);
        let cipher = run::RunCipher::new(extent.cipher, &run_key, extent.run_length);
        let expected = run::ciphertext_range(extent.run_length, blocks.clone());
        if sealed.len() as u64 != expected.end - expected.start {
            return Err(Error::Corrupt(format!(
                "{} bytes of a run instead of {}",
                sealed.len(),
                expected.end - expected.start
            )));
        }
        let extent = extent.clone();
        let (blocks, range) = (blocks.clone(), range.clone());
        let decrypt = move || decrypt(&cipher, &sealed, blocks.start, &extent, &range);
        if range_len(&fetch.range) <= SMALL { decrypt() } else { blocking(decrypt).await }
    }

    /// Ciphertext of blocks of a run: from a sealed file if the network does not have it yet.
    async fn run_blocks(
        self: &Arc<Self>,
        inode: InodeId,
        extent: &Extent,
        blocks: &Range<u64>,
    ) -> Result<Bytes, Error> {
        let place = self.state.lock().pipeline.place_of(extent.run);
        let within = run::ciphertext_range(extent.run_length, blocks.clone());
        match place {
            Some(Place::Batch { cut, index }) => {
                if let Some(bytes) = self.inline_run(cut, index).await? {
                    return Ok(bytes);
                }
            }
            Some(Place::Segment { segment, offset }) => {
                let sealed = self.sealed_bytes(segment, offset + within.start..offset + within.end).await;
                // Or else its batch was committed meanwhile, and the file is gone because the network has it.
                if sealed.is_ok() || self.state.lock().pipeline.place_of(extent.run).is_some() {
                    return sealed;
                }
            }
            None => {}
        }
        Ok(self.ask(self.bucket.run_blocks(inode, extent.run, blocks.start, blocks.end - blocks.start)).await?)
    }

    /// Bytes of a sealed segment file.
    async fn sealed_bytes(self: &Arc<Self>, segment: SegmentId, range: Range<u64>) -> Result<Bytes, Error> {
        let source = self.segment_source(segment).await?;
        let mut buffer = BytesMut::zeroed(range_len(&range) as usize);
        source.read_at(range.start, &mut buffer)?;
        Ok(buffer.freeze())
    }

    /// Puts fetched bytes into the backing, wherever nothing else came in between. Says what it needs if there is no room.
    async fn fill(&self, fetch: &Fetch, plain: &[u8], keep: Keep) -> Result<Option<Need>, Error> {
        let _gate = self.gate.read().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let _held = self.hold(fetch.inode).await?;
        if self.speaks_of_another(fetch.inode) {
            self.disown(fetch.inode).await?;
        }
        match self.plan_fill(fetch, plain, keep) {
            Ok(Filling::Done) => Ok(None),
            Ok(Filling::Room(need)) => Ok(Some(need)),
            Ok(Filling::File(generation, wanted)) => match self.fill_file(fetch, plain, generation, &wanted) {
                Err(Error::NoSpace(_)) => Ok(Some(Need::DiskFull)),
                other => other.map(|()| None),
            },
            Err(Error::NoSpace(_)) => Ok(Some(Need::DiskFull)),
            Err(error) => Err(error),
        }
    }

    fn fill_file(&self, fetch: &Fetch, plain: &[u8], generation: u64, wanted: &[Range<u64>]) -> Result<(), Error> {
        for part in wanted {
            let (start, end) = (part.start - fetch.range.start, part.end - fetch.range.start);
            let bytes = &plain[start as usize..end as usize];
            self.store.write_data(fetch.inode, generation, part.start, bytes)?;
        }
        let mut state = self.state.lock();
        let Some(content) = state.tree.node_mut(fetch.inode).and_then(|node| node.content.as_deref_mut()) else {
            return Ok(());
        };
        if content.generation == generation && matches!(content.backing, Backing::File) {
            // Truncated or punched meanwhile: that part is something else now.
            for part in content.still_remote(wanted, &fetch.extent) {
                content.present.insert(part);
            }
            state.tree.warm.note_filled(fetch.inode);
        }
        Ok(())
    }

    /// True if the index speaks of a file's data file as of another content than it has now.
    fn speaks_of_another(&self, inode: InodeId) -> bool {
        let state = self.state.lock();
        state.tree.node(inode).is_some_and(|node| {
            node.content.as_deref().and_then(|content| content.kept).is_some_and(|hash| hash != node.digest.hash)
        })
    }

    /// What of a fetched stretch is to be written to the data file, where it counts as taken from here on. Small files are filled
    /// here; a file that is too large for memory moves to a data file.
    fn plan_fill(&self, fetch: &Fetch, plain: &[u8], keep: Keep) -> Result<Filling, Error> {
        loop {
            let bytes = {
                let mut state = self.state.lock();
                let Some(node) = state.tree.node(fetch.inode) else { return Ok(Filling::Done) };
                let size = node.attributes.size;
                let Some(content) = node.content.as_deref() else { return Ok(Filling::Done) };
                let wanted = content.still_remote(std::slice::from_ref(&fetch.range), &fetch.extent);
                match &content.backing {
                    Backing::File => {
                        let generation = content.generation;
                        return Ok(match self.take_room_for(&state, fetch, generation, keep) {
                            Ok(()) => Filling::File(generation, wanted),
                            Err(need) => Filling::Room(need),
                        });
                    }
                    Backing::Memory(bytes) if size > MAX_MEMORY => {
                        if let (Keep::IfRoom, Err(need)) = (keep, self.has_room_to_spill(&state)) {
                            return Ok(Filling::Room(need));
                        }
                        bytes.clone()
                    }
                    Backing::Memory(_) => {
                        fill_memory(&mut state.tree, fetch, plain, wanted);
                        return Ok(Filling::Done);
                    }
                }
            };
            self.spill(fetch.inode, &bytes)?;
        }
    }

    fn take_room_for(&self, state: &State, fetch: &Fetch, generation: u64, keep: Keep) -> Result<(), Need> {
        match keep {
            Keep::IfRoom => self.take_room(state, fetch.inode, generation, fetch.range.clone()),
            Keep::Always => Ok(()),
        }
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

/// Puts fetched bytes of a small file into memory.
fn fill_memory(tree: &mut Tree, fetch: &Fetch, plain: &[u8], wanted: Vec<Range<u64>>) {
    for part in wanted {
        let (start, end) = (part.start - fetch.range.start, part.end - fetch.range.start);
        tree.write_memory(fetch.inode, part.start, &plain[start as usize..end as usize]);
        if let Some(content) = tree.node_mut(fetch.inode).and_then(|node| node.content.as_deref_mut()) {
            content.present.insert(part);
        }
    }
}

/// Below this many bytes decryption is not worth another thread.
const SMALL: u64 = 2 * BLOCK;

/// Runs what takes long on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}

/// A stretch of an extent from `at`: whole blocks, at most [`FETCH_BLOCKS`], no further than what is asked for needs (`end`).
fn plan_fetch(inode: InodeId, key: Key, at: u64, extent: Extent, end: u64) -> Fetch {
    let to_run = |offset: u64| offset - extent.offset + extent.run_offset;
    let first = run::block_of(to_run(at));
    let last = run::block_of(to_run(end.min(extent.end()).max(at + 1)) - 1);
    let blocks = first..(last + 1).min(first + FETCH_BLOCKS);
    let in_run = (blocks.start * BLOCK_PLAIN).max(extent.run_offset)
        ..(blocks.end * BLOCK_PLAIN).min(extent.run_offset + extent.length);
    let to_file = |offset: u64| offset - extent.run_offset + extent.offset;
    let range = to_file(in_run.start)..to_file(in_run.end);
    Fetch { inode, key, extent, blocks, range }
}

/// Opens blocks and cuts out the bytes of `range`.
fn decrypt(
    cipher: &run::RunCipher,
    sealed: &[u8],
    first: u64,
    extent: &Extent,
    range: &Range<u64>,
) -> Result<Vec<u8>, Error> {
    let mut plain = vec![0; sealed.len() - run::TAG * sealed.len().div_ceil(BLOCK as usize)];
    let blocks = sealed.chunks(BLOCK as usize).zip(plain.chunks_mut(BLOCK_PLAIN as usize));
    for (index, (block, out)) in blocks.enumerate() {
        cipher.open_block_into(first + index as u64, block, out)?;
    }
    let from = range.start - extent.offset + extent.run_offset - run::block_start(first);
    let (from, to) = (from as usize, from as usize + range_len(range) as usize);
    if to > plain.len() {
        return Err(Error::Corrupt(String::from("an extent leaves its run")));
    }
    plain.truncate(to);
    plain.drain(..from);
    Ok(plain)
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

fn range_len(range: &Range<u64>) -> u64 {
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

/// A stretch marked as being fetched; unmarks it and wakes who waits, however the fetch ended.
struct Fetching<'a> {
    shared: &'a Shared,
    inode: InodeId,
    range: Range<u64>,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if let Some(content) = state.tree.node_mut(self.inode).and_then(|node| node.content.as_deref_mut()) {
            content.fetching.remove(self.range.clone());
        }
        drop(state);
        self.shared.bump();
    }
}

const EINVAL: i32 = 22;
