//! `strewn rm`.

use super::AccessArg;
use crate::error::{Each, Failure, Outcome};
use crate::location::Remote;
use crate::session::{At, Session};
use strewn_engine::bucket::Kind;
use strewn_fs::volume::path::Last;

/// Remove files, with -r directories
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// What to remove
    #[arg(required = true, value_name = "strewn://BUCKET/PATH")]
    places: Vec<Remote>,
    #[command(flatten)]
    access: AccessArg,
    /// Directories too, with everything in them
    #[arg(long, short)]
    recursive: bool,
    /// What does not exist is no error
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    pub(crate) async fn run(self) -> Outcome {
        let mut each = Each::default();
        for place in &self.places {
            each.note(self.remove(place).await);
        }
        each.outcome()
    }

    async fn remove(&self, place: &Remote) -> Outcome {
        let (session, place) = Session::open(&self.access, place).await?;
        self.remove_in(&session, &place).await?;
        session.finish().await
    }

    async fn remove_in(&self, session: &Session, place: &Remote) -> Outcome {
        let path = place.path.as_bytes();
        if path.is_empty() {
            return Err(Failure::usage(format!("{place} is a whole bucket")).hint("'strewn rb' removes buckets"));
        }
        if session.is_start(place) {
            return Err(Failure::usage(format!("{place} is all that the grant opens"))
                .hint("what is in it can be removed; itself only with a grant for the directory that it is in"));
        }
        let stat = match session.paths.stat(path, Last::Keep).await {
            Err(error) if self.force && error.errno() == rustix::io::Errno::NOENT => return Ok(()),
            stat => stat.at(place)?,
        };
        if stat.attributes.kind != Kind::Directory {
            return session.paths.remove(path).await.at(place);
        }
        if !self.recursive {
            return Err(Failure::new(format!("{place} is a directory")).hint("-r removes it with everything in it"));
        }
        session.paths.remove_tree(path, || {}).await.at(place)
    }
}
