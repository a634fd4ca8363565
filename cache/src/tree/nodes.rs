//! All nodes by inode, in the order of their last use.

use super::Node;
use lru::LruCache;
use strewn_engine::ids::InodeId;

/// The nodes.
#[derive(Debug)]
pub(super) struct Nodes(LruCache<InodeId, Node>);

impl Nodes {
    pub(super) fn new() -> Self {
        Self(LruCache::unbounded())
    }

    /// A node; does not count as use.
    pub(super) fn get(&self, inode: &InodeId) -> Option<&Node> {
        self.0.peek(inode)
    }

    /// A node to change; does not count as use.
    pub(super) fn get_mut(&mut self, inode: &InodeId) -> Option<&mut Node> {
        self.0.peek_mut(inode)
    }

    /// Puts a node there, as just used.
    pub(super) fn insert(&mut self, inode: InodeId, node: Node) {
        self.0.put(inode, node);
    }

    pub(super) fn remove(&mut self, inode: &InodeId) -> Option<Node> {
        self.0.pop(inode)
    }

    pub(super) fn contains_key(&self, inode: &InodeId) -> bool {
        self.0.contains(inode)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Newest use first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&InodeId, &Node)> {
        self.0.iter()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &InodeId> {
        self.iter().map(|(inode, _)| inode)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.0.iter_mut().map(|(_, node)| node)
    }

    /// The node that was not used for longest.
    pub(super) fn oldest(&self) -> Option<InodeId> {
        self.0.peek_lru().map(|(inode, _)| *inode)
    }

    /// Counts as use.
    pub(super) fn touch(&mut self, inode: &InodeId) {
        self.0.promote(inode);
    }
}
