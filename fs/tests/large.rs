//! A directory with far more entries than there is memory for, under somebody who refers to all that he sees, as the kernel
//! does.

mod support;

use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::{Options, Position, Unused};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;
use strewn_fs::Volume;
use strewn_fs::volume::{Listed, Open, WriteMode};
use support::{Fixture, ROOT, ROOT_INODE, options};
use tokio::sync::mpsc::Receiver;

/// Entries of the directory.
const FILES: usize = 3_000;
/// Memory for all the names and some 200 inodes.
const MEMORY: u64 = 600_000;
/// Most inodes in memory when nothing is changed and nothing is open.
const MOST_KNOWN: u64 = 256;
/// Lines asked for at a time.
const LINES: usize = 32;
/// Every one of so many is written to while the directory is listed, and every second one of these stays open.
const WRITTEN: usize = 50;
/// Longest a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

const AT_START: WriteMode = WriteMode { position: Position::At(0), unprivileged: None };
const MAKE: Open = Open { read: true, write: true, truncate: false, exclusive: true, no_atime: false, direct: false };
const WRITE: Open = Open { exclusive: false, ..MAKE };

fn name(number: usize) -> Vec<u8> {
    format!("file-{number:05}").into_bytes()
}

fn content(number: usize) -> Vec<u8> {
    format!("content of {number}").into_bytes()
}

/// Refers to what it was shown until it is asked to let go.
struct Kernel {
    volume: Arc<Volume>,
    unused: Receiver<Vec<Unused>>,
    references: BTreeMap<InodeId, u64>,
}

impl Kernel {
    fn new(volume: &Arc<Volume>) -> Self {
        let unused = volume.cache().unused().expect("nobody else lets go");
        Self { volume: volume.clone(), unused, references: BTreeMap::new() }
    }

    fn refer(&mut self, inode: InodeId) {
        *self.references.entry(inode).or_default() += 1;
    }

    async fn list(&mut self, directory: InodeId, after: u64) -> Vec<Listed> {
        let lines = self.volume.read_dir_plus(directory, after, LINES).await.expect("a listing");
        lines.iter().filter(|line| line.referenced).for_each(|line| self.refer(line.entry.stat.inode));
        lines
    }

    /// Lets go of what it was asked to, and gives that.
    fn let_go(&mut self) -> Vec<Unused> {
        let mut asked = Vec::new();
        while let Ok(unused) = self.unused.try_recv() {
            asked.extend(unused);
        }
        for unused in &asked {
            if !self.volume.is_open(unused.inode)
                && let Some(count) = self.references.remove(&unused.inode)
            {
                self.volume.forget(unused.inode, count);
            }
        }
        asked
    }

    /// Lets go until no more than `most` inodes are in memory.
    async fn shrink_to(&mut self, most: u64) {
        let shrunk = async {
            while self.volume.cache().status().known_inodes > most {
                self.volume.cache().keep_house().await.expect("a round of housekeeping");
                self.let_go();
            }
        };
        tokio::time::timeout(PATIENCE, shrunk).await.expect("memory is given back in time");
    }
}

/// A volume with little memory and an empty cache over a bucket with a large directory in it.
async fn large() -> (Fixture, InodeId) {
    let mut fixture = Fixture::with_options(Options { memory: MEMORY, ..options() }).await;
    let volume = fixture.volume.clone();
    let directory = volume.mkdir(ROOT, ROOT_INODE, b"large", 0o755).await.unwrap().stat.inode;
    for number in 0..FILES {
        let (made, opened) = volume.create(ROOT, directory, &name(number), 0o644, MAKE).await.unwrap();
        volume.write(made.stat.inode, &content(number), AT_START).await.unwrap();
        volume.release(made.stat.inode, opened.handle);
        volume.forget(made.stat.inode, 1);
    }
    drop(volume);
    fixture.drain_and_start_afresh().await;
    let directory = fixture.volume.lookup(ROOT_INODE, b"large").await.unwrap().stat.inode;
    (fixture, directory)
}

