//! Requests about buckets and their trees.

use super::{Caller, MAX_WAIT, Satellite, Session, invalid};
use crate::metabase::buckets::{self, Bucket};
use crate::metabase::lines::Reach;
use crate::metabase::tree::Tree;
use crate::metabase::{Error, access, feed, read, streams};
use crate::rights;
use rusqlite::Connection;
use std::ops::Range;
use std::time::Duration;
use strewn_engine::bucket::lease::HeldLease;
use strewn_engine::bucket::plan::{self, Outcome, Turn};
use strewn_engine::bucket::{self, Changes, Commit, CommitReply, EncryptedName, MAX_PAGE, Sealed};
use strewn_engine::content::BLOCK;
use strewn_engine::grant::Action;
use strewn_engine::ids::{BucketId, InodeId, RunId};
use strewn_engine::segment::MAX_SEGMENT;
use strewn_wire::satellite::{CreateBucket, Reply};

/// Most bytes of a bucket's derivation.
const MAX_DERIVATION: usize = 256;

/// What lets one look at a name or inode that one knows of: who may only write has to see what is in the way.
const LOOKUP: &[Action] = &[Action::Read, Action::Write];

impl Satellite {
    pub(super) async fn create_bucket(&self, caller: Caller, new: CreateBucket) -> Result<Reply, Error> {
        rights::require_write(&caller.permissions)?;
        if !caller.permissions.is_everywhere() {
            return Err(bucket::Error::Forbidden("a grant to subtrees makes no buckets".to_owned()).into());
        }
        check_new_bucket(&new)?;
        let redundancy = new.redundancy.unwrap_or(self.inner.settings.redundancy);
        let now = self.inner.clock.now();
        let bucket = self.inner.database.write(move |connection| {
            access::check_alive(connection, &caller.tails)?;
            buckets::create(connection, &new, redundancy, caller.api_key, now)
        });
        Ok(Reply::Bucket(bucket.await?.info()))
    }

    pub(super) async fn open_bucket(&self, caller: Caller, name: String) -> Result<Reply, Error> {
        let everywhere = caller.permissions.is_everywhere();
        let found = self.inner.database.read(move |connection| buckets::by_name(connection, &name)).await;
        match found {
            Err(Error::Refused(bucket::Error::NotFound(_))) if !everywhere => {
                Err(bucket::Error::Forbidden("outside of what the grant opens".to_owned()).into())
            }
            Err(error) => Err(error),
            Ok(bucket) => {
                rights::require_bucket(&caller.permissions, bucket.bucket)?;
                Ok(Reply::Bucket(bucket.info()))
            }
        }
    }

    pub(super) async fn list_buckets(&self, caller: Caller) -> Result<Reply, Error> {
        rights::require(&caller.permissions, Action::List)?;
        let all = self.inner.database.read(buckets::all).await?;
        let seen = all.iter().filter(|bucket| caller.permissions.sees_bucket(bucket.bucket));
        Ok(Reply::Buckets(seen.map(Bucket::info).collect()))
    }

    pub(super) async fn remove_bucket(&self, caller: Caller, bucket: BucketId, force: bool) -> Result<Reply, Error> {
        rights::require_in(&caller.permissions, bucket, Action::Delete)?;
        let removed = self.inner.database.write(move |connection| {
            access::check_alive(connection, &caller.tails)?;
            let bucket = buckets::by_id(connection, bucket)?;
            rights::require_covered(&mut Reach::new(connection, bucket.place(), &caller.permissions), bucket.root)?;
            buckets::remove(connection, &bucket, force)
        });
        removed.await?;
        self.inner.feeds.lock().remove(&bucket);
        self.inner.leases.forget(bucket);
        Ok(Reply::Done)
    }

    pub(super) async fn entry(
        &self,
        caller: Caller,
        bucket: BucketId,
        parent: InodeId,
        name: EncryptedName,
    ) -> Result<Reply, Error> {
        let read = move |connection: &Connection, bucket: &Bucket| read::entry(connection, bucket, parent, &name);
        Ok(Reply::Entry(self.look(caller, bucket, LOOKUP, parent, read).await?))
    }

