//! What the operator of a satellite does and sees.

use super::Satellite;
use super::nodes::hash;
use crate::metabase::sweep::{self, Swept};
use crate::metabase::{Error, access, buckets, nodes as node_rows};
use crate::random;
use strewn_engine::grant::ApiKey;
use strewn_engine::ids::{ApiKeyId, BucketId, NodeId, SatelliteId};

/// A satellite at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its public key.
    pub satellite: SatelliteId,
    /// Known nodes.
    pub nodes: u32,
    /// Nodes that are online.
    pub online: u32,
    /// Free bytes of online nodes.
    pub free: u64,
    /// Buckets.
    pub buckets: u32,
    /// Logical bytes of all buckets.
    pub bytes: u64,
}

/// A storage node as the satellite knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its id.
    pub node: NodeId,
    /// Where it answered.
    pub addresses: Vec<String>,
    /// Seen lately enough.
    pub online: bool,
    /// Last check-in, seconds since 1970.
    pub seen: i64,
    /// Bytes it offers.
    pub capacity: u64,
    /// Bytes it could still take.
    pub free: u64,
    /// Bytes it was credited for.
    pub earned: u64,
    /// Its software.
    pub software: String,
}

/// A bucket as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketStatus {
    /// Its id.
    pub bucket: BucketId,
    /// Its name.
    pub name: String,
    /// Logical bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Most bytes of files, holes not counted, that it may hold.
    pub quota: Option<u64>,
}

impl Satellite {
    /// Makes an API key without restrictions.
    pub async fn create_api_key(&self) -> Result<ApiKey, Error> {
        let id = ApiKeyId::from_bytes(random::bytes()?);
        let now = self.seconds();
        self.inner.database.write(move |connection| access::add_key(connection, id, now)).await?;
        self.inner.keys.write().insert(id);
        Ok(ApiKey::create(id, &self.inner.identity.api_key_secret(id)))
    }

    /// Makes a ticket with which one node may join. It is kept only as a hash.
    pub async fn create_ticket(&self) -> Result<String, Error> {
        let ticket = data_encoding::BASE32_NOPAD.encode(&random::bytes::<20>()?).to_lowercase();
        let (hash, now) = (hash(&ticket), self.seconds());
        self.inner.database.write(move |connection| access::add_ticket(connection, &hash, now)).await?;
        Ok(ticket)
    }

    /// The satellite at a glance.
    pub async fn status(&self) -> Result<Status, Error> {
        let buckets = self.buckets().await?;
        let nodes = self.inner.registry.all();
        let since = self.online_since();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Status {
            satellite: self.id(),
            nodes: count(nodes.len()),
            online: count(nodes.iter().filter(|(_, known)| known.seen >= since).count()),
            free: self.inner.registry.free(since),
            buckets: count(buckets.len()),
            bytes: buckets.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.bytes)),
        })
    }

    /// All nodes, by id.
    pub async fn nodes(&self) -> Result<Vec<NodeStatus>, Error> {
        let mut nodes = self.inner.registry.all();
        nodes.sort_unstable_by_key(|(node, _)| *node);
        let since = self.online_since();
        let read = self.inner.database.read(move |connection| {
            let status = |(node, known): (NodeId, crate::registry::Known)| {
                Ok(NodeStatus {
                    node,
                    online: known.seen >= since,
                    earned: node_rows::earned(connection, node)?,
                    addresses: known.addresses,
                    seen: known.seen,
                    capacity: known.capacity,
                    free: known.free,
                    software: known.software,
                })
            };
            nodes.into_iter().map(status).collect()
        });
        read.await
    }

    /// All buckets, by name.
    pub async fn buckets(&self) -> Result<Vec<BucketStatus>, Error> {
        let all = self.inner.database.read(buckets::all).await?;
        let status = |bucket: buckets::Bucket| BucketStatus {
            bucket: bucket.bucket,
            name: bucket.name,
            bytes: bucket.bytes,
            inodes: bucket.inodes,
            quota: bucket.quota,
        };
        Ok(all.into_iter().map(status).collect())
    }

    /// Sets the most bytes of files, holes not counted, that a bucket may hold.
    pub async fn set_quota(&self, bucket: BucketId, quota: Option<u64>) -> Result<(), Error> {
        let write = self.inner.database.write(move |connection| {
            let bucket = buckets::by_id(connection, bucket)?;
            buckets::set_quota(connection, &bucket, quota)
        });
        write.await
    }

    /// Removes what nothing refers to: segments that were idle for a day at the moment `now` (seconds since 1970), rows of
    /// removed buckets, orders that can be settled no more. Metadata only; returns when nothing is left to do.
    pub async fn collect_unreferenced(&self, now: i64) -> Result<Swept, Error> {
        let mut all = Swept::default();
        loop {
            let step = self.inner.database.write(move |connection| sweep::step(connection, now)).await?;
            if step.is_empty() {
                return Ok(all);
            }
            all.add(step);
        }
    }
}
