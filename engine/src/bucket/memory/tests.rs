use super::*;
use crate::content::WINDOW;
use crate::ids::{CommitId, MountId};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};

const ROOT: InodeId = InodeId::from_bytes([1; 16]);

fn bucket() -> MemoryBucket {
    let settings = BucketSettings {
        bucket: BucketId::from_bytes([9; 16]),
        root: ROOT,
        segment_size: 1 << 20,
        cipher: Cipher::Aes256Gcm,
        epoch: 7,
    };
    MemoryBucket::new(settings, sealed(b"root record of 16+"))
}

fn sealed(bytes: &[u8]) -> Sealed {
    Sealed { generation: 0, bytes: Bytes::copy_from_slice(bytes) }
}

fn id(number: u8) -> InodeId {
    InodeId::from_bytes([number; 16])
}

fn name(number: u8) -> EncryptedName {
    EncryptedName::try_from(vec![number; EncryptedName::MIN]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn target(child: u8, kind: Kind) -> Target {
    Target { child: id(child), kind, key: sealed(&[child; Sealed::KEY_LEN]) }
}

fn set(parent: InodeId, number: u8, expected: Option<u8>, target: Option<Target>) -> Operation {
    Operation::SetEntry(SetEntry { parent, name: name(number), expected: expected.map(id), target, time: at(5) })
}

/// That a name names nothing; there are as many as numbers.
fn free(number: u64) -> Operation {
    let name = [&number.to_le_bytes()[..], &[0; EncryptedName::MIN - 8]].concat();
    let name = EncryptedName::try_from(name).unwrap();
    Operation::SetEntry(SetEntry { parent: ROOT, name, expected: None, target: None, time: at(5) })
}

fn check(inode: u8, version: u64) -> Operation {
    Operation::CheckGone(CheckGone { inode: id(inode), version })
}

fn put(inode: u8, kind: Kind, expected_version: u64) -> PutInode {
    PutInode {
        inode: id(inode),
        kind,
        expected_version,
        version: expected_version + 1,
        size: 0,
        record: sealed(&[inode; 32]),
        changed: at(1),
        ranges: Vec::new(),
        tags: Vec::new(),
    }
}

fn create(parent: InodeId, inode: u8, kind: Kind) -> [Operation; 2] {
    [set(parent, inode, None, Some(target(inode, kind))), Operation::PutInode(put(inode, kind, 0))]
}

fn extent(offset: u64, length: u64, run: u8, run_offset: u64, run_length: u64) -> Extent {
    let run_key = sealed(&[run; Sealed::KEY_LEN]);
    Extent {
        offset,
        length,
        run: RunId::from_bytes([run; 16]),
        run_length,
        run_offset,
        cipher: Cipher::Aes256Gcm,
        run_key,
    }
}

fn inline(run: u8, length: u64) -> NewRun {
    let place = RunPlace::Inline(vec![run; length as usize + 16].into());
    NewRun { run: RunId::from_bytes([run; 16]), length, place }
}

fn write(put: PutInode, size: u64, ranges: Vec<RangeChange>, tags: &[(u64, Option<u8>)]) -> Operation {
    let tags = tags.iter().map(|(window, tag)| (*window, tag.map(|tag| WindowTag([tag; 32])))).collect();
    Operation::PutInode(PutInode { size, ranges, tags, ..put })
}

/// Polls once: everything but waiting for changes is ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("not ready"),
    }
}

/// Commits in a stream of its own numbering.
struct Mount {
    bucket: MemoryBucket,
    number: u64,
    sent: u128,
}

impl Mount {
    fn new(bucket: &MemoryBucket) -> Self {
        Self { bucket: bucket.clone(), number: 0, sent: 0 }
    }

    fn batch(&mut self, operations: Vec<Operation>, runs: Vec<NewRun>) -> Commit {
        self.sent += 1;
        let id = CommitId::from_bytes(self.sent.to_le_bytes());
        Commit { id, mount: MountId::from_bytes([3; 16]), number: self.number + 1, operations, runs }
    }

