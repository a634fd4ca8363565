//! What the cache takes of the disk, to the byte, and who has to make room.
//!
//! Bytes are **dirty** (the network does not have them: they leave only through an upload), **clean** (they may be evicted,
//! least recently used inode first), **fixed** (journal, sealed files: they go by other rules), or **reserved** (a writer
//! was let in and has not written yet). The budget knows numbers, not files: whoever changes the disk tells it.
//!
//! Only an inode without dirty bytes and without pins is a victim, so evicting dirty data is impossible here by
//! construction. A writer reserves before it writes; near the limit it is slowed down, at the limit it waits for uploads
//! and evictions until its deadline, and then it is told that there is no room. It is never let in to fail later.

use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::ids::InodeId;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Writers are slowed down once this share (numerator, denominator) of the dirty limit is used.
const SLOW_FROM: (u64, u64) = (3, 4);
/// Longest delay of a writer that is slowed down.
const SLOWEST: Duration = Duration::from_millis(50);
/// Eviction begins when more than this share of the total is used …
const HIGH: (u64, u64) = (15, 16);
/// … and makes room down to this one.
const LOW: (u64, u64) = (7, 8);

/// Limits in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of everything.
    pub total: u64,
    /// Of dirty and reserved bytes; beyond `total` it has no meaning of its own.
    pub dirty: u64,
}

/// Bytes in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Of clean data.
    pub clean: u64,
    /// Of dirty data.
    pub dirty: u64,
    /// Promised to writers.
    pub reserved: u64,
    /// Of everything else.
    pub fixed: u64,
}

impl Used {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.clean + self.dirty + self.reserved + self.fixed
    }
}

/// What takes room without belonging to one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// Journal files, live and retired.
    Journal,
    /// Sealed segments and blobs.
    Sealed,
    /// The index.
    Index,
}

const FIXED: usize = 3;

/// An inode that may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// The inode.
    pub inode: InodeId,
    /// Its clean bytes.
    pub bytes: u64,
}

/// There was no room before the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes do not fit: {} of {} are used, {} of them wait for the network", .used.total(), .limits.total, .used.dirty)]
pub struct Full {
    /// Bytes asked for.
    pub wanted: u64,
    /// What was in use at the end.
    pub used: Used,
    /// The limits.
    pub limits: Limits,
}

/// The accounts of a cache. Clones share them.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    accounts: Mutex<Accounts>,
    /// Something was released.
    room: Notify,
    /// There may be something to evict.
    pressure: Notify,
}

struct Accounts {
    /// Inodes that may be evicted, with their clean bytes.
    idle: LruCache<InodeId, u64>,
    /// Inodes that may not: with dirty bytes, or pinned.
    busy: HashMap<InodeId, Account>,
    clean: u64,
    dirty: u64,
    reserved: u64,
    fixed: [u64; FIXED],
    /// Bytes that writers wait for.
    waiting: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Account {
    clean: u64,
    dirty: u64,
    pins: usize,
}

impl Budget {
    /// Empty accounts.
    pub fn new(limits: Limits) -> Self {
        let accounts = Accounts {
            idle: LruCache::unbounded(),
            busy: HashMap::new(),
            clean: 0,
            dirty: 0,
            reserved: 0,
            fixed: [0; FIXED],
            waiting: 0,
        };
        let shared = Shared { limits, accounts: Mutex::new(accounts), room: Notify::new(), pressure: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until `bytes` may be written, at most until the deadline from now.
    pub async fn reserve(&self, bytes: u64, deadline: Duration) -> Result<Reservation, Full> {
        let end = Instant::now() + deadline;
        let mut waiting = None;
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            // Registered before the look, so that what is released in between is not missed.
            room.as_mut().enable();
            if let Some(reservation) = self.try_reserve(bytes) {
                drop(waiting);
                let delay = self.delay().min(end.saturating_duration_since(Instant::now()));
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                return Ok(reservation);
            }
            let hopeless = bytes > self.shared.limits.total || bytes > self.shared.limits.dirty;
            waiting.get_or_insert_with(|| Waiting::new(self.shared.clone(), bytes));
            if hopeless || tokio::time::timeout_at(end, room).await.is_err() {
                return Err(Full { wanted: bytes, used: self.used(), limits: self.shared.limits });
            }
        }
    }

    /// The same without waiting.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut accounts = self.shared.accounts.lock();
        let used = accounts.used();
        let limits = &self.shared.limits;
        let fits = |used: u64, limit: u64| used.checked_add(bytes).is_some_and(|sum| sum <= limit);
        if !fits(used.dirty + used.reserved, limits.dirty) || !fits(used.total(), limits.total) {
            return None;
        }
        accounts.reserved += bytes;
        self.shared.look_for_pressure(&accounts);
        Some(Reservation { shared: self.shared.clone(), left: bytes })
    }

