//! A network made from a seed: what is stored, how, and the nature of every node.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use strewn_engine::redundancy::Redundancy;
use strewn_engine::segment::Geometry;
use strewn_engine::transfer::{download, upload};

/// How a node takes a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnPut {
    /// Honest; takes up to this long per window.
    Good(Duration),
    /// Honest, but pauses now and then, shorter than a stall.
    Late,
    /// Refuses at once: dead or full.
    Refuses,
    /// Takes nothing from this window on (or gives no receipt), and never says why.
    HangsAt(u32),
    /// Breaks off at this window, or instead of the receipt.
    FailsAt(u32),
    /// Says it stored something else.
    WrongRoot,
    /// Takes a byte now and then, for ever.
    Drips,
}

/// How a node gives a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnGet {
    /// Honest; takes up to this long per share.
    Good(Duration),
    /// Honest, but pauses now and then, shorter than the patience of the reader.
    Late,
    /// Cannot be reached.
    Dead,
    /// Says it has no such piece.
    Absent,
    /// Never answers.
    Hangs,
    /// Does not answer the first request, but the others.
    HangsOnce,
    /// Breaks off the first request.
    BreaksOnce,
    /// Breaks off every request after so many shares.
    BreaksAfter(u32),
    /// Says it is done after so many shares.
    EndsAfter(u32),
    /// Sends wrong bytes.
    Lies,
    /// Sends wrong bytes of some shares.
    LiesSometimes,
    /// Sends right bytes with the proof of nothing.
    WrongProof,
    /// Answers with shares that were not asked for, as if they were.
    WrongNumber,
}

impl OnPut {
    pub(crate) fn is_honest(self) -> bool {
        matches!(self, Self::Good(_) | Self::Late)
    }
}

impl OnGet {
    /// Delivers every share within the reader's patience, if need be at the second attempt.
    pub(crate) fn is_honest(self) -> bool {
        matches!(self, Self::Good(_) | Self::Late | Self::HangsOnce | Self::BreaksOnce)
    }

    /// May deliver some shares.
    pub(crate) fn is_mixed(self) -> bool {
        matches!(self, Self::BreaksAfter(_) | Self::EndsAfter(_) | Self::LiesSometimes)
    }

    /// Sends shares that do not prove.
    pub(crate) fn is_liar(self) -> bool {
        matches!(self, Self::Lies | Self::LiesSometimes | Self::WrongProof | Self::WrongNumber)
    }
}

pub(crate) struct Node {
    pub(crate) on_put: OnPut,
    pub(crate) on_get: OnGet,
    /// Pieces it holds durably: bytes by number.
    pub(crate) pieces: BTreeMap<u16, Vec<u8>>,
}

pub(crate) struct Network {
    pub(crate) rng: ChaCha8Rng,
    pub(crate) redundancy: Redundancy,
    pub(crate) geometry: Geometry,
    pub(crate) segment: Vec<u8>,
    /// The first `total` get a piece each, the others are replacements.
    pub(crate) nodes: Vec<Node>,
    /// False if the satellite does not answer when asked for replacements.
    pub(crate) replaces: bool,
    pub(crate) upload: upload::Settings,
    pub(crate) download: download::Settings,
}

