//! What this mount holds of the bucket's names, so that what it creates is exclusive: see
//! [`strewn_engine::bucket::lease`].
//!
//! - A name that comes to be needs *cover*: all names, that name, or a directory that no cut has taken yet (nobody else can
//!   know it). A transaction that has none stops as [`Stop::Uncovered`](crate::Stop::Uncovered), and [`ask`] asks for it.
//! - [`mod@keep`] holds all names whenever nobody else wants one, renews what is held, and gives back what others want, once it
//!   has told the network what it made of it.
//! - While the network is away nothing is covered and nobody waits: what others created meanwhile is found when the cut
//!   arrives, and both are kept.
//!
//! What is held counts from when it was asked for, on a clock that goes on while the machine sleeps.

mod ask;
mod keep;

pub(crate) use ask::Cover;
pub(crate) use keep::keep;

use crate::{Clock, Name};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use strewn_engine::bucket::EncryptedName;
use strewn_engine::bucket::lease::{HeldLease, LeaseReply, LeaseRequest, NameKey, NameLease};
use strewn_engine::ids::{InodeId, MountId};
use tokio::sync::{Notify, Semaphore};

/// A name that was granted is not given back for so long although nothing bears it, unless whoever asked has done with it.
const FRESH: Duration = Duration::from_secs(1);
/// Names to be given back that are remembered; more are left to run out.
const MOST_GIVEN: usize = 16_384;

/// A name of a directory, in the clear.
pub(crate) type NameOf = (InodeId, Name);

/// The lease and who works on it.
#[derive(Debug)]
pub(crate) struct Leasing {
    pub(crate) held: parking_lot::Mutex<Lease>,
    /// One request at a time.
    turn: Semaphore,
    /// Says that there is something to do.
    pub(crate) due: Notify,
}

impl Leasing {
    pub(crate) fn new(mount: MountId, clock: Clock) -> Self {
        let held = parking_lot::Mutex::new(Lease::new(mount, clock));
        Self { held, turn: Semaphore::new(1), due: Notify::new() }
    }
}

/// What is held. Its lock comes after that of the state, and is held for moments.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: Clock,
    mount: MountId,
    /// Of the newest request. It begins with the time, so that requests of an earlier life have smaller ones.
    number: u64,
    /// What is held has this epoch; `None`: nothing.
    epoch: Option<u64>,
    until: Duration,
    all: All,
    names: HashMap<InodeId, HashMap<Name, Held>>,
    /// Of the names held, those that others want.
    wanted: BTreeSet<NameOf>,
    /// All names are to be given up, or what is held singly was forgotten over there.
    recalled: bool,
    /// To be given up with the next request.
    given: Vec<NameKey>,
    /// To be reserved before all names are given up; `None`: nothing is being reserved.
    reserving: Option<Vec<(NameOf, NameKey)>>,
    /// All names are worth asking for.
    pub(super) wants_all: bool,
    /// The grant does not allow all names.
    never_all: bool,
    /// Names that wait for the network have no cover, because a lease ran out or the mount has just begun.
    pub(super) lost: bool,
    /// Requests that somebody waited for.
    pub(crate) waited_for: u64,
}

/// What is held of all names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum All {
    No,
    /// They are held, but what is not there is known only once the feed was heard up to this sequence number.
    From(u64),
    Yes,
}

#[derive(Debug)]
struct Held {
    encrypted: EncryptedName,
    /// Whoever asked for it has not used it yet; when it was granted.
    fresh: Option<Duration>,
    /// What is known of it is as new as the grant. Till then nobody may rely on its absence.
    sure: bool,
}

/// Kind of lease a mount has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// It asks before it creates, if it can.
    #[default]
    None,
    /// It holds some names.
    Names,
    /// It holds all names, and asks nobody.
    All,
}

