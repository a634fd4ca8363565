//! `strewn umount`.

use crate::control::{self, Request};
use crate::error::{Failure, Outcome};
use crate::output::UploadProgress;
use crate::register;
use std::path::PathBuf;

/// Unmount a drive, waiting until the network has everything
///
/// Shows what is still pending. Interrupting it loses nothing: the drive stays mounted and goes on uploading.
#[derive(Debug, clap::Args)]
pub(crate) struct Umount {
    /// Where the drive is mounted
    mountpoint: PathBuf,
    /// Do not wait for the network: what is pending stays in the cache and goes up at the next mount
    #[arg(long)]
    no_wait: bool,
    /// Although it is in use: it disappears from its directory at once, and ends when nothing on it is open any more
    #[arg(long, short)]
    lazy: bool,
}

impl Umount {
    pub(crate) fn run(self) -> Outcome {
        let mount = match register::serving(&self.mountpoint) {
            Ok(mount) => mount,
            Err(failure) => return clean_stale(&self.mountpoint, failure),
        };
        let mut progress = UploadProgress::new();
        let reply =
            control::ask(&mount.socket, &Request::Unmount { wait: !self.no_wait, lazy: self.lazy }, |pending| {
                progress.show(pending)
            });
        progress.finish();
        reply?.done()
    }
}

/// A mount whose process is gone has nothing to drain here: it is taken away, and its cache keeps what was pending.
fn clean_stale(mountpoint: &std::path::Path, failure: Failure) -> Outcome {
    match strewn_fs::mount::clean_stale(mountpoint) {
        Ok(true) => {
            eprintln!(
                "removed the stale mount at {}; what was pending goes up at the next mount",
                mountpoint.display()
            );
            Ok(())
        }
        Ok(false) => Err(failure),
        Err(_) => Err(failure),
    }
}
