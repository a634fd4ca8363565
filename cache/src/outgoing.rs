//! How far uploads are: what the uplink has taken of the segments on their way, and how fast.
//!
//! Progress is the highest byte of a segment that was ever read for sending: reading it again after a failure is none, so
//! a network that is away cannot look as if something moved.

use crate::foreground::{Foreground, Pace};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strewn_engine::bucket::SegmentSource;
use strewn_engine::ids::SegmentId;

/// The rate shown is over about this long.
const RATE_OVER: Duration = Duration::from_secs(5);
/// A rate over less than this says nothing.
const SHORTEST: Duration = Duration::from_millis(500);
/// After this long without a byte a new transfer begins.
const REST: Duration = Duration::from_secs(30);

/// What is on its way.
pub(crate) struct Outgoing {
    taken: Mutex<Taken>,
    foreground: Arc<Foreground>,
    /// How fast while somebody works on the drive.
    pace: Pace,
}

#[derive(Default)]
struct Taken {
    /// The highest byte read of each segment that is not committed.
    segments: HashMap<SegmentId, u64>,
    /// Bytes taken since the cache was opened.
    total: u64,
    meter: Meter,
}

impl Outgoing {
    /// Nothing is on its way.
    pub(crate) fn new(foreground: Arc<Foreground>) -> Self {
        Self { taken: Mutex::default(), foreground, pace: Pace::default() }
    }

    /// The same segment, watched until it is [forgotten](Self::forget). Reading it gives way to who works on the drive.
    pub(crate) fn watch(
        self: &Arc<Self>,
        segment: SegmentId,
        source: Arc<dyn SegmentSource>,
    ) -> Arc<dyn SegmentSource> {
        self.taken.lock().segments.entry(segment).or_default();
        Arc::new(Watched { segment, source, outgoing: self.clone() })
    }

    /// Segments that are committed, or given up.
    pub(crate) fn forget(&self, segments: impl Iterator<Item = SegmentId>) {
        let mut taken = self.taken.lock();
        for segment in segments {
            taken.segments.remove(&segment);
        }
    }

    /// Bytes that went out in no segment.
    pub(crate) fn add(&self, bytes: u64) {
        self.taken.lock().add(bytes);
    }

    /// Bytes taken since the cache was opened: grows only when an upload gets further than it ever was.
    pub(crate) fn total(&self) -> u64 {
        self.taken.lock().total
    }

    /// Bytes taken of segments that are not committed yet.
    pub(crate) fn under_way(&self) -> u64 {
        self.taken.lock().segments.values().sum()
    }

    /// Bytes per second of late.
    pub(crate) fn rate(&self) -> f64 {
        self.taken.lock().meter.rate(Instant::now())
    }

    fn reached(&self, segment: SegmentId, end: u64) {
        let mut taken = self.taken.lock();
        // An upload that nobody waits for any more moves nothing.
        let Some(before) = taken.segments.get_mut(&segment) else { return };
        let more = end.saturating_sub(*before);
        *before += more;
        taken.add(more);
    }
}

impl Taken {
    fn add(&mut self, bytes: u64) {
        if bytes > 0 {
            self.total += bytes;
            self.meter.add(Instant::now(), bytes);
        }
    }
}

/// A segment that notes how far it was read.
struct Watched {
    segment: SegmentId,
    source: Arc<dyn SegmentSource>,
    outgoing: Arc<Outgoing>,
}

impl SegmentSource for Watched {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.outgoing.pace.step(&self.outgoing.foreground, buffer.len() as u64);
        self.source.read_at(offset, buffer)?;
        self.outgoing.reached(self.segment, offset + buffer.len() as u64);
        Ok(())
    }
}

/// A rate in which older bytes count less and less.
#[derive(Debug, Default)]
struct Meter {
    /// First and latest bytes of this transfer.
    span: Option<(Instant, Instant)>,
    /// Bytes, the older the lighter.
    weighted: f64,
}

impl Meter {
    fn add(&mut self, now: Instant, bytes: u64) {
        self.span = match self.span {
            Some((first, latest)) if now.duration_since(latest) < REST => {
                self.weighted *= fade(now.duration_since(latest));
                Some((first, now))
            }
            _ => {
                self.weighted = 0.0;
                Some((now, now))
            }
        };
        self.weighted += bytes as f64;
    }

    fn rate(&self, now: Instant) -> f64 {
        let Some((first, latest)) = self.span else { return 0.0 };
        let idle = now.duration_since(latest);
        if idle >= REST {
            return 0.0;
        }
        // The weights of all moments since the first, added up.
        let seconds = RATE_OVER.as_secs_f64() * (1.0 - fade(now.duration_since(first).max(SHORTEST)));
        self.weighted * fade(idle) / seconds
    }
}

fn fade(time: Duration) -> f64 {
    (-time.as_secs_f64() / RATE_OVER.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn reading_again_is_no_progress() {
        let outgoing = Arc::new(Outgoing::new(Arc::new(Foreground::new())));
        let id = SegmentId::from_bytes([1; 16]);
        let segment = outgoing.watch(id, Arc::new(Bytes::from(vec![7; 100])));
        let mut buffer = [0; 60];
        segment.read_at(0, &mut buffer).unwrap();
        segment.read_at(0, &mut buffer).unwrap();
        assert_eq!((outgoing.total(), outgoing.under_way()), (60, 60));
        segment.read_at(40, &mut buffer).unwrap();
        assert!(segment.read_at(50, &mut buffer).is_err(), "beyond the end");
        assert_eq!((outgoing.total(), outgoing.under_way()), (100, 100));
        outgoing.add(11);
        outgoing.forget([id].into_iter());
        segment.read_at(0, &mut buffer).unwrap();
        assert_eq!((outgoing.total(), outgoing.under_way()), (111, 0));
        assert!(outgoing.rate() > 0.0);
    }

    #[test]
    fn what_is_read_counts_for_the_pace() {
        let foreground = Arc::new(Foreground::new());
        let outgoing = Arc::new(Outgoing::new(foreground.clone()));
        let segment = outgoing.watch(SegmentId::from_bytes([1; 16]), Arc::new(Bytes::from(vec![7; 1 << 20])));
        segment.read_at(0, &mut vec![0; 1 << 20]).unwrap();
        let long_ago = Instant::now() - Duration::from_millis(1);
        assert!(outgoing.pace.reserve(&foreground, 0, long_ago) > long_ago);
    }

    #[test]
    fn a_steady_stream_has_its_rate_from_the_beginning_and_none_at_rest() {
        let begin = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rate(begin), 0.0);
        for tick in 0..200 {
            let now = begin + Duration::from_millis(100 * tick);
            meter.add(now, 1_000);
            if tick >= 10 {
                let rate = meter.rate(now);
                assert!((8_000.0..12_500.0).contains(&rate), "{rate} after {tick} ticks");
            }
        }
        let end = begin + Duration::from_secs(20);
        assert!(meter.rate(end + RATE_OVER) < 5_000.0);
        assert_eq!(meter.rate(end + REST), 0.0);
        meter.add(end + REST * 2, 1_000);
        assert_eq!(meter.rate(end + REST * 2), 1_000.0 / (RATE_OVER.as_secs_f64() * (1.0 - fade(SHORTEST))));
    }
}
