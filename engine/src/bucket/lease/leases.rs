//! The keeper of a bucket's leases.

use super::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Who holds which names of one bucket.
///
/// A keeper that restarts has forgotten the names, but not who held something ([`saved`](Self::saved)): each of them then
/// counts as a holder of everything until it has said what it needs or its lease has run out.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    /// Newest epoch given out.
    epoch: u64,
    holders: BTreeMap<MountId, Holder>,
    /// Names that are held one by one.
    names: HashMap<NameKey, MountId>,
    /// No holder's lease ends earlier.
    next_end: Duration,
    asked: Asked,
    recalls: u64,
    /// How often what has to be remembered changed, and how many of these changes are remembered.
    changes: u64,
    changes_saved: u64,
}

/// What a keeper remembers over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Newest epoch given out.
    pub epoch: u64,
    /// The mounts that hold something.
    pub holders: Vec<SavedHolder>,
}

/// Of a mount that holds something. Changes only with its epoch, so that renewing writes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedHolder {
    /// Who.
    pub mount: MountId,
    /// Its epoch.
    pub epoch: u64,
    /// The number of the request with which that began: it may come again after the restart.
    pub number: u64,
}

#[derive(Debug, Clone)]
struct Holder {
    epoch: u64,
    /// Of its newest request.
    number: u64,
    /// Of the request with which the epoch began.
    began_with: u64,
    /// When all it holds is over.
    end: Duration,
    all: bool,
    /// Somebody wants a name while it holds them all.
    recalled: bool,
    names: BTreeSet<NameKey>,
    /// Of them, those that somebody else wants.
    wanted: BTreeSet<NameKey>,
}

/// When names were wanted last.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    last: Option<(MountId, Duration)>,
    /// The last by any other mount than that.
    before: Option<Duration>,
}

impl Leases {
    /// After a restart of the keeper: what [`saved`](Self::saved) said before it.
    pub fn restore(now: Duration, saved: Saved) -> Self {
        let holder = |holder: SavedHolder| Holder {
            epoch: holder.epoch,
            number: holder.number,
            end: now + LEASE,
            began_with: holder.number,
            all: true,
            recalled: true,
            names: BTreeSet::new(),
            wanted: BTreeSet::new(),
        };
        let holders = saved.holders.into_iter().map(|saved| (saved.mount, holder(saved))).collect();
        Self { epoch: saved.epoch, holders, next_end: now + LEASE, ..Self::default() }
    }

    /// What has to survive a restart before an answer is given.
    pub fn saved(&self) -> Saved {
        let holder = |(mount, holder): (&MountId, &Holder)| {
            let (mount, epoch, number) = (*mount, holder.epoch, holder.began_with);
            SavedHolder { mount, epoch, number }
        };
        Saved { epoch: self.epoch, holders: self.holders.iter().map(holder).collect() }
    }

    /// Which change [`saved`](Self::saved) is as of, if it is not known to be remembered
    /// ([`note_saved`](Self::note_saved)).
    pub fn unsaved(&self) -> Option<u64> {
        (self.changes != self.changes_saved).then_some(self.changes)
    }

    /// What [`saved`](Self::saved) said as of this change will survive a restart.
    pub fn note_saved(&mut self, change: u64) {
        self.changes_saved = self.changes_saved.max(change);
    }

    /// True if there is nothing to remember but the epoch.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Goes up whenever a holder is told to give something up.
    pub fn recalls(&self) -> u64 {
        self.recalls
    }

