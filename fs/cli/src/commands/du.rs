//! `strewn du`.

use super::AccessArg;
use super::ls::join;
use crate::error::Outcome;
use crate::location::Remote;
use crate::output;
use crate::session::{At, Session};
use std::collections::HashSet;
use strewn_engine::bucket::Kind;
use strewn_fs::volume::path::Last;

/// Count files and bytes below a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Du {
    /// Where to begin
    #[arg(value_name = "strewn://BUCKET/PATH")]
    place: Remote,
    #[command(flatten)]
    access: AccessArg,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// What was counted. A file with several names counts once.
#[derive(Default, serde::Serialize)]
struct Counted {
    files: u64,
    directories: u64,
    bytes: u64,
    allocated: u64,
}

impl Du {
    pub(crate) async fn run(self) -> Outcome {
        let (session, place) = Session::open(&self.access, &self.place).await?;
        let mut counted = Counted::default();
        let mut linked = HashSet::new();
        let top = session.paths.stat(place.path.as_bytes(), Last::Keep).await.at(&place)?;
        let mut ahead = Vec::new();
        let mut count = |stat: &strewn_fs::volume::Stat| {
            if stat.attributes.kind == Kind::Directory {
                counted.directories += 1;
            } else if stat.nlink < 2 || linked.insert(stat.inode) {
                counted.files += 1;
                counted.bytes += stat.attributes.size;
                counted.allocated += stat.allocated;
            }
        };
        count(&top);
        if top.attributes.kind == Kind::Directory {
            ahead.push(place.path.clone().into_bytes());
        }
        while let Some(path) = ahead.pop() {
            let mut listing = session.paths.list(&path).await.at(&place)?;
            while let Some((name, stat)) = listing.next().await.at(&place)? {
                count(&stat);
                if stat.attributes.kind == Kind::Directory {
                    ahead.push(join(&path, &name));
                }
            }
        }
        session.finish().await?;
        if self.json {
            return output::json(&counted);
        }
        let Counted { files, directories, bytes, allocated } = counted;
        let shown = output::bytes(bytes);
        output::line(format_args!(
            "{bytes} bytes ({shown}, {allocated} allocated) in {files} files, {directories} directories"
        ))
    }
}