/// Names, numbers, sizes and cookies, in the order they come.
async fn listed(kernel: &mut Kernel, directory: InodeId) -> Vec<(Vec<u8>, u64, u64, u64)> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let lines = kernel.list(directory, after).await;
        let Some(last) = lines.last() else { return all };
        after = last.cookie;
        let files = lines.into_iter().filter(|line| line.entry.stat.attributes.kind == Kind::File);
        all.extend(files.map(|line| (line.name, line.entry.number, line.entry.stat.attributes.size, line.cookie)));
        kernel.shrink_to(MOST_KNOWN).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_listed_with_attributes_again_and_again() {
    let (fixture, directory) = large().await;
    let mut kernel = Kernel::new(&fixture.volume);
    let before = fixture.bucket.calls();
    let first = listed(&mut kernel, directory).await;
    let asked = fixture.bucket.calls().entry - before.entry;
    assert!(asked < FILES as u64 / 10, "names are not asked for one by one, but {asked} were");
    let expected: BTreeSet<Vec<u8>> = (0..FILES).map(name).collect();
    assert_eq!(first.iter().map(|(name, ..)| name.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(first.len(), FILES);
    assert!(kernel.references.len() < MOST_KNOWN as usize);
    let again = listed(&mut kernel, directory).await;
    assert!(again == first, "the same names, numbers, sizes and cookies");
    for (name, number, size, _) in first.iter().step_by(97) {
        let found = fixture.volume.lookup(directory, name).await.unwrap();
        kernel.refer(found.stat.inode);
        assert_eq!((found.number, found.stat.attributes.size), (*number, *size));
        let at: usize = std::str::from_utf8(&name[5..]).unwrap().parse().unwrap();
        assert_eq!(fixture.volume.read(found.stat.inode, 0, 100).await.unwrap(), content(at));
    }
    // Without attributes nothing has to come into memory.
    let before = fixture.bucket.calls();
    let (mut after, mut names) = (0, BTreeSet::new());
    loop {
        let lines = fixture.volume.read_dir(directory, after, LINES).await.unwrap();
        let Some(last) = lines.last() else { break };
        after = last.cookie;
        names.extend(lines.into_iter().filter(|line| line.kind == Kind::File).map(|line| line.name));
    }
    assert_eq!(names, expected);
    let calls = fixture.bucket.calls();
    assert_eq!((calls.entry, calls.entries), (before.entry, before.entries));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_and_what_is_open_stays() {
    let (mut fixture, directory) = large().await;
    let mut kernel = Kernel::new(&fixture.volume);
    let volume = fixture.volume.clone();
    // A file with two names, neither of which is in memory most of the time.
    let (linked, other_name) = (name(7), b"link".to_vec());
    let file = volume.lookup(directory, &linked).await.unwrap().stat.inode;
    for _ in 0..2 {
        kernel.refer(file);
    }
    drop(volume.link(file, ROOT_INODE, &other_name).await.unwrap());
    volume.cache().drain(|_| {}).await.unwrap();
    let (mut after, mut seen, mut open, mut written) = (0, 0, BTreeMap::new(), BTreeMap::new());
    loop {
        let lines = kernel.list(directory, after).await;
        let Some(last) = lines.last() else { break };
        after = last.cookie;
        for line in lines.iter().filter(|line| line.entry.stat.attributes.kind == Kind::File) {
            seen += 1;
            if seen % WRITTEN != 0 {
                continue;
            }
            let inode = line.entry.stat.inode;
            let opened = volume.open(ROOT, inode, WRITE).await.unwrap();
            let text = format!("written as the {seen}th of all of them, to be sure");
            volume.write(inode, text.as_bytes(), AT_START).await.unwrap();
            written.insert(line.name.clone(), text.into_bytes());
            match seen % (2 * WRITTEN) {
                0 => drop(open.insert(inode, (opened.handle, line.name.clone()))),
                _ => volume.release(inode, opened.handle),
            }
        }
        let (open, written) = (open.len() as u64, written.len() as u64);
        kernel.shrink_to(MOST_KNOWN + open + written).await;
    }
    assert_eq!(seen, FILES);
    // Removed while it is open: it goes on without a name.
    let (removed, (_, gone)) = open.iter().next().map(|(inode, file)| (*inode, file.clone())).unwrap();
    volume.unlink(directory, &gone).await.unwrap();
    let text = written.remove(&gone).unwrap();
    let others = listed(&mut kernel, directory).await;
    assert_eq!(others.len(), FILES - 1);
    for (parent, name) in [(directory, &linked), (ROOT_INODE, &other_name)] {
        let found = volume.lookup(parent, name).await.unwrap().stat;
        kernel.refer(found.inode);
        assert_eq!((found.inode, found.nlink), (file, 2));
    }
    for inode in open.keys() {
        assert!(kernel.references.contains_key(inode), "what is open is referred to");
        assert!(volume.getattr(*inode).await.is_ok());
    }
    assert_eq!(volume.read(removed, 0, 100).await.unwrap(), text);
    for (inode, (handle, _)) in open {
        volume.release(inode, handle);
    }
    drop((kernel, volume));
    fixture.crash().await;
    let volume = &fixture.volume;
    let directory = volume.lookup(ROOT_INODE, b"large").await.unwrap().stat.inode;
    for (name, text) in &written {
        let found = volume.lookup(directory, name).await.unwrap().stat.inode;
        assert_eq!(volume.read(found, 0, 100).await.unwrap(), text);
    }
    assert_eq!(volume.lookup(directory, &gone).await.unwrap_err().errno(), Errno::NOENT);
    fixture.drain_and_start_afresh().await;
    let directory = fixture.volume.lookup(ROOT_INODE, b"large").await.unwrap().stat.inode;
    assert_eq!(listed(&mut Kernel::new(&fixture.volume), directory).await.len(), FILES - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_stays_while_the_network_is_away() {
    let (fixture, directory) = large().await;
    let mut kernel = Kernel::new(&fixture.volume);
    let (volume, cache) = (&fixture.volume, fixture.volume.cache());
    let (mut after, mut known) = (0, Vec::new());
    while known.len() < 2 * MOST_KNOWN as usize {
        let lines = kernel.list(directory, after).await;
        after = lines.last().expect("there are more").cookie;
        known.extend(lines.into_iter().map(|line| line.name).filter(|name| name != b"." && name != b".."));
    }
    fixture.bucket.set_unreachable(true);
    assert!(cache.usage().await.is_err());
    for (inode, count) in std::mem::take(&mut kernel.references) {
        volume.forget(inode, count);
    }
    cache.keep_house().await.unwrap();
    for name in &known {
        let found = volume.lookup(directory, name).await.unwrap();
        kernel.refer(found.stat.inode);
    }
    fixture.bucket.set_unreachable(false);
    assert!(cache.usage().await.is_ok());
    kernel.shrink_to(MOST_KNOWN).await;
}
