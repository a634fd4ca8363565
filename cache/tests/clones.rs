//! Copies of what the network has: they refer to the same runs, nothing is uploaded a second time, and nothing is lost whatever
//! becomes of the file they were made from.

mod common;

use common::lines::Lines;
use common::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Error, Options, Root};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::{self, Kind};
use strewn_engine::ids::{InodeId, RunId};

const SEGMENT: u64 = 256 << 10;
const STEP: u64 = 100_000;

fn plain() -> Options {
    Options { leases: false, ..options() }
}

/// Copies as a drive does: a few bytes at a time.
async fn copy(cache: &Cache, from: InodeId, range: Range<u64>, into: InodeId, to: u64) {
    let length = range.end - range.start;
    let mut copied = 0;
    while copied < length {
        let (source, target) = ((from, range.start + copied), (into, to + copied));
        let now = STEP.min(length - copied);
        let bytes = cache.copy(source, target, (now, length - copied), |_| {}).await.expect("copy");
        assert!(bytes > 0, "{copied} of {length}");
        copied += bytes;
    }
}

/// What disk and network are at every sync of the disk while a mount drains.
async fn drain_watched(cache: &Cache, disk: &MemoryDisk, network: &MemoryBucket) -> Vec<(MemoryDisk, MemoryBucket)> {
    let images: Arc<Mutex<Vec<(MemoryDisk, MemoryBucket)>>> = Arc::default();
    let (taken, now) = (images.clone(), network.clone());
    disk.watch(Some(Box::new(move |disk| taken.lock().unwrap().push((disk, now.fork())))));
    drain(cache).await;
    disk.watch(None);
    std::mem::take(&mut *images.lock().unwrap())
}

/// A mount with a file of 600,000 bytes that the network has.
struct One {
    bucket: MemoryBucket,
    root: Root,
    disk: MemoryDisk,
    lines: Arc<Lines>,
    cache: Cache,
    source: InodeId,
    bytes: Vec<u8>,
}

impl One {
    async fn new() -> Self {
        Self::with(plain()).await
    }

    async fn with(options: Options) -> Self {
        let (bucket, root) = bucket(SEGMENT);
        let (disk, lines) = (MemoryDisk::new(), Arc::new(Lines::new(bucket.clone())));
        let boot = BootId([1; 16]);
        let cache = Cache::open_on(Arc::new(disk.clone()), boot, lines.clone(), root.clone(), options).await.unwrap();
        let source = create(&cache, root.inode, "source", Kind::File).await;
        let bytes = pattern(600_000, 1);
        write(&cache, source, 0, &bytes).await;
        drain(&cache).await;
        Self { bucket, root, disk, lines, cache, source, bytes }
    }

    async fn create(&self, name: &str) -> InodeId {
        create(&self.cache, self.root.inode, name, Kind::File).await
    }

    /// A whole copy, not drained.
    async fn copied(&self) -> InodeId {
        let copy = self.create("copy").await;
        self::copy(&self.cache, self.source, 0..self.bytes.len() as u64, copy, 0).await;
        copy
    }

    /// Drains, and gives how many bytes that took.
    async fn upload(&self) -> u64 {
        let before = self.cache.status().uploaded_bytes;
        drain(&self.cache).await;
        self.cache.status().uploaded_bytes - before
    }

    fn runs(&self, inode: InodeId) -> BTreeSet<RunId> {
        runs_of(&self.bucket, inode)
    }

    /// What somebody else finds on the network.
    async fn elsewhere(&self) -> BTreeMap<String, Vec<u8>> {
        elsewhere(&self.bucket, &self.root).await
    }

    /// Another mount removes the file.
    async fn lose_source(&self) {
        remove_elsewhere(&self.bucket, &self.root, "source").await;
    }

