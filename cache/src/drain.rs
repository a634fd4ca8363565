//! Draining, and telling how it is going.

use crate::record::Mutation;
use crate::shared::{Shared, State};
use crate::{Error, Root, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Shared {
    /// See [`Cache::drain`](crate::Cache::drain).
    pub(crate) async fn drain<F: FnMut(&Status) + Send>(
        self: &Arc<Self>,
        patience: Duration,
        every: Duration,
        mut show: F,
    ) -> Result<(), Error> {
        let mut progress = self.progress.subscribe();
        let _hurry = self.foreground.hurry();
        let mut last = self.freeze_all().await?;
        let mut moved = Instant::now();
        let mut before = self.standing();
        loop {
            show(&self.status());
            let (standing, blocked) = (self.standing(), self.state.lock().pipeline.blocked.clone());
            if self.state.lock().pipeline.unsent_through(last) == 0 {
                // What a refusal took apart is pending again.
                match self.state.lock().pipeline.taken_apart {
                    true => {}
                    false => break,
                }
                last = self.freeze_all().await?;
            }
            if standing != before {
                (before, moved) = (standing, Instant::now());
            }
            if blocked.is_some() || moved.elapsed() >= patience {
                return Err(self.pending_error());
            }
            if *self.closing.borrow() {
                return Err(Error::Closed);
            }
            // Time or news: look again.
            let _ended = tokio::time::timeout(every, progress.changed()).await;
        }
        // Everything is clean now: a good moment to note what is here.
        self.keep_files(true);
        self.index.flush().await;
        Ok(())
    }

    /// Takes everything that is pending. Gives the newest cut.
    async fn freeze_all(self: &Arc<Self>) -> Result<u64, Error> {
        {
            let mut state = self.state.lock();
            state.pipeline.taken_apart = false;
            state.pipeline.blocked = None;
            state.pipeline.hurry += 1;
            state.pipeline.drains += 1;
        }
        self.bump();
        while self.freeze().await?.is_some() {}
        let mut state = self.state.lock();
        state.pipeline.hurry = 0;
        Ok(state.pipeline.next_cut - 1)
    }

    /// What has to move for a drain to make progress: the newest committed cut, cuts on their way, and bytes uploaded.
    fn standing(&self) -> (u64, usize, usize, u64) {
        let state = self.state.lock();
        let (frozen, drafts) = (state.pipeline.frozen.len(), state.pipeline.drafts.len());
        (state.pipeline.committed, frozen, drafts, self.outgoing.total())
    }

    fn pending_error(&self) -> Error {
        let status = self.status();
        Error::Pending(format!(
            "{} files, {} bytes and {} other changes wait ({})",
            status.pending_files,
            status.pending_bytes,
            status.pending_operations,
            if status.last_error.is_empty() { "no progress" } else { &status.last_error }
        ))
    }

    /// What people have to know: that nothing is taken any more, else what went wrong last.
    fn trouble(&self, state: &State) -> String {
        match (self.journal.failure(), &state.pipeline.last_error) {
            (Some(failure), _) => failure.to_string(),
            (None, Some(error)) => error.to_string(),
            (None, None) => String::new(),
        }
    }

    /// See [`Cache::status`](crate::Cache::status).
    pub(crate) fn status(&self) -> Status {
        let state = self.state.lock();
        let (files, operations) = pending(&state);
        let oldest = state.pipeline.ages.front().map(|(_, since)| *since).or(state.tree.oldest);
        let (lease, lease_names, lease_waits) = {
            let held = self.leasing.held.lock();
            let (kind, names) = held.kind();
            (kind, names as u64, held.waited_for)
        };
        let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            pending_files: files,
            pending_bytes: state.pending_bytes(),
            pending_operations: operations,
            queued_cuts: state.pipeline.unsent() as u64,
            oldest_seconds: oldest.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            uploaded_bytes: counter(&self.counters.uploaded_bytes),
            sending_bytes: self.outgoing.under_way(),
            upload_rate: if state.pipeline.unsent() == 0 { 0.0 } else { self.outgoing.rate() },
            fetched_bytes: counter(&self.counters.fetched_bytes),
            failed_files: state.failures.len() as u64,
            reachable: state.pipeline.reachable,
            last_error: self.trouble(&state),
            unauthentic: counter(&self.counters.unauthentic),
            conflicts: counter(&self.counters.conflicts),
            conflict_copies: state.tree.conflicts(),
            cache_bytes: self.taken(),
            cache_budget: self.options.budget,
            known_inodes: state.tree.len() as u64,
            lease,
            lease_names,
            lent_files: self.loans.len() as u64,
            lease_waits,
            read_only: self.options.read_only,
        }
    }

    /// Makes sure that the root is known: from the journal, else from the network.
    pub(crate) async fn know_root(&self, root: &Root) -> Result<(), Error> {
        if let Some(known) = self.state.lock().tree.node(root.inode).map(|node| node.key == root.key) {
            return match known {
                true => Ok(()),
                false => Err(Error::Corrupt(String::from("the root directory does not open with this key"))),
            };
        }
        self.load_root(root).await?;
        let mut state = self.state.lock();
        let Some(adopt) = state.tree.node(root.inode).map(|node| node.adopt(root.inode)) else {
            return Err(Error::Corrupt(String::from("the root directory is gone")));
        };
        // A directory: nothing of it is counted.
        state.record(&self.journal, &[Mutation::Adopt(Box::new(adopt))])?;
        Ok(())
    }
}

