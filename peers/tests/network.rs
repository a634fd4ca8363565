//! A whole network on loopback: what is stored comes back, whatever some of the nodes do.

mod common;

use common::*;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use strewn_engine::bucket::{Error, SegmentSource};
use strewn_engine::grant::{AccessGrant, Actions, Caveat, Subtree};
use strewn_engine::ids::SegmentId;
use strewn_engine::redundancy::Redundancy;
use strewn_peers::local::control::{self, NodeAction, Reply, Request};
use strewn_peers::local::{LocalError, LocalNetwork, LocalOptions, LocalTransport};
use strewn_peers::uplink::{Uplink, UplinkError};

const LENGTH: usize = 3_500_000;

async fn do_to(network: &LocalNetwork, nodes: impl IntoIterator<Item = usize>, action: NodeAction) {
    for node in nodes {
        network.node(node, action).await.unwrap();
    }
}

async fn assert_reads(drive: &Drive, file: &File, expected: &[u8]) {
    assert!(drive.read(file, 0..expected.len() as u64).await.unwrap() == expected, "the whole file");
    for range in [0..1, 65_519..65_521, 999_999..1_300_000, 3_400_000..3_500_000] {
        let part = &expected[range.start as usize..range.end as usize];
        assert!(drive.read(file, range.clone()).await.unwrap() == part, "{range:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_survives_the_loss_of_all_but_k_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let grant = grant(&network, 1);
    let drive = Drive::create(&grant, "drive").await;
    let bytes = content(LENGTH);
    drive.store("file", &bytes).await.unwrap();

    let file = drive.find("file").await.unwrap().unwrap();
    assert_reads(&drive, &file, &bytes).await;
    assert!(drive.find("other").await.unwrap().is_none());

    // n - k of them, while connections and limits still point to all.
    do_to(&network, [0, 1, 2, 4, 7, 9], NodeAction::Stop).await;
    assert_reads(&drive, &file, &bytes).await;
    let other = Drive::open(&grant, "drive").await;
    let file = other.find("file").await.unwrap().unwrap();
    assert_reads(&other, &file, &bytes).await;

    do_to(&network, [3], NodeAction::Stop).await;
    let error = other.read(&file, 0..LENGTH as u64).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    let seen = other.uplink.health();
    assert!(seen.satellite_reachable && seen.nodes_known == 10, "{seen:?}");
    assert!(seen.nodes_unreachable >= 7 && seen.nodes_reachable <= 3, "{seen:?}");

    do_to(&network, [0], NodeAction::Start).await;
    let again = Drive::open(&grant, "drive").await;
    assert_reads(&again, &file, &bytes).await;
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lying_slow_and_hanging_nodes_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let drive = Drive::create(&grant(&network, 1), "drive").await;
    let bytes = content(LENGTH);
    let file = drive.store("file", &bytes).await.unwrap();
    do_to(&network, [0, 1, 2], NodeAction::Corrupt).await;
    assert_reads(&drive, &file, &bytes).await;
    do_to(&network, [3, 4], NodeAction::Slow(300)).await;
    do_to(&network, [5], NodeAction::Hang).await;
    assert_reads(&drive, &file, &bytes).await;
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_stored_past_hanging_and_full_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let drive = Drive::create(&grant(&network, 1), "drive").await;
    do_to(&network, [0], NodeAction::Hang).await;
    do_to(&network, [1], NodeAction::Full).await;
    let bytes = content(LENGTH);
    let file = drive.store("file", &bytes).await.unwrap();
    do_to(&network, [0, 1, 2, 3], NodeAction::Stop).await;
    assert_reads(&drive, &file, &bytes).await;
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_full_nodes_are_too_few_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let drive = Drive::create(&grant(&network, 1), "drive").await;
    do_to(&network, 0..4, NodeAction::Full).await;
    let error = drive.put(&content(100_000)).await.err();
    assert!(matches!(error, Some(Error::TooFewNodes { needed: 7, .. })), "{error:?}");
    do_to(&network, 0..4, NodeAction::Start).await;
    drive.store("file", &content(100_000)).await.unwrap();
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_pieces_are_found_missing_and_done_without() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let drive = Drive::create(&grant(&network, 1), "drive").await;
    let bytes = content(LENGTH);
    let file = drive.store("file", &bytes).await.unwrap();
    do_to(&network, 0..4, NodeAction::Wipe).await;
    assert_reads(&drive, &file, &bytes).await;
    do_to(&network, 4..10, NodeAction::Wipe).await;
    let error = drive.read(&file, 0..10).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "nodes that answer are not unreachable: {error:?}");
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_restarts_with_the_same_grant() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let grant = grant(&network, 1);
    let drive = Drive::create(&grant, "drive").await;
    let bytes = content(LENGTH);
    drive.store("file", &bytes).await.unwrap();
    let before = network.status().await;
    network.shutdown().await;

    let network = LocalNetwork::start(directory.path(), &LocalOptions::default()).await.unwrap();
    let after = network.status().await;
    assert_eq!(before.satellite, after.satellite, "grants name this address");
    assert_eq!((before.redundancy, before.segment_size), (after.redundancy, after.segment_size));
    let ids = |status: &control::Status| status.nodes.iter().map(|node| node.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after));
    assert!(after.nodes.iter().all(|node| node.state == "running"), "{after:?}");
    assert!(after.nodes.iter().map(|node| node.pieces).sum::<u64>() >= 4 * 8);
    // The uplink from before finds everybody again, and so does a new one.
    let file = drive.find("file").await.unwrap().unwrap();
    assert_reads(&drive, &file, &bytes).await;
    let other = Drive::open(&grant, "drive").await;
    assert_reads(&other, &file, &bytes).await;
    other.store("second", &content(10)).await.unwrap();
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_passphrase_is_told_apart_from_an_empty_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    Drive::create(&grant(&network, 1), "drive").await;
    let uplink = Uplink::connect(&grant(&network, 2)).await.unwrap();
    assert!(matches!(uplink.bucket("drive").await.err(), Some(UplinkError::WrongPassphrase(_))));
    assert!(matches!(uplink.bucket("none").await.err(), Some(UplinkError::Bucket(Error::NotFound(_)))));
    let keyless = Uplink::connect(&network.access()).await.unwrap();
    let made = keyless.create_bucket("new-bucket", &Default::default()).await.err();
    assert_eq!(made, Some(UplinkError::NoRootSecret));
    assert_eq!(keyless.buckets().await.unwrap().len(), 1);
    network.shutdown().await;
}

