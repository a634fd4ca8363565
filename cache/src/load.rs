//! Bringing in what the network knows: rows of names and inodes, opened and proven, and extents of files.
//!
//! What does not authenticate is left out and counted. "Unreachable" is an error, never "absent".

use crate::content::Digest;
use crate::cut::batch::{self, Base};
use crate::record::{Adopt, SecretBytes};
use crate::shared::Shared;
use crate::tree::{Before, Listing, Loaded, Missing, Node, Taken};
use crate::{Error, Invalidation, Name, Root};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use strewn_engine::bucket::{self, EncryptedName, Entry, Extents, Inode, Kind, MAX_PAGE, Timestamp};
use strewn_engine::content::{WINDOW, extent, window};
use strewn_engine::ids::InodeId;
use strewn_engine::keys::{DirectoryKeys, InodeKeys};
use strewn_engine::record::Record;
use strewn_engine::secret::Key;
use tokio::sync::watch;

/// Attempts at loading what changes meanwhile.
pub(crate) const MOST_ATTEMPTS: usize = 50;

/// Names of a directory asked for one by one before all of them are.
const MISSES_BEFORE_LISTING: u32 = 8;

/// So many names of one directory are looked for in the order in which the network lists them: who reads a directory whose
/// entries were forgotten wants them in about that order.
const NAMES_BEFORE_PAGES: usize = 16;

/// Rows asked for then. Those after the names are wanted next, probably.
const PAGE_AHEAD: usize = 1_024;

/// But only one part in so many of the nodes that there is memory for.
const ROOM_AHEAD: usize = 16;

/// One part in so many of these nodes may come with the listing of a directory; of the rest of it names alone are kept, so
/// that it does not push itself out.
const ROOM_LISTED: usize = 2;

/// Names asked for side by side.
pub(crate) const PARALLEL_NAMES: usize = 16;

impl Shared {
    /// Loads what a transaction missed; loads of the same thing are asked for once.
    pub(crate) async fn load(self: &Arc<Self>, missing: Missing) -> Result<(), Error> {
        let leader = {
            let mut loading = self.loading.lock();
            match loading.get(&missing) {
                Some(follow) => Err(follow.clone()),
                None => {
                    let (done, follow) = watch::channel(());
                    loading.insert(missing.clone(), follow);
                    Ok(Leader { shared: self.clone(), missing: missing.clone(), _done: done })
                }
            }
        };
        match leader {
            Ok(_leader) => self.load_now(&missing).await,
            Err(mut follow) => {
                // Ends when the leader is done, however that went: then the closure runs anew.
                let _ended = follow.changed().await;
                Ok(())
            }
        }
    }

    async fn load_now(self: &Arc<Self>, missing: &Missing) -> Result<(), Error> {
        match missing {
            Missing::Entries(directory, _) if self.is_worth_listing(*directory) => {
                self.load_listing(*directory).await.map(drop)
            }
            Missing::Entries(directory, names) if names.len() >= NAMES_BEFORE_PAGES => {
                let left = self.load_pages(*directory, names).await?;
                self.load_names(*directory, &left).await.map(drop)
            }
            Missing::Entries(directory, names) => self.load_names(*directory, names).await.map(drop),
            Missing::Listing(directory) => self.load_listing(*directory).await.map(drop),
        }
    }

    /// True once so many names of a directory were asked for one by one that a listing is cheaper; asked once.
    fn is_worth_listing(&self, directory: InodeId) -> bool {
        let mut state = self.state.lock();
        let Ok(entries) = state.tree.entries_mut(directory) else { return false };
        entries.misses = entries.misses.saturating_add(1);
        entries.misses == MISSES_BEFORE_LISTING && !entries.complete
    }

    /// Loads names of a directory one by one. False if news came in between, so that some were not taken in.
    pub(crate) async fn load_names(self: &Arc<Self>, directory: InodeId, names: &[Name]) -> Result<bool, Error> {
        let ticket = Ticket::new(self);
        let loaded = self.ask_names(directory, names).await?;
        let taken = self.take_entries(&ticket, directory, &loaded, usize::MAX)?;
        self.ask_again(directory, taken.ask);
        ticket.end();
        Ok(!taken.old)
    }

