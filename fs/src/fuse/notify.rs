//! Telling the kernel what other mounts changed.
//!
//! A notification waits for requests under way on the same inode, so it must come from a thread that no request waits for and
//! that holds no lock: this one. The cache publishes the new state before it tells.

use crate::Volume;
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::Weak;
use std::thread::Builder;
use strewn_cache::{Invalidation, Name};
use strewn_engine::ids::InodeId;
use tokio::sync::mpsc::Receiver;

/// "To the end" in an invalidation of content.
const WHOLE: i64 = 0;

/// Starts the thread. It ends when the volume is gone, or the cache closes the channel.
pub(super) fn start(volume: Arc<Volume>, changes: Receiver<Invalidation>, kernel: Notifier) -> io::Result<()> {
    let teller = Teller { volume: Arc::downgrade(&volume), kernel };
    Builder::new().name("strewn-notify".into()).spawn(move || teller.run(changes))?;
    Ok(())
}

struct Teller {
    volume: Weak<Volume>,
    kernel: Notifier,
}

impl Teller {
    fn run(&self, mut changes: Receiver<Invalidation>) {
        while let Some(change) = changes.blocking_recv() {
            let Some(volume) = self.volume.upgrade() else { return };
            match change {
                Invalidation::Inode(inode) => self.inode_changed(volume.changed_elsewhere(inode)),
                Invalidation::Entry(directory, name) => self.entry_changed(&volume, directory, &name),
                Invalidation::All => {
                    volume.all_changed_elsewhere().into_iter().for_each(|n| self.inode_changed(Some(n)))
                }
            }
        }
    }

    fn inode_changed(&self, number: Option<u64>) {
        if let Some(number) = number {
            log(self.kernel.inval_inode(INodeNo(number), 0, WHOLE));
        }
    }

    fn entry_changed(&self, volume: &Volume, directory: InodeId, name: &Name) {
        let number = volume.number(directory);
        log(self.kernel.inval_entry(INodeNo(number), OsStr::from_bytes(name.as_bytes())));
        self.inode_changed(volume.changed_elsewhere(directory));
    }
}

/// After an unmount there is no kernel to tell; that is not worth more than a line for developers.
fn log(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::debug!(%error, "could not tell the kernel of a change");
    }
}
