//! Reading a byte range of one segment: data pieces first, hedges, blame, and bounded memory.
//!
//! Only shares that hold wanted bytes are asked for, from the data pieces: a small read touches one or two nodes, a long
//! one all k. When a data piece is slow, missing or wrong, its stripes are rebuilt from any k shares: others are asked
//! until k are at hand or promised by sources that are not slow. A source is slow when it lets more time pass than
//! three times what first shares usually take, and what the pace of the line explains; it is still listened to, and
//! whoever comes first counts. A source that sent a wrong share is blamed and never asked again; one that broke off or
//! fell silent gets a second chance, as the last resort. The download fails only when some stripe can no longer be rebuilt.
//!
//! **Memory.** Stripes are read within a window of [`Settings::window`] bytes that moves on as the caller takes finished
//! ones ([`Download::take`]). At most k shares of a stripe are kept.
//!
//! The machine only takes shares that were proven ([`crate::piece::verify`]), so no node can make it return a wrong byte.

mod latency;
mod stripes;

pub use latency::Latencies;

use crate::erasure::StripeGroup;
use crate::piece::{BadShare, ProvenShare, Root};
use crate::segment::Geometry;
use crate::transfer::pieces::PieceSet;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;
use stripes::{Prospect, Stripes};

/// One request for shares of one piece. Counts from 0 in the order of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GetId(pub u32);

/// Limits of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Segment bytes in flight or waiting to be taken, about: at least one stripe.
    pub window: u64,
    /// Bounds of the time after which a silent source is hedged, unless the line as a whole is slow.
    pub hedge: (Duration, Duration),
    /// A source that sends nothing for this long has failed.
    pub patience: Duration,
    /// How often a source is asked that fails without having lied, in all.
    pub attempts: u32,
    /// How long such a source is left alone.
    pub pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: 16 << 20,
            hedge: (Duration::from_millis(30), Duration::from_secs(1)),
            patience: Duration::from_secs(10),
            attempts: 2,
            pause: Duration::from_millis(200),
        }
    }
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a piece's node for shares; then `handle_share` for each, and `handle_ended` or `handle_failed`.
    Get {
        /// The new request.
        get: GetId,
        /// The piece.
        piece: u16,
        /// The shares.
        shares: Range<u32>,
    },
    /// Stop a request; then `handle_ended`.
    Cancel(GetId),
    /// The node of this piece sent a share that its root does not prove: tell the satellite, which will audit it.
    Blame {
        /// The piece.
        piece: u16,
        /// The share.
        share: u32,
    },
    /// The end. What still runs has been told to stop; [`Download::running`] counts what has not confirmed it.
    Done(Outcome),
}

/// How a download ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All stripes of the range were taken.
    Finished,
    /// A stripe cannot be rebuilt.
    Failed {
        /// Sources that are left or have delivered their share of it.
        reachable: u16,
        /// k.
        needed: u16,
    },
}

/// Why a request ended without having been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The node says that it does not have the piece, or not whole.
    Absent,
    /// The node could not be reached, broke off, or refused for now.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// Asked only when the good do not suffice.
    Slow,
    /// Failed; asked again after this.
    Resting(Duration),
    Gone,
}

#[derive(Debug)]
struct Source {
    root: Root,
    standing: Standing,
    attempts: u32,
    /// A request that was not cancelled.
    active: Option<GetId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Cancelled,
    Ended,
}