    /// Loads names of a directory with what is listed beside them, as long as that finds many. Gives the others.
    async fn load_pages(self: &Arc<Self>, directory: InodeId, names: &[Name]) -> Result<Vec<Name>, Error> {
        let keys = self.directory_keys(directory)?;
        let encrypt = |name: &Name| (keys.encrypt_name(directory, name), name.clone());
        let mut wanted: BTreeMap<EncryptedName, Name> = names.iter().map(encrypt).collect();
        // What is ahead must not push out what is wanted now.
        let room = self.state.lock().tree.node_room(self.options.memory) / ROOM_AHEAD;
        let rows = room.min(PAGE_AHEAD).max(names.len()).min(MAX_PAGE as usize) as u32;
        while wanted.len() >= NAMES_BEFORE_PAGES {
            let before = wanted.len();
            let ticket = Ticket::new(self);
            let after = wanted.first_key_value().and_then(|(first, _)| just_before(first));
            let page = match self.ask(self.bucket.entries(directory, after.as_ref(), rows)).await {
                Err(bucket::Error::NotFound(_)) => break,
                other => other?,
            };
            let mut opened = Vec::with_capacity(page.entries.len());
            for (entry, row) in &page.entries {
                if let Some(loaded) = self.open_line(&keys, directory, entry, row) {
                    wanted.remove(&entry.name);
                    opened.push(loaded);
                }
            }
            let taken = self.take_entries(&ticket, directory, &opened, usize::MAX)?;
            self.ask_again(directory, taken.ask);
            if before - wanted.len() < NAMES_BEFORE_PAGES {
                break;
            }
        }
        Ok(wanted.into_values().collect())
    }

    /// Something came to be needed while it was asked for: once more, later.
    pub(crate) fn ask_again(&self, directory: InodeId, names: Vec<Name>) {
        let mut state = self.state.lock();
        names.into_iter().for_each(|name| state.tree.miss_name(directory, name));
    }

    /// What names of a directory name on the network.
    pub(crate) async fn ask_names(&self, directory: InodeId, names: &[Name]) -> Result<Vec<Loaded>, Error> {
        let keys = &self.directory_keys(directory)?;
        let load = |name: &Name| {
            let name = name.clone();
            async move {
                let encrypted = keys.encrypt_name(directory, &name);
                let found = self.ask(self.bucket.entry(directory, &encrypted)).await?;
                let child = match found {
                    // A row that was asked for by name has to be proven: what does not open must not read as absent.
                    Some((entry, _)) if entry.parent != directory || entry.name != encrypted => {
                        return Err(Error::Corrupt(format!("another entry was sent for {name:?}")));
                    }
                    Some((entry, row)) => Some(self.open_row(keys, &entry, &row).inspect_err(|error| {
                        self.note_unauthentic(&format!("{name:?}: {error}"));
                    })?),
                    None => None,
                };
                let before = self.ask_before(directory, &name, child.as_ref()).await?;
                Ok::<_, Error>(Loaded { name, child, before })
            }
        };
        stream::iter(names.iter().map(load)).buffer_unordered(PARALLEL_NAMES).try_collect().await
    }

