//! A drive while it is mounted: cache, volume, kernel mount, control socket and signals, and the order in which they end.
//!
//! The end: pending changes go up while the drive is still mounted; then it is unmounted (busy: the drive stays); what was
//! written in between goes up; then the cache is closed. When somebody else unmounts it, the same from the third step on.

mod server;

use crate::control::Pending;
use crate::error::{Context, Failure, Outcome};
use crate::output::{self, UploadProgress};
use crate::register::{self, Mount};
use crate::remote::Opened;
use crate::signals::Signals;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::{Cache, Options, Status};
use strewn_fs::mount::{MountOptions, MountPoint, mount};
use strewn_fs::{Drive, Volume};
use tokio::sync::{mpsc, oneshot};

/// How a drive is to be mounted.
#[derive(Debug, Default)]
pub(crate) struct MountPlan {
    pub(crate) read_only: bool,
    pub(crate) allow_other: bool,
    pub(crate) noexec: bool,
    pub(crate) noatime: bool,
    pub(crate) nonempty: bool,
    pub(crate) suid: bool,
    pub(crate) dev: bool,
    pub(crate) cache_size: Option<u64>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) pidfile: Option<PathBuf>,
}

/// Requests to unmount that may wait; more are told to try again.
const MAX_UNMOUNT_REQUESTS: usize = 8;

/// Somebody's wish to unmount, with where the outcome goes.
struct UnmountRequest {
    wait: bool,
    lazy: bool,
    done: oneshot::Sender<Outcome>,
}

/// Serves a drive until it is unmounted and everything is on the network, or until it is told not to wait for that.
pub(crate) async fn serve(mount: Mount, opened: Opened, plan: MountPlan) -> Outcome {
    let mut signals = Signals::new()?;
    let options = cache_options(&plan, &opened)?;
    let read_only = options.read_only;
    let cache = Cache::open(&mount.cache, opened.service, opened.root, options)
        .await
        .context(format_args!("opening the cache in {}", mount.cache.display()))?;
    let mut live = Live::start(&cache, &mount, &kernel_options(&plan, &mount, read_only), plan.deadline)?;
    let (requests, mut wanted) = mpsc::channel(MAX_UNMOUNT_REQUESTS);
    let server = server::start(&mount.socket, cache.clone(), requests)?;
    let registration = register::enter(&mount)?;
    if let Some(path) = &plan.pidfile {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .context(format_args!("writing {}", path.display()))?;
    }
    output::line(format_args!("ready {}", mount.mountpoint.display()))?;

    let ended = wait_for_end(&mut live, &cache, &mut signals, &mut wanted).await;
    drop(registration);
    let outcome = match ended.wait {
        true => drain(&cache, &mut signals).await,
        false => Ok(()),
    };
    let closed = cache.close().await.context("closing the cache");
    let outcome = outcome.and(closed);
    if let Some(done) = ended.asked_by {
        let told = outcome.clone();
        drop(done.send(told));
        server.finish().await;
    }
    if let Some(path) = &plan.pidfile {
        drop(std::fs::remove_file(path));
    }
    outcome
}

/// How a drive came to its end, after which nothing is written to it any more.
struct Ended {
    wait: bool,
    asked_by: Option<oneshot::Sender<Outcome>>,
}

/// A drive in the kernel's tree of files.
struct Live {
    drive: Drive,
    point: MountPoint,
}

impl Live {
    fn start(cache: &Cache, at: &Mount, options: &MountOptions, deadline: Option<Duration>) -> Outcome<Self> {
        let volume = Arc::new(Volume::new(cache.clone()));
        let mut serving = strewn_fs::fuse::Options::default();
        if let Some(deadline) = deadline {
            // The cache's own error, which comes first, says more.
            serving.deadline = deadline + ANSWER_GRACE;
        }
        let mounted = mount(&at.mountpoint, options).context("cannot mount")?;
        let drive = Drive::start(volume, mounted.fd, tokio::runtime::Handle::current(), serving)
            .context("serving the drive")?;
        Ok(Self { drive, point: mounted.point })
    }
}

/// How much longer than the cache's deadline the kernel's requests may take.
const ANSWER_GRACE: Duration = Duration::from_secs(15);

