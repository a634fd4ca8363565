//! How long first shares usually take, and so when a silent source is to be hedged.
//!
//! On a slow line all sources are slow together, and hedging would only make it slower. So the time between any two
//! shares is watched too: with 29 requests under way every one may be silent for as long as 29 shares take to come in.

use std::time::Duration;

/// Latencies that count.
const KEPT: usize = 32;

/// A silent source is hedged after this many times the usual latency.
const TIMES_THE_USUAL: u32 = 3;

/// Weight of a new gap in the mean is one in this many.
const GAPS: u32 = 8;

/// The last latencies of first shares, and the pace of the line.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// Mean time between shares while some were asked for.
    gap: Duration,
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

    /// Notes that a share came this long after the last one of any source.
    pub(super) fn record_gap(&mut self, gap: Duration) {
        self.gap = (self.gap * (GAPS - 1) + gap) / GAPS;
    }

    /// How long to wait for a silent source, one of `requests` that are under way, before others are asked. Knowing
    /// nothing, the geometric middle of the bounds. Only the pace of the line takes it beyond them.
    pub(super) fn hedge_after(&self, (least, most): (Duration, Duration), requests: u32) -> Duration {
        let most = most.max(least);
        let of_the_sources = match self.usual {
            Some(usual) => (usual * TIMES_THE_USUAL).clamp(least, most),
            None => Duration::from_secs_f64((least.as_secs_f64() * most.as_secs_f64()).sqrt()).clamp(least, most),
        };
        of_the_sources.max(self.gap.saturating_mul(requests.saturating_mul(TIMES_THE_USUAL)))
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
        assert_eq!(latencies.hedge_after(bounds, 1).as_millis(), 173);
        for latency in [50, 900, 60, 70, 40] {
            latencies.record(millis(latency));
        }
        assert_eq!(latencies.usual(), Some(millis(60)));
        assert_eq!(latencies.hedge_after(bounds, 1), millis(180));
        (0..KEPT).for_each(|_| latencies.record(millis(1)));
        assert_eq!(latencies.hedge_after(bounds, 1), millis(30), "old latencies are forgotten");
        (0..KEPT).for_each(|_| latencies.record(millis(5000)));
        assert_eq!(latencies.hedge_after(bounds, 1), millis(1000));
    }
    #[test]
    fn a_slow_line_is_not_hedged() {
        let millis = Duration::from_millis;
        let bounds = (millis(30), millis(1000));
        let mut latencies = Latencies::default();
        // 29 shares of 64 KiB at 10 Mbit/s: one every 52 ms, the first shares of all within 1.5 s.
        (1..=29).for_each(|n| latencies.record(n * millis(52)));
        (0..100).for_each(|_| latencies.record_gap(millis(52)));
        assert!(latencies.hedge_after(bounds, 29) > millis(3000));
        assert_eq!(latencies.hedge_after(bounds, 1), millis(1000));
    }
}
