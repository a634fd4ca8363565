//! A history: several lives of a mount with crashes between them, and the check of every crash that might have been.

use crate::check::difference;
use crate::common::{self, PATIENCE, Picture};
use crate::life::Life;
use crate::machine::{Crash, Crashed, Image, Machine, Recorder, show};
use crate::model::State;
use crate::network::{self, Network};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use strewn_cache::Options;
use strewn_cache::disk::MemoryDisk;
use strewn_engine::bucket::memory::MemoryBucket;

/// Lives of a history, and operations of a life at most.
const LIVES: usize = 3;
const OPERATIONS: usize = 20;
/// One image in so many is also tried as after the death of the process.
const KILLS: u32 = 4;
/// One recovered image in so many is killed and opened once more.
const AGAIN: u32 = 4;
/// One recovered image in so many brings everything to the network.
const DRAINS: u32 = 6;
/// The disk of one history in so many stumbles.
const STUMBLES: u64 = 8;
/// A history goes on from one of so many of the last images.
const RECENT: usize = 16;

pub struct History {
    seed: u64,
    random: ChaCha8Rng,
    options: Options,
    states: Vec<State>,
    machine: Machine,
    counted: Counted,
}

/// What came about in histories.
#[derive(Clone, Copy, Default)]
pub struct Counted {
    /// Crashes that were tried.
    pub crashes: u64,
    /// Commits that let a file refer to what was uploaded for another one.
    pub clones: u64,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (bucket, root) = common::bucket(128 << 10);
        // Some have room for nothing that is clean.
        let budget = if random.random_bool(0.3) { 10_000 } else { 1 << 30 };
        // Every fifth cache holds no plaintext.
        let encrypt = seed % 5 == 4;
        let options = Options { budget, encrypt, ..common::options() };
        let states = vec![State::new(root.inode)];
        let machine = Machine { disk: MemoryDisk::new(), bucket, root, boot: 1 };
        // Where the threads of a cache wait for the disk is otherwise in every run of some of them, or of all if asked for.
        if seed % STUMBLES == 1 || std::env::var_os("STREWN_CRASH_STUMBLING").is_some() {
            machine.disk.stumble();
        }
        if options.encrypt {
            // What is beside a change in its block of 16 bytes is written with it.
            machine.disk.keep_sectors_whole();
        }
        Self { seed, random, options, states, machine, counted: Counted::default() }
    }

    /// Runs it, with all its crashes.
    pub fn run(mut self) -> Counted {
        let mut crashed = None;
        for life in 1..=LIVES {
            let last = life == LIVES;
            let images = self.live(crashed.take(), last);
            for (number, image) in images.iter().enumerate() {
                self.check_image(image, &format!("life {life}, image {number} ({})", image.moment));
            }
            if !last {
                crashed = Some(self.crash(&images));
            }
        }
        self.counted
    }

    /// One life, up to a crash or to the end. Gives the moments at which it might have crashed.
    fn live(&mut self, crashed: Option<Crashed>, finish: bool) -> Vec<Image> {
        let _context = Context(format!("seed {}", self.seed));
        let recorder = Recorder::new(crashed);
        let machine = self.machine.clone();
        let at = |moment: &'static str| {
            let (recorder, machine) = (recorder.clone(), machine.clone());
            move |disk: MemoryDisk| {
                let bucket = machine.bucket.fork();
                recorder.record(Machine { disk, bucket, ..machine.clone() }, moment);
            }
        };
        machine.disk.watch(Some(Box::new(at("sync"))));
        let (committed, disk) = (at("commit"), machine.disk.clone());
        let network = Network::new(machine.bucket.clone(), move || committed(disk.kill()));
        let this = &mut *self;
        run(async {
            let cache = machine.open(network.clone(), &this.options).await.expect("opens");
            this.found(&recorder, &show(&cache).await);
            let mut life = Life {
                random: &mut this.random,
                cache,
                machine: machine.clone(),
                network: network.clone(),
                recorder: recorder.clone(),
                states: &mut this.states,
                open: Vec::new(),
                syncs: Vec::new(),
            };
            for _ in 0..OPERATIONS {
                life.step().await;
            }
            if finish {
                life.finish().await;
            }
            recorder.record(life.image(), "end");
        });
        machine.disk.watch(None);
        let commits = std::mem::take(&mut *network.commits.lock());
        commits.iter().for_each(|bucket| self.check_commit(bucket, &self.states));
        self.counted.clones += commits.windows(2).filter(|pair| shared(&pair[1]) > shared(&pair[0])).count() as u64;
        if finish {
            let expected = self.states.last().expect("a state").picture();
            let found = network::read(&machine.bucket, &machine.root);
            assert!(found == expected, "on the network: {}", difference(&found, &expected));
        }
        std::mem::take(&mut *recorder.images.lock())
    }

    /// What a cache shows when it was opened: after a crash it is checked, and what goes on is measured by it.
    fn found(&mut self, recorder: &Recorder, found: &Picture) {
        recorder.set(|marks| {
            let Some(Crashed { killed, cut_off }) = marks.crashed.take() else { return };
            if let Err(wrong) = killed.check(found, &self.states) {
                panic!("after a crash: {wrong}");
            }
            // What may be there has been there at some time, or else the power went: then all of it is durable.
            let power_cut = killed == cut_off;
            self.states.truncate(killed.to + 1);
            self.states.push(State::of(found, self.machine.root.inode));
            let here = self.states.len() - 1;
            (marks.done, marks.begun, marks.durable) = (here, here, here);
            (marks.files, marks.synced) = (cut_off.files, cut_off.synced);
            if power_cut {
                marks.files = here;
            }
        });
    }

    /// Picks a crash, and makes what is left of the machine the one that goes on.
    fn crash(&mut self, images: &[Image]) -> Crashed {
        let back = if self.random.random_bool(0.5) { 0 } else { self.random.random_range(0..RECENT.min(images.len())) };
        let image = &images[images.len() - 1 - back];
        let (crash, killed) = match self.random.random_bool(0.5) {
            true => (Crash::Kill, image.killed.clone()),
            false => (Crash::PowerCut(self.random.random()), image.cut_off.clone()),
        };
        self.machine = image.crash(crash).0;
        Crashed { killed, cut_off: image.cut_off.clone() }
    }

    fn check_image(&mut self, image: &Image, which: &str) {
        let seed = self.random.random();
        self.check_crash(image, Crash::PowerCut(seed), which);
        if self.random.random_ratio(1, KILLS) {
            self.check_crash(image, Crash::Kill, which);
        }
    }

    /// Opens a cache on what a crash left.
    fn check_crash(&mut self, image: &Image, crash: Crash, which: &str) {
        let _context = Context(format!("seed {}, {which}, {crash:?}", self.seed));
        self.counted.crashes += 1;
        let (machine, bounds) = image.crash(crash);
        let (again, drains) = (self.random.random_ratio(1, AGAIN), self.random.random_ratio(1, DRAINS));
        let network = Network::new(machine.bucket.clone(), || {});
        run(async {
            let cache = machine.open(network.clone(), &self.options).await.expect("opens");
            let found = show(&cache).await;
            if let Err(wrong) = bounds.check(&found, &self.states) {
                panic!("{wrong}");
            }
            if again {
                let left = Machine { disk: machine.disk.kill(), bucket: machine.bucket.fork(), ..machine.clone() };
                let next = left.open(Arc::new(left.bucket.clone()), &self.options).await.expect("opens again");
                let once_more = show(&next).await;
                assert!(once_more == found, "opened again: {}", difference(&once_more, &found));
            }
            if drains {
                cache.drain(|_| {}).await.expect("drain");
                let after = show(&cache).await;
                assert!(after == found, "after the drain: {}", difference(&after, &found));
                let there = network::read(&machine.bucket, &machine.root);
                assert!(there == found, "on the network: {}", difference(&there, &found));
                assert_eq!((cache.status().conflicts, cache.status().unauthentic), (0, 0));
                let mut states = self.states.clone();
                states.push(State::of(&found, machine.root.inode));
                network.commits.lock().iter().for_each(|bucket| self.check_commit(bucket, &states));
            }
        });
    }

    /// What the network shows is what the mount showed at some moment (I2).
    fn check_commit(&self, bucket: &MemoryBucket, states: &[State]) {
        let there = network::read(bucket, &self.machine.root);
        let differences = states.iter().rev().map(|state| state.picture()).map(|state| difference(&there, &state));
        let closest = differences.min_by_key(String::len).unwrap_or_default();
        assert!(closest.is_empty(), "committed, and never the state of the mount: {closest}");
    }
}

/// Runs that more than one file refers to.
fn shared(bucket: &MemoryBucket) -> usize {
    let references: BTreeSet<_> =
        bucket.snapshot().extents.iter().map(|(inode, extent)| (extent.run, *inode)).collect();
    let runs: BTreeSet<_> = references.iter().map(|(run, _)| *run).collect();
    references.len() - runs.len()
}

/// Runs a future on this thread, and what it spawned as long as it lasts.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

/// Says which crash it was when a check fails.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0);
        }
    }
}
