use super::*;
use crate::testing::directory;
use proptest::prelude::*;
use std::collections::HashMap;
use strewn_engine::piece::{PieceTree, verify};

const NAME: [u8; 16] = [7; 16];

fn options() -> StoreOptions {
    StoreOptions { capacity: 64 << 20, reserve: 0, roll: 256 << 10 }
}

fn open(directory: &Path) -> Store {
    Store::open(directory, &NAME, options(), None).expect("opens")
}

fn id(number: u64) -> PieceId {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    PieceId::from_bytes(bytes)
}

fn content(number: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(number * 2 + 1) >> 3) as u8 ^ number as u8).collect()
}

async fn put(store: &Store, piece: PieceId, data: &[u8]) -> Result<[u8; 32], StoreError> {
    let mut incoming = store.admit(piece, data.len() as u64, None)?;
    for part in data.chunks(100_000) {
        incoming.write(part)?;
    }
    store.commit(incoming).await
}

/// Ends a store before its directory is touched: what was dropped gives its index free only when its last job has ended.
async fn close(store: Store) {
    store.close().await;
}

/// Reads and proves every share.
fn get(store: &Store, piece: &PieceId) -> Result<Vec<u8>, StoreError> {
    let piece = store.piece(piece)?;
    let (mut all, mut data) = (Vec::new(), Vec::new());
    for share in 0..piece.shares() {
        piece.shares_into(share, 1, &mut data)?;
        let proof = piece.prove(share).expect("share exists");
        verify(piece.root(), piece.shape(), share, data.clone().into(), &proof).expect("proof holds");
        all.extend_from_slice(&data);
    }
    Ok(all)
}

fn copy_directory(from: &Path) -> tempfile::TempDir {
    let to = directory();
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copies");
    }
    to
}

fn forget_index(directory: &Path) {
    index::remove(&directory.join("index.db"));
}

/// Every record is a piece, or waited for, or dead.
fn assert_exact(store: &Store) {
    let bytes = store.bytes();
    assert_eq!(bytes.used, bytes.live + bytes.dead + bytes.open, "{bytes:?}");
    let (live, pieces) = store.shared.index(|index| index.live()).expect("index");
    assert_eq!((bytes.live, store.pieces()), (live.values().sum(), pieces));
    assert_eq!(bytes.promised, 0);
}

#[tokio::test]
async fn pieces_of_all_sizes_come_back_also_after_reopening_and_without_the_index() {
    let directory = directory();
    let lengths = [1, 100, 65_535, 65_536, 65_537, 100_000, 3 * 65_536, 700_000];
    let store = open(directory.path());
    for (i, length) in lengths.into_iter().enumerate() {
        let data = content(i as u64, length);
        let root = put(&store, id(i as u64), &data).await.expect("stored");
        assert_eq!(root, PieceTree::of(&data, SHARE as u32).expect("piece").root());
    }
    assert_exact(&store);
    let bytes = store.bytes();
    close(store).await;
    for lose_index in [false, true] {
        if lose_index {
            forget_index(directory.path());
        }
        let store = open(directory.path());
        for (i, length) in lengths.into_iter().enumerate() {
            assert_eq!(get(&store, &id(i as u64)).expect("there"), content(i as u64, length));
        }
        assert_eq!(get(&store, &id(99)), Err(StoreError::NotFound));
        assert_eq!(store.bytes(), bytes);
        assert_exact(&store);
    }
}

#[tokio::test]
async fn many_at_once_share_logs_and_syncs() {
    let directory = directory();
    let store = Arc::new(open(directory.path()));
    let tasks: Vec<_> = (0..60u64)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, id(i), &content(i, 1 + i as usize * 3_001)).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("task").expect("stored");
    }
    assert_exact(&store);
    for i in 0..60u64 {
        assert_eq!(get(&store, &id(i)).expect("there"), content(i, 1 + i as usize * 3_001));
    }
}

