//! Data files that are lent to the kernel: they show the content whatever becomes of it, and what programs store into them past
//! the cache is kept like anything that was written.

mod common;

use common::*;
use futures::FutureExt;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use strewn_cache::disk::FileDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Change, Invalidation, Loan, Options, Root};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;
use tempfile::TempDir;

const SEGMENT: u64 = 256 << 10;
const SIZE: usize = 600_000;

struct One {
    bucket: MemoryBucket,
    root: Root,
    directory: TempDir,
    cache: Cache,
    file: InodeId,
}

impl One {
    /// A mount with a file that is durable in its data file.
    async fn new() -> Self {
        let (bucket, root) = bucket(SEGMENT);
        let directory = TempDir::new().unwrap();
        let cache = open(directory.path(), &bucket, &root, options()).await;
        let file = create(&cache, root.inode, "file", Kind::File).await;
        write(&cache, file, 0, &pattern(SIZE, 1)).await;
        cache.sync(file, false).await.unwrap();
        Self { bucket, root, directory, cache, file }
    }

    async fn lend(&self) -> Loan {
        self.cache.lend(self.file).await.unwrap().expect("it can be lent")
    }

    /// A reader, and somebody who may map the file and store into it: the loans, and the file as he has it that mapped it.
    async fn expose(&self) -> ([Loan; 2], File) {
        let reader = self.lend().await;
        let loan = self.cache.lend_exposed(self.file).await.unwrap().expect("it is lent");
        let program = mapped(&loan);
        ([reader, loan], program)
    }

    /// Both have closed the file.
    fn give_back(&self, loans: [Loan; 2]) {
        drop(loans);
        self.cache.take_back(self.file);
        self.cache.take_back(self.file);
    }

    /// What the kernel would see.
    fn shown(&self, loan: &Loan) -> Vec<u8> {
        let mut bytes = vec![0; loan.file.metadata().unwrap().len() as usize];
        loan.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    async fn assert_shown(&self, loan: &Loan, when: &str) {
        let (shown, content) = (self.shown(loan), read_all(&self.cache, self.file).await);
        assert_eq!(shown.len(), content.len(), "{when}");
        assert!(shown == content, "{when}");
    }

    /// What a mount with an empty cache reads.
    async fn read_elsewhere(&self) -> Vec<u8> {
        read_elsewhere(&self.bucket, &self.root).await
    }
}

/// What a kill leaves.
struct Remains {
    bucket: MemoryBucket,
    root: Root,
    directory: TempDir,
}

impl Remains {
    /// The directory at one moment: copied when nothing moved in it meanwhile.
    async fn of(one: &One) -> Self {
        loop {
            let directory = TempDir::new().unwrap();
            let (bucket, before) = (one.bucket.fork(), looks(one.directory.path()));
            if copy_directory(one.directory.path(), directory.path()).is_ok() && looks(one.directory.path()) == before {
                return Self { bucket, root: one.root.clone(), directory };
            }
            tokio::task::yield_now().await;
        }
    }

    /// What another process finds, in this boot of the machine or the next, and what it brings to the network.
    async fn assert_holds(&self, rebooted: bool, expected: &[u8], case: &str) {
        let directory = TempDir::new().unwrap();
        copy_directory(self.directory.path(), directory.path()).unwrap();
        let disk = FileDisk::open(directory.path()).unwrap();
        let boot = if rebooted { BootId([77; 16]) } else { BootId::current().unwrap() };
        let (bucket, root) = (self.bucket.fork(), self.root.clone());
        let cache = Cache::open_on(disk, boot, Arc::new(bucket.clone()), root, options()).await.unwrap();
        let file = lookup(&cache, self.root.inode, "file").await.unwrap();
        assert!(read_all(&cache, file).await == expected, "after a kill: {case}");
        drain(&cache).await;
        assert!(read_elsewhere(&bucket, &self.root).await == expected, "on the network: {case}");
    }
}

/// Names, lengths and times of change.
fn looks(directory: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            found.extend(looks(&entry.path()));
        } else {
            found.push((entry.path(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()));
        }
    }
    found.sort();
    found
}

