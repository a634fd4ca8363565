//! `strewn mv`.

use super::AccessArg;
use crate::error::{Failure, Outcome};
use crate::location::Remote;
use crate::session::{At, Session};
use strewn_engine::bucket::Kind;
use strewn_fs::volume::path::Last;

/// Move or rename within a bucket; no content is transferred
#[derive(Debug, clap::Args)]
pub(crate) struct Mv {
    /// What to move
    #[arg(value_name = "strewn://BUCKET/FROM")]
    from: Remote,
    /// Its new name, or a directory to move it into
    #[arg(value_name = "strewn://BUCKET/TO")]
    to: Remote,
    #[command(flatten)]
    access: AccessArg,
}

impl Mv {
    pub(crate) async fn run(self) -> Outcome {
        if self.from.bucket != self.to.bucket {
            return Err(Failure::usage("mv works within one bucket").hint("copy with 'strewn cp -r', then remove"));
        }
        let (session, from) = Session::open(&self.access, &self.from).await?;
        let to = session.within(&self.to)?;
        let moved = session.paths.stat(from.path.as_bytes(), Last::Keep).await.at(&from)?;
        // A directory may get this name, with a slash or without.
        let directory = to.directory && moved.attributes.kind != Kind::Directory;
        let to = session.inside_directory(&Remote { directory, ..to }, Some(from.file_name())).await?;
        session.paths.rename(from.path.as_bytes(), to.path.as_bytes()).await.at(&from)?;
        session.finish().await
    }
}
