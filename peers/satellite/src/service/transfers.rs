//! Requests about segments: where their pieces go and where they are, and the limits to move them.

use super::{Caller, Satellite, invalid};
use crate::metabase::buckets::{self, Bucket};
use crate::metabase::lines::Reach;
use crate::metabase::segments::{self, Pending, Piece, Segment};
use crate::metabase::{Error, access, read};
use crate::registry::Wish;
use crate::{random, rights};
use ed25519_dalek::VerifyingKey;
use rusqlite::Connection;
use std::collections::HashSet;
use strewn_engine::bucket;
use strewn_engine::grant::Action;
use strewn_engine::ids::{BucketId, InodeId, NodeId, RunId, SegmentId, Serial};
use strewn_engine::order::{self, OrderLimit, Signed};
use strewn_engine::redundancy::Redundancy;
use strewn_engine::segment::Geometry;
use strewn_wire::satellite::{Download, PieceLimit, Reply, StoredPiece, Upload};

/// Seconds a node accepts a limit.
pub(crate) const LIMIT_LIFETIME: i64 = 3_600;

/// Seconds after its making during which a limit counts: to settle its orders, and to end an upload made under it.
pub(crate) const LIMIT_COUNTS: i64 = 24 * 3_600;

/// A limit for writing pays for the piece this many times: broken transfers start over.
const PUT_BUDGET: u64 = 4;

/// A limit for reading pays for the piece this many times, and for at least [`GET_BUDGET_MIN`].
const GET_BUDGET: u64 = 16;

/// Least bytes of a limit for reading: small pieces are read often.
const GET_BUDGET_MIN: u64 = 4 << 20;

/// What a limit is for.
#[derive(Clone, Copy)]
struct Purpose {
    bucket: BucketId,
    segment: SegmentId,
    uplink: [u8; 32],
    action: order::Action,
    bytes: u64,
}

impl Satellite {
    pub(super) async fn begin_segment(
        &self,
        caller: Caller,
        bucket: BucketId,
        segment: SegmentId,
        length: u64,
        uplink: [u8; 32],
    ) -> Result<Reply, Error> {
        self.assign(caller, bucket, segment, uplink, move |satellite, connection, bucket, caller| {
            let old = segments::find(connection, bucket.number, segment)?;
            let (old, is_new) = match old {
                Some(old) => (old, false),
                None => {
                    let new = new_segment(bucket, caller, length)?;
                    segments::check_open(connection, caller.api_key)?;
                    (new, true)
                }
            };
            check_owner(&old, caller)?;
            if old.length != length {
                return Err(invalid(format!("the segment was begun with {} bytes", old.length)));
            }
            if old.finished {
                return Ok((old, Vec::new()));
            }
            let mut new = old.clone();
            satellite.forget_offline(&mut new.pending);
            let picked = satellite.fill(&mut new)?;
            let needed = floor(new.redundancy);
            if new.pending.nodes.len() < needed {
                satellite.inner.registry.release(&picked, piece_length(&new)?);
                return Err(too_few(new.pending.nodes.len(), needed));
            }
            match is_new {
                true => segments::begin(connection, bucket.number, segment, &new, satellite.seconds())?,
                false if new.pending != old.pending => {
                    segments::set_pending(connection, bucket.number, segment, &new.pending)?;
                }
                false => {}
            }
            let pieces = new.pending.nodes.clone();
            Ok((new, pieces))
        })
        .await
    }

    pub(super) async fn replace_pieces(
        &self,
        caller: Caller,
        bucket: BucketId,
        segment: SegmentId,
        failed: Vec<u16>,
        uplink: [u8; 32],
    ) -> Result<Reply, Error> {
        self.assign(caller, bucket, segment, uplink, move |satellite, connection, bucket, caller| {
            let mut found = own_segment(connection, bucket, segment, caller)?;
            if failed.iter().any(|number| *number >= found.redundancy.total) {
                return Err(invalid("no such piece"));
            }
            if found.finished {
                return Ok((found, Vec::new()));
            }
            let failed: HashSet<u16> = failed.into_iter().collect();
            let (gone, kept): (Vec<_>, Vec<_>) =
                found.pending.nodes.into_iter().partition(|(number, _)| failed.contains(number));
            found.pending.nodes = kept;
            found.pending.failed.extend(gone.into_iter().map(|(_, node)| node));
            satellite.fill(&mut found)?;
            segments::set_pending(connection, bucket.number, segment, &found.pending)?;
            let new = found.pending.nodes.iter().filter(|(number, _)| failed.contains(number)).copied().collect();
            Ok((found, new))
        })
        .await
    }

