//! The metabase against its twin in memory, and both against what a bucket must be.
//!
//! Seeded streams of batches, most of them nearly right, go to both. Every answer must be the same, the whole state must be the
//! same, and the state must hold what [`audit`] derives from first principles.

use super::snapshot::snapshot;
use crate::{Dialer, ManualClock, Satellite, Session, Settings};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, Lapse, LeaseRequest, NameKey};
use strewn_engine::bucket::memory::{MemoryBucket, Snapshot};
use strewn_engine::bucket::*;
use strewn_engine::content::WINDOW;
use strewn_engine::grant::ApiKey;
use strewn_engine::ids::*;
use strewn_wire::satellite::{CreateBucket, Hello, Reply, Request, VERSION};

const ROOT: InodeId = InodeId::from_bytes([1; 16]);
const BUCKET: BucketId = BucketId::from_bytes([9; 16]);
const BATCHES: usize = 70;
const SEGMENT_LENGTH: u64 = 20_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn metabase_and_memory_agree(seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let applied = runtime.block_on(compare(directory.path(), seed));
        // A stream of refusals would compare nothing.
        prop_assert!(applied > BATCHES / 5, "{} batches applied", applied);
    }
}

struct Nobody;

#[async_trait::async_trait]
impl Dialer for Nobody {
    async fn dial(&self, _: NodeId, _: &str) -> Result<(), String> {
        Err("no nodes here".to_owned())
    }
}

struct Twins {
    satellite: Satellite,
    session: Session,
    clock: Arc<ManualClock>,
    key: ApiKey,
    memory: MemoryBucket,
}

async fn compare(directory: &Path, seed: u64) -> usize {
    let mut twins = Twins::new(directory).await;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut streams = [Stream::new(1), Stream::new(2), Stream::new(3)];
    let mut mounts = [Lease::new(1), Lease::new(2), Lease::new(3)];
    let mut sent: Vec<Commit> = Vec::new();
    let mut applied = 0;
    for number in 0..BATCHES {
        let replay = (!sent.is_empty() && random.random_ratio(1, 8)).then(|| random.random_range(0..sent.len()));
        let commit = match replay {
            Some(old) => mangle(sent[old].clone(), &mut random),
            None => {
                let stream = &mut streams[random.random_range(0..3)];
                let snapshot = twins.memory.snapshot();
                let (operations, runs) = Batch::new(&snapshot, &mut random).build();
                stream.next(number, operations, runs, &mut random)
            }
        };
        twins.compare_leases(directory, &mut mounts, &mut random).await;
        let reply = twins.commit(&commit, held(&mounts, &commit, &mut random)).await;
        if reply == Ok(CommitReply::Lapsed(Lapse::Stale)) {
            mounts[usize::from(commit.mount.as_bytes()[0]) - 1].held = None;
        }
        if let Ok(CommitReply::Applied { sequence }) = reply {
            let stream = &mut streams[usize::from(commit.mount.as_bytes()[0]) - 1];
            stream.last = stream.last.max(commit.number);
            applied = applied.max(sequence as usize);
        }
        sent.push(commit);
        let state = twins.memory.snapshot();
        audit(&state);
        assert_eq!(twins.stored().await, state);
        twins.compare_reads(&mut random).await;
    }
    applied
}

impl Twins {
    async fn new(directory: &Path) -> Self {
        let clock = Arc::new(ManualClock::new(0));
        let satellite = open(directory, &clock);
        let key = satellite.create_api_key().await.unwrap();
        let session = session(&satellite, &key);
        let new = CreateBucket {
            name: "twin".to_owned(),
            bucket: BUCKET,
            root: ROOT,
            root_key: sealed(1, Sealed::KEY_LEN),
            derivation: Bytes::new(),
            record: sealed(1, 32),
            segment_size: 1 << 20,
            cipher: Cipher::Aes256Gcm,
            redundancy: None,
        };
        let Reply::Bucket(info) = satellite.handle(&session, Request::CreateBucket(new)).await else {
            panic!("no bucket")
        };
        let memory = MemoryBucket::new(info.settings, sealed(1, 32));
        for segment in [1, 2] {
            let segment = SegmentId::from_bytes([segment; 16]);
            let bytes = Bytes::from(vec![0; SEGMENT_LENGTH as usize]);
            memory.put_segment(segment, Arc::new(bytes)).await.unwrap();
            satellite.store_segment_for_test(BUCKET, segment, key.id(), SEGMENT_LENGTH).await;
        }
        for quota in [Some(40_000)] {
            memory.set_quota(quota);
            satellite.set_quota(BUCKET, quota).await.unwrap();
        }
        Self { satellite, session, clock, key, memory }
    }