    /// Adds clean bytes, as fetched from the network.
    pub fn charge_clean(&self, inode: InodeId, bytes: u64) {
        self.shared.change(inode, |account| account.clean += bytes);
    }

    /// Takes clean bytes away, evicted or given up.
    pub fn release_clean(&self, inode: InodeId, bytes: u64) {
        self.shared.change(inode, |account| subtract(&mut account.clean, bytes));
    }

    /// Adds dirty bytes that no writer reserved: those found again by recovery.
    pub fn charge_dirty(&self, inode: InodeId, bytes: u64) {
        self.shared.change(inode, |account| account.dirty += bytes);
    }

    /// Takes dirty bytes away, deleted or truncated before they were uploaded.
    pub fn release_dirty(&self, inode: InodeId, bytes: u64) {
        self.shared.change(inode, |account| subtract(&mut account.dirty, bytes));
    }

    /// Dirty bytes became clean: the network has them.
    pub fn make_clean(&self, inode: InodeId, bytes: u64) {
        self.shared.change(inode, |account| {
            subtract(&mut account.dirty, bytes);
            account.clean += bytes;
        });
    }

    /// Clean bytes became dirty: they were overwritten in place.
    pub fn make_dirty(&self, inode: InodeId, bytes: u64) {
        self.shared.change(inode, |account| {
            subtract(&mut account.clean, bytes);
            account.dirty += bytes;
        });
    }

    /// Sets what something else takes.
    pub fn set_fixed(&self, what: Fixed, bytes: u64) {
        let mut accounts = self.shared.accounts.lock();
        accounts.fixed[what as usize] = bytes;
        self.shared.look_for_pressure(&accounts);
        drop(accounts);
        self.shared.room.notify_waiters();
    }

    /// Marks an inode as just used.
    pub fn touch(&self, inode: InodeId) {
        self.shared.accounts.lock().idle.promote(&inode);
    }

    /// Keeps an inode from being evicted while the pin lives (it is open, or being read).
    pub fn pin(&self, inode: InodeId) -> Pin {
        self.shared.change(inode, |account| account.pins += 1);
        Pin { shared: self.shared.clone(), inode }
    }

    /// Least recently used inodes that together hold at least `bytes`, or all that may be evicted. Nothing is taken from
    /// their accounts: who evicts them checks that they are not in use by then, and releases what he freed.
    pub fn victims(&self, bytes: u64) -> Vec<Victim> {
        let accounts = self.shared.accounts.lock();
        let mut victims = Vec::new();
        let mut sum = 0;
        for (&inode, &clean) in accounts.idle.iter().rev() {
            if sum >= bytes {
                break;
            }
            sum += clean;
            victims.push(Victim { inode, bytes: clean });
        }
        victims
    }

    /// Bytes that should be evicted now; 0 if none need to be.
    pub fn excess(&self) -> u64 {
        self.shared.excess(&self.shared.accounts.lock())
    }

