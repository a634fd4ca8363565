//! Files that programs may change past the mount: who opens a lent file for reading and writing can map it and store into it,
//! and nobody tells us. Such stores are the program's as soon as they are made, and durable when msync returns.
//!
//! - **Before** the file is opened so, its data file is made durable, and a record says that it is exposed. After a crash all of
//!   the data file is dirty then: whatever is in it may have been stored, and made durable. While it is exposed no record
//!   holds bytes of its writes, which could be older than a store.
//! - **Meanwhile** the time of change of the data file tells whether anything was stored, or written by us. If it moved, hashes
//!   of its stretches tell where, and those stretches are written, as far as journal and network are concerned. A mapped page
//!   that is stored into moves the time of change once, until it is written out. Therefore: look at the time, write out, then
//!   hash and note. A store after the writing out moves the time again; one before is noted now. That is done now and then,
//!   so that it takes little of the machine, and before anybody is told that the network has everything.
//! - **After** the last handle is closed and the last mapping gone it is looked at once more, and a record says that it is over.
//!   It is not lent again soon: a program that maps it may come back.
//!
//! A process that stores on while this one is killed goes on to do so; that the file is exposed is found in the journal.

use super::stretches::{self, Stretches};
use super::{Lent, Loan};
use crate::blocking::blocking;
use crate::cache::Position;
use crate::record::Mutation;
use crate::shared::Shared;
use crate::{Error, Invalidation};
use scopeguard::{ScopeGuard, guard};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use strewn_engine::bucket::Timestamp;
use strewn_engine::ids::InodeId;

/// Times of change are as coarse as the kernel's clock, so one that is younger than this says nothing of what comes next.
const FRESH: Duration = Duration::from_millis(100);

/// Bytes compared at a time.
const STEP: usize = 1 << 20;
/// What a store changes at least, as far as anybody can know.
const PAGE: usize = 4096;

/// It is looked for stores no more often than this.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// Looking takes no more than one part in so many of the time.
const LOOKING: u32 = 20;

/// The time of change of a file after which nothing was stored; nothing if it is not known.
type Seen = Option<Timestamp>;

/// What was seen of a file that programs may store into.
#[derive(Clone)]
pub(super) struct Exposed {
    seen: Seen,
    stretches: Arc<Stretches>,
    /// When it is due to be looked at again.
    due: Instant,
}

impl Exposed {
    fn new(seen: Seen) -> Self {
        Self { seen, stretches: Arc::default(), due: Instant::now() + BETWEEN_LOOKS }
    }
}

/// When a file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// If it is due.
    IfDue,
    /// In any case.
    Now,
}

impl Shared {
    /// See [`Cache::lend_exposed`](crate::Cache::lend_exposed).
    pub(crate) async fn lend_exposed(self: &Arc<Self>, inode: InodeId) -> Result<Option<Loan>, Error> {
        // Counted first, so that it does not end meanwhile.
        let Some(loan) = self.loans.again(inode) else { return Ok(None) };
        // Also if nobody waits for it any more.
        let counted = guard((), |()| self.take_back(inode));
        self.expose(inode).await?;
        ScopeGuard::into_inner(counted);
        Ok(Some(loan))
    }

    async fn expose(self: &Arc<Self>, inode: InodeId) -> Result<(), Error> {
        let lent = self.loans.with(inode, |lent| (lent.generation, lent.size, lent.file.clone(), lent.turn.clone()));
        let Some((generation, size, file, turn)) = lent else { return Ok(()) };
        let _turn = turn.lock().await;
        if self.loans.with(inode, |lent| lent.exposed.is_some()).unwrap_or(true) {
            return Ok(());
        }
        self.keep_room(size).await?;
        let kept = guard((), |()| self.give_up_room(size));
        let seen = self.expose_file(inode, generation, &file).await?;
        self.loans.with(inode, |lent| lent.exposed = Some(Exposed::new(seen)));
        ScopeGuard::into_inner(kept);
        Ok(())
    }

    async fn expose_file(self: &Arc<Self>, inode: InodeId, generation: u64, file: &File) -> Result<Seen, Error> {
        let seen = look(file)?;
        if self.is_content_in(inode, generation) {
            let _alone = self.hold(inode).await?;
            if self.is_owned(inode) {
                self.disown(inode).await?;
            }
            self.sync_exposed(inode, generation).await?;
            self.note_exposed(inode, generation, true).await?;
        }
        self.loans.avoided.lock().put(inode, ());
        Ok(seen)
    }

    /// True if the index speaks of the data file.
    fn is_owned(&self, inode: InodeId) -> bool {
        let state = self.state.lock();
        state.tree.node(inode).and_then(|node| node.content.as_deref()).is_some_and(|content| content.kept.is_some())
    }

