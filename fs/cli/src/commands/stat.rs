//! `strewn stat`.

use super::AccessArg;
use super::ls::Shown;
use crate::error::{Context, Outcome};
use crate::location::Remote;
use crate::output;
use crate::session::{At, Session};
use strewn_fs::volume::path::Last;

/// Show the attributes of a file or directory
#[derive(Debug, clap::Args)]
pub(crate) struct Stat {
    /// What to show
    #[arg(value_name = "strewn://BUCKET/PATH")]
    place: Remote,
    #[command(flatten)]
    access: AccessArg,
    /// JSON
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub(crate) async fn run(self) -> Outcome {
        let (session, place) = Session::open(&self.access, &self.place).await?;
        let stat = session.paths.stat(place.path.as_bytes(), Last::Keep).await.at(&place)?;
        let shown = Shown::new(place.file_name().as_bytes(), &stat);
        if self.json {
            output::json(&shown)?;
        } else {
            let value = serde_json::to_value(&shown).context("describing the file")?;
            for (name, value) in value.as_object().into_iter().flatten() {
                match name.as_str() {
                    "mode" => output::line(format_args!("{name:10} {:04o}", shown.mode))?,
                    _ => output::line(format_args!(
                        "{name:10} {}",
                        value.as_str().map_or(value.to_string(), str::to_owned)
                    ))?,
                }
            }
        }
        session.finish().await
    }
}
