//! Tens of thousands of bad networks in virtual time: the transfer machines against an oracle.
//!
//! A seed makes a network: a redundancy, a segment, and nodes that are fast, slow, late, dead, full, hanging, lying or
//! failing midway. The segment is uploaded by the upload machine through real erasure coding and hashing, then read
//! back, whole and in part, by the download machine. The oracle knows every node's nature and asserts: success if and
//! only if enough honest pieces can be reached in time, no wrong byte, liars blamed and nobody else, bounded memory, and
//! nothing left running.
//!
//! `STREWN_SIM_NETWORKS=1000000` runs more of them, `STREWN_SIM_SEED=7` runs one and prints its trace.

mod clock;
mod download;
mod network;
mod upload;

use network::Network;

/// Networks of a normal run.
const NETWORKS: u64 = 20_000;

/// Names the seed if the network's test panics.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the network that failed: STREWN_SIM_SEED={}", self.0);
        }
    }
}

/// What became of a network.
#[derive(Default)]
struct Fate {
    uploaded: bool,
    downloads: u32,
    downloaded: u32,
    blamed: u32,
    rebuilt: u32,
    reencoded: u32,
}

fn live(seed: u64, trace: &mut Option<Vec<String>>) -> Fate {
    let _seed = OnPanic(seed);
    let mut network = Network::new(seed);
    let mut fate = Fate::default();
    let Some(stored) = upload::run(&mut network, &mut fate, trace) else { return fate };
    fate.uploaded = true;
    let mut latencies = strewn_engine::transfer::download::Latencies::default();
    network.turn_bad();
    for range in [0..u64::MAX, network.some_range()] {
        download::run(&mut network, &stored, range, &mut latencies, &mut fate, trace);
    }
    fate
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn the_oracle_is_never_wrong() {
    if let Some(seed) = number("STREWN_SIM_SEED") {
        let mut trace = Some(Vec::new());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(seed, &mut trace)));
        trace.iter().flatten().for_each(|line| println!("{line}"));
        result.map(|_| ()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        return;
    }
    let networks = number("STREWN_SIM_NETWORKS").unwrap_or(NETWORKS);
    let mut all = Fate::default();
    let mut uploads = 0;
    for seed in 0..networks {
        let fate = live(seed, &mut None);
        uploads += u64::from(fate.uploaded);
        all.downloads += fate.downloads;
        all.downloaded += fate.downloaded;
        all.blamed += fate.blamed;
        all.rebuilt += fate.rebuilt;
        all.reencoded += fate.reencoded;
    }
    let Fate { downloads, downloaded, blamed, rebuilt, reencoded, .. } = all;
    println!("{networks} networks: {uploads} uploaded, {downloaded} of {downloads} read, {blamed} liars blamed");
    println!("{rebuilt} reads rebuilt something, {reencoded} windows encoded again");
    // A simulator in which everything succeeds, or nothing does, shows nothing.
    assert!(networks < 1_000 || (networks / 4..networks * 19 / 20).contains(&uploads));
    assert!(networks < 1_000 || (downloads / 4..downloads * 19 / 20).contains(&downloaded));
    assert!(networks < 1_000 || [blamed, rebuilt, reencoded].iter().all(|count| *count > 100));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut trace = Some(Vec::new());
        live(seed, &mut trace);
        trace.unwrap()
    };
    for seed in 0..200 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
    assert_ne!(trace(1), trace(2));
}
