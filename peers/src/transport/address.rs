//! Addresses: multiaddresses of peers, always together with the peer id that is expected there.
//!
//! ```text
//! /ip4/10.0.0.1/udp/7777/quic-v1      libp2p over QUIC
//! /ip4/10.0.0.1/tcp/7777              libp2p over TCP, TLS and yamux
//! /ip4/10.0.0.1/tcp/7778/tls          a piece channel: TLS straight over TCP
//! ```
//! Instead of `ip4` or `ip6` an address may say `dns`, `dns4` or `dns6`; such names are looked up at every dial.

use super::TransportError;
use crate::identity;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::net::{IpAddr, SocketAddr};
use strewn_wire::satellite::{MAX_ADDRESS, MAX_ADDRESSES, NodeAddress};

/// A peer and where it may be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// Who must answer there.
    pub peer: PeerId,
    /// Without peer id, best first.
    pub addresses: Vec<Multiaddr>,
}

impl PeerAddress {
    /// Parses a multiaddress that ends in `/p2p/PEER`.
    pub fn parse(text: &str) -> Result<Self, TransportError> {
        let bad = || TransportError::BadAddress(text.chars().take(MAX_ADDRESS).collect());
        if text.len() > MAX_ADDRESS {
            return Err(bad());
        }
        let mut address: Multiaddr = text.parse().map_err(|_| bad())?;
        let Some(Protocol::P2p(peer)) = address.pop() else { return Err(bad()) };
        Ok(Self { peer, addresses: vec![address] })
    }

    /// What a satellite says of a node. Addresses that do not parse, or that name another peer, are left out.
    pub fn of_node(node: &NodeAddress) -> Result<Self, TransportError> {
        let bad = || TransportError::BadAddress(node.node.to_string());
        let peer = identity::peer_id(node.node.as_bytes()).ok_or_else(bad)?;
        let usable = node.addresses.iter().take(MAX_ADDRESSES).filter_map(|text| without_peer(text, peer));
        let addresses: Vec<_> = usable.collect();
        if addresses.is_empty() { Err(bad()) } else { Ok(Self { peer, addresses }) }
    }

    /// True if libp2p has nothing to dial.
    pub(crate) fn only_channels(&self) -> bool {
        self.addresses.iter().all(is_channel)
    }

    /// The addresses that libp2p dials, names resolved.
    pub(super) async fn libp2p(&self) -> Vec<Multiaddr> {
        let mut found = Vec::new();
        for address in self.addresses.iter().filter(|address| !is_channel(address)) {
            found.extend(resolve(address).await);
        }
        found.truncate(MAX_ADDRESSES);
        found
    }

    /// The addresses of piece channels, names resolved.
    pub(super) async fn channels(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for address in self.addresses.iter().filter(|address| is_channel(address)) {
            found.extend(resolve(address).await.iter().filter_map(tcp_socket));
        }
        found.truncate(MAX_ADDRESSES);
        found
    }
}

/// Parses a multiaddress to listen on: an IP, and TCP or QUIC.
pub fn parse_listen(text: &str) -> Result<Multiaddr, TransportError> {
    let address = parse_bare(text)?;
    match address.iter().collect::<Vec<_>>()[..] {
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_)]
        | [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1] => Ok(address),
        _ => Err(TransportError::BadAddress(text.to_owned())),
    }
}

/// Parses a multiaddress under which a node may be found: an IP or a host name, and TCP, QUIC or a piece channel.
pub fn parse_announced(text: &str) -> Result<Multiaddr, TransportError> {
    let address = parse_bare(text)?;
    match address.iter().collect::<Vec<_>>()[..] {
        [_, Protocol::Tcp(1..)] | [_, Protocol::Tcp(1..), Protocol::Tls] => Ok(address),
        [_, Protocol::Udp(1..), Protocol::QuicV1] => Ok(address),
        _ => Err(TransportError::BadAddress(text.to_owned())),
    }
}

fn parse_bare(text: &str) -> Result<Multiaddr, TransportError> {
    let bad = || TransportError::BadAddress(text.chars().take(MAX_ADDRESS).collect());
    if text.len() > MAX_ADDRESS { Err(bad()) } else { text.parse().map_err(|_| bad()) }
}

/// True for QUIC addresses.
pub(crate) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

/// True for the address of a piece channel.
fn is_channel(address: &Multiaddr) -> bool {
    matches!(address.iter().collect::<Vec<_>>()[..], [_, Protocol::Tcp(_), Protocol::Tls])
}

