//! Two mounts of one bucket; the line of the second can be cut, and it can die.

use super::lines::Lines;
use super::*;
use std::sync::Arc;
use strewn_engine::record::Attributes;

pub struct Two {
    pub bucket: MemoryBucket,
    pub root: Root,
    pub one: Cache,
    pub two: Cache,
    pub lines: Arc<Lines>,
    disk: MemoryDisk,
}

fn plain() -> Options {
    Options { leases: false, ..options() }
}

impl Two {
    pub async fn new() -> Self {
        let (bucket, root) = bucket(1 << 20);
        let one = open_on(&MemoryDisk::new(), &bucket, &root, plain()).await;
        let (disk, lines) = (MemoryDisk::new(), Arc::new(Lines::new(bucket.clone())));
        let two = open_two(&disk, &lines, &root).await;
        Self { bucket, root, one, two, lines, disk }
    }

    /// What the first mount did is sent, and the second hears of it.
    pub async fn tell_two(&self) {
        drain(&self.one).await;
        self.two.catch_up(self.bucket.snapshot().sequence).await.unwrap();
    }

    /// The other way around.
    pub async fn tell_one(&self) {
        drain(&self.two).await;
        self.one.catch_up(self.bucket.snapshot().sequence).await.unwrap();
    }

    /// Both send and hear everything.
    pub async fn settle(&self) {
        for _ in 0..3 {
            self.tell_one().await;
            self.tell_two().await;
        }
        for cache in [&self.one, &self.two] {
            assert_eq!(cache.status().pending_operations, 0);
        }
    }

    /// The process of the second mount dies, and another one goes on.
    pub async fn two_dies(&mut self) {
        let left = self.disk.kill();
        self.lines.cut_off(true);
        self.two.close().await.unwrap();
        self.lines.cut_off(false);
        self.disk = left;
        self.two = open_two(&self.disk, &self.lines, &self.root).await;
    }

    /// The second mount ends in order, and begins anew.
    pub async fn two_begins_anew(&mut self) {
        self.two.close().await.unwrap();
        self.two = open_two(&self.disk, &self.lines, &self.root).await;
    }

    pub async fn close(self) {
        self.one.close().await.unwrap();
        self.two.close().await.unwrap();
    }
}

async fn open_two(disk: &MemoryDisk, lines: &Arc<Lines>, root: &Root) -> Cache {
    let boot = BootId([1; 16]);
    let two = Cache::open_on(Arc::new(disk.clone()), boot, lines.clone(), root.clone(), plain()).await.unwrap();
    // From here on it hears of single changes.
    two.catch_up(0).await.unwrap();
    two
}

pub async fn link(cache: &Cache, directory: InodeId, text: &str, inode: InodeId) {
    let name = name(text);
    cache.transact(|tx| tx.set_entry(directory, &name, Some(inode))).await.unwrap();
}

/// After this the journal knows the inode by its name.
pub async fn change_mode(cache: &Cache, inode: InodeId, mode: u32) {
    let change = |tx: &mut strewn_cache::Transaction<'_>| {
        let attributes = tx.attributes(inode)?;
        tx.set_attributes(inode, Attributes { mode, ..attributes })
    };
    cache.transact(change).await.unwrap();
}

pub async fn links(cache: &Cache, inode: InodeId) -> u32 {
    cache.transact(|tx| tx.nlink(inode)).await.unwrap()
}
