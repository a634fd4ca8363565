//! Misbehaviour on demand, switchable while the node runs: for tests, and for `strewn local node`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What a node does wrong.
#[derive(Debug)]
pub struct Faults {
    hang: watch::Sender<bool>,
    slow_ms: AtomicU64,
    corrupt: AtomicBool,
    full: AtomicBool,
}

impl Default for Faults {
    fn default() -> Self {
        let (hang, _) = watch::channel(false);
        Self { hang, slow_ms: AtomicU64::new(0), corrupt: AtomicBool::new(false), full: AtomicBool::new(false) }
    }
}

impl Faults {
    /// Accepts requests and answers none until switched off; then goes on where it was.
    pub fn set_hang(&self, on: bool) {
        self.hang.send_replace(on);
    }

    /// Takes this long more for every share (0: not).
    pub fn set_slow(&self, milliseconds: u64) {
        self.slow_ms.store(milliseconds, Ordering::Relaxed);
    }

    /// Flips a bit in every share it serves.
    pub fn set_corrupt(&self, on: bool) {
        self.corrupt.store(on, Ordering::Relaxed);
    }

    /// Has no room for any piece.
    pub fn set_full(&self, on: bool) {
        self.full.store(on, Ordering::Relaxed);
    }

    /// Switches all off.
    pub fn clear(&self) {
        self.set_hang(false);
        self.set_slow(0);
        self.set_corrupt(false);
        self.set_full(false);
    }

    /// The faults that are on, for status: `hang`, `slow MS`, `corrupt`, `full`.
    pub fn list(&self) -> Vec<String> {
        let slow = self.slow_ms.load(Ordering::Relaxed);
        let on = [
            self.hang.borrow().then(|| "hang".to_owned()),
            (slow > 0).then(|| format!("slow {slow}")),
            self.is_corrupt().then(|| "corrupt".to_owned()),
            self.is_full().then(|| "full".to_owned()),
        ];
        on.into_iter().flatten().collect()
    }

    pub(crate) fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Waits while the node hangs, then as long as `shares` shares are delayed.
    pub(crate) async fn wait(&self, shares: u32) {
        let hanging = *self.hang.borrow();
        if hanging {
            // The sender lives as long as self.
            let _ = self.hang.subscribe().wait_for(|hang| !hang).await;
        }
        let slow = self.slow_ms.load(Ordering::Relaxed);
        if slow > 0 && shares > 0 {
            tokio::time::sleep(Duration::from_millis(slow.saturating_mul(u64::from(shares)))).await;
        }
    }
}