    /// What became of what a name names here, if that is needed and the name names something else on the network.
    async fn ask_before(&self, directory: InodeId, name: &Name, child: Option<&Adopt>) -> Result<Before, Error> {
        let needed = {
            let state = self.state.lock();
            let inode = state.tree.needed_behind(directory, name);
            inode.and_then(|inode| Some((inode, state.tree.node(inode)?.key.clone())))
        };
        let Some((inode, key)) = needed.filter(|(inode, _)| child.is_none_or(|child| child.inode != *inode)) else {
            return Ok(Before::Unknown);
        };
        match self.ask(self.bucket.inode(inode)).await {
            Ok(row) => Ok(Before::Elsewhere(Box::new(open_inode(&key, &row)?))),
            Err(bucket::Error::NotFound(_)) => Ok(Before::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in rows of a directory. Names that came go before names that went, so that what was moved keeps one. Of what is not
    /// in memory names alone are taken in once `room` nodes have come.
    pub(crate) fn take_entries(
        &self,
        ticket: &Ticket<'_>,
        directory: InodeId,
        loaded: &[Loaded],
        room: usize,
    ) -> Result<TakenIn, Error> {
        let mut state = self.state.lock();
        let mut taken = TakenIn::default();
        let (came, went): (Vec<&Loaded>, Vec<&Loaded>) = loaded.iter().partition(|loaded| loaded.child.is_some());
        for loaded in came.into_iter().chain(went) {
            let known = state.tree.len();
            let taken_in = state.tree.insert_entry(directory, loaded, ticket.number, taken.came < room);
            taken.came += state.tree.len().saturating_sub(known);
            match taken_in {
                Taken::Nothing => {}
                Taken::Changed => self.invalidate_entry(directory, loaded.name.clone()),
                Taken::Old => taken.old = true,
                Taken::Ask => taken.ask.push(loaded.name.clone()),
                Taken::Clash => self.keep_beside(&mut state, directory, loaded)?,
            }
        }
        Ok(taken)
    }

    /// Loads all names of a directory. False if news came in between, so that it has to be loaded again.
    pub(crate) async fn load_listing(self: &Arc<Self>, directory: InodeId) -> Result<bool, Error> {
        let ticket = Ticket::new(self);
        let keys = self.directory_keys(directory)?;
        let (mut listing, room) = {
            let state = self.state.lock();
            let node = state.tree.node(directory).ok_or(Error::Stale)?;
            (Listing::begin(node), state.tree.node_room(self.options.memory) / ROOM_LISTED)
        };
        let mut after = None;
        let mut taken = TakenIn::default();
        loop {
            let page = match self.ask(self.bucket.entries(directory, after.as_ref(), MAX_PAGE)).await {
                // The directory is only here so far, or only here any more: what is changed here is all there is.
                Err(bucket::Error::NotFound(_)) if self.is_only_here(directory) => break,
                other => other?,
            };
            after = page.entries.last().map(|(entry, _)| entry.name.clone());
            let opened: Vec<Loaded> =
                page.entries.iter().filter_map(|(entry, row)| self.open_line(&keys, directory, entry, row)).collect();
            listing.saw(&self.state.lock().tree, directory, &opened);
            let TakenIn { old, ask, came } =
                self.take_entries(&ticket, directory, &opened, room.saturating_sub(taken.came))?;
            taken.came += came;
            taken.old |= old;
            taken.ask.extend(ask);
            // A listing must not fill the memory before the next round of housekeeping.
            self.forget_nodes();
            if !page.more || after.is_none() {
                break;
            }
        }
        let finished = match taken.old {
            false => self.state.lock().tree.finish_listing(directory, &listing, ticket.number),
            true => None,
        };
        ticket.end();
        taken.ask.extend(finished.iter().flatten().cloned());
        if !taken.ask.is_empty() {
            self.load_names(directory, &taken.ask).await?;
        }
        Ok(finished.is_some())
    }

    /// A line of a listing; `None` if it does not authenticate.
    fn open_line(&self, keys: &DirectoryKeys, directory: InodeId, entry: &Entry, row: &Inode) -> Option<Loaded> {
        let opened = keys.decrypt_name(directory, &entry.name).map_err(Error::from).and_then(|name| {
            if entry.parent != directory {
                return Err(Error::Corrupt(String::from("entry of another directory")));
            }
            Ok(Loaded { name, child: Some(self.open_row(keys, entry, row)?), before: Before::Unknown })
        });
        opened.inspect_err(|error| self.note_unauthentic(&error.to_string())).ok()
    }

    /// Opens an entry with its child's row.
    pub(crate) fn open_row(&self, keys: &DirectoryKeys, entry: &Entry, row: &Inode) -> Result<Adopt, Error> {
        if entry.child != row.inode || entry.kind != row.kind {
            return Err(Error::Corrupt(String::from("an entry came with another inode")));
        }
        open_inode(&keys.open_child(entry)?, row)
    }

    /// Loads the root's row. Its key must open it.
    pub(crate) async fn load_root(&self, root: &Root) -> Result<(), Error> {
        let row = self.ask(self.bucket.inode(root.inode)).await?;
        if row.inode != root.inode || !matches!(row.kind, Kind::Directory | Kind::File) {
            return Err(Error::Corrupt(String::from("the root is another inode")));
        }
        let adopt = open_inode(&root.key, &row)
            .map_err(|_| Error::Corrupt(String::from("the root directory does not open with this key")))?;
        self.state.lock().tree.insert_root(&adopt);
        Ok(())
    }

    /// Loads an inode's row anew after somebody else changed it.
    pub(crate) async fn reload(&self, inode: InodeId) -> Result<(), Error> {
        let Some(key) = self.state.lock().tree.node(inode).map(|node| node.key.clone()) else { return Ok(()) };
        let ticket = Ticket::new(self);
        let row = match self.ask(self.bucket.inode(inode)).await {
            Err(bucket::Error::NotFound(_)) => return Ok(()),
            other => other?,
        };
        let adopt = open_inode(&key, &row)?;
        if self.state.lock().tree.insert_node(&adopt, ticket.number) {
            self.invalidate(Invalidation::Inode(inode));
        }
        ticket.end();
        Ok(())
    }

    /// The same for many, some of them side by side.
    pub(crate) async fn reload_all(&self, inodes: impl IntoIterator<Item = InodeId>) -> Result<(), Error> {
        let inodes = stream::iter(inodes.into_iter().map(Ok));
        inodes.try_for_each_concurrent(PARALLEL_NAMES, |inode| self.reload(inode)).await
    }

    /// Extents of the given windows as they are once the queued batches are applied, proven. Asks the network.
    ///
    /// A file that somebody else removed, or replaced while it was changed here, is `gone`: an error, or as if it never had
    /// been, which is for what only concerns what was changed here.
    pub(crate) async fn load_extents(
        self: &Arc<Self>,
        inode: InodeId,
        key: &Key,
        windows: &BTreeSet<u64>,
        gone: Gone,
    ) -> Result<Base, Error> {
        let mut empty = false;
        let mut torn = false;
        for attempt in 0..MOST_ATTEMPTS {
            // What is known may be outdated by another mount, though it cannot be replaced as long as it is changed here.
            match self.try_load_extents(inode, key, windows, attempt == 0, empty).await {
                Ok(Some(base)) => return Ok(Base { torn, ..base }),
                Ok(None) => {}
                Err(Error::Stale) if gone == Gone::IsEmpty && !torn && self.knows(inode) => {
                    (empty, torn) = (true, true)
                }
                Err(Error::Network(bucket::Error::NotFound(_))) if gone == Gone::IsEmpty && !empty => empty = true,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Network(bucket::Error::Unavailable(String::from("the file changes faster than it loads"))))
    }

    /// `None` if something was committed or changed in between, so that what was read may not fit together.
    async fn try_load_extents(
        self: &Arc<Self>,
        inode: InodeId,
        key: &Key,
        windows: &BTreeSet<u64>,
        trust_known: bool,
        empty: bool,
    ) -> Result<Option<Base>, Error> {
        let (left, epoch, known) = {
            let state = self.state.lock();
            let node = state.tree.node(inode).filter(|node| trust_known && node.cut == 0);
            (state.pipeline.left, state.pipeline.epoch, node.map(|node| (node.version, known_record(node))))
        };
        let mut base = Base::default();
        let mut version = 0;
        let mut shown = None;
        let row = match (empty || self.is_unsent(inode), known) {
            (true, _) => None,
            (false, Some(known)) => Some(known),
            (false, None) => match self.ask(self.bucket.inode(inode)).await {
                Ok(row) if self.is_foreign_base(inode, &row) => return Err(Error::Stale),
                Ok(row) => {
                    let record = InodeKeys::new(key).open_record(&row)?;
                    shown = Some(row.record);
                    Some((row.version, record))
                }
                // Removed by somebody else while it waits here: what waits is all there is.
                Err(bucket::Error::NotFound(_)) if self.is_queued(inode) => None,
                Err(error) => return Err(error.into()),
            },
        };
        if let Some((expected, record)) = row {
            let keys = InodeKeys::new(key);
            let asked = if windows.is_empty() { BTreeSet::from([0]) } else { windows.clone() };
            for number in asked {
                let range = window::range(number);
                let extents = self.ask(self.bucket.extents(inode, range.start, WINDOW)).await?;
                if extents.version != expected {
                    self.reload(inode).await?;
                    return Ok(None);
                }
                keys.check_windows(inode, &record, range.clone(), &extents)?;
                let Extents { extents, tags, .. } = extents;
                base.windows.insert(number, extent::cut(&extents, &range));
                base.tags = tags.into_iter().collect();
            }
            version = expected;
        }
        let Some(queued) = self.queued_puts(inode).await? else { return Ok(None) };
        let state = self.state.lock();
        let pipeline = &state.pipeline;
        if pipeline.epoch != epoch || pipeline.left - left > pipeline.recent.len() as u64 || !queued.are_all(pipeline) {
            return Ok(None);
        }
        // Batches that were committed meanwhile count only if what was read is from before them.
        let puts = batch::puts_after((version, shown.as_ref()), pipeline.recent_puts(inode), &queued.puts);
        let Base { tags, windows: mut loaded, .. } = base;
        let renewed = |number: &u64| {
            let extents = loaded.remove(number).unwrap_or_default();
            (*number, batch::apply_puts(&puts, *number, extents))
        };
        let windows: BTreeMap<_, _> = windows.iter().map(renewed).collect();
        Ok(Some(Base { tags: batch::apply_puts_to_tags(&puts, tags), windows, torn: false }))
    }

    fn knows(&self, inode: InodeId) -> bool {
        self.state.lock().tree.node(inode).is_some()
    }

    /// True if a queued batch puts the inode.
    fn is_queued(&self, inode: InodeId) -> bool {
        self.state.lock().pipeline.queued.iter().any(|queued| queued.put_of(inode).is_some())
    }

    /// True if a row is not what changes here are made on: what is left of the file as it was is not on the network any more.
    fn is_foreign_base(&self, inode: InodeId, row: &Inode) -> bool {
        let state = self.state.lock();
        let Some(node) = state.tree.node(inode).filter(|node| node.is_put()) else { return false };
        let recent = || state.pipeline.recent_puts(inode);
        let queued = || state.pipeline.queued.iter().filter_map(|queued| queued.put_of(inode));
        let frozen = state.pipeline.drafts.iter().map(|(cut, _)| cut).chain(&state.pipeline.frozen);
        let taken = frozen.flat_map(|cut| &cut.inodes).find(|taken| taken.inode == inode);
        // The oldest change on its way was made on what the network has. A later one that bears a row's number is ours only if
        // the row is as we put it: others give the same numbers.
        let oldest = queued().map(|put| put.expected_version).chain(taken.map(|taken| taken.expected_version)).next();
        let is_ours = recent().any(|put| put.record == row.record) || queued().any(|put| put.puts(&row.record));
        oldest.unwrap_or(node.version) != row.version
            && !is_ours
            && !recent().any(|put| put.expected_version == row.version)
    }

    /// True if a queued batch creates the inode: the network does not know it yet.
    pub(crate) fn is_unsent(&self, inode: InodeId) -> bool {
        let state = self.state.lock();
        state.tree.node(inode).is_some_and(|node| node.version == 0) || state.pipeline.created.contains(&inode)
    }

    /// True if a directory that the network does not have is to be there.
    fn is_only_here(&self, directory: InodeId) -> bool {
        self.is_unsent(directory) || self.state.lock().tree.has_changes(directory)
    }

    fn directory_keys(&self, directory: InodeId) -> Result<DirectoryKeys, Error> {
        let state = self.state.lock();
        let node = state.tree.node(directory).ok_or(Error::Stale)?;
        Ok(DirectoryKeys::new(&node.key))
    }
}

/// What became of rows of a directory.
#[derive(Debug, Default)]
pub(crate) struct TakenIn {
    /// Nodes that came into memory.
    came: usize,
    /// Some were from before news that are known already.
    old: bool,
    /// These have to be asked for one by one.
    pub(crate) ask: Vec<Name>,
}

/// What a file is taken for that somebody else removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Not found.
    IsAnError,
    /// A file that the network never had.
    IsEmpty,
}

/// What proves a clean node's extents.
fn known_record(node: &Node) -> Record {
    let Digest { hash: content, allocated } = node.digest;
    Record { attributes: node.attributes.clone(), content, entries_as_of: Timestamp::default(), allocated }
}

/// The greatest name of the same length before this one; `None` if there is none.
fn just_before(name: &EncryptedName) -> Option<EncryptedName> {
    let mut bytes = name.as_bytes().to_vec();
    let at = bytes.iter().rposition(|&byte| byte != 0)?;
    bytes[at] -= 1;
    bytes[at + 1..].fill(u8::MAX);
    EncryptedName::try_from(bytes).ok()
}

/// Opens an inode's row.
pub(crate) fn open_inode(key: &Key, row: &Inode) -> Result<Adopt, Error> {
    let record = InodeKeys::new(key).open_record(row)?;
    let links = if row.kind == Kind::Directory { row.nlink.saturating_sub(2) } else { row.nlink };
    Ok(Adopt {
        inode: row.inode,
        key: SecretBytes::from(key),
        attributes: record.effective(row),
        links,
        version: row.version,
        content: record.content,
        name: None,
        allocated: record.allocated,
    })
}

impl From<strewn_engine::keys::Corrupt> for Error {
    fn from(corrupt: strewn_engine::keys::Corrupt) -> Self {
        Self::Corrupt(corrupt.to_string())
    }
}

/// Whoever loads something first; followers wake up when it is dropped.
struct Leader {
    shared: Arc<Shared>,
    missing: Missing,
    _done: watch::Sender<()>,
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.shared.loading.lock().remove(&self.missing);
    }
}

/// A load under way: what cuts set stays local until every older load is over.
pub(crate) struct Ticket<'a> {
    shared: &'a Shared,
    number: u64,
}

impl<'a> Ticket<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self { shared, number: shared.state.lock().tree.begin_load() }
    }

    /// Ends it; so does dropping.
    pub(crate) fn end(&self) {
        let mut state = self.shared.state.lock();
        state.tree.end_load(self.number);
        if state.tree.has_missed() {
            self.shared.missed.notify_one();
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
