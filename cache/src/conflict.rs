//! What happens when the network refuses a batch because another writer won: nothing is dropped.
//!
//! The network is asked how the names and inodes on their way are now. Then, in one step, all cuts are taken apart and what
//! they changed is pending again, on that ground:
//! - a name that means what it meant, or already means what it is to mean, is no conflict;
//! - a name that somebody else changed keeps their meaning, and what it means here becomes `name (conflict HOST TIME)`; a
//!   removal here gives way;
//! - so it is with a name that was removed here, or given to something else, if somebody else changed the content of the file
//!   that would go (`returning`);
//! - of an inode that somebody else changed, what both changed of its attributes is as it is here (`merge`); if the content
//!   changed on both sides, the file keeps theirs, and ours becomes a copy beside it;
//! - an inode that somebody else removed while it was changed here comes back;
//! - a directory that was moved here stays where the network has it, if somebody else moved it as well, or moved what it
//!   would be in into it.
//!
//! No cut is taken meanwhile; writers go on. After a crash in between the batch is refused again and all begins anew: what is
//! made before that one record (`copies`, `keep`) leaves no trace by itself.

mod copies;
mod keep;
mod merge;
mod moves;
mod returning;
mod way;

use crate::content::Digest;
use crate::cut::batch::Batch;
use crate::cut::seal::draw;
use crate::record::{Mutation, Rebase};
use crate::shared::{Shared, State};
use crate::tree::{Conflict, Tree, since_1970};
use crate::{Error, Invalidation, Name};
use copies::Copies;
use merge::merge;
use moves::{GivenUp, in_circle};
use returning::{Returning, bring_back};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use strewn_engine::bucket::{self, Kind, Operation, Refusal};
use strewn_engine::ids::{InodeId, MountId};
use way::{InodeFound, NameFound, OnTheWay, changes_of};

/// What is said in the name of something that lost a conflict.
pub(crate) const CONFLICT: &str = "conflict";
/// What is said if it has holes where bytes are missing.
const INCOMPLETE: &str = "incomplete conflict";

/// Bytes copied at a time into a conflict copy.
const COPY_STEP: u64 = 1 << 20;

/// What is to become of what was on its way.
#[derive(Debug, Default)]
struct Verdict {
    /// The record that takes the cuts apart.
    record: Vec<Mutation>,
    /// News for followers.
    told: Vec<Invalidation>,
    /// What the status is to list.
    conflicts: Vec<Conflict>,
    /// Conflict names that are given already.
    taken: BTreeSet<(InodeId, Name)>,
    /// Directories that stay where the network has them.
    given_up: GivenUp,
    /// What comes back.
    returning: Returning,
}

/// What the network said to the oldest batch.
struct Refused<'a> {
    operation: &'a Operation,
    reason: &'a Refusal,
}

/// Directories that were removed here and cannot be.
#[derive(Debug, Clone, Copy)]
enum Stays {
    Nothing,
    /// The network does not say which of them is not empty.
    All,
    /// This one is to be put all the same: something is known to be in it.
    One(InodeId),
}

impl Stays {
    fn after(refused: &Refused<'_>) -> Self {
        match (refused.reason, refused.operation) {
            (Refusal::NotEmpty, _) => Self::All,
            (Refusal::Names, Operation::PutInode(put)) => Self::One(put.inode),
            _ => Self::Nothing,
        }
    }

    fn contains(self, inode: InodeId) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::One(one) => one == inode,
        }
    }
}

impl Verdict {
    fn entry(&mut self, directory: InodeId, name: Name, previous: Option<InodeId>, child: Option<InodeId>) {
        self.told.push(Invalidation::Entry(directory, name.clone()));
        self.record.push(Mutation::Entry { directory, name, previous, child });
    }
}

