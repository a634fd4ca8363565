//! What a grant may do: every right for every request, subtrees from inside and outside, times and revocation.

mod common;

use common::*;
use std::time::Duration;
use strewn_engine::bucket::lease::*;
use strewn_engine::bucket::*;
use strewn_engine::grant::{Actions, ApiKey, Caveat, Subtree};
use strewn_engine::ids::*;
use strewn_wire::satellite::*;

const SEGMENT: SegmentId = SegmentId::from_bytes([60; 16]);
const A: u8 = 10;
const A_FILE: u8 = 11;
const A_SUB: u8 = 12;
const B: u8 = 20;
const B_FILE: u8 = 21;
const LINKED: u8 = 30;

/// ```text
/// /A(10)/11 file, /A/12 directory, /A/30 file = /B/31
/// /B(20)/21 file
/// ```
/// The run of file n is n + 100.
async fn tree(directory: &std::path::Path) -> Net {
    let net = Net::new(directory).await;
    let nodes = net.join(10).await;
    net.put_segment(&nodes, SEGMENT, 300_000).await;
    let named = |parent: u8, inode: u8| set(id(parent), inode, None, Some(target(inode, Kind::File)));
    let mut operations = Vec::new();
    operations.extend(create(ROOT, A, Kind::Directory));
    operations.extend(create(id(A), A_SUB, Kind::Directory));
    operations.extend(create(ROOT, B, Kind::Directory));
    operations.extend([named(A, A_FILE), file(A_FILE, 0, A_FILE + 100, 5_000)]);
    operations.extend([named(B, B_FILE), file(B_FILE, 0, B_FILE + 100, 5_000)]);
    operations.extend([named(A, LINKED), file(LINKED, 0, LINKED + 100, 5_000)]);
    operations.push(set(id(B), 31, None, Some(target(LINKED, Kind::File))));
    let runs = [A_FILE, B_FILE, LINKED].map(|file| in_segment(file + 100, 5_000, SEGMENT));
    Stream::new(1).apply(&net, operations, runs.to_vec()).await;
    net
}

fn commit(mount: u8, operations: Vec<Operation>) -> Request {
    Request::Commit { bucket: BUCKET, commit: Stream::new(mount).batch(operations, Vec::new()) }
}

/// Wants a name in each of these directories.
fn lease(directories: &[u8]) -> Request {
    let names = directories.iter().map(|directory| (id(*directory), name(1))).collect();
    let lease = LeaseRequest { names, ..LeaseRequest::new(MountId::from_bytes([46; 16]), 1, None) };
    Request::Lease { bucket: BUCKET, lease }
}

fn lease_of_all() -> Request {
    let lease = LeaseRequest { all: true, ..LeaseRequest::new(MountId::from_bytes([46; 16]), 1, None) };
    Request::Lease { bucket: BUCKET, lease }
}

/// Reads of one inode, or of entries in it.
fn reads(inode: InodeId) -> Vec<Request> {
    let run = RunId::from_bytes([inode.as_bytes()[0].wrapping_add(100); 16]);
    vec![
        Request::Entry { bucket: BUCKET, parent: inode, name: name(1) },
        Request::Inode { bucket: BUCKET, inode },
        Request::Extents { bucket: BUCKET, inode, offset: 0, length: 10 },
        Request::LocateRun { bucket: BUCKET, inode, run, first: 0, count: 1 },
        Request::BeginDownload { bucket: BUCKET, inode, run, segment: SEGMENT, uplink: [0; 32] },
        Request::Entries { bucket: BUCKET, directory: inode, after: None, limit: 1 },
    ]
}

fn subtrees(inodes: &[u8]) -> Caveat {
    let subtree = |inode: &u8| Subtree { bucket: BUCKET, inode: id(*inode) };
    Caveat { subtrees: Some(inodes.iter().map(subtree).collect()), ..Caveat::default() }
}