#[tokio::test]
async fn a_piece_is_never_replaced() {
    let directory = directory();
    let store = open(directory.path());
    let root = put(&store, id(1), b"first").await.expect("stored");
    assert_eq!(put(&store, id(1), b"first").await, Ok(root));
    assert_eq!(put(&store, id(1), b"other").await, Err(StoreError::Exists));
    assert_eq!(get(&store, &id(1)).expect("there"), b"first");
    assert_eq!(store.pieces(), 1);
    assert_exact(&store);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let directory = directory();
    let store = open(directory.path());
    put(&store, id(1), &[1; 1000]).await.expect("stored");
    let before = store.bytes();
    let mut last = store.admit(id(2), 5_000, None).expect("room");
    last.write(&[2; 5_000]).expect("written");
    drop(last);
    assert_eq!(store.bytes(), before);
    // In the middle it is taken by the next record of its size.
    let mut middle = store.admit(id(3), 5_000, None).expect("room");
    middle.write(&[3; 2_500]).expect("written");
    put(&store, id(4), &[4; 100]).await.expect("stored");
    let used = store.bytes().used;
    drop(middle);
    assert_eq!(get(&store, &id(3)), Err(StoreError::NotFound));
    put(&store, id(5), &[5; 5_000]).await.expect("stored");
    assert_eq!(store.bytes().used, used);
    assert_exact(&store);
    for _ in 0..2 {
        let copy = copy_directory(directory.path());
        let reopened = open(copy.path());
        assert_eq!(get(&reopened, &id(5)).expect("there"), [5; 5_000]);
        assert_eq!(get(&reopened, &id(4)).expect("there"), [4; 100]);
        assert_eq!(reopened.pieces(), 3);
        drop(reopened);
        // The second time round from the logs alone.
        drop(std::fs::remove_file(directory.path().join("index.db")));
    }
}

#[tokio::test]
async fn deleting_is_durable_and_survives_the_index() {
    let directory = directory();
    let store = open(directory.path());
    for i in 0..5 {
        put(&store, id(i), &content(i, 50_000)).await.expect("stored");
    }
    assert_eq!(store.delete(id(2)).await, Ok(true));
    assert_eq!(store.delete(id(2)).await, Ok(false));
    put(&store, id(3), &content(3, 50_000)).await.expect("still there");
    store.delete(id(4)).await.expect("deleted");
    put(&store, id(4), b"again, and other").await.expect("stored anew");
    assert_exact(&store);
    let bytes = store.bytes();
    for lose_index in [false, true] {
        let copy = copy_directory(directory.path());
        if lose_index {
            forget_index(copy.path());
        }
        let store = open(copy.path());
        assert_eq!(get(&store, &id(2)), Err(StoreError::NotFound));
        assert_eq!(get(&store, &id(3)).expect("there"), content(3, 50_000));
        assert_eq!(get(&store, &id(4)).expect("there"), b"again, and other");
        assert_eq!(store.bytes(), bytes);
    }
}

#[tokio::test]
async fn full_is_said_before_any_byte_and_reserved_bytes_count() {
    let directory = directory();
    let store =
        Store::open(directory.path(), &NAME, StoreOptions { capacity: 100_000, ..options() }, None).expect("opens");
    let first = store.admit(id(1), 60_000, None).expect("room");
    assert!(matches!(store.admit(id(2), 60_000, None), Err(StoreError::Full)));
    drop(first);
    let mut second = store.admit(id(2), 60_000, None).expect("room again");
    second.write(&[2; 60_000]).expect("written");
    assert!(matches!(store.admit(id(3), 60_000, None), Err(StoreError::Full)));
    store.commit(second).await.expect("stored");
    assert!(matches!(store.admit(id(3), 60_000, None), Err(StoreError::Full)));
    assert!(store.free() < 40_000);
    let reserve = StoreOptions { reserve: u64::MAX, ..options() };
    close(store).await;
    let store = Store::open(directory.path(), &NAME, reserve, None).expect("opens");
    assert!(matches!(store.admit(id(4), 1, None), Err(StoreError::Full)), "the disk's reserve is kept");
    assert_eq!(store.free(), 0);
}

