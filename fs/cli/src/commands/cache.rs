//! `strewn cache`: cache directories, whether a drive uses them or not.

use crate::control::{self, Pending, Request};
use crate::error::{Context, Failure, Outcome};
use crate::register::{self, Mount};
use crate::{config, output};
use serde::Serialize;
use std::path::{Path, PathBuf};
use strewn_cache::disk::OpenError;
use strewn_cache::{CacheDirectory, Cleared, Damage, DirectoryStatus, InspectError};

/// Look at cache directories, check them, clear them
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Cache {
    Status(Status),
    Verify(Verify),
    Clear(Clear),
}

impl Cache {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Status(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Clear(command) => command.run(),
        }
    }
}

/// Show whose a cache is, what of it waits for the network, and how much room it takes
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// The cache directory; without it all below ~/.cache/strewn
    directory: Option<PathBuf>,
    /// One line of JSON per cache
    #[arg(long)]
    json: bool,
}

/// A cache, as `--json` prints it.
#[derive(Serialize)]
struct Shown<'a> {
    directory: &'a Path,
    /// Where it is mounted, if it is.
    mountpoint: Option<&'a Path>,
    #[serde(flatten)]
    state: Shape<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shape<'a> {
    Mounted {
        source: &'a str,
        #[serde(flatten)]
        status: &'a serde_json::Value,
    },
    Unused(&'a DirectoryStatus),
}