    /// Lets `choose` change where the pieces of a segment go, and answers with limits for those it returns.
    async fn assign(
        &self,
        caller: Caller,
        id: BucketId,
        segment: SegmentId,
        uplink: [u8; 32],
        choose: impl FnOnce(&Self, &Connection, &Bucket, &Caller) -> Result<(Segment, Vec<(u16, NodeId)>), Error>
        + Send
        + 'static,
    ) -> Result<Reply, Error> {
        rights::require_write(&caller.permissions)?;
        rights::require_bucket(&caller.permissions, id)?;
        let satellite = self.clone();
        let write = move |connection: &Connection| {
            access::check_alive(connection, &caller.tails)?;
            let bucket = buckets::by_id(connection, id)?;
            choose(&satellite, connection, &bucket, &caller)
        };
        let (found, pieces) = self.inner.database.write(write).await?;
        let bytes = piece_length(&found)?.saturating_mul(PUT_BUDGET);
        let purpose = Purpose { bucket: id, segment, uplink, action: order::Action::Put, bytes };
        Ok(Reply::Upload(Upload {
            satellite: self.id(),
            redundancy: found.redundancy,
            pieces: self.limits(purpose, pieces).await?.into_iter().map(|(limit, _)| limit).collect(),
            finished: found.finished,
        }))
    }

    pub(super) async fn finish_segment(
        &self,
        caller: Caller,
        id: BucketId,
        segment: SegmentId,
        pieces: Vec<StoredPiece>,
    ) -> Result<Reply, Error> {
        rights::require_write(&caller.permissions)?;
        rights::require_bucket(&caller.permissions, id)?;
        let (database, caller, now) = (&self.inner.database, std::sync::Arc::new(caller), self.seconds());
        let asks = caller.clone();
        let look =
            move |connection: &Connection| own_segment(connection, &buckets::by_id(connection, id)?, segment, &asks);
        let found = database.read(look).await?;
        if found.finished {
            return Ok(Reply::Done);
        }
        if pieces.len() > usize::from(found.redundancy.total) {
            return Err(invalid("more pieces than the segment has"));
        }
        let needed = floor(found.redundancy);
        let satellite = self.clone();
        let verify = move || satellite.valid_pieces(id, segment, &found, &pieces, now);
        let valid = tokio::task::spawn_blocking(verify).await.map_err(|_| Error::Closed)??;
        if valid.len() < needed {
            return Err(too_few(valid.len(), needed));
        }
        let finish = move |connection: &Connection| {
            access::check_alive(connection, &caller.tails)?;
            let bucket = buckets::by_id(connection, id)?;
            match own_segment(connection, &bucket, segment, &caller)?.finished {
                true => Ok(()),
                false => segments::finish(connection, bucket.number, segment, &valid, now),
            }
        };
        database.write(finish).await?;
        Ok(Reply::Done)
    }

