//! What all parts of an open cache share: the state under its one lock, the files, the network, and the news of progress.
//!
//! The lock of the state is never held across an await, and across no disk I/O but the journal's short append. Writers of
//! data files hold [`Shared::gate`] shared while bytes and record come together; a freeze takes it alone, so that a cut never
//! takes bytes of a write whose record it does not have.

use crate::Name;
use crate::content::Digest;
use crate::cut::batch::Batch;
use crate::cut::freeze::FrozenCut;
use crate::cut::queue::Queued;
use crate::cut::seal::{Sealed, Segment};
use crate::failure::Failures;
use crate::foreground::Foreground;
use crate::index::Index;
use crate::journal::Journal;
use crate::lease::{Cover, Leasing, NameOf};
use crate::outgoing::Outgoing;
use crate::passthrough::Loans;
use crate::record::{self, Mutation};
use crate::room::{Limits, Need};
use crate::store::Store;
use crate::tree::{Missing, Stop, Transaction, Tree};
use crate::warm::names::Followed;
use crate::{Error, Invalidation, Options, Unused, cut};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use strewn_engine::bucket::{self, BucketService, PutInode, SegmentSource};
use strewn_engine::ids::{InodeId, MountId, SegmentId};
use tokio::sync::{mpsc, watch};

/// Runs of a transaction's closure with loads in between before it is given up: a directory that changes all the time.
const MOST_ATTEMPTS: usize = 100;

/// Nodes beyond the memory there is for them that wait for the next round of housekeeping.
const TOO_MANY: usize = 1_024;

/// Batches kept for loads that began before they were committed.
const RECENT: usize = 8;

/// Sealed segments kept open.
pub(crate) const OPEN_SEGMENTS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(16).expect("not zero");

/// Everything an open cache's tasks share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) bucket: Arc<dyn BucketService>,
    pub(crate) store: Store,
    pub(crate) journal: Journal,
    /// Clean state for the next opening.
    pub(crate) index: Index,
    /// What is held of the bucket's names.
    pub(crate) leasing: Leasing,
    /// How far the change feed was followed.
    pub(crate) feed: Mutex<Followed>,
    pub(crate) state: Mutex<State>,
    /// Held shared by writers between the first byte and the record, alone by a freeze.
    pub(crate) gate: tokio::sync::RwLock<()>,
    /// Counts steps of the pipeline; whoever waits for one subscribes.
    pub(crate) progress: watch::Sender<u64>,
    /// Loads under way, so that each is asked for once.
    pub(crate) loading: Mutex<HashMap<Missing, watch::Receiver<()>>>,
    /// Sealed segments opened lately.
    pub(crate) sources: Mutex<LruCache<SegmentId, Arc<dyn SegmentSource>>>,
    /// Batches read lately.
    pub(crate) batches: Mutex<LruCache<u64, Arc<Batch>>>,
    /// Goes up when the cache is closed.
    pub(crate) closing: watch::Sender<bool>,
    /// Nothing is done any more.
    pub(crate) closed: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) limits: Limits,
    pub(crate) outgoing: Arc<Outgoing>,
    /// Data files that the kernel reads.
    pub(crate) loans: Loans,
    pub(crate) foreground: Arc<Foreground>,
    pub(crate) invalidations: mpsc::Sender<Invalidation>,
    /// Names that those outside are asked to let go of.
    pub(crate) unused: mpsc::Sender<Vec<Unused>>,
    /// More is known than there is memory for.
    pub(crate) crowded: tokio::sync::Notify,
    /// Sequence number of the bucket up to which changes of other mounts are known here; `None` before the feed answered.
    pub(crate) followed: watch::Sender<Option<u64>>,
    /// Something that was changed elsewhere while it was changed here may be loaded now.
    pub(crate) missed: tokio::sync::Notify,
    /// Held while that is loaded.
    pub(crate) loading_missed: tokio::sync::Mutex<()>,
}

