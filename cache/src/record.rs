//! What the journal holds: changes of the tree, encoded.
//!
//! ```text
//! record    version byte (1), then postcard: Vec<Mutation>
//! Mutation  variant number (varint), then its fields in the order declared here
//! ```
//! A record is applied whole or not at all. Variants and fields are only ever added at the end, under a new version byte if
//! an old reader would misread them. [`decode`] takes any bytes and answers with a typed error.
//!
//! The journal knows only what differs from the network. A node of the network's is brought in by [`Mutation::Adopt`] in
//! the first record that touches it since the journal began, so that replay needs nothing but the journal.

use crate::Name;
use crate::content::Digest;
use crate::tree::{Conflict, LastSeen};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::ids::{InodeId, MountId};
use strewn_engine::record::Attributes;
use strewn_engine::secret::Key;

/// Version of the encoding.
pub(crate) const VERSION: u8 = 1;

/// One step of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Mutation {
    /// A node of the network's that the journal refers to from here on.
    Adopt(Box<Adopt>),
    /// A new inode without a name.
    Create { inode: InodeId, key: SecretBytes, attributes: Box<Attributes> },
    /// New attributes; `soft` ones wait for another reason to go to the network.
    Attributes { inode: InodeId, soft: bool, attributes: Box<Attributes> },
    /// New times alone.
    Times { inode: InodeId, soft: bool, times: Times },
    /// A name comes to name something else.
    Entry { directory: InodeId, name: Name, previous: Option<InodeId>, child: Option<InodeId> },
    /// A new size. `anew`: nothing of the content before stays, and its data file is given up.
    Resize { inode: InodeId, size: u64, anew: bool },
    /// A hole.
    Punch { inode: InodeId, offset: u64, length: u64 },
    /// Bytes, in the record or in the data file.
    Write(Write),
    /// The data file is durable for every record up to `position`.
    Synced { inode: InodeId, generation: u64, position: u64 },
    /// What was pending here went into a cut.
    Freeze { cut: u64 },
    /// The cut is sealed: its batch, with this number in the stream, is a durable blob, its segments are sealed files. Files with
    /// changed content have these hashes over their window tags.
    Cut { cut: u64, number: u64, hashes: Vec<(InodeId, [u8; 32])> },
    /// The network has the cut.
    Committed { cut: u64 },
    /// The network refused `from`: it and all later cuts are pending again; the newest batch of the stream is `number`.
    Uncut { from: u64, number: u64 },
    /// The stream that commits belong to from here on, and the number of its last batch.
    Stream { mount: MountId, number: u64 },
    /// An inode has this row on the network (after a refusal showed so).
    Rebase(Rebase),
    /// A name means this on the network (after a refusal showed so).
    RebaseEntry { directory: InodeId, name: Name, base: Option<InodeId> },
    /// An open file lost its last name: the network keeps it under this name of the root until it is closed.
    Park { inode: InodeId, name: Name },
    /// Snapshot: a node with what of it waits for the network.
    Node(Box<NodeState>),
    /// Snapshot: a name that differs from the network.
    Name { directory: InodeId, name: Name, child: Option<InodeId>, base: Option<Option<InodeId>>, cut: u64 },
    /// Snapshot: the cuts on their way.
    Pipeline { next_cut: u64, committed: u64, queued: Vec<u64>, mount: MountId, number: u64 },
    /// If the window tags of a file have this hash, that many of its bytes are not in holes.
    Counted { inode: InodeId, content: [u8; 32], allocated: u64 },
    /// A file has so many names, as the network said or as names that were heard of show. None: it is gone.
    Links { inode: InodeId, links: u32 },
    /// A directory that has no name here after this record has one on the network that is not known here.
    Elsewhere { inode: InodeId },
    /// The data file, durable there, has bytes that a batch took and no sealed file has: if the network does not have that
    /// cut, they are pending again after it.
    Held(Box<HeldBytes>),
    /// From here on, or no longer, programs may change the bytes of the data file without a record: all of it counts as
    /// written, and as durable.
    Exposed { inode: InodeId, generation: u64, exposed: bool },
    /// An inode that is to be put had these attributes before it was changed here; those of the network once the queued cuts
    /// are applied.
    Base { inode: InodeId, attributes: Box<Attributes> },
    /// A file that lost a name here, which the network is still to hear of, has this row there once the queued cuts are
    /// applied. `cut` is the newest one that took a name of it; 0 for none.
    LastSeen { inode: InodeId, seen: LastSeen, cut: u64 },
    /// A conflict for the status to list, until its inode loses a name.
    Conflict(Box<Conflict>),
}

/// Bytes of a data file that are held for a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldBytes {
    pub(crate) inode: InodeId,
    /// The cut that the batch is of.
    pub(crate) cut: u64,
    /// The data file.
    pub(crate) generation: u64,
    /// Start and end of each range.
    pub(crate) ranges: Vec<(u64, u64)>,
}

