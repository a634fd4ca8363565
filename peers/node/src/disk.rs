//! Where blocking work of all nodes of a process runs: a few threads of the runtime, however many nodes there are.
//!
//! The runtime's own pool starts threads by the hundred when many short jobs come at once. Here at most [`WORKERS`] of them
//! take jobs from one queue, and rest a moment before they go. The queue is bounded by those who wait: a transfer has one
//! job under way, and transfers are limited.

use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

/// Threads of a runtime that do disk work.
const WORKERS: usize = 32;
/// How long a thread waits for another job.
const REST: Duration = Duration::from_millis(20);

/// The job did not come back: it panicked, or the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("disk job was lost")]
pub struct Lost;

/// A job under way. Dropped, it goes on.
pub(crate) struct Job<T>(oneshot::Receiver<T>);

impl<T> Future for Job<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| Lost)
    }
}

/// Starts blocking work off the async threads, or lets it wait for one of the threads. Within a runtime only.
pub(crate) fn start<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
    let (sender, receiver) = oneshot::channel();
    pool().submit(Box::new(move || {
        // A panic was reported by its hook and is Lost to who waits.
        if let Ok(result) = catch_unwind(AssertUnwindSafe(job)) {
            // Who went away does not want it.
            let _ = sender.send(result);
        }
    }));
    Job(receiver)
}

/// Runs blocking work off the async threads.
pub(crate) async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
    start(job).await
}

/// The pools of the runtimes of this process: one, outside of tests.
static POOLS: LazyLock<Mutex<HashMap<Id, Arc<Pool>>>> = LazyLock::new(Mutex::default);

fn pool() -> Arc<Pool> {
    POOLS.lock().entry(Handle::current().id()).or_default().clone()
}

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Work>,
    workers: usize,
    /// Workers that wait and have not been called.
    resting: usize,
    /// Workers that were called and have not come yet.
    called: usize,
}

impl Pool {
    fn submit(self: &Arc<Self>, job: Work) {
        let mut state = self.state.lock();
        state.jobs.push_back(job);
        if state.resting > 0 {
            state.resting -= 1;
            state.called += 1;
            self.wake.notify_one();
        } else if state.workers < WORKERS {
            state.workers += 1;
            let worker = Worker { pool: self.clone(), is_counted: true };
            drop(state);
            // It is not awaited: what it does is.
            drop(tokio::task::spawn_blocking(move || worker.work()));
        }
    }
}

/// A thread at work. Counted until it leaves, even if the runtime never ran it.
struct Worker {
    pool: Arc<Pool>,
    is_counted: bool,
}

impl Worker {
    fn work(mut self) {
        let pool = self.pool.clone();
        let mut state = pool.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = pool.state.lock();
                continue;
            }
            state.resting += 1;
            let is_over = pool.wake.wait_for(&mut state, REST).timed_out();
            if state.called > 0 {
                state.called -= 1;
                continue;
            }
            state.resting -= 1;
            if is_over && state.jobs.is_empty() {
                // In the same breath, so that whoever submits next sees it.
                state.workers -= 1;
                self.is_counted = false;
                return;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_counted {
            self.pool.state.lock().workers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn every_job_runs_and_at_most_so_many_at_a_time() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs: Vec<_> = (0..1_000)
            .map(|i| {
                let (running, most) = (running.clone(), most.clone());
                start(move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    i
                })
            })
            .collect();
        for (i, job) in jobs.into_iter().enumerate() {
            assert_eq!(job.await, Ok(i));
        }
        assert!(most.load(Ordering::SeqCst) <= WORKERS);
        assert_eq!(run(|| panic!("as the test wants it")).await, Err::<(), _>(Lost));
        assert_eq!(run(|| 1).await, Ok(1), "the pool goes on");
    }
}