    pub(super) async fn begin_download(
        &self,
        caller: Caller,
        id: BucketId,
        (inode, run): (InodeId, RunId),
        segment: SegmentId,
        uplink: [u8; 32],
    ) -> Result<Reply, Error> {
        rights::require_in(&caller.permissions, id, Action::Read)?;
        let look = move |connection: &Connection| {
            let bucket = buckets::by_id(connection, id)?;
            rights::require_covered(&mut Reach::new(connection, bucket.place(), &caller.permissions), inode)?;
            read::check_refers(connection, &bucket, inode, run)?;
            let found = segments::find(connection, bucket.number, segment)?;
            let found = found.filter(|found| found.finished);
            match found {
                Some(found) if segments::holds(connection, bucket.number, run, segment)? => {
                    Ok((found, segments::pieces(connection, bucket.number, segment)?))
                }
                _ => Err(bucket::Error::NotFound(format!("segment {segment:?} of run {run:?}")).into()),
            }
        };
        let (found, pieces) = self.inner.database.read(look).await?;
        let bytes = piece_length(&found)?.saturating_mul(GET_BUDGET).max(GET_BUDGET_MIN);
        let purpose = Purpose { bucket: id, segment, uplink, action: order::Action::Get, bytes };
        let nodes = pieces.iter().map(|piece| (piece.number, piece.node)).collect();
        let mut limits = self.limits(purpose, nodes).await?;
        limits.sort_by_key(|(_, online)| !online);
        let root = |number: u16| pieces.iter().find(|piece| piece.number == number).map(|piece| piece.root);
        let pieces = limits.into_iter().filter_map(|(limit, _)| root(limit.number).map(|root| (limit, root)));
        Ok(Reply::Download(Download {
            satellite: self.id(),
            redundancy: found.redundancy,
            length: found.length,
            pieces: pieces.collect(),
        }))
    }

    /// Nodes that went offline lose their pieces, and nodes that failed get another chance.
    fn forget_offline(&self, pending: &mut Pending) {
        let nodes: Vec<NodeId> = pending.nodes.iter().map(|(_, node)| *node).collect();
        let online = self.inner.registry.addresses(&nodes, self.online_since());
        pending.nodes.retain(|(_, node)| online.get(node).is_some_and(|(_, online)| *online));
        pending.failed.clear();
    }

    /// Gives every piece that has none a node, as far as there are nodes, and returns the nodes it picked.
    fn fill(&self, segment: &mut Segment) -> Result<Vec<NodeId>, Error> {
        let piece = piece_length(segment)?;
        let pending = &mut segment.pending;
        let used: HashSet<NodeId> = pending.nodes.iter().map(|(_, node)| *node).collect();
        let failed: HashSet<NodeId> = pending.failed.iter().copied().collect();
        let taken: HashSet<u16> = pending.nodes.iter().map(|(number, _)| *number).collect();
        let open: Vec<u16> = (0..segment.redundancy.total).filter(|number| !taken.contains(number)).collect();
        let wish = Wish {
            count: open.len(),
            piece,
            online_since: self.online_since(),
            distinct: self.inner.settings.distinct_networks,
            used: &used,
            failed: &failed,
        };
        let picked = self.inner.registry.pick(&wish)?;
        pending.nodes.extend(open.into_iter().zip(picked.iter().copied()));
        pending.nodes.sort_unstable();
        Ok(picked)
    }

    /// Signed limits for pieces on nodes, and whether each node is online. Nodes that are not known any more are left out.
    async fn limits(&self, purpose: Purpose, pieces: Vec<(u16, NodeId)>) -> Result<Vec<(PieceLimit, bool)>, Error> {
        let satellite = self.clone();
        let sign = move || -> Result<_, Error> {
            let nodes: Vec<NodeId> = pieces.iter().map(|(_, node)| *node).collect();
            let addresses = satellite.inner.registry.addresses(&nodes, satellite.online_since());
            let mut limits = Vec::with_capacity(pieces.len());
            for (number, id) in pieces {
                let Some((node, online)) = addresses.get(&id).cloned() else { continue };
                let piece = satellite.inner.identity.piece(purpose.bucket, purpose.segment, number, id);
                let limit = satellite.limit(&purpose, piece, id)?;
                limits.push((PieceLimit { number, piece, node, limit }, online));
            }
            Ok(limits)
        };
        tokio::task::spawn_blocking(sign).await.map_err(|_| Error::Closed)?
    }

    fn limit(
        &self,
        purpose: &Purpose,
        piece: strewn_engine::ids::PieceId,
        node: NodeId,
    ) -> Result<Signed<OrderLimit>, Error> {
        let created = self.inner.clock.now();
        let expires = bucket::Timestamp { seconds: created.seconds.saturating_add(LIMIT_LIFETIME), ..created };
        let limit = OrderLimit {
            satellite: self.id(),
            node,
            uplink: purpose.uplink,
            piece,
            action: purpose.action,
            bytes: purpose.bytes,
            serial: Serial::from_bytes(random::bytes()?),
            created,
            expires,
            piece_expires: None,
        };
        Ok(Signed::new(&limit, self.inner.identity.signing()))
    }