/// How an inode is on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rebase {
    pub(crate) inode: InodeId,
    /// Its row version; 0 if it does not exist.
    pub(crate) version: u64,
    /// Hash over its window tags.
    pub(crate) content: [u8; 32],
    /// Its size, if its content is somebody else's: what is here of it goes. Of an inode that does not exist any more, the
    /// newest version that was known: it comes back with a newer one.
    pub(crate) foreign: Option<u64>,
}

/// A node in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    pub(crate) adopt: Adopt,
    /// It is to be put by the next cut.
    pub(crate) dirty: bool,
    /// The newest cut on its way that puts it; 0 for none.
    pub(crate) cut: u64,
    /// All names of the directory are in the snapshot, or it exists only here.
    pub(crate) complete: bool,
    /// The network can have no extent of the file.
    pub(crate) local: bool,
    /// Plaintext bytes of inline runs so far.
    pub(crate) inlined: Option<u64>,
    /// The data file.
    pub(crate) generation: u64,
    /// Changed ranges: start, end, and whether it is a hole.
    pub(crate) ranges: Vec<(u64, u64, bool)>,
    /// Bytes of a small file, by offset; data ranges that are not among them are in the data file, durable.
    pub(crate) bytes: Vec<(u64, Bytes)>,
}

/// A node as the network has it, with what the queued cuts make of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Adopt {
    /// The inode.
    pub(crate) inode: InodeId,
    /// Its key.
    pub(crate) key: SecretBytes,
    /// Its attributes.
    pub(crate) attributes: Attributes,
    /// Names of a non-directory; subdirectories of a directory.
    pub(crate) links: u32,
    /// Row version.
    pub(crate) version: u64,
    /// Hash over its window tags.
    pub(crate) content: [u8; 32],
    /// A name it is known by, so that what is changed is found by it; nothing for the root, and for others in old records.
    pub(crate) name: Option<(InodeId, Name)>,
    /// Bytes of a file that are not in holes, if they were counted. Not among the encoded fields: where it is journaled,
    /// [`Mutation::Counted`] follows.
    #[serde(skip)]
    pub(crate) allocated: Option<u64>,
}

impl Adopt {
    /// What its record says of its content.
    pub(crate) fn digest(&self) -> Digest {
        Digest { hash: self.content, allocated: self.allocated }
    }

    /// What is journaled after it.
    pub(crate) fn counted(&self) -> Option<Mutation> {
        Mutation::counted(self.inode, self.digest())
    }

    /// What is journaled before an entry that counts the name it was found by.
    pub(crate) fn before_entry(&self) -> impl Iterator<Item = Mutation> {
        let mut adopt = self.clone();
        if adopt.attributes.kind != Kind::Directory {
            adopt.links = adopt.links.saturating_sub(1);
        }
        let counted = adopt.counted();
        std::iter::once(Mutation::Adopt(Box::new(adopt))).chain(counted)
    }
}

impl Mutation {
    /// The inode whose row it changes, so that it is to be put.
    pub(crate) fn changes(&self) -> Option<InodeId> {
        match self {
            Self::Attributes { inode, soft: false, .. }
            | Self::Times { inode, soft: false, .. }
            | Self::Resize { inode, .. }
            | Self::Punch { inode, .. } => Some(*inode),
            Self::Write(write) => Some(write.inode),
            _ => None,
        }
    }

    /// The note of what was counted, if it was.
    pub(crate) fn counted(inode: InodeId, digest: Digest) -> Option<Self> {
        digest.allocated.map(|allocated| Self::Counted { inode, content: digest.hash, allocated })
    }
}

/// The times of an inode that change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

/// A write and what it does to the attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) inode: InodeId,
    /// The data file.
    pub(crate) generation: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) mode: u32,
    pub(crate) times: Times,
    /// The bytes; `None`: they are in the data file, and after a reboot count only if it was synced since.
    pub(crate) data: Option<Bytes>,
}

/// Raw bytes of a secret on their way into the journal; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct SecretBytes([u8; 32]);

impl From<&Key> for SecretBytes {
    fn from(key: &Key) -> Self {
        Self(*key.as_bytes())
    }
}

impl TryFrom<&[u8]> for SecretBytes {
    type Error = std::array::TryFromSliceError;
    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl From<&SecretBytes> for Key {
    fn from(bytes: &SecretBytes) -> Self {
        Key::from_bytes(bytes.0)
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBytes(hidden)")
    }
}

/// Bytes that are no record of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidRecord {
    /// Written by a newer release, or no record at all.
    #[error("journal record of unknown version {0:?}")]
    Version(Option<u8>),
    /// The fields do not parse.
    #[error("malformed journal record: {0}")]
    Malformed(String),
}

/// Encodes a record into `buffer`, which is cleared first.
pub(crate) fn encode(mutations: &[Mutation], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.push(VERSION);
    let filled = std::mem::take(buffer);
    *buffer = postcard::to_extend(mutations, filled).expect("plain data always encodes into memory");
}

