use super::*;
use std::collections::BTreeMap;

const BOOT: BootId = BootId([1; 16]);
const NEXT_BOOT: BootId = BootId([2; 16]);
const FEED: Feed = Feed { epoch: 3, sequence: u64::MAX };

fn inode(number: u8) -> InodeId {
    InodeId::from_bytes([number; 16])
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    Place { path: directory.path().join("index"), _directory: directory }
}

fn fill(index: &Index) {
    index.put_file(inode(1), value("one"));
    index.put_entry(inode(1), b"b", 2, value("entry b"));
    index.put_entry(inode(1), b"a", u64::MAX, value("entry a"));
    index.put_entry(inode(2), b"a", 1, value("other"));
    index.put_ranges(inode(1), value("ranges"), true);
    index.put_ranges(inode(2), value("unsynced"), false);
    index.set_feed(FEED);
}

async fn check(index: &Index) {
    assert_eq!(index.file(inode(1)).await, Some(value("one")));
    assert_eq!(index.file(inode(2)).await, None);
    let rows = index.entries(inode(1), 0, 10).await.unwrap().rows;
    let found: Vec<_> = rows.iter().map(|row| (row.cookie, &row.name[..])).collect();
    assert_eq!(found, [(2, &b"b"[..]), (u64::MAX, b"a")]);
    assert_eq!(index.entries(inode(1), 2, 10).await.unwrap().rows, rows[1..]);
    assert_eq!(index.entries(inode(1), 0, 1).await.unwrap().rows, rows[..1]);
    assert_eq!(index.entries(inode(3), 0, 1).await.unwrap().rows, []);
    assert_eq!(index.feed().await, Some(FEED));
}

#[tokio::test]
async fn rows_are_found_at_once_after_a_batch_and_after_a_restart() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    fill(&index);
    check(&index).await;
    index.flush().await;
    check(&index).await;
    drop(index);
    let index = Index::open(&place.path, BOOT);
    check(&index).await;
    let all = [(inode(1), value("ranges")), (inode(2), value("unsynced"))];
    assert_eq!(index.ranges_after(None, 10).await, all);
    assert_eq!(index.ranges_after(Some(inode(1)), 10).await, all[1..]);
    assert!(index.bytes_on_disk() > 0);
    // Opening takes back that a row outlives a reboot; only putting it again promises that anew.
    index.put_ranges(inode(1), value("ranges"), true);
    drop(index);
    let index = Index::open(&place.path, NEXT_BOOT);
    check(&index).await;
    assert_eq!(index.ranges_after(None, 10).await, all[..1]);
    index.close();
    assert_eq!(index.ranges_after(None, 10).await, []);
    assert!(!index.forget_ranges_surely(inode(1)).await);
    assert_eq!(Index::open(&place.path, NEXT_BOOT).ranges_after(None, 10).await, all[..1]);
    assert_eq!(Index::open(&place.path, BOOT).ranges_after(None, 10).await, []);
}

#[tokio::test]
async fn ranges_that_are_surely_forgotten_are_gone_for_another_process() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    fill(&index);
    index.flush().await;
    assert!(index.forget_ranges_surely(inode(1)).await);
    let seen_by_others = database::Database::open_to_read(&place.path).unwrap().ranges_after(None, 10).unwrap();
    assert_eq!(seen_by_others, [(inode(2), value("unsynced"))]);
    assert!(!Index::none().forget_ranges_surely(inode(1)).await);
}

#[tokio::test]
async fn what_is_forgotten_is_not_found_before_or_after_a_batch() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    for flushed in [true, false] {
        fill(&index);
        if flushed {
            index.flush().await;
        }
        index.forget_file(inode(1));
        index.forget_ranges(inode(1));
        index.forget_names();
        index.put_entry(inode(2), b"new", 9, value("new"));
        for _ in 0..2 {
            assert_eq!(index.file(inode(1)).await, None);
            assert_eq!(index.ranges_after(None, 10).await, [(inode(2), value("unsynced"))]);
            assert_eq!(index.feed().await, None);
            assert_eq!(index.entries(inode(1), 0, 10).await.unwrap().rows, []);
            let rows = index.entries(inode(2), 0, 10).await.unwrap().rows;
            assert_eq!(rows.iter().map(|row| &row.name[..]).collect::<Vec<_>>(), [b"new"]);
            index.flush().await;
        }
        index.put_file(inode(5), value("a file"));
        index.forget_files();
        assert_eq!(index.file(inode(5)).await, None);
        index.put_file(inode(6), value("a later one"));
        for _ in 0..2 {
            assert_eq!(index.file(inode(5)).await, None);
            assert_eq!(index.file(inode(6)).await, Some(value("a later one")));
            index.flush().await;
        }
        index.forget_names();
    }
}