    async fn ask(&self, request: Request) -> Reply {
        self.satellite.handle(&self.session, request).await
    }

    /// Time passes, mounts ask for leases, and now and then the satellite restarts.
    async fn compare_leases(&mut self, directory: &Path, mounts: &mut [Lease], random: &mut ChaCha8Rng) {
        let seconds = [0, 0, 1, 11, 31][random.random_range(0..5)];
        self.clock.advance(seconds);
        self.memory.advance(Duration::from_secs(seconds.unsigned_abs()));
        if random.random_ratio(1, 20) {
            // Closed before it is opened again: its directory is locked.
            self.satellite = {
                let other = tempfile::tempdir().unwrap();
                let elsewhere = open(other.path(), &self.clock);
                drop(std::mem::replace(&mut self.satellite, elsewhere));
                open(directory, &self.clock)
            };
            self.session = session(&self.satellite, &self.key);
            self.memory.restart();
        }
        for mount in mounts {
            let request = mount.request(random);
            let expected = self.memory.lease(&request).await;
            match (self.ask(Request::Lease { bucket: BUCKET, lease: request.clone() }).await, expected) {
                (Reply::Lease(reply), Ok(expected)) => {
                    assert_eq!(reply, expected, "{request:#?}");
                    mount.held = reply.epoch;
                }
                (Reply::Failed(error), Err(expected)) => assert_eq!(error, expected),
                other => panic!("{other:?}"),
            }
            let lease = HeldLease { mount: mount.id, epoch: random.random_range(0..9) };
            let expected = self.memory.recalled(lease, Duration::ZERO).await.unwrap();
            let wait = Duration::ZERO;
            match self.ask(Request::Recalled { bucket: BUCKET, lease, wait }).await {
                Reply::Recalled(recalled) => assert_eq!(recalled, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn commit(&self, commit: &Commit, lease: Option<HeldLease>) -> Result<CommitReply, Error> {
        let expected = self.memory.commit(commit, lease).await;
        let request = Request::CommitUnder { bucket: BUCKET, lease, commit: commit.clone() };
        let reply = match self.ask(request).await {
            Reply::Commit(reply) => Ok(reply),
            Reply::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        };
        assert_eq!(reply, expected, "{commit:#?}");
        reply
    }

    async fn stored(&self) -> Snapshot {
        self.satellite.read_for_test(|connection| snapshot(connection, BUCKET)).await
    }

    async fn compare_reads(&self, random: &mut ChaCha8Rng) {
        let inode = inode(random.random_range(0..14));
        let found = self.memory.inode(inode).await;
        match (self.ask(Request::Inode { bucket: BUCKET, inode }).await, found) {
            (Reply::Inode(row), Ok(expected)) => assert_eq!(row, expected),
            (Reply::Failed(error), Err(expected)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
        let (offset, length) = (random.random_range(0..3 * WINDOW), random.random_range(0..2 * WINDOW));
        let found = self.memory.extents(inode, offset, length).await;
        match (self.ask(Request::Extents { bucket: BUCKET, inode, offset, length }).await, found) {
            (Reply::Extents(extents), Ok(expected)) => assert_eq!(extents, expected),
            (Reply::Failed(error), Err(expected)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
        let (after, limit) =
            (random.random_bool(0.5).then(|| name(random.random_range(0..8))), random.random_range(0..5));
        let found = self.memory.entries(inode, after.as_ref(), limit).await;
        match (self.ask(Request::Entries { bucket: BUCKET, directory: inode, after, limit }).await, found) {
            (Reply::Entries(page), Ok(expected)) => assert_eq!(page, expected),
            (Reply::Failed(error), Err(expected)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
        let name = name(random.random_range(0..8));
        let found = self.memory.entry(inode, &name).await.unwrap();
        let Reply::Entry(entry) = self.ask(Request::Entry { bucket: BUCKET, parent: inode, name }).await else {
            panic!("no entry")
        };
        assert_eq!(entry, found);
        let after = random.random_range(0..BATCHES as u64);
        let found = self.memory.changes(after, Duration::ZERO).await.unwrap();
        let Reply::Changes(changes) = self.ask(Request::Changes { bucket: BUCKET, after, wait: Duration::ZERO }).await
        else {
            panic!("no changes")
        };
        assert_eq!(changes, found);
    }
}

/// A mount as the leases see it.
struct Lease {
    id: MountId,
    number: u64,
    held: Option<u64>,
}

impl Lease {
    fn new(mount: u8) -> Self {
        Self { id: MountId::from_bytes([mount; 16]), number: 0, held: None }
    }

    /// Wants and gives up this and that; sometimes what it sends is old, or it has restarted.
    fn request(&mut self, random: &mut ChaCha8Rng) -> LeaseRequest {
        self.number += random.random_range(1..3);
        if random.random_ratio(1, 20) {
            self.held = None;
        }
        let number = self.number.saturating_sub(2 * u64::from(random.random_ratio(1, 10)));
        let mut some = |most: usize| -> Vec<NameKey> {
            let count = random.random_range(0..=most);
            (0..count).map(|_| (ROOT, name(random.random_range(0..8)))).collect()
        };
        let (names, release) = (some(2), some(4));
        let mut sometimes = |of| random.random_ratio(1, of);
        let (all, reserve, release_all) = (sometimes(3), sometimes(3), sometimes(3));
        LeaseRequest { all, names, reserve, release_all, release, ..LeaseRequest::new(self.id, number, self.held) }
    }
}

/// The lease a batch is sent under, if any.
fn held(mounts: &[Lease], commit: &Commit, random: &mut ChaCha8Rng) -> Option<HeldLease> {
    let mount = &mounts[usize::from(commit.mount.as_bytes()[0]) - 1];
    let epoch = mount.held.filter(|_| random.random_ratio(2, 3))?;
    Some(HeldLease { mount: mount.id, epoch })
}

fn open(directory: &Path, clock: &Arc<ManualClock>) -> Satellite {
    let identity = SigningKey::from_bytes(&[7; 32]);
    Satellite::open(directory, identity, Settings::local(), clock.clone(), Arc::new(Nobody)).unwrap()
}

fn session(satellite: &Satellite, key: &ApiKey) -> Session {
    satellite.open_session(&Hello { version: VERSION, api_key: key.serialize().into() }).unwrap()
}

struct Stream {
    mount: MountId,
    last: u64,
}

impl Stream {
    fn new(mount: u8) -> Self {
        Self { mount: MountId::from_bytes([mount; 16]), last: 0 }
    }

    fn next(&mut self, id: usize, operations: Vec<Operation>, runs: Vec<NewRun>, random: &mut ChaCha8Rng) -> Commit {
        let skipped = u64::from(random.random_ratio(1, 20));
        let id = CommitId::from_bytes((id as u128).to_le_bytes());
        Commit { id, mount: self.mount, number: self.last + 1 + skipped, operations, runs }
    }
}

/// A batch that was sent before, mostly as it was.
fn mangle(mut commit: Commit, random: &mut ChaCha8Rng) -> Commit {
    match random.random_range(0..6) {
        0 => commit.operations.truncate(1),
        1 => commit.number += 1,
        2 => commit.mount = MountId::from_bytes([random.random_range(1..4); 16]),
        _ => {}
    }
    commit
}

/// Makes a batch that fits the state, nearly always.
struct Batch<'a> {
    state: &'a Snapshot,
    random: &'a mut ChaCha8Rng,
    operations: Vec<Operation>,
    runs: Vec<NewRun>,
}

impl<'a> Batch<'a> {
    fn new(state: &'a Snapshot, random: &'a mut ChaCha8Rng) -> Self {
        Self { state, random, operations: Vec::new(), runs: Vec::new() }
    }

    fn build(mut self) -> (Vec<Operation>, Vec<NewRun>) {
        for _ in 0..self.random.random_range(1..4) {
            match self.random.random_range(0..12) {
                0..=3 => self.create(),
                4..=6 => self.write(),
                7 => self.remove(),
                8 => self.rename(),
                9 => self.link(),
                10 => self.clone_file(),
                _ => self.nonsense(),
            }
        }
        (self.operations, self.runs)
    }

    fn create(&mut self) {
        let used: HashSet<InodeId> = self.state.inodes.iter().map(|row| row.inode.inode).collect();
        let free: Vec<u8> = (1..14).filter(|number| !used.contains(&inode(*number))).collect();
        let Some(child) = self.pick(&free) else { return };
        let kind = [Kind::File, Kind::Directory, Kind::File, Kind::Symlink][self.random.random_range(0..4)];
        let parent = self.directory();
        self.set_entry(parent, self.state, Some((inode(child), kind)));
        let put = self.put(inode(child), kind, 0);
        self.operations.push(Operation::PutInode(put));
    }

    fn write(&mut self) {
        let Some(row) = self.inode(|row| row.kind == Kind::File) else { return };
        let mut put = self.put(row.inode, Kind::File, row.version);
        put.size = row.size;
        match self.random.random_range(0..4) {
            0 => put.size = self.random.random_range(0..3 * WINDOW),
            _ => {
                let offset =
                    [0, WINDOW, 2 * WINDOW][self.random.random_range(0..3)] + self.random.random_range(0..9_000);
                let length = self.random.random_range(1..9_000u64);
                put.size = put.size.max(offset + length);
                let extents = if self.random.random_ratio(1, 5) { vec![] } else { vec![self.extent(offset, length)] };
                put.ranges = vec![RangeChange { offset, length, extents }];
            }
        }
        self.finish_put(put);
    }

    fn clone_file(&mut self) {
        let Some(row) = self.inode(|row| row.kind == Kind::File) else { return };
        let of = self.pick(&self.state.extents);
        let Some((_, extent)) = of else { return };
        let mut put = self.put(row.inode, Kind::File, row.version);
        put.size = row.size.max(extent.end());
        put.ranges = vec![RangeChange { offset: extent.offset, length: extent.length, extents: vec![extent] }];
        self.finish_put(put);
    }

    /// Tags the windows that hold extents afterwards, as a mount would.
    fn finish_put(&mut self, mut put: PutInode) {
        let touched = |extent: &Extent| {
            let replaced =
                |range: &RangeChange| extent.offset < range.offset + range.length && range.offset < extent.end();
            put.ranges.iter().any(replaced)
        };
        let own = self.state.extents.iter().filter(|(of, _)| *of == put.inode).map(|(_, extent)| extent);
        let mut kept: Vec<Extent> =
            own.filter(|extent| extent.offset < put.size && !touched(extent)).cloned().collect();
        let own = self.state.extents.iter().filter(|(of, _)| *of == put.inode).map(|(_, extent)| extent);
        for extent in own.filter(|extent| touched(extent)) {
            for range in &put.ranges {
                let left = range.offset > extent.offset;
                let right = range.offset + range.length < extent.end();
                if left || (right && range.offset + range.length < put.size) {
                    kept.push(extent.clone());
                }
            }
        }
        kept.extend(put.ranges.iter().flat_map(|range| range.extents.clone()));
        let mut windows: Vec<u64> = kept.iter().map(|extent| extent.offset / WINDOW).collect();
        windows.sort_unstable();
        windows.dedup();
        let tag = self.random.random_range(0..250);
        if !self.random.random_ratio(1, 15) {
            put.tags = windows.into_iter().map(|window| (window, Some(WindowTag([tag; 32])))).collect();
        }
        self.operations.push(Operation::PutInode(put));
    }

    fn extent(&mut self, offset: u64, length: u64) -> Extent {
        let number = self.random.random_range(0..250);
        let run = RunId::from_bytes([number; 16]);
        let known = self.state.runs.iter().find(|(id, _)| *id == run).map(|(_, row)| row.length);
        let run_length = known.unwrap_or(length + self.random.random_range(0..100));
        if known.is_none() || self.random.random_ratio(1, 4) {
            let place = match run_length <= MAX_INLINE as u64 && self.random.random_bool(0.6) {
                true => RunPlace::Inline(vec![number; run_length as usize + 16].into()),
                false => RunPlace::Segment {
                    segment: SegmentId::from_bytes([self.random.random_range(1..3) + u8::from(self.rarely()); 16]),
                    offset: self.random.random_range(0..10_000),
                    length: run_length + 16 + u64::from(self.rarely()),
                },
            };
            if self.runs.iter().all(|new| new.run != run) || self.rarely() {
                self.runs.push(NewRun { run, length: run_length, place });
            }
        }
        let length = length.min(run_length);
        let run_offset = self.random.random_range(0..=run_length - length) + u64::from(self.rarely());
        let run_key = sealed(number, Sealed::KEY_LEN);
        Extent { offset, length, run, run_length, run_offset, cipher: Cipher::ChaCha20Poly1305, run_key }
    }

    fn remove(&mut self) {
        let Some(entry) = self.pick(&self.state.entries) else { return };
        let set = SetEntry {
            parent: entry.parent,
            name: entry.name,
            expected: Some(entry.child),
            target: None,
            time: self.time(),
        };
        self.operations.push(Operation::SetEntry(set));
        if self.random.random_bool(0.5) {
            let row = self.state.inodes.iter().find(|row| row.inode.inode == entry.child);
            let version = row.map_or(0, |row| row.inode.version) + u64::from(self.rarely());
            self.operations.push(Operation::CheckGone(CheckGone { inode: entry.child, version }));
        }
    }

    fn rename(&mut self) {
        let Some(entry) = self.pick(&self.state.entries) else { return };
        let (parent, name, child) = (entry.parent, entry.name.clone(), entry.child);
        let time = self.time();
        let set = SetEntry { parent, name, expected: Some(child), target: None, time };
        self.operations.push(Operation::SetEntry(set));
        let to = self.directory();
        self.set_entry(to, self.state, Some((entry.child, entry.kind)));
    }

    fn link(&mut self) {
        let Some(row) = self.inode(|row| row.kind != Kind::Directory) else { return };
        let parent = self.directory();
        self.set_entry(parent, self.state, Some((row.inode, row.kind)));
    }

    fn nonsense(&mut self) {
        let number = self.random.random_range(0..14);
        let kind = [Kind::File, Kind::Directory, Kind::Fifo][self.random.random_range(0..3)];
        if self.random.random_bool(0.5) {
            let parent = inode(self.random.random_range(0..14));
            let target = self.random.random_bool(0.5).then(|| (inode(number), kind));
            self.set_entry(parent, &Snapshot::default(), target);
        } else {
            let version = self.random.random_range(0..3);
            let mut put = self.put(inode(number), kind, version);
            put.size = self.random.random_range(0..2);
            self.operations.push(Operation::PutInode(put));
        }
    }

    fn set_entry(&mut self, parent: InodeId, state: &Snapshot, target: Option<(InodeId, Kind)>) {
        let name = name(self.random.random_range(0..8));
        let found = state.entries.iter().find(|entry| entry.parent == parent && entry.name == name);
        let expected = found.map(|entry| entry.child).filter(|_| !self.rarely());
        let key = sealed(self.random.random_range(0..250), Sealed::KEY_LEN);
        let target = target.map(|(child, kind)| Target { child, kind, key });
        let time = self.time();
        self.operations.push(Operation::SetEntry(SetEntry { parent, name, expected, target, time }));
    }

    fn put(&mut self, inode: InodeId, kind: Kind, expected_version: u64) -> PutInode {
        PutInode {
            inode,
            kind,
            expected_version: expected_version + u64::from(self.rarely()),
            version: expected_version + 1 + u64::from(self.rarely()),
            size: if kind == Kind::Symlink { 5 } else { 0 },
            record: sealed(self.random.random_range(0..250), 40),
            changed: self.time(),
            ranges: Vec::new(),
            tags: Vec::new(),
        }
    }

    fn directory(&mut self) -> InodeId {
        self.inode(|row| row.kind == Kind::Directory).map_or(ROOT, |row| row.inode)
    }

    fn inode(&mut self, fits: impl Fn(&Inode) -> bool) -> Option<Inode> {
        let rows: Vec<Inode> = self.state.inodes.iter().map(|row| row.inode.clone()).filter(fits).collect();
        self.pick(&rows)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.random.random_range(0..of.len())].clone()) }
    }

    fn time(&mut self) -> Timestamp {
        Timestamp { seconds: self.random.random_range(-5..100), nanos: self.random.random_range(0..1_000_000_000) }
    }

    fn rarely(&mut self) -> bool {
        self.random.random_ratio(1, 40)
    }
}

/// What must hold of any bucket, from first principles.
fn audit(state: &Snapshot) {
    let inodes: HashMap<InodeId, &Inode> = state.inodes.iter().map(|row| (row.inode.inode, &row.inode)).collect();
    let mut names: HashMap<InodeId, u32> = HashMap::new();
    let mut children: HashMap<InodeId, Vec<&Entry>> = HashMap::new();
    for entry in &state.entries {
        assert_eq!(inodes[&entry.parent].kind, Kind::Directory);
        assert_eq!(inodes[&entry.child].kind, entry.kind);
        *names.entry(entry.child).or_default() += 1;
        children.entry(entry.parent).or_default().push(entry);
    }
    let mut reached = HashSet::from([ROOT]);
    let mut open = vec![ROOT];
    while let Some(directory) = open.pop() {
        for entry in children.get(&directory).into_iter().flatten() {
            let fresh = reached.insert(entry.child);
            assert!(fresh || entry.kind != Kind::Directory, "a directory with two names");
            if entry.kind == Kind::Directory {
                open.push(entry.child);
            }
        }
    }
    assert_eq!(reached.len(), inodes.len(), "something is out of reach of the root");
    for row in &state.inodes {
        let inode = &row.inode;
        let below = children.get(&inode.inode).map_or(&[][..], Vec::as_slice);
        assert_eq!(row.children, below.len() as u64);
        let directories = below.iter().filter(|entry| entry.kind == Kind::Directory).count() as u32;
        let expected = match inode.kind {
            Kind::Directory => 2 + directories,
            _ => names[&inode.inode],
        };
        assert_eq!(inode.nlink, expected, "{inode:?}");
    }
    assert_eq!(state.bytes, state.extents.iter().map(|(_, extent)| extent.length).sum::<u64>());
    audit_content(state, &inodes);
}

fn audit_content(state: &Snapshot, inodes: &HashMap<InodeId, &Inode>) {
    let lengths: HashMap<RunId, u64> = state.runs.iter().map(|(run, row)| (*run, row.length)).collect();
    let mut references: BTreeMap<RunId, u64> = BTreeMap::new();
    let mut windows = HashSet::new();
    let mut last: Option<&(InodeId, Extent)> = None;
    for pair in &state.extents {
        let (inode, extent) = pair;
        assert!(extent.length >= 1 && extent.end() <= inodes[inode].size && inodes[inode].kind == Kind::File);
        assert_eq!(extent.offset / WINDOW, (extent.end() - 1) / WINDOW);
        assert_eq!(extent.run_length, lengths[&extent.run]);
        assert!(extent.run_offset + extent.length <= extent.run_length);
        if let Some((before, old)) = last {
            assert!(before < inode || (before == inode && old.end() <= extent.offset));
        }
        *references.entry(extent.run).or_default() += 1;
        windows.insert((*inode, extent.offset / WINDOW));
        last = Some(pair);
    }
    assert_eq!(windows, state.tags.iter().map(|(inode, window, _)| (*inode, *window)).collect());
    assert_eq!(references, state.runs.iter().map(|(run, row)| (*run, row.references)).collect());
    for (segment, _, found) in &state.segments {
        let parts = state.runs.iter().flat_map(|(_, row)| &row.segments).filter(|of| *of == segment);
        assert_eq!(parts.count() as u64, *found);
    }
}

fn inode(number: u8) -> InodeId {
    InodeId::from_bytes([number; 16])
}

fn name(number: u8) -> EncryptedName {
    EncryptedName::try_from(vec![number; EncryptedName::MIN]).unwrap()
}

fn sealed(byte: u8, length: usize) -> Sealed {
    Sealed { generation: u32::from(byte), bytes: vec![byte; length].into() }
}
