//! What an uplink has seen of its network: whether the satellite and the storage nodes answered the last time.
//!
//! Only what was asked anyway is noted: nobody is asked for the sake of it.

use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};
use strewn_engine::ids::NodeId;

/// Nodes remembered; those that were not heard of for longest are forgotten.
const MAX_NODES: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// What an uplink has seen of its network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// The satellite answered the last request.
    pub satellite_reachable: bool,
    /// How long ago it answered one; `None` if it never did. While nothing happens it is asked about twice a minute.
    pub satellite_answered: Option<Duration>,
    /// Storage nodes whose addresses the satellite gave with a transfer.
    pub nodes_known: u64,
    /// How many of them answered the last time that something was asked of them.
    pub nodes_reachable: u64,
    /// How many did not. The rest was never asked.
    pub nodes_unreachable: u64,
}

/// Collects it.
pub(super) struct Observer(Mutex<Observed>);

struct Observed {
    satellite: bool,
    answered: Option<Instant>,
    /// `None`: not asked yet.
    nodes: LruCache<NodeId, Option<bool>>,
}

impl Observer {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Observed { satellite: false, answered: None, nodes: LruCache::new(MAX_NODES) }))
    }

    /// The satellite answered, or not.
    pub(super) fn satellite(&self, answered: bool) {
        let mut observed = self.0.lock();
        observed.satellite = answered;
        if answered {
            observed.answered = Some(Instant::now());
        }
    }

    /// The satellite gave the addresses of these.
    pub(super) fn learn(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut observed = self.0.lock();
        for node in nodes {
            observed.nodes.get_or_insert(node, || None);
        }
    }

    /// A node answered what was asked of it, or not.
    pub(super) fn node(&self, node: NodeId, answered: bool) {
        self.0.lock().nodes.put(node, Some(answered));
    }

    /// A look at all of it.
    pub(super) fn health(&self) -> Health {
        let observed = self.0.lock();
        let count = |state| observed.nodes.iter().filter(|(_, seen)| **seen == Some(state)).count() as u64;
        Health {
            satellite_reachable: observed.satellite,
            satellite_answered: observed.answered.map(|at| at.elapsed()),
            nodes_known: observed.nodes.len() as u64,
            nodes_reachable: count(true),
            nodes_unreachable: count(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn the_last_answer_counts() {
        let observer = Observer::new();
        assert_eq!(observer.health(), Health::default());
        observer.learn((0..5).map(node));
        observer.node(node(0), true);
        observer.node(node(1), true);
        observer.node(node(1), false);
        observer.node(node(2), false);
        observer.node(node(2), true);
        observer.learn([node(1), node(7)]);
        observer.satellite(true);
        let health = observer.health();
        assert!(health.satellite_answered.is_some());
        let satellite =
            Health { satellite_reachable: true, satellite_answered: health.satellite_answered, ..Health::default() };
        assert_eq!(health, Health { nodes_known: 6, nodes_reachable: 2, nodes_unreachable: 1, ..satellite });
        observer.satellite(false);
        assert!(!observer.health().satellite_reachable && observer.health().satellite_answered.is_some());
    }

    #[test]
    fn what_was_not_heard_of_for_longest_is_forgotten() {
        let observer = Observer::new();
        observer.learn((0..20_000).map(node));
        assert_eq!(observer.health().nodes_known, MAX_NODES.get() as u64);
    }
}
