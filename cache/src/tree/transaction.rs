//! What runs against the tree under its lock, and becomes one journal record.

use super::apply::SetTimes;
use super::{Node, Tree};
use crate::Name;
use crate::record::{Adopt, Mutation, SecretBytes};
use std::collections::{BTreeMap, HashSet};
use strewn_engine::bucket::{Kind, MAX_OFFSET};
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// Why a transaction's closure stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Something is not in memory: the cache loads it and runs the closure anew.
    Missing(Missing),
    /// The caller refuses: becomes [`Error::Errno`](crate::Error::Errno).
    Errno(i32),
    /// The inode is not known (forgotten or deleted): becomes [`Error::Stale`](crate::Error::Stale).
    Stale,
    /// A name of a directory would come to be of which another mount may be promising the same: the cache asks for a lease on
    /// it and runs the closure anew.
    Uncovered(InodeId, Name),
}

/// What is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Names of a directory.
    Entries(InodeId, Vec<Name>),
    /// All names of a directory.
    Listing(InodeId),
}

/// A line of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Where to go on: give it as `after`. From 1, in order of arrival, never reused while the directory is in memory.
    pub cookie: u64,
    /// The name.
    pub name: Name,
    /// The child.
    pub inode: InodeId,
    /// Its kind.
    pub kind: Kind,
}

/// A view of the tree with the changes made so far in this transaction.
pub struct Transaction<'a> {
    tree: &'a Tree,
    read_only: bool,
    /// In the order they were made, attributes excepted.
    changes: Vec<Mutation>,
    /// Names set so far, with what they name and did before.
    entries: Vec<SetEntry>,
    /// Attributes as they are now, of inodes that were changed.
    attributes: Vec<Staged>,
    created: Vec<(InodeId, Kind)>,
    pins: Vec<(InodeId, i64)>,
    covered: &'a dyn Fn(InodeId, &Name) -> bool,
}

struct SetEntry {
    directory: InodeId,
    name: Name,
    previous: Option<(InodeId, Kind)>,
    child: Option<(InodeId, Kind)>,
}

struct Staged {
    inode: InodeId,
    now: Attributes,
    before: Attributes,
}

/// What a transaction comes down to.
pub(crate) struct Outcome {
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) pins: Vec<(InodeId, i64)>,
    /// False if nothing of it has to survive.
    pub(crate) journaled: bool,
}

impl<'a> Transaction<'a> {
    /// `covered` says of a name that nothing bears whether this mount may bring it to be.
    pub(crate) fn new(tree: &'a Tree, read_only: bool, covered: &'a dyn Fn(InodeId, &Name) -> bool) -> Self {
        Self {
            tree,
            covered,
            read_only,
            changes: Vec::new(),
            entries: Vec::new(),
            attributes: Vec::new(),
            created: Vec::new(),
            pins: Vec::new(),
        }
    }

    /// Attributes of an inode.
    pub fn attributes(&self, inode: InodeId) -> Result<Attributes, Stop> {
        match self.attributes.iter().find(|staged| staged.inode == inode) {
            Some(staged) => Ok(staged.now.clone()),
            None => Ok(self.node(inode)?.attributes.clone()),
        }
    }

    /// Kind of an inode.
    pub fn kind(&self, inode: InodeId) -> Result<Kind, Stop> {
        match self.created.iter().find(|(created, _)| *created == inode) {
            Some((_, kind)) => Ok(*kind),
            None => Ok(self.node(inode)?.kind()),
        }
    }

