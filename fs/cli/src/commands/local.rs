//! `strewn local`: a whole network on this machine.

mod drive;
mod grant;
mod node;
mod status;
mod up;

use crate::error::{Failure, Outcome};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use strewn_peers::local::control::{self, Reply, Request};

/// A whole network on this machine: a satellite, storage nodes, a bucket `drive`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Local {
    Up(up::Up),
    Down(up::Down),
    Status(status::Status),
    Node(node::Node),
}

impl Local {
    pub(crate) async fn run(self) -> Outcome {
        match self {
            Self::Up(command) => command.run().await,
            Self::Down(command) => command.run().await,
            Self::Status(command) => command.run().await,
            Self::Node(command) => command.run().await,
        }
    }
}

/// Which local network.
#[derive(Debug, clap::Args)]
struct DataArg {
    /// Directory of the network [default: ~/.local/share/strewn/local]
    #[arg(long, value_name = "DIR", env = "STREWN_LOCAL_DATA", global = true)]
    data: Option<PathBuf>,
}

impl DataArg {
    fn directory(&self) -> Outcome<PathBuf> {
        match &self.data {
            Some(data) => crate::config::absolute(data),
            None => Ok(crate::config::data_dir()?.join("local")),
        }
    }
}

/// Asks the network that runs on `data`.
async fn ask(data: &Path, request: &Request) -> Outcome<Reply> {
    control::call(data, request).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            Failure::new(format!("no local network runs on {}", data.display()))
                .hint("'strewn local up' starts one; --data names its directory")
        }
        _ => Failure::new(format!("asking the network on {}: {error}", data.display())),
    })
}

/// The end of a request that has no other answer.
fn done(reply: Reply) -> Outcome {
    match reply {
        Reply::Done | Reply::Status(_) => Ok(()),
        Reply::Failed { reason } => Err(Failure::new(reason)),
    }
}
