//! Leases in bad networks, in virtual time: several mounts, a keeper that restarts, messages that come late, twice or not at
//! all, mounts that die and come back, clocks that run differently.
//!
//! After everything that happens:
//! - no name is believed to be held by two mounts, when each counts from when it asked, on its own clock;
//! - no batch is let through that adds a name which another mount believes to hold;
//! - no batch is let through under a lease that is over.
//!
//! At the end all mounts but one fall silent, and that one gets what it wants within one lease.
//!
//! `STREWN_SIM_SEED=7` runs one history and prints it.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use strewn_engine::bucket::lease::*;
use strewn_engine::bucket::*;
use strewn_engine::ids::{CommitId, InodeId, MountId};

/// Histories of a normal run.
const HISTORIES: u64 = 3_000;
const EVENTS: usize = 400;
const MOUNTS: usize = 4;
const NAMES: u8 = 5;
/// By so much may clocks differ, in parts per thousand: over one lease less than the margin.
const DRIFT: u32 = 4;

#[derive(Debug, Clone)]
enum Message {
    Lease(LeaseRequest),
    Commit { mount: usize, lease: Option<HeldLease>, names: Vec<u8> },
}

#[derive(Debug, Default)]
struct Mount {
    id: u8,
    /// How fast its clock runs, in thousandths.
    rate: u32,
    number: u64,
    epoch: Option<u64>,
    /// By its own clock.
    until: Duration,
    all: bool,
    names: BTreeSet<u8>,
    recalled: bool,
    wanted: BTreeSet<u8>,
    /// The request it waits for, and when it asked, by its own clock.
    asked: Option<(LeaseRequest, Duration)>,
}

impl Mount {
    fn clock(&self, now: Duration) -> Duration {
        now * self.rate / 1_000
    }

    fn is_live(&self, now: Duration) -> bool {
        self.epoch.is_some() && self.clock(now) < self.until
    }

    fn believes(&self, now: Duration, name: u8) -> bool {
        self.is_live(now) && (self.all || self.names.contains(&name))
    }

    fn lease(&self, now: Duration) -> Option<HeldLease> {
        let epoch = self.epoch.filter(|_| self.is_live(now))?;
        Some(HeldLease { mount: mount_id(self.id), epoch })
    }

    /// Prepares a request. What it gives up is given up now.
    fn ask(&mut self, now: Duration, random: &mut ChaCha8Rng) -> LeaseRequest {
        self.number += 1;
        if !self.is_live(now) {
            self.forget();
        }
        let mut request = LeaseRequest::new(mount_id(self.id), self.number, self.epoch);
        let some: Vec<u8> = (0..NAMES).filter(|_| random.random_ratio(1, 3)).collect();
        match random.random_range(0..6) {
            0 => request.all = true,
            1 | 2 => request.names = some.into_iter().map(key).collect(),
            3 if self.all || self.recalled => {
                let kept: Vec<u8> = some.into_iter().filter(|name| self.believes(now, *name)).collect();
                request.names = kept.into_iter().map(key).collect();
                (request.reserve, request.release_all) = (true, true);
                // Until the answer it is not known which of them are kept.
                (self.all, self.recalled) = (false, false);
                self.names.clear();
            }
            3 | 4 => {
                let given: Vec<u8> = some.into_iter().chain(self.wanted.iter().copied()).collect();
                self.names.retain(|name| !given.contains(name));
                request.release = given.into_iter().map(key).collect();
                self.wanted.clear();
            }
            _ => {}
        }
        self.asked = Some((request.clone(), self.clock(now)));
        request
    }

