//! A client that ignores what its own grant says: it has all keys, speaks the wire protocol itself and asks for
//! everything. What a grant does not open, the satellite refuses.

mod common;

use common::*;
use std::collections::BTreeSet;
use std::time::Duration;
use strewn_engine::bucket::lease::{HeldLease, LeaseRequest};
use strewn_engine::bucket::*;
use strewn_engine::grant::{AccessGrant, Actions, ApiKey, Caveat, Subtree};
use strewn_engine::ids::*;
use strewn_engine::keys::InodeKeys;
use strewn_engine::redundancy::Redundancy;
use strewn_peers::identity::Identity;
use strewn_peers::local::LocalNetwork;
use strewn_peers::transport::{BoxStream, Host, HostOptions, PeerAddress, Protocol};
use strewn_wire::frame;
use strewn_wire::satellite::*;
use tokio::io::AsyncWriteExt;

/// A stream to the satellite under some API key, without anything of an uplink's in between.
struct Client {
    _host: Host,
    stream: BoxStream,
}

impl Client {
    async fn connect(network: &LocalNetwork, key: &ApiKey) -> Self {
        let (host, _) = Host::start(&Identity::fresh(), HostOptions::default()).await.unwrap();
        let address = PeerAddress::parse(&network.access().satellite).unwrap();
        let mut stream = host.open(&address, Protocol::Uplink).await.unwrap();
        let hello = Hello { version: VERSION, api_key: key.serialize().into() };
        frame::write(&mut stream, &hello, MAX_REQUEST).await.unwrap();
        Self { _host: host, stream }
    }

    async fn ask(&mut self, request: &Request) -> Reply {
        frame::write(&mut self.stream, request, MAX_COMMIT_FRAME).await.unwrap();
        self.stream.flush().await.unwrap();
        frame::read(&mut self.stream, MAX_REPLY).await.unwrap().expect("an answer")
    }
}

/// A bucket with a shared file, and all that a client who was never shared more could know of the rest.
struct Place {
    bucket: BucketId,
    root: InodeId,
    shared: File,
    secret: File,
    secret_name: EncryptedName,
    /// A segment that somebody else has begun.
    begun: SegmentId,
    full_key: ApiKey,
}

/// The name of each kind of request: a new one does not compile before it is thought of here.
fn kind(request: &Request) -> &'static str {
    match request {
        Request::CreateBucket(_) => "create bucket",
        Request::OpenBucket { .. } => "open bucket",
        Request::ListBuckets => "list buckets",
        Request::RemoveBucket { .. } => "remove bucket",
        Request::Entry { .. } => "entry",
        Request::Entries { .. } => "entries",
        Request::Inode { .. } => "inode",
        Request::Extents { .. } => "extents",
        Request::LocateRun { .. } => "locate run",
        Request::BeginDownload { .. } => "begin download",
        Request::BeginSegment { .. } => "begin segment",
        Request::ReplacePieces { .. } => "replace pieces",
        Request::FinishSegment { .. } => "finish segment",
        Request::Commit { .. } => "commit",
        Request::Changes { .. } => "changes",
        Request::Usage { .. } => "usage",
        Request::Revoke { .. } => "revoke",
        Request::Lease { .. } => "lease",
        Request::CommitUnder { .. } => "commit under a lease",
        Request::Recalled { .. } => "recalled",
    }
}

/// Kinds that only tell of the bucket as a whole, which a share opens: not refused, and looked at one by one.
const OPEN: [&str; 4] = ["open bucket", "list buckets", "changes", "usage"];
/// All other kinds.
const REFUSED: [&str; 16] = [
    "create bucket",
    "remove bucket",
    "entry",
    "entries",
    "inode",
    "extents",
    "locate run",
    "begin download",
    "begin segment",
    "replace pieces",
    "finish segment",
    "commit",
    "revoke",
    "lease",
    "commit under a lease",
    "recalled",
];

fn commit(operations: Vec<Operation>, runs: Vec<NewRun>) -> Commit {
    let (id, mount) = (CommitId::from_bytes(random()), MountId::from_bytes(random()));
    Commit { id, mount, number: 1, operations, runs }
}

impl Place {
    /// Reads of an inode: by way of it, of its content, of what lies in it.
    fn reads(&self, inode: InodeId, extent: &Extent) -> Vec<Request> {
        let (bucket, run, uplink) = (self.bucket, extent.run, random());
        let segment = SegmentId::from_bytes(*run.as_bytes());
        vec![
            Request::Inode { bucket, inode },
            Request::Extents { bucket, inode, offset: 0, length: u64::MAX },
            Request::LocateRun { bucket, inode, run, first: 0, count: 1 },
            Request::BeginDownload { bucket, inode, run, segment, uplink },
        ]
    }

