//! Looking at cache directories from outside of a mount: status, verify, clear.

mod common;

use common::*;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strewn_cache::disk::OpenError;
use strewn_cache::{CacheDirectory, Cleared, InspectError};
use strewn_engine::bucket::Kind;

const KEPT: usize = 300_000;

/// A directory with a clean file, one with a change in the queue, and one with a change that no cut took.
async fn directory() -> (tempfile::TempDir, strewn_engine::bucket::memory::MemoryBucket, strewn_cache::Root) {
    let (bucket, root) = bucket(1 << 20);
    let here = tempfile::tempdir().unwrap();
    let cache = open(here.path(), &bucket, &root, options()).await;
    let clean = create(&cache, root.inode, "clean", Kind::File).await;
    write(&cache, clean, 0, &pattern(KEPT, 1)).await;
    let queued = create(&cache, root.inode, "queued", Kind::File).await;
    let dirty = create(&cache, root.inode, "dirty", Kind::File).await;
    drain(&cache).await;
    bucket.set_unreachable(true);
    write(&cache, queued, 0, &pattern(KEPT, 2)).await;
    cache.drain_within(Duration::from_millis(100), |_| {}).await.unwrap_err();
    write(&cache, dirty, 0, &pattern(KEPT, 3)).await;
    cache.close().await.unwrap();
    bucket.set_unreachable(false);
    (here, bucket, root)
}

/// Every file below a directory but the lock, with its bytes.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().unwrap() != "lock" && !path.to_str().unwrap().ends_with("-shm") {
                found.push((path.clone(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn spoil(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

fn verify(directory: &Path) -> Vec<String> {
    let found = CacheDirectory::open(directory).unwrap().verify().unwrap();
    found.into_iter().map(|damage| damage.what).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_whose_it_is_and_what_is_pending() {
    let (here, bucket, root) = directory().await;
    let before = files(here.path());
    let status = CacheDirectory::open(here.path()).unwrap().status().unwrap();
    let settings = strewn_engine::bucket::BucketService::settings(&bucket);
    assert_eq!((status.bucket, status.root), (settings.bucket, root.inode));
    assert_eq!(status.pending_files, 2, "{status:?}");
    assert_eq!(status.pending_bytes, 2 * KEPT as u64, "{status:?}");
    assert!(status.pending_operations == 2 && status.clean_bytes >= KEPT as u64, "{status:?}");
    assert!(status.cache_bytes > 4 * KEPT as u64, "{status:?}");
    assert!(files(here.path()) == before, "looking changes nothing");
    // What is queued would go up by itself.
    bucket.set_unreachable(true);
    let cache = open(here.path(), &bucket, &root, options()).await;
    assert_eq!(cache.status().pending_bytes, status.pending_bytes);
    bucket.set_unreachable(false);
    let refused = CacheDirectory::open(here.path());
    assert!(matches!(refused, Err(InspectError::Open(OpenError::InUse { .. }))), "a mount uses it");
    drain(&cache).await;
    cache.close().await.unwrap();
    assert!(CacheDirectory::open(here.path()).unwrap().status().unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_what_was_damaged_and_changes_nothing() {
    let (here, ..) = directory().await;
    assert_eq!(verify(here.path()), [""; 0]);
    let pristine = files(here.path());
    let of = |part: &str| {
        let found = pristine.iter().filter(|(path, _)| path.to_str().unwrap().contains(part));
        found.map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    let restore = || pristine.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    // A segment and a batch in the queue. (Those that are on the network may still be there; nobody needs them.)
    let batch = of("/blobs/").pop().unwrap();
    for (paths, offset, what) in [(of("/sealed/"), 1_000, "sealed segment"), (vec![batch], 40, "batch")] {
        paths.iter().for_each(|path| spoil(path, offset));
        let damaged = files(here.path());
        let found = verify(here.path());
        assert!(found.len() == 1 && found[0].starts_with(what), "{found:?}");
        assert!(files(here.path()) == damaged);
        restore();
    }
    of("/sealed/").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    assert!(verify(here.path())[0].starts_with("sealed segment"));
    restore();
    // The journal begins with a snapshot, without which what comes after it says nothing.
    for path in of("/journal/") {
        spoil(&path, 70);
    }
    assert_eq!(verify(here.path()), ["journal"]);
    restore();
    // Pending bytes that are gone.
    let gone: usize = of("/data/")
        .into_iter()
        .map(|path| {
            std::fs::remove_file(&path).unwrap();
            let found = verify(here.path());
            restore();
            found.len()
        })
        .sum();
    assert_eq!(gone, 1, "of the clean and the queued file nothing is needed");
    assert_eq!(verify(here.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_keeps_what_is_pending_unless_it_is_told_to_discard_it() {
    let (here, bucket, root) = directory().await;
    let cleared = CacheDirectory::open(here.path()).unwrap().clear(false).unwrap();
    assert!(cleared.kept_files == 2 && cleared.kept_bytes == 2 * KEPT as u64, "{cleared:?}");
    let status = CacheDirectory::open(here.path()).unwrap().status().unwrap();
    assert_eq!((status.clean_bytes, status.pending_bytes), (0, cleared.kept_bytes));
    assert_eq!(verify(here.path()), [""; 0]);
    let cache = open(here.path(), &bucket, &root, options()).await;
    drain(&cache).await;
    for (name, seed) in [("clean", 1), ("queued", 2), ("dirty", 3)] {
        let file = lookup(&cache, root.inode, name).await.unwrap();
        assert!(read_all(&cache, file).await == pattern(KEPT, seed), "{name}");
    }
    write(&cache, lookup(&cache, root.inode, "dirty").await.unwrap(), 0, b"discarded").await;
    cache.close().await.unwrap();
    let cleared = CacheDirectory::open(here.path()).unwrap().clear(true).unwrap();
    assert_eq!(cleared, Cleared { kept_operations: 0, kept_files: 0, kept_bytes: 0 });
    assert!(files(here.path()).is_empty());
    assert!(matches!(CacheDirectory::open(here.path()), Err(InspectError::NoCache(_))));
    let cache = open(here.path(), &bucket, &root, options()).await;
    assert!(read_all(&cache, lookup(&cache, root.inode, "dirty").await.unwrap()).await == pattern(KEPT, 3));
    cache.close().await.unwrap();
}

#[test]
fn nothing_is_cleared_where_no_cache_is() {
    let here = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(here.path().join("data")).unwrap();
    std::fs::write(here.path().join("data/mine"), "mine").unwrap();
    assert!(matches!(CacheDirectory::open(here.path()), Err(InspectError::NoCache(_))));
    std::fs::create_dir_all(here.path().join("blobs")).unwrap();
    assert!(matches!(CacheDirectory::open(here.path()), Err(InspectError::NoCache(_))));
    assert_eq!(std::fs::read(here.path().join("data/mine")).unwrap(), b"mine");
}
