//! Copies of files whose content changed on both sides. They are made as open files without a name, which a crash takes away,
//! and get their names in the record that takes the cuts apart: a crash leaves all of it or nothing.

use super::{COPY_STEP, InodeFound, Verdict};
use crate::content::map::Fill;
use crate::shared::{Shared, State};
use crate::{Error, Name, Position, Transaction};
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::bucket;
use strewn_engine::ids::InodeId;

/// Copies without names. Dropped, they are given up.
pub(super) struct Copies<'a> {
    shared: &'a Arc<Shared>,
    /// The file, and its copy.
    copies: Vec<(InodeId, InodeId)>,
}

impl<'a> Copies<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared, copies: Vec::new() }
    }

    /// Copies a file as it is here, durably.
    pub(super) async fn copy(&mut self, inode: InodeId, found: &InodeFound) -> Result<(), Error> {
        let Some(attributes) = self.shared.state.lock().tree.node(inode).map(|node| node.attributes.clone()) else {
            return Ok(());
        };
        let size = attributes.size;
        let copy = self.shared.transact(|tx| {
            let copy = tx.create(attributes.clone())?;
            tx.pin(copy)?;
            tx.resize(copy, size)?;
            Ok(copy)
        });
        let copy = copy.await?;
        self.copies.push((inode, copy));
        let data = |(range, fill): &(Range<u64>, Fill)| (*fill == Fill::Data).then(|| range.clone());
        let ours: rangemap::RangeSet<u64> = found.ranges.iter().filter_map(data).collect();
        let mut at = 0;
        while at < size {
            let part = at..(at + COPY_STEP).min(size);
            self.copy_part(inode, copy, part.clone(), &ours).await?;
            at = part.end;
        }
        // The sealed files that held these bytes so far go with the cuts.
        self.shared.sync_data_file(copy).await
    }

    async fn copy_part(
        &self,
        inode: InodeId,
        copy: InodeId,
        part: Range<u64>,
        ours: &rangemap::RangeSet<u64>,
    ) -> Result<(), Error> {
        let shared = self.shared;
        match shared.read(inode, part.start, (part.end - part.start) as usize).await {
            Ok(bytes) => drop(shared.write(copy, Position::At(part.start), &bytes, |_| {}).await?),
            // Not gone, only out of reach: the copy is made anew later.
            Err(error @ Error::Network(bucket::Error::Unreachable(_))) => return Err(error),
            // What was never changed here went with their change; what was changed here is here.
            Err(error) => {
                tracing::warn!("a stretch of a conflict copy is gone from the network: {error}");
                for range in ours.overlapping(&part) {
                    let range = range.start.max(part.start)..range.end.min(part.end);
                    let bytes = shared.read(inode, range.start, (range.end - range.start) as usize).await?;
                    shared.write(copy, Position::At(range.start), &bytes, |_| {}).await?;
                }
            }
        }
        Ok(())
    }

    /// Names the copies beside their files, in the record that takes the cuts apart; in the root if no name is known here, as
    /// after a restart. A file without any name needs no copy.
    pub(super) fn name(&self, state: &State, verdict: &mut Verdict) {
        for (inode, copy) in &self.copies {
            if state.tree.node(*inode).is_none_or(|node| node.links == 0) {
                continue;
            }
            let unknown = || (state.tree.root, Name::new(inode.to_string().as_bytes()).expect("hexadecimal"));
            let (directory, name) = state.tree.name_of(*inode).unwrap_or_else(unknown);
            let name = self.shared.conflict_name(&state.tree, directory, &name, &mut verdict.taken);
            self.shared.note_conflict(directory, &name);
            verdict.entry(directory, name, None, Some(*copy));
        }
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        for (_, copy) in &self.copies {
            let mut unpin = |tx: &mut Transaction<'_>| {
                tx.unpin(*copy, 1);
                Ok(())
            };
            if let Err(error) = self.shared.attempt(&mut unpin, true, None) {
                tracing::debug!("a conflict copy stays in memory: {error}");
            }
        }
    }
}