    /// Answers a request. `sequence`: the bucket's, at this moment. Fails with [`Error::Invalid`], and with
    /// [`Error::OutOfOrder`] if the mount has sent a newer one.
    pub fn request(&mut self, now: Duration, request: &LeaseRequest, sequence: u64) -> Result<LeaseReply, Error> {
        request.check()?;
        self.expire(now);
        let mount = request.mount;
        if let Some(holder) = self.holders.get_mut(&mount) {
            if request.number < holder.number {
                return Err(Error::OutOfOrder(format!("lease request {} after {}", request.number, holder.number)));
            }
            // What comes again does not know yet what came of it.
            let comes_again = request.number == holder.number;
            holder.number = request.number;
            if !comes_again && request.held != Some(holder.epoch) {
                self.end(mount);
            }
        }
        // Whoever holds all names may take single ones out of them, even if others hold all as well: after a restart of the
        // keeper, when that means what each of them had before.
        let takes_out = request.reserve && self.holders.get(&mount).is_some_and(|holder| holder.all);
        self.release(request);
        let names = self.want(now, request, takes_out);
        if request.all {
            self.want_all(now, request);
        }
        Ok(self.reply(now, mount, names, sequence))
    }

    /// Judges a batch of a mount by the leases, and tells holders who are in its way. `epoch`: of the lease it names.
    pub fn check_commit(
        &mut self,
        now: Duration,
        mount: MountId,
        epoch: Option<u64>,
        commit: &Commit,
    ) -> Result<(), Lapse> {
        self.expire(now);
        let holder = self.holders.get(&mount);
        if epoch.is_some_and(|epoch| holder.is_none_or(|holder| holder.epoch != epoch)) {
            return Err(Lapse::Stale);
        }
        if self.holders.is_empty() {
            return Ok(());
        }
        let Some((first, ..)) = added(commit).next() else { return Ok(()) };
        if !holder.is_some_and(|holder| holder.all) {
            self.asked.note(mount, now);
        }
        let mut lapse = match self.recall_all(mount) {
            true => Err(Lapse::Held { operation: first }),
            false => Ok(()),
        };
        for (operation, parent, name) in added(commit) {
            // All of them are recalled at once, the first is told.
            if self.recall_name(mount, &(parent, name.clone())) && lapse.is_ok() {
                lapse = Err(Lapse::Held { operation });
            }
        }
        lapse
    }

    /// True if a mount that believes to hold something under `epoch` has to ask: it does not any more, or somebody wants
    /// some of it.
    pub fn must_ask(&self, now: Duration, mount: MountId, epoch: u64) -> bool {
        let holder = self.holders.get(&mount).filter(|holder| holder.end > now && holder.epoch == epoch);
        holder.is_none_or(Holder::is_wanted)
    }

    /// Forgets whose lease has run out.
    fn expire(&mut self, now: Duration) {
        if now < self.next_end {
            return;
        }
        let over = self.holders.iter().filter(|(_, holder)| holder.end <= now).map(|(mount, _)| *mount);
        for mount in over.collect::<Vec<_>>() {
            self.end(mount);
        }
        self.next_end = self.holders.values().map(|holder| holder.end).min().unwrap_or(Duration::MAX);
    }

    /// Ends all that a mount holds.
    fn end(&mut self, mount: MountId) {
        let Some(holder) = self.holders.remove(&mount) else { return };
        for name in &holder.names {
            self.names.remove(name);
        }
        self.changes += 1;
    }

    fn release(&mut self, request: &LeaseRequest) {
        let Some(holder) = self.holders.get_mut(&request.mount) else { return };
        for name in &request.release {
            if holder.names.remove(name) {
                holder.wanted.remove(name);
                self.names.remove(name);
            }
        }
        if request.release_all {
            (holder.all, holder.recalled) = (false, false);
        }
    }

    fn want(&mut self, now: Duration, request: &LeaseRequest, takes_out: bool) -> Vec<NameLease> {
        if request.names.is_empty() {
            return Vec::new();
        }
        let mount = request.mount;
        self.asked.note(mount, now);
        let all_are_held = !takes_out && self.recall_all(mount);
        let outcome = |name: &NameKey| match self.recall_name(mount, name) || all_are_held {
            true => NameLease::Busy,
            false => self.grant(now, request, name),
        };
        request.names.iter().map(outcome).collect()
    }

