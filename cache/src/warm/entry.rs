//! The row about a name: what it names, and what is known of that.

use crate::record::{Adopt, SecretBytes};
use serde::{Deserialize, Serialize};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

const VERSION: u8 = 1;

/// What a name of a directory names on the network.
///
/// ```text
/// version = 1 (1) | postcard: child, kind, and optionally of the child: key (32), attributes, links, row version,
///                   content hash (32), bytes that are not in holes (optional)
/// ```
/// The key is there in the clear, as in the journal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EntryRow {
    pub(crate) child: InodeId,
    pub(crate) kind: Kind,
    /// The child's row; `None` if it was not in memory, or the journal has it.
    pub(crate) node: Option<Adopt>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    child: InodeId,
    kind: Kind,
    node: Option<StoredNode>,
}

#[derive(Serialize, Deserialize)]
struct StoredNode {
    key: SecretBytes,
    attributes: Attributes,
    links: u32,
    version: u64,
    content: [u8; 32],
    allocated: Option<u64>,
}

impl EntryRow {
    /// Encodes it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let node = self.node.as_ref().map(|adopt| StoredNode {
            key: adopt.key.clone(),
            attributes: adopt.attributes.clone(),
            links: adopt.links,
            version: adopt.version,
            content: adopt.content,
            allocated: adopt.allocated,
        });
        let stored = Stored { child: self.child, kind: self.kind, node };
        postcard::to_extend(&stored, vec![VERSION]).expect("plain data always encodes into memory")
    }

    /// Decodes it; `None` if it is none of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, body) = bytes.split_first()? else { return None };
        let (Stored { child, kind, node }, []) = postcard::take_from_bytes(body).ok()? else { return None };
        let node = match node {
            None => None,
            Some(node) => {
                node.attributes.check().ok()?;
                Some(Adopt {
                    inode: child,
                    key: node.key,
                    attributes: node.attributes,
                    links: node.links,
                    version: node.version,
                    content: node.content,
                    name: None,
                    allocated: node.allocated,
                })
            }
        };
        let fits = node.as_ref().is_none_or(|node| node.attributes.kind == kind && node.version != 0);
        fits.then_some(Self { child, kind, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use strewn_engine::bucket::Timestamp;
    use strewn_engine::secret::Key;

    fn sample() -> EntryRow {
        let moment = Timestamp { seconds: 1_700_000_000, nanos: 5 };
        let child = InodeId::from_bytes([7; 16]);
        let attributes = Attributes {
            kind: Kind::File,
            mode: 0o640,
            uid: 1_000,
            gid: 100,
            size: 300_000,
            atime: moment,
            mtime: moment,
            ctime: moment,
            btime: moment,
            rdev: 0,
            target: Default::default(),
            xattrs: Default::default(),
        };
        let node = Adopt {
            inode: child,
            key: SecretBytes::from(&Key::from_bytes([3; 32])),
            attributes,
            links: 1,
            version: 4,
            content: [9; 32],
            name: None,
            allocated: Some(200_000),
        };
        EntryRow { child, kind: Kind::File, node: Some(node) }
    }

    /// Written by the first release that kept names; must stay readable.
    const OLD: &str = include_str!("../../tests/data/entry-v1.hex");

    #[test]
    fn reads_the_bytes_of_the_first_release() {
        let bytes = data_encoding::HEXLOWER.decode(OLD.trim().as_bytes()).expect("hexadecimal");
        assert_eq!(EntryRow::decode(&bytes), Some(sample()));
        assert_eq!(sample().encode(), bytes);
    }

    #[test]
    fn refuses_what_is_no_row() {
        let good = sample().encode();
        assert_eq!(EntryRow::decode(&[]), None);
        assert_eq!(EntryRow::decode(&[&[9], &good[1..]].concat()), None);
        assert_eq!(EntryRow::decode(&[&good[..], &[0]].concat()), None);
        let other_kind = EntryRow { kind: Kind::Directory, ..sample() };
        assert_eq!(EntryRow::decode(&other_kind.encode()), None);
        let bare = EntryRow { node: None, ..sample() };
        assert_eq!(EntryRow::decode(&bare.encode()), Some(bare));
    }

    proptest! {
        #[test]
        fn never_panics_on_outside_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = EntryRow::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = EntryRow::decode(&bytes);
        }
    }
}
