//! Following what other mounts change: the feed, and what its news do to what is known here.
//!
//! What a mount commits reaches the others through the feed: what they know of it is loaded anew, and their followers (the
//! kernel) are told to forget it. What is changed here wins over the news until it is on the network; then it is compared
//! again. Something changed here that loses its name to somebody else's keeps its bytes: it stays where it was if the name
//! is free, else it becomes a conflict copy beside it, in one journaled step.

use crate::conflict::CONFLICT;
use crate::content::map::Backing;
use crate::index::Feed;
use crate::load::Ticket;
use crate::passthrough::Look;
use crate::record::{Mutation, Write};
use crate::shared::{Shared, State};
use crate::tree::{Before, Loaded, Missed, Node, SetTimes};
use crate::warm::names::Followed;
use crate::{Error, Invalidation, Name};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::{self, Change};
use strewn_engine::ids::InodeId;
use strewn_engine::keys::DirectoryKeys;
use strewn_engine::record::Attributes;

/// How long the feed is asked to wait for a change.
const FEED_WAIT: Duration = Duration::from_secs(25);
/// Inodes that are loaded anew before it is noted how far that went.
const MISSED_AT_ONCE: usize = 256;
/// First and longest pause after the feed failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Follows what other mounts change until the cache is closed.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    let mut pause = FIRST_PAUSE;
    let mut wait = FEED_WAIT;
    loop {
        let round = shared.follow_round(wait);
        let result = tokio::select! {
            result = round => result,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        let Err(error) = result else {
            (pause, wait) = (FIRST_PAUSE, FEED_WAIT);
            continue;
        };
        // The first answer after a failure is wanted at once: it says that the network is back.
        wait = Duration::ZERO;
        tracing::debug!("the change feed: {error}");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What is being loaded of what was missed. What is left of it when nobody waits for it any more, or after an error, is
/// missed again.
struct Taken<'a> {
    shared: &'a Shared,
    left: Missed,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().tree.put_back(std::mem::take(&mut self.left));
    }
}

impl Shared {
    async fn follow_round(self: &Arc<Self>, wait: Duration) -> Result<(), Error> {
        let Followed { feed, own_is_news } = *self.feed.lock();
        if feed.is_some() {
            return tokio::select! {
                step = self.follow_step(if own_is_news { Duration::ZERO } else { wait }) => step.map(drop),
                () = self.missed.notified() => self.load_missed().await,
            };
        }
        // Beyond the newest: the answer only says where that is, which takes no right to list.
        let now = self.ask(self.bucket.changes(u64::MAX, Duration::ZERO)).await?;
        // Whatever was loaded or journaled before now may have changed since.
        self.state.lock().tree.miss_everything();
        self.load_missed().await?;
        self.note_followed(Feed { epoch: self.bucket.settings().epoch, sequence: now.sequence }, false);
        Ok(())
    }

    /// Hears what the feed has to tell next. False if that is nothing, or it was not followed yet.
    pub(crate) async fn follow_step(self: &Arc<Self>, wait: Duration) -> Result<bool, Error> {
        let Followed { feed: Some(feed), own_is_news } = *self.feed.lock() else { return Ok(false) };
        let changes = self.bucket.changes(feed.sequence, wait).await;
        self.note_network(&changes);
        let changes = changes?;
        if changes.gap || changes.epoch != feed.epoch {
            self.look_at_exposed(Look::Now).await;
            self.forget_everything();
        }
        let mine = self.state.lock().pipeline.mount;
        for change in changes.changes.iter().filter(|change| own_is_news || change.mount != mine) {
            self.take_change(change).await?;
        }
        self.load_missed().await?;
        let more = !changes.changes.is_empty();
        self.note_followed(Feed { epoch: changes.epoch, sequence: changes.sequence }, own_is_news && more);
        Ok(more)
    }

    /// Notes how far the feed was followed.
    pub(crate) fn note_followed(&self, feed: Feed, own_is_news: bool) {
        *self.feed.lock() = Followed { feed: Some(feed), own_is_news };
        if !own_is_news {
            self.leasing.held.lock().heard(feed.sequence);
            self.followed.send_replace(Some(feed.sequence));
        }
    }

