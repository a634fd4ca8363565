//! Random operations against a simple model, with drains, crashes, an absent network, a tiny budget and fresh caches in between.

mod common;

use common::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Options, Position, Root, Stop};
use strewn_engine::bucket::Kind;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const LARGEST: u64 = 300_000;

/// What must be there.
#[derive(Default)]
struct Model {
    directories: BTreeMap<InodeId, BTreeMap<String, InodeId>>,
    files: BTreeMap<InodeId, (Vec<u8>, u32)>,
}

impl Model {
    fn links(&self, inode: InodeId) -> u32 {
        self.directories.values().flat_map(BTreeMap::values).filter(|child| **child == inode).count() as u32
    }

    fn drop_unnamed(&mut self) {
        let named: Vec<InodeId> = self.directories.values().flat_map(|names| names.values().copied()).collect();
        self.files.retain(|inode, _| named.contains(inode));
    }

    fn below(&self, directory: InodeId, other: InodeId) -> bool {
        directory == other
            || self.directories.get(&directory).is_some_and(|names| {
                names.values().any(|child| self.directories.contains_key(child) && self.below(*child, other))
            })
    }

    async fn check(&self, cache: &Cache, root: InodeId) {
        let found = picture(cache).await;
        let mut expected = BTreeMap::new();
        let mut open = vec![(String::new(), root)];
        while let Some((path, directory)) = open.pop() {
            for (name, child) in &self.directories[&directory] {
                let path = format!("{path}/{name}");
                if self.directories.contains_key(child) {
                    open.push((path.clone(), *child));
                }
                expected.insert(path, *child);
            }
        }
        let names: Vec<_> = found.iter().map(|(path, node)| (path.clone(), node.2)).collect();
        assert_eq!(names, expected.into_iter().collect::<Vec<_>>());
        for (path, (attributes, nlink, inode, bytes)) in &found {
            match self.files.get(inode) {
                Some((content, mode)) => {
                    assert_eq!(attributes.size, content.len() as u64, "{path}");
                    let differs = bytes.iter().zip(content).position(|(a, b)| a != b);
                    assert_eq!(differs, None, "{path}: first byte that differs");
                    assert_eq!(attributes.mode, *mode, "{path}");
                    assert_eq!(*nlink, self.links(*inode), "{path}");
                }
                None => {
                    let subdirectories =
                        self.directories[inode].values().filter(|child| self.directories.contains_key(child)).count();
                    assert_eq!(*nlink as usize, 2 + subdirectories, "{path}");
                }
            }
        }
    }
}

struct Run {
    random: ChaCha8Rng,
    bucket: MemoryBucket,
    root: Root,
    options: Options,
    disk: MemoryDisk,
    cache: Cache,
    model: Model,
}