#[tokio::test]
async fn the_mark_of_a_close_is_for_the_next_opening_alone() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    assert_eq!(index.take_closed(), None);
    index.set_closed(value("closed"));
    drop(index);
    let index = Index::open(&place.path, BOOT);
    assert_eq!((index.take_closed(), index.take_closed()), (Some(value("closed")), None));
    drop(index);
    assert_eq!(Index::open(&place.path, BOOT).take_closed(), None);
    let index = Index::open(&place.path, BOOT);
    index.set_closed(value("closed"));
    index.forget_names();
    drop(index);
    assert_eq!(Index::open(&place.path, BOOT).take_closed(), None);
}

#[tokio::test]
async fn emptied_tables_give_their_room_back() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    for number in 0..200 {
        index.put_file(inode(number), Bytes::from(vec![number; 20_000]));
    }
    index.flush().await;
    index.forget_files();
    index.close();
    assert!(index.bytes_on_disk() < 100_000, "{} bytes", index.bytes_on_disk());
}

async fn whole(index: &Index) -> Option<Bytes> {
    index.entries(inode(1), 0, 10).await.unwrap().whole
}

#[tokio::test]
async fn a_listing_is_whole_only_while_none_of_its_entries_was_lost() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    let losses = index.losses();
    index.put_entry(inode(1), b"a", 1, value("a"));
    assert_eq!(whole(&index).await, None);
    index.put_listing(inode(1), losses, value("v1"));
    assert_eq!(whole(&index).await, Some(value("v1")));
    index.put_entry(inode(1), b"b", 2, value("b"));
    assert_eq!(whole(&index).await, Some(value("v1")));
    index.forget_names();
    assert_eq!(whole(&index).await, None);
    index.put_listing(inode(1), losses, value("v2"));
    assert_eq!(whole(&index).await, None);
    let losses = index.losses();

    // An entry that is dropped takes the mark with it, whether it is there already or comes later.
    index.put_listing(inode(1), losses, value("v3"));
    index.flush().await;
    {
        let mut state = index.handle.shared.state.lock();
        state.waiting.set_file(inode(9), Some(Bytes::from(vec![0; MAX_WAITING])));
        state.changes += 1;
    }
    index.put_entry(inode(1), b"dropped", 3, value("c"));
    assert_ne!(index.losses(), losses);
    assert_eq!(whole(&index).await, None);
    index.put_listing(inode(1), losses, value("v4"));
    assert_eq!(whole(&index).await, None);
    let losses = index.losses();
    index.put_listing(inode(1), losses, value("v5"));
    assert_eq!(whole(&index).await, Some(value("v5")));
}

#[tokio::test]
async fn a_mark_that_waits_does_not_outlive_a_rebuild() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    let losses = index.losses();
    index.put_entry(inode(1), b"a", 1, value("a"));
    index.flush().await;
    {
        let mut state = index.handle.shared.state.lock();
        state.damaged = true;
        state.waiting.set_listing(inode(1), Some(value("v1")));
        state.changes += 1;
    }
    index.put_file(inode(1), value("stays"));
    index.flush().await;
    assert_eq!(index.entries(inode(1), 0, 10).await.unwrap(), Listing { whole: None, rows: Vec::new() });
    assert_eq!(index.file(inode(1)).await, Some(value("stays")));
    index.put_listing(inode(1), losses, value("v2"));
    assert_eq!(whole(&index).await, None);
}

