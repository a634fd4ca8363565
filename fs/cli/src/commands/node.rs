//! `strewn node`.

mod settings;

use crate::config;
use crate::error::{Context, Outcome};
use crate::output;
use crate::signals::Signals;
use settings::Settings;
use std::path::{Path, PathBuf};
use strewn_peers::identity::Identity;
use strewn_peers::serve::{JoinSatellite, NodeDaemon, NodeDaemonOptions};

/// Run a storage node: it keeps encrypted pieces for satellites
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Node {
    Init(Init),
    Run(Run),
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

/// Make a storage node: its identity and settings
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    #[command(flatten)]
    data: DataArg,
    /// The satellite to serve: its multiaddress with its peer id, as 'strewn satellite run' prints it
    #[arg(long, value_name = "MULTIADDR")]
    satellite: String,
    /// File with the ticket of the satellite's operator; `-` is standard input
    #[arg(long, value_name = "FILE")]
    ticket_file: PathBuf,
    /// Bytes to offer
    #[arg(long, value_name = "SIZE", value_parser = output::parse_size)]
    capacity: u64,
    /// libp2p multiaddress to listen on; may be given several times
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/0.0.0.0/tcp/7778")]
    listen: Vec<String>,
    /// Address and port for piece channels, which are faster than libp2p streams; `none` for no such
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:7779")]
    channel: String,
    /// Multiaddress to announce instead of those it listens on, as seen from outside; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    announce: Vec<String>,
}

impl Init {
    fn run(self) -> Outcome {
        let data = self.data.directory()?;
        let ticket = if self.ticket_file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin().lock()).context("reading the ticket")?
        } else {
            std::fs::read_to_string(&self.ticket_file)
                .context(format_args!("reading {}", self.ticket_file.display()))?
        };
        let channel = match self.channel.as_str() {
            "none" => None,
            address => Some(address.parse().context(format_args!("--channel {address:?}"))?),
        };
        let settings = Settings {
            satellite: self.satellite,
            ticket: ticket.trim().to_owned(),
            capacity: self.capacity,
            listen: self.listen,
            channel,
            announce: self.announce,
        };
        settings.create(&data)?;
        output::line(format_args!("made a storage node in {}", data.display()))?;
        output::line(format_args!("peer id {}", identity(&data)?.peer_id()))?;
        eprintln!("hint: start it with 'strewn node run'");
        Ok(())
    }
}

/// Run a storage node until it is interrupted
///
/// Prints `ready` once its satellite has dialled it and counts it as online.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    data: DataArg,
}

impl Run {
    async fn run(self) -> Outcome {
        let data = self.data.directory()?;
        let settings = Settings::load(&data)?;
        let mut signals = Signals::new()?;
        let mut listen = Vec::new();
        for address in &settings.listen {
            listen.push(address.parse().context(format_args!("listening on {address:?}"))?);
        }
        let options = NodeDaemonOptions {
            listen,
            channel: settings.channel,
            announce: (!settings.announce.is_empty()).then_some(settings.announce),
            satellites: vec![JoinSatellite { address: settings.satellite, ticket: Some(settings.ticket) }],
            capacity: settings.capacity,
        };
        let daemon = NodeDaemon::start(&data, &identity(&data)?, options)
            .await
            .context(format_args!("starting the node in {}", data.display()))?;
        // A satellite that is away now is tried again in the background.
        match daemon.check_in().await {
            Ok(()) => output::line("ready")?,
            Err(error) => eprintln!("strewn: not checked in yet: {error}; trying again"),
        }
        daemon.run();
        signals.next().await;
        daemon.stop().await;
        Ok(())
    }
}

fn identity(data: &Path) -> Outcome<Identity> {
    Identity::open_or_create(&data.join("identity")).context("the node's identity")
}