#[derive(Debug)]
struct Get {
    piece: u16,
    shares: Range<u32>,
    state: State,
    /// When it last brought something, or was begun.
    progress: Duration,
    /// Shares it has brought.
    brought: u32,
    /// Requests that were under way when it was begun, itself among them.
    company: u32,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Download {
    settings: Settings,
    now: Duration,
    /// By piece number.
    sources: Vec<Option<Source>>,
    /// Piece numbers, the preferred first.
    order: Vec<u16>,
    gets: Vec<Get>,
    stripes: Stripes,
    latencies: Latencies,
    /// When the last share came, from whomever.
    last_share: Duration,
    actions: VecDeque<Action>,
    /// True when requests may have to be made or cancelled.
    unplanned: bool,
    done: bool,
}

impl Download {
    /// Begins to read those of the segment's bytes `range` that exist. `sources` are the pieces that can be asked, with
    /// their roots, the preferred first; numbers beyond n and second ones are ignored. `latencies` are what earlier
    /// downloads saw.
    pub fn new(
        geometry: Geometry,
        range: Range<u64>,
        sources: impl IntoIterator<Item = (u16, Root)>,
        settings: Settings,
        latencies: Latencies,
        now: Duration,
    ) -> Self {
        let mut download = Self {
            settings,
            now,
            sources: (0..geometry.total()).map(|_| None).collect(),
            order: Vec::new(),
            gets: Vec::new(),
            stripes: Stripes::new(geometry, range, settings.window),
            latencies,
            last_share: now,
            actions: VecDeque::new(),
            unplanned: true,
            done: false,
        };
        for (number, root) in sources {
            if let Some(slot @ None) = download.sources.get_mut(usize::from(number)) {
                let attempts = settings.attempts.max(1);
                *slot = Some(Source { root, standing: Standing::Good, attempts, active: None });
                download.order.push(number);
            }
        }
        download.advance();
        download
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next finished stripes in order, if there are any; [`crate::erasure::Decoder::read`] makes bytes of them. Taking
    /// them makes room for others: poll again.
    pub fn take(&mut self, now: Duration) -> Option<StripeGroup> {
        if self.done {
            return None;
        }
        self.now = self.now.max(now);
        let group = self.stripes.take()?;
        self.unplanned = true;
        self.advance();
        Some(group)
    }

    /// When to call [`handle_tick`](Self::handle_tick) unless something happens before.
    pub fn wake_at(&self) -> Option<Duration> {
        if self.done {
            return None;
        }
        let silent = self.running_gets().map(|(_, get)| match self.standing(get.piece) {
            Standing::Good => get.progress + self.hedge_after(get),
            _ => get.progress + self.settings.patience,
        });
        let rested = self.sources.iter().flatten().filter_map(|source| match source.standing {
            Standing::Resting(until) => Some(until),
            _ => None,
        });
        silent.chain(rested).min()
    }

    /// Requests that were begun and have neither ended nor confirmed their end.
    pub fn running(&self) -> usize {
        self.gets.iter().filter(|get| get.state != State::Ended).count()
    }

    /// Bytes of shares that are held.
    pub fn held(&self) -> u64 {
        self.stripes.held()
    }

    /// Latencies seen, for the next download.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now: Duration) {
        self.at(now);
    }

    /// A request brought a share: proven, or found to be wrong.
    pub fn handle_share(&mut self, now: Duration, get: GetId, share: Result<ProvenShare, BadShare>) {
        self.now = self.now.max(now);
        match share {
            Ok(share) => self.take_share(get, share),
            Err(bad) => self.blame(get, bad.number),
        }
        self.advance();
    }

    /// A request ended: all was sent, or it was cancelled.
    pub fn handle_ended(&mut self, now: Duration, get: GetId) {
        self.now = self.now.max(now);
        if let Some(get) = self.end(get)
            && self.stripes.is_open(get.piece, &get.shares)
        {
            self.fail(get.piece);
        }
        self.advance();
    }

    /// A request failed.
    pub fn handle_failed(&mut self, now: Duration, get: GetId, failure: Failure) {
        self.now = self.now.max(now);
        if let Some(get) = self.end(get) {
            match failure {
                Failure::Absent => self.dismiss(get.piece),
                Failure::Lost => self.fail(get.piece),
            }
        }
        self.advance();
    }

