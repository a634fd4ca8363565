//! Opening what a grant opens: a bucket, and the directory or file of it that a path names.
//!
//! Paths are those of the bucket, also under a grant that opens only places of it: each of them is found under the path it had
//! when it was shared. If a grant opens a single place, paths may also begin there.

mod start;

use crate::error::{Context, Failure, Outcome};
use crate::location::Remote;
use crate::places::Memory;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::Root;
use strewn_engine::bucket::{BucketService, Entry, Error, Kind};
use strewn_engine::grant::{AccessGrant, Actions, Start};
use strewn_engine::ids::BucketId;
use strewn_engine::keys::DirectoryKeys;
use strewn_engine::name::Name;
use strewn_peers::uplink::{OpenBucket, Place, Uplink, UplinkError};

/// A place that a grant opens.
pub(crate) struct Opened {
    /// The connection that `service` goes over.
    pub(crate) uplink: Uplink,
    pub(crate) service: Arc<dyn BucketService>,
    pub(crate) bucket: BucketId,
    pub(crate) root: Root,
    pub(crate) kind: Kind,
    /// The place, by its path in the bucket.
    pub(crate) place: Remote,
    /// What the grant opens in the bucket.
    pub(crate) starts: Vec<Start>,
    /// The grant allows no change.
    pub(crate) read_only: bool,
    /// The grant allows removals.
    pub(crate) may_delete: bool,
}

impl Opened {
    /// Another place of what was opened, by its path in the bucket.
    pub(crate) fn within(&self, place: &Remote) -> Outcome<Remote> {
        let (start, place) = start::choose(&self.starts, place)?;
        if start.inode == self.root.inode {
            Ok(place)
        } else {
            Err(Failure::usage(format!("{} and {place} were shared separately", self.place)))
        }
    }
}

/// How long the satellite may take to answer before a place is opened from what it said the last time.
const RECALL_AFTER: Duration = Duration::from_millis(300);

/// Opens a directory; while the satellite is away, as it was the last time.
pub(crate) async fn open_or_recall(grant: &AccessGrant, place: &Remote) -> Outcome<Opened> {
    let uplink = connect(grant).await?;
    let memory = Memory::of(grant, place)?;
    let asked = match memory.known() {
        None => uplink.bucket(&place.bucket).await,
        Some(known) => match tokio::time::timeout(RECALL_AFTER, uplink.bucket(&place.bucket)).await {
            Ok(Err(UplinkError::Bucket(Error::Unreachable(_)))) | Err(_) => {
                tracing::warn!("the satellite does not answer: {place} is opened as it was the last time");
                let bucket = uplink.reopen(known).map_err(|error| explain(&place.bucket, &error))?;
                let (opened, _) = enter(grant, uplink, bucket, place, Some(&known.entries)).await?;
                return directory(opened, place);
            }
            Ok(asked) => asked,
        },
    };
    let bucket = asked.map_err(|error| explain(&place.bucket, &error))?;
    let (opened, entries) = enter(grant, uplink, bucket.clone(), place, None).await?;
    memory.keep(&Place::new(&bucket, entries));
    directory(opened, place)
}

fn directory(opened: Opened, place: &Remote) -> Outcome<Opened> {
    match opened.kind {
        Kind::Directory => Ok(opened),
        _ => Err(Failure::new(format!("{place} is not a directory"))
            .hint("'strewn cat' and 'strewn cp' read a single file that was shared")),
    }
}

/// Opens a file or directory.
pub(crate) async fn open_any(grant: &AccessGrant, place: &Remote) -> Outcome<Opened> {
    let uplink = connect(grant).await?;
    let bucket = open_bucket(&uplink, &place.bucket).await?;
    Ok(enter(grant, uplink, bucket, place, None).await?.0)
}

/// Opens what a grant opens and `place` is in: the bucket's root, or a shared file or directory.
pub(crate) async fn open_start(grant: &AccessGrant, place: &Remote) -> Outcome<Opened> {
    let uplink = connect(grant).await?;
    let bucket = open_bucket(&uplink, &place.bucket).await?;
    let path = start::choose(&bucket.starts, place)?.0.path.clone();
    let start = Remote { path, directory: false, ..place.clone() };
    Ok(enter(grant, uplink, bucket, &start, None).await?.0)
}

/// Follows a path from where the grant begins: the bucket's root, or what was shared. Gives the entries on the way, which
/// are asked for unless they are `known`.
async fn enter(
    grant: &AccessGrant,
    uplink: Uplink,
    bucket: OpenBucket,
    place: &Remote,
    known: Option<&[Entry]>,
) -> Outcome<(Opened, Vec<Entry>)> {
    let (start, place) = start::choose(&bucket.starts, place)?;
    let rest = start::below(&start.path, &place.path).unwrap_or_default();
    let service: Arc<dyn BucketService> = bucket.service;
    let mut entries = Vec::new();
    let mut root = Root { inode: start.inode, key: start.key.clone() };
    let mut kind = start.kind;
    for component in rest.split('/').filter(|component| !component.is_empty()) {
        if kind != Kind::Directory {
            return Err(Failure::new(format!("{place}: {component:?} is below something that is not a directory")));
        }
        let name = Name::new(component.as_bytes()).map_err(|error| Failure::usage(format!("{place}: {error}")))?;
        let keys = DirectoryKeys::new(&root.key);
        let encrypted = keys.encrypt_name(root.inode, &name);
        let found = match known {
            Some(known) => known.get(entries.len()).filter(|entry| entry.name == encrypted).cloned(),
            None => service.entry(root.inode, &encrypted).await.context(&place)?.map(|(entry, _)| entry),
        };
        let entry = found.ok_or_else(|| Failure::new(format!("{place}: {component:?} not found")))?;
        root = Root { inode: entry.child, key: keys.open_child(&entry).context(&place)? };
        kind = entry.kind;
        entries.push(entry);
    }
    let (id, starts, rights) = (service.settings().bucket, bucket.starts, rights(grant));
    let (read_only, may_delete) = (!rights.write, rights.delete);
    Ok((Opened { uplink, service, bucket: id, starts, root, kind, place, read_only, may_delete }, entries))
}

/// Connects under a grant. Nothing is asked of the network yet.
pub(crate) async fn connect(grant: &AccessGrant) -> Outcome<Uplink> {
    Uplink::connect(grant).await.context("connecting")
}

/// Opens a bucket by name.
pub(crate) async fn open_bucket(uplink: &Uplink, name: &str) -> Outcome<OpenBucket> {
    uplink.bucket(name).await.map_err(|error| explain(name, &error))
}

/// An account operation's failure on a bucket, with what to do next.
pub(crate) fn explain(bucket: &str, error: &UplinkError) -> Failure {
    let failure = Failure::new(format!("bucket {bucket:?}: {}", crate::error::chain(error)));
    match error {
        UplinkError::WrongPassphrase(_) => failure.hint("the grant belongs to another passphrase or bucket"),
        UplinkError::Bucket(Error::Unreachable(_)) => {
            failure.hint("is the satellite running, and its address in the grant right?")
        }
        UplinkError::Bucket(Error::NotFound(_)) => failure.hint("'strewn ls' lists the buckets, 'strewn mb' makes one"),
        _ => failure,
    }
}

/// What the caveats of a grant leave.
fn rights(grant: &AccessGrant) -> Actions {
    let caveats = grant.inspect().caveats;
    caveats.iter().flatten().fold(Actions::ALL, |rights, caveat| rights.without(caveat.disallow))
}
