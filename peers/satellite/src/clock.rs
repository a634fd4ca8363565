//! The time, as something that tests can set.

use parking_lot::Mutex;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use strewn_engine::bucket::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;

    /// How much time has passed since some moment. It is never set; while the machine sleeps it may stand still.
    fn elapsed(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
    }

    fn elapsed(&self) -> Duration {
        BEGINNING.elapsed()
    }
}

/// The moment from which [`SystemClock`] counts.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows so many seconds since 1970.
    pub fn new(seconds: i64) -> Self {
        Self(Mutex::new(Timestamp { seconds, nanos: 0 }))
    }

    /// Moves it on.
    pub fn advance(&self, seconds: i64) {
        self.0.lock().seconds += seconds;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.0.lock().seconds.try_into().unwrap_or_default())
    }
}
