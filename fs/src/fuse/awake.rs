//! Keeping idle processors from falling asleep while requests come in quick succession.
//!
//! Every request is two processors waking each other, one that makes something durable is four. An idle processor of a virtual
//! machine sleeps until its host wakes it, which takes longer than the request itself. The kernel's interface for that is
//! `/dev/cpu_dma_latency` (its documentation: pm_qos_interface), which root alone may write: the longest time that waking up
//! may take. On two processors it made transactions of SQLite 1.5 times and overwrites of 4 KiB twice as fast.

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
    /// `None` for who may not, and where the kernel does not have it.
    pub(super) fn new() -> Option<Self> {
        let device = OpenOptions::new().write(true).open(DEVICE);
        let device = device.inspect_err(|error| tracing::debug!(%error, "cannot open {DEVICE}")).ok()?;
        let driver = std::fs::read_to_string(DRIVER).unwrap_or_default();
        let latency = if driver.trim() == GUEST { NO_SLEEP } else { LIGHT_SLEEP };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_may_and_others_do_without() {
        let may = OpenOptions::new().write(true).open(DEVICE).is_ok();
        match Awake::new() {
            Some(mut awake) => assert!(may && awake.keep(true) && awake.keep(false)),
            None => assert!(!may),
        }
    }
}