    /// Names of a non-directory; 2 + subdirectories of a directory; 0 of an orphan.
    pub fn nlink(&self, inode: InodeId) -> Result<u32, Stop> {
        let (mut names, mut subdirectories) = match self.tree.node(inode) {
            Some(node) if node.is_directory() => {
                let named = !node.names.is_empty() || node.elsewhere;
                (i64::from(named), i64::from(node.subdirectories()))
            }
            Some(node) => (i64::from(node.links), 0),
            None if self.created.iter().any(|(created, _)| *created == inode) => (0, 0),
            None => return Err(Stop::Stale),
        };
        for set in &self.entries {
            let is = |child: &Option<(InodeId, Kind)>| child.is_some_and(|(child, _)| child == inode);
            names += i64::from(is(&set.child)) - i64::from(is(&set.previous));
            if set.directory == inode {
                subdirectories += i64::from(is_directory(&set.child)) - i64::from(is_directory(&set.previous));
            }
        }
        let directory = self.kind(inode)? == Kind::Directory;
        let count = match (directory, names > 0 || inode == self.tree.root) {
            (true, true) => subdirectories + 2,
            (true, false) => 0,
            (false, _) => names,
        };
        Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
    }

    /// Bytes of a file that are not holes, for `st_blocks`; an estimate where nobody counted them.
    pub fn allocated(&self, inode: InodeId) -> Result<u64, Stop> {
        let size = self.attributes(inode)?.size;
        let Some(node) = self.tree.node(inode) else { return Ok(0) };
        Ok(node.content.as_deref().map_or(0, |content| content.allocated(size, node.digest.allocated)))
    }

    /// What a name of a directory names.
    pub fn entry(&self, directory: InodeId, name: &Name) -> Result<Option<InodeId>, Stop> {
        Ok(self.entry_kind(directory, name)?.map(|(inode, _)| inode))
    }