/// What a mount with an empty cache reads.
async fn read_elsewhere(bucket: &MemoryBucket, root: &Root) -> Vec<u8> {
    let directory = TempDir::new().unwrap();
    let cache = open(directory.path(), bucket, root, options()).await;
    let file = lookup(&cache, root.inode, "file").await.unwrap();
    read_all(&cache, file).await
}

/// Housekeeping ends the loan, once nothing in the background has the data file open.
async fn assert_loan_ends(cache: &Cache, file: InodeId) {
    let ends = async {
        while cache.is_lent(file) {
            cache.keep_house().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("the loan ends");
}

fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&target)?;
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The lent file as a program has it that mapped it.
fn mapped(loan: &Loan) -> File {
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", loan.file.as_raw_fd())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_short_incomplete_or_encrypted_is_not_lent() {
    let one = One::new().await;
    let short = create(&one.cache, one.root.inode, "short", Kind::File).await;
    write(&one.cache, short, 0, &pattern(100_000, 2)).await;
    let sparse = create(&one.cache, one.root.inode, "sparse", Kind::File).await;
    write(&one.cache, sparse, 300_000, &pattern(100_000, 3)).await;
    one.cache.sync_all().await.unwrap();
    for inode in [short, sparse, one.root.inode] {
        assert!(one.cache.lend(inode).await.unwrap().is_none());
    }
    drain(&one.cache).await;
    let directory = TempDir::new().unwrap();
    let elsewhere = open(directory.path(), &one.bucket, &one.root, options()).await;
    let file = lookup(&elsewhere, one.root.inode, "file").await.unwrap();
    assert!(elsewhere.lend(file).await.unwrap().is_none(), "nothing of it is here");
    read_all(&elsewhere, file).await;
    elsewhere.sync_all().await.unwrap();
    elsewhere.keep_house().await.unwrap();
    let directory = TempDir::new().unwrap();
    let encrypted = Options { encrypt: true, index: false, ..options() };
    let sealed = open(directory.path(), &one.bucket, &one.root, encrypted).await;
    let file = lookup(&sealed, one.root.inode, "file").await.unwrap();
    read_all(&sealed, file).await;
    sealed.sync_all().await.unwrap();
    assert!(sealed.lend(file).await.unwrap().is_none(), "its data file is sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_half_of_the_budget_is_lent() {
    let (bucket, root) = bucket(SEGMENT);
    let directory = TempDir::new().unwrap();
    let cache = open(directory.path(), &bucket, &root, Options { budget: 2_000_000, ..options() }).await;
    let mut files = Vec::new();
    for name in ["a", "b"] {
        let file = create(&cache, root.inode, name, Kind::File).await;
        write(&cache, file, 0, &pattern(SIZE, 1)).await;
        cache.sync(file, false).await.unwrap();
        files.push(file);
    }
    let loan = cache.lend(files[0]).await.unwrap().expect("600 of 1,000 kB");
    assert!(cache.lend(files[1]).await.unwrap().is_none());
    drop(loan);
    cache.take_back(files[0]);
    assert_loan_ends(&cache, files[0]).await;
    assert!(cache.lend(files[1]).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loan_ends_with_the_last_who_has_the_file_open() {
    let one = One::new().await;
    let loan = one.lend().await;
    let second = one.cache.lend_again(one.file).unwrap();
    assert!(Arc::ptr_eq(&loan.file, &second.file), "the kernel wants the same for all");
    // As the kernel has it that maps it: longer than any handle.
    let map = File::open(format!("/proc/self/fd/{}", loan.file.as_raw_fd())).unwrap();
    drop((loan, second));
    one.cache.take_back(one.file);
    one.cache.take_back(one.file);
    assert!(one.cache.is_lent(one.file), "it is mapped");
    one.cache.keep_house().await.unwrap();
    assert!(one.cache.is_lent(one.file));
    drop(map);
    assert_loan_ends(&one.cache, one.file).await;
    assert!(one.cache.lend_again(one.file).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loan_ends_after_something_was_cleared() {
    let one = One::new().await;
    let loan = one.lend().await;
    one.cache.sync_all().await.unwrap();
    resize(&one.cache, one.file, 290_000).await;
    one.cache.show(one.file, Change::Size).await.unwrap();
    drop(loan);
    one.cache.take_back(one.file);
    assert_loan_ends(&one.cache, one.file).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_the_content_shows() {
    for seed in 0..12 {
        let one = One::new().await;
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let loan = one.lend().await;
        let file = one.file;
        for step in 0..40 {
            let size = one.cache.transact(|tx| tx.attributes(file)).await.unwrap().size;
            let offset = dice.random_range(0..=size);
            let most = if dice.random_ratio(1, 2) { 5_000 } else { 200_000 };
            let length = dice.random_range(1..=most);
            let what = dice.random_range(0..9);
            match what {
                0..=3 => {
                    write(&one.cache, file, offset, &pattern(length as usize, step)).await;
                    if one.cache.is_mirrored(file) {
                        one.cache.show(file, Change::Written(offset..offset + length)).await.unwrap();
                    }
                }
                4 | 5 => {
                    let size = if what == 4 { offset } else { size + length };
                    resize(&one.cache, file, size).await;
                    one.cache.show(file, Change::Size).await.unwrap();
                }
                6 => {
                    punch(&one.cache, file, offset, length).await;
                    one.cache.show(file, Change::Hole(offset..offset + length)).await.unwrap();
                }
                7 if seed % 3 == 0 => {
                    resize(&one.cache, file, 0).await;
                    one.cache.show(file, Change::Size).await.unwrap();
                }
                7 => drop(one.cache.cut().await.unwrap()),
                _ => drain(&one.cache).await,
            }
            one.assert_shown(&loan, &format!("seed {seed}, step {step}: {what}")).await;
        }
        let here = read_all(&one.cache, file).await;
        drain(&one.cache).await;
        assert!(one.read_elsewhere().await == here, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_mount_changed_shows() {
    let one = One::new().await;
    drain(&one.cache).await;
    let loan = one.lend().await;
    let directory = TempDir::new().unwrap();
    let other = open(directory.path(), &one.bucket, &one.root, options()).await;
    let file = lookup(&other, one.root.inode, "file").await.unwrap();
    let changed = pattern(SIZE + 12_345, 5);
    write(&other, file, 0, &changed).await;
    drain(&other).await;
    until(&one, "it shows", || one.shown(&loan) == changed).await;
    assert!(one.cache.is_mirrored(one.file));
    one.assert_shown(&loan, "of another mount").await;
    // From here on it is a copy, which writes here follow.
    write(&one.cache, one.file, 7, b"here").await;
    one.cache.show(one.file, Change::Written(7..11)).await.unwrap();
    one.assert_shown(&loan, "written here").await;
    // Who stores into the copy stores into the file.
    until(&one, "it has caught up", || {
        let again = one.cache.lend_again(one.file).unwrap();
        one.cache.take_back(one.file);
        again.shows
    })
    .await;
    let exposed = one.cache.lend_exposed(one.file).await.unwrap().unwrap();
    mapped(&exposed).write_all_at(b"stored", 100_000).unwrap();
    drain(&one.cache).await;
    let mut expected = changed;
    expected[7..11].copy_from_slice(b"here");
    expected[100_000..100_006].copy_from_slice(b"stored");
    assert!(one.read_elsewhere().await == expected);
}

/// Waits for what the background does, a round of housekeeping at a time.
async fn until(one: &One, what: &str, holds: impl Fn() -> bool) {
    let late = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < late, "{what}");
        one.cache.keep_house().await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_and_what_another_mount_changed_are_both_kept() {
    let one = One::new().await;
    drain(&one.cache).await;
    let (_loans, program) = one.expose().await;
    drain(&one.cache).await;
    program.write_all_at(b"stored", 1_000).unwrap();
    let directory = TempDir::new().unwrap();
    let other = open(directory.path(), &one.bucket, &one.root, options()).await;
    let file = lookup(&other, one.root.inode, "file").await.unwrap();
    write(&other, file, 300_000, b"elsewhere").await;
    drain(&other).await;
    one.cache.catch_up(one.bucket.snapshot().sequence).await.unwrap();
    drain(&one.cache).await;
    let directory = TempDir::new().unwrap();
    let anew = open(directory.path(), &one.bucket, &one.root, options()).await;
    let files: Vec<Vec<u8>> = picture(&anew).await.into_values().map(|(.., bytes)| bytes).collect();
    let has = |at: usize, text: &[u8]| files.iter().any(|bytes| bytes[at..].starts_with(text));
    assert!(has(1_000, b"stored") && has(300_000, b"elsewhere"), "{}", files.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_short_is_lent_at_its_length() {
    let one = One::new().await;
    resize(&one.cache, one.file, 400_000).await;
    let loan = one.lend().await;
    assert!(one.shown(&loan) == pattern(SIZE, 1)[..400_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_is_told_of_stores() {
    let one = One::new().await;
    drain(&one.cache).await;
    let mut told = one.cache.invalidations().unwrap();
    let (_loans, program) = one.expose().await;
    let before = one.cache.transact(|tx| tx.attributes(one.file)).await.unwrap();
    program.write_all_at(b"stored", 1_000).unwrap();
    drain(&one.cache).await;
    let after = one.cache.transact(|tx| tx.attributes(one.file)).await.unwrap();
    assert!(after.mtime > before.mtime && after.ctime > before.ctime);
    assert_eq!(told.try_recv(), Ok(Invalidation::Inode(one.file)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_survive_a_kill_and_reach_the_network() {
    for (pending, cut_between, rebooted) in
        [(true, false, false), (false, false, false), (false, true, false), (true, true, true), (false, true, true)]
    {
        let one = One::new().await;
        if !pending {
            drain(&one.cache).await;
        }
        let (_loans, program) = one.expose().await;
        let mut expected = pattern(SIZE, 1);
        let mut store = |at: usize, text: &[u8]| {
            program.write_all_at(text, at as u64).unwrap();
            expected[at..at + text.len()].copy_from_slice(text);
        };
        store(5_000, b"first");
        if cut_between {
            one.cache.cut().await.unwrap();
            store(300_000, b"second");
            drain(&one.cache).await;
        }
        store(400_000, b"third");
        program.sync_all().unwrap();
        let remains = Remains::of(&one).await;
        remains.assert_holds(rebooted, &expected, &format!("{pending} {cut_between} {rebooted}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_stores_come_through_a_power_cut_together() {
    for snapshot in [false, true] {
        write_and_store(snapshot).await;
    }
}

async fn write_and_store(snapshot: bool) {
    let one = One::new().await;
    let (_loans, program) = one.expose().await;
    let mut expected = pattern(SIZE, 1);
    // A small write, whose bytes would be in the journal, and then a store over it.
    write(&one.cache, one.file, 9_000, b"written").await;
    program.write_all_at(b"stored!", 9_003).unwrap();
    expected[9_000..9_010].copy_from_slice(b"wristored!");
    write(&one.cache, one.file, 20_000, &pattern(50_000, 8)).await;
    expected[20_000..70_000].copy_from_slice(&pattern(50_000, 8));
    one.cache.sync(one.file, false).await.unwrap();
    // A large write, whose bytes are in no record, made durable by the program alone.
    write(&one.cache, one.file, SIZE as u64, &pattern(50_000, 9)).await;
    expected.extend(pattern(50_000, 9));
    program.sync_all().unwrap();
    if snapshot {
        drain(&one.cache).await;
        one.cache.snapshot().await.unwrap();
        program.write_all_at(b"after the snapshot", 100_000).unwrap();
        expected[100_000..100_018].copy_from_slice(b"after the snapshot");
    }
    let remains = Remains::of(&one).await;
    for rebooted in [false, true] {
        remains.assert_holds(rebooted, &expected, &format!("{snapshot} {rebooted}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_looked_for_until_nobody_can_make_any() {
    let one = One::new().await;
    drain(&one.cache).await;
    let (loans, program) = one.expose().await;
    one.give_back(loans);
    one.cache.keep_house().await.unwrap();
    assert!(one.cache.is_lent(one.file), "it is mapped for writing");
    program.write_all_at(b"late", 77).unwrap();
    drop(program);
    assert_loan_ends(&one.cache, one.file).await;
    let mut expected = pattern(SIZE, 1);
    expected[77..81].copy_from_slice(b"late");
    assert!(read_all(&one.cache, one.file).await == expected);
    drain(&one.cache).await;
    assert!(one.read_elsewhere().await == expected);
    assert!(one.cache.lend(one.file).await.unwrap().is_none(), "who mapped it may come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_up_of_what_nobody_stored_into() {
    let one = One::new().await;
    drain(&one.cache).await;
    // A time of change that is too young tells nothing: it has to grow old.
    let file = one.lend().await.file;
    let changed = file.metadata().unwrap().ctime_nsec() + file.metadata().unwrap().ctime() * 1_000_000_000;
    drop(file);
    one.cache.take_back(one.file);
    let now = || i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
    while now() - changed < 150_000_000 {
        tokio::task::yield_now().await;
    }
    let (loans, program) = one.expose().await;
    drop(program);
    let before = one.cache.status().uploaded_bytes;
    for _ in 0..3 {
        drain(&one.cache).await;
        one.cache.keep_house().await.unwrap();
    }
    one.give_back(loans);
    one.cache.keep_house().await.unwrap();
    drain(&one.cache).await;
    assert_eq!(one.cache.status().uploaded_bytes, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_file_that_programs_store_into_has_what_they_stored() {
    let one = One::new().await;
    drain(&one.cache).await;
    let (_loans, program) = one.expose().await;
    drain(&one.cache).await;
    program.write_all_at(b"stored", 1_000).unwrap();
    let copy = create(&one.cache, one.root.inode, "copy", Kind::File).await;
    let mut copied = 0;
    while copied < SIZE as u64 {
        let left = SIZE as u64 - copied;
        copied += one.cache.copy((one.file, copied), (copy, copied), (left.min(100_000), left), |_| {}).await.unwrap();
    }
    drain(&one.cache).await;
    let mut expected = pattern(SIZE, 1);
    expected[1_000..1_006].copy_from_slice(b"stored");
    let directory = TempDir::new().unwrap();
    let cache = open(directory.path(), &one.bucket, &one.root, options()).await;
    for name in ["copy", "file"] {
        let file = lookup(&cache, one.root.inode, name).await.unwrap();
        assert!(read_all(&cache, file).await == expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_removed_while_programs_store_into_it_is_no_trouble() {
    let one = One::new().await;
    let (loans, program) = one.expose().await;
    one.give_back(loans);
    unlink(&one.cache, one.root.inode, "file").await;
    program.write_all_at(b"for nobody", 0).unwrap();
    drain(&one.cache).await;
    one.cache.keep_house().await.unwrap();
    drop(program);
    assert_loan_ends(&one.cache, one.file).await;
    assert_eq!(one.cache.status().last_error, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_into_holes_is_read_and_kept() {
    let one = One::new().await;
    let (_loans, program) = one.expose().await;
    let mut expected = pattern(SIZE, 1);
    punch(&one.cache, one.file, 100_000, 200_000).await;
    one.cache.show(one.file, Change::Hole(100_000..300_000)).await.unwrap();
    expected[100_000..300_000].fill(0);
    resize(&one.cache, one.file, 900_000).await;
    one.cache.show(one.file, Change::Size).await.unwrap();
    expected.resize(900_000, 0);
    for at in [150_000, 700_000] {
        program.write_all_at(b"stored", at as u64).unwrap();
        expected[at..at + 6].copy_from_slice(b"stored");
    }
    assert!(read_all(&one.cache, one.file).await == expected);
    // Another hole is made, and it is looked for what others may have changed.
    punch(&one.cache, one.file, 400_000, 1_000).await;
    one.cache.show(one.file, Change::Hole(400_000..401_000)).await.unwrap();
    expected[400_000..401_000].fill(0);
    one.cache.show(one.file, Change::Any).await.unwrap();
    assert!(read_all(&one.cache, one.file).await == expected);
    drain(&one.cache).await;
    assert!(one.read_elsewhere().await == expected);
    assert!(one.cache.transact(|tx| tx.allocated(one.file)).await.unwrap() < 700_000, "the rest stays a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_wait_for_a_loan_leaves_none() {
    let (one, reader) = loop {
        let one = One::new().await;
        let reader = one.lend().await;
        // Making the data file durable takes a while, so the first look hardly ever finds it done.
        if one.cache.lend_exposed(one.file).now_or_never().is_none() {
            break (one, reader);
        }
    };
    drop(reader);
    one.cache.take_back(one.file);
    assert_loan_ends(&one.cache, one.file).await;
}
