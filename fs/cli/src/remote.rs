//! Opening what a grant opens: a bucket, and the directory or file of it that a path names.

use crate::error::{Context, Failure, Outcome};
use crate::location::Remote;
use crate::places::Memory;
use std::sync::Arc;
use std::time::Duration;
use strewn_cache::Root;
use strewn_engine::bucket::{BucketService, Entry, Error, Kind};
use strewn_engine::grant::{AccessGrant, Actions};
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
    /// The grant allows no change.
    pub(crate) read_only: bool,
}

/// How long the satellite may take to answer before a place is opened from what it said the last time.
const RECALL_AFTER: Duration = Duration::from_millis(300);

/// Opens a directory.
pub(crate) async fn open(grant: &AccessGrant, place: &Remote) -> Outcome<Opened> {
    directory(open_any(grant, place).await?, place)
}

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
        _ => Err(Failure::new(format!("{place} is not a directory"))),
    }
}

/// Opens a file or directory.
pub(crate) async fn open_any(grant: &AccessGrant, place: &Remote) -> Outcome<Opened> {
    let uplink = connect(grant).await?;
    let bucket = open_bucket(&uplink, &place.bucket).await?;
    Ok(enter(grant, uplink, bucket, place, None).await?.0)
}

/// Follows a path from where the grant begins: the bucket's root, or the shared directory. Gives the entries on the way, which
/// are asked for unless they are `known`.
async fn enter(
    grant: &AccessGrant,
    uplink: Uplink,
    bucket: OpenBucket,
    place: &Remote,
    known: Option<&[Entry]>,
) -> Outcome<(Opened, Vec<Entry>)> {
    let start = bucket.starts.first().expect("an opened bucket has a start");
    let service: Arc<dyn BucketService> = bucket.service;
    let mut entries = Vec::new();
    let mut root = Root { inode: start.inode, key: start.key.clone() };
    let mut kind = start.kind;
    for component in place.path.split('/').filter(|component| !component.is_empty()) {
        if kind != Kind::Directory {
            return Err(Failure::new(format!("{place}: {component:?} is below something that is not a directory")));
        }
        let name = Name::new(component.as_bytes()).map_err(|error| Failure::usage(format!("{place}: {error}")))?;
        let keys = DirectoryKeys::new(&root.key);
        let encrypted = keys.encrypt_name(root.inode, &name);
        let found = match known {
            Some(known) => known.get(entries.len()).filter(|entry| entry.name == encrypted).cloned(),
            None => service.entry(root.inode, &encrypted).await.context(place)?.map(|(entry, _)| entry),
        };
        let entry = found.ok_or_else(|| Failure::new(format!("{place}: {component:?} not found")))?;
        root = Root { inode: entry.child, key: keys.open_child(&entry).context(place)? };
        kind = entry.kind;
        entries.push(entry);
    }
    let bucket = service.settings().bucket;
    Ok((Opened { uplink, service, bucket, root, kind, read_only: is_read_only(grant) }, entries))
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

/// True if no change is possible with a grant: its caveats leave neither write nor delete.
fn is_read_only(grant: &AccessGrant) -> bool {
    let caveats = grant.inspect().caveats;
    let rights = caveats.iter().flatten().fold(Actions::ALL, |rights, caveat| rights.without(caveat.disallow));
    !rights.write
}