    /// True if a directory has no names.
    pub fn is_empty(&self, directory: InodeId) -> Result<bool, Stop> {
        let (live, complete) = match self.tree.node(directory) {
            Some(node) => {
                let entries = node.directory.as_deref().ok_or(Stop::Errno(ENOTDIR))?;
                (entries.live() as i64, entries.complete)
            }
            None => (0, self.kind(directory).is_ok()),
        };
        let delta = |set: &SetEntry| i64::from(set.child.is_some()) - i64::from(set.previous.is_some());
        let changed: i64 = self.entries.iter().filter(|set| set.directory == directory).map(delta).sum();
        match (live + changed > 0, complete) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(Stop::Missing(Missing::Listing(directory))),
        }
    }

    /// Up to `max` lines of a directory after cookie `after` (0 for the start), without `.` and `..`, not counting changes
    /// of this transaction. The inodes are in memory.
    pub fn read_dir(&self, directory: InodeId, after: u64, max: usize) -> Result<Vec<DirectoryEntry>, Stop> {
        let lines = self.read_names(directory, after, max)?;
        let missing = lines.iter().filter(|line| self.tree.node(line.inode).is_none());
        let missing: Vec<Name> = missing.map(|line| line.name.clone()).collect();
        if missing.is_empty() { Ok(lines) } else { Err(Stop::Missing(Missing::Entries(directory, missing))) }
    }

    /// The same, but the inodes need not be in memory: that of a large directory are not all there at once.
    pub fn read_names(&self, directory: InodeId, after: u64, max: usize) -> Result<Vec<DirectoryEntry>, Stop> {
        let entries = self.node(directory)?.directory.as_deref().ok_or(Stop::Errno(ENOTDIR))?;
        if !entries.complete {
            return Err(Stop::Missing(Missing::Listing(directory)));
        }
        let line = |(cookie, name, (inode, kind)): (u64, &Name, (InodeId, Kind))| {
            let name = name.clone();
            DirectoryEntry { cookie, name, inode, kind }
        };
        Ok(entries.after(after).take(max).map(line).collect())
    }

    /// The cookie of the newest line of a directory: what arrives from now on comes after it.
    pub fn last_cookie(&self, directory: InodeId) -> Result<u64, Stop> {
        let entries = self.node(directory)?.directory.as_deref().ok_or(Stop::Errno(ENOTDIR))?;
        if entries.complete { Ok(entries.last_cookie()) } else { Err(Stop::Missing(Missing::Listing(directory))) }
    }

    /// The directory that holds a directory; the root is its own parent, and so is a removed directory that is still open.
    pub fn parent(&self, directory: InodeId) -> Result<InodeId, Stop> {
        let is = |child: &Option<(InodeId, Kind)>| child.is_some_and(|(child, _)| child == directory);
        if let Some(set) = self.entries.iter().rev().find(|set| is(&set.child)) {
            return Ok(set.directory);
        }
        if directory == self.tree.root {
            return Ok(directory);
        }
        self.node(directory)?;
        Ok(self.tree.name_of(directory).map_or(directory, |(parent, _)| parent))
    }

    /// True if open handles or kernel references pin the inode.
    pub fn is_pinned(&self, inode: InodeId) -> Result<bool, Stop> {
        let staged: i64 = self.pins.iter().filter(|(pinned, _)| *pinned == inode).map(|(_, count)| count).sum();
        let held = self.tree.node(inode).map_or(0, |node| node.pins);
        Ok(i128::from(held) + i128::from(staged) > 0)
    }

    /// A new inode with these attributes (the kind is theirs, the size that of the symlink's target or 0). It needs a name, or
    /// a pin, in the same transaction, or it is dropped again.
    pub fn create(&mut self, mut attributes: Attributes) -> Result<InodeId, Stop> {
        self.writable()?;
        attributes.size = if attributes.kind == Kind::Symlink { attributes.target.len() as u64 } else { 0 };
        check(&attributes)?;
        let mut random = zeroize::Zeroizing::new([0u8; 48]);
        getrandom::fill(&mut random[..]).map_err(|_| Stop::Errno(EIO))?;
        let inode = InodeId::try_from(&random[..16]).expect("sixteen bytes");
        let key = SecretBytes::try_from(&random[16..]).expect("thirty-two bytes");
        self.created.push((inode, attributes.kind));
        self.changes.push(Mutation::Create { inode, key, attributes: Box::new(attributes.clone()) });
        self.attributes.push(Staged { inode, now: attributes.clone(), before: attributes });
        Ok(inode)
    }

    /// Replaces attributes. Kind and size stay as they are whatever is given.
    ///
    /// Times of a directory alone, in a transaction that sets names in it, and an access time alone, go to the network with
    /// its next other change; the network keeps a clear time of entry changes by itself.
    pub fn set_attributes(&mut self, inode: InodeId, attributes: Attributes) -> Result<(), Stop> {
        self.writable()?;
        let now = self.attributes(inode)?;
        let attributes = Attributes { kind: now.kind, size: now.size, target: now.target.clone(), ..attributes };
        check(&attributes)?;
        self.stage(inode, now).now = attributes;
        Ok(())
    }

    /// Lets a name of a directory name `child`, or nothing. The tree counts nlink and knows the parent of a moved directory;
    /// what the name named before loses a name, and is dropped with the last one (once unpinned). Times are the caller's to
    /// set.
    pub fn set_entry(&mut self, directory: InodeId, name: &Name, child: Option<InodeId>) -> Result<(), Stop> {
        self.writable()?;
        let previous = self.entry_kind(directory, name)?;
        let child = child.map(|child| self.kind(child).map(|kind| (child, kind))).transpose()?;
        if previous == child {
            return Ok(());
        }
        if previous.is_none() && !self.is_covered(directory, name) {
            return Err(Stop::Uncovered(directory, name.clone()));
        }
        self.changes.push(Mutation::Entry {
            directory,
            name: name.clone(),
            previous: previous.map(|(inode, _)| inode),
            child: child.map(|(inode, _)| inode),
        });
        self.entries.push(SetEntry { directory, name: name.clone(), previous, child });
        Ok(())
    }

    /// Cuts a file at `size`, or extends it with a hole.
    pub fn resize(&mut self, inode: InodeId, size: u64) -> Result<(), Stop> {
        self.writable()?;
        if size > MAX_OFFSET {
            return Err(Stop::Errno(EFBIG));
        }
        let now = self.attributes(inode)?;
        if now.kind != Kind::File {
            return Err(Stop::Errno(EINVAL));
        }
        if now.size == size {
            return Ok(());
        }
        // A file that starts anew gets a fresh data file: the old one may be all that a power cut leaves. Not where the kernel
        // reads the data file by itself: there it is emptied later (`passthrough`).
        let content = self.tree.node(inode).and_then(|node| node.content.as_deref());
        let stays = content.is_some_and(|content| content.lent > 0 || content.exposed);
        self.changes.push(Mutation::Resize { inode, size, anew: size == 0 && !stays });
        self.stage(inode, now).now.size = size;
        Ok(())
    }

    /// Makes a hole of `offset..offset + length`, up to the end of the file; the size stays.
    pub fn punch(&mut self, inode: InodeId, offset: u64, length: u64) -> Result<(), Stop> {
        self.writable()?;
        if self.kind(inode)? != Kind::File {
            return Err(Stop::Errno(EINVAL));
        }
        self.changes.push(Mutation::Punch { inode, offset, length });
        Ok(())
    }

    /// Counts one open handle or kernel reference: a pinned inode stays in memory and keeps its content when it loses its last
    /// name. Not journaled: after a crash nothing is pinned.
    pub fn pin(&mut self, inode: InodeId) -> Result<(), Stop> {
        self.kind(inode)?;
        self.pins.push((inode, 1));
        Ok(())
    }

    /// Takes back `count` pins. Unknown inodes are ignored.
    pub fn unpin(&mut self, inode: InodeId, count: u64) {
        self.pins.push((inode, -i64::try_from(count).unwrap_or(i64::MAX)));
    }

    /// What the changes come down to: adoptions first, then the changes in order, then attributes.
    pub(crate) fn finish(self) -> Outcome {
        let Self { tree, mut changes, entries, attributes, pins, .. } = self;
        for Staged { inode, now, before } in attributes {
            let entry_change = entries.iter().any(|set| set.directory == inode);
            if let Some(mutation) = attribute_change(inode, now, &before, entry_change) {
                changes.push(mutation);
            }
        }
        // A lost access time is no loss: no record, and so no adoption either.
        let journaled = !changes.iter().all(|change| matches!(change, Mutation::Times { soft: true, .. }));
        let mutations = if journaled { tree.with_adoptions(changes) } else { changes };
        Outcome { mutations, pins, journaled }
    }

    /// True if nobody else can be bringing the name to be: nobody else knows a directory that no cut has taken.
    fn is_covered(&self, directory: InodeId, name: &Name) -> bool {
        self.tree.node(directory).is_none_or(|node| node.version == 0) || (self.covered)(directory, name)
    }

    fn stage(&mut self, inode: InodeId, before: Attributes) -> &mut Staged {
        let at = self.attributes.iter().position(|staged| staged.inode == inode).unwrap_or_else(|| {
            self.attributes.push(Staged { inode, now: before.clone(), before });
            self.attributes.len() - 1
        });
        &mut self.attributes[at]
    }

    fn entry_kind(&self, directory: InodeId, name: &Name) -> Result<Option<(InodeId, Kind)>, Stop> {
        if let Some(set) = self.entries.iter().rev().find(|set| set.directory == directory && set.name == *name) {
            return Ok(set.child);
        }
        if self.created.iter().any(|(created, _)| *created == directory) {
            return Ok(None);
        }
        let missing = || Stop::Missing(Missing::Entries(directory, vec![name.clone()]));
        let entries = self.node(directory)?.directory.as_deref().ok_or(Stop::Errno(ENOTDIR))?;
        let child = entries.get(name).ok_or_else(missing)?;
        let is_unknown = match child {
            Some((inode, _)) => self.tree.node(inode).is_none(),
            None => self.tree.is_left(directory, name),
        };
        if is_unknown {
            return Err(missing());
        }
        Ok(child)
    }

    fn node(&self, inode: InodeId) -> Result<&'a Node, Stop> {
        self.tree.node(inode).ok_or(Stop::Stale)
    }

    fn writable(&self) -> Result<(), Stop> {
        if self.read_only { Err(Stop::Errno(EROFS)) } else { Ok(()) }
    }
}

