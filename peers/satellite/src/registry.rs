//! The storage nodes a satellite knows, in memory; what must outlive it is saved in the metabase.

use crate::random;
use crate::selection::{self, Candidate, Network};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use strewn_engine::bucket::Error;
use strewn_engine::ids::NodeId;
use strewn_wire::satellite::NodeAddress;

/// What is saved of a node: the `state` column, postcard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Addresses that were dialled and answered with the node's id.
    pub(crate) addresses: Vec<String>,
    /// What the node said of its addresses when they were dialled.
    pub(crate) announced: Vec<String>,
    /// When they were dialled, seconds since 1970.
    pub(crate) dialled: i64,
    /// Bytes it offers.
    pub(crate) capacity: u64,
    /// Bytes it could still take.
    pub(crate) free: u64,
    /// Last check-in, seconds since 1970.
    pub(crate) seen: i64,
    /// Software version.
    pub(crate) software: String,
}

/// All nodes.
#[derive(Default)]
pub(crate) struct Registry {
    nodes: RwLock<HashMap<NodeId, Node>>,
}

struct Node {
    known: Known,
    network: Option<Network>,
    /// Bytes of pieces it was chosen for since it last told its free space.
    promised: u64,
    /// `known.seen` when it was last saved.
    saved: i64,
}

impl Registry {
    /// The nodes of a metabase.
    pub(crate) fn new(nodes: Vec<(NodeId, Known)>) -> Self {
        let nodes = nodes.into_iter().map(|(node, known)| {
            let saved = known.seen;
            (node, Node { network: network(&known), known, promised: 0, saved })
        });
        Self { nodes: RwLock::new(nodes.collect()) }
    }

    /// A node's state and when it was last saved.
    pub(crate) fn get(&self, node: NodeId) -> Option<(Known, i64)> {
        self.nodes.read().get(&node).map(|node| (node.known.clone(), node.saved))
    }

    /// Replaces a node's state.
    pub(crate) fn put(&self, id: NodeId, known: Known, saved: i64) {
        let node = Node { network: network(&known), known, promised: 0, saved };
        self.nodes.write().insert(id, node);
    }

    /// All nodes.
    pub(crate) fn all(&self) -> Vec<(NodeId, Known)> {
        self.nodes.read().iter().map(|(id, node)| (*id, node.known.clone())).collect()
    }

    /// Addresses of the given nodes and whether each was seen since `online_since`; unknown nodes are left out.
    pub(crate) fn addresses(&self, ids: &[NodeId], online_since: i64) -> HashMap<NodeId, (NodeAddress, bool)> {
        let nodes = self.nodes.read();
        let address = |id: &NodeId| {
            let node = nodes.get(id)?;
            let address = NodeAddress { node: *id, addresses: node.known.addresses.clone() };
            Some((*id, (address, node.known.seen >= online_since)))
        };
        ids.iter().filter_map(address).collect()
    }

    /// Picks at most `count` nodes seen since `online_since` that can take a piece of `piece` bytes, none of `excluded`,
    /// and with `distinct` none in a network of `excluded` or of each other. Reserves the space until they check in.
    pub(crate) fn pick(&self, wish: &Wish<'_>) -> Result<Vec<NodeId>, Error> {
        let mut nodes = self.nodes.write();
        let distinct = |node: &Node| node.network.filter(|_| wish.distinct);
        let taken: HashSet<Network> = wish.used.iter().filter_map(|id| nodes.get(id).and_then(distinct)).collect();
        let mut candidates: Vec<Candidate> = nodes
            .iter()
            .filter(|(id, node)| {
                let usable = node.known.seen >= wish.online_since && !node.known.addresses.is_empty();
                usable && node.free() >= wish.piece && !wish.used.contains(id) && !wish.failed.contains(id)
            })
            .map(|(id, node)| Candidate { node: *id, free: node.free(), network: distinct(node) })
            .collect();
        candidates.sort_unstable_by_key(|candidate| candidate.node);
        let random = random::numbers(candidates.len())?;
        let picked = selection::pick(candidates, wish.count, taken, &random);
        for id in &picked {
            if let Some(node) = nodes.get_mut(id) {
                node.promised = node.promised.saturating_add(wish.piece);
            }
        }
        Ok(picked)
    }

    /// Takes back what was reserved for pieces of `piece` bytes on `nodes`.
    pub(crate) fn release(&self, nodes: &[NodeId], piece: u64) {
        let mut all = self.nodes.write();
        for id in nodes {
            if let Some(node) = all.get_mut(id) {
                node.promised = node.promised.saturating_sub(piece);
            }
        }
    }

    /// Free bytes of all nodes seen since `online_since`.
    pub(crate) fn free(&self, online_since: i64) -> u64 {
        let nodes = self.nodes.read();
        let online = nodes.values().filter(|node| node.known.seen >= online_since);
        online.map(Node::free).fold(0, u64::saturating_add)
    }
}

/// What is asked of [`Registry::pick`].
pub(crate) struct Wish<'a> {
    pub(crate) count: usize,
    /// Bytes of a piece.
    pub(crate) piece: u64,
    /// Seconds since 1970.
    pub(crate) online_since: i64,
    pub(crate) distinct: bool,
    /// Nodes that have a piece of the segment.
    pub(crate) used: &'a HashSet<NodeId>,
    /// Nodes that failed for the segment.
    pub(crate) failed: &'a HashSet<NodeId>,
}

impl Node {
    fn free(&self) -> u64 {
        self.known.free.saturating_sub(self.promised)
    }
}

fn network(known: &Known) -> Option<Network> {
    known.addresses.iter().find_map(|address| selection::network(address))
}
