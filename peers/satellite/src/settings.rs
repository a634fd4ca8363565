//! What an operator may choose.

use std::time::Duration;
use strewn_engine::redundancy::Redundancy;

/// Settings of a satellite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Redundancy of buckets that do not ask for one.
    pub redundancy: Redundancy,
    /// How often nodes check in.
    pub check_in: Duration,
    /// A node counts as online this long after its last check-in.
    pub online: Duration,
    /// How long a node's address is believed after it was dialled.
    pub address_valid: Duration,
    /// At most one piece of a segment per network (/24 of IPv4, /64 of IPv6). Off where all nodes share one.
    pub distinct_networks: bool,
}

impl Settings {
    /// For a network of machines.
    pub fn production() -> Self {
        Self {
            redundancy: Redundancy::STANDARD,
            check_in: Duration::from_secs(3600),
            online: Duration::from_secs(4 * 3600),
            address_valid: Duration::from_secs(3600),
            distinct_networks: true,
        }
    }

    /// For a network on one machine.
    pub fn local() -> Self {
        Self {
            redundancy: Redundancy::SMALL,
            check_in: Duration::from_secs(5),
            online: Duration::from_secs(15),
            address_valid: Duration::from_secs(3600),
            distinct_networks: false,
        }
    }
}
