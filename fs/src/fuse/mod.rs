//! The translation between the kernel's FUSE requests and the [`Volume`]'s operations: the only module that names the
//! FUSE library.
//!
//! - `adapter`: one method per request. Takes the request apart, calls the volume, puts the reply together.
//! - `answer`: runs a request's future, at once if it is warm, under a deadline if it is not.
//! - `awake`: keeps processors from falling asleep between requests.
//! - `backings`: files that the kernel reads by itself.
//! - `buffers`: memory for data on its way in.
//! - `convert`: times, modes and flags, with the traps of the library's version named.
//! - `notify`: tells the kernel what other mounts changed, and what to let go of, from threads that hold no lock.
//! - `polling`: watches the device while requests come in quick succession.

mod adapter;
mod answer;
mod awake;
mod backings;
mod buffers;
mod convert;
mod notify;
mod polling;

use crate::Volume;
use adapter::Adapter;
use fuser::{Config, SessionACL};
use polling::Polling;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::runtime::Handle;

/// Bytes of the largest read or write request; the kernel's own limit on most machines.
const MAX_REQUEST: u32 = 1 << 20;

/// Requests of the background kind (read-ahead, asynchronous writes) that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// How requests are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads that read requests, at least 1. With `polling` it is one.
    pub threads: usize,
    /// Watch the device while requests for names or small writes come in quick succession, and keep processors from falling
    /// asleep while any do: up to three times as many per second, for processors that are busy meanwhile. Without effect on a
    /// machine with one processor.
    pub polling: bool,
    /// Let the kernel read files by itself that are whole in the cache, where it does that: with privilege, from Linux 6.9.
    pub passthrough: bool,
    /// A request that is not answered by then fails, since its caller cannot even be killed while it waits. Longer than the
    /// cache's own deadline, whose error says more.
    pub deadline: Duration,
    /// How long the kernel may believe names and attributes without asking. Changes from elsewhere are told to it.
    pub ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 2,
            polling: true,
            passthrough: true,
            deadline: Duration::from_secs(45),
            ttl: Duration::from_secs(60),
        }
    }
}

/// A served device. Ends when the kernel unmounts.
pub(crate) struct Session {
    requests: JoinHandle<io::Result<()>>,
}

impl Session {
    /// Shakes hands with the kernel over a mounted device and starts to serve. `ended` is called once nothing is served any
    /// more.
    pub(crate) fn start(
        volume: Arc<Volume>,
        device: OwnedFd,
        runtime: Handle,
        options: Options,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (invalidations, unused) = (volume.cache().invalidations(), volume.cache().unused());
        let mut config = Config::default();
        // A burst is watched by one loop: two would take both processors of a small machine from who they serve.
        let teller = device.try_clone()?;
        let polling = if options.polling { Polling::start(device.try_clone()?)? } else { None };
        let threads = if polling.is_some() { 1 } else { options.threads.max(1) };
        config.n_threads = Some(threads);
        config.clone_fd = threads > 1;
        // Who may enter is the mount's to say (allow_other), and checked by the kernel.
        let adapter = Adapter::new(volume.clone(), runtime, options, polling);
        let stale = adapter.stale_attributes();
        let session = fuser::Session::from_fd(adapter, device, SessionACL::All, config)?;
        stale.tell_to(session.notifier());
        if let Some(invalidations) = invalidations {
            notify::tell_changes(&volume, invalidations, session.notifier(), teller)?;
        }
        if let Some(unused) = unused {
            notify::tell_unused(&volume, unused, session.notifier())?;
        }
        let requests = Builder::new().name("strewn-fuse".into()).spawn(move || {
            let result = session.run();
            ended();
            result
        })?;
        Ok(Self { requests })
    }

    /// How serving ended. Waits for the threads.
    pub(crate) fn join(self) -> io::Result<()> {
        self.requests.join().unwrap_or_else(|_| Err(io::Error::other("a thread that serves the drive panicked")))
    }
}