impl Shared {
    /// Deals with a refusal of one of the operations of a batch.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        batch: &Batch,
        operation: usize,
        reason: &Refusal,
    ) -> Result<(), Error> {
        tracing::warn!("batch {} lost against another writer: {reason}", batch.commit.number);
        let refused = batch.commit.operations.get(operation).map(|operation| Refused { operation, reason });
        self.take_apart(None, refused).await
    }

    /// Deals with a stream that is out of step: the batches go into a new one.
    pub(crate) async fn restart_stream(self: &Arc<Self>) -> Result<(), Error> {
        self.take_apart(Some(MountId::from_bytes(draw()?)), None).await
    }

    /// Takes all cuts apart, so that what they hold is sealed anew, and in batches that the network takes.
    pub(crate) async fn make_anew(self: &Arc<Self>) -> Result<(), Error> {
        self.take_apart(None, None).await
    }

    async fn take_apart(self: &Arc<Self>, stream: Option<MountId>, refused: Option<Refused<'_>>) -> Result<(), Error> {
        self.state.lock().pipeline.resolving = true;
        let mut result = self.try_take_apart(stream, refused).await;
        if result.is_ok() {
            // Else what is pending may be refused again for names that are here only.
            result = self.load_missed().await;
        }
        self.state.lock().pipeline.resolving = false;
        self.bump();
        result
    }

    async fn try_take_apart(
        self: &Arc<Self>,
        stream: Option<MountId>,
        refused: Option<Refused<'_>>,
    ) -> Result<(), Error> {
        let mut way = self.on_the_way().await?;
        self.bring_here(&way).await?;
        self.ask_all(&mut way).await?;
        way.inodes.values_mut().for_each(InodeFound::add_cut_off);
        let mut copies = Copies::new(self);
        for (inode, found) in way.inodes.iter().filter(|(_, found)| found.has_foreign_content() && found.changed) {
            copies.copy(*inode, found).await?;
        }
        let _alone = self.gate.write().await;
        self.sync_way(&way).await?;
        let mut state = self.state.lock();
        let is_newer = |(inode, found): (&InodeId, &InodeFound)| {
            found.has_foreign_content() && found.changes != changes_of(&state, *inode)
        };
        if way.inodes.iter().any(is_newer) {
            // What was written since is in no copy: once more.
            let why = "a file is written to while a conflict about it is settled";
            return Err(Error::Network(bucket::Error::Unavailable(why.to_owned())));
        }
        self.log_way(&mut state, &way)?;
        let result = self.put_on_ground(&mut state, way, &copies, stream, refused);
        drop(state);
        result
    }

    /// Takes all cuts apart, in one record.
    fn put_on_ground(
        &self,
        state: &mut State,
        way: OnTheWay,
        copies: &Copies<'_>,
        stream: Option<MountId>,
        refused: Option<Refused<'_>>,
    ) -> Result<(), Error> {
        let stays = refused.as_ref().map_or(Stays::Nothing, Stays::after);
        let circular = refused.and_then(|refused| in_circle(state, refused.operation, refused.reason));
        let number = if stream.is_some() { 0 } else { way.number };
        let mount = stream.unwrap_or(state.pipeline.mount);
        let (given_up, returning) = (way.given_up(state, circular), way.returning(state));
        let mut verdict = Verdict { given_up, returning, ..Verdict::default() };
        verdict.record.extend([Mutation::Uncut { from: way.first, number }, Mutation::Stream { mount, number }]);
        copies.name(state, &way, &mut verdict);
        let mut lost = Vec::new();
        let lost_names = way.lost_names(state);
        for (inode, found) in &way.inodes {
            if way.is_lost(state, *inode) {
                give_up(state, *inode, &mut verdict);
                lost.push(*inode);
                continue;
            }
            rebase(state, *inode, found, &way.names, &mut verdict.record);
            if found.is_foreign() {
                verdict.told.push(Invalidation::Inode(*inode));
            }
            let is_wanted = state.tree.node(*inode).is_some_and(|node| !node.orphan || node.has_children());
            let nameless = is_wanted && state.tree.name_of(*inode).is_none();
            if nameless && *inode != state.tree.root && way.is_gone(*inode, found, &lost_names) {
                // Somebody moved it to where nobody looked, and then removed it; or it was removed here as well, before something
                // in it came back.
                let root = state.tree.root;
                let name = self.conflict_name(&state.tree, root, &moved(), CONFLICT, &mut verdict.taken);
                verdict.conflicts.push(self.note_conflict(&state.tree, *inode, root, &name));
                verdict.entry(root, name, None, Some(*inode));
            }
        }
        verdict.record.extend(way.last_seen(state));
        for ((directory, name), found) in &way.names {
            let child = state.tree.child_of(*directory, name);
            let lost = child.is_some_and(|child| way.is_lost(state, child));
            self.settle_name(state, (*directory, name), found, (stays, lost), &mut verdict);
        }
        let Verdict { mut record, told, given_up, mut conflicts, .. } = verdict;
        conflicts.extend(given_up.iter().map(|inode| self.note_given_up(state, inode)));
        record.extend(given_up.iter().map(|inode| Mutation::Elsewhere { inode }));
        record.extend(conflicts.into_iter().map(|conflict| Mutation::Conflict(Box::new(conflict))));
        let record = state.tree.with_adoptions(record);
        let position = state.append(&self.journal, &record)?;
        state.pipeline.epoch += 1;
        state.pipeline.taken_apart = true;
        (state.pipeline.mount, state.pipeline.number) = (mount, number);
        let gone = state.pipeline.dequeue_all();
        self.batches.lock().clear();
        let segments: Vec<_> = gone.iter().flat_map(|queued| queued.segments.clone()).collect();
        let drafts = state.pipeline.drafts.drain(..).flat_map(|(_, sealed)| sealed.segments).collect::<Vec<_>>();
        self.outgoing.forget(segments.iter().chain(&drafts).map(|segment| segment.id));
        state.pipeline.done.extend(gone.iter().map(|queued| (queued.cut, Vec::new())));
        state.pipeline.done.push_back((way.first, segments.into_iter().chain(drafts).collect()));
        state.pipeline.frozen.clear();
        let oldest = state.pipeline.ages.drain(..).map(|(_, since)| since).min();
        state.pipeline.digests.clear();
        state.pipeline.recent.clear();
        let put = way.inodes.iter().filter(|(_, found)| !found.probe);
        state.tree.uncut(way.first, put.map(|(inode, found)| (*inode, found.ranges.clone())));
        state.tree.apply_record(&record, &[], position)?;
        let rows = way.inodes.iter().filter_map(|(inode, found)| Some((*inode, found.row.as_ref()?.nlink)));
        let mut counted = state.tree.recount_links(rows);
        // Somebody else removed them and they cannot come back: they go as if they had been removed here.
        counted.extend(lost.into_iter().map(|inode| Mutation::Links { inode, links: 0 }));
        if !counted.is_empty() {
            let counted = state.tree.with_adoptions(counted);
            state.record(&self.journal, &counted)?;
        }
        for inode in way.inodes.keys() {
            state.tree.doubt_names(*inode);
            state.tree.drop_if_gone(*inode);
        }
        for inode in given_up.iter() {
            state.tree.miss_inode(inode);
        }
        if state.tree.pending_operations() > 0 {
            // As old as it was, for who asks how long it waits.
            state.tree.oldest = state.tree.oldest.into_iter().chain(oldest).min();
        }
        told.into_iter().for_each(|invalidation| self.invalidate(invalidation));
        Ok(())
    }

    /// What becomes of one name: mutations for the record, and news for followers.
    ///
    /// With `lost`, what it names here was removed by somebody else and not changed here, but for its name.
    fn settle_name(
        &self,
        state: &State,
        (directory, name): (InodeId, &Name),
        found: &NameFound,
        (stays, lost): (Stays, bool),
        verdict: &mut Verdict,
    ) {
        let slot = state.tree.node(directory).and_then(|node| node.directory.as_deref()?.slot(name));
        let theirs = found.found.as_ref().map(|adopt| adopt.inode);
        let rebase = Mutation::RebaseEntry { directory, name: name.clone(), base: theirs };
        let Some(local) = slot.map(|slot| slot.child.map(|(child, _)| child)) else {
            if theirs.is_none() && state.tree.is_parked_as(directory, name) {
                // It did not come to be: if the file is still open when its last name goes, it gets one anew.
                verdict.record.push(rebase);
            }
            return;
        };
        verdict.record.push(rebase);
        if lost && theirs.is_none() {
            return;
        }
        let kind = found.found.as_ref().map(|adopt| adopt.attributes.kind);
        // Where else it may be shown it was before others moved it here, unless it was moved there here.
        let is_removed = |inode: InodeId| !state.tree.is_moved(inode);
        let is_directory = kind == Some(Kind::Directory);
        let comes_back = theirs.is_some_and(|theirs| verdict.returning.contains(theirs) && is_removed(theirs));
        let yields =
            comes_back || (is_directory && theirs.is_some_and(|theirs| stays.contains(theirs) && is_removed(theirs)));
        let goes = local.is_some_and(|local| verdict.given_up.contains(local));
        let returns = theirs.is_some_and(|theirs| verdict.given_up.contains(theirs));
        let agreed = theirs == found.expected || theirs == local || theirs.is_none();
        if theirs == local || (agreed && !yields && !goes && !returns) {
            return;
        }
        // Their name stays; ours goes beside it. Directories of the same name are both kept as well.
        match found.found.as_ref().filter(|_| !returns) {
            Some(adopt) if comes_back && !is_directory => {
                verdict.record.extend(bring_back(state, adopt));
                verdict.told.push(Invalidation::Inode(adopt.inode));
                if local.is_none() {
                    verdict.conflicts.push(self.note_conflict(&state.tree, adopt.inode, directory, name));
                }
            }
            Some(adopt) => verdict.record.extend(adopt.before_entry()),
            None => {}
        }
        verdict.entry(directory, name.clone(), local, theirs);
        if let Some(local) = local.filter(|_| !lost && !goes) {
            let conflict = self.conflict_name(&state.tree, directory, name, CONFLICT, &mut verdict.taken);
            verdict.conflicts.push(self.note_conflict(&state.tree, local, directory, &conflict));
            verdict.entry(directory, conflict, None, Some(local));
        }
    }

    /// Counts a move that was given up; for the record.
    fn note_given_up(&self, state: &State, inode: InodeId) -> Conflict {
        let name = state.tree.name_of(inode).map_or_else(moved, |(_, name)| name);
        tracing::warn!("conflict: the directory {name} was moved by somebody else too");
        self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        state.tree.conflict_elsewhere(inode, &name)
    }

    /// Counts a conflict that ends with this name for an inode; for the record.
    pub(crate) fn note_conflict(&self, tree: &Tree, inode: InodeId, directory: InodeId, name: &Name) -> Conflict {
        tracing::warn!("conflict: {name} in {directory}");
        self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        tree.conflict(inode, directory, name)
    }

    /// `name (conflict HOST TIME)`, cut so that it is a valid name that is not `taken`, which it is then. `what` is
    /// [`CONFLICT`] or [`INCOMPLETE`].
    pub(crate) fn conflict_name(
        &self,
        tree: &Tree,
        directory: InodeId,
        name: &Name,
        what: &str,
        taken: &mut BTreeSet<(InodeId, Name)>,
    ) -> Name {
        let seconds = since_1970();
        let host: String = self.options.host.chars().filter(|c| c.is_ascii_graphic() && *c != '/').take(40).collect();
        let slot = |name: &Name| tree.node(directory).and_then(|node| node.directory.as_deref()?.slot(name));
        let mut number = 0;
        loop {
            let suffix = match number {
                0 => format!(" ({what} {host} {seconds})"),
                _ => format!(" ({what} {host} {seconds}-{number})"),
            };
            let keep = name.as_bytes().len().min(Name::MAX - suffix.len());
            let bytes = [&name.as_bytes()[..keep], suffix.as_bytes()].concat();
            let candidate = Name::new(&bytes).expect("a valid name and printable characters within the limit");
            if slot(&candidate).is_none() && taken.insert((directory, candidate.clone())) {
                return candidate;
            }
            number += 1;
        }
    }
}

