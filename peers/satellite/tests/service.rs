//! The satellite from outside: buckets, trees, transfers, nodes, restarts.

mod common;

use common::*;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::*;
use strewn_engine::ids::*;
use strewn_engine::order::Action;
use strewn_engine::segment::Geometry;
use strewn_satellite::{Satellite, Settings};
use strewn_wire::satellite::*;

const SEGMENT: SegmentId = SegmentId::from_bytes([60; 16]);
const LENGTH: u64 = 300_000;

#[tokio::test]
async fn keeps_everything_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let nodes = net.join(10).await;
    net.put_segment(&nodes, SEGMENT, LENGTH).await;
    let mut stream = Stream::new(1);
    let operations = vec![set(ROOT, 10, None, Some(target(10, Kind::File))), file(10, 0, 40, 5_000)];
    let commit = stream.batch(operations, vec![in_segment(40, 5_000, SEGMENT)]);
    let commit = Request::Commit { bucket: BUCKET, commit };
    let applied = net.ask(commit.clone()).await;
    assert!(matches!(applied, Reply::Commit(CommitReply::Applied { sequence: 1 })), "{applied:?}");
    let (key, clock) = (net.key.clone(), net.clock.clone());
    drop(net);

    let satellite = open(directory.path(), &clock);
    let session = session(&satellite, &key);
    let ask = |request| satellite.handle(&session, request);
    assert!(matches!(ask(commit).await, Reply::Commit(CommitReply::Applied { sequence: 1 })));
    let Reply::Entries(page) = ask(Request::Entries { bucket: BUCKET, directory: ROOT, after: None, limit: 10 }).await
    else {
        panic!("no page")
    };
    assert_eq!((page.entries.len(), page.more, page.sequence), (1, false, 1));
    assert_eq!(page.entries[0].1.size, 5_000);
    let (inode, run) = (id(10), RunId::from_bytes([40; 16]));
    let Reply::Run(located) = ask(Request::LocateRun { bucket: BUCKET, inode, run, first: 0, count: 1 }).await else {
        panic!("no place")
    };
    let part = RunPart { first: 0, count: 1, segment: SEGMENT, offset: 0, length: 5_016 };
    assert_eq!(located, RunLocation::Segments(vec![part]));
    let download = Request::BeginDownload { bucket: BUCKET, inode, run, segment: SEGMENT, uplink: [3; 32] };
    let Reply::Download(download) = ask(download).await else { panic!("no download") };
    assert_eq!((download.pieces.len(), download.length), (10, LENGTH));
    assert!(download.pieces.iter().all(|(piece, _)| !piece.node.addresses.is_empty()));
    let Reply::Changes(changes) = ask(Request::Changes { bucket: BUCKET, after: 0, wait: Duration::ZERO }).await else {
        panic!("no changes")
    };
    assert_eq!((changes.sequence, changes.changes.len(), changes.gap), (1, 1, false));
    let status = satellite.status().await.unwrap();
    assert_eq!((status.nodes, status.online, status.buckets, status.bytes), (10, 10, 1, 5_000));
}

#[tokio::test]
async fn opens_only_its_own_metabase() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let open = |path: &std::path::Path, seed: u8| {
        let identity = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let opened = Satellite::open(path, identity, Settings::local(), net.clock.clone(), Arc::new(Believer));
        opened.map(drop).map_err(|error| error.to_string())
    };
    assert!(open(directory.path(), 77).unwrap_err().contains("in use"));
    let clock = net.clock.clone();
    drop(net);
    let open = |path: &std::path::Path, seed: u8| {
        let identity = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let opened = Satellite::open(path, identity, Settings::local(), clock.clone(), Arc::new(Believer));
        opened.map(drop).map_err(|error| error.to_string())
    };
    assert!(open(directory.path(), 78).unwrap_err().contains("another identity"));
    let database = rusqlite::Connection::open(directory.path().join("metabase.sqlite")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    assert!(open(directory.path(), 77).unwrap_err().contains("has version 99, this software reads version 3"));

    let other = tempfile::tempdir().unwrap();
    let database = rusqlite::Connection::open(other.path().join("metabase.sqlite")).unwrap();
    database.execute_batch("CREATE TABLE songs (name TEXT)").unwrap();
    drop(database);
    assert!(open(other.path(), 77).unwrap_err().contains("not a satellite's metabase"));
}

