//! Room: the cache never takes more of the disk than its budget allows and the disk has.
//!
//! Taken is what data files, sealed files, the index, the journal and its next zeros take. Promised is the sealed copy of
//! every byte that is dirty or being sealed, so that sealing never has to wait: what is to go to the network can always go,
//! and then gives its room back. Everything that grows asks under the lock of the state, before the first byte is written;
//! where there is no room, clean data files are given up, oldest use first, and who still finds none waits for uploads up to
//! his deadline.
//! Reads do not wait: what does not fit is read without being kept.

use crate::Error;
use crate::content::map::MAX_MEMORY;
use crate::foreground::Hurry;
use crate::journal;
use crate::shared::{Shared, State};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use strewn_engine::ids::InodeId;
use tokio::time::Instant;

/// What the journal may grow by before it is looked at again: the zeros of the file in use and of the next one.
const JOURNAL_AHEAD: u64 = 2 * journal::PREWRITE;
/// Room for content that every cache has, however small its budget is.
const LEAST: u64 = 4 << 20;
/// Eviction for somebody who waits makes this much more room, so that it is not done for every write.
const SPARE: u64 = 4 << 20;
/// Where a writer finds the disk full though there should be room, it is tried again after this long.
const RETRY: Duration = Duration::from_millis(100);
/// Above this share, in percent, of what may wait for the network, or of the room that only uploads can free, writers are
/// slowed down.
pub(crate) const SLOW_ABOVE: u64 = 75;

/// Numbers of the disk, looked at now and then.
#[derive(Debug)]
pub(crate) struct Limits {
    /// What the cache may take as far as the disk has it.
    disk: AtomicU64,
    /// What the index takes.
    index: AtomicU64,
    /// Bytes that writers are writing and have not recorded, and those of files that programs may write past us.
    writing: AtomicU64,
    /// Somebody waits for room.
    waiting: AtomicUsize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { disk: u64::MAX.into(), index: 0.into(), writing: 0.into(), waiting: 0.into() }
    }
}

impl Limits {
    /// Notes what the index takes.
    pub(crate) fn set_index(&self, bytes: u64) {
        self.index.store(bytes, Ordering::Relaxed);
    }
}

/// Why somebody asks for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// These bytes will be taken.
    Bytes(u64),
    /// The disk refused: it is fuller than it seemed.
    DiskFull,
}

impl Shared {
    /// Bytes of disk that the cache takes.
    pub(crate) fn taken(&self) -> u64 {
        self.store.bytes() + self.overhead()
    }

    /// What journal and index take.
    fn overhead(&self) -> u64 {
        self.journal.bytes_on_disk() + self.limits.index.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more may be taken.
    pub(crate) fn has_room(&self, state: &State, bytes: u64) -> bool {
        self.missing(state, bytes) == 0
    }

    /// How much has to go before `bytes` more may be taken.
    fn missing(&self, state: &State, bytes: u64) -> u64 {
        let overhead = self.overhead();
        let promised = promised(state) + self.limits.writing.load(Ordering::Relaxed);
        let wanted = self.store.bytes() + overhead + promised + JOURNAL_AHEAD + bytes;
        wanted.saturating_sub(self.limit(overhead))
    }

    /// Most that may be taken, with what is promised, by a cache with such an overhead.
    fn limit(&self, overhead: u64) -> u64 {
        let least = overhead + JOURNAL_AHEAD + LEAST;
        self.options.budget.max(least).min(self.limits.disk.load(Ordering::Relaxed))
    }

    /// Whether a range of a data file may be written; then it counts as taken.
    pub(crate) fn take_room(
        &self,
        state: &State,
        inode: InodeId,
        generation: u64,
        range: Range<u64>,
    ) -> Result<(), Need> {
        self.take_room_and_promise(state, inode, generation, range, (0, false))
    }

    /// The same for dirty bytes: their sealed copy counts as promised until the writer has recorded them or given up. What others
    /// wait for, and so goes `first`, takes it beyond the limit.
    pub(crate) fn take_room_to_write(
        &self,
        state: &State,
        inode: InodeId,
        generation: u64,
        range: Range<u64>,
        first: bool,
    ) -> Result<Promise<'_>, Need> {
        let bytes = range.end - range.start;
        self.take_room_and_promise(state, inode, generation, range, (bytes, first))?;
        self.limits.writing.fetch_add(bytes, Ordering::Relaxed);
        Ok(Promise { limits: &self.limits, bytes })
    }

    fn take_room_and_promise(
        &self,
        state: &State,
        inode: InodeId,
        generation: u64,
        range: Range<u64>,
        (promise, first): (u64, bool),
    ) -> Result<(), Need> {
        let needs = self.store.data_needs(inode, generation, &range) + promise;
        if !first && !self.has_room(state, needs) {
            return Err(Need::Bytes(needs));
        }
        self.store.occupy_data(inode, generation, range);
        Ok(())
    }

