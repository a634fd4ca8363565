//! Watching the device of a busy drive instead of sleeping on it.
//!
//! Two thirds of the time of a small request are two processors waking each other. While requests about names and attributes
//! come in quick succession the device is therefore read without blocking: the library's loop asks again at once when
//! there is nothing, which keeps its processor awake for the next request. A loop of its own thread ends that as soon as the
//! burst is over, so an idle drive costs nothing. While requests of any kind come in quick succession, it keeps processors
//! from falling asleep between them (`awake`).
//!
//! Not done where the processor has more to give elsewhere (measured on two of them): with one processor, where the loop
//! would only keep the caller from running; while others wait for a processor, since the scheduler would make the loop pay
//! for its watching just when a request comes; and while bytes are made durable or large pieces are written, because their
//! journal, disk and upload need it. A long run of small writes that nobody syncs meanwhile is watched: 1,000 overwrites of
//! 4 KiB took half the time.

use super::awake::Awake;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Requests closer than this make a burst, in microseconds. Programs that work through files leave 10 to 100 between two.
const BURST_GAP: u64 = 500;
/// How often it is looked whether a burst is over.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A burst is over when fewer requests than this came meanwhile.
const BURST_REQUESTS: u64 = 4;
/// No burst begins for this long, in microseconds, after bytes were made durable or others waited for a processor.
const HOLD_OFF: u64 = 20_000;
/// Requests for names that weigh as much as one that writes: a small file made is five and one.
const WRITE_WEIGHT: i64 = 2;
/// A burst begins when those for names outweigh those that write by this much, and ends when they are outweighed.
const APPETITE: i64 = 4;
/// Small writes in quick succession, with nothing else between, after which more of them are expected. A transaction of a
/// database has less than half as many between two syncs.
const RUN_OF_WRITES: u64 = 24;
/// Bytes of the largest write that counts as small.
const SMALL_WRITE: usize = 64 << 10;
/// More is not remembered.
const MOST_APPETITE: i64 = 8;
/// Requests closer than this are worth staying awake for, in microseconds: a sync of a fast disk lies between.
const AWAKE_GAP: u64 = 1_000;
/// Processors are kept awake after so many requests that close together.
const AWAKE_AFTER: u64 = 8;
/// They may sleep after this long without a request, in microseconds.
const AWAKE_FOR: u64 = 5_000;
/// Others wait for a processor when more threads than this want each of them. The mount's own background, which yields, is
/// among those that are counted, so one is too few.
const CROWD: u64 = 2;
/// The thread that looks is itself one of those that run.
const OURS: u64 = 1;
/// How many threads want to run, among other things; see proc_loadavg(5).
const LOAD: &str = "/proc/loadavg";

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Names and attributes, opening and closing.
    Names,
    /// Bytes that are read.
    Reading,
    /// So many bytes that are written.
    Writing(usize),
    /// Bytes that are made durable.
    Durability,
}

/// Whether the device is watched; told of every request.
pub(super) struct Polling {
    watch: Arc<Watch>,
}

struct Watch {
    /// Shares its flags with the descriptor that the loop reads.
    device: OwnedFd,
    began: Instant,
    requests: AtomicU64,
    /// By how much requests for names outweigh those that write, lately.
    appetite: AtomicI64,
    /// Small writes that came one after the other, up to now.
    writes: AtomicU64,
    /// When the newest request came, in microseconds since `began`.
    newest: AtomicU64,
    /// No burst begins before, in microseconds since `began`.
    held_off: AtomicU64,
    /// Requests that came close together, up to now.
    close: AtomicU64,
    /// The device is read without blocking.
    busy: AtomicBool,
    /// Processors are kept awake.
    awake: AtomicBool,
    processors: u64,
    control: Mutex<Control>,
    wake: Condvar,
}

struct Control {
    ended: bool,
    awake: Option<Awake>,
}

