//! The satellite's sweeping: regularly, and when somebody asks for it.

use std::time::Duration;
use strewn_satellite::{Clock, Error, Satellite, Swept, SystemClock};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Time between sweeps.
const EVERY: Duration = Duration::from_secs(3600);
/// The first sweep comes this long after the start: nodes and uplinks that come back go first.
const FIRST: Duration = Duration::from_secs(60);
/// Callers that may wait for the loop to hear them.
const MAX_WAITING: usize = 8;

/// What a round said.
type Round = Result<Swept, Error>;

/// Triggers sweeps of the loop it was made with.
pub(super) struct Sweeper {
    triggers: mpsc::Sender<oneshot::Sender<Round>>,
}

impl Sweeper {
    /// The trigger, and the loop that somebody has to run.
    pub(super) fn new(satellite: Satellite) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (triggers, triggered) = mpsc::channel(MAX_WAITING);
        (Self { triggers }, run(satellite, triggered))
    }

    /// Lets the loop sweep now, and waits for it. `None` if the loop has ended.
    pub(super) async fn trigger(&self) -> Option<Round> {
        let (done, round) = oneshot::channel();
        self.triggers.send(done).await.ok()?;
        round.await.ok()
    }
}

async fn run(satellite: Satellite, mut triggered: mpsc::Receiver<oneshot::Sender<Round>>) {
    let mut pause = FIRST;
    loop {
        let asked = tokio::select! {
            () = sleep(pause) => None,
            asked = triggered.recv() => match asked {
                Some(asked) => Some(asked),
                None => return,
            },
        };
        pause = EVERY;
        let round = satellite.collect_unreferenced(SystemClock.now().seconds).await;
        match &round {
            Ok(swept) => tracing::debug!(?swept, "sweep"),
            Err(error) => tracing::error!(%error, "sweep failed; the next one follows in an hour"),
        }
        if let Some(asked) = asked {
            // Whoever asked may have given up.
            let _ = asked.send(round);
        }
    }
}
