//! Housekeeping: regular syncs of data files, removal of what is no longer needed, eviction, snapshots of the journal.

use crate::Error;
use crate::blocking::blocking;
use crate::content::map::{Backing, Content};
use crate::cut::freeze::Source;
use crate::record::{self, Mutation};
use crate::shared::{Shared, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strewn_engine::ids::InodeId;

/// Bytes that are not in the journal are durable this long after they were written, plus the sync itself.
const SYNC_AFTER: Duration = Duration::from_millis(500);
/// Writers are held back when that is later than this, so that nothing stays unsafe for much longer than a second.
const LATE: Duration = Duration::from_secs(1);
/// A snapshot is taken when more journal than this would have to be read at an opening.
const SNAPSHOT_AFTER: u64 = 128 << 20;
/// Most bytes of clean small files kept in memory.
const SMALL_FILES: u64 = 64 << 20;
/// Pause after nodes were forgotten, so that those that cannot be are not looked at all the time.
const BETWEEN_FORGETTING: Duration = Duration::from_millis(5);
/// Bytes of a snapshot written as one part.
const SNAPSHOT_PART: usize = 1 << 20;

/// Keeps house until the cache is closed.
pub(crate) async fn keep_house(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    let mut tick = tokio::time::interval(SYNC_AFTER);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        if let Err(error) = shared.house_round().await {
            shared.note_error(error);
        }
    }
}

