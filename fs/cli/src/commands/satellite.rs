//! `strewn satellite`.

mod operator;
mod settings;

use crate::config;
use crate::error::{Context, Outcome};
use crate::output;
use crate::signals::Signals;
use std::path::{Path, PathBuf};
use strewn_engine::redundancy::Redundancy;
use strewn_peers::identity::Identity;
use strewn_peers::serve::SatelliteDaemon;
use strewn_peers::transport::parse_listen;

/// Run a satellite: it coordinates a network and holds only encrypted metadata
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Satellite {
    Init(Init),
    Run(Run),
    Status(operator::Status),
    Ticket(operator::Ticket),
    ApiKey(operator::ApiKey),
}

impl Satellite {
    pub(crate) async fn run(self) -> Outcome {
        match self {
            Self::Init(command) => command.run(),
            Self::Run(command) => command.run().await,
            Self::Status(command) => command.run(),
            Self::Ticket(command) => command.run(),
            Self::ApiKey(command) => command.run(),
        }
    }
}

/// Where a satellite keeps everything.
#[derive(Debug, clap::Args)]
struct DataArg {
    /// Directory of the satellite [default: ~/.local/share/strewn/satellite]
    #[arg(long, value_name = "DIR", env = "STREWN_SATELLITE_DATA")]
    data: Option<PathBuf>,
}

impl DataArg {
    fn directory(&self) -> Outcome<PathBuf> {
        match &self.data {
            Some(data) => config::absolute(data),
            None => Ok(config::data_dir()?.join("satellite")),
        }
    }
}

/// Make a satellite: its identity and settings
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    #[command(flatten)]
    data: DataArg,
    /// Multiaddress to listen on, such as /ip4/0.0.0.0/udp/7777/quic-v1; may be given several times
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/0.0.0.0/tcp/7777")]
    listen: Vec<String>,
    /// Redundancy of buckets that do not ask for one: numbers, or standard, small, archive
    #[arg(long, value_name = "K/REPAIR/SUCCESS/TOTAL", default_value = "standard")]
    redundancy: Redundancy,
    /// For nodes that share a network or machine: several pieces of a segment per network, check-in every few seconds
    #[arg(long)]
    one_network: bool,
}

impl Init {
    fn run(self) -> Outcome {
        let data = self.data.directory()?;
        operator::socket(&data)?;
        for address in &self.listen {
            parse_listen(address).map_err(|error| super::not_to_listen_on(&error))?;
            if address.split('/').any(|part| part == "0") {
                eprintln!("strewn: {address} is another port after every start, but grants and nodes name the port");
            }
        }
        let settings =
            settings::Settings { listen: self.listen, redundancy: self.redundancy, one_network: self.one_network };
        settings::create(&data, &settings)?;
        let identity = identity(&data)?;
        output::line(format_args!("made a satellite in {}", data.display()))?;
        output::line(format_args!("peer id {}", identity.peer_id()))?;
        eprintln!("hint: start it with 'strewn satellite run', then 'strewn satellite api-key' and 'ticket'");
        Ok(())
    }
}

/// Run a satellite until it is interrupted
///
/// Prints `ready ADDRESS` for every address it listens on; grants and nodes need one of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    data: DataArg,
}

impl Run {
    async fn run(self) -> Outcome {
        let data = self.data.directory()?;
        let settings = settings::load(&data)?;
        let mut signals = Signals::new()?;
        let mut listen = Vec::new();
        for address in &settings.listen {
            listen.push(parse_listen(address).context("listening")?);
        }
        let daemon = SatelliteDaemon::start(&data, &identity(&data)?, settings.of_satellite(), listen)
            .await
            .context(format_args!("starting the satellite in {}", data.display()))?;
        let operator = operator::serve(&data, daemon.satellite().clone())?;
        for address in daemon.addresses() {
            output::line(format_args!("ready {address}"))?;
        }
        signals.next().await;
        operator.abort();
        daemon.stop().await;
        Ok(())
    }
}

fn identity(data: &Path) -> Outcome<Identity> {
    Identity::open_or_create(&data.join("identity")).context("the satellite's identity")
}