/// The multiaddress of a piece channel that listens on `socket`.
pub(super) fn channel_address(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port())).with(Protocol::Tls)
}

fn without_peer(text: &str, peer: PeerId) -> Option<Multiaddr> {
    if text.len() > MAX_ADDRESS {
        return None;
    }
    let mut address: Multiaddr = text.parse().ok()?;
    if let Some(Protocol::P2p(named)) = address.iter().last() {
        if named != peer {
            return None;
        }
        address.pop();
    }
    Some(address)
}

/// The socket address of a TCP multiaddress with an IP address.
pub(super) fn tcp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The address with a leading host name replaced by what it resolves to; itself if there is none.
async fn resolve(address: &Multiaddr) -> Vec<Multiaddr> {
    let mut parts = address.iter();
    let (name, v4, v6) = match parts.next() {
        Some(Protocol::Dns(name)) => (name, true, true),
        Some(Protocol::Dns4(name)) => (name, true, false),
        Some(Protocol::Dns6(name)) => (name, false, true),
        _ => return vec![address.clone()],
    };
    let rest: Vec<_> = parts.collect();
    let Ok(found) = tokio::net::lookup_host((name.as_ref(), 0)).await else { return Vec::new() };
    let wanted = found.map(|socket| socket.ip()).filter(|ip| if ip.is_ipv4() { v4 } else { v6 });
    wanted.map(|ip| rest.iter().cloned().fold(Multiaddr::from(ip), Multiaddr::with)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn a_dialled_address_always_names_its_peer() {
        let peer = Identity::fresh().peer_id();
        let parsed = PeerAddress::parse(&format!("/ip4/127.0.0.1/tcp/80/p2p/{peer}")).unwrap();
        assert_eq!(parsed, PeerAddress { peer, addresses: vec!["/ip4/127.0.0.1/tcp/80".parse().unwrap()] });
        for bad in ["", "/ip4/127.0.0.1/tcp/80", "127.0.0.1:80", "/p2p/x", &"/ip4/127.0.0.1".repeat(30)] {
            assert!(PeerAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_listened_on_or_announced_is_refused() {
        for good in ["/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/7/quic-v1"] {
            assert_eq!(parse_listen(good).unwrap().to_string(), good);
        }
        for bad in ["", "x", "/ip4/1.2.3.4", "/dns/host/tcp/1", "/ip4/1.2.3.4/udp/7", "/ip4/1.2.3.4/tcp/7/tls"] {
            assert!(parse_listen(bad).is_err(), "{bad}");
        }
        for good in ["/dns/host/tcp/1", "/ip4/1.2.3.4/tcp/7/tls", "/ip6/::1/udp/7/quic-v1"] {
            assert_eq!(parse_announced(good).unwrap().to_string(), good);
        }
        for bad in ["host:1", "/dns/host", "/ip4/1.2.3.4/tcp/0", &format!("/dns/{}/tcp/1", "x".repeat(300))] {
            assert!(parse_announced(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_other_peers_are_left_out() {
        let (node, other) = (Identity::fresh(), Identity::fresh());
        let own = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", node.peer_id());
        let foreign = format!("/ip4/127.0.0.1/tcp/2/p2p/{}", other.peer_id());
        let address = |addresses| NodeAddress { node: node.node_id(), addresses };
        let parsed = PeerAddress::of_node(&address(vec![foreign.clone(), "junk".into(), own])).unwrap();
        assert_eq!(parsed.addresses, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        assert!(PeerAddress::of_node(&address(vec![foreign])).is_err());
    }

    #[tokio::test]
    async fn names_are_looked_up_and_channels_told_apart() {
        let peer = Identity::fresh().peer_id();
        let addresses = ["/dns4/localhost/tcp/9/tls", "/dns/localhost/tcp/8", "/ip6/::1/udp/7/quic-v1"];
        let address = PeerAddress { peer, addresses: addresses.iter().map(|text| text.parse().unwrap()).collect() };
        assert!(address.channels().await.contains(&"127.0.0.1:9".parse().unwrap()));
        let libp2p = address.libp2p().await;
        assert!(libp2p.contains(&"/ip4/127.0.0.1/tcp/8".parse().unwrap()), "{libp2p:?}");
        assert!(libp2p.contains(&"/ip6/::1/udp/7/quic-v1".parse().unwrap()));
        assert_eq!(channel_address("127.0.0.1:9".parse().unwrap()).to_string(), "/ip4/127.0.0.1/tcp/9/tls");
    }
}
