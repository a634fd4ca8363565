//! Taking what is pending at one moment. Runs under the lock of the tree, and again when the journal is replayed.

use super::limits::MOST_RANGES;
use crate::Name;
use crate::content::Digest;
use crate::content::clones::Origin;
use crate::content::map::{Backing, Fill, Frozen, Part, Unsealed};
use crate::content::saved::Saved;
use crate::record::Mutation;
use crate::tree::{LastSeen, Tree};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use strewn_engine::bucket::{Kind, MAX_INLINE, MAX_OPERATIONS, Timestamp};
use strewn_engine::ids::InodeId;
use strewn_engine::record::{Attributes, Record};
use strewn_engine::secret::Key;

/// How names of files that are open without a name begin.
const PARKED: &str = ".strewn-unlinked-";

/// What a cut took.
#[derive(Debug)]
pub(crate) struct FrozenCut {
    /// Its number: rising, never reused.
    pub(crate) cut: u64,
    /// Changed names.
    pub(crate) names: Vec<FrozenName>,
    /// Changed inodes.
    pub(crate) inodes: Vec<FrozenInode>,
    /// Bytes of data that are to be sealed.
    pub(crate) bytes: u64,
    /// When the oldest of it was changed.
    pub(crate) oldest: Instant,
}

/// A changed name.
#[derive(Debug)]
pub(crate) struct FrozenName {
    pub(crate) directory: InodeId,
    pub(crate) directory_key: Key,
    pub(crate) name: Name,
    pub(crate) expected: Option<InodeId>,
    /// The row of what it named, if that is a file that has no name here any more.
    pub(crate) seen: Option<LastSeen>,
    pub(crate) target: Option<(InodeId, Kind, Key)>,
    pub(crate) time: Timestamp,
}

/// A changed inode.
#[derive(Debug)]
pub(crate) struct FrozenInode {
    pub(crate) inode: InodeId,
    pub(crate) key: Key,
    pub(crate) attributes: Attributes,
    /// Row version before; 0 for a new inode.
    pub(crate) expected_version: u64,
    /// Row version after.
    pub(crate) version: u64,
    /// Of the content before.
    pub(crate) digest: Digest,
    /// The attributes before, if they are known.
    pub(crate) base: Option<Box<Attributes>>,
    /// Changed ranges, sorted; they may reach beyond the size.
    pub(crate) ranges: Arc<Vec<(Range<u64>, Fill)>>,
    /// Parts of them that runs of the network have, sorted.
    pub(crate) clones: Vec<(Range<u64>, Origin)>,
    /// Where the data lies.
    pub(crate) source: Source,
    /// Plaintext bytes of inline runs so far, if known.
    pub(crate) inlined: Option<u64>,
}

/// Where frozen data lies.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// These bytes, from offset 0.
    Memory(Arc<Vec<u8>>),
    /// In a data file.
    File(Unsealed),
}

impl FrozenInode {
    /// What it was before, if that is known, with what is known of its content.
    pub(crate) fn base_record(&self, digest: Digest) -> Option<Record> {
        let attributes = self.base.as_deref()?.clone();
        let entries_as_of = attributes.ctime;
        Some(Record { attributes, content: digest.hash, entries_as_of, allocated: None })
    }

    /// A changed range of data, which is either to be sealed or has an origin.
    pub(crate) fn parts(&self, range: &Range<u64>) -> Vec<(Range<u64>, Option<&Origin>)> {
        let mut parts = Vec::new();
        let mut at = range.start;
        let first = self.clones.partition_point(|(clone, _)| clone.end <= range.start);
        for (clone, origin) in self.clones[first..].iter().take_while(|(clone, _)| clone.start < range.end) {
            let clone = clone.start.max(range.start)..clone.end.min(range.end);
            parts.push((at..clone.start, None));
            at = clone.end;
            parts.push((clone, Some(origin)));
        }
        parts.push((at..range.end, None));
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }

