//! What other mounts change shows in the attributes that are known here, and whoever follows (the kernel) is told to forget
//! what it has of it.

mod common;

use common::lines::Lines;
use common::*;
use std::sync::Arc;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Invalidation, Root};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;
use tokio::sync::mpsc::Receiver;

/// Two mounts of one bucket, both of which know all of it.
async fn two_mounts(bucket: &MemoryBucket, root: &Root) -> (Cache, Cache) {
    let one = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    let file = create(&one, root.inode, "file", Kind::File).await;
    write(&one, file, 0, &pattern(100_000, 1)).await;
    drain(&one).await;
    let two = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    two.catch_up(0).await.expect("it follows the feed");
    picture(&two).await;
    (one, two)
}

/// Everything that is told of an inode until this moment; false if nothing is.
fn is_told(told: &mut Receiver<Invalidation>, inode: InodeId) -> bool {
    let mut is_told = false;
    while let Ok(invalidation) = told.try_recv() {
        is_told |= matches!(invalidation, Invalidation::Inode(of) if of == inode);
    }
    is_told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_come_elsewhere_change_the_times_of_their_directory() {
    let (bucket, root) = bucket(1 << 20);
    let (one, two) = two_mounts(&bucket, &root).await;
    let mut told = two.invalidations().expect("the only follower");
    let later = now(9_000);
    let new = name("new");
    let make = one.transact(|tx| {
        let file = tx.create(attributes(Kind::File))?;
        tx.set_entry(root.inode, &new, Some(file))?;
        let mut parent = tx.attributes(root.inode)?;
        (parent.mtime, parent.ctime) = (later, later);
        tx.set_attributes(root.inode, parent)
    });
    make.await.expect("create");
    drain(&one).await;
    two.catch_up(bucket.snapshot().sequence).await.expect("news");
    let shown = two.transact(|tx| tx.attributes(root.inode)).await.expect("stat");
    assert_eq!((shown.mtime, shown.ctime), (later, later));
    assert!(is_told(&mut told, root.inode), "what the kernel knows is older");
    one.close().await.expect("close");
    two.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_goes_elsewhere_changes_the_count_of_the_others() {
    let (bucket, root) = bucket(1 << 20);
    let (one, two) = two_mounts(&bucket, &root).await;
    let file = lookup(&one, root.inode, "file").await.expect("it is there");
    let link = name("link");
    one.transact(|tx| tx.set_entry(root.inode, &link, Some(file))).await.expect("link");
    drain(&one).await;
    two.catch_up(bucket.snapshot().sequence).await.expect("news");
    assert_eq!(two.transact(|tx| tx.nlink(file)).await.expect("stat"), 2);
    let mut told = two.invalidations().expect("the only follower");
    unlink(&one, root.inode, "file").await;
    drain(&one).await;
    two.catch_up(bucket.snapshot().sequence).await.expect("news");
    assert_eq!(two.transact(|tx| tx.nlink(file)).await.expect("stat"), 1);
    assert!(is_told(&mut told, file), "what the kernel knows counts the other link");
    one.close().await.expect("close");
    two.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_gets_the_content_of_others_is_told_of() {
    let (bucket, root) = bucket(1 << 20);
    let lines = Arc::new(Lines::new(bucket.clone()));
    let (one, other) = two_mounts(&bucket, &root).await;
    other.close().await.expect("close");
    let two = open_over(&MemoryDisk::new(), &lines, &root, options()).await;
    picture(&two).await;
    let file = lookup(&two, root.inode, "file").await.expect("it is there");
    let mut told = two.invalidations().expect("the only follower");
    lines.cut_off(true);
    write(&two, file, 10, b"mine").await;
    write(&one, file, 20, b"theirs").await;
    drain(&one).await;
    is_told(&mut told, file);
    // Nothing is told by the feed, which comes later.
    lines.deafen(true);
    lines.cut_off(false);
    drain(&two).await;
    assert_eq!(two.status().conflicts, 1);
    assert!(is_told(&mut told, file), "what the kernel has of it went to the conflict copy");
    one.close().await.expect("close");
    two.close().await.expect("close");
}