    /// Grants a name that nobody else holds.
    fn grant(&mut self, now: Duration, request: &LeaseRequest, name: &NameKey) -> NameLease {
        if self.names.contains_key(name) {
            return NameLease::Granted;
        }
        let held = self.holders.get(&request.mount).map_or(0, |holder| holder.names.len());
        if held >= MAX_NAMES_PER_MOUNT || self.names.len() >= MAX_NAMES_PER_BUCKET {
            return NameLease::Full;
        }
        let Some(holder) = self.holder(now, request) else { return NameLease::Full };
        holder.names.insert(name.clone());
        self.names.insert(name.clone(), request.mount);
        NameLease::Granted
    }

    fn want_all(&mut self, now: Duration, request: &LeaseRequest) {
        let others = self.holders.iter().filter(|(mount, _)| **mount != request.mount);
        let alone = others.into_iter().all(|(_, holder)| !holder.all && holder.names.is_empty());
        let last = self.asked.by_others(request.mount);
        let quiet = last.is_none_or(|last| now.saturating_sub(last) >= QUIET);
        if alone
            && quiet
            && let Some(holder) = self.holder(now, request)
        {
            holder.all = true;
        }
    }

    /// The holder's row, made if there is room for it.
    fn holder(&mut self, now: Duration, request: &LeaseRequest) -> Option<&mut Holder> {
        if !self.holders.contains_key(&request.mount) {
            if self.holders.len() >= MAX_HOLDERS {
                return None;
            }
            self.epoch += 1;
            self.changes += 1;
            let (end, epoch, number) = (now + LEASE, self.epoch, request.number);
            self.next_end = self.next_end.min(end);
            let (names, wanted) = Default::default();
            let holder = Holder { epoch, number, began_with: number, end, all: false, recalled: false, names, wanted };
            self.holders.insert(request.mount, holder);
        }
        self.holders.get_mut(&request.mount)
    }

    /// True if another mount holds all names; it is told that somebody wants one.
    fn recall_all(&mut self, mount: MountId) -> bool {
        let mut held = false;
        for (_, holder) in self.holders.iter_mut().filter(|(other, holder)| **other != mount && holder.all) {
            self.recalls += u64::from(!holder.recalled);
            holder.recalled = true;
            held = true;
        }
        held
    }

    /// True if another mount holds this very name; it is told that somebody wants it.
    fn recall_name(&mut self, mount: MountId, name: &NameKey) -> bool {
        let other = self.names.get(name).filter(|other| **other != mount);
        let Some(holder) = other.and_then(|other| self.holders.get_mut(other)) else { return false };
        self.recalls += u64::from(holder.wanted.insert(name.clone()));
        true
    }

    /// Renews what may be renewed, and says what there is.
    fn reply(&mut self, now: Duration, mount: MountId, names: Vec<NameLease>, sequence: u64) -> LeaseReply {
        let nothing = LeaseReply {
            epoch: None,
            valid_for: Duration::ZERO,
            all: false,
            recalled: false,
            wanted: Vec::new(),
            names,
            sequence,
        };
        let Some(holder) = self.holders.get_mut(&mount) else { return nothing };
        if !holder.is_wanted() {
            holder.end = now + LEASE;
        }
        LeaseReply {
            epoch: Some(holder.epoch),
            valid_for: (holder.end - now).saturating_sub(CLOCK_MARGIN),
            all: holder.all && !holder.recalled,
            recalled: holder.recalled,
            wanted: holder.wanted.iter().take(MAX_WANTED).cloned().collect(),
            ..nothing
        }
    }
}

impl Holder {
    fn is_wanted(&self) -> bool {
        self.recalled || !self.wanted.is_empty()
    }
}

impl Asked {
    fn note(&mut self, mount: MountId, now: Duration) {
        if let Some((last, at)) = self.last
            && last != mount
        {
            self.before = Some(at);
        }
        self.last = Some((mount, now));
    }

    fn by_others(&self, mount: MountId) -> Option<Duration> {
        match self.last {
            Some((last, at)) if last != mount => Some(at),
            _ => self.before,
        }
    }
}
