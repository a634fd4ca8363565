//! The numbers that inodes go by outside, how many references are held to them, and what only this mount knows of them.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strewn_engine::bucket::Timestamp;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// The number of the root directory.
pub const ROOT_NUMBER: u64 = 1;

/// Numbers below this are the root's or reserved.
const FIRST_NUMBER: u64 = 2;

/// Room for so many nodes is kept.
const FEW_NODES: usize = 4_096;

/// A read that comes so soon after one of the same file that had no answer is the kernel's second attempt: it reads ahead, and
/// asks for the page itself when that failed.
const SECOND_ATTEMPT: Duration = Duration::from_millis(500);

/// Numbers of referenced inodes.
///
/// Invariant: `inodes` and `numbers` are inverse to each other, and hold exactly the root and what has references.
pub(super) struct Nodes {
    root: InodeId,
    state: Mutex<State>,
    /// A read had no answer, ever: most drives never have to look.
    had_unanswered: AtomicBool,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Node>,
    /// Only inodes whose number is not the one derived from their id: two ids that share eight bytes met.
    displaced: HashMap<InodeId, u64>,
}

struct Node {
    inode: InodeId,
    references: u64,
    /// What is to be known of few: the kernel may refer to very many.
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    /// Content changed elsewhere since the last open: copies in the kernel are of no use.
    stale: bool,
    /// An access that the cache has not been told of.
    access: Option<Timestamp>,
    /// Since when the kernel may have a copy of the listing.
    listed: Option<Instant>,
    /// Open files.
    opens: u32,
    /// Those of them for which the kernel was lent a file. It wants all or none to be so.
    lent: u32,
    /// When a read had no answer.
    unanswered: Option<Instant>,
}

impl Nodes {
    pub(super) fn new(root: InodeId) -> Self {
        let nodes = HashMap::from([(ROOT_NUMBER, Node::new(root, 1))]);
        let state = Mutex::new(State { nodes, displaced: HashMap::new() });
        Self { root, state, had_unanswered: AtomicBool::new(false) }
    }

    pub(super) fn inode(&self, number: u64) -> Option<InodeId> {
        self.state.lock().nodes.get(&number).map(|node| node.inode)
    }

    /// The number of an inode, referenced or not.
    pub(super) fn number(&self, inode: InodeId) -> u64 {
        self.state.lock().number(self.root, inode)
    }

    /// Counts a reference and returns the number.
    pub(super) fn reference(&self, inode: InodeId) -> u64 {
        let mut state = self.state.lock();
        let mut number = state.number(self.root, inode);
        loop {
            match state.nodes.entry(number) {
                Entry::Vacant(free) => {
                    free.insert(Node::new(inode, 1));
                    break;
                }
                Entry::Occupied(mut taken) if taken.get().inode == inode => {
                    taken.get_mut().references += 1;
                    return number;
                }
                Entry::Occupied(_) => number = number.wrapping_add(1).max(FIRST_NUMBER),
            }
        }
        if number != derived(inode) {
            state.displaced.insert(inode, number);
        }
        number
    }

    /// Takes back references; how many there were to take.
    pub(super) fn forget(&self, inode: InodeId, count: u64) -> u64 {
        let mut state = self.state.lock();
        let number = state.number(self.root, inode);
        let Some(node) = state.nodes.get_mut(&number).filter(|node| node.inode == inode) else { return 0 };
        let taken = count.min(node.references);
        node.references -= taken;
        if node.references == 0 {
            state.nodes.remove(&number);
            state.displaced.remove(&inode);
            state.shrink();
        }
        taken
    }

    /// Takes back all references but the root's.
    pub(super) fn drain(&self) -> Vec<(InodeId, u64)> {
        let mut state = self.state.lock();
        state.displaced.clear();
        let root = self.root;
        state.nodes.extract_if(|_, node| node.inode != root).map(|(_, node)| (node.inode, node.references)).collect()
    }

    /// Notes an access that stays local until the inode changes otherwise.
    pub(super) fn access(&self, inode: InodeId, at: Timestamp) {
        self.with(inode, |node| node.more().access = Some(at));
    }

    /// Forgets the local access: the caller set another access time.
    pub(super) fn clear_access(&self, inode: InodeId) {
        self.with(inode, |node| {
            if let Some(more) = &mut node.more {
                more.access = None;
            }
        });
    }

    /// The newest access time known.
    pub(super) fn merge_access(&self, inode: InodeId, attributes: &mut Attributes) {
        if let Some(at) = self.with(inode, |node| node.more.as_ref()?.access).flatten() {
            attributes.atime = attributes.atime.max(at);
        }
    }

    /// True if copies of the content that the kernel has are good for another open.
    pub(super) fn open_keeps_copies(&self, inode: InodeId) -> bool {
        self.with(inode, |node| !node.take_stale()).unwrap_or(false)
    }

