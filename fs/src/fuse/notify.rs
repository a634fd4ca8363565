//! Telling the kernel what other mounts changed, and which names to let go of when memory is short.
//!
//! A notification waits for requests under way on the same inode or directory, so it must come from a thread that no request
//! waits for and that holds no lock: these two. The cache publishes the new state before it tells, and never waits for
//! either. One of attributes alone waits for nothing, so that it may come before the answer of a request.
//!
//! The kernel keeps what it looked up, and refers to it, until its own memory is short, which may be never. A name that it
//! lets go of costs it one lookup when it is used again. Not so where that would be seen: an open file would look in
//! `/proc` as if it had been removed, and what is mounted on a file would be unmounted. Their names stay. What the mount does
//! not hear of has no such protection: `O_PATH`, mounts in other namespaces, and what begins at that very moment.

use crate::{Volume, mount};
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Builder;
use strewn_cache::{Invalidation, Name, Unused};
use strewn_engine::ids::InodeId;
use tokio::sync::mpsc::Receiver;

/// "To the end" in an invalidation of content.
const WHOLE: i64 = 0;

/// Length of `struct fuse_out_header` in bytes (`linux/fuse.h`).
const HEADER: usize = 16;
/// `FUSE_NOTIFY_INC_EPOCH` of the same, since Linux 6.16: no name is believed any more. The library does not know it.
const NOTIFY_INC_EPOCH: i32 = 8;

/// "Attributes alone" in an invalidation.
const NO_CONTENT: i64 = -1;

/// Attributes that the kernel would go on believing.
#[derive(Debug, Default)]
pub(super) struct StaleAttributes(OnceLock<Notifier>);

impl StaleAttributes {
    /// Who is told of them.
    pub(super) fn tell_to(&self, kernel: Notifier) {
        self.0.get_or_init(|| kernel);
    }

    /// Those of an inode changed by a request of which the kernel does not expect it. To be noted before that is answered.
    pub(super) fn noted(&self, number: INodeNo) {
        if let Some(kernel) = self.0.get() {
            log(kernel.inval_inode(number, NO_CONTENT, WHOLE));
        }
    }
}

/// Starts the thread that tells changes. It ends when the volume is gone, or the cache closes the channel.
pub(super) fn tell_changes(
    volume: &Arc<Volume>,
    mut changes: Receiver<Invalidation>,
    kernel: Notifier,
    device: OwnedFd,
) -> io::Result<()> {
    let teller = Teller { volume: Arc::downgrade(volume), kernel };
    let run = move || while changes.blocking_recv().is_some_and(|change| teller.tell(change, &device)) {};
    Builder::new().name("strewn-notify".into()).spawn(run).map(drop)
}

/// Starts the thread that tells of unused names. It ends in the same way.
pub(super) fn tell_unused(volume: &Arc<Volume>, mut unused: Receiver<Vec<Unused>>, kernel: Notifier) -> io::Result<()> {
    let teller = Teller { volume: Arc::downgrade(volume), kernel };
    let run = move || while unused.blocking_recv().is_some_and(|unused| teller.let_go(&unused)) {};
    Builder::new().name("strewn-let-go".into()).spawn(run).map(drop)
}

struct Teller {
    volume: Weak<Volume>,
    kernel: Notifier,
}

impl Teller {
    /// False if nobody is there to be told.
    fn tell(&self, change: Invalidation, device: &OwnedFd) -> bool {
        let Some(volume) = self.volume.upgrade() else { return false };
        match change {
            Invalidation::Inode(inode) => self.inode_changed(volume.changed_elsewhere(inode)),
            Invalidation::Entry(directory, name) => self.entry_changed(&volume, directory, &name),
            Invalidation::All => {
                volume.all_changed_elsewhere().into_iter().for_each(|number| self.inode_changed(Some(number)));
                log(doubt_names(device));
            }
        }
        true
    }

    /// The same.
    fn let_go(&self, unused: &[Unused]) -> bool {
        let Some(volume) = self.volume.upgrade() else { return false };
        let mounted_on = match mount::names_mounted_on() {
            Ok(names) => names,
            Err(error) => {
                tracing::debug!(%error, "the kernel is not asked to let go of names");
                return true;
            }
        };
        for Unused { inode, directory, name } in unused {
            if !volume.is_open(*inode) && !mounted_on.contains(OsStr::from_bytes(name.as_bytes())) {
                self.forget_name(&volume, *directory, name);
            }
        }
        true
    }

    /// The kernel gives its reference back unless somebody uses the name.
    fn forget_name(&self, volume: &Volume, directory: InodeId, name: &Name) {
        let number = volume.number(directory);
        log(self.kernel.inval_entry(INodeNo(number), OsStr::from_bytes(name.as_bytes())));
    }

    fn inode_changed(&self, number: Option<u64>) {
        if let Some(number) = number {
            log(self.kernel.inval_inode(INodeNo(number), 0, WHOLE));
        }
    }

    fn entry_changed(&self, volume: &Volume, directory: InodeId, name: &Name) {
        self.forget_name(volume, directory, name);
        self.inode_changed(volume.changed_elsewhere(directory));
    }
}

/// Every name is to be asked for again when it is used next: which ones are gone nobody knows. Kernels before 6.16 cannot be
/// told, and believe names for as long as they were told to at first. What is mounted on a name would go with it, so that where
/// something is mounted names are believed as well.
fn doubt_names(device: &OwnedFd) -> io::Result<()> {
    if mount::is_mounted_on_a_drive()? {
        return Ok(());
    }
    // `struct fuse_out_header`: length, code of the notification, and no request that it answers.
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
    Ok(rustix::io::write(device, &header).map(drop)?)
}

/// After an unmount there is no kernel to tell; that is not worth more than a line for developers.
fn log(told: io::Result<()>) {
    if let Err(error) = told {
        tracing::debug!(%error, "could not tell the kernel of a change");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Drive;
    use crate::fuse::Options;
    use crate::mount::MountOptions;
    use crate::support::{Fixture, ROOT, ROOT_INODE};
    use std::fs;
    use tokio::runtime::Handle;

    /// Linux that can be told to doubt names.
    const SINCE: (u32, u32) = (6, 16);

    fn linux() -> (u32, u32) {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_kernel_doubts_names_when_it_is_told_to() {
        let fixture = Fixture::new().await;
        let directory = tempfile::tempdir().unwrap();
        let mounted = mount::mount(directory.path(), &MountOptions::default()).unwrap();
        let device = mounted.fd.try_clone().unwrap();
        let volume = fixture.volume.clone();
        let drive = Drive::start(volume.clone(), mounted.fd, Handle::current(), Options::default()).unwrap();
        let name = directory.path().join("name");
        assert!(!fs::exists(&name).unwrap());
        let _ = volume.mkdir(ROOT, ROOT_INODE, b"name", 0o755).await.unwrap();
        assert!(!fs::exists(&name).unwrap(), "nobody told it");
        let told = doubt_names(&device);
        assert_eq!((told.is_ok(), fs::exists(&name).unwrap()), (linux() >= SINCE, linux() >= SINCE), "{told:?}");
        mounted.point.unmount().unwrap();
        drive.wait().await.unwrap();
    }
}
