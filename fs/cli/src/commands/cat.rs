//! `strewn cat`.

use super::AccessArg;
use crate::error::{Each, Outcome};
use crate::location::Remote;
use crate::session::Session;

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
        let mut each = Each::default();
        for place in &self.places {
            each.note(self.write(place).await);
        }
        each.outcome()
    }

    async fn write(&self, place: &Remote) -> Outcome {
        let (session, place) = Session::open(&self.access, place).await?;
        session.print(&place).await?;
        session.finish().await
    }
}
