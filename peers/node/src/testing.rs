//! The parties around a node, for tests.

use ed25519_dalek::SigningKey;
use strewn_engine::bucket::Timestamp;
use strewn_engine::ids::{NodeId, PieceId, SatelliteId, Serial};
use strewn_engine::order::{Action, Order, OrderLimit, Signed};

/// A directory that is gone after the test; in memory where there is such a place, because tests sync a lot and what a
/// sync costs is not what they are about.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

/// A satellite, a node and an uplink.
pub(crate) struct Party {
    pub(crate) satellite: SigningKey,
    pub(crate) node: SigningKey,
    pub(crate) uplink: SigningKey,
}

/// The moment at which limits are made.
pub(crate) const CREATED: i64 = 1_000;

/// That second.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

impl Party {
    pub(crate) fn new() -> Self {
        Self::of(1)
    }

    /// Strangers.
    pub(crate) fn other() -> Self {
        Self::of(101)
    }

    fn of(first: u8) -> Self {
        let key = |i| SigningKey::from_bytes(&[first + i; 32]);
        Self { satellite: key(0), node: key(1), uplink: key(2) }
    }

    pub(crate) fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.node.verifying_key().to_bytes())
    }

    pub(crate) fn satellite_id(&self) -> SatelliteId {
        SatelliteId::from_bytes(self.satellite.verifying_key().to_bytes())
    }

    /// A limit of `bytes` bytes for piece `number`; limits of the same action and piece have the same serial.
    pub(crate) fn terms(&self, action: Action, number: u8, bytes: u64) -> OrderLimit {
        let mut serial = [number; 16];
        serial[0] = action as u8;
        OrderLimit {
            satellite: self.satellite_id(),
            node: self.node_id(),
            uplink: self.uplink.verifying_key().to_bytes(),
            piece: PieceId::from_bytes([number; 32]),
            action,
            bytes,
            serial: Serial::from_bytes(serial),
            created: at(CREATED),
            expires: at(CREATED + 86_400),
            piece_expires: None,
        }
    }

    pub(crate) fn limit(&self, action: Action, number: u8, bytes: u64) -> Signed<OrderLimit> {
        Signed::new(&self.terms(action, number, bytes), &self.satellite)
    }

    pub(crate) fn order(&self, limit: &Signed<OrderLimit>, bytes: u64) -> Signed<Order> {
        Signed::new(&Order { limit: limit.hash(), bytes }, &self.uplink)
    }
}
