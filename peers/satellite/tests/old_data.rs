//! Metabases written by older software stay readable. If this fails, the schema version has to change.

mod common;

use common::*;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::lease::{LeaseRequest, NameLease};
use strewn_engine::bucket::*;
use strewn_engine::grant::{ApiKey, Caveat};
use strewn_engine::ids::*;
use strewn_engine::redundancy::Redundancy;
use strewn_satellite::ManualClock;
use strewn_wire::satellite::*;

/// The satellite of [`identity`] with ten nodes; in bucket `drive` the file 10 in segment 60, the inline file 11, and the
/// unfinished upload of segment 61.
const METABASE: &[u8] = include_bytes!("data/metabase-1.sqlite");
const KEY: &[u8] =
    b"014acbb6ea6a3350b765f22c66aedba53100eab960d63c10b71926d7a5bcfc6013449ab43bb1dc4cdec01a908d87f4e84ab4";

#[tokio::test]
async fn version_1_is_read() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("metabase.sqlite"), METABASE).unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let satellite = open(directory.path(), &clock);
    let key = ApiKey::parse(&data_encoding::HEXLOWER.decode(KEY).unwrap()).unwrap();
    let revoked = key.restrict(&Caveat { nonce: Some([1; 16]), ..Caveat::default() }).unwrap();
    assert!(matches!(satellite.open_session(&hello(&revoked)), Err(Error::Forbidden(_))));
    let session = session(&satellite, &key);
    let ask = |request| satellite.handle(&session, request);

    let Reply::Bucket(info) = ask(Request::OpenBucket { name: "drive".to_owned() }).await else { panic!("no bucket") };
    assert_eq!(info.settings.bucket, BUCKET);
    assert_eq!((info.settings.root, info.settings.epoch, info.created), (ROOT, 1, START));
    assert_eq!((info.redundancy, info.derivation.as_ref()), (Redundancy::SMALL, &b"derivation"[..]));
    let Reply::Entries(page) = ask(Request::Entries { bucket: BUCKET, directory: ROOT, after: None, limit: 9 }).await
    else {
        panic!("no entries")
    };
    let seen: Vec<_> =
        page.entries.iter().map(|(entry, inode)| (entry.name.clone(), entry.child, inode.size)).collect();
    assert_eq!(seen, [(name(10), id(10), 5_000), (name(11), id(11), 100)]);
    let Reply::Extents(extents) = ask(Request::Extents { bucket: BUCKET, inode: id(10), offset: 0, length: 1 }).await
    else {
        panic!("no extents")
    };
    assert_eq!(extents.extents, [extent(0, 5_000, 40, 5_000)]);
    assert_eq!(extents.tags, [(0, WindowTag([40; 32]))]);
    let locate = |file: u8, run: u8| {
        let run = RunId::from_bytes([run; 16]);
        Request::LocateRun { bucket: BUCKET, inode: id(file), run, first: 0, count: 1 }
    };
    let Reply::Run(RunLocation::Inline(block)) = ask(locate(11, 41)).await else { panic!("not inline") };
    assert_eq!(block, vec![7; 116]);
    let segment = SegmentId::from_bytes([60; 16]);
    let run = RunId::from_bytes([40; 16]);
    let download = Request::BeginDownload { bucket: BUCKET, inode: id(10), run, segment, uplink: [0; 32] };
    let Reply::Download(download) = ask(download).await else { panic!("no download") };
    assert_eq!((download.pieces.len(), download.length), (10, 300_000));
    let Reply::Upload(upload) = ask(begin(SegmentId::from_bytes([61; 16]), 300_000)).await else { panic!("no upload") };
    assert_eq!((upload.pieces.len(), upload.finished), (10, false));
    let Reply::Changes(changes) = ask(Request::Changes { bucket: BUCKET, after: 0, wait: Duration::ZERO }).await else {
        panic!("no changes")
    };
    assert_eq!(changes.changes.iter().map(|change| change.inodes.clone()).collect::<Vec<_>>(), [[id(10)], [id(11)]]);
    let nodes = satellite.nodes().await.unwrap();
    assert_eq!(nodes.len(), 10);
    assert!(nodes.iter().all(|node| node.online && node.addresses[0].starts_with("/ip4/127.0.0.1/tcp/")));
    assert_eq!(nodes.iter().map(|node| node.earned).sum::<u64>(), 1_000);

    // What came with later versions is there.
    let mount = MountId::from_bytes([1; 16]);
    let lease = LeaseRequest { all: true, ..LeaseRequest::new(mount, 1, None) };
    let Reply::Lease(lease) = ask(Request::Lease { bucket: BUCKET, lease }).await else { panic!("no lease") };
    assert_eq!((lease.all, lease.epoch, lease.sequence), (true, Some(1), 2));

    // A batch that was answered then is answered the same now.
    let mut stream = Stream::new(1);
    let operations = vec![set(ROOT, 10, None, Some(target(10, Kind::File))), file(10, 0, 40, 5_000)];
    let commit = stream.batch(operations, vec![in_segment(40, 5_000, segment)]);
    let reply = ask(Request::Commit { bucket: BUCKET, commit }).await;
    assert!(matches!(reply, Reply::Commit(CommitReply::Applied { sequence: 1 })), "{reply:?}");
}

/// The same satellite later: mount 1 of the same key wants the name 30, and holds it.
const METABASE_2: &[u8] = include_bytes!("data/metabase-2.sqlite");

#[tokio::test]
async fn version_2_is_read() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("metabase.sqlite"), METABASE_2).unwrap();
    let clock = Arc::new(ManualClock::new(START));
    let satellite = open(directory.path(), &clock);
    let key = ApiKey::parse(&data_encoding::HEXLOWER.decode(KEY).unwrap()).unwrap();
    let session = session(&satellite, &key);
    let want = |mount: u8, held| {
        let names = vec![(ROOT, name(30))];
        let lease = LeaseRequest { names, ..LeaseRequest::new(MountId::from_bytes([mount; 16]), 8, held) };
        let (satellite, session) = (&satellite, &session);
        async move {
            match satellite.handle(session, Request::Lease { bucket: BUCKET, lease }).await {
                Reply::Lease(reply) => reply,
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(want(2, None).await.names, [NameLease::Busy]);
    let holder = want(1, Some(1)).await;
    assert_eq!((holder.names, holder.epoch, holder.recalled), (vec![NameLease::Granted], Some(1), true));
}

/// Sizes of sparse files were summed up, and beyond 2^63 nothing could be stored any more.
#[tokio::test]
async fn the_bytes_of_a_bucket_are_counted_anew_for_version_3() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metabase.sqlite");
    std::fs::write(&path, METABASE).unwrap();
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute("UPDATE buckets SET bytes = ?1", [i64::MAX]).unwrap();
    drop(old);
    let satellite = open(directory.path(), &Arc::new(ManualClock::new(START)));
    let key = ApiKey::parse(&data_encoding::HEXLOWER.decode(KEY).unwrap()).unwrap();
    let usage = satellite.handle(&session(&satellite, &key), Request::Usage { bucket: BUCKET }).await;
    let Reply::Usage(usage) = usage else { panic!("{usage:?}") };
    assert_eq!(usage.bytes, 5_000 + 100);
}
