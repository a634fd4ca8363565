//! Which nodes get the pieces of a segment: at random, weighted by free space, never two pieces on one node.

use std::collections::HashSet;
use strewn_engine::ids::NodeId;

/// A node that could take a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    /// Bytes it can take.
    pub(crate) free: u64,
    /// Its network, if it must not get two pieces of a segment.
    pub(crate) network: Option<Network>,
}

/// A network: a prefix of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    /// The first three bytes.
    V4([u8; 3]),
    /// The first eight bytes.
    V6([u8; 8]),
}

/// Free space beyond this makes a node no likelier.
const WEIGHT_LIMIT: u64 = 1 << 40;

/// Picks at most `count` of the candidates, none from a network in `taken`. `random` holds a number per candidate.
///
/// Weighted sampling without replacement (Efraimidis and Spirakis): the highest u^(1/w) win.
pub(crate) fn pick(
    candidates: Vec<Candidate>,
    count: usize,
    mut taken: HashSet<Network>,
    random: &[u64],
) -> Vec<NodeId> {
    let mut drawn: Vec<(f64, Candidate)> = candidates
        .into_iter()
        .zip(random)
        .map(|(candidate, random)| (draw(candidate.free, *random), candidate))
        .collect();
    drawn.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut picked = Vec::with_capacity(count);
    for (_, candidate) in drawn {
        if picked.len() == count {
            break;
        }
        if candidate.network.is_none_or(|network| taken.insert(network)) {
            picked.push(candidate.node);
        }
    }
    picked
}

/// ln(u) / w: orders like u^(1/w).
fn draw(free: u64, random: u64) -> f64 {
    let uniform = (random as f64 + 1.0) / (u64::MAX as f64 + 2.0);
    uniform.ln() / free.clamp(1, WEIGHT_LIMIT) as f64
}

/// The network of a multiaddress, if it names an IP address.
pub(crate) fn network(address: &str) -> Option<Network> {
    let mut parts = address.split('/').skip(1);
    match (parts.next()?, parts.next()?) {
        ("ip4", ip) => ip.parse::<std::net::Ipv4Addr>().ok().map(|ip| {
            let [a, b, c, _] = ip.octets();
            Network::V4([a, b, c])
        }),
        ("ip6", ip) => ip.parse::<std::net::Ipv6Addr>().ok().map(|ip| {
            let [a, b, c, d, e, f, g, h, ..] = ip.octets();
            Network::V6([a, b, c, d, e, f, g, h])
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    fn candidate(number: u8, free: u64, network: Option<Network>) -> Candidate {
        Candidate { node: NodeId::from_bytes([number; 32]), free, network }
    }

    #[test]
    fn picks_distinct_nodes_and_networks() {
        let network = |number| Some(Network::V4([number, 0, 0]));
        let all: Vec<_> = (0..20).map(|n| candidate(n, 1000, network(n / 2))).collect();
        let random: Vec<u64> = (0..20).map(|n: u64| n.wrapping_mul(0x1234_5678_9abc_def1)).collect();
        let picked = pick(all.clone(), 20, HashSet::new(), &random);
        assert_eq!(picked.len(), 10);
        let networks: HashSet<u8> = picked.iter().map(|node| node.as_bytes()[0] / 2).collect();
        assert_eq!(networks.len(), 10);
        let picked = pick(all, 20, HashSet::from([Network::V4([3, 0, 0])]), &random);
        assert!(picked.len() == 9 && picked.iter().all(|node| node.as_bytes()[0] / 2 != 3));
    }

    #[test]
    fn prefers_free_space() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut wins = [0u32; 2];
        for _ in 0..2_000 {
            let two = vec![candidate(0, 1 << 30, None), candidate(1, 3 << 30, None)];
            let picked = pick(two, 1, HashSet::new(), &[random.random(), random.random()]);
            wins[usize::from(picked[0].as_bytes()[0])] += 1;
        }
        // Expected 500 to 1,500; ten standard deviations are about 190.
        assert!((310..690).contains(&wins[0]), "{wins:?}");
    }

    #[test]
    fn reads_networks() {
        assert_eq!(network("/ip4/10.1.2.3/tcp/1"), Some(Network::V4([10, 1, 2])));
        assert_eq!(network("/ip6/::1/udp/1/quic-v1"), Some(Network::V6([0; 8])));
        for none in ["", "/dns/example.org/tcp/1", "/ip4", "/ip4/x", "ip4/1.2.3.4"] {
            assert_eq!(network(none), None, "{none}");
        }
    }
}