    /// Lengths of the stretches that are to be sealed.
    fn to_seal(&self) -> impl Iterator<Item = u64> {
        let data = self.ranges.iter().filter(|(_, fill)| *fill == Fill::Data);
        let parts = data.flat_map(|(range, _)| self.parts(range));
        parts.filter(|(_, origin)| origin.is_none()).map(|(part, _)| part.end - part.start)
    }
}

impl FrozenCut {
    /// Files that parts of runs were cloned into.
    pub(crate) fn cloned(&self) -> impl Iterator<Item = &FrozenInode> {
        self.inodes.iter().filter(|inode| !inode.clones.is_empty())
    }

    /// Files that got a name of the root, to be journaled.
    pub(crate) fn parks(&self) -> Vec<Mutation> {
        let parked =
            |name: &&FrozenName| name.name.as_bytes().starts_with(PARKED.as_bytes()) && name.expected.is_none();
        let park = |name: &FrozenName| Some(Mutation::Park { inode: name.target.as_ref()?.0, name: name.name.clone() });
        self.names.iter().filter(parked).filter_map(park).collect()
    }
}

impl Tree {
    /// Takes what is pending as cut `cut`; all of it, unless it is more than a batch can hold (after a crash between cuts, or a
    /// conflict). `None` if nothing is pending.
    pub(crate) fn freeze(&mut self, cut: u64) -> Option<FrozenCut> {
        let (orders, inodes) = self.choose();
        if orders.is_empty() && inodes.is_empty() {
            return None;
        }
        let oldest = self.oldest.unwrap_or_else(Instant::now);
        let mut names: Vec<FrozenName> = orders.iter().filter_map(|order| self.freeze_name(cut, *order)).collect();
        // What is left of them is about directories that are no more.
        orders.iter().for_each(|order| drop(self.changed_names.remove(order)));
        let room = MAX_OPERATIONS.saturating_sub(names.len() + inodes.len());
        let parks: Vec<FrozenName> = names.iter().filter_map(|name| self.park(name)).take(room).collect();
        names.extend(parks);
        let inodes: Vec<FrozenInode> = inodes.iter().filter_map(|inode| self.freeze_inode(cut, *inode)).collect();
        for name in &names {
            self.drop_if_gone(name.directory);
        }
        if self.pending_operations() == 0 {
            (self.oldest, self.newest) = (None, None);
        }
        let bytes = inodes.iter().flat_map(FrozenInode::to_seal).sum();
        Some(FrozenCut { cut, names, inodes, bytes, oldest })
    }

    fn freeze_name(&mut self, cut: u64, order: u64) -> Option<FrozenName> {
        let (directory, name) = self.changed_names.get(&order).cloned()?;
        let node = self.node(directory)?;
        let (directory_key, time) = (node.key.clone(), node.attributes.ctime);
        let slot = node.directory.as_deref()?.slot(&name)?;
        let (expected, child) = (slot.base()?.0, slot.child);
        let target = child.and_then(|(inode, kind)| Some((inode, kind, self.node(inode)?.key.clone())));
        self.set_base(directory, &name, child.map(|(inode, _)| inode));
        self.entries_mut(directory).into_iter().for_each(|entries| entries.set_cut(&name, cut));
        self.in_cut(cut).names.push((directory, name.clone()));
        for inode in [Some(directory), expected, child.map(|(inode, _)| inode)].into_iter().flatten() {
            if let Some(node) = self.node_mut(inode)
                && std::mem::take(&mut node.renamed)
            {
                node.cut = cut;
                self.in_cut(cut).inodes.push(inode);
            }
        }
        let seen = expected.and_then(|inode| self.last_seen(inode));
        if let Some(inode) = expected {
            self.note_name_taken(inode, cut);
            self.recount_after(cut, inode);
        }
        Some(FrozenName { directory, directory_key, name, expected, seen, target, time })
    }

