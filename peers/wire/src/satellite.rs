//! Requests to a satellite and its replies. One request at a time per stream; streams are kept and pooled.
//!
//! An uplink's stream opens with [`Hello`]; a node's requests are authenticated by the transport's peer id.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, LeaseReply, LeaseRequest};
use strewn_engine::bucket::{
    BucketSettings, Changes, Cipher, Commit, CommitReply, EncryptedName, Entry, EntryPage, Error, Extents, Inode,
    Sealed, Usage,
};
use strewn_engine::ids::{BucketId, InodeId, NodeId, PieceId, RunId, SatelliteId, SegmentId};
use strewn_engine::order::{Order, OrderLimit, Receipt, Signed};
use strewn_engine::redundancy::Redundancy;

/// Version of this protocol. A satellite refuses what it does not know, naming the versions it speaks.
pub const VERSION: u16 = 1;

/// Largest frame of a commit; everything else stays below [`MAX_REQUEST`].
pub const MAX_COMMIT_FRAME: usize = strewn_engine::bucket::MAX_COMMIT_BYTES + 64 * 1024;
/// Largest frame of any other request.
pub const MAX_REQUEST: usize = 1 << 20;
/// Largest reply frame.
pub const MAX_REPLY: usize = 64 << 20;

/// Most addresses of a node.
pub const MAX_ADDRESSES: usize = 8;
/// Longest address of a node, in characters.
pub const MAX_ADDRESS: usize = 256;
/// Longest ticket, in characters.
pub const MAX_TICKET: usize = 128;

/// First frame of an uplink's stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// The serialized API key (macaroon), checked again on every request.
    pub api_key: Bytes,
}

/// What an uplink asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)] // fields as in `BucketService`
pub enum Request {
    /// Makes a bucket. Reply: [`Reply::Bucket`]. The root directory's inode row comes with it.
    CreateBucket(CreateBucket),
    /// Reply: [`Reply::Bucket`].
    OpenBucket { name: String },
    /// Reply: [`Reply::Buckets`]: those the key may see.
    ListBuckets,
    /// Removes a bucket; with `force` also what is in it. Reply: [`Reply::Done`].
    RemoveBucket { bucket: BucketId, force: bool },
    /// Reply: [`Reply::Entry`].
    Entry { bucket: BucketId, parent: InodeId, name: EncryptedName },
    /// Reply: [`Reply::Entries`].
    Entries { bucket: BucketId, directory: InodeId, after: Option<EncryptedName>, limit: u32 },
    /// Reply: [`Reply::Inode`].
    Inode { bucket: BucketId, inode: InodeId },
    /// Reply: [`Reply::Extents`].
    Extents { bucket: BucketId, inode: InodeId, offset: u64, length: u64 },
    /// Where blocks of a run lie, as far as it goes: an uplink asks for more than there may be. Reply: [`Reply::Run`].
    LocateRun { bucket: BucketId, inode: InodeId, run: RunId, first: u64, count: u64 },
    /// Limits for reading pieces of a segment that holds blocks of `run`. Reply: [`Reply::Download`].
    BeginDownload { bucket: BucketId, inode: InodeId, run: RunId, segment: SegmentId, uplink: [u8; 32] },
    /// Begins (or resumes) the upload of a segment. Reply: [`Reply::Upload`].
    BeginSegment { bucket: BucketId, segment: SegmentId, length: u64, uplink: [u8; 32] },
    /// Asks for other nodes in place of those that failed. Reply: [`Reply::Upload`] with only the new pieces.
    ReplacePieces { bucket: BucketId, segment: SegmentId, failed: Vec<u16>, uplink: [u8; 32] },
    /// Ends an upload: the pieces that are stored. Reply: [`Reply::Done`].
    FinishSegment { bucket: BucketId, segment: SegmentId, pieces: Vec<StoredPiece> },
    /// Reply: [`Reply::Commit`].
    Commit { bucket: BucketId, commit: Commit },
    /// Reply: [`Reply::Changes`].
    Changes { bucket: BucketId, after: u64, wait: Duration },
    /// Reply: [`Reply::Usage`].
    Usage { bucket: BucketId },
    /// Revokes an API key derived from the caller's (its serialized form); its children die too. Reply: [`Reply::Done`].
    Revoke { api_key: Bytes },
    /// Reply: [`Reply::Lease`].
    Lease { bucket: BucketId, lease: LeaseRequest },
    /// As [`Request::Commit`], which says nothing of leases and gets [`Error::Unavailable`] where this one is told of a lapse.
    CommitUnder { bucket: BucketId, lease: Option<HeldLease>, commit: Commit },
    /// Reply: [`Reply::Recalled`].
    Recalled { bucket: BucketId, lease: HeldLease, wait: Duration },
}

impl Request {
    /// How long it asks to be kept waiting for something to happen; `None` if it is to be answered at once.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Changes { wait, .. } | Self::Recalled { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// Largest frame it may take.
    pub fn max_frame(&self) -> usize {
        match self {
            Self::Commit { .. } | Self::CommitUnder { .. } => MAX_COMMIT_FRAME,
            _ => MAX_REQUEST,
        }
    }
}

