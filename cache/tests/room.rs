//! The cache stays within its budget and its disk, goes on as uploads free room, and says so when it cannot.

mod common;

use common::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Error, Options, Position};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

const MIB: u64 = 1 << 20;
const EIO: i32 = 5;
/// How long who finds no room waits in these tests.
const SHORT: Duration = Duration::from_millis(300);

/// Cuts as soon as something is there.
fn eager(budget: u64) -> Options {
    Options { cut_idle: Duration::ZERO, cut_bytes: MIB, budget, ..options() }
}

async fn try_write(cache: &Cache, inode: InodeId, offset: u64, data: &[u8]) -> Result<(), Error> {
    cache.write(inode, Position::At(offset), data, |_| {}).await.map(|_| ())
}

/// Writes megabytes until there is no room; gives how many went in.
async fn fill(cache: &Cache, inode: InodeId) -> u64 {
    for count in 0..1_000 {
        match try_write(cache, inode, count * MIB, &pattern(MIB as usize, count)).await {
            Ok(()) => {}
            Err(Error::NoSpace(_)) => return count,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a gigabyte went into a small cache");
}

async fn assert_filled(cache: &Cache, inode: InodeId, count: u64) {
    for number in 0..count {
        let bytes = cache.read(inode, number * MIB, MIB as usize).await.unwrap();
        assert!(bytes == pattern(MIB as usize, number), "megabyte {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_is_never_exceeded() {
    let (bucket, root) = bucket(4 * MIB);
    let (disk, budget) = (MemoryDisk::new(), 40 * MIB);
    let cache = open_on(&disk, &bucket, &root, eager(budget)).await;
    let mut files = Vec::new();
    for number in 0..6 {
        let file = create(&cache, root.inode, &format!("f{number}"), Kind::File).await;
        for part in 0..16 {
            write(&cache, file, part * MIB, &pattern(MIB as usize, number * 100 + part)).await;
            let used = disk.used();
            assert!(used <= budget, "{used} bytes while writing");
        }
        files.push(file);
    }
    drain(&cache).await;
    for (number, file) in files.iter().enumerate() {
        for part in 0..16 {
            let bytes = cache.read(*file, part * MIB, MIB as usize).await.unwrap();
            assert!(bytes == pattern(MIB as usize, number as u64 * 100 + part));
            let used = disk.used();
            assert!(used <= budget, "{used} bytes while reading");
        }
    }
    let status = cache.status();
    assert!(status.cache_bytes <= budget && status.cache_bytes >= disk.used(), "{} of {}", disk.used(), budget);
    assert!(status.fetched_bytes > 40 * MIB, "what was read had been given up: {} fetched", status.fetched_bytes);
    cache.close().await.unwrap();
}

/// With the network away a full cache refuses what it cannot keep, after the deadline; nothing else suffers, and all goes on
/// when the network is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_full_of_changes_refuses_more_until_uploads_free_room() {
    let (bucket, root) = bucket(4 * MIB);
    let disk = MemoryDisk::new();
    let options = Options { deadline: SHORT, ..eager(48 * MIB) };
    let cache = open_on(&disk, &bucket, &root, options.clone()).await;
    let old = create(&cache, root.inode, "old", Kind::File).await;
    write(&cache, old, 0, &pattern(100_000, 9)).await;
    drain(&cache).await;
    // Known as a whole, so that a name can be made in it without asking; the network hears nothing of the file.
    assert_eq!(cache.transact(|tx| tx.read_dir(root.inode, 0, 10)).await.unwrap().len(), 1);
    bucket.set_unreachable(true);
    let file = create(&cache, root.inode, "f", Kind::File).await;
    let count = fill(&cache, file).await;
    assert!(count >= 4, "{count} megabytes in a cache of 48");
    assert!(disk.used() <= 48 * MIB, "{} bytes", disk.used());
    assert!(cache.status().pending_bytes >= count * MIB);
    assert_filled(&cache, file, count).await;
    // What takes nothing of the room goes on.
    rename(&cache, root.inode, "f", root.inode, "old").await;

    // It survives the death of the process, and opens as full as it was.
    let left = disk.kill();
    cache.close().await.unwrap();
    let cache = open_on(&left, &bucket, &root, options).await;
    let file = file_named(&cache, "old").await;
    assert_filled(&cache, file, count).await;
    bucket.set_unreachable(false);
    drain_in_the_end(&cache).await;
    write(&cache, file, count * MIB, &pattern(MIB as usize, count)).await;
    drain_in_the_end(&cache).await;
    let other = open_on(&MemoryDisk::new(), &bucket, &root, eager(1 << 30)).await;
    assert_filled(&other, file_named(&other, "old").await, count + 1).await;
    cache.close().await.unwrap();
    other.close().await.unwrap();
}

/// Drains however short the deadline is.
async fn drain_in_the_end(cache: &Cache) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = cache.drain(|_| {}).await {
        assert!(tokio::time::Instant::now() < patience, "{error}");
    }
}

async fn file_named(cache: &Cache, text: &str) -> InodeId {
    lookup(cache, cache.root(), text).await.unwrap()
}

/// The disk is smaller than the budget: the cache lives within what the disk has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_disk_limits_the_cache_like_a_budget() {
    let (bucket, root) = bucket(4 * MIB);
    let disk = MemoryDisk::new();
    disk.set_capacity(Some(48 * MIB));
    let options = Options { deadline: SHORT, ..eager(10 << 30) };
    let cache = open_on(&disk, &bucket, &root, options).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    bucket.set_unreachable(true);
    let count = fill(&cache, file).await;
    assert!(count >= 4);
    bucket.set_unreachable(false);
    drain_in_the_end(&cache).await;
    assert_filled(&cache, file, count).await;
    // More than the disk holds goes through it.
    let file = create(&cache, root.inode, "long", Kind::File).await;
    for number in 0..64 {
        let mut tries = 0;
        while let Err(error) = try_write(&cache, file, number * MIB, &pattern(MIB as usize, number)).await {
            assert!(matches!(error, Error::NoSpace(_)) && tries < 50, "{error}");
            tries += 1;
        }
    }
    drain_in_the_end(&cache).await;
    assert_filled(&cache, file, 64).await;
    cache.close().await.unwrap();
}

/// Somebody else fills the disk to the last byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_when_the_disk_is_full_and_writes_resume_when_it_is_not() {
    let (bucket, root) = bucket(4 * MIB);
    let writer = open_on(&MemoryDisk::new(), &bucket, &root, eager(1 << 30)).await;
    let file = create(&writer, root.inode, "f", Kind::File).await;
    for number in 0..8 {
        write(&writer, file, number * MIB, &pattern(MIB as usize, number)).await;
    }
    drain(&writer).await;
    writer.close().await.unwrap();

    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, Options { deadline: SHORT, ..eager(1 << 30) }).await;
    let mine = create(&cache, root.inode, "mine", Kind::File).await;
    write(&cache, mine, 0, &pattern(200_000, 3)).await;
    disk.set_capacity(Some(disk.used()));
    let file = file_named(&cache, "f").await;
    assert_filled(&cache, file, 8).await;
    assert!(read_all(&cache, mine).await == pattern(200_000, 3));
    let refused = try_write(&cache, mine, 200_000, &pattern(MIB as usize, 4)).await;
    assert!(matches!(refused, Err(Error::NoSpace(_))), "{refused:?}");
    assert!(cache.status().known_inodes > 1);
    assert!(read_all(&cache, mine).await == pattern(200_000, 3), "a refused write left something");

    disk.set_capacity(None);
    write(&cache, mine, 200_000, &pattern(MIB as usize, 4)).await;
    drain_in_the_end(&cache).await;
    let other = open_on(&MemoryDisk::new(), &bucket, &root, eager(1 << 30)).await;
    let expected = [pattern(200_000, 3), pattern(MIB as usize, 4)].concat();
    assert!(read_all(&other, file_named(&other, "mine").await).await == expected);
    cache.close().await.unwrap();
    other.close().await.unwrap();
}

