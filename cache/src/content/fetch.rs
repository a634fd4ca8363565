//! Fetching: a stretch of a file from the network into the backing.
//!
//! A stretch is whole blocks of one run: proven block by block, cut to the extents that refer to it, written into the backing as
//! clean, and only then read.

use super::map::{Backing, MAX_MEMORY};
use super::read::range_len;
use crate::Error;
use crate::blocking::blocking;
use crate::cut::queue::Place;
use crate::room::Need;
use crate::shared::{Shared, State};
use crate::tree::Tree;
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use strewn_engine::bucket::Extent;
use strewn_engine::content::{BLOCK, BLOCK_PLAIN, run};
use strewn_engine::ids::{InodeId, SegmentId};
use strewn_engine::keys::InodeKeys;
use strewn_engine::secret::Key;

/// Most blocks of a run fetched by one request: about 4 MiB.
const FETCH_BLOCKS: u64 = 64;
/// Below this many bytes decryption is not worth another thread.
const SMALL: u64 = 2 * BLOCK;

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

/// A stretch to fetch.
pub(crate) struct Fetch {
    inode: InodeId,
    key: Key,
    extent: Extent,
    /// Blocks of the run.
    blocks: Range<u64>,
    /// Bytes of the file that these blocks hold for the extent.
    pub(super) range: Range<u64>,
}

impl Shared {
    /// Fetches a stretch, proves it, and puts it into the backing. False if there is no room for it.
    pub(super) async fn fetch(self: &Arc<Self>, fetch: Fetch, keep: Keep) -> Result<bool, Error> {
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
    pub(super) async fn fetch_plain(self: &Arc<Self>, fetch: &Fetch) -> Result<Vec<u8>, Error> {
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

/// A stretch of an extent from `at`: whole blocks, at most [`FETCH_BLOCKS`], no further than what is asked for needs (`end`).
pub(super) fn plan_fetch(inode: InodeId, key: Key, at: u64, extent: Extent, end: u64) -> Fetch {
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
