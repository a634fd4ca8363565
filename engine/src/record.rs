//! The inode record: what only key holders know of an inode.
//!
//! ```text
//! version = 1 (1) | postcard of (attributes, content, entries_as_of)
//! version = 2 (1) | the same                                         | allocated (varint)
//! ```
//! sealed by [`InodeKeys::seal_record`](crate::keys::InodeKeys::seal_record). A record that does not know what is allocated is
//! written as version 1.

use crate::bucket::{self, Kind, MAX_OFFSET, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Bytes>;

/// Longest name of an extended attribute in bytes.
pub const MAX_XATTR_NAME: usize = 255;
/// Longest value of an extended attribute in bytes (`XATTR_SIZE_MAX` of Linux).
pub const MAX_XATTR_VALUE: usize = 64 * 1024;
/// Most bytes of all names and values of an inode's extended attributes together: room for others beside the longest value.
pub const MAX_XATTR_BYTES: usize = 68 * 1024;
/// Most extended attributes of an inode.
pub const MAX_XATTRS: usize = 1024;
/// Longest target of a symlink in bytes.
pub const MAX_TARGET: usize = 4095;
/// Largest `mode`: permission bits, set-user-id, set-group-id and sticky.
pub const MAX_MODE: u32 = 0o7777;

/// Without `allocated`.
const VERSION_1: u8 = 1;
/// With it.
const VERSION_2: u8 = 2;
const NANOS: u32 = 1_000_000_000;

/// Attributes of an inode as `stat` and `getxattr` show them, without what the tree counts (nlink).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Kind; never changes.
    pub kind: Kind,
    /// Permission bits, `0..=0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes of a file; of the target of a symlink; else 0.
    pub size: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Device number of device nodes.
    pub rdev: u64,
    /// Target of a symlink, 1..=4095 bytes without NUL; else empty.
    pub target: Bytes,
    /// Extended attributes: at most [`MAX_XATTRS`], names 1..=255 bytes without NUL, values up to 64 KiB,
    /// 68 KiB in all with their names.
    pub xattrs: Arc<Xattrs>,
}

/// What an inode's key holder seals with it at each commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The attributes.
    pub attributes: Attributes,
    /// [`content_hash`](crate::content::window::content_hash) over the tags of the file's windows; of none for others.
    pub content: [u8; 32],
    /// Directories: the newest entry change that `attributes` already reflect. A later one overrides their times.
    pub entries_as_of: Timestamp,
    /// Files: bytes that are not in holes, at most the size; `None` where nobody counted them. `None` for others.
    pub allocated: Option<u64>,
}

