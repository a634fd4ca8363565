//! What must be there: a tree of plain values, one per operation.

use crate::common::Picture;
use std::collections::BTreeMap;
use std::sync::Arc;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// An inode.
#[derive(Clone)]
pub struct Node {
    /// Size and change time are not kept here.
    pub attributes: Attributes,
    /// Bytes of a file.
    pub content: Arc<Vec<u8>>,
}

/// The tree after an operation. Clones share what they have in common.
#[derive(Clone)]
pub struct State {
    pub root: InodeId,
    pub nodes: BTreeMap<InodeId, Arc<Node>>,
    pub names: BTreeMap<InodeId, Arc<BTreeMap<String, InodeId>>>,
}

impl State {
    pub fn new(root: InodeId) -> Self {
        Self { root, nodes: BTreeMap::new(), names: BTreeMap::from([(root, Arc::default())]) }
    }

    /// The state that a cache showed.
    pub fn of(picture: &Picture, root: InodeId) -> Self {
        let mut state = Self::new(root);
        let mut directories = BTreeMap::from([("", root)]);
        // A directory comes before what is in it.
        for (path, (attributes, _, inode, bytes)) in picture {
            let (parent, name) = path.rsplit_once('/').expect("paths begin with a slash");
            let node = Node { attributes: attributes.clone(), content: Arc::new(bytes.clone()) };
            if attributes.kind == Kind::Directory {
                directories.insert(path, *inode);
                state.names.insert(*inode, Arc::default());
            }
            state.nodes.insert(*inode, Arc::new(node));
            state.set(directories[parent], name, Some(*inode));
        }
        state
    }

    pub fn set(&mut self, directory: InodeId, name: &str, child: Option<InodeId>) {
        let names = Arc::make_mut(self.names.get_mut(&directory).expect("a directory"));
        match child {
            Some(child) => drop(names.insert(name.to_owned(), child)),
            None => drop(names.remove(name)),
        }
    }

    pub fn get(&self, directory: InodeId, name: &str) -> Option<InodeId> {
        self.names[&directory].get(name).copied()
    }

    pub fn change(&mut self, inode: InodeId, change: impl FnOnce(&mut Node)) {
        change(Arc::make_mut(self.nodes.get_mut(&inode).expect("an inode")));
    }

    pub fn is_directory(&self, inode: InodeId) -> bool {
        self.names.contains_key(&inode)
    }

    /// Some name of an inode.
    pub fn place(&self, inode: InodeId) -> Option<(InodeId, String)> {
        let mut places =
            self.names.iter().flat_map(|(directory, names)| names.iter().map(move |name| (directory, name)));
        places.find(|(_, (_, child))| **child == inode).map(|(directory, (name, _))| (*directory, name.clone()))
    }

    pub fn links(&self, inode: InodeId) -> u32 {
        match self.names.get(&inode) {
            Some(names) => 2 + names.values().filter(|child| self.is_directory(**child)).count() as u32,
            None => {
                self.names.values().flat_map(|names| names.values()).filter(|child| **child == inode).count() as u32
            }
        }
    }

    /// True if `inode` is `directory` or below it.
    pub fn is_below(&self, directory: InodeId, inode: InodeId) -> bool {
        directory == inode
            || self.names.get(&directory).is_some_and(|names| {
                names.values().any(|child| self.is_directory(*child) && self.is_below(*child, inode))
            })
    }

    /// Drops what has no name, except what is open.
    pub fn drop_unnamed(&mut self, open: &[InodeId]) {
        let named: Vec<InodeId> = self.names.values().flat_map(|names| names.values().copied()).collect();
        self.nodes.retain(|inode, _| named.contains(inode) || open.contains(inode));
        let root = self.root;
        self.names.retain(|inode, _| *inode == root || named.contains(inode));
    }

    /// What a cache with this state shows.
    pub fn picture(&self) -> Picture {
        let mut picture = Picture::new();
        let mut open = vec![(String::new(), self.root)];
        while let Some((path, directory)) = open.pop() {
            for (name, child) in self.names[&directory].iter() {
                let path = format!("{path}/{name}");
                if self.is_directory(*child) {
                    open.push((path.clone(), *child));
                }
                let node = &self.nodes[child];
                let mut attributes = node.attributes.clone();
                if attributes.kind == Kind::File {
                    attributes.size = node.content.len() as u64;
                }
                picture.insert(path, (attributes, self.links(*child), *child, node.content.to_vec()));
            }
        }
        comparable(picture)
    }
}

/// Without what the network may show otherwise: change times, and times of directories.
pub fn comparable(mut picture: Picture) -> Picture {
    for (attributes, ..) in picture.values_mut() {
        attributes.ctime = Timestamp::default();
        if attributes.kind == Kind::Directory {
            (attributes.mtime, attributes.atime) = Default::default();
        }
    }
    picture
}
