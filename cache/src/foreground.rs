//! Who works on the drive right now, and how the background gives way to it.
//!
//! Sealing and uploading take processors and disk from whoever works on the drive. Sealing is short: it begins in a quiet
//! moment if one comes soon. Uploads go on at a limited rate while requests come; without requests, while somebody waits for
//! the network, and while writers wait for room they go on at full speed.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Nobody works on the drive once no request came for this long.
const QUIET: Duration = Duration::from_millis(100);
/// How often a step that gives way looks whether that is so.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Most that a step pays for those before it.
const MOST_DEBT: Duration = Duration::from_millis(500);
/// Bytes per second of segments that are uploaded, for each processor, while somebody works on the drive. Coded and encrypted
/// they are 2.8 times as many.
const RATE_PER_PROCESSOR: u64 = 16 << 20;

/// Notes what is asked of the drive.
#[derive(Debug)]
pub(crate) struct Foreground {
    began: Instant,
    /// Microseconds since `began`.
    newest: AtomicU64,
    /// Requests under way that may take long.
    under_way: AtomicUsize,
    /// Those who wait for the network, or for room.
    waiting: AtomicUsize,
    /// Bytes per second.
    rate: u64,
}

/// Held while somebody waits for the background.
#[derive(Debug)]
pub(crate) struct Hurry<'a>(&'a Foreground);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Held while a request is under way that may take long.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Foreground);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.note();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Foreground {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        Self {
            began: Instant::now(),
            newest: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            rate: RATE_PER_PROCESSOR * processors,
        }
    }

    /// Something was asked of the drive.
    pub(crate) fn note(&self) {
        self.newest.store(self.began.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// Something is asked of the drive that may take long.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// Until it is dropped the background gives way to nobody.
    pub(crate) fn hurry(&self) -> Hurry<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Hurry(self)
    }

    /// Since when nobody works on the drive; in the future while somebody does.
    pub(crate) fn quiet_since(&self) -> Instant {
        let since = if self.under_way.load(Ordering::Relaxed) > 0 {
            self.began.elapsed()
        } else {
            Duration::from_micros(self.newest.load(Ordering::Relaxed))
        };
        self.began + since + QUIET
    }

    /// True while the background is to give way.
    pub(crate) fn has_way(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0 && self.quiet_since() > Instant::now()
    }

    /// True while a step that may begin at a moment has to wait.
    fn holds_back(&self, begin: Instant, now: Instant) -> bool {
        begin > now && self.has_way()
    }
}

/// A stream of background work.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the next step may begin while somebody works on the drive.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// A step of so many bytes is to be made: waits while somebody works on the drive and the steps before it were more than
    /// their share. Blocks.
    pub(crate) fn step(&self, foreground: &Foreground, bytes: u64) {
        let begin = self.reserve(foreground, bytes, Instant::now());
        while foreground.holds_back(begin, Instant::now()) {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// When a step of so many bytes may begin. It takes its time from those after it.
    pub(crate) fn reserve(&self, foreground: &Foreground, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let begin = next.map_or(now, |next| next.clamp(now, now + MOST_DEBT));
        *next = Some(begin + Duration::from_secs_f64(bytes as f64 / foreground.rate as f64));
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_works_on_the_drive_has_way_for_a_time() {
        let foreground = Foreground::new();
        foreground.note();
        assert!(foreground.quiet_since() >= foreground.began + QUIET);
        let busy = foreground.busy();
        assert!(foreground.has_way());
        {
            let _hurry = foreground.hurry();
            assert!(!foreground.has_way(), "somebody waits for the background");
        }
        assert!(foreground.has_way());
        drop(busy);
        assert_eq!(foreground.under_way.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn steps_take_their_time_and_no_debt_lasts() {
        let (foreground, pace, now) = (Foreground::new(), Pace::default(), Instant::now());
        let second = foreground.rate;
        assert_eq!(pace.reserve(&foreground, second / 8, now), now, "the first may begin");
        assert_eq!(pace.reserve(&foreground, 0, now), now + Duration::from_millis(125));
        assert_eq!(pace.reserve(&foreground, second * 60, now), now + Duration::from_millis(125));
        assert_eq!(pace.reserve(&foreground, 0, now), now + MOST_DEBT);
        let later = now + Duration::from_secs(3_600);
        assert_eq!(pace.reserve(&foreground, 0, later), later, "idle time is not saved up");
    }

    #[test]
    fn only_who_works_on_the_drive_holds_steps_back() {
        let (foreground, now) = (Foreground::new(), Instant::now());
        let later = now + MOST_DEBT;
        let _busy = foreground.busy();
        assert!(foreground.holds_back(later, now) && !foreground.holds_back(now, now));
        let _hurry = foreground.hurry();
        assert!(!foreground.holds_back(later, now), "somebody waits for it");
    }
}