/// Returns once the kernel has let go of the drive.
async fn wait_for_end(
    live: &mut Live,
    cache: &Cache,
    signals: &mut Signals,
    wanted: &mut mpsc::Receiver<UnmountRequest>,
) -> Ended {
    loop {
        let (wait, lazy, asked_by) = tokio::select! {
            () = live.drive.unmounted() => return Ended { wait: true, asked_by: None },
            () = signals.next() => (true, false, None),
            Some(request) = wanted.recv() => (request.wait, request.lazy, Some(request.done)),
        };
        let drained = if wait { drain_mounted(live, cache, signals).await } else { Drained::All };
        let unmounted = match drained {
            // An unmount by somebody else: no reason to hold the mountpoint any longer.
            Drained::Unmounted => return Ended { wait, asked_by },
            Drained::Interrupted => {
                detach(&live.point);
                return Ended { wait: false, asked_by };
            }
            Drained::Failed(failure) => Err(failure),
            Drained::All if lazy => live.point.unmount_or_detach().map(drop).context("cannot unmount"),
            Drained::All => live.point.unmount().context("cannot unmount"),
        };
        match (unmounted, asked_by) {
            (Ok(()), asked_by) => {
                // A detached drive is served until nothing on it is open; an interrupt ends that too.
                tokio::select! {
                    () = live.drive.unmounted() => {}
                    () = signals.next() => {}
                }
                return Ended { wait, asked_by };
            }
            (Err(failure), Some(done)) => drop(done.send(Err(failure))),
            (Err(failure), None) => {
                // An interrupt ends the process even when the drive is busy: it is detached from the tree of files.
                failure.report();
                detach(&live.point);
                return Ended { wait: true, asked_by: None };
            }
        }
    }
}

/// Detaches a drive that may be busy.
fn detach(point: &MountPoint) {
    if let Err(error) = point.detach() {
        tracing::error!("{error}");
    }
}

enum Drained {
    All,
    Unmounted,
    Interrupted,
    Failed(Failure),
}

/// Uploads what is pending while the drive is in use.
async fn drain_mounted(live: &mut Live, cache: &Cache, signals: &mut Signals) -> Drained {
    let mut progress = UploadProgress::new();
    let drained = tokio::select! {
        drained = cache.drain(|status| progress.show(pending(status))) => match drained {
            Ok(()) => Drained::All,
            Err(error) => Drained::Failed(pending_failure(&error)),
        },
        () = live.drive.unmounted() => Drained::Unmounted,
        () = signals.next() => Drained::Interrupted,
    };
    progress.finish();
    drained
}

/// Uploads what is pending after the drive is gone.
async fn drain(cache: &Cache, signals: &mut Signals) -> Outcome {
    let mut progress = UploadProgress::new();
    let outcome = tokio::select! {
        drained = cache.drain(|status| progress.show(pending(status))) => {
            drained.map_err(|error| pending_failure(&error))
        }
        () = signals.next() => Err(Failure::new(format!("interrupted with {} pending", what_is_pending(cache)))
            .hint("nothing is lost: it stays in the cache and goes up at the next mount")),
    };
    progress.finish();
    outcome
}

fn pending_failure(error: &strewn_cache::Error) -> Failure {
    Failure::new(crate::error::chain(error))
        .hint("nothing is lost: it stays in the cache and goes up when the network is back, or at the next mount")
}

fn what_is_pending(cache: &Cache) -> String {
    let status = cache.status();
    format!("{} in {} files", output::bytes(status.pending_bytes), status.pending_files)
}

/// The part of a cache's status that progress shows.
pub(crate) fn pending(status: &Status) -> Pending {
    Pending { files: status.pending_files, bytes: status.pending_bytes, rate: status.upload_rate as u64 }
}

fn cache_options(plan: &MountPlan, opened: &Opened) -> Outcome<Options> {
    let mut options = Options { read_only: plan.read_only || opened.read_only, ..Options::default() };
    if let Some(size) = plan.cache_size {
        options.budget = size;
        options.dirty_limit = size / 2;
    }
    if let Some(deadline) = plan.deadline {
        options.deadline = deadline;
    }
    options.host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(options)
}

fn kernel_options(plan: &MountPlan, mount: &Mount, read_only: bool) -> MountOptions {
    MountOptions {
        source: mount.source.clone(),
        read_only,
        allow_other: plan.allow_other.then_some(true),
        noexec: plan.noexec,
        noatime: plan.noatime,
        nonempty: plan.nonempty,
        suid: plan.suid,
        dev: plan.dev,
    }
}
