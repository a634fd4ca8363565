//! A machine that may crash: its disk, its boot, its network, and the images that a crash at any moment leaves.

use crate::check::Bounds;
use crate::common::{self, Picture};
use crate::model::comparable;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::journal::BootId;
use strewn_cache::{Cache, Error, Options, Root};
use strewn_engine::bucket::BucketService;
use strewn_engine::bucket::memory::MemoryBucket;
use strewn_engine::ids::InodeId;

/// A machine that is off, or about to be.
#[derive(Clone)]
pub struct Machine {
    pub disk: MemoryDisk,
    pub bucket: MemoryBucket,
    pub root: Root,
    pub boot: u8,
}

/// A moment at which it may crash.
#[derive(Clone)]
pub struct Image {
    pub machine: Machine,
    /// What may be there when the process alone dies.
    pub killed: Bounds,
    /// What may be there when the power goes.
    pub cut_off: Bounds,
    pub moment: &'static str,
}

/// How it crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies, what it wrote does not.
    Kill,
    /// Power fails: what was not synced survives or not, as this seed has it.
    PowerCut(u64),
}

impl Image {
    /// The machine as it is found afterwards, and what may be there.
    pub fn crash(&self, crash: Crash) -> (Machine, Bounds) {
        let bucket = self.machine.bucket.fork();
        match crash {
            Crash::Kill => {
                (Machine { disk: self.machine.disk.kill(), bucket, ..self.machine.clone() }, self.killed.clone())
            }
            Crash::PowerCut(seed) => {
                let boot = self.machine.boot + 1;
                // It takes a while. A cache that lost even its name does not find the leases that it had before.
                bucket.advance(strewn_engine::bucket::lease::LEASE);
                let disk = self.machine.disk.crash(seed);
                (Machine { disk, bucket, boot, ..self.machine.clone() }, self.cut_off.clone())
            }
        }
    }
}

impl Machine {
    pub async fn open(&self, network: Arc<dyn BucketService>, options: &Options) -> Result<Cache, Error> {
        let boot = BootId([self.boot; 16]);
        Cache::open_on(Arc::new(self.disk.clone()), boot, network, self.root.clone(), options.clone()).await
    }
}

/// What a cache shows.
pub async fn show(cache: &Cache) -> Picture {
    comparable(common::picture(cache).await)
}

/// Which states may be found if the machine crashes now, and the images taken so far.
pub struct Recorder {
    marks: Mutex<Marks>,
    pub images: Mutex<Vec<Image>>,
}

/// States are named by their index.
#[derive(Default, Clone)]
pub struct Marks {
    /// Acknowledged.
    pub done: usize,
    /// The one after the operation under way, or `done`.
    pub begun: usize,
    /// No name or attribute may be older after a power cut.
    pub durable: usize,
    /// No byte may be older.
    pub files: usize,
    /// No byte of these files may be older.
    pub synced: Arc<BTreeMap<InodeId, usize>>,
    /// While a crash is recovered from: what it may have left.
    pub crashed: Option<Crashed>,
}

/// What a crash may have left: another one during the recovery may leave the same.
#[derive(Clone)]
pub struct Crashed {
    /// If the next one kills the process alone.
    pub killed: Bounds,
    /// If the next one is a power cut.
    pub cut_off: Bounds,
}

impl Recorder {
    pub fn new(crashed: Option<Crashed>) -> Arc<Self> {
        Arc::new(Self { marks: Mutex::new(Marks { crashed, ..Marks::default() }), images: Mutex::default() })
    }

    pub fn set<T>(&self, change: impl FnOnce(&mut Marks) -> T) -> T {
        change(&mut self.marks.lock())
    }

    /// Takes an image; `machine.disk` is one already.
    pub fn record(&self, machine: Machine, moment: &'static str) {
        let marks = self.marks.lock().clone();
        let Crashed { killed, cut_off } = marks.crashed.clone().unwrap_or_else(|| marks.bounds());
        self.images.lock().push(Image { machine, killed, cut_off, moment });
    }
}

impl Marks {
    fn bounds(&self) -> Crashed {
        let killed = Bounds { from: self.done, to: self.begun, files: self.done, synced: Arc::default() };
        let cut_off = Bounds { from: self.durable, to: self.begun, files: self.files, synced: self.synced.clone() };
        Crashed { killed, cut_off }
    }

    /// A file, and every change before, is durable as of a state.
    pub fn synced(&mut self, state: usize, file: Option<InodeId>) {
        self.durable = self.durable.max(state);
        if let Some(file) = file {
            let mark = Arc::make_mut(&mut self.synced).entry(file).or_default();
            *mark = (*mark).max(state);
        }
    }

    /// Everything is durable as of a state.
    pub fn all_synced(&mut self, state: usize) {
        self.durable = self.durable.max(state);
        self.files = self.files.max(state);
    }
}
