use super::*;
use crate::disk::MemoryDisk;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BOOT: BootId = BootId([7; 16]);
const NEXT_BOOT: BootId = BootId([8; 16]);

fn settings() -> Settings {
    // Nothing happens by itself unless a test asks for it.
    Settings { sync_after: Duration::from_secs(3600), prewrite: 0, ..Settings::new(BOOT) }
}

fn open(disk: &MemoryDisk) -> (Journal, Recovered) {
    Journal::open(Arc::new(disk.clone()), settings()).unwrap()
}

fn changes(recovered: &Recovered) -> Vec<(u64, Vec<u8>)> {
    let records = recovered.records().map(|record| record.unwrap());
    records.map(|record| (record.sequence.0, record.payload.to_vec())).collect()
}

fn file_name(number: u64) -> String {
    store::name(number)
}

/// The state that the test keeps in the journal: a list of numbers; a snapshot writes it whole.
fn payload(sequence: u64) -> Vec<u8> {
    let length = (sequence * 37 % 1500) as usize;
    sequence.to_le_bytes().into_iter().chain((0..length).map(|at| (at as u64 ^ sequence) as u8)).collect()
}

#[test]
fn a_killed_process_loses_nothing() {
    let disk = MemoryDisk::new();
    let (journal, recovered) = open(&disk);
    assert_eq!(recovered.last, Sequence(0));
    let first = journal.append(&[b"one", b" and ", b"a half"]).unwrap();
    let second = journal.append(&[]).unwrap();
    assert_eq!((first.sequence, second.sequence), (Sequence(1), Sequence(2)));
    let (next, recovered) = open(&disk.kill());
    assert_eq!(changes(&recovered), [(1, b"one and a half".to_vec()), (2, vec![])]);
    assert!(!recovered.rebooted);
    assert_eq!(next.synced(), Sequence(2));
    assert_eq!(next.append(&[b"three"]).unwrap().sequence, Sequence(3));
    let mut bytes = BytesMut::from(&b"<"[..]);
    next.read_payload(first.payload, 4..9, &mut bytes).unwrap();
    assert_eq!(&bytes[..], b"<and a");
    assert!(matches!(next.read_payload(first.payload, 9..99, &mut bytes), Err(Error::OutOfRange)));
    let beyond = Position { offset: 1 << 40, ..first.payload };
    assert!(matches!(next.read_payload(beyond, 0..1, &mut bytes), Err(Error::OutOfRange)));
    assert_eq!(&bytes[..], b"<and a");
}

#[test]
fn a_reboot_is_noticed() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    journal.append(&[b"before"]).unwrap();
    journal.sync_blocking(Sequence(1)).unwrap();
    let later = Settings { boot: NEXT_BOOT, ..settings() };
    let (journal, recovered) = Journal::open(Arc::new(disk.crash(0)), later.clone()).unwrap();
    assert!(recovered.rebooted);
    let record = recovered.records().next().unwrap().unwrap();
    assert_eq!((record.boot, record.rebooted), (BOOT, true));
    drop(journal);
    let (_, recovered) = Journal::open(Arc::new(disk.kill()), settings()).unwrap();
    assert!(!recovered.rebooted);
}

#[test]
fn a_snapshot_replaces_what_came_before() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    let old = journal.append(&[b"old"]).unwrap();
    let prepared = journal.prepare_snapshot().unwrap();
    assert!(matches!(journal.prepare_snapshot(), Err(Error::SnapshotRunning)));
    journal.append(&[b"just before"]).unwrap();
    let mut snapshot = prepared.mark().unwrap();
    assert_eq!(snapshot.point(), Sequence(2));
    journal.append(&[b"after"]).unwrap();
    snapshot.write(&[b"state ", b"one"]).unwrap();
    let part = snapshot.write(&[b"state two"]).unwrap();
    assert!(journal.retired().is_empty());
    snapshot.finish().unwrap();
    assert_eq!(journal.synced(), Sequence(2));
    assert_eq!(journal.size_since_snapshot(), 40);

    let retired = journal.retired();
    assert_eq!(retired.iter().map(|retired| retired.file).collect::<Vec<_>>(), [old.payload.file]);
    let (again, recovered) = open(&disk.kill());
    let expected = [(2, b"state one".to_vec()), (2, b"state two".to_vec()), (3, b"after".to_vec())];
    assert_eq!(changes(&recovered), expected);
    assert_eq!(recovered.snapshot, Some(Sequence(2)));
    assert_eq!(again.retired(), retired);

    let mut bytes = BytesMut::new();
    again.read_payload(old.payload, 0..3, &mut bytes).unwrap();
    again.read_payload(part, 6..9, &mut bytes).unwrap();
    assert_eq!(&bytes[..], b"oldtwo");
    assert!(matches!(again.evict(part.file), Err(Error::InUse(_))));
    assert_eq!(again.evict(old.payload.file).unwrap(), retired[0].bytes);
    assert!(matches!(again.read_payload(old.payload, 0..3, &mut bytes), Err(Error::Gone(_))));
    assert!(matches!(again.evict(old.payload.file), Err(Error::Gone(_))));
    journal.prepare_snapshot().unwrap();
}

