//! Overwriting what a cut took and has not sealed yet.

mod common;

use common::*;
use std::sync::Arc;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Root};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;

const LENGTH: usize = 400_000;

/// A cache with a file, and a first cut of it that cannot go on.
async fn sealing(length: usize) -> (MemoryDisk, MemoryBucket, Root, Cache, InodeId, Vec<u8>) {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "file", Kind::File).await;
    let bytes = pattern(length, 1);
    write(&cache, file, 0, &bytes).await;
    disk.hold_syncs_below("sealed/");
    assert!(cache.cut().await.unwrap());
    while disk.syncs_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    (disk, bucket, root, cache, file, bytes)
}

/// What the network has of the file.
async fn there(bucket: &MemoryBucket, root: &Root, file: InodeId) -> Vec<u8> {
    let reader = open_on(&MemoryDisk::new(), &bucket.fork(), root, options()).await;
    assert_eq!(lookup(&reader, root.inode, "file").await, Some(file));
    let bytes = read_all(&reader, file).await;
    reader.close().await.unwrap();
    bytes
}

/// Waits until so many more batches were committed; more do not follow by themselves.
async fn committed(bucket: &MemoryBucket, batches: u64) {
    while bucket.snapshot().sequence < batches {
        tokio::task::yield_now().await;
    }
    assert_eq!(bucket.snapshot().sequence, batches);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_to_overwrite_and_every_cut_is_of_its_moment() {
    let (disk, bucket, root, cache, file, mut bytes) = sealing(LENGTH).await;
    let before = bucket.snapshot().sequence;
    write(&cache, file, 100_000, &pattern(50_000, 2)).await;
    bytes[100_000..150_000].copy_from_slice(&pattern(50_000, 2));
    assert!(cache.cut().await.unwrap(), "the second one waits for the first");
    let second = bytes.clone();
    for (offset, length) in [(120_000, 80_000), (90_000, 20_000), (120_001, 3), (90_000, 60_000)] {
        write(&cache, file, offset, &pattern(length, offset)).await;
        bytes[offset as usize..offset as usize + length].copy_from_slice(&pattern(length, offset));
        assert!(read_all(&cache, file).await == bytes);
    }
    disk.release_syncs();
    committed(&bucket, before + 2).await;
    assert!(there(&bucket, &root, file).await == second);
    drain(&cache).await;
    assert!(there(&bucket, &root, file).await == bytes);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_begins_anew_leaves_the_cut_its_bytes() {
    let (disk, bucket, root, cache, file, bytes) = sealing(LENGTH).await;
    let before = bucket.snapshot().sequence;
    cache.transact(|tx| tx.resize(file, 0)).await.unwrap();
    for seed in 3..6 {
        write(&cache, file, 0, &pattern(LENGTH / 2, seed)).await;
    }
    disk.release_syncs();
    committed(&bucket, before + 1).await;
    assert!(there(&bucket, &root, file).await == bytes);
    drain(&cache).await;
    assert!(there(&bucket, &root, file).await == pattern(LENGTH / 2, 5));
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_overwrites_too_much_waits() {
    let (disk, bucket, root, cache, file, bytes) = sealing(17 << 20).await;
    let before = bucket.snapshot().sequence;
    let new = Arc::new(pattern(17 << 20, 2));
    let overwrites = tokio::spawn({
        let (cache, new) = (cache.clone(), new.clone());
        async move { write(&cache, file, 0, &new).await }
    });
    // A little of it needs no waiting, before or while the other does.
    write(&cache, file, 5, b"little").await;
    assert!(!overwrites.is_finished());
    disk.release_syncs();
    overwrites.await.unwrap();
    committed(&bucket, before + 1).await;
    assert!(there(&bucket, &root, file).await == bytes);
    drain(&cache).await;
    assert!(there(&bucket, &root, file).await == **new);
    cache.close().await.unwrap();
}