/// Decodes a record.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Mutation>, InvalidRecord> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            let (mutations, left) =
                postcard::take_from_bytes(rest).map_err(|e| InvalidRecord::Malformed(e.to_string()))?;
            if !left.is_empty() {
                return Err(InvalidRecord::Malformed(format!("{} bytes too many", left.len())));
            }
            Ok(mutations)
        }
        other => Err(InvalidRecord::Version(other.map(|(version, _)| *version))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<Mutation> {
        let inode = InodeId::from_bytes([7; 16]);
        let moment = Timestamp { seconds: 1_700_000_000, nanos: 5 };
        vec![
            Mutation::Entry {
                directory: InodeId::from_bytes([1; 16]),
                name: Name::new(b"a").expect("valid"),
                previous: None,
                child: Some(inode),
            },
            Mutation::Write(Write {
                inode,
                generation: 3,
                offset: 4096,
                length: 5,
                mode: 0o644,
                times: Times { atime: moment, mtime: moment, ctime: moment },
                data: Some(Bytes::from_static(b"hello")),
            }),
            Mutation::Freeze { cut: 2 },
        ]
    }

    /// Written by the first release; must stay readable.
    const OLD: &str = include_str!("../tests/data/record-v1.hex");

    #[test]
    fn reads_the_bytes_of_the_first_release() {
        let bytes = data_encoding::HEXLOWER.decode(OLD.trim().as_bytes()).expect("hexadecimal");
        assert_eq!(decode(&bytes), Ok(sample()));
        let mut again = Vec::new();
        encode(&sample(), &mut again);
        assert_eq!(again, bytes);
    }

    /// What was added since keeps its number: the variant, the inode, the hash, 5 GiB as a varint.
    #[test]
    fn reads_what_was_added_to_the_first_version() {
        let counted =
            Mutation::Counted { inode: InodeId::from_bytes([7; 16]), content: [0xcc; 32], allocated: 5 << 30 };
        let bytes = [&[VERSION, 1, 20][..], &[7; 16], &[0xcc; 32], &[0x80, 0x80, 0x80, 0x80, 0x14]].concat();
        assert_eq!(decode(&bytes), Ok(vec![counted]));
        let held = HeldBytes { inode: InodeId::from_bytes([7; 16]), cut: 5, generation: 3, ranges: vec![(0, 300)] };
        let bytes = [&[VERSION, 1, 23][..], &[7; 16], &[5, 3, 1, 0, 0xac, 0x02]].concat();
        assert_eq!(decode(&bytes), Ok(vec![Mutation::Held(Box::new(held))]));
        let exposed = Mutation::Exposed { inode: InodeId::from_bytes([7; 16]), generation: 3, exposed: true };
        let bytes = [&[VERSION, 1, 24][..], &[7; 16], &[3, 1]].concat();
        assert_eq!(decode(&bytes), Ok(vec![exposed]));
        let base = Box::new(Attributes { size: 3, ..crate::drain::tests::attributes(Kind::File) });
        // Kind, mode (a varint), owner, group and size; four times; no device, target or xattrs.
        let fields = [&[0, 0xed, 0x03, 0, 0, 3][..], &[0; 8], &[0, 0, 0]].concat();
        let bytes = [&[VERSION, 1, 25][..], &[7; 16], &fields].concat();
        let base = Mutation::Base { inode: InodeId::from_bytes([7; 16]), attributes: base };
        assert_eq!(decode(&bytes), Ok(vec![base]));
        let inode = InodeId::from_bytes([7; 16]);
        let seen = LastSeen { version: 300, size: 3, content: [0xcc; 32] };
        let bytes = [&[VERSION, 1, 26][..], &[7; 16], &[0xac, 0x02, 3], &[0xcc; 32], &[5]].concat();
        assert_eq!(decode(&bytes), Ok(vec![Mutation::LastSeen { inode, seen, cut: 5 }]));
        let place = Some((InodeId::from_bytes([1; 16]), Name::new(b"a").expect("valid")));
        let conflict = Conflict { inode, place, path: String::from("b/a"), seconds: 300 };
        let bytes = [&[VERSION, 1, 27][..], &[7; 16], &[1], &[1; 16], &[1, b'a'], &[3], b"b/a", &[0xac, 0x02]].concat();
        assert_eq!(decode(&bytes), Ok(vec![Mutation::Conflict(Box::new(conflict))]));
    }

    #[test]
    fn refuses_other_versions_and_trailing_bytes() {
        assert_eq!(decode(&[]), Err(InvalidRecord::Version(None)));
        assert_eq!(decode(&[9, 0]), Err(InvalidRecord::Version(Some(9))));
        assert!(matches!(decode(&[VERSION, 0, 0]), Err(InvalidRecord::Malformed(_))));
    }

    proptest! {
        #[test]
        fn never_panics_on_outside_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = decode(&bytes);
        }
    }
}
