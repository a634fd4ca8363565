//! The signals that ask for an orderly end.

use crate::error::{Context, Outcome};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP.
pub(crate) struct Signals([Signal; 3]);

impl Signals {
    /// From now on these signals are heard here and do not end the process.
    pub(crate) fn new() -> Outcome<Self> {
        let on = |kind| signal(kind).context("handling signals");
        Ok(Self([on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?]))
    }

    /// Returns at the next one, with its number.
    pub(crate) async fn next(&mut self) -> u8 {
        let [interrupt, terminate, hang_up] = &mut self.0;
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hang_up.recv() => SignalKind::hangup(),
        };
        kind.as_raw_value() as u8
    }
}
