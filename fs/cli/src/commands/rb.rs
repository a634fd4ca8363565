//! `strewn rb`.

use super::AccessArg;
use crate::error::Outcome;
use crate::location::Remote;
use crate::{config, remote};

/// Remove a bucket
#[derive(Debug, clap::Args)]
pub(crate) struct Rb {
    /// Its name
    #[arg(value_name = "strewn://BUCKET")]
    bucket: Remote,
    #[command(flatten)]
    access: AccessArg,
    /// With everything in it
    #[arg(long)]
    force: bool,
}

impl Rb {
    pub(crate) async fn run(self) -> Outcome {
        if !self.bucket.path.is_empty() {
            return Err(crate::error::Failure::usage(format!("{} is a path, not a bucket", self.bucket)));
        }
        let grant = config::load_access(self.access.access.as_deref())?;
        let uplink = remote::connect(&grant).await?;
        let bucket = remote::open_bucket(&uplink, &self.bucket.bucket).await?;
        let removed = uplink.remove_bucket(bucket.info.settings.bucket, self.force).await;
        removed.map_err(|error| {
            let failure = remote::explain(&self.bucket.bucket, &error);
            if self.force { failure } else { failure.hint("--force removes it with everything in it") }
        })
    }
}