#[tokio::test]
async fn every_request_needs_its_rights() {
    let directory = tempfile::tempdir().unwrap();
    let net = tree(directory.path()).await;
    let read = Actions { read: true, ..Actions::NONE };
    let write = Actions { write: true, ..Actions::NONE };
    let list = Actions { list: true, ..Actions::NONE };
    let delete = Actions { delete: true, ..Actions::NONE };
    let change = Actions::CHANGES;
    let mut cases: Vec<(Actions, Request)> = reads(id(A_FILE)).into_iter().map(|request| (read, request)).collect();
    cases.pop();
    let uplink = [0; 32];
    let other = SegmentId::from_bytes([61; 16]);
    let file = |inode| Some(target(inode, Kind::File));
    let mount = MountId::from_bytes([46; 16]);
    let added = Stream::new(46).batch(create(ROOT, 52, Kind::File).to_vec(), Vec::new());
    cases.extend([
        (list, Request::Entries { bucket: BUCKET, directory: id(A), after: None, limit: 1 }),
        (list, Request::ListBuckets),
        (Actions::NONE, Request::OpenBucket { name: "drive".to_owned() }),
        (Actions::NONE, Request::Usage { bucket: BUCKET }),
        (read, Request::Changes { bucket: BUCKET, after: 0, wait: Duration::ZERO }),
        (write, Request::BeginSegment { bucket: BUCKET, segment: other, length: 10, uplink }),
        (write, Request::ReplacePieces { bucket: BUCKET, segment: SEGMENT, failed: vec![], uplink }),
        (write, Request::FinishSegment { bucket: BUCKET, segment: SEGMENT, pieces: vec![] }),
        (write, Request::CreateBucket(new_bucket("drive", BUCKET))),
        (delete, Request::RemoveBucket { bucket: BUCKET, force: false }),
        (write, commit(40, create(ROOT, 50, Kind::File).to_vec())),
        (write, commit(41, vec![set(ROOT, 99, None, None)])),
        (write, commit(42, vec![set(ROOT, 51, None, file(A_FILE))])),
        (delete, commit(43, vec![set(id(B), 31, Some(LINKED), None)])),
        (change, commit(44, vec![set(id(B), B_FILE, Some(B_FILE), file(LINKED))])),
        (change, commit(45, vec![Operation::PutInode(put(A_FILE, Kind::File, 1))])),
        (write, lease(&[A, B])),
        (write, lease(&[])),
        (Actions { list: true, ..write }, lease_of_all()),
        (write, Request::Recalled { bucket: BUCKET, lease: HeldLease { mount, epoch: 1 }, wait: Duration::ZERO }),
        (write, Request::CommitUnder { bucket: BUCKET, lease: None, commit: added }),
    ]);
    for bits in 0..16u8 {
        let has = |bit: u8| bits & bit == 0;
        let allowed = Actions { read: has(1), write: has(2), list: has(4), delete: has(8) };
        let caveat = Caveat { disallow: Actions::ALL.without(allowed), ..Caveat::default() };
        for (needed, request) in &cases {
            let mut request = request.clone();
            if let Request::Commit { commit, .. } | Request::CommitUnder { commit, .. } = &mut request {
                // A stream of its own, or it would be a replay.
                let mount = [[commit.mount.as_bytes()[0]; 8], [bits; 8]].concat();
                commit.mount = MountId::try_from(&mount[..]).unwrap();
            }
            let reply = net.ask_as(caveat.clone(), request.clone()).await;
            let looks_up = matches!(request, Request::Entry { .. } | Request::Inode { .. });
            let enough = needed.without(allowed) == Actions::NONE || looks_up && allowed.write;
            assert_eq!(!is_forbidden(&reply), enough, "{allowed:?} {request:?}: {reply:?}");
            assert!(!matches!(reply, Reply::Failed(Error::Internal(_))), "{reply:?}");
        }
    }
}