/// What a conflict copy is called of which no name is known.
fn moved() -> Name {
    Name::new(b"moved").expect("a short name")
}

/// A file that cannot come back: its names go.
fn give_up(state: &State, inode: InodeId, verdict: &mut Verdict) {
    for (directory, name) in state.tree.names_of(inode) {
        verdict.record.push(Mutation::RebaseEntry { directory: *directory, name: name.clone(), base: None });
        verdict.entry(*directory, name.clone(), Some(inode), None);
    }
}

/// What becomes of one inode.
fn rebase(
    state: &State,
    inode: InodeId,
    found: &InodeFound,
    names: &BTreeMap<(InodeId, Name), NameFound>,
    record: &mut Vec<Mutation>,
) {
    let Some(node) = state.tree.node(inode) else { return };
    let Some(row) = &found.row else {
        if node.orphan && node.is_directory() && !node.has_children() {
            // Made here and removed again. A record about it would bring it back.
            return;
        }
        let digest = Digest::empty();
        let newest = (found.expected > 0).then_some(found.expected);
        record.push(Mutation::Rebase(Rebase { inode, version: 0, content: digest.hash, foreign: newest }));
        record.extend(Mutation::counted(inode, digest));
        // Removed by somebody else while it was changed here: it comes back under the names known here. What is new, or is to come
        // back since an earlier refusal, has names that the network is to get; one that it was believed to have cannot be there.
        let is_known = |(directory, name): &(InodeId, Name)| !state.tree.is_pending(*directory, name);
        let lost = node.names.iter().filter(|place| !names.contains_key(place));
        record.extend(
            lost.filter(|place| found.expected > 0 || is_known(place)).map(|(directory, name)| Mutation::RebaseEntry {
                directory: *directory,
                name: name.clone(),
                base: None,
            }),
        );
        return;
    };
    if found.probe {
        return;
    }
    let Some(theirs) = &found.theirs else { return };
    let foreign_content = found.has_foreign_content() && node.content.is_some();
    let digest = Digest { hash: theirs.content, allocated: theirs.allocated };
    let foreign = foreign_content.then_some(row.size);
    record.push(Mutation::Rebase(Rebase { inode, version: row.version, content: digest.hash, foreign }));
    record.extend(Mutation::counted(inode, digest));
    let theirs = theirs.effective(row);
    if let Some(base) = found.base.as_ref().filter(|_| found.is_foreign()) {
        let merged = merge(&base.attributes, &node.attributes, &theirs, foreign_content && found.changed);
        record.push(Mutation::Attributes { inode, soft: false, attributes: Box::new(merged) });
    }
    record.push(Mutation::Base { inode, attributes: Box::new(theirs) });
}
