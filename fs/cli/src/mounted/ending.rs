//! How a mount comes to its end: who wishes it, and what it waits for before the kernel lets go of the drive.

use super::{Live, interrupted, pending, pending_failure};
use crate::error::{Context, Failure, Outcome};
use crate::output::UploadProgress;
use crate::signals::Signals;
use std::time::Duration;
use strewn_cache::Cache;
use strewn_fs::mount::MountPoint;
use tokio::sync::{mpsc, oneshot};

/// Requests to unmount that may wait; more are told to try again.
pub(super) const MAX_UNMOUNT_REQUESTS: usize = 8;

/// Somebody's wish that the mount ends, with where the outcome goes. Who drops the other end has stopped waiting.
pub(super) struct UnmountRequest {
    pub(super) wanted: Wanted,
    pub(super) done: oneshot::Sender<Outcome>,
}

/// How a mount is to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    Unmounted {
        /// For the network.
        wait: bool,
        lazy: bool,
        /// How long the network may take nothing; the mount's own if absent.
        patience: Option<Duration>,
    },
    /// Not waiting for the network, once somebody else has unmounted the drive.
    HandedOver,
}

/// How long a drive may take to notice that it was unmounted.
const NOTICED: Duration = Duration::from_secs(1);

/// What is still to be waited for when the kernel has let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Network,
    Nothing,
}

/// A drive that is gone.
pub(super) struct Ended {
    /// What else to do, or why the mount ends without it.
    pub(super) outcome: Outcome<Wait>,
    pub(super) patience: Duration,
    pub(super) askers: Askers,
}

/// Who waits for the end.
#[derive(Default)]
pub(super) struct Askers(Vec<oneshot::Sender<Outcome>>);

impl Askers {
    pub(super) fn add(&mut self, asker: oneshot::Sender<Outcome>) {
        self.0.push(asker);
    }

    /// Tells everybody.
    pub(super) fn answer(self, outcome: &Outcome) {
        for asker in self.0 {
            // Who went away does not need to know.
            drop(asker.send(outcome.clone()));
        }
    }

    /// Returns when all have gone away.
    async fn gone(&mut self) {
        for asker in &mut self.0 {
            asker.closed().await;
        }
    }
}

/// A wish that is being fulfilled.
struct Wish {
    wait: bool,
    lazy: bool,
    patience: Duration,
    /// The process was told to end, and nobody can take that back.
    by_signal: bool,
    askers: Askers,
}

impl Wish {
    /// Another request comes in the middle: the most impatient one about the network wins.
    fn join(&mut self, request: UnmountRequest) {
        let Wanted::Unmounted { wait, lazy, .. } = request.wanted else { return refuse_hand_over(request) };
        self.wait &= wait;
        self.lazy |= lazy;
        self.askers.add(request.done);
    }

    async fn abandoned(&mut self) {
        match self.by_signal {
            true => std::future::pending().await,
            false => self.askers.gone().await,
        }
    }

    fn ended(self, outcome: Outcome<Wait>) -> Ended {
        Ended { outcome, patience: self.patience, askers: self.askers }
    }

    fn wait(&self) -> Wait {
        if self.wait { Wait::Network } else { Wait::Nothing }
    }
}

enum Drained {
    /// The network has everything, or nobody wants to wait for it.
    All,
    /// By somebody else.
    Unmounted,
    /// A second signal.
    Interrupted,
    /// Nobody waits any more.
    Abandoned,
    Failed(Failure),
}

/// What a mount needs to come to its end.
pub(super) struct Ending<'a> {
    pub(super) live: &'a mut Live,
    pub(super) cache: &'a Cache,
    pub(super) signals: &'a mut Signals,
    pub(super) wanted: &'a mut mpsc::Receiver<UnmountRequest>,
    /// How long the network may take nothing before it is given up.
    pub(super) patience: Duration,
}