impl Polling {
    /// Watches a device that one loop reads. `device` must share its open file with the loop's descriptor.
    /// `None` where watching would be of no use.
    pub(super) fn start(device: OwnedFd) -> io::Result<Option<Self>> {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        if processors == 1 {
            return Ok(None);
        }
        Self::start_with(device, processors, Awake::new(processors)).map(Some)
    }

    fn start_with(device: OwnedFd, processors: u64, awake: Option<Awake>) -> io::Result<Self> {
        let watch = Arc::new(Watch {
            device,
            began: Instant::now(),
            requests: AtomicU64::new(0),
            appetite: AtomicI64::new(0),
            writes: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            held_off: AtomicU64::new(0),
            close: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            processors,
            control: Mutex::new(Control { ended: false, awake }),
            wake: Condvar::new(),
        });
        let theirs = watch.clone();
        Builder::new().name("strewn-polling".into()).spawn(move || theirs.end_bursts())?;
        Ok(Self { watch })
    }

    /// A request came.
    pub(super) fn note(&self, about: About) {
        let watch = &*self.watch;
        watch.requests.fetch_add(1, Ordering::Relaxed);
        let now = watch.now();
        let gap = now.saturating_sub(watch.newest.swap(now, Ordering::Relaxed));
        watch.count_close(gap < AWAKE_GAP);
        let appetite = watch.eat(about, gap < BURST_GAP, now);
        let busy = watch.busy.load(Ordering::Relaxed);
        if busy && appetite < 0 {
            watch.end_burst();
        } else if !busy && appetite >= APPETITE && now >= watch.held_off.load(Ordering::Relaxed) {
            watch.begin_burst();
        }
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.watch.control.lock().ended = true;
        self.watch.wake.notify_one();
    }
}

impl Watch {
    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// What a request makes of the appetite for watching.
    fn eat(&self, about: About, quick: bool, now: u64) -> i64 {
        let before = self.appetite.load(Ordering::Relaxed);
        let small_write = matches!(about, About::Writing(bytes) if bytes <= SMALL_WRITE);
        let writes = if small_write && quick { self.writes.load(Ordering::Relaxed) + 1 } else { 0 };
        let more = |before: i64| (before + 1).min(MOST_APPETITE);
        let after = match about {
            About::Names if quick => more(before),
            About::Names => 0,
            About::Reading => before,
            About::Writing(_) if writes > RUN_OF_WRITES => more(before),
            About::Writing(_) => (before - WRITE_WEIGHT).max(-MOST_APPETITE),
            About::Durability => {
                self.held_off.store(now + HOLD_OFF, Ordering::Relaxed);
                -1
            }
        };
        // One loop reads the device, so nothing comes between.
        self.appetite.store(after, Ordering::Relaxed);
        self.writes.store(writes, Ordering::Relaxed);
        after
    }

    /// Counts a request that came close to the one before it, or did not.
    fn count_close(&self, close: bool) {
        let count = if close { self.close.load(Ordering::Relaxed) + 1 } else { 0 };
        self.close.store(count, Ordering::Relaxed);
        if count >= AWAKE_AFTER && !self.awake.load(Ordering::Relaxed) {
            self.stay_awake();
        }
    }

