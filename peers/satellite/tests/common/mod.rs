//! A satellite in a directory of its own, with nodes that only sign.

#![allow(dead_code, unreachable_pub, missing_docs)] // shared by several tests, each of which uses a part

use bytes::Bytes;
use ed25519_dalek::{SigningKey, VerifyingKey};
use std::path::Path;
use std::sync::Arc;
use strewn_engine::bucket::*;
use strewn_engine::grant::{ApiKey, Caveat};
use strewn_engine::ids::*;
use strewn_engine::order::{Order, OrderLimit, Receipt, Signed};
use strewn_engine::redundancy::Redundancy;
use strewn_engine::segment::Geometry;
use strewn_satellite::{Dialer, ManualClock, Satellite, Session, Settings};
use strewn_wire::satellite::*;

pub const ROOT: InodeId = InodeId::from_bytes([1; 16]);
pub const BUCKET: BucketId = BucketId::from_bytes([9; 16]);
pub const START: i64 = 1_800_000_000;

/// Believes every address but those that contain "bad".
pub struct Believer;

#[async_trait::async_trait]
impl Dialer for Believer {
    async fn dial(&self, _: NodeId, address: &str) -> Result<(), String> {
        if address.contains("bad") { Err("nobody there".to_owned()) } else { Ok(()) }
    }
}

pub struct Net {
    pub satellite: Satellite,
    pub clock: Arc<ManualClock>,
    pub key: ApiKey,
    pub session: Session,
}

pub fn identity() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

pub fn open(directory: &Path, clock: &Arc<ManualClock>) -> Satellite {
    Satellite::open(directory, identity(), Settings::local(), clock.clone(), Arc::new(Believer)).unwrap()
}

pub fn session(satellite: &Satellite, key: &ApiKey) -> Session {
    satellite.open_session(&hello(key)).unwrap()
}

pub fn hello(key: &ApiKey) -> Hello {
    Hello { version: VERSION, api_key: key.serialize().into() }
}

pub fn new_bucket(name: &str, bucket: BucketId) -> CreateBucket {
    CreateBucket {
        name: name.to_owned(),
        bucket,
        root: ROOT,
        root_key: sealed(&[1; Sealed::KEY_LEN]),
        derivation: Bytes::from_static(b"derivation"),
        record: sealed(&[1; 32]),
        segment_size: 1 << 20,
        cipher: Cipher::Aes256Gcm,
        redundancy: Some(Redundancy::SMALL),
    }
}

impl Net {
    /// A satellite with an unrestricted key and the bucket [`BUCKET`], named `drive`.
    pub async fn new(directory: &Path) -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let satellite = open(directory, &clock);
        let key = satellite.create_api_key().await.unwrap();
        let session = session(&satellite, &key);
        let net = Self { satellite, clock, key, session };
        match net.ask(Request::CreateBucket(new_bucket("drive", BUCKET))).await {
            Reply::Bucket(info) => assert_eq!(info.settings.root, ROOT),
            other => panic!("{other:?}"),
        }
        net
    }

    pub async fn ask(&self, request: Request) -> Reply {
        self.satellite.handle(&self.session, request).await
    }

    pub async fn ask_as(&self, caveat: Caveat, request: Request) -> Reply {
        self.ask_with(&self.key.restrict(&caveat).unwrap(), request).await
    }

    pub async fn ask_with(&self, key: &ApiKey, request: Request) -> Reply {
        match self.satellite.open_session(&hello(key)) {
            Ok(session) => self.satellite.handle(&session, request).await,
            Err(error) => Reply::Failed(error),
        }
    }

    /// Lets `count` nodes join.
    pub async fn join(&self, count: u8) -> Vec<Node> {
        let mut nodes = Vec::new();
        for number in 0..count {
            let node = Node(SigningKey::from_bytes(&[100 + number; 32]));
            let ticket = self.satellite.create_ticket().await.unwrap();
            let reply = self.check_in(&node, node.check_in(Some(ticket))).await;
            assert!(matches!(reply, NodeReply::Welcome { .. }), "{reply:?}");
            nodes.push(node);
        }
        nodes
    }

    pub async fn check_in(&self, node: &Node, check_in: CheckIn) -> NodeReply {
        self.satellite.handle_node(node.id(), "/ip4/127.0.0.1/tcp/5", NodeRequest::CheckIn(check_in)).await
    }

    /// Begins, stores and finishes a segment.
    pub async fn put_segment(&self, nodes: &[Node], segment: SegmentId, length: u64) {
        let upload = match self.ask(begin(segment, length)).await {
            Reply::Upload(upload) => upload,
            other => panic!("{other:?}"),
        };
        let pieces = upload.pieces.iter().map(|piece| store(nodes, piece, upload.redundancy, length)).collect();
        let reply = self.ask(Request::FinishSegment { bucket: BUCKET, segment, pieces }).await;
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
}

pub struct Node(pub SigningKey);

