//! The stripes a download works on: who is to bring which share, and what has come.

use crate::erasure::StripeGroup;
use crate::piece::ProvenShare;
use crate::segment::Geometry;
use crate::transfer::pieces::PieceSet;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// Whom stripes can be asked from.
pub(super) struct Prospect<'a> {
    /// Preferred pieces first.
    pub(super) order: &'a [u16],
    pub(super) good: PieceSet,
    pub(super) slow: PieceSet,
    pub(super) resting: PieceSet,
}

/// The stripes in the window, from the first that was not taken yet.
#[derive(Debug)]
pub(super) struct Stripes {
    geometry: Geometry,
    range: Range<u64>,
    /// Stripes that were not taken yet; those of `open` are the first of them.
    left: Range<u32>,
    open: VecDeque<Stripe>,
    /// Most stripes in `open`.
    limit: usize,
}

#[derive(Debug, Default)]
struct Stripe {
    /// Pieces whose share holds wanted bytes.
    wanted: PieceSet,
    /// Pieces that are to bring their share and have not yet.
    assigned: PieceSet,
    present: PieceSet,
    shares: Vec<(u16, Bytes)>,
}

impl Stripes {
    pub(super) fn new(geometry: Geometry, range: Range<u64>, window: u64) -> Self {
        let stripe = u64::from(geometry.share_length(0)) * u64::from(geometry.required());
        let limit = (window / stripe).max(1) as usize;
        let left = geometry.stripes_of(range.clone());
        Self { geometry, range, left, open: VecDeque::new(), limit }
    }

    /// k.
    pub(super) fn required(&self) -> u16 {
        self.geometry.required()
    }

    /// True if all stripes were taken.
    pub(super) fn is_finished(&self) -> bool {
        self.left.is_empty()
    }

    /// Bytes of shares held.
    pub(super) fn held(&self) -> u64 {
        self.open.iter().flat_map(|stripe| &stripe.shares).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// Opens stripes up to the limit and sees to it that each is promised by enough sources. If one can no longer be
    /// rebuilt, returns from how many sources its shares are or may come.
    pub(super) fn plan(&mut self, prospect: &Prospect<'_>) -> Option<u16> {
        while self.open.len() < self.limit.min(self.left.len()) {
            let stripe = self.left.start + self.open.len() as u32;
            let wanted = self.geometry.pieces_of(stripe, &self.range).collect();
            self.open.push_back(Stripe { wanted, ..Stripe::default() });
        }
        let required = self.geometry.required();
        self.open
            .iter_mut()
            .filter(|stripe| !stripe.is_ready(required))
            .find_map(|stripe| stripe.plan(required, prospect))
    }

    /// The next shares that a source should be asked for, if any.
    pub(super) fn next_request(&self, piece: u16) -> Option<Range<u32>> {
        let required = self.geometry.required();
        let is_due = |stripe: &Stripe| stripe.assigned.contains(piece) && !stripe.is_ready(required);
        let first = self.open.iter().position(is_due)?;
        // Half a window at a time: while the caller takes one half, the other comes in.
        let most = self.limit.div_ceil(2);
        let count = self.open.iter().skip(first).take(most).take_while(|stripe| is_due(stripe)).count();
        let start = self.left.start + first as u32;
        Some(start..start + count as u32)
    }

    /// True if a source is still to bring any of these shares.
    pub(super) fn is_open(&self, piece: u16, shares: &Range<u32>) -> bool {
        let required = self.geometry.required();
        let first = self.left.start;
        (shares.start.max(first)..shares.end)
            .filter_map(|stripe| self.open.get((stripe - first) as usize))
            .any(|stripe| stripe.assigned.contains(piece) && !stripe.is_ready(required))
    }

    /// Nothing is expected from a source any more but the shares in `asked`.
    pub(super) fn forget(&mut self, piece: u16, asked: Range<u32>) {
        for (number, stripe) in (self.left.start..).zip(&mut self.open) {
            if !asked.contains(&number) {
                stripe.assigned.remove(piece);
            }
        }
    }

    /// Keeps a share if its stripe still needs it. True if that made the stripe ready.
    pub(super) fn insert(&mut self, piece: u16, share: ProvenShare) -> bool {
        let required = self.geometry.required();
        let Some(index) = share.number().checked_sub(self.left.start) else { return false };
        let Some(stripe) = self.open.get_mut(index as usize) else { return false };
        stripe.assigned.remove(piece);
        if stripe.is_ready(required) || stripe.present.contains(piece) {
            return false;
        }
        stripe.present.insert(piece);
        stripe.shares.push((piece, share.into_bytes()));
        stripe.is_ready(required)
    }

    /// Takes the ready stripes at the front whose shares are of the same pieces: any number if nothing has to be rebuilt,
    /// else about a window of the code, since a decode call has its price; fewer only if no more are to come.
    pub(super) fn take(&mut self) -> Option<StripeGroup> {
        let required = self.geometry.required();
        let first = self.open.front().filter(|stripe| stripe.is_ready(required))?;
        let pieces = first.useful();
        let rebuilds = !first.is_whole();
        let most = self.geometry.window_stripes() as usize;
        let alike = |stripe: &&Stripe| stripe.is_ready(required) && stripe.useful() == pieces;
        let count = self.open.iter().take(most).take_while(alike).count();
        let waits_for_more = self.open.get(count).is_some_and(|next| !next.is_ready(required));
        if rebuilds && count < most && waits_for_more {
            return None;
        }
        let start = self.left.start;
        self.left.start += count as u32;
        let mut shares: Vec<(u16, Vec<Bytes>)> =
            pieces.iter().map(|piece| (piece, Vec::with_capacity(count))).collect();
        for mut stripe in self.open.drain(..count) {
            stripe.shares.retain(|(piece, _)| pieces.contains(*piece));
            stripe.shares.sort_unstable_by_key(|(piece, _)| *piece);
            shares.iter_mut().zip(stripe.shares).for_each(|(all, (_, bytes))| all.1.push(bytes));
        }
        Some(StripeGroup { stripes: start..self.left.start, shares })
    }
}

impl Stripe {
    /// True if all wanted data shares are present.
    fn is_whole(&self) -> bool {
        self.wanted.is_subset(&self.present)
    }

