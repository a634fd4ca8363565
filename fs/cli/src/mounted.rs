//! A drive while it is mounted: cache, volume, kernel mount, control socket and signals, and the order in which they end.
//!
//! The end: pending changes go up while the drive is still mounted; then it is unmounted (busy: the drive stays); what was
//! written in between goes up; then the cache is closed. When somebody else unmounts it, the same from the third step on.

mod ending;
mod server;

use crate::control::{self, Pending, Reply, Request};
use crate::error::{Context, Failure, Outcome};
use crate::output::{self, UploadProgress};
use crate::register::{self, Mount};
use crate::remote::Opened;
use crate::signals::Signals;
use ending::{Askers, Ending, MAX_UNMOUNT_REQUESTS, UnmountRequest, Wait, Wanted};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strewn_cache::disk::OpenError;
use strewn_cache::{Cache, Options, Status};
use strewn_fs::mount::{MountOptions, MountPoint, mount};
use strewn_fs::volume::{AccessTimes, Promises, Shown};
use strewn_fs::{Drive, Volume, fuse};
use tokio::sync::mpsc;

/// How a drive is to be mounted.
#[derive(Debug, Default)]
pub(crate) struct MountPlan {
    pub(crate) read_only: bool,
    /// Nothing readable in the cache directory.
    pub(crate) encrypt_cache: bool,
    pub(crate) allow_other: bool,
    pub(crate) noexec: bool,
    pub(crate) access_times: AccessTimes,
    pub(crate) nonempty: bool,
    /// The device is not watched while requests come in quick succession.
    pub(crate) nopolling: bool,
    pub(crate) nopassthrough: bool,
    /// Set-user-ID programs and device files work; they do not if nothing was said.
    pub(crate) suid: Option<bool>,
    pub(crate) dev: Option<bool>,
    pub(crate) cache_size: Option<u64>,
    /// Bytes for what is known of names and attributes.
    pub(crate) memory: Option<u64>,
    /// How long changes rest before they go up.
    pub(crate) upload_delay: Option<Duration>,
    pub(crate) promises: Promises,
    pub(crate) shown: Shown,
    pub(crate) deadline: Option<Duration>,
    /// How long the end of the mount waits for a network that takes nothing.
    pub(crate) drain_timeout: Option<Duration>,
    pub(crate) pidfile: Option<PathBuf>,
    /// Nothing is said when the drive is usable.
    pub(crate) quiet: bool,
}

/// Serves a drive until it is unmounted and everything is on the network, or until it is told not to wait for that.
pub(crate) async fn serve(mount: Mount, opened: Opened, plan: MountPlan) -> Outcome {
    let mut signals = Signals::new()?;
    let options = cache_options(&plan, &opened)?;
    let read_only = options.read_only;
    let uplink = opened.uplink;
    let open = || Cache::open(&mount.cache, opened.service.clone(), opened.root.clone(), options.clone());
    let mut cache = open().await;
    let until = Instant::now() + LEAVING;
    while cache.as_ref().is_err_and(is_in_use) && Instant::now() < until && hand_over(&mount).await {
        tokio::time::sleep(LOOK_AGAIN).await;
        cache = open().await;
    }
    let cache = cache.context(format_args!("opening the cache in {}", mount.cache.display()))?;
    let mut live = Live::start(&cache, &mount, &kernel_options(&plan, &mount, read_only), &plan)?;
    let (requests, mut wanted) = mpsc::channel(MAX_UNMOUNT_REQUESTS);
    let server = server::start(&mount.socket, cache.clone(), uplink, requests)?;
    let registration = register::enter(&mount)?;
    if let Some(path) = &plan.pidfile {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .context(format_args!("writing {}", path.display()))?;
    }
    if !plan.quiet {
        output::line(format_args!("ready {}", mount.mountpoint.display()))?;
    }

    let patience = plan.drain_timeout.unwrap_or(cache.options().deadline);
    let mut ending = Ending { live: &mut live, cache: &cache, signals: &mut signals, wanted: &mut wanted, patience };
    let mut ended = ending.wait().await;
    drop(registration);
    let outcome = match ended.outcome {
        Ok(Wait::Network) => drain(&cache, ended.patience, &mut signals, (&mut wanted, &mut ended.askers)).await,
        Ok(Wait::Nothing) => Ok(()),
        Err(failure) => Err(failure),
    };
    // Who asks from here on is told that the mount has ended, and is not waited for.
    drop(wanted);
    if let Some(path) = &plan.pidfile {
        // Before the cache is free: from then on it may be the next mount's.
        drop(std::fs::remove_file(path));
    }
    let closed = cache.close().await.context("closing the cache");
    let outcome = outcome.and(closed);
    ended.askers.answer(&outcome);
    server.finish().await;
    outcome
}

