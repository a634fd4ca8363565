//! Virtual time: a queue of what is going to happen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Events in the order of their time, those of the same time in the order in which they were added.
pub(crate) struct Clock<E> {
    pub(crate) now: Duration,
    /// When somebody was last woken.
    woken: Option<Duration>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: std::collections::BTreeMap<u64, E>,
    count: u64,
}

impl<E> Clock<E> {
    pub(crate) fn new() -> Self {
        Self { now: Duration::ZERO, woken: None, queue: BinaryHeap::new(), events: Default::default(), count: 0 }
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.queue.push(Reverse((self.now + delay, self.count)));
        self.events.insert(self.count, event);
        self.count += 1;
    }

    /// Moves on to the next event, or to `wake` if that comes first (then `None` is what happens). `Err` if nothing ever
    /// happens any more.
    pub(crate) fn next(&mut self, wake: Option<Duration>) -> Result<Option<E>, Nothing> {
        let next = self.queue.peek().map(|Reverse((at, _))| *at);
        match (next, wake) {
            (None, None) => Err(Nothing),
            (next, Some(wake)) if next.is_none_or(|next| wake < next) => {
                assert!(wake >= self.now && self.woken < Some(wake), "woken at {wake:?} again and again");
                self.woken = Some(wake);
                self.now = wake;
                Ok(None)
            }
            _ => {
                let Reverse((at, id)) = self.queue.pop().expect("peeked");
                self.now = at;
                Ok(self.events.remove(&id))
            }
        }
    }
}

/// No events are left and nobody wants to be woken.
#[derive(Debug)]
pub(crate) struct Nothing;
