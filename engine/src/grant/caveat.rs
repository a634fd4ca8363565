//! Caveats: what a key may not do, and what all caveats of a key leave allowed.
//!
//! ```text
//! kind = 1 (1) | postcard of Caveat
//! ```
//! Other kinds may come; whoever does not know a caveat refuses the key.

use super::{MAX_CAVEAT_BYTES, MAX_SUBTREES};
use crate::bucket::Timestamp;
use crate::ids::{BucketId, InodeId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const KIND: u8 = 1;
const NANOS: u32 = 1_000_000_000;

/// What may be done with a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Content and single entries by name.
    Read,
    /// New entries and content.
    Write,
    /// Entries of a directory, buckets.
    List,
    /// Removing entries; with write: changing what exists.
    Delete,
}

/// A set of actions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Actions {
    pub read: bool,
    pub write: bool,
    pub list: bool,
    pub delete: bool,
}

impl Actions {
    /// Every action.
    pub const ALL: Self = Self { read: true, write: true, list: true, delete: true };
    /// No action.
    pub const NONE: Self = Self { read: false, write: false, list: false, delete: false };
    /// What changes things: disallow it for a read-only grant.
    pub const CHANGES: Self = Self { write: true, delete: true, ..Self::NONE };

    /// True if the set holds `action`.
    pub const fn contains(self, action: Action) -> bool {
        match action {
            Action::Read => self.read,
            Action::Write => self.write,
            Action::List => self.list,
            Action::Delete => self.delete,
        }
    }

    /// What is in this set and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self {
            read: self.read && !other.read,
            write: self.write && !other.write,
            list: self.list && !other.list,
            delete: self.delete && !other.delete,
        }
    }
}

/// An inode of a bucket and everything below it. A bucket's root inode stands for the whole bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subtree {
    /// The bucket.
    pub bucket: BucketId,
    /// The topmost inode.
    pub inode: InodeId,
}

/// One restriction of an API key. The default restricts nothing; caveats of a key intersect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caveat {
    /// What may not be done.
    pub disallow: Actions,
    /// Only within these, at most [`MAX_SUBTREES`]; `None`: anywhere.
    pub subtrees: Option<Vec<Subtree>>,
    /// Not before this moment.
    pub not_before: Option<Timestamp>,
    /// Not at or after this moment.
    pub not_after: Option<Timestamp>,
    /// What is written must expire after at most this long.
    pub max_ttl: Option<Duration>,
    /// Makes two restrictions differ that are otherwise equal, so that one can be revoked without the other.
    pub nonce: Option<[u8; 16]>,
}

/// A caveat that cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid caveat: {0}")]
pub struct InvalidCaveat(pub &'static str);

impl Caveat {
    pub(super) fn encode(&self) -> Result<Vec<u8>, InvalidCaveat> {
        self.check()?;
        let bytes = postcard::to_extend(self, vec![KIND]).expect("plain structs encode");
        (bytes.len() <= MAX_CAVEAT_BYTES).then_some(bytes).ok_or(InvalidCaveat("too long"))
    }

    /// `None` for what this software does not know or does not accept.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (&KIND, body) = bytes.split_first()? else { return None };
        let (caveat, rest) = postcard::take_from_bytes::<Self>(body).ok()?;
        (rest.is_empty() && caveat.check().is_ok()).then_some(caveat)
    }

    fn check(&self) -> Result<(), InvalidCaveat> {
        if self.subtrees.as_ref().is_some_and(|subtrees| subtrees.len() > MAX_SUBTREES) {
            return Err(InvalidCaveat("too many subtrees"));
        }
        let mut times = self.not_before.iter().chain(&self.not_after);
        if times.any(|time| time.nanos >= NANOS) {
            return Err(InvalidCaveat("nanoseconds"));
        }
        Ok(())
    }
}

/// Why a key allows nothing at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It holds a caveat of a kind that this software does not know.
    #[error("the grant has a restriction that is not understood")]
    UnknownCaveat,
    /// Its time has not come.
    #[error("the grant is not valid yet")]
    TooEarly,
    /// Its time is over.
    #[error("the grant has expired")]
    Expired,
}

/// What the caveats of a key leave allowed at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// What may be done.
    pub actions: Actions,
    /// For each caveat that names subtrees, its list: what is touched must lie within one of each list.
    pub subtrees: Vec<Vec<Subtree>>,
    /// What is written must expire after at most this long.
    pub max_ttl: Option<Duration>,
    /// The key ends at this moment.
    pub not_after: Option<Timestamp>,
}