impl Node {
    pub fn id(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    pub fn check_in(&self, ticket: Option<String>) -> CheckIn {
        CheckIn {
            version: VERSION,
            addresses: vec![format!("/ip4/0.0.0.0/tcp/{}", 1000 + u16::from(self.0.to_bytes()[0]))],
            capacity: 1 << 40,
            free: 1 << 39,
            time: START,
            ticket,
            software: "test".to_owned(),
        }
    }
}

pub fn uplink() -> SigningKey {
    SigningKey::from_bytes(&[55; 32])
}

pub fn begin(segment: SegmentId, length: u64) -> Request {
    let uplink = uplink().verifying_key().to_bytes();
    Request::BeginSegment { bucket: BUCKET, segment, length, uplink }
}

/// What an honest node and uplink report of a piece.
pub fn store(nodes: &[Node], piece: &PieceLimit, redundancy: Redundancy, length: u64) -> StoredPiece {
    let node = nodes.iter().find(|node| node.id() == piece.node.node).unwrap();
    let root = *blake3::hash(piece.piece.as_bytes()).as_bytes();
    let length = Geometry::new(redundancy, length).unwrap().piece_length();
    let receipt = Signed::new(&Receipt { limit: piece.limit.hash(), length, root }, &node.0);
    StoredPiece { number: piece.number, limit: piece.limit.clone(), root, receipt }
}

pub fn limit(limit: &Signed<OrderLimit>, satellite: SatelliteId) -> OrderLimit {
    limit.verify(&VerifyingKey::from_bytes(satellite.as_bytes()).unwrap()).unwrap()
}

pub fn pay(limit: &Signed<OrderLimit>, bytes: u64) -> Signed<Order> {
    Signed::new(&Order { limit: limit.hash(), bytes }, &uplink())
}

pub fn sealed(bytes: &[u8]) -> Sealed {
    Sealed { generation: 0, bytes: Bytes::copy_from_slice(bytes) }
}

pub fn id(number: u8) -> InodeId {
    InodeId::from_bytes([number; 16])
}

pub fn name(number: u8) -> EncryptedName {
    EncryptedName::try_from(vec![number; EncryptedName::MIN]).unwrap()
}

pub fn target(child: u8, kind: Kind) -> Target {
    Target { child: id(child), kind, key: sealed(&[child; Sealed::KEY_LEN]) }
}

pub fn set(parent: InodeId, number: u8, expected: Option<u8>, target: Option<Target>) -> Operation {
    let time = Timestamp { seconds: 5, nanos: 0 };
    Operation::SetEntry(SetEntry { parent, name: name(number), expected: expected.map(id), target, time })
}

pub fn put(inode: u8, kind: Kind, expected_version: u64) -> PutInode {
    PutInode {
        inode: id(inode),
        kind,
        expected_version,
        version: expected_version + 1,
        size: 0,
        record: sealed(&[inode; 32]),
        changed: Timestamp { seconds: 1, nanos: 0 },
        ranges: Vec::new(),
        tags: Vec::new(),
    }
}

pub fn create(parent: InodeId, inode: u8, kind: Kind) -> [Operation; 2] {
    [set(parent, inode, None, Some(target(inode, kind))), Operation::PutInode(put(inode, kind, 0))]
}

pub fn extent(offset: u64, length: u64, run: u8, run_length: u64) -> Extent {
    Extent {
        offset,
        length,
        run: RunId::from_bytes([run; 16]),
        run_length,
        run_offset: 0,
        cipher: Cipher::Aes256Gcm,
        run_key: sealed(&[run; Sealed::KEY_LEN]),
    }
}

/// A file of one run from its beginning.
pub fn file(inode: u8, expected_version: u64, run: u8, length: u64) -> Operation {
    let ranges = vec![RangeChange { offset: 0, length, extents: vec![extent(0, length, run, length)] }];
    let tags = vec![(0, Some(WindowTag([run; 32])))];
    Operation::PutInode(PutInode { size: length, ranges, tags, ..put(inode, Kind::File, expected_version) })
}

pub fn in_segment(run: u8, length: u64, segment: SegmentId) -> NewRun {
    let place = RunPlace::Segment { segment, offset: 0, length: length + 16 };
    NewRun { run: RunId::from_bytes([run; 16]), length, place }
}

/// A mount's stream of batches under one key.
pub struct Stream {
    pub mount: MountId,
    pub number: u64,
    sent: u128,
}

impl Stream {
    pub fn new(mount: u8) -> Self {
        Self { mount: MountId::from_bytes([mount; 16]), number: 0, sent: 0 }
    }

    pub fn batch(&mut self, operations: Vec<Operation>, runs: Vec<NewRun>) -> Commit {
        self.sent += 1;
        let id = CommitId::from_bytes(self.sent.to_le_bytes());
        Commit { id, mount: self.mount, number: self.number + 1, operations, runs }
    }

    pub async fn send(&mut self, net: &Net, key: &ApiKey, operations: Vec<Operation>, runs: Vec<NewRun>) -> Reply {
        let commit = self.batch(operations, runs);
        let reply = net.ask_with(key, Request::Commit { bucket: BUCKET, commit }).await;
        self.number += u64::from(matches!(reply, Reply::Commit(CommitReply::Applied { .. })));
        reply
    }

    pub async fn apply(&mut self, net: &Net, operations: Vec<Operation>, runs: Vec<NewRun>) {
        let reply = self.send(net, &net.key, operations, runs).await;
        assert!(matches!(reply, Reply::Commit(CommitReply::Applied { .. })), "{reply:?}");
    }
}

pub fn is_forbidden(reply: &Reply) -> bool {
    matches!(reply, Reply::Failed(Error::Forbidden(_)))
}