    /// A read of the file had no answer.
    pub(super) fn read_unanswered(&self, inode: InodeId, now: Instant) {
        self.with(inode, |node| node.more().unanswered = Some(now));
        self.had_unanswered.store(true, Ordering::Relaxed);
    }

    /// True if a read may be the kernel's second attempt at what just had no answer.
    pub(super) fn is_second_attempt(&self, inode: InodeId, now: Instant) -> bool {
        if !self.had_unanswered.load(Ordering::Relaxed) {
            return false;
        }
        let before = self.with(inode, |node| node.more.as_ref()?.unanswered).flatten();
        before.is_some_and(|before| now.saturating_duration_since(before) < SECOND_ATTEMPT)
    }

    /// The second attempt was told that there is no answer: another one waits for it.
    pub(super) fn second_attempt_failed(&self, inode: InodeId) {
        self.with(inode, |node| node.more().unanswered = None);
    }

    /// Counts an open file.
    pub(super) fn opened(&self, inode: InodeId) {
        self.with(inode, |node| node.more().opens = node.more().opens.saturating_add(1));
    }

    /// An open file is closed.
    pub(super) fn closed(&self, inode: InodeId) {
        self.with(inode, |node| node.more().opens = node.more().opens.saturating_sub(1));
    }

    /// Counts an open file as long as none is lent. False if one is.
    pub(super) fn opened_unless_lent(&self, inode: InodeId) -> bool {
        let counted = self.with(inode, |node| {
            let more = node.more();
            let free = more.lent == 0;
            more.opens = more.opens.saturating_add(u32::from(free));
            free
        });
        counted.unwrap_or(true)
    }

    /// Counts a file that is lent as long as all open ones are. False if one is not.
    pub(super) fn opened_lent(&self, inode: InodeId) -> bool {
        let counted = self.with(inode, |node| {
            let more = node.more();
            let free = more.opens == more.lent;
            if free {
                (more.opens, more.lent) = (more.opens.saturating_add(1), more.lent.saturating_add(1));
            }
            free
        });
        counted.unwrap_or(false)
    }

    /// A file that was lent is closed.
    pub(super) fn closed_lent(&self, inode: InodeId) {
        self.with(inode, |node| {
            let more = node.more();
            (more.opens, more.lent) = (more.opens.saturating_sub(1), more.lent.saturating_sub(1));
        });
    }

    /// How many of its files are open, and how many of these are lent.
    pub(super) fn open_files(&self, inode: InodeId) -> (u32, u32) {
        let counts = self.with(inode, |node| node.more.as_ref().map_or((0, 0), |more| (more.opens, more.lent)));
        counts.unwrap_or((0, 0))
    }

    /// True while a file of it is open.
    pub(super) fn is_open(&self, inode: InodeId) -> bool {
        self.with(inode, |node| node.more.as_ref().is_some_and(|more| more.opens > 0)).unwrap_or(false)
    }

    /// True if a copy of a listing that the kernel has is good for another opening: nothing changed elsewhere, and it is not
    /// older than `most`. If not, the kernel is to list anew from now on.
    pub(super) fn open_keeps_listing(&self, inode: InodeId, now: Instant, most: Duration) -> bool {
        let keeps = self.with(inode, |node| {
            let more = node.more();
            let good = !std::mem::take(&mut more.stale)
                && more.listed.is_some_and(|since| now.saturating_duration_since(since) <= most);
            if !good {
                more.listed = Some(now);
            }
            good
        });
        keeps.unwrap_or(false)
    }

    pub(super) fn changed_elsewhere(&self, inode: InodeId) -> Option<u64> {
        self.with(inode, |node| {
            node.more().stale = true;
            node.more().access = None;
        })?;
        Some(self.number(inode))
    }

    pub(super) fn all_changed_elsewhere(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        state.nodes.values_mut().for_each(|node| node.more().stale = true);
        state.nodes.keys().copied().collect()
    }

    fn with<T>(&self, inode: InodeId, apply: impl FnOnce(&mut Node) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let number = state.number(self.root, inode);
        state.nodes.get_mut(&number).filter(|node| node.inode == inode).map(apply)
    }
}

impl State {
    /// Gives memory back once most of it is empty, after a listing of very many files.
    fn shrink(&mut self) {
        if self.nodes.capacity() > FEW_NODES && self.nodes.len() < self.nodes.capacity() / 8 {
            self.nodes.shrink_to(self.nodes.len() * 2);
        }
    }

    fn number(&self, root: InodeId, inode: InodeId) -> u64 {
        if inode == root {
            return ROOT_NUMBER;
        }
        // Almost always empty, then this costs nothing.
        self.displaced.get(&inode).copied().unwrap_or_else(|| derived(inode))
    }
}