    fn set(&self, expected: Option<InodeId>, target: Option<InodeId>, name: &EncryptedName) -> Operation {
        let key = Sealed { generation: 0, bytes: vec![0; Sealed::KEY_LEN].into() };
        let target = target.map(|child| Target { child, kind: Kind::File, key });
        Operation::SetEntry(SetEntry {
            parent: self.root,
            name: name.clone(),
            expected,
            target,
            time: Timestamp::default(),
        })
    }

    fn put(&self, file: &File, expected_version: u64, extents: Vec<Extent>) -> Operation {
        let tag = InodeKeys::new(&file.key).window_tag(file.inode, 0, &extents);
        Operation::PutInode(PutInode {
            inode: file.inode,
            kind: Kind::File,
            expected_version,
            version: expected_version + 1,
            size: 100,
            record: Sealed { generation: 0, bytes: vec![0; 200].into() },
            changed: Timestamp::default(),
            ranges: vec![RangeChange { offset: 0, length: 100, extents }],
            tags: vec![(0, Some(tag))],
        })
    }

    /// Everything that the grant of `shared`, to be read, does not open.
    fn attacks(&self) -> Vec<Request> {
        let (bucket, uplink) = (self.bucket, random());
        let segment = SegmentId::from_bytes(random());
        let other_name = EncryptedName::try_from(vec![7; EncryptedName::MIN]).unwrap();
        let foreign = Extent { length: 100, ..self.secret.extents[0].clone() };
        let new = File { inode: InodeId::from_bytes(random()), ..self.shared.clone() };
        let commits = [
            // Names: made, taken away, replaced, probed for.
            vec![self.set(None, Some(new.inode), &other_name), self.put(&new, 0, Vec::new())],
            vec![self.set(Some(self.secret.inode), None, &self.secret_name)],
            vec![self.set(Some(self.secret.inode), Some(self.shared.inode), &self.secret_name)],
            vec![self.set(None, Some(self.secret.inode), &other_name)],
            vec![self.set(None, None, &other_name)],
            // Content: of the secret, of the shared file, and of the secret in the shared file.
            vec![self.put(&self.secret, 1, Vec::new())],
            vec![self.put(&self.shared, 1, Vec::new())],
            vec![self.put(&self.shared, 1, vec![foreign])],
        ];
        let new_bucket = CreateBucket {
            name: "another".to_owned(),
            bucket: BucketId::from_bytes(random()),
            root: InodeId::from_bytes(random()),
            root_key: Sealed { generation: 0, bytes: vec![0; Sealed::KEY_LEN].into() },
            derivation: bytes::Bytes::from_static(b"derivation"),
            record: Sealed { generation: 0, bytes: vec![0; 200].into() },
            segment_size: SEGMENT,
            cipher: Cipher::Aes256Gcm,
            redundancy: None,
        };
        let mut attacks = self.reads(self.secret.inode, &self.secret.extents[0]);
        attacks.extend(self.reads(self.root, &self.secret.extents[0]));
        attacks.extend([
            Request::Entry { bucket, parent: self.root, name: self.secret_name.clone() },
            Request::Entries { bucket, directory: self.root, after: None, limit: 100 },
            Request::CreateBucket(new_bucket),
            Request::RemoveBucket { bucket, force: true },
            Request::BeginSegment { bucket, segment, length: 1000, uplink },
            Request::BeginSegment { bucket, segment: self.begun, length: 1000, uplink },
            Request::ReplacePieces { bucket, segment: self.begun, failed: vec![0], uplink },
            Request::FinishSegment { bucket, segment: self.begun, pieces: Vec::new() },
            Request::Revoke { api_key: self.full_key.serialize().into() },
        ]);
        let mount = MountId::from_bytes(random());
        let all = LeaseRequest { all: true, ..LeaseRequest::new(mount, 1, None) };
        let names = vec![(self.root, other_name.clone())];
        let name = LeaseRequest { names, ..LeaseRequest::new(mount, 1, None) };
        attacks.extend([all, name].map(|lease| Request::Lease { bucket, lease }));
        let lease = HeldLease { mount, epoch: 1 };
        attacks.push(Request::Recalled { bucket, lease, wait: Duration::ZERO });
        let inline = NewRun {
            run: RunId::from_bytes(random()),
            length: 1,
            place: RunPlace::Inline(bytes::Bytes::from_static(&[0; 17])),
        };
        attacks.extend(
            commits.clone().map(|operations| Request::Commit { bucket, commit: commit(operations, Vec::new()) }),
        );
        attacks.extend(commits.map(|operations| {
            let commit = commit(operations, Vec::new());
            Request::CommitUnder { bucket, lease: None, commit }
        }));
        attacks.push(Request::Commit {
            bucket,
            commit: commit(vec![self.put(&self.shared, 1, Vec::new())], vec![inline]),
        });
        attacks
    }
}

