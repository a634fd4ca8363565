//! `strewn status`.

use crate::control::{self, MountStatus, Reply, Request};
use crate::error::{Context, Failure, Outcome};
use crate::output;
use crate::register::{self, Mount};
use serde::Serialize;
use std::path::PathBuf;
use strewn_cache::LeaseKind;

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
    status: &'a MountStatus,
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

fn ask(mount: &Mount) -> Outcome<MountStatus> {
    match control::ask(&mount.socket, &Request::Status, |_| {})? {
        Reply::Status { status } => serde_json::from_value(status).context("reading the status"),
        reply => Err(reply.done().0.err().unwrap_or_else(|| Failure::new("the mount told nothing"))),
    }
}

fn print(mount: &Mount, shown: &MountStatus) -> Outcome {
    let status = &shown.cache;
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
    let satellite = if shown.satellite_reachable { "reachable" } else { "UNREACHABLE" };
    let answered =
        shown.satellite_answered_seconds.map(|ago| format!(", last answer {ago:.0} s ago")).unwrap_or_default();
    output::line(format_args!("  satellite  {satellite}{answered}"))?;
    output::line(format_args!("  nodes      {}", nodes(shown)))?;
    let used = format!("{} of {}", output::bytes(status.cache_bytes), output::bytes(status.cache_budget));
    output::line(format_args!("  cache      {used} in {}", mount.cache.display()))?;
    if status.read_only {
        output::line("  mode       read-only")?;
    }
    if !status.read_only {
        output::line(format_args!("  lease      {}", lease(status)))?;
    }
    if status.conflicts > 0 || !status.conflict_copies.is_empty() {
        let (new, there) = (status.conflicts, status.conflict_copies.len());
        output::line(format_args!("  conflicts  {new} since the mount began; to be looked at: {there}"))?;
    }
    for copy in &status.conflict_copies {
        output::line(format_args!("             {} ({})", copy.path, moment(copy.seconds)))?;
    }
    if status.unauthentic > 0 {
        output::line(format_args!("  unauthentic {} entries or records left out", status.unauthentic))?;
    }
    if !status.last_error.is_empty() {
        output::line(format_args!("  error      {}", status.last_error))?;
    }
    Ok(())
}

/// A time in seconds since 1970, for people.
fn moment(seconds: u64) -> String {
    let known = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(|| seconds.to_string(), |moment| moment.to_string())
}

/// What it may create without asking.
fn lease(status: &strewn_cache::Status) -> String {
    match status.lease {
        LeaseKind::All => "all names: what is created here is exclusive, and nobody is asked".to_owned(),
        LeaseKind::Names => format!("{} names; others are asked for", status.lease_names),
        LeaseKind::None => "none: names are asked for if the satellite is reachable".to_owned(),
    }
}

/// `9 of 10 reachable, 1 UNREACHABLE`.
fn nodes(status: &MountStatus) -> String {
    let MountStatus { nodes_known: known, nodes_reachable: reachable, nodes_unreachable: unreachable, .. } = *status;
    let mut text = match known {
        0 => return "none known yet: nothing was stored or fetched".to_owned(),
        _ => format!("{reachable} of {known} reachable"),
    };
    if unreachable > 0 {
        text.push_str(&format!(", {unreachable} UNREACHABLE"));
    }
    match known - reachable.saturating_add(unreachable).min(known) {
        0 => {}
        unasked => text.push_str(&format!(", {unasked} not asked yet")),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_told_in_words() {
        let status = |lease, lease_names| strewn_cache::Status { lease, lease_names, ..Default::default() };
        assert!(lease(&status(LeaseKind::All, 0)).starts_with("all names: "));
        assert_eq!(lease(&status(LeaseKind::Names, 3)), "3 names; others are asked for");
        assert!(lease(&status(LeaseKind::None, 0)).starts_with("none: "));
        assert_eq!(moment(1_800_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(moment(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn nodes_are_told_in_words() {
        let status = |nodes_known, nodes_reachable, nodes_unreachable| MountStatus {
            nodes_known,
            nodes_reachable,
            nodes_unreachable,
            ..MountStatus::default()
        };
        assert_eq!(nodes(&status(0, 0, 0)), "none known yet: nothing was stored or fetched");
        assert_eq!(nodes(&status(10, 10, 0)), "10 of 10 reachable");
        assert_eq!(nodes(&status(10, 7, 2)), "7 of 10 reachable, 2 UNREACHABLE, 1 not asked yet");
        assert_eq!(nodes(&status(1, u64::MAX, 1)), format!("{} of 1 reachable, 1 UNREACHABLE", u64::MAX));
    }
}