impl Node {
    fn new(inode: InodeId, references: u64) -> Self {
        Self { inode, references, more: None }
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn take_stale(&mut self) -> bool {
        self.more.as_mut().is_some_and(|more| std::mem::take(&mut more.stale))
    }
}

/// The first eight bytes of the id: random, so it meets another's with odds of 2^-64 a pair.
fn derived(inode: InodeId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *inode.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(FIRST_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u8, last: u8) -> InodeId {
        let mut bytes = [0; 16];
        (bytes[0], bytes[15]) = (first, last);
        InodeId::from_bytes(bytes)
    }

    #[test]
    fn references_are_counted_and_given_back() {
        let nodes = Nodes::new(id(9, 9));
        assert_eq!(nodes.inode(ROOT_NUMBER), Some(id(9, 9)));
        let number = nodes.reference(id(1, 0));
        assert_eq!(nodes.reference(id(1, 0)), number);
        assert_eq!(nodes.inode(number), Some(id(1, 0)));
        assert_eq!(nodes.forget(id(1, 0), 1), 1);
        assert_eq!(nodes.inode(number), Some(id(1, 0)));
        assert_eq!(nodes.forget(id(1, 0), 5), 1);
        assert_eq!(nodes.inode(number), None);
        assert_eq!(nodes.forget(id(1, 0), 1), 0);
    }

    #[test]
    fn ids_that_share_eight_bytes_get_numbers_of_their_own() {
        let nodes = Nodes::new(id(9, 9));
        let [a, b] = [1, 2].map(|last| nodes.reference(id(1, last)));
        assert_ne!(a, b);
        assert_eq!((nodes.inode(a), nodes.inode(b)), (Some(id(1, 1)), Some(id(1, 2))));
        assert_eq!((nodes.number(id(1, 1)), nodes.number(id(1, 2))), (a, b));
        assert_eq!(nodes.forget(id(1, 2), 1), 1);
        assert_eq!((nodes.inode(a), nodes.inode(b)), (Some(id(1, 1)), None));
    }

    #[test]
    fn ids_of_zeros_do_not_take_the_roots_number() {
        let nodes = Nodes::new(id(9, 9));
        assert_eq!([1, 2].map(|last| nodes.reference(id(0, last))), [2, 3]);
    }

    #[test]
    fn everything_but_the_root_is_drained() {
        let nodes = Nodes::new(id(9, 9));
        nodes.reference(id(1, 0));
        nodes.reference(id(1, 0));
        assert_eq!(nodes.drain(), vec![(id(1, 0), 2)]);
        assert_eq!(nodes.inode(ROOT_NUMBER), Some(id(9, 9)));
    }

    #[test]
    fn listings_are_kept_for_a_time() {
        let nodes = Nodes::new(id(9, 9));
        let (most, start) = (Duration::from_secs(30), Instant::now());
        let keeps = |after| nodes.open_keeps_listing(id(1, 0), start + Duration::from_secs(after), most);
        assert!(!keeps(0), "nothing is known of it");
        nodes.reference(id(1, 0));
        assert!(!keeps(1), "there is no copy yet");
        assert!(keeps(2) && keeps(31));
        assert!(!keeps(32), "too old, and listed anew");
        assert!(keeps(33));
        assert!(nodes.changed_elsewhere(id(1, 0)).is_some());
        assert!(!keeps(34));
        assert!(keeps(35));
    }

    #[test]
    fn a_second_attempt_is_known_once_and_for_a_time() {
        let (nodes, start) = (Nodes::new(id(9, 9)), Instant::now());
        nodes.reference(id(1, 0));
        assert!(!nodes.is_second_attempt(id(1, 0), start));
        nodes.read_unanswered(id(1, 0), start);
        assert!(!nodes.is_second_attempt(id(2, 0), start), "of another file");
        assert!(nodes.is_second_attempt(id(1, 0), start));
        nodes.second_attempt_failed(id(1, 0));
        assert!(!nodes.is_second_attempt(id(1, 0), start), "the third asks the network");
        nodes.read_unanswered(id(1, 0), start);
        assert!(!nodes.is_second_attempt(id(1, 0), start + SECOND_ATTEMPT), "somebody else reads");
    }

    #[test]
    fn copies_are_kept_until_content_changes_elsewhere() {
        let nodes = Nodes::new(id(9, 9));
        let number = nodes.reference(id(1, 0));
        assert!(nodes.open_keeps_copies(id(1, 0)));
        assert_eq!(nodes.changed_elsewhere(id(1, 0)), Some(number));
        assert!(!nodes.open_keeps_copies(id(1, 0)));
        assert!(nodes.open_keeps_copies(id(1, 0)));
        assert_eq!(nodes.changed_elsewhere(id(2, 0)), None);
    }
}
