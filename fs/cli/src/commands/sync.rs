//! `strewn sync`.

use crate::control::{Pending, Request};
use crate::error::{Failure, Outcome};
use crate::output;
use crate::register::{self, Mount};
use crate::waiting::{self, Patience, Waited};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Wait until everything written so far is on the network
///
/// Succeeds only when the network holds all that was pending when it was called. When it is interrupted, or the network is
/// away for too long, it fails and says what is pending; the drive goes on uploading.
#[derive(Debug, clap::Args)]
pub(crate) struct Sync {
    /// A path on the drive; without it all drives mounted by this user are synced
    path: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
    /// Print the outcome as one line of JSON per drive
    #[arg(long)]
    json: bool,
}

/// The outcome, as `--json` prints it.
#[derive(Serialize)]
struct Synced<'a> {
    mountpoint: &'a Path,
    synced: bool,
    /// What is not on the network: after success what was written since.
    pending: Pending,
    error: Option<&'a str>,
}

impl Sync {
    pub(crate) async fn run(self) -> Outcome {
        let mounts = match &self.path {
            Some(path) => vec![register::serving(path)?],
            None => register::all()?,
        };
        if mounts.is_empty() {
            return Err(Failure::new("no drive is mounted by this user"));
        }
        let mut outcome: Outcome = Ok(());
        for mount in &mounts {
            let waited = self.sync(mount).await?;
            if let Err(failure) = waited.outcome {
                // One drive that cannot is no reason not to try the others.
                if let Err(earlier) = std::mem::replace(&mut outcome, Err(failure)) {
                    earlier.report();
                }
            }
            if waited.interrupted {
                break;
            }
        }
        outcome
    }

    async fn sync(&self, mount: &Mount) -> Outcome<Waited> {
        let waited = waiting::wait(mount, Request::Sync { timeout_ms: self.patience.millis() }).await?;
        if self.json {
            let error = waited.outcome.as_ref().err().map(Failure::message);
            let mountpoint = &mount.mountpoint;
            output::json(&Synced { mountpoint, synced: error.is_none(), pending: waited.left, error })?;
        }
        Ok(waited)
    }
}
