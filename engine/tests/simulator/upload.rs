//! Drives the upload machine through a network, and judges it.

use crate::Fate;
use crate::clock::Clock;
use crate::network::{Network, OnPut};
use bytes::Bytes;
use rand::RngExt;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;
use strewn_engine::erasure::{Encoder, PieceWindow};
use strewn_engine::piece::{Root, RootBuilder};
use strewn_engine::transfer::upload::{Action, NodeRef, Outcome, PutId, Upload};

/// A piece that was stored: number, node, root.
pub(crate) type StoredPieces = Vec<(u16, usize, Root)>;

/// Longest encoding of a window.
const ENCODING: Duration = Duration::from_millis(4);
/// Longest turn of a node that counts as fast.
const FAST: Duration = Duration::from_millis(5);

enum Event {
    Encoded(u32),
    Sent(PutId),
    Progress(PutId),
    Receipt(PutId),
    Failed(PutId),
    Ended(PutId),
    Replacements(Vec<u16>),
}

/// What the driver keeps of a put that has not ended.
struct Put {
    number: u16,
    node: usize,
    /// Windows handed over so far, the last of them perhaps still on its way.
    begun: u32,
    /// The part that is on its way: the only bytes a put keeps alive.
    sending: Option<Bytes>,
    root: RootBuilder,
    received: Vec<u8>,
    cancelled: bool,
}

struct Driver<'a> {
    network: &'a mut Network,
    clock: Clock<Event>,
    encoder: Encoder,
    held: BTreeMap<u32, PieceWindow>,
    encoding: Option<u32>,
    encoded: u32,
    puts: BTreeMap<PutId, Put>,
    /// Roots of the pieces whose receipts were right.
    roots: BTreeMap<PutId, Root>,
    next_node: usize,
    outcome: Option<Outcome>,
    ended: Duration,
}

/// Uploads the segment; the pieces, if that succeeded.
pub(crate) fn run(network: &mut Network, fate: &mut Fate, trace: &mut Option<Vec<String>>) -> Option<StoredPieces> {
    let geometry = network.geometry;
    let redundancy = network.redundancy;
    let settings = network.upload;
    let first = (0..redundancy.total).map(|number| (number, NodeRef(number.into())));
    let mut machine = Upload::new(redundancy, geometry.windows(), first, settings, Duration::ZERO);
    let mut driver = Driver {
        next_node: redundancy.total.into(),
        network,
        clock: Clock::new(),
        encoder: Encoder::new(geometry),
        held: BTreeMap::new(),
        encoding: None,
        encoded: 0,
        puts: BTreeMap::new(),
        roots: BTreeMap::new(),
        outcome: None,
        ended: Duration::ZERO,
    };
    loop {
        while let Some(action) = machine.poll() {
            if let Some(trace) = trace {
                trace.push(format!("{:?} upload {action:?}", driver.clock.now));
            }
            driver.obey(action);
            driver.check_memory();
        }
        let Ok(event) = driver.clock.next(machine.wake_at()) else { break };
        match event {
            Some(event) => driver.happen(&mut machine, event),
            None => machine.handle_tick(driver.clock.now),
        }
    }
    assert_eq!(machine.running(), 0, "puts left running");
    assert!(driver.puts.is_empty(), "the driver runs puts that the machine forgot");
    fate.reencoded += driver.encoded.saturating_sub(geometry.windows());
    driver.judge()
}