impl Permissions {
    /// Without any caveat.
    pub const UNRESTRICTED: Self = Self { actions: Actions::ALL, subtrees: Vec::new(), max_ttl: None, not_after: None };

    /// Adds a caveat at the moment `now`.
    pub(super) fn restrict(&mut self, caveat: Caveat, now: Timestamp) -> Result<(), Denied> {
        if caveat.not_before.is_some_and(|from| now < from) {
            return Err(Denied::TooEarly);
        }
        if caveat.not_after.is_some_and(|end| now >= end) {
            return Err(Denied::Expired);
        }
        self.actions = self.actions.without(caveat.disallow);
        self.subtrees.extend(caveat.subtrees);
        self.max_ttl = earliest(self.max_ttl, caveat.max_ttl);
        self.not_after = earliest(self.not_after, caveat.not_after);
        Ok(())
    }

    /// True if `action` is allowed somewhere.
    pub fn allows(&self, action: Action) -> bool {
        self.actions.contains(action)
    }

    /// True if no caveat names subtrees.
    pub fn is_everywhere(&self) -> bool {
        self.subtrees.is_empty()
    }

    /// True if the bucket itself may be seen (opened, named in a listing): something in it is within every list.
    pub fn sees_bucket(&self, bucket: BucketId) -> bool {
        self.subtrees.iter().all(|list| list.iter().any(|subtree| subtree.bucket == bucket))
    }

    /// True if an inode is within every list. `line` is the inode and all directories above it up to the bucket's root, in
    /// any order.
    pub fn covers(&self, bucket: BucketId, line: &[InodeId]) -> bool {
        self.subtrees
            .iter()
            .all(|list| list.iter().any(|subtree| subtree.bucket == bucket && line.contains(&subtree.inode)))
    }
}