    /// True if the wanted bytes can be had.
    fn is_ready(&self, required: u16) -> bool {
        self.is_whole() || self.present.len() >= required
    }

    /// The shares that its bytes are made of.
    fn useful(&self) -> PieceSet {
        if self.is_whole() { self.wanted } else { self.present }
    }

    /// Assigns sources until the stripe is promised by sources that are not slow: all its wanted data shares, or any k.
    /// Where those do not suffice the slow are asked too. See [`Stripes::plan`] for the result.
    fn plan(&mut self, required: u16, prospect: &Prospect<'_>) -> Option<u16> {
        let Prospect { order, good, slow, resting } = prospect;
        let missing = self.wanted.minus(&self.present);
        if missing.is_subset(good) {
            self.assigned = self.assigned.union(&missing);
            return None;
        }
        self.assign(required, missing.iter().chain(order.iter().copied()), good);
        if self.promised(good).len() >= required {
            return None;
        }
        let both = good.union(slow);
        self.assign(required, missing.iter().chain(order.iter().copied()), &both);
        let promised = self.promised(&both);
        if promised.len() >= required || self.wanted.is_subset(&promised) {
            return None;
        }
        let hopeful = promised.union(resting);
        let is_hopeless = hopeful.len() < required && !self.wanted.is_subset(&hopeful);
        is_hopeless.then(|| hopeful.len())
    }

    /// Assigns those of `pieces` that are `able` until k shares are present or promised by able ones.
    fn assign(&mut self, required: u16, pieces: impl Iterator<Item = u16>, able: &PieceSet) {
        let mut promised = self.promised(able).len();
        for piece in pieces {
            if promised >= required {
                return;
            }
            if able.contains(piece) && !self.present.contains(piece) && !self.assigned.contains(piece) {
                self.assigned.insert(piece);
                promised += 1;
            }
        }
    }

    fn promised(&self, able: &PieceSet) -> PieceSet {
        self.present.union(&self.assigned.intersection(able))
    }
}