async fn place(network: &LocalNetwork, full: &AccessGrant) -> (Drive, Place) {
    let drive = Drive::create(full, "drive").await;
    let shared = drive.store("shared", &content(200_000)).await.unwrap();
    let secret = drive.store("secret", &content(200_000)).await.unwrap();
    let (root, directory) = drive.root();
    let secret_name = directory.encrypt_name(root, &strewn_engine::name::Name::new(b"secret").unwrap());
    let bucket = drive.bucket.info.settings.bucket;
    let begun = SegmentId::from_bytes(random());
    let mut owner = Client::connect(network, &full.api_key).await;
    let begin = Request::BeginSegment { bucket, segment: begun, length: 1000, uplink: random() };
    assert!(matches!(owner.ask(&begin).await, Reply::Upload(_)));
    let full_key = full.api_key.clone();
    (drive, Place { bucket, root, shared, secret, secret_name, begun, full_key })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_satellite_refuses_a_patched_client_whatever_it_asks() {
    let directory = tempfile::tempdir().unwrap();
    let network = network(directory.path(), 5, "2/3/4/5".parse::<Redundancy>().unwrap()).await;
    let full = grant(&network, 1);
    let (drive, place) = place(&network, &full).await;
    let subtrees = Some(vec![Subtree { bucket: place.bucket, inode: place.shared.inode }]);
    let restricted =
        full.api_key.restrict(&Caveat { disallow: Actions::CHANGES, subtrees, ..Caveat::default() }).unwrap();
    let mut client = Client::connect(&network, &restricted).await;

    // What the grant is for works: the refusals below are not those of a client that is merely wrong.
    let reads = place.reads(place.shared.inode, &place.shared.extents[0]);
    let bucket = place.bucket;
    let of_the_bucket = [
        Request::OpenBucket { name: "drive".to_owned() },
        Request::ListBuckets,
        Request::Changes { bucket, after: 0, wait: Duration::ZERO },
        Request::Usage { bucket },
    ];
    assert_eq!(of_the_bucket.each_ref().map(kind), OPEN);
    for request in reads.iter().chain(&of_the_bucket) {
        let reply = client.ask(request).await;
        assert!(!matches!(reply, Reply::Failed(_)), "{}: {reply:?}", kind(request));
    }

    let before = drive.service().usage().await.unwrap();
    let mut refused = BTreeSet::new();
    for request in place.attacks() {
        let reply = client.ask(&request).await;
        assert!(matches!(reply, Reply::Failed(Error::Forbidden(_))), "{}: {reply:?}", kind(&request));
        refused.insert(kind(&request));
    }
    assert_eq!(refused, BTreeSet::from(REFUSED));
    // The content of the secret by way of the file that one may read is no content of that file, as if it did not exist.
    for request in place.reads(place.shared.inode, &place.secret.extents[0]).split_off(2) {
        let reply = client.ask(&request).await;
        assert!(matches!(reply, Reply::Failed(Error::NotFound(_))), "{}: {reply:?}", kind(&request));
    }

    // Nothing of it happened.
    assert_eq!(drive.service().usage().await.unwrap(), before);
    for (name, file) in [("shared", &place.shared), ("secret", &place.secret)] {
        let found = drive.find(name).await.unwrap().expect("it is still there");
        assert_eq!(found.inode, file.inode);
        assert!(drive.read(&found, 0..200_000).await.unwrap() == content(200_000));
    }
    assert_eq!(drive.uplink.buckets().await.unwrap().len(), 1);
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_a_bucket_tells_nothing_of_what_is_not_shared() {
    let directory = tempfile::tempdir().unwrap();
    let network = network(directory.path(), 5, "2/3/4/5".parse::<Redundancy>().unwrap()).await;
    let full = grant(&network, 1);
    let (drive, place) = place(&network, &full).await;
    Drive::create(&full, "private").await;
    let subtrees = Some(vec![Subtree { bucket: place.bucket, inode: place.shared.inode }]);
    let key = full.api_key.restrict(&Caveat { subtrees, ..Caveat::default() }).unwrap();
    let mut client = Client::connect(&network, &key).await;

    let Reply::Buckets(buckets) = client.ask(&Request::ListBuckets).await else { panic!("no list") };
    assert_eq!(buckets.iter().map(|bucket| bucket.name.as_str()).collect::<Vec<_>>(), ["drive"]);
    let private = client.ask(&Request::OpenBucket { name: "private".to_owned() }).await;
    let nothing = client.ask(&Request::OpenBucket { name: "nothing".to_owned() }).await;
    assert!(matches!(private, Reply::Failed(Error::Forbidden(_))), "{private:?}");
    assert_eq!(format!("{private:?}"), format!("{nothing:?}"), "whether it exists is not told");
    drive.store("another", &content(1000)).await.unwrap();
    let changes = Request::Changes { bucket: place.bucket, after: 0, wait: Duration::ZERO };
    let Reply::Changes(changes) = client.ask(&changes).await else { panic!("no changes") };
    let told: BTreeSet<InodeId> = changes
        .changes
        .iter()
        .flat_map(|change| change.inodes.iter().chain(change.entries.iter().map(|(parent, _)| parent)))
        .copied()
        .collect();
    assert_eq!(told, BTreeSet::from([place.shared.inode]));
    network.shutdown().await;
}