const SHARE: u32 = 1024;

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Segments of several windows need wide stripes or many; most networks do with less.
        let is_long = rng.random_bool(0.06);
        let redundancy = if is_long { some_wide_redundancy(&mut rng) } else { some_redundancy(&mut rng) };
        let stripes = if is_long { rng.random_range(3..=12) } else { rng.random_range(1..=3) };
        let most = u64::from(redundancy.required) * u64::from(SHARE) * stripes;
        let length = if rng.random_bool(0.2) { most } else { rng.random_range(1..=most) };
        let geometry = Geometry::with_share(redundancy, length, SHARE).expect("within bounds");
        let badness = some_badness(&mut rng);
        let slowness = [0.0, 0.1, 0.4][rng.random_range(0..3)];
        let spare = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..=10) };
        let nodes = (0..redundancy.total + spare)
            .map(|_| Node {
                on_put: some_on_put(&mut rng, badness, slowness, geometry.windows()),
                on_get: OnGet::Late,
                pieces: BTreeMap::new(),
            })
            .collect();
        let millis = Duration::from_millis;
        let upload = upload::Settings {
            deadline: millis(60_000),
            stall: millis(1_000),
            patience: millis(300),
            slow: millis(3_000),
            rounds: if rng.random_bool(0.3) { rng.random_range(0..5) } else { 50 },
            held_windows: rng.random_range(1..=3),
            tail: Duration::from_millis(rng.random_range(0..3) * 100),
        };
        let download = download::Settings {
            window: rng.random_range(1..=most * 2),
            hedge: (millis(5), millis(100)),
            patience: millis(1_000),
            attempts: 2,
            pause: millis(50),
        };
        let segment = some_bytes(&mut rng, length as usize);
        let replaces = rng.random_bool(0.95);
        Self { rng, redundancy, geometry, segment, nodes, replaces, upload, download }
    }

    /// Between upload and download nodes become what they are as readers know them.
    pub(crate) fn turn_bad(&mut self) {
        let badness = some_badness(&mut self.rng);
        for node in &mut self.nodes {
            node.on_get = some_on_get(&mut self.rng, badness);
        }
    }

    pub(crate) fn some_range(&mut self) -> Range<u64> {
        let length = self.geometry.length();
        let start = self.rng.random_range(0..=length);
        let most = if self.rng.random_bool(0.5) { 200 } else { length };
        start..start + self.rng.random_range(0..=most)
    }

    pub(crate) fn delay(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.rng.random_range(0..=most.as_micros() as u64))
    }

    /// A pause of an honest node: mostly short, sometimes nearly as long as a stall.
    pub(crate) fn late(&mut self) -> Duration {
        let most = if self.rng.random_bool(0.1) { 900 } else { 5 };
        self.delay(Duration::from_millis(most))
    }
}

fn some_wide_redundancy(rng: &mut ChaCha8Rng) -> Redundancy {
    let required = rng.random_range(20..=40);
    let total = required + rng.random_range(0..=24);
    with_thresholds(rng, required, total)
}

fn some_redundancy(rng: &mut ChaCha8Rng) -> Redundancy {
    let required = match rng.random_range(0..10) {
        0..7 => rng.random_range(1..=6),
        _ => rng.random_range(7..=16),
    };
    let total = required + rng.random_range(0..=required + 6);
    with_thresholds(rng, required, total)
}

fn with_thresholds(rng: &mut ChaCha8Rng, required: u16, total: u16) -> Redundancy {
    let repair = rng.random_range(required..=total);
    let success = rng.random_range(repair..=total);
    Redundancy::new(required, repair, success, total).expect("in order")
}

fn some_badness(rng: &mut ChaCha8Rng) -> f64 {
    [0.0, 0.1, 0.3, 0.5, 0.8][rng.random_range(0..5)]
}

fn some_speed(rng: &mut ChaCha8Rng, slowness: f64) -> Duration {
    let most = if rng.random_bool(slowness) { 400_000 } else { 5_000 };
    Duration::from_micros(rng.random_range(100..=most))
}

fn some_on_put(rng: &mut ChaCha8Rng, badness: f64, slowness: f64, windows: u32) -> OnPut {
    if !rng.random_bool(badness) {
        let is_late = rng.random_bool(slowness / 2.0);
        return if is_late { OnPut::Late } else { OnPut::Good(some_speed(rng, slowness)) };
    }
    match rng.random_range(0..12) {
        0..3 => OnPut::Refuses,
        3..6 => OnPut::HangsAt(rng.random_range(0..=windows)),
        6..9 => OnPut::FailsAt(rng.random_range(0..=windows)),
        9..11 => OnPut::WrongRoot,
        _ => OnPut::Drips,
    }
}

fn some_on_get(rng: &mut ChaCha8Rng, badness: f64) -> OnGet {
    if !rng.random_bool(badness) {
        return match rng.random_range(0..10) {
            0 => OnGet::HangsOnce,
            1 => OnGet::BreaksOnce,
            2 => OnGet::Late,
            _ => OnGet::Good(some_speed(rng, 0.3)),
        };
    }
    match rng.random_range(0..9) {
        0 => OnGet::Dead,
        1 => OnGet::Absent,
        2 => OnGet::Hangs,
        3 => OnGet::BreaksAfter(rng.random_range(0..3)),
        4 => OnGet::EndsAfter(rng.random_range(0..3)),
        5 => OnGet::Lies,
        6 => OnGet::LiesSometimes,
        7 => OnGet::WrongProof,
        _ => OnGet::WrongNumber,
    }
}

fn some_bytes(rng: &mut ChaCha8Rng, length: usize) -> Vec<u8> {
    let mut state: u64 = rng.random();
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
