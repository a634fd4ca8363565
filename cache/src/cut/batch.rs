//! Making the batch of a sealed cut: extents and tags renewed, names, keys and records sealed.

use super::freeze::{FrozenCut, FrozenInode, FrozenName};
use super::seal::{Sealed, Segment};
use crate::Error;
use crate::content::Digest;
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use strewn_engine::bucket::{
    self, CheckGone, Commit, Extent, Kind, Operation, PutInode, RangeChange, SetEntry, Target, WindowTag,
};
use strewn_engine::content::{WINDOW, extent, window};
use strewn_engine::ids::{CommitId, InodeId, MountId, RunId};
use strewn_engine::keys::{DirectoryKeys, InodeKeys};
use strewn_engine::record::Record;
use strewn_engine::secret::Key;

/// The network's extents of a file before a cut: all tags, and the extents of the windows that the cut touches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Base {
    pub(crate) tags: BTreeMap<u64, WindowTag>,
    pub(crate) windows: BTreeMap<u64, Vec<Extent>>,
    /// Somebody else replaced the file: these are the changes of queued batches alone.
    pub(crate) torn: bool,
}

/// The extents of a file after a cut.
#[derive(Debug, Clone)]
pub(crate) struct Renewed {
    pub(crate) inode: InodeId,
    pub(crate) tags: BTreeMap<u64, WindowTag>,
    /// The touched windows.
    pub(crate) windows: BTreeMap<u64, Vec<Extent>>,
    /// What its record is to say of it.
    pub(crate) digest: Digest,
    /// As of its base.
    pub(crate) torn: bool,
}

/// A batch that is ready to be sent, as it is kept on disk.
///
/// ```text
/// version = 2 (1) | postcard of Batch
/// version = 1 (1) | postcard of the same without bases
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// The cut it is of.
    pub(crate) cut: u64,
    /// The batch.
    pub(crate) commit: Commit,
    /// The segments it needs.
    pub(crate) segments: Vec<Segment>,
    /// Bytes of data in it.
    pub(crate) bytes: u64,
    /// What inodes were before it, as far as it is known: records sealed as if of the row versions that it expects. Never
    /// sent.
    pub(crate) bases: Vec<(InodeId, bucket::Sealed)>,
}

const VERSION: u8 = 2;
/// Of the first releases, which kept no bases.
const WITHOUT_BASES: u8 = 1;

/// Most windows that are loaded only to count what is left of a file without them.
const MOST_DROPPED: usize = 64;

impl Batch {
    /// The inodes it puts.
    pub(crate) fn puts(&self) -> impl Iterator<Item = &PutInode> {
        self.commit.operations.iter().filter_map(|operation| match operation {
            Operation::PutInode(put) => Some(put),
            Operation::SetEntry(_) | Operation::CheckGone(_) => None,
        })
    }

    /// True if it refers to runs that it does not bring.
    pub(crate) fn has_clones(&self) -> bool {
        let brought: HashSet<RunId> = self.commit.runs.iter().map(|new| new.run).collect();
        let mut extents = self.puts().flat_map(|put| &put.ranges).flat_map(|change| &change.extents);
        extents.any(|extent| !brought.contains(&extent.run))
    }

    /// The stored form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain structs encode")
    }

    /// Reads the batch of a cut. Blocks.
    pub(crate) fn read(store: &Store, cut: u64) -> Result<Self, Error> {
        let bytes = store.read_cut(cut)?;
        Self::parse(&bytes).map_err(|error| Error::Corrupt(format!("batch of cut {cut}: {error}")))
    }

    /// Reads the stored form.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let parsed = match bytes.split_first() {
            Some((&VERSION, body)) => postcard::take_from_bytes(body),
            Some((&WITHOUT_BASES, body)) => postcard::take_from_bytes(body).map(|(fields, rest)| {
                let (cut, commit, segments, bytes) = fields;
                (Self { cut, commit, segments, bytes, bases: Vec::new() }, rest)
            }),
            _ => return Err(String::from("unknown version")),
        };
        let (batch, rest) = parsed.map_err(|error| error.to_string())?;
        if rest.is_empty() { Ok(batch) } else { Err(String::from("trailing bytes")) }
    }
}

