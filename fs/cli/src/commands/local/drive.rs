//! The drive of a local network: a mount process of its own, so that network and drive can be killed apart.

use crate::control::{self, Reply, Request};
use crate::detach;
use crate::error::{Context, Failure, Outcome};
use crate::output::UploadProgress;
use crate::register::{self, Mount};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use strewn_fs::mount::{self, At};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Name of the bucket.
pub(super) const BUCKET: &str = "drive";

/// A mounted drive.
pub(super) struct Drive {
    mountpoint: PathBuf,
    /// `None` for a mount that outlived the network it was started with.
    process: Option<Child>,
}

impl Drive {
    /// Mounts the bucket, or takes over a mount with the same cache that is still there.
    pub(super) async fn mount(mountpoint: &Path, access: &Path, cache: &Path, encrypt_cache: bool) -> Outcome<Self> {
        super::super::mount::clean_stale(mountpoint)?;
        std::fs::create_dir_all(mountpoint).context(format_args!("creating {}", mountpoint.display()))?;
        let mountpoint = mountpoint.canonicalize().context(format_args!("path {}", mountpoint.display()))?;
        let is_same = |mount: &Mount| mount.mountpoint == mountpoint && mount.cache == cache;
        if register::all()?.iter().any(is_same) && is_mounted(&mountpoint)? {
            return Ok(Self { mountpoint, process: None });
        }
        let program = std::env::current_exe().context("finding this program")?;
        let mut process = Command::new(program)
            .args(["mount", BUCKET])
            .arg(&mountpoint)
            .arg("--access")
            .arg(access)
            .arg("--cache-dir")
            .arg(cache)
            .args(encrypt_cache.then_some("--encrypt-cache"))
            .env_remove(detach::DETACHED)
            .env(detach::HEARD, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0) // Ctrl-C is for the network, which ends the drive in order
            .spawn()
            .context("starting the mount")?;
        let mut lines = BufReader::new(process.stdout.take().expect("it was piped")).lines();
        let first = lines.next_line().await.context("waiting for the mount")?.unwrap_or_default();
        match detach::told(&first) {
            Some(failure) => Err(failure),
            None if first.starts_with("ready ") => Ok(Self { mountpoint, process: Some(process) }),
            // It has said why on standard error, if it could.
            None => Err(Failure::new(format!("the drive could not be mounted on {}", mountpoint.display()))),
        }
    }

    pub(super) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns when the mount process has ended by itself; never for one that was taken over.
    pub(super) async fn ended(&mut self) {
        match &mut self.process {
            Some(process) => drop(process.wait().await),
            None => std::future::pending().await,
        }
    }

    /// Unmounts, with `wait` after everything is on the network. A drive that is not mounted any more is fine.
    pub(super) async fn unmount(mut self, wait: bool) -> Outcome {
        let mounts = register::all()?;
        let Some(mount) = mounts.into_iter().find(|mount| mount.mountpoint == self.mountpoint) else {
            return Ok(());
        };
        let asked = tokio::task::spawn_blocking(move || self::unmount(&mount, wait));
        let (outcome, left) = asked.await.context("unmounting")??.done();
        if outcome.is_ok() && !left.is_nothing() {
            eprintln!("{left} not on the network yet: kept in the cache for the next start");
        }
        if outcome.is_ok() {
            self.ended_if_ours().await;
        }
        outcome
    }

    async fn ended_if_ours(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.wait().await);
        }
    }

    /// Tells the mount process to leave at once, keeping its queue; for the second Ctrl-C.
    pub(super) fn interrupt(mountpoint: &Path) {
        let mounts = register::all().unwrap_or_default();
        for mount in mounts.iter().filter(|mount| mount.mountpoint == mountpoint) {
            let Some(pid) = Pid::from_raw(mount.pid as i32) else { continue };
            // One says that it has to end, the other that it must not wait; of one kind both might become one.
            for signal in [Signal::INT, Signal::TERM] {
                // A process that is gone needs no telling.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// False if nothing is there any more: who served it may still upload, and hands over to the next mount.
fn is_mounted(mountpoint: &Path) -> Outcome<bool> {
    let at = mount::at(mountpoint).context(format_args!("path {}", mountpoint.display()))?;
    Ok(at != At::Nothing)
}

/// Asks the process that serves a mount to unmount, showing what is still pending.
fn unmount(mount: &Mount, wait: bool) -> Outcome<Reply> {
    let mut progress = UploadProgress::new();
    let request = Request::Unmount { wait, lazy: false, timeout_ms: None };
    let reply = control::ask(&mount.socket, &request, |pending| progress.show(pending));
    progress.finish();
    reply
}
