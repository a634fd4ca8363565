//! `strewn local node`.

use super::DataArg;
use crate::error::Outcome;
use strewn_peers::local::control::{NodeAction, Request};

/// Stop, start, hang, slow, wipe, corrupt or fill a storage node
#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    /// Its number, from 0
    number: usize,
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    data: DataArg,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Action {
    /// End it, as a machine that is switched off; its pieces stay on disk
    Stop,
    /// Start it again, or heal what ails it
    Start,
    /// Let it accept requests and never answer
    Hang,
    /// Let it wait before every answer
    Slow {
        /// Milliseconds
        #[arg(value_name = "MS")]
        milliseconds: u64,
    },
    /// Remove all its pieces
    Wipe,
    /// Damage the pieces it sends
    Corrupt,
    /// Let it refuse new pieces
    Full,
}

impl Node {
    pub(crate) async fn run(self) -> Outcome {
        let action = match self.action {
            Action::Stop => NodeAction::Stop,
            Action::Start => NodeAction::Start,
            Action::Hang => NodeAction::Hang,
            Action::Slow { milliseconds } => NodeAction::Slow(milliseconds),
            Action::Wipe => NodeAction::Wipe,
            Action::Corrupt => NodeAction::Corrupt,
            Action::Full => NodeAction::Full,
        };
        let request = Request::Node { node: self.number, action };
        super::done(super::ask(&self.data.directory()?, &request).await?)
    }
}
