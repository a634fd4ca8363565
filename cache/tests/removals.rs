//! A mount removes or replaces a file before it hears that another one changed it: what was changed is not taken away.

mod common;

use common::two::{Two, change_mode, link, links};
use common::*;
use strewn_cache::disk::MemoryDisk;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

const LENGTH: usize = 100_000;

/// A file that both know; the second is cut off then.
async fn apart() -> (Two, InodeId) {
    let two = Two::new().await;
    let file = create(&two.one, two.root.inode, "file", Kind::File).await;
    write(&two.one, file, 0, &pattern(LENGTH, 1)).await;
    two.tell_two().await;
    picture(&two.two).await;
    two.lines.cut_off(true);
    (two, file)
}

/// Both write one more file, so that everything on its way is taken apart once.
async fn contest(two: &Two) {
    two.lines.cut_off(false);
    let other = create(&two.one, two.root.inode, "other", Kind::File).await;
    two.tell_two().await;
    assert_eq!(lookup(&two.two, two.root.inode, "other").await, Some(other));
    read_all(&two.two, other).await;
    two.lines.cut_off(true);
    write(&two.one, other, 0, b"theirs").await;
    drain(&two.one).await;
    write(&two.two, other, 0, b"ours").await;
}

/// The first mount writes it anew and sends that.
async fn write_anew(two: &Two, file: InodeId) -> Vec<u8> {
    let bytes = pattern(LENGTH + 1, 2);
    write(&two.one, file, 0, &bytes).await;
    drain(&two.one).await;
    bytes
}

/// What both show once both have sent and heard everything, which is what the network has.
async fn settled(two: &Two) -> Picture {
    two.lines.cut_off(false);
    two.settle().await;
    let fresh = open_on(&MemoryDisk::new(), &two.bucket, &two.root, options()).await;
    let found = picture(&fresh).await;
    for cache in [&two.one, &two.two] {
        let shown = picture(cache).await;
        assert!(shown == found, "{:?} and {:?}", shown.keys(), found.keys());
    }
    fresh.close().await.unwrap();
    found
}

fn paths(found: &Picture) -> Vec<&String> {
    found.keys().collect()
}

fn conflicts(two: &Two) -> Vec<String> {
    two.two.status().conflict_copies.into_iter().map(|copy| copy.path).collect()
}

#[tokio::test]
async fn what_was_written_elsewhere_comes_back() {
    for step in 0..16 {
        let (cut, snapshot, dies, twice) = (step & 1 > 0, step & 2 > 0, step & 4 > 0, step & 8 > 0);
        let (mut two, file) = apart().await;
        let theirs = write_anew(&two, file).await;
        unlink(&two.two, two.root.inode, "file").await;
        if cut {
            assert!(two.two.cut().await.unwrap());
        }
        if twice {
            create(&two.two, two.root.inode, "more", Kind::File).await;
            assert!(two.two.cut().await.unwrap());
        }
        if snapshot {
            two.two.snapshot().await.unwrap();
        }
        if dies {
            two.two.sync_all().await.unwrap();
            two.two_dies().await;
        }
        let found = settled(&two).await;
        assert_eq!(found.len(), 1 + usize::from(twice), "step {step}: {:?}", paths(&found));
        assert!(found["/file"].3 == theirs && found["/file"].1 == 1, "step {step}");
        assert_eq!(conflicts(&two), ["file"], "step {step}: who removed it is told");
        two.close().await;
    }
}

#[tokio::test]
async fn what_was_to_replace_it_goes_beside_it() {
    let (two, file) = apart().await;
    let theirs = write_anew(&two, file).await;
    let new = create(&two.two, two.root.inode, "new", Kind::File).await;
    write(&two.two, new, 0, b"ours").await;
    rename(&two.two, two.root.inode, "new", two.root.inode, "file").await;
    let found = settled(&two).await;
    assert_eq!(found.len(), 2, "{:?}", paths(&found));
    assert!(found["/file"].3 == theirs);
    let (_, copy) = found.iter().find(|(path, _)| path.starts_with("/file (conflict ")).expect("a copy");
    assert_eq!((copy.2, &copy.3[..]), (new, &b"ours"[..]));
    two.close().await;
}

