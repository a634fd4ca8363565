//! What a restart finds again, and what it must not.

mod common;

use common::*;
use std::path::Path;
use std::sync::Arc;
use strewn_cache::disk::{FileDisk, MemoryDisk};
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Error, Options, Root};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;

/// A file with a data file.
const LARGE: usize = 400_000;

/// A cache in a directory.
struct Mount {
    cache: Cache,
    disk: Arc<FileDisk>,
}

impl std::ops::Deref for Mount {
    type Target = Cache;
    fn deref(&self) -> &Cache {
        &self.cache
    }
}

impl Mount {
    async fn close(self) -> Result<(), Error> {
        self.cache.close().await?;
        Ok(self.disk.release()?)
    }
}

/// Opens a cache in a directory, in a given boot of the machine.
async fn open_boot(directory: &Path, boot: u8, bucket: &MemoryBucket, root: &Root, options: Options) -> Mount {
    let disk = FileDisk::open(directory).expect("the directory is free");
    let boot = BootId([boot; 16]);
    let cache = Cache::open_on(disk.clone(), boot, Arc::new(bucket.clone()), root.clone(), options).await;
    Mount { cache: cache.expect("the cache opens"), disk }
}

/// What `kill -9` leaves of a cache directory: all that was written so far.
fn killed(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(directory, copy.path());
    copy
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_into(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

async fn create_with(cache: &Cache, root: InodeId, text: &str, bytes: &[u8]) -> InodeId {
    let file = create(cache, root, text, Kind::File).await;
    write(cache, file, 0, bytes).await;
    drain(cache).await;
    file
}

/// Reads a file and says how many bytes had to be fetched for it.
async fn fetched_for(cache: &Cache, root: InodeId, text: &str, expected: &[u8]) -> u64 {
    let before = cache.status().fetched_bytes;
    let file = hold(cache, root, text).await.expect("the file is there");
    assert!(read_all(cache, file).await == expected, "{text}");
    let_go(cache, file).await;
    cache.status().fetched_bytes - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clean_bytes_are_found_again_after_a_restart_and_a_reboot() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let bytes = pattern(LARGE, 1);
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    create_with(&cache, root.inode, "written", &bytes).await;
    let elsewhere = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    create_with(&elsewhere, root.inode, "fetched", &bytes).await;
    cache.transact(|tx| tx.read_dir(root.inode, 0, 10)).await.unwrap();
    assert!(fetched_for(&cache, root.inode, "fetched", &bytes).await > 0);
    cache.close().await.unwrap();
    for boot in [1, 1, 2, 3] {
        let cache = open_boot(here.path(), boot, &bucket, &root, options()).await;
        for text in ["written", "fetched"] {
            assert_eq!(fetched_for(&cache, root.inode, text, &bytes).await, 0, "{text} in boot {boot}");
        }
        cache.close().await.unwrap();
    }
    // Not looked at in between: it stays as it is.
    for boot in [3, 4] {
        open_boot(here.path(), boot, &bucket, &root, options()).await.close().await.unwrap();
    }
    let cache = open_boot(here.path(), 4, &bucket, &root, options()).await;
    assert_eq!(fetched_for(&cache, root.inode, "written", &bytes).await, 0);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_read_is_all_that_is_here() {
    let (bucket, root) = bucket(1 << 20);
    let bytes = pattern(3 * LARGE, 2);
    let elsewhere = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    create_with(&elsewhere, root.inode, "f", &bytes).await;
    let here = tempfile::tempdir().unwrap();
    let options = Options { read_ahead: 0, ..options() };
    let cache = open_boot(here.path(), 1, &bucket, &root, options.clone()).await;
    let file = lookup(&cache, root.inode, "f").await.unwrap();
    assert!(cache.read(file, 500_000, 1_000).await.unwrap() == bytes[500_000..501_000]);
    cache.close().await.unwrap();
    let cache = open_boot(here.path(), 2, &bucket, &root, options).await;
    let file = lookup(&cache, root.inode, "f").await.unwrap();
    assert!(cache.read(file, 500_000, 1_000).await.unwrap() == bytes[500_000..501_000]);
    assert_eq!(cache.status().fetched_bytes, 0);
    assert!(fetched_for(&cache, root.inode, "f", &bytes).await > 1_000_000);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_mount_changed_meanwhile_is_fetched() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    for text in ["changed", "shorter", "replaced", "same"] {
        create_with(&cache, root.inode, text, &pattern(LARGE, 3)).await;
    }
    cache.close().await.unwrap();
    let elsewhere = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let changed = lookup(&elsewhere, root.inode, "changed").await.unwrap();
    write(&elsewhere, changed, 1_000, b"changed elsewhere").await;
    let shorter = lookup(&elsewhere, root.inode, "shorter").await.unwrap();
    resize(&elsewhere, shorter, 100_000).await;
    drain(&elsewhere).await;
    resize(&elsewhere, shorter, LARGE as u64).await;
    unlink(&elsewhere, root.inode, "replaced").await;
    create_with(&elsewhere, root.inode, "replaced", &pattern(LARGE, 4)).await;
    let mut expected = pattern(LARGE, 3);
    expected[1_000..1_017].copy_from_slice(b"changed elsewhere");
    let mut cut = pattern(LARGE, 3);
    cut[100_000..].fill(0);
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    assert!(fetched_for(&cache, root.inode, "changed", &expected).await > 0);
    fetched_for(&cache, root.inode, "shorter", &cut).await;
    assert!(fetched_for(&cache, root.inode, "replaced", &pattern(LARGE, 4)).await > 0);
    assert_eq!(fetched_for(&cache, root.inode, "same", &pattern(LARGE, 3)).await, 0);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clean_bytes_survive_the_death_of_the_process_but_no_reboot_without_a_close() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let bytes = pattern(LARGE, 5);
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    create_with(&cache, root.inode, "f", &bytes).await;
    let left = killed(here.path());
    let rebooted = killed(here.path());
    let again = open_boot(left.path(), 1, &bucket, &root, options()).await;
    assert_eq!(fetched_for(&again, root.inode, "f", &bytes).await, 0);
    again.close().await.unwrap();
    let again = open_boot(rebooted.path(), 2, &bucket, &root, options()).await;
    assert!(fetched_for(&again, root.inode, "f", &bytes).await > 0);
    again.close().await.unwrap();
    cache.close().await.unwrap();
}

/// The file is written again after its row was put: killed at any moment, its clean bytes are never taken for the old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_outlives_the_bytes_it_speaks_of() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let old = pattern(LARGE, 6);
    let mut expected = old.clone();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    let file = create_with(&cache, root.inode, "f", &old).await;
    for round in 0..4u8 {
        let overwrite = [round; 50_000];
        write(&cache, file, 60_000 * u64::from(round), &overwrite).await;
        // Without its journal the next process knows of no write: the network has the content of before.
        let lost = killed(here.path());
        std::fs::remove_dir_all(lost.path().join("journal")).unwrap();
        let again = open_boot(lost.path(), 1, &bucket, &root, options()).await;
        fetched_for(&again, root.inode, "f", &expected).await;
        again.close().await.unwrap();
        // With its journal it knows.
        let start = 60_000 * usize::from(round);
        expected[start..start + 50_000].copy_from_slice(&overwrite);
        let left = killed(here.path());
        let again = open_boot(left.path(), 1, &bucket, &root, options()).await;
        fetched_for(&again, root.inode, "f", &expected).await;
        again.close().await.unwrap();
        drain(&cache).await;
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_damaged_index_costs_fetching_alone() {
    let (bucket, root) = bucket(1 << 20);
    let bytes = pattern(LARGE, 7);
    let damage: [fn(&Path); 4] = [
        |path| std::fs::remove_file(path.join("index")).unwrap(),
        |path| std::fs::write(path.join("index"), b"SQLite format 3\0 no more").unwrap(),
        |path| std::fs::write(path.join("index"), vec![0x5a; 30_000]).unwrap(),
        |path| {
            let data = path.join("data");
            std::fs::remove_dir_all(&data).unwrap();
            std::fs::create_dir(&data).unwrap();
        },
    ];
    for damage in damage {
        let here = tempfile::tempdir().unwrap();
        let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
        let text = format!("f{}", bucket.snapshot().sequence);
        create_with(&cache, root.inode, &text, &bytes).await;
        cache.close().await.unwrap();
        damage(here.path());
        for fetched in [true, false] {
            let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
            assert_eq!(fetched_for(&cache, root.inode, &text, &bytes).await > 0, fetched);
            cache.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_data_file_is_not_believed() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let bytes = pattern(LARGE, 8);
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    create_with(&cache, root.inode, "f", &bytes).await;
    cache.close().await.unwrap();
    for file in data_files(here.path()) {
        std::fs::File::options().write(true).open(file).unwrap().set_len(200_000).unwrap();
    }
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    assert!(fetched_for(&cache, root.inode, "f", &bytes).await > 0);
    cache.close().await.unwrap();
}

fn data_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    entries(&directory.join("data")).iter().flat_map(|directory| entries(directory)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_index_nothing_of_it_stays() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let bytes = pattern(LARGE, 9);
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    let file = create_with(&cache, root.inode, "f", &bytes).await;
    cache.close().await.unwrap();
    assert!(here.path().join("index").exists());
    let cache = open_boot(here.path(), 1, &bucket, &root, Options { index: false, ..options() }).await;
    assert!(!here.path().join("index").exists());
    assert!(fetched_for(&cache, root.inode, "f", &bytes).await > 0);
    write(&cache, file, 0, b"written").await;
    assert!(read_all(&cache, file).await[7..] == bytes[7..]);
    drain(&cache).await;
    cache.close().await.unwrap();
    assert!(!here.path().join("index").exists());
}

/// Keeps house until that has brought something about.
async fn keep_house_until(cache: &Cache, mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            cache.keep_house().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("in time");
}

/// Files of a mebibyte that nobody looks at.
const FILES: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_nobody_looks_at_count_and_go_first() {
    let (bucket, root) = bucket(1 << 20);
    let elsewhere = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    create_with(&elsewhere, root.inode, "extra", &pattern(6 << 20, 50)).await;
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    for index in 0..FILES as u64 {
        create_with(&cache, root.inode, &format!("f{index}"), &pattern(1 << 20, index)).await;
    }
    cache.close().await.unwrap();
    // Killed at once: the bytes are here, the names are not.
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    let left = killed(here.path());
    cache.close().await.unwrap();
    let here = left;
    let journal = std::fs::read_dir(here.path().join("journal")).unwrap();
    let journal: u64 = journal.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    // Room for what is here and for what the journal may grow by, but not for what is read now.
    let budget = journal + 2 * strewn_cache::journal::PREWRITE + ((FILES as u64 + 3) << 20);
    let options = Options { budget, read_ahead: 0, ..options() };
    let cache = open_boot(here.path(), 1, &bucket, &root, options).await;
    let used = lookup(&cache, root.inode, "f3").await.unwrap();
    assert!(fetched_for(&cache, root.inode, "extra", &pattern(6 << 20, 50)).await > 0);
    keep_house_until(&cache, || data_files(here.path()).len() <= FILES && cache.status().cache_bytes <= budget).await;
    bucket.set_unreachable(true);
    assert!(read_all(&cache, used).await == pattern(1 << 20, 3), "what was looked at stays");
    bucket.set_unreachable(false);
    for index in 0..FILES as u64 {
        fetched_for(&cache, root.inode, &format!("f{index}"), &pattern(1 << 20, index)).await;
    }
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_forgotten_by_memory_leave_their_bytes_here() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, Options { memory: 0, ..options() }).await;
    let bytes = pattern(LARGE, 11);
    let forget = async |round: u8| {
        // A quarter goes at a time, the one that was not used for longest first.
        for index in 0..4 {
            create(&cache, root.inode, &format!("{round}.{index}"), Kind::File).await;
        }
        drain(&cache).await;
        keep_house_until(&cache, || cache.status().known_inodes <= 3).await;
    };
    create_with(&cache, root.inode, "f", &bytes).await;
    forget(1).await;
    assert_eq!(fetched_for(&cache, root.inode, "f", &bytes).await, 0);
    // Changed elsewhere while it is forgotten here.
    forget(2).await;
    let elsewhere = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = lookup(&elsewhere, root.inode, "f").await.unwrap();
    write(&elsewhere, file, 0, b"new").await;
    drain(&elsewhere).await;
    let expected = [b"new", &bytes[3..]].concat();
    assert!(fetched_for(&cache, root.inode, "f", &expected).await > 0);
    cache.close().await.unwrap();
}

/// A tree with something of everything, all of it on the network.
async fn plant(cache: &Cache, root: InodeId) {
    let directory = create(cache, root, "directory", Kind::Directory).await;
    let deeper = create(cache, directory, "deeper", Kind::Directory).await;
    create(cache, root, "link", Kind::Symlink).await;
    create(cache, directory, "empty", Kind::Directory).await;
    for index in 0..20 {
        let file = create(cache, deeper, &format!("f{index}"), Kind::File).await;
        let size = if index % 3 == 0 { 100_000 } else { 3_000 };
        write(cache, file, 0, &pattern(size + index, index as u64)).await;
    }
    let twice = lookup(cache, deeper, "f0").await.unwrap();
    let second = name("second name");
    cache.transact(|tx| tx.set_entry(directory, &second, Some(twice))).await.unwrap();
    drain(cache).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_was_known_is_there_without_the_network() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    plant(&cache, root.inode).await;
    let before = picture(&cache).await;
    assert_eq!(before.len(), 25);
    cache.close().await.unwrap();
    for boot in [1, 2] {
        bucket.set_unreachable(true);
        let cache = open_boot(here.path(), boot, &bucket, &root, options()).await;
        assert!(picture(&cache).await == before, "away, boot {boot}");
        cache.close().await.unwrap();
        bucket.set_unreachable(false);
        let cache = open_boot(here.path(), boot, &bucket, &root, options()).await;
        let calls = bucket.calls();
        assert!(picture(&cache).await == before, "there, boot {boot}");
        let (entries, inodes) = (bucket.calls().entries, bucket.calls().inode);
        assert_eq!((entries, inodes), (calls.entries, calls.inode), "boot {boot}");
        assert_eq!(cache.status().fetched_bytes, 0);
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_what_is_clean_come_back_together() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let impatient = Options { deadline: std::time::Duration::from_millis(300), ..options() };
    let cache = open_boot(here.path(), 1, &bucket, &root, impatient.clone()).await;
    plant(&cache, root.inode).await;
    picture(&cache).await;
    bucket.set_unreachable(true);
    let directory = lookup(&cache, root.inode, "directory").await.unwrap();
    let deeper = lookup(&cache, directory, "deeper").await.unwrap();
    rename(&cache, deeper, "f3", root.inode, "moved").await;
    rename(&cache, directory, "empty", deeper, "emptied").await;
    unlink(&cache, deeper, "f4").await;
    let changed = lookup(&cache, deeper, "f5").await.unwrap();
    write(&cache, changed, 50, b"changed").await;
    create(&cache, deeper, "new", Kind::File).await;
    let shorter = lookup(&cache, deeper, "f6").await.unwrap();
    resize(&cache, shorter, 70_000).await;
    assert!(cache.drain(|_| {}).await.is_err());
    let late = create(&cache, directory, "late", Kind::File).await;
    write(&cache, late, 0, &pattern(90_000, 50)).await;
    let before = picture(&cache).await;
    cache.close().await.unwrap();
    for _ in 0..2 {
        let cache = open_boot(here.path(), 1, &bucket, &root, impatient.clone()).await;
        assert!(picture(&cache).await == before);
        cache.close().await.unwrap();
    }
    bucket.set_unreachable(false);
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    drain(&cache).await;
    assert!(picture(&cache).await == before);
    let fresh = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    assert!(picture(&fresh).await == before);
    cache.close().await.unwrap();
}

/// What other mounts do to a tree while it is not mounted here.
async fn change_elsewhere(bucket: &MemoryBucket, root: &Root) -> Picture {
    let elsewhere = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    let directory = lookup(&elsewhere, root.inode, "directory").await.unwrap();
    let deeper = lookup(&elsewhere, directory, "deeper").await.unwrap();
    unlink(&elsewhere, deeper, "f1").await;
    rename(&elsewhere, deeper, "f2", directory, "f2").await;
    unlink(&elsewhere, deeper, "f3").await;
    create_with(&elsewhere, deeper, "f3", b"another one").await;
    let chmod = lookup(&elsewhere, deeper, "f4").await.unwrap();
    let change = |tx: &mut strewn_cache::Transaction<'_>| {
        let attributes = tx.attributes(chmod)?;
        tx.set_attributes(chmod, strewn_engine::record::Attributes { mode: 0o600, ..attributes })
    };
    elsewhere.transact(change).await.unwrap();
    rename(&elsewhere, directory, "empty", root.inode, "elsewhere").await;
    create(&elsewhere, root.inode, "added", Kind::File).await;
    drain(&elsewhere).await;
    let shown = picture(&elsewhere).await;
    elsewhere.close().await.unwrap();
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_elsewhere_meanwhile_is_shown_from_the_first_moment() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    plant(&cache, root.inode).await;
    picture(&cache).await;
    cache.close().await.unwrap();
    let now = change_elsewhere(&bucket, &root).await;
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    assert!(picture(&cache).await == now);
    assert!(cache.status().fetched_bytes < 200_000, "most of it was here");
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_elsewhere_is_shown_once_the_network_is_back() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    plant(&cache, root.inode).await;
    let before = picture(&cache).await;
    cache.close().await.unwrap();
    let now = change_elsewhere(&bucket, &root).await;
    bucket.set_unreachable(true);
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    assert!(picture(&cache).await == before, "as it was, while nobody can tell");
    bucket.set_unreachable(false);
    cache.catch_up(bucket.snapshot().sequence).await.unwrap();
    assert!(picture(&cache).await == now);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_an_older_moment_are_never_believed() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    plant(&cache, root.inode).await;
    picture(&cache).await;
    cache.close().await.unwrap();
    let old_index = std::fs::read(here.path().join("index")).unwrap();
    let old_directory = killed(here.path());

    // Killed after the next opening: what the close before it kept is gone.
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    unlink(&cache, root.inode, "link").await;
    drain(&cache).await;
    let now = picture(&cache).await;
    let left = killed(here.path());
    cache.close().await.unwrap();
    let again = open_boot(left.path(), 1, &bucket, &root, options()).await;
    assert!(again.status().known_inodes < 5, "what the journal needs, and nothing of the index");
    assert!(picture(&again).await == now);
    again.close().await.unwrap();

    // An index of before, with the journal of now.
    std::fs::write(here.path().join("index"), old_index).unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    assert!(picture(&cache).await == now);
    cache.close().await.unwrap();

    // The whole directory of before: what this mount committed since is news to it.
    let cache = open_boot(old_directory.path(), 1, &bucket, &root, options()).await;
    assert!(picture(&cache).await == now);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_come_back_from_the_index() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, options()).await;
    for (text, size) in [("tiny", 5), ("small", 64 << 10), ("changed", 50_000), ("replaced", 1_000)] {
        create_with(&cache, root.inode, text, &pattern(size, 30)).await;
    }
    picture(&cache).await;
    cache.close().await.unwrap();
    let elsewhere = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let changed = lookup(&elsewhere, root.inode, "changed").await.unwrap();
    write(&elsewhere, changed, 10, b"elsewhere").await;
    unlink(&elsewhere, root.inode, "replaced").await;
    create_with(&elsewhere, root.inode, "replaced", &pattern(1_000, 31)).await;
    let mut expected = pattern(50_000, 30);
    expected[10..19].copy_from_slice(b"elsewhere");
    for boot in [1, 2] {
        let cache = open_boot(here.path(), boot, &bucket, &root, options()).await;
        for (text, size) in [("tiny", 5), ("small", 64 << 10)] {
            assert_eq!(fetched_for(&cache, root.inode, text, &pattern(size, 30)).await, 0, "{text}");
        }
        assert_eq!(fetched_for(&cache, root.inode, "changed", &expected).await > 0, boot == 1);
        assert_eq!(fetched_for(&cache, root.inode, "replaced", &pattern(1_000, 31)).await > 0, boot == 1);
        // Bytes that came from the index can be written to like others.
        let tiny = lookup(&cache, root.inode, "tiny").await.unwrap();
        write(&cache, tiny, 1, &pattern(5, 30)[1..2]).await;
        drain(&cache).await;
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_that_memory_forgets_come_back_from_the_index() {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open_boot(here.path(), 1, &bucket, &root, Options { memory: 0, ..options() }).await;
    create_with(&cache, root.inode, "f", b"a few bytes").await;
    for index in 0..4 {
        create(&cache, root.inode, &format!("{index}"), Kind::File).await;
    }
    drain(&cache).await;
    keep_house_until(&cache, || cache.status().known_inodes <= 3).await;
    assert_eq!(fetched_for(&cache, root.inode, "f", b"a few bytes").await, 0);
    cache.close().await.unwrap();
}
