//! What goes in comes out: here, after a crash, and from the network alone.

mod common;

use common::*;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::disk::{Disk, MemoryDisk};
use strewn_cache::{Cache, Error, FileState, Listener, Options, Position, Root, Seek};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::plan::InodeRow;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_tree_reaches_the_network_and_another_cache() {
    let (bucket, root) = bucket(64 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open(here.path(), &bucket, &root, options()).await;
    let directory = create(&cache, root.inode, "d", Kind::Directory).await;
    let small = create(&cache, directory, "small", Kind::File).await;
    write(&cache, small, 0, b"hello").await;
    let large = create(&cache, directory, "large", Kind::File).await;
    let bytes = pattern(300_000, 1);
    write(&cache, large, 0, &bytes).await;
    write(&cache, large, 1_000_000, b"end").await;
    create(&cache, root.inode, "link", Kind::Symlink).await;
    let before = picture(&cache).await;
    assert_eq!(before["/d/small"].3, b"hello");
    drain(&cache).await;
    assert!(picture(&cache).await == before);

    let there = tempfile::tempdir().unwrap();
    let other = open(there.path(), &bucket, &root, options()).await;
    assert!(picture(&other).await == before);
    let found = lookup(&other, directory, "large").await.unwrap();
    assert_eq!(other.seek(found, 300_000, Seek::Data).await.unwrap(), Some(1_000_000));
    assert_eq!(other.seek(found, 0, Seek::Hole).await.unwrap(), Some(300_000));
    assert_eq!(other.seek(found, 1_000_003, Seek::Data).await.unwrap(), None);
    cache.close().await.unwrap();
    other.close().await.unwrap();
}

/// What is copied in small steps is written once, and as durable as anything after its fsync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_of_small_writes_is_not_journaled_and_survives_a_power_cut() {
    const BYTES: usize = 8 << 20;
    let (bucket, root) = bucket(64 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    let bytes = [0xa7; 32 << 10];
    for offset in (0..BYTES).step_by(bytes.len()) {
        write(&cache, file, offset as u64, &bytes).await;
    }
    cache.sync(file, false).await.unwrap();
    let mut journaled = 0;
    for listed in disk.list("journal").unwrap() {
        let mut content = vec![0; listed.length as usize];
        disk.open(&format!("journal/{}", listed.name)).unwrap().read_at(0, &mut content).unwrap();
        journaled += content.iter().filter(|byte| **byte == 0xa7).count();
    }
    assert!(journaled < BYTES / 4, "{journaled}");
    for seed in 0..5 {
        let cache = open_in(&disk.crash(seed), 2, &bucket, &root, options()).await;
        let file = lookup(&cache, root.inode, "f").await.unwrap();
        assert!(read_all(&cache, file).await == [0xa7; BYTES]);
        cache.close().await.unwrap();
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_process_dies() {
    let (bucket, root) = bucket(64 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    write(&cache, file, 0, &pattern(500_000, 3)).await;
    drain(&cache).await;
    write(&cache, file, 100, b"changed").await;
    write(&cache, file, 450_000, &pattern(100_000, 4)).await;
    punch(&cache, file, 200_000, 50_000).await;
    rename(&cache, root.inode, "f", root.inode, "g").await;
    create(&cache, root.inode, "new", Kind::Directory).await;
    let before = picture(&cache).await;
    let left = disk.kill();
    cache.close().await.unwrap();
    let cache = open_on(&left, &bucket, &root, options()).await;
    assert!(picture(&cache).await == before);
    drain(&cache).await;
    assert!(picture(&cache).await == before);
    cache.close().await.unwrap();
    let there = tempfile::tempdir().unwrap();
    let other = open(there.path(), &bucket, &root, options()).await;
    assert!(picture(&other).await == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_to_the_end_and_say_where() {
    let (bucket, root) = bucket(64 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open(here.path(), &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "log", Kind::File).await;
    let mut expected = Vec::new();
    for round in 0..40 {
        let line = pattern(3_000, round);
        let written = cache.write(file, Position::End, &line, |a| a.mtime = now(round as i64)).await.unwrap();
        assert_eq!(written.offset as usize, expected.len());
        expected.extend_from_slice(&line);
        assert_eq!(written.size as usize, expected.len());
    }
    assert!(read_all(&cache, file).await == expected);
    assert_eq!(cache.transact(|tx| tx.attributes(file)).await.unwrap().mtime, now(39));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_file_renamed_over_its_target_leaves_no_trace() {
    let (bucket, root) = bucket(64 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open(here.path(), &bucket, &root, options()).await;
    let target = create(&cache, root.inode, "target", Kind::File).await;
    write(&cache, target, 0, b"old").await;
    drain(&cache).await;
    let before = bucket.calls();
    let entries = bucket.snapshot().entries.len();
    let temporary = create(&cache, root.inode, ".target.tmp", Kind::File).await;
    write(&cache, temporary, 0, b"new").await;
    rename(&cache, root.inode, ".target.tmp", root.inode, "target").await;
    let scratch = create(&cache, root.inode, "scratch", Kind::File).await;
    write(&cache, scratch, 0, &pattern(200_000, 1)).await;
    unlink(&cache, root.inode, "scratch").await;
    drain(&cache).await;
    let after = bucket.calls();
    assert_eq!(after.commit - before.commit, 1);
    assert_eq!(after.put_segment, before.put_segment, "the scratch file never left");
    let snapshot = bucket.snapshot();
    assert_eq!(snapshot.entries.len(), entries);
    assert_eq!(snapshot.bytes, 3);
    // Made and removed again: nothing but the directory's new times is sent.
    create(&cache, root.inode, "x", Kind::File).await;
    unlink(&cache, root.inode, "x").await;
    drain(&cache).await;
    let last = bucket.snapshot();
    assert_eq!((last.entries, last.extents), (snapshot.entries, snapshot.extents));
    let put = |inodes: &[InodeRow]| inodes.iter().map(|row| row.inode.version).sum::<u64>();
    assert_eq!(put(&last.inodes), put(&snapshot.inodes) + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_file_without_a_name_stays_readable_until_it_is_closed() {
    let (bucket, root) = bucket(64 << 20);
    let one = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = create(&one, root.inode, "f", Kind::File).await;
    let bytes = pattern(300_000, 1);
    write(&one, file, 0, &bytes).await;
    drain(&one).await;
    one.close().await.unwrap();
    // Nothing of it is here when it loses its name.
    let disk = MemoryDisk::new();
    let two = open_on(&disk, &bucket, &root, options()).await;
    assert_eq!(lookup(&two, root.inode, "f").await, Some(file));
    two.transact(|tx| tx.pin(file)).await.unwrap();
    unlink(&two, root.inode, "f").await;
    drain(&two).await;
    assert_eq!(lookup(&two, root.inode, "f").await, None);
    assert!(two.transact(|tx| tx.read_dir(root.inode, 0, 10)).await.unwrap().is_empty());
    assert!(two.read(file, 0, 400_000).await.unwrap() == bytes);
    let killed = disk.kill();
    two.transact(|tx| {
        tx.unpin(file, 1);
        Ok(())
    })
    .await
    .unwrap();
    drain(&two).await;
    assert!(bucket.snapshot().entries.is_empty() && bucket.snapshot().bytes == 0);
    two.close().await.unwrap();
    // A process that died with the file open gives it up at the next start.
    let three = open_on(&killed, &bucket, &root, options()).await;
    drain(&three).await;
    assert!(bucket.snapshot().entries.is_empty());
    assert_eq!(three.status().conflicts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_cache_gives_its_directory_to_the_next() {
    let (bucket, root) = bucket(64 << 20);
    let here = tempfile::tempdir().unwrap();
    let first = open(here.path(), &bucket, &root, options()).await;
    let file = create(&first, root.inode, "f", Kind::File).await;
    write(&first, file, 0, &pattern(200_000, 1)).await;
    let again = Cache::open(here.path(), Arc::new(bucket.clone()), root.clone(), options()).await;
    assert!(matches!(again, Err(Error::Disk(_))), "one mount per directory");
    first.close().await.unwrap();
    assert!(matches!(first.read(file, 0, 1).await, Err(Error::Closed)));
    let second = open(here.path(), &bucket, &root, options()).await;
    assert!(read_all(&second, file).await == pattern(200_000, 1));
    second.close().await.unwrap();
    let (_, other) = common::bucket(64 << 20);
    let foreign = Root { inode: strewn_engine::ids::InodeId::from_bytes([1; 16]), ..other };
    let opened = Cache::open(here.path(), Arc::new(bucket.clone()), foreign, options()).await;
    assert!(matches!(opened, Err(Error::Disk(_))), "it belongs to another root");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_files_than_memory_has_room_for() {
    let (bucket, root) = bucket(64 << 20);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    for number in 0..300 {
        let file = create(&cache, root.inode, &format!("f{number}"), Kind::File).await;
        write(&cache, file, 0, format!("bytes of {number}").as_bytes()).await;
    }
    drain(&cache).await;
    let tight = Options { memory: 30_000, budget: 1_000_000, ..options() };
    let other = open_on(&MemoryDisk::new(), &bucket, &root, tight).await;
    let mut seen = 0;
    let mut after = 0;
    loop {
        let lines = other.transact(|tx| tx.read_dir(root.inode, after, 20)).await.unwrap();
        let Some(last) = lines.last() else { break };
        after = last.cookie;
        for line in &lines {
            let text = line.name.to_string();
            assert_eq!(hold(&other, root.inode, &text).await, Some(line.inode));
            assert_eq!(read_all(&other, line.inode).await, format!("bytes of {}", &text[1..]).into_bytes());
            let_go(&other, line.inode).await;
        }
        seen += lines.len();
    }
    assert_eq!(seen, 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_open_file_is_told_once_that_the_network_refuses_it() {
    let (bucket, root) = bucket(64 << 20);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    bucket.set_quota(Some(10));
    let file = create(&cache, root.inode, "f", Kind::File).await;
    write(&cache, file, 0, b"more than ten bytes").await;
    assert!(cache.drain(|_| {}).await.is_err());
    cache.sync(file, false).await.unwrap();
    let status = cache.status();
    assert!(status.failed_files == 1 && status.last_error.contains("quota"), "{status:?}");
    assert!(matches!(cache.file_state(file), FileState::Failed(why) if why.contains("quota")));
    let told = |handle| cache.failure(file, Listener { handle, closer: None });
    assert!(matches!(told(1), Some(Error::Network(strewn_engine::bucket::Error::Quota(_)))));
    assert!(told(1).is_none() && told(2).is_some(), "once each");
    // It is tried again for ever, and passes when the network changes its mind.
    bucket.set_quota(None);
    drain(&cache).await;
    assert!(told(3).is_none());
    assert_eq!((cache.status().failed_files, cache.file_state(file)), (0, FileState::Committed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_tells_how_far_it_is_and_how_it_is_stored() {
    let (bucket, root) = bucket(64 << 10);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let small = create(&cache, root.inode, "small", Kind::File).await;
    let large = create(&cache, root.inode, "large", Kind::File).await;
    write(&cache, small, 0, b"inline").await;
    write(&cache, large, 0, &pattern(200_000, 1)).await;
    assert_eq!(cache.file_state(small), FileState::Pending);
    assert!(!cache.stored(large, 10).await.unwrap().is_there, "the network knows nothing of it");
    bucket.set_unreachable(true);
    let impatient = Duration::from_millis(1);
    assert!(cache.drain_within(impatient, |_| {}).await.is_err());
    assert_eq!((cache.file_state(small), cache.file_state(large)), (FileState::Uploading, FileState::Uploading));
    bucket.set_unreachable(false);
    write(&cache, small, 0, b"INLINE").await;
    rename(&cache, root.inode, "large", root.inode, "renamed").await;
    assert_eq!((cache.file_state(small), cache.file_state(large)), (FileState::Pending, FileState::Pending));
    drain(&cache).await;
    assert_eq!((cache.file_state(small), cache.file_state(large)), (FileState::Committed, FileState::Committed));
    let stored = cache.stored(small, 10).await.unwrap();
    assert!(stored.is_there && stored.segments.is_empty() && !stored.more, "{stored:?}");
    let stored = cache.stored(large, 10).await.unwrap();
    assert!(stored.segments.len() == 3 && !stored.more, "{stored:?}");
    assert!(stored.segments.iter().all(|segment| (segment.pieces, segment.required) == (1, 1)));
    let some = cache.stored(large, 2).await.unwrap();
    assert!(some.segments == stored.segments[..2] && some.more, "{some:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_overwritten_for_days_stays_in_few_extents() {
    let (bucket, root) = bucket(64 << 20);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "database", Kind::File).await;
    let mut expected = pattern(1 << 20, 1);
    write(&cache, file, 0, &expected).await;
    drain(&cache).await;
    let mut most = 0;
    for round in 0..120u64 {
        let page = pattern(4_096, round);
        let at = (round * 37 % 256) * 4_096;
        write(&cache, file, at, &page).await;
        expected[at as usize..at as usize + 4_096].copy_from_slice(&page);
        drain(&cache).await;
        most = most.max(bucket.snapshot().extents.len());
    }
    assert!((50..=70).contains(&most), "{most} extents");
    let other = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = lookup(&other, root.inode, "database").await.unwrap();
    assert!(read_all(&other, file).await == expected);
}