#[test]
fn a_snapshot_given_up_changes_nothing() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    journal.append(&[b"one"]).unwrap();
    let before = disk.names();
    drop(journal.prepare_snapshot().unwrap());
    assert_eq!(disk.names(), before);
    let mut snapshot = journal.prepare_snapshot().unwrap().mark().unwrap();
    snapshot.write(&[b"half"]).unwrap();
    journal.append(&[b"two"]).unwrap();
    drop(snapshot);
    journal.append(&[b"three"]).unwrap();
    let all = [(1, b"one".to_vec()), (2, b"two".to_vec()), (3, b"three".to_vec())];
    assert_eq!(changes(&open(&disk.kill()).1), all);
    let mut snapshot = journal.prepare_snapshot().unwrap().mark().unwrap();
    snapshot.write(&[b"all"]).unwrap();
    snapshot.finish().unwrap();
    assert_eq!(changes(&open(&disk.kill()).1), [(3, b"all".to_vec())]);
}

#[test]
fn torn_at_every_byte_the_records_before_are_found() {
    let disk = MemoryDisk::new();
    let (journal, recovered) = open(&disk);
    drop(recovered);
    let ends: Vec<u64> = (1..=6u64)
        .map(|sequence| {
            let appended = journal.append(&[&payload(sequence)]).unwrap();
            appended.payload.offset + u64::from(appended.payload.length)
        })
        .collect();
    let whole = disk.bytes(&file_name(1)).unwrap();
    for cut in 0..whole.len() {
        let torn = MemoryDisk::new();
        torn.put(&file_name(1), &whole[..cut]);
        let (_, recovered) = open(&torn);
        let found = changes(&recovered);
        let expected = if cut < 64 { 0 } else { ends.iter().filter(|&&end| end <= cut as u64).count() };
        assert_eq!(found.len(), expected, "cut at {cut}");
        assert!(found.iter().all(|(sequence, bytes)| *bytes == payload(*sequence)));
    }
}

#[test]
fn any_changed_byte_ends_the_journal_there() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    let second = (1..=3).map(|sequence| journal.append(&[&payload(sequence)]).unwrap()).nth(1).unwrap().payload;
    let whole = disk.bytes(&file_name(1)).unwrap();
    for at in second.offset - 32..second.offset + u64::from(second.length) {
        let changed = MemoryDisk::new();
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 0x10;
        changed.put(&file_name(1), &bytes);
        assert_eq!(changes(&open(&changed).1), [(1, payload(1))], "byte {at}");
    }
}

#[test]
fn what_was_durable_and_is_gone_is_damage() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    let first = journal.append(&[b"first"]).unwrap().payload;
    let second = journal.append(&[b"second"]).unwrap().payload;
    journal.sync_blocking(Sequence(2)).unwrap();
    journal.append(&[b"third, written when two were durable"]).unwrap();
    let whole = disk.bytes(&file_name(1)).unwrap();
    for at in [first.offset - 32, first.offset, second.offset - 30, second.offset + 2] {
        let disk = MemoryDisk::new();
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 1;
        disk.put(&file_name(1), &bytes);
        let error = Journal::open(Arc::new(disk.clone()), settings()).err().unwrap();
        let Error::Damaged(damage) = error else { panic!("{error}") };
        assert_eq!(damage.missing, if at < second.offset - 32 { 1 } else { 2 });
        assert_eq!(disk.bytes(&file_name(1)).unwrap(), bytes, "nothing is changed");
        assert_eq!(disk.names().len(), 1);

        let accept = Settings { accept_damage: true, ..settings() };
        let (journal, recovered) = Journal::open(Arc::new(disk.clone()), accept).unwrap();
        assert_eq!(recovered.damage, Some(damage.clone()));
        assert_eq!(recovered.last, Sequence(damage.missing - 1));
        journal.append(&[b"instead"]).unwrap();
        let found = changes(&open(&disk.kill()).1);
        assert_eq!(found.last().unwrap(), &(damage.missing, b"instead".to_vec()));
    }
}