    /// Makes durable what is in the data file of a file that is exposed, whoever wrote it.
    pub(crate) async fn sync_if_exposed(self: &Arc<Self>, inode: InodeId) -> Result<(), Error> {
        let exposed = |lent: &mut Lent| lent.exposed.as_ref().map(|_| lent.generation);
        match self.loans.with(inode, exposed).flatten() {
            Some(generation) if self.is_content_in(inode, generation) => self.sync_exposed(inode, generation).await,
            _ => Ok(()),
        }
    }

    /// The same of any data file.
    pub(super) async fn sync_exposed(self: &Arc<Self>, inode: InodeId, generation: u64) -> Result<(), Error> {
        let shared = self.clone();
        blocking(move || shared.store.sync_data_fully(inode, generation)).await
    }

    pub(super) async fn note_exposed(
        self: &Arc<Self>,
        inode: InodeId,
        generation: u64,
        exposed: bool,
    ) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
            if !content.is_some_and(|content| content.is_in_file(generation)) {
                return Ok(());
            }
            let note = state.tree.with_adoptions(vec![Mutation::Exposed { inode, generation, exposed }]);
            let position = state.record(&self.journal, &note)?;
            // All of it was synced before.
            state.record(&self.journal, &[Mutation::Synced { inode, generation, position }])?;
        }
        Ok(self.journal.sync(self.journal.last()).await?)
    }

    /// Notes what programs stored into exposed files.
    pub(crate) async fn settle_all_exposed(self: &Arc<Self>, look: Look) -> Result<(), Error> {
        for inode in self.loans.inodes() {
            self.settle_exposed(inode, look).await?;
        }
        Ok(())
    }

    /// The same, for who goes on in any case.
    pub(crate) async fn look_at_exposed(self: &Arc<Self>, look: Look) {
        if let Err(error) = self.settle_all_exposed(look).await {
            self.note_error(error);
        }
    }

    /// Notes what programs stored into a file, if it is exposed.
    pub(crate) async fn settle_exposed(self: &Arc<Self>, inode: InodeId, when: Look) -> Result<(), Error> {
        let started = Instant::now();
        let is_due = |lent: &mut Lent| {
            let exposed = lent.exposed.as_ref()?;
            (when == Look::Now || exposed.due <= started).then(|| lent.turn.clone())
        };
        let Some(turn) = self.loans.with(inode, is_due).flatten() else { return Ok(()) };
        let _turn = match when {
            Look::Now => turn.lock().await,
            // Who has the turn may be waiting for the cut before which this is done.
            Look::IfDue => match turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(()),
            },
        };
        let lent = |lent: &mut Lent| Some((lent.generation, lent.file.clone(), lent.behind, lent.exposed.clone()?));
        let Some((generation, file, behind, exposed)) = self.loans.with(inode, lent).flatten() else { return Ok(()) };
        let (seen, changed) = (look(&file)?, changed(&file)?);
        let is_known = self.state.lock().tree.node(inode).is_some();
        if exposed.seen == Some(changed) || !is_known {
            return Ok(());
        }
        let mut stretches = exposed.stretches;
        if self.is_content_in(inode, generation) {
            self.sync_exposed(inode, generation).await?;
            let (before, hashed) = (stretches.clone(), file.clone());
            let (now, differs) = blocking(move || before.look(&hashed)).await?;
            let stored = self.stored_into(inode, differs, &file).await?;
            self.note_stores(inode, generation, &stored, changed)?;
            stretches = Arc::new(now);
        } else if behind {
            tracing::warn!(
                "a file that programs have mapped was changed by another mount: what they stored since is lost"
            );
        } else {
            self.take_stores(inode, &file).await?;
        }
        let due = Instant::now() + BETWEEN_LOOKS.max(started.elapsed() * LOOKING);
        self.loans.with(inode, |lent| {
            if lent.exposed.is_some() {
                lent.exposed = Some(Exposed { seen, stretches, due });
            }
        });
        Ok(())
    }

    /// What of ranges that differ is to count as written: a hole that is one still stays one.
    async fn stored_into(
        self: &Arc<Self>,
        inode: InodeId,
        differs: Vec<Range<u64>>,
        file: &Arc<File>,
    ) -> Result<Vec<Range<u64>>, Error> {
        let (mut stored, mut holes) = (Vec::new(), Vec::new());
        {
            let state = self.state.lock();
            for range in &differs {
                let (data, hole) = state.tree.split_at_holes(inode, range);
                stored.extend(data);
                holes.extend(hole);
            }
        }
        let file = file.clone();
        stored.extend(blocking(move || stretches::not_zero(&file, &holes)).await?);
        Ok(stored)
    }

    /// Ranges of the data file count as written.
    fn note_stores(
        &self,
        inode: InodeId,
        generation: u64,
        ranges: &[Range<u64>],
        changed: Timestamp,
    ) -> Result<(), Error> {
        let mut state = self.state.lock();
        let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
        if !content.is_some_and(|content| content.is_in_file(generation)) {
            return Ok(());
        }
        let writes = state.tree.changed_bytes(inode, ranges, changed);
        let writes: Vec<_> = writes.into_iter().map(Mutation::Write).collect();
        if writes.is_empty() {
            return Ok(());
        }
        let writes = state.tree.with_adoptions(writes);
        let position = state.record(&self.journal, &writes)?;
        state.record(&self.journal, &[Mutation::Synced { inode, generation, position }])?;
        state.tree.warm.note_written(inode);
        drop(state);
        // The kernel knows neither of the stores nor of their time.
        self.tell(Invalidation::Inode(inode));
        self.bump();
        Ok(())
    }

    /// Stores went into a file that the content has left: the pages that differ from it are written to it.
    async fn take_stores(self: &Arc<Self>, inode: InodeId, file: &Arc<File>) -> Result<(), Error> {
        let mut at = 0;
        loop {
            let here = self.read(inode, at, STEP).await?;
            if here.is_empty() {
                return Ok(());
            }
            let (from, length) = (file.clone(), here.len());
            let theirs = blocking(move || {
                let mut theirs = vec![0; length];
                // What lies behind its end is what the content has there.
                match from.read_exact_at(&mut theirs, at) {
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
                    read => Ok(Some(read.map(|()| theirs)?)),
                }
            })
            .await?;
            let pages = theirs.iter().flat_map(|theirs| theirs.chunks(PAGE).zip(here.chunks(PAGE)).zip(0u64..));
            for ((page, _), number) in pages.filter(|((theirs, here), _)| theirs != here) {
                let offset = at + number * PAGE as u64;
                self.write(inode, Position::At(offset), page, |_| {}).await?;
            }
            at += length as u64;
        }
    }

    /// Ends that a file is exposed, once nobody can store into it any more.
    pub(crate) async fn end_exposure(self: &Arc<Self>, inode: InodeId) -> Result<(), Error> {
        let over = |lent: &mut Lent| {
            let unused = lent.exposed.is_some() && lent.handles == 0;
            unused.then(|| (lent.generation, lent.file.clone(), lent.turn.clone()))
        };
        let Some((generation, file, turn)) = self.loans.with(inode, over).flatten() else { return Ok(()) };
        if !self.store.is_alone(inode, generation, &file) {
            return Ok(());
        }
        // The last stores were made before it was alone.
        self.settle_exposed(inode, Look::Now).await?;
        let _turn = turn.lock().await;
        let still = |lent: &mut Lent| lent.handles == 0 && lent.exposed.is_some();
        if !self.loans.with(inode, still).unwrap_or(false) {
            return Ok(());
        }
        if self.is_content_in(inode, generation) {
            // From here on what was written counts only once it is known to be durable.
            let _alone = self.hold(inode).await?;
            self.sync_exposed(inode, generation).await?;
            self.note_exposed(inode, generation, false).await?;
        }
        let size = self.loans.with(inode, |lent| {
            lent.exposed = None;
            lent.size
        });
        self.give_up_room(size.unwrap_or(0));
        Ok(())
    }

    /// After an opening: files that were exposed when the cache was left are so until nobody has them open.
    pub(crate) fn resume_exposed(&self) {
        let exposed = self.state.lock().tree.exposed();
        for (inode, generation) in exposed {
            let Some(file) = self.store.lent_data(inode, generation).map(Arc::new) else { continue };
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            self.take_room_unasked(size);
            if let Some(content) = self.state.lock().tree.node_mut(inode).and_then(|node| node.content.as_deref_mut()) {
                content.lent += 1;
            }
            self.loans.avoided.lock().put(inode, ());
            let exposed = Some(Exposed::new(None));
            self.loans.add(inode, Lent { exposed, ..Lent::new(generation, file, size) });
        }
    }
}

/// When a file was changed.
fn changed(file: &File) -> Result<Timestamp, Error> {
    let metadata = file.metadata()?;
    Ok(Timestamp { seconds: metadata.ctime(), nanos: u32::try_from(metadata.ctime_nsec()).unwrap_or(0) })
}

/// The same, if what is stored from here on moves it for sure.
fn look(file: &File) -> Result<Seen, Error> {
    let changed = changed(file)?;
    let since = u64::try_from(changed.seconds).unwrap_or(0);
    let at = UNIX_EPOCH + Duration::new(since, changed.nanos);
    let settled = SystemTime::now().duration_since(at).is_ok_and(|age| age >= FRESH);
    Ok(settled.then_some(changed))
}
