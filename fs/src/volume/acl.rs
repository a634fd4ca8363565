//! POSIX access control lists: what they make of modes. The kernel enforces them (`FUSE_POSIX_ACL`); the drive keeps them,
//! holds them and the mode together, and lets what is made in a directory inherit its default list.
//!
//! A list is kept as an extended attribute in the form the kernel's interface has it (linux/posix_acl_xattr.h), little
//! endian:
//!
//! ```text
//! +---------------+  +-----------+------------------+--------------+
//! | version u32=2 |  | tag  u16  | permissions u16  | id       u32 |  ...
//! +---------------+  +-----------+------------------+--------------+
//! ```
//!
//! The rules are those of acl(5) and of POSIX.1e draft 17, which Linux follows.

use bytes::Bytes;
use std::sync::Arc;
use strewn_engine::bucket::Kind;
use strewn_engine::record::{Attributes, Xattrs};

/// The attribute that holds the list which says who may do what.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory that holds the list which new files in it begin with.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The only version there is.
const VERSION: u32 = 2;
/// Bytes of the version.
const HEADER: usize = 4;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// Permissions of an entry: read, write, execute.
const ALL: u16 = 0o7;
/// Stands where an entry has no id.
const NO_ID: u32 = u32::MAX;

/// Whom an entry is for. The order is that of the entries in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    /// Bounds what users, the owning group and groups get.
    Mask,
    Other,
}

impl Tag {
    fn parse(tag: u16, id: u32) -> Option<Self> {
        Some(match tag {
            0x01 => Self::Owner,
            0x02 => Self::User(id),
            0x04 => Self::OwningGroup,
            0x08 => Self::Group(id),
            0x10 => Self::Mask,
            0x20 => Self::Other,
            _ => return None,
        })
    }

    fn to_parts(self) -> (u16, u32) {
        match self {
            Self::Owner => (0x01, NO_ID),
            Self::User(id) => (0x02, id),
            Self::OwningGroup => (0x04, NO_ID),
            Self::Group(id) => (0x08, id),
            Self::Mask => (0x10, NO_ID),
            Self::Other => (0x20, NO_ID),
        }
    }
}

/// A valid list: exactly one entry each for owner, owning group and others; at most one for every user and group, and with
/// any of those exactly one mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acl(Vec<(Tag, u16)>);

impl Acl {
    /// Parses a list. `None` if it is not valid.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, entries) = bytes.split_first_chunk::<HEADER>()?;
        let (entries, rest) = entries.as_chunks::<ENTRY>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return None;
        }
        let mut list = Vec::with_capacity(entries.len());
        for [t0, t1, p0, p1, id @ ..] in entries {
            let permissions = u16::from_le_bytes([*p0, *p1]);
            if permissions & !ALL != 0 {
                return None;
            }
            list.push((Tag::parse(u16::from_le_bytes([*t0, *t1]), u32::from_le_bytes(*id))?, permissions));
        }
        list.sort_unstable();
        let list = Self(list);
        list.is_valid().then_some(list)
    }

    /// The list in the form of the kernel's interface.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEADER + ENTRY * self.0.len());
        bytes.extend(VERSION.to_le_bytes());
        for (tag, permissions) in &self.0 {
            let (tag, id) = tag.to_parts();
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes.into()
    }

    /// The permission bits that say the same as far as three classes can: the group's are the mask's if there is one.
    pub(crate) fn mode(&self) -> u32 {
        let [owner, group, other] = self.classes().map(|at| u32::from(self.0[at].1));
        owner << 6 | group << 3 | other
    }

    /// True if the permission bits say all that it says.
    pub(crate) fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// The list after chmod.
    pub(crate) fn with_mode(mut self, mode: u32) -> Self {
        for (at, shift) in self.classes().into_iter().zip([6, 3, 0]) {
            self.0[at].1 = (mode >> shift) as u16 & ALL;
        }
        self
    }

    /// Where the entries for the three classes of a mode are; valid lists have them.
    fn classes(&self) -> [usize; 3] {
        let find = |tag| self.0.iter().position(|(found, _)| *found == tag);
        let group = find(Tag::Mask).or_else(|| find(Tag::OwningGroup));
        [find(Tag::Owner), group, find(Tag::Other)].map(|at| at.unwrap_or_default())
    }

    fn is_valid(&self) -> bool {
        let count = |wanted: fn(&Tag) -> bool| self.0.iter().filter(|(tag, _)| wanted(tag)).count();
        let named = count(|tag| matches!(tag, Tag::User(_) | Tag::Group(_)));
        let masks = count(|tag| matches!(tag, Tag::Mask));
        let twice = self.0.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let has = |tag| self.0.iter().any(|(found, _)| *found == tag);
        let no_id = self.0.iter().any(|(tag, _)| matches!(tag, Tag::User(NO_ID) | Tag::Group(NO_ID)));
        let classes = has(Tag::Owner) && has(Tag::OwningGroup) && has(Tag::Other);
        classes && !twice && !no_id && (named == 0 || masks == 1)
    }
}