#[tokio::test]
async fn a_mostly_dead_log_is_compacted() {
    let directory = directory();
    let store = open(directory.path());
    for i in 0..40 {
        put(&store, id(i), &content(i, 30_000)).await.expect("stored");
    }
    for i in (0..40).filter(|i| i % 5 != 0) {
        store.delete(id(i)).await.expect("deleted");
    }
    let before = store.bytes();
    let mut compacted = 0;
    while let Some(done) = store.compact_if(1).await.expect("compacts") {
        compacted += 1;
        assert!(done.removed > 0 && compacted < 100, "{done:?}");
        assert_exact(&store);
    }
    assert!(compacted > 0);
    let after = store.bytes();
    assert_eq!(after.live, before.live);
    assert!(after.dead < before.dead / 4, "{before:?} {after:?}");
    for lose_index in [false, true] {
        let copy = copy_directory(directory.path());
        if lose_index {
            forget_index(copy.path());
        }
        let store = open(copy.path());
        assert_exact(&store);
        for i in 0..40 {
            match i % 5 {
                0 => assert_eq!(get(&store, &id(i)).expect("there"), content(i, 30_000)),
                _ => assert_eq!(get(&store, &id(i)), Err(StoreError::NotFound)),
            }
        }
    }
}

#[tokio::test]
async fn a_crash_anywhere_in_a_compaction_loses_and_revives_nothing() {
    let directory = directory();
    let store = open(directory.path());
    for i in 0..12 {
        put(&store, id(i), &content(i, 30_000)).await.expect("stored");
    }
    for i in 0..6 {
        store.delete(id(i)).await.expect("deleted");
    }
    let check = |copy: &Path| {
        let store = open(copy);
        for i in 0..12 {
            let expected = if i < 6 { Err(StoreError::NotFound) } else { Ok(content(i, 30_000)) };
            assert_eq!(get(&store, &id(i)), expected, "{i}");
        }
        assert_exact(&store);
        store
    };
    // The steps of a compaction, with a crash after each.
    let shared = store.shared.clone();
    let number = compact::choose(&shared, 1).expect("works").expect("a log is mostly dead");
    let mut copies = vec![copy_directory(directory.path())];
    store.move_all(number).await.expect("moved");
    copies.push(copy_directory(directory.path()));
    store.delete(id(6)).await.expect("deleted");
    store.compact_if(1).await.expect("finishes what was begun").expect("something was begun");
    assert_eq!(get(&store, &id(6)), Err(StoreError::NotFound));
    for copy in copies {
        for lose_index in [false, true] {
            let again = copy_directory(copy.path());
            if lose_index {
                forget_index(again.path());
            }
            let reopened = check(again.path());
            while reopened.compact_if(1).await.expect("compacts").is_some() {}
            drop(reopened);
            forget_index(again.path());
            check(again.path());
        }
    }
}