/// Numbers for the status.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) uploaded_bytes: AtomicU64,
    pub(crate) fetched_bytes: AtomicU64,
    pub(crate) unauthentic: AtomicU64,
    pub(crate) conflicts: AtomicU64,
}

/// What the lock guards.
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) pipeline: Pipeline,
    /// Files with bytes that are in their data file alone and not synced.
    pub(crate) unsynced: HashSet<InodeId>,
    /// When the oldest of these bytes were written, or somewhat earlier; without meaning when there are none.
    pub(crate) unsynced_since: Instant,
    /// Files whose upload fails.
    pub(crate) failures: Failures,
    /// Where records are encoded.
    pub(crate) buffer: Vec<u8>,
}

/// Cuts on their way to the network, oldest first within each stage.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) next_cut: u64,
    /// Taken, not sealed.
    pub(crate) frozen: VecDeque<Arc<FrozenCut>>,
    /// Sealed, not yet a batch.
    pub(crate) drafts: VecDeque<(Arc<FrozenCut>, Sealed)>,
    /// Batches, not committed.
    pub(crate) queued: VecDeque<Arc<Queued>>,
    /// What the newest batches put that left the queue, oldest first: loads that began before still need them.
    pub(crate) recent: VecDeque<Vec<PutInode>>,
    /// Batches that left the queue since the cache was opened.
    pub(crate) left: u64,
    /// Inodes that queued batches create.
    pub(crate) created: HashSet<InodeId>,
    /// Of the content of files in batches made since the pipeline was last empty.
    pub(crate) digests: HashMap<InodeId, Digest>,
    /// When the oldest change of each cut was made.
    pub(crate) ages: VecDeque<(u64, Instant)>,
    /// Committed cuts whose files are still to be removed, once the journal's note of it is durable.
    pub(crate) done: VecDeque<(u64, Vec<Segment>)>,
    /// Newest cut that the network has.
    pub(crate) committed: u64,
    /// The stream of batches.
    pub(crate) mount: MountId,
    /// Number of the newest batch made.
    pub(crate) number: u64,
    /// A drain wants everything to go now.
    pub(crate) hurry: u64,
    /// Writes since the changed ranges were counted.
    pub(crate) writes: usize,
    /// Drains begun so far: each ends pauses.
    pub(crate) drains: u64,
    /// What went wrong last with the network.
    pub(crate) last_error: Option<Error>,
    /// The network's refusal that stops uploads until it changes its mind.
    pub(crate) blocked: Option<bucket::Error>,
    /// The last request was answered.
    pub(crate) reachable: bool,
    /// A refusal is being dealt with: no cut is taken, nothing is evicted.
    pub(crate) resolving: bool,
    /// Refusals since the last batch that was committed.
    pub(crate) refusals: u32,
    /// A refusal took cuts apart since the last drain began.
    pub(crate) taken_apart: bool,
    /// Changes with every un-cut, so that work on cuts that are no more is thrown away.
    pub(crate) epoch: u64,
}

impl Pipeline {
    pub(crate) fn new(mount: MountId) -> Self {
        Self {
            next_cut: 1,
            frozen: VecDeque::new(),
            drafts: VecDeque::new(),
            queued: VecDeque::new(),
            recent: VecDeque::new(),
            left: 0,
            created: HashSet::new(),
            digests: HashMap::new(),
            ages: VecDeque::new(),
            done: VecDeque::new(),
            committed: 0,
            mount,
            number: 0,
            hurry: 0,
            writes: 0,
            drains: 0,
            last_error: None,
            blocked: None,
            reachable: true,
            resolving: false,
            refusals: 0,
            taken_apart: false,
            epoch: 0,
        }
    }

    /// Cuts on their way.
    pub(crate) fn unsent(&self) -> usize {
        self.frozen.len() + self.drafts.len() + self.queued.len()
    }

    /// Cuts up to `last` that are on their way.
    pub(crate) fn unsent_through(&self, last: u64) -> usize {
        let frozen = self.frozen.iter().filter(|cut| cut.cut <= last).count();
        let drafts = self.drafts.iter().filter(|(cut, _)| cut.cut <= last).count();
        let queued = self.queued.iter().filter(|cut| cut.cut <= last).count();
        frozen + drafts + queued
    }

