//! Random operations on the volume and on a reference, compared after each; now and then the whole tree is compared, the
//! process crashes, or the cache is lost.
//!
//! `STREWN_SEED` repeats a run; it is printed when one fails. `STREWN_OPERATIONS` makes runs longer.

mod reference;
#[path = "../support/mod.rs"]
mod support;

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reference::{Id, Node, Reference};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use strewn_cache::Position;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_fs::clock::Clock;
use strewn_fs::volume::{Allocate, Caller, Entry, Open, RenameMode, SetAttributes, SetTime, SetXattr, WriteMode};
use support::{Fixture, ROOT_INODE};

const SEEDS: [u64; 3] = [1, 2026, 4242];
const OPERATIONS: usize = 4_000;
const NAMES: [&[u8]; 6] =
    [b"a", b"b", b"c", b"dd", b"\xff\xfe", b"a rather longer name, so that it takes another block"];
/// Sizes of files stay below this.
const MAX_SIZE: usize = 300_000;

#[test]
fn the_volume_does_what_the_reference_does() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let operations = number("STREWN_OPERATIONS").map_or(OPERATIONS, |count| count as usize);
    for seed in number("STREWN_SEED").map_or(SEEDS.to_vec(), |seed| vec![seed]) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ran = std::panic::catch_unwind(|| runtime.block_on(async { Run::new(seed).await.run(operations).await }));
        if let Err(panic) = ran {
            eprintln!("seed: STREWN_SEED={seed} STREWN_OPERATIONS={operations}");
            std::panic::resume_unwind(panic);
        }
    }
}