impl Ending<'_> {
    /// Returns once the kernel has let go of the drive.
    pub(super) async fn wait(&mut self) -> Ended {
        loop {
            let mut wish = tokio::select! {
                () = self.live.drive.unmounted() => return self.by_signal().ended(Ok(Wait::Network)),
                _ = self.signals.next() => self.by_signal(),
                Some(request) = self.wanted.recv() => match self.by_request(request) {
                    Ok(wish) => wish,
                    Err(request) => match tokio::time::timeout(NOTICED, self.live.drive.unmounted()).await {
                        Ok(()) => {
                            let mut wish = self.by_signal();
                            wish.askers.add(request.done);
                            return wish.ended(Ok(Wait::Nothing));
                        }
                        Err(_) => {
                            refuse_hand_over(request);
                            continue;
                        }
                    },
                },
            };
            if let Some(ended) = self.fulfil(&mut wish).await {
                return wish.ended(ended);
            }
        }
    }

    fn by_signal(&self) -> Wish {
        Wish { wait: true, lazy: false, patience: self.patience, by_signal: true, askers: Askers::default() }
    }

    /// Gives back a request to hand over.
    fn by_request(&self, request: UnmountRequest) -> Result<Wish, UnmountRequest> {
        let Wanted::Unmounted { wait, lazy, patience } = request.wanted else { return Err(request) };
        let patience = patience.unwrap_or(self.patience);
        Ok(Wish { wait, lazy, patience, by_signal: false, askers: Askers(vec![request.done]) })
    }

    /// `None`: the drive stays mounted.
    async fn fulfil(&mut self, wish: &mut Wish) -> Option<Outcome<Wait>> {
        match self.drain(wish).await {
            Drained::All => {}
            // No reason to hold the mountpoint any longer.
            Drained::Unmounted => return Some(Ok(wish.wait())),
            Drained::Abandoned => return None,
            Drained::Interrupted => {
                detach(&self.live.point);
                return Some(interrupted(self.cache).map(|()| Wait::Nothing));
            }
            Drained::Failed(failure) if wish.by_signal => {
                detach(&self.live.point);
                return Some(Err(failure));
            }
            Drained::Failed(failure) => return refuse(wish, failure),
        }
        let unmounted = match wish.lazy {
            true => self.live.point.unmount_or_detach(),
            false => self.live.point.unmount().map(|()| false),
        };
        match unmounted.context("cannot unmount") {
            Ok(in_use) => {
                if in_use {
                    // Nobody waits for those who have files open, as with umount(8).
                    std::mem::take(&mut wish.askers).answer(&Ok(()));
                }
                // A detached drive is served until nothing on it is open; a signal ends that too.
                loop {
                    tokio::select! {
                        () = self.live.drive.unmounted() => break,
                        _ = self.signals.next() => break,
                        Some(request) = self.wanted.recv() => wish.join(request),
                    }
                }
                Some(Ok(wish.wait()))
            }
            Err(failure) if wish.by_signal => {
                // The process ends even when the drive is busy: it is detached from the tree of files.
                failure.report();
                detach(&self.live.point);
                Some(Ok(wish.wait()))
            }
            Err(failure) => refuse(wish, failure),
        }
    }

    /// Uploads what is pending while the drive is in use, as long as somebody waits for it.
    async fn drain(&mut self, wish: &mut Wish) -> Drained {
        let mut progress = UploadProgress::new();
        let cache = self.cache;
        let drain = cache.drain_within(wish.patience, |status| progress.show(pending(status)));
        let mut drain = Box::pin(drain);
        let drained = loop {
            if !wish.wait {
                break Drained::All;
            }
            tokio::select! {
                drained = &mut drain => break match drained {
                    Ok(()) => Drained::All,
                    Err(error) => Drained::Failed(pending_failure(&error)),
                },
                () = self.live.drive.unmounted() => break Drained::Unmounted,
                _ = self.signals.next() => {
                    if std::mem::replace(&mut wish.by_signal, true) {
                        break Drained::Interrupted;
                    }
                }
                Some(request) = self.wanted.recv() => wish.join(request),
                () = wish.abandoned() => break Drained::Abandoned,
            }
        };
        drop(drain);
        progress.finish();
        drained
    }
}

/// Tells somebody who wants to go on with the uploads that the drive is still mounted.
fn refuse_hand_over(request: UnmountRequest) {
    // Who went away does not need to know.
    drop(request.done.send(Err(Failure::new("the drive is mounted"))));
}

/// Tells those who asked that the drive stays.
fn refuse(wish: &mut Wish, failure: Failure) -> Option<Outcome<Wait>> {
    std::mem::take(&mut wish.askers).answer(&Err(failure));
    None
}

/// Detaches a drive that may be busy.
fn detach(point: &MountPoint) {
    if let Err(error) = point.detach() {
        tracing::error!("{error}");
    }
}
