//! `strewn node`.

mod init;
mod run;
mod settings;

use crate::config;
use crate::error::{Context, Failure, Outcome};
use std::io::Read;
use std::path::{Path, PathBuf};
use strewn_peers::identity::Identity;

/// Run a storage node: it keeps encrypted pieces for satellites
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Node {
    Init(init::Init),
    Run(run::Run),
}

impl Node {
    pub(crate) async fn run(self) -> Outcome {
        match self {
            Self::Init(command) => command.run(),
            Self::Run(command) => command.run().await,
        }
    }
}

/// Where a node keeps everything.
#[derive(Debug, clap::Args)]
struct DataArg {
    /// Directory of the node [default: ~/.local/share/strewn/node]
    #[arg(long, value_name = "DIR", env = "STREWN_NODE_DATA")]
    data: Option<PathBuf>,
}

impl DataArg {
    fn directory(&self) -> Outcome<PathBuf> {
        match &self.data {
            Some(data) => config::absolute(data),
            None => Ok(config::data_dir()?.join("node")),
        }
    }
}

/// Longest ticket file that is read, in bytes.
const MAX_TICKET: u64 = 1024;

/// Reads a ticket: one word.
fn read_ticket(path: &Path) -> Outcome<String> {
    let what = format!("reading the ticket from {}", path.display());
    let mut text = String::new();
    let read = match path.as_os_str().as_encoded_bytes() {
        b"-" => std::io::stdin().lock().take(MAX_TICKET).read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|file| file.take(MAX_TICKET).read_to_string(&mut text)),
    };
    read.context(&what)?;
    let ticket = text.trim();
    if ticket.is_empty() || ticket.contains(char::is_whitespace) {
        return Err(Failure::new(format!("{what}: that is no ticket"))
            .hint("the satellite's operator makes one with 'strewn satellite ticket'"));
    }
    Ok(ticket.to_owned())
}

fn identity(data: &Path) -> Outcome<Identity> {
    Identity::open_or_create(&data.join("identity")).context("the node's identity")
}
