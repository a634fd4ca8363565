//! `strewn node init`.

use super::super::not_to_listen_on;
use super::settings::Settings;
use super::{DataArg, identity, read_ticket};
use crate::config;
use crate::error::{Context, Failure, Outcome};
use crate::output;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use strewn_peers::transport::{PeerAddress, parse_announced, parse_listen};

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
    /// Bytes to offer, at least 64M
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

/// Least that a node may offer, in bytes: room for a piece of any size.
const MIN_CAPACITY: u64 = 64 << 20;

/// Most addresses that a node may announce.
const MAX_ANNOUNCED: usize = 8;

impl Init {
    pub(super) fn run(self) -> Outcome {
        let data = self.data.directory()?;
        let settings = self.settings()?;
        config::private_dir(&data)?;
        check_capacity(&data, settings.capacity)?;
        settings.create(&data)?;
        output::line(format_args!("made a storage node in {}", data.display()))?;
        output::line(format_args!("peer id {}", identity(&data)?.peer_id()))?;
        eprintln!("hint: start it with 'strewn node run'");
        Ok(())
    }

    /// What was asked for, if it can be.
    fn settings(self) -> Outcome<Settings> {
        PeerAddress::parse(&self.satellite).map_err(|error| {
            Failure::usage(format!("--satellite: {error}")).hint("write the address that 'strewn satellite run' prints")
        })?;
        for address in &self.listen {
            parse_listen(address).map_err(|error| not_to_listen_on(&error))?;
        }
        for address in &self.announce {
            parse_announced(address).map_err(|error| Failure::usage(format!("--announce: {error}")))?;
        }
        if self.announce.len() > MAX_ANNOUNCED {
            return Err(Failure::usage(format!("--announce: at most {MAX_ANNOUNCED} addresses")));
        }
        Ok(Settings {
            channel: channel(&self.channel)?,
            ticket: read_ticket(&self.ticket_file)?,
            satellite: self.satellite,
            capacity: self.capacity,
            listen: self.listen,
            announce: self.announce,
        })
    }
}

fn channel(text: &str) -> Outcome<Option<SocketAddr>> {
    match text {
        "none" => Ok(None),
        address => address.parse().map(Some).map_err(|_| {
            Failure::usage(format!("--channel {address:?} is no address")).hint("write IP:PORT, or 'none'")
        }),
    }
}

fn check_capacity(data: &Path, capacity: u64) -> Outcome {
    let disk = rustix::fs::statvfs(data).context(format_args!("looking at the disk of {}", data.display()))?;
    let most = disk.f_blocks.saturating_mul(disk.f_frsize);
    if capacity < MIN_CAPACITY {
        let least = output::bytes(MIN_CAPACITY);
        return Err(Failure::usage(format!("--capacity {} is too little: at least {least}", output::bytes(capacity))));
    }
    if capacity > most {
        let (capacity, most) = (output::bytes(capacity), output::bytes(most));
        return Err(Failure::usage(format!("--capacity {capacity} is more than the disk has, which is {most}")));
    }
    Ok(())
}
