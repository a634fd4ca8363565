//! A drive over a bucket in memory, really mounted: for trying the drive, and conformance suites on it, without a
//! network. Everything is gone when it ends.
//!
//! ```text
//! cargo run -p strewn-fs --example memory -- MOUNTPOINT CACHE_DIRECTORY
//! umount MOUNTPOINT
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use strewn_cache::{Cache, Options, Root};
use strewn_fs::mount::{self, MountOptions};
use strewn_fs::{Drive, Volume, fuse};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(mountpoint), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: memory MOUNTPOINT CACHE_DIRECTORY".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let root = Root { inode: support::ROOT_INODE, key: support::root_key() };
        let bucket = Arc::new(support::bucket());
        let cache = Cache::open(Path::new(&directory), bucket, root, Options::default()).await?;
        let mounted = mount::mount(Path::new(&mountpoint), &MountOptions::default())?;
        let volume = Arc::new(Volume::new(cache.clone()));
        let drive = Drive::start(volume, mounted.fd, tokio::runtime::Handle::current(), fuse::Options::default())?;
        println!("ready {}", Path::new(&mountpoint).display());
        drive.wait().await?;
        cache.drain(|_| {}).await?;
        cache.close().await?;
        Ok(())
    })
}