    /// Waits until something should be evicted and can be, and says what, least recently used first. Who cannot evict a
    /// victim after all holds a [`Pin`] on it, or it is named again at once.
    pub async fn wanted_victims(&self) -> Vec<Victim> {
        loop {
            let pressure = self.shared.pressure.notified();
            let room = self.shared.room.notified();
            tokio::pin!(pressure, room);
            // Registered before the look, so that nothing in between is missed.
            pressure.as_mut().enable();
            room.as_mut().enable();
            let victims = self.victims(self.excess());
            if !victims.is_empty() {
                return victims;
            }
            tokio::select! {
                () = pressure => {}
                () = room => {}
            }
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> Used {
        self.shared.accounts.lock().used()
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Clean and dirty bytes of an inode.
    pub fn of(&self, inode: InodeId) -> (u64, u64) {
        let accounts = self.shared.accounts.lock();
        match accounts.busy.get(&inode) {
            Some(account) => (account.clean, account.dirty),
            None => (accounts.idle.peek(&inode).copied().unwrap_or(0), 0),
        }
    }

    /// How long a writer is held up for the sake of those who drain: nothing up to three quarters of the dirty limit, then
    /// more and more.
    fn delay(&self) -> Duration {
        let used = self.used();
        let limit = self.shared.limits.dirty.min(self.shared.limits.total);
        let from = share(limit, SLOW_FROM);
        let above = (used.dirty + used.reserved).saturating_sub(from);
        let span = (limit - from).max(1);
        SLOWEST.mul_f64(above.min(span) as f64 / span as f64)
    }
}

/// Room for a writer. What of it was not used is given back when it is dropped.
pub struct Reservation {
    shared: Arc<Shared>,
    left: u64,
}

impl Reservation {
    /// Turns reserved bytes into dirty bytes of an inode. More than is left is charged as well: the disk holds it.
    pub fn charge_dirty(&mut self, inode: InodeId, bytes: u64) {
        let used = bytes.min(self.left);
        self.left -= used;
        let mut accounts = self.shared.accounts.lock();
        accounts.reserved -= used;
        accounts.change(inode, |account| account.dirty += bytes);
        self.shared.look_for_pressure(&accounts);
    }

    /// Bytes not used yet.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.left > 0 {
            self.shared.accounts.lock().reserved -= self.left;
            self.shared.room.notify_waiters();
        }
    }
}

/// Keeps an inode from being evicted.
pub struct Pin {
    shared: Arc<Shared>,
    inode: InodeId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.change(self.inode, |account| account.pins -= 1);
    }
}

/// A writer that waits; counts as demand for eviction.
struct Waiting {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Waiting {
    fn new(shared: Arc<Shared>, bytes: u64) -> Self {
        let mut accounts = shared.accounts.lock();
        accounts.waiting = accounts.waiting.saturating_add(bytes);
        shared.look_for_pressure(&accounts);
        drop(accounts);
        Self { shared, bytes }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut accounts = self.shared.accounts.lock();
        accounts.waiting = accounts.waiting.saturating_sub(self.bytes);
    }
}

impl Shared {
    fn change(&self, inode: InodeId, change: impl FnOnce(&mut Account)) {
        let mut accounts = self.accounts.lock();
        accounts.change(inode, change);
        self.look_for_pressure(&accounts);
        drop(accounts);
        // Also what only became evictable is news.
        self.room.notify_waiters();
    }

    fn look_for_pressure(&self, accounts: &Accounts) {
        if self.excess(accounts) > 0 {
            self.pressure.notify_waiters();
        }
    }

    fn excess(&self, accounts: &Accounts) -> u64 {
        let used = accounts.used().total().saturating_add(accounts.waiting);
        if used <= share(self.limits.total, HIGH) {
            return 0;
        }
        used - share(self.limits.total, LOW)
    }
}

impl Accounts {
    fn used(&self) -> Used {
        let fixed = self.fixed.iter().sum();
        Used { clean: self.clean, dirty: self.dirty, reserved: self.reserved, fixed }
    }

    /// Changes one account and files it where it then belongs, as just used.
    fn change(&mut self, inode: InodeId, change: impl FnOnce(&mut Account)) {
        let before = match self.busy.get(&inode) {
            Some(account) => *account,
            None => Account { clean: self.idle.peek(&inode).copied().unwrap_or(0), ..Account::default() },
        };
        let mut after = before;
        change(&mut after);
        self.clean = self.clean - before.clean + after.clean;
        self.dirty = self.dirty - before.dirty + after.dirty;
        if after.dirty > 0 || after.pins > 0 {
            self.idle.pop(&inode);
            self.busy.insert(inode, after);
            return;
        }
        self.busy.remove(&inode);
        if after.clean > 0 {
            self.idle.put(inode, after.clean);
        } else {
            self.idle.pop(&inode);
        }
    }
}

/// Callers only take away what they added; if they do not, the sum must not wrap.
fn subtract(from: &mut u64, bytes: u64) {
    debug_assert!(*from >= bytes, "{bytes} released of {from}");
    *from = from.saturating_sub(bytes);
}

fn share(of: u64, (numerator, denominator): (u64, u64)) -> u64 {
    of / denominator * numerator
}

#[cfg(test)]
mod tests;