    /// Whichever of these is left when the process dies or the power fails: the next mount has the copy, and sends it.
    async fn assert_survives(&self, copy: InodeId, images: Vec<(MemoryDisk, MemoryBucket)>) {
        assert!(images.len() > 4, "{}", images.len());
        for (number, (disk, network)) in images.into_iter().enumerate() {
            for (boot, left) in [(1, disk.kill()), (2, disk.crash(1)), (2, disk.crash(number as u64 + 2))] {
                let network = network.fork();
                let cache = open_in(&left, boot, &network, &self.root, plain()).await;
                assert!(read_all(&cache, copy).await == self.bytes, "image {number}, boot {boot}");
                drain(&cache).await;
                assert_eq!(cache.status().conflicts, 0);
                cache.close().await.unwrap();
                assert!(elsewhere(&network, &self.root).await["/copy"] == self.bytes, "image {number}, boot {boot}");
            }
        }
    }
}

fn runs_of(bucket: &MemoryBucket, inode: InodeId) -> BTreeSet<RunId> {
    let extents = bucket.snapshot().extents;
    extents.into_iter().filter(|(of, _)| *of == inode).map(|(_, extent)| extent.run).collect()
}

async fn elsewhere(bucket: &MemoryBucket, root: &Root) -> BTreeMap<String, Vec<u8>> {
    let cache = open_on(&MemoryDisk::new(), bucket, root, plain()).await;
    let found = picture(&cache).await.into_iter().map(|(path, node)| (path, node.3)).collect();
    cache.close().await.unwrap();
    found
}

