//! The upload of one segment: the long tail, replacements, the deadline, and the windows in memory.
//!
//! All `total` pieces are begun. Once `success` of them are stored the rest has [`Settings::tail`] to get ready, because every
//! further piece makes the segment survive one more node; then it is cancelled, and the upload is done. Nodes
//! that fail or stall are replaced while the satellite has others, in a bounded number of rounds. At the deadline, or
//! when nothing more can be done, `repair` + 1 stored pieces are accepted (`success`, if that is less).
//!
//! **Memory.** The driver encodes the segment window by window (about 4 MiB of segment, all pieces of it); every piece
//! takes the windows in order, each at its own speed. At most [`Settings::held_windows`] are held, and each piece that is
//! being sent holds its own part of one more. A window is released once all pieces that follow closely have begun it.
//! When the fast pieces have used up all that is held, the slow do not stall them: the oldest window is released as soon
//! as `success` pieces are past it, else after [`Settings::patience`]. A piece that has fallen behind is not lost: it
//! waits, and its window is encoded again from the sealed file when no more pieces wait for another one. Replacements,
//! which start at the first window, come in the same way. So memory is bounded, no piece ever waits for a slow one for
//! longer than `patience` per window, and whoever waits is served in the end.

mod windows;

use crate::redundancy::Redundancy;
use std::collections::VecDeque;
use std::time::Duration;
use windows::{Need, Windows};

/// The driver's number for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef(pub u32);

/// One attempt to store one piece on one node. Counts from 0 in the order of the attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PutId(pub u32);

/// Limits of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// After this long, enough is accepted and less is a failure. The default is long, for a full segment at 29 of 110
    /// is 255 MB, and slow lines must get it out too: nodes that are slow for their own part are given up much earlier.
    pub deadline: Duration,
    /// A put that takes no bytes for this long, or gives no receipt, is given up.
    pub stall: Duration,
    /// How long fast pieces wait for slow ones that may still be needed, before those are left behind. Leaving them
    /// behind costs another encoding, so this also bounds how many of them there are a second.
    pub patience: Duration,
    /// Once enough is stored, a put older than this and than three times the usual is given up, for another node if there
    /// is one.
    pub slow: Duration,
    /// Once `success` pieces are stored, the others may go on for this long, or for as long again as it took so far, if that is
    /// longer. Zero: the rest is cancelled at once.
    pub tail: Duration,
    /// How often the satellite is asked for other nodes.
    pub rounds: u32,
    /// Windows held at once, at least 1.
    pub held_windows: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(1_200),
            stall: Duration::from_secs(15),
            patience: Duration::from_millis(100),
            slow: Duration::from_secs(10),
            tail: Duration::from_secs(2),
            rounds: 5,
            held_windows: 2,
        }
    }
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open the put of a piece on a node. Bytes follow by [`Action::Send`]. Ends with `handle_stored`, `handle_failed` or
    /// `handle_ended`.
    Start {
        /// The new put.
        put: PutId,
        /// The piece.
        number: u16,
        /// The node.
        node: NodeRef,
    },
    /// Encode a window from the sealed file and hold it; then `handle_encoded`. Never two at once. If the file cannot be
    /// read the upload is to be given up ([`Upload::abort`]).
    Encode(u32),
    /// Hand a held window's bytes to a put; then `handle_sent`. After the last window the driver ends the put and waits
    /// for the receipt.
    Send {
        /// The put.
        put: PutId,
        /// The window.
        window: u32,
    },
    /// Drop a held window. Puts that are sending it keep only their own bytes.
    Release(u32),
    /// Stop a put and forget it; then `handle_ended`.
    Cancel(PutId),
    /// Ask the satellite for other nodes for these pieces; then `handle_replacements`.
    Replace(Vec<u16>),
    /// The end. What still runs has been told to stop; [`Upload::running`] counts what has not confirmed it.
    Done(Outcome),
}

/// A piece that a node has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// The piece.
    pub number: u16,
    /// The node.
    pub node: NodeRef,
    /// The put that stored it.
    pub put: PutId,
}

