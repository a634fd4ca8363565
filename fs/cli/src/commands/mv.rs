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
        let session = Session::open(&self.access, &self.from).await?;
        let is_directory = match session.paths.stat(self.to.path.as_bytes(), Last::Follow).await {
            Ok(stat) => stat.attributes.kind == Kind::Directory,
            Err(error) if error.errno() == rustix::io::Errno::NOENT => false,
            Err(error) => return Err(error).at(&self.to),
        };
        let to = if is_directory { self.to.join(self.from.file_name()) } else { self.to.clone() };
        session.paths.rename(self.from.path.as_bytes(), to.path.as_bytes()).await.at(&self.from)?;
        session.finish().await
    }
}
