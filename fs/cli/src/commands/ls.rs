//! `strewn ls`.

use super::AccessArg;
use crate::error::{Context, Outcome};
use crate::location::Remote;
use crate::output;
use crate::session::{At, Session};
use crate::{config, remote};
use serde::Serialize;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_fs::volume::Stat;
use strewn_fs::volume::path::Last;

/// List buckets, or what is in a directory of one
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// What to list; without it the buckets
    #[arg(value_name = "strewn://BUCKET/PATH")]
    place: Option<Remote>,
    #[command(flatten)]
    access: AccessArg,
    /// Also what is in the directories below
    #[arg(long, short)]
    recursive: bool,
    /// One line of JSON per entry
    #[arg(long)]
    json: bool,
}

/// An entry as `--json` prints it.
#[derive(Serialize)]
pub(crate) struct Shown {
    /// Path from the listed directory on. What is no UTF-8 is replaced.
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    /// RFC 3339.
    pub(crate) modified: String,
    pub(crate) inode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

impl Ls {
    pub(crate) async fn run(self) -> Outcome {
        match &self.place {
            None => self.buckets().await,
            Some(place) => self.entries(place).await,
        }
    }

    async fn buckets(&self) -> Outcome {
        let grant = config::load_access(self.access.access.as_deref())?;
        let uplink = remote::connect(&grant).await?;
        let mut buckets = uplink.buckets().await.context("listing buckets")?;
        buckets.sort_by(|a, b| a.name.cmp(&b.name));
        for bucket in buckets {
            let created = time(Timestamp { seconds: bucket.created, nanos: 0 });
            let redundancy = bucket.redundancy.to_string();
            if self.json {
                let id = bucket.settings.bucket.to_string();
                output::json(&serde_json::json!({
                    "name": bucket.name, "id": id, "created": created, "redundancy": redundancy,
                    "segment_size": bucket.settings.segment_size,
                }))?;
            } else {
                output::line(format_args!("{created}  {redundancy:>12}  {}", bucket.name))?;
            }
        }
        Ok(())
    }

    async fn entries(&self, place: &Remote) -> Outcome {
        let (session, place) = Session::open(&self.access, place).await?;
        let stat = session.paths.stat(place.path.as_bytes(), Last::Keep).await.at(&place)?;
        if stat.attributes.kind != Kind::Directory {
            self.show(place.file_name().as_bytes(), &stat)?;
            return session.finish().await;
        }
        // Depth first, with the directories that are still to be listed; only their paths are kept.
        let mut ahead: Vec<Vec<u8>> = vec![Vec::new()];
        while let Some(below) = ahead.pop() {
            let path = join(place.path.as_bytes(), &below);
            let mut listing = session.paths.list(&path).await.at(&place)?;
            let mut lines = Vec::new();
            while let Some((name, stat)) = listing.next().await.at(&place)? {
                lines.push((join(&below, &name), stat));
            }
            lines.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, stat) in &lines {
                self.show(name, stat)?;
            }
            if self.recursive {
                let directories = lines.into_iter().rev().filter(|(_, stat)| stat.attributes.kind == Kind::Directory);
                ahead.extend(directories.map(|(name, _)| name));
            }
        }
        session.finish().await
    }

    fn show(&self, name: &[u8], stat: &Stat) -> Outcome {
        let shown = Shown::new(name, stat);
        if self.json {
            return output::json(&shown);
        }
        let mark = if stat.attributes.kind == Kind::Directory { "/" } else { "" };
        let target = shown.target.map(|target| format!(" -> {target}")).unwrap_or_default();
        let Shown { name, size, modified, .. } = shown;
        output::line(format_args!("{modified}  {size:>15}  {name}{mark}{target}"))
    }
}

impl Shown {
    pub(crate) fn new(name: &[u8], stat: &Stat) -> Self {
        let attributes = &stat.attributes;
        let target = &attributes.target;
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            kind: kind_name(attributes.kind),
            size: attributes.size,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            nlink: stat.nlink,
            modified: time(attributes.mtime),
            inode: stat.inode.to_string(),
            target: (!target.is_empty()).then(|| String::from_utf8_lossy(target).into_owned()),
        }
    }
}

/// `parent/name`, or `name` at the top.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match (parent, name) {
        ([], name) => name.to_vec(),
        (parent, []) => parent.to_vec(),
        (parent, name) => [parent, b"/", name].concat(),
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "character device",
        Kind::BlockDevice => "block device",
    }
}

fn time(at: Timestamp) -> String {
    let moment = jiff::Timestamp::from_second(at.seconds);
    moment.map_or_else(|_| format!("{} s", at.seconds), |moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
