//! Writing: bytes, then the record, then the acknowledgement.
//!
//! Small files live in memory and their bytes always ride in the record. A larger file's bytes go to its data file first; some
//! ride in the record as well, so that an fsync after small writes syncs the journal alone.

use super::clones::Origin;
use super::map::{Backing, MAX_MEMORY};
use super::saved::{MOST_SAVED, Saved};
use crate::Error;
use crate::cache::{Position, Written};
use crate::cut;
use crate::record::{Mutation, Write};
use crate::room::{Need, Promise, SLOW_ABOVE};
use crate::shared::{Shared, State};
use crate::tree::{SetTimes, attribute_change};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use strewn_engine::bucket::MAX_OFFSET;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;
use tokio::time::Instant;

/// Longest delay of a slowed write.
const SLOWEST: Duration = Duration::from_millis(20);

/// What is written.
#[derive(Clone, Copy)]
pub(crate) struct New<'a> {
    pub(crate) position: Position,
    pub(crate) data: &'a [u8],
    /// Which runs have some of it, where it goes.
    pub(crate) origins: &'a [(Range<u64>, Origin)],
    /// Others wait for it when there is no room: it is held back by a full disk alone.
    pub(crate) first: bool,
}

/// How a write goes on.
enum Step<'a> {
    Done(Written),
    /// A cut is still to seal what the write would change, and there is no room to save it.
    Wait,
    /// A cut is still to seal these parts of the data file of this generation: they are saved for it first.
    Save(u64, Vec<(Range<u64>, Arc<Saved>)>),
    /// The index speaks of the data file: it has to forget that first.
    Disown,
    /// The small file outgrows memory.
    Spill(Arc<Vec<u8>>),
    /// Bytes go to this offset of the data file of this generation, where they count as taken.
    File(u64, u64, Promise<'a>),
    /// There is no room.
    Room(Need),
}