    /// The pieces that are proven to be stored, each number and each node once.
    fn valid_pieces(
        &self,
        bucket: BucketId,
        segment: SegmentId,
        found: &Segment,
        pieces: &[StoredPiece],
        now: i64,
    ) -> Result<Vec<Piece>, Error> {
        let length = piece_length(found)?;
        let (mut numbers, mut nodes) = (HashSet::new(), HashSet::new());
        let mut valid = Vec::with_capacity(pieces.len());
        for stored in pieces.iter().filter(|stored| stored.number < found.redundancy.total) {
            let Some(node) = self.proven_node(bucket, segment, stored, length, now) else {
                tracing::debug!(?segment, number = stored.number, "piece not proven");
                continue;
            };
            if !numbers.contains(&stored.number) && nodes.insert(node) {
                numbers.insert(stored.number);
                valid.push(Piece { number: stored.number, node, root: stored.root });
            }
        }
        valid.sort_unstable_by_key(|piece| piece.number);
        Ok(valid)
    }

    /// The node of a stored piece, if our limit was for this very piece and the node's receipt is for that limit, of the
    /// right length, and has the root that the uplink computed.
    fn proven_node(
        &self,
        bucket: BucketId,
        segment: SegmentId,
        stored: &StoredPiece,
        length: u64,
        now: i64,
    ) -> Option<NodeId> {
        let limit = stored.limit.verify(&self.inner.identity.verifying()).ok()?;
        let ours = limit.piece == self.inner.identity.piece(bucket, segment, stored.number, limit.node);
        let counts = now <= limit.created.seconds.saturating_add(LIMIT_COUNTS);
        if !ours || !counts || limit.action != order::Action::Put || limit.satellite != self.id() {
            return None;
        }
        let key = VerifyingKey::from_bytes(limit.node.as_bytes()).ok()?;
        let receipt = stored.receipt.verify(&key).ok()?;
        let proven = receipt.limit == stored.limit.hash() && receipt.length == length && receipt.root == stored.root;
        proven.then_some(limit.node)
    }
}

fn new_segment(bucket: &Bucket, caller: &Caller, length: u64) -> Result<Segment, Error> {
    if !(1..=bucket.fixed.segment_size).contains(&length) {
        return Err(invalid(format!(
            "segment of {length} bytes, the bucket's largest is {}",
            bucket.fixed.segment_size
        )));
    }
    Ok(Segment {
        api_key: caller.api_key,
        length,
        redundancy: bucket.fixed.redundancy,
        finished: false,
        pending: Pending::default(),
    })
}

fn own_segment(
    connection: &Connection,
    bucket: &Bucket,
    segment: SegmentId,
    caller: &Caller,
) -> Result<Segment, Error> {
    let found = segments::find(connection, bucket.number, segment)?;
    let found = found.ok_or_else(|| bucket::Error::NotFound(format!("upload of segment {segment:?}")))?;
    check_owner(&found, caller)?;
    Ok(found)
}

fn check_owner(segment: &Segment, caller: &Caller) -> Result<(), Error> {
    match segment.api_key == caller.api_key {
        true => Ok(()),
        false => Err(bucket::Error::Forbidden("the segment was begun with another key".to_owned()).into()),
    }
}

fn piece_length(segment: &Segment) -> Result<u64, Error> {
    let geometry = Geometry::new(segment.redundancy, segment.length);
    Ok(geometry.map_err(|error| Error::Damaged(error.to_string()))?.piece_length())
}

/// Fewest stored pieces with which a segment is accepted: one above the number at which it is repaired.
fn floor(redundancy: Redundancy) -> usize {
    usize::from(redundancy.success.min(redundancy.repair + 1))
}

fn too_few(found: usize, needed: usize) -> Error {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    bucket::Error::TooFewNodes { found: count(found), needed: count(needed) }.into()
}
