//! Keeping idle processors from falling asleep while requests come in quick succession.
//!
//! Every request is two processors waking each other, one that makes something durable is four. An idle processor of a virtual
//! machine sleeps until its host wakes it, which takes longer than the request itself. The kernel's interface for that is
//! `/dev/cpu_dma_latency` (its documentation: pm_qos_interface), which root alone may write: the longest time that waking up
//! may take. On two processors it made transactions of SQLite 1.4 to 2.7 times and overwrites of 4 KiB twice as fast.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// The kernel's interface. What was written holds until it is closed.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// What brings idle processors to sleep.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// The driver of guests, which knows no other way to wake up quickly than not to sleep.
const GUEST: &str = "haltpoll";
/// Microseconds for guests.
const NO_SLEEP: i32 = 0;
/// All of a guest's processors stay awake, so one with more of them does without: its host has others to serve.
const MOST_AWAKE: u64 = 8;
/// Microseconds for other machines: their lightest sleep stays allowed.
const LIGHT_SLEEP: i32 = 2;
/// Microseconds that mean anything goes: the kernel's own default.
const ANY_SLEEP: i32 = 2_000_000_000;

/// The right to keep processors awake.
#[derive(Debug)]
pub(super) struct Awake {
    device: File,
    /// Microseconds.
    latency: i32,
}

impl Awake {
    /// `None` for who may not, where the kernel does not have it, and where it would cost more than it gives.
    pub(super) fn new(processors: u64) -> Option<Self> {
        let device = OpenOptions::new().write(true).open(DEVICE);
        let device = device.inspect_err(|error| tracing::debug!(%error, "cannot open {DEVICE}")).ok()?;
        let driver = std::fs::read_to_string(DRIVER).unwrap_or_default();
        let latency = latency(&driver, processors)?;
        let mut awake = Self::on(device, latency);
        awake.keep(false).then_some(awake)
    }

    pub(super) fn on(device: File, latency: i32) -> Self {
        Self { device, latency }
    }

    /// Keeps them awake, or lets them sleep. True if the kernel took it.
    pub(super) fn keep(&mut self, awake: bool) -> bool {
        let latency = if awake { self.latency } else { ANY_SLEEP };
        let written = self.write(latency);
        if let Err(error) = &written {
            tracing::debug!(%error, "cannot write {DEVICE}");
        }
        written.is_ok()
    }

    fn write(&mut self, latency: i32) -> io::Result<()> {
        self.device.write_all(&latency.to_ne_bytes())
    }
}

/// The longest time that waking up may take, in microseconds.
fn latency(driver: &str, processors: u64) -> Option<i32> {
    match driver.trim() == GUEST {
        true => (processors <= MOST_AWAKE).then_some(NO_SLEEP),
        false => Some(LIGHT_SLEEP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_guests_sleep() {
        let latencies = [("haltpoll\n", 2), ("haltpoll\n", 9), ("intel_idle\n", 64), ("", 2)];
        let latencies = latencies.map(|(driver, processors)| latency(driver, processors));
        assert_eq!(latencies, [Some(0), None, Some(2), Some(2)]);
    }

    #[test]
    fn root_may_and_others_do_without() {
        let may = OpenOptions::new().write(true).open(DEVICE).is_ok();
        match Awake::new(2) {
            Some(mut awake) => assert!(may && awake.keep(true) && awake.keep(false)),
            None => assert!(!may),
        }
    }
}
