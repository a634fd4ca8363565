//! Files with several names that several mounts give and take: each mount counts as many as there are, also after a crash.

mod common;

use common::two::{Two, change_mode, link, links};
use common::*;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// Two mounts that know a file with the names `a` and `b`.
async fn two_names() -> (Two, InodeId) {
    let mounts = Two::new().await;
    let file = create(&mounts.one, mounts.root.inode, "a", Kind::File).await;
    link(&mounts.one, mounts.root.inode, "b", file).await;
    mounts.tell_two().await;
    picture(&mounts.two).await;
    (mounts, file)
}

/// Nothing is left on the network.
fn is_bare(mounts: &Two) -> bool {
    mounts.bucket.snapshot().inodes.iter().all(|row| row.inode.inode == mounts.root.inode)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_went_elsewhere_and_came_back_here_counts_once_after_a_crash() {
    // The journal knows the file by one of its names.
    for (comes_back, other) in [("a", "b"), ("b", "a")] {
        let (mut mounts, file) = two_names().await;
        let root = mounts.root.inode;
        change_mode(&mounts.two, file, 0o600).await;
        mounts.tell_one().await;
        unlink(&mounts.one, root, comes_back).await;
        mounts.tell_two().await;
        link(&mounts.two, root, comes_back, file).await;
        unlink(&mounts.two, root, other).await;
        assert_eq!(links(&mounts.two, file).await, 1);
        mounts.two_dies().await;
        assert_eq!(lookup(&mounts.two, root, comes_back).await, Some(file));
        assert_eq!(links(&mounts.two, file).await, 1);
        unlink(&mounts.two, root, comes_back).await;
        mounts.settle().await;
        assert!(is_bare(&mounts));
        mounts.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_removed_here_that_has_another_name_elsewhere_is_no_conflict_after_a_crash() {
    let mut mounts = Two::new().await;
    let root = mounts.root.inode;
    let file = create(&mounts.one, root, "a", Kind::File).await;
    mounts.tell_two().await;
    assert_eq!(lookup(&mounts.two, root, "a").await, Some(file));
    change_mode(&mounts.two, file, 0o600).await;
    mounts.tell_one().await;
    rename(&mounts.one, root, "a", root, "b").await;
    change_mode(&mounts.one, file, 0o640).await;
    mounts.tell_two().await;
    unlink(&mounts.two, root, "b").await;
    link(&mounts.one, root, "c", file).await;
    change_mode(&mounts.one, file, 0o644).await;
    mounts.tell_two().await;
    assert_eq!(lookup(&mounts.two, root, "c").await, Some(file));
    write(&mounts.two, file, 0, b"of two").await;
    mounts.two_dies().await;
    mounts.settle().await;
    for cache in [&mounts.one, &mounts.two] {
        let found = picture(cache).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["/c"]);
        assert_eq!(found["/c"].3, b"of two");
    }
    mounts.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_that_loses_one_name_here_and_the_other_elsewhere_is_kept() {
    for cut_before in [false, true] {
        for theirs in [None, Some("theirs")] {
            let (mounts, file) = two_names().await;
            let root = mounts.root.inode;
            mounts.lines.cut_off(true);
            write(&mounts.two, file, 0, b"of two").await;
            unlink(&mounts.two, root, "a").await;
            if cut_before {
                mounts.two.cut().await.unwrap();
            }
            unlink(&mounts.one, root, "b").await;
            if let Some(text) = theirs {
                let other = create(&mounts.one, root, "b", Kind::File).await;
                write(&mounts.one, other, 0, text.as_bytes()).await;
            }
            drain(&mounts.one).await;
            mounts.lines.cut_off(false);
            mounts.tell_two().await;
            let shown = picture(&mounts.two).await;
            assert!(shown.values().any(|node| node.3 == b"of two"), "{cut_before}: {:?}", shown.keys());
            mounts.settle().await;
            for cache in [&mounts.one, &mounts.two] {
                let found = picture(cache).await;
                let has = |text: &[u8]| found.values().filter(|node| node.3 == text).count();
                assert_eq!(has(b"of two"), 1, "{cut_before}: {:?}", found.keys());
                assert_eq!(has(b"theirs"), usize::from(theirs.is_some()), "{cut_before}: {:?}", found.keys());
                assert!(found.values().all(|node| node.1 == 1), "{found:?}");
            }
            mounts.close().await;
        }
    }
}
