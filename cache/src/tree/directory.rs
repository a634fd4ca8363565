//! The names of one directory: what they name here, and what differs from the network.
//!
//! A directory may have a million names, and all of them are in memory once it is listed: so a name costs little more than
//! its bytes and its [`Slot`]. Lines stand in the order of arrival, which is the order of listings, and are found by name
//! through a table of their places.

use crate::Name;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// Memory of a name of usual length, about.
pub(crate) const NAME_BYTES: u64 = 120;
/// Vacant lines are taken out once they are more than this and more than half.
const FEW_VACANT: usize = 32;

/// One name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// What it names, with all local changes.
    pub(crate) child: Option<(InodeId, Kind)>,
    /// Almost always nothing.
    local: Option<Box<Local>>,
}

/// How a name differs from the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Local {
    base: Option<(Option<InodeId>, u64)>,
    cut: u64,
}

impl Slot {
    /// What it names once the queued cuts are applied, and the order of becoming different; `None` if no different.
    pub(crate) fn base(&self) -> Option<(Option<InodeId>, u64)> {
        self.local.as_deref()?.base
    }

    pub(crate) fn set_base(&mut self, base: Option<(Option<InodeId>, u64)>) {
        self.set_local(Local { base, cut: self.cut() });
    }

    /// The newest cut that sets it and that the network may not show yet; 0 for none.
    pub(crate) fn cut(&self) -> u64 {
        self.local.as_deref().map_or(0, |local| local.cut)
    }

    fn set_cut(&mut self, cut: u64) {
        self.set_local(Local { base: self.base(), cut });
    }

    /// True if a row of the network's says nothing about this name.
    pub(crate) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    fn set_local(&mut self, local: Local) {
        match &mut self.local {
            _ if local == Local::default() => self.local = None,
            Some(known) => **known = local,
            None => self.local = Some(Box::new(local)),
        }
    }
}

/// A name in its place.
#[derive(Debug)]
struct Line {
    /// Place in listings. That of a line which names nothing is the same as of the one before.
    cookie: u64,
    /// `None`: vacant.
    name: Option<Name>,
    slot: Slot,
}

/// The names of a directory.
///
/// Invariant: the cookies of `lines` never fall, and `places` holds exactly the lines that are not vacant.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// All that is known, names that name nothing included.
    lines: Vec<Line>,
    places: HashTable<u32>,
    hasher: RandomState,
    /// Lines that name something.
    live: usize,
    /// Where something was found the last time; any place will do.
    found: usize,
    last_cookie: u64,
    /// A name that is not in `lines` certainly names nothing.
    pub(crate) complete: bool,
    /// Names asked for one by one since nothing was complete.
    pub(crate) misses: u32,
    /// Slots with a `base`.
    pub(crate) changed: usize,
    /// Slots with a `cut`.
    taken: usize,
    /// Names of directories.
    subdirectories: u32,
}

impl Directory {
    /// An empty directory that exists only here: all its names are known.
    pub(crate) fn new_local() -> Self {
        Self { complete: true, ..Self::default() }
    }

    /// The slot of a name, if anything is known of it.
    pub(crate) fn slot(&self, name: &Name) -> Option<&Slot> {
        Some(&self.lines[self.find(name)?].slot)
    }

    /// The slot of a name, to change all but `child`.
    pub(crate) fn slot_mut(&mut self, name: &Name) -> Option<&mut Slot> {
        let at = self.find(name)?;
        Some(&mut self.lines[at].slot)
    }

    /// What a name names; `None` if that is not known.
    pub(crate) fn get(&self, name: &Name) -> Option<Option<(InodeId, Kind)>> {
        match self.slot(name) {
            Some(slot) => Some(slot.child),
            None => self.complete.then_some(None),
        }
    }

    /// Lets a name name something else; gives its slot.
    pub(crate) fn set(&mut self, name: &Name, child: Option<(InodeId, Kind)>) -> &mut Slot {
        let at = match self.find(name) {
            // What begins to name something arrives, as if it had never been here.
            Some(at) if child.is_some() && self.lines[at].slot.child.is_none() => {
                let slot = self.vacate(at);
                self.push(name, slot, true)
            }
            Some(at) => at,
            None => self.push(name, Slot::default(), child.is_some()),
        };
        let slot = &mut self.lines[at].slot;
        self.live += usize::from(child.is_some());
        self.live -= usize::from(slot.child.is_some());
        self.subdirectories += u32::from(is_directory(child));
        self.subdirectories -= u32::from(is_directory(slot.child));
        slot.child = child;
        slot
    }

