//! One inode as the mount knows it.

use super::SetTimes;
use super::directory::Directory;
use super::places::Places;
use crate::content::Digest;
use crate::content::map::Content;
use crate::record::{Adopt, Write};
use bytes::Bytes;
use std::num::NonZeroU64;
use std::ops::Range;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;
use strewn_engine::secret::Key;

/// One inode as the mount knows it.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its key.
    pub(crate) key: Key,
    /// Its attributes, with all local changes.
    pub(crate) attributes: Attributes,
    /// Its attributes as they were when it became dirty, if the network or a cut has it: what both sides changed since is
    /// told by it. `None` if it is not dirty, or nobody knows.
    pub(crate) base: Option<Box<Attributes>>,
    /// Names of a non-directory; subdirectories of a directory.
    pub(crate) links: u32,
    /// Row version once the queued cuts are applied; 0 while no cut has it.
    pub(crate) version: u64,
    /// What that version's record says of the content.
    pub(crate) digest: Digest,
    /// Newest row version before it was removed on the network: when it comes back it must be newer than what others saw.
    pub(crate) floor: u64,
    /// Order of becoming dirty: the next cut puts the inode. `None` when it need not.
    pub(crate) dirty: Option<NonZeroU64>,
    /// The newest cut that puts it or changes its names; 0 for none.
    pub(crate) cut: u64,
    /// The newest cut that puts its row, or may do so; 0 for none.
    pub(crate) put: u64,
    /// A name of it, or in it, changed since the last cut: rows of the network count its names wrongly.
    pub(crate) renamed: bool,
    /// It has no name: the network is not to have it.
    pub(crate) orphan: bool,
    /// A directory that has no name here and one on the network that is not known.
    pub(crate) elsewhere: bool,
    /// Open handles and kernel references.
    pub(crate) pins: u64,
    /// The journal knows it.
    pub(crate) journaled: bool,
    /// Names known of it, each once; all of a directory's (there is one), perhaps not all of a file's.
    pub(crate) names: Places,
    /// Entries of a directory.
    pub(crate) directory: Option<Box<Directory>>,
    /// Content of a file.
    pub(crate) content: Option<Box<Content>>,
}

impl Node {
    /// A node that exists only here.
    pub(crate) fn created(key: Key, attributes: Attributes) -> Self {
        let kind = attributes.kind;
        let mut node = Self::bare(key, attributes);
        node.journaled = true;
        node.orphan = true;
        node.directory = (kind == Kind::Directory).then(|| Box::new(Directory::new_local()));
        node.content = (kind == Kind::File).then(|| Box::new(Content::new_local()));
        node.digest = Digest::empty();
        node
    }

    /// True if it is what this row says, and nothing of it is changed here.
    pub(crate) fn is_as(&self, row: &Adopt) -> bool {
        let same = (self.version, self.links, &self.attributes) == (row.version, row.links, &row.attributes);
        same && !self.is_local()
    }

    /// True of a directory in which a name is known to name something.
    pub(crate) fn has_children(&self) -> bool {
        self.directory.as_deref().is_some_and(|entries| entries.live() > 0)
    }

    /// A node of the network's.
    pub(crate) fn known(adopt: &Adopt) -> Self {
        let kind = adopt.attributes.kind;
        let mut node = Self::bare(Key::from(&adopt.key), adopt.attributes.clone());
        node.links = adopt.links;
        node.orphan = node.is_nameless();
        node.version = adopt.version;
        node.digest = adopt.digest();
        node.directory = (kind == Kind::Directory).then(Box::default);
        node.content = (kind == Kind::File).then(|| Box::new(Content::new_remote()));
        node
    }

    fn bare(key: Key, attributes: Attributes) -> Self {
        Self {
            key,
            attributes,
            base: None,
            links: 0,
            version: 0,
            digest: Digest::uncounted([0; 32]),
            floor: 0,
            dirty: None,
            cut: 0,
            put: 0,
            renamed: false,
            orphan: false,
            elsewhere: false,
            pins: 0,
            journaled: false,
            names: Places::default(),
            directory: None,
            content: None,
        }
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> Kind {
        self.attributes.kind
    }

    /// Keeps what its attributes are before they change for the first time since the last cut.
    pub(crate) fn keep_base(&mut self) {
        if self.dirty.is_none() && self.version > 0 && !self.orphan {
            self.base = Some(Box::new(self.attributes.clone()));
        }
    }

    /// True if a row of the network's says nothing about it.
    pub(crate) fn is_local(&self) -> bool {
        self.dirty.is_some() || self.cut != 0 || self.renamed || self.orphan
    }

    /// True if its row is to be put, or on its way: a row of somebody else's is a conflict.
    pub(crate) fn is_put(&self) -> bool {
        self.dirty.is_some() || self.put != 0
    }

    /// True of a directory if the network is still to hear of names in it, or of its own.
    pub(crate) fn has_removals(&self) -> bool {
        self.directory.as_ref().is_some_and(|directory| directory.is_changed() || self.cut != 0)
    }

    /// True of a non-directory without names.
    pub(crate) fn is_nameless(&self) -> bool {
        !self.is_directory() && self.links == 0
    }

    /// True for directories.
    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == Kind::Directory
    }

    /// Subdirectories of a directory: counted if all its names are known, else as many as the network and changes here tell.
    pub(crate) fn subdirectories(&self) -> u32 {
        let counted = self.directory.as_deref().filter(|entries| entries.complete).map(Directory::subdirectories);
        counted.unwrap_or(self.links)
    }

    /// A range of its content as if it were written anew: these bytes, or those that the data file has.
    pub(crate) fn rewritten(&self, inode: InodeId, range: Range<u64>, data: Option<Bytes>) -> Write {
        Write {
            inode,
            generation: self.content.as_deref().map_or(0, |content| content.generation),
            offset: range.start,
            length: range.end - range.start,
            mode: self.attributes.mode,
            times: self.attributes.times(),
            data,
        }
    }

    /// What the journal has to know to refer to it, but for a name.
    pub(crate) fn adopt(&self, inode: InodeId) -> Adopt {
        Adopt {
            inode,
            key: (&self.key).into(),
            attributes: self.attributes.clone(),
            links: self.links,
            version: self.version,
            content: self.digest.hash,
            name: None,
            allocated: self.digest.allocated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_costs_little_memory() {
        // Beside these a file that was only looked at has its one name, which its directory has as well.
        assert!(size_of::<Node>() <= 320, "{}", size_of::<Node>());
        assert!(size_of::<Content>() <= 288, "{}", size_of::<Content>());
    }
}