#[tokio::test]
async fn so_it_does_where_a_file_of_the_network_was_to_replace_it() {
    let (two, file) = apart().await;
    two.lines.cut_off(false);
    let other = create(&two.one, two.root.inode, "other", Kind::File).await;
    two.tell_two().await;
    two.lines.cut_off(true);
    let theirs = write_anew(&two, file).await;
    rename(&two.two, two.root.inode, "other", two.root.inode, "file").await;
    // And that goes as well.
    unlink(&two.two, two.root.inode, "file").await;
    let found = settled(&two).await;
    assert_eq!(paths(&found), ["/file"]);
    assert!(found["/file"].3 == theirs && found["/file"].2 != other);
    two.close().await;
}

#[tokio::test]
async fn attributes_alone_bring_nothing_back() {
    let (two, file) = apart().await;
    change_mode(&two.one, file, 0o600).await;
    drain(&two.one).await;
    unlink(&two.two, two.root.inode, "file").await;
    assert!(settled(&two).await.is_empty());
    assert!(conflicts(&two).is_empty());
    two.close().await;
}

#[tokio::test]
async fn what_was_heard_of_is_removed() {
    let (two, file) = apart().await;
    write_anew(&two, file).await;
    two.lines.cut_off(false);
    two.tell_two().await;
    two.lines.cut_off(true);
    unlink(&two.two, two.root.inode, "file").await;
    assert!(settled(&two).await.is_empty());
    two.close().await;
}

#[tokio::test]
async fn a_name_that_it_got_elsewhere_is_enough() {
    let (two, file) = apart().await;
    link(&two.one, two.root.inode, "other", file).await;
    let theirs = write_anew(&two, file).await;
    unlink(&two.two, two.root.inode, "file").await;
    let found = settled(&two).await;
    assert_eq!(paths(&found), ["/other"]);
    assert!(found["/other"].3 == theirs && found["/other"].1 == 1);
    assert!(conflicts(&two).is_empty());
    two.close().await;
}

#[tokio::test]
async fn all_names_come_back_that_went_together() {
    for cut in [false, true] {
        let (two, file) = apart().await;
        two.lines.cut_off(false);
        link(&two.one, two.root.inode, "other", file).await;
        two.tell_two().await;
        picture(&two.two).await;
        two.lines.cut_off(true);
        let theirs = write_anew(&two, file).await;
        unlink(&two.two, two.root.inode, "file").await;
        if cut {
            assert!(two.two.cut().await.unwrap());
        }
        unlink(&two.two, two.root.inode, "other").await;
        let found = settled(&two).await;
        assert!(paths(&found) == ["/file", "/other"] || (cut && paths(&found) == ["/other"]), "{:?}", paths(&found));
        assert!(found["/other"].3 == theirs);
        assert_eq!(links(&two.two, file).await as usize, found.len());
        two.close().await;
    }
}

#[tokio::test]
async fn a_file_that_is_open_here_is_theirs_again() {
    let (two, file) = apart().await;
    hold(&two.two, two.root.inode, "file").await;
    let theirs = write_anew(&two, file).await;
    unlink(&two.two, two.root.inode, "file").await;
    write(&two.two, file, 10, b"into what was removed").await;
    let found = settled(&two).await;
    assert_eq!(paths(&found), ["/file"]);
    assert!(found["/file"].3 == theirs);
    assert!(read_all(&two.two, file).await == theirs);
    let_go(&two.two, file).await;
    two.close().await;
}