/// The windows whose extents must be known before a cut of this inode can become a batch.
pub(crate) fn touched_windows(inode: &FrozenInode) -> BTreeSet<u64> {
    let kept = inode.attributes.size.div_ceil(WINDOW);
    inode
        .ranges
        .iter()
        .flat_map(|(range, _)| window::covering(range.start..range.end.min(kept.saturating_mul(WINDOW))))
        .collect()
}

/// The windows that a cut takes away with the file's end, as far as `tags` has them if they are known: their extents are
/// needed to count what is left. None if nothing is left, or if they are too many to load them for that.
pub(crate) fn dropped_windows(inode: &FrozenInode, tags: Option<&BTreeMap<u64, WindowTag>>) -> BTreeSet<u64> {
    let kept = inode.attributes.size.div_ceil(WINDOW);
    let dropped: BTreeSet<u64> = match tags {
        Some(tags) => tags.range(kept..).map(|(number, _)| *number).take(MOST_DROPPED + 1).collect(),
        None => {
            let beyond = inode.ranges.iter().map(|(range, _)| range.start.max(kept.saturating_mul(WINDOW))..range.end);
            beyond.filter(|range| !range.is_empty()).flat_map(window::covering).take(MOST_DROPPED + 1).collect()
        }
    };
    if kept == 0 || dropped.len() > MOST_DROPPED { BTreeSet::new() } else { dropped }
}

/// What a cut makes of a file's extents.
///
/// Bytes that are not in holes are counted from what they were `before` and the extents that went and came; where one of them
/// is not known, from all windows that are left if the cut touched all of them; else they are not counted any more.
pub(crate) fn renew(
    inode: &FrozenInode,
    keys: &InodeKeys,
    changes: &[RangeChange],
    base: Base,
    before: Option<u64>,
) -> Renewed {
    let size = inode.attributes.size;
    let Base { mut tags, windows, torn } = base;
    // Windows beyond the end go with their extents.
    let dropped = tags.split_off(&size.div_ceil(WINDOW));
    let gone =
        dropped.keys().map(|number| windows.get(number).map(|extents| extent::total(extents))).sum::<Option<u64>>();
    let mut after = BTreeMap::new();
    for number in touched_windows(inode) {
        let range = window::range(number);
        let here: Vec<RangeChange> = changes.iter().filter_map(|change| clip(change, &range)).collect();
        let old = windows.get(&number).map_or(&[][..], |extents| extents);
        let mut new = extent::replace_ranges(old, &here);
        extent::truncate(&mut new, size);
        if new.is_empty() {
            tags.remove(&number);
        } else {
            tags.insert(number, keys.window_tag(inode.inode, number, &new));
        }
        after.insert(number, new);
    }
    let list: Vec<_> = tags.iter().map(|(number, tag)| (*number, *tag)).collect();
    let touched: u64 =
        after.keys().filter_map(|number| windows.get(number)).map(|extents| extent::total(extents)).sum();
    let now: u64 = after.values().map(|extents| extent::total(extents)).sum();
    let counted = || before?.checked_sub(gone?)?.checked_sub(touched)?.checked_add(now);
    let whole = || tags.keys().all(|number| after.contains_key(number)).then_some(now);
    let allocated = counted().or_else(whole).filter(|bytes| *bytes <= size);
    let digest = Digest { hash: window::content_hash(&list), allocated };
    Renewed { inode: inode.inode, tags, windows: after, digest, torn }
}

/// The part of a change within one window.
fn clip(change: &RangeChange, range: &std::ops::Range<u64>) -> Option<RangeChange> {
    let start = change.offset.max(range.start);
    let end = (change.offset + change.length).min(range.end);
    (start < end).then(|| RangeChange {
        offset: start,
        length: end - start,
        extents: extent::cut(&change.extents, &(start..end)),
    })
}

/// What identifies a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) id: CommitId,
    pub(crate) mount: MountId,
    pub(crate) number: u64,
}

