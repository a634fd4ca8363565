//! Waiting for what a mount does in its own time, such as bringing everything to the network: progress is shown, and an
//! interrupt ends the waiting and nothing else.

use crate::control::{self, Pending, Reply, Request};
use crate::error::{Context, Failure, Outcome};
use crate::output::UploadProgress;
use crate::register::Mount;
use crate::signals::Signals;
use std::time::Duration;

/// Progress reports on their way to the terminal; newer ones wait.
const REPORTS: usize = 1;

/// How long to wait for the network.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Patience {
    /// Give up when the network takes nothing for so long, such as 30s, 5m or 1h [default: 30s, or the drive's drain-timeout]
    #[arg(long, value_name = "DURATION", value_parser = crate::output::parse_duration)]
    timeout: Option<Duration>,
}

impl Patience {
    /// As requests carry it.
    pub(crate) fn millis(self) -> Option<u64> {
        self.timeout.map(|timeout| timeout.as_millis().try_into().unwrap_or(u64::MAX))
    }
}

/// What came of it.
pub(crate) struct Waited {
    pub(crate) outcome: Outcome,
    /// What was still pending then.
    pub(crate) left: Pending,
    /// Somebody at the terminal had enough.
    pub(crate) interrupted: bool,
}

/// Asks a mount for something and shows how far it is until it is done, or until the first interrupt.
pub(crate) async fn wait(mount: &Mount, request: Request) -> Outcome<Waited> {
    let mut signals = Signals::new()?;
    let (report, mut reports) = tokio::sync::mpsc::channel(REPORTS);
    let socket = mount.socket.clone();
    let ask = move || control::ask(&socket, &request, |pending| report.blocking_send(pending).unwrap_or_default());
    let mut asked = tokio::task::spawn_blocking(ask);
    let mut progress = UploadProgress::new();
    let mut last = Pending::default();
    let waited = loop {
        tokio::select! {
            Some(pending) = reports.recv() => {
                last = pending;
                progress.show(pending);
            }
            reply = &mut asked => break reply.context("asking the mount")?.map(ended),
            _ = signals.next() => {
                break Ok(Waited { outcome: Err(interrupted(mount, last)), left: last, interrupted: true });
            }
        }
    };
    progress.finish();
    waited
}

fn ended(reply: Reply) -> Waited {
    let (outcome, left) = reply.done();
    Waited { outcome, left, interrupted: false }
}

fn interrupted(mount: &Mount, left: Pending) -> Failure {
    Failure::new(format!("stopped waiting with {left} not on the network yet")).hint(format!(
        "nothing is lost: the drive on {} goes on uploading; 'strewn status' shows how far it is",
        mount.mountpoint.display()
    ))
}