fn earliest<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn actions() -> impl Strategy<Value = Actions> {
        any::<[bool; 4]>().prop_map(|[read, write, list, delete]| Actions { read, write, list, delete })
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0..NANOS).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
    }

    fn subtree() -> impl Strategy<Value = Subtree> {
        // Few values, so that they meet.
        (0u8..3, 0u8..5).prop_map(|(bucket, inode)| of(bucket, inode))
    }

    fn of(bucket: u8, inode: u8) -> Subtree {
        Subtree { bucket: BucketId::from_bytes([bucket; 16]), inode: InodeId::from_bytes([inode; 16]) }
    }

    /// Any valid caveat.
    pub(in crate::grant) fn caveat() -> impl Strategy<Value = Caveat> {
        let subtrees = prop::option::of(prop::collection::vec(subtree(), 0..4));
        let ttl = prop::option::of((any::<u64>(), 0..NANOS).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)));
        (actions(), subtrees, prop::option::of(time()), prop::option::of(time()), ttl, any::<Option<[u8; 16]>>())
            .prop_map(|(disallow, subtrees, not_before, not_after, max_ttl, nonce)| Caveat {
                disallow,
                subtrees,
                not_before,
                not_after,
                max_ttl,
                nonce,
            })
    }

    fn all(caveats: &[Caveat], now: Timestamp) -> Result<Permissions, Denied> {
        let mut permissions = Permissions::UNRESTRICTED;
        caveats.iter().try_for_each(|caveat| permissions.restrict(caveat.clone(), now))?;
        Ok(permissions)
    }

    proptest! {
        #[test]
        fn caveats_come_back(caveat in caveat()) {
            prop_assert_eq!(Caveat::parse(&caveat.encode().unwrap()), Some(caveat));
        }

        #[test]
        fn parsing_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), known in any::<bool>()) {
            if let (true, Some(first)) = (known, bytes.first_mut()) {
                *first = KIND;
            }
            if let Some(caveat) = Caveat::parse(&bytes) {
                prop_assert!(caveat.encode().is_ok());
            }
        }

        #[test]
        fn more_caveats_never_allow_more(
            caveats in prop::collection::vec(caveat(), 0..4), more in caveat(), now in time(),
            bucket in 0u8..3, line in prop::collection::vec(0u8..5, 0..4),
        ) {
            let fewer = all(&caveats, now);
            let with: Vec<_> = caveats.iter().cloned().chain([more.clone()]).collect();
            let (Ok(fewer), Ok(with)) = (fewer.clone(), all(&with, now)) else {
                // What was denied stays denied.
                prop_assert!(fewer.is_ok() || all(&with, now).is_err());
                return Ok(());
            };
            for action in [Action::Read, Action::Write, Action::List, Action::Delete] {
                let allowed = fewer.allows(action) && !more.disallow.contains(action);
                prop_assert_eq!(with.allows(action), allowed);
            }
            let bucket = BucketId::from_bytes([bucket; 16]);
            let line: Vec<_> = line.into_iter().map(|inode| InodeId::from_bytes([inode; 16])).collect();
            prop_assert!(fewer.covers(bucket, &line) || !with.covers(bucket, &line));
            prop_assert!(fewer.sees_bucket(bucket) || !with.sees_bucket(bucket));
            prop_assert!(with.sees_bucket(bucket) || !with.covers(bucket, &line));
            prop_assert!(with.max_ttl.is_none_or(|ttl| more.max_ttl.is_none_or(|more| ttl <= more)));
            prop_assert!(fewer.max_ttl.is_none() || with.max_ttl.is_some_and(|ttl| ttl <= fewer.max_ttl.unwrap()));
        }
    }

    #[test]
    fn every_list_of_subtrees_must_be_satisfied() {
        let within = |subtrees: &[Subtree]| Caveat { subtrees: Some(subtrees.to_vec()), ..Caveat::default() };
        let permissions =
            all(&[within(&[of(1, 1), of(2, 1)]), within(&[of(1, 2), of(2, 3)])], Timestamp::default()).unwrap();
        let id = |inode: u8| InodeId::from_bytes([inode; 16]);
        let bucket = |bucket: u8| BucketId::from_bytes([bucket; 16]);
        assert!(permissions.covers(bucket(1), &[id(4), id(2), id(1), id(0)]));
        assert!(!permissions.covers(bucket(1), &[id(4), id(1), id(0)]), "only the first list");
        assert!(!permissions.covers(bucket(1), &[id(4), id(2), id(0)]), "only the second list");
        assert!(!permissions.covers(bucket(1), &[id(4), id(3), id(1)]), "the second list, of another bucket");
        assert!(!permissions.covers(bucket(3), &[id(2), id(1)]));
        assert!(permissions.sees_bucket(bucket(1)) && permissions.sees_bucket(bucket(2)));
        assert!(!permissions.sees_bucket(bucket(3)));
        let nothing = all(&[within(&[])], Timestamp::default()).unwrap();
        assert!(!nothing.is_everywhere() && !nothing.sees_bucket(bucket(1)) && !nothing.covers(bucket(1), &[id(1)]));
        let everything = all(&[Caveat::default()], Timestamp::default()).unwrap();
        assert_eq!(everything, Permissions::UNRESTRICTED);
        assert!(everything.is_everywhere() && everything.covers(bucket(9), &[]));
    }

    #[test]
    fn times_bound_a_key() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        let caveat = Caveat { not_before: Some(at(10)), not_after: Some(at(20)), ..Caveat::default() };
        let check = |now| all(std::slice::from_ref(&caveat), now).map(|permissions| permissions.not_after);
        assert_eq!(check(Timestamp { seconds: 9, nanos: NANOS - 1 }), Err(Denied::TooEarly));
        assert_eq!(check(at(10)), Ok(Some(at(20))));
        assert_eq!(check(Timestamp { seconds: 19, nanos: NANOS - 1 }), Ok(Some(at(20))));
        assert_eq!(check(at(20)), Err(Denied::Expired));
    }

    #[test]
    fn what_cannot_be_read_again_cannot_be_added() {
        let subtrees = |count| Caveat { subtrees: Some(vec![of(1, 1); count]), ..Caveat::default() };
        let longest = subtrees(MAX_SUBTREES).encode().unwrap();
        assert!(longest.len() <= MAX_CAVEAT_BYTES && Caveat::parse(&longest).is_some());
        assert!(subtrees(MAX_SUBTREES + 1).encode().is_err());
        let time = Some(Timestamp { seconds: 0, nanos: NANOS });
        assert!(Caveat { not_after: time, ..Caveat::default() }.encode().is_err());
        assert!(Caveat { not_before: time, ..Caveat::default() }.encode().is_err());
        let mut unknown = Caveat::default().encode().unwrap();
        unknown[0] = 2;
        assert_eq!(Caveat::parse(&unknown), None);
        unknown[0] = KIND;
        unknown.push(0);
        assert_eq!(Caveat::parse(&unknown), None, "trailing bytes");
    }
}
