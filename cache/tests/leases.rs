//! Creating is exclusive across the mounts of a bucket, and free for a mount that is alone.

mod common;

use common::lines::Lines;
use common::*;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Clock, Error, LeaseKind, Options, Root, Stop};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::lease::LEASE;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;

const EEXIST: i32 = 17;

/// Waits for the background to get somewhere.
async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            match found() {
                Some(value) => return value,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("in time: {what}"))
}

async fn holds(cache: &Cache, kind: LeaseKind) {
    until(&format!("{kind:?}"), || (cache.status().lease == kind).then_some(())).await;
}

async fn mount(bucket: &MemoryBucket, root: &Root) -> Cache {
    open_on(&MemoryDisk::new(), bucket, root, timed(bucket)).await
}

/// Its leases run out by the bucket's clock.
fn timed(bucket: &MemoryBucket) -> Options {
    let bucket = bucket.clone();
    Options { clock: Clock::new(move || bucket.elapsed()), ..options() }
}

/// Creates something if it is not there yet, as mkdir and O_EXCL do.
async fn create_new(cache: &Cache, directory: InodeId, text: &str, kind: Kind) -> Result<InodeId, Error> {
    let name = name(text);
    let create = cache.transact(|tx| {
        if tx.entry(directory, &name)?.is_some() {
            return Err(Stop::Errno(EEXIST));
        }
        let inode = tx.create(attributes(kind))?;
        tx.set_entry(directory, &name, Some(inode))?;
        Ok(inode)
    });
    create.await
}

async fn link_new(cache: &Cache, directory: InodeId, text: &str, inode: InodeId) -> Result<(), Error> {
    let name = name(text);
    let link = cache.transact(|tx| {
        if tx.entry(directory, &name)?.is_some() {
            return Err(Stop::Errno(EEXIST));
        }
        tx.set_entry(directory, &name, Some(inode))
    });
    link.await
}

async fn rename_new(cache: &Cache, directory: InodeId, from: &str, to: &str) -> Result<(), Error> {
    let (from, to) = (name(from), name(to));
    let rename = cache.transact(|tx| {
        if tx.entry(directory, &to)?.is_some() {
            return Err(Stop::Errno(EEXIST));
        }
        let Some(inode) = tx.entry(directory, &from)? else { return Err(Stop::Errno(2)) };
        tx.set_entry(directory, &from, None)?;
        tx.set_entry(directory, &to, Some(inode))
    });
    rename.await
}

