//! Callers that finish together share one sync.

use crate::disk::{self, Lost};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

/// Work on one group of items: one result per item, in order.
pub(crate) trait Batch: Send + Sync + 'static {
    /// What is handed in.
    type Item: Send + 'static;
    /// What comes of it.
    type Outcome: Send + 'static;
    /// Handles a group; runs off the async threads, never twice at a time.
    fn run(&self, items: Vec<Self::Item>) -> Vec<Self::Outcome>;
}

/// Groups the items that come while the group before is being handled. Takes a thread only while there is work.
///
/// The queue is bounded by its callers: each waits for its outcome, and a node bounds its transfers.
pub(crate) struct Group<B: Batch> {
    batch: Arc<B>,
    state: Mutex<State<B>>,
    idle: Notify,
}

struct State<B: Batch> {
    pending: Vec<(B::Item, oneshot::Sender<B::Outcome>)>,
    running: bool,
}

impl<B: Batch> Group<B> {
    /// A group without work.
    pub(crate) fn new(batch: Arc<B>) -> Arc<Self> {
        let state = State { pending: Vec::new(), running: false };
        Arc::new(Self { batch, state: Mutex::new(state), idle: Notify::new() })
    }

    /// What handles the groups.
    pub(crate) fn batch(&self) -> &B {
        &self.batch
    }

    /// Hands in an item and waits until its group is done. The item is handled even if the caller goes away.
    pub(crate) async fn submit(self: &Arc<Self>, item: B::Item) -> Result<B::Outcome, Lost> {
        let (sender, receiver) = oneshot::channel();
        let start = {
            let mut state = self.state.lock();
            state.pending.push((item, sender));
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            let group = self.clone();
            // It goes on when this caller goes away.
            drop(disk::start(move || group.work()));
        }
        receiver.await.map_err(|_| Lost)
    }

    /// Waits until nothing is pending.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            if !self.state.lock().running {
                return;
            }
            notified.await;
        }
    }

    fn work(&self) {
        let _guard = EndOfWork(self);
        loop {
            let (items, senders): (Vec<_>, Vec<_>) = {
                let mut state = self.state.lock();
                if state.pending.is_empty() {
                    state.running = false;
                    return;
                }
                state.pending.drain(..).unzip()
            };
            for (sender, outcome) in senders.into_iter().zip(self.batch.run(items)) {
                // A caller that went away does not want it.
                let _ = sender.send(outcome);
            }
        }
    }
}

/// Wakes who waits for idleness; after a panic also drops what is pending, so that nobody waits forever.
struct EndOfWork<'a, B: Batch>(&'a Group<B>);

impl<B: Batch> Drop for EndOfWork<'_, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.state.lock();
            state.pending.clear();
            state.running = false;
        }
        self.0.idle.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Mutex<Vec<usize>>);

    impl Batch for Count {
        type Item = u32;
        type Outcome = u32;
        fn run(&self, items: Vec<u32>) -> Vec<u32> {
            self.0.lock().push(items.len());
            items.into_iter().map(|i| i + 1).collect()
        }
    }

    #[tokio::test]
    async fn every_item_gets_its_own_outcome() {
        let count = Arc::new(Count(Mutex::default()));
        let group = Group::new(count.clone());
        let tasks: Vec<_> = (0..100)
            .map(|i| {
                tokio::spawn({
                    let group = group.clone();
                    async move { (i, group.submit(i).await) }
                })
            })
            .collect();
        for task in tasks {
            let (i, outcome) = task.await.expect("task");
            assert_eq!(outcome, Ok(i + 1));
        }
        group.idle().await;
        assert_eq!(count.0.lock().iter().sum::<usize>(), 100);
    }

    struct Panics;

    impl Batch for Panics {
        type Item = ();
        type Outcome = ();
        fn run(&self, _: Vec<()>) -> Vec<()> {
            panic!("as the test wants it")
        }
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_does_not_block_the_next() {
        let group = Group::new(Arc::new(Panics));
        assert_eq!(group.submit(()).await, Err(Lost));
        assert_eq!(group.submit(()).await, Err(Lost));
    }
}