    /// Bytes of data on their way.
    pub(crate) fn unsent_bytes(&self) -> u64 {
        let frozen: u64 = self.frozen.iter().map(|cut| cut.bytes).sum();
        let drafts: u64 = self.drafts.iter().map(|(cut, _)| cut.bytes).sum();
        let queued: u64 = self.queued.iter().map(|cut| cut.bytes).sum();
        frozen + drafts + queued
    }

    /// Adds a batch, and makes its runs readable before the network has them.
    pub(crate) fn enqueue(&mut self, queued: Queued) {
        self.created.extend(queued.created());
        self.queued.push_back(Arc::new(queued));
    }

    /// Takes the oldest batch off the queue, which is this one.
    pub(crate) fn dequeue(&mut self, batch: &Batch) {
        let Some(queued) = self.queued.pop_front() else { return };
        self.forget(&queued);
        self.left += 1;
        self.recent.push_back(batch.puts().cloned().collect());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        if self.unsent() == 0 {
            self.digests.clear();
        }
    }

    /// What the newest batches put of an inode that left the queue.
    pub(crate) fn recent_puts(&self, inode: InodeId) -> impl Iterator<Item = &PutInode> {
        self.recent.iter().flatten().filter(move |put| put.inode == inode)
    }

    /// Takes all batches off the queue.
    pub(crate) fn dequeue_all(&mut self) -> Vec<Arc<Queued>> {
        let all: Vec<_> = self.queued.drain(..).collect();
        all.iter().for_each(|queued| self.forget(queued));
        all
    }

    fn forget(&mut self, queued: &Queued) {
        queued.created().for_each(|inode| {
            self.created.remove(&inode);
        });
    }
}

impl State {
    /// Bytes that wait for the network.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.tree.dirty_bytes + self.pipeline.unsent_bytes()
    }

    /// Journals a record and applies it: from here on it survives the death of the process.
    pub(crate) fn record(&mut self, journal: &Journal, mutations: &[Mutation]) -> Result<u64, Error> {
        let position = self.append(journal, mutations)?;
        self.tree.apply_record(mutations, &[], position)?;
        Ok(position)
    }

    /// Journals a record.
    pub(crate) fn append(&mut self, journal: &Journal, mutations: &[Mutation]) -> Result<u64, Error> {
        record::encode(mutations, &mut self.buffer);
        Ok(journal.append(&[&self.buffer])?.sequence.0)
    }
}