    fn send(&mut self, operations: Vec<Operation>, runs: Vec<NewRun>) -> CommitReply {
        let commit = self.batch(operations, runs);
        let reply = now(self.bucket.commit(&commit, None)).unwrap();
        self.number += u64::from(matches!(reply, CommitReply::Applied { .. }));
        reply
    }

    fn apply(&mut self, operations: Vec<Operation>) {
        let reply = self.send(operations, Vec::new());
        assert!(matches!(reply, CommitReply::Applied { .. }), "{reply:?}");
    }

    fn refused(&mut self, operations: Vec<Operation>, operation: u32, reason: Refusal) {
        let before = self.bucket.snapshot();
        assert_eq!(self.send(operations, Vec::new()), CommitReply::Refused { operation, reason });
        assert_eq!(self.bucket.snapshot(), before);
    }
}

fn refusal(reply: CommitReply) -> Refusal {
    match reply {
        CommitReply::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn creates_lists_and_counts_names() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    let mut operations = create(ROOT, 10, Kind::Directory).to_vec();
    operations.extend(create(id(10), 11, Kind::File));
    operations.extend(create(id(10), 12, Kind::File));
    mount.apply(operations);
    mount.apply(vec![set(ROOT, 50, None, Some(target(11, Kind::File)))]);

    let page = now(bucket.entries(id(10), None, 1)).unwrap();
    assert!(page.more && page.entries[0].0.child == id(11) && page.entries[0].1.nlink == 2);
    let page = now(bucket.entries(id(10), Some(&name(11)), 1)).unwrap();
    assert!(!page.more && page.entries[0].0.child == id(12) && page.entries[0].1.nlink == 1);
    assert_eq!(now(bucket.inode(ROOT)).unwrap().nlink, 3);
    assert_eq!(now(bucket.inode(id(10))).unwrap().entries_changed, at(5));

    mount.apply(vec![set(id(10), 11, Some(11), None), set(ROOT, 50, Some(11), None)]);
    assert!(matches!(now(bucket.inode(id(11))), Err(Error::NotFound(_))));
    assert_eq!(now(bucket.entry(ROOT, &name(50))).unwrap(), None);
    assert_eq!(now(bucket.usage()).unwrap().inodes, 3);
}

#[test]
fn conditions_are_checked_before_anything_is_applied() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    mount.apply([create(ROOT, 10, Kind::File), create(ROOT, 11, Kind::File)].concat());
    // Two files swap names.
    mount.apply(vec![
        set(ROOT, 10, Some(10), Some(target(11, Kind::File))),
        set(ROOT, 11, Some(11), Some(target(10, Kind::File))),
    ]);
    assert_eq!(now(bucket.entry(ROOT, &name(10))).unwrap().unwrap().0.child, id(11));
    mount.refused(vec![set(ROOT, 10, Some(10), None)], 0, Refusal::EntryChanged { found: Some(id(11)) });
    let stale = Operation::PutInode(put(11, Kind::File, 3));
    mount.refused(vec![set(ROOT, 10, Some(11), None), stale], 1, Refusal::VersionChanged { found: 1 });
    mount.refused(vec![set(id(10), 1, None, None)], 0, Refusal::NoDirectory);
    mount.refused(vec![set(ROOT, 1, None, Some(target(77, Kind::File)))], 0, Refusal::NoInode);
    mount.refused(vec![set(ROOT, 1, None, Some(target(10, Kind::Fifo)))], 0, Refusal::NoInode);
    mount.refused(vec![Operation::PutInode(put(12, Kind::File, 0))], 0, Refusal::Names);
}