#[tokio::test]
async fn the_directories_come_back_that_it_was_in() {
    for cuts in 0..8 {
        let (two, _) = apart().await;
        two.lines.cut_off(false);
        let above = create(&two.one, two.root.inode, "above", Kind::Directory).await;
        let below = create(&two.one, above, "below", Kind::Directory).await;
        let deep = create(&two.one, below, "deep", Kind::File).await;
        create(&two.one, below, "unchanged", Kind::File).await;
        two.tell_two().await;
        picture(&two.two).await;
        two.lines.cut_off(true);
        let theirs = write_anew(&two, deep).await;
        let removals = [(below, "unchanged"), (below, "deep"), (above, "below"), (two.root.inode, "above")];
        for (number, (directory, name)) in removals.into_iter().enumerate() {
            unlink(&two.two, directory, name).await;
            if cuts >> number & 1 > 0 {
                assert!(two.two.cut().await.unwrap());
            }
        }
        let found = settled(&two).await;
        assert_eq!(paths(&found), ["/above", "/above/below", "/above/below/deep", "/file"], "cuts {cuts}");
        assert!(found["/above/below/deep"].3 == theirs);
        two.close().await;
    }
}

#[tokio::test]
async fn what_was_written_here_before_goes_with_the_file() {
    for (cuts, dies) in [(0, false), (1, false), (2, false), (3, false), (1, true), (3, true)] {
        let (mut two, file) = apart().await;
        contest(&two).await;
        if cuts > 2 {
            assert!(two.two.cut().await.unwrap());
        }
        write(&two.two, file, 5, b"in vain").await;
        if cuts > 0 {
            assert!(two.two.cut().await.unwrap());
        }
        unlink(&two.two, two.root.inode, "file").await;
        if cuts > 1 {
            assert!(two.two.cut().await.unwrap());
        }
        if dies {
            two.two.snapshot().await.unwrap();
            two.two.sync_all().await.unwrap();
            two.two_dies().await;
        }
        let found = settled(&two).await;
        assert_eq!(found.len(), 2, "{cuts}, {dies}: {:?}", paths(&found));
        assert!(found["/other"].3 == b"theirs" && found.keys().all(|path| path.starts_with("/other")));
        two.close().await;
    }
}

#[tokio::test]
async fn what_only_this_mount_changed_is_removed_at_once() {
    let (two, file) = apart().await;
    two.lines.cut_off(false);
    for round in 0..3u8 {
        write(&two.two, file, 3, &[round]).await;
        drain(&two.two).await;
    }
    write(&two.two, file, 0, b"last").await;
    assert!(two.two.cut().await.unwrap());
    unlink(&two.two, two.root.inode, "file").await;
    let before = two.lines.commits();
    drain(&two.two).await;
    assert!(two.lines.commits() - before <= 2, "nothing was refused");
    assert!(settled(&two).await.is_empty());
    two.close().await;
}

#[tokio::test]
async fn a_file_that_was_moved_over_another_one_has_one_name_to_lose() {
    let (two, file) = apart().await;
    two.lines.cut_off(false);
    let over = create(&two.one, two.root.inode, "over", Kind::File).await;
    two.tell_two().await;
    picture(&two.two).await;
    write(&two.two, file, 0, b"ours").await;
    write(&two.two, over, 0, b"ours as well").await;
    rename(&two.one, two.root.inode, "file", two.root.inode, "over").await;
    let theirs = write_anew(&two, file).await;
    two.tell_two().await;
    // What was there is needed for what was written to it.
    assert_eq!(links(&two.two, file).await, 1);
    assert_eq!(lookup(&two.two, two.root.inode, "over").await, Some(file));
    unlink(&two.two, two.root.inode, "over").await;
    let found = settled(&two).await;
    assert_eq!(found.len(), 2, "{:?}", paths(&found));
    assert!(found["/over"].3 == theirs, "it was not seen here what was written elsewhere");
    assert!(found.iter().any(|(path, copy)| path.starts_with("/over (conflict ") && copy.3 == b"ours as well"));
    two.close().await;
}

