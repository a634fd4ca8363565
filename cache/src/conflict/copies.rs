//! Copies of files whose content changed on both sides. They are made as open files without a name, which a crash takes away,
//! and get their names in the record that takes the cuts apart: a crash leaves all of it or nothing. They are made however much
//! waits for the network: until then nothing goes there.

use super::way::{InodeFound, OnTheWay};
use super::{CONFLICT, COPY_STEP, INCOMPLETE, Verdict};
use crate::content::map::{Fill, Part};
use crate::shared::{Shared, State};
use crate::{Error, Name, Transaction};
use rangemap::RangeSet;
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::bucket;
use strewn_engine::ids::InodeId;
use strewn_engine::record::Attributes;

/// Copies without names. Dropped, they are given up.
pub(super) struct Copies<'a> {
    shared: &'a Arc<Shared>,
    copies: Vec<CopyOf>,
}

/// A copy.
struct CopyOf {
    file: InodeId,
    copy: InodeId,
    /// None of it is missing: else it has holes where nothing was written here and the network has other bytes by now.
    whole: bool,
    /// It is worth a name.
    named: bool,
}

impl<'a> Copies<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared, copies: Vec::new() }
    }

    /// Copies a file as it is here, durably.
    pub(super) async fn copy(&mut self, inode: InodeId, found: &InodeFound) -> Result<(), Error> {
        let Some((attributes, ours)) = self.ours(inode, found) else { return Ok(()) };
        let size = attributes.size;
        let make = |tx: &mut Transaction<'_>| {
            let copy = tx.create(attributes.clone())?;
            tx.pin(copy)?;
            tx.resize(copy, size)?;
            Ok(copy)
        };
        let copy = self.shared.transact_admitted(make, true).await?;
        // Already, so that it is given up if it does not succeed.
        self.copies.push(CopyOf { file: inode, copy, whole: true, named: true });
        let (mut at, mut whole) = (0, true);
        while at < size {
            let part = at..(at + COPY_STEP).min(size);
            whole &= self.copy_part(inode, copy, part.clone()).await?;
            at = part.end;
        }
        if let Some(made) = self.copies.last_mut() {
            // If it was only cut off here, and what was left of it is not here, there is nothing to keep.
            (made.whole, made.named) = (whole, whole || !ours.is_empty());
        }
        // The sealed files that held these bytes so far go with the cuts.
        self.shared.sync_data_file(copy).await
    }

    /// A file's attributes, and the ranges that were written here.
    fn ours(&self, inode: InodeId, found: &InodeFound) -> Option<(Attributes, RangeSet<u64>)> {
        let state = self.shared.state.lock();
        let node = state.tree.node(inode)?;
        let dirty = node.content.as_deref().into_iter().flat_map(|content| content.dirty.iter());
        let dirty = dirty.map(|(range, fill)| (range.clone(), *fill));
        let data = |(range, fill): (Range<u64>, Fill)| (fill == Fill::Data).then_some(range);
        let ours = found.ranges.iter().cloned().chain(dirty).filter_map(data).collect();
        Some((node.attributes.clone(), ours))
    }

    /// Copies a stretch. False if some of it is nowhere any more.
    async fn copy_part(&self, inode: InodeId, copy: InodeId, part: Range<u64>) -> Result<bool, Error> {
        let shared = self.shared;
        match shared.read(inode, part.start, (part.end - part.start) as usize).await {
            Ok(bytes) => {
                shared.write_first(copy, part.start, &bytes).await?;
                Ok(true)
            }
            // What was neither changed here nor read went with their change.
            Err(error @ (Error::Stale | Error::Network(bucket::Error::NotFound(_)))) => {
                tracing::warn!("a stretch of a conflict copy is gone from the network: {error}");
                for range in self.present(inode, &part) {
                    let bytes = shared.read(inode, range.start, (range.end - range.start) as usize).await?;
                    shared.write_first(copy, range.start, &bytes).await?;
                }
                Ok(false)
            }
            // Not gone, only out of reach: the copy is made anew later.
            Err(error) => Err(error),
        }
    }

    /// What of a range is here.
    fn present(&self, inode: InodeId, range: &Range<u64>) -> Vec<Range<u64>> {
        let state = self.shared.state.lock();
        let content = state.tree.node(inode).and_then(|node| node.content.as_deref());
        let parts = content.into_iter().flat_map(|content| content.parts(range.clone()));
        let here = |part| if let Part::Present(range) = part { Some(range) } else { None };
        parts.filter_map(here).collect()
    }

    /// Names the copies beside their files, in the record that takes the cuts apart; in the root, under a name that it
    /// had, if none is known here, as after a restart. A file without any name needs no copy.
    pub(super) fn name(&self, state: &State, way: &OnTheWay, verdict: &mut Verdict) {
        let named = |inode: InodeId| state.tree.node(inode).is_some_and(|node| node.links > 0);
        for made in self.copies.iter().filter(|made| made.named && named(made.file)) {
            let unknown = || Name::new(made.file.to_string().as_bytes()).expect("hexadecimal");
            let had = || (state.tree.root, way.name_before(made.file).cloned().unwrap_or_else(unknown));
            let (directory, name) = state.tree.name_of(made.file).unwrap_or_else(had);
            let what = if made.whole { CONFLICT } else { INCOMPLETE };
            let name = self.shared.conflict_name(&state.tree, directory, &name, what, &mut verdict.taken);
            verdict.conflicts.push(self.shared.note_conflict(&state.tree, made.copy, directory, &name));
            verdict.entry(directory, name, None, Some(made.copy));
        }
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        for CopyOf { copy, .. } in &self.copies {
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