#[tokio::test]
async fn a_subtree_is_all_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let net = tree(directory.path()).await;
    let inside = subtrees(&[A]);
    for inode in [A, A_FILE, A_SUB, LINKED] {
        for request in reads(id(inode)) {
            let reply = net.ask_as(inside.clone(), request.clone()).await;
            assert!(!is_forbidden(&reply), "{request:?}: {reply:?}");
        }
    }
    // What exists outside and what does not exist at all look the same.
    for inode in [ROOT, id(B), id(B_FILE), id(99)] {
        for request in reads(inode) {
            let reply = net.ask_as(inside.clone(), request.clone()).await;
            assert!(is_forbidden(&reply), "{request:?}: {reply:?}");
        }
    }
    let other = BucketId::from_bytes([8; 16]);
    let foreign = [
        Request::Usage { bucket: other },
        Request::Changes { bucket: other, after: 0, wait: Duration::ZERO },
        Request::OpenBucket { name: "nothing".to_owned() },
        Request::RemoveBucket { bucket: BUCKET, force: true },
        Request::CreateBucket(new_bucket("another", other)),
    ];
    for request in foreign {
        let reply = net.ask_as(inside.clone(), request.clone()).await;
        assert!(is_forbidden(&reply), "{request:?}: {reply:?}");
    }
    // Lists of subtrees intersect; the linked file is under both, but by no single path.
    let both = net.key.restrict(&subtrees(&[A])).unwrap().restrict(&subtrees(&[B])).unwrap();
    assert!(is_forbidden(&net.ask_with(&both, Request::Inode { bucket: BUCKET, inode: id(LINKED) }).await));
    let narrower = net.key.restrict(&subtrees(&[A])).unwrap().restrict(&subtrees(&[A_SUB])).unwrap();
    let inode = |inode| Request::Inode { bucket: BUCKET, inode };
    assert!(matches!(net.ask_with(&narrower, inode(id(A_SUB))).await, Reply::Inode(_)));
    assert!(is_forbidden(&net.ask_with(&narrower, inode(id(A_FILE))).await));
    // A single file can be shared.
    assert!(matches!(net.ask_as(subtrees(&[A_FILE]), inode(id(A_FILE))).await, Reply::Inode(_)));
    // The subtree follows its inode.
    let moved = vec![set(ROOT, A, Some(A), None), set(id(B), A, None, Some(target(A, Kind::Directory)))];
    Stream::new(2).apply(&net, moved, Vec::new()).await;
    assert!(matches!(net.ask_as(inside, inode(id(A_FILE))).await, Reply::Inode(_)));
}

/// Sends a batch under `key` and expects it to be applied or forbidden.
async fn expect(net: &Net, key: &ApiKey, mount: u8, operations: Vec<Operation>, applied: bool) {
    let reply = net.ask_with(key, commit(mount, operations.clone())).await;
    let right = match applied {
        true => matches!(reply, Reply::Commit(CommitReply::Applied { .. })),
        false => is_forbidden(&reply),
    };
    assert!(right, "{mount} {operations:?}: {reply:?}");
}

#[tokio::test]
async fn changes_stay_within_the_subtree() {
    let directory = tempfile::tempdir().unwrap();
    let net = tree(directory.path()).await;
    let key = net.key.restrict(&subtrees(&[A])).unwrap();
    let file_target = |inode| Some(target(inode, Kind::File));
    let directory_target = |inode| Some(target(inode, Kind::Directory));
    let forbidden = [
        create(ROOT, 50, Kind::File).to_vec(),
        create(id(B), 50, Kind::File).to_vec(),
        create(id(99), 50, Kind::File).to_vec(),
        // Out of the subtree, into it, and around it.
        vec![set(id(A), A_FILE, Some(A_FILE), None), set(id(B), 51, None, file_target(A_FILE))],
        vec![set(id(B), B_FILE, Some(B_FILE), None), set(id(A), 51, None, file_target(B_FILE))],
        vec![set(id(A), 51, None, file_target(B_FILE))],
        vec![set(id(A), 51, None, file_target(99))],
        vec![set(ROOT, A, Some(A), None), set(ROOT, 52, None, directory_target(A))],
        vec![set(id(B), 31, Some(LINKED), None)],
        // Reading or probing by conditions.
        vec![set(ROOT, 53, None, None)],
        vec![Operation::PutInode(put(B_FILE, Kind::File, 1))],
        vec![Operation::PutInode(put(99, Kind::File, 1))],
        // An inode that exists is not made by saying so.
        vec![set(id(A), 54, None, file_target(B_FILE)), Operation::PutInode(put(B_FILE, Kind::File, 0))],
        [create(id(A), B, Kind::Directory).to_vec(), create(id(B), 55, Kind::File).to_vec()].concat(),
        // New directories that are nowhere, or elsewhere.
        [create(id(57), 56, Kind::Directory), create(id(56), 57, Kind::Directory)].concat(),
        [create(id(58), 59, Kind::File), create(ROOT, 58, Kind::Directory)].concat(),
        // Somebody else's run.
        vec![file(A_FILE, 1, B_FILE + 100, 5_000)],
    ];
    for (mount, operations) in (50..).zip(forbidden) {
        expect(&net, &key, mount, operations, false).await;
    }
    let allowed = [
        create(id(A), 60, Kind::File).to_vec(),
        [create(id(A), 61, Kind::Directory), create(id(61), 62, Kind::Directory), create(id(62), 63, Kind::File)]
            .concat(),
        vec![set(id(A), A_FILE, Some(A_FILE), None), set(id(A_SUB), 64, None, file_target(A_FILE))],
        vec![set(id(A), 65, None, file_target(LINKED))],
        vec![file(LINKED, 1, A_FILE + 100, 5_000)],
        vec![set(id(A), 66, None, None)],
        vec![set(id(A), 65, Some(LINKED), None)],
    ];
    for (mount, operations) in (100..).zip(allowed) {
        expect(&net, &key, mount, operations, true).await;
    }
    for (request, allowed) in [
        (lease(&[A, A_SUB]), true),
        (lease(&[A, B]), false),
        (lease(&[1]), false),
        (lease(&[99]), false),
        (lease_of_all(), false),
    ] {
        let reply = net.ask_with(&key, request.clone()).await;
        assert_eq!(is_forbidden(&reply), !allowed, "{request:?}: {reply:?}");
    }
    // With both directories in one list, the border is gone.
    let both = net.key.restrict(&subtrees(&[A, B])).unwrap();
    let across = vec![set(id(B), B_FILE, Some(B_FILE), None), set(id(A), 51, None, file_target(B_FILE))];
    expect(&net, &both, 120, across, true).await;
    // Objects cannot expire yet, so who must write such ones cannot write.
    let expiring = Caveat { max_ttl: Some(Duration::from_secs(60)), ..Caveat::default() };
    let expiring = net.key.restrict(&expiring).unwrap();
    expect(&net, &expiring, 121, create(ROOT, 70, Kind::File).to_vec(), false).await;
}

