//! What becomes of batches that the network refuses because two mounts moved the same directories, or cut off files.
//! Each directory has one place in the end, and nothing is lost; also when the mount dies or its machine loses power meanwhile.

mod common;

use common::lines::Lines;
use common::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Options, Root};
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::bucket::{BucketService, Kind};
use strewn_engine::ids::InodeId;

/// Both mounts know the directories `x` and `y` with a file in each; the line of the second can be cut.
struct Two {
    bucket: MemoryBucket,
    root: Root,
    one: Cache,
    two: Cache,
    lines: Arc<Lines>,
    disk: MemoryDisk,
    x: InodeId,
    y: InodeId,
}

fn plain() -> Options {
    Options { leases: false, ..options() }
}

impl Two {
    async fn new() -> Self {
        let (bucket, root) = bucket(1 << 20);
        let one = open_on(&MemoryDisk::new(), &bucket, &root, plain()).await;
        let x = create(&one, root.inode, "x", Kind::Directory).await;
        let y = create(&one, root.inode, "y", Kind::Directory).await;
        for (directory, text) in [(x, "in x"), (y, "in y")] {
            let file = create(&one, directory, "file", Kind::File).await;
            write(&one, file, 0, text.as_bytes()).await;
        }
        drain(&one).await;
        let disk = MemoryDisk::new();
        let lines = Arc::new(Lines::new(bucket.clone()));
        let boot = BootId([1; 16]);
        let two = Cache::open_on(Arc::new(disk.clone()), boot, lines.clone(), root.clone(), plain()).await.unwrap();
        picture(&two).await;
        // From here on it hears of single changes.
        two.catch_up(0).await.unwrap();
        Self { bucket, root, one, two, lines, disk, x, y }
    }

    /// The second mount hears what the first did, or not yet.
    async fn mend(&self, hears_first: bool) {
        self.lines.cut_off(false);
        if hears_first {
            let sequence = self.bucket.snapshot().sequence;
            self.two.catch_up(sequence).await.unwrap();
        }
    }

    /// Everything is sent and heard; gives what all show then.
    async fn settle(&self) -> BTreeMap<String, String> {
        self.settle_as(|found, left| assert_eq!(left, found)).await
    }

    /// The same, where a mount that died meanwhile may end up with less, as `compare` says.
    async fn settle_as(
        &self,
        compare: impl Fn(&BTreeMap<String, String>, &BTreeMap<String, String>),
    ) -> BTreeMap<String, String> {
        self.two.sync_all().await.unwrap();
        let images: Arc<Mutex<Vec<(MemoryDisk, MemoryBucket)>>> = Arc::default();
        let (taken, network) = (images.clone(), self.bucket.clone());
        self.disk.watch(Some(Box::new(move |disk| taken.lock().unwrap().push((disk, network.fork())))));
        drain(&self.two).await;
        self.disk.watch(None);
        let found = fresh(&self.bucket, &self.root).await;
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() > 2);
        for (number, (disk, network)) in images.into_iter().enumerate() {
            for (boot, left) in [(1, disk.kill()), (2, disk.crash(1)), (2, disk.crash(number as u64))] {
                let network = network.fork();
                let cache = open_in(&left, boot, &network, &self.root, plain()).await;
                drain(&cache).await;
                cache.close().await.unwrap();
                eprintln!("image {number}, boot {boot}");
                compare(&found, &fresh(&network, &self.root).await);
            }
        }
        for cache in [&self.one, &self.two] {
            drain(cache).await;
            cache.catch_up(self.bucket.changes(0, Default::default()).await.unwrap().sequence).await.unwrap();
            assert_eq!(texts(cache).await, found);
            assert_eq!(cache.status().pending_operations, 0);
        }
        found
    }

    async fn close(self) {
        self.one.close().await.unwrap();
        self.two.close().await.unwrap();
    }
}

async fn fresh(bucket: &MemoryBucket, root: &Root) -> BTreeMap<String, String> {
    let cache = open_on(&MemoryDisk::new(), bucket, root, plain()).await;
    let found = texts(&cache).await;
    cache.close().await.unwrap();
    found
}

/// Files and their text.
async fn texts(cache: &Cache) -> BTreeMap<String, String> {
    let text = |(path, node): (String, (_, _, _, Vec<u8>))| {
        // Without the time of a conflict copy.
        let path = path.trim_end_matches(|c: char| c.is_ascii_digit() || c == ')').to_owned();
        (path, String::from_utf8(node.3).unwrap())
    };
    picture(cache).await.into_iter().map(text).collect()
}

