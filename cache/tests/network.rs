//! A network that is away, loses answers, refuses, or was changed by somebody else.

mod common;

use common::lines::Lines;
use common::*;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Error, Options, Position, Root};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::{self, Kind};
use strewn_engine::secret::Key;

fn impatient() -> Options {
    Options { deadline: Duration::from_millis(300), ..options() }
}

async fn fresh_picture(bucket: &MemoryBucket, root: &Root) -> Picture {
    let cache = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    let picture = picture(&cache).await;
    cache.close().await.unwrap();
    picture
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_goes_away_and_comes_back() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, impatient()).await;
    let kept = create(&cache, root.inode, "kept", Kind::File).await;
    write(&cache, kept, 0, &pattern(400_000, 1)).await;
    drain(&cache).await;
    picture(&cache).await;
    bucket.set_unreachable(true);
    assert!(read_all(&cache, kept).await == pattern(400_000, 1), "what is here stays readable");
    write(&cache, kept, 10, b"offline").await;
    for round in 0..20 {
        let file = create(&cache, root.inode, &format!("f{round}"), Kind::File).await;
        write(&cache, file, 0, &pattern(100_000, round)).await;
    }
    assert!(matches!(cache.drain(|_| {}).await, Err(Error::Pending(_))));
    let status = cache.status();
    assert!(!status.reachable && status.pending_files > 20 && status.pending_bytes > 2_000_000, "{status:?}");
    let before = picture(&cache).await;
    // The process dies with the queue, and another one opens it without a network.
    let left = disk.kill();
    cache.close().await.unwrap();
    let cache = open_on(&left, &bucket, &root, options()).await;
    bucket.set_unreachable(false);
    assert!(picture(&cache).await == before);
    drain(&cache).await;
    assert_eq!(cache.status().pending_operations, 0);
    assert!(fresh_picture(&bucket, &root).await == before);
}