    /// Notes the newest cut that sets a name and that the network may not show yet; 0 for none.
    pub(crate) fn set_cut(&mut self, name: &Name, cut: u64) {
        let Some(at) = self.find(name) else { return };
        let slot = &mut self.lines[at].slot;
        self.taken += usize::from(cut != 0);
        self.taken -= usize::from(slot.cut() != 0);
        slot.set_cut(cut);
    }

    /// True if the network is still to hear of names here, or may not show them yet.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed > 0 || self.taken > 0
    }

    /// Forgets a name that the network knows as well as we do.
    pub(crate) fn forget(&mut self, name: &Name) {
        if let Some(at) = self.find(name) {
            let slot = self.vacate(at);
            self.live -= usize::from(slot.child.is_some());
            self.subdirectories -= u32::from(is_directory(slot.child));
        }
    }

    /// Names that name directories.
    pub(crate) fn subdirectories(&self) -> u32 {
        self.subdirectories
    }

    /// Names that name something.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// A slot that is wanted, as its place, looked for from the one that was [`found`](Self::found) the last time.
    pub(crate) fn find_slot(&self, wanted: impl Fn(&Slot) -> bool) -> Option<usize> {
        let from = self.found.min(self.lines.len());
        let mut places = (from..self.lines.len()).chain(0..from);
        places.find(|at| self.lines[*at].name.is_some() && wanted(&self.lines[*at].slot))
    }

    /// Notes where to look first the next time.
    pub(crate) fn found(&mut self, at: usize) {
        self.found = at;
    }

    /// Place in listings of a name that names something.
    pub(crate) fn cookie(&self, name: &Name) -> Option<u64> {
        let line = &self.lines[self.find(name)?];
        line.slot.child.map(|_| line.cookie)
    }

    /// The newest place in listings that was given out.
    pub(crate) fn last_cookie(&self) -> u64 {
        self.last_cookie
    }

    /// Names that anything is known of.
    pub(crate) fn known(&self) -> usize {
        self.places.len()
    }

    /// All slots, in the order of arrival.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&Name, &Slot)> {
        self.lines.iter().filter_map(|line| Some((line.name.as_ref()?, &line.slot)))
    }

    /// Names that name something, after a cookie, in the order of arrival.
    pub(crate) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &Name, (InodeId, Kind))> {
        let first = self.lines.partition_point(|line| line.cookie <= cookie);
        self.lines[first..].iter().filter_map(|line| Some((line.cookie, line.name.as_ref()?, line.slot.child?)))
    }

    fn find(&self, name: &Name) -> Option<usize> {
        let found = self.places.find(self.hasher.hash_one(name), |at| self.names(*at, name));
        found.map(|at| *at as usize)
    }

    fn names(&self, at: u32, name: &Name) -> bool {
        self.lines[at as usize].name.as_ref() == Some(name)
    }

    /// Puts a name at the end; gives its place.
    fn push(&mut self, name: &Name, slot: Slot, arrives: bool) -> usize {
        let vacant = self.lines.len() - self.places.len();
        if vacant > FEW_VACANT && vacant > self.lines.len() / 2 {
            self.close_ranks();
        }
        self.last_cookie += u64::from(arrives);
        let at = self.lines.len();
        self.lines.push(Line { cookie: self.last_cookie, name: Some(name.clone()), slot });
        self.note_place(at);
        at
    }

    fn note_place(&mut self, at: usize) {
        let (lines, hasher) = (&self.lines, &self.hasher);
        let hash = |at: &u32| hasher.hash_one(lines[*at as usize].name.as_ref().expect("only names have places"));
        let at = u32::try_from(at).expect("there is no memory for so many names");
        self.places.insert_unique(hash(&at), at, hash);
    }

    /// Takes a name out of its line.
    fn vacate(&mut self, at: usize) -> Slot {
        let line = &mut self.lines[at];
        let (name, slot) = (line.name.take(), std::mem::take(&mut line.slot));
        let name = name.expect("only names are found");
        // The line is vacant already, so it is looked for by its place.
        if let Ok(place) = self.places.find_entry(self.hasher.hash_one(&name), |place| *place as usize == at) {
            place.remove();
        }
        slot
    }

    /// Takes the vacant lines out.
    fn close_ranks(&mut self) {
        self.lines.retain(|line| line.name.is_some());
        self.lines.shrink_to_fit();
        self.places = HashTable::with_capacity(self.lines.len());
        (0..self.lines.len()).for_each(|at| self.note_place(at));
    }
}

