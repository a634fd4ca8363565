//! What a round of housekeeping costs with so many known inodes: it must not depend on their number.
//!
//! ```text
//! cargo run --release -p strewn-cache --example rounds -- 1000 1000000
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use common::{attributes, bucket, drain, name, open_on, options};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use strewn_cache::disk::MemoryDisk;
use strewn_cache::{Cache, Options};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// Files of a directory.
const DIRECTORY: u64 = 10_000;
/// Files made in one transaction.
const STEP: u64 = 500;
/// Rounds looked at; housekeeping runs two in a second.
const ROUNDS: u32 = 20;
const ROUND: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for count in std::env::args().skip(1) {
        let count: u64 = count.parse()?;
        let (bucket, root) = bucket(64 << 20);
        let options = Options { memory: 64 << 30, cut_idle: Duration::from_secs(1), ..options() };
        let cache = open_on(&MemoryDisk::new(), &bucket, &root, options).await;
        for first in (0..count).step_by(DIRECTORY as usize) {
            make(&cache, root.inode, first, (count - first).min(DIRECTORY)).await?;
        }
        drain(&cache).await;
        let before = cpu();
        tokio::time::sleep(ROUND * ROUNDS).await;
        let spent = (cpu() - before) / ROUNDS;
        println!("{} inodes: {spent:?} of processor time a round", cache.status().known_inodes);
        cache.close().await?;
    }
    Ok(())
}

async fn make(cache: &Cache, root: InodeId, first: u64, count: u64) -> Result<(), strewn_cache::Error> {
    let directory = common::create(cache, root, &format!("d{first}"), Kind::Directory).await;
    for start in (0..count).step_by(STEP as usize) {
        let make = |tx: &mut strewn_cache::Transaction<'_>| {
            for number in start..count.min(start + STEP) {
                let file = tx.create(attributes(Kind::File))?;
                tx.set_entry(directory, &name(&format!("f{number}")), Some(file))?;
            }
            Ok(())
        };
        cache.transact(make).await?;
    }
    Ok(())
}

/// Processor time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
