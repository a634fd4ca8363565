//! The tasks that carry cuts from pending to queued: one takes them, one seals them, one makes batches.

use super::batch::{self, Base, Batch, Renewed, Stream};
use super::freeze::{FrozenCut, FrozenInode, Source};
use super::queue::Queued;
use super::seal::{self, draw};
use super::{ENOUGH_UNSENT, FULL_BYTES, FULL_OPERATIONS, FULL_PART, MOST_UNSENT};
use crate::Error;
use crate::blocking::blocking;
use crate::content::Digest;
use crate::content::map::Unsealed;
use crate::load::Gone;
use crate::passthrough::Look;
use crate::record::Mutation;
use crate::shared::{Shared, State};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strewn_engine::bucket::MAX_OPERATIONS;
use strewn_engine::ids::{CommitId, InodeId};
use strewn_engine::keys::InodeKeys;
use tokio::sync::watch;

/// First and longest pause between attempts that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Grows from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`].
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// Waits; ends early when the cache is closed or a drain begins.
    pub(crate) async fn pause(&mut self, shared: &Shared) {
        let mut progress = shared.progress.subscribe();
        let drains = shared.state.lock().pipeline.drains;
        let hurried = async {
            while progress.changed().await.is_ok() {
                if *shared.closing.borrow() || shared.state.lock().pipeline.drains > drains {
                    break;
                }
            }
        };
        // Whether time or news ended it makes no difference.
        let _ended = tokio::time::timeout(self.0, hurried).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Takes cuts when they are due.
pub(crate) async fn take_cuts(shared: Arc<Shared>) {
    let mut progress = shared.progress.subscribe();
    let mut backoff = Backoff::new();
    while !*shared.closing.borrow() {
        let due = {
            let state = shared.state.lock();
            shared.due(&state)
        };
        match due {
            Some(at) if at <= Instant::now() => match shared.freeze().await {
                Ok(_) => backoff = Backoff::new(),
                Err(error) => {
                    shared.note_error(error);
                    backoff.pause(&shared).await;
                }
            },
            Some(at) => {
                // News or time, both mean: look again.
                let _ended = tokio::time::timeout_at(at.into(), progress.changed()).await;
            }
            None => {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Shared {
    /// When the next cut is due; `None` if nothing is pending, or enough is on its way already.
    fn due(&self, state: &State) -> Option<Instant> {
        let tree = &state.tree;
        let (oldest, newest) = (tree.oldest?, tree.newest?);
        if state.pipeline.resolving || tree.pending_operations() == 0 || state.pipeline.unsent() >= MOST_UNSENT {
            return None;
        }
        let full = FULL_BYTES.min(self.options.dirty_limit / FULL_PART);
        let forced = tree.pending_operations() >= FULL_OPERATIONS || tree.dirty_bytes >= full;
        if forced || state.pipeline.hurry > 0 {
            return Some(oldest);
        }
        if state.pipeline.unsent() >= ENOUGH_UNSENT {
            return None;
        }
        let latest = oldest + self.options.cut_age;
        if self.is_due_by_size(state) {
            return Some(self.foreground.quiet_since().min(latest));
        }
        Some((newest + self.options.cut_idle).min(latest))
    }

    /// Takes what is pending as a cut. Gives its number, if anything was.
    pub(crate) async fn freeze(self: &Arc<Self>) -> Result<Option<u64>, Error> {
        self.look_at_exposed(Look::IfDue).await;
        let (_alone, mut state) = loop {
            self.wait_while(|state| state.pipeline.resolving, "a refusal of the network").await?;
            let alone = self.gate.write().await;
            if self.state.lock().tree.pending_operations() > MAX_OPERATIONS {
                // The cut leaves some behind: after a power cut nothing but their own marks may speak for their data files.
                self.sync_data_files().await?;
            }
            let state = self.state.lock();
            if !state.pipeline.resolving {
                break (alone, state);
            }
        };
        let state = &mut *state;
        if state.tree.pending_operations() == 0 {
            return Ok(None);
        }
        let cut = state.pipeline.next_cut;
        state.append(&self.journal, &[Mutation::Freeze { cut }])?;
        state.pipeline.next_cut += 1;
        let Some(frozen) = state.tree.freeze(cut) else { return Ok(None) };
        let parks = frozen.parks();
        if !parks.is_empty() {
            state.record(&self.journal, &parks)?;
        }
        state.pipeline.ages.push_back((cut, frozen.oldest));
        state.pipeline.frozen.push_back(Arc::new(frozen));
        if state.tree.pending_operations() == 0 {
            state.pipeline.hurry = 0;
        }
        self.bump();
        Ok(Some(cut))
    }

    fn note_failed_cut(&self, cut: &FrozenCut, error: &Error) {
        self.state.lock().failures.note(cut.inodes.iter().map(|inode| inode.inode), error);
    }

    pub(crate) fn note_error(&self, error: Error) {
        tracing::warn!("{error}");
        self.state.lock().pipeline.last_error = Some(error);
    }
}

/// Seals cuts in order.
pub(crate) async fn seal_cuts(shared: Arc<Shared>) {
    let mut progress = shared.progress.subscribe();
    let mut backoff = Backoff::new();
    while !*shared.closing.borrow() {
        let next = {
            let state = shared.state.lock();
            state.pipeline.frozen.front().map(|frozen| (frozen.clone(), state.pipeline.epoch))
        };
        let Some((frozen, epoch)) = next else {
            if progress.changed().await.is_err() {
                return;
            }
            continue;
        };
        match shared.seal(frozen.clone(), epoch).await {
            Ok(()) => backoff = Backoff::new(),
            Err(error) => {
                shared.note_failed_cut(&frozen, &error);
                shared.free_disk(&error).await;
                shared.note_error(error);
                backoff.pause(&shared).await;
            }
        }
    }
}

impl Shared {
    async fn seal(self: &Arc<Self>, frozen: Arc<FrozenCut>, epoch: u64) -> Result<(), Error> {
        let (shared, cut) = (self.clone(), frozen.clone());
        let sealed = blocking(move || seal::seal(&shared.store, shared.bucket.settings(), &cut)).await?;
        let mut state = self.state.lock();
        if state.pipeline.epoch != epoch {
            drop(state);
            sealed.segments.iter().for_each(|segment| self.remove_segment(segment.id));
            return Ok(());
        }
        state.pipeline.frozen.pop_front();
        for inode in &frozen.inodes {
            state.tree.note_sealed(inode.inode, frozen.cut);
        }
        state.pipeline.drafts.push_back((frozen, sealed));
        drop(state);
        self.bump();
        Ok(())
    }
}

/// Makes batches in order.
pub(crate) async fn make_batches(shared: Arc<Shared>) {
    let mut progress = shared.progress.subscribe();
    let mut backoff = Backoff::new();
    while !*shared.closing.borrow() {
        let next = {
            let state = shared.state.lock();
            state.pipeline.drafts.front().map(|(frozen, _)| (frozen.clone(), state.pipeline.epoch))
        };
        let Some((frozen, epoch)) = next else {
            if !wait(&mut progress).await {
                return;
            }
            continue;
        };
        match shared.batch(&frozen, epoch).await {
            Ok(()) => backoff = Backoff::new(),
            Err(error) => {
                shared.note_failed_cut(&frozen, &error);
                shared.free_disk(&error).await;
                shared.note_error(error);
                backoff.pause(&shared).await;
            }
        }
    }
}

async fn wait(progress: &mut watch::Receiver<u64>) -> bool {
    progress.changed().await.is_ok()
}

impl Shared {
    /// Makes the batch of the oldest draft and puts it into the queue.
    async fn batch(self: &Arc<Self>, frozen: &Arc<FrozenCut>, epoch: u64) -> Result<(), Error> {
        let bases = self.bases(frozen).await?;
        self.sync_clones(frozen).await?;
        let (sealed, digests, stream) = {
            let state = self.state.lock();
            if state.pipeline.epoch != epoch {
                return Ok(());
            }
            // It stays in its place until the batch is there: what is on its way is always in one of the stages.
            let Some((_, sealed)) = state.pipeline.drafts.front() else { return Ok(()) };
            let digests = frozen.inodes.iter().map(|inode| {
                // What batches made since it was frozen say is newer.
                (inode.inode, state.pipeline.digests.get(&inode.inode).copied().unwrap_or(inode.digest))
            });
            let stream = Stream {
                id: CommitId::from_bytes(draw()?),
                mount: state.pipeline.mount,
                number: state.pipeline.number + 1,
            };
            (sealed.clone(), digests.collect::<HashMap<InodeId, Digest>>(), stream)
        };
        let (shared, cut) = (self.clone(), frozen.clone());
        let (batch, renewed) = blocking(move || {
            let (batch, renewed) = make(&cut, sealed, bases, &digests, stream);
            shared.store.put_cut(batch.cut, &batch.encode())?;
            Ok((batch, renewed))
        })
        .await?;
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.pipeline.epoch != epoch {
            return Ok(());
        }
        let number = batch.commit.number;
        let hashes = renewed.values().map(|new| (new.inode, new.digest.hash)).collect();
        let mut record = vec![Mutation::Cut { cut: frozen.cut, number, hashes }];
        record.extend(renewed.values().filter_map(|new| Mutation::counted(new.inode, new.digest)));
        record.extend(frozen.cloned().filter_map(|inode| state.tree.held_for(inode.inode, frozen.cut)));
        state.append(&self.journal, &record)?;
        state.pipeline.drafts.pop_front();
        for renewed in renewed.values() {
            state.pipeline.digests.insert(renewed.inode, renewed.digest);
            state.tree.take_batch(frozen.cut, renewed);
        }
        state.pipeline.number = number;
        let is_next = state.pipeline.queued.is_empty();
        state.pipeline.enqueue(Queued::of(&batch));
        if is_next {
            self.batches.lock().put(batch.cut, Arc::new(batch));
        }
        self.bump();
        Ok(())
    }

    /// Makes the data files durable that a batch will say it holds bytes in.
    async fn sync_clones(self: &Arc<Self>, frozen: &Arc<FrozenCut>) -> Result<(), Error> {
        let (shared, cut) = (self.clone(), frozen.clone());
        if frozen.cloned().next().is_none() {
            return Ok(());
        }
        blocking(move || {
            for inode in cut.cloned() {
                let Source::File(Unsealed { generation, .. }) = &inode.source else { continue };
                let synced = shared.store.sync_data_fully(inode.inode, *generation);
                let state = shared.state.lock();
                let content = state.tree.node(inode.inode).and_then(|node| node.content.as_deref());
                // Else it is gone, perhaps with its file, and nothing is held in it.
                if content.is_some_and(|content| content.is_in_file(*generation)) {
                    synced?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Extents of the files whose content the cut changes, as they are before it.
    async fn bases(self: &Arc<Self>, frozen: &FrozenCut) -> Result<HashMap<InodeId, Base>, Error> {
        let mut bases = HashMap::new();
        for inode in frozen.inodes.iter().filter(|inode| !inode.ranges.is_empty()) {
            let windows = self.wanted_windows(inode);
            let base = match inode.expected_version {
                0 => Base::default(),
                _ => match self.known_base(inode.inode, &windows) {
                    Some(base) => base,
                    // A file that is gone makes a batch that is refused, and then all of it is brought back.
                    None => self.load_extents(inode.inode, &inode.key, &windows, Gone::IsEmpty).await?,
                },
            };
            bases.insert(inode.inode, base);
        }
        Ok(bases)
    }

    /// The windows whose extents a batch of this inode needs.
    fn wanted_windows(&self, inode: &FrozenInode) -> BTreeSet<u64> {
        let mut windows = batch::touched_windows(inode);
        let state = self.state.lock();
        let known = state.pipeline.digests.get(&inode.inode).copied().unwrap_or(inode.digest);
        if known.allocated.is_some() {
            let content = state.tree.node(inode.inode).and_then(|node| node.content.as_deref());
            windows.extend(batch::dropped_windows(inode, content.and_then(|content| content.tags.as_ref())));
        }
        windows
    }

    /// The extents of these windows if all of them are in memory.
    fn known_base(&self, inode: InodeId, windows: &BTreeSet<u64>) -> Option<Base> {
        let state = self.state.lock();
        let content = state.tree.node(inode)?.content.as_deref()?;
        let tags = content.tags.clone()?;
        let mut known = Base { tags, windows: Default::default(), torn: content.torn };
        for number in windows {
            let extents = match content.windows.get(number) {
                Some(window) => window.extents.clone(),
                None if known.tags.contains_key(number) => return None,
                None => Vec::new(),
            };
            known.windows.insert(*number, extents);
        }
        Some(known)
    }
}

fn make(
    frozen: &FrozenCut,
    sealed: seal::Sealed,
    mut bases: HashMap<InodeId, Base>,
    digests: &HashMap<InodeId, Digest>,
    stream: Stream,
) -> (Batch, HashMap<InodeId, Renewed>) {
    let renewed = frozen.inodes.iter().zip(&sealed.changes).filter_map(|(inode, changes)| {
        let base = bases.remove(&inode.inode)?;
        let before = digests.get(&inode.inode).and_then(|digest| digest.allocated);
        Some((inode.inode, batch::renew(inode, &InodeKeys::new(&inode.key), changes, base, before)))
    });
    let renewed: HashMap<InodeId, Renewed> = renewed.collect();
    (batch::make(stream, frozen, sealed, &renewed, digests), renewed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::tests::opened;
    use crate::{Name, Options, Position};
    use strewn_engine::bucket::Kind;
    use strewn_engine::record::Attributes;

    /// Longer than any test takes.
    const NEVER: Duration = Duration::from_secs(3600);

    /// How long a cut of 2,000 bytes that may be taken at 1,000 has to wait while somebody works on the drive.
    async fn waits(dirty_limit: u64) -> Duration {
        let options = Options { cut_bytes: 1_000, cut_idle: NEVER, cut_age: NEVER, dirty_limit, ..Options::default() };
        let (cache, _) = opened(options).await;
        let shared = cache.shared();
        let _busy = shared.foreground.busy();
        // Nothing is taken meanwhile but by whoever asks here.
        shared.state.lock().pipeline.resolving = true;
        let name = Name::new(b"file").unwrap();
        let made = cache.transact(|tx| {
            let attributes = tx.attributes(cache.root())?;
            tx.entry(cache.root(), &name)?;
            let file = tx.create(Attributes { kind: Kind::File, ..attributes })?;
            tx.set_entry(cache.root(), &name, Some(file))?;
            Ok(file)
        });
        let file = made.await.unwrap();
        cache.write(file, Position::At(0), &[1; 2_000], |_| {}).await.unwrap();
        let mut state = shared.state.lock();
        state.pipeline.resolving = false;
        let (now, due) = (Instant::now(), shared.due(&state));
        state.pipeline.resolving = true;
        due.expect("there is something").saturating_duration_since(now)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_cut_waits_for_a_quiet_moment_and_a_full_one_does_not() {
        let wait = waits(1 << 30).await;
        assert!(wait > Duration::ZERO && wait < NEVER / 2, "{wait:?}");
        assert_eq!(waits(2_000 * FULL_PART).await, Duration::ZERO);
    }
}