impl Driver<'_> {
    fn obey(&mut self, action: Action) {
        assert!(self.outcome.is_none() || matches!(action, Action::Release(_)), "{action:?} after the end");
        match action {
            Action::Start { put, number, node } => {
                let put_state = Put {
                    number,
                    node: node.0 as usize,
                    begun: 0,
                    sending: None,
                    root: RootBuilder::with_share(self.network.geometry.piece().share()).expect("a share"),
                    received: Vec::new(),
                    cancelled: false,
                };
                assert!(self.puts.insert(put, put_state).is_none());
                if self.network.nodes[node.0 as usize].on_put == OnPut::Refuses {
                    let delay = self.network.late();
                    self.clock.after(delay, Event::Failed(put));
                }
            }
            Action::Encode(window) => {
                assert!(self.encoding.replace(window).is_none(), "two windows encoded at once");
                assert!(!self.held.contains_key(&window), "window {window} is held already");
                let delay = self.network.delay(ENCODING);
                self.clock.after(delay, Event::Encoded(window));
            }
            Action::Send { put, window } => self.send(put, window),
            Action::Release(window) => {
                let window = self.held.remove(&window).expect("only held windows are released");
                self.encoder.recycle(window);
            }
            Action::Cancel(put) => {
                let state = self.puts.get_mut(&put).expect("only puts that run are cancelled");
                assert!(!std::mem::replace(&mut state.cancelled, true), "cancelled twice");
                let delay = self.network.delay(Duration::from_millis(2));
                self.clock.after(delay, Event::Ended(put));
            }
            Action::Replace(numbers) => {
                let delay = self.network.late();
                self.clock.after(delay, Event::Replacements(numbers));
            }
            Action::Done(outcome) => {
                self.outcome = Some(outcome);
                self.ended = self.clock.now;
            }
        }
    }

    fn send(&mut self, id: PutId, window: u32) {
        let put = self.puts.get_mut(&id).expect("only puts that run are fed");
        assert_eq!((put.begun, put.sending.is_some(), put.cancelled), (window, false, false), "out of order");
        let bytes = self.held[&window].piece(put.number).expect("a piece of the segment").clone();
        put.begun += 1;
        put.sending = Some(bytes);
        let nature = self.network.nodes[put.node].on_put;
        self.respond(id, nature, window);
    }

    /// What a node does when it is its turn: at window `at`, or with the receipt if `at` is the number of windows.
    fn respond(&mut self, put: PutId, nature: OnPut, at: u32) {
        let is_last = at == self.network.geometry.windows();
        let delay = match nature {
            OnPut::Good(most) => self.network.delay(most),
            _ => self.network.late(),
        };
        let goes_on = if is_last { Event::Receipt(put) } else { Event::Sent(put) };
        match nature {
            OnPut::Refuses => {}
            OnPut::HangsAt(window) if window <= at => {}
            OnPut::FailsAt(window) if window <= at => self.clock.after(delay, Event::Failed(put)),
            OnPut::Drips => self.clock.after(Duration::from_millis(900), Event::Progress(put)),
            _ => self.clock.after(delay, goes_on),
        }
    }

    fn happen(&mut self, machine: &mut Upload, event: Event) {
        let now = self.clock.now;
        match event {
            Event::Encoded(window) => {
                self.encoding = None;
                self.encoded += 1;
                let segment = &self.network.segment;
                let read = |offset: u64, buffer: &mut [u8]| {
                    buffer.copy_from_slice(&segment[offset as usize..offset as usize + buffer.len()]);
                    Ok::<_, Infallible>(())
                };
                let encoded = self.encoder.encode(window, read).expect("infallible");
                self.held.insert(window, encoded);
                machine.handle_encoded(now, window);
            }
            Event::Replacements(numbers) => {
                let free = self.network.nodes.len() - self.next_node;
                let count = if self.network.replaces { numbers.len().min(free) } else { 0 };
                let nodes = self.next_node..self.next_node + count;
                self.next_node += count;
                machine.handle_replacements(now, numbers.into_iter().zip(nodes.map(|node| NodeRef(node as u32))));
            }
            Event::Ended(put) => {
                let state = self.puts.remove(&put);
                assert!(state.is_some_and(|put| put.cancelled));
                machine.handle_ended(now, put);
            }
            Event::Sent(id) | Event::Progress(id) | Event::Receipt(id) | Event::Failed(id) => {
                // What a cancelled put still has to say is heard half of the time.
                let cancelled = self.puts.get(&id).is_none_or(|put| put.cancelled);
                if !cancelled || (self.puts.contains_key(&id) && self.network.rng.random_bool(0.5)) {
                    self.hear(machine, event, id, cancelled);
                }
            }
        }
    }

    fn hear(&mut self, machine: &mut Upload, event: Event, id: PutId, cancelled: bool) {
        let now = self.clock.now;
        let put = self.puts.get_mut(&id).expect("the caller checked");
        let nature = self.network.nodes[put.node].on_put;
        match event {
            Event::Sent(_) => {
                let bytes = put.sending.take().expect("something was on its way");
                put.root.update(&bytes);
                put.received.extend_from_slice(&bytes);
                let begun = put.begun;
                machine.handle_sent(now, id);
                if begun == self.network.geometry.windows() && !cancelled {
                    self.respond(id, nature, begun);
                }
            }
            Event::Progress(_) => {
                machine.handle_progress(now, id);
                if !cancelled {
                    self.clock.after(Duration::from_millis(900), Event::Progress(id));
                }
            }
            Event::Receipt(_) if nature == OnPut::WrongRoot => self.fail(machine, id, cancelled),
            Event::Receipt(_) if cancelled => machine.handle_stored(now, id),
            Event::Receipt(_) => {
                let put = self.puts.remove(&id).expect("the caller checked");
                let tree = put.root.finish().expect("a whole piece");
                assert_eq!(put.received.len() as u64, self.network.geometry.piece_length());
                self.network.nodes[put.node].pieces.insert(put.number, put.received);
                self.roots.insert(id, tree.root());
                machine.handle_stored(now, id);
            }
            _ => self.fail(machine, id, cancelled),
        }
    }

    /// A put breaks off by itself; if it was cancelled too, its end is still confirmed later.
    fn fail(&mut self, machine: &mut Upload, id: PutId, cancelled: bool) {
        if !cancelled {
            self.puts.remove(&id);
        }
        machine.handle_failed(self.clock.now, id);
    }

    fn check_memory(&self) {
        let windows = self.held.len() + usize::from(self.encoding.is_some());
        assert!(windows <= self.network.upload.held_windows, "{windows} windows held");
    }

    /// Where enough nodes are fast the others cost at most patience a window: encoding takes at most [`ENCODING`], a fast
    /// node's turn at most [`FAST`], and whoever lags may have each window encoded once more.
    fn check_speed(&self) {
        let first = &self.network.nodes[..self.network.redundancy.total.into()];
        let fast = first.iter().filter(|node| matches!(node.on_put, OnPut::Good(most) if most <= FAST)).count();
        if fast >= self.network.redundancy.success.into() {
            let window = FAST + ENCODING * 3 + self.network.upload.patience;
            let most = window * (self.network.geometry.windows() + 1);
            assert!(self.ended <= most, "slow nodes held up the fast: {:?} of {most:?}", self.ended);
        }
    }

    fn judge(self) -> Option<StoredPieces> {
        self.check_speed();
        let outcome = self.outcome.expect("every upload ends");
        let redundancy = self.network.redundancy;
        let minimum = usize::from((redundancy.repair + 1).min(redundancy.success));
        let (first, spare) = self.network.nodes.split_at(redundancy.total.into());
        let honest = |nodes: &[crate::network::Node]| nodes.iter().filter(|node| node.on_put.is_honest()).count();
        let (at_first, in_all) = (honest(first), honest(first) + honest(spare));
        let any_drips = self.network.nodes.iter().any(|node| node.on_put == OnPut::Drips);
        let all_are_tried = self.network.replaces && self.network.upload.rounds >= 50 && !any_drips;
        let must_succeed = at_first >= minimum || (all_are_tried && in_all >= minimum);
        let may_succeed = in_all >= minimum;
        match outcome {
            Outcome::Stored { pieces, complete } => {
                assert!(may_succeed, "{} pieces stored on {in_all} honest nodes", pieces.len());
                assert!(pieces.len() >= minimum);
                assert_eq!(complete, pieces.len() >= redundancy.success.into());
                let numbers: std::collections::BTreeSet<u16> = pieces.iter().map(|piece| piece.number).collect();
                assert_eq!(numbers.len(), pieces.len(), "a piece counted twice");
                let stored = pieces.iter().map(|piece| {
                    let node = &self.network.nodes[piece.node.0 as usize];
                    assert!(node.on_put.is_honest(), "{:?} cannot have stored it", node.on_put);
                    let bytes = &node.pieces[&piece.number];
                    let root = self.roots[&piece.put];
                    assert_eq!(root, *blake3::hash(bytes).as_bytes());
                    (piece.number, piece.node.0 as usize, root)
                });
                Some(stored.collect())
            }
            Outcome::Failed { stored, needed } => {
                assert!(!must_succeed, "failed with {at_first} and {in_all} honest nodes, {minimum} needed");
                assert_eq!(usize::from(needed), minimum);
                assert!(stored < needed);
                None
            }
        }
    }
}