/// No room that uploads make would help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_file_of_the_disk_can_hold_is_refused_at_once() {
    let (bucket, root) = bucket(4 * MIB);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, options()).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    disk.set_largest_file(Some(16 * MIB));
    for before in [100, 200_000] {
        write(&cache, file, 0, &pattern(before, 1)).await;
        for offset in [16 * MIB - 10, 1 << 62] {
            let bytes = pattern(100, 2);
            let write = try_write(&cache, file, offset, &bytes);
            let refused = tokio::time::timeout(options().deadline / 2, write).await.expect("at once");
            assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
            assert!(read_all(&cache, file).await == pattern(before, 1), "a refused write left something");
        }
    }
    write(&cache, file, 16 * MIB - 100, &pattern(100, 2)).await;
    drain(&cache).await;
    assert_eq!(read_all(&cache, file).await.len() as u64, 16 * MIB);
    cache.close().await.unwrap();
}

/// After a failed sync nobody knows what the journal holds: no more changes, but reads, and a status that says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_journal_ends_writing_and_not_reading() {
    let (bucket, root) = bucket(4 * MIB);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, Options { deadline: SHORT, ..options() }).await;
    let file = create(&cache, root.inode, "f", Kind::File).await;
    write(&cache, file, 0, &pattern(1_000, 1)).await;
    let long = create(&cache, root.inode, "long", Kind::File).await;
    write(&cache, long, 0, &pattern(500_000, 2)).await;
    drain(&cache).await;
    disk.fail_syncs(Some(EIO));
    write(&cache, file, 0, b"not durable").await;
    assert!(matches!(cache.sync(file, false).await, Err(Error::Disk(_))));
    for _ in 0..2 {
        assert!(matches!(try_write(&cache, file, 0, b"refused").await, Err(Error::Disk(_))));
        let created = cache.transact(|tx| tx.create(attributes(Kind::File))).await;
        assert!(matches!(created, Err(Error::Disk(_))), "{created:?}");
        // The disk works again, the journal never will: what is durable stays unknown.
        disk.fail_syncs(None);
    }
    assert!(cache.status().last_error.contains("journal"), "{:?}", cache.status().last_error);
    assert_eq!(&read_all(&cache, file).await[..11], b"not durable");
    assert!(read_all(&cache, long).await == pattern(500_000, 2));
    assert!(cache.close().await.is_err(), "an orderly close cannot be promised");

    let cache = open_on(&disk.kill(), &bucket, &root, options()).await;
    assert_eq!(&read_all(&cache, file).await[..11], b"not durable", "the process died, the machine did not");
    write(&cache, file, 0, b"goes on").await;
    drain(&cache).await;
    cache.close().await.unwrap();
}