#[test]
fn a_missing_or_rotten_snapshot_is_damage_once_older_files_are_gone() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    journal.append(&[b"one"]).unwrap();
    let mut snapshot = journal.prepare_snapshot().unwrap().mark().unwrap();
    let part = snapshot.write(&[b"state"]).unwrap();
    snapshot.finish().unwrap();
    journal.append(&[b"two"]).unwrap();
    let rot = |disk: &MemoryDisk| {
        let mut bytes = disk.bytes(&file_name(part.file)).unwrap();
        bytes[part.offset as usize] ^= 1;
        disk.put(&file_name(part.file), &bytes);
    };
    // The retired file still has it all.
    let rotten = disk.kill();
    rot(&rotten);
    assert_eq!(changes(&open(&rotten).1), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    journal.evict(1).unwrap();
    let rotten = disk.kill();
    rot(&rotten);
    assert!(matches!(Journal::open(Arc::new(rotten), settings()), Err(Error::Damaged(_))));
    let missing = disk.kill();
    missing.remove(&file_name(part.file)).unwrap();
    assert!(matches!(Journal::open(Arc::new(missing), settings()), Err(Error::Damaged(_))));
}

#[test]
fn a_full_disk_refuses_and_goes_on_with_room() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    journal.append(&[&[1; 100]]).unwrap();
    disk.set_capacity(Some(300));
    assert!(matches!(journal.append(&[&[2; 200]]), Err(Error::NoSpace)));
    assert_eq!(journal.append(&[&[3; 50]]).unwrap().sequence, Sequence(2));
    assert!(matches!(journal.prepare_snapshot(), Ok(_) | Err(Error::NoSpace)));
    disk.set_capacity(None);
    assert_eq!(journal.append(&[&[4; 200]]).unwrap().sequence, Sequence(3));
    journal.sync_blocking(Sequence(3)).unwrap();
    let found = changes(&open(&disk.crash(3)).1);
    assert_eq!(found.iter().map(|(_, bytes)| bytes[0]).collect::<Vec<_>>(), [1, 3, 4]);
}

#[test]
fn a_full_disk_can_be_opened_if_only_retired_files_fill_it() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    journal.append(&[&[1; 500]]).unwrap();
    assert!(matches!(Journal::open(Arc::new(full(&disk)), settings()), Err(Error::NoSpace)));
    assert_eq!(full(&disk).names(), disk.names());
    let mut snapshot = journal.prepare_snapshot().unwrap().mark().unwrap();
    snapshot.write(&[b"state"]).unwrap();
    snapshot.finish().unwrap();
    let (journal, recovered) = open(&full(&disk));
    assert_eq!(changes(&recovered), [(1, b"state".to_vec())]);
    assert!(journal.retired().is_empty());
}

/// The disk as the next process finds it, without a byte of room.
fn full(disk: &MemoryDisk) -> MemoryDisk {
    let disk = disk.kill();
    disk.set_capacity(Some(disk.names().iter().map(|name| disk.bytes(name).unwrap().len() as u64).sum()));
    disk
}

#[test]
fn too_large_is_refused() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    let half = vec![0; MAX_PAYLOAD / 2 + 1];
    assert!(matches!(journal.append(&[&half, &half]), Err(Error::TooLarge(_))));
}

