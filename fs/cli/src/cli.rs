//! The command line: its definition, from which help, man page and parsing all come.

use crate::commands;
use crate::error::Outcome;
#[cfg(test)]
use clap::CommandFactory;
use clap::{Parser, Subcommand};

/// Mount a decentralized, end-to-end encrypted bucket as a drive
///
/// Files are encrypted on this machine, cut into segments, erasure-coded and strewn over storage nodes that nobody has
/// to trust. `strewn local up ~/drive` starts a whole network on this machine and mounts a drive of it.
#[derive(Debug, Parser)]
#[command(name = "strewn", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// What is logged to standard error: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, global = true, env = "STREWN_LOG", default_value = "warn", value_name = "FILTER")]
    pub(crate) log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand)]
    Local(commands::local::Local),
    Mount(commands::mount::Mount),
    Umount(commands::umount::Umount),
    Sync(commands::sync::Sync),
    Status(commands::status::Status),
    #[command(subcommand)]
    Cache(commands::cache::Cache),
    Ls(commands::ls::Ls),
    Cp(commands::cp::Cp),
    Mv(commands::mv::Mv),
    Rm(commands::rm::Rm),
    Cat(commands::cat::Cat),
    Stat(commands::stat::Stat),
    Du(commands::du::Du),
    Mb(commands::mb::Mb),
    Rb(commands::rb::Rb),
    #[command(subcommand)]
    Access(commands::access::Access),
    #[command(subcommand)]
    Satellite(commands::satellite::Satellite),
    #[command(subcommand)]
    Node(commands::node::Node),
}

/// By how much a mount's background yields: it gets about a quarter of a processor that somebody else wants as well.
const MOUNT_YIELDS: i32 = 5;
/// By how much the peers of a local network yield, who stand for machines elsewhere: about a tenth.
const LOCAL_YIELDS: i32 = 10;

impl Cli {
    /// By how much the niceness of the command's background threads is higher than that of its first one. Those that answer the
    /// kernel are not among them.
    pub(crate) fn yields(&self) -> Option<i32> {
        match &self.command {
            Command::Mount(_) => Some(MOUNT_YIELDS),
            Command::Local(_) => Some(LOCAL_YIELDS),
            _ => None,
        }
    }

    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.command {
            Command::Local(command) => command.run().await,
            Command::Mount(command) => command.run().await,
            Command::Umount(command) => command.run().await,
            Command::Sync(command) => command.run().await,
            Command::Status(command) => command.run().await,
            Command::Cache(command) => command.run(),
            Command::Ls(command) => command.run().await,
            Command::Cp(command) => command.run().await,
            Command::Mv(command) => command.run().await,
            Command::Rm(command) => command.run().await,
            Command::Cat(command) => command.run().await,
            Command::Stat(command) => command.run().await,
            Command::Du(command) => command.run().await,
            Command::Mb(command) => command.run().await,
            Command::Rb(command) => command.run().await,
            Command::Access(command) => command.run().await,
            Command::Satellite(command) => command.run().await,
            Command::Node(command) => command.run().await,
        }
    }
}

/// The definition of all commands, for the man page.
#[cfg(test)]
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}