#[tokio::test]
async fn buckets_have_names_and_can_be_removed() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let again = net.ask(Request::CreateBucket(new_bucket("drive", BUCKET))).await;
    assert!(matches!(again, Reply::Bucket(_)), "{again:?}");
    let other = BucketId::from_bytes([8; 16]);
    let taken = net.ask(Request::CreateBucket(new_bucket("drive", other))).await;
    assert!(matches!(taken, Reply::Failed(Error::Invalid(_))));
    for bad in ["", "ab", "Drive", "-drive", "drive.", "a/b", &"x".repeat(64)] {
        let reply = net.ask(Request::CreateBucket(new_bucket(bad, other))).await;
        assert!(matches!(reply, Reply::Failed(Error::Invalid(_))), "{bad:?}: {reply:?}");
    }
    Stream::new(1).apply(&net, create(ROOT, 10, Kind::File).to_vec(), Vec::new()).await;
    let remove = |force| Request::RemoveBucket { bucket: BUCKET, force };
    assert!(matches!(net.ask(remove(false)).await, Reply::Failed(Error::Invalid(_))));
    assert!(matches!(net.ask(remove(true)).await, Reply::Done));
    let gone = net.ask(Request::OpenBucket { name: "drive".to_owned() }).await;
    assert!(matches!(gone, Reply::Failed(Error::NotFound(_))));
    assert!(matches!(net.ask(Request::Usage { bucket: BUCKET }).await, Reply::Failed(Error::NotFound(_))));
    let swept = net.satellite.collect_unreferenced(START).await.unwrap();
    assert!(swept.rows >= 5, "{swept:?}");
    let Reply::Buckets(all) = net.ask(Request::ListBuckets).await else { panic!("no list") };
    assert!(all.is_empty());
    let reply = net.ask(Request::CreateBucket(new_bucket("drive", BUCKET))).await;
    assert!(matches!(reply, Reply::Bucket(_)), "{reply:?}");
}

#[tokio::test]
async fn uploads_go_to_distinct_nodes_and_can_be_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let few = net.ask(begin(SEGMENT, LENGTH)).await;
    assert!(matches!(few, Reply::Failed(Error::TooFewNodes { found: 0, needed: 7 })), "{few:?}");
    let nodes = net.join(12).await;
    let Reply::Upload(upload) = net.ask(begin(SEGMENT, LENGTH)).await else { panic!("no upload") };
    assert_eq!((upload.pieces.len(), upload.finished), (10, false));
    let mut used: Vec<NodeId> = upload.pieces.iter().map(|piece| piece.node.node).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 10);
    let first = limit(&upload.pieces[0].limit, net.satellite.id());
    assert_eq!((first.action, first.uplink), (Action::Put, uplink().verifying_key().to_bytes()));
    assert!(first.bytes >= Geometry::new(upload.redundancy, LENGTH).unwrap().piece_length());
    assert_eq!(upload.pieces[0].node.addresses[0].split("/tcp").next(), Some("/ip4/127.0.0.1"));

    let Reply::Upload(resumed) = net.ask(begin(SEGMENT, LENGTH)).await else { panic!("no upload") };
    let places = |upload: &Upload| upload.pieces.iter().map(|p| (p.number, p.piece, p.node.node)).collect::<Vec<_>>();
    assert_eq!(places(&resumed), places(&upload));
    assert_ne!(resumed.pieces[0].limit, upload.pieces[0].limit);
    assert!(matches!(net.ask(begin(SEGMENT, LENGTH + 1)).await, Reply::Failed(Error::Invalid(_))));

    let failed = vec![3, 7];
    let uplink_key = uplink().verifying_key().to_bytes();
    let replace = Request::ReplacePieces { bucket: BUCKET, segment: SEGMENT, failed, uplink: uplink_key };
    let Reply::Upload(replaced) = net.ask(replace.clone()).await else { panic!("no upload") };
    assert_eq!(replaced.pieces.iter().map(|piece| piece.number).collect::<Vec<_>>(), [3, 7]);
    assert!(replaced.pieces.iter().all(|piece| !used.contains(&piece.node.node)));
    let Reply::Upload(none) = net.ask(replace).await else { panic!("no upload") };
    assert!(none.pieces.is_empty() && !none.finished);

    // Six pieces are too few; seven do; what was stored before the resumption counts.
    let stored: Vec<_> = upload.pieces.iter().map(|piece| store(&nodes, piece, upload.redundancy, LENGTH)).collect();
    let finish = |pieces| Request::FinishSegment { bucket: BUCKET, segment: SEGMENT, pieces };
    let few = net.ask(finish(stored[..6].to_vec())).await;
    assert!(matches!(few, Reply::Failed(Error::TooFewNodes { found: 6, needed: 7 })), "{few:?}");
    assert!(matches!(net.ask(finish(stored[..7].to_vec())).await, Reply::Done));
    assert!(matches!(net.ask(finish(Vec::new())).await, Reply::Done));
    let Reply::Upload(done) = net.ask(begin(SEGMENT, LENGTH)).await else { panic!("no upload") };
    assert!(done.finished && done.pieces.is_empty());
}