/// A record or attributes outside of the bounds, or bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid inode record: {0}")]
pub struct InvalidRecord(pub &'static str);

impl Attributes {
    /// Checks all bounds; attributes that fail cannot be stored.
    pub fn check(&self) -> Result<(), InvalidRecord> {
        ensure(self.mode <= MAX_MODE, "mode")?;
        let times = [self.atime, self.mtime, self.ctime, self.btime];
        ensure(times.iter().all(|time| time.nanos < NANOS), "nanoseconds")?;
        match self.kind {
            Kind::Symlink => {
                ensure((1..=MAX_TARGET).contains(&self.target.len()), "length of the target")?;
                ensure(!self.target.contains(&0), "NUL in the target")?;
                ensure(self.size == self.target.len() as u64, "size of a symlink")?;
            }
            Kind::File => {
                ensure(self.target.is_empty(), "target of a file")?;
                ensure(self.size <= MAX_OFFSET, "size")?;
            }
            _ => {
                ensure(self.target.is_empty(), "target of what is no symlink")?;
                ensure(self.size == 0, "size of what is no file")?;
            }
        }
        check_xattrs(&self.xattrs)
    }
}

/// Checks names, number and total size of extended attributes.
pub fn check_xattrs(xattrs: &Xattrs) -> Result<(), InvalidRecord> {
    ensure(xattrs.len() <= MAX_XATTRS, "number of extended attributes")?;
    let mut total = 0usize;
    for (name, value) in xattrs {
        ensure((1..=MAX_XATTR_NAME).contains(&name.len()), "length of an extended attribute's name")?;
        ensure(!name.contains(&0), "NUL in an extended attribute's name")?;
        ensure(value.len() <= MAX_XATTR_VALUE, "length of an extended attribute's value")?;
        total = total.saturating_add(name.len()).saturating_add(value.len());
    }
    ensure(total <= MAX_XATTR_BYTES, "bytes of extended attributes")
}

impl Record {
    /// Checks all bounds; a record that fails cannot be stored.
    pub fn check(&self) -> Result<(), InvalidRecord> {
        ensure(self.entries_as_of.nanos < NANOS, "nanoseconds")?;
        self.attributes.check()?;
        let Some(allocated) = self.allocated else { return Ok(()) };
        ensure(self.attributes.kind == Kind::File, "allocated bytes of what is no file")?;
        ensure(allocated <= self.attributes.size, "more allocated than the size")
    }

    /// The attributes to show. Entry changes of a directory touch no sealed record, so its times come from the row's clear
    /// change time where that is newer than what the record reflects. A ctime never goes back.
    pub fn effective(&self, row: &bucket::Inode) -> Attributes {
        let mut attributes = self.attributes.clone();
        // Clear, so anybody's: a malformed one must not reach the kernel.
        let changed = Timestamp { nanos: row.entries_changed.nanos.min(NANOS - 1), ..row.entries_changed };
        if attributes.kind == Kind::Directory && changed > self.entries_as_of {
            attributes.mtime = changed;
            attributes.ctime = attributes.ctime.max(changed);
        }
        attributes
    }

    /// The plaintext that is sealed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let version = if self.allocated.is_some() { VERSION_2 } else { VERSION_1 };
        let fields = (&self.attributes, &self.content, &self.entries_as_of);
        let bytes = postcard::to_extend(&fields, vec![version]).expect("plain structs encode");
        match self.allocated {
            Some(allocated) => postcard::to_extend(&allocated, bytes).expect("numbers encode"),
            None => bytes,
        }
    }

    /// Reads what was sealed, with all bounds checked.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        let Some((&version @ (VERSION_1 | VERSION_2), body)) = bytes.split_first() else {
            return Err(InvalidRecord("version"));
        };
        let ((attributes, content, entries_as_of), rest) = take(body)?;
        let (allocated, rest) = match version {
            VERSION_1 => (None, rest),
            _ => take(rest).map(|(allocated, rest)| (Some(allocated), rest))?,
        };
        ensure(rest.is_empty(), "trailing bytes")?;
        let record = Self { attributes, content, entries_as_of, allocated };
        record.check()?;
        Ok(record)
    }
}

/// A value from the front of bytes, and the rest.
fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), InvalidRecord> {
    postcard::take_from_bytes(bytes).map_err(|_| InvalidRecord("encoding"))
}