/// How an upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Enough pieces are stored, no number twice.
    Stored {
        /// The pieces.
        pieces: Vec<Stored>,
        /// False if fewer than `success`: the segment is to be repaired soon.
        complete: bool,
    },
    /// Too few pieces are stored.
    Failed {
        /// Pieces stored.
        stored: u16,
        /// Pieces that would have been accepted.
        needed: u16,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Cancelled,
    Ended,
}

#[derive(Debug)]
struct Put {
    number: u16,
    node: NodeRef,
    state: State,
    /// The next window to begin; all windows when only the receipt is missing.
    next: u32,
    /// True while the driver hands window `next - 1` to the node.
    sending: bool,
    started: Duration,
    /// When the node last took bytes, or was last given some.
    progress: Duration,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Upload {
    redundancy: Redundancy,
    settings: Settings,
    now: Duration,
    deadline: Duration,
    puts: Vec<Put>,
    stored: Vec<Stored>,
    /// How long the stored puts took.
    took: Vec<Duration>,
    /// Pieces that nobody stores any more.
    lost: Vec<u16>,
    /// Pieces the satellite was asked to place anew.
    asked: Vec<u16>,
    rounds_left: u32,
    started: Duration,
    /// When the others are given up; set once `success` pieces are stored.
    tail_ends: Option<Duration>,
    windows: Windows,
    actions: VecDeque<Action>,
    done: bool,
}

impl Upload {
    /// Begins an upload of `windows` windows. `pieces` are the numbers and nodes that the satellite chose; numbers beyond
    /// `total` and second ones are ignored.
    pub fn new(
        redundancy: Redundancy,
        windows: u32,
        pieces: impl IntoIterator<Item = (u16, NodeRef)>,
        settings: Settings,
        now: Duration,
    ) -> Self {
        let mut upload = Self {
            redundancy,
            settings,
            now,
            deadline: now + settings.deadline,
            puts: Vec::new(),
            stored: Vec::new(),
            took: Vec::new(),
            lost: Vec::new(),
            asked: Vec::new(),
            rounds_left: settings.rounds,
            started: now,
            tail_ends: None,
            windows: Windows::new(windows, settings.held_windows.max(1)),
            actions: VecDeque::new(),
            done: false,
        };
        let mut wanted: Vec<u16> = (0..redundancy.total).collect();
        upload.start(pieces, &mut wanted);
        upload.lost = wanted;
        upload.advance();
        upload
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle_tick`](Self::handle_tick) unless something happens before; `None` when done.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.done {
            return None;
        }
        let stalls =
            self.puts.iter().filter(|put| self.is_on_the_clock(put)).map(|put| put.progress + self.settings.stall);
        let at_work = || self.running_puts().filter(|put| self.is_on_the_clock(put));
        let slow = self.slow_limit().and_then(|limit| at_work().map(|put| put.started + limit).min());
        let starved = self.windows.starved_since().map(|since| since + self.settings.patience);
        stalls.chain(slow).chain(starved).chain(self.tail_ends).chain([self.deadline]).min()
    }

    /// Puts that were started and have neither ended nor confirmed their end.
    pub fn running(&self) -> usize {
        self.puts.iter().filter(|put| put.state != State::Ended).count()
    }

    /// Pieces stored so far.
    pub fn stored(&self) -> &[Stored] {
        &self.stored
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now: Duration) {
        self.at(now);
    }

    /// A window asked for by [`Action::Encode`] is held now.
    pub fn handle_encoded(&mut self, now: Duration, window: u32) {
        if self.windows.encoded(window) && self.done {
            self.release_all();
        }
        self.at(now);
    }

    /// A node has taken some bytes.
    pub fn handle_progress(&mut self, now: Duration, put: PutId) {
        if let Some(put) = self.running_put(put) {
            put.progress = now;
        }
        self.at(now);
    }

    /// A put has taken all of the window it was last told to send.
    pub fn handle_sent(&mut self, now: Duration, put: PutId) {
        if let Some(put) = self.running_put(put) {
            put.sending = false;
            put.progress = now;
        }
        self.at(now);
    }

    /// A put gave a valid receipt for the whole piece with the uplink's own root.
    pub fn handle_stored(&mut self, now: Duration, put: PutId) {
        let windows = self.windows.count();
        let id = put;
        match self.running_put(put) {
            Some(put) if put.next == windows && !put.sending => {
                put.state = State::Ended;
                let stored = Stored { number: put.number, node: put.node, put: id };
                let took = now.saturating_sub(put.started);
                self.stored.push(stored);
                self.took.push(took);
                if self.stored.len() == usize::from(self.redundancy.success) {
                    let so_far = now.saturating_sub(self.started);
                    self.tail_ends = Some(now.saturating_add(match self.settings.tail {
                        Duration::ZERO => Duration::ZERO,
                        tail => tail.max(so_far),
                    }));
                }
            }
            // A receipt for bytes that were never sent.
            Some(_) => self.lose(id, State::Ended),
            None => self.end(id),
        }
        self.at(now);
    }

    /// A put failed: refused, broken off, a wrong receipt.
    pub fn handle_failed(&mut self, now: Duration, put: PutId) {
        match self.running_put(put) {
            Some(_) => self.lose(put, State::Ended),
            None => self.end(put),
        }
        self.at(now);
    }

    /// A cancelled put has stopped.
    pub fn handle_ended(&mut self, now: Duration, put: PutId) {
        self.handle_failed(now, put);
    }

    /// The satellite's answer to [`Action::Replace`]: empty if it has no other nodes or could not be asked.
    pub fn handle_replacements(&mut self, now: Duration, pieces: impl IntoIterator<Item = (u16, NodeRef)>) {
        self.now = self.now.max(now);
        let mut asked = std::mem::take(&mut self.asked);
        let before = asked.len();
        if !self.done {
            self.start(pieces, &mut asked);
        }
        if asked.len() == before {
            self.rounds_left = 0;
        }
        self.lost.append(&mut asked);
        self.at(now);
    }

    /// Gives up: everything is cancelled, the outcome is a failure.
    pub fn abort(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if !self.done {
            self.finish(self.failure());
        }
    }

    fn at(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.advance();
    }

    /// Draws the conclusions of what is known.
    fn advance(&mut self) {
        if self.done {
            return;
        }
        self.give_up_the_stalled();
        if let Some(outcome) = self.decide() {
            self.finish(outcome);
            return;
        }
        self.replace_the_lost();
        self.feed();
    }

    fn give_up_the_stalled(&mut self) {
        let slow = self.slow_limit();
        for index in 0..self.puts.len() {
            let put = &self.puts[index];
            let is_stalled = self.now >= put.progress + self.settings.stall;
            let is_slow = slow.is_some_and(|limit| self.now >= put.started + limit);
            if self.is_on_the_clock(put) && (is_stalled || is_slow) {
                let id = PutId(index as u32);
                self.lose(id, State::Cancelled);
                self.actions.push_back(Action::Cancel(id));
            }
        }
    }

    /// The age at which a put is too slow, once that can be said without risk: when enough is stored.
    fn slow_limit(&self) -> Option<Duration> {
        const TIMES_THE_USUAL: u32 = 3;
        if self.stored.len() < self.minimum() {
            return None;
        }
        let mut took = self.took.clone();
        let middle = took.len() / 2;
        let (_, usual, _) = took.select_nth_unstable(middle);
        Some(self.settings.slow.max(*usual * TIMES_THE_USUAL))
    }

    fn decide(&self) -> Option<Outcome> {
        let running = self.running_puts().count();
        let hopeful = if self.rounds_left > 0 { self.lost.len() } else { 0 } + self.asked.len();
        let nothing_more_to_come = running + hopeful == 0 || self.now >= self.deadline;
        let is_enough = self.stored.len() >= self.minimum();
        let tail_is_over = self.tail_ends.is_some_and(|end| running == 0 || self.now >= end);
        if tail_is_over || (nothing_more_to_come && is_enough) {
            let mut pieces = self.stored.clone();
            pieces.sort_unstable();
            let complete = pieces.len() >= usize::from(self.redundancy.success);
            return Some(Outcome::Stored { pieces, complete });
        }
        let is_hopeless = self.stored.len() + running + hopeful < self.minimum();
        (nothing_more_to_come || is_hopeless).then(|| self.failure())
    }

    fn failure(&self) -> Outcome {
        Outcome::Failed { stored: self.stored.len() as u16, needed: self.minimum() as u16 }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.done = true;
        for (index, put) in (0..).zip(&mut self.puts) {
            if put.state == State::Running {
                put.state = State::Cancelled;
                self.actions.push_back(Action::Cancel(PutId(index)));
            }
        }
        // What was decided before is void: nothing starts after the end.
        self.withdraw_undone();
        self.release_all();
        self.actions.push_back(Action::Done(outcome));
    }

    /// Asks for other nodes once fewer than `success` and half of the slack are stored or under way.
    fn replace_the_lost(&mut self) {
        let Redundancy { success, total, .. } = self.redundancy;
        let wanted = usize::from(success + (total - success) / 2);
        let hopeful = self.stored.len() + self.running_puts().count();
        if self.tail_ends.is_some()
            || self.lost.is_empty()
            || !self.asked.is_empty()
            || self.rounds_left == 0
            || hopeful >= wanted
        {
            return;
        }
        self.rounds_left -= 1;
        self.asked = std::mem::take(&mut self.lost);
        self.actions.push_back(Action::Replace(self.asked.clone()));
    }

    /// Hands held windows to the puts that wait for them, and has the next one encoded.
    fn feed(&mut self) {
        for (index, put) in (0..).zip(&mut self.puts) {
            let waits = put.state == State::Running && !put.sending;
            if waits && self.windows.is_held(put.next) {
                self.actions.push_back(Action::Send { put: PutId(index), window: put.next });
                put.next += 1;
                put.sending = true;
                put.progress = self.now;
            }
        }
        let needs: Vec<Need> = self.running_puts().map(|put| Need { next: put.next, waits: !put.sending }).collect();
        let stored = self.stored.len();
        let enough = usize::from(self.redundancy.success).saturating_sub(stored);
        for action in self.windows.plan(self.now, &needs, enough, self.settings.patience) {
            self.actions.push_back(action);
        }
    }

    /// Starts puts for the pieces among `wanted`, and takes those off it.
    fn start(&mut self, pieces: impl IntoIterator<Item = (u16, NodeRef)>, wanted: &mut Vec<u16>) {
        for (number, node) in pieces {
            let Some(position) = wanted.iter().position(|w| *w == number) else { continue };
            wanted.swap_remove(position);
            let put = PutId(self.puts.len() as u32);
            let (started, progress) = (self.now, self.now);
            self.puts.push(Put { number, node, state: State::Running, next: 0, sending: false, started, progress });
            self.actions.push_back(Action::Start { put, number, node });
        }
    }

    fn lose(&mut self, put: PutId, state: State) {
        let put = &mut self.puts[put.0 as usize];
        put.state = state;
        self.lost.push(put.number);
    }

    fn end(&mut self, put: PutId) {
        if let Some(put) = self.puts.get_mut(put.0 as usize) {
            put.state = State::Ended;
        }
    }

    /// Takes back actions that the driver has not seen yet and that would begin something.
    fn withdraw_undone(&mut self) {
        let mut never_started = Vec::new();
        self.actions.retain(|action| match action {
            Action::Start { put, .. } => {
                never_started.push(*put);
                false
            }
            Action::Send { .. } | Action::Replace(_) => false,
            Action::Encode(_) => {
                self.windows.withdraw_encoding();
                false
            }
            Action::Cancel(_) | Action::Release(_) | Action::Done(_) => true,
        });
        self.actions.retain(|action| !matches!(action, Action::Cancel(put) if never_started.contains(put)));
        never_started.into_iter().for_each(|put| self.end(put));
    }

    fn release_all(&mut self) {
        let held = self.windows.clear();
        self.actions.extend(held.into_iter().map(Action::Release));
    }

    /// True while it is the node's turn to do something.
    fn is_on_the_clock(&self, put: &Put) -> bool {
        put.state == State::Running && (put.sending || put.next == self.windows.count())
    }

    fn running_puts(&self) -> impl Iterator<Item = &Put> {
        self.puts.iter().filter(|put| put.state == State::Running)
    }

    fn running_put(&mut self, put: PutId) -> Option<&mut Put> {
        self.puts.get_mut(put.0 as usize).filter(|put| put.state == State::Running)
    }

    /// Pieces that are accepted when no more can be had.
    fn minimum(&self) -> usize {
        usize::from((self.redundancy.repair + 1).min(self.redundancy.success))
    }
}

#[cfg(test)]
mod tests;