#[tokio::test]
async fn only_proven_pieces_count() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let nodes = net.join(10).await;
    let Reply::Upload(upload) = net.ask(begin(SEGMENT, LENGTH)).await else { panic!("no upload") };
    let good: Vec<_> = upload.pieces.iter().map(|piece| store(&nodes, piece, upload.redundancy, LENGTH)).collect();
    let liar = &nodes[0].0;
    let with = |index: usize, piece: StoredPiece| {
        let mut pieces = good[..7].to_vec();
        pieces[index] = piece;
        pieces
    };
    use strewn_engine::order::{Receipt, Signed};
    let receipt = good[0].receipt.unverified().unwrap();
    let owner = nodes.iter().find(|node| node.id() == upload.pieces[0].node.node).unwrap();
    let other = nodes.iter().find(|node| node.id() != owner.id()).unwrap();
    let own_limit = {
        let mut limit = good[0].limit.unverified().unwrap();
        limit.bytes += 1;
        Signed::new(&limit, liar)
    };
    let bad = [
        StoredPiece { root: [0; 32], ..good[0].clone() },
        StoredPiece { number: 9, ..good[0].clone() },
        StoredPiece { number: 200, ..good[0].clone() },
        StoredPiece { limit: good[1].limit.clone(), ..good[0].clone() },
        StoredPiece { limit: own_limit, ..good[0].clone() },
        StoredPiece { receipt: Signed::new(&receipt, &other.0), ..good[0].clone() },
        StoredPiece {
            receipt: Signed::new(&Receipt { length: receipt.length - 1, ..receipt }, &owner.0),
            ..good[0].clone()
        },
        good[1].clone(),
    ];
    for piece in bad {
        let finish = Request::FinishSegment { bucket: BUCKET, segment: SEGMENT, pieces: with(0, piece.clone()) };
        let reply = net.ask(finish).await;
        assert!(matches!(reply, Reply::Failed(Error::TooFewNodes { found: 6, .. })), "{piece:?}: {reply:?}");
    }
    // Not even a day later: what a limit was for is forgotten by its node.
    net.clock.advance(25 * 3600);
    let late = Request::FinishSegment { bucket: BUCKET, segment: SEGMENT, pieces: good.clone() };
    assert!(matches!(net.ask(late.clone()).await, Reply::Failed(Error::TooFewNodes { found: 0, .. })));
    net.clock.advance(-25 * 3600);
    assert!(matches!(net.ask(late).await, Reply::Done));
}