#[tokio::test]
async fn expired_pieces_are_found() {
    let directory = directory();
    let store = open(directory.path());
    for (i, expires) in [(1, Some(100)), (2, Some(200)), (3, None)] {
        let mut incoming = store.admit(id(i), 3, expires).expect("room");
        incoming.write(b"abc").expect("written");
        store.commit(incoming).await.expect("stored");
    }
    assert_eq!(store.expired(100, 10), Ok(vec![]));
    assert_eq!(store.expired(101, 10), Ok(vec![id(1)]));
    assert_eq!(store.expired(i64::MAX, 10).map(|e| e.len()), Ok(2));
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_costs_only_the_last_record() {
    let directory = directory();
    let store = open(directory.path());
    put(&store, id(1), &content(1, 1_000)).await.expect("stored");
    let before = store.bytes().used;
    put(&store, id(2), &content(2, 300)).await.expect("stored");
    let end = store.bytes().used;
    close(store).await;
    let log = log::path(directory.path(), 1);
    let whole = std::fs::read(&log).expect("reads");
    assert_eq!(whole.len() as u64, end);
    let scratch = crate::testing::directory();
    for cut in before..=end {
        for filler in [None, Some(0u8), Some(0xa5)] {
            let mut bytes = whole[..cut as usize].to_vec();
            bytes.extend(filler.into_iter().flat_map(|f| std::iter::repeat_n(f, (end - cut) as usize)));
            let copy = scratch.path().join("store");
            std::fs::create_dir(&copy).expect("made");
            std::fs::write(log::path(&copy, 1), &bytes).expect("written");
            let store = open(&copy);
            assert_eq!(get(&store, &id(1)).expect("there"), content(1, 1_000));
            let second = get(&store, &id(2));
            if bytes == whole {
                assert_eq!(second.expect("there"), content(2, 300));
            } else {
                assert_eq!(second, Err(StoreError::NotFound), "cut at {cut}, {filler:?}");
                if cut % 64 == 0 {
                    put(&store, id(3), &content(3, 200)).await.expect("goes on");
                    close(store).await;
                    forget_index(&copy);
                    assert_eq!(get(&open(&copy), &id(3)).expect("there"), content(3, 200));
                }
            }
            std::fs::remove_dir_all(&copy).expect("removed");
        }
    }
}

#[tokio::test]
async fn a_damaged_stretch_costs_only_what_lies_in_it() {
    let directory = directory();
    let store = open(directory.path());
    for i in 0..3 {
        put(&store, id(i), &content(i, 2_000)).await.expect("stored");
    }
    let at = store.shared.index(|index| index.get(&id(1))).expect("index").expect("there");
    close(store).await;
    // With the index a damaged header costs nothing, a damaged share is never served as whole.
    for (offset, with_index, rebuilt) in [
        (at.offset + 40, Ok(content(1, 2_000)), Err(StoreError::NotFound)),
        (at.offset + UNIT + 1_000, Err(StoreError::Damaged), Err(StoreError::Damaged)),
        (at.offset + UNIT + 2_000 + 5, Err(StoreError::Damaged), Err(StoreError::NotFound)),
    ] {
        let copy = copy_directory(directory.path());
        let path = log::path(copy.path(), 1);
        let mut bytes = std::fs::read(&path).expect("reads");
        bytes[offset as usize] ^= 0x10;
        std::fs::write(&path, &bytes).expect("written");
        for (lose_index, expected) in [(false, &with_index), (true, &rebuilt)] {
            if lose_index {
                forget_index(copy.path());
            }
            let store = open(copy.path());
            assert_eq!(&get(&store, &id(1)), expected, "{offset} {lose_index}");
            for i in [0, 2] {
                assert_eq!(get(&store, &id(i)).expect("there"), content(i, 2_000));
            }
        }
    }
}

#[tokio::test]
async fn a_half_written_index_is_rebuilt() {
    let directory = directory();
    let store = open(directory.path());
    for i in 0..20 {
        put(&store, id(i), &content(i, 1_000)).await.expect("stored");
    }
    close(store).await;
    let whole = std::fs::read(directory.path().join("index.db")).expect("reads");
    for length in [0, 1, 100, 1_000, 4_096, whole.len() - 1] {
        let copy = copy_directory(directory.path());
        std::fs::write(copy.path().join("index.db"), &whole[..length]).expect("written");
        std::fs::remove_file(copy.path().join("index.db-wal")).unwrap_or_default();
        let store = open(copy.path());
        for i in 0..20 {
            assert_eq!(get(&store, &id(i)).expect("there"), content(i, 1_000), "index of {length} bytes");
        }
    }
    assert!(matches!(Store::open(directory.path(), &[8; 16], options(), None), Ok(store) if store.pieces() == 20));
}

#[tokio::test]
async fn an_index_that_is_behind_catches_up() {
    let directory = directory();
    let store = open(directory.path());
    put(&store, id(1), &content(1, 1_000)).await.expect("stored");
    put(&store, id(2), &content(2, 1_000)).await.expect("stored");
    close(store).await;
    let old = std::fs::read(directory.path().join("index.db")).expect("reads");
    let store = open(directory.path());
    put(&store, id(3), &content(3, 1_000)).await.expect("stored");
    store.delete(id(1)).await.expect("deleted");
    close(store).await;
    forget_index(directory.path());
    std::fs::write(directory.path().join("index.db"), old).expect("written");
    let store = open(directory.path());
    assert_eq!(get(&store, &id(1)), Err(StoreError::NotFound));
    assert_eq!(get(&store, &id(2)).expect("there"), content(2, 1_000));
    assert_eq!(get(&store, &id(3)).expect("there"), content(3, 1_000));
    assert_exact(&store);
}

/// The power goes after a footer reached the disk and before the data did: nobody heard of the piece.
#[tokio::test]
async fn a_record_that_was_never_synced_is_dropped_for_good() {
    let directory = directory();
    let store = open(directory.path());
    put(&store, id(1), &content(1, 100_000)).await.expect("stored");
    let old = copy_directory(directory.path());
    put(&store, id(2), &content(2, 100_000)).await.expect("stored");
    let at = store.shared.index(|index| index.get(&id(2))).expect("index").expect("there");
    close(store).await;
    for lose_index in [false, true] {
        let copy = copy_directory(old.path());
        let mut bytes = std::fs::read(log::path(directory.path(), 1)).expect("reads");
        let data = (at.offset + UNIT) as usize;
        bytes[data + 70_000..data + 80_000].fill(0);
        std::fs::write(log::path(copy.path(), 1), bytes).expect("written");
        if lose_index {
            forget_index(copy.path());
        }
        for _ in 0..2 {
            let store = open(copy.path());
            assert_eq!(get(&store, &id(2)), Err(StoreError::NotFound));
            assert_eq!(get(&store, &id(1)).expect("there"), content(1, 100_000));
            assert_exact(&store);
            put(&store, id(3), &content(3, 10)).await.expect("goes on");
            close(store).await;
            forget_index(copy.path());
        }
    }
}

/// The same for the copy of a piece: the original counts.
#[tokio::test]
async fn a_torn_copy_does_not_hide_the_original() {
    let directory = directory();
    let store = open(directory.path());
    put(&store, id(1), &content(1, 30_000)).await.expect("stored");
    put(&store, id(2), &content(2, 100_000)).await.expect("stored");
    store.delete(id(2)).await.expect("deleted");
    let old = copy_directory(directory.path());
    let number = compact::choose(&store.shared, 1).expect("works").expect("mostly dead");
    store.move_all(number).await.expect("moved");
    let at = store.shared.index(|index| index.get(&id(1))).expect("index").expect("there");
    assert_ne!(at.log, number);
    close(store).await;
    let mut bytes = std::fs::read(log::path(directory.path(), at.log)).expect("reads");
    bytes[(at.offset + UNIT) as usize..][..10_000].fill(0);
    std::fs::write(log::path(old.path(), at.log), bytes).expect("written");
    for lose_index in [false, true] {
        if lose_index {
            forget_index(old.path());
        }
        let store = open(old.path());
        assert_eq!(get(&store, &id(1)).expect("there"), content(1, 30_000));
        assert_exact(&store);
    }
}

/// A place that was given up and taken again lies before records that the index knows.
#[tokio::test]
async fn a_reused_place_is_found_by_an_index_that_is_behind() {
    let directory = directory();
    let store = open(directory.path());
    let mut first = store.admit(id(1), 5_000, None).expect("room");
    first.write(&[1; 5_000]).expect("written");
    put(&store, id(2), &content(2, 100)).await.expect("stored");
    drop(first);
    put(&store, id(3), &content(3, 100)).await.expect("stored");
    let old = copy_directory(directory.path());
    put(&store, id(4), &content(4, 5_000)).await.expect("stored");
    let at = |i| store.shared.index(|index| index.get(&id(i))).expect("index").expect("there").offset;
    assert!(at(4) < at(2), "the place was taken again");
    close(store).await;
    std::fs::copy(log::path(directory.path(), 1), log::path(old.path(), 1)).expect("copies");
    let store = open(old.path());
    assert_eq!(get(&store, &id(4)).expect("there"), content(4, 5_000));
    assert_eq!(get(&store, &id(2)).expect("there"), content(2, 100));
    assert_exact(&store);
}

#[tokio::test]
async fn a_log_of_a_newer_version_is_refused() {
    let directory = directory();
    drop(open(directory.path()));
    let path = log::path(directory.path(), 1);
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).expect("written");
    assert!(matches!(Store::open(directory.path(), &NAME, options(), None), Err(OpenError::Version(_))));
}

