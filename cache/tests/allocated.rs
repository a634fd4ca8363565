//! How much of a file is not in holes is known without its extents: from its record, on every mount.

mod common;

use common::*;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rangemap::RangeSet;
use strewn_cache::Cache;
use strewn_cache::disk::MemoryDisk;
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::content::WINDOW;
use strewn_engine::ids::InodeId;

const MIB: u64 = 1 << 20;

async fn allocated(cache: &Cache, inode: InodeId) -> u64 {
    cache.transact(|tx| tx.allocated(inode)).await.unwrap()
}

/// As a mount without any cache sees it.
async fn cold(bucket: &MemoryBucket, root: &strewn_cache::Root, text: &str) -> u64 {
    let cache = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    let file = lookup(&cache, root.inode, text).await.unwrap();
    let allocated = allocated(&cache, file).await;
    cache.close().await.unwrap();
    allocated
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sparse_file_is_sparse_on_a_cold_mount() {
    let (bucket, root) = bucket(MIB);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    resize(&cache, file, 5 * WINDOW).await;
    write(&cache, file, 3 * WINDOW - 10, &pattern(20, 1)).await;
    write(&cache, file, 4 * WINDOW, &pattern(300_000, 2)).await;
    assert_eq!(allocated(&cache, file).await, 300_020);
    drain(&cache).await;
    assert_eq!(allocated(&cache, file).await, 300_020);
    assert_eq!(cold(&bucket, &root, "f").await, 300_020);

    // A mount that knows nothing of the extents changes it, and is killed before all of it is on the network.
    let elsewhere = MemoryDisk::new();
    let other = open_on(&elsewhere, &bucket, &root, options()).await;
    let file = lookup(&other, root.inode, "f").await.unwrap();
    write(&other, file, 4 * WINDOW + 100_000, &pattern(300_000, 3)).await;
    drain(&other).await;
    write(&other, file, 0, &pattern(5_000, 3)).await;
    assert_eq!(allocated(&other, file).await, 405_020);
    let left = elsewhere.kill();
    other.close().await.unwrap();
    let other = open_on(&left, &bucket, &root, options()).await;
    drain(&other).await;
    assert_eq!(cold(&bucket, &root, "f").await, 405_020);

    // The end goes, with windows that were never loaded by the mount that takes them away.
    let third = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = lookup(&third, root.inode, "f").await.unwrap();
    resize(&third, file, 3 * WINDOW - 5).await;
    drain(&third).await;
    assert_eq!(allocated(&third, file).await, 5_005);
    assert_eq!(cold(&bucket, &root, "f").await, 5_005);
    resize(&third, file, 0).await;
    resize(&third, file, WINDOW).await;
    drain(&third).await;
    assert_eq!(cold(&bucket, &root, "f").await, 0);
    for cache in [cache, other, third] {
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_attributes_alone_keeps_the_count() {
    let (bucket, root) = bucket(MIB);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    write(&cache, file, WINDOW, b"island").await;
    drain(&cache).await;
    let other = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = lookup(&other, root.inode, "f").await.unwrap();
    resize(&other, file, 2 * WINDOW).await;
    rename(&other, root.inode, "f", root.inode, "g").await;
    drain(&other).await;
    assert_eq!(cold(&bucket, &root, "g").await, 6);
    cache.close().await.unwrap();
    other.close().await.unwrap();
}

/// Random changes by mounts that come and go, against ranges kept here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_is_that_of_the_ranges_written() {
    for seed in 0..3 {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let (bucket, root) = bucket(MIB);
        let mut disk = MemoryDisk::new();
        let mut cache = open_on(&disk, &bucket, &root, options()).await;
        let mut file = create(&cache, root.inode, "f", Kind::File).await;
        let (mut model, mut size) = (RangeSet::new(), 0);
        for _ in 0..8 {
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..6) * (WINDOW / 2) + random.random_range(0..100_000);
                let length = random.random_range(1..50_000);
                match random.random_range(0..6) {
                    0 => {
                        punch(&cache, file, at, length).await;
                        model.remove(at..at + length);
                    }
                    1 => {
                        resize(&cache, file, at).await;
                        size = at;
                        model.remove(at..u64::MAX);
                    }
                    _ => {
                        write(&cache, file, at, &pattern(length as usize, at)).await;
                        size = size.max(at + length);
                        model.insert(at..at + length);
                    }
                }
            }
            let expected: u64 = model.iter().map(|range| range.end - range.start).sum();
            if random.random_range(0..3) == 0 {
                let left = disk.kill();
                cache.close().await.unwrap();
                disk = left;
                cache = open_on(&disk, &bucket, &root, options()).await;
                file = lookup(&cache, root.inode, "f").await.unwrap();
            }
            drain(&cache).await;
            assert_eq!(allocated(&cache, file).await, expected, "seed {seed}");
            assert_eq!(cold(&bucket, &root, "f").await, expected, "seed {seed}");
            if random.random_range(0..3) == 0 {
                cache.close().await.unwrap();
                disk = MemoryDisk::new();
                cache = open_on(&disk, &bucket, &root, options()).await;
                file = lookup(&cache, root.inode, "f").await.unwrap();
            }
        }
        cache.close().await.unwrap();
    }
}