    /// A cut takes a name from a file. Where that name was only heard of, and something else is here under it, it was counted
    /// all the same: how many are left is asked once the network has the cut.
    fn recount_after(&mut self, cut: u64, inode: InodeId) {
        let Some(node) = self.node_mut(inode).filter(|node| !node.is_directory() && node.links > 0) else { return };
        if node.cut != cut {
            node.cut = cut;
            self.in_cut(cut).inodes.push(inode);
            self.miss_inode(inode);
        }
    }

    /// An open file loses its last name: the network would drop its content, so it gets a name of the root until it is closed.
    /// Files that are here as a whole need none.
    fn park(&self, lost: &FrozenName) -> Option<FrozenName> {
        let inode = lost.expected?;
        let node = self.node(inode).filter(|node| node.orphan && node.pins > 0 && node.version > 0)?;
        let content = node.content.as_deref()?;
        let size = node.attributes.size;
        let whole = content.parts(0..size).iter().all(|part| matches!(part, Part::Present(_) | Part::Hole(_)));
        if whole || self.parked.contains_key(&inode) {
            return None;
        }
        let root = self.node(self.root)?;
        Some(FrozenName {
            directory: self.root,
            directory_key: root.key.clone(),
            name: Name::new(format!("{PARKED}{inode}").as_bytes()).expect("printable and short"),
            expected: None,
            seen: None,
            target: Some((inode, node.kind(), node.key.clone())),
            time: root.attributes.ctime,
        })
    }

    fn freeze_inode(&mut self, cut: u64, inode: InodeId) -> Option<FrozenInode> {
        let base = self.node_mut(inode)?.base.take();
        self.mark_clean(inode);
        let total = self.saved.clone();
        let node = self.node_mut(inode)?;
        let expected_version = node.version;
        let floor = if expected_version == 0 { node.floor } else { 0 };
        node.version = expected_version.max(floor) + 1;
        let version = node.version;
        (node.cut, node.put) = (cut, cut);
        let (key, attributes) = (node.key.clone(), node.attributes.clone());
        let mut frozen = FrozenInode {
            inode,
            key,
            attributes,
            expected_version,
            version,
            digest: node.digest,
            base,
            ranges: Arc::default(),
            clones: Vec::new(),
            source: Source::Memory(Arc::default()),
            inlined: None,
        };
        let (mut dirty, mut left, mut more) = (0, 0, false);
        if let Some(content) = node.content.as_deref_mut()
            && !content.dirty.is_empty()
        {
            dirty = content.dirty_bytes();
            content.widen(frozen.attributes.size);
            let mut ranges = std::mem::take(&mut content.dirty).into_iter();
            frozen.ranges = Arc::new(match content.clones {
                None => ranges.by_ref().take(MOST_RANGES).collect(),
                Some(_) => ranges.by_ref().collect(),
            });
            content.dirty = ranges.collect();
            (left, more) = (content.dirty_bytes(), !content.dirty.is_empty());
            frozen.clones = content.freeze_clones(cut, frozen.attributes.size);
            frozen.inlined = content.inlined;
            content.inlined = content.inlined.map(|bytes| bytes + inline_bytes(&frozen));
            let unsealed = match &content.backing {
                Backing::Memory(bytes) => {
                    frozen.source = Source::Memory(bytes.clone());
                    None
                }
                Backing::File => {
                    let saved = Arc::new(Saved::new(total));
                    let unsealed = Unsealed { generation: content.generation, saved };
                    frozen.source = Source::File(unsealed.clone());
                    Some(unsealed)
                }
            };
            content.frozen.push(Frozen { cut, ranges: frozen.ranges.clone(), unsealed });
        }
        self.dirty_bytes = self.dirty_bytes + left - dirty;
        self.in_cut(cut).inodes.push(inode);
        if more {
            self.node_mut(inode)?.keep_base();
            self.mark_dirty(inode);
        }
        Some(frozen)
    }
}

/// Most that sealing can add inline.
fn inline_bytes(frozen: &FrozenInode) -> u64 {
    frozen.to_seal().filter(|length| *length <= MAX_INLINE as u64).sum()
}
