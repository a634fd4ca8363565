//! `strewn umount`.

use crate::config;
use crate::control::{Pending, Request};
use crate::error::{Context, Failure, Outcome};
use crate::output;
use crate::register::{self, Mount};
use crate::waiting::{self, Patience};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strewn_fs::mount::MountPoint;
use tokio::time::timeout;

/// How long the process that serves a drive may take to take it out of the tree of files, before that is done without it.
const UNANSWERED: Duration = Duration::from_secs(3);

/// Unmount a drive, waiting until the network has everything
///
/// Shows what is still pending. When it is interrupted while it waits, or the network is away for too long, it fails and
/// says what is pending; nothing is lost: the drive stays mounted and goes on uploading.
#[derive(Debug, clap::Args)]
pub(crate) struct Umount {
    /// Where the drive is mounted
    mountpoint: PathBuf,
    /// Do not wait for the network: what is pending stays in the cache and goes up at the next mount
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    patience: Patience,
    /// Although it is in use: it disappears from its directory at once, and ends when nothing on it is open any more
    #[arg(long, short)]
    lazy: bool,
    /// Print the outcome as one line of JSON
    #[arg(long)]
    json: bool,
}

/// The outcome, as `--json` prints it.
#[derive(Serialize)]
struct Unmounted<'a> {
    mountpoint: &'a Path,
    unmounted: bool,
    /// What is not on the network; absent if nobody knows.
    pending: Option<Pending>,
    error: Option<&'a str>,
}

impl Umount {
    pub(crate) async fn run(self) -> Outcome {
        let mount = match register::serving(&self.mountpoint) {
            Ok(mount) if self.is_mountpoint_of(&mount)? => mount,
            other => return self.other(other),
        };
        let request = Request::Unmount { wait: !self.no_wait, lazy: self.lazy, timeout_ms: self.patience.millis() };
        let waited = match timeout(self.allowed(), waiting::wait(&mount, request)).await {
            Ok(waited) => waited?,
            Err(_) => return self.detach(Failure::new("the process that serves the drive does not answer")),
        };
        if waited.outcome.is_ok() && !waited.left.is_nothing() {
            let cache = mount.cache.display();
            eprintln!("{} not on the network yet: kept in {cache} for the next mount", waited.left);
        }
        self.tell(&mount.mountpoint, Some(waited.left), &waited.outcome)?;
        waited.outcome
    }

    fn is_mountpoint_of(&self, mount: &Mount) -> Outcome<bool> {
        let path = config::absolute(&self.mountpoint)?;
        Ok(path == mount.mountpoint || register::resolve_parent(&path) == mount.mountpoint)
    }

    /// Not the mountpoint of a drive of this user. A bind mount the kernel takes away, as every other.
    fn other(&self, serving: Outcome<Mount>) -> Outcome {
        let path = self.mountpoint.display();
        if let Ok(point) = MountPoint::find(&self.mountpoint)
            && point.is_bound().context("reading the mount table")?
        {
            let unmounted = if self.lazy { point.detach() } else { point.unmount() };
            unmounted.context("cannot unmount")?;
            return self.tell(&self.mountpoint, None, &Ok(()));
        }
        match serving {
            Ok(mount) => Err(Failure::new(format!("{path} is not a mountpoint"))
                .hint(format!("it is on the drive mounted on {}", mount.mountpoint.display()))),
            Err(failure) => self.clean_stale(failure),
        }
    }

    fn tell(&self, mountpoint: &Path, pending: Option<Pending>, outcome: &Outcome) -> Outcome {
        if !self.json {
            return Ok(());
        }
        let error = outcome.as_ref().err().map(Failure::message);
        output::json(&Unmounted { mountpoint, unmounted: error.is_none(), pending, error })
    }

    /// Who waits for nothing does not wait for a process that hangs either.
    fn allowed(&self) -> Duration {
        if self.lazy && self.no_wait { UNANSWERED } else { Duration::MAX }
    }

    /// Takes the drive out of the tree of files without its process, which notices that and goes on uploading.
    fn detach(&self, reason: Failure) -> Outcome {
        let detached = MountPoint::find(&self.mountpoint).and_then(|point| point.detach());
        detached.context(reason.message())?;
        eprintln!("{}; detached all the same", reason.message());
        self.tell(&self.mountpoint, None, &Ok(()))
    }

    /// A mount whose process is gone has nothing to drain here: it is taken away, and its cache keeps what was pending.
    fn clean_stale(&self, failure: Failure) -> Outcome {
        let mountpoint = &self.mountpoint;
        match strewn_fs::mount::clean_stale(mountpoint) {
            Ok(true) => {
                let at = mountpoint.display();
                eprintln!("removed the stale mount at {at}; what was pending goes up at the next mount");
                self.tell(mountpoint, None, &Ok(()))
            }
            // Another user's, perhaps.
            Ok(false) if self.lazy && self.no_wait => self.detach(failure),
            // What cannot be looked at has no stale mount of ours: the first reason says more.
            Ok(false) | Err(_) => Err(failure),
        }
    }
}