    /// See [`Cache::catch_up`](crate::Cache::catch_up).
    pub(crate) async fn catch_up(self: &Arc<Self>, sequence: u64) -> Result<(), Error> {
        let mut followed = self.followed.subscribe();
        let caught_up = followed.wait_for(|followed| followed.is_some_and(|followed| followed >= sequence));
        match tokio::time::timeout(self.options.deadline, caught_up).await {
            Ok(Ok(_)) => self.load_missed().await,
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Network(bucket::Error::Unreachable(String::from("the change feed is silent")))),
        }
    }

    /// Loads anew what another mount changed of what is known here.
    async fn take_change(self: &Arc<Self>, change: &Change) -> Result<(), Error> {
        let names = self.names_of(change);
        let before: Vec<_> = change.inodes.iter().map(|inode| (*inode, self.stat_of(*inode))).collect();
        for inode in &change.inodes {
            // What programs stored into it here before has to be known as changed here.
            if let Err(error) = self.settle_exposed(*inode, Look::Now).await {
                self.note_error(error);
            }
        }
        {
            let mut state = self.state.lock();
            for (directory, names) in &names {
                state.tree.note_inode_news(*directory);
                names.iter().for_each(|name| state.tree.note_name_news(*directory, name.clone()));
            }
            for inode in &change.inodes {
                state.tree.note_inode_news(*inode);
                if state.tree.node(*inode).is_some_and(Node::is_local) {
                    state.tree.miss_inode(*inode);
                }
            }
        }
        let ticket = Ticket::new(self);
        let mut loaded = Vec::new();
        for (directory, names) in &names {
            match self.ask_names(*directory, names).await {
                Ok(rows) => loaded.push((*directory, rows)),
                // It was forgotten meanwhile.
                Err(Error::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        // Names that came go first everywhere, so that what was moved keeps one.
        for came in [true, false] {
            for (directory, rows) in &loaded {
                let rows: Vec<Loaded> = rows.iter().filter(|row| row.child.is_some() == came).cloned().collect();
                let taken = self.take_entries(&ticket, *directory, &rows, usize::MAX)?;
                self.ask_again(*directory, taken.ask);
            }
        }
        ticket.end();
        // Names that came and went may have changed how many links they have. What rows change is told where they are taken in.
        let changed = before.into_iter().filter(|(inode, before)| before.is_some() && *before != self.stat_of(*inode));
        changed.for_each(|(inode, _)| self.invalidate(Invalidation::Inode(inode)));
        for (directory, names) in names {
            names.into_iter().for_each(|name| self.invalidate_entry(directory, name));
            self.reload(directory).await?;
        }
        // What came with its name, and was taken in, is new enough.
        let came: HashSet<InodeId> = {
            let state = self.state.lock();
            let rows = loaded.iter().flat_map(|(_, rows)| rows.iter().filter_map(|row| row.child.as_ref()));
            rows.filter(|row| state.tree.node(row.inode).is_some_and(|node| node.is_as(row)))
                .map(|row| row.inode)
                .collect()
        };
        self.reload_all(change.inodes.iter().copied().filter(|inode| !came.contains(inode))).await
    }

    /// What `stat` shows of an inode that is known.
    fn stat_of(&self, inode: InodeId) -> Option<(Attributes, Option<u32>)> {
        let state = self.state.lock();
        Some((state.tree.node(inode)?.attributes.clone(), state.tree.nlink(inode)))
    }

    /// The names that a change is about, of directories that are known here.
    fn names_of(&self, change: &Change) -> BTreeMap<InodeId, Vec<Name>> {
        let mut keys: BTreeMap<InodeId, Option<DirectoryKeys>> = BTreeMap::new();
        let mut names: BTreeMap<InodeId, Vec<Name>> = BTreeMap::new();
        for (directory, encrypted) in &change.entries {
            let opened = keys.entry(*directory).or_insert_with(|| {
                let state = self.state.lock();
                state.tree.node(*directory).map(|node| DirectoryKeys::new(&node.key))
            });
            let Some(opened) = opened else { continue };
            match opened.decrypt_name(*directory, encrypted) {
                Ok(name) => names.entry(*directory).or_default().push(name),
                Err(_) => self.note_unauthentic("a name in the change feed"),
            }
        }
        names
    }

    /// Loads what was missed because it was changed here, as far as it is not any more.
    pub(crate) async fn load_missed(self: &Arc<Self>) -> Result<(), Error> {
        let _alone = self.loading_missed.lock().await;
        let mut missed = Taken { shared: self, left: self.state.lock().tree.take_missed() };
        let left = &mut missed.left;
        while let Some(directory) = left.listings.last() {
            match self.load_listing(*directory).await {
                Ok(true) | Err(Error::Stale | Error::Network(bucket::Error::NotFound(_))) => {}
                Ok(false) => self.state.lock().tree.miss_listing(*directory),
                Err(error) => return Err(error),
            }
            left.listings.pop();
        }
        while let Some((directory, names)) = left.names.last() {
            match self.load_names(*directory, names).await {
                // What is too old for the news that came is loaded with these.
                Ok(_) | Err(Error::Stale) => {}
                Err(error) => return Err(error),
            }
            left.names.pop();
        }
        while !left.inodes.is_empty() {
            let from = left.inodes.len().saturating_sub(MISSED_AT_ONCE);
            self.reload_all(left.inodes[from..].iter().copied()).await?;
            left.inodes.truncate(from);
        }
        Ok(())
    }

    /// The feed lost track: clean state is loaded anew when it is asked for, and what cannot be forgotten at once.
    fn forget_everything(&self) {
        let mut state = self.state.lock();
        state.tree.doubt_all();
        state.tree.miss_everything();
        drop(state);
        self.invalidate(Invalidation::All);
    }

    /// A row takes a name from something that is changed here: in one journaled step that keeps the name if it is free on the
    /// network, else it goes beside it under a conflict name.
    pub(crate) fn keep_beside(&self, state: &mut State, directory: InodeId, loaded: &Loaded) -> Result<(), Error> {
        let name = &loaded.name;
        let slot = state.tree.node(directory).and_then(|node| node.directory.as_deref()?.slot(name));
        let Some((ours, _)) = slot.and_then(|slot| slot.child) else { return Ok(()) };
        let theirs = loaded.child.as_ref().map(|adopt| adopt.inode);
        let entry = |name: &Name, previous, child| Mutation::Entry { directory, name: name.clone(), previous, child };
        let mut record = vec![Mutation::RebaseEntry { directory, name: name.clone(), base: theirs }];
        if let Some(adopt) = &loaded.child {
            record.extend(adopt.before_entry());
        }
        record.push(entry(name, Some(ours), theirs));
        record.extend(loaded.child.as_ref().and_then(|adopt| state.tree.counted_links(adopt)));
        let kept = match theirs {
            None => name.clone(),
            Some(_) => self.conflict_name(&state.tree, directory, name, CONFLICT, &mut BTreeSet::new()),
        };
        record.push(entry(&kept, None, Some(ours)));
        if theirs.is_some() {
            let conflict = self.note_conflict(&state.tree, ours, directory, &kept);
            record.push(Mutation::Conflict(Box::new(conflict)));
        }
        let record = state.tree.with_adoptions(record);
        state.record(&self.journal, &record)?;
        if matches!(loaded.before, Before::Gone) {
            self.keep_bytes(state, ours)?;
        }
        self.invalidate_entry(directory, name.clone());
        self.invalidate_entry(directory, kept);
        Ok(())
    }

    /// Journals the bytes of a file that are here and that the network may not have any more, as if they had just been
    /// written: else they would not survive this process.
    fn keep_bytes(&self, state: &mut State, inode: InodeId) -> Result<(), Error> {
        let Some(node) = state.tree.node(inode) else { return Ok(()) };
        let Some(content) = node.content.as_deref() else { return Ok(()) };
        let (generation, mode, times) = (content.generation, node.attributes.mode, node.attributes.times());
        let size = node.attributes.size;
        let write = |range: &Range<u64>| {
            let (offset, end) = (range.start, range.end.min(size));
            let data = match &content.backing {
                Backing::File => None,
                Backing::Memory(bytes) => Some(Bytes::copy_from_slice(&bytes[offset as usize..end as usize])),
            };
            Mutation::Write(Write { inode, generation, offset, length: end - offset, mode, times, data })
        };
        let present: Vec<Range<u64>> = content.present.iter().filter(|range| range.start < size).cloned().collect();
        let writes: Vec<Mutation> = present.iter().map(write).collect();
        let in_file = matches!(content.backing, Backing::File) && !writes.is_empty();
        let writes = state.tree.with_adoptions(writes);
        state.record(&self.journal, &writes)?;
        if in_file {
            state.note_unsynced(inode);
        }
        Ok(())
    }
}