#[tokio::test]
async fn a_failed_sync_poisons_for_good() {
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    journal.append(&[b"one"]).unwrap();
    disk.fail_syncs(Some(5));
    assert!(matches!(journal.sync(Sequence(1)).await, Err(Error::Poisoned(cause)) if cause.raw_os_error() == Some(5)));
    disk.fail_syncs(None);
    assert!(matches!(journal.sync(Sequence(1)).await, Err(Error::Poisoned(cause)) if cause.raw_os_error() == Some(5)));
    assert!(matches!(journal.sync_blocking(Sequence(1)), Err(Error::Poisoned(_))));
    assert!(matches!(journal.append(&[b"two"]), Err(Error::Poisoned(cause)) if cause.raw_os_error() == Some(5)));
    assert!(matches!(journal.admit().await, Err(Error::Poisoned(_))));
    assert!(matches!(journal.prepare_snapshot(), Err(Error::Poisoned(_))));
    assert_eq!(journal.synced(), Sequence(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_share_a_sync() {
    const WAITERS: u64 = 50;
    let disk = MemoryDisk::new();
    let (journal, _) = open(&disk);
    let before = disk.syncs();
    disk.hold_syncs();
    let first = journal.append(&[b"first"]).unwrap().sequence;
    let spawn = |sequence| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.sync(sequence).await })
    };
    let mut waiting = vec![spawn(first)];
    while disk.syncs_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    // These come while a sync is in flight: the next one covers them all.
    for number in 0..WAITERS {
        waiting.push(spawn(journal.append(&[&number.to_le_bytes()]).unwrap().sequence));
    }
    disk.release_syncs();
    for waiter in waiting {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!(journal.synced(), Sequence(WAITERS + 1));
    assert_eq!(disk.syncs() - before, 2);
    assert_eq!(changes(&open(&disk.crash(1)).1).len() as u64, WAITERS + 1);
}

#[tokio::test]
async fn what_nobody_waits_for_is_synced_by_itself_and_lateness_holds_writers() {
    let disk = MemoryDisk::new();
    let quick = Settings { sync_after: Duration::from_millis(1), ..settings() };
    let (journal, _) = Journal::open(Arc::new(disk.clone()), quick).unwrap();
    let mut progress = journal.handle.shared.subscribe();
    disk.hold_syncs();
    let last = journal.append(&[b"late"]).unwrap().sequence;
    while disk.syncs_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    // The sync is on its way and does not come back; once it is late, writers wait for it.
    while journal.handle.shared.late().is_none() {
        tokio::task::yield_now().await;
    }
    let mut held = Box::pin(journal.admit());
    assert!(futures_poll(&mut held).is_pending());
    disk.release_syncs();
    held.await.unwrap();
    progress.wait_for(|progress| progress.synced >= last.0).await.unwrap();
    assert_eq!(changes(&open(&disk.crash(1)).1).len(), 1);
}

fn futures_poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> std::task::Poll<T> {
    future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn concurrent_appends_have_an_order_without_gaps() {
    let disk = MemoryDisk::new();
    let ahead = Settings { prewrite: 128 * 1024, ..settings() };
    let (journal, _) = Journal::open(Arc::new(disk.clone()), ahead).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0..200u8 {
                    let sequence = journal.append(&[&[thread, number], &[0; 300]]).unwrap().sequence;
                    if number % 50 == 0 {
                        journal.sync_blocking(sequence).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut snapshot = journal.prepare_snapshot().unwrap().mark().unwrap();
            let point = snapshot.point().0;
            snapshot.write(&[&point.to_le_bytes()]).unwrap();
            snapshot.finish().unwrap();
        });
    });
    let (_, recovered) = open(&disk.kill());
    let point = recovered.snapshot.unwrap().0;
    let found = changes(&recovered);
    assert_eq!(found[0], (point, point.to_le_bytes().to_vec()));
    assert_eq!(found.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), (point..=800).collect::<Vec<_>>());
    let mut seen = BTreeMap::<u8, u8>::new();
    for (_, bytes) in &found[1..] {
        let before = seen.insert(bytes[0], bytes[1]);
        assert!(before.is_none_or(|before| before + 1 == bytes[1]));
    }
}

#[test]
fn zeros_are_written_ahead() {
    let disk = MemoryDisk::new();
    let ahead = Settings { prewrite: 128 * 1024, ..settings() };
    let (journal, _) = Journal::open(Arc::new(disk.clone()), ahead).unwrap();
    assert_eq!(disk.bytes(&file_name(1)).unwrap().len(), 128 * 1024);
    for _ in 0..10 {
        journal.append(&[&[1; 10_000]]).unwrap();
    }
    journal.sync_blocking(journal.last()).unwrap();
    drop(journal);
    let bytes = disk.bytes(&file_name(1)).unwrap();
    assert!(bytes.len() >= 128 * 1024);
    assert!(bytes[64 + 10 * 10_032..].iter().all(|&byte| byte == 0));
    assert_eq!(changes(&open(&disk).1).len(), 10);
}