/// Makes the batch. `renewed` has the files with changed content; `digests` says what the content of the other inodes is.
pub(crate) fn make(
    stream: Stream,
    frozen: &FrozenCut,
    sealed: Sealed,
    renewed: &HashMap<InodeId, Renewed>,
    digests: &HashMap<InodeId, Digest>,
) -> Batch {
    let mut directories = HashMap::new();
    let names = frozen.names.iter().map(|name| set_entry(name, &mut directories));
    let puts = frozen.inodes.iter().zip(sealed.changes).map(|(inode, changes)| {
        let digest = digests.get(&inode.inode).copied().unwrap_or(inode.digest);
        put_inode(inode, changes, renewed.get(&inode.inode), digest)
    });
    let put: HashSet<InodeId> = frozen.inodes.iter().map(|inode| inode.inode).collect();
    let seen = frozen.names.iter().filter_map(|name| Some((name.expected?, name.seen?.version)));
    let checks: BTreeMap<InodeId, u64> = seen.filter(|(inode, _)| !put.contains(inode)).collect();
    let checks = checks.into_iter().map(|(inode, version)| Operation::CheckGone(CheckGone { inode, version }));
    let operations = names.chain(puts).chain(checks).collect();
    Batch {
        cut: frozen.cut,
        commit: Commit { id: stream.id, mount: stream.mount, number: stream.number, operations, runs: sealed.runs },
        segments: sealed.segments,
        bytes: frozen.bytes,
        bases: frozen.inodes.iter().filter_map(|inode| Some((inode.inode, seal_base(inode, digests)?))).collect(),
    }
}

/// What an inode was before a cut, sealed.
fn seal_base(inode: &FrozenInode, digests: &HashMap<InodeId, Digest>) -> Option<bucket::Sealed> {
    let record = inode.base_record(digests.get(&inode.inode).copied().unwrap_or(inode.digest))?;
    let kind = record.attributes.kind;
    Some(InodeKeys::new(&inode.key).seal_record(inode.inode, kind, inode.expected_version, &record))
}

fn set_entry(name: &FrozenName, directories: &mut HashMap<InodeId, DirectoryKeys>) -> Operation {
    let keys = directories.entry(name.directory).or_insert_with(|| DirectoryKeys::new(&name.directory_key));
    let encrypted = keys.encrypt_name(name.directory, &name.name);
    let target = |(child, kind, key): &(InodeId, _, Key)| Target {
        child: *child,
        kind: *kind,
        key: keys.seal_child(name.directory, &encrypted, *child, *kind, key),
    };
    let target = name.target.as_ref().map(target);
    Operation::SetEntry(SetEntry {
        parent: name.directory,
        name: encrypted,
        expected: name.expected,
        target,
        time: name.time,
    })
}

fn put_inode(inode: &FrozenInode, ranges: Vec<RangeChange>, renewed: Option<&Renewed>, digest: Digest) -> Operation {
    let attributes = &inode.attributes;
    let version = inode.version;
    let Digest { hash: content, allocated } = renewed.map_or(digest, |renewed| renewed.digest);
    let countable = |bytes: &u64| attributes.kind == Kind::File && *bytes <= attributes.size;
    let allocated = allocated.filter(countable);
    let record = Record { attributes: attributes.clone(), content, entries_as_of: attributes.ctime, allocated };
    let tag = |number: &u64| (*number, renewed.and_then(|renewed| renewed.tags.get(number).copied()));
    let windows = renewed.map(|renewed| renewed.windows.keys()).into_iter().flatten();
    Operation::PutInode(PutInode {
        inode: inode.inode,
        kind: attributes.kind,
        expected_version: inode.expected_version,
        version,
        size: attributes.size,
        record: InodeKeys::new(&inode.key).seal_record(inode.inode, attributes.kind, version, &record),
        changed: attributes.ctime,
        ranges,
        tags: windows.map(tag).collect(),
    })
}

