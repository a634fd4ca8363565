//! How much goes into one cut, so that its batch is within what the network takes ([`MAX_OPERATIONS`], [`MAX_RUNS`],
//! [`MAX_EXTENTS`](strewn_engine::bucket::MAX_EXTENTS), [`MAX_COMMIT_BYTES`]).

use crate::tree::{Node, Tree};
use strewn_engine::bucket::{Commit, MAX_COMMIT_BYTES, MAX_INLINE, MAX_INLINE_FILE, MAX_OPERATIONS, MAX_RUNS, plan};
use strewn_engine::ids::InodeId;

/// Most changed ranges in one cut. Each becomes an extent and a run, or two where a window ends in it.
pub(crate) const MOST_RANGES: usize = MAX_RUNS / 2;
/// Most bytes of a batch, by what [`Weight`] takes them to be.
const MOST_BATCH: usize = MAX_COMMIT_BYTES / 4 * 3;
/// Bytes in a batch that none of these takes more of: a name, and an inode and a range without extended attributes, link target and
/// inline bytes.
const NAME: usize = 640;
const INODE: usize = 640;
const RANGE: usize = 320;

/// What a batch would hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weight {
    operations: usize,
    ranges: usize,
    bytes: usize,
}

impl Weight {
    pub(crate) fn add_name(&mut self) {
        self.operations += 1;
        self.bytes += NAME;
    }

    pub(crate) fn add_inode(&mut self, node: &Node) {
        let attributes = &node.attributes;
        let xattrs: usize = attributes.xattrs.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
        self.operations += 1;
        self.bytes += INODE + attributes.target.len() + xattrs;
        let ranges = node.content.as_deref().map_or(0, |content| content.dirty.len()).min(MOST_RANGES);
        self.ranges += ranges;
        self.bytes += ranges * RANGE + (ranges * MAX_INLINE).min(MAX_INLINE_FILE as usize);
    }

    /// True if so much fits into one batch.
    pub(crate) fn fits(&self) -> bool {
        self.operations <= MAX_OPERATIONS && self.ranges <= MOST_RANGES && self.bytes <= MOST_BATCH
    }

    /// True if nothing more should be added where not everything goes together.
    pub(crate) fn is_enough(&self) -> bool {
        self.operations >= MAX_OPERATIONS / 2 || self.ranges >= MOST_RANGES / 2 || self.bytes >= MOST_BATCH / 2
    }
}

/// True if the network never takes a batch, whatever it holds: it was made before the limits were kept.
pub(crate) fn is_too_much(commit: &Commit) -> bool {
    let bytes = postcard::to_allocvec(commit).map_or(usize::MAX, |encoded| encoded.len());
    plan::check_shape(commit).is_err() || bytes > MAX_COMMIT_BYTES
}

impl Tree {
    /// What a batch of everything that is pending would hold.
    pub(crate) fn weight(&self) -> Weight {
        let mut weight = Weight::default();
        self.changed_names.values().for_each(|_| weight.add_name());
        self.changed_inodes.values().for_each(|inode| self.add_weight(&mut weight, *inode));
        weight
    }

    pub(crate) fn add_weight(&self, weight: &mut Weight, inode: InodeId) {
        self.node(inode).into_iter().for_each(|node| weight.add_inode(node));
    }

    /// Ranges of all files that are changed.
    pub(crate) fn changed_ranges(&self) -> usize {
        let of = |inode: &InodeId| self.node(*inode).and_then(|node| Some(node.content.as_deref()?.dirty.len()));
        self.changed_inodes.values().filter_map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;
    use crate::drain::tests::opened;
    use crate::options::Options;
    use bytes::Bytes;
    use std::time::Duration;
    use strewn_engine::bucket::{Kind, NewRun, RunPlace};
    use strewn_engine::ids::{CommitId, MountId, RunId};
    use strewn_engine::record::Attributes;

    #[test]
    fn what_the_network_never_takes_is_known() {
        let run = |number: usize| NewRun {
            run: RunId::from_bytes((number as u128).to_le_bytes()),
            length: 1,
            place: RunPlace::Inline(Bytes::from_static(&[0; 17])),
        };
        let commit = |runs: usize| Commit {
            id: CommitId::from_bytes([1; 16]),
            mount: MountId::from_bytes([2; 16]),
            number: 1,
            operations: Vec::new(),
            runs: (0..runs).map(run).collect(),
        };
        assert!(!is_too_much(&commit(MAX_RUNS)) && is_too_much(&commit(MAX_RUNS + 1)));
        let long = (0..MAX_COMMIT_BYTES / 4096 + 1).map(|number| NewRun {
            length: 4096,
            place: RunPlace::Inline(Bytes::from_static(&[0; 4096 + 16])),
            ..run(number)
        });
        assert!(is_too_much(&Commit { runs: long.collect(), ..commit(0) }));
    }

    /// One file or several with more changed ranges than a batch holds go in several cuts, and all of them go.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_cut_takes_more_than_a_batch_holds() {
        const RANGES: u64 = MOST_RANGES as u64 * 5 / 2;
        for files in [1, 5] {
            let never = Duration::from_secs(3_600);
            let (cache, bucket) = opened(Options { cut_idle: never, cut_age: never, ..Options::default() }).await;
            let mut made = Vec::new();
            for number in 0..files {
                let name = crate::Name::new(format!("f{number}").as_bytes()).unwrap();
                let root = cache.root();
                let create = cache.transact(|tx| {
                    let attributes = Attributes { kind: Kind::File, mode: 0o600, ..tx.attributes(root)? };
                    let file = tx.create(attributes)?;
                    tx.set_entry(root, &name, Some(file))?;
                    Ok(file)
                });
                made.push(create.await.unwrap());
            }
            bucket.set_unreachable(true);
            // As if nothing were taken meanwhile, like after a conflict.
            cache.shared().state.lock().pipeline.resolving = true;
            for at in 0..RANGES / files {
                for file in &made {
                    cache.write(*file, Position::At(at * 8), b"x", |_| {}).await.unwrap();
                }
            }
            let mut state = cache.shared().state.lock();
            let (mut cuts, mut ranges) = (0, 0);
            while let Some(frozen) = state.tree.freeze(1 << 40 | cuts) {
                let taken: usize = frozen.inodes.iter().map(|inode| inode.ranges.len()).sum();
                assert!((1..=MOST_RANGES).contains(&taken), "{taken}");
                (cuts, ranges) = (cuts + 1, ranges + taken as u64);
            }
            assert_eq!(ranges, RANGES / files * files);
            assert!(cuts >= 3 && state.tree.pending_operations() == 0, "{cuts}");
        }
    }
}
