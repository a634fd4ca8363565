//! Two mounts change different things of one inode before they hear of each other: both changes stay, and nothing that only
//! attributes changed of becomes a conflict copy.

mod common;

use bytes::Bytes;
use common::lines::Lines;
use common::*;
use std::sync::Arc;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Root};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::lease::LEASE;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

const LENGTH: usize = 100_000;

/// A mount that can be cut off, and another one that is opened when it acts.
struct Two {
    bucket: MemoryBucket,
    root: Root,
    lines: Arc<Lines>,
    disk: MemoryDisk,
    one: Cache,
}

impl Two {
    /// With one object of this kind, which the network has and the first mount knows; the first mount is cut off then.
    async fn with(kind: Kind) -> Self {
        let (bucket, root) = bucket(1 << 20);
        let lines = Arc::new(Lines::new(bucket.clone()));
        let disk = MemoryDisk::new();
        let one = open_over(&disk, &lines, &root, options()).await;
        let object = create(&one, root.inode, "object", kind).await;
        if kind == Kind::File {
            write(&one, object, 0, &pattern(LENGTH, 1)).await;
        }
        drain(&one).await;
        picture(&one).await;
        lines.cut_off(true);
        Self { bucket, root, lines, disk, one }
    }

    async fn object(cache: &Cache, root: &Root) -> InodeId {
        lookup(cache, root.inode, "object").await.expect("it is there")
    }

    /// What the other mount does goes to the network at once.
    async fn elsewhere(&self, act: impl AsyncFnOnce(&Cache, InodeId)) {
        // Nobody waits for what the first mount may have promised.
        self.bucket.advance(LEASE);
        let two = open_on(&MemoryDisk::new(), &self.bucket, &self.root, options()).await;
        let object = Self::object(&two, &self.root).await;
        act(&two, object).await;
        drain(&two).await;
        two.close().await.expect("close");
    }

    async fn here(&self, act: impl AsyncFnOnce(&Cache, InodeId)) {
        act(&self.one, Self::object(&self.one, &self.root).await).await;
    }

    /// The process of the first mount dies and comes back.
    async fn kill(&mut self) {
        self.one.sync_all().await.expect("durable");
        let killed = self.disk.kill();
        self.disk = killed;
        self.one = open_over(&self.disk, &self.lines, &self.root, options()).await;
    }

    /// What the network has when both have heard of each other; both show the same.
    async fn settled(self) -> Picture {
        self.lines.cut_off(false);
        drain(&self.one).await;
        self.one.catch_up(self.bucket.snapshot().sequence).await.expect("news");
        let fresh = open_on(&MemoryDisk::new(), &self.bucket, &self.root, options()).await;
        let (here, there) = (picture(&self.one).await, picture(&fresh).await);
        assert!(here == there, "{:?} and {:?}", here.keys(), there.keys());
        self.one.close().await.expect("close");
        fresh.close().await.expect("close");
        there
    }
}

async fn change(cache: &Cache, inode: InodeId, how: impl Fn(&mut Attributes) + Send + Sync) {
    let changed = cache.transact(|tx| {
        let mut attributes = tx.attributes(inode)?;
        how(&mut attributes);
        tx.set_attributes(inode, attributes)
    });
    changed.await.expect("attributes");
}

fn set_xattr(attributes: &mut Attributes, name: &'static str, value: &'static str) {
    let mut xattrs = (*attributes.xattrs).clone();
    xattrs.insert(name.as_bytes().to_vec(), Bytes::from(value));
    attributes.xattrs = Arc::new(xattrs);
}

/// What the first mount changes: part of the content, with the times that go with it.
async fn write_part(cache: &Cache, file: InodeId) {
    write(cache, file, 10, b"mine").await;
    change(cache, file, |attributes| (attributes.mtime, attributes.ctime) = (now(5_000), now(5_000))).await;
}

fn with_part() -> Vec<u8> {
    let mut bytes = pattern(LENGTH, 1);
    bytes[10..14].copy_from_slice(b"mine");
    bytes
}

async fn change_mode_and_name(cache: &Cache, file: InodeId) {
    change(cache, file, |attributes| {
        (attributes.mode, attributes.ctime) = (0o600, now(6_000));
        set_xattr(attributes, "user.theirs", "1");
    })
    .await;
    let root = cache.root();
    rename(cache, root, "object", root, "renamed").await;
}

