//! A mount with a long queue serves at once, and goes on uploading what is sealed already.

mod common;

use common::*;
use std::collections::BTreeSet;
use std::time::Instant;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Root};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;

/// Each is two operations: a name and an inode.
const FILES: usize = 5_000;
/// Every so-many-th file is too large to be inline.
const LARGE_EVERY: usize = 500;

fn bytes(number: usize) -> Vec<u8> {
    pattern(if number.is_multiple_of(LARGE_EVERY) { 20_000 } else { 10 }, number as u64)
}

/// A mount that made a directory with many files while the network was away.
async fn long_queue(disk: &MemoryDisk, bucket: &MemoryBucket, root: &Root) -> (Cache, InodeId) {
    let cache = open_on(disk, bucket, root, options()).await;
    let directory = create(&cache, root.inode, "d", Kind::Directory).await;
    bucket.set_unreachable(true);
    for number in 0..FILES {
        let file = create(&cache, directory, &format!("f{number}"), Kind::File).await;
        write(&cache, file, 0, &bytes(number)).await;
    }
    assert!(cache.status().pending_operations >= 10_000);
    (cache, directory)
}

/// Everything is there, and nobody was asked.
async fn check_served(cache: &Cache, bucket: &MemoryBucket, directory: InodeId) {
    let before = bucket.calls();
    let lines = cache.transact(|tx| tx.read_dir(directory, 0, usize::MAX)).await.unwrap();
    assert_eq!(lines.len(), FILES);
    assert!(cache.status().pending_operations >= 10_000);
    for number in (0..FILES).step_by(LARGE_EVERY / 2) {
        let file = lookup(cache, directory, &format!("f{number}")).await.expect("it is there");
        assert!(read_all(cache, file).await == bytes(number));
    }
    let after = bucket.calls();
    let asked =
        |calls: strewn_engine::bucket::memory::Calls| (calls.entry, calls.inode, calls.extents, calls.run_blocks);
    assert_eq!(asked(before), asked(after));
}

fn sealed(disk: &MemoryDisk) -> BTreeSet<String> {
    disk.names().into_iter().filter(|name| name.starts_with("sealed/")).collect()
}

/// Everything goes up; gives the segments of the network.
async fn drained(cache: &Cache, bucket: &MemoryBucket) -> BTreeSet<String> {
    bucket.set_unreachable(false);
    drain(cache).await;
    let snapshot = bucket.snapshot();
    assert_eq!((snapshot.entries.len(), cache.status().conflicts), (FILES + 1, 0));
    snapshot.segments.iter().map(|(id, ..)| format!("sealed/{id}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pending_changes_are_there_at_once_after_a_crash() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let (cache, directory) = long_queue(&disk, &bucket, &root).await;
    // A batch counts once the journal says so, which it does before the file of the next one is written.
    let a_batch = async {
        while blobs(&disk) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, a_batch).await.expect("in time");
    let left = disk.kill();
    cache.close().await.unwrap();
    let before = sealed(&left);
    let started = Instant::now();
    let cache = open_on(&left, &bucket, &root, options()).await;
    check_served(&cache, &bucket, directory).await;
    println!("opened and shown after a crash in {:?}", started.elapsed());
    // What was only being sealed is sealed anew.
    let there = drained(&cache, &bucket).await;
    assert!(!there.is_disjoint(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pending_changes_are_there_at_once_after_an_unmount() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let (cache, directory) = long_queue(&disk, &bucket, &root).await;
    cache.cut().await.unwrap();
    let all_batches = async {
        while cache.status().queued_cuts as usize > blobs(&disk) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_batches).await.expect("in time");
    cache.close().await.unwrap();
    let before = sealed(&disk);
    let started = Instant::now();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    check_served(&cache, &bucket, directory).await;
    println!("opened and shown after an unmount in {:?}", started.elapsed());
    // Nothing is encrypted again: the segments sealed before are the ones that go up.
    let there = drained(&cache, &bucket).await;
    assert!(!before.is_empty() && before.is_subset(&there));
}

/// Batches on the disk; one blob says whose directory it is.
fn blobs(disk: &MemoryDisk) -> usize {
    disk.names().iter().filter(|name| name.starts_with("blobs/") && !name.ends_with(".new")).count() - 1
}