fn won<T>(result: Result<T, Error>) -> bool {
    match result {
        Ok(_) => true,
        Err(Error::Errno(EEXIST)) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn names(cache: &Cache) -> Vec<String> {
    picture(cache).await.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_is_alone_asks_nobody() {
    let (bucket, root) = bucket(1 << 20);
    let one = mount(&bucket, &root).await;
    holds(&one, LeaseKind::All).await;
    let asked = bucket.calls().lease;
    for number in 0..500 {
        let kind = if number % 2 == 0 { Kind::File } else { Kind::Directory };
        create(&one, root.inode, &format!("{number}"), kind).await;
    }
    rename_new(&one, root.inode, "0", "moved").await.unwrap();
    drain(&one).await;
    assert_eq!((one.status().lease_waits, bucket.calls().lease), (0, asked));
    one.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_create_the_same_one_wins_and_no_copy_is_made() {
    let (bucket, root) = bucket(1 << 20);
    let mounts = [mount(&bucket, &root).await, mount(&bucket, &root).await];
    let mut files = Vec::new();
    for (number, cache) in mounts.iter().enumerate() {
        let file = create(cache, root.inode, &format!("own-{number}"), Kind::File).await;
        for round in 0..10 {
            link_new(cache, root.inode, &format!("from-{number}-{round}"), file).await.unwrap();
        }
        drain(cache).await;
        files.push(file);
    }
    for round in 0..10 {
        for what in ["file", "directory", "link", "rename"] {
            let name = format!("{what}-{round}");
            let attempt = |number: usize| {
                let (cache, name, file, root) = (mounts[number].clone(), name.clone(), files[number], root.inode);
                async move {
                    won(match what {
                        "file" => create_new(&cache, root, &name, Kind::File).await.map(drop),
                        "directory" => create_new(&cache, root, &name, Kind::Directory).await.map(drop),
                        "link" => link_new(&cache, root, &name, file).await,
                        _ => rename_new(&cache, root, &format!("from-{number}-{round}"), &name).await,
                    })
                }
            };
            let (one, two) = tokio::join!(tokio::spawn(attempt(0)), tokio::spawn(attempt(1)));
            assert!(one.unwrap() != two.unwrap(), "{name}");
        }
    }
    for cache in &mounts {
        drain(cache).await;
        assert_eq!(cache.status().conflicts, 0);
    }
    let fresh = mount(&bucket, &root).await;
    let found = names(&fresh).await;
    assert!(found.iter().all(|name| !name.contains("conflict")), "{found:?}");
    // Two own, forty that were raced for, and of the twenty that were to be moved there those that lost.
    assert_eq!(found.len(), 2 + 40 + 10, "{found:?}");
    for cache in mounts.into_iter().chain([fresh]) {
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_created_under_all_names_stays_exclusive() {
    let (bucket, root) = bucket(1 << 20);
    let one = mount(&bucket, &root).await;
    holds(&one, LeaseKind::All).await;
    // Nothing of it is on the network yet.
    create(&one, root.inode, "lock", Kind::File).await;
    let two = mount(&bucket, &root).await;
    assert!(!won(create_new(&two, root.inode, "lock", Kind::File).await));
    assert!(won(create_new(&two, root.inode, "other", Kind::File).await));
    drain(&two).await;
    drain(&one).await;
    assert_eq!((one.status().conflicts, two.status().conflicts), (0, 0));
    for cache in [one, two] {
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_satellite_that_restarts_takes_nothing_from_anybody() {
    let (bucket, root) = bucket(1 << 20);
    let one = mount(&bucket, &root).await;
    holds(&one, LeaseKind::All).await;
    create(&one, root.inode, "pending", Kind::File).await;
    bucket.restart();
    // It only knows that the first one holds something.
    let two = mount(&bucket, &root).await;
    assert!(!won(create_new(&two, root.inode, "pending", Kind::File).await));
    assert!(won(create_new(&two, root.inode, "new", Kind::File).await));
    assert!(!won(create_new(&one, root.inode, "new", Kind::File).await));
    for cache in [one, two] {
        drain(&cache).await;
        assert_eq!(cache.status().conflicts, 0);
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_names_come_back_to_the_one_that_goes_on() {
    let (bucket, root) = bucket(1 << 20);
    let one = mount(&bucket, &root).await;
    holds(&one, LeaseKind::All).await;
    let two = mount(&bucket, &root).await;
    create(&two, root.inode, "two", Kind::File).await;
    drain(&two).await;
    assert_ne!(one.status().lease, LeaseKind::All);
    two.close().await.unwrap();
    bucket.advance(strewn_engine::bucket::lease::QUIET);
    create(&one, root.inode, "one", Kind::File).await;
    holds(&one, LeaseKind::All).await;
    one.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_ends_leaves_nobody_waiting() {
    let (bucket, root) = bucket(1 << 20);
    let one = mount(&bucket, &root).await;
    holds(&one, LeaseKind::All).await;
    create(&one, root.inode, "one", Kind::File).await;
    drain(&one).await;
    one.close().await.unwrap();
    // Time stands still: nothing runs out.
    let two = mount(&bucket, &root).await;
    holds(&two, LeaseKind::All).await;
    create(&two, root.inode, "two", Kind::File).await;
    two.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_network_nobody_waits_for_leases() {
    let (bucket, root) = bucket(1 << 20);
    let one = mount(&bucket, &root).await;
    holds(&one, LeaseKind::All).await;
    // What is not known is not there only if the network says so.
    names(&one).await;
    bucket.set_unreachable(true);
    until("away", || (!one.status().reachable).then_some(())).await;
    bucket.advance(LEASE);
    let asked = bucket.calls().lease;
    let begun = std::time::Instant::now();
    for number in 0..100 {
        create(&one, root.inode, &format!("{number}"), Kind::File).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((one.status().lease_waits, bucket.calls().lease), (0, asked));
    bucket.set_unreachable(false);
    drain(&one).await;
    assert_eq!(one.status().conflicts, 0);
    one.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_lease_ran_out_loses_and_keeps_both() {
    let (bucket, root) = bucket(1 << 20);
    let network = Arc::new(Lines::new(bucket.clone()));
    let disk = Arc::new(MemoryDisk::new());
    let opened = Cache::open_on(disk, BootId([1; 16]), network.clone(), root.clone(), timed(&bucket));
    let one = opened.await.unwrap();
    holds(&one, LeaseKind::All).await;
    names(&one).await;
    network.cut_off(true);
    let lost = create(&one, root.inode, "lock", Kind::File).await;
    write(&one, lost, 0, b"from one").await;
    // The other one waits for it no longer than the lease lasts.
    bucket.advance(LEASE);
    let two = mount(&bucket, &root).await;
    let file = create_new(&two, root.inode, "lock", Kind::File).await.unwrap();
    write(&two, file, 0, b"from two").await;
    drain(&two).await;
    network.cut_off(false);
    drain(&one).await;
    assert_eq!(one.status().conflicts, 1);
    let found = picture(&one).await;
    assert_eq!(found["/lock"].3, b"from two");
    let copies: Vec<_> = found.iter().filter(|(path, _)| path.contains("conflict")).collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].1.3, b"from one");
    let listed = one.status().conflict_copies;
    let listed: Vec<String> = listed.into_iter().map(|copy| format!("/{}", copy.path)).collect();
    assert_eq!(listed, [copies[0].0.clone()]);
    for cache in [one, two] {
        cache.close().await.unwrap();
    }
}