fn ensure(holds: bool, what: &'static str) -> Result<(), InvalidRecord> {
    holds.then_some(()).ok_or(InvalidRecord(what))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bucket::{Inode, Sealed};
    use crate::ids::InodeId;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0..NANOS).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
    }

    fn kind_and_size() -> impl Strategy<Value = (Kind, u64, Bytes)> {
        let target = prop::collection::vec(1u8.., 1..=100);
        prop_oneof![
            (0..=MAX_OFFSET).prop_map(|size| (Kind::File, size, Bytes::new())),
            target.prop_map(|target| (Kind::Symlink, target.len() as u64, target.into())),
            prop::sample::select(vec![Kind::Directory, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice])
                .prop_map(|kind| (kind, 0, Bytes::new())),
        ]
    }

    /// Any valid record.
    pub(crate) fn record() -> impl Strategy<Value = Record> {
        let xattr = (prop::collection::vec(1u8.., 1..20), prop::collection::vec(any::<u8>(), 0..100));
        let xattrs = prop::collection::btree_map(xattr.0, xattr.1.prop_map(Bytes::from), 0..5).prop_map(Arc::new);
        let owner = (0..=MAX_MODE, any::<u32>(), any::<u32>(), any::<u64>());
        let times = [time(), time(), time(), time(), time()];
        let content = (any::<[u8; 32]>(), any::<Option<u64>>());
        (kind_and_size(), owner, times, xattrs, content).prop_map(|(what, owner, times, xattrs, content)| {
            let (kind, size, target) = what;
            let (content, allocated) = content;
            let allocated = allocated.filter(|_| kind == Kind::File).map(|bytes| bytes.min(size));
            let (mode, uid, gid, rdev) = owner;
            let [atime, mtime, ctime, btime, entries_as_of] = times;
            let attributes =
                Attributes { kind, mode, uid, gid, size, atime, mtime, ctime, btime, rdev, target, xattrs };
            Record { attributes, content, entries_as_of, allocated }
        })
    }

    /// A small record of the given kind.
    pub(crate) fn plain(kind: Kind) -> Record {
        let target = if kind == Kind::Symlink { Bytes::from_static(b"target") } else { Bytes::new() };
        let time = |seconds| Timestamp { seconds, nanos: 5 };
        let attributes = Attributes {
            kind,
            mode: 0o644,
            uid: 1000,
            gid: 100,
            size: target.len() as u64,
            atime: time(1),
            mtime: time(2),
            ctime: time(3),
            btime: time(0),
            rdev: 0,
            target,
            xattrs: Arc::default(),
        };
        Record { attributes, content: [7; 32], entries_as_of: time(2), allocated: None }
    }

    proptest! {
        #[test]
        fn records_come_back(record in record()) {
            prop_assert_eq!(record.check(), Ok(()));
            prop_assert_eq!(Record::parse(&record.encode()), Ok(record));
        }

        #[test]
        fn parsing_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..=VERSION_2) {
            if let (true, Some(first)) = (version > 0, bytes.first_mut()) {
                *first = version;
            }
            if let Ok(record) = Record::parse(&bytes) {
                prop_assert_eq!(record.check(), Ok(()));
            }
        }

        #[test]
        fn cut_or_lengthened_records_are_refused(record in record(), cut in any::<prop::sample::Index>()) {
            let mut bytes = record.encode();
            prop_assert!(Record::parse(&bytes[..cut.index(bytes.len())]).is_err());
            bytes.push(0);
            prop_assert!(Record::parse(&bytes).is_err());
        }
    }

    #[test]
    fn bounds_are_checked() {
        let nanos = Timestamp { seconds: 0, nanos: NANOS };
        let xattrs = |name: usize, value: usize, count: u32| {
            let name = |n: u32| format!("{n:n>name$}").into_bytes();
            Arc::new((0..count).map(|n| (name(n), Bytes::from(vec![0; value]))).collect::<Xattrs>())
        };
        let link = Bytes::from(vec![b'x'; MAX_TARGET]);
        type Change<'a> = &'a dyn Fn(&mut Attributes);
        let good: [(Kind, Change<'_>); 7] = [
            (Kind::File, &|a| a.mode = 0o7777),
            (Kind::File, &|a| a.size = MAX_OFFSET),
            (Kind::File, &|a| a.xattrs = xattrs(255, MAX_XATTR_VALUE, 1)),
            (Kind::File, &|a| a.xattrs = xattrs(255, MAX_XATTR_BYTES / 2 - 255, 2)),
            (Kind::Directory, &|a| a.xattrs = xattrs(4, 0, 1024)),
            (Kind::File, &|a| a.mtime.nanos = NANOS - 1),
            (Kind::Symlink, &|a| (a.target, a.size) = (link.clone(), MAX_TARGET as u64)),
        ];
        let bad: [(Kind, Change<'_>); 16] = [
            (Kind::File, &|a| a.mode = 0o10000),
            (Kind::File, &|a| a.size = MAX_OFFSET + 1),
            (Kind::Directory, &|a| a.size = 1),
            (Kind::Symlink, &|a| a.size = 1),
            (Kind::File, &|a| a.target = Bytes::from_static(b"x")),
            (Kind::Fifo, &|a| a.target = Bytes::from_static(b"x")),
            (Kind::Symlink, &|a| (a.target, a.size) = (Bytes::new(), 0)),
            (Kind::Symlink, &|a| (a.target, a.size) = (Bytes::from_static(b"a\0"), 2)),
            (Kind::Symlink, &|a| (a.target, a.size) = (Bytes::from(vec![b'x'; 4096]), 4096)),
            (Kind::File, &|a| a.atime = nanos),
            (Kind::File, &|a| a.btime = nanos),
            (Kind::File, &|a| a.xattrs = xattrs(256, 0, 1)),
            (Kind::File, &|a| a.xattrs = xattrs(255, MAX_XATTR_VALUE + 1, 1)),
            (Kind::File, &|a| a.xattrs = xattrs(255, MAX_XATTR_BYTES / 2 - 254, 2)),
            (Kind::File, &|a| a.xattrs = xattrs(4, 0, 1025)),
            (Kind::File, &|a| a.xattrs = Arc::new(Xattrs::from([(Vec::new(), Bytes::new())]))),
        ];
        let checked = |kind, change: Change<'_>| {
            let mut record = plain(kind);
            change(&mut record.attributes);
            record.check().and_then(|()| Record::parse(&record.encode())).is_ok()
        };
        for (number, (kind, change)) in good.into_iter().enumerate() {
            assert!(checked(kind, change), "good {number}");
        }
        for (number, (kind, change)) in bad.into_iter().enumerate() {
            assert!(!checked(kind, change), "bad {number}");
        }
        assert!(Record { entries_as_of: nanos, ..plain(Kind::Directory) }.check().is_err());
        let mut file = plain(Kind::File);
        file.attributes.size = 10;
        for (kind, allocated, good) in [(Kind::File, 10, true), (Kind::File, 11, false), (Kind::Directory, 0, false)] {
            let base = if kind == Kind::File { file.clone() } else { plain(kind) };
            assert_eq!(Record { allocated: Some(allocated), ..base }.check().is_ok(), good, "{kind:?} {allocated}");
        }
        let named = Xattrs::from([(b"a\0b".to_vec(), Bytes::new())]);
        assert!(check_xattrs(&named).is_err());
    }

    #[test]
    fn the_largest_record_fits_its_row() {
        let mut record = plain(Kind::Symlink);
        record.attributes.target = vec![b'x'; MAX_TARGET].into();
        record.attributes.size = MAX_TARGET as u64;
        let each = MAX_XATTR_BYTES / MAX_XATTRS;
        let name = |n: u32| format!("{n:04}").into_bytes();
        let xattrs: Xattrs = (0..MAX_XATTRS as u32).map(|n| (name(n), vec![0; each - 4].into())).collect();
        record.attributes.xattrs = Arc::new(xattrs);
        let extreme = Timestamp { seconds: i64::MIN, nanos: NANOS - 1 };
        record.attributes.mtime = extreme;
        assert_eq!(record.check(), Ok(()));
        assert!(record.encode().len() + 16 <= Sealed::MAX_RECORD);
    }

    fn row(kind: Kind, entries_changed: Timestamp) -> Inode {
        let inode = InodeId::from_bytes([1; 16]);
        let record = Sealed { generation: 0, bytes: Bytes::new() };
        Inode { inode, kind, version: 1, nlink: 2, size: 0, record, changed: Timestamp::default(), entries_changed }
    }

    #[test]
    fn a_directory_shows_the_newer_of_record_and_row() {
        let record = plain(Kind::Directory);
        let at = |seconds| Timestamp { seconds, nanos: 5 };
        let times = |changed| {
            let shown = record.effective(&row(Kind::Directory, changed));
            (shown.mtime, shown.ctime)
        };
        let sealed = (at(2), at(3));
        assert_eq!(times(Timestamp::default()), sealed);
        assert_eq!(times(record.entries_as_of), sealed, "what the record reflects changes nothing");
        assert_eq!(times(at(9)), (at(9), at(9)));
        let between = Timestamp { seconds: 2, nanos: 6 };
        assert_eq!(times(between), (between, at(3)), "ctime never goes back");
        let malformed = Timestamp { seconds: 9, nanos: u32::MAX };
        assert_eq!(times(malformed).0, Timestamp { seconds: 9, nanos: NANOS - 1 });
        let file = plain(Kind::File);
        assert_eq!(file.effective(&row(Kind::File, at(9))), file.attributes);
    }
}