#[test]
fn what_somebody_changed_meanwhile_is_not_removed() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    mount.apply([create(ROOT, 10, Kind::File), create(ROOT, 11, Kind::File)].concat());
    mount.apply(vec![Operation::PutInode(put(10, Kind::File, 1))]);
    let changed = Refusal::VersionChanged { found: 2 };
    mount.refused(vec![set(ROOT, 10, Some(10), None), check(10, 1)], 1, changed.clone());
    // Something else comes to its place: that takes its last name as well.
    mount.refused(vec![set(ROOT, 10, Some(10), Some(target(11, Kind::File))), check(10, 1)], 1, changed);
    // It gets another name, for who has it open: it goes from where it was all the same.
    let keep = |version| {
        vec![set(ROOT, 10, Some(10), None), set(ROOT, 20, None, Some(target(10, Kind::File))), check(10, version)]
    };
    mount.refused(keep(1), 2, Refusal::VersionChanged { found: 2 });
    mount.apply(keep(2));
    // It keeps one: it does not go.
    mount.apply(vec![set(ROOT, 21, None, Some(target(10, Kind::File)))]);
    mount.apply(vec![set(ROOT, 20, Some(10), None), check(10, 1)]);
    mount.apply(vec![set(ROOT, 21, Some(10), None), check(10, 2)]);
    assert!(matches!(now(bucket.inode(id(10))), Err(Error::NotFound(_))));
}

#[test]
fn as_many_checks_as_other_operations_are_no_more() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    mount.apply(create(ROOT, 10, Kind::File).to_vec());
    let free = (0..MAX_OPERATIONS as u64 - 1).map(free);
    mount.apply(free.chain([set(ROOT, 10, Some(10), None), check(10, 1)]).collect());
}

#[test]
fn directories_stay_a_tree() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    let nested = [
        create(ROOT, 10, Kind::Directory),
        create(id(10), 11, Kind::Directory),
        create(id(11), 12, Kind::Directory),
        create(ROOT, 20, Kind::Directory),
    ];
    mount.apply(nested.concat());
    let into = |parent: u8, child: u8| set(id(parent), 90, None, Some(target(child, Kind::Directory)));
    mount.refused(vec![set(ROOT, 10, Some(10), None), into(12, 10)], 1, Refusal::Cycle);
    // What else is wrong may come of it, so it is said first.
    let nameless = Operation::PutInode(put(99, Kind::File, 0));
    mount.refused(vec![nameless, set(ROOT, 10, Some(10), None), into(12, 10)], 2, Refusal::Cycle);
    // Two moves that close a cycle only together.
    let together = vec![set(ROOT, 10, Some(10), None), into(20, 10), set(ROOT, 20, Some(20), None), into(11, 20)];
    mount.refused(together, 1, Refusal::Cycle);
    // New directories inside each other.
    let detached = [create(id(31), 30, Kind::Directory), create(id(30), 31, Kind::Directory)];
    mount.refused(detached.concat(), 0, Refusal::Cycle);
    mount.refused(vec![into(20, 11)], 0, Refusal::Names);
    mount.refused(vec![set(ROOT, 90, None, Some(target(1, Kind::Directory)))], 0, Refusal::Names);
    mount.refused(vec![set(id(10), 11, Some(11), None)], 0, Refusal::NotEmpty);
    // A whole subtree goes at once, and a directory moves.
    mount.apply(vec![set(ROOT, 20, Some(20), None), into(12, 20)]);
    let all = [set(ROOT, 10, Some(10), None), set(id(10), 11, Some(11), None), set(id(11), 12, Some(12), None)];
    mount.apply([&all[..], &[set(id(12), 90, Some(20), None)]].concat());
    assert_eq!(bucket.snapshot().inodes.len(), 1);
    assert_eq!(now(bucket.inode(ROOT)).unwrap().nlink, 2);
}