    /// Keeps room for the sealed copy of a file that may come to be dirty as a whole at any time, waiting for it if need be;
    /// until [`Self::give_up_room`].
    pub(crate) async fn keep_room(self: &Arc<Self>, bytes: u64) -> Result<(), Error> {
        let until = Instant::now() + self.options.deadline;
        loop {
            {
                let state = self.state.lock();
                if self.has_room(&state, bytes) {
                    self.limits.writing.fetch_add(bytes, Ordering::Relaxed);
                    return Ok(());
                }
            }
            self.make_room(Need::Bytes(bytes), until).await?;
        }
    }

    /// The same without asking: what was kept before has to be again.
    pub(crate) fn take_room_unasked(&self, bytes: u64) {
        self.limits.writing.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives up what [`Self::keep_room`] keeps.
    pub(crate) fn give_up_room(&self, bytes: u64) {
        self.limits.writing.fetch_sub(bytes, Ordering::Relaxed);
        if self.somebody_waits() {
            self.bump();
        }
    }

    /// Room for a small file that moves to a data file.
    pub(crate) fn has_room_to_spill(&self, state: &State) -> Result<(), Need> {
        let needs = 2 * MAX_MEMORY;
        if self.has_room(state, needs) { Ok(()) } else { Err(Need::Bytes(needs)) }
    }

    /// How much of the room is taken by what only uploads can free, in percent.
    pub(crate) fn pressure(&self, state: &State) -> u64 {
        let overhead = self.overhead();
        let stuck = self.store.sealed_bytes() + overhead + 2 * promised(state);
        (stuck.saturating_mul(100) / self.limit(overhead).max(1)).min(100)
    }

    /// Makes room, waiting for uploads until a moment at most.
    pub(crate) async fn make_room(self: &Arc<Self>, need: Need, until: Instant) -> Result<(), Error> {
        let _waiting = Waiting::new(self);
        let mut progress = self.progress.subscribe();
        let mut refused = need == Need::DiskFull;
        loop {
            progress.borrow_and_update();
            if self.evict_for(need).await? {
                return Ok(());
            }
            if *self.closing.borrow() {
                return Err(Error::Closed);
            }
            self.bump_soon();
            let wake = if refused { until.min(Instant::now() + RETRY) } else { until };
            match tokio::time::timeout_at(wake, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_) if wake < until => return Ok(()),
                Err(_) => return Err(self.full("room in the cache")),
            }
            if std::mem::take(&mut refused) {
                return Ok(());
            }
        }
    }

    /// Makes room for somebody: first from what nobody needs any more, then from clean data files. True if he may try (again).
    pub(crate) async fn evict_for(self: &Arc<Self>, need: Need) -> Result<bool, Error> {
        if self.free_for(need).await? {
            return Ok(true);
        }
        {
            let mut state = self.state.lock();
            if state.pipeline.resolving {
                return Ok(false);
            }
            let missing = match need {
                Need::Bytes(bytes) => self.missing(&state, bytes),
                Need::DiskFull => 0,
            };
            self.forget_files(&mut state, missing + SPARE);
        }
        self.free_for(need).await
    }

    /// Removes what nobody needs any more. True if that is enough.
    async fn free_for(self: &Arc<Self>, need: Need) -> Result<bool, Error> {
        let before = self.taken();
        self.remove_done().await?;
        self.look_at_disk()?;
        Ok(match need {
            Need::Bytes(bytes) => self.has_room(&self.state.lock(), bytes),
            Need::DiskFull => self.taken() < before,
        })
    }

    /// After an error of what has to go on: if the disk is full, gives up what can be had again.
    pub(crate) async fn free_disk(self: &Arc<Self>, error: &Error) {
        if matches!(error, Error::NoSpace(_))
            && let Err(error) = self.evict_for(Need::DiskFull).await
        {
            self.note_error(error);
        }
    }

    /// Gives up clean data files, oldest use first, until about `excess` bytes are to be freed.
    pub(crate) fn forget_files(&self, state: &mut State, excess: u64) {
        let store = &self.store;
        state.tree.forget_files(excess, |inode, generation| store.data_bytes(inode, generation));
    }

    /// Looks how much the disk has left.
    pub(crate) fn look_at_disk(&self) -> Result<(), Error> {
        let limit = self.taken().saturating_add(self.store.free()?);
        let before = self.limits.disk.swap(limit, Ordering::Relaxed);
        if limit > before && self.somebody_waits() {
            self.bump();
        }
        Ok(())
    }

    /// Whether somebody waits for room: who frees some says so.
    pub(crate) fn somebody_waits(&self) -> bool {
        self.limits.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Bytes that sealing will take: dirty ones, and those taken by cuts that are not sealed.
fn promised(state: &State) -> u64 {
    state.tree.dirty_bytes + state.pipeline.frozen.iter().map(|cut| cut.bytes).sum::<u64>()
}

/// Room for the sealed copy of bytes that are being written.
#[derive(Debug)]
pub(crate) struct Promise<'a> {
    limits: &'a Limits,
    bytes: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.limits.writing.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Somebody waits for room.
struct Waiting<'a> {
    shared: &'a Shared,
    _hurry: Hurry<'a>,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.limits.waiting.fetch_add(1, Ordering::Relaxed);
        Self { shared, _hurry: shared.foreground.hurry() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.limits.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