/// A log as the first release wrote it: piece 1 of 70 bytes, piece 2, its tombstone.
#[tokio::test]
async fn reads_a_log_of_version_1() {
    let directory = directory();
    std::fs::write(log::path(directory.path(), 1), include_bytes!("../../tests/data/pieces-v1.log")).expect("written");
    let store = open(directory.path());
    assert_eq!(get(&store, &id(1)).expect("there"), content(1, 70));
    assert_eq!(get(&store, &id(2)), Err(StoreError::NotFound));
    assert_eq!(store.pieces(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, usize),
    GiveUp(u64, usize),
    Delete(u64),
    Compact,
    Reopen(bool),
    Crash(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8u64, 1..150_000usize).prop_map(|(i, n)| Step::Put(i, n)),
        2 => (0..8u64, 1..150_000usize).prop_map(|(i, n)| Step::GiveUp(i, n)),
        4 => (0..8u64).prop_map(Step::Delete),
        2 => Just(Step::Compact),
        1 => any::<bool>().prop_map(Step::Reopen),
        1 => any::<bool>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_store_is_a_map(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let mut directory = directory();
            let mut store = open(directory.path());
            let mut model: HashMap<u64, Vec<u8>> = HashMap::new();
            for step in steps {
                match step {
                    Step::Put(i, length) => {
                        let data = content(i, length);
                        let result = put(&store, id(i), &data).await;
                        match model.get(&i) {
                            Some(old) if *old != data => assert_eq!(result, Err(StoreError::Exists)),
                            _ => {
                                result.expect("stored");
                                model.insert(i, data);
                            }
                        }
                    }
                    Step::GiveUp(i, length) => {
                        let mut incoming = store.admit(id(i), length as u64, None).expect("room");
                        incoming.write(&content(i, length / 2)).expect("written");
                    }
                    Step::Delete(i) => assert_eq!(store.delete(id(i)).await, Ok(model.remove(&i).is_some())),
                    Step::Compact => drop(store.compact_if(1).await.expect("compacts")),
                    Step::Reopen(lose_index) => {
                        close(store).await;
                        if lose_index {
                            forget_index(directory.path());
                        }
                        store = open(directory.path());
                    }
                    Step::Crash(lose_index) => {
                        // With a put under way.
                        let mut incoming = store.admit(id(100), 5_000, None).expect("room");
                        incoming.write(&[1; 4_000]).expect("written");
                        let copy = copy_directory(directory.path());
                        drop((incoming, store));
                        if lose_index {
                            forget_index(copy.path());
                        }
                        directory = copy;
                        store = open(directory.path());
                    }
                }
                assert_exact(&store);
                assert_eq!(store.pieces(), model.len() as u64);
            }
            for i in 0..8 {
                assert_eq!(get(&store, &id(i)).ok().as_ref(), model.get(&i));
            }
        });
    }
}