/// Files and operations that the network does not have.
fn pending(state: &State) -> (u64, u64) {
    let queued: usize = state.pipeline.queued.iter().map(|queued| queued.operations).sum();
    let taken = state.pipeline.frozen.iter().chain(state.pipeline.drafts.iter().map(|(cut, _)| cut));
    let (mut files, mut operations) = (state.tree.changed_inodes.len(), state.tree.pending_operations() + queued);
    for cut in taken {
        files += cut.inodes.len();
        operations += cut.names.len() + cut.inodes.len();
    }
    files += state.pipeline.queued.iter().map(|queued| queued.puts().len()).sum::<usize>();
    (files as u64, operations as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::journal::BootId;
    use crate::{Cache, Options};
    use bytes::Bytes;
    use strewn_engine::bucket::memory::MemoryBucket;
    use strewn_engine::bucket::{BucketSettings, Cipher, Kind, Timestamp};
    use strewn_engine::content::window;
    use strewn_engine::ids::{BucketId, InodeId, SegmentId};
    use strewn_engine::keys::InodeKeys;
    use strewn_engine::record::{Attributes, Record};
    use strewn_engine::secret::Key;

    /// Attributes of something that is empty and root's.
    pub(crate) fn attributes(kind: Kind) -> Attributes {
        let moment = Timestamp::default();
        Attributes {
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            atime: moment,
            mtime: moment,
            ctime: moment,
            btime: moment,
            rdev: 0,
            target: Bytes::new(),
            xattrs: Arc::default(),
        }
    }

    fn bucket(root: &Root) -> MemoryBucket {
        let bucket = BucketId::from_bytes([1; 16]);
        let (segment_size, cipher) = (1 << 20, Cipher::Aes256Gcm);
        let settings = BucketSettings { bucket, root: root.inode, segment_size, cipher, epoch: 1 };
        let content = window::content_hash(&[]);
        let attributes = attributes(Kind::Directory);
        let record = Record { attributes, content, entries_as_of: Timestamp::default(), allocated: None };
        let sealed = InodeKeys::new(&root.key).seal_record(root.inode, Kind::Directory, 1, &record);
        MemoryBucket::new(settings, sealed)
    }

    /// A cache, and its bucket.
    pub(crate) async fn opened(options: Options) -> (Cache, MemoryBucket) {
        let (root, bucket) = new_bucket();
        let (disk, boot) = (Arc::new(MemoryDisk::new()), BootId([1; 16]));
        let cache = Cache::open_on(disk, boot, Arc::new(bucket.clone()), root, options).await.unwrap();
        (cache, bucket)
    }

    /// A bucket and its root.
    pub(crate) fn new_bucket() -> (Root, MemoryBucket) {
        let root = Root { inode: InodeId::from_bytes([2; 16]), key: Key::from_bytes([3; 32]) };
        let bucket = bucket(&root);
        (root, bucket)
    }

    /// Who waits for the network is not held up by who works on the drive.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn while_a_drain_waits_the_background_gives_way_to_nobody() {
        let (cache, _) = opened(Options::default()).await;
        let foreground = &cache.shared().foreground;
        let _busy = foreground.busy();
        let mut shown = 0;
        let drained = cache.drain_within(Duration::ZERO, |_| {
            assert!(!foreground.has_way());
            shown += 1;
        });
        drained.await.unwrap();
        assert!(shown > 0 && foreground.has_way());
        cache.close().await.unwrap();
    }

    /// A segment that takes longer than the patience, as on a slow line.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_drain_waits_as_long_as_bytes_go_out() {
        let (cache, bucket) = opened(Options::default()).await;
        bucket.set_unreachable(true);
        let root = cache.root();
        let touched = |tx: &mut crate::Transaction<'_>| {
            let mut attributes = tx.attributes(root)?;
            attributes.mode = 0o700;
            tx.set_attributes(root, attributes)
        };
        cache.transact(touched).await.unwrap();
        let segment = SegmentId::from_bytes([4; 16]);
        let segment = cache.shared().outgoing.watch(segment, Arc::new(Bytes::from_static(&[0; 6])));
        let patience = Duration::from_millis(1);
        let (mut shown, mut byte) = (0, [0]);
        let drained = cache.drain_within(patience, |_| {
            segment.read_at(shown.min(5), &mut byte).unwrap();
            shown += 1;
            // Longer than the patience in any case.
            let until = Instant::now() + 2 * patience;
            while Instant::now() < until {}
        });
        assert!(matches!(drained.await, Err(Error::Pending(_))), "at last it is given up");
        assert!(shown > 6, "{shown}");
        cache.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_sealed_segment_that_was_sent_is_closed() {
        let (cache, _) = opened(Options::default()).await;
        let root = cache.root();
        let name = crate::Name::new(b"file").unwrap();
        let make = |tx: &mut crate::Transaction<'_>| {
            let attributes = Attributes { kind: Kind::File, ..tx.attributes(root)? };
            let file = tx.create(attributes)?;
            tx.set_entry(root, &name, Some(file))?;
            Ok(file)
        };
        let file = cache.transact(make).await.unwrap();
        cache.write(file, crate::Position::At(0), &[1; 300_000], |_| {}).await.unwrap();
        cache.drain(|_| {}).await.unwrap();
        cache.keep_house().await.unwrap();
        assert_eq!(cache.shared().sources.lock().len(), 0, "an open file keeps its room on the disk");
        cache.close().await.unwrap();
    }
}
