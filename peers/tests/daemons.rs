//! A satellite and a storage node as daemons of their own: joining, address checks, and finding each other again.

use std::path::Path;
use strewn_engine::bucket::Error;
use strewn_engine::grant::{AccessGrant, OpenedKey};
use strewn_engine::keys::{Derivation, RootSecret};
use strewn_engine::secret::Key;
use strewn_peers::identity::Identity;
use strewn_peers::serve::{JoinSatellite, NodeDaemon, NodeDaemonOptions, SatelliteDaemon, Standing};
use strewn_peers::uplink::{NewBucket, Uplink};
use strewn_satellite::Settings;

async fn satellite(directory: &Path, listen: &str) -> SatelliteDaemon {
    let identity = Identity::open_or_create(&directory.join("identity")).unwrap();
    SatelliteDaemon::start(directory, &identity, Settings::local(), vec![listen.parse().unwrap()]).await.unwrap()
}

async fn node(
    directory: &Path,
    satellite: &SatelliteDaemon,
    ticket: Option<String>,
    announce: Option<&str>,
) -> NodeDaemon {
    let identity = Identity::open_or_create(&directory.join("identity")).unwrap();
    let options = NodeDaemonOptions {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap(), "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()],
        channel: Some("127.0.0.1:0".parse().unwrap()),
        announce: announce.map(|address| vec![address.to_owned()]),
        satellites: vec![JoinSatellite { address: satellite.addresses()[0].to_string(), ticket }],
        capacity: 1 << 30,
    };
    NodeDaemon::start(directory, &identity, options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_with_a_ticket_and_counts_where_it_was_dialled() {
    let (home, node_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let satellite = satellite(home.path(), "/ip4/127.0.0.1/tcp/0").await;

    let stranger = node(node_home.path(), &satellite, None, None).await;
    assert!(matches!(stranger.check_in().await, Err(Error::Forbidden(_))));
    stranger.stop().await;

    let ticket = satellite.satellite().create_ticket().await.unwrap();
    // Somebody answers there, but it is the satellite.
    let wrong = satellite.addresses()[0].to_string().rsplit_once("/p2p/").unwrap().0.to_owned();
    let elsewhere = node(node_home.path(), &satellite, Some(ticket.clone()), Some(&wrong)).await;
    assert!(matches!(elsewhere.check_in().await, Err(Error::Unreachable(_))));
    elsewhere.stop().await;

    let member = node(node_home.path(), &satellite, Some(ticket), None).await;
    member.check_in().await.unwrap();
    let known = satellite.satellite().nodes().await.unwrap();
    assert_eq!(known.len(), 1);
    assert!(known[0].online);
    assert_eq!(known[0].addresses.len(), 3, "channel, TCP and QUIC: {:?}", known[0].addresses);
    member.check_in().await.unwrap();
    assert_eq!(member.settle().await, Ok(0));
    member.stop().await;

    let again = node(node_home.path(), &satellite, None, None).await;
    again.check_in().await.unwrap();
    again.stop().await;
    satellite.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_its_satellite_again_after_a_restart() {
    let (home, node_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = satellite(home.path(), "/ip4/127.0.0.1/tcp/0").await;
    let address = first.addresses()[0].to_string().rsplit_once("/p2p/").unwrap().0.to_owned();
    let ticket = first.satellite().create_ticket().await.unwrap();
    let node = node(node_home.path(), &first, Some(ticket), None).await;
    node.check_in().await.unwrap();
    first.stop().await;
    assert!(matches!(node.check_in().await, Err(Error::Unreachable(_))));
    let second = satellite(home.path(), &address).await;
    node.check_in().await.unwrap();
    assert!(second.satellite().nodes().await.unwrap()[0].online);
    node.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_by_itself_when_its_satellite_comes() {
    let (home, node_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = satellite(home.path(), "/ip4/127.0.0.1/tcp/0").await;
    let address = first.addresses()[0].to_string().rsplit_once("/p2p/").unwrap().0.to_owned();
    let ticket = first.satellite().create_ticket().await.unwrap();
    let node = node(node_home.path(), &first, Some(ticket), None).await;
    first.stop().await;
    let mut standing = node.standings().remove(0);
    assert_eq!(*standing.borrow(), Standing::Unknown);
    node.run();
    let failed = standing.wait_for(|standing| *standing != Standing::Unknown).await.unwrap().clone();
    assert!(matches!(failed, Standing::Failed(Error::Unreachable(_))), "{failed:?}");
    let second = satellite(home.path(), &address).await;
    standing.wait_for(|standing| *standing == Standing::Member).await.unwrap();
    assert!(second.satellite().nodes().await.unwrap()[0].online);
    node.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_is_swept_up() {
    let home = tempfile::tempdir().unwrap();
    let satellite = satellite(home.path(), "/ip4/127.0.0.1/tcp/0").await;
    let secret = RootSecret::from_key(Key::from_bytes([1; 32]));
    let grant = AccessGrant {
        satellite: satellite.addresses()[0].to_string(),
        api_key: satellite.satellite().create_api_key().await.unwrap(),
        keys: vec![OpenedKey::Root { secret, derivation: Derivation::new([1; 32]) }],
    };
    let uplink = Uplink::connect(&grant).await.unwrap();
    let bucket = uplink.create_bucket("drive", &NewBucket::default()).await.unwrap();
    assert!(satellite.sweep().await.unwrap().unwrap().is_empty(), "a bucket that is there stays");
    uplink.bucket("drive").await.unwrap();
    uplink.remove_bucket(bucket.info.settings.bucket, false).await.unwrap();
    assert!(satellite.sweep().await.unwrap().unwrap().rows >= 2, "the bucket and its root directory");
    assert!(satellite.sweep().await.unwrap().unwrap().is_empty());
    satellite.stop().await;
}