impl Tree {
    /// Puts in front what the journal does not know yet of the nodes that the mutations refer to, parents first.
    pub(crate) fn with_adoptions(&self, mutations: Vec<Mutation>) -> Vec<Mutation> {
        let mut seen = HashSet::new();
        let mut adoptions = Vec::new();
        for inode in mutations.iter().flat_map(subjects).flatten() {
            self.adopt_into(inode, &mut seen, &mut adoptions);
        }
        // Names that only the network told of are in no record: how many there are decides whether the last one goes.
        let named = mutations.iter().flat_map(|mutation| match mutation {
            Mutation::Entry { previous, child, .. } => [*previous, *child],
            _ => [None; 2],
        });
        let told: BTreeMap<InodeId, u32> =
            named.flatten().filter_map(|inode| Some((inode, self.uncounted_links(inode)?))).collect();
        adoptions.extend(told.into_iter().map(|(inode, links)| Mutation::Links { inode, links }));
        if adoptions.is_empty() {
            return mutations;
        }
        adoptions.extend(mutations);
        adoptions
    }

    /// What the journal has to know of a node to refer to it; a name only in a directory that is known.
    pub(super) fn adopt_of(&self, inode: InodeId) -> Option<Adopt> {
        let mut adopt = self.node(inode)?.adopt(inode);
        adopt.name = self.name_of(inode);
        Some(adopt)
    }

