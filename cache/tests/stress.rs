//! Many writers and readers at once, with cuts at any moment.

mod common;

use common::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Options, Position};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

const WRITERS: u64 = 4;
const ROUNDS: usize = 120;
const STRETCH: u64 = 150_000;

/// Writes its own stretch of a shared file and a file of its own; checks what it reads after every write.
async fn writer(cache: Cache, shared: InodeId, root: InodeId, number: u64) -> (Vec<u8>, String, Vec<u8>) {
    let mut random = ChaCha8Rng::seed_from_u64(number);
    let (mut mine, mut own) = (vec![0u8; STRETCH as usize], Vec::new());
    let mut path = format!("own{number}");
    let file = create(&cache, root, &path, Kind::File).await;
    cache.transact(|tx| tx.pin(file)).await.expect("pin");
    for round in 0..ROUNDS {
        let length = random.random_range(1..60_000u64);
        let bytes = pattern(length as usize, random.next_u64());
        let at = random.random_range(0..STRETCH - length.min(STRETCH - 1));
        let end = (at + length).min(STRETCH);
        let part = &bytes[..(end - at) as usize];
        write(&cache, shared, number * STRETCH + at, part).await;
        mine[at as usize..end as usize].copy_from_slice(part);
        let found = cache.read(shared, number * STRETCH + at, part.len()).await.expect("read");
        assert!(found == part, "writer {number}, round {round}");
        if random.random_range(0..10) == 0 {
            resize(&cache, file, 0).await;
            own.clear();
        }
        cache.write(file, Position::End, part, |_| {}).await.expect("append");
        own.extend_from_slice(part);
        if random.random_range(0..8) == 0 {
            cache.sync(file, false).await.expect("sync");
            let new = format!("own{number}-{round}");
            rename(&cache, root, &path, root, &new).await;
            path = new;
        }
        assert!(read_all(&cache, file).await == own, "writer {number}, round {round}");
    }
    (mine, path, own)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_cuts_do_not_disturb_each_other() {
    let (bucket, root) = bucket(128 << 10);
    let disk = MemoryDisk::new();
    let options = Options { cut_idle: Duration::ZERO, cut_bytes: 100_000, budget: 500_000, ..options() };
    let cache = open_on(&disk, &bucket, &root, options.clone()).await;
    let shared = create(&cache, root.inode, "shared", Kind::File).await;
    resize(&cache, shared, WRITERS * STRETCH).await;
    let writers = (0..WRITERS).map(|number| tokio::spawn(writer(cache.clone(), shared, root.inode, number)));
    let mut expected = Vec::new();
    let mut own = Vec::new();
    for handle in writers.collect::<Vec<_>>() {
        let (mine, path, bytes) = handle.await.expect("a writer");
        expected.extend(mine);
        own.push((path, bytes));
    }
    assert!(read_all(&cache, shared).await == expected);
    // The process dies; what the network did for it it did before. Another one goes on, and then a fresh machine.
    bucket.set_unreachable(true);
    let killed = disk.kill();
    cache.close().await.expect("close");
    bucket.set_unreachable(false);
    for disk in [killed, MemoryDisk::new()] {
        let cache = open_on(&disk, &bucket, &root, options.clone()).await;
        assert_eq!(lookup(&cache, root.inode, "shared").await, Some(shared));
        assert!(read_all(&cache, shared).await == expected);
        for (path, bytes) in &own {
            let file = lookup(&cache, root.inode, path).await.expect("a writer's file");
            assert!(read_all(&cache, file).await == *bytes, "{path}");
        }
        drain(&cache).await;
        let status = cache.status();
        assert_eq!((status.pending_bytes, status.pending_operations, status.conflicts), (0, 0, 0), "{status:?}");
        cache.close().await.expect("close");
    }
}
