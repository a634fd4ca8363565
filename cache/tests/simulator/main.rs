//! The crash simulator: random histories over a real cache on a disk in memory, and a crash at every sync of the disk.
//!
//! A history is drawn from a seed: operations of all kinds, syncs, cuts on their way to the network, the network going away,
//! lost replies, snapshots of the journal, eviction; in between the process is killed or the power fails, and the history
//! goes on with what is left. At every sync of the disk (and some moments between, and every commit of the network before
//! its reply) an image of disk and network is taken. From each image a cache is opened as after a power cut, in which every
//! change that was not synced survived, was lost, or was torn, and from some also as after the death of the process; what it
//! shows must be a state that the contract allows:
//! - after the death of the process, that of the acknowledged operations, the one under way done or not;
//! - after a power cut, names, links, owners, modes, extended attributes and symlinks of one moment that is no older than
//!   the last acknowledged sync; every byte of a file that was synced, or a newer one, and never one that was not in its
//!   place between then and the crash; above all no zeros.
//!
//! Syncs of a recovery are moments like others. Everything that is ever committed must be the state of one moment (I2).
//!
//! Every fifth cache is an encrypted one.
//!
//! `STREWN_CRASH_SEED` runs one seed, `STREWN_CRASH_HISTORIES` so many from the first. The same seed gives the same
//! operations and crashes, but the cache's threads are real ones: a failure that depends on how they interleave may need
//! several runs. `STREWN_CRASH_STUMBLING` makes such failures likelier: the disk takes its time now and then in all
//! histories, not only in every eighth.

#![allow(unreachable_pub)] // a test binary of several modules

#[path = "../common/mod.rs"]
mod common;

mod check;
mod history;
mod life;
mod machine;
mod model;
mod network;

use history::History;

/// Histories of a normal run.
const HISTORIES: u64 = 200;

/// Seeds that once failed. What they found has tests of its own in `crash.rs` as well, since a change of the simulator makes
/// other histories of them.
const FAILED: [u64; 14] = [23, 24, 80, 92, 146, 172, 237, 240, 294, 334, 395, 609, 634, 827];

#[test]
fn every_sync_point_of_random_histories() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("STREWN_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STREWN_CRASH_HISTORIES").unwrap_or(HISTORIES),
    };
    let (mut images, mut clones) = (0, 0);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let counted = History::new(seed).run();
        (images, clones) = (images + counted.crashes, clones + counted.clones);
    }
    println!("{count} histories, {images} crashes, {clones} clones");
    // A few may be short, and without clones.
    assert!(count == 1 || images > count * 20, "only {images} crashes");
    assert!(count < HISTORIES || clones > 0, "no clones");
}

#[test]
fn seeds_that_failed() {
    for seed in FAILED {
        History::new(seed).run();
    }
}