#[test]
fn a_replay_is_applied_once() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    let first = mount.batch(create(ROOT, 10, Kind::File).to_vec(), Vec::new());
    bucket.lose_replies(1);
    assert!(matches!(now(bucket.commit(&first, None)), Err(Error::Unreachable(_))));
    assert_eq!(now(bucket.commit(&first, None)), Ok(CommitReply::Applied { sequence: 1 }));
    assert_eq!(bucket.snapshot().sequence, 1);

    let other = Commit { operations: Vec::new(), ..first.clone() };
    assert!(matches!(now(bucket.commit(&other, None)), Err(Error::OutOfOrder(_))));
    let gap = Commit { id: CommitId::from_bytes([99; 16]), number: 3, ..first.clone() };
    assert!(matches!(now(bucket.commit(&gap, None)), Err(Error::OutOfOrder(_))));

    // A refused batch uses up no number and stays refused.
    let refused = Commit { id: CommitId::from_bytes([98; 16]), number: 2, ..first };
    let reply = now(bucket.commit(&refused, None)).unwrap();
    assert!(matches!(reply, CommitReply::Refused { operation: 0, reason: Refusal::EntryChanged { .. } }));
    mount.number = 1;
    mount.apply(vec![set(ROOT, 10, Some(10), None)]);
    assert_eq!(now(bucket.commit(&refused, None)).unwrap(), reply);
}

#[test]
fn extents_are_cut_and_runs_counted() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    let segment = SegmentId::from_bytes([60; 16]);
    now(bucket.put_segment(segment, Arc::new(Bytes::from(vec![5; 5000])))).unwrap();
    now(bucket.put_segment(segment, Arc::new(Bytes::from(vec![6; 7000])))).unwrap();
    let place = RunPlace::Segment { segment, offset: 100, length: 4016 };
    let run = NewRun { run: RunId::from_bytes([40; 16]), length: 4000, place };
    let range = |offset, length, extents| RangeChange { offset, length, extents };
    let whole = write(
        put(10, Kind::File, 0),
        WINDOW + 1000,
        vec![
            range(0, 3000, vec![extent(0, 3000, 40, 0, 4000)]),
            range(WINDOW, 1000, vec![extent(WINDOW, 1000, 40, 3000, 4000)]),
        ],
        &[(0, Some(1)), (1, Some(2))],
    );
    let named = set(ROOT, 10, None, Some(target(10, Kind::File)));
    assert_eq!(mount.send(vec![named, whole], vec![run]), CommitReply::Applied { sequence: 1 });
    assert_eq!(now(bucket.run_blocks(id(10), RunId::from_bytes([40; 16]), 0, 1)).unwrap(), vec![5; 4016]);

    // The middle is overwritten by an inline run, and the second window is cut off with its tag.
    let middle = vec![range(1000, 500, vec![extent(1000, 500, 41, 0, 500)])];
    let cut = write(put(10, Kind::File, 1), 2000, middle, &[(0, Some(3))]);
    assert_eq!(mount.send(vec![cut], vec![inline(41, 500)]), CommitReply::Applied { sequence: 2 });
    let found = now(bucket.extents(id(10), 0, u64::MAX)).unwrap();
    let parts: Vec<_> = found.extents.iter().map(|e| (e.offset, e.length, e.run_offset)).collect();
    assert_eq!(parts, [(0, 1000, 0), (1000, 500, 0), (1500, 500, 1500)]);
    assert_eq!(found.tags, [(0, WindowTag([3; 32]))]);
    assert_eq!(now(bucket.extents(id(10), 1200, 400)).unwrap().extents.len(), 2);
    assert_eq!(bucket.snapshot().runs.iter().map(|(_, run)| run.references).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(bucket.snapshot().segments, [(segment, 5000, 1)]);

    mount.apply(vec![set(ROOT, 10, Some(10), None)]);
    assert_eq!((bucket.snapshot().runs, bucket.snapshot().bytes), (vec![], 0));
    assert_eq!(bucket.collect_unreferenced(), 1);
}