#[tokio::test]
async fn unreferenced_segments_go_after_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let nodes = net.join(10).await;
    let (kept, idle, open) = (SEGMENT, SegmentId::from_bytes([61; 16]), SegmentId::from_bytes([62; 16]));
    net.put_segment(&nodes, kept, LENGTH).await;
    net.put_segment(&nodes, idle, LENGTH).await;
    net.ask(begin(open, LENGTH)).await;
    let mut stream = Stream::new(1);
    let operations = vec![set(ROOT, 10, None, Some(target(10, Kind::File))), file(10, 0, 40, 5_000)];
    stream.apply(&net, operations, vec![in_segment(40, 5_000, kept)]).await;
    assert_eq!(net.satellite.collect_unreferenced(START + 86_400).await.unwrap().segments, 0);
    assert_eq!(net.satellite.collect_unreferenced(START + 86_401).await.unwrap().segments, 2);
    let operations = vec![set(ROOT, 11, None, Some(target(11, Kind::File))), file(11, 0, 41, 5_000)];
    let reply = stream.send(&net, &net.key, operations, vec![in_segment(41, 5_000, idle)]).await;
    let Reply::Commit(CommitReply::Refused { reason: Refusal::BadExtents(_), operation: 1 }) = reply else {
        panic!("{reply:?}")
    };
    // Once its last file is gone a segment has another day.
    net.clock.advance(100_000);
    stream.apply(&net, vec![set(ROOT, 10, Some(10), None)], Vec::new()).await;
    assert_eq!(net.satellite.collect_unreferenced(START + 100_000).await.unwrap().segments, 0);
    assert_eq!(net.satellite.collect_unreferenced(START + 200_000).await.unwrap().segments, 1);
}

#[tokio::test]
async fn open_uploads_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    net.join(7).await;
    let ask = |number: u16| net.ask(begin(SegmentId::from_bytes((u128::from(number) + 1).to_le_bytes()), 64));
    for number in 0..256 {
        assert!(matches!(ask(number).await, Reply::Upload(_)));
    }
    assert!(matches!(ask(256).await, Reply::Failed(Error::Quota(_))));
    assert!(matches!(ask(255).await, Reply::Upload(_)));
    let too_long = net.ask(begin(SEGMENT, (1 << 20) + 1)).await;
    assert!(matches!(too_long, Reply::Failed(Error::Invalid(_))), "{too_long:?}");
}

#[tokio::test]
async fn nodes_join_with_a_ticket_and_are_dialled() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let node = Node(ed25519_dalek::SigningKey::from_bytes(&[200; 32]));
    let other = Node(ed25519_dalek::SigningKey::from_bytes(&[201; 32]));
    let forbidden = |reply: &NodeReply| matches!(reply, NodeReply::Failed(Error::Forbidden(_)));
    assert!(forbidden(&net.check_in(&node, node.check_in(None)).await));
    assert!(forbidden(&net.check_in(&node, node.check_in(Some("guess".to_owned()))).await));
    let ticket = net.satellite.create_ticket().await.unwrap();
    let bad = vec!["/dns/bad.example/tcp/1".to_owned()];
    let hidden = CheckIn { addresses: bad.clone(), ..node.check_in(Some(ticket.clone())) };
    let reply = net.check_in(&node, hidden).await;
    assert!(
        matches!(&reply, NodeReply::Failed(Error::Unreachable(what)) if what.contains("nobody there")),
        "{reply:?}"
    );
    let good =
        CheckIn { addresses: [bad, node.check_in(None).addresses].concat(), ..node.check_in(Some(ticket.clone())) };
    assert!(matches!(net.check_in(&node, good).await, NodeReply::Welcome { .. }));
    assert!(forbidden(&net.check_in(&other, other.check_in(Some(ticket))).await));
    assert!(matches!(net.check_in(&node, node.check_in(None)).await, NodeReply::Welcome { .. }));
    let status = net.satellite.nodes().await.unwrap();
    assert_eq!(status.len(), 1);
    assert_eq!((status[0].online, &status[0].addresses), (true, &vec!["/ip4/127.0.0.1/tcp/1200".to_owned()]));
    net.clock.advance(16);
    assert!(!net.satellite.nodes().await.unwrap()[0].online);
    let wrong = [
        CheckIn { version: 2, ..node.check_in(None) },
        CheckIn { addresses: vec![], ..node.check_in(None) },
        CheckIn { addresses: vec!["/x".repeat(200)], ..node.check_in(None) },
        CheckIn { free: u64::MAX, ..node.check_in(None) },
        CheckIn { software: "x".repeat(1000), ..node.check_in(None) },
    ];
    for check_in in wrong {
        assert!(matches!(net.check_in(&node, check_in).await, NodeReply::Failed(Error::Invalid(_))));
    }
}

