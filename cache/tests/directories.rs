//! Directories that others move: each is shown in one place, whatever was heard already and after a crash.

mod common;

use common::two::{Two, change_mode};
use common::*;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_found_where_it_was_moved_to_is_nowhere_else() {
    let mounts = Two::new().await;
    let root = mounts.root.inode;
    let z = create(&mounts.one, root, "z", Kind::Directory).await;
    let w = create(&mounts.one, z, "w", Kind::Directory).await;
    mounts.tell_two().await;
    assert_eq!(lookup(&mounts.two, root, "z").await, Some(z));
    assert_eq!(lookup(&mounts.two, z, "w").await, Some(w));
    mounts.lines.deafen(true);
    // What the second mount looks at for the first time it finds as it is now.
    rename(&mounts.one, z, "w", root, "w").await;
    rename(&mounts.one, root, "z", w, "z").await;
    let new = create(&mounts.one, root, "z", Kind::Directory).await;
    drain(&mounts.one).await;
    assert_eq!(lookup(&mounts.two, w, "z").await, Some(z));
    // It was the one in the root until now, which would be in itself.
    assert_eq!(lookup(&mounts.two, root, "z").await, Some(new));
    mounts.lines.deafen(false);
    mounts.tell_two().await;
    let found = picture(&mounts.two).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["/w", "/w/z", "/z"]);
    mounts.close().await;
}

/// A directory that two has changed, and that one then moved into another one: `x` in the root is `moved` in `y`
/// since. Two has not heard of it.
async fn moved_by_one() -> (Two, InodeId, InodeId) {
    let mounts = Two::new().await;
    let root = mounts.root.inode;
    let x = create(&mounts.one, root, "x", Kind::Directory).await;
    let y = create(&mounts.one, root, "y", Kind::Directory).await;
    mounts.tell_two().await;
    assert_eq!(lookup(&mounts.two, root, "x").await, Some(x));
    assert_eq!(lookup(&mounts.two, root, "y").await, Some(y));
    change_mode(&mounts.two, x, 0o700).await;
    mounts.tell_one().await;
    rename(&mounts.one, root, "x", y, "moved").await;
    change_mode(&mounts.one, x, 0o750).await;
    (mounts, x, y)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_moved_by_somebody_and_removed_here_is_gone_after_a_crash() {
    let (mut mounts, x, y) = moved_by_one().await;
    mounts.tell_two().await;
    assert_eq!(lookup(&mounts.two, y, "moved").await, Some(x));
    unlink(&mounts.two, y, "moved").await;
    mounts.two_dies().await;
    // What is left of it would be refused for ever.
    mounts.settle().await;
    for cache in [&mounts.one, &mounts.two] {
        assert_eq!(picture(cache).await.keys().collect::<Vec<_>>(), ["/y"]);
    }
    mounts.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_moved_back_to_a_name_that_somebody_took_is_kept() {
    for (kind, dies) in [Kind::Directory, Kind::File].into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let mut mounts = Two::new().await;
        let root = mounts.root.inode;
        let moved = create(&mounts.one, root, "c", kind).await;
        mounts.tell_two().await;
        assert_eq!(picture(&mounts.two).await.len(), 1);
        mounts.lines.cut_off(true);
        rename(&mounts.two, root, "c", root, "e").await;
        // The other one does the same, and makes something new in its place.
        rename(&mounts.one, root, "c", root, "e").await;
        let new = create(&mounts.one, root, "c", kind).await;
        drain(&mounts.one).await;
        mounts.lines.cut_off(false);
        mounts.tell_two().await;
        mounts.lines.cut_off(true);
        rename(&mounts.two, root, "e", root, "c").await;
        if kind == Kind::Directory {
            create(&mounts.two, moved, "inside", Kind::File).await;
        }
        mounts.lines.cut_off(false);
        match dies {
            true => mounts.two_dies().await,
            false => mounts.two.catch_up(0).await.unwrap(),
        }
        mounts.settle().await;
        for cache in [&mounts.one, &mounts.two] {
            let found = picture(cache).await;
            let names: Vec<&String> = found.keys().collect();
            assert_eq!(found["/c"].2, new, "{kind:?} {names:?}");
            assert_eq!(found.values().filter(|node| node.2 == moved).count(), 1, "{kind:?} {names:?}");
            assert_eq!(found.len(), if kind == Kind::Directory { 3 } else { 2 }, "{names:?}");
        }
        mounts.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_was_set_here_since_is_known_without_the_network() {
    let (mut mounts, x, y) = moved_by_one().await;
    let root = mounts.root.inode;
    let new = create(&mounts.one, root, "x", Kind::Directory).await;
    mounts.tell_two().await;
    assert_eq!(lookup(&mounts.two, y, "moved").await, Some(x));
    assert_eq!(lookup(&mounts.two, root, "x").await, Some(new));
    change_mode(&mounts.two, x, 0o700).await;
    rename(&mounts.two, root, "x", y, "new").await;
    mounts.two_dies().await;
    mounts.lines.cut_off(true);
    assert_eq!(lookup(&mounts.two, root, "x").await, None);
    mounts.lines.cut_off(false);
    mounts.settle().await;
    mounts.close().await;
}