    fn hear(&mut self, now: Duration, number: u64, reply: Option<LeaseReply>) {
        if self.asked.as_ref().is_none_or(|(request, _)| request.number != number) {
            return; // somebody has given up on that one
        }
        let (request, asked) = self.asked.take().unwrap();
        let Some(reply) = reply else { return };
        if reply.epoch != self.epoch || !self.is_live(now) {
            self.forget();
        }
        self.epoch = reply.epoch;
        self.until = asked + reply.valid_for;
        self.all = reply.all || (self.all && reply.recalled);
        self.recalled = reply.recalled;
        self.wanted = reply.wanted.iter().map(number_of).collect();
        for (name, outcome) in request.names.iter().zip(&reply.names) {
            if *outcome == NameLease::Granted {
                self.names.insert(number_of(name));
            }
        }
    }

    fn forget(&mut self) {
        (self.epoch, self.all, self.recalled) = (None, false, false);
        self.names.clear();
        self.wanted.clear();
    }
}

struct World {
    now: Duration,
    random: ChaCha8Rng,
    leases: Leases,
    saved: Saved,
    mounts: Vec<Mount>,
    /// On their way to the keeper.
    messages: BTreeMap<(Duration, u64), Message>,
    /// On their way to a mount.
    replies: BTreeMap<(Duration, u64), (usize, u64, Option<LeaseReply>)>,
    sent: u64,
    /// When the keeper last carried out a request of each mount, and what it may hold by it.
    carried_out: BTreeMap<MountId, Duration>,
    fate: Fate,
    trace: bool,
}

