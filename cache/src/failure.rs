//! Uploads that failed, by file: told to whoever writes the file, and forgotten once they have passed.
//!
//! A failure is what waiting alone does not cure: a full bucket, missing rights, a refusal that does not end, a cache disk
//! that fails. A network that is away is none: what waits for it is simply pending. A failed upload is tried again for ever.

use crate::Error;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use strewn_engine::ids::InodeId;

/// Files whose upload fails at present.
#[derive(Debug, Default)]
pub(crate) struct Failures(HashMap<InodeId, Failed>);

#[derive(Debug)]
struct Failed {
    why: Error,
    /// Who was told.
    told: HashSet<Listener>,
}

/// Who hears of a failure once: an open file, and who closes it. Every fork and exec closes a copy of what is open, and must
/// not take the news away from the one that looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener {
    /// The open file.
    pub handle: u64,
    /// Whose close it is; `None`: fsync.
    pub closer: Option<u64>,
}

/// Most listeners remembered per file; beyond it all are told again.
const MOST_TOLD: usize = 1_024;

impl Failures {
    /// Notes that an upload of these inodes failed, if waiting alone does not cure it.
    pub(crate) fn note(&mut self, inodes: impl Iterator<Item = InodeId>, why: &Error) {
        if !is_failure(why) {
            return;
        }
        for inode in inodes {
            match self.0.entry(inode) {
                Entry::Occupied(mut failed) => failed.get_mut().why = why.clone(),
                Entry::Vacant(free) => drop(free.insert(Failed { why: why.clone(), told: HashSet::new() })),
            }
        }
    }

    /// These inodes are on the network.
    pub(crate) fn passed(&mut self, inodes: impl Iterator<Item = InodeId>) {
        for inode in inodes {
            self.0.remove(&inode);
        }
    }

    /// The network has everything.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Why the upload of an inode fails.
    pub(crate) fn why(&self, inode: InodeId) -> Option<&Error> {
        self.0.get(&inode).map(|failed| &failed.why)
    }

    /// The same, once for each listener.
    pub(crate) fn tell(&mut self, inode: InodeId, listener: Listener) -> Option<Error> {
        let failed = self.0.get_mut(&inode)?;
        if failed.told.len() >= MOST_TOLD {
            failed.told.clear();
        }
        failed.told.insert(listener).then(|| failed.why.clone())
    }

    /// An open file is closed: it needs no memory any more.
    pub(crate) fn release(&mut self, inode: InodeId, handle: u64) {
        if let Some(failed) = self.0.get_mut(&inode) {
            failed.told.retain(|listener| listener.handle != handle);
        }
    }

    /// Inodes whose upload fails.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn is_failure(error: &Error) -> bool {
    match error {
        Error::Network(network) => !network.is_transient(),
        Error::Closed => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strewn_engine::bucket;

    #[test]
    fn each_open_file_is_told_once_until_it_has_passed() {
        let (a, b) = (InodeId::from_bytes([1; 16]), InodeId::from_bytes([2; 16]));
        let mut failures = Failures::default();
        let full = Error::Network(bucket::Error::Quota(String::from("full")));
        failures.note([a].into_iter(), &full);
        failures.note([a].into_iter(), &full);
        let told = |failures: &mut Failures, inode, handle, closer| {
            failures.tell(inode, Listener { handle, closer }).is_some()
        };
        assert!(told(&mut failures, a, 1, None) && !told(&mut failures, a, 1, None) && told(&mut failures, a, 2, None));
        assert!(
            told(&mut failures, a, 1, Some(7))
                && !told(&mut failures, a, 1, Some(7))
                && told(&mut failures, a, 1, Some(8))
        );
        assert!(!told(&mut failures, b, 1, None));
        failures.release(a, 1);
        assert!(told(&mut failures, a, 1, None), "the number is another open file's");
        for closer in 0..2 * MOST_TOLD as u64 {
            assert!(told(&mut failures, a, 3, Some(closer)));
        }
        assert!(failures.0[&a].told.len() <= MOST_TOLD);
        failures.passed([a].into_iter());
        assert!(failures.why(a).is_none() && !told(&mut failures, a, 3, None));
        failures.note([a].into_iter(), &full);
        assert!(told(&mut failures, a, 2, None), "it failed again");
    }

    #[test]
    fn what_only_waits_has_not_failed() {
        let inode = InodeId::from_bytes([1; 16]);
        let mut failures = Failures::default();
        let away = bucket::Error::Unreachable(String::from("away"));
        failures.note([inode].into_iter(), &Error::Network(away));
        let few = bucket::Error::TooFewNodes { found: 1, needed: 2 };
        failures.note([inode].into_iter(), &Error::Network(few));
        assert_eq!(failures.len(), 0);
    }
}
