//! Files whose data file programs may change by themselves: see [`crate::passthrough`].

use super::{Node, Tree};
use crate::content::map::Part;
use crate::record::{Mutation, Write};
use std::ops::Range;
use strewn_engine::bucket::Timestamp;
use strewn_engine::ids::InodeId;

impl Tree {
    /// Notes that programs may change a data file by themselves, or no longer.
    pub(super) fn set_exposed(&mut self, inode: InodeId, generation: u64, exposed: bool) {
        let Some(content) = self.nodes.get_mut(&inode).and_then(|node| node.content.as_deref_mut()) else { return };
        if exposed {
            (content.generation, content.exposed) = (generation, true);
        } else if content.generation == generation {
            content.exposed = false;
        }
    }

    /// The files of which that is so, with their data files.
    pub(crate) fn exposed(&self) -> Vec<(InodeId, u64)> {
        let exposed = |(inode, node): (InodeId, &Node)| {
            let content = node.content.as_deref().filter(|content| content.exposed)?;
            Some((inode, content.generation))
        };
        self.nodes().filter_map(exposed).collect()
    }

    /// What a snapshot has to say of it.
    pub(super) fn exposure(&self, inode: InodeId) -> Option<Mutation> {
        let content = self.node(inode)?.content.as_deref().filter(|content| content.exposed)?;
        Some(Mutation::Exposed { inode, generation: content.generation, exposed: true })
    }

    /// What of a range of the data file is the content's, and what of it is a hole as far as is known here.
    pub(crate) fn split_at_holes(&self, inode: InodeId, range: &Range<u64>) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
        let (mut data, mut holes) = (Vec::new(), Vec::new());
        let Some(node) = self.node(inode) else { return (data, holes) };
        let Some(content) = node.content.as_deref() else { return (data, holes) };
        for part in content.parts(range.start..range.end.min(node.attributes.size)) {
            match part {
                Part::Present(range) => data.push(range),
                Part::Hole(range) => holes.push(range),
                Part::Remote(..) | Part::Unknown(_) => {}
            }
        }
        (data, holes)
    }

    /// Writes that say that ranges of the data file were changed at a moment.
    pub(crate) fn changed_bytes(&self, inode: InodeId, ranges: &[Range<u64>], now: Timestamp) -> Vec<Write> {
        let Some(node) = self.node(inode) else { return Vec::new() };
        let size = node.attributes.size;
        let write = |range: Range<u64>| {
            let mut write = node.rewritten(inode, range, None);
            (write.times.mtime, write.times.ctime) = (now, now);
            write
        };
        let ranges = ranges.iter().map(|range| range.start..range.end.min(size));
        ranges.filter(|range| !range.is_empty()).map(write).collect()
    }
}