fn expected(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
    lines.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_moved_into_one_another_stay_where_the_network_has_them() {
    for hears_first in [false, true] {
        let mounts = Two::new().await;
        let (root, x, y) = (mounts.root.inode, mounts.x, mounts.y);
        mounts.lines.cut_off(true);
        rename(&mounts.two, root, "x", y, "x").await;
        let new = create(&mounts.two, x, "new", Kind::File).await;
        write(&mounts.two, new, 0, b"of two").await;
        rename(&mounts.one, root, "y", x, "y").await;
        drain(&mounts.one).await;
        mounts.mend(hears_first).await;
        // What was changed here is here until the network has answered.
        assert!(lookup(&mounts.two, x, "new").await.is_some());
        assert!(texts(&mounts.two).await.contains_key("/y/x/new"));
        let found = mounts.settle().await;
        let all = [("/x", ""), ("/x/file", "in x"), ("/x/new", "of two"), ("/x/y", ""), ("/x/y/file", "in y")];
        assert_eq!(found, expected(&all));
        let status = mounts.two.status();
        let listed: Vec<&str> = status.conflict_copies.iter().map(|copy| copy.path.as_str()).collect();
        assert_eq!((status.conflicts, listed), (1, vec!["x"]));
        mounts.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_moved_by_two_stays_where_the_first_moved_it() {
    for hears_first in [false, true] {
        for then_moved_again in [false, true] {
            let mounts = Two::new().await;
            let (root, x, y) = (mounts.root.inode, mounts.x, mounts.y);
            mounts.lines.cut_off(true);
            rename(&mounts.two, root, "x", y, "mine").await;
            let new = create(&mounts.two, x, "new", Kind::File).await;
            write(&mounts.two, new, 0, b"of two").await;
            if then_moved_again {
                mounts.two.cut().await.unwrap();
                rename(&mounts.two, y, "mine", root, "again").await;
            }
            rename(&mounts.one, root, "x", root, "theirs").await;
            drain(&mounts.one).await;
            mounts.mend(hears_first).await;
            let found = mounts.settle().await;
            let all =
                [("/theirs", ""), ("/theirs/file", "in x"), ("/theirs/new", "of two"), ("/y", ""), ("/y/file", "in y")];
            assert_eq!(found, expected(&all), "{hears_first} {then_moved_again}");
            mounts.close().await;
        }
    }
}

/// What was made and removed here before anybody heard of it is nobody's business.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_and_removed_before_a_refusal_stays_away() {
    for (hears_first, then_cut) in [(false, false), (false, true), (true, false), (true, true)] {
        let mounts = Two::new().await;
        let root = mounts.root.inode;
        mounts.lines.cut_off(true);
        create(&mounts.two, root, "directory", Kind::Directory).await;
        create(&mounts.two, root, "new", Kind::File).await;
        let mine = create(&mounts.two, root, "taken", Kind::File).await;
        write(&mounts.two, mine, 0, b"of two").await;
        assert!(mounts.two.cut().await.unwrap());
        unlink(&mounts.two, root, "directory").await;
        unlink(&mounts.two, root, "new").await;
        if then_cut {
            assert!(mounts.two.cut().await.unwrap());
        }
        let theirs = create(&mounts.one, root, "taken", Kind::File).await;
        write(&mounts.one, theirs, 0, b"of one").await;
        drain(&mounts.one).await;
        mounts.mend(hears_first).await;
        let found = mounts.settle().await;
        let all = [
            ("/taken", "of one"),
            ("/taken (conflict local ", "of two"),
            ("/x", ""),
            ("/x/file", "in x"),
            ("/y", ""),
            ("/y/file", "in y"),
        ];
        assert_eq!(found, expected(&all), "{hears_first} {then_cut}");
        mounts.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_goes_where_nobody_looked() {
    let mounts = Two::new().await;
    let (root, x) = (mounts.root.inode, mounts.x);
    mounts.lines.cut_off(true);
    let deep = create(&mounts.one, root, "deep", Kind::Directory).await;
    let below = create(&mounts.one, deep, "below", Kind::Directory).await;
    rename(&mounts.one, root, "x", below, "theirs").await;
    drain(&mounts.one).await;
    rename(&mounts.two, root, "x", mounts.y, "mine").await;
    let new = create(&mounts.two, x, "new", Kind::File).await;
    write(&mounts.two, new, 0, b"of two").await;
    mounts.mend(false).await;
    let found = mounts.settle().await;
    assert_eq!(found.get("/deep/below/theirs/new").map(String::as_str), Some("of two"), "{found:?}");
    assert_eq!(found.len(), 7, "{found:?}");
    mounts.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_directory_that_is_not_empty_any_more_comes_back_and_moves_stay() {
    let mounts = Two::new().await;
    let (root, x, y) = (mounts.root.inode, mounts.x, mounts.y);
    mounts.lines.cut_off(true);
    unlink(&mounts.two, y, "file").await;
    unlink(&mounts.two, root, "y").await;
    rename(&mounts.two, root, "x", root, "moved").await;
    let new = create(&mounts.one, y, "new", Kind::File).await;
    write(&mounts.one, new, 0, b"of one").await;
    drain(&mounts.one).await;
    mounts.mend(false).await;
    let found = mounts.settle().await;
    // What was removed from it is removed.
    let y = [("/y", ""), ("/y/new", "of one")];
    assert_eq!(found, expected(&[&[("/moved", ""), ("/moved/file", "in x")][..], &y].concat()));
    assert_eq!(lookup(&mounts.one, root, "moved").await, Some(x));
    mounts.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_off_a_file_stays_cut_off() {
    for (shorter, longer) in [(10, 10), (10, 40), (0, 0), (0, 40)] {
        for cut_between in [false, true] {
            let mounts = Two::new().await;
            let root = mounts.root.inode;
            let file = create(&mounts.one, root, "long", Kind::File).await;
            write(&mounts.one, file, 0, "abcd".repeat(20).as_bytes()).await;
            drain(&mounts.one).await;
            mounts.two.catch_up(mounts.bucket.snapshot().sequence).await.unwrap();
            assert_eq!(lookup(&mounts.two, root, "long").await, Some(file));
            mounts.lines.cut_off(true);
            resize(&mounts.two, file, shorter).await;
            if cut_between {
                mounts.two.cut().await.unwrap();
            }
            resize(&mounts.two, file, longer).await;
            // What makes the network refuse the batch.
            create(&mounts.two, root, "new", Kind::Directory).await;
            create(&mounts.one, root, "new", Kind::Directory).await;
            drain(&mounts.one).await;
            mounts.mend(false).await;
            let found = mounts.settle().await;
            let mut text = "abcd".repeat(20)[..shorter as usize].to_owned();
            text.extend(std::iter::repeat_n('\0', (longer - shorter) as usize));
            assert_eq!(found["/long"], text, "{shorter} {longer} {cut_between}");
            assert_eq!(found.keys().filter(|path| path.contains("conflict")).count(), 1);
            mounts.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_file_is_kept_beside_what_somebody_else_wrote() {
    for cut_between in [false, true] {
        let mounts = Two::new().await;
        let file = lookup(&mounts.one, mounts.x, "file").await.unwrap();
        mounts.lines.cut_off(true);
        if cut_between {
            // Only the mode goes into the cut.
            let mode = |tx: &mut strewn_cache::Transaction<'_>| {
                let attributes = tx.attributes(file)?;
                tx.set_attributes(file, strewn_engine::record::Attributes { mode: 0o600, ..attributes })
            };
            mounts.two.transact(mode).await.unwrap();
            mounts.two.cut().await.unwrap();
        }
        resize(&mounts.two, file, 2).await;
        write(&mounts.one, file, 0, b"theirs").await;
        drain(&mounts.one).await;
        mounts.mend(false).await;
        let copies = |found: &BTreeMap<String, String>| -> Vec<String> {
            let copies = found.iter().filter(|(path, _)| path.contains("conflict"));
            copies.map(|(_, text)| text.clone()).collect()
        };
        // Who died has the bytes no more, and never others.
        let compare = |_: &BTreeMap<String, String>, left: &BTreeMap<String, String>| {
            assert_eq!(left["/x/file"], "theirs");
            assert!(copies(left).is_empty() || copies(left) == ["in"], "{left:?}");
        };
        let found = mounts.settle_as(compare).await;
        assert_eq!((found["/x/file"].as_str(), copies(&found)), ("theirs", vec!["in".to_owned()]));
        mounts.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_change_places_elsewhere_are_heard_of() {
    let mounts = Two::new().await;
    let (root, x, y) = (mounts.root.inode, mounts.x, mounts.y);
    rename(&mounts.one, root, "x", y, "x").await;
    drain(&mounts.one).await;
    mounts.two.catch_up(mounts.bucket.snapshot().sequence).await.unwrap();
    assert_eq!(texts(&mounts.two).await.len(), 4);
    // What was in the other is now what that is in.
    rename(&mounts.one, y, "x", root, "x").await;
    rename(&mounts.one, root, "y", x, "y").await;
    drain(&mounts.one).await;
    mounts.two.catch_up(mounts.bucket.snapshot().sequence).await.unwrap();
    let all = [("/x", ""), ("/x/file", "in x"), ("/x/y", ""), ("/x/y/file", "in y")];
    assert_eq!(texts(&mounts.two).await, expected(&all));
    mounts.close().await;
}

/// The directory `directory` with a child `old` that both mounts know. The second hears nothing of the first, and is cut off.
async fn unheard(kind: Kind) -> (common::two::Two, InodeId, InodeId) {
    let two = common::two::Two::new().await;
    let directory = create(&two.one, two.root.inode, "directory", Kind::Directory).await;
    let child = create(&two.one, directory, "old", kind).await;
    two.tell_two().await;
    picture(&two.two).await;
    two.lines.deafen(true);
    two.lines.cut_off(true);
    (two, directory, child)
}

/// What the second mount has on its way is refused. It is answered about all `names` of that, and does not know it yet.
async fn is_refused(two: &common::two::Two, names: u64) {
    assert!(two.two.cut().await.unwrap());
    two.lines.names.shut(true);
    two.lines.cut_off(false);
    tokio::time::timeout(PATIENCE, two.lines.names.came(names)).await.expect("all names are asked for");
}

/// The second mount goes on, or dies and another goes on. What all see in the end.
async fn goes_on(two: &mut common::two::Two, dies: bool) -> Picture {
    two.lines.names.shut(false);
    if dies {
        two.lines.deafen(false);
        two.two.sync_all().await.unwrap();
        two.two_dies().await;
    }
    drain(&two.two).await;
    two.lines.deafen(false);
    two.settle().await;
    let fresh = open_on(&MemoryDisk::new(), &two.bucket, &two.root, plain()).await;
    let found = picture(&fresh).await;
    for cache in [&two.one, &two.two] {
        assert_eq!(picture(cache).await, found, "{dies}");
    }
    fresh.close().await.unwrap();
    found
}

#[tokio::test]
async fn a_directory_that_is_removed_while_a_refusal_is_looked_at_comes_back() {
    for dies in [false, true] {
        let (mut two, directory, inner) = unheard(Kind::Directory).await;
        // Both rename it: about the new name they agree.
        rename(&two.one, directory, "old", directory, "new").await;
        drain(&two.one).await;
        rename(&two.two, directory, "old", directory, "new").await;
        create(&two.two, inner, "file", Kind::File).await;
        common::two::change_mode(&two.two, inner, 0o700).await;
        is_refused(&two, 3).await;
        unlink(&two.one, directory, "new").await;
        drain(&two.one).await;
        let found = goes_on(&mut two, dies).await;
        assert!(found.contains_key("/directory/new/file"), "{dies}: {:?}", found.keys());
        two.close().await;
    }
}

#[tokio::test]
async fn a_directory_that_comes_back_is_not_believed_to_have_kept_what_was_in_it() {
    for dies in [false, true] {
        let (mut two, directory, file) = unheard(Kind::File).await;
        // Both rename it: about the new name they agree.
        rename(&two.one, directory, "old", directory, "new").await;
        drain(&two.one).await;
        rename(&two.two, directory, "old", directory, "new").await;
        write(&two.two, file, 0, b"ours").await;
        is_refused(&two, 2).await;
        rename(&two.one, directory, "new", two.root.inode, "outside").await;
        unlink(&two.one, two.root.inode, "directory").await;
        drain(&two.one).await;
        let found = goes_on(&mut two, dies).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["/directory", "/directory/new", "/outside"], "{dies}");
        assert!(found["/directory/new"].3 == b"ours", "{dies}");
        two.close().await;
    }
}

/// Both mounts changed `file`, so that all that the second has on its way, which is more than a batch holds, is taken apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_batch_holds_goes_in_an_order_that_the_network_takes() {
    const FILES: usize = 2_200;
    let two = common::two::Two::new().await;
    let root = two.root.inode;
    let file = create(&two.one, root, "file", Kind::File).await;
    let old = create(&two.one, root, "old", Kind::Directory).await;
    for number in 0..FILES {
        create(&two.one, old, &number.to_string(), Kind::File).await;
    }
    two.tell_two().await;
    picture(&two.two).await;
    two.lines.cut_off(true);
    write(&two.one, file, 0, b"theirs").await;
    drain(&two.one).await;
    write(&two.two, file, 0, b"ours").await;
    // What is in it is older than its name, which it got last.
    let new = create(&two.two, root, "first name", Kind::Directory).await;
    for half in [0..FILES / 2, FILES / 2..FILES] {
        for number in half {
            create(&two.two, new, &number.to_string(), Kind::File).await;
            unlink(&two.two, old, &number.to_string()).await;
        }
        assert!(two.two.cut().await.unwrap());
    }
    unlink(&two.two, root, "old").await;
    rename(&two.two, root, "first name", root, "new").await;
    assert!(two.two.cut().await.unwrap());
    two.lines.cut_off(false);
    two.settle().await;
    let found = picture(&two.one).await;
    assert_eq!(found, picture(&two.two).await);
    let shown = found.keys().filter(|path| !path.starts_with("/new/")).collect::<Vec<_>>();
    assert_eq!(found.len(), FILES + 3, "{shown:?}");
    assert!(found.contains_key("/new/0") && !found.contains_key("/old"), "{shown:?}");
    assert_eq!(two.two.status().conflicts, 1);
    two.close().await;
}
