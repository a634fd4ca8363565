//! Crashes while the network's refusal of a batch is dealt with: both sides keep what they had, once.

mod common;

use common::lines::Lines;
use common::two::Two;
use common::*;
use std::sync::{Arc, Mutex};
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Options, Position, Root, Transaction};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::lease::LEASE;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// Disk and network at one moment.
type Images = Arc<Mutex<Vec<(MemoryDisk, MemoryBucket)>>>;

/// What the second mount has written when it finds out that the first was faster.
struct Ours {
    shared: Vec<u8>,
    mine: Vec<u8>,
    tiny: Vec<u8>,
    new: Vec<u8>,
}

/// Keeps nothing that is clean.
fn tight() -> Options {
    Options { budget: 1, ..options() }
}

async fn first_mount(bucket: &MemoryBucket, root: &Root) -> Cache {
    let one = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    for (name, length) in [("shared", 100_000), ("mine", 100_000), ("tiny", 5_000)] {
        let file = create(&one, root.inode, name, Kind::File).await;
        write(&one, file, 0, &pattern(length, 1)).await;
    }
    drain(&one).await;
    one
}

/// The second mount, cut off, with a batch that is going to be refused. Its bytes are in sealed files alone.
async fn second_mount(disk: &MemoryDisk, bucket: &Arc<Lines>, root: &Root) -> (Cache, Ours) {
    let two = open_over(disk, bucket, root, tight()).await;
    picture(&two).await;
    let ours = Ours {
        shared: pattern(100_000, 2),
        mine: pattern(100_000, 3),
        tiny: pattern(5_000, 4),
        new: pattern(70_000, 5),
    };
    for (name, bytes) in [("shared", &ours.shared), ("mine", &ours.mine), ("tiny", &ours.tiny)] {
        let file = lookup(&two, root.inode, name).await.unwrap();
        write(&two, file, 0, bytes).await;
    }
    let new = create(&two, root.inode, "new", Kind::File).await;
    write(&two, new, 0, &ours.new).await;
    two.sync_all().await.unwrap();
    bucket.cut_off(true);
    assert!(two.cut().await.unwrap());
    let sealed = async {
        while disk.names().iter().any(|name| name.starts_with("data/")) {
            two.keep_house().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, sealed).await.expect("in time");
    two.snapshot().await.unwrap();
    (two, ours)
}

async fn fresh_picture(bucket: &MemoryBucket, root: &Root) -> Picture {
    let cache = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    let found = picture(&cache).await;
    cache.close().await.unwrap();
    found
}

fn check(found: &Picture, ours: &Ours, moment: &str) {
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(found.len(), 6, "{moment}: {names:?}");
    assert!(found["/mine"].3 == ours.mine && found["/tiny"].3 == ours.tiny, "{moment}: what nobody else changed");
    assert!(found["/new"].3 == b"theirs" && found["/shared"].3[50..58] == *b"from one", "{moment}: theirs");
    // A mount that was just opened does not know the name of `shared`.
    let copies: Vec<_> = found.iter().filter(|(path, _)| path.contains(" (conflict ")).collect();
    let is_copy = |bytes: &Vec<u8>| copies.iter().any(|(_, node)| node.3 == *bytes && node.1 == 1);
    assert!(copies.len() == 2 && is_copy(&ours.shared) && is_copy(&ours.new), "{moment}: {names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_a_refusal_is_dealt_with_leaves_every_copy_once() {
    let (bucket, root) = bucket(1 << 20);
    let one = first_mount(&bucket, &root).await;
    let disk = MemoryDisk::new();
    let lines = Arc::new(Lines::new(bucket.clone()));
    let (two, ours) = second_mount(&disk, &lines, &root).await;
    // Nobody waits for what it may have promised.
    bucket.advance(LEASE);
    let shared = lookup(&one, root.inode, "shared").await.unwrap();
    write(&one, shared, 50, b"from one").await;
    let new = create(&one, root.inode, "new", Kind::File).await;
    write(&one, new, 0, b"theirs").await;
    drain(&one).await;
    one.close().await.unwrap();
    lines.cut_off(false);
    let images = Images::default();
    let (theirs, network) = (images.clone(), bucket.clone());
    disk.watch(Some(Box::new(move |disk| theirs.lock().unwrap().push((disk, network.fork())))));
    drain(&two).await;
    disk.watch(None);
    check(&fresh_picture(&bucket, &root).await, &ours, "without a crash");
    two.close().await.unwrap();
    let images = std::mem::take(&mut *images.lock().unwrap());
    assert!(images.len() > 4);
    for (number, (disk, network)) in images.into_iter().enumerate() {
        for (boot, left) in [(1, disk.kill()), (2, disk.crash(1)), (2, disk.crash(number as u64))] {
            let network = network.fork();
            let cache = open_in(&left, boot, &network, &root, options()).await;
            drain(&cache).await;
            check(&fresh_picture(&network, &root).await, &ours, &format!("image {number}, boot {boot}"));
            cache.close().await.unwrap();
        }
    }
}

/// A mount that made a file, has it on the network, and is killed: its disk and the file.
async fn killed_mount(bucket: &MemoryBucket, root: &Root) -> (MemoryDisk, InodeId) {
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, bucket, root, options()).await;
    let file = create(&cache, root.inode, "file", Kind::File).await;
    write(&cache, file, 0, b"first").await;
    drain(&cache).await;
    let killed = disk.kill();
    cache.close().await.unwrap();
    (killed, file)
}

/// Another mount writes the file anew. Gives what.
async fn write_elsewhere(bucket: &MemoryBucket, root: &Root, file: InodeId) -> Vec<u8> {
    let cache = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    assert_eq!(lookup(&cache, root.inode, "file").await, Some(file));
    let bytes = pattern(100_000, 2);
    write(&cache, file, 0, &bytes).await;
    drain(&cache).await;
    cache.close().await.unwrap();
    bytes
}

/// Waits until a mount shows the file with this size.
async fn hear_of(cache: &Cache, root: &Root, file: InodeId, size: usize) {
    let heard = async {
        loop {
            assert_eq!(lookup(cache, root.inode, "file").await, Some(file));
            if cache.transact(|tx| tx.attributes(file)).await.unwrap().size == size as u64 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("in time");
}

#[tokio::test]
async fn after_a_crash_attributes_go_up_with_the_content_that_the_file_has_now() {
    let (bucket, root) = bucket(1 << 20);
    let (disk, file) = killed_mount(&bucket, &root).await;
    let one = open_on(&disk, &bucket, &root, options()).await;
    assert_eq!(lookup(&one, root.inode, "file").await, Some(file));
    let theirs = write_elsewhere(&bucket, &root, file).await;
    hear_of(&one, &root, file, theirs.len()).await;
    let mode = |tx: &mut Transaction<'_>| {
        let attributes = tx.attributes(file)?;
        tx.set_attributes(file, Attributes { mode: 0o600, ..attributes })
    };
    one.transact(mode).await.unwrap();
    drain(&one).await;
    one.close().await.unwrap();
    let found = fresh_picture(&bucket, &root).await;
    assert!(found["/file"].3 == theirs, "{} bytes", found["/file"].3.len());
    assert_eq!(found.len(), 1, "{:?}", found.keys());
}

#[tokio::test]
async fn after_a_crash_it_is_heard_what_others_changed_before() {
    let (bucket, root) = bucket(1 << 20);
    let (disk, file) = killed_mount(&bucket, &root).await;
    let theirs = write_elsewhere(&bucket, &root, file).await;
    let one = open_on(&disk, &bucket, &root, options()).await;
    hear_of(&one, &root, file, theirs.len()).await;
    assert!(read_all(&one, file).await == theirs);
    one.close().await.unwrap();
}

/// Asks once, and then no more.
async fn ask_in_vain<T>(question: impl Future<Output = T>) {
    tokio::select! {
        biased;
        _ = question => panic!("there is no answer"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn news_that_nobody_waits_for_any_more_are_loaded_by_the_next() {
    let (bucket, root) = bucket(1 << 20);
    let lines = Arc::new(Lines::new(bucket.clone()));
    let one = open_over(&MemoryDisk::new(), &lines, &root, options()).await;
    let file = create(&one, root.inode, "file", Kind::File).await;
    drain(&one).await;
    picture(&one).await;
    lines.cut_off(true);
    rename(&one, root.inode, "file", root.inode, "mine").await;
    bucket.advance(LEASE);
    let two = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    assert_eq!(lookup(&two, root.inode, "file").await, Some(file));
    rename(&two, root.inode, "file", root.inode, "theirs").await;
    let other = create(&two, root.inode, "file", Kind::File).await;
    drain(&two).await;
    two.close().await.unwrap();
    lines.cut_off(false);
    let sequence = bucket.snapshot().sequence;
    one.catch_up(sequence).await.unwrap();
    assert_eq!(lookup(&one, root.inode, "file").await, None, "what changed here wins until it is on the network");
    // A name that is again what it was gives way to the news.
    rename(&one, root.inode, "mine", root.inode, "file").await;
    lines.silence(true);
    ask_in_vain(one.catch_up(sequence)).await;
    lines.silence(false);
    one.catch_up(sequence).await.unwrap();
    let shown = [lookup(&one, root.inode, "file").await, lookup(&one, root.inode, "theirs").await];
    assert_eq!(shown, [Some(other), Some(file)]);
    one.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_a_conflict_copy_is_made_is_in_it() {
    let (bucket, root) = bucket(1 << 20);
    let lines = Arc::new(Lines::new(bucket.clone()));
    let disk = MemoryDisk::new();
    let one = open_over(&disk, &lines, &root, options()).await;
    let file = create(&one, root.inode, "file", Kind::File).await;
    write(&one, file, 0, &pattern(100_000, 1)).await;
    drain(&one).await;
    lines.cut_off(true);
    let mut mine = pattern(100_000, 2);
    write(&one, file, 0, &mine).await;
    one.sync(file, false).await.unwrap();
    assert!(one.cut().await.unwrap());
    let two = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let theirs = pattern(100_000, 3);
    write(&two, lookup(&two, root.inode, "file").await.unwrap(), 0, &theirs).await;
    drain(&two).await;
    two.close().await.unwrap();
    // The copy is made, and not yet durable.
    disk.hold_syncs_below("data/");
    lines.cut_off(false);
    let draining = tokio::spawn({
        let one = one.clone();
        async move { drain(&one).await }
    });
    while disk.syncs_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    write(&one, file, 10, b"newest").await;
    mine[10..16].copy_from_slice(b"newest");
    disk.release_syncs();
    draining.await.unwrap();
    let files: Vec<Vec<u8>> = picture(&one).await.into_values().map(|(_, _, _, bytes)| bytes).collect();
    assert_eq!(files.len(), 2);
    assert!(files.contains(&theirs) && files.contains(&mine), "an acknowledged write is lost");
    one.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_says_what_it_lacks_and_has_what_was_read() {
    let (bucket, root) = bucket(1 << 20);
    let one = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = create(&one, root.inode, "file", Kind::File).await;
    let old = pattern(3 << 20, 1);
    write(&one, file, 0, &old).await;
    drain(&one).await;
    let lines = Arc::new(Lines::new(bucket.clone()));
    let two = open_over(&MemoryDisk::new(), &lines, &root, options()).await;
    assert_eq!(lookup(&two, root.inode, "file").await, Some(file));
    assert_eq!(two.read(file, 0, 1_000).await.unwrap(), old[..1_000]);
    lines.cut_off(true);
    write(&two, file, 2 << 20, b"mine").await;
    let theirs = pattern(3 << 20, 2);
    write(&one, file, 0, &theirs).await;
    drain(&one).await;
    lines.cut_off(false);
    drain(&two).await;
    let found = fresh_picture(&bucket, &root).await;
    assert_eq!(found.len(), 2, "{:?}", found.keys());
    assert!(found["/file"].3 == theirs);
    let (_, copy) = found.iter().find(|(path, _)| path.starts_with("/file (incomplete conflict ")).expect("it says so");
    let bytes = &copy.3;
    assert!(bytes.len() == old.len() && bytes[..1_000] == old[..1_000], "what was read");
    assert_eq!(bytes[2 << 20..][..5], *b"mine\0", "what was written, and nothing that was not");
    one.close().await.unwrap();
    two.close().await.unwrap();
}

/// How a mount ends and begins.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Again {
    InOrder,
    Killed,
    KilledAfterSnapshot,
}

#[tokio::test]
async fn a_conflict_is_listed_by_later_mounts_until_its_name_goes() {
    let listed = |two: &Two| two.two.status().conflict_copies.into_iter().map(|copy| copy.path).collect::<Vec<_>>();
    for again in [Again::InOrder, Again::Killed, Again::KilledAfterSnapshot] {
        for removed_elsewhere in [false, true] {
            let mut two = Two::new().await;
            let directory = create(&two.one, two.root.inode, "directory", Kind::Directory).await;
            let file = create(&two.one, directory, "file", Kind::File).await;
            two.tell_two().await;
            picture(&two.two).await;
            two.lines.cut_off(true);
            write(&two.one, file, 0, b"theirs").await;
            drain(&two.one).await;
            write(&two.two, file, 0, b"ours").await;
            two.lines.cut_off(false);
            two.settle().await;
            let [path] = &listed(&two)[..] else { panic!("{:?}", listed(&two)) };
            let path = path.clone();
            let name = path.strip_prefix("directory/").expect("below");
            assert!(name.starts_with("file (conflict "), "{path}");
            if again == Again::KilledAfterSnapshot {
                two.two.snapshot().await.unwrap();
            }
            match again {
                Again::InOrder => two.two_begins_anew().await,
                _ => two.two_dies().await,
            }
            assert_eq!(listed(&two), std::slice::from_ref(&path), "{again:?}");
            picture(&two.two).await;
            match removed_elsewhere {
                true => unlink(&two.one, directory, name).await,
                false => rename(&two.two, directory, name, two.root.inode, "mine").await,
            }
            two.settle().await;
            assert!(listed(&two).is_empty(), "{again:?}, {removed_elsewhere}");
            two.two_dies().await;
            picture(&two.two).await;
            assert!(listed(&two).is_empty(), "{again:?}, {removed_elsewhere}");
            two.close().await;
        }
    }
}

/// Options of a mount that may have so many bytes that wait for the network.
fn limited(dirty_limit: u64) -> Options {
    Options { leases: false, dirty_limit, ..options() }
}

/// Two mounts wrote the same file; the second has a batch about it and about the new name `new`, and its line is cut.
async fn both_wrote(options: Options) -> (MemoryBucket, Arc<Lines>, Root, Cache) {
    both_wrote_so_much(options, 100_000).await
}

async fn both_wrote_so_much(options: Options, length: usize) -> (MemoryBucket, Arc<Lines>, Root, Cache) {
    let (bucket, root) = bucket(1 << 20);
    let one = open_on(&MemoryDisk::new(), &bucket, &root, limited(1 << 30)).await;
    let file = create(&one, root.inode, "file", Kind::File).await;
    write(&one, file, 0, &pattern(length, 1)).await;
    drain(&one).await;
    let lines = Arc::new(Lines::new(bucket.clone()));
    let two = open_over(&MemoryDisk::new(), &lines, &root, options).await;
    picture(&two).await;
    lines.cut_off(true);
    write(&two, file, 0, &pattern(length, 2)).await;
    create(&two, root.inode, "new", Kind::File).await;
    // Near a limit they were cut by themselves.
    two.cut().await.unwrap();
    write(&one, file, 0, &pattern(length, 3)).await;
    drain(&one).await;
    one.close().await.unwrap();
    (bucket, lines, root, two)
}

/// What the second mount wrote is in a copy, and all of it is on the network.
async fn both_are_kept(bucket: &MemoryBucket, root: &Root, two: Cache) {
    tokio::time::timeout(PATIENCE, drain(&two)).await.expect("it is settled");
    two.close().await.unwrap();
    let found = fresh_picture(bucket, root).await;
    let copies: Vec<_> = found.iter().filter(|(path, _)| path.contains("file (conflict ")).collect();
    let length = found["/file"].3.len();
    assert!(copies.len() == 1 && copies[0].1.3 == pattern(length, 2), "{:?}", found.keys());
    assert!(found["/file"].3 == pattern(length, 3) && found.contains_key("/new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_dealt_with_while_as_many_changes_wait_as_may() {
    let (bucket, lines, root, two) = both_wrote(limited(1 << 30)).await;
    // Nothing is cut while it is dealt with, and then writers are held back.
    lines.names.shut(true);
    lines.cut_off(false);
    lines.names.came(1).await;
    let (writer, parent) = (two.clone(), root.inode);
    let writing = tokio::spawn(async move {
        for number in 0..5_000 {
            create(&writer, parent, &number.to_string(), Kind::File).await;
        }
    });
    let held = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let pending = two.status().pending_operations;
            if pending > 3_000 && pending == before {
                return;
            }
            before = pending;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.expect("writers are held back");
    assert!(!writing.is_finished());
    lines.names.shut(false);
    tokio::time::timeout(PATIENCE, writing).await.expect("they go on").unwrap();
    both_are_kept(&bucket, &root, two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_dealt_with_while_as_many_bytes_wait_as_may() {
    let (bucket, lines, root, two) = both_wrote(limited(300_000)).await;
    let other = create(&two, root.inode, "other", Kind::File).await;
    write(&two, other, 0, &pattern(190_000, 4)).await;
    lines.cut_off(false);
    both_are_kept(&bucket, &root, two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_dealt_with_although_there_was_no_quota_before() {
    let (bucket, lines, root, two) = both_wrote(limited(1 << 30)).await;
    lines.refuse_commits(1, strewn_engine::bucket::Error::Quota(String::from("none is left")));
    lines.cut_off(false);
    // Nobody drains meanwhile, which would make it forget that there was none.
    let settled = async {
        while !picture(&two).await.keys().any(|path| path.contains("file (conflict ")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("it is settled");
    both_are_kept(&bucket, &root, two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_dealt_with_while_the_cache_is_full() {
    let options = Options { budget: 1, deadline: std::time::Duration::from_secs(3), ..limited(1 << 30) };
    let (bucket, lines, root, two) = both_wrote_so_much(options, 1_000_000).await;
    let mut number = 0;
    let full = loop {
        let other = create(&two, root.inode, &number.to_string(), Kind::File).await;
        if let Err(error) = two.write(other, Position::At(0), &pattern(100_000, 4), |_| {}).await {
            break error;
        }
        number += 1;
    };
    assert!(matches!(full, strewn_cache::Error::NoSpace(_)) && number > 3, "{full}");
    lines.cut_off(false);
    both_are_kept(&bucket, &root, two).await;
}