impl Shared {
    /// See [`Cache::write`](crate::Cache::write). Waits before the first byte only: once there is one, record and answer follow
    /// in the same poll, so that a future that is dropped has written nothing.
    pub(crate) async fn write<F>(
        self: &Arc<Self>,
        inode: InodeId,
        position: Position,
        data: &[u8],
        update: F,
    ) -> Result<Written, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        self.write_new(inode, New { position, data, origins: &[], first: false }, update).await
    }

    /// The same, of bytes that may be known to the network.
    pub(crate) async fn write_new<F>(
        self: &Arc<Self>,
        inode: InodeId,
        new: New<'_>,
        update: F,
    ) -> Result<Written, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        self.admit_write(new.data.len() as u64).await?;
        self.write_admitted(inode, new, update).await
    }

    /// A write that others wait for when they are held back, so that nothing but a full disk holds it back.
    pub(crate) async fn write_first(self: &Arc<Self>, inode: InodeId, offset: u64, data: &[u8]) -> Result<(), Error> {
        let new = New { position: Position::At(offset), data, origins: &[], first: true };
        self.write_admitted(inode, new, |_| {}).await.map(drop)
    }

    async fn write_admitted<F>(self: &Arc<Self>, inode: InodeId, new: New<'_>, mut update: F) -> Result<Written, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        let until = Instant::now() + self.options.deadline;
        let mut progress = self.progress.subscribe();
        loop {
            // Small files need nothing but the lock.
            let mut step = self.begin(inode, new, &mut update)?;
            if !matches!(step, Step::Done(_) | Step::Room(_)) {
                drop(step);
                step = self.write_held(inode, new, &mut update, &mut progress).await?;
            }
            match step {
                Step::Done(written) => return Ok(written),
                Step::Room(need) => self.make_room(need, until).await?,
                _ => {}
            }
        }
    }

    /// One step of a write that changes the backing.
    async fn write_held<F>(
        &self,
        inode: InodeId,
        new: New<'_>,
        update: &mut F,
        progress: &mut tokio::sync::watch::Receiver<u64>,
    ) -> Result<Step<'_>, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        let gate = self.gate.read().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let held = self.hold(inode).await?;
        let step = self.begin(inode, new, update)?;
        match &step {
            Step::Done(_) | Step::Room(_) => {}
            Step::Wait => {
                drop((held, gate));
                self.wait_for_seal(progress).await?;
            }
            Step::Save(generation, parts) => self.save(inode, *generation, parts)?,
            Step::Disown => self.disown(inode).await?,
            Step::Spill(bytes) => return or_room(self.spill(inode, bytes).map(|()| step)),
            Step::File(generation, offset, _promise) => {
                let written = self.store.write_data(inode, *generation, *offset, new.data);
                let written =
                    written.and_then(|rides| self.commit_file(inode, *generation, (*offset, rides), new, update));
                if written.is_err() {
                    self.distrust(inode, *offset..*offset + new.data.len() as u64);
                }
                return or_room(written.map(|written| written.map_or(step, Step::Done)));
            }
        }
        Ok(step)
    }

    /// Room for new bytes: slows writers near the limit and holds them at it.
    async fn admit_write(self: &Arc<Self>, length: u64) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let limit = self.options.dirty_limit;
        let (pending, pressure, blocked) = {
            let state = self.state.lock();
            (state.pending_bytes(), self.pressure(&state), state.pipeline.blocked.clone())
        };
        match blocked {
            Some(strewn_engine::bucket::Error::Quota(message)) => return Err(Error::Quota(message)),
            Some(strewn_engine::bucket::Error::Forbidden(_)) => return Err(Error::ReadOnly),
            _ => {}
        }
        let pressure = pressure.max(pending.saturating_mul(100) / limit.max(1)).min(100);
        if pressure > SLOW_ABOVE {
            let _hurry = self.foreground.hurry();
            tokio::time::sleep(SLOWEST.mul_f64((pressure - SLOW_ABOVE) as f64 / (100 - SLOW_ABOVE) as f64)).await;
        }
        let full = |state: &State| {
            state.pending_bytes().saturating_add(length) > limit.max(length)
                || state.tree.dirty_bytes >= cut::MOST_BYTES
                || state.tree.pending_operations() >= cut::MOST_OPERATIONS
        };
        self.wait_while(full, "the limit of bytes that wait for the network").await?;
        self.admit_change().await
    }

    /// After a write that failed half-way: clean bytes there may not be the network's any more.
    fn distrust(&self, inode: InodeId, range: std::ops::Range<u64>) {
        if let Some(content) = self.state.lock().tree.node_mut(inode).and_then(|node| node.content.as_deref_mut()) {
            content.distrust(range);
        }
    }

    /// Takes the guard of a file's content: nobody else changes bytes of it, and it is not forgotten.
    pub(crate) async fn hold(&self, inode: InodeId) -> Result<tokio::sync::OwnedMutexGuard<()>, Error> {
        loop {
            let guard = self.guard(inode)?;
            let held = guard.clone().lock_owned().await;
            // Forgotten and loaded anew meanwhile: that is another content with a guard of its own.
            if Arc::ptr_eq(&guard, &self.guard(inode)?) {
                return Ok(held);
            }
        }
    }

    fn guard(&self, inode: InodeId) -> Result<Arc<tokio::sync::Mutex<()>>, Error> {
        let mut state = self.state.lock();
        let content = state.tree.node_mut(inode).ok_or(Error::Stale)?.content.as_deref_mut();
        Ok(content.ok_or(Error::Errno(EINVAL))?.guard.get_or_insert_default().clone())
    }

    async fn wait_for_seal(&self, progress: &mut tokio::sync::watch::Receiver<u64>) -> Result<(), Error> {
        let moved = tokio::time::timeout(self.options.deadline, progress.changed()).await;
        match moved {
            Ok(Ok(())) if !*self.closing.borrow() => Ok(()),
            Ok(_) => Err(Error::Closed),
            Err(_) => Err(Error::NoSpace(String::from("sealing does not go on"))),
        }
    }

    /// Finds out where bytes go; writes them at once if the file is small.
    fn begin<F>(&self, inode: InodeId, new: New<'_>, update: &mut F) -> Result<Step<'_>, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        let New { position, data, first, .. } = new;
        let mut state = self.state.lock();
        let node = state.tree.node(inode).ok_or(Error::Stale)?;
        let content = node.content.as_deref().ok_or(Error::Errno(EINVAL))?;
        let size = node.attributes.size;
        let offset = match position {
            Position::At(offset) => offset,
            Position::End => size,
        };
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_OFFSET);
        let end = end.ok_or_else(|| Error::TooLarge(format!("{} bytes at {offset}", data.len())))?;
        if data.is_empty() {
            return Ok(Step::Done(Written { offset, size }));
        }
        let generation = content.generation;
        match &content.backing {
            Backing::File => {
                let sealing = content.sealing(&(offset..end));
                if !sealing.is_empty() {
                    let length: u64 = sealing.iter().map(|(part, _)| part.end - part.start).sum();
                    let has_room = state.tree.saved.load(Ordering::Relaxed) + length <= MOST_SAVED;
                    return Ok(if has_room { Step::Save(generation, sealing) } else { Step::Wait });
                }
                if content.kept.is_some() {
                    return Ok(Step::Disown);
                }
                Ok(match self.take_room_to_write(&state, inode, generation, offset..end, first) {
                    Ok(promise) => Step::File(generation, offset, promise),
                    Err(need) => Step::Room(need),
                })
            }
            Backing::Memory(bytes) if end > MAX_MEMORY || size > MAX_MEMORY => {
                let room = if first { Ok(()) } else { self.has_room_to_spill(&state) };
                Ok(room.map_or_else(Step::Room, |()| Step::Spill(bytes.clone())))
            }
            Backing::Memory(_) if !first && !self.has_room(&state, data.len() as u64) => {
                Ok(Step::Room(Need::Bytes(data.len() as u64)))
            }
            Backing::Memory(_) => {
                let recorded = self.record_write(&mut state, inode, generation, offset, data, true, update);
                or_room(recorded.map(|()| {
                    state.tree.write_memory(inode, offset, data);
                    Step::Done(Written { offset, size: size.max(end) })
                }))
            }
        }
    }

    /// Saves parts of a data file for the cuts that are to seal them. The content's guard is held.
    fn save(&self, inode: InodeId, generation: u64, parts: &[(Range<u64>, Arc<Saved>)]) -> Result<(), Error> {
        for (part, saved) in parts {
            let mut bytes = vec![0; (part.end - part.start) as usize];
            self.store.read_data(inode, generation, part.start, &mut bytes)?;
            saved.put(part.start, bytes.into());
        }
        Ok(())
    }

    /// Moves a small file into a data file. Its dirty bytes stay in the journal too, so nothing has to be synced for it. The
    /// content's guard is held.
    pub(crate) fn spill(&self, inode: InodeId, bytes: &Arc<Vec<u8>>) -> Result<(), Error> {
        let present: Vec<_> = {
            let state = self.state.lock();
            let content = state.tree.node(inode).and_then(|node| node.content.as_deref()).ok_or(Error::Stale)?;
            content.present.iter().cloned().collect()
        };
        let generation = self.store.fresh_data(inode)?;
        for range in present {
            if let Some(part) = bytes.get(range.start as usize..range.end as usize) {
                self.store.write_data(inode, generation, range.start, part)?;
            }
        }
        if !self.state.lock().tree.spilled(inode, generation, bytes) {
            // Written to meanwhile: the caller looks again.
            self.store.remove_data(inode, generation);
        }
        Ok(())
    }

    /// Journals a write whose bytes are in the data file, and ride as well if they are to. `None` if the file started anew
    /// meanwhile, or its end moved.
    fn commit_file<F>(
        &self,
        inode: InodeId,
        generation: u64,
        (offset, rides): (u64, bool),
        new: New<'_>,
        update: &mut F,
    ) -> Result<Option<Written>, Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        let New { position, data, origins, .. } = new;
        let mut state = self.state.lock();
        let node = state.tree.node(inode).ok_or(Error::Stale)?;
        let content = node.content.as_deref().ok_or(Error::Stale)?;
        let moved = position == Position::End && node.attributes.size != offset;
        let anew = content.generation != generation || !matches!(content.backing, Backing::File);
        if anew || moved {
            return Ok(None);
        }
        let end = offset + data.len() as u64;
        let size = node.attributes.size.max(end);
        // What programs change by themselves is in the data file alone, so an older record must not hide it.
        let inline = rides && !content.exposed;
        self.record_write(&mut state, inode, generation, offset, data, inline, update)?;
        state.tree.note_origins(inode, origins);
        state.tree.warm.note_written(inode);
        if !inline {
            state.note_unsynced(inode);
        }
        Ok(Some(Written { offset, size }))
    }

    /// Journals a write and applies it.
    #[allow(clippy::too_many_arguments)] // what a write is made of
    fn record_write<F>(
        &self,
        state: &mut State,
        inode: InodeId,
        generation: u64,
        offset: u64,
        data: &[u8],
        inline: bool,
        update: &mut F,
    ) -> Result<(), Error>
    where
        F: FnMut(&mut Attributes) + Send,
    {
        let before = &state.tree.node(inode).ok_or(Error::Stale)?.attributes;
        let mut now = before.clone();
        now.size = now.size.max(offset + data.len() as u64);
        update(&mut now);
        now.check().map_err(|_| Error::Errno(EINVAL))?;
        let write = Write {
            inode,
            generation,
            offset,
            length: data.len() as u64,
            mode: now.mode,
            times: now.times(),
            data: inline.then(|| Bytes::copy_from_slice(data)),
        };
        let mut as_written = before.clone();
        (as_written.mode, as_written.size) = (now.mode, now.size);
        as_written.set_times(&write.times);
        // More than a write usually changes (capabilities dropped) goes along as attributes.
        let more = attribute_change(inode, now, &as_written, false);
        let mutations: Vec<Mutation> = std::iter::once(Mutation::Write(write)).chain(more).collect();
        let mutations = state.tree.with_adoptions(mutations);
        let (first, full) = (state.tree.pending_operations() == 0, self.is_due_by_size(state));
        state.record(&self.journal, &mutations)?;
        state.tree.touch(inode);
        state.pipeline.writes += 1;
        // They may have come together to a few.
        if state.pipeline.writes >= cut::COUNT_RANGES_EVERY {
            state.pipeline.writes = 0;
            if state.tree.changed_ranges() >= cut::FULL_RANGES {
                state.pipeline.hurry += 1;
                self.bump();
            }
        }
        if first || (!full && self.is_due_by_size(state)) {
            self.bump();
        }
        Ok(())
    }

    /// True if enough is dirty for a cut as soon as nobody works on the drive.
    pub(crate) fn is_due_by_size(&self, state: &State) -> bool {
        state.tree.dirty_bytes >= self.options.cut_bytes || state.tree.pending_operations() >= cut::FULL_OPERATIONS
    }
}

/// A full disk is a matter of waiting.
fn or_room(step: Result<Step<'_>, Error>) -> Result<Step<'_>, Error> {
    match step {
        Err(Error::NoSpace(_)) => Ok(Step::Room(Need::DiskFull)),
        other => other,
    }
}

const EINVAL: i32 = 22;