impl Shared {
    /// Says that something moved on.
    pub(crate) fn bump(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// Runs a transaction, loading what is missing in between.
    pub(crate) async fn transact<T, F>(self: &Arc<Self>, body: F) -> Result<T, Error>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop> + Send,
        T: Send,
    {
        self.transact_admitted(body, false).await
    }

    /// The same; one that is `admitted` from the beginning is not held back, because writers that are wait for what it does.
    pub(crate) async fn transact_admitted<T, F>(self: &Arc<Self>, body: F, admitted: bool) -> Result<T, Error>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop> + Send,
        T: Send,
    {
        let mut cover = Cover::new();
        let result = self.transact_under(body, admitted, &mut cover).await;
        self.end_cover(&cover);
        result
    }

    async fn transact_under<T, F>(
        self: &Arc<Self>,
        mut body: F,
        mut admitted: bool,
        cover: &mut Cover,
    ) -> Result<T, Error>
    where
        F: FnMut(&mut Transaction<'_>) -> Result<T, Stop> + Send,
        T: Send,
    {
        let until = tokio::time::Instant::now() + self.options.deadline;
        let mut attempts = 0;
        while attempts < MOST_ATTEMPTS {
            match self.attempt(&mut body, admitted, Some(cover)) {
                Ok(Attempt::Done(value)) => return Ok(value),
                Ok(Attempt::Missing(missing)) => {
                    attempts += 1;
                    self.load(missing).await?;
                }
                Ok(Attempt::Uncovered(place)) => self.cover(cover, place).await?,
                Ok(Attempt::Held) => {
                    self.admit_operations().await?;
                    self.admit_change().await?;
                    admitted = true;
                }
                // Not even the journal has room: nothing of it happened.
                Err(Error::NoSpace(_)) => self.make_room(Need::DiskFull, until).await?,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Network(bucket::Error::Unavailable(String::from("the directory changes faster than it loads"))))
    }

    /// Runs a transaction once. What would change something is held back while it has to wait, unless it was `admitted`; what
    /// only looks never is.
    pub(crate) fn attempt<T>(
        &self,
        body: &mut (impl FnMut(&mut Transaction<'_>) -> Result<T, Stop> + ?Sized),
        admitted: bool,
        cover: Option<&Cover>,
    ) -> Result<Attempt<T>, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let mut state = self.state.lock();
        // Who cannot ask does not wait.
        let asks = self.options.leases && state.pipeline.reachable;
        let covered = |directory: InodeId, name: &Name| {
            let goes_without = cover.is_some_and(|cover| cover.goes_without(directory, name));
            !asks || goes_without || self.leasing.held.lock().covers(directory, name)
        };
        let mut transaction = Transaction::new(&state.tree, self.options.read_only, &covered);
        let value = match body(&mut transaction) {
            Ok(value) => value,
            Err(Stop::Missing(missing)) => return Ok(Attempt::Missing(missing)),
            Err(Stop::Errno(errno)) => return Err(Error::Errno(errno)),
            Err(Stop::Stale) => return Err(Error::Stale),
            Err(Stop::Uncovered(directory, name)) => return Ok(Attempt::Uncovered((directory, name))),
        };
        let outcome = transaction.finish();
        if outcome.journaled && !admitted && (crowded(&state) || state.is_late() || self.journal.is_late()) {
            return Ok(Attempt::Held);
        }
        let pending = state.tree.pending_operations();
        let position = if outcome.journaled { state.append(&self.journal, &outcome.mutations)? } else { 0 };
        state.tree.apply_record(&outcome.mutations, &outcome.pins, position)?;
        if !state.tree.parked.is_empty() && outcome.pins.iter().any(|(_, change)| *change < 0) {
            let closed = state.tree.unpark();
            // What was asked for has happened. The names stay for now if this cannot be recorded.
            if !closed.is_empty()
                && let Err(error) = state.record(&self.journal, &closed)
            {
                state.pipeline.last_error = Some(error);
            }
        }
        let now = state.tree.pending_operations();
        if state.tree.len().saturating_sub(state.tree.node_room(self.options.memory)) > TOO_MANY {
            self.crowded.notify_one();
        }
        drop(state);
        if (pending == 0 && now > 0) || (pending < cut::FULL_OPERATIONS && now >= cut::FULL_OPERATIONS) {
            self.bump();
        }
        Ok(Attempt::Done(value))
    }

    /// Waits while more operations are pending than a cut can take, so that every cut is one moment.
    pub(crate) async fn admit_operations(&self) -> Result<(), Error> {
        self.wait_while(crowded, "changes that wait for the network").await
    }

    /// Waits while a condition of the state holds, up to the deadline, then fails with [`Error::NoSpace`].
    pub(crate) async fn wait_while(&self, holds: impl Fn(&State) -> bool, what: &str) -> Result<(), Error> {
        if !holds(&self.state.lock()) {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let _hurry = self.foreground.hurry();
        let waiting = async {
            loop {
                if !holds(&self.state.lock()) {
                    return Ok(());
                }
                if *self.closing.borrow() {
                    return Err(Error::Closed);
                }
                self.bump_soon();
                if progress.changed().await.is_err() {
                    return Err(Error::Closed);
                }
            }
        };
        match tokio::time::timeout(self.options.deadline, waiting).await {
            Ok(result) => result,
            Err(_) => Err(self.full(what)),
        }
    }

    /// Why there is no room: what the network said, if it said something.
    pub(crate) fn full(&self, what: &str) -> Error {
        let state = self.state.lock();
        match &state.pipeline.blocked {
            Some(bucket::Error::Quota(message)) => Error::Quota(message.clone()),
            Some(bucket::Error::Forbidden(_)) => Error::ReadOnly,
            _ => Error::NoSpace(format!("{what}: {} bytes pending", state.pending_bytes())),
        }
    }

    /// Tells the cutter that somebody waits for room.
    pub(crate) fn bump_soon(&self) {
        let mut state = self.state.lock();
        if state.tree.pending_operations() > 0 && state.pipeline.hurry == 0 {
            state.pipeline.hurry = 1;
            drop(state);
            self.bump();
        }
    }

    /// Notes how a request to the network ended.
    pub(crate) fn note_network<T>(&self, result: &Result<T, bucket::Error>) {
        let mut state = self.state.lock();
        match result {
            Ok(_) => {
                state.pipeline.reachable = true;
                if matches!(state.pipeline.last_error, Some(Error::Network(bucket::Error::Unreachable(_)))) {
                    state.pipeline.last_error = None;
                }
            }
            Err(error) => {
                state.pipeline.reachable = !matches!(error, bucket::Error::Unreachable(_));
                state.pipeline.last_error = Some(Error::Network(error.clone()));
            }
        }
    }

    /// Asks the network within the deadline.
    pub(crate) async fn ask<T>(
        &self,
        request: impl Future<Output = Result<T, bucket::Error>>,
    ) -> Result<T, bucket::Error> {
        let late = || bucket::Error::Unreachable(format!("no answer within {:?}", self.options.deadline));
        let result = match tokio::time::timeout(self.options.deadline, request).await {
            Ok(result) => result,
            Err(_) => Err(late()),
        };
        if !matches!(result, Err(bucket::Error::NotFound(_))) {
            self.note_network(&result);
        }
        result
    }

    /// Counts something that did not authenticate.
    pub(crate) fn note_unauthentic(&self, what: &str) {
        self.counters.unauthentic.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("left out what does not authenticate: {what}");
    }

    /// Tells followers what to forget. When they do not keep up, the last thing they find is [`Invalidation::All`].
    pub(crate) fn invalidate(&self, what: Invalidation) {
        match what {
            Invalidation::Inode(inode) => self.loans.fall_behind(Some(inode)),
            Invalidation::All => self.loans.fall_behind(None),
            Invalidation::Entry(..) => {}
        }
        self.tell(what);
    }

    /// The same of what lent files show already.
    pub(crate) fn tell(&self, what: Invalidation) {
        let what = match self.invalidations.capacity() {
            0 | 1 => Invalidation::All,
            _ => what,
        };
        if self.invalidations.try_send(what).is_err() {
            tracing::debug!("followers are behind: they find that everything changed");
        }
    }

    /// Tells followers that a name changed.
    pub(crate) fn invalidate_entry(&self, directory: InodeId, name: Name) {
        self.invalidate(Invalidation::Entry(directory, name));
    }
}

/// True while no further change of names fits into a cut.
fn crowded(state: &State) -> bool {
    state.tree.pending_operations() >= cut::MOST_OPERATIONS || state.pipeline.unsent() >= cut::MOST_UNSENT
}

/// What came of one run of a transaction.
pub(crate) enum Attempt<T> {
    Done(T),
    Missing(Missing),
    /// A name needs cover.
    Uncovered(NameOf),
    /// It has to be admitted first.
    Held,
}

impl From<crate::tree::Misfit> for Error {
    fn from(misfit: crate::tree::Misfit) -> Self {
        Self::Corrupt(misfit.to_string())
    }
}

impl From<crate::journal::Error> for Error {
    fn from(error: crate::journal::Error) -> Self {
        use crate::journal::Error as Journal;
        match error {
            Journal::NoSpace => Self::NoSpace(error.to_string()),
            Journal::Poisoned(cause) | Journal::Io(cause) => Self::Disk(cause),
            other => Self::Disk(Arc::new(std::io::Error::other(other))),
        }
    }
}