/// What follows a record on its last page is written with it: the kernel may have forgotten that it is zeros.
#[test]
fn a_page_that_a_record_begins_is_written_whole() {
    let disk = MemoryDisk::new();
    let (journal, _) = Journal::open(Arc::new(disk.clone()), Settings { prewrite: 0, ..settings() }).unwrap();
    let lengths = [100, 100, 4_000, 8_192, 3_000].map(|length| {
        journal.append(&[&vec![1; length]]).unwrap();
        disk.bytes(&file_name(1)).unwrap().len()
    });
    assert_eq!(lengths, [200, 336, 8_192, 16_384, 16_384]);
    drop(journal);
    assert_eq!(changes(&open(&disk).1).len(), 5);
}

#[test]
fn a_newer_format_is_left_alone() {
    let mut header = format::FileHeader { kind: format::FileKind::Journal, number: 1, base: 0, boot: BOOT }.encode();
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..60]).to_le_bytes();
    header[60..].copy_from_slice(&crc);
    let disk = MemoryDisk::new();
    disk.put(&file_name(1), &header);
    assert!(matches!(Journal::open(Arc::new(disk), settings()), Err(Error::Version { file: 1, version: 2 })));
}

#[test]
fn files_of_version_1_are_read() {
    let disk = MemoryDisk::new();
    disk.put(&file_name(2), include_bytes!("../../tests/data/snapshot-v1"));
    disk.put(&file_name(3), include_bytes!("../../tests/data/journal-v1"));
    let (_, recovered) = open(&disk);
    let expected = [(1, b"state of version 1".to_vec()), (2, b"a change".to_vec()), (3, b"another".to_vec())];
    assert_eq!(changes(&recovered), expected);
}

/// Bytes of a journal file with changes `base + 1..=last`, each saying that `synced` changes were durable.
fn journal_file(number: u64, base: u64, last: u64, synced: u64) -> Vec<u8> {
    use format::{FileHeader, FileKind, Mark, RecordHeader};
    let mut bytes = FileHeader { kind: FileKind::Journal, number, base, boot: BOOT }.encode().to_vec();
    for sequence in base + 1..=last {
        let content = [number as u8, sequence as u8];
        let payload_crc = format::payload_crc(&[&content]);
        let header = RecordHeader { mark: Mark::Change, length: 2, sequence, synced, payload_crc };
        bytes.extend(header.encode(number));
        bytes.extend(content);
        bytes.extend(format::padding(2));
    }
    bytes
}

#[test]
fn a_later_file_overrules_what_its_maker_did_not_believe() {
    let disk = MemoryDisk::new();
    disk.put(&file_name(1), &journal_file(1, 0, 4, 0));
    // Begun after change 5, which a power cut took; whoever recovered then saw three changes and went on from there. That
    // this file was removed was lost in another power cut.
    disk.put(&file_name(2), &journal_file(2, 5, 7, 0));
    disk.put(&file_name(3), &journal_file(3, 3, 5, 3));
    let expected = [(1, vec![1, 1]), (2, vec![1, 2]), (3, vec![1, 3]), (4, vec![3, 4]), (5, vec![3, 5])];
    assert_eq!(changes(&open(&disk).1), expected);
    // The same without the third: the gap is the end, unless something proves that it had been durable.
    let gap = MemoryDisk::new();
    gap.put(&file_name(1), &journal_file(1, 0, 4, 0));
    gap.put(&file_name(2), &journal_file(2, 5, 7, 4));
    assert_eq!(changes(&open(&gap).1).len(), 4);
    gap.put(&file_name(1), &journal_file(1, 0, 4, 0));
    gap.put(&file_name(2), &journal_file(2, 5, 7, 5));
    gap.remove(&file_name(3)).unwrap();
    let error = Journal::open(Arc::new(gap), settings()).err().unwrap();
    assert!(matches!(error, Error::Damaged(damage) if damage.missing == 5));
}