impl Run {
    async fn new(seed: u64, options: Options) -> Self {
        let (bucket, root) = bucket(128 << 10);
        let disk = MemoryDisk::new();
        let cache = open_on(&disk, &bucket, &root, options.clone()).await;
        let mut model = Model::default();
        model.directories.insert(root.inode, BTreeMap::new());
        Self { random: ChaCha8Rng::seed_from_u64(seed), bucket, root, options, disk, cache, model }
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.random.random_range(0..items.len())]) }
    }

    fn any_directory(&mut self) -> InodeId {
        let all: Vec<InodeId> = self.model.directories.keys().copied().collect();
        self.pick(&all).expect("there is a root")
    }

    fn any_file(&mut self) -> Option<InodeId> {
        let all: Vec<InodeId> = self.model.files.keys().copied().collect();
        self.pick(&all)
    }

    fn any_name(&mut self) -> String {
        self.pick(&NAMES).expect("names").to_owned()
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..18 => self.create(Kind::File).await,
            18..24 => self.create(Kind::Directory).await,
            24..44 => self.write().await,
            44..50 => self.append().await,
            50..57 => self.resize().await,
            57..62 => self.punch().await,
            62..74 => self.rename().await,
            74..82 => self.remove().await,
            82..87 => self.link().await,
            87..91 => self.chmod().await,
            91..95 => drain(&self.cache).await,
            95..97 => self.die().await,
            97..98 => self.fresh().await,
            _ => self.model.check(&self.cache, self.root.inode).await,
        }
    }

    async fn create(&mut self, kind: Kind) {
        let (directory, name) = (self.any_directory(), self.any_name());
        if self.model.directories[&directory].contains_key(&name) {
            return;
        }
        let inode = create(&self.cache, directory, &name, kind).await;
        self.model.directories.get_mut(&directory).unwrap().insert(name, inode);
        match kind {
            Kind::Directory => drop(self.model.directories.insert(inode, BTreeMap::new())),
            _ => drop(self.model.files.insert(inode, (Vec::new(), 0o644))),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let most = self.pick(&[10, 5_000, 40_000, 150_000]).unwrap();
        let length = self.random.random_range(1..most);
        pattern(length, self.random.next_u64())
    }

    async fn write(&mut self) {
        let Some(file) = self.any_file() else { return };
        let bytes = self.bytes();
        let size = self.model.files[&file].0.len() as u64;
        let offset = self.random.random_range(0..=(size + 1_000).min(LARGEST));
        write(&self.cache, file, offset, &bytes).await;
        let content = &mut self.model.files.get_mut(&file).unwrap().0;
        let end = offset as usize + bytes.len();
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(&bytes);
    }

    async fn append(&mut self) {
        let Some(file) = self.any_file() else { return };
        let bytes = self.bytes();
        if self.model.files[&file].0.len() as u64 > LARGEST {
            return;
        }
        self.cache.write(file, Position::End, &bytes, |_| {}).await.expect("append");
        self.model.files.get_mut(&file).unwrap().0.extend(bytes);
    }

    async fn resize(&mut self) {
        let Some(file) = self.any_file() else { return };
        let size = self.model.files[&file].0.len() as u64;
        let new = match self.random.random_range(0..3) {
            0 => 0,
            1 => self.random.random_range(0..=size),
            _ => self.random.random_range(0..=LARGEST),
        };
        resize(&self.cache, file, new).await;
        self.model.files.get_mut(&file).unwrap().0.resize(new as usize, 0);
    }

    async fn punch(&mut self) {
        let Some(file) = self.any_file() else { return };
        let offset = self.random.random_range(0..LARGEST);
        let length = self.random.random_range(1..100_000);
        punch(&self.cache, file, offset, length).await;
        let content = &mut self.model.files.get_mut(&file).unwrap().0;
        let end = content.len().min((offset + length) as usize);
        if (offset as usize) < end {
            content[offset as usize..end].fill(0);
        }
    }

    async fn rename(&mut self) {
        let (from, to) = (self.any_directory(), self.any_directory());
        let names: Vec<String> = self.model.directories[&from].keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let old = names[self.random.random_range(0..names.len())].clone();
        let new = self.any_name();
        let child = self.model.directories[&from][&old];
        let target = self.model.directories[&to].get(&new).copied();
        let is_directory = self.model.directories.contains_key(&child);
        if target == Some(child) || (is_directory && self.model.below(child, to)) {
            return;
        }
        if target.is_some_and(|target| is_directory || self.model.directories.contains_key(&target)) {
            return;
        }
        rename(&self.cache, from, &old, to, &new).await;
        self.model.directories.get_mut(&from).unwrap().remove(&old);
        self.model.directories.get_mut(&to).unwrap().insert(new, child);
        self.model.drop_unnamed();
    }

    async fn remove(&mut self) {
        let directory = self.any_directory();
        let names: Vec<(String, InodeId)> =
            self.model.directories[&directory].iter().map(|(name, child)| (name.clone(), *child)).collect();
        if names.is_empty() {
            return;
        }
        let (name, child) = names[self.random.random_range(0..names.len())].clone();
        if let Some(entries) = self.model.directories.get(&child) {
            let empty = entries.is_empty();
            let wire = common::name(&name);
            let removed = self
                .cache
                .transact(|tx| {
                    let child = tx.entry(directory, &wire)?.ok_or(Stop::Errno(2))?;
                    if !tx.is_empty(child)? {
                        return Ok(false);
                    }
                    tx.set_entry(directory, &wire, None)?;
                    Ok(true)
                })
                .await
                .expect("rmdir");
            assert_eq!(removed, empty);
            if !empty {
                return;
            }
            self.model.directories.remove(&child);
        } else {
            unlink(&self.cache, directory, &name).await;
        }
        self.model.directories.get_mut(&directory).unwrap().remove(&name);
        self.model.drop_unnamed();
    }

    async fn link(&mut self) {
        let Some(file) = self.any_file() else { return };
        let (directory, name) = (self.any_directory(), self.any_name());
        if self.model.directories[&directory].contains_key(&name) {
            return;
        }
        // As a kernel does: it knows the inode because it looked it up.
        self.look_up(file).await;
        let wire = common::name(&name);
        self.cache
            .transact(|tx| {
                tx.entry(directory, &wire)?;
                tx.set_entry(directory, &wire, Some(file))
            })
            .await
            .expect("link");
        self.model.directories.get_mut(&directory).unwrap().insert(name, file);
    }

    async fn look_up(&self, file: InodeId) {
        let (directory, name) = self
            .model
            .directories
            .iter()
            .find_map(|(directory, names)| {
                names.iter().find(|(_, child)| **child == file).map(|(name, _)| (*directory, name.clone()))
            })
            .expect("a file has a name");
        assert_eq!(lookup(&self.cache, directory, &name).await, Some(file));
    }

    async fn chmod(&mut self) {
        let Some(file) = self.any_file() else { return };
        self.look_up(file).await;
        let mode = self.random.random_range(0..=0o777);
        self.cache
            .transact(|tx| {
                let mut attributes = tx.attributes(file)?;
                attributes.mode = mode;
                tx.set_attributes(file, attributes)
            })
            .await
            .expect("chmod");
        self.model.files.get_mut(&file).unwrap().1 = mode;
    }

    /// The process dies; another one goes on.
    async fn die(&mut self) {
        // What the network did for the dying process it did before.
        self.bucket.set_unreachable(true);
        let left = self.disk.kill();
        self.cache.close().await.expect("the old process ends");
        self.bucket.set_unreachable(false);
        self.cache = open_on(&left, &self.bucket, &self.root, self.options.clone()).await;
        self.disk = left;
        // As a kernel does: everything is looked up again, from the root.
        picture(&self.cache).await;
    }

    /// All is on the network; another machine goes on.
    async fn fresh(&mut self) {
        drain(&self.cache).await;
        self.cache.close().await.expect("close");
        self.disk = MemoryDisk::new();
        self.cache = open_on(&self.disk, &self.bucket, &self.root, self.options.clone()).await;
        picture(&self.cache).await;
    }
}

async fn run(seed: u64, steps: usize, options: Options) {
    let mut run = Run::new(seed, options).await;
    for _ in 0..steps {
        run.step().await;
    }
    run.model.check(&run.cache, run.root.inode).await;
    run.fresh().await;
    run.model.check(&run.cache, run.root.inode).await;
    assert_eq!(run.cache.status().unauthentic, 0);
    assert_eq!(run.cache.status().conflicts, 0);
    run.cache.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_give_what_a_simple_model_gives() {
    for seed in 0..6 {
        run(seed, 250, options()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_with_cuts_at_any_time_and_no_room() {
    for seed in 100..106 {
        let options = Options { cut_idle: std::time::Duration::ZERO, budget: 100_000, ..options() };
        run(seed, 250, options).await;
    }
}
