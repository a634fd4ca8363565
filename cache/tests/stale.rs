//! Answers of the network that are old when they arrive: what another mount made meanwhile is not taken for absent.

mod common;

use common::lines::Lines;
use common::*;
use std::sync::Arc;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Error, Root, Stop};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;

const EEXIST: i32 = 17;

/// What another mount makes, which is gone then.
async fn made_elsewhere(bucket: &MemoryBucket, root: &Root, text: &str) {
    let other = open_on(&MemoryDisk::new(), bucket, root, options()).await;
    create(&other, root.inode, text, Kind::File).await;
    drain(&other).await;
    other.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_granted_a_name_while_news_of_it_arrive_knows_them() {
    let (bucket, root) = bucket(1 << 20);
    let lines = Arc::new(Lines::new(bucket.clone()));
    let one = open_over(&MemoryDisk::new(), &lines, &root, options()).await;
    // All of the root is known, so that what is not known there is absent.
    picture(&one).await;
    one.catch_up(0).await.expect("it follows the feed");
    lines.deafen(true);
    made_elsewhere(&bucket, &root, "new").await;
    lines.names.shut(true);
    let mut creating = tokio::spawn({
        let (one, root) = (one.clone(), root.inode);
        async move {
            let text = name("new");
            let create = one.transact(|tx| {
                if tx.entry(root, &text)?.is_some() {
                    return Err(Stop::Errno(EEXIST));
                }
                let inode = tx.create(attributes(Kind::File))?;
                tx.set_entry(root, &text, Some(inode))
            });
            create.await
        }
    });
    let patient = async {
        // It has the lease and makes sure of the name; its answer is held up until the news have arrived.
        lines.names.came(1).await;
        lines.deafen(false);
        lines.names.came(2).await;
        lines.names.let_pass(1);
        // Either it believes what it knew, or it asks again.
        tokio::select! {
            created = &mut creating => created.expect("it ends"),
            () = lines.names.came(3) => {
                lines.names.shut(false);
                creating.await.expect("it ends")
            }
        }
    };
    let created = tokio::time::timeout(PATIENCE, patient).await.expect("in time");
    assert!(matches!(created, Err(Error::Errno(EEXIST))), "{created:?}");
    drain(&one).await;
    assert_eq!(one.status().conflicts, 0);
    one.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_from_before_the_feed_was_followed_is_not_believed() {
    let (bucket, root) = bucket(1 << 20);
    made_elsewhere(&bucket, &root, "old").await;
    let lines = Arc::new(Lines::new(bucket.clone()));
    lines.beginnings.shut(true);
    lines.pages.shut(true);
    let one = open_over(&MemoryDisk::new(), &lines, &root, options()).await;
    let listing = tokio::spawn({
        let one = one.clone();
        async move { picture(&one).await }
    });
    let patient = async {
        lines.pages.came(1).await;
        // What was listed is on its way; now there is something new, and the feed is followed from there on.
        made_elsewhere(&bucket, &root, "new").await;
        lines.beginnings.shut(false);
        one.catch_up(bucket.snapshot().sequence).await.expect("it follows the feed");
        lines.pages.shut(false);
        listing.await.expect("it ends")
    };
    tokio::time::timeout(PATIENCE, patient).await.expect("in time");
    assert!(lookup(&one, root.inode, "new").await.is_some(), "what others made shows");
    assert_eq!(picture(&one).await.len(), 2);
    one.close().await.expect("close");
}