struct Run {
    random: ChaCha8Rng,
    fixture: Fixture,
    reference: Reference,
    /// Volume inodes of reference nodes.
    inodes: BTreeMap<Id, InodeId>,
    /// References that the run holds, by node: one for each entry it was given.
    held: BTreeMap<Id, u64>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            fixture: Fixture::new().await,
            reference: Reference::new(),
            inodes: BTreeMap::from([(reference::ROOT, ROOT_INODE)]),
            held: BTreeMap::new(),
        }
    }

    async fn run(mut self, operations: usize) {
        for step in 0..operations {
            self.fixture.clock.advance(1_000_000);
            match self.random.random_range(0..1000) {
                0..5 => self.crash().await,
                5..8 => self.lose_the_cache().await,
                8..20 => self.compare_tree().await,
                _ => self.operation(step).await,
            }
        }
        self.compare_tree().await;
        self.crash().await;
        self.lose_the_cache().await;
    }

    async fn operation(&mut self, step: usize) {
        match self.random.random_range(0..100) {
            0..14 => self.create(step).await,
            14..20 => self.mkdir().await,
            20..24 => self.symlink().await,
            24..26 => self.mknod().await,
            26..31 => self.link().await,
            31..38 => self.unlink().await,
            38..42 => self.rmdir().await,
            42..54 => self.rename().await,
            54..70 => self.write().await,
            70..74 => self.truncate().await,
            74..79 => self.fallocate().await,
            79..84 => self.set_attributes().await,
            84..88 => self.xattr().await,
            88..92 => self.read().await,
            92..95 => self.copy().await,
            95..97 => self.sync().await,
            97..98 => self.forget().await,
            _ => self.list().await,
        }
    }

    async fn create(&mut self, step: usize) {
        let (parent, name) = self.place();
        let (caller, now) = (self.caller(), self.now());
        let open = Open { read: true, write: true, exclusive: true, ..Open::default() };
        let mode = self.mode();
        let made = self.fixture.volume.create(caller, self.inodes[&parent], name, mode, open).await;
        let made = made.map(|(entry, _)| entry).map_err(|error| error.errno());
        let expected = self.reference.make(parent, name, Node::new(Kind::File, mode, caller, now), now);
        if let Some(id) = self.agree_on_entry("create", expected, made) {
            let content = format!("file {step}").into_bytes();
            self.write_at(id, Position::At(0), &content).await;
        }
    }

    async fn mkdir(&mut self) {
        let (parent, name) = self.place();
        let (caller, now, mode) = (self.caller(), self.now(), self.mode());
        let made = self.fixture.volume.mkdir(caller, self.inodes[&parent], name, mode).await;
        let expected = self.reference.make(parent, name, Node::new(Kind::Directory, mode, caller, now), now);
        self.agree_on_entry("mkdir", expected, made.map_err(|error| error.errno()));
    }

    async fn symlink(&mut self) {
        let (parent, name) = self.place();
        let (caller, now) = (self.caller(), self.now());
        let target = vec![b't'; self.random.random_range(1..200)];
        let made = self.fixture.volume.symlink(caller, self.inodes[&parent], name, &target).await;
        let node = Node { target, ..Node::new(Kind::Symlink, 0o777, caller, now) };
        let expected = self.reference.make(parent, name, node, now);
        self.agree_on_entry("symlink", expected, made.map_err(|error| error.errno()));
    }

    async fn mknod(&mut self) {
        let (parent, name) = self.place();
        let (caller, now) = (self.caller(), self.now());
        let made = self.fixture.volume.mknod(caller, self.inodes[&parent], name, 0o010_644, 0).await;
        let expected = self.reference.make(parent, name, Node::new(Kind::Fifo, 0o644, caller, now), now);
        self.agree_on_entry("mknod", expected, made.map_err(|error| error.errno()));
    }

    async fn link(&mut self) {
        let (parent, name) = self.place();
        let (id, now) = (self.node(), self.now());
        let linked = self.fixture.volume.link(self.inodes[&id], self.inodes[&parent], name).await;
        let expected = self.reference.link(id, parent, name, now).map(|()| id);
        self.agree_on_entry("link", expected, linked.map_err(|error| error.errno()));
    }

    async fn unlink(&mut self) {
        let (parent, name) = self.place();
        let now = self.now();
        let done = self.fixture.volume.unlink(self.inodes[&parent], name).await.map_err(|error| error.errno());
        let expected = self.reference.unlink(parent, name, now);
        assert_eq!(done, expected.map(|_| ()), "unlink");
        self.perhaps_let_go(expected.ok());
    }

    async fn rmdir(&mut self) {
        let (parent, name) = self.place();
        let now = self.now();
        let done = self.fixture.volume.rmdir(self.inodes[&parent], name).await.map_err(|error| error.errno());
        let expected = self.reference.rmdir(parent, name, now);
        assert_eq!(done, expected.map(|_| ()), "rmdir");
        self.perhaps_let_go(expected.ok());
    }

    async fn rename(&mut self) {
        let ((parent, name), (new_parent, new_name)) = (self.place(), self.place());
        let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
        let mode = *modes.choose(&mut self.random).unwrap();
        let now = self.now();
        let replaced = self.reference.lookup(new_parent, new_name).ok();
        let (from, to) = (self.inodes[&parent], self.inodes[&new_parent]);
        let done = self.fixture.volume.rename(from, name, to, new_name, mode).await.map_err(|error| error.errno());
        let expected = self.reference.rename((parent, name), (new_parent, new_name), mode, now);
        assert_eq!(done, expected, "rename {mode:?}");
        self.perhaps_let_go(replaced);
    }

    async fn write(&mut self) {
        let Some(id) = self.file() else { return };
        let size = self.reference.nodes[id].content.len();
        let length = if self.random.random_bool(0.7) { 3_000 } else { 70_000 };
        let mut data = vec![0; self.random.random_range(1..length)];
        self.random.fill_bytes(&mut data);
        let position = match self.random.random_range(0..3) {
            0 if size < MAX_SIZE => Position::End,
            1 => Position::At(self.random.random_range(0..=size.min(MAX_SIZE)) as u64),
            _ => Position::At(self.random.random_range(0..MAX_SIZE) as u64),
        };
        self.write_at(id, position, &data).await;
    }

    async fn write_at(&mut self, id: Id, position: Position, data: &[u8]) {
        let now = self.now();
        let mode = WriteMode { position, unprivileged: None };
        let written = self.fixture.volume.write(self.inodes[&id], data, mode).await.unwrap();
        let offset = match position {
            Position::At(offset) => offset as usize,
            Position::End => self.reference.nodes[id].content.len(),
        };
        self.reference.write(id, offset, data, now);
        assert_eq!((written.offset, written.size), (offset as u64, self.reference.nodes[id].content.len() as u64));
    }

    async fn truncate(&mut self) {
        let (id, now) = (self.node(), self.now());
        let size = self.random.random_range(0..MAX_SIZE);
        let change = SetAttributes { size: Some(size as u64), ..SetAttributes::default() };
        let done = self.fixture.volume.setattr(support::ROOT, self.inodes[&id], change).await;
        assert_eq!(done.map(|_| ()).map_err(|error| error.errno()), self.reference.truncate(id, size, now), "truncate");
    }

    async fn fallocate(&mut self) {
        let Some(id) = self.file() else { return };
        let now = self.now();
        let all = [Allocate::Extend, Allocate::KeepSize, Allocate::PunchHole, Allocate::Zero, Allocate::ZeroKeepSize];
        let how = *all.choose(&mut self.random).unwrap();
        let (offset, length) = (self.random.random_range(0..MAX_SIZE / 2), self.random.random_range(1..MAX_SIZE / 2));
        let inode = self.inodes[&id];
        self.fixture.volume.fallocate(support::ROOT, inode, offset as u64, length as u64, how).await.unwrap();
        self.reference.fallocate(id, offset, length, how, now);
    }

    async fn set_attributes(&mut self) {
        let (id, now) = (self.node(), self.now());
        let mtime =
            Timestamp { seconds: self.random.random_range(-1000..1000), nanos: self.random.random_range(0..1000) };
        let node = &mut self.reference.nodes[id];
        let change = match self.random.random_range(0..3) {
            0 => {
                node.mode = self.random.random_range(0..0o1000);
                SetAttributes { mode: Some(node.mode), ..SetAttributes::default() }
            }
            1 => {
                (node.uid, node.gid) = (self.random.random_range(0..5), self.random.random_range(0..5));
                if node.kind != Kind::Directory && node.mode & 0o010 != 0 {
                    node.mode &= !0o2000;
                }
                SetAttributes { uid: Some(node.uid), gid: Some(node.gid), ..SetAttributes::default() }
            }
            _ => {
                node.mtime = mtime;
                SetAttributes { mtime: Some(SetTime::At(mtime)), ..SetAttributes::default() }
            }
        };
        node.ctime = now;
        self.fixture.volume.setattr(support::ROOT, self.inodes[&id], change).await.unwrap();
    }

    async fn xattr(&mut self) {
        let (id, now) = (self.node(), self.now());
        let names: [&[u8]; 3] = [b"trusted.a", b"trusted.b", b"trusted.c"];
        let name = *names.choose(&mut self.random).unwrap();
        let (volume, inode) = (&self.fixture.volume, self.inodes[&id]);
        let xattrs = &mut self.reference.nodes[id].xattrs;
        if self.random.random_bool(0.3) {
            let done = volume.removexattr(inode, name).await.map_err(|error| error.errno());
            assert_eq!(done, xattrs.remove(name).map(|_| ()).ok_or(Errno::NODATA));
            if done.is_err() {
                return;
            }
        } else {
            let value = vec![b'v'; self.random.random_range(0..500)];
            volume.setxattr(support::ROOT, inode, name, &value, SetXattr::Any).await.unwrap();
            xattrs.insert(name.to_vec(), value);
        }
        self.reference.nodes[id].ctime = now;
    }

    async fn read(&mut self) {
        let Some(id) = self.file() else { return };
        let content = &self.reference.nodes[id].content;
        let (offset, length) = (self.random.random_range(0..MAX_SIZE), self.random.random_range(0..100_000));
        let expected = &content[offset.min(content.len())..(offset + length).min(content.len())];
        let read = self.fixture.volume.read(self.inodes[&id], offset as u64, length).await.unwrap();
        assert!(read == expected, "{length} bytes at {offset} of {id} differ");
    }

    async fn copy(&mut self) {
        let (Some(source), Some(target)) = (self.file(), self.file()) else { return };
        let now = self.now();
        if self.random.random_bool(0.5) {
            // Then the copy refers to what is there.
            self.fixture.volume.cache().drain(|_| {}).await.unwrap();
        }
        let size = self.reference.nodes[source].content.len();
        let (from, to, length) = match self.random.random_range(0..3) {
            0 if source != target => (0, 0, size.max(1)),
            _ => {
                let (from, to) = (self.random.random_range(0..MAX_SIZE / 2), self.random.random_range(0..MAX_SIZE / 2));
                (from, to, self.random.random_range(1..MAX_SIZE / 2))
            }
        };
        if source == target && from < to + length && to < from + length {
            return;
        }
        let content = &self.reference.nodes[source].content;
        let data = content[from.min(content.len())..(from + length).min(content.len())].to_vec();
        let (source, inode) = ((self.inodes[&source], from as u64), self.inodes[&target]);
        let copied =
            self.fixture.volume.copy_range(support::ROOT, source, (inode, to as u64), length as u64).await.unwrap();
        assert_eq!(copied as usize, data.len());
        if !data.is_empty() {
            self.reference.write(target, to, &data, now);
        }
    }

    async fn sync(&mut self) {
        let id = self.node();
        self.fixture.volume.fsync(self.inodes[&id], 0, false).await.unwrap();
    }

    /// Gives back some references of what has a name anyway.
    async fn forget(&mut self) {
        let id = self.node();
        if let Some(count @ 2..) = self.held.get_mut(&id) {
            *count -= 1;
            self.fixture.volume.forget(self.inodes[&id], 1);
        }
    }

    async fn list(&mut self) {
        let id = self.directory();
        let listed = self.fixture.volume.read_dir(self.inodes[&id], 2, 1000).await.unwrap();
        let listed: BTreeMap<_, _> = listed.into_iter().map(|line| (line.name, line.number)).collect();
        let number = |child| self.fixture.volume.number(self.inodes[child]);
        let names = self.reference.nodes[id].names.iter();
        assert_eq!(listed, names.map(|(name, child)| (name.clone(), number(child))).collect());
    }

    async fn crash(&mut self) {
        self.fixture.crash().await;
        self.after_restart().await;
    }

    async fn lose_the_cache(&mut self) {
        self.fixture.drain_and_start_afresh().await;
        self.after_restart().await;
    }

    /// What had no name is gone, and all references are taken anew on the way through the tree.
    async fn after_restart(&mut self) {
        self.held.clear();
        let reachable: BTreeSet<Id> = self.reference.reachable().into_iter().collect();
        self.inodes.retain(|id, _| reachable.contains(id));
        self.compare_tree().await;
    }

    /// Compares everything that can be reached, from the root down. Takes a reference to each entry met.
    async fn compare_tree(&mut self) {
        let mut directories = vec![reference::ROOT];
        self.compare_node(reference::ROOT).await;
        while let Some(directory) = directories.pop() {
            let inode = self.inodes[&directory];
            let mut expected = self.reference.nodes[directory].names.clone();
            let lines = self.fixture.volume.read_dir_plus(inode, 2, 1000).await.unwrap();
            for line in &lines {
                let id = expected.remove(&line.name).unwrap_or_else(|| panic!("{line:?} should not be there"));
                assert_eq!(self.inodes[&id], line.entry.stat.inode, "{id}");
                *self.held.entry(id).or_default() += 1;
                self.compare_node(id).await;
                if self.reference.nodes[id].kind == Kind::Directory {
                    directories.push(id);
                }
            }
            assert!(expected.is_empty(), "{expected:?} are missing in {directory}");
        }
    }

    async fn compare_node(&self, id: Id) {
        let node = &self.reference.nodes[id];
        let inode = self.inodes[&id];
        let stat = self.fixture.volume.getattr(inode).await.unwrap();
        let attributes = &stat.attributes;
        assert_eq!(attributes.kind, node.kind, "{id}");
        let owner = (attributes.mode, attributes.uid, attributes.gid, stat.nlink);
        assert_eq!(owner, (node.mode, node.uid, node.gid, self.reference.nlink(id)), "{id}");
        assert_eq!((attributes.mtime, attributes.ctime), (node.mtime, node.ctime), "{id} {:?}", node.kind);
        assert_eq!(attributes.target, node.target, "{id}");
        let xattrs = attributes.xattrs.iter().map(|(name, value)| (name.clone(), value.to_vec()));
        assert_eq!(xattrs.collect::<BTreeMap<_, _>>(), node.xattrs, "{id}");
        if node.kind == Kind::File {
            assert_eq!(attributes.size, node.content.len() as u64, "{id}");
            let content = self.fixture.volume.read(inode, 0, 2 * MAX_SIZE).await.unwrap();
            if let Some(at) =
                (0..node.content.len().max(content.len())).find(|at| content.get(*at) != node.content.get(*at))
            {
                panic!("{id} differs first at {at} of {}", node.content.len());
            }
        }
    }

    fn agree_on_entry(&mut self, what: &str, expected: Result<Id, Errno>, made: Result<Entry, Errno>) -> Option<Id> {
        assert_eq!(made.as_ref().map(|_| ()), expected.as_ref().map(|_| ()), "{what}");
        let (id, entry) = (expected.ok()?, made.ok()?);
        assert_eq!(entry.stat.nlink, self.reference.nlink(id), "{what}");
        let inode = *self.inodes.entry(id).or_insert(entry.stat.inode);
        assert_eq!(inode, entry.stat.inode, "{what}");
        *self.held.entry(id).or_default() += 1;
        Some(id)
    }

    /// What has lost its last name is let go of, or stays in use without one.
    fn perhaps_let_go(&mut self, removed: Option<Id>) {
        let Some(id) = removed.filter(|id| self.reference.nlink(*id) == 0) else { return };
        if self.random.random_bool(0.3) {
            return;
        }
        let count = self.held.remove(&id).expect("what had a name was given as an entry");
        let inode = self.inodes.remove(&id).expect("known");
        self.fixture.volume.forget(inode, count);
    }

    fn now(&self) -> Timestamp {
        self.fixture.clock.now()
    }

    fn caller(&mut self) -> Caller {
        let id = self.random.random_range(0..3);
        Caller { uid: id, gid: id, umask: 0, process: 0 }
    }

    fn mode(&mut self) -> u32 {
        *[0o644, 0o600, 0o755, 0o2775, 0o1777].choose(&mut self.random).unwrap()
    }

    fn place(&mut self) -> (Id, &'static [u8]) {
        (self.directory(), NAMES.choose(&mut self.random).unwrap())
    }

    fn directory(&mut self) -> Id {
        self.choose(|node| node.kind == Kind::Directory).unwrap_or(reference::ROOT)
    }

    fn file(&mut self) -> Option<Id> {
        self.choose(|node| node.kind == Kind::File)
    }

    fn node(&mut self) -> Id {
        self.choose(|_| true).unwrap_or(reference::ROOT)
    }

    /// One of what the run holds, with or without a name.
    fn choose(&mut self, wanted: impl Fn(&Node) -> bool) -> Option<Id> {
        let ids: Vec<Id> = self.inodes.keys().copied().filter(|id| wanted(&self.reference.nodes[*id])).collect();
        ids.choose(&mut self.random).copied()
    }
}
