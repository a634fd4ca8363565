//! `strewn local up` and `down`.

use super::drive::Drive;
use super::{DataArg, grant};
use crate::control::Request;
use crate::error::{Context, Failure, Outcome};
use crate::signals::Signals;
use crate::waiting::{self, Patience};
use crate::{config, detach, output, register};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use strewn_engine::redundancy::Redundancy;
use strewn_peers::local::{
    LOG, LocalNetwork, LocalOptions,
    control::{self, Reply},
};

/// Bring up a satellite, storage nodes and a bucket `drive`, and mount it
///
/// Prints `ready DIR` once the drive is usable. Runs until Ctrl-C, which uploads what is pending, unmounts and stops; a
/// second Ctrl-C does not wait for the upload. Existing data is resumed with the settings it was made with.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Where to mount the drive; made if missing. Without it only the network runs
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    data: DataArg,
    /// Number of storage nodes; may grow later [default: 10, or as it was]
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Redundancy of new buckets: pieces needed/repaired at/waited for/begun, or standard (29/35/80/110), small (4/6/8/10),
    /// archive (16/20/24/28) [default: small, or as it was]
    #[arg(long, value_name = "K/REPAIR/SUCCESS/TOTAL")]
    redundancy: Option<Redundancy>,
    /// Largest segment of new buckets [default: 64M, or as it was]
    #[arg(long, value_name = "SIZE", value_parser = output::parse_size)]
    segment_size: Option<u64>,
    /// Keep nothing readable in the cache of the drive; see 'strewn mount --help'
    #[arg(long)]
    encrypt_cache: bool,
    /// Return once the drive is usable; 'strewn local down' ends it
    #[arg(long)]
    detach: bool,
}

impl Up {
    pub(crate) async fn run(self) -> Outcome {
        let data = self.data.directory()?;
        if self.detach && !detach::is_detached() {
            return output::line(detach::respawn(&data.join(LOG))?);
        }
        let mountpoint = self.mountpoint.as_deref().map(config::absolute).transpose()?;
        let mut signals = Signals::new()?;
        let options = LocalOptions {
            nodes: self.nodes,
            redundancy: self.redundancy,
            segment_size: self.segment_size,
            ..LocalOptions::default()
        };
        let network = LocalNetwork::start(&data, &options)
            .await
            .context(format_args!("starting the network in {}", data.display()))?;
        let mountpoint = mountpoint.as_deref();
        let outcome = serve(&network, &data, mountpoint, self.encrypt_cache, &mut signals).await;
        network.shutdown().await;
        outcome
    }
}

/// Mounts, waits for the end, unmounts. The network is still there when this returns.
async fn serve(
    network: &LocalNetwork,
    data: &Path,
    mountpoint: Option<&Path>,
    encrypt_cache: bool,
    signals: &mut Signals,
) -> Outcome {
    let access = grant::ensure(network, data).await?;
    let drive = match mountpoint {
        Some(mountpoint) => Some(Drive::mount(mountpoint, &access, &data.join("cache"), encrypt_cache).await?),
        None => None,
    };
    output::line(format_args!("ready {}", drive.as_ref().map_or(data, Drive::mountpoint).display()))?;
    let (drive, wait) = wait_for_end(network, drive, signals).await;
    let Some(drive) = drive else { return Ok(()) };
    let mountpoint = drive.mountpoint().to_owned();
    tokio::select! {
        outcome = drive.unmount(wait) => outcome,
        _ = signals.next() => {
            Drive::interrupt(&mountpoint);
            Err(Failure::new("interrupted before everything was uploaded")
                .hint("nothing is lost: it stays in the cache and goes up when the drive is mounted again"))
        }
    }
}

/// Returns when the network is to stop, with the drive if it is still mounted, and whether to wait for its upload.
async fn wait_for_end(
    network: &LocalNetwork,
    mut drive: Option<Drive>,
    signals: &mut Signals,
) -> (Option<Drive>, bool) {
    loop {
        let ended = async {
            match &mut drive {
                Some(drive) => drive.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = signals.next() => return (drive, true),
            () = network.stop_requested() => return (drive, true),
            () = ended => {
                let mountpoint = drive.take().map(|drive| drive.mountpoint().display().to_string()).unwrap_or_default();
                output::say(format_args!(
                    "the drive on {mountpoint} is gone; the network goes on until Ctrl-C or 'strewn local down'"
                ));
            }
        }
    }
}

/// Upload what is pending, unmount the drive and stop the network
#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    #[command(flatten)]
    data: DataArg,
    /// Do not wait for the upload: what is pending stays in the cache
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Down {
    pub(crate) async fn run(self) -> Outcome {
        let data = self.data.directory()?;
        let process = process(&data).await?;
        // The drive first, from here: so its progress is seen, and the network stays when it cannot be drained.
        let cache = data.join("cache");
        for mount in register::all()?.into_iter().filter(|mount| mount.cache == cache) {
            let request = Request::Unmount { wait: !self.no_wait, lazy: false, timeout_ms: self.patience.millis() };
            let waited = waiting::wait(&mount, request).await?;
            waited.outcome?;
            if !waited.left.is_nothing() {
                eprintln!("{} not on the network yet: kept in the cache for the next start", waited.left);
            }
        }
        super::done(super::ask(&data, &control::Request::Stop).await?)?;
        let ended = tokio::task::spawn_blocking(move || wait_for_exit(&process)).await;
        ended.context("waiting for the network to stop")?.context("waiting for the network to stop")
    }
}

/// A handle of the process that runs the network, which stays valid when the process is gone.
async fn process(data: &Path) -> Outcome<OwnedFd> {
    let Reply::Status(status) = super::ask(data, &control::Request::Status).await? else {
        return Err(Failure::new("the network gave an unexpected answer; is it of another version?"));
    };
    let pid = Pid::from_raw(status.pid as i32).ok_or_else(|| Failure::new("the network has no process id"))?;
    pidfd_open(pid, PidfdFlags::empty()).context("finding the network's process")
}

/// Returns when the process has ended.
fn wait_for_exit(process: &OwnedFd) -> rustix::io::Result<()> {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return ended.map(drop),
        }
    }
}
