//! `strewn access`: making, narrowing, keeping and revoking access grants.

mod create;
mod inspect;
mod keep;
mod restrict;
mod revoke;

pub(crate) use inspect::encode_api_key;

use crate::config;
use crate::error::{Context, Outcome};
use crate::output;
use std::path::PathBuf;
use strewn_engine::grant::AccessGrant;

/// Make, narrow, keep and revoke access grants
///
/// A grant is a satellite's address, an API key and the keys it opens, in one word of text. It is a secret: who has it can
/// do what it allows.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Access {
    Create(create::Create),
    Restrict(restrict::Restrict),
    Share(restrict::Share),
    Inspect(inspect::Inspect),
    ApiKey(inspect::ApiKey),
    Import(keep::Import),
    List(keep::List),
    Use(keep::Use),
    Remove(keep::Remove),
    Revoke(revoke::Revoke),
}

impl Access {
    pub(crate) async fn run(self) -> Outcome {
        match self {
            Self::Create(command) => command.run().await,
            Self::Restrict(command) => command.run().await,
            Self::Share(command) => command.run().await,
            Self::Inspect(command) => command.run(),
            Self::ApiKey(command) => command.run(),
            Self::Import(command) => command.run(),
            Self::List(command) => command.run(),
            Self::Use(command) => command.run(),
            Self::Remove(command) => command.run(),
            Self::Revoke(command) => command.run().await,
        }
    }
}

/// Where a new grant goes; to standard output without any of these.
#[derive(Debug, clap::Args)]
struct Destination {
    /// Write the grant into this file, which only you may read
    #[arg(long, value_name = "FILE")]
    export_to: Option<PathBuf>,
    /// Save the grant under this name
    #[arg(long, value_name = "NAME")]
    import_as: Option<String>,
    /// Replace a saved grant of that name
    #[arg(long, short, requires = "import_as")]
    force: bool,
}

impl Destination {
    fn put(&self, grant: &AccessGrant) -> Outcome {
        let text = grant.serialize().context("writing the grant")?;
        if let Some(path) = &self.export_to {
            config::write_private(path, format!("{}\n", text.as_str()).as_bytes())?;
        }
        if let Some(name) = &self.import_as {
            keep::save(name, grant, self.force)?;
        }
        if self.export_to.is_none() && self.import_as.is_none() {
            output::line(text.as_str())?;
        }
        Ok(())
    }
}
