//! Leases on names: who holds what in which bucket.
//!
//! They are in memory, and decided by the thread that writes, within its transactions: so a grant and the batches before
//! and after it have one order. What a restart must not forget is written before the answer.
//!
//! A mount is known by its id *and* its key: nobody gives up or renews what another key's mount holds.

use super::{Caller, Satellite};
use crate::metabase::leases as rows;
use crate::metabase::lines::Reach;
use crate::metabase::{Error, access, buckets};
use crate::rights;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::collections::HashMap;
use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, Lapse, LeaseReply, LeaseRequest, Leases, Saved};
use strewn_engine::bucket::{self, Commit};
use strewn_engine::ids::{BucketId, MountId};
use strewn_wire::satellite::Reply;
use tokio::sync::watch;

/// The leases of all buckets.
pub(super) struct Keeper {
    buckets: Mutex<HashMap<BucketId, Leases>>,
    /// How often something was recalled, of buckets in which somebody waits for it.
    recalls: Mutex<HashMap<BucketId, watch::Sender<u64>>>,
}

impl Keeper {
    pub(super) fn new(now: Duration, saved: HashMap<BucketId, Saved>) -> Self {
        let restore = |(bucket, saved)| (bucket, Leases::restore(now, saved));
        let buckets = Mutex::new(saved.into_iter().map(restore).collect());
        Self { buckets, recalls: Mutex::default() }
    }

    /// Works on the leases of a bucket, and wakes those who wait if something was recalled.
    fn with<T>(&self, bucket: BucketId, work: impl FnOnce(&mut Leases) -> T) -> T {
        let mut buckets = self.buckets.lock();
        let leases = buckets.entry(bucket).or_default();
        let before = leases.recalls();
        let value = work(leases);
        let recalled = leases.recalls() != before;
        drop(buckets);
        if recalled && let Some(waiting) = self.recalls.lock().get(&bucket) {
            waiting.send_modify(|count| *count += 1);
        }
        value
    }

    /// Forgets a bucket that was removed.
    pub(super) fn forget(&self, bucket: BucketId) {
        self.buckets.lock().remove(&bucket);
        self.recalls.lock().remove(&bucket);
    }

    fn follow(&self, bucket: BucketId) -> watch::Receiver<u64> {
        let mut recalls = self.recalls.lock();
        recalls.retain(|_, waiting| waiting.receiver_count() > 0);
        recalls.entry(bucket).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    fn must_ask(&self, now: Duration, bucket: BucketId, lease: HeldLease) -> bool {
        let buckets = self.buckets.lock();
        buckets.get(&bucket).is_none_or(|leases| leases.must_ask(now, lease.mount, lease.epoch))
    }
}

impl Caller {
    /// A mount of this key as the keeper knows it.
    fn holder(&self, mount: MountId) -> MountId {
        let mut hash = blake3::Hasher::new_derive_key("strewn 2026 holder of leases");
        for tail in self.tails.iter() {
            hash.update(&tail.0);
        }
        hash.update(mount.as_bytes());
        let mut id = [0; MountId::LEN];
        hash.finalize_xof().fill(&mut id);
        MountId::from_bytes(id)
    }
}

impl Satellite {
    pub(super) async fn lease(&self, caller: Caller, id: BucketId, request: LeaseRequest) -> Result<Reply, Error> {
        rights::require_bucket(&caller.permissions, id)?;
        request.check()?;
        let satellite = self.clone();
        let decide = move |connection: &Connection| satellite.decide(connection, &caller, id, request);
        let (reply, saved) = self.inner.database.write(decide).await?;
        // Only now: what was not committed, or nobody waited for, is saved with the next answer.
        if let Some(change) = saved {
            self.inner.leases.with(id, |leases| leases.note_saved(change));
        }
        Ok(Reply::Lease(reply))
    }

    /// Answers a request; with the change of the leases that is remembered once the transaction is.
    fn decide(
        &self,
        connection: &Connection,
        caller: &Caller,
        id: BucketId,
        mut request: LeaseRequest,
    ) -> Result<(LeaseReply, Option<u64>), Error> {
        access::check_alive(connection, &caller.tails)?;
        let bucket = buckets::by_id(connection, id)?;
        let mut reach = Reach::new(connection, bucket.place(), &caller.permissions);
        rights::check_lease(&mut reach, &bucket, &caller.permissions, &request)?;
        request.mount = caller.holder(request.mount);
        let now = self.inner.clock.elapsed();
        let (reply, unsaved) = self.inner.leases.with(id, |leases| -> Result<_, bucket::Error> {
            let reply = leases.request(now, &request, bucket.sequence)?;
            Ok((reply, leases.unsaved().map(|change| (change, leases.saved()))))
        })?;
        if let Some((_, saved)) = &unsaved {
            rows::save(connection, bucket.number, saved)?;
        }
        Ok((reply, unsaved.map(|(change, _)| change)))
    }

    /// Judges a batch, within the transaction that applies it.
    pub(super) fn check_lease(
        &self,
        caller: &Caller,
        bucket: BucketId,
        commit: &Commit,
        lease: Option<HeldLease>,
    ) -> Result<(), Lapse> {
        let mount = caller.holder(lease.map_or(commit.mount, |lease| lease.mount));
        let (now, epoch) = (self.inner.clock.elapsed(), lease.map(|lease| lease.epoch));
        self.inner.leases.with(bucket, |leases| leases.check_commit(now, mount, epoch, commit))
    }

    pub(super) async fn recalled(
        &self,
        caller: Caller,
        bucket: BucketId,
        lease: HeldLease,
        wait: Duration,
    ) -> Result<Reply, Error> {
        rights::require_in(&caller.permissions, bucket, strewn_engine::grant::Action::Write)?;
        let lease = HeldLease { mount: caller.holder(lease.mount), ..lease };
        let mut recalls = self.inner.leases.follow(bucket);
        let must_ask = || self.inner.leases.must_ask(self.inner.clock.elapsed(), bucket, lease);
        let waiting = recalls.wait_for(|_| must_ask());
        // The guard of the value must not be held any longer.
        let recalled = matches!(tokio::time::timeout(wait.min(super::MAX_WAIT), waiting).await, Ok(Ok(_)));
        Ok(Reply::Recalled(recalled || must_ask()))
    }
}

/// What a lapse is called for those who do not know leases: something that passes.
pub(super) fn unavailable(lapse: Lapse) -> Error {
    bucket::Error::Unavailable(lapse.to_string()).into()
}
