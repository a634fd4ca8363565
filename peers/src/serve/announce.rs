//! What a node says of where it is.
//!
//! A node that listens on all interfaces does not know by which of its addresses others see it; its satellite does, for it
//! puts the address it saw where a node says "any". So such a node announces "any" first, then the addresses it knows of.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use std::net::{Ipv4Addr, Ipv6Addr};
use strewn_wire::satellite::MAX_ADDRESSES;

/// The addresses to announce of a node that was told to listen on `listen` and so came to listen on `bound`.
pub(super) fn announced(listen: &[Multiaddr], bound: &[Multiaddr]) -> Vec<String> {
    let mut all = Vec::new();
    for address in bound {
        match anywhere(address).filter(|any| listen.iter().any(|asked| is_same(asked, any))) {
            Some(any) => {
                all.push((0, any));
                if !is_loopback(address) {
                    all.push((1, address.clone()));
                }
            }
            None => all.push((0, address.clone())),
        }
    }
    all.sort_by_key(|(rank, _)| *rank);
    let mut announced: Vec<String> = Vec::new();
    for text in all.iter().map(|(_, address)| address.to_string()) {
        if !announced.contains(&text) {
            announced.push(text);
        }
    }
    announced.truncate(MAX_ADDRESSES);
    announced
}

/// The address with "any" in place of its IP.
fn anywhere(address: &Multiaddr) -> Option<Multiaddr> {
    let any = match address.iter().next()? {
        Protocol::Ip4(_) => Protocol::Ip4(Ipv4Addr::UNSPECIFIED),
        Protocol::Ip6(_) => Protocol::Ip6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    address.replace(0, |_| Some(any))
}

/// True if they are the same but for a port that was left open.
fn is_same(asked: &Multiaddr, bound: &Multiaddr) -> bool {
    let same = |(asked, bound): (Protocol<'_>, Protocol<'_>)| match (&asked, &bound) {
        (Protocol::Tcp(0), Protocol::Tcp(_)) | (Protocol::Udp(0), Protocol::Udp(_)) => true,
        _ => asked == bound,
    };
    asked.iter().count() == bound.iter().count() && asked.iter().zip(bound.iter()).all(same)
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<const N: usize>(addresses: [&str; N]) -> Vec<Multiaddr> {
        addresses.iter().map(|address| address.parse().expect("a multiaddress")).collect()
    }

    #[test]
    fn who_listens_everywhere_says_so_first() {
        let listen = parse(["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/9/quic-v1"]);
        let bound = parse([
            "/ip4/127.0.0.1/tcp/5",
            "/ip4/10.0.0.1/tcp/5",
            "/ip4/127.0.0.1/udp/9/quic-v1",
            "/ip4/10.0.0.1/udp/9/quic-v1",
        ]);
        let expected =
            ["/ip4/0.0.0.0/tcp/5", "/ip4/0.0.0.0/udp/9/quic-v1", "/ip4/10.0.0.1/tcp/5", "/ip4/10.0.0.1/udp/9/quic-v1"];
        assert_eq!(announced(&listen, &bound), expected);
    }

    #[test]
    fn who_listens_on_one_address_announces_that() {
        let listen = parse(["/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/7"]);
        let bound = parse(["/ip4/127.0.0.1/tcp/5", "/ip6/::1/tcp/7"]);
        assert_eq!(announced(&listen, &bound), ["/ip4/127.0.0.1/tcp/5", "/ip6/::/tcp/7"]);
    }

    #[test]
    fn many_interfaces_are_cut_short() {
        let bound: Vec<Multiaddr> =
            (1..20).map(|n| format!("/ip4/10.0.0.{n}/tcp/5").parse().expect("a multiaddress")).collect();
        let announced = announced(&parse(["/ip4/0.0.0.0/tcp/5"]), &bound);
        assert_eq!((announced.len(), announced[0].as_str()), (MAX_ADDRESSES, "/ip4/0.0.0.0/tcp/5"));
    }
}