#[tokio::test]
async fn what_was_written_here_stays_when_each_side_takes_one_of_two_names() {
    for hears in [false, true] {
        let (two, file) = apart().await;
        two.lines.cut_off(false);
        link(&two.one, two.root.inode, "other", file).await;
        two.tell_two().await;
        picture(&two.two).await;
        two.lines.cut_off(true);
        write(&two.two, file, 0, b"ours").await;
        unlink(&two.two, two.root.inode, "file").await;
        unlink(&two.one, two.root.inode, "other").await;
        drain(&two.one).await;
        if hears {
            two.lines.cut_off(false);
            two.tell_two().await;
        }
        let found = settled(&two).await;
        assert_eq!(found.len(), 1, "{hears}: {:?}", paths(&found));
        let (_, (_, names, inode, bytes)) = found.first_key_value().expect("one");
        assert!((*names, *inode) == (1, file) && bytes.starts_with(b"ours"), "{hears}");
        two.close().await;
    }
}

#[tokio::test]
async fn what_was_written_elsewhere_stays_when_each_side_takes_one_of_two_names() {
    for case in 0..8 {
        let [writes, hears, dies] = [1, 2, 4].map(|bit| case & bit != 0);
        let (mut two, file) = apart().await;
        two.lines.cut_off(false);
        link(&two.one, two.root.inode, "other", file).await;
        two.tell_two().await;
        picture(&two.two).await;
        two.lines.cut_off(true);
        if writes {
            write(&two.two, file, 0, b"ours").await;
        }
        unlink(&two.two, two.root.inode, "file").await;
        let theirs = write_anew(&two, file).await;
        unlink(&two.one, two.root.inode, "other").await;
        drain(&two.one).await;
        if hears {
            two.lines.cut_off(false);
            two.tell_two().await;
            two.lines.cut_off(true);
        }
        if dies {
            two.two.sync_all().await.unwrap();
            two.two_dies().await;
        }
        let found = settled(&two).await;
        let shown = || format!("{writes} {hears} {dies}: {:?}", paths(&found));
        // A file that is changed here keeps the last name that is shown, until what became of that is settled.
        let place = if hears { "/other" } else { "/file" };
        assert!(found.get(place).is_some_and(|(_, _, _, bytes)| *bytes == theirs), "{}", shown());
        let ours: Vec<_> = found.iter().filter(|(_, (_, _, _, bytes))| bytes.starts_with(b"ours")).collect();
        assert!(ours.len() == usize::from(writes) && found.len() == 1 + ours.len(), "{}", shown());
        assert!(
            ours.iter().all(|(path, _)| path.starts_with("/file (") || path.starts_with("/other (")),
            "{}",
            shown()
        );
        two.close().await;
    }
}

#[tokio::test]
async fn a_file_that_lost_one_of_two_names_elsewhere_has_one_to_lose() {
    for dies in [false, true] {
        let (mut two, file) = apart().await;
        two.lines.cut_off(false);
        link(&two.one, two.root.inode, "other", file).await;
        two.tell_two().await;
        picture(&two.two).await;
        write(&two.two, file, 0, b"ours").await;
        unlink(&two.one, two.root.inode, "other").await;
        two.tell_two().await;
        assert_eq!(links(&two.two, file).await, 1, "though it was written here");
        two.lines.cut_off(true);
        let theirs = write_anew(&two, file).await;
        unlink(&two.two, two.root.inode, "file").await;
        if dies {
            two.two.sync_all().await.unwrap();
            two.two_dies().await;
        }
        let found = settled(&two).await;
        assert_eq!(paths(&found), ["/file"], "what was written here was removed here, {dies}");
        assert!(found["/file"].3 == theirs);
        two.close().await;
    }
}

