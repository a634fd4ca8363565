//! `strewn access revoke`.

use super::super::AccessArg;
use crate::error::{Context, Outcome};
use crate::{config, remote};

/// Revoke a grant that was derived from yours, with all grants derived from it
///
/// The satellite refuses it from now on. Who has the grant can still read ciphertext that he has already.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The grant to revoke: a file or a saved name
    #[arg(value_name = "NAME|FILE")]
    revoked: String,
    #[command(flatten)]
    access: AccessArg,
}

impl Revoke {
    pub(crate) async fn run(self) -> Outcome {
        let revoked = config::load_access(Some(&self.revoked))?;
        let grant = config::load_access(self.access.access.as_deref())?;
        let uplink = remote::connect(&grant).await?;
        uplink.revoke(&revoked.api_key).await.context("revoking the grant")
    }
}