#[tokio::test]
async fn a_satellite_that_restarts_does_not_forget_who_was_online() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let nodes = net.join(2).await;
    net.clock.advance(300);
    // Too soon after the last time to be saved.
    assert!(matches!(net.check_in(&nodes[0], nodes[0].check_in(None)).await, NodeReply::Welcome { .. }));
    let clock = net.clock.clone();
    drop(net);
    clock.advance(10);
    let satellite = open(directory.path(), &clock);
    let online = async || satellite.status().await.unwrap().online;
    assert_eq!(online().await, 2);
    clock.advance(14);
    assert_eq!(online().await, 2);
    let check_in = NodeRequest::CheckIn(nodes[0].check_in(None));
    assert!(matches!(satellite.handle_node(nodes[0].id(), "", check_in).await, NodeReply::Welcome { .. }));
    clock.advance(1);
    assert_eq!(online().await, 1, "everybody has had time to check in");
    drop(satellite);

    clock.advance(700);
    assert_eq!(open(directory.path(), &clock).status().await.unwrap().online, 0, "seen too long ago");
}

#[tokio::test]
async fn orders_are_paid_once() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let nodes = net.join(10).await;
    let Reply::Upload(upload) = net.ask(begin(SEGMENT, LENGTH)).await else { panic!("no upload") };
    let piece = &upload.pieces[0];
    let node = piece.node.node;
    let settle = |node, orders| net.satellite.handle_node(node, "", NodeRequest::Settle(orders));
    let earned = async || {
        let status = net.satellite.nodes().await.unwrap();
        status.iter().find(|status| status.node == node).unwrap().earned
    };
    let order = |bytes| (piece.limit.clone(), pay(&piece.limit, bytes));
    for (bytes, expected) in [(1_000, 1_000), (3_000, 3_000), (3_000, 3_000), (2_000, 3_000)] {
        assert!(matches!(settle(node, vec![order(bytes)]).await, NodeReply::Settled(1)));
        assert_eq!(earned().await, expected);
    }
    let forged = strewn_engine::order::Signed::new(
        &strewn_engine::order::Order { limit: piece.limit.hash(), bytes: 4_000 },
        &nodes[0].0,
    );
    let bad =
        vec![(piece.limit.clone(), forged), order(u64::MAX), (upload.pieces[1].limit.clone(), pay(&piece.limit, 1))];
    assert!(matches!(settle(node, bad).await, NodeReply::Settled(0)));
    let thief = upload.pieces[1].node.node;
    assert!(matches!(settle(thief, vec![order(4_000)]).await, NodeReply::Settled(0)));
    assert!(matches!(settle(NodeId::from_bytes([5; 32]), vec![]).await, NodeReply::Failed(Error::Forbidden(_))));
    net.clock.advance(86_401);
    assert!(matches!(settle(node, vec![order(4_000)]).await, NodeReply::Settled(0)));
    assert_eq!(earned().await, 3_000);
    assert_eq!(net.satellite.collect_unreferenced(START + 4 * 86_400).await.unwrap().orders, 1);
    assert_eq!(earned().await, 3_000);
}

