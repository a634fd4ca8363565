//! `strewn status`.

use crate::control::{self, Reply, Request};
use crate::error::{Context, Failure, Outcome};
use crate::output;
use crate::register::{self, Mount};
use serde::Serialize;
use std::path::PathBuf;

/// Show mounted drives: what is pending, how fast it goes up, what went wrong
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// A path on the drive; without it all drives mounted by this user are shown
    path: Option<PathBuf>,
    /// One line of JSON per drive
    #[arg(long)]
    json: bool,
}

/// A drive with its state, as `--json` prints it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    mount: &'a Mount,
    #[serde(flatten)]
    status: &'a strewn_cache::Status,
}

impl Status {
    pub(crate) async fn run(self) -> Outcome {
        let mounts = match &self.path {
            Some(path) => vec![register::serving(path)?],
            None => register::all()?,
        };
        if mounts.is_empty() && !self.json {
            eprintln!("no drive is mounted by this user");
        }
        for mount in &mounts {
            let status = ask(mount)?;
            if self.json { output::json(&Shown { mount, status: &status })? } else { print(mount, &status)? }
        }
        Ok(())
    }
}

fn ask(mount: &Mount) -> Outcome<strewn_cache::Status> {
    match control::ask(&mount.socket, &Request::Status, |_| {})? {
        Reply::Status { status } => serde_json::from_value(status).context("reading the status"),
        reply => Err(reply.done().0.err().unwrap_or_else(|| Failure::new("the mount told nothing"))),
    }
}

fn print(mount: &Mount, status: &strewn_cache::Status) -> Outcome {
    output::line(format_args!("{} on {} (process {})", mount.source, mount.mountpoint.display(), mount.pid))?;
    let pending = if status.pending_operations == 0 && status.pending_bytes == 0 {
        "nothing: the network has everything".to_owned()
    } else {
        format!(
            "{} files, {}, {} changes, oldest {:.0} s, {}/s",
            status.pending_files,
            output::bytes(status.pending_bytes),
            status.pending_operations,
            status.oldest_seconds,
            output::bytes(status.upload_rate as u64),
        )
    };
    output::line(format_args!("  pending    {pending}"))?;
    let network = if status.reachable { "reachable" } else { "UNREACHABLE: changes wait in the cache" };
    output::line(format_args!("  network    {network}"))?;
    let used = format!("{} of {}", output::bytes(status.cache_bytes), output::bytes(status.cache_budget));
    output::line(format_args!("  cache      {used} in {}", mount.cache.display()))?;
    if status.read_only {
        output::line("  mode       read-only")?;
    }
    if status.conflicts > 0 {
        output::line(format_args!("  conflicts  {} conflict copies made", status.conflicts))?;
    }
    if status.unauthentic > 0 {
        output::line(format_args!("  unauthentic {} entries or records left out", status.unauthentic))?;
    }
    if !status.last_error.is_empty() {
        output::line(format_args!("  error      {}", status.last_error))?;
    }
    Ok(())
}
