//! Bringing a lent file in line with the content.

use super::Lent;
use crate::Error;
use crate::blocking::blocking;
use crate::content::map::Part;
use crate::maintain::sealing;
use crate::shared::{Shared, State};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use strewn_engine::ids::InodeId;

/// Bytes copied at a time into a file that the content left.
const STEP: u64 = 1 << 20;

/// What of a file was changed, and is to show in a lent file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A range was written.
    Written(Range<u64>),
    /// A range was made a hole, just now, and nobody wrote to it since.
    Hole(Range<u64>),
    /// The size.
    Size,
    /// Anything.
    Any,
}

impl Change {
    /// Where.
    fn range(&self) -> Range<u64> {
        match self {
            Self::Written(range) | Self::Hole(range) => range.clone(),
            Self::Size => 0..0,
            Self::Any => 0..u64::MAX,
        }
    }
}

/// A lent file, and how the content stands to it.
struct Shown {
    generation: u64,
    file: Arc<File>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    /// Lets a lent file show a change. Does nothing if it is not lent. Fails if it does not show: then it is tried again in the
    /// background.
    pub(crate) async fn show(self: &Arc<Self>, inode: InodeId, change: Change) -> Result<(), Error> {
        self.end_if_unused(inode);
        let Some(shown) = self.loans.with(inode, Shown::of) else { return Ok(()) };
        let (any, result) = (change == Change::Any, self.show_lent(inode, &shown, change).await);
        let done = result.is_ok() && any;
        if done || result.is_err() {
            self.loans.with(inode, |lent| lent.behind = !done);
        }
        result
    }

    async fn show_lent(self: &Arc<Self>, inode: InodeId, shown: &Shown, change: Change) -> Result<(), Error> {
        if self.is_content_in(inode, shown.generation) {
            return match change {
                Change::Written(_) => Ok(()),
                change => self.clear_holes(inode, shown, change).await,
            };
        }
        // What it held may be all that a power cut leaves, until the record that gives it up is durable.
        self.wait_until_unneeded(inode, shown.generation).await?;
        self.copy_into(inode, shown, change.range()).await
    }

    /// Clears what the content has no bytes for in its own data file.
    async fn clear_holes(self: &Arc<Self>, inode: InodeId, shown: &Shown, change: Change) -> Result<(), Error> {
        let _turn = shown.turn.lock().await;
        let _alone = self.hold(inode).await?;
        let (size, holes, exposed) = {
            let state = self.state.lock();
            let Some(node) = state.tree.node(inode) else { return Ok(()) };
            let Some(content) = node.content.as_deref() else { return Ok(()) };
            let size = node.attributes.size;
            let range = change.range().start.min(size)..change.range().end.min(size);
            let holes = match change {
                // What programs stored into holes may not be known yet.
                Change::Any if content.exposed => Vec::new(),
                Change::Any => content.parts(range).into_iter().filter_map(hole).collect(),
                _ => vec![range],
            };
            (size, holes, content.exposed)
        };
        self.clear(inode, shown.generation, size, &holes).await?;
        if exposed {
            // There nothing but the data file speaks for itself after a power cut.
            self.sync_exposed(inode, shown.generation).await?;
        }
        Ok(())
    }

    /// Gives a data file a length, and makes holes in it. The content's guard is held.
    pub(super) async fn clear(
        self: &Arc<Self>,
        inode: InodeId,
        generation: u64,
        size: u64,
        holes: &[Range<u64>],
    ) -> Result<(), Error> {
        self.wait_until_unneeded(inode, generation).await?;
        self.store.clear_data(inode, generation, size, holes)
    }

    /// Waits until nothing that is not recorded for good, and no cut, needs what a data file has and the content has not.
    async fn wait_until_unneeded(self: &Arc<Self>, inode: InodeId, generation: u64) -> Result<(), Error> {
        self.journal.sync(self.journal.last()).await?;
        let is_sealed_from = |state: &State| sealing(state).contains(&(inode, generation));
        self.wait_while(is_sealed_from, "a cut that is being sealed").await
    }