/// The network has answered to all that was on its way, and nothing more is taken.
async fn answered(two: &Two) {
    two.lines.cut_off(false);
    let answered = async {
        while two.two.status().queued_cuts > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("in time");
}

#[tokio::test]
async fn what_was_to_be_written_here_does_not_pass_for_what_was_written_elsewhere() {
    for (snapshot, dies) in [(false, false), (false, true), (true, true)] {
        let (mut two, file) = apart().await;
        let theirs = write_anew(&two, file).await;
        write(&two.two, file, 5, b"in vain").await;
        assert!(two.two.cut().await.unwrap());
        // Both made the second version of it, and no cut takes the removal before that is known.
        unlink(&two.two, two.root.inode, "file").await;
        answered(&two).await;
        if snapshot {
            two.two.snapshot().await.unwrap();
        }
        if dies {
            two.two.sync_all().await.unwrap();
            two.two_dies().await;
        }
        let found = settled(&two).await;
        assert_eq!(paths(&found), ["/file"], "{snapshot}, {dies}");
        assert!(found["/file"].3 == theirs, "{snapshot}, {dies}");
        two.close().await;
    }
}

#[tokio::test]
async fn what_was_to_be_written_here_is_no_change_elsewhere() {
    for dies in [false, true] {
        let (mut two, file) = apart().await;
        contest(&two).await;
        write(&two.two, file, 5, b"in vain").await;
        assert!(two.two.cut().await.unwrap());
        unlink(&two.two, two.root.inode, "file").await;
        answered(&two).await;
        if dies {
            two.two.sync_all().await.unwrap();
            two.two_dies().await;
        }
        let found = settled(&two).await;
        assert!(found.len() == 2 && !found.contains_key("/file"), "{dies}: {:?}", paths(&found));
        two.close().await;
    }
}

#[tokio::test]
async fn attributes_alone_bring_nothing_back_that_was_written_here_before() {
    for (written, cut) in [(false, false), (false, true), (true, false), (true, true)] {
        let (two, file) = apart().await;
        change_mode(&two.one, file, 0o600).await;
        drain(&two.one).await;
        match written {
            true => write(&two.two, file, 5, b"in vain").await,
            false => change_mode(&two.two, file, 0o640).await,
        }
        assert!(two.two.cut().await.unwrap());
        unlink(&two.two, two.root.inode, "file").await;
        if cut {
            assert!(two.two.cut().await.unwrap());
        } else {
            answered(&two).await;
        }
        let found = settled(&two).await;
        assert!(found.is_empty() && conflicts(&two).is_empty(), "{written}, {cut}: {:?}", paths(&found));
        two.close().await;
    }
}

/// A file that the second mount has open and has no byte of. It is cut off.
async fn only_open() -> (Two, InodeId) {
    let two = Two::new().await;
    let file = create(&two.one, two.root.inode, "file", Kind::File).await;
    write(&two.one, file, 0, &pattern(LENGTH, 1)).await;
    two.tell_two().await;
    hold(&two.two, two.root.inode, "file").await;
    two.lines.cut_off(true);
    (two, file)
}

#[tokio::test]
async fn a_file_that_is_open_here_and_not_here_as_a_whole_comes_back_under_its_name() {
    for (cut, closed) in [(false, false), (true, false), (true, true)] {
        let (two, file) = only_open().await;
        let theirs = write_anew(&two, file).await;
        unlink(&two.two, two.root.inode, "file").await;
        if cut {
            assert!(two.two.cut().await.unwrap());
        }
        if closed {
            let_go(&two.two, file).await;
            answered(&two).await;
        }
        let found = settled(&two).await;
        assert_eq!(paths(&found), ["/file"], "{cut}, {closed}");
        assert!(found["/file"].3 == theirs && read_all(&two.one, file).await == theirs, "{cut}, {closed}");
        if !closed {
            assert!(read_all(&two.two, file).await == theirs);
            let_go(&two.two, file).await;
        }
        assert_eq!(settled(&two).await, found, "{cut}, {closed}");
        two.close().await;
    }
}

#[tokio::test]
async fn what_was_written_elsewhere_to_a_file_that_is_only_open_here_stays() {
    for closed in [false, true] {
        let (two, file) = only_open().await;
        hold(&two.one, two.root.inode, "file").await;
        unlink(&two.two, two.root.inode, "file").await;
        assert!(two.two.cut().await.unwrap());
        if closed {
            // Before the network has the name that it got for that.
            let_go(&two.two, file).await;
        }
        answered(&two).await;
        two.one.catch_up(two.bucket.snapshot().sequence).await.unwrap();
        two.lines.cut_off(true);
        let theirs = write_anew(&two, file).await;
        if !closed {
            let_go(&two.two, file).await;
        }
        let found = settled(&two).await;
        assert!(found.len() == 1 && found.values().all(|file| file.3 == theirs), "{closed}: {:?}", paths(&found));
        let_go(&two.one, file).await;
        two.close().await;
    }
}

#[tokio::test]
async fn an_open_file_without_a_name_stays_readable_when_something_else_is_refused() {
    for dies in [false, true] {
        let (mut two, file) = only_open().await;
        contest(&two).await;
        unlink(&two.two, two.root.inode, "file").await;
        assert!(two.two.cut().await.unwrap());
        answered(&two).await;
        drain(&two.two).await;
        assert!(read_all(&two.two, file).await == pattern(LENGTH, 1));
        if dies {
            two.two.sync_all().await.unwrap();
            two.two_dies().await;
        } else {
            let_go(&two.two, file).await;
        }
        let found = settled(&two).await;
        assert!(found.len() == 2 && found.keys().all(|path| path.starts_with("/other")), "{dies}: {:?}", paths(&found));
        two.close().await;
    }
}

#[tokio::test]
async fn more_open_files_are_removed_than_get_names_for_that() {
    const FILES: usize = 2_100;
    let two = Two::new().await;
    let names: Vec<String> = (0..FILES).map(|number| format!("file {number}")).collect();
    for name in &names {
        let file = create(&two.one, two.root.inode, name, Kind::File).await;
        write(&two.one, file, 0, b"x").await;
    }
    two.tell_two().await;
    let mut open = Vec::new();
    for name in &names {
        open.push(hold(&two.two, two.root.inode, name).await.unwrap());
    }
    for name in &names {
        unlink(&two.two, two.root.inode, name).await;
    }
    drain(&two.two).await;
    assert_eq!(read_all(&two.two, open[0]).await, b"x");
    for file in open {
        let_go(&two.two, file).await;
    }
    assert!(settled(&two).await.is_empty());
    two.close().await;
}

#[tokio::test]
async fn names_are_counted_after_a_restart_that_closed_a_file_without_a_name() {
    let (mut two, _) = only_open().await;
    two.lines.cut_off(false);
    let linked = create(&two.one, two.root.inode, "linked", Kind::File).await;
    link(&two.one, two.root.inode, "other", linked).await;
    two.tell_two().await;
    unlink(&two.two, two.root.inode, "file").await;
    drain(&two.two).await;
    two.two.snapshot().await.unwrap();
    two.two.sync_all().await.unwrap();
    two.two_dies().await;
    assert_eq!(lookup(&two.two, two.root.inode, "linked").await, Some(linked));
    assert_eq!(links(&two.two, linked).await, 2);
    two.tell_one().await;
    unlink(&two.one, two.root.inode, "other").await;
    two.tell_two().await;
    assert_eq!(links(&two.two, linked).await, 1);
    settled(&two).await;
    two.close().await;
}

#[tokio::test]
async fn a_refusal_asks_about_many_names_side_by_side() {
    let (two, _) = apart().await;
    two.lines.cut_off(false);
    for number in 0..20 {
        create(&two.one, two.root.inode, &format!("more {number}"), Kind::File).await;
    }
    two.tell_two().await;
    picture(&two.two).await;
    two.lines.cut_off(true);
    let theirs = write_anew(&two, lookup(&two.one, two.root.inode, "file").await.unwrap()).await;
    unlink(&two.two, two.root.inode, "file").await;
    for number in 0..20 {
        unlink(&two.two, two.root.inode, &format!("more {number}")).await;
    }
    assert!(two.two.cut().await.unwrap());
    two.lines.names.shut(true);
    two.lines.cut_off(false);
    tokio::time::timeout(PATIENCE, two.lines.names.came(8)).await.expect("before the first is answered");
    two.lines.names.shut(false);
    let found = settled(&two).await;
    assert!(paths(&found) == ["/file"] && found["/file"].3 == theirs, "{:?}", paths(&found));
    two.close().await;
}
