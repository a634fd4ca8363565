//! Running a request.

use crate::error::{Error, Result};
use rustix::io::Errno;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use tracing::Level;

/// Runs requests' futures.
pub(super) struct Answerer {
    runtime: Handle,
}

impl Answerer {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime }
    }

    /// What comes of `work` if it needs neither network nor waiting; `None` if it does, and then it has been dropped.
    pub(super) fn at_once<T>(&self, request: &'static str, work: impl Future<Output = Result<T>>) -> Option<Result<T>> {
        let _runtime = self.runtime.enter();
        match poll_once(std::pin::pin!(work)) {
            Poll::Ready(result) => Some(log(request, result)),
            Poll::Pending => None,
        }
    }

    /// Runs `work` and hands its result to `reply`, exactly once.
    ///
    /// It is polled once right here: what needs neither network nor waiting ends without changing threads. Only the rest
    /// becomes a task, with this deadline.
    pub(super) fn answer<T: 'static>(
        &self,
        deadline: Duration,
        request: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let _runtime = self.runtime.enter();
        let mut work = Box::pin(work);
        match poll_once(work.as_mut()) {
            Poll::Ready(result) => reply(log(request, result)),
            Poll::Pending => {
                self.runtime.spawn(async move {
                    let result = tokio::time::timeout(deadline, work).await;
                    reply(log(request, result.unwrap_or_else(|_| Err(Error::deadline()))));
                });
            }
        }
    }
}

/// A panic must not end the thread that serves everyone: it becomes an I/O error of its request.
fn poll_once<T>(work: Pin<&mut impl Future<Output = Result<T>>>) -> Poll<Result<T>> {
    let mut context = Context::from_waker(Waker::noop());
    catch_unwind(AssertUnwindSafe(|| work.poll(&mut context)))
        .unwrap_or_else(|_| Poll::Ready(Err(Error::new(Errno::IO, Level::ERROR, "the request panicked"))))
}

fn log<T>(request: &'static str, result: Result<T>) -> Result<T> {
    if let Err(error) = &result {
        let errno = error.errno();
        match error.level() {
            Level::ERROR => tracing::error!(request, ?errno, %error),
            Level::WARN => tracing::warn!(request, ?errno, %error),
            Level::INFO => tracing::info!(request, ?errno, %error),
            Level::DEBUG => tracing::debug!(request, ?errno, %error),
            _ => tracing::trace!(request, ?errno, %error),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn answered(work: impl Future<Output = Result<u32>> + Send + 'static, deadline: Duration) -> Result<u32> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, receiver) = mpsc::channel();
        let answerer = Answerer::new(runtime.handle().clone());
        answerer.answer(deadline, "test", work, move |result| sender.send(result).unwrap());
        receiver.recv().unwrap()
    }

    #[test]
    fn what_is_ready_is_answered_on_the_callers_thread() {
        let caller = std::thread::current().id();
        let work = async move {
            assert_eq!(std::thread::current().id(), caller);
            Ok(1)
        };
        assert_eq!(answered(work, Duration::from_secs(60)).unwrap(), 1);
    }

    #[test]
    fn at_once_or_not_at_all() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let answerer = Answerer::new(runtime.handle().clone());
        assert!(matches!(answerer.at_once("test", async { Ok(1) }), Some(Ok(1))));
        let waits = async {
            tokio::task::yield_now().await;
            Ok(2)
        };
        assert!(answerer.at_once("test", waits).is_none());
        let panics = async { if true { panic!("on purpose") } else { Ok(3) } };
        assert_eq!(answerer.at_once("test", panics).unwrap().unwrap_err().errno(), Errno::IO);
    }

    #[test]
    fn what_waits_is_answered_by_the_runtime() {
        let work = async {
            tokio::task::yield_now().await;
            Ok(2)
        };
        assert_eq!(answered(work, Duration::from_secs(60)).unwrap(), 2);
    }

    #[test]
    fn what_hangs_is_answered_at_the_deadline() {
        let hangs = std::future::pending();
        assert_eq!(answered(hangs, Duration::from_millis(1)).unwrap_err().errno(), Errno::TIMEDOUT);
    }

    #[test]
    fn what_panics_is_an_io_error() {
        let work = async { panic!("on purpose") };
        assert_eq!(answered(work, Duration::from_secs(60)).unwrap_err().errno(), Errno::IO);
    }
}