    /// Copies content into a file that it left. What is written to the content meanwhile is copied by who writes it, so each
    /// step is one of content and copy together.
    async fn copy_into(self: &Arc<Self>, inode: InodeId, shown: &Shown, range: Range<u64>) -> Result<(), Error> {
        // By its descriptor, since it may have lost its name.
        let path = format!("/proc/self/fd/{}", shown.file.as_raw_fd());
        let target = Arc::new(File::options().write(true).open(path)?);
        let mut at = range.start;
        loop {
            let _turn = shown.turn.lock().await;
            let size = self.state.lock().tree.node(inode).ok_or(Error::Stale)?.attributes.size;
            let length = STEP.min(range.end.min(size).saturating_sub(at));
            let bytes = self.read(inode, at, length as usize).await?;
            let (file, offset, last) = (target.clone(), at, bytes.is_empty());
            at += bytes.len() as u64;
            blocking(move || if last { Ok(file.set_len(size)?) } else { Ok(file.write_all_at(&bytes, offset)?) })
                .await?;
            if last {
                return Ok(());
            }
        }
    }
}

fn hole(part: Part) -> Option<Range<u64>> {
    if let Part::Hole(range) = part { Some(range) } else { None }
}

impl Shown {
    fn of(lent: &mut Lent) -> Self {
        Self { generation: lent.generation, file: lent.file.clone(), turn: lent.turn.clone() }
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::{Cache, Position};
    use crate::disk::MemoryDisk;
    use crate::drain::tests::new_bucket;
    use crate::journal::BootId;
    use crate::{Name, Options, Root};
    use std::sync::Arc;
    use strewn_engine::bucket::Kind;
    use strewn_engine::bucket::memory::MemoryBucket;
    use strewn_engine::ids::InodeId;

    const SIZE: u64 = 300_000;

    struct One {
        root: Root,
        bucket: MemoryBucket,
        disk: MemoryDisk,
        cache: Cache,
        file: InodeId,
        generation: u64,
    }

    async fn open(disk: MemoryDisk, boot: u8, bucket: &MemoryBucket, root: &Root) -> Cache {
        let (disk, bucket) = (Arc::new(disk), Arc::new(bucket.clone()));
        Cache::open_on(disk, BootId([boot; 16]), bucket, root.clone(), Options::default()).await.unwrap()
    }

    impl One {
        /// A mount with a durable file of sevens.
        async fn new() -> Self {
            let (root, bucket) = new_bucket();
            let disk = MemoryDisk::new();
            let cache = open(disk.clone(), 1, &bucket, &root).await;
            let name = Name::new(b"file").unwrap();
            let made = cache.transact(|tx| {
                let mut attributes = tx.attributes(root.inode)?;
                attributes.kind = Kind::File;
                let inode = tx.create(attributes)?;
                tx.set_entry(root.inode, &name, Some(inode))?;
                Ok(inode)
            });
            let file = made.await.unwrap();
            cache.write(file, Position::At(0), &[7; SIZE as usize], |_| {}).await.unwrap();
            cache.sync(file, false).await.unwrap();
            let generation = {
                let state = cache.shared().state.lock();
                state.tree.node(file).and_then(|node| Some(node.content.as_deref()?.generation)).unwrap()
            };
            Self { root, bucket, disk, cache, file, generation }
        }

        /// The file after any of many power cuts.
        async fn assert_left(&self, expected: &[u8]) {
            for seed in 0..20 {
                let after = open(self.disk.crash(seed), 2, &self.bucket, &self.root).await;
                let size = after.transact(|tx| tx.attributes(self.file)).await.unwrap().size;
                assert_eq!(size, expected.len() as u64, "seed {seed}");
                assert!(after.read(self.file, 0, SIZE as usize).await.unwrap() == expected, "seed {seed}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_data_file_is_cleared_after_the_record_is_durable() {
        let one = One::new().await;
        one.cache.transact(|tx| tx.resize(one.file, 1_000)).await.unwrap();
        one.cache.shared().clear(one.file, one.generation, 1_000, &[]).await.unwrap();
        one.assert_left(&[7; 1_000]).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn small_writes_to_an_exposed_file_are_durable_in_it() {
        let one = One::new().await;
        one.cache.shared().note_exposed(one.file, one.generation, true).await.unwrap();
        one.cache.write(one.file, Position::At(10), b"small", |_| {}).await.unwrap();
        one.cache.sync(one.file, false).await.unwrap();
        let mut expected = vec![7; SIZE as usize];
        expected[10..15].copy_from_slice(b"small");
        one.assert_left(&expected).await;
    }
}
