//! `strewn cat`.

use super::AccessArg;
use crate::error::{Context, Outcome};
use crate::location::Remote;
use crate::session::{At, Session};
use std::io::Write;

/// Write files to standard output
#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    /// What to write
    #[arg(required = true, value_name = "strewn://BUCKET/PATH")]
    places: Vec<Remote>,
    #[command(flatten)]
    access: AccessArg,
}

impl Cat {
    pub(crate) async fn run(self) -> Outcome {
        let mut output = std::io::stdout();
        for place in &self.places {
            let session = Session::open(&self.access, place).await?;
            let mut reader = session.paths.read(place.path.as_bytes()).await.at(place)?;
            while let Some(bytes) = reader.next().await.at(place)? {
                output.write_all(&bytes).context("writing to standard output")?;
            }
            session.finish().await?;
        }
        output.flush().context("writing to standard output")
    }
}