/// The grant with another API key and all its keys: what a patched client would use.
fn patched(grant: &AccessGrant, caveat: &Caveat) -> AccessGrant {
    AccessGrant { api_key: grant.api_key.restrict(caveat).unwrap(), ..grant.clone() }
}

fn is_forbidden<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Forbidden(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_satellite_refuses_what_a_grant_does_not_allow() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let full = grant(&network, 1);
    let drive = Drive::create(&full, "drive").await;
    let mine = drive.store("mine", &content(200_000)).await.unwrap();
    let others = drive.store("others", &content(200_000)).await.unwrap();
    let root = drive.bucket.starts[0].inode;

    let read_only =
        Drive::open(&patched(&full, &Caveat { disallow: Actions::CHANGES, ..Caveat::default() }), "drive").await;
    assert_eq!(read_only.read(&mine, 0..100).await.unwrap(), content(100));
    assert!(is_forbidden(read_only.put(b"new").await.map(|_| ())));
    let stored = drive.put(b"new").await.unwrap();
    assert!(is_forbidden(read_only.commit("new", &stored, 3).await));
    assert_eq!(
        read_only.uplink.remove_bucket(drive.bucket.info.settings.bucket, true).await.err().map(|error| match error {
            UplinkError::Bucket(error) => matches!(error, Error::Forbidden(_)),
            _ => false,
        }),
        Some(true)
    );

    let bucket = drive.bucket.info.settings.bucket;
    let subtrees = Some(vec![Subtree { bucket, inode: mine.inode }]);
    let narrow = Drive::open(&patched(&full, &Caveat { subtrees, ..Caveat::default() }), "drive").await;
    assert_eq!(narrow.read(&mine, 0..100).await.unwrap(), content(100));
    assert!(is_forbidden(narrow.read(&others, 0..100).await));
    assert!(is_forbidden(narrow.service().inode(others.inode).await));
    assert!(is_forbidden(narrow.service().extents(others.inode, 0, 100).await));
    assert!(is_forbidden(narrow.service().entries(root, None, 10).await));
    assert!(is_forbidden(narrow.service().run_blocks(mine.inode, others.extents[0].run, 0, 1).await.map_err(
        |error| {
            // Whether the run is unknown below this inode or forbidden: it is not served.
            if matches!(error, Error::NotFound(_)) { Error::Forbidden(error.to_string()) } else { error }
        }
    )));

    let uplink = Uplink::connect(&full).await.unwrap();
    let derived = patched(&full, &Caveat { nonce: Some([1; 16]), ..Caveat::default() });
    let before = Drive::open(&derived, "drive").await;
    before.read(&mine, 0..100).await.unwrap();
    uplink.revoke(&derived.api_key).await.unwrap();
    assert!(is_forbidden(before.service().inode(mine.inode).await));
    assert_eq!(drive.read(&mine, 0..100).await.unwrap(), content(100), "its parent lives");
    network.shutdown().await;
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn holders(directory: &Path, needle: &[u8]) -> usize {
    let holds = |path: &std::path::PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    files(directory).iter().filter(|path| holds(path)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_store_holds_plaintext() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let drive = Drive::create(&grant(&network, 1), "drive").await;
    let bytes = content(100_000);
    let file = drive.store("SECRET-NAME-MARKER", &bytes).await.unwrap();
    network.shutdown().await;
    assert_eq!(holders(directory.path(), b"PLAINTEXT-MARKER"), 0);
    assert_eq!(holders(directory.path(), b"SECRET-NAME-MARKER"), 0);
    // Control: the same search finds what is stored.
    assert!(holders(directory.path(), &file.segments[0][..100]) >= 1, "a node holds the first data piece");
    assert!(holders(directory.path(), file.inode.as_bytes()) >= 1, "the satellite holds the inode's row");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_ten_nodes_in_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let network = network(directory.path(), 110, Redundancy::STANDARD).await;
    let grant = grant(&network, 1);
    let drive = Drive::create(&grant, "drive").await;
    let bytes = content(LENGTH);
    let file = drive.store("file", &bytes).await.unwrap();
    assert_reads(&drive, &file, &bytes).await;
    do_to(&network, 0..51, NodeAction::Stop).await;
    let other = Drive::open(&grant, "drive").await;
    assert_reads(&other, &file, &bytes).await;
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_travel_over_every_transport() {
    for transport in [LocalTransport::Channel, LocalTransport::Tcp, LocalTransport::Quic] {
        let directory = tempfile::tempdir().unwrap();
        let redundancy = Some("2/3/4/5".parse().unwrap());
        let options = LocalOptions { nodes: Some(5), redundancy, segment_size: Some(SEGMENT), transport };
        let network = LocalNetwork::start(directory.path(), &options).await.unwrap();
        let drive = Drive::create(&grant(&network, 1), "drive").await;
        let bytes = content(LENGTH);
        let file = drive.store("file", &bytes).await.unwrap();
        do_to(&network, [0, 1, 2], NodeAction::Stop).await;
        assert_reads(&drive, &file, &bytes).await;
        network.shutdown().await;
    }
}

/// A segment that cannot be read.
struct Broken;

impl SegmentSource for Broken {
    fn len(&self) -> u64 {
        100_000
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_resumed_and_repeated_without_harm() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let drive = Drive::create(&grant(&network, 1), "drive").await;
    let id = SegmentId::from_bytes(random());
    let broken = drive.service().put_segment(id, Arc::new(Broken)).await;
    assert!(matches!(broken, Err(Error::Internal(_))), "{broken:?}");
    let segment = seal(drive.bucket.info.settings.cipher, &content(90_000)).1;
    assert_eq!(<bytes::Bytes as SegmentSource>::len(&segment), 90_032);
    let other_length = drive.service().put_segment(id, Arc::new(segment.clone())).await;
    assert!(matches!(other_length, Err(Error::Invalid(_))), "{other_length:?}");
    let id = SegmentId::from_bytes(random());
    for _ in 0..2 {
        drive.service().put_segment(id, Arc::new(segment.clone())).await.unwrap();
    }
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_broken_off_after_its_pieces_are_stored_goes_on_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let drive = Drive::create(&grant(&network, 1), "drive").await;
    // One node hangs, so the upload still waits when the others have everything.
    do_to(&network, [9], NodeAction::Hang).await;
    let pieces = || async { network.status().await.nodes.iter().map(|node| node.pieces).sum::<u64>() };
    let bytes = content(90_000);
    let segment = seal(drive.bucket.info.settings.cipher, &bytes).1;
    let id = SegmentId::from_bytes(random());
    let enough = async {
        while pieces().await < 9 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        stored = drive.service().put_segment(id, Arc::new(segment.clone())) => panic!("too early: {stored:?}"),
        () = enough => {}
    }
    do_to(&network, [9], NodeAction::Start).await;
    drive.service().put_segment(id, Arc::new(segment.clone())).await.unwrap();
    assert_eq!(pieces().await, 10, "no piece was stored twice");
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_steers_it_through_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let path = directory.path();
    let call = |request: Request| async move { control::call(path, &request).await.unwrap() };
    let Reply::Status(status) = call(Request::Status).await else { panic!("no status") };
    assert_eq!(status, network.status().await);
    assert_eq!(call(Request::Node { node: 3, action: NodeAction::Stop }).await, Reply::Done);
    assert_eq!(network.status().await.nodes[3].state, "stopped");
    assert_eq!(call(Request::Node { node: 3, action: NodeAction::Start }).await, Reply::Done);
    assert_eq!(call(Request::Node { node: 4, action: NodeAction::Slow(20) }).await, Reply::Done);
    assert_eq!(network.status().await.nodes[4].state, "slow 20");
    assert!(matches!(call(Request::Node { node: 10, action: NodeAction::Stop }).await, Reply::Failed { .. }));
    assert_eq!(call(Request::Stop).await, Reply::Done);
    network.stop_requested().await;
    network.shutdown().await;
    assert!(control::call(path, &Request::Status).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_per_directory_and_its_port_is_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let network = small_network(directory.path()).await;
    let second = LocalNetwork::start(directory.path(), &LocalOptions::default()).await.err();
    assert!(matches!(second, Some(LocalError::InUse(_))), "{second:?}");
    let address = network.access().satellite;
    network.shutdown().await;

    let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let error = LocalNetwork::start(directory.path(), &LocalOptions::default()).await.err().unwrap();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    drop(taken);
    LocalNetwork::start(directory.path(), &LocalOptions::default()).await.unwrap().shutdown().await;

    fs::write(directory.path().join("network.json"), "{\"version\": 99}").unwrap();
    let other = LocalNetwork::start(directory.path(), &LocalOptions::default()).await.err();
    assert!(matches!(other, Some(LocalError::Version { found: 99, .. })), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_nodes_than_the_redundancy_needs_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = LocalOptions { nodes: Some(5), redundancy: Some(Redundancy::SMALL), ..LocalOptions::default() };
    let error = LocalNetwork::start(directory.path(), &options).await.err();
    assert!(matches!(error, Some(LocalError::TooFewNodes { nodes: 5, needed: 10 })), "{error:?}");
}