    pub(super) async fn entries(
        &self,
        caller: Caller,
        bucket: BucketId,
        directory: InodeId,
        after: Option<EncryptedName>,
        limit: u32,
    ) -> Result<Reply, Error> {
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(invalid(format!("page of {limit} entries")));
        }
        let read = move |connection: &Connection, bucket: &Bucket| {
            read::entries(connection, bucket, directory, after.as_ref(), limit)
        };
        Ok(Reply::Entries(self.look(caller, bucket, &[Action::List], directory, read).await?))
    }

    pub(super) async fn inode(&self, caller: Caller, bucket: BucketId, inode: InodeId) -> Result<Reply, Error> {
        let read = move |connection: &Connection, bucket: &Bucket| read::inode(connection, bucket, inode);
        Ok(Reply::Inode(self.look(caller, bucket, LOOKUP, inode, read).await?))
    }

    pub(super) async fn extents(
        &self,
        caller: Caller,
        bucket: BucketId,
        inode: InodeId,
        range: Range<u64>,
    ) -> Result<Reply, Error> {
        let read = move |connection: &Connection, bucket: &Bucket| {
            read::extents(connection, bucket, inode, range.start, range.end - range.start)
        };
        Ok(Reply::Extents(self.look(caller, bucket, &[Action::Read], inode, read).await?))
    }

    pub(super) async fn locate_run(
        &self,
        caller: Caller,
        bucket: BucketId,
        (inode, run): (InodeId, RunId),
        first: u64,
        count: u64,
    ) -> Result<Reply, Error> {
        let read = move |connection: &Connection, bucket: &Bucket| {
            read::check_refers(connection, bucket, inode, run)?;
            read::locate(connection, bucket, run, first, count)
        };
        Ok(Reply::Run(self.look(caller, bucket, &[Action::Read], inode, read).await?))
    }

    pub(super) async fn usage(&self, caller: Caller, bucket: BucketId) -> Result<Reply, Error> {
        rights::require_bucket(&caller.permissions, bucket)?;
        let free = self.inner.registry.free(self.online_since());
        let found = self.inner.database.read(move |connection| buckets::by_id(connection, bucket)).await?;
        let scheme = found.fixed.redundancy;
        let available = u128::from(free) * u128::from(scheme.required) / u128::from(scheme.total.max(1));
        Ok(Reply::Usage(found.usage(u64::try_from(available).unwrap_or(u64::MAX))))
    }

    pub(super) async fn commit(
        &self,
        caller: Caller,
        id: BucketId,
        commit: Commit,
        lease: Option<HeldLease>,
    ) -> Result<CommitReply, Error> {
        rights::require_bucket(&caller.permissions, id)?;
        // Hashing a large batch takes milliseconds.
        let checked =
            tokio::task::spawn_blocking(move || plan::check_shape(&commit).map(|()| (plan::digest(&commit), commit)));
        let (digest, commit) = checked.await.map_err(|_| Error::Closed)??;
        let satellite = self.clone();
        let write = move |connection: &Connection| satellite.apply(connection, &caller, id, &commit, &digest, lease);
        let reply = self.inner.database.write(write).await?;
        if let CommitReply::Applied { sequence } = reply
            && let Some(feed) = self.inner.feeds.lock().get(&id)
        {
            feed.send_if_modified(|newest| {
                let newer = *newest < sequence;
                *newest = sequence.max(*newest);
                newer
            });
        }
        Ok(reply)
    }

    /// Applies a batch within its transaction.
    fn apply(
        &self,
        connection: &Connection,
        caller: &Caller,
        id: BucketId,
        commit: &Commit,
        digest: &[u8; 32],
        lease: Option<HeldLease>,
    ) -> Result<CommitReply, Error> {
        access::check_alive(connection, &caller.tails)?;
        let bucket = buckets::by_id(connection, id)?;
        let (number, api_key) = (bucket.number, caller.api_key);
        if let Turn::Replay(reply) = streams::turn(connection, number, api_key, commit, digest)? {
            return Ok(reply);
        }
        rights::check_commit(connection, &bucket, &caller.permissions, commit)?;
        if let Err(lapse) = self.check_lease(caller, id, commit, lease) {
            return Ok(CommitReply::Lapsed(lapse));
        }
        let mut tree = Tree { connection, bucket: number, root: bucket.root, api_key };
        let reply = match plan::plan(&mut tree, commit)? {
            Outcome::Refuse { operation, reason } => CommitReply::Refused { operation, reason },
            Outcome::Apply(plan) => {
                let bytes = bucket.bytes.saturating_add_signed(plan.bytes);
                if plan.bytes > 0 && bucket.quota.is_some_and(|quota| bytes > quota) {
                    return Err(bucket::Error::Quota(format!("{bytes} bytes")).into());
                }
                tree.apply(&plan, self.seconds())?;
                CommitReply::Applied { sequence: feed::append(connection, &bucket, commit.mount, &plan)? }
            }
        };
        streams::keep(connection, number, api_key, commit, digest, &reply)?;
        Ok(reply)
    }

    pub(super) async fn changes(
        &self,
        session: &Session,
        bucket: BucketId,
        after: u64,
        wait: Duration,
    ) -> Result<Reply, Error> {
        let mut feed = self.follow(bucket);
        let changes = self.changes_now(session, bucket, after).await?;
        if !changes.changes.is_empty() || changes.gap || wait.is_zero() {
            return Ok(Reply::Changes(changes));
        }
        // The answer after an idle wait is as good as the first; after a change the right to it is judged again.
        // Only whether it woke: the value's guard must not be held while the answer is read.
        let woken = tokio::time::timeout(wait.min(MAX_WAIT), feed.wait_for(|newest| *newest > after)).await.is_ok();
        let changes = if woken { self.changes_now(session, bucket, after).await? } else { changes };
        Ok(Reply::Changes(changes))
    }

    async fn changes_now(&self, session: &Session, bucket: BucketId, after: u64) -> Result<Changes, Error> {
        let caller = self.authorize(session)?;
        rights::require_in(&caller.permissions, bucket, Action::Read)?;
        let read = move |connection: &Connection| {
            let bucket = buckets::by_id(connection, bucket)?;
            let mut reach = Reach::new(connection, bucket.place(), &caller.permissions);
            let restricted = (!caller.permissions.is_everywhere()).then_some(&mut reach);
            feed::page(connection, &bucket, after, restricted)
        };
        self.inner.database.read(read).await
    }

    fn follow(&self, bucket: BucketId) -> tokio::sync::watch::Receiver<u64> {
        let mut feeds = self.inner.feeds.lock();
        feeds.retain(|_, feed| feed.receiver_count() > 0);
        feeds.entry(bucket).or_insert_with(|| tokio::sync::watch::channel(0).0).subscribe()
    }

    /// Reads something that belongs to an inode the caller may use in one of these ways.
    async fn look<T: Send + 'static>(
        &self,
        caller: Caller,
        bucket: BucketId,
        actions: &[Action],
        inode: InodeId,
        read: impl FnOnce(&Connection, &Bucket) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        rights::require_any_in(&caller.permissions, bucket, actions)?;
        let look = move |connection: &Connection| {
            let bucket = buckets::by_id(connection, bucket)?;
            rights::require_covered(&mut Reach::new(connection, bucket.place(), &caller.permissions), inode)?;
            read(connection, &bucket)
        };
        self.inner.database.read(look).await
    }
}

fn check_new_bucket(new: &CreateBucket) -> Result<(), Error> {
    if !is_bucket_name(&new.name) {
        return Err(invalid("a bucket's name has 3 to 63 of a-z, 0-9, - and ., with a letter or digit at both ends"));
    }
    let record = (16..=Sealed::MAX_RECORD).contains(&new.record.bytes.len());
    if !record || new.root_key.bytes.len() != Sealed::KEY_LEN || new.derivation.len() > MAX_DERIVATION {
        return Err(invalid("length of a sealed field of the bucket"));
    }
    if !(BLOCK..=MAX_SEGMENT).contains(&new.segment_size) {
        return Err(invalid(format!("segments of {} bytes", new.segment_size)));
    }
    match new.redundancy {
        Some(scheme) if !scheme.is_valid() => Err(invalid(format!("redundancy {scheme}"))),
        _ => Ok(()),
    }
}

fn is_bucket_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = bytes.first().is_some_and(|byte| word(*byte)) && bytes.last().is_some_and(|byte| word(*byte));
    (3..=63).contains(&bytes.len()) && ends && bytes.iter().all(|byte| word(*byte) || matches!(byte, b'-' | b'.'))
}