async fn refusal(directory: &Path) -> String {
    let (bucket, root) = bucket(4 * MIB);
    match Cache::open(directory, Arc::new(bucket), root, options()).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_directory_that_cannot_be_used_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (bucket, root) = bucket(4 * MIB);
    let cache = open(directory.path(), &bucket, &root, options()).await;
    let second = refusal(directory.path()).await;
    let name = directory.path().display().to_string();
    assert!(second.contains(&name) && second.contains("in use by process"), "{second}");
    cache.close().await.unwrap();

    // Even root cannot make directories there, as on a disk that is mounted read-only.
    let missing = refusal(Path::new("/proc/strewn/cache")).await;
    assert!(missing.contains("/proc/strewn/cache"), "{missing}");
}

/// What was used last is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_used_for_longest_goes_first() {
    let (bucket, root) = bucket(4 * MIB);
    let cache = open_on(&MemoryDisk::new(), &bucket, &root, eager(40 * MIB)).await;
    let mut files = Vec::new();
    for number in 0..20 {
        let file = create(&cache, root.inode, &format!("f{number}"), Kind::File).await;
        write(&cache, file, 0, &pattern(MIB as usize, number)).await;
        files.push(file);
        drain(&cache).await;
    }
    let fetched = || cache.status().fetched_bytes;
    // All fit, so the first is still here; then more comes, and the second has to go.
    assert!(cache.read(files[0], 0, MIB as usize).await.unwrap() == pattern(MIB as usize, 0));
    assert_eq!(fetched(), 0);
    let more = create(&cache, root.inode, "more", Kind::File).await;
    for part in 0..12 {
        write(&cache, more, part * MIB, &pattern(MIB as usize, part)).await;
        drain(&cache).await;
    }
    assert!(cache.read(files[0], 0, MIB as usize).await.unwrap() == pattern(MIB as usize, 0));
    assert_eq!(fetched(), 0, "used last and given up");
    assert!(cache.read(files[1], 0, MIB as usize).await.unwrap() == pattern(MIB as usize, 1));
    assert!(fetched() > 0, "not used for longest and kept");
    cache.close().await.unwrap();
}