async fn remove_elsewhere(bucket: &MemoryBucket, root: &Root, name: &str) {
    let cache = open_on(&MemoryDisk::new(), bucket, root, plain()).await;
    unlink(&cache, root.inode, name).await;
    drain(&cache).await;
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_refers_to_the_same_runs_and_nothing_is_uploaded() {
    let one = One::new().await;
    let segments = one.bucket.snapshot().segments.len();
    let copy = one.copied().await;
    assert_eq!(read_all(&one.cache, copy).await, one.bytes);
    assert_eq!(one.upload().await, 0);
    assert_eq!(one.bucket.snapshot().segments.len(), segments);
    assert_eq!(one.runs(copy), one.runs(one.source));
    assert!(one.bucket.snapshot().runs.iter().all(|(_, run)| run.references == 2));
    // The copy is here, and a copy of the copy is as good.
    let fetched = one.cache.status().fetched_bytes;
    let again = one.create("again").await;
    self::copy(&one.cache, copy, 0..600_000, again, 0).await;
    assert_eq!((one.upload().await, one.cache.status().fetched_bytes), (0, fetched));
    one.lose_source().await;
    let found = one.elsewhere().await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["/again", "/copy"]);
    assert!(found.values().all(|bytes| *bytes == one.bytes), "it lives on in its copies");
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_in_the_middle_of_a_copy_make_no_difference() {
    let one = One::new().await;
    let copy = one.create("copy").await;
    let mut uploaded = 0;
    let step = 131_040;
    for at in (0..600_000).step_by(step) {
        one.cache.copy((one.source, at), (copy, at), (step as u64, 600_000 - at), |_| {}).await.unwrap();
        uploaded += one.upload().await;
    }
    assert_eq!(uploaded, 0);
    assert_eq!(one.runs(copy), one.runs(one.source));
    assert_eq!(one.elsewhere().await["/copy"], one.bytes);
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_which_not_all_is_copied_is_not_shared() {
    let one = One::new().await;
    // Who is given the file gets the keys of its runs: they are not to open more of the other file than was copied.
    let part = one.create("part").await;
    copy(&one.cache, one.source, 0..200_000, part, 0).await;
    assert_eq!(one.upload().await, 200_000);
    assert!(one.runs(part).is_disjoint(&one.runs(one.source)));
    // What was overwritten is not in the file any more, but in its run.
    write(&one.cache, one.source, 300_000, &[7; 100_000]).await;
    drain(&one.cache).await;
    let copied = one.copied().await;
    let uploaded = one.upload().await;
    let (theirs, ours) = (one.runs(one.source), one.runs(copied));
    let shared: Vec<_> = theirs.intersection(&ours).collect();
    let whole: u64 = one
        .bucket
        .snapshot()
        .extents
        .iter()
        .filter(|(of, extent)| *of == copied && shared.contains(&&extent.run))
        .map(|(_, extent)| {
            assert_eq!((extent.run_offset, extent.length), (0, extent.run_length), "whole runs only");
            extent.length
        })
        .sum();
    assert!(!shared.is_empty() && uploaded == 600_000 - whole, "{uploaded} {whole}");
    let mut expected = one.bytes.clone();
    expected[300_000..400_000].fill(7);
    let found = one.elsewhere().await;
    assert_eq!((&found["/copy"], &found["/part"][..]), (&expected, &one.bytes[..200_000]));
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_part_is_copied_within_a_file() {
    let one = One::new().await;
    let runs = one.runs(one.source);
    copy(&one.cache, one.source, 1_234..401_235, one.source, 900_001).await;
    // Over what is there, and over a part of what was just copied.
    copy(&one.cache, one.source, 400_000..500_000, one.source, 3).await;
    copy(&one.cache, one.source, 530_000..596_000, one.source, 1_000_000).await;
    assert_eq!(one.upload().await, 0);
    assert_eq!(one.runs(one.source), runs);
    let mut expected = one.bytes.clone();
    expected.resize(1_300_002, 0);
    expected[900_001..].copy_from_slice(&one.bytes[1_234..401_235]);
    expected[3..100_003].copy_from_slice(&one.bytes[400_000..500_000]);
    expected[1_000_000..1_066_000].copy_from_slice(&one.bytes[530_000..596_000]);
    assert!(read_all(&one.cache, one.source).await == expected);
    assert!(one.elsewhere().await["/source"] == expected);
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_the_source_here_is_not_the_copys() {
    for what in ["overwritten", "cut", "punched", "removed"] {
        for cut_between in [false, true] {
            let one = One::new().await;
            let copy = one.copied().await;
            if cut_between {
                one.cache.cut().await.unwrap();
            }
            match what {
                "overwritten" => write(&one.cache, one.source, 0, &pattern(600_000, 2)).await,
                "cut" => resize(&one.cache, one.source, 0).await,
                "punched" => punch(&one.cache, one.source, 0, 600_000).await,
                _ => unlink(&one.cache, one.root.inode, "source").await,
            }
            let uploaded = one.upload().await;
            assert_eq!(uploaded, if what == "overwritten" { 600_000 } else { 0 }, "{what}");
            assert!(read_all(&one.cache, copy).await == one.bytes);
            assert!(one.elsewhere().await["/copy"] == one.bytes, "{what}, cut between: {cut_between}");
            assert_eq!(one.cache.status().conflicts, 0);
            one.cache.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_over_a_copy_is_newer() {
    for cut_between in [false, true] {
        for lost in [false, true] {
            let one = One::new().await;
            let copy = one.copied().await;
            one.lines.cut_off(true);
            if cut_between {
                one.cache.cut().await.unwrap();
            }
            write(&one.cache, copy, 50_000, &[1; 70_000]).await;
            punch(&one.cache, copy, 200_000, 150_000).await;
            resize(&one.cache, copy, 500_000).await;
            resize(&one.cache, copy, 550_000).await;
            let mut expected = one.bytes.clone();
            expected[50_000..120_000].fill(1);
            expected[200_000..350_000].fill(0);
            expected[500_000..].fill(0);
            expected.truncate(550_000);
            if lost {
                one.lose_source().await;
            }
            one.lines.cut_off(false);
            drain(&one.cache).await;
            assert!(read_all(&one.cache, copy).await == expected);
            assert!(one.elsewhere().await["/copy"] == expected, "{cut_between} {lost}");
            one.cache.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_source_is_copied_as_it_is_now() {
    let one = One::new().await;
    write(&one.cache, one.source, 100_000, &[9; 50]).await;
    let mut expected = one.bytes.clone();
    expected[100_000..100_050].fill(9);
    let copy = one.copied().await;
    // The cut has it before the copy is made, and nothing is known of its extents before it is a batch.
    let frozen = one.create("frozen").await;
    one.lines.cut_off(true);
    one.cache.cut().await.unwrap();
    self::copy(&one.cache, one.source, 0..600_000, frozen, 0).await;
    one.lines.cut_off(false);
    drain(&one.cache).await;
    assert!(read_all(&one.cache, copy).await == expected);
    let found = one.elsewhere().await;
    assert!(found["/copy"] == expected && found["/frozen"] == expected && found["/source"] == expected);
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_here_is_fetched_and_not_uploaded() {
    let one = One::new().await;
    one.cache.close().await.unwrap();
    let cache = open_on(&MemoryDisk::new(), &one.bucket, &one.root, plain()).await;
    let source = lookup(&cache, one.root.inode, "source").await.unwrap();
    let target = create(&cache, one.root.inode, "copy", Kind::File).await;
    copy(&cache, source, 0..600_000, target, 0).await;
    drain(&cache).await;
    assert_eq!(cache.status().uploaded_bytes, 0);
    assert_eq!(runs_of(&one.bucket, target), runs_of(&one.bucket, source));
    assert!(one.elsewhere().await["/copy"] == one.bytes);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_and_small_runs_are_copied_as_bytes() {
    let one = One::new().await;
    let small = one.create("small").await;
    write(&one.cache, small, 0, &pattern(3_000, 3)).await;
    let many = one.create("many").await;
    for at in 0..40 {
        write(&one.cache, many, at * 4_000, &pattern(4_000, at)).await;
        drain(&one.cache).await;
    }
    let copies = [one.create("small copy").await, one.create("many copy").await];
    copy(&one.cache, small, 0..3_000, copies[0], 0).await;
    copy(&one.cache, many, 0..160_000, copies[1], 0).await;
    assert_eq!(one.upload().await, 163_000);
    let found = one.elsewhere().await;
    assert!(found["/small"] == found["/small copy"] && found["/many"] == found["/many copy"]);
    assert_eq!(one.runs(copies[1]).len(), 1, "in one run from here on");
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_source_somebody_removed_goes_up_from_here() {
    for cut_between in [false, true] {
        // No room for anything clean: only what is held stays.
        let one = One::with(Options { budget: 10_000, ..plain() }).await;
        let copy = one.copied().await;
        one.lines.cut_off(true);
        if cut_between {
            one.cache.cut().await.unwrap();
        }
        one.lose_source().await;
        for _ in 0..3 {
            one.cache.keep_house().await.unwrap();
        }
        one.lines.cut_off(false);
        assert!(one.upload().await >= 600_000);
        assert!(read_all(&one.cache, copy).await == one.bytes);
        assert!(one.elsewhere().await["/copy"] == one.bytes);
        assert_eq!(one.cache.status().conflicts, 0);
        one.cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_source_somebody_replaced_is_of_what_was_here() {
    let one = One::new().await;
    let copy = one.copied().await;
    let other = open_on(&MemoryDisk::new(), &one.bucket, &one.root, plain()).await;
    let theirs = lookup(&other, one.root.inode, "source").await.unwrap();
    write(&other, theirs, 0, &pattern(600_000, 5)).await;
    drain(&other).await;
    other.close().await.unwrap();
    drain(&one.cache).await;
    assert!(read_all(&one.cache, copy).await == one.bytes);
    let found = one.elsewhere().await;
    assert!(found["/copy"] == one.bytes && found["/source"] == pattern(600_000, 5));
    assert_eq!(found.len(), 2, "no conflict");
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_grant_may_not_refer_to_the_runs_the_bytes_go_up() {
    let one = One::new().await;
    one.copied().await;
    one.lines.refuse_commits(1, bucket::Error::Forbidden("elsewhere".into()));
    assert_eq!(one.upload().await, 600_000);
    assert!(one.elsewhere().await["/copy"] == one.bytes);
    // If it is about something else, that shows.
    let again = one.create("again").await;
    copy(&one.cache, one.source, 0..600_000, again, 0).await;
    one.lines.refuse_commits(u64::MAX, bucket::Error::Forbidden("revoked".into()));
    assert!(matches!(one.cache.drain(|_| {}).await, Err(Error::Pending(_))));
    assert!(one.cache.status().last_error.contains("revoked"), "{}", one.cache.status().last_error);
    one.lines.refuse_commits(0, bucket::Error::Forbidden("revoked".into()));
    drain(&one.cache).await;
    assert!(one.elsewhere().await["/again"] == one.bytes);
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_over_the_quota_waits() {
    let one = One::new().await;
    one.bucket.set_quota(Some(1_000_000));
    let copy = one.copied().await;
    assert!(matches!(one.cache.drain(|_| {}).await, Err(Error::Pending(_))));
    assert!(read_all(&one.cache, copy).await == one.bytes);
    one.bucket.set_quota(None);
    drain(&one.cache).await;
    assert!(one.elsewhere().await["/copy"] == one.bytes);
    one.cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_what_is_here_does_not_need_the_network() {
    let (bucket, root) = bucket(SEGMENT);
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), &bucket, &root, plain()).await;
    let [source, target] =
        [create(&cache, root.inode, "source", Kind::File).await, create(&cache, root.inode, "copy", Kind::File).await];
    let bytes = pattern(600_000, 1);
    write(&cache, source, 0, &bytes).await;
    drain(&cache).await;
    cache.close().await.unwrap();
    // After a restart bytes are known, and not their extents.
    let lines = Arc::new(Lines::new(bucket.clone()));
    let options = Options { deadline: Duration::from_secs(4), ..plain() };
    let cache = Cache::open(directory.path(), lines.clone(), root.clone(), options).await.unwrap();
    assert_eq!(lookup(&cache, root.inode, "source").await, Some(source));
    assert!(lookup(&cache, root.inode, "copy").await.is_some());
    lines.silence(true);
    copy(&cache, source, 0..600_000, target, 0).await;
    assert!(read_all(&cache, target).await == bytes);
    lines.silence(false);
    lines.cut_off(true);
    lines.cut_off(false);
    drain(&cache).await;
    assert_eq!((cache.status().uploaded_bytes, cache.status().fetched_bytes), (600_000, 0));
    // With it nothing is uploaded.
    let again = create(&cache, root.inode, "again", Kind::File).await;
    copy(&cache, source, 0..600_000, again, 0).await;
    drain(&cache).await;
    assert_eq!((cache.status().uploaded_bytes, cache.status().fetched_bytes), (600_000, 0));
    assert!(elsewhere(&bucket, &root).await.values().all(|found| *found == bytes));
    cache.close().await.unwrap();
}

/// At every sync of the disk while a copy goes up the process dies or the power fails, then another mount removes the source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synced_copy_survives_whatever_happens_while_it_goes_up() {
    for with_snapshot in [false, true] {
        let one = One::new().await;
        let images: Arc<Mutex<Vec<MemoryDisk>>> = Arc::default();
        let copy = one.copied().await;
        write(&one.cache, copy, 100_000, &[3; 3_000]).await;
        one.cache.sync(copy, false).await.unwrap();
        let mut expected = one.bytes.clone();
        expected[100_000..103_000].fill(3);
        let taken = images.clone();
        one.disk.watch(Some(Box::new(move |disk| taken.lock().unwrap().push(disk))));
        one.lines.silence(true);
        let sent = one.lines.commits();
        one.cache.cut().await.unwrap();
        one.lines.sent(sent + 1).await;
        // The batch waits for its answer.
        if with_snapshot {
            one.cache.snapshot().await.unwrap();
        }
        let before = expected.clone();
        write(&one.cache, copy, 400_000, &[4; 1_000]).await;
        expected[400_000..401_000].fill(4);
        one.cache.sync(copy, false).await.unwrap();
        one.disk.watch(None);
        let network = one.bucket.fork();
        images.lock().unwrap().push(one.disk.kill());
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() > 2, "{}", images.len());
        for (number, disk) in images.into_iter().enumerate() {
            for (boot, left) in [(1, disk.kill()), (2, disk.crash(1)), (2, disk.crash(number as u64 + 2))] {
                for lost in [false, true] {
                    let network = network.fork();
                    if lost {
                        remove_elsewhere(&network, &one.root, "source").await;
                    }
                    let cache = open_in(&left.kill(), boot, &network, &one.root, plain()).await;
                    let which = format!("snapshot {with_snapshot}, image {number}, boot {boot}, lost {lost}");
                    let here = read_all(&cache, copy).await;
                    // Some of the last write may be there before it was synced.
                    let known = |at: usize| here[at] == before[at] || here[at] == expected[at];
                    assert!(here.len() == 600_000 && (0..600_000).all(known), "{which}");
                    drain(&cache).await;
                    assert!(read_all(&cache, copy).await == here, "{which}");
                    cache.close().await.unwrap();
                    assert!(elsewhere(&network, &one.root).await["/copy"] == here, "{which}");
                }
            }
        }
        one.lines.cut_off(true);
        one.cache.close().await.unwrap();
    }
}

/// The same while the network refuses the copy and it is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synced_copy_survives_whatever_happens_while_it_is_refused() {
    let one = One::new().await;
    let copy = one.copied().await;
    one.cache.sync(copy, false).await.unwrap();
    one.lose_source().await;
    let images = drain_watched(&one.cache, &one.disk, &one.bucket).await;
    one.assert_survives(copy, images).await;
    one.cache.close().await.unwrap();
}

/// Found by the crash simulator: what is written over a copy before its batch is made, and lost with the power, leaves the copy.
#[tokio::test]
async fn a_write_over_a_copy_that_a_power_cut_takes_back() {
    let one = One::new().await;
    let copy = one.copied().await;
    one.cache.sync(copy, false).await.unwrap();
    one.lines.silence(true);
    let sent = one.lines.commits();
    one.cache.cut().await.unwrap();
    // Nobody else has run yet on this one thread.
    let newer = pattern(50_000, 4);
    write(&one.cache, copy, 100_000, &newer).await;
    one.lines.sent(sent + 1).await;
    for seed in 0..20 {
        let network = one.bucket.fork();
        let cache = open_in(&one.disk.crash(seed), 2, &network, &one.root, plain()).await;
        let here = read_all(&cache, copy).await;
        let is_newer = |at: usize| at.checked_sub(100_000).and_then(|at| newer.get(at)) == Some(&here[at]);
        assert!((0..600_000).all(|at| here[at] == one.bytes[at] || is_newer(at)), "seed {seed}");
        drain(&cache).await;
        assert!(read_all(&cache, copy).await == here, "seed {seed}");
        cache.close().await.unwrap();
        assert!(elsewhere(&network, &one.root).await["/copy"] == here, "seed {seed}");
    }
    one.lines.cut_off(true);
    one.cache.close().await.unwrap();
}

/// Found by the crash simulator: what is pending again after a crash is so for the next one as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_survives_one_crash_after_another() {
    let one = One::new().await;
    let copy = one.copied().await;
    one.cache.sync(copy, false).await.unwrap();
    one.lines.silence(true);
    let sent = one.lines.commits();
    one.cache.cut().await.unwrap();
    one.lines.sent(sent + 1).await;
    let (disk, network) = (one.disk.kill(), one.bucket.fork());
    let cache = open_on(&disk, &network, &one.root, plain()).await;
    let images = drain_watched(&cache, &disk, &network).await;
    cache.close().await.unwrap();
    one.assert_survives(copy, images).await;
    one.lines.cut_off(true);
    one.cache.close().await.unwrap();
}