    fn stay_awake(&self) {
        let mut control = self.control.lock();
        if control.ended || self.awake.load(Ordering::Relaxed) {
            return;
        }
        if control.awake.as_mut().is_some_and(|awake| awake.keep(true)) {
            self.awake.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Processors may sleep. The lock is held.
    fn let_sleep(&self, control: &mut Control) {
        if self.awake.swap(false, Ordering::Relaxed)
            && let Some(awake) = &mut control.awake
        {
            awake.keep(false);
        }
    }

    fn begin_burst(&self) {
        let control = self.control.lock();
        if !control.ended && !self.busy.load(Ordering::Relaxed) && set_nonblocking(&self.device, true) {
            self.busy.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    fn end_burst(&self) {
        let _control = self.control.lock();
        self.block();
    }

    /// The device blocks again. The lock is held.
    fn block(&self) {
        set_nonblocking(&self.device, false);
        self.busy.store(false, Ordering::Relaxed);
    }

    /// The thread: waits for requests in quick succession, then for their end.
    fn end_bursts(&self) {
        let load = File::open(LOAD).inspect_err(|error| tracing::debug!(%error, "cannot read {LOAD}")).ok();
        let mut control = self.control.lock();
        while !control.ended {
            let (busy, awake) = (self.busy.load(Ordering::Relaxed), self.awake.load(Ordering::Relaxed));
            if !busy && !awake {
                self.wake.wait(&mut control);
                continue;
            }
            let before = self.requests.load(Ordering::Relaxed);
            self.wake.wait_for(&mut control, LOOK_EVERY);
            if self.now().saturating_sub(self.newest.load(Ordering::Relaxed)) > AWAKE_FOR {
                self.let_sleep(&mut control);
            }
            if !busy {
                continue;
            }
            let most = self.processors * CROWD + OURS;
            let crowded = load.as_ref().and_then(runnable).is_some_and(|count| count > most);
            if crowded {
                self.held_off.store(self.now() + HOLD_OFF, Ordering::Relaxed);
            }
            if crowded || self.requests.load(Ordering::Relaxed) < before + BURST_REQUESTS {
                self.block();
            }
        }
        self.block();
        self.let_sleep(&mut control);
    }
}

/// Threads on this machine that run or want to.
fn runnable(load: &File) -> Option<u64> {
    let mut buffer = [0; 128];
    let length = load.read_at(&mut buffer, 0).ok()?;
    parse_runnable(&buffer[..length])
}

/// The fourth field, before the slash: `0.20 0.18 0.12 1/80 11206`.
fn parse_runnable(line: &[u8]) -> Option<u64> {
    let field = std::str::from_utf8(line).ok()?.split(' ').nth(3)?;
    field.split('/').next()?.parse().ok()
}

/// True if the flag could be set. If not, the loop sleeps as it would without this module.
fn set_nonblocking(device: impl AsFd, nonblocking: bool) -> bool {
    let set = fcntl_getfl(&device).and_then(|mut flags| {
        flags.set(OFlags::NONBLOCK, nonblocking);
        fcntl_setfl(&device, flags)
    });
    if let Err(error) = set {
        tracing::debug!(%error, "cannot change how the device is read");
    }
    set.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn is_nonblocking(device: &OwnedFd) -> bool {
        fcntl_getfl(device).expect("an open descriptor").contains(OFlags::NONBLOCK)
    }

    /// A device, another descriptor of it that is watched, and what keeps it open.
    fn polling(processors: u64) -> (OwnedFd, Polling, io::PipeWriter) {
        let (device, other) = io::pipe().expect("a pipe");
        let device = OwnedFd::from(device);
        let shared = device.try_clone().expect("a descriptor");
        (device, Polling::start_with(shared, processors, None).expect("a thread"), other)
    }

    /// Does something until a state is reached that comes by itself.
    fn until(reached: impl Fn() -> bool, mut meanwhile: impl FnMut()) {
        while !reached() {
            meanwhile();
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_burst_is_watched_and_ends() {
        let (device, polling, _other) = polling(1_000_000);
        assert!(!is_nonblocking(&device));
        // However slow this machine is: some requests come close together at some time.
        until(|| is_nonblocking(&device), || polling.note(About::Names));
        until(|| !is_nonblocking(&device), || {});
        until(|| is_nonblocking(&device), || polling.note(About::Names));
        drop(polling);
        until(|| !is_nonblocking(&device), || {});
    }

    #[test]
    fn others_that_wait_for_a_processor_end_a_burst() {
        // This thread runs beside the one that looks, so that there is always one too many for no processors at all.
        let (device, polling, _other) = polling(0);
        until(|| polling.watch.held_off.load(Ordering::Relaxed) > 0, || polling.note(About::Names));
        until(|| !is_nonblocking(&device), || {});
    }

    #[test]
    fn small_files_and_long_runs_of_small_writes_make_a_burst() {
        let (_device, polling, _other) = polling(1_000_000);
        let watch = &polling.watch;
        let small_file = [About::Names, About::Names, About::Names, About::Writing(4096), About::Names, About::Names];
        let appetite = |about: &[About]| about.iter().map(|about| watch.eat(*about, true, 0)).collect::<Vec<_>>();
        (0..3).for_each(|_| drop(appetite(&small_file)));
        assert!(appetite(&small_file).iter().all(|appetite| *appetite >= APPETITE));
        let large = appetite(&[About::Writing(1 << 20); 100]);
        assert!(large[9..].iter().all(|appetite| *appetite < 0), "{large:?}");
        let overwrites = appetite(&[About::Writing(4096); 100]);
        assert!(overwrites[9..RUN_OF_WRITES as usize].iter().all(|appetite| *appetite < 0), "{overwrites:?}");
        assert!(overwrites[50..].iter().all(|appetite| *appetite >= APPETITE), "{overwrites:?}");
        assert!(watch.eat(About::Durability, true, 0) < 0);
        // As many as a transaction of a database has.
        (0..9).for_each(|_| drop(appetite(&[About::Names, About::Writing(4096)])));
        assert!(watch.eat(About::Names, true, 0) < APPETITE);
    }

    #[test]
    fn durability_ends_a_burst_and_holds_off_the_next() {
        let (device, polling, _other) = polling(1_000_000);
        until(|| is_nonblocking(&device), || polling.note(About::Names));
        polling.note(About::Durability);
        assert!(!is_nonblocking(&device));
        let held_off = polling.watch.held_off.load(Ordering::Relaxed);
        (0..20).for_each(|_| polling.note(About::Names));
        assert!(!is_nonblocking(&device) || polling.watch.now() >= held_off);
    }

    #[test]
    fn processors_stay_awake_for_requests_close_together() {
        let (read, written) = io::pipe().expect("a pipe");
        let (_device, polling, _other) = polling(1_000_000);
        let watch = &polling.watch;
        watch.control.lock().awake = Some(Awake::on(File::from(OwnedFd::from(written)), 7));
        (0..AWAKE_AFTER).for_each(|_| watch.count_close(false));
        assert!(!watch.awake.load(Ordering::Relaxed), "they were far apart");
        watch.newest.store(watch.now(), Ordering::Relaxed);
        (0..AWAKE_AFTER).for_each(|_| watch.count_close(true));
        // Whether it still is so depends on how fast this goes; that it ends does not.
        until(|| !watch.awake.load(Ordering::Relaxed), || {});
        let mut latencies = [0; 8];
        File::from(OwnedFd::from(read)).read_exact(&mut latencies).expect("two numbers");
        assert_eq!(
            (&latencies[..4], &latencies[4..]),
            (&7_i32.to_ne_bytes()[..], &2_000_000_000_i32.to_ne_bytes()[..])
        );
    }

    #[test]
    fn a_single_request_is_not_watched() {
        let (device, polling, _other) = polling(1_000_000);
        assert_eq!((0..9).map(|_| polling.watch.eat(About::Names, false, 0)).max(), Some(0));
        assert!(!is_nonblocking(&device));
    }

    #[test]
    fn reads_how_many_want_to_run() {
        assert_eq!(parse_runnable(b"0.20 0.18 0.12 3/80 11206\n"), Some(3));
        for other in [&b""[..], b"0.20 0.18", b"a b c d/e", &[0xff; 9]] {
            assert_eq!(parse_runnable(other), None);
        }
        assert!(File::open(LOAD).is_ok_and(|load| runnable(&load).is_some_and(|count| count > 0)));
    }
}