    /// Gives up: everything is cancelled, no stripes are handed out any more.
    pub fn abort(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if !self.done {
            self.finish(self.failure(self.order.len() as u16));
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
        if self.stripes.is_finished() {
            self.finish(Outcome::Finished);
            return;
        }
        self.judge_the_silent();
        self.wake_the_rested();
        if !std::mem::take(&mut self.unplanned) {
            return;
        }
        if let Some(reachable) = self.plan() {
            self.finish(self.failure(reachable));
            return;
        }
        self.cancel_the_useless();
        self.ask();
    }

    fn judge_the_silent(&mut self) {
        let has_failed = |get: &Get| self.now >= get.progress + self.settings.patience;
        let is_slow = |get: &Get| self.now >= get.progress + self.hedge_after(get);
        let silent: Vec<(GetId, u16, bool)> = self
            .running_gets()
            .filter(|(_, get)| has_failed(get) || (is_slow(get) && self.standing(get.piece) == Standing::Good))
            .map(|(id, get)| (id, get.piece, has_failed(get)))
            .collect();
        for (id, piece, has_failed) in silent {
            if has_failed {
                self.cancel(id);
                self.fail(piece);
            } else {
                // What it was asked for it may still bring first; nothing else is left to it.
                let asked = self.gets[id.0 as usize].shares.clone();
                self.stripes.forget(piece, asked);
                self.set_standing(piece, Standing::Slow);
            }
        }
    }

    fn wake_the_rested(&mut self) {
        for index in 0..self.order.len() {
            let piece = self.order[index];
            if matches!(self.standing(piece), Standing::Resting(until) if until <= self.now) {
                self.set_standing(piece, Standing::Slow);
            }
        }
    }

    /// Decides who is to bring what. Returns how many sources are left if some stripe cannot be rebuilt.
    fn plan(&mut self) -> Option<u16> {
        let all = |wanted: fn(Standing) -> bool| {
            let fits = |piece: &u16| wanted(self.standing(*piece));
            self.order.iter().copied().filter(fits).collect::<PieceSet>()
        };
        let prospect = Prospect {
            order: &self.order,
            good: all(|standing| standing == Standing::Good),
            slow: all(|standing| standing == Standing::Slow),
            resting: all(|standing| matches!(standing, Standing::Resting(_))),
        };
        self.stripes.plan(&prospect)
    }

    fn cancel_the_useless(&mut self) {
        // One that has brought everything ends by itself, and its stream can be used again.
        let is_through = |get: &Get| get.brought >= get.shares.len() as u32;
        let useless = |(_, get): &(GetId, &Get)| !is_through(get) && !self.stripes.is_open(get.piece, &get.shares);
        let useless: Vec<GetId> = self.running_gets().filter(useless).map(|(id, _)| id).collect();
        useless.into_iter().for_each(|id| self.cancel(id));
    }

    /// Asks idle sources for what they are to bring.
    fn ask(&mut self) {
        let first_new = self.gets.len();
        for index in 0..self.order.len() {
            let piece = self.order[index];
            let Some(source) = &mut self.sources[usize::from(piece)] else { continue };
            if source.active.is_some() {
                continue;
            }
            let Some(shares) = self.stripes.next_request(piece) else { continue };
            let get = GetId(self.gets.len() as u32);
            source.active = Some(get);
            self.gets.push(Get {
                piece,
                shares: shares.clone(),
                state: State::Running,
                progress: self.now,
                brought: 0,
                company: 0,
            });
            self.actions.push_back(Action::Get { get, piece, shares });
        }
        let company = self.running_gets().count() as u32;
        self.gets[first_new..].iter_mut().for_each(|get| get.company = company);
    }

    fn take_share(&mut self, id: GetId, share: ProvenShare) {
        let Some(get) = self.gets.get(id.0 as usize) else { return };
        let hedge = self.hedge_after(get);
        let Some(get) = self.gets.get_mut(id.0 as usize).filter(|get| get.state != State::Ended) else { return };
        let source = self.sources[usize::from(get.piece)].as_mut().expect("only sources are asked");
        if share.root() != &source.root || !get.shares.contains(&share.number()) {
            // Proven, but not what was asked for: the driver mixed something up, or the node answers another question.
            return;
        }
        if get.state == State::Running {
            let before = std::mem::replace(&mut get.progress, self.now);
            let took = self.now.saturating_sub(before);
            // Only what this request saw: in between the caller may have left the line idle.
            self.latencies.record_gap(self.now.saturating_sub(self.last_share.max(before)));
            self.last_share = self.now;
            get.brought += 1;
            if get.brought == 1 {
                self.latencies.record(took);
                if took < hedge && source.standing == Standing::Slow {
                    source.standing = Standing::Good;
                }
            }
        }
        if self.stripes.insert(get.piece, share) {
            self.unplanned = true;
        }
    }

    fn blame(&mut self, id: GetId, share: u32) {
        let Some(get) = self.gets.get(id.0 as usize).filter(|get| get.state != State::Ended) else { return };
        let piece = get.piece;
        self.actions.push_back(Action::Blame { piece, share });
        self.cancel(id);
        self.dismiss(piece);
    }

    /// Notes the end of a request; returns it if it was not expected to end.
    fn end(&mut self, id: GetId) -> Option<Get> {
        let get = self.gets.get_mut(id.0 as usize)?;
        let before = std::mem::replace(&mut get.state, State::Ended);
        let get = Get { shares: get.shares.clone(), state: before, ..*get };
        if before != State::Running {
            return None;
        }
        self.free(get.piece);
        Some(get)
    }

    fn cancel(&mut self, id: GetId) {
        let get = &mut self.gets[id.0 as usize];
        if get.state == State::Running {
            get.state = State::Cancelled;
            let piece = get.piece;
            self.free(piece);
            self.actions.push_back(Action::Cancel(id));
        }
    }

    fn free(&mut self, piece: u16) {
        if let Some(source) = &mut self.sources[usize::from(piece)] {
            source.active = None;
        }
        self.unplanned = true;
    }

    /// A source failed without having lied.
    fn fail(&mut self, piece: u16) {
        let Some(source) = &mut self.sources[usize::from(piece)] else { return };
        source.attempts = source.attempts.saturating_sub(1);
        if source.attempts == 0 {
            self.dismiss(piece);
        } else {
            self.set_standing(piece, Standing::Resting(self.now + self.settings.pause));
            self.stripes.forget(piece, 0..0);
        }
    }

    /// A source is asked no more.
    fn dismiss(&mut self, piece: u16) {
        self.set_standing(piece, Standing::Gone);
        self.stripes.forget(piece, 0..0);
    }

    fn finish(&mut self, outcome: Outcome) {
        self.done = true;
        // What the driver has not yet begun it need not begin.
        let gets = &mut self.gets;
        self.actions.retain(|action| match action {
            Action::Get { get, .. } => {
                gets[get.0 as usize].state = State::Ended;
                false
            }
            _ => true,
        });
        self.actions
            .retain(|action| !matches!(action, Action::Cancel(get) if gets[get.0 as usize].state == State::Ended));
        for index in 0..self.gets.len() {
            self.cancel(GetId(index as u32));
        }
        self.stripes.clear();
        self.actions.push_back(Action::Done(outcome));
    }

    fn failure(&self, reachable: u16) -> Outcome {
        Outcome::Failed { reachable, needed: self.stripes.required() }
    }

    /// How long a request may be silent before others are asked. At most half of the time after which it has failed.
    fn hedge_after(&self, get: &Get) -> Duration {
        self.latencies.hedge_after(self.settings.hedge, get.company).min(self.settings.patience / 2)
    }

    fn running_gets(&self) -> impl Iterator<Item = (GetId, &Get)> {
        let gets = (0..).map(GetId).zip(&self.gets);
        gets.filter(|(_, get)| get.state == State::Running)
    }

    fn standing(&self, piece: u16) -> Standing {
        self.sources[usize::from(piece)].as_ref().map_or(Standing::Gone, |source| source.standing)
    }

    fn set_standing(&mut self, piece: u16, standing: Standing) {
        if let Some(source) = &mut self.sources[usize::from(piece)]
            && source.standing != Standing::Gone
        {
            source.standing = standing;
            self.unplanned = true;
        }
    }
}

#[cfg(test)]
mod tests;
