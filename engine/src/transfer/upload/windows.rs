//! Which windows of a segment an upload holds: the memory half of the machine.

use super::Action;
use std::time::Duration;

/// Where one running put is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// The next window to begin.
    pub(super) next: u32,
    /// True if it waits for that one, false while it is still sending the one before.
    pub(super) waits: bool,
}

/// The windows held, and the one being encoded: together never more than the limit.
#[derive(Debug)]
pub(super) struct Windows {
    count: u32,
    limit: usize,
    /// Sorted.
    held: Vec<u32>,
    encoding: Option<u32>,
    /// Windows encoded at least once are below this.
    frontier: u32,
    /// Since when a put waits for a window that there is no room for.
    starved: Option<Duration>,
}

impl Windows {
    pub(super) fn new(count: u32, limit: usize) -> Self {
        Self { count, limit, held: Vec::new(), encoding: None, frontier: 0, starved: None }
    }

    /// Windows of the segment.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn is_held(&self, window: u32) -> bool {
        self.held.contains(&window)
    }

    pub(super) fn starved_since(&self) -> Option<Duration> {
        self.starved
    }

    /// Notes that a window is held now; false if it was not asked for.
    pub(super) fn encoded(&mut self, window: u32) -> bool {
        if self.encoding != Some(window) {
            return false;
        }
        self.encoding = None;
        self.held.push(window);
        self.held.sort_unstable();
        true
    }

    /// The order to encode never reached the driver.
    pub(super) fn withdraw_encoding(&mut self) {
        self.encoding = None;
    }

    /// Forgets all held windows and returns them.
    pub(super) fn clear(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.held)
    }

    /// Releases what nobody follows closely enough to use, and encodes what most puts wait for. `enough` is how many
    /// running puts the upload needs to be stored. No put waits for a window that is held when this is called.
    pub(super) fn plan(&mut self, now: Duration, needs: &[Need], enough: usize, patience: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        for window in self.held.clone() {
            if self.users(window, needs) == 0 {
                self.release(window, &mut actions);
            }
        }
        let Some(wanted) = self.most_waited_for(needs) else {
            self.starved = None;
            self.encode_ahead(needs, &mut actions);
            return actions;
        };
        if self.encoding.is_some() {
            // Nobody waits for room as long as the encoder is busy: when it is done, the next call decides.
            self.starved = None;
            return actions;
        }
        if self.held.len() >= self.limit {
            let since = *self.starved.get_or_insert(now);
            match self.victim(wanted, needs, enough, now >= since + patience) {
                Some(victim) => self.release(victim, &mut actions),
                None => return actions,
            }
        }
        self.starved = None;
        self.encode(wanted, &mut actions);
        actions
    }

    /// The window that most puts wait for: those are served first, the others when these are sending.
    fn most_waited_for(&self, needs: &[Need]) -> Option<u32> {
        let waiting = needs.iter().filter(|need| need.waits && need.next < self.count);
        most_frequent(waiting.map(|need| need.next).filter(|next| self.encoding != Some(*next)))
    }

    /// A window to drop for `wanted`. The oldest goes as soon as enough puts are past it, for others can be left behind;
    /// once patience has run out, the one that fewest would miss goes.
    fn victim(&self, wanted: u32, needs: &[Need], enough: usize, out_of_patience: bool) -> Option<u32> {
        let oldest = *self.held.first()?;
        let past = needs.iter().filter(|need| need.next > oldest).count();
        if oldest < wanted && past >= enough {
            return Some(oldest);
        }
        let fewest_users = self.held.iter().copied().min_by_key(|window| self.users(*window, needs));
        fewest_users.filter(|_| out_of_patience)
    }

    /// While all are busy, encodes the window that most of them will ask for next, if it is a new one.
    fn encode_ahead(&mut self, needs: &[Need], actions: &mut Vec<Action>) {
        if self.encoding.is_some() || self.held.len() >= self.limit {
            return;
        }
        let next = needs.iter().map(|need| need.next).filter(|next| *next == self.frontier && *next < self.count);
        if let Some(next) = most_frequent(next) {
            self.encode(next, actions);
        }
    }

    /// Puts that will use a held window without having another one encoded before it.
    fn users(&self, window: u32, needs: &[Need]) -> usize {
        let mut first = window;
        while first > 0 && self.is_held(first - 1) {
            first -= 1;
        }
        needs.iter().filter(|need| (first..=window).contains(&need.next)).count()
    }

    fn encode(&mut self, window: u32, actions: &mut Vec<Action>) {
        self.encoding = Some(window);
        self.frontier = self.frontier.max(window + 1);
        actions.push(Action::Encode(window));
    }

    fn release(&mut self, window: u32, actions: &mut Vec<Action>) {
        self.held.retain(|held| *held != window);
        actions.push(Action::Release(window));
    }
}

/// The most frequent value; of equally frequent ones the smallest.
fn most_frequent(values: impl Iterator<Item = u32>) -> Option<u32> {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    let groups = values.chunk_by(|a, b| a == b);
    groups.max_by_key(|group| (group.len(), std::cmp::Reverse(group[0]))).map(|group| group[0])
}