#[derive(Default)]
struct Fate {
    granted: u64,
    all: u64,
    busy: u64,
    passed: u64,
    stale: u64,
    held: u64,
    restarts: u64,
    too_old: u64,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rate = |random: &mut ChaCha8Rng| random.random_range(1_000 - DRIFT..=1_000 + DRIFT);
        let mounts = (0..MOUNTS as u8).map(|id| Mount { id, rate: rate(&mut random), ..Mount::default() }).collect();
        Self {
            now: Duration::ZERO,
            random,
            leases: Leases::default(),
            saved: Saved::default(),
            mounts,
            messages: BTreeMap::new(),
            replies: BTreeMap::new(),
            sent: 0,
            carried_out: BTreeMap::new(),
            fate: Fate::default(),
            trace,
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:?}: {}", self.now, what());
        }
    }

    /// Mostly soon, sometimes much later.
    fn delay(&mut self) -> Duration {
        let most = [20, 20, 200, 5_000, 70_000][self.random.random_range(0..5)];
        Duration::from_millis(self.random.random_range(0..most))
    }

    fn send(&mut self, message: Message) {
        for _ in 0..[0, 1, 1, 1, 2, 3][self.random.random_range(0..6)] {
            let at = self.now + self.delay();
            self.sent += 1;
            self.messages.insert((at, self.sent), message.clone());
        }
    }

    fn step(&mut self) {
        let pause = [0, 0, 5, 300, 4_000, 15_000][self.random.random_range(0..6)];
        let until = self.now + Duration::from_millis(self.random.random_range(0..=pause));
        self.deliver(until);
        match self.random.random_range(0..40) {
            0 => self.restart_keeper(),
            1 => self.restart_mount(),
            2..12 => self.commit(),
            _ => {
                let mount = self.random.random_range(0..MOUNTS);
                self.ask(mount);
            }
        }
        self.check();
    }

    /// Delivers all that arrives until then, in order.
    fn deliver(&mut self, until: Duration) {
        loop {
            let (message, reply) = (self.messages.keys().next().copied(), self.replies.keys().next().copied());
            let next = message.into_iter().chain(reply).min().filter(|(at, _)| *at <= until);
            let Some(next) = next else { break };
            self.now = self.now.max(next.0);
            self.check();
            match self.messages.remove(&next) {
                Some(Message::Lease(request)) => self.keep(request),
                Some(Message::Commit { mount, lease, names }) => self.judge(mount, lease, &names),
                None => {
                    let (mount, number, reply) = self.replies.remove(&next).expect("one of the two");
                    self.say(|| format!("{mount} hears {reply:?}"));
                    self.mounts[mount].hear(next.0, number, reply);
                }
            }
            self.check();
        }
        self.now = self.now.max(until);
    }

    fn save(&mut self) {
        if let Some(change) = self.leases.unsaved() {
            self.saved = self.leases.saved();
            self.leases.note_saved(change);
        }
    }

    fn keep(&mut self, request: LeaseRequest) {
        let before = self.leases.saved();
        let outcome = self.leases.request(self.now, &request, 0);
        self.say(|| format!("{request:?}: {outcome:?}"));
        self.save();
        assert_eq!(self.leases.saved(), self.saved, "not saved: {before:?}");
        match &outcome {
            Ok(reply) => {
                self.carried_out.insert(request.mount, self.now);
                self.fate.all += u64::from(reply.all);
                let granted = reply.names.iter().filter(|name| **name == NameLease::Granted).count() as u64;
                self.fate.granted += granted;
                self.fate.busy += reply.names.len() as u64 - granted;
            }
            Err(Error::OutOfOrder(_)) => self.fate.too_old += 1,
            Err(error) => panic!("{error}"),
        }
        if self.random.random_ratio(4, 5) {
            let at = self.now + self.delay();
            self.sent += 1;
            let mount = usize::from(request.mount.as_bytes()[0]);
            self.replies.insert((at, self.sent), (mount, request.number, outcome.ok()));
        }
    }

    fn judge(&mut self, mount: usize, lease: Option<HeldLease>, names: &[u8]) {
        let judged = self.judged(mount as u8, lease, names);
        self.say(|| format!("{mount} commits {names:?} under {lease:?}: {judged:?}"));
        self.save();
        match judged {
            Ok(()) => {
                self.fate.passed += 1;
                if let Some(lease) = lease {
                    let last = self.carried_out[&lease.mount];
                    assert!(self.now < last + LEASE, "{mount} commits under a lease that is over");
                    let newest = self.saved.holders.iter().find(|holder| holder.mount == lease.mount);
                    assert_eq!(
                        newest.map(|holder| holder.epoch),
                        Some(lease.epoch),
                        "{mount} commits under an old lease"
                    );
                }
                for (other, name) in (0..MOUNTS).flat_map(|other| names.iter().map(move |name| (other, *name))) {
                    let held = other != mount && self.mounts[other].believes(self.now, name);
                    assert!(!held, "{mount} commits {name}, which {other} holds");
                }
            }
            Err(Lapse::Stale) => self.fate.stale += 1,
            Err(Lapse::Held { .. }) => self.fate.held += 1,
        }
    }

    fn judged(&mut self, mount: u8, lease: Option<HeldLease>, names: &[u8]) -> Result<(), Lapse> {
        let epoch = lease.map(|lease| lease.epoch);
        self.leases.check_commit(self.now, mount_id(mount), epoch, &batch(mount, names))
    }

    fn ask(&mut self, mount: usize) {
        let now = self.now;
        let again = self.mounts[mount].asked.clone();
        let message = match again {
            // It waits; now and then it asks once more, or gives up.
            Some((request, _)) if self.random.random_ratio(3, 4) => request,
            _ => self.mounts[mount].ask(now, &mut self.random),
        };
        self.say(|| format!("{mount} sends {message:?}"));
        self.send(Message::Lease(message));
    }

    fn commit(&mut self) {
        let mount = self.random.random_range(0..MOUNTS);
        let names: Vec<u8> = (0..NAMES).filter(|_| self.random.random_ratio(1, 4)).collect();
        let lease = self.mounts[mount].lease(self.now).filter(|_| self.random.random_ratio(3, 4));
        self.send(Message::Commit { mount, lease, names });
    }

    fn restart_mount(&mut self) {
        let mount = self.random.random_range(0..MOUNTS);
        self.say(|| format!("{mount} restarts"));
        let mount = &mut self.mounts[mount];
        mount.forget();
        mount.asked = None;
        mount.number += 1_000;
    }

    fn restart_keeper(&mut self) {
        self.say(|| "the keeper restarts".into());
        self.fate.restarts += 1;
        // Connections break, and so does what was on its way.
        self.messages.clear();
        let down = self.delay();
        self.deliver(self.now + down);
        self.messages.clear();
        self.leases = Leases::restore(self.now, self.saved.clone());
        // What was renewed before counts from now.
        self.carried_out.values_mut().for_each(|at| *at = self.now);
    }

    fn check(&self) {
        for name in 0..NAMES {
            let holders: Vec<&Mount> = self.mounts.iter().filter(|mount| mount.believes(self.now, name)).collect();
            assert!(holders.len() <= 1, "{:?}: {name} is held by {holders:#?}", self.now);
        }
    }

    /// Everybody but one falls silent: how long does that one wait?
    fn end(&mut self) {
        self.messages.clear();
        self.replies.clear();
        let begun = self.now;
        let mount = &mut self.mounts[0];
        mount.forget();
        mount.number += 1_000;
        loop {
            let (id, number) = (mount_id(0), self.mounts[0].number);
            let wanted = LeaseRequest { names: (0..NAMES).map(key).collect(), ..LeaseRequest::new(id, number, None) };
            let reply = self.leases.request(self.now, &wanted, 0).unwrap();
            if reply.names.iter().all(|name| *name == NameLease::Granted) {
                return;
            }
            assert!(self.now < begun + LEASE, "{reply:?}");
            self.now += Duration::from_secs(1);
        }
    }
}