/// More batches wait than memory holds whole: what they bring is read from where they lie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_the_network_is_read_from_disk() {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, impatient()).await;
    let grows = create(&cache, root.inode, "grows", Kind::File).await;
    write(&cache, grows, 0, b"begin").await;
    drain(&cache).await;
    picture(&cache).await;
    bucket.set_unreachable(true);
    for round in 0..8 {
        for number in 0..5 {
            let file = create(&cache, root.inode, &format!("f{round}-{number}"), Kind::File).await;
            write(&cache, file, 0, &pattern(3_000, round * 10 + number)).await;
        }
        write(&cache, grows, 5 + round * 1_000, &pattern(1_000, round)).await;
        assert!(cache.cut().await.unwrap());
        assert!(matches!(cache.drain(|_| {}).await, Err(Error::Pending(_))), "and it becomes a batch");
    }
    let before = picture(&cache).await;

    let left = disk.kill();
    cache.close().await.unwrap();
    let cache = open_on(&left, &bucket, &root, impatient()).await;
    let status = cache.status();
    assert!(status.queued_cuts >= 8, "{status:?}");
    for (path, (_, _, inode, bytes)) in before.iter().filter(|(path, _)| path.starts_with("/f")) {
        assert!(read_all(&cache, *inode).await == *bytes, "{path}");
    }
    // This needs what several batches and the network have together.
    bucket.set_unreachable(false);
    assert!(picture(&cache).await == before);
    bucket.lose_replies(1);
    write(&cache, grows, 3_500, b"over").await;
    unlink(&cache, root.inode, "f3-3").await;
    let before = picture(&cache).await;
    drain(&cache).await;
    assert!(picture(&cache).await == before);
    assert!(fresh_picture(&bucket, &root).await == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_is_an_error_and_never_absent() {
    let (bucket, root) = bucket(1 << 20);
    let first = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = create(&first, root.inode, "there", Kind::File).await;
    write(&first, file, 0, b"bytes").await;
    drain(&first).await;
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, impatient()).await;
    bucket.set_unreachable(true);
    let found = cache.transact(|tx| tx.entry(root.inode, &name("there"))).await;
    assert!(found.as_ref().is_err_and(is_missing), "{found:?}");
    let listed = cache.transact(|tx| tx.read_dir(root.inode, 0, 10)).await;
    assert!(listed.as_ref().is_err_and(is_missing), "{listed:?}");
    bucket.set_unreachable(false);
    let found = lookup(&cache, root.inode, "there").await.unwrap();
    bucket.set_unreachable(true);
    assert!(cache.read(found, 0, 5).await.as_ref().is_err_and(is_missing));
    bucket.set_unreachable(false);
    assert!(read_all(&cache, found).await == b"bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_an_error_and_no_empty_drive() {
    let (bucket, root) = bucket(1 << 20);
    let wrong = Root { key: Key::from_bytes([1; 32]), ..root.clone() };
    let service = || Arc::new(bucket.clone());
    let boot = strewn_cache::journal::BootId([1; 16]);
    let disk = MemoryDisk::new();
    let opened = Cache::open_on(Arc::new(disk.clone()), boot, service(), wrong, options()).await;
    assert!(matches!(opened, Err(Error::Corrupt(_))));
    bucket.set_unreachable(true);
    let opened = Cache::open_on(Arc::new(disk), boot, service(), root, impatient()).await;
    assert!(matches!(opened, Err(Error::Network(bucket::Error::Unreachable(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_apply_nothing_twice() {
    let (bucket, root) = bucket(128 << 10);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    for round in 0..4 {
        write(&cache, file, round * 100_000, &pattern(150_000, round)).await;
        bucket.lose_replies(2);
        drain(&cache).await;
    }
    let before = picture(&cache).await;
    assert_eq!(bucket.snapshot().sequence, 4);
    assert!(fresh_picture(&bucket, &root).await == before);
    // Killed between the commit at the satellite and the note of it here.
    write(&cache, file, 5, b"again").await;
    bucket.lose_replies(1_000_000);
    let expired = tokio::time::timeout(Duration::from_millis(500), cache.drain(|_| {})).await;
    assert!(!matches!(expired, Ok(Ok(()))));
    let before = picture(&cache).await;
    let left = disk.kill();
    cache.close().await.unwrap();
    bucket.lose_replies(0);
    let cache = open_on(&left, &bucket, &root, options()).await;
    drain(&cache).await;
    assert_eq!(bucket.snapshot().sequence, 5);
    assert!(picture(&cache).await == before);
    assert!(fresh_picture(&bucket, &root).await == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_bucket_keeps_the_queue_and_refuses_new_bytes() {
    let (bucket, root) = bucket(1 << 20);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, impatient()).await;
    bucket.set_quota(Some(1_000));
    let file = create(&cache, root.inode, "f", Kind::File).await;
    write(&cache, file, 0, &pattern(5_000, 1)).await;
    assert!(matches!(cache.drain(|_| {}).await, Err(Error::Pending(_))));
    let refused = cache.write(file, Position::End, b"more", |_| {}).await;
    assert!(matches!(refused, Err(Error::Quota(_))), "{refused:?}");
    bucket.set_quota(None);
    drain(&cache).await;
    write(&cache, file, 5_000, b"more").await;
    drain(&cache).await;
    assert_eq!(bucket.snapshot().bytes, 5_004);
}

/// Two mounts of one bucket, of which the second does not hear what the first does.
async fn two() -> (MemoryBucket, Root, Cache, Cache) {
    let (bucket, root) = bucket(1 << 20);
    let one = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = create(&one, root.inode, "shared", Kind::File).await;
    write(&one, file, 0, &pattern(100_000, 1)).await;
    drain(&one).await;
    let two = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    picture(&two).await;
    (bucket, root, one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_one_name_both_keep_their_file() {
    let (bucket, root, one, two) = two().await;
    two.close().await.unwrap();
    let lines = Arc::new(Lines::new(bucket.clone()));
    let disk = Arc::new(MemoryDisk::new());
    let two = Cache::open_on(disk, BootId([1; 16]), lines.clone(), root.clone(), options()).await.unwrap();
    picture(&two).await;
    // So that neither can ask for the other's leave.
    lines.cut_off(true);
    let mine = create(&one, root.inode, "new", Kind::File).await;
    let theirs = create(&two, root.inode, "new", Kind::File).await;
    write(&one, mine, 0, b"one").await;
    write(&two, theirs, 0, b"two").await;
    drain(&one).await;
    lines.cut_off(false);
    drain(&two).await;
    let found = fresh_picture(&bucket, &root).await;
    assert!(found["/new"].3 == b"one");
    let copy = found.iter().find(|(path, _)| path.starts_with("/new (conflict local ")).expect("a conflict copy");
    assert!(copy.1.3 == b"two");
    assert_eq!((found.len(), copy.1.1), (3, 1));
    assert_eq!(two.status().conflicts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_one_file_both_keep_their_bytes() {
    let (bucket, root, one, two) = two().await;
    let file = lookup(&one, root.inode, "shared").await.unwrap();
    let mut ours = read_all(&two, file).await;
    write(&one, file, 50, b"from one").await;
    write(&two, file, 99_990, b"from the other one").await;
    ours.truncate(99_990);
    ours.extend_from_slice(b"from the other one");
    drain(&one).await;
    let theirs = read_all(&one, file).await;
    drain(&two).await;
    let found = fresh_picture(&bucket, &root).await;
    assert!(found["/shared"].3 == theirs);
    let copy = found.iter().find(|(path, _)| path.starts_with("/shared (conflict local ")).expect("a conflict copy");
    assert!(copy.1.3 == ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_removed_elsewhere_while_it_is_written_comes_back() {
    let (bucket, root, one, two) = two().await;
    let file = lookup(&two, root.inode, "shared").await.unwrap();
    let mut bytes = read_all(&two, file).await;
    write(&two, file, 0, b"still here").await;
    bytes[..10].copy_from_slice(b"still here");
    unlink(&one, root.inode, "shared").await;
    drain(&one).await;
    assert!(bucket.snapshot().entries.is_empty());
    drain(&two).await;
    let found = fresh_picture(&bucket, &root).await;
    assert!(found["/shared"].3 == bytes);
    assert_eq!(found["/shared"].1, 1);
    assert_eq!(found.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_removed_elsewhere_comes_back_with_what_was_made_in_it() {
    let (bucket, root, one, two) = two().await;
    let directory = create(&one, root.inode, "d", Kind::Directory).await;
    drain(&one).await;
    let mut news = two.invalidations().expect("the first to ask");
    // The feed may have told already.
    while lookup(&two, root.inode, "d").await.is_none() {
        tokio::time::timeout(PATIENCE, news.recv()).await.expect("in time").expect("news");
    }
    let file = create(&two, directory, "f", Kind::File).await;
    write(&two, file, 0, b"in it").await;
    one.transact(|tx| {
        tx.entry(root.inode, &name("d"))?;
        tx.set_entry(root.inode, &name("d"), None)
    })
    .await
    .unwrap();
    drain(&one).await;
    drain(&two).await;
    assert_eq!(fresh_picture(&bucket, &root).await["/d/f"].3, b"in it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_hears_of_changes() {
    let (_bucket, root, one, two) = two().await;
    let mut news = two.invalidations().expect("the first to ask");
    assert!(two.invalidations().is_none());
    // What was there before the feed began is not told.
    two.catch_up(0).await.unwrap();
    create(&one, root.inode, "news", Kind::Directory).await;
    drain(&one).await;
    // That the root changed may be found out first, when the feed begins.
    let told = strewn_cache::Invalidation::Entry(root.inode, name("news"));
    while tokio::time::timeout(PATIENCE, news.recv()).await.expect("in time").expect("news") != told {}
    assert!(lookup(&two, root.inode, "news").await.is_some());
}
