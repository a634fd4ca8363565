//! A file system in a few maps: what POSIX says, written down once more and as simply as possible.

use rustix::io::Errno;
use std::collections::BTreeMap;
use strewn_engine::bucket::{Kind, Timestamp};
use strewn_fs::volume::{Allocate, Caller, RenameMode};

pub(crate) type Id = usize;
type Result<T> = std::result::Result<T, Errno>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) content: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) names: BTreeMap<Vec<u8>, Id>,
}

/// Nodes are never removed from the list; those without a name and without use are just not looked at any more.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    pub(crate) nodes: Vec<Node>,
}

pub(crate) const ROOT: Id = 0;

impl Reference {
    pub(crate) fn new() -> Self {
        let caller = Caller { uid: 0, gid: 0, umask: 0, process: 0 };
        Self { nodes: vec![Node::new(Kind::Directory, 0o755, caller, Timestamp::default())] }
    }

    pub(crate) fn nlink(&self, id: Id) -> u32 {
        let named = |node: &Node| node.names.values().filter(|child| **child == id).count() as u32;
        let names: u32 = self.nodes.iter().map(named).sum();
        match self.nodes[id].kind {
            Kind::Directory if id != ROOT && names == 0 => 0,
            Kind::Directory => 2 + self.subdirectories(id),
            _ => names,
        }
    }

    pub(crate) fn lookup(&self, parent: Id, name: &[u8]) -> Result<Id> {
        self.directory(parent)?;
        self.nodes[parent].names.get(name).copied().ok_or(Errno::NOENT)
    }

    pub(crate) fn make(&mut self, parent: Id, name: &[u8], node: Node, now: Timestamp) -> Result<Id> {
        self.living(parent)?;
        if self.nodes[parent].names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let mut node = node;
        if self.nodes[parent].mode & 0o2000 != 0 {
            node.gid = self.nodes[parent].gid;
            node.mode |= if node.kind == Kind::Directory { 0o2000 } else { 0 };
        }
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.nodes[parent].names.insert(name.to_vec(), id);
        self.nodes[parent].changed(now);
        Ok(id)
    }

    pub(crate) fn link(&mut self, id: Id, parent: Id, name: &[u8], now: Timestamp) -> Result<()> {
        self.living(parent)?;
        if self.nodes[id].kind == Kind::Directory {
            return Err(Errno::PERM);
        }
        if self.nodes[parent].names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        if self.nlink(id) == 0 {
            return Err(Errno::NOENT);
        }
        self.nodes[parent].names.insert(name.to_vec(), id);
        self.nodes[parent].changed(now);
        self.nodes[id].ctime = now;
        Ok(())
    }

    pub(crate) fn unlink(&mut self, parent: Id, name: &[u8], now: Timestamp) -> Result<Id> {
        let id = self.lookup(parent, name)?;
        match self.nodes[id].kind {
            Kind::Directory => Err(Errno::ISDIR),
            _ => Ok(self.remove(parent, name, id, now)),
        }
    }

    pub(crate) fn rmdir(&mut self, parent: Id, name: &[u8], now: Timestamp) -> Result<Id> {
        let id = self.lookup(parent, name)?;
        match &self.nodes[id] {
            node if node.kind != Kind::Directory => Err(Errno::NOTDIR),
            node if !node.names.is_empty() => Err(Errno::NOTEMPTY),
            _ => Ok(self.remove(parent, name, id, now)),
        }
    }