#[tokio::test]
async fn nobody_gives_up_what_another_key_holds() {
    let directory = tempfile::tempdir().unwrap();
    let net = tree(directory.path()).await;
    let mount = MountId::from_bytes([5; 16]);
    let names = vec![(id(A), name(1))];
    let ask = |key: ApiKey, lease: LeaseRequest| {
        let net = &net;
        async move {
            match net.ask_with(&key, Request::Lease { bucket: BUCKET, lease }).await {
                Reply::Lease(reply) => reply,
                other => panic!("{other:?}"),
            }
        }
    };
    let wants = LeaseRequest { names: names.clone(), ..LeaseRequest::new(mount, 1, None) };
    let held = ask(net.key.clone(), wants.clone()).await;
    assert_eq!(held.names, [NameLease::Granted]);
    // It knows the mount's id, which the feed tells, and guesses the epoch.
    let other = net.key.restrict(&subtrees(&[A])).unwrap();
    let gives_up = LeaseRequest { release: names.clone(), ..LeaseRequest::new(mount, 2, held.epoch) };
    assert_eq!(ask(other.clone(), gives_up).await.epoch, None);
    assert_eq!(ask(other, wants.clone()).await.names, [NameLease::Busy]);
    assert_eq!(ask(net.key.clone(), LeaseRequest::new(mount, 2, held.epoch)).await.wanted, names);
}

#[tokio::test]
async fn the_feed_shows_the_subtree_and_what_left_it() {
    let directory = tempfile::tempdir().unwrap();
    let net = tree(directory.path()).await;
    let mut stream = Stream::new(2);
    stream.apply(&net, create(id(B), 50, Kind::File).to_vec(), Vec::new()).await;
    stream.apply(&net, create(id(A_SUB), 51, Kind::File).to_vec(), Vec::new()).await;
    let out = vec![set(id(A), A_SUB, Some(A_SUB), None), set(id(B), 52, None, Some(target(A_SUB, Kind::Directory)))];
    stream.apply(&net, out, Vec::new()).await;
    stream.apply(&net, create(id(A_SUB), 53, Kind::File).to_vec(), Vec::new()).await;
    let changes = Request::Changes { bucket: BUCKET, after: 1, wait: Duration::ZERO };
    let Reply::Changes(changes) = net.ask_as(subtrees(&[A]), changes).await else { panic!("no changes") };
    let seen: Vec<_> = changes.changes.iter().map(|change| (change.entries.clone(), change.inodes.clone())).collect();
    // What happened in the directory that left is told no more; that it left is.
    assert_eq!(seen, [(vec![], vec![]), (vec![], vec![]), (vec![(id(A), name(A_SUB))], vec![]), (vec![], vec![])]);
    assert_eq!(changes.sequence, 5);
}

