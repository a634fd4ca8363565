//! How long first shares usually take, and so when a silent source is to be hedged.

use std::time::Duration;

/// Latencies that count.
const KEPT: usize = 32;

/// A silent source is hedged after this many times the usual latency.
const TIMES_THE_USUAL: u32 = 3;

/// The last latencies of first shares.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    seen: Vec<Duration>,
    next: usize,
    usual: Option<Duration>,
}

impl Latencies {
    /// Notes that a request brought its first share after this long.
    pub fn record(&mut self, latency: Duration) {
        if self.seen.len() < KEPT {
            self.seen.push(latency);
        } else {
            self.seen[self.next] = latency;
            self.next = (self.next + 1) % KEPT;
        }
        let mut sorted = self.seen.clone();
        let middle = sorted.len() / 2;
        self.usual = Some(*sorted.select_nth_unstable(middle).1);
    }

    /// The median of the latencies that count, if there are any.
    pub fn usual(&self) -> Option<Duration> {
        self.usual
    }

    /// How long to wait for a silent source before others are asked. Knowing nothing, the geometric middle of the bounds.
    pub(super) fn hedge_after(&self, (least, most): (Duration, Duration)) -> Duration {
        let most = most.max(least);
        match self.usual {
            Some(usual) => (usual * TIMES_THE_USUAL).clamp(least, most),
            None => Duration::from_secs_f64((least.as_secs_f64() * most.as_secs_f64()).sqrt()).clamp(least, most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_median_within_bounds() {
        let millis = Duration::from_millis;
        let bounds = (millis(30), millis(1000));
        let mut latencies = Latencies::default();
        assert_eq!(latencies.hedge_after(bounds).as_millis(), 173);
        for latency in [50, 900, 60, 70, 40] {
            latencies.record(millis(latency));
        }
        assert_eq!(latencies.usual(), Some(millis(60)));
        assert_eq!(latencies.hedge_after(bounds), millis(180));
        (0..KEPT).for_each(|_| latencies.record(millis(1)));
        assert_eq!(latencies.hedge_after(bounds), millis(30), "old latencies are forgotten");
        (0..KEPT).for_each(|_| latencies.record(millis(5000)));
        assert_eq!(latencies.hedge_after(bounds), millis(1000));
    }
}