    fn adopt_into(&self, inode: InodeId, seen: &mut HashSet<InodeId>, adoptions: &mut Vec<Mutation>) {
        let mut chain = Vec::new();
        let mut next = Some(inode);
        while let Some(inode) = next.take()
            && self.node(inode).is_some_and(|node| !node.journaled)
            && seen.insert(inode)
        {
            let Some(adopt) = self.adopt_of(inode) else { continue };
            next = adopt.name.as_ref().map(|(parent, _)| *parent);
            chain.extend(adopt.counted());
            chain.push(Mutation::Adopt(Box::new(adopt)));
        }
        adoptions.extend(chain.into_iter().rev());
    }
}

/// The nodes a mutation refers to.
fn subjects(mutation: &Mutation) -> [Option<InodeId>; 3] {
    match mutation {
        Mutation::Attributes { inode, .. }
        | Mutation::Times { inode, .. }
        | Mutation::Resize { inode, .. }
        | Mutation::Punch { inode, .. }
        | Mutation::Links { inode, .. }
        | Mutation::Exposed { inode, .. }
        | Mutation::Elsewhere { inode } => [Some(*inode), None, None],
        Mutation::Rebase(rebase) => [Some(rebase.inode), None, None],
        Mutation::RebaseEntry { directory, .. } => [Some(*directory), None, None],
        Mutation::Write(write) => [Some(write.inode), None, None],
        Mutation::Entry { directory, previous, child, .. } => [Some(*directory), *previous, *child],
        _ => [None; 3],
    }
}

/// The smallest mutation that brings attributes from `before` to `now`; sizes are changed by other means.
pub(crate) fn attribute_change(
    inode: InodeId,
    now: Attributes,
    before: &Attributes,
    entry_change: bool,
) -> Option<Mutation> {
    let (new, old) = (now.times(), before.times());
    let mut plain = now.clone();
    plain.set_times(&old);
    plain.size = before.size;
    if plain != *before {
        return Some(Mutation::Attributes { inode, soft: false, attributes: Box::new(now) });
    }
    if new == old {
        return None;
    }
    let access_alone = new.mtime == old.mtime && new.ctime == old.ctime;
    Some(Mutation::Times { inode, soft: access_alone || entry_change, times: new })
}

fn is_directory(child: &Option<(InodeId, Kind)>) -> bool {
    matches!(child, Some((_, Kind::Directory)))
}

fn check(attributes: &Attributes) -> Result<(), Stop> {
    attributes.check().map_err(|_| Stop::Errno(EINVAL))
}

// The numbers of Linux: this crate has no libc.
const EIO: i32 = 5;
const ENOTDIR: i32 = 20;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const EROFS: i32 = 30;