/// Gives a file or directory the list that says who may do what, and the mode that goes with it; a list that says no more than
/// a mode is not kept. `None` takes the list away and leaves the mode.
pub(crate) fn set_access(attributes: &mut Attributes, acl: Option<&Acl>) {
    if let Some(acl) = acl {
        attributes.mode = attributes.mode & !0o777 | acl.mode();
    }
    put(attributes, ACCESS, acl.filter(|acl| !acl.is_mode()));
}

/// Gives a directory the list that what is made in it begins with, or takes it away.
pub(crate) fn set_default(attributes: &mut Attributes, acl: Option<&Acl>) {
    put(attributes, DEFAULT, acl);
}

/// Lets the list follow a mode that was set.
pub(crate) fn follow_mode(attributes: &mut Attributes) {
    if let Some(acl) = attributes.xattrs.get(ACCESS).and_then(|bytes| Acl::parse(bytes)) {
        let acl = acl.with_mode(attributes.mode);
        put(attributes, ACCESS, Some(&acl));
    }
}

/// Mode and lists of what is made in `parent` with a mode: the default list bounded by the mode, or without one the mode
/// bounded by the umask. Symbolic links have neither.
pub(crate) fn inherit(parent: &Attributes, kind: Kind, mode: u32, umask: u32) -> (u32, Arc<Xattrs>) {
    if kind == Kind::Symlink {
        return (mode, Arc::default());
    }
    let Some(default) = parent.xattrs.get(DEFAULT).and_then(|bytes| Acl::parse(bytes)) else {
        return (mode & !umask, Arc::default());
    };
    let access = default.clone().with_mode(default.mode() & mode);
    let mut xattrs = Xattrs::default();
    if !access.is_mode() {
        xattrs.insert(ACCESS.to_vec(), access.to_bytes());
    }
    if kind == Kind::Directory {
        xattrs.insert(DEFAULT.to_vec(), default.to_bytes());
    }
    (mode & !0o777 | access.mode(), Arc::new(xattrs))
}

fn put(attributes: &mut Attributes, name: &[u8], acl: Option<&Acl>) {
    match acl {
        Some(acl) => _ = Arc::make_mut(&mut attributes.xattrs).insert(name.to_vec(), acl.to_bytes()),
        None if !attributes.xattrs.contains_key(name) => {}
        None => _ = Arc::make_mut(&mut attributes.xattrs).remove(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// `u::rwx,u:1000:rw-,g::r-x,m::rw-,o::r--`, as setfacl(1) of a Debian machine wrote it.
    const SETFACL: [u8; 44] = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 6,
        0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];

    #[test]
    fn a_list_of_setfacl() {
        let acl = Acl::parse(&SETFACL).unwrap();
        assert_eq!(acl.to_bytes(), &SETFACL[..]);
        assert_eq!((acl.mode(), acl.is_mode()), (0o764, false));
        // chmod g-w moves the mask and leaves the group's own entry.
        let acl = acl.with_mode(0o744);
        assert_eq!((acl.mode(), &acl.to_bytes()[20..24]), (0o744, &[4, 0, 5, 0][..]));
    }

    #[test]
    fn lists_that_are_not_valid() {
        let base = [(0x01, 7, NO_ID), (0x04, 5, NO_ID), (0x20, 4, NO_ID)];
        assert!(Acl::parse(&list(&base)).unwrap().is_mode());
        let with = |more: &[(u16, u16, u32)]| Acl::parse(&list(&[&base[..], more].concat()));
        assert!(with(&[(0x10, 7, NO_ID)]).is_some(), "a mask alone");
        assert!(with(&[(0x02, 7, 1)]).is_none(), "a user without a mask");
        assert!(with(&[(0x02, 7, 1), (0x02, 6, 1), (0x10, 7, NO_ID)]).is_none(), "a user twice");
        assert!(with(&[(0x08, 7, NO_ID), (0x10, 7, NO_ID)]).is_none(), "a group without an id");
        assert!(with(&[(0x20, 7, NO_ID)]).is_none(), "others twice");
        assert!(with(&[(0x40, 7, NO_ID)]).is_none(), "an unknown tag");
        assert!(Acl::parse(&list(&base[..2])).is_none(), "nothing for others");
        assert!(Acl::parse(&list(&[(0x01, 8, NO_ID), base[1], base[2]])).is_none(), "an unknown permission");
        assert!(Acl::parse(&SETFACL[..43]).is_none() && Acl::parse(&[]).is_none(), "cut");
        let mut version = SETFACL;
        version[0] = 1;
        assert!(Acl::parse(&version).is_none(), "another version");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(acl) = Acl::parse(&bytes) {
                prop_assert_eq!(Acl::parse(&acl.to_bytes()), Some(acl));
            }
        }

        #[test]
        fn a_list_follows_the_mode(mode in 0u32..0o1000) {
            let acl = Acl::parse(&SETFACL).unwrap().with_mode(mode);
            prop_assert_eq!(acl.mode(), mode);
            prop_assert!(!acl.is_mode());
        }
    }
}