fn mount_id(number: u8) -> MountId {
    MountId::from_bytes([number; 16])
}

fn key(number: u8) -> NameKey {
    (InodeId::from_bytes([1; 16]), EncryptedName::try_from(vec![number; EncryptedName::MIN]).unwrap())
}

fn number_of(name: &NameKey) -> u8 {
    name.1.as_bytes()[0]
}

fn batch(mount: u8, names: &[u8]) -> Commit {
    let target = || {
        let key = Sealed { generation: 0, bytes: vec![0; Sealed::KEY_LEN].into() };
        Target { child: InodeId::from_bytes([9; 16]), kind: Kind::File, key }
    };
    let add = |name: &u8| {
        let (parent, name) = key(*name);
        let time = Timestamp::default();
        Operation::SetEntry(SetEntry { parent, name, expected: None, target: Some(target()), time })
    };
    let operations = names.iter().map(add).collect();
    Commit { id: CommitId::from_bytes([0; 16]), mount: mount_id(mount), number: 1, operations, runs: Vec::new() }
}

/// Names the seed if its history fails.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history that failed: STREWN_SIM_SEED={}", self.0);
        }
    }
}

fn live(seed: u64, trace: bool, all: &mut Fate) {
    let _seed = OnPanic(seed);
    let mut world = World::new(seed, trace);
    for _ in 0..EVENTS {
        world.step();
    }
    world.end();
    let fate = world.fate;
    let sums = [
        (&mut all.granted, fate.granted),
        (&mut all.all, fate.all),
        (&mut all.busy, fate.busy),
        (&mut all.passed, fate.passed),
        (&mut all.stale, fate.stale),
        (&mut all.held, fate.held),
        (&mut all.restarts, fate.restarts),
        (&mut all.too_old, fate.too_old),
    ];
    sums.into_iter().for_each(|(sum, more)| *sum += more);
}

#[test]
fn no_name_is_held_twice() {
    let mut fate = Fate::default();
    if let Some(seed) = std::env::var("STREWN_SIM_SEED").ok().map(|seed| seed.parse().expect("a number")) {
        return live(seed, true, &mut fate);
    }
    (0..HISTORIES).for_each(|seed| live(seed, false, &mut fate));
    // Histories in which nothing happens prove nothing.
    let Fate { granted, all, busy, passed, stale, held, restarts, too_old } = fate;
    for (what, count) in [
        ("names granted", granted),
        ("all granted", all),
        ("busy", busy),
        ("passed", passed),
        ("stale", stale),
        ("held", held),
        ("restarts", restarts),
        ("too old", too_old),
    ] {
        assert!(count > HISTORIES, "{what}: only {count}");
    }
}
