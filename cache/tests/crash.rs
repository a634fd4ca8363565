//! What survives a power cut, and large files.

mod common;

use common::lines::Lines;
use common::*;
use std::sync::Arc;
use strewn_cache::disk::{Disk, MemoryDisk};
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Root, Seek};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::content::WINDOW;
use strewn_engine::ids::InodeId;

/// Images of a disk after a power cut that are tried.
const IMAGES: u64 = 24;

/// A file has these bytes after whatever a power cut leaves of a disk.
async fn survives_a_power_cut(disk: &MemoryDisk, bucket: &MemoryBucket, root: &Root, file: InodeId, bytes: &[u8]) {
    for seed in 0..IMAGES {
        let cache = open_in(&disk.crash(seed), 2, bucket, root, options()).await;
        assert!(read_all(&cache, file).await == bytes, "image {seed}");
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_survives_a_power_cut() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let large = create(&cache, root.inode, "large", Kind::File).await;
    let bytes = pattern(400_000, 1);
    write(&cache, large, 0, &bytes).await;
    cache.sync(large, false).await.unwrap();
    let small = create(&cache, root.inode, "small", Kind::File).await;
    write(&cache, small, 0, b"synced").await;
    rename(&cache, root.inode, "small", root.inode, "renamed").await;
    cache.sync(small, true).await.unwrap();
    // Not synced: may be there or not, whole or in part.
    write(&cache, large, 100_000, &pattern(50_000, 2)).await;
    let image = disk.clone();
    for seed in 0..IMAGES {
        let left = image.crash(seed);
        bucket.set_unreachable(true);
        let cache = open_in(&left, 2, &bucket, &root, options()).await;
        bucket.set_unreachable(false);
        assert_eq!(lookup(&cache, root.inode, "small").await, None);
        assert!(read_all(&cache, lookup(&cache, root.inode, "renamed").await.unwrap()).await == b"synced");
        let found = read_all(&cache, large).await;
        assert!(found[..100_000] == bytes[..100_000] && found[150_000..] == bytes[150_000..], "image {seed}");
        cache.close().await.unwrap();
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_synced_is_old_or_new_and_never_zeros() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let old = create(&cache, root.inode, "old", Kind::File).await;
    let before = vec![b'o'; 300_000];
    write(&cache, old, 0, &before).await;
    drain(&cache).await;
    // In the data file alone, with its record made durable by the sync of another file.
    write(&cache, old, 0, &vec![b'n'; 300_000]).await;
    let new = create(&cache, root.inode, "new", Kind::File).await;
    write(&cache, new, 0, &vec![b'n'; 300_000]).await;
    let other = create(&cache, root.inode, "other", Kind::File).await;
    cache.sync(other, false).await.unwrap();
    for seed in 0..IMAGES {
        let left = disk.crash(seed);
        let cache = open_in(&left, 2, &bucket, &root, options()).await;
        for name in ["old", "new", "other"] {
            let Some(file) = lookup(&cache, root.inode, name).await else {
                panic!("image {seed}: {name} was synced with the journal");
            };
            let found = read_all(&cache, file).await;
            assert!(!found.contains(&0), "image {seed}: zeros in {name}");
            assert!(name != "old" || found.len() == before.len(), "image {seed}");
        }
        // What the recovery decided holds when it is killed and opened once more.
        let shown = picture(&cache).await;
        let again = left.kill();
        cache.close().await.unwrap();
        let cache = open_in(&again, 2, &bucket, &root, options()).await;
        assert!(picture(&cache).await == shown, "image {seed}");
        cache.close().await.unwrap();
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_sealed_survives_a_power_cut() {
    let (bucket, root) = bucket(256 << 10);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, impatient()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    let bytes = pattern(900_000, 5);
    write(&cache, file, 0, &bytes).await;
    bucket.set_unreachable(true);
    assert!(cache.drain(|_| {}).await.is_err());
    cache.sync_all().await.unwrap();
    for seed in 0..8 {
        let left = disk.crash(seed);
        let cache = open_in(&left, 2, &bucket, &root, options()).await;
        assert_eq!(cache.status().queued_cuts, 1);
        assert!(read_all(&cache, file).await == bytes, "image {seed}: read from the sealed segments");
        cache.close().await.unwrap();
    }
    bucket.set_unreachable(false);
    drain(&cache).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_waits_for_the_sync_of_the_same_file_that_is_under_way() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    let bytes = pattern(100_000, 1);
    write(&cache, file, 0, &bytes).await;
    disk.hold_syncs_below("data/");
    let first = tokio::spawn({
        let cache = cache.clone();
        async move { cache.sync(file, false).await }
    });
    while disk.syncs_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    // It waits for more than the journal.
    let others = async {
        cache.sync(root.inode, false).await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    let second = cache.sync(file, false);
    let mut second = std::pin::pin!(second);
    let waits = tokio::select! {
        biased;
        _ = &mut second => false,
        () = others => true,
    };
    disk.release_syncs();
    assert!(waits, "acknowledged while the bytes are not on the disk");
    second.await.unwrap();
    first.await.unwrap().unwrap();
    survives_a_power_cut(&disk, &bucket, &root, file, &bytes).await;
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_wrote_and_the_next_one_synced_survives_a_power_cut() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    let bytes = pattern(100_000, 1);
    write(&cache, file, 0, &bytes).await;
    let left = disk.kill();
    cache.close().await.unwrap();
    let cache = open_on(&left, &bucket, &root, options()).await;
    cache.sync(file, false).await.unwrap();
    survives_a_power_cut(&left, &bucket, &root, file, &bytes).await;
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_seen_of_the_last_write_of_a_killed_process_can_be_synced() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "file", Kind::File).await;
    write(&cache, file, 0, &pattern(400_000, 1)).await;
    cache.sync(file, false).await.unwrap();
    let killed = disk.kill();
    cache.close().await.unwrap();
    // It was killed when its bytes were in the data file, and nothing else was.
    let data = killed.names().into_iter().find(|name| name.starts_with("data/")).expect("a data file");
    killed.open(&data).unwrap().write_at(100_000, &[&pattern(50_000, 2)]).unwrap();
    let cache = open_on(&killed, &bucket, &root, options()).await;
    let seen = read_all(&cache, file).await;
    cache.sync(file, false).await.unwrap();
    survives_a_power_cut(&killed, &bucket, &root, file, &seen).await;
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_network_has_was_on_the_disk_before() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    write(&cache, file, 0, &pattern(100_000, 1)).await;
    drain(&cache).await;
    write(&cache, file, 50_000, &pattern(100_000, 2)).await;
    rename(&cache, root.inode, "f", root.inode, "g").await;
    drain(&cache).await;
    let shown = picture(&cache).await;
    for seed in 0..IMAGES {
        // At once, before the regular sync of the journal.
        let network = bucket.fork();
        let cache = open_in(&disk.crash(seed), 2, &network, &root, options()).await;
        assert!(picture(&cache).await == shown, "image {seed}");
        drain(&cache).await;
        assert_eq!(cache.status().conflicts, 0, "image {seed}");
        assert!(picture(&cache).await == shown, "image {seed}");
        cache.close().await.unwrap();
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_lost_a_write_does_not_grow_into_zeros() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    write(&cache, file, 0, &[b'a'; 50_000]).await;
    cache.sync(file, false).await.unwrap();
    write(&cache, file, 50_000, &[b'b'; 100_000]).await;
    resize(&cache, file, 120_000).await;
    cache.sync(root.inode, false).await.unwrap();
    for seed in 0..IMAGES {
        let cache = open_in(&disk.crash(seed), 2, &bucket, &root, options()).await;
        let found = read_all(&cache, file).await;
        assert!([50_000, 120_000].contains(&found.len()) && !found.contains(&0), "image {seed}");
        cache.close().await.unwrap();
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_a_killed_process_that_nothing_is_left_of_hides_no_later_one() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let (short, over) = (
        create(&cache, root.inode, "cut short", Kind::File).await,
        create(&cache, root.inode, "overwritten", Kind::File).await,
    );
    write(&cache, short, 0, &[b'a'; 1_000]).await;
    write(&cache, short, 1_000, &[b'b'; 100_000]).await;
    resize(&cache, short, 1_000).await;
    write(&cache, over, 0, &[b'b'; 100_000]).await;
    for offset in (0..100_000).step_by(20_000) {
        write(&cache, over, offset, &[b'a'; 20_000]).await;
    }
    let left = disk.kill();
    cache.close().await.unwrap();
    let cache = open_on(&left, &bucket, &root, options()).await;
    for file in [short, over] {
        write(&cache, file, 500, b"synced").await;
        cache.sync(file, false).await.unwrap();
    }
    for seed in 0..IMAGES {
        let cache = open_in(&left.crash(seed), 2, &bucket, &root, options()).await;
        for (file, length) in [(short, 1_000), (over, 100_000)] {
            let found = read_all(&cache, file).await;
            assert!(found.len() == length && found[500..506] == *b"synced", "image {seed}");
        }
        cache.close().await.unwrap();
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_that_a_write_set_survives_though_its_bytes_are_gone() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    let written = cache.write(file, strewn_cache::Position::At(0), &[1; 100_000], |attributes| {
        (attributes.mode, attributes.mtime) = (0o700, now(9_000));
    });
    written.await.unwrap();
    resize(&cache, file, 0).await;
    cache.sync(file, false).await.unwrap();
    for seed in 0..IMAGES {
        let cache = open_in(&disk.crash(seed), 2, &bucket, &root, options()).await;
        let found = cache.transact(|tx| tx.attributes(file)).await.unwrap();
        assert_eq!((found.mode, found.mtime, found.size), (0o700, now(9_000), 0), "image {seed}");
        cache.close().await.unwrap();
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_changes_than_a_batch_holds_go_up_in_parts_after_a_crash() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    // Cuts are taken, but none becomes a batch.
    disk.hold_syncs_below("blobs/");
    let first = create(&cache, root.inode, "first", Kind::File).await;
    write(&cache, first, 0, &[b'a'; 100_000]).await;
    for number in 0..2_300 {
        create(&cache, root.inode, &format!("f{number}"), Kind::File).await;
    }
    let last = create(&cache, root.inode, "last", Kind::File).await;
    write(&cache, last, 0, &[b'b'; 100_000]).await;
    let left = disk.kill();
    disk.release_syncs();
    bucket.set_unreachable(true);
    cache.close().await.unwrap();
    let cache = open_on(&left, &bucket, &root, options()).await;
    assert!(cache.status().pending_operations > strewn_engine::bucket::MAX_OPERATIONS as u64);
    assert!(cache.cut().await.unwrap());
    cache.sync(root.inode, false).await.unwrap();
    for seed in 0..4 {
        let cache = open_in(&left.crash(seed), 2, &bucket, &root, options()).await;
        for (file, byte) in [(first, b'a'), (last, b'b')] {
            assert!(read_all(&cache, file).await == vec![byte; 100_000], "image {seed}");
        }
        cache.close().await.unwrap();
    }
    bucket.set_unreachable(false);
    drain(&cache).await;
    assert!(bucket.snapshot().sequence > 1);
    let there = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let found = picture(&there).await;
    assert_eq!(found.len(), 2_302);
    assert!(found["/first"].3 == [b'a'; 100_000] && found["/last"].3 == [b'b'; 100_000]);
}

fn impatient() -> strewn_cache::Options {
    strewn_cache::Options { deadline: std::time::Duration::from_millis(300), ..options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_sparse_file_over_several_windows() {
    let (bucket, root) = bucket(256 << 10);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "sparse", Kind::File).await;
    let at_border = pattern(700_000, 1);
    write(&cache, file, WINDOW - 300_000, &at_border).await;
    write(&cache, file, 5 * WINDOW + 17, b"far away").await;
    drain(&cache).await;
    // A second cut touches one window, a third cuts the file short in another.
    write(&cache, file, WINDOW + 10, b"second").await;
    drain(&cache).await;
    let there = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let found = lookup(&there, root.inode, "sparse").await.unwrap();
    let mut expected = at_border.clone();
    expected[300_010..300_016].copy_from_slice(b"second");
    assert!(there.read(found, WINDOW - 300_000, 700_000).await.unwrap() == expected);
    assert!(there.read(found, 5 * WINDOW, 100).await.unwrap()[17..] == *b"far away");
    assert_eq!(there.seek(found, 0, Seek::Data).await.unwrap(), Some(WINDOW - 300_000));
    assert_eq!(there.seek(found, WINDOW + 400_000, Seek::Data).await.unwrap(), Some(5 * WINDOW + 17));
    there.close().await.unwrap();
    resize(&cache, file, WINDOW + 5).await;
    resize(&cache, file, 6 * WINDOW).await;
    drain(&cache).await;
    let there = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let found = lookup(&there, root.inode, "sparse").await.unwrap();
    assert!(there.read(found, WINDOW - 300_000, 300_005).await.unwrap() == expected[..300_005]);
    assert_eq!(there.seek(found, WINDOW + 5, Seek::Data).await.unwrap(), None);
    assert!(there.read(found, 5 * WINDOW, 100).await.unwrap().iter().all(|byte| *byte == 0));
}

/// A file that was removed while it is open gets a name of the root until it is closed; a cut that was not made before the
/// crash gave it none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_only_about_to_get_a_name_has_none() {
    for closed in [false, true] {
        let (bucket, root) = bucket(1 << 20);
        let first = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
        let file = create(&first, root.inode, "file", Kind::File).await;
        write(&first, file, 0, &pattern(400_000, 1)).await;
        drain(&first).await;
        first.close().await.unwrap();
        let disk = MemoryDisk::new();
        let cache = open_on(&disk, &bucket, &root, options()).await;
        assert_eq!(hold(&cache, root.inode, "file").await, Some(file));
        unlink(&cache, root.inode, "file").await;
        disk.hold_syncs_below("blobs/");
        assert!(cache.cut().await.unwrap());
        while disk.syncs_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        if closed {
            let_go(&cache, file).await;
        }
        let left = disk.kill();
        let lines = Arc::new(Lines::new(bucket.fork()));
        disk.release_syncs();
        cache.close().await.unwrap();

        let (disk, boot) = (Arc::new(left), BootId([1; 16]));
        let cache = Cache::open_on(disk, boot, lines.clone(), root.clone(), options()).await.unwrap();
        drain(&cache).await;
        // The first is not refused.
        assert_eq!(lines.commits(), 1, "closed: {closed}");
        let found = picture(&cache).await;
        assert!(found.is_empty(), "{found:?}, closed: {closed}");
        cache.close().await.unwrap();
    }
}
