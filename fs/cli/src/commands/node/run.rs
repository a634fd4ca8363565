//! `strewn node run`.

use super::settings::Settings;
use super::{DataArg, identity, read_ticket};
use crate::error::{Context, Failure, Outcome};
use crate::output;
use crate::signals::Signals;
use std::path::{Path, PathBuf};
use strewn_engine::bucket::Error;
use strewn_peers::serve::{JoinSatellite, NodeDaemon, NodeDaemonOptions, Standing};
use strewn_peers::transport::parse_listen;
use tokio::sync::watch;

/// Run a storage node until it is interrupted
///
/// Prints `ready` once its satellite has dialled it and counts it as online. A satellite that is away is tried again and
/// again; one that refuses the node ends the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    data: DataArg,
    /// File with another ticket, kept in place of the first one; `-` is standard input. A node that has joined needs none
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<PathBuf>,
}

impl Run {
    pub(super) async fn run(self) -> Outcome {
        let data = self.data.directory()?;
        let mut settings = Settings::load(&data)?;
        if let Some(file) = &self.ticket_file {
            settings.ticket = read_ticket(file)?;
            settings.store(&data)?;
        }
        let mut signals = Signals::new()?;
        let daemon = start(&data, settings).await?;
        let standing = daemon.standings().pop().ok_or_else(|| Failure::new("the node serves no satellite"))?;
        daemon.run();
        let outcome = tokio::select! {
            _ = signals.next() => Ok(()),
            refused = refusal(standing) => refused,
        };
        daemon.stop().await;
        outcome
    }
}

async fn start(data: &Path, settings: Settings) -> Outcome<NodeDaemon> {
    let listen: Result<_, _> = settings.listen.iter().map(|address| parse_listen(address)).collect();
    let options = NodeDaemonOptions {
        listen: listen.context("listening")?,
        channel: settings.channel,
        announce: (!settings.announce.is_empty()).then_some(settings.announce),
        satellites: vec![JoinSatellite { address: settings.satellite, ticket: Some(settings.ticket) }],
        capacity: settings.capacity,
    };
    let started = NodeDaemon::start(data, &identity(data)?, options).await;
    started.context(format_args!("starting the node in {}", data.display()))
}

/// Says `ready` once the satellite counts the node in; returns only if it refuses to.
async fn refusal(mut standing: watch::Receiver<Standing>) -> Outcome {
    let decided = |standing: &Standing| match standing {
        Standing::Unknown => false,
        Standing::Member => true,
        Standing::Failed(error) => matches!(error, Error::Forbidden(_) | Error::Invalid(_)),
    };
    let standing = standing.wait_for(decided).await.map(|standing| standing.clone());
    if let Ok(Standing::Failed(error)) = standing {
        return Err(Failure::new(format!("the satellite refuses this node: {error}"))
            .hint("its operator makes tickets with 'strewn satellite ticket'; pass a new one with --ticket-file"));
    }
    output::line("ready")?;
    std::future::pending().await
}
