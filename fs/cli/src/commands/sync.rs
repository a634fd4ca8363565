//! `strewn sync`.

use crate::control::{self, Request};
use crate::error::{Failure, Outcome};
use crate::output::UploadProgress;
use crate::register;
use std::path::PathBuf;

/// Wait until everything written so far is on the network
///
/// Returns 0 only when the network holds all that was pending when it was called.
#[derive(Debug, clap::Args)]
pub(crate) struct Sync {
    /// A path on the drive; without it all drives mounted by this user are synced
    path: Option<PathBuf>,
}

impl Sync {
    pub(crate) fn run(self) -> Outcome {
        let mounts = match &self.path {
            Some(path) => vec![register::serving(path)?],
            None => register::all()?,
        };
        if mounts.is_empty() {
            return Err(Failure::new("no drive is mounted by this user"));
        }
        mounts.iter().try_for_each(sync)
    }
}

fn sync(mount: &register::Mount) -> Outcome {
    let mut progress = UploadProgress::new();
    let reply = control::ask(&mount.socket, &Request::Sync, |pending| progress.show(pending));
    progress.finish();
    reply?.done()
}