/// Keeps what is known within the memory there is for it, until the cache is closed: listings take it up faster than rounds
/// of housekeeping come.
pub(crate) async fn keep_memory(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    loop {
        tokio::select! {
            () = shared.crowded.notified() => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        while shared.forget_nodes() {
            tokio::task::yield_now().await;
        }
        tokio::select! {
            () = tokio::time::sleep(BETWEEN_FORGETTING) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

impl Shared {
    /// One round of housekeeping.
    pub(crate) async fn house_round(self: &Arc<Self>) -> Result<(), Error> {
        // What one of them cannot do must not keep the others from making room.
        let synced = self.sync_data_files().await;
        let removed = self.remove_done().await;
        self.keep_files(false);
        let evicted = self.evict().await;
        self.keep_small().await;
        let lent = self.keep_loans().await;
        synced.and(removed).and(evicted).and(lent)?;
        if self.journal.size_since_snapshot() > SNAPSHOT_AFTER {
            self.snapshot().await?;
        }
        Ok(())
    }

    /// Makes all bytes that are in data files alone durable, with what the journal says of them.
    pub(crate) async fn sync_data_files(self: &Arc<Self>) -> Result<(), Error> {
        let started = Instant::now();
        let inodes: Vec<InodeId> = self.state.lock().unsynced.iter().copied().collect();
        if inodes.is_empty() {
            return Ok(());
        }
        for inode in inodes {
            self.sync_data_file(inode).await?;
        }
        // Whatever was added meanwhile is younger.
        self.state.lock().unsynced_since = started;
        Ok(self.journal.sync(self.journal.last()).await?)
    }

    /// The same for a file that somebody asks it for. What is written to it in sequence begins anew then.
    pub(crate) async fn sync_as_asked(self: &Arc<Self>, inode: InodeId) -> Result<(), Error> {
        let generation = self.state.lock().tree.node(inode).and_then(|node| Some(node.content.as_deref()?.generation));
        generation.into_iter().for_each(|generation| self.store.end_run(inode, generation));
        self.sync_data_file(inode).await
    }

    /// Makes a file's bytes that are in its data file alone durable. The file stays on the list until it is done, so that
    /// nobody who asks meanwhile is told that there is nothing to do.
    pub(crate) async fn sync_data_file(self: &Arc<Self>, inode: InodeId) -> Result<(), Error> {
        while let Some((generation, position)) = self.unsynced_file(inode) {
            let shared = self.clone();
            let synced = blocking(move || shared.store.sync_data_fully(inode, generation)).await;
            let mut state = self.state.lock();
            let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
            let Some(written) = content.filter(|content| content.is_in_file(generation)).map(|content| content.written)
            else {
                // It started anew or is gone, perhaps with its file: look again.
                continue;
            };
            synced?;
            state.record(&self.journal, &[Mutation::Synced { inode, generation, position }])?;
            if written == position {
                state.unsynced.remove(&inode);
            }
            return Ok(());
        }
        Ok(())
    }

    /// Holds a change back while what was written before is not durable although it should long be. To be called without
    /// locks held.
    pub(crate) async fn admit_change(self: &Arc<Self>) -> Result<(), Error> {
        if self.state.lock().is_late() {
            self.sync_data_files().await?;
        }
        Ok(self.journal.admit().await?)
    }

    /// The data file that has to be synced for an inode, and the position of the newest write that it alone holds.
    fn unsynced_file(&self, inode: InodeId) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        if !state.unsynced.contains(&inode) {
            return None;
        }
        let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
        let file = content.filter(|content| matches!(content.backing, Backing::File));
        let file = file.map(|content| (content.generation, content.written));
        if file.is_none() {
            state.unsynced.remove(&inode);
        }
        file
    }

    /// Removes files of committed cuts and abandoned contents, once the records that gave them up are durable.
    pub(crate) async fn remove_done(self: &Arc<Self>) -> Result<(), Error> {
        let (done, abandoned) = {
            let mut state = self.state.lock();
            let done: Vec<_> = state.pipeline.done.drain(..).collect();
            let sealing: BTreeSet<(InodeId, u64)> = sealing(&state);
            let all = std::mem::take(&mut state.tree.abandoned);
            let (kept, free): (Vec<_>, Vec<_>) = all.into_iter().partition(|file| sealing.contains(file));
            state.tree.abandoned = kept;
            (done, free)
        };
        if done.is_empty() && abandoned.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.journal.sync(self.journal.last()).await {
            let mut state = self.state.lock();
            state.pipeline.done.extend(done);
            state.tree.abandoned.extend(abandoned);
            return Err(error.into());
        }
        let shared = self.clone();
        blocking(move || {
            for (cut, segments) in done {
                segments.iter().for_each(|segment| shared.remove_segment(segment.id));
                shared.store.remove_cut(cut);
            }
            abandoned.iter().for_each(|(inode, generation)| shared.store.remove_data(*inode, *generation));
            shared.forget_rows(&abandoned);
            Ok(())
        })
        .await?;
        if self.somebody_waits() {
            self.bump();
        }
        Ok(())
    }

    /// Forgets clean state that memory or disk have no room for.
    async fn evict(self: &Arc<Self>) -> Result<(), Error> {
        for retired in self.journal.retired() {
            if let Err(error) = self.journal.evict(retired.file) {
                tracing::debug!("a retired journal file stays: {error}");
            }
        }
        self.limits.set_index(self.index.bytes_on_disk());
        self.look_at_disk()?;
        while self.forget_nodes() {
            tokio::task::yield_now().await;
        }
        let abandoned = {
            let mut state = self.state.lock();
            if state.pipeline.resolving {
                return Ok(());
            }
            if state.pipeline.unsent() == 0 {
                state.pipeline.recent.pop_front();
            }
            if state.tree.memory_bytes > SMALL_FILES {
                state.tree.forget_small_files(SMALL_FILES / 2);
            }
            let (taken, budget) = (self.taken(), self.options.budget);
            if taken > budget {
                self.forget_files(&mut state, taken - budget / 8 * 7);
            }
            !state.tree.abandoned.is_empty()
        };
        if abandoned { self.remove_done().await } else { Ok(()) }
    }

    /// Forgets clean nodes that there is no memory for, and asks those who refer to others to let go of them. True if there may
    /// be more.
    pub(crate) fn forget_nodes(&self) -> bool {
        // Who is still busy with what was asked before is not asked for more.
        let offer = self.unused.try_reserve().ok();
        let mut unused = Vec::new();
        let forgot = {
            let mut state = self.state.lock();
            // While the network is away nothing comes that takes memory, and what is forgotten would be missed.
            let may = !state.pipeline.resolving && state.pipeline.reachable;
            may && state.tree.forget_some(self.options.memory, offer.is_some().then_some(&mut unused))
        };
        if let Some(offer) = offer.filter(|_| !unused.is_empty()) {
            offer.send(unused);
        }
        forgot
    }

    /// Writes all pending state into a snapshot, so that the journal before it can go. Does nothing while a cut is being
    /// sealed: its data is neither pending nor in a batch. Nor while a refusal is dealt with: its copies have no names yet.
    pub(crate) async fn snapshot(self: &Arc<Self>) -> Result<(), Error> {
        let journal = self.journal.clone();
        let prepared = blocking(move || Ok(journal.prepare_snapshot()?)).await?;
        let (mut snapshot, mutations, files) = {
            let mut state = self.state.lock();
            let pipeline = &state.pipeline;
            if !pipeline.frozen.is_empty() || !pipeline.drafts.is_empty() || pipeline.resolving {
                return Ok(());
            }
            let snapshot = prepared.mark()?;
            let created = state.pipeline.created.clone();
            let mut mutations = vec![pipeline_state(&state)];
            mutations.extend(state.tree.pending_state(&created));
            (snapshot, mutations, needed_files(&state))
        };
        let shared = self.clone();
        blocking(move || {
            for (inode, generation) in files {
                shared.store.sync_data_fully(inode, generation)?;
            }
            let mut buffer = Vec::new();
            for part in parts(mutations) {
                record::encode(&part, &mut buffer);
                snapshot.write(&[&buffer])?;
            }
            Ok(snapshot.finish()?)
        })
        .await
    }
}

impl State {
    /// Notes bytes that are in a data file alone.
    pub(crate) fn note_unsynced(&mut self, inode: InodeId) {
        if self.unsynced.is_empty() {
            self.unsynced_since = Instant::now();
        }
        self.unsynced.insert(inode);
    }

    /// True if bytes are in a data file alone that should long be durable.
    pub(crate) fn is_late(&self) -> bool {
        !self.unsynced.is_empty() && self.unsynced_since.elapsed() > LATE
    }
}

/// Data files that cuts are still to read.
pub(crate) fn sealing(state: &State) -> BTreeSet<(InodeId, u64)> {
    let inodes = state.pipeline.frozen.iter().flat_map(|frozen| &frozen.inodes);
    inodes
        .filter_map(|inode| match &inode.source {
            Source::File(unsealed) => Some((inode.inode, unsealed.generation)),
            Source::Memory(_) => None,
        })
        .collect()
}

fn pipeline_state(state: &State) -> Mutation {
    let pipeline = &state.pipeline;
    Mutation::Pipeline {
        next_cut: pipeline.next_cut,
        committed: pipeline.committed,
        queued: pipeline.queued.iter().map(|queued| queued.cut).collect(),
        mount: pipeline.mount,
        number: pipeline.number,
    }
}

/// Data files that hold what is nowhere else.
fn needed_files(state: &State) -> Vec<(InodeId, u64)> {
    let needed = state.tree.nodes().filter_map(|(inode, node)| {
        let is_needed = |content: &&Content| !content.dirty.is_empty() || !content.held().is_empty() || content.exposed;
        let content = node.content.as_deref().filter(is_needed)?;
        matches!(content.backing, Backing::File).then_some((inode, content.generation))
    });
    needed.collect()
}

/// Groups mutations into parts of about [`SNAPSHOT_PART`] bytes.
fn parts(mutations: Vec<Mutation>) -> Vec<Vec<Mutation>> {
    let mut parts = vec![Vec::new()];
    let mut size = 0;
    for mutation in mutations {
        size += match &mutation {
            Mutation::Node(state) => 500 + state.bytes.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
            _ => 300,
        };
        if let Some(last) = parts.last_mut() {
            last.push(mutation);
        }
        if size >= SNAPSHOT_PART {
            parts.push(Vec::new());
            size = 0;
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}