/// True if another process has the cache.
fn is_in_use(error: &strewn_cache::Error) -> bool {
    let strewn_cache::Error::Disk(error) = error else { return false };
    let open = error.get_ref().and_then(|error| error.downcast_ref::<OpenError>());
    matches!(open, Some(OpenError::InUse { .. }))
}

/// How long a process that leaves a cache is waited for, and how often it is looked for.
const LEAVING: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Asks the process that has the cache to leave it to this one, which it does if its drive was unmounted and it only waits for
/// the network. False if it does not, or says nothing at all.
async fn hand_over(mount: &Mount) -> bool {
    let socket = mount.socket.clone();
    let asked = tokio::task::spawn_blocking(move || control::ask(&socket, &Request::HandOver, |_| {}));
    // One that hangs up without an answer is about to end.
    matches!(tokio::time::timeout(LEAVING, asked).await, Ok(reply) if !matches!(reply, Ok(Ok(Reply::Failed { .. }))))
}

/// A drive in the kernel's tree of files.
struct Live {
    drive: Drive,
    point: MountPoint,
}

impl Live {
    fn start(cache: &Cache, at: &Mount, options: &MountOptions, plan: &MountPlan) -> Outcome<Self> {
        let volume = Arc::new(
            Volume::new(cache.clone())
                .with_promises(plan.promises)
                .with_access_times(plan.access_times)
                .showing(plan.shown),
        );
        let mut serving =
            fuse::Options { polling: !plan.nopolling, passthrough: !plan.nopassthrough, ..fuse::Options::default() };
        if let Some(deadline) = plan.deadline {
            // The cache's own error, which comes first, says more.
            serving.deadline = deadline + ANSWER_GRACE;
        }
        let mounted = mount(&at.mountpoint, options).context("cannot mount")?;
        let drive = Drive::start(volume, mounted.fd, tokio::runtime::Handle::current(), serving)
            .context("serving the drive")?;
        Ok(Self { drive, point: mounted.point })
    }
}

/// The oldest change waits so many times the upload delay when changes do not end.
const OLDEST_DELAY: u32 = 10;

/// How much longer than the cache's deadline the kernel's requests may take.
const ANSWER_GRACE: Duration = Duration::from_secs(15);

/// Uploads what is pending after the drive is gone, unless the next mount of the cache wants to.
async fn drain(
    cache: &Cache,
    patience: Duration,
    signals: &mut Signals,
    (wanted, askers): (&mut mpsc::Receiver<UnmountRequest>, &mut Askers),
) -> Outcome {
    let mut progress = UploadProgress::new();
    let drained = cache.drain_within(patience, |status| progress.show(pending(status)));
    let mut drained = Box::pin(drained);
    let outcome = loop {
        tokio::select! {
            drained = &mut drained => break drained.map_err(|error| pending_failure(&error)),
            _ = signals.next() => break interrupted(cache),
            Some(UnmountRequest { wanted, done }) = wanted.recv() => {
                askers.add(done);
                if matches!(wanted, Wanted::HandedOver | Wanted::Unmounted { wait: false, .. }) {
                    break Ok(());
                }
            }
        }
    };
    drop(drained);
    progress.finish();
    outcome
}

fn pending_failure(error: &strewn_cache::Error) -> Failure {
    Failure::new(crate::error::chain(error))
        .hint("nothing is lost: it stays in the cache and goes up when the network is back, or at the next mount")
}

/// What an interrupt leaves behind: an error, unless the network has everything.
fn interrupted(cache: &Cache) -> Outcome {
    match pending(&cache.status()) {
        nothing if nothing.is_nothing() => Ok(()),
        left => Err(Failure::new(format!("interrupted with {left} not on the network yet"))
            .hint("nothing is lost: it stays in the cache and goes up at the next mount")),
    }
}

/// The part of a cache's status that progress shows.
pub(crate) fn pending(status: &Status) -> Pending {
    Pending {
        files: status.pending_files,
        bytes: status.pending_bytes,
        changes: status.pending_operations,
        sending: status.sending_bytes,
        rate: status.upload_rate as u64,
    }
}

fn cache_options(plan: &MountPlan, opened: &Opened) -> Outcome<Options> {
    let (read_only, encrypt) = (plan.read_only || opened.read_only, plan.encrypt_cache);
    let mut options = Options { read_only, encrypt, ..Options::default() };
    if let Some(size) = plan.cache_size {
        options.budget = size;
        options.dirty_limit = size / 2;
    }
    if let Some(memory) = plan.memory {
        options.memory = memory;
    }
    if let Some(delay) = plan.upload_delay {
        options.cut_idle = delay;
        options.cut_age = delay * OLDEST_DELAY;
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
        access_times: plan.access_times,
        nonempty: plan.nonempty,
        suid: plan.suid.unwrap_or(false),
        dev: plan.dev.unwrap_or(false),
    }
}
