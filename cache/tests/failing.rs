//! A disk whose reads and writes fail now and then: every failure is told to whoever asked, what was acknowledged stays, and
//! once the disk works again everything goes up.

mod common;

use common::*;
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

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// A file, and what is known of it: a byte of a write that failed may be anything.
struct File {
    inode: InodeId,
    largest: usize,
    bytes: Vec<Option<u8>>,
    /// What it is if the first change that the journal refused is found there all the same.
    perhaps: Option<Vec<Option<u8>>>,
}

impl File {
    fn range(&self, dice: &mut Dice) -> Range<usize> {
        let start = dice.roll(self.largest);
        // Small ones ride in their record, others do not.
        let longest = if dice.roll(2) == 0 { 5_000 } else { 150_000 };
        start..(start + 1 + dice.roll(longest)).min(self.largest)
    }

    async fn write(&mut self, cache: &Cache, dice: &mut Dice) -> Result<(), Error> {
        let range = self.range(dice);
        let data = pattern(range.end - range.start, dice.0);
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

    async fn resize(&mut self, cache: &Cache, dice: &mut Dice) -> Result<(), Error> {
        let size = dice.roll(self.largest);
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

    async fn step(&mut self, dice: &mut Dice) {
        let file = &mut self.files[dice.roll(LARGEST.len())];
        let done = match dice.roll(10) {
            0..5 => file.write(&self.cache, dice).await,
            5..8 => {
                let range = file.range(dice);
                file.read(&self.cache, range).await
            }
            8 => file.resize(&self.cache, dice).await,
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
    let mut dice = Dice(seed);
    disk.fail_now_and_then(Some(Failing { below: below.into(), one_in: 7, seed, reads: true, writes: true }));
    for _ in 0..OPERATIONS {
        life.step(&mut dice).await;
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