/// What puts make of a window.
pub(crate) fn apply_puts(puts: &[&PutInode], number: u64, mut extents: Vec<Extent>) -> Vec<Extent> {
    for put in puts {
        let range = window::range(number);
        let here: Vec<RangeChange> = put.ranges.iter().filter_map(|change| clip(change, &range)).collect();
        extents = extent::replace_ranges(&extents, &here);
        extent::truncate(&mut extents, put.size);
    }
    extents
}

/// What puts make of a file's tags.
pub(crate) fn apply_puts_to_tags(puts: &[&PutInode], mut tags: BTreeMap<u64, WindowTag>) -> BTreeMap<u64, WindowTag> {
    for put in puts {
        tags.split_off(&put.size.div_ceil(WINDOW));
        for (number, tag) in &put.tags {
            match tag {
                Some(tag) => tags.insert(*number, *tag),
                None => tags.remove(number),
            };
        }
    }
    tags
}

/// The puts of an inode that come after the network's row of this version and record, of those in batches that left the queue
/// lately and of those that wait there. Of the former those that are newer; of the latter all, but for those that the row
/// shows already because only the answer was lost. A row of somebody else's does not hide what waits here.
pub(crate) fn puts_after<'a>(
    (version, record): (u64, Option<&bucket::Sealed>),
    recent: impl Iterator<Item = &'a PutInode>,
    queued: &'a [PutInode],
) -> Vec<&'a PutInode> {
    let mut puts: Vec<&PutInode> = recent.filter(|put| put.version > version).collect();
    let shown = queued.iter().rposition(|put| record == Some(&put.record));
    puts.extend(&queued[shown.map_or(0, |last| last + 1)..]);
    puts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use strewn_engine::bucket::{EncryptedName, Sealed, Timestamp};
    use strewn_engine::ids::SegmentId;

    /// A batch of the first releases: a name that goes, and an attribute that changes.
    const OLD: &str = include_str!("../../tests/data/batch-v1.hex");

    fn sample(bases: Vec<(InodeId, Sealed)>) -> Batch {
        let inode = InodeId::from_bytes([7; 16]);
        let moment = Timestamp { seconds: 1_700_000_000, nanos: 5 };
        let set = SetEntry {
            parent: InodeId::from_bytes([1; 16]),
            name: EncryptedName::try_from(vec![3; EncryptedName::MIN]).expect("long enough"),
            expected: Some(inode),
            target: None,
            time: moment,
        };
        let put = PutInode {
            inode,
            kind: Kind::File,
            expected_version: 4,
            version: 5,
            size: 10,
            record: Sealed { generation: 1, bytes: vec![9; 20].into() },
            changed: moment,
            ranges: Vec::new(),
            tags: Vec::new(),
        };
        let operations = vec![Operation::SetEntry(set), Operation::PutInode(put)];
        let (id, mount) = (CommitId::from_bytes([2; 16]), MountId::from_bytes([5; 16]));
        let commit = Commit { id, mount, number: 6, operations, runs: Vec::new() };
        let segments = vec![Segment { id: SegmentId::from_bytes([8; 16]), length: 1 << 20 }];
        Batch { cut: 3, commit, segments, bytes: 1_000, bases }
    }

    #[test]
    fn reads_the_bytes_of_the_first_release() {
        let bytes = data_encoding::HEXLOWER.decode(OLD.trim().as_bytes()).expect("hexadecimal");
        assert_eq!(Batch::parse(&bytes), Ok(sample(Vec::new())));
    }

    #[test]
    fn reads_what_it_wrote() {
        let base = Sealed { generation: 1, bytes: vec![6; 30].into() };
        let batch = sample(vec![(InodeId::from_bytes([7; 16]), base)]);
        assert_eq!(Batch::parse(&batch.encode()), Ok(batch.clone()));
        assert!(Batch::parse(&[&batch.encode()[..], &[0]].concat()).is_err());
        assert!(Batch::parse(&[3]).is_err() && Batch::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_outside_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for version in [WITHOUT_BASES, VERSION] {
                let _ = Batch::parse(&bytes);
                bytes.insert(0, version);
            }
        }
    }
}
