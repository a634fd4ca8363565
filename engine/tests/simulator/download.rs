//! Drives the download machine through a network, and judges it.

use crate::Fate;
use crate::clock::Clock;
use crate::network::{Network, OnGet};
use crate::upload::StoredPieces;
use bytes::Bytes;
use rand::RngExt;
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;
use strewn_engine::erasure::Decoder;
use strewn_engine::piece::{PieceTree, Root, verify};
use strewn_engine::transfer::download::{Action, Download, Failure, GetId, Latencies, Outcome};

enum Event {
    Share(GetId, u32),
    Ended(GetId),
    Failed(GetId, Failure),
    Cancelled(GetId),
    Take,
}

/// What the driver keeps of a request that has not ended.
struct Get {
    piece: u16,
    cancelled: bool,
}

struct Source {
    node: usize,
    nature: OnGet,
    root: Root,
    tree: PieceTree,
    bytes: Bytes,
    requests: u32,
}

struct Driver<'a> {
    network: &'a mut Network,
    clock: Clock<Event>,
    sources: BTreeMap<u16, Source>,
    gets: BTreeMap<GetId, Get>,
    /// Most bytes of shares the machine may hold.
    most_held: u64,
    taking: bool,
    blamed: BTreeSet<u16>,
    caught: BTreeSet<u16>,
    outcome: Option<Outcome>,
}

/// Reads a range back.
pub(crate) fn run(
    network: &mut Network,
    stored: &StoredPieces,
    range: Range<u64>,
    latencies: &mut Latencies,
    fate: &mut Fate,
    trace: &mut Option<Vec<String>>,
) {
    let geometry = network.geometry;
    let mut order: Vec<(u16, Root)> = stored.iter().map(|(number, _, root)| (*number, *root)).collect();
    order.shuffle(&mut network.rng);
    let settings = network.download;
    let mut machine = Download::new(geometry, range.clone(), order, settings, latencies.clone(), Duration::ZERO);
    let sources = stored.iter().map(|(number, node, root)| {
        let bytes = Bytes::from(network.nodes[*node].pieces[number].clone());
        let tree = PieceTree::of(&bytes, geometry.piece().share()).expect("a piece");
        let nature = network.nodes[*node].on_get;
        (*number, Source { node: *node, nature, root: *root, tree, bytes, requests: 0 })
    });
    let stripe = u64::from(geometry.share_length(0)) * u64::from(geometry.required());
    let mut driver = Driver {
        sources: sources.collect(),
        network,
        clock: Clock::new(),
        gets: BTreeMap::new(),
        most_held: settings.window.max(stripe),
        taking: false,
        blamed: BTreeSet::new(),
        caught: BTreeSet::new(),
        outcome: None,
    };
    let mut decoder = Decoder::new(geometry);
    let mut bytes = Vec::new();
    let mut rebuilt = false;
    loop {
        while let Some(action) = machine.poll() {
            if let Some(trace) = trace {
                trace.push(format!("{:?} download {action:?}", driver.clock.now));
            }
            driver.obey(action);
        }
        assert!(machine.held() <= driver.most_held, "{} bytes held", machine.held());
        let Ok(event) = driver.clock.next(machine.wake_at()) else { break };
        match event {
            Some(Event::Take) => {
                driver.taking = false;
                if let Some(group) = machine.take(driver.clock.now) {
                    rebuilt |= group.shares.iter().any(|(piece, _)| *piece >= geometry.required());
                    decoder.read(&group, range.clone(), &mut bytes).expect("taken groups can be read");
                    driver.take_later();
                }
            }
            Some(event) => driver.happen(&mut machine, event),
            None => machine.handle_tick(driver.clock.now),
        }
    }
    assert_eq!(machine.running(), 0, "requests left running");
    assert!(driver.gets.is_empty(), "the driver runs requests that the machine forgot");
    *latencies = machine.latencies().clone();
    fate.downloads += 1;
    fate.rebuilt += u32::from(rebuilt);
    fate.blamed += driver.blamed.len() as u32;
    fate.downloaded += u32::from(driver.judge(&range, &bytes));
}