fn is_directory(child: Option<(InodeId, Kind)>) -> bool {
    matches!(child, Some((_, Kind::Directory)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("valid")
    }

    fn inode(n: u8) -> Option<(InodeId, Kind)> {
        Some((InodeId::from_bytes([n; 16]), Kind::File))
    }

    #[test]
    fn cookies_come_in_order_of_arrival_and_never_again() {
        let mut directory = Directory { complete: true, ..Directory::default() };
        directory.set(&name("b"), inode(1));
        directory.set(&name("a"), inode(2));
        directory.set(&name("b"), None);
        directory.set(&name("b"), inode(3));
        directory.set(&name("a"), inode(4));
        let seen: Vec<_> = directory.after(0).map(|(cookie, name, child)| (cookie, name.clone(), child)).collect();
        assert_eq!(seen, [(2, name("a"), inode(4).unwrap()), (3, name("b"), inode(3).unwrap())]);
        assert_eq!(directory.after(2).count(), 1);
        assert_eq!(directory.live(), 2);
    }

    #[test]
    fn only_a_complete_directory_knows_what_is_not_there() {
        let mut directory = Directory::default();
        assert_eq!(directory.get(&name("a")), None);
        directory.set(&name("a"), None);
        assert_eq!(directory.get(&name("a")), Some(None));
        directory.complete = true;
        assert_eq!(directory.get(&name("z")), Some(None));
    }

    /// The same by the plainest means.
    #[derive(Default)]
    struct Plain {
        known: std::collections::BTreeMap<Name, (u64, Option<(InodeId, Kind)>)>,
        last: u64,
    }

    impl Plain {
        fn set(&mut self, name: &Name, child: Option<(InodeId, Kind)>) {
            let line = self.known.entry(name.clone()).or_default();
            if child.is_some() && line.1.is_none() {
                self.last += 1;
                line.0 = self.last;
            }
            line.1 = child;
        }

        fn after(&self, cookie: u64) -> Vec<(u64, Name, (InodeId, Kind))> {
            let named = self.known.iter().filter_map(|(name, (at, child))| Some((*at, name.clone(), (*child)?)));
            let mut listed: Vec<_> = named.filter(|(at, ..)| *at > cookie).collect();
            listed.sort_unstable_by_key(|(at, ..)| *at);
            listed
        }
    }

    proptest::proptest! {
        #[test]
        fn it_is_a_plain_map_with_a_plain_order(
            steps in proptest::collection::vec((0u8..40, 0u8..4, 0u64..200), 1..600)
        ) {
            let (mut directory, mut plain) = (Directory::default(), Plain::default());
            for (which, what, cookie) in steps {
                let name = name(&format!("n{which}"));
                match what {
                    0 => {
                        directory.forget(&name);
                        plain.known.remove(&name);
                    }
                    1 => {
                        directory.set(&name, None);
                        plain.set(&name, None);
                    }
                    _ => {
                        assert_eq!(directory.set(&name, inode(what)).child, inode(what));
                        plain.set(&name, inode(what));
                    }
                }
                let listed: Vec<_> = directory.after(cookie).map(|(at, name, child)| (at, name.clone(), child)).collect();
                assert_eq!(listed, plain.after(cookie));
                assert_eq!(directory.live(), plain.after(0).len());
                assert_eq!((directory.known(), directory.slots().count()), (plain.known.len(), plain.known.len()));
                for (name, (_, child)) in &plain.known {
                    assert_eq!(directory.slot(name).map(|slot| slot.child), Some(*child));
                }
            }
            assert!(directory.lines.len() <= 2 * directory.known() + FEW_VACANT + 2);
        }
    }

    #[test]
    fn a_name_costs_little_memory() {
        assert!(size_of::<Line>() <= 56, "{}", size_of::<Line>());
    }
}