/// The same run in two files: whichever goes first, also in one batch, and in whatever order that says so.
#[test]
fn a_run_stays_as_long_as_a_file_refers_to_it() {
    let whole = |inode, run| {
        let range = RangeChange { offset: 0, length: 3000, extents: vec![extent(0, 3000, run, 0, 3000)] };
        write(put(inode, Kind::File, 0), 3000, vec![range], &[(0, Some(1))])
    };
    let named = |inode| set(ROOT, inode, None, Some(target(inode, Kind::File)));
    let gone = |inode| set(ROOT, inode, Some(inode), None);
    let references = |bucket: &MemoryBucket| bucket.snapshot().runs.iter().map(|(_, run)| run.references).sum::<u64>();
    for clone_last in [false, true] {
        let bucket = bucket();
        let mut mount = Mount::new(&bucket);
        mount.send(vec![named(10), whole(10, 40)], vec![inline(40, 3000)]);
        mount.apply(vec![named(11), whole(11, 40)]);
        assert_eq!(references(&bucket), 2);
        mount.apply(vec![gone(10)]);
        let clone = [named(12), whole(12, 40)].into_iter();
        mount.apply(match clone_last {
            true => [gone(11)].into_iter().chain(clone).collect(),
            false => clone.chain([gone(11)]).collect(),
        });
        assert_eq!(references(&bucket), 1);
        assert_eq!(now(bucket.run_blocks(id(12), RunId::from_bytes([40; 16]), 0, 1)).unwrap(), vec![40; 3016]);
        mount.apply(vec![gone(12)]);
        let unknown = Refusal::BadExtents(format!("unknown run {:?}", RunId::from_bytes([40; 16])));
        mount.refused(vec![named(13), whole(13, 40)], 1, unknown);
    }
}

#[test]
fn bad_extents_are_refused() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    let mut try_write = |size, range: RangeChange, runs, tags: &[(u64, Option<u8>)]| {
        let file = write(put(10, Kind::File, 0), size, vec![range], tags);
        mount.send(vec![file, set(ROOT, 10, None, Some(target(10, Kind::File)))], runs)
    };
    let range = |offset, length, extents| RangeChange { offset, length, extents };
    let all = |extents| range(0, 2 * WINDOW, extents);
    let tag = [(0, Some(1))];
    let cases = [
        (all(vec![extent(0, 10, 41, 0, 10)]), vec![]),
        (all(vec![extent(0, 10, 41, 1, 10)]), vec![inline(41, 10)]),
        (all(vec![extent(0, 10, 41, 0, 11)]), vec![inline(41, 10)]),
        (all(vec![extent(0, 10, 41, 0, 10), extent(9, 1, 41, 0, 10)]), vec![inline(41, 10)]),
        (all(vec![extent(WINDOW - 1, 2, 41, 0, 10)]), vec![inline(41, 10)]),
        (all(vec![extent(u64::MAX, 2, 41, 0, 10)]), vec![inline(41, 10)]),
        (range(5, 10, vec![extent(0, 10, 41, 0, 10)]), vec![inline(41, 10)]),
    ];
    for (range, runs) in cases {
        let reply = try_write(2 * WINDOW, range, runs, &tag);
        assert!(matches!(refusal(reply), Refusal::BadExtents(_)));
    }
    for tags in [&[][..], &[(0, Some(1)), (1, Some(1))], &[(0, None)]] {
        let reply = try_write(10, all(vec![extent(0, 10, 41, 0, 10)]), vec![inline(41, 10)], tags);
        assert!(matches!(refusal(reply), Refusal::BadExtents(_)), "{tags:?}");
    }
    // 16 inline runs of 4 KiB fit, one more byte does not.
    let many = |count: u8| {
        let extents = (0..count).map(|n| extent(u64::from(n) * 4096, 4096, 100 + n, 0, 4096)).collect();
        (all(extents), (0..count).map(|n| inline(100 + n, 4096)).collect::<Vec<_>>())
    };
    let (range, runs) = many(17);
    assert!(matches!(refusal(try_write(WINDOW, range, runs, &tag)), Refusal::BadExtents(_)));
    let (range, runs) = many(16);
    assert_eq!(try_write(WINDOW, range, runs, &tag), CommitReply::Applied { sequence: 1 });
}