impl Status {
    fn run(self) -> Outcome {
        for directory in directories(self.directory.as_deref())? {
            match open(&directory) {
                Ok(cache) => self.show_unused(&directory, &cache.status().context(directory.display())?)?,
                Err(Unusable::Mounted(mount)) => self.show_mounted(&directory, &mount)?,
                Err(Unusable::Failed(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    fn show_unused(&self, directory: &Path, status: &DirectoryStatus) -> Outcome {
        if self.json {
            return output::json(&Shown { directory, mountpoint: None, state: Shape::Unused(status) });
        }
        output::line(format_args!("{}", directory.display()))?;
        output::line(format_args!("  of         directory {} of bucket {}", status.root, status.bucket))?;
        output::line("  mounted    no")?;
        let pending = pending(status.pending_files, status.pending_bytes, status.pending_operations);
        output::line(format_args!("  pending    {}", describe(pending)))?;
        let (used, clean) = (output::bytes(status.cache_bytes), output::bytes(status.clean_bytes));
        output::line(format_args!("  on disk    {used}, of which {clean} are content that the network has too"))
    }

    fn show_mounted(&self, directory: &Path, mount: &Mount) -> Outcome {
        let value = ask(mount)?;
        if self.json {
            let state = Shape::Mounted { source: &mount.source, status: &value };
            return output::json(&Shown { directory, mountpoint: Some(&mount.mountpoint), state });
        }
        let status: strewn_cache::Status = serde_json::from_value(value).context("reading the status")?;
        output::line(format_args!("{}", directory.display()))?;
        output::line(format_args!("  of         {}", mount.source))?;
        output::line(format_args!("  mounted    on {} (process {})", mount.mountpoint.display(), mount.pid))?;
        let pending = pending(status.pending_files, status.pending_bytes, status.pending_operations);
        output::line(format_args!("  pending    {}", describe(pending)))?;
        output::line(format_args!("  on disk    {}", output::bytes(status.cache_bytes)))
    }
}

fn pending(files: u64, bytes: u64, changes: u64) -> Pending {
    Pending { files, bytes, changes, ..Pending::default() }
}

/// What is pending, for people.
fn describe(pending: Pending) -> String {
    if pending.is_nothing() { "nothing: the network has everything".to_owned() } else { pending.to_string() }
}

fn ask(mount: &Mount) -> Outcome<serde_json::Value> {
    match control::ask(&mount.socket, &Request::Status, |_| {})? {
        control::Reply::Status { status } => Ok(status),
        reply => Err(reply.done().0.err().unwrap_or_else(|| Failure::new("the mount told nothing"))),
    }
}

/// Read everything in a cache and report what is damaged
///
/// Reads the journal, what waits for the network and the index, and changes nothing. Fails if anything is damaged. Content
/// that is not in its final form yet carries no checksums: of it only missing and unreadable bytes are found.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The cache directory; without it all below ~/.cache/strewn. Not one that is mounted
    directory: Option<PathBuf>,
    /// One line of JSON per cache
    #[arg(long)]
    json: bool,
}

/// What was found, as `--json` prints it.
#[derive(Serialize)]
struct Verified<'a> {
    directory: &'a Path,
    ok: bool,
    damage: &'a [Damage],
}

impl Verify {
    fn run(self) -> Outcome {
        let mut damaged = 0;
        for directory in directories(self.directory.as_deref())? {
            let damage = open(&directory)?.verify().context(directory.display())?;
            damaged += usize::from(!damage.is_empty());
            if self.json {
                output::json(&Verified { directory: &directory, ok: damage.is_empty(), damage: &damage })?;
                continue;
            }
            let outcome = if damage.is_empty() { "whole" } else { "DAMAGED" };
            output::line(format_args!("{}: {outcome}", directory.display()))?;
            for Damage { what, reason } in &damage {
                output::line(format_args!("  {what}: {reason}"))?;
            }
        }
        match damaged {
            0 => Ok(()),
            1 => Err(Failure::new("a cache is damaged")),
            count => Err(Failure::new(format!("{count} caches are damaged"))),
        }
    }
}

/// Remove from a cache what the network has too
///
/// What the network does not have is kept, unless --discard-pending is given: then it is lost. A cache that holds nothing
/// pending afterwards belongs to nobody, and may be used for another bucket.
#[derive(Debug, clap::Args)]
pub(crate) struct Clear {
    /// The cache directory, which must not be mounted
    directory: PathBuf,
    /// Also what the network does not have: it is lost
    #[arg(long)]
    discard_pending: bool,
    /// Print the outcome as one line of JSON
    #[arg(long)]
    json: bool,
}

impl Clear {
    fn run(self) -> Outcome {
        let directory = config::absolute(&self.directory)?;
        let cleared = open(&directory)?.clear(self.discard_pending).context(directory.display())?;
        if self.json {
            return output::json(&cleared);
        }
        let Cleared { kept_operations, kept_files, kept_bytes } = cleared;
        if kept_operations > 0 {
            let kept = pending(kept_files, kept_bytes, kept_operations);
            eprintln!("kept {kept} that the network does not have");
            eprintln!("hint: mount it to upload them; --discard-pending removes them for good");
        }
        Ok(())
    }
}

/// Why a cache cannot be looked at from here.
enum Unusable {
    Mounted(Box<Mount>),
    Failed(Failure),
}

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Failed(failure) => failure,
            Unusable::Mounted(mount) => {
                let at = mount.mountpoint.display();
                Self::new(format!("the cache is in use: it is mounted on {at}"))
                    .hint(format!("unmount it first: 'strewn umount {at}'"))
            }
        }
    }
}

fn open(directory: &Path) -> Result<CacheDirectory, Unusable> {
    let error = match CacheDirectory::open(directory) {
        Ok(cache) => return Ok(cache),
        Err(error) => error,
    };
    if matches!(error, InspectError::Open(OpenError::InUse { .. })) {
        let mounts = register::all().map_err(Unusable::Failed)?;
        if let Some(mount) = mounts.into_iter().find(|mount| mount.cache == directory) {
            return Err(Unusable::Mounted(Box::new(mount)));
        }
    }
    Err(Unusable::Failed(Failure::new(crate::error::chain(&error))))
}

/// The one asked for, or all in the usual place.
fn directories(asked: Option<&Path>) -> Outcome<Vec<PathBuf>> {
    if let Some(directory) = asked {
        return Ok(vec![config::absolute(directory)?]);
    }
    let parent = config::cache_dir()?;
    let entries = match std::fs::read_dir(&parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(format_args!("reading {}", parent.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context(format_args!("reading {}", parent.display()))?.path();
        if path.join("blobs").is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
