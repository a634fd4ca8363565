//! How much there is, and how much may be.

use super::Volume;
use std::time::Duration;
use strewn_engine::bucket::Usage;

/// How long `df` may wait for the network: it is to answer within 10 ms, whatever else there is to do.
const PATIENCE: Duration = Duration::from_millis(4);

/// Inodes said to be free: nothing limits them but the satellite's disk.
const FREE_INODES: u64 = 1 << 32;

/// What statvfs(3) tells, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that could be held.
    pub total: u64,
    /// Bytes that can still be written.
    pub free: u64,
    /// Inodes that could be held.
    pub inodes: u64,
    /// Inodes that can still be made.
    pub free_inodes: u64,
}

impl Volume {
    /// Use and room. Answers within a few milliseconds, from what was known last if the network is away.
    pub async fn statfs(&self) -> Space {
        let asks = self.cache.is_reachable() || self.usage.lock().is_none();
        if asks && let Ok(Ok(usage)) = tokio::time::timeout(PATIENCE, self.cache.usage()).await {
            *self.usage.lock() = Some(usage);
        }
        let known = *self.usage.lock();
        match known {
            Some(usage) => Space::of_usage(usage),
            None => Space::of_cache(self.cache.status().cache_budget),
        }
    }
}

impl Space {
    fn of_usage(usage: Usage) -> Self {
        let free = match usage.quota {
            Some(quota) => usage.available.min(quota.saturating_sub(usage.bytes)),
            None => usage.available,
        };
        Self {
            total: usage.bytes.saturating_add(free),
            free,
            inodes: usage.inodes.saturating_add(FREE_INODES),
            free_inodes: FREE_INODES,
        }
    }

    /// Nothing was ever heard of the network: what the cache can take is what can be written.
    fn of_cache(budget: u64) -> Self {
        Self { total: budget, free: budget, inodes: FREE_INODES, free_inodes: FREE_INODES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_bounds_what_is_free() {
        let usage = Usage { bytes: 60, inodes: 3, quota: None, available: 500 };
        let space = Space::of_usage(usage);
        assert_eq!((space.total, space.free, space.inodes), (560, 500, 3 + FREE_INODES));
        let space = Space::of_usage(Usage { quota: Some(100), ..usage });
        assert_eq!((space.total, space.free), (100, 40));
        let space = Space::of_usage(Usage { quota: Some(50), ..usage });
        assert_eq!((space.total, space.free), (60, 0));
    }
}