/// What happens to a journal in a test.
#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Sync,
    Snapshot,
    /// A snapshot that the crash or its owner interrupts.
    HalfSnapshot(bool),
    Kill,
    PowerCut(u64),
    Evict,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..20u8).prop_map(Step::Append),
        3 => Just(Step::Sync),
        1 => Just(Step::Snapshot),
        1 => any::<bool>().prop_map(Step::HalfSnapshot),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::PowerCut),
        1 => Just(Step::Evict),
    ]
}

/// What a journal must hold: the payloads of all changes; a power cut may shorten it to no less than what was synced.
struct Model {
    disk: MemoryDisk,
    journal: Journal,
    changes: Vec<Vec<u8>>,
    synced: usize,
    drawn: u64,
    /// A snapshot left open, to be interrupted by what comes next.
    open: Option<Snapshot>,
}

impl Model {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk);
        Self { disk, journal, changes: Vec::new(), synced: 0, drawn: 0, open: None }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append(count) => {
                for _ in 0..*count {
                    self.drawn += 1;
                    let bytes = payload(self.drawn);
                    let appended = self.journal.append(&[&bytes]).unwrap();
                    self.changes.push(bytes);
                    assert_eq!(appended.sequence.0, self.changes.len() as u64);
                }
            }
            Step::Sync => {
                self.journal.sync_blocking(self.journal.last()).unwrap();
                self.synced = self.changes.len();
            }
            Step::Snapshot => {
                self.open = None;
                let mut snapshot = self.journal.prepare_snapshot().unwrap().mark().unwrap();
                for change in &self.changes {
                    snapshot.write(&[change]).unwrap();
                }
                snapshot.finish().unwrap();
                self.synced = self.changes.len();
            }
            Step::HalfSnapshot(left_open) => {
                self.open = None;
                let mut snapshot = self.journal.prepare_snapshot().unwrap().mark().unwrap();
                snapshot.write(&[b"not yet"]).unwrap();
                self.open = left_open.then_some(snapshot);
            }
            Step::Kill => self.reopen(self.disk.kill(), self.changes.len()),
            Step::PowerCut(seed) => self.reopen(self.disk.crash(*seed), self.synced),
            Step::Evict => {
                if let Some(newest) = self.journal.retired().last() {
                    self.journal.evict(newest.file).unwrap();
                }
            }
        }
    }

    fn reopen(&mut self, disk: MemoryDisk, at_least: usize) {
        self.open = None;
        let (journal, recovered) = open(&disk);
        let found: Vec<Record> = recovered.records().map(|record| record.unwrap()).collect();
        let payloads: Vec<Vec<u8>> = found.iter().map(|record| record.payload.to_vec()).collect();
        assert!(payloads.len() >= at_least, "{} of {at_least} durable changes", payloads.len());
        assert_eq!(payloads, self.changes[..payloads.len()], "in order, none invented");
        assert_eq!(recovered.last.0, payloads.len() as u64);
        for record in &found {
            let mut bytes = BytesMut::new();
            journal.read_payload(record.position, 0..record.position.length, &mut bytes).unwrap();
            assert_eq!(bytes, record.payload);
        }
        self.changes.truncate(payloads.len());
        // Opening makes what it found durable.
        self.synced = payloads.len();
        self.disk = disk;
        self.journal = journal;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_invented(steps in proptest::collection::vec(step(), 1..40), seed: u64) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
        }
        model.run(&Step::PowerCut(seed));
        // A crash during recovery is harmless.
        model.run(&Step::PowerCut(seed ^ 1));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), number in 1u64..4) {
        let disk = MemoryDisk::new();
        disk.put(&file_name(number), &bytes);
        if let Ok((_, recovered)) = Journal::open(Arc::new(disk), settings()) {
            prop_assert!(recovered.records().next().is_none());
        }
    }

    #[test]
    fn any_damage_behind_valid_headers_is_read_without_panic(at in 64usize..4000, bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk);
        for sequence in 1..8 {
            journal.append(&[&payload(sequence)]).unwrap();
        }
        let mut whole = disk.bytes(&file_name(1)).unwrap();
        let end = (at + bytes.len()).min(whole.len());
        if at < end {
            whole[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let damaged = MemoryDisk::new();
        damaged.put(&file_name(1), &whole);
        let (_, recovered) = open(&damaged);
        for (sequence, bytes) in changes(&recovered) {
            prop_assert_eq!(bytes, payload(sequence));
        }
    }
}
