//! A cache directory that holds no plaintext.

mod common;

use common::{bucket, create, drain, lookup, open_in, open_on, options, read_all, write};
use std::sync::Arc;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, CacheDirectory, Error, Options, Root};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::secret::Key;

const NAME: &str = "unmistakable-name";
const CONTENT: &[u8] = b"unmistakable content. ";

fn encrypted() -> Options {
    Options { encrypt: true, ..options() }
}

fn large() -> Vec<u8> {
    CONTENT.repeat(20_000)
}

/// Files of a disk that hold a text.
fn holding(disk: &MemoryDisk, text: &[u8]) -> Vec<String> {
    let found = |name: &String| {
        let bytes = disk.bytes(name).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text)
    };
    disk.names().into_iter().filter(found).collect()
}

async fn fill(cache: &Cache, root: &Root) {
    let small = create(cache, root.inode, NAME, Kind::File).await;
    write(cache, small, 0, CONTENT).await;
    let file = create(cache, root.inode, "large", Kind::File).await;
    write(cache, file, 3, &large()).await;
}

async fn refusal(disk: &MemoryDisk, bucket: &MemoryBucket, root: Root, options: Options) -> String {
    let opened = Cache::open_on(Arc::new(disk.clone()), BootId([1; 16]), Arc::new(bucket.clone()), root, options).await;
    match opened {
        Err(Error::Disk(why)) => why.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opens"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_readable_lies_in_the_directory() {
    for (options, hidden) in [(options(), false), (encrypted(), true)] {
        let (bucket, root) = bucket(64 << 20);
        let disk = MemoryDisk::new();
        let cache = open_on(&disk, &bucket, &root, options).await;
        fill(&cache, &root).await;
        let found = |disk: &MemoryDisk| (holding(disk, NAME.as_bytes()).len(), holding(disk, CONTENT).len());
        let look = |when: &str| {
            let (names, contents) = found(&disk);
            assert_eq!((names == 0, contents == 0), (hidden, hidden), "{when}: {names} {contents}");
        };
        look("pending");
        cache.snapshot().await.unwrap();
        look("after a snapshot");
        cache.cut().await.unwrap();
        drain(&cache).await;
        cache.close().await.unwrap();
        let (names, contents) = found(&disk);
        assert!(!hidden || (names, contents) == (0, 0), "at rest: {names} {contents}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pending_comes_back_after_a_kill() {
    let (bucket, root) = bucket(64 << 20);
    let disk = MemoryDisk::new();
    let cache = open_on(&disk, &bucket, &root, encrypted()).await;
    fill(&cache, &root).await;
    let left = disk.kill();
    let cache = open_in(&left, 1, &bucket, &root, encrypted()).await;
    let small = lookup(&cache, root.inode, NAME).await.unwrap();
    assert_eq!(read_all(&cache, small).await, CONTENT);
    let file = lookup(&cache, root.inode, "large").await.unwrap();
    assert_eq!(read_all(&cache, file).await, [&[0; 3], &large()[..]].concat());
    drain(&cache).await;
    cache.close().await.unwrap();
    let other = open_on(&MemoryDisk::new(), &bucket, &root, options()).await;
    let file = lookup(&other, root.inode, "large").await.unwrap();
    assert_eq!(read_all(&other, file).await, [&[0; 3], &large()[..]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_and_a_change_of_mind_are_refused() {
    let (bucket, root) = bucket(64 << 20);
    let (plain, sealed) = (MemoryDisk::new(), MemoryDisk::new());
    for (disk, options) in [(&plain, options()), (&sealed, encrypted())] {
        let cache = open_on(disk, &bucket, &root, options).await;
        create(&cache, root.inode, if disk.names() == plain.names() { "a" } else { "b" }, Kind::File).await;
        cache.close().await.unwrap();
    }
    let said = refusal(&plain, &bucket, root.clone(), encrypted()).await;
    assert!(said.contains("without encryption") && said.contains("strewn cache clear"), "{said}");
    let said = refusal(&sealed, &bucket, root.clone(), options()).await;
    assert!(said.contains("--encrypt-cache") && said.contains("--discard-pending"), "{said}");
    let other = Root { key: Key::from_bytes([99; 32]), ..root.clone() };
    let said = refusal(&sealed, &bucket, other, encrypted()).await;
    assert!(said.contains("encrypted for another"), "{said}");
    for (at, what) in [(0, "key"), (20, "key")] {
        let damaged = sealed.kill();
        let mut bytes = damaged.bytes("blobs/key").unwrap();
        bytes[at] ^= 1;
        damaged.put("blobs/key", &bytes);
        let said = refusal(&damaged, &bucket, root.clone(), encrypted()).await;
        assert!(said.contains(what) && said.contains("damaged"), "{said}");
    }
    // Nothing was changed by any of this.
    open_on(&plain, &bucket, &root, options()).await;
    open_on(&sealed, &bucket, &root, encrypted()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_emptied_without_its_key() {
    let (bucket, root) = bucket(64 << 20);
    let directory = tempfile::tempdir().unwrap();
    let cache = common::open(directory.path(), &bucket, &root, encrypted()).await;
    fill(&cache, &root).await;
    cache.close().await.unwrap();
    let look = || CacheDirectory::open(directory.path()).unwrap();
    // One after the other: each holds the lock.
    let refused = look().status().unwrap_err();
    assert!(refused.to_string().contains("is encrypted"), "{refused}");
    let refused = look().verify().unwrap_err();
    assert!(refused.to_string().contains("is encrypted"), "{refused}");
    let refused = look().clear(false).unwrap_err();
    assert!(refused.to_string().contains("is encrypted"), "{refused}");
    look().clear(true).unwrap();
    let cache = common::open(directory.path(), &bucket, &root, options()).await;
    assert!(lookup(&cache, root.inode, NAME).await.is_none(), "it was discarded");
    cache.close().await.unwrap();
}