#[test]
fn malformed_batches_are_invalid() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    let file = put(10, Kind::File, 0);
    let overlapping = [(0, 10), (9, 10)].map(|(offset, length)| RangeChange { offset, length, extents: vec![] });
    let bad = [
        vec![Operation::PutInode(PutInode { version: 0, ..file.clone() })],
        vec![Operation::PutInode(PutInode { record: sealed(&[]), ..file.clone() })],
        vec![Operation::PutInode(PutInode { size: u64::MAX, ..file.clone() })],
        vec![Operation::PutInode(PutInode { kind: Kind::Directory, size: 1, ..file.clone() })],
        vec![Operation::PutInode(PutInode { changed: Timestamp { seconds: 0, nanos: 1 << 30 }, ..file.clone() })],
        vec![Operation::PutInode(PutInode { ranges: overlapping.to_vec(), ..file.clone() })],
        vec![Operation::PutInode(PutInode { tags: vec![(2, None), (1, None)], ..file.clone() })],
        vec![Operation::PutInode(PutInode { tags: vec![(u64::MAX, None)], ..file })],
        vec![set(ROOT, 10, None, None), set(ROOT, 10, None, None)],
        vec![Operation::PutInode(put(10, Kind::File, 0)), Operation::PutInode(put(10, Kind::File, 0))],
        (0..=MAX_OPERATIONS).map(|number| free(number as u64)).collect(),
        vec![check(10, 1)],
        vec![set(ROOT, 10, Some(10), None), check(10, 1), check(10, 1)],
        vec![set(ROOT, 10, Some(10), None), check(10, 1), Operation::PutInode(put(10, Kind::File, 1))],
    ];
    for operations in bad {
        let commit = mount.batch(operations, Vec::new());
        assert!(matches!(now(bucket.commit(&commit, None)), Err(Error::Invalid(_))), "{commit:?}");
    }
    let commit = mount.batch(Vec::new(), vec![inline(1, 10), inline(1, 10)]);
    assert!(matches!(now(bucket.commit(&commit, None)), Err(Error::Invalid(_))));
}

#[test]
fn the_feed_wakes_and_pages() {
    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    let count = Arc::new(Count(AtomicU64::new(0)));
    let waker = Waker::from(count.clone());
    let mut waiting = pin!(bucket.changes(0, Duration::from_secs(1)));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    mount.apply(create(ROOT, 10, Kind::File).to_vec());
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(Ok(changes)) = waiting.as_mut().poll(&mut Context::from_waker(&waker)) else { panic!("waits") };
    assert_eq!((changes.sequence, changes.gap, changes.epoch), (1, false, 7));
    assert_eq!(changes.changes[0].entries, [(ROOT, name(10))]);
    assert_eq!(changes.changes[0].inodes, [id(10)]);

    for _ in 0..FEED_KEPT {
        mount.apply(Vec::new());
    }
    assert!(now(bucket.changes(0, Duration::ZERO)).unwrap().gap);
    let page = now(bucket.changes(1, Duration::ZERO)).unwrap();
    assert_eq!((page.gap, page.changes.len(), page.sequence), (false, FEED_PAGE, 1 + FEED_PAGE as u64));
    assert!(now(bucket.changes(u64::MAX, Duration::ZERO)).unwrap().gap);
}