/// A new bucket. The uplink drew the ids and sealed the root's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateBucket {
    /// Name in the clear: 3..=63 of `a-z 0-9 - .`, as S3 has it.
    pub name: String,
    /// The bucket's id.
    pub bucket: BucketId,
    /// Inode of its root directory.
    pub root: InodeId,
    /// The root directory's random key, sealed under the bucket key.
    pub root_key: Sealed,
    /// Salt and parameters from which the passphrase gives the root secret again; opaque to the satellite, at most 256 bytes.
    pub derivation: Bytes,
    /// Sealed record of the root directory, version 1.
    pub record: Sealed,
    /// Largest segment in bytes.
    pub segment_size: u64,
    /// Cipher of new runs.
    pub cipher: Cipher,
    /// Redundancy; `None`: the satellite's default.
    pub redundancy: Option<Redundancy>,
}

/// A bucket as its satellite knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketInfo {
    /// Its name.
    pub name: String,
    /// Settings.
    pub settings: BucketSettings,
    /// Redundancy of new segments.
    pub redundancy: Redundancy,
    /// As in [`CreateBucket`].
    pub root_key: Sealed,
    /// As in [`CreateBucket`].
    pub derivation: Bytes,
    /// Seconds since 1970.
    pub created: i64,
}

/// What a satellite answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)] // each names the request it answers
pub enum Reply {
    Failed(Error),
    Done,
    Bucket(BucketInfo),
    Buckets(Vec<BucketInfo>),
    Entry(Option<(Entry, Inode)>),
    Entries(EntryPage),
    Inode(Inode),
    Extents(Extents),
    Run(RunLocation),
    Download(Download),
    Upload(Upload),
    Commit(CommitReply),
    Changes(Changes),
    Usage(Usage),
    Lease(LeaseReply),
    Recalled(bool),
}

/// Where the asked blocks of a run lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunLocation {
    /// In the metabase: the run's one block.
    Inline(Bytes),
    /// In segments, in the order of the blocks.
    Segments(Vec<RunPart>),
}

/// A stretch of a run within one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPart {
    /// First block of the run that lies here.
    pub first: u64,
    /// Number of blocks.
    pub count: u64,
    /// The segment.
    pub segment: SegmentId,
    /// Offset of the first of these blocks within the segment.
    pub offset: u64,
    /// Ciphertext bytes of these blocks.
    pub length: u64,
}

/// A node and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeAddress {
    /// Its id.
    pub node: NodeId,
    /// Multiaddresses, best first, at most [`MAX_ADDRESSES`] of at most [`MAX_ADDRESS`] characters.
    pub addresses: Vec<String>,
}

/// Permission for one piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceLimit {
    /// Number of the piece in the segment, 0..total.
    pub number: u16,
    /// The piece.
    pub piece: PieceId,
    /// Where.
    pub node: NodeAddress,
    /// The limit.
    pub limit: Signed<OrderLimit>,
}

/// All that is needed to read a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// The satellite whose limits these are.
    pub satellite: SatelliteId,
    /// The segment's redundancy.
    pub redundancy: Redundancy,
    /// The segment's length in bytes.
    pub length: u64,
    /// Pieces that are believed to exist, online nodes first, with their roots.
    pub pieces: Vec<(PieceLimit, [u8; 32])>,
}

/// All that is needed to write a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// The satellite whose limits these are.
    pub satellite: SatelliteId,
    /// Redundancy to use.
    pub redundancy: Redundancy,
    /// Where pieces go. Empty with `stored` when the segment is already finished.
    pub pieces: Vec<PieceLimit>,
    /// True if the segment was finished before: nothing is left to do.
    pub finished: bool,
}

/// A piece that a node has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPiece {
    /// Number of the piece.
    pub number: u16,
    /// The limit it was stored under.
    pub limit: Signed<OrderLimit>,
    /// The root the uplink computed.
    pub root: [u8; 32],
    /// The node's receipt.
    pub receipt: Signed<Receipt>,
}

/// What a node asks of its satellite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum NodeRequest {
    /// Reply: [`NodeReply::Welcome`]. The first one of a node carries the operator's ticket.
    CheckIn(CheckIn),
    /// Pays out: the highest order of each limit. Reply: [`NodeReply::Settled`].
    Settle(Vec<(Signed<OrderLimit>, Signed<Order>)>),
}

/// A node tells how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// [`VERSION`].
    pub version: u16,
    /// Where it listens: multiaddresses without peer id, at most [`MAX_ADDRESSES`]. For an unspecified IP the satellite puts
    /// the one it sees.
    pub addresses: Vec<String>,
    /// Bytes it offers in all.
    pub capacity: u64,
    /// Bytes it could still take.
    pub free: u64,
    /// Its clock, seconds since 1970.
    pub time: i64,
    /// Ticket of the operator; needed once.
    pub ticket: Option<String>,
    /// Software version.
    pub software: String,
}

/// What a satellite answers a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NodeReply {
    Failed(Error),
    /// Checked in; come again after this long.
    Welcome {
        next: Duration,
        time: i64,
    },
    /// Number of orders accepted.
    Settled(u32),
}