fn check_written_and_renamed(found: &Picture) {
    assert_eq!(found.keys().collect::<Vec<_>>(), ["/renamed"], "no conflict copy");
    let (attributes, _, _, bytes) = &found["/renamed"];
    assert!(*bytes == with_part(), "what was written here is there");
    assert_eq!((attributes.mode, attributes.mtime), (0o600, now(5_000)));
    assert_eq!(attributes.xattrs.len(), 1, "theirs");
}

#[tokio::test]
async fn a_file_that_got_another_mode_and_name_elsewhere_keeps_what_was_written_here() {
    let two = Two::with(Kind::File).await;
    two.here(write_part).await;
    two.elsewhere(change_mode_and_name).await;
    check_written_and_renamed(&two.settled().await);
}

#[tokio::test]
async fn so_it_does_if_a_batch_was_waiting() {
    let two = Two::with(Kind::File).await;
    two.here(write_part).await;
    assert!(two.one.cut().await.expect("a cut"));
    two.elsewhere(change_mode_and_name).await;
    check_written_and_renamed(&two.settled().await);
}

#[tokio::test]
async fn so_it_does_if_the_process_died_meanwhile() {
    for (cut, snapshot) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut two = Two::with(Kind::File).await;
        two.here(write_part).await;
        if cut {
            assert!(two.one.cut().await.expect("a cut"));
            batch_is_made(&two).await;
        }
        if snapshot {
            two.one.snapshot().await.expect("a snapshot");
        }
        two.kill().await;
        two.elsewhere(change_mode_and_name).await;
        check_written_and_renamed(&two.settled().await);
    }
}

/// Waits until what was cut is a batch.
async fn batch_is_made(two: &Two) {
    let made = async {
        while !two.disk.names().iter().any(|name| name.starts_with("blobs/")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, made).await.expect("in time");
}

#[tokio::test]
async fn a_file_that_was_written_elsewhere_gets_the_mode_from_here_and_the_times_from_there() {
    let two = Two::with(Kind::File).await;
    two.here(async |one, file| change(one, file, |attributes| attributes.mode = 0o600).await).await;
    two.elsewhere(write_part).await;
    let found = two.settled().await;
    assert_eq!(found.len(), 1, "{:?}", found.keys());
    let (attributes, _, _, bytes) = &found["/object"];
    assert!(*bytes == with_part());
    assert_eq!((attributes.mode, attributes.mtime), (0o600, now(5_000)));
}

#[tokio::test]
async fn different_attributes_are_changed_on_both_sides() {
    for kind in [Kind::File, Kind::Directory, Kind::Symlink] {
        let two = Two::with(kind).await;
        two.here(async |one, object| {
            change(one, object, |attributes| {
                attributes.uid = 7;
                set_xattr(attributes, "user.mine", "1");
                set_xattr(attributes, "user.both", "1");
            })
            .await;
        })
        .await;
        two.elsewhere(async |other, object| {
            change(other, object, |attributes| {
                attributes.gid = 8;
                set_xattr(attributes, "user.theirs", "1");
                set_xattr(attributes, "user.both", "2");
            })
            .await;
        })
        .await;
        let found = two.settled().await;
        assert_eq!(found.len(), 1, "{:?}", found.keys());
        let attributes = &found["/object"].0;
        assert_eq!((attributes.uid, attributes.gid), (7, 8), "{kind:?}");
        let xattrs: Vec<_> = attributes.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"user.both", b"1"), (b"user.mine", b"1"), (b"user.theirs", b"1")];
        assert_eq!(xattrs, expected, "{kind:?}: where both changed one, this mount wins, which came later");
    }
}

#[tokio::test]
async fn a_file_that_was_written_on_both_sides_is_there_twice() {
    let two = Two::with(Kind::File).await;
    two.here(write_part).await;
    let theirs = pattern(LENGTH, 2);
    two.elsewhere(async |other, file| {
        write(other, file, 0, &theirs).await;
        change(other, file, |attributes| attributes.mtime = now(7_000)).await;
    })
    .await;
    let found = two.settled().await;
    assert_eq!(found.len(), 2, "{:?}", found.keys());
    let (attributes, _, _, bytes) = &found["/object"];
    assert!(*bytes == theirs && attributes.mtime == now(7_000), "their content has their time");
    let (_, copy) = found.iter().find(|(path, _)| path.contains(" (conflict ")).expect("a copy");
    assert!(copy.3 == with_part() && copy.0.mtime == now(5_000));
}
