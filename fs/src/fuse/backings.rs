//! How an open file is told to the kernel, and the files that it reads by itself (passthrough): registered with it once for
//! all handles of an inode.
//!
//! The kernel compares what a handle is opened with to what others of the inode have, so they share one registration, which
//! goes with the last of them.

use crate::Volume;
use crate::volume::{Open, Opened};
use fuser::{BackingId, FileHandle, FopenFlags};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Registered files, by the number of their inode, with how many handles they have.
#[derive(Default)]
pub(super) struct Backings(Mutex<HashMap<u64, (Arc<BackingId>, usize)>>);

impl Backings {
    /// What to answer to who opened a file. Where the kernel does not take a file that is lent, since it lacks the privilege or
    /// the file system is stacked itself, the file is opened without, and none is lent from then on; `None` if that fails
    /// because others have it already.
    pub(super) fn admit(
        &self,
        volume: &Volume,
        number: u64,
        open: Open,
        opened: Opened,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Option<(FileHandle, FopenFlags, Option<Arc<BackingId>>)> {
        let told = |opened: &Opened| (FileHandle(opened.handle), fopen(open, opened));
        let Some(lent) = &opened.lent else {
            let (handle, flags) = told(&opened);
            return Some((handle, flags, None));
        };
        match self.open(number, &lent.file, register) {
            Ok(backing) => {
                let (handle, flags) = told(&opened);
                Some((handle, flags, Some(backing)))
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel does not read files by itself");
                volume.allow_lending(false);
                let inode = volume.inode(number).ok()?;
                volume.release(inode, opened.handle);
                let (handle, flags) = told(&volume.open_without_lending(inode)?);
                Some((handle, flags, None))
            }
        }
    }

    fn open(
        &self,
        number: u64,
        file: &File,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> io::Result<Arc<BackingId>> {
        let mut backings = self.0.lock();
        if let Some((backing, handles)) = backings.get_mut(&number) {
            *handles += 1;
            return Ok(backing.clone());
        }
        let backing = Arc::new(register(file)?);
        backings.insert(number, (backing.clone(), 1));
        Ok(backing)
    }

    /// A handle of an inode is closed.
    pub(super) fn close(&self, number: u64) {
        let mut backings = self.0.lock();
        let Some((_, handles)) = backings.get_mut(&number) else { return };
        *handles -= 1;
        if *handles == 0 {
            backings.remove(&number);
        }
    }
}

fn fopen(open: Open, opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_copies);
    // nothing to report at close where nothing can be written
    flags.set(FopenFlags::FOPEN_NOFLUSH, !open.write);
    // The kernel's copy would only cost: nothing is read, or mapped, by way of this handle.
    let direct = opened.lent.as_ref().map_or(open.write && !open.read, |lent| lent.direct);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, direct);
    flags
}