#[test]
fn faults_come_as_ordered() {
    let bucket = bucket();
    let missing = || now(bucket.inode(id(66)));
    bucket.fail_next(2, Error::Internal("disk".to_owned()));
    assert_eq!(missing(), Err(Error::Internal("disk".to_owned())));
    assert_eq!(missing(), Err(Error::Internal("disk".to_owned())));
    assert!(matches!(missing(), Err(Error::NotFound(_))));
    let mut waiting = pin!(bucket.changes(0, Duration::from_secs(1)));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    bucket.set_unreachable(true);
    assert!(matches!(now(waiting), Err(Error::Unreachable(_))));
    assert!(matches!(missing(), Err(Error::Unreachable(_))));
    bucket.set_unreachable(false);
    assert!(matches!(missing(), Err(Error::NotFound(_))));
    assert_eq!(bucket.calls().inode, 5);

    bucket.set_quota(Some(10));
    let mut mount = Mount::new(&bucket);
    let filled = RangeChange { offset: 0, length: 11, extents: vec![extent(0, 11, 40, 0, 11)] };
    let file = write(put(10, Kind::File, 0), 11, vec![filled], &[(0, Some(1))]);
    let commit = mount.batch(vec![set(ROOT, 10, None, Some(target(10, Kind::File))), file], vec![inline(40, 11)]);
    assert!(matches!(now(bucket.commit(&commit, None)), Err(Error::Quota(_))));
    let mut seen = Vec::new();
    bucket.visit_bytes(|bytes| seen.push(bytes.to_vec()));
    assert_eq!(seen, [b"root record of 16+".to_vec()]);
    // Holes are not counted.
    let vast = write(put(11, Kind::File, 0), MAX_OFFSET, Vec::new(), &[]);
    mount.apply(vec![set(ROOT, 11, None, Some(target(11, Kind::File))), vast]);
}

#[test]
fn a_fork_holds_the_same_and_goes_its_own_way() {
    let bucket = bucket();
    let mut mount = Mount::new(&bucket);
    mount.send(create(ROOT, 2, Kind::File).into(), Vec::new());
    let fork = bucket.fork();
    assert_eq!(fork.snapshot(), bucket.snapshot());
    bucket.set_unreachable(true);
    assert!(now(fork.inode(id(2))).is_ok());
    bucket.set_unreachable(false);
    mount.send(create(ROOT, 3, Kind::File).into(), Vec::new());
    assert_eq!((fork.snapshot().sequence, bucket.snapshot().sequence), (1, 2));
}

#[test]
fn leases_are_kept_on_its_own_clock() {
    use crate::bucket::lease::{LEASE, Lapse, NameLease};
    let bucket = bucket();
    let mount = |number: u8| MountId::from_bytes([number; 16]);
    let all = LeaseRequest { all: true, ..LeaseRequest::new(mount(1), 1, None) };
    let reply = now(bucket.lease(&all)).unwrap();
    let held = HeldLease { mount: mount(1), epoch: reply.epoch.unwrap() };
    assert!(reply.all);
    let mut waiting = pin!(bucket.recalled(held, Duration::from_secs(10)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    let operations = create(ROOT, 10, Kind::File).to_vec();
    let commit = Commit { id: CommitId::from_bytes([1; 16]), mount: mount(2), number: 1, operations, runs: vec![] };
    let lapsed = now(bucket.commit(&commit, None));
    assert_eq!(lapsed, Ok(CommitReply::Lapsed(Lapse::Held { operation: 0 })));
    assert_eq!(waiting.poll(&mut context), Poll::Ready(Ok(true)));
    bucket.advance(LEASE);
    let name = LeaseRequest { names: vec![(ROOT, name(10))], ..LeaseRequest::new(mount(2), 1, None) };
    let reply = now(bucket.lease(&name)).unwrap();
    assert_eq!((reply.names, reply.sequence), (vec![NameLease::Granted], 0));
    let under = |lease| now(bucket.commit(&commit, lease));
    assert_eq!(under(Some(held)), Ok(CommitReply::Lapsed(Lapse::Stale)));
    // Nothing of all that is remembered of the batch.
    let lease = HeldLease { mount: mount(2), epoch: reply.epoch.unwrap() };
    assert_eq!(under(Some(lease)), Ok(CommitReply::Applied { sequence: 1 }));
    assert_eq!(under(Some(held)), Ok(CommitReply::Applied { sequence: 1 }), "a replay");
    bucket.restart();
    assert!(now(bucket.lease(&LeaseRequest::new(mount(2), 2, Some(lease.epoch)))).unwrap().recalled);
    bucket.set_unreachable(true);
    assert!(matches!(now(bucket.lease(&name)), Err(Error::Unreachable(_))));
    assert!(matches!(now(bucket.recalled(lease, Duration::ZERO)), Err(Error::Unreachable(_))));
}
