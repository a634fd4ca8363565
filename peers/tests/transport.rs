//! Streams between two peers over every transport, and who answers.

use strewn_peers::identity::Identity;
use strewn_peers::transport::{
    ChannelDialer, ChannelListener, Host, HostOptions, Incoming, PeerAddress, Protocol, TransportError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends back what comes, on every stream.
fn echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(mut inbound) = incoming.recv().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(&mut inbound.stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                inbound.stream.shutdown().await.unwrap();
            });
        }
    });
}

async fn round_trip(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send) {
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut received = Vec::new();
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, length) = tokio::join!(send, read.read_to_end(&mut received));
    assert_eq!(length.unwrap(), sent.len());
    assert_eq!(received, sent);
}

async fn server(identity: &Identity, listen: &str) -> (Host, PeerAddress) {
    let options =
        HostOptions { listen: vec![listen.parse().unwrap()], accept: vec![Protocol::Piece], ..Default::default() };
    let (host, incoming) = Host::start(identity, options).await.unwrap();
    echo(incoming);
    let address = PeerAddress { peer: host.peer_id(), addresses: host.addresses() };
    (host, address)
}

async fn client() -> Host {
    Host::start(&Identity::fresh(), HostOptions::default()).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_flow_over_tcp_and_quic() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let (_server, address) = server(&Identity::fresh(), listen).await;
        let client = client().await;
        let streams = (0..64).map(|_| async {
            round_trip(client.open(&address, Protocol::Piece).await.unwrap()).await;
        });
        futures::future::join_all(streams).await;
        client.probe(&address).await.unwrap();
        assert_eq!(
            client.open(&address, Protocol::Uplink).await.err(),
            Some(TransportError::Unsupported(Protocol::Uplink.name()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_peer_at_the_address_is_refused() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let (_server, mut address) = server(&Identity::fresh(), listen).await;
        address.peer = Identity::fresh().peer_id();
        let client = client().await;
        assert!(matches!(client.probe(&address).await, Err(TransportError::Unreachable { .. })));
        let opened = client.open(&address, Protocol::Piece).await.err();
        assert!(matches!(opened, Some(TransportError::Unreachable { .. })), "{opened:?}");
    }
    let identity = Identity::fresh();
    let (listener, incoming) = ChannelListener::start(&identity, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    echo(incoming);
    let address = PeerAddress { peer: Identity::fresh().peer_id(), addresses: vec![listener.address().clone()] };
    let opened = ChannelDialer::new(&Identity::fresh()).unwrap().open(&address).await.err();
    assert!(matches!(&opened, Some(TransportError::Unreachable { reason, .. }) if reason.contains("another peer")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_restarts_is_found_again() {
    let identity = Identity::fresh();
    let (first, address) = server(&identity, "/ip4/127.0.0.1/tcp/0").await;
    let client = client().await;
    round_trip(client.open(&address, Protocol::Piece).await.unwrap()).await;
    first.shutdown().await;
    let (_second, again) = server(&identity, &address.addresses[0].to_string()).await;
    assert_eq!(address, again, "the port is free after a shutdown");
    // The client may notice only now that its connection is gone.
    let stream = client.open(&address, Protocol::Piece).await.unwrap();
    round_trip(stream).await;
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let (_server, address) = server(&Identity::fresh(), "/ip4/127.0.0.1/tcp/0").await;
    let options = HostOptions { listen: address.addresses, ..Default::default() };
    assert!(matches!(Host::start(&Identity::fresh(), options).await.err(), Some(TransportError::Listen { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn piece_channels_know_both_peers() {
    let (node, uplink) = (Identity::fresh(), Identity::fresh());
    let (listener, mut incoming) = ChannelListener::start(&node, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = PeerAddress { peer: node.peer_id(), addresses: vec![listener.address().clone()] };
    let dialer = ChannelDialer::new(&uplink).unwrap();
    let mut dialled = dialer.open(&address).await.unwrap();
    let mut inbound = incoming.recv().await.unwrap();
    assert_eq!(inbound.peer, uplink.peer_id());
    dialled.write_all(b"piece").await.unwrap();
    dialled.flush().await.unwrap();
    let mut received = [0; 5];
    inbound.stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"piece");
    echo(incoming);
    let streams = (0..16).map(|_| async { round_trip(dialer.open(&address).await.unwrap()).await });
    futures::future::join_all(streams).await;
}