#[tokio::test]
async fn keys_have_their_time_and_can_be_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let usage = || Request::Usage { bucket: BUCKET };
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let later = Caveat { not_before: at(START + 10), not_after: at(START + 20), ..Caveat::default() };
    let later = net.key.restrict(&later).unwrap();
    assert!(is_forbidden(&net.ask_with(&later, usage()).await));
    net.clock.advance(10);
    let session = session(&net.satellite, &later);
    assert!(matches!(net.satellite.handle(&session, usage()).await, Reply::Usage(_)));
    net.clock.advance(10);
    // The open session ends with its key.
    assert!(is_forbidden(&net.satellite.handle(&session, usage()).await));

    let named = |nonce: u8| Caveat { nonce: Some([nonce; 16]), ..Caveat::default() };
    let child = net.key.restrict(&named(1)).unwrap();
    let sibling = net.key.restrict(&named(2)).unwrap();
    let grandchild = child.restrict(&named(3)).unwrap();
    let revoke = |key: &ApiKey| Request::Revoke { api_key: key.serialize().into() };
    assert!(is_forbidden(&net.ask_with(&sibling, revoke(&child)).await));
    assert!(is_forbidden(&net.ask_with(&grandchild, revoke(&child)).await));
    let open = common::session(&net.satellite, &grandchild);
    assert!(matches!(net.satellite.handle(&open, usage()).await, Reply::Usage(_)));
    assert!(matches!(net.ask(revoke(&child)).await, Reply::Done));
    assert!(is_forbidden(&net.satellite.handle(&open, usage()).await));
    for dead in [&child, &grandchild] {
        assert!(is_forbidden(&net.ask_with(dead, usage()).await));
    }
    assert!(matches!(net.ask_with(&sibling, usage()).await, Reply::Usage(_)));

    let stranger = ApiKey::create(ApiKeyId::from_bytes([1; 16]), &strewn_engine::secret::Key::from_bytes([1; 32]));
    assert!(is_forbidden(&net.ask_with(&stranger, usage()).await));
    let old = Hello { version: 99, ..hello(&net.key) };
    assert!(matches!(net.satellite.open_session(&old), Err(Error::Invalid(_))));
    let garbage = Hello { api_key: bytes::Bytes::from_static(b"nonsense"), version: VERSION };
    assert!(matches!(net.satellite.open_session(&garbage), Err(Error::Forbidden(_))));

    let (clock, key, directory) = (net.clock.clone(), net.key.clone(), directory);
    drop((open, session, net));
    let satellite = common::open(directory.path(), &clock);
    assert!(satellite.open_session(&hello(&key)).is_ok());
    assert!(matches!(satellite.open_session(&hello(&grandchild)), Err(Error::Forbidden(_))));
}

#[tokio::test]
async fn keys_do_not_use_what_others_began() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let nodes = net.join(10).await;
    net.put_segment(&nodes, SEGMENT, 300_000).await;
    let other = net.satellite.create_api_key().await.unwrap();
    let finish = Request::FinishSegment { bucket: BUCKET, segment: SEGMENT, pieces: Vec::new() };
    let replace = Request::ReplacePieces { bucket: BUCKET, segment: SEGMENT, failed: Vec::new(), uplink: [0; 32] };
    for request in [begin(SEGMENT, 300_000), finish, replace] {
        assert!(is_forbidden(&net.ask_with(&other, request).await));
    }
    let mut stream = Stream::new(1);
    let operations = || vec![set(ROOT, 10, None, Some(target(10, Kind::File))), file(10, 0, 40, 5_000)];
    let runs = || vec![in_segment(40, 5_000, SEGMENT)];
    let reply = stream.send(&net, &other, operations(), runs()).await;
    let Reply::Commit(CommitReply::Refused { reason: Refusal::BadExtents(_), .. }) = reply else { panic!("{reply:?}") };
    // The stream belongs to whoever began it.
    assert!(is_forbidden(&stream.send(&net, &net.key, operations(), runs()).await));
    Stream::new(2).apply(&net, operations(), runs()).await;
}
