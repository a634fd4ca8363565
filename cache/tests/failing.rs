//! A disk whose reads and writes fail now and then: every failure is told to whoever asked, what was acknowledged stays, and
//! once the disk works again everything goes up.

mod common;

use common::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::time::Duration;
use strewn_cache::disk::{Failing, MemoryDisk};
use strewn_cache::{Cache, Error, Options, Position};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

const SEEDS: u64 = 8;
const OPERATIONS: usize = 80;
/// One file lives in memory and journal, the others in data files.
const LARGEST: [usize; 3] = [40_000, 300_000, 700_000];
/// A drain that does not get on is given up after this.
const SHORT: Duration = Duration::from_millis(30);

/// A file, and what is known of it: a byte of a write that failed may be anything.
struct File {
    inode: InodeId,
    largest: usize,
    bytes: Vec<Option<u8>>,
    /// What it is if the first change that the journal refused is found there all the same.
    perhaps: Option<Vec<Option<u8>>>,
}

impl File {
    fn range(&self, random: &mut ChaCha8Rng) -> Range<usize> {
        let start = random.random_range(0..self.largest);
        // Small ones ride in their record, others do not.
        let longest = if random.random_bool(0.5) { 5_000 } else { 150_000 };
        start..(start + 1 + random.random_range(0..longest)).min(self.largest)
    }

    async fn write(&mut self, cache: &Cache, random: &mut ChaCha8Rng) -> Result<(), Error> {
        let range = self.range(random);
        let data = pattern(range.end - range.start, random.random());
        let written = cache.write(self.inode, Position::At(range.start as u64), &data, |_| {}).await;
        let known = written.is_ok();
        if known {
            self.bytes.resize(self.bytes.len().max(range.end), Some(0));
        } else if self.perhaps.is_none() {
            let mut perhaps = self.bytes.clone();
            perhaps.resize(perhaps.len().max(range.end), Some(0));
            range.clone().zip(&data).for_each(|(at, byte)| perhaps[at] = Some(*byte));
            self.perhaps = Some(perhaps);
        }
        let end = range.end.min(self.bytes.len()).max(range.start);
        for (at, byte) in (range.start..end).zip(data) {
            self.bytes[at] = known.then_some(byte);
        }
        written.map(|_| ())
    }

    async fn resize(&mut self, cache: &Cache, random: &mut ChaCha8Rng) -> Result<(), Error> {
        let size = random.random_range(0..self.largest);
        let mut resized = self.bytes.clone();
        resized.resize(size, Some(0));
        match cache.transact(|tx| tx.resize(self.inode, size as u64)).await {
            Ok(()) => self.bytes = resized,
            Err(error) => {
                self.perhaps.get_or_insert(resized);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn read(&self, cache: &Cache, range: Range<usize>) -> Result<(), Error> {
        let read = cache.read(self.inode, range.start as u64, range.end - range.start).await?;
        assert!(is_part(&read, &self.bytes, &range), "{range:?}");
        Ok(())
    }

    /// What a process finds after one whose journal failed.
    async fn find(&self, cache: &Cache) {
        let all = 0..self.largest + 1;
        let found = cache.read(self.inode, 0, all.end).await.expect("the disk works");
        let perhaps = self.perhaps.as_ref().is_some_and(|perhaps| is_part(&found, perhaps, &all));
        assert!(perhaps || is_part(&found, &self.bytes, &all));
    }
}

/// Whether bytes that were read are what is known of this range.
fn is_part(read: &[u8], known: &[Option<u8>], range: &Range<usize>) -> bool {
    let known = &known[range.start.min(known.len())..range.end.min(known.len())];
    known.len() == read.len() && known.iter().zip(read).all(|(known, byte)| known.is_none_or(|known| known == *byte))
}

struct Life {
    cache: Cache,
    files: Vec<File>,
}

impl Life {
    async fn new(cache: Cache, root: InodeId) -> Self {
        let mut files = Vec::new();
        for (number, largest) in LARGEST.into_iter().enumerate() {
            let inode = create(&cache, root, &format!("f{number}"), Kind::File).await;
            files.push(File { inode, largest, bytes: Vec::new(), perhaps: None });
        }
        Self { cache, files }
    }

    async fn step(&mut self, random: &mut ChaCha8Rng) {
        let file = &mut self.files[random.random_range(0..LARGEST.len())];
        let done = match random.random_range(0..10) {
            0..5 => file.write(&self.cache, random).await,
            5..8 => {
                let range = file.range(random);
                file.read(&self.cache, range).await
            }
            8 => file.resize(&self.cache, random).await,
            _ => self.cache.drain_within(SHORT, |_| {}).await,
        };
        match done {
            Ok(()) | Err(Error::Disk(_) | Error::Pending(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn assert_all(&self, cache: &Cache) {
        for file in &self.files {
            file.read(cache, 0..file.largest + 1).await.expect("the disk works");
        }
    }
}

/// Lets a disk fail below a directory; gives how many calls failed.
async fn live(seed: u64, below: &str) -> u64 {
    let (bucket, root) = bucket(1 << 20);
    let disk = MemoryDisk::new();
    let options = || Options { deadline: Duration::from_secs(5), ..options() };
    let mut life = Life::new(open_on(&disk, &bucket, &root, options()).await, root.inode).await;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    disk.fail_now_and_then(Some(Failing { below: below.into(), one_in: 7, seed, reads: true, writes: true }));
    for _ in 0..OPERATIONS {
        life.step(&mut random).await;
    }
    disk.fail_now_and_then(None);

    // The process dies; the next one finds what was acknowledged.
    let next = open_on(&disk.kill(), &bucket, &root, options()).await;
    if below == "journal" {
        for file in &life.files {
            file.find(&next).await;
        }
    } else {
        life.assert_all(&next).await;
        life.assert_all(&life.cache).await;
        drain(&life.cache).await;
        life.assert_all(&life.cache).await;
        let elsewhere = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
        for (number, file) in life.files.iter().enumerate() {
            assert_eq!(lookup(&elsewhere, root.inode, &format!("f{number}")).await, Some(file.inode));
        }
        life.assert_all(&elsewhere).await;
    }
    disk.failures()
}

async fn lives(below: &str) {
    let mut failures = 0;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        failures += live(seed, below).await;
    }
    assert!(failures >= SEEDS, "the disk hardly failed: {failures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_files_that_fail() {
    lives("data").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_segments_that_fail() {
    lives("sealed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_fail() {
    lives("blobs").await;
}

/// After the first failure nothing is acknowledged any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_fails() {
    lives("journal").await;
}