impl Driver<'_> {
    fn obey(&mut self, action: Action) {
        let is_over = self.outcome.is_some();
        match action {
            Action::Get { get, piece, shares } => {
                assert!(!is_over, "a request after the end");
                assert!(!self.blamed.contains(&piece), "a liar is asked again");
                let asked = self.gets.values().filter(|get| get.piece == piece && !get.cancelled).count();
                assert_eq!(asked, 0, "one request at a time and piece");
                assert!(!shares.is_empty() && shares.end <= self.network.geometry.stripes());
                self.gets.insert(get, Get { piece, cancelled: false });
                self.respond(get, piece, shares);
            }
            Action::Cancel(get) => {
                let state = self.gets.get_mut(&get).expect("only requests that run are cancelled");
                assert!(!std::mem::replace(&mut state.cancelled, true), "cancelled twice");
                let delay = self.network.delay(Duration::from_millis(2));
                self.clock.after(delay, Event::Cancelled(get));
            }
            Action::Blame { piece, .. } => {
                assert!(self.sources[&piece].nature.is_liar(), "{:?} was blamed", self.sources[&piece].nature);
                self.blamed.insert(piece);
            }
            Action::Done(outcome) => {
                assert!(self.outcome.replace(outcome).is_none(), "ended twice");
            }
        }
    }

    /// What a node does with a request.
    fn respond(&mut self, get: GetId, piece: u16, shares: Range<u32>) {
        let source = self.sources.get_mut(&piece).expect("only sources are asked");
        let nature = source.nature;
        source.requests += 1;
        let is_first = source.requests == 1;
        let most = match nature {
            OnGet::BreaksAfter(count) | OnGet::EndsAfter(count) => count as usize,
            OnGet::BreaksOnce if is_first => 1,
            OnGet::Dead | OnGet::Absent | OnGet::Hangs => 0,
            OnGet::HangsOnce if is_first => 0,
            _ => shares.len(),
        };
        let mut at = Duration::ZERO;
        for share in shares.take(most) {
            at += match nature {
                OnGet::Good(most) => self.network.delay(most),
                _ => self.network.late(),
            };
            self.clock.after(at, Event::Share(get, share));
        }
        at += self.network.delay(Duration::from_millis(1));
        match nature {
            OnGet::Hangs => {}
            OnGet::HangsOnce if is_first => {}
            OnGet::BreaksOnce if is_first => self.clock.after(at, Event::Failed(get, Failure::Lost)),
            OnGet::BreaksAfter(_) | OnGet::Dead => self.clock.after(at, Event::Failed(get, Failure::Lost)),
            OnGet::Absent => self.clock.after(at, Event::Failed(get, Failure::Absent)),
            _ => self.clock.after(at, Event::Ended(get)),
        }
    }

    fn happen(&mut self, machine: &mut Download, event: Event) {
        let now = self.clock.now;
        match event {
            Event::Share(id, share) => {
                let Some(get) = self.gets.get(&id) else { return };
                // What is still on its way from a cancelled request arrives half of the time.
                if get.cancelled && self.network.rng.random_bool(0.5) {
                    return;
                }
                let piece = get.piece;
                let result = self.share(piece, share);
                if result.is_err() {
                    self.caught.insert(piece);
                }
                machine.handle_share(now, id, result);
                self.take_later();
            }
            Event::Ended(id) | Event::Failed(id, _) if self.gets.get(&id).is_none_or(|get| get.cancelled) => {}
            Event::Ended(id) => {
                self.gets.remove(&id);
                machine.handle_ended(now, id);
            }
            Event::Failed(id, failure) => {
                self.gets.remove(&id);
                machine.handle_failed(now, id, failure);
            }
            Event::Cancelled(id) => {
                assert!(self.gets.remove(&id).is_some_and(|get| get.cancelled));
                machine.handle_ended(now, id);
            }
            Event::Take => unreachable!("handled by the caller"),
        }
    }

    /// A share as its node sends it, checked as the driver must.
    fn share(
        &mut self,
        piece: u16,
        number: u32,
    ) -> Result<strewn_engine::piece::ProvenShare, strewn_engine::piece::BadShare> {
        let source = &self.sources[&piece];
        let shape = source.tree.shape();
        let sent = match source.nature {
            OnGet::WrongNumber => (number + 1) % shape.shares(),
            _ => number,
        };
        let start = shape.share_offset(sent) as usize;
        let mut bytes = source.bytes.slice(start..start + shape.share_length(sent) as usize);
        let mut proof = source.tree.prove(sent).expect("a share of the piece");
        let flips = match source.nature {
            OnGet::Lies => true,
            OnGet::LiesSometimes => number % 2 == 1,
            // With a single share there is no other number and no proof to be wrong.
            OnGet::WrongNumber | OnGet::WrongProof => shape.shares() == 1,
            _ => false,
        };
        if flips {
            let mut wrong = bytes.to_vec();
            let at = self.network.rng.random_range(0..wrong.len());
            wrong[at] ^= 1 << self.network.rng.random_range(0..8);
            bytes = wrong.into();
        } else if source.nature == OnGet::WrongProof {
            proof[0][5] ^= 1;
        }
        verify(&source.root, shape, number, bytes, &proof)
    }

    fn take_later(&mut self) {
        if !std::mem::replace(&mut self.taking, true) {
            let delay = self.network.delay(Duration::from_millis(20));
            self.clock.after(delay, Event::Take);
        }
    }

    /// True if the range was read.
    fn judge(&self, range: &Range<u64>, bytes: &[u8]) -> bool {
        let geometry = self.network.geometry;
        let can_read = |nature: fn(OnGet) -> bool| {
            let able: BTreeSet<u16> = self.sources.iter().filter(|(_, s)| nature(s.nature)).map(|(n, _)| *n).collect();
            geometry.stripes_of(range.clone()).all(|stripe| {
                let is_whole = geometry.pieces_of(stripe, range).all(|piece| able.contains(&piece));
                is_whole || able.len() >= usize::from(geometry.required())
            })
        };
        let must_succeed = can_read(OnGet::is_honest);
        let may_succeed = can_read(|nature| nature.is_honest() || nature.is_mixed());
        assert_eq!(self.blamed, self.caught, "who sent bad shares is blamed, and nobody else");
        let wanted = range.start.min(geometry.length()) as usize..range.end.min(geometry.length()) as usize;
        match self.outcome.expect("every download ends") {
            Outcome::Finished => {
                assert!(may_succeed, "read what cannot be read");
                assert!(bytes == &self.network.segment[wanted], "wrong bytes");
                true
            }
            Outcome::Failed { needed, .. } => {
                let nodes: Vec<_> = self.sources.iter().map(|(n, s)| (n, s.node, s.nature)).collect();
                assert!(!must_succeed, "failed with {nodes:?}");
                assert_eq!(needed, geometry.required());
                assert!(self.network.segment[wanted].starts_with(bytes), "wrong bytes before it failed");
                false
            }
        }
    }
}