#[tokio::test]
async fn followers_wake_when_a_commit_lands() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let waiting = net.ask(Request::Changes { bucket: BUCKET, after: 0, wait: Duration::from_secs(60) });
    let mut stream = Stream::new(1);
    let commit = stream.apply(&net, create(ROOT, 10, Kind::File).to_vec(), Vec::new());
    let (reply, ()) = tokio::join!(biased; waiting, commit);
    let Reply::Changes(changes) = reply else { panic!("{reply:?}") };
    assert_eq!((changes.sequence, changes.gap), (1, false));
    assert_eq!(changes.changes[0].entries, [(ROOT, name(10))]);
    let idle = net.ask(Request::Changes { bucket: BUCKET, after: 1, wait: Duration::from_millis(1) }).await;
    assert!(matches!(idle, Reply::Changes(changes) if changes.sequence == 1 && changes.changes.is_empty()));
    let future = net.ask(Request::Changes { bucket: BUCKET, after: 9, wait: Duration::ZERO }).await;
    assert!(matches!(future, Reply::Changes(changes) if changes.gap));
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let mut stream = Stream::new(1);
    for number in 10..40 {
        stream.apply(&net, create(ROOT, number, Kind::File).to_vec(), Vec::new()).await;
        if number % 10 != 9 {
            continue;
        }
        // The files as they are at this moment, without the satellite having closed them.
        let copy = tempfile::tempdir().unwrap();
        for file in ["metabase.sqlite", "metabase.sqlite-wal"] {
            std::fs::copy(directory.path().join(file), copy.path().join(file)).unwrap();
        }
        let satellite = open(copy.path(), &net.clock);
        let session = session(&satellite, &net.key);
        let entries = Request::Entries { bucket: BUCKET, directory: ROOT, after: None, limit: 100 };
        let Reply::Entries(page) = satellite.handle(&session, entries).await else { panic!("no page") };
        assert_eq!((page.entries.len() as u64, page.sequence), (u64::from(number) - 9, u64::from(number) - 9));
    }
}

#[tokio::test]
async fn writes_that_share_a_transaction_fail_alone() {
    let directory = tempfile::tempdir().unwrap();
    let net = Arc::new(Net::new(directory.path()).await);
    let read_only = strewn_engine::grant::Caveat {
        disallow: strewn_engine::grant::Actions::CHANGES,
        ..strewn_engine::grant::Caveat::default()
    };
    let read_only = net.key.restrict(&read_only).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 10..130u8 {
        let (net, read_only) = (net.clone(), read_only.clone());
        tasks.spawn(async move {
            let mut stream = Stream::new(number);
            let (key, operations) = match number % 3 {
                0 => (net.key.clone(), create(ROOT, number, Kind::File)),
                // The same name again and again: one of them wins.
                1 => (
                    net.key.clone(),
                    [set(ROOT, 5, None, Some(target(5, Kind::File))), create(ROOT, 5, Kind::File)[1].clone()],
                ),
                _ => (read_only, create(ROOT, number, Kind::File)),
            };
            (number, stream.send(&net, &key, operations.to_vec(), Vec::new()).await)
        });
    }
    let mut winners = 0;
    while let Some(done) = tasks.join_next().await {
        let (number, reply) = done.unwrap();
        match (number % 3, &reply) {
            (0, Reply::Commit(CommitReply::Applied { .. })) => {}
            (1, Reply::Commit(CommitReply::Applied { .. })) => winners += 1,
            (1, Reply::Commit(CommitReply::Refused { reason: Refusal::EntryChanged { .. }, .. })) => {}
            (2, reply) if is_forbidden(reply) => {}
            _ => panic!("{number}: {reply:?}"),
        }
    }
    assert_eq!(winners, 1);
    let Reply::Usage(usage) = net.ask(Request::Usage { bucket: BUCKET }).await else { panic!("no usage") };
    assert_eq!(usage.inodes, 1 + 1 + 40);
    let Reply::Changes(changes) = net.ask(Request::Changes { bucket: BUCKET, after: 0, wait: Duration::ZERO }).await
    else {
        panic!("no changes")
    };
    assert_eq!(changes.sequence, 41);
}

#[tokio::test]
async fn sizes_of_sparse_files_are_not_summed_up() {
    let directory = tempfile::tempdir().unwrap();
    let net = Net::new(directory.path()).await;
    let mut stream = Stream::new(7);
    for number in 10..14u8 {
        let [entry, put] = create(ROOT, number, Kind::File);
        let Operation::PutInode(put) = put else { panic!("{put:?}") };
        let vast = PutInode { size: MAX_OFFSET, ..put };
        let reply = stream.send(&net, &net.key, vec![entry, Operation::PutInode(vast)], Vec::new()).await;
        assert!(matches!(reply, Reply::Commit(CommitReply::Applied { .. })), "{reply:?}");
    }
    let Reply::Usage(usage) = net.ask(Request::Usage { bucket: BUCKET }).await else { panic!("no usage") };
    assert_eq!(usage.bytes, 0);
}
