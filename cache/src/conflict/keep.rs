//! Before cuts are taken apart: what they took of files is journaled anew, because the record of it may be gone (a snapshot of
//! the journal leaves out what sealed files hold), and so may the data file that the record speaks of.

use super::way::{InodeFound, OnTheWay};
use crate::Error;
use crate::blocking::blocking;
use crate::content::map::{Backing, Fill};
use crate::record::Mutation;
use crate::shared::{Shared, State};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::ids::InodeId;

/// Bytes that go into one record, about.
const RECORD_BYTES: u64 = 4 << 20;

/// Mutations on their way into records.
struct Log<'a> {
    shared: &'a Shared,
    state: &'a mut State,
    mutations: Vec<Mutation>,
    bytes: u64,
}

impl Shared {
    /// Makes durable what the data files hold of the files on the way. The gate is held.
    pub(super) async fn sync_way(self: &Arc<Self>, way: &OnTheWay) -> Result<(), Error> {
        let in_file = |state: &State, inode: &InodeId| {
            let content = state.tree.node(*inode)?.content.as_deref()?;
            matches!(content.backing, Backing::File).then_some((*inode, content.generation))
        };
        let files: Vec<(InodeId, u64)> = {
            let state = self.state.lock();
            kept(way).filter_map(|(inode, _)| in_file(&state, inode)).collect()
        };
        let shared = self.clone();
        blocking(move || {
            files.iter().try_for_each(|(inode, generation)| shared.store.sync_data_fully(*inode, *generation))
        })
        .await
    }

    /// Journals what of the files on the way is pending once the cuts are taken apart. As long as they are not, it only repeats
    /// what they hold.
    pub(super) fn log_way(&self, state: &mut State, way: &OnTheWay) -> Result<(), Error> {
        let mut log = Log { shared: self, state, mutations: Vec::new(), bytes: 0 };
        for (inode, found) in kept(way) {
            if !way.is_lost(log.state, *inode) {
                log.file(*inode, found)?;
            }
        }
        log.end_record()
    }
}

/// Files whose content here stays.
fn kept(way: &OnTheWay) -> impl Iterator<Item = (&InodeId, &InodeFound)> {
    way.inodes
        .iter()
        .filter(|(_, found)| (!found.ranges.is_empty() || found.row.is_none()) && !found.has_foreign_content())
}

impl Log<'_> {
    fn file(&mut self, inode: InodeId, found: &InodeFound) -> Result<(), Error> {
        let Some(node) = self.state.tree.node(inode) else { return Ok(()) };
        let Some(content) = node.content.as_deref() else { return Ok(()) };
        let size = node.attributes.size;
        let mut pending = content.thawed(found.ranges.clone(), size);
        if found.row.is_none() {
            // The network has nothing of it any more: all that is here is to go there.
            content.present.overlapping(0..size).for_each(|range| pending.insert(range.clone(), Fill::Data));
        }
        let end = pending.iter().map(|(range, _)| range.end).max().unwrap_or(0);
        if end > size {
            // What was cut off is to go from the network: as if it were cut off now.
            self.push(Mutation::Resize { inode, size: end, anew: false }, 0)?;
            self.push(Mutation::Resize { inode, size, anew: false }, 0)?;
        }
        let clipped = |(range, fill): (Range<u64>, Fill)| (range.start..range.end.min(size), fill);
        let pending: Vec<_> = pending.into_iter().map(clipped).filter(|(range, _)| !range.is_empty()).collect();
        for (range, fill) in pending {
            match fill {
                Fill::Hole => {
                    let (offset, length) = (range.start, range.end - range.start);
                    self.push(Mutation::Punch { inode, offset, length }, 0)?;
                }
                Fill::Data => self.data(inode, range)?,
            }
        }
        Ok(())
    }

    fn data(&mut self, inode: InodeId, range: Range<u64>) -> Result<(), Error> {
        let Some(node) = self.state.tree.node(inode) else { return Ok(()) };
        let Some(content) = node.content.as_deref() else { return Ok(()) };
        let generation = content.generation;
        let bytes = match &content.backing {
            Backing::Memory(bytes) => {
                let part = bytes.get(range.start as usize..range.end as usize);
                let missing = || Error::Corrupt(String::from("pending bytes of a small file are missing"));
                Some(Bytes::copy_from_slice(part.ok_or_else(missing)?))
            }
            Backing::File => None,
        };
        let (length, in_file) = (bytes.as_ref().map_or(0, |bytes| bytes.len() as u64), bytes.is_none());
        let write = Mutation::Write(node.rewritten(inode, range, bytes));
        self.push(write, length)?;
        if in_file {
            // The data file was synced before. The record being made is the next one: nobody else appends meanwhile.
            let position = self.shared.journal.last().0 + 1;
            self.push(Mutation::Synced { inode, generation, position }, 0)?;
        }
        Ok(())
    }

    fn push(&mut self, mutation: Mutation, bytes: u64) -> Result<(), Error> {
        self.mutations.push(mutation);
        self.bytes += bytes + 100;
        if self.bytes < RECORD_BYTES
            || matches!(self.mutations.last(), Some(Mutation::Write(write)) if write.data.is_none())
        {
            return Ok(());
        }
        self.end_record()
    }

    fn end_record(&mut self) -> Result<(), Error> {
        if !self.mutations.is_empty() {
            let mutations = self.state.tree.with_adoptions(std::mem::take(&mut self.mutations));
            self.state.append(&self.shared.journal, &mutations)?;
        }
        self.bytes = 0;
        Ok(())
    }
}