#[tokio::test]
async fn too_much_at_once_forgets_but_never_keeps_what_is_old() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    index.put_file(inode(1), value("old"));
    index.put_file(inode(2), value("old"));
    index.flush().await;
    {
        // The writer is kept away while too much comes.
        let mut state = index.handle.shared.state.lock();
        let big = Bytes::from(vec![0; MAX_WAITING]);
        state.waiting.set_file(inode(3), Some(big));
        state.changes += 1;
        assert!(state.waiting.bytes() >= MAX_WAITING);
    }
    index.put_file(inode(1), value("new"));
    assert_ne!(index.file(inode(1)).await, Some(value("old")));
    index.flush().await;
    assert_ne!(index.file(inode(1)).await, Some(value("old")));
    {
        let mut state = index.handle.shared.state.lock();
        for _ in 0..MAX_CHANGES {
            state.waiting.set_file(inode(4), None);
        }
        state.changes += 1;
    }
    index.forget_file(inode(5));
    index.flush().await;
    assert_eq!(index.file(inode(2)).await, None);
    index.put_file(inode(2), value("again"));
    index.flush().await;
    assert_eq!(index.file(inode(2)).await, Some(value("again")));
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_made_anew() {
    let place = place();
    for bytes in [vec![0x5a; 20_000], b"SQLite format 3\0 and then nothing".to_vec(), Vec::new()] {
        std::fs::write(&place.path, bytes).unwrap();
        let index = Index::open(&place.path, BOOT);
        assert_eq!(index.feed().await, None);
        fill(&index);
        index.flush().await;
        check(&index).await;
    }
    let other = rusqlite::Connection::open(&place.path).unwrap();
    other.pragma_update(None, "user_version", 99).unwrap();
    drop(other);
    assert_eq!(Index::open(&place.path, BOOT).feed().await, None);
}

#[tokio::test]
async fn damage_found_on_the_way_empties_the_index() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    for number in 0..200 {
        index.put_file(inode(number), Bytes::from(vec![number; 2000]));
    }
    drop(index);
    let mut bytes = std::fs::read(&place.path).unwrap();
    assert!(bytes.len() > 100_000);
    // Everything behind the first pages (schema, facts).
    let from = 7 * 4096;
    bytes[from..].fill(0x5a);
    std::fs::write(&place.path, bytes).unwrap();
    let index = Index::open(&place.path, BOOT);
    let mut found = Vec::new();
    for number in 0..200 {
        found.extend(index.file(inode(number)).await);
    }
    assert!(found.len() < 200 && found.iter().all(|row| row.len() == 2000));
    index.flush().await;
    index.put_file(inode(1), value("one"));
    index.flush().await;
    assert_eq!(index.file(inode(1)).await, Some(value("one")));
    assert_eq!(index.file(inode(150)).await, None);
}

#[tokio::test]
async fn without_a_place_it_keeps_nothing() {
    let place = place();
    let nowhere = place.path.join("not/there");
    for index in [Index::none(), Index::open(&nowhere, BOOT)] {
        fill(&index);
        index.flush().await;
        assert_eq!(index.file(inode(1)).await, None);
        assert_eq!(index.entries(inode(1), 0, 10).await, None);
        assert_eq!(index.bytes_on_disk(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_never_older_than_the_last_change_before_the_call() {
    let place = place();
    let index = Index::open(&place.path, BOOT);
    let mut expected = BTreeMap::<u8, Option<u32>>::new();
    for step in 0..2_000u32 {
        let key = (step * 7 % 13) as u8;
        if step % 5 == 0 {
            index.forget_file(inode(key));
            expected.insert(key, None);
        } else {
            index.put_file(inode(key), Bytes::copy_from_slice(&step.to_le_bytes()));
            expected.insert(key, Some(step));
        }
        if step % 97 == 0 {
            let index = index.clone();
            tokio::spawn(async move { index.flush().await });
        }
        let asked = (step * 5 % 13) as u8;
        let row = index.file(inode(asked)).await.map(|row| u32::from_le_bytes(row[..].try_into().unwrap()));
        let newest = expected.get(&asked).copied().flatten();
        // It may have lost the row, but has no other.
        assert!(row.is_none() || row == newest, "step {step}: {row:?}, not {newest:?}");
    }
}