    pub(crate) fn rename(
        &mut self,
        (parent, name): (Id, &[u8]),
        (new_parent, new_name): (Id, &[u8]),
        mode: RenameMode,
        now: Timestamp,
    ) -> Result<()> {
        self.directory(parent)?;
        self.living(new_parent)?;
        let moved = self.lookup(parent, name)?;
        let there = self.lookup(new_parent, new_name).ok();
        match (mode, there) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (RenameMode::Exchange, None) => return Err(Errno::NOENT),
            (_, Some(there)) if there == moved => return Ok(()),
            _ => {}
        }
        if parent != new_parent && self.contains(moved, new_parent) {
            return Err(Errno::INVAL);
        }
        if let (RenameMode::Exchange, Some(there)) = (mode, there) {
            if parent != new_parent && self.contains(there, parent) {
                return Err(Errno::INVAL);
            }
            self.nodes[parent].names.insert(name.to_vec(), there);
            self.nodes[there].ctime = now;
        } else {
            if let Some(there) = there {
                match (self.nodes[moved].kind == Kind::Directory, self.nodes[there].kind == Kind::Directory) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !self.nodes[there].names.is_empty() => return Err(Errno::NOTEMPTY),
                    _ => self.nodes[there].ctime = now,
                }
            }
            self.nodes[parent].names.remove(name);
        }
        self.nodes[new_parent].names.insert(new_name.to_vec(), moved);
        self.nodes[moved].ctime = now;
        self.nodes[parent].changed(now);
        self.nodes[new_parent].changed(now);
        Ok(())
    }

    pub(crate) fn write(&mut self, id: Id, offset: usize, data: &[u8], now: Timestamp) {
        let node = &mut self.nodes[id];
        let end = offset + data.len();
        if node.content.len() < end {
            node.content.resize(end, 0);
        }
        node.content[offset..end].copy_from_slice(data);
        node.changed(now);
    }

    pub(crate) fn truncate(&mut self, id: Id, size: usize, now: Timestamp) -> Result<()> {
        match self.nodes[id].kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        let node = &mut self.nodes[id];
        node.content.resize(size, 0);
        node.changed(now);
        Ok(())
    }

    pub(crate) fn fallocate(&mut self, id: Id, offset: usize, length: usize, how: Allocate, now: Timestamp) {
        let node = &mut self.nodes[id];
        let (size, end) = (node.content.len(), offset + length);
        if matches!(how, Allocate::PunchHole | Allocate::Zero | Allocate::ZeroKeepSize) {
            node.content[offset.min(size)..end.min(size)].fill(0);
        }
        let grows = matches!(how, Allocate::Extend | Allocate::Zero) && end > size;
        if grows {
            node.content.resize(end, 0);
        }
        node.changed(now);
    }

    /// Directories that can be reached, and all nodes that have a name.
    pub(crate) fn reachable(&self) -> Vec<Id> {
        let mut found = vec![ROOT];
        let mut at = 0;
        while at < found.len() {
            for child in self.nodes[found[at]].names.values() {
                if !found.contains(child) {
                    found.push(*child);
                }
            }
            at += 1;
        }
        found
    }

    fn remove(&mut self, parent: Id, name: &[u8], id: Id, now: Timestamp) -> Id {
        self.nodes[parent].names.remove(name);
        self.nodes[parent].changed(now);
        self.nodes[id].ctime = now;
        id
    }

    fn subdirectories(&self, id: Id) -> u32 {
        self.nodes[id].names.values().filter(|child| self.nodes[**child].kind == Kind::Directory).count() as u32
    }

    fn contains(&self, outer: Id, inner: Id) -> bool {
        outer == inner || self.nodes[outer].names.values().any(|child| self.contains(*child, inner))
    }

    fn directory(&self, id: Id) -> Result<()> {
        if self.nodes[id].kind == Kind::Directory { Ok(()) } else { Err(Errno::NOTDIR) }
    }

    fn living(&self, id: Id) -> Result<()> {
        self.directory(id)?;
        if self.nlink(id) == 0 { Err(Errno::NOENT) } else { Ok(()) }
    }
}

impl Node {
    pub(crate) fn new(kind: Kind, mode: u32, caller: Caller, now: Timestamp) -> Self {
        Self {
            kind,
            mode,
            uid: caller.uid,
            gid: caller.gid,
            mtime: now,
            ctime: now,
            content: Vec::new(),
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    pub(crate) fn changed(&mut self, now: Timestamp) {
        (self.mtime, self.ctime) = (now, now);
    }
}