impl Lease {
    fn new(mount: MountId, clock: Clock) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            clock,
            mount,
            number: u64::try_from(time.as_micros()).unwrap_or_default(),
            epoch: None,
            until: Duration::ZERO,
            all: All::No,
            names: HashMap::new(),
            wanted: BTreeSet::new(),
            recalled: false,
            given: Vec::new(),
            reserving: None,
            wants_all: true,
            never_all: false,
            lost: true,
            waited_for: 0,
        }
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    fn is_live(&self) -> bool {
        self.epoch.is_some() && self.now() < self.until
    }

    /// True if this mount alone may bring the name to be.
    pub(crate) fn covers(&self, directory: InodeId, name: &Name) -> bool {
        let held = || self.names.get(&directory)?.get(name);
        (self.all == All::Yes || held().is_some_and(|held| held.sure)) && self.is_live()
    }

    /// The lease that a batch is sent under.
    pub(crate) fn for_a_batch(&self) -> Option<HeldLease> {
        let epoch = self.epoch.filter(|_| self.is_live())?;
        Some(HeldLease { mount: self.mount, epoch })
    }

    /// What it is, for the status, and how many names are held one by one.
    pub(crate) fn kind(&self) -> (LeaseKind, usize) {
        let names = self.names.values().map(HashMap::len).sum();
        let kind = match (self.is_live(), self.all, names) {
            (false, ..) => LeaseKind::None,
            (true, All::Yes, _) => LeaseKind::All,
            (true, _, 0) => LeaseKind::None,
            (true, ..) => LeaseKind::Names,
        };
        (kind, names)
    }

    /// True if somebody wants what is held.
    pub(crate) fn is_wanted(&self) -> bool {
        self.recalled || !self.wanted.is_empty()
    }

    /// The feed was heard up to there.
    pub(crate) fn heard(&mut self, sequence: u64) {
        if matches!(self.all, All::From(from) if sequence >= from) {
            self.all = All::Yes;
        }
    }

    /// Nothing is held any more: it ran out, or the satellite says so.
    pub(crate) fn forget(&mut self) {
        self.wants_all |= self.all != All::No;
        self.lost |= self.epoch.is_some();
        (self.epoch, self.all, self.recalled) = (None, All::No, false);
        self.names.clear();
        self.wanted.clear();
        self.given.clear();
        self.reserving = None;
    }

    /// Forgets what has run out.
    fn notice_end(&mut self) {
        if self.epoch.is_some() && !self.is_live() {
            self.forget();
        }
    }

    /// Begins a request: it takes along what is to be given up.
    fn request(&mut self) -> LeaseRequest {
        self.notice_end();
        self.number += 1;
        let mut request = LeaseRequest::new(self.mount, self.number, self.epoch);
        let some = self.given.len().min(strewn_engine::bucket::lease::MAX_LEASE_NAMES);
        request.release = self.given.drain(..some).collect();
        request
    }

    /// Takes in an answer. `plain`: the names that were asked for.
    fn take(&mut self, asked: Duration, request: &LeaseRequest, plain: &[NameOf], reply: &LeaseReply) {
        if reply.epoch.is_none() || reply.epoch != self.epoch {
            self.forget();
        }
        self.epoch = reply.epoch;
        self.until = asked + reply.valid_for;
        self.recalled = reply.recalled;
        match (reply.all, self.all) {
            (true, All::No) => self.all = All::From(reply.sequence),
            (false, _) if !reply.recalled || request.release_all => self.all = All::No,
            _ => {}
        }
        for ((place, outcome), (_, encrypted)) in plain.iter().zip(&reply.names).zip(&request.names) {
            let names = self.names.entry(place.0).or_default();
            match outcome {
                NameLease::Granted => {
                    let fresh = (!request.reserve).then(|| self.clock.elapsed());
                    let sure = request.reserve || names.get(&place.1).is_some_and(|held| held.sure);
                    names.insert(place.1.clone(), Held { encrypted: encrypted.clone(), fresh, sure });
                }
                NameLease::Busy | NameLease::Full => drop(names.remove(&place.1)),
            }
        }
        self.names.retain(|_, names| !names.is_empty());
        self.wanted = self.plain(&reply.wanted);
    }

    /// No answer came: what was asked for may be held or not, and so may what was given up.
    fn take_nothing(&mut self, request: LeaseRequest) {
        let LeaseRequest { names, release, reserve, .. } = request;
        let asked = if reserve { Vec::new() } else { names };
        self.given.extend(release.into_iter().chain(asked));
        self.given.truncate(MOST_GIVEN);
    }

    /// Gives up the names for which this says so.
    fn give_up(&mut self, mut is_over: impl FnMut(InodeId, &Name) -> bool) {
        let now = self.now();
        let Self { names, wanted, given, .. } = self;
        names.retain(|directory, names| {
            names.retain(|name, held| {
                let fresh = held.fresh.is_some_and(|since| now.saturating_sub(since) < FRESH);
                let stays = fresh || !is_over(*directory, name);
                if !stays {
                    wanted.remove(&(*directory, name.clone()));
                    given.push((*directory, held.encrypted.clone()));
                }
                stays
            });
            !names.is_empty()
        });
    }

    /// What is known of this name is as new as its grant.
    fn made_sure(&mut self, (directory, name): &NameOf) {
        if let Some(held) = self.names.get_mut(directory).and_then(|names| names.get_mut(name)) {
            held.sure = true;
        }
    }

    /// Whoever asked for this name needs it no more, but for what it has made of it.
    fn done_with(&mut self, (directory, name): &NameOf) {
        if let Some(held) = self.names.get_mut(directory).and_then(|names| names.get_mut(name)) {
            held.fresh = None;
        }
    }

    /// Names held, by what the satellite calls them.
    fn plain(&self, keys: &[NameKey]) -> BTreeSet<NameOf> {
        let mut found = BTreeSet::new();
        for (directory, encrypted) in keys {
            let names = self.names.get(directory).into_iter().flatten();
            let name = names.into_iter().find(|(_, held)| held.encrypted == *encrypted).map(|(name, _)| name);
            found.extend(name.map(|name| (*directory, name.clone())));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const DIRECTORY: InodeId = InodeId::from_bytes([1; 16]);

    /// A lease and the seconds that its clock shows.
    fn lease() -> (Lease, Arc<AtomicU64>) {
        let seconds = Arc::new(AtomicU64::new(100));
        let shown = seconds.clone();
        let clock = Clock::new(move || Duration::from_secs(shown.load(Ordering::SeqCst)));
        (Lease::new(MountId::from_bytes([3; 16]), clock), seconds)
    }

    fn reply(epoch: u64) -> LeaseReply {
        let (wanted, names) = Default::default();
        let valid_for = Duration::from_secs(10);
        LeaseReply { epoch: Some(epoch), valid_for, all: false, recalled: false, wanted, names, sequence: 7 }
    }

    fn place(name: &str) -> (NameOf, NameKey) {
        let name = Name::new(name.as_bytes()).unwrap();
        let byte = name.as_bytes()[0];
        let encrypted = EncryptedName::try_from(vec![byte; EncryptedName::MIN]).unwrap();
        ((DIRECTORY, name), (DIRECTORY, encrypted))
    }

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for() {
        let (mut lease, seconds) = lease();
        let (place, key) = place("a");
        let request = LeaseRequest { names: vec![key], ..lease.request() };
        let granted = LeaseReply { names: vec![NameLease::Granted], ..reply(1) };
        // The answer took eight seconds.
        let asked = lease.now();
        seconds.store(108, Ordering::SeqCst);
        lease.take(asked, &request, std::slice::from_ref(&place), &granted);
        assert!(!lease.covers(DIRECTORY, &place.1), "what is known of it may be older");
        lease.made_sure(&place);
        assert!(lease.covers(DIRECTORY, &place.1) && lease.for_a_batch().is_some());
        seconds.store(110, Ordering::SeqCst);
        assert!(!lease.covers(DIRECTORY, &place.1) && lease.for_a_batch().is_none());
        // Whoever holds nothing any more says so, and knows that what is pending has no cover.
        lease.lost = false;
        assert_eq!(lease.request().held, None);
        assert!(lease.lost);
    }

    #[test]
    fn all_names_cover_once_the_feed_was_heard() {
        let (mut lease, _) = lease();
        let (place, _) = place("a");
        let request = LeaseRequest { all: true, ..lease.request() };
        lease.take(lease.now(), &request, &[], &LeaseReply { all: true, ..reply(1) });
        lease.heard(6);
        assert!(!lease.covers(DIRECTORY, &place.1));
        lease.heard(7);
        assert!(lease.covers(DIRECTORY, &place.1));
        assert_eq!(lease.kind().0, LeaseKind::All);
    }

    #[test]
    fn what_is_used_up_is_given_back_and_what_was_just_granted_is_not() {
        let (mut lease, _) = lease();
        let places = [place("a"), place("b")];
        let (plain, names): (Vec<_>, Vec<_>) = places.into_iter().unzip();
        let request = LeaseRequest { names: names.clone(), ..lease.request() };
        let granted = LeaseReply { names: vec![NameLease::Granted; 2], wanted: names.clone(), ..reply(1) };
        lease.take(lease.now(), &request, &plain, &granted);
        assert!(lease.is_wanted());
        lease.give_up(|_, _| true);
        assert_eq!(lease.kind(), (LeaseKind::Names, 2), "whoever asked is about to use them");
        lease.done_with(&plain[0]);
        lease.give_up(|_, _| true);
        let next = lease.request();
        assert_eq!((next.release, lease.kind().1), (vec![names[0].clone()], 1));
        // Nobody knows what became of an unanswered request.
        let next = LeaseRequest { names: vec![names[0].clone()], ..lease.request() };
        lease.take_nothing(next);
        assert_eq!(lease.request().release, [names[0].clone()]);
    }

    #[test]
    fn another_epoch_means_that_nothing_else_is_held() {
        let (mut lease, _) = lease();
        let (plain, key) = place("a");
        let request = LeaseRequest { names: vec![key], ..lease.request() };
        let granted = LeaseReply { names: vec![NameLease::Granted], ..reply(1) };
        lease.take(lease.now(), &request, std::slice::from_ref(&plain), &granted);
        lease.made_sure(&plain);
        assert!(lease.covers(DIRECTORY, &plain.1));
        let request = lease.request();
        lease.take(lease.now(), &request, &[], &reply(2));
        assert!(!lease.covers(DIRECTORY, &plain.1));
        assert_eq!(lease.for_a_batch().map(|lease| lease.epoch), Some(2));
    }
}
