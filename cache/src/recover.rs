//! Opening a cache directory: whose it is, and what the journal brings back.
//!
//! What counts of the journal, [replayed](mod@replay):
//!
//! - A freeze counts if its cut became a batch that was not taken apart again; else what it took is still pending.
//! - After a reboot of the machine a write whose bytes are not in the journal counts only up to the mark of its data file, and
//!   no later bytes of the same content count either, nor does the file grow: it ends up as long as it was at an earlier
//!   moment (or shorter, if it was cut short later), every byte is one that was written there and not zeros that nobody
//!   wrote; bytes of lost writes may be among them where they overwrote others. What a batch took counts: it is in sealed
//!   files.
//! - What a batch took and no sealed file has is held in a data file: see [`crate::content::clones`].
//! - Of a data file that programs may have changed by themselves everything counts: see [`crate::passthrough`].
//! - Clean bytes are dropped, they can be had again; but for data files that a row of the index speaks of, see `warm`.

mod outlook;
mod replay;

use crate::content::map::Backing;
use crate::cut::seal::draw;
use crate::data::DataId;
use crate::journal::{self, Journal, Recovered};
use crate::record::Mutation;
use crate::shared::State;
use crate::store::{Found, Store};
use crate::tree::WarmFile;
use crate::warm::Row;
use crate::{Error, Root};
use rangemap::RangeSet;
use replay::replay;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use strewn_engine::bucket::BucketSettings;
use strewn_engine::ids::{BucketId, InodeId, MountId};

/// Whose directory it is.
///
/// ```text
/// version = 1 (1) | postcard of Identity
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) bucket: BucketId,
    pub(crate) root: InodeId,
    mount: MountId,
}

const IDENTITY_VERSION: u8 = 1;

impl Identity {
    /// Reads the stored form.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let Some((&IDENTITY_VERSION, body)) = bytes.split_first() else {
            return Err(foreign("the cache directory was made by another version"));
        };
        postcard::from_bytes(body).map_err(|_| foreign("the cache directory is damaged"))
    }
}

fn foreign(what: &str) -> Error {
    Error::Disk(Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidData, what)))
}

/// Checks whose directory it is, or makes it this mount's. Blocks.
pub(crate) fn identify(store: &Store, settings: &BucketSettings, root: &Root) -> Result<MountId, Error> {
    let Some(bytes) = store.identity()? else {
        let identity = Identity { bucket: settings.bucket, root: root.inode, mount: MountId::from_bytes(draw()?) };
        let bytes = postcard::to_extend(&identity, vec![IDENTITY_VERSION]).expect("plain structs encode");
        store.put_identity(&bytes)?;
        return Ok(identity.mount);
    };
    let identity = Identity::parse(&bytes)?;
    if identity.bucket != settings.bucket || identity.root != root.inode {
        return Err(foreign("the cache directory belongs to another bucket or directory"));
    }
    Ok(identity.mount)
}

/// Rebuilds the state from the journal and removes files that nothing refers to. Gives what is to be journaled before anything
/// else, as the record at `next`. Blocks.
pub(crate) fn recover(
    store: &Store,
    found: Found,
    recovered: &Recovered,
    root: &Root,
    mount: MountId,
    rows: HashMap<InodeId, Row>,
    next: u64,
) -> Result<(State, Vec<Mutation>), Error> {
    let replay = replay(store, recovered, root.inode, mount)?;
    let (mut state, marks) = replay.finish(next)?;
    clean_up(store, &found, &mut state, rows);
    Ok((state, marks))
}

/// What the journal says is pending.
pub(crate) struct Survey {
    /// Files with content or attributes that no batch has.
    pub(crate) files: u64,
    /// Changes that no batch has.
    pub(crate) operations: u64,
    /// Bytes of content that no batch has.
    pub(crate) bytes: u64,
    /// Cuts whose batches wait for the network.
    pub(crate) queued: Vec<u64>,
    /// Data files that hold bytes which are nowhere else.
    pub(crate) needed: Vec<Needed>,
}

/// Bytes that only a data file has.
pub(crate) struct Needed {
    pub(crate) file: DataId,
    pub(crate) ranges: RangeSet<u64>,
}

/// Reads the journal as an opening would, and changes nothing. Blocks.
pub(crate) fn survey(store: &Store, recovered: &Recovered, identity: &Identity) -> Result<Survey, Error> {
    replay(store, recovered, identity.root, identity.mount)?.survey()
}

/// Removes files that nothing refers to. Clean data files that a row speaks of stay.
fn clean_up(store: &Store, found: &Found, state: &mut State, mut rows: HashMap<InodeId, Row>) {
    for file in &found.data {
        let DataId { inode, generation } = file.id;
        let row = rows.remove(&inode).filter(|row| row.generation == generation);
        let content = state.tree.node_mut(inode).and_then(|node| node.content.as_deref_mut());
        let used =
            content.filter(|content| content.generation == generation && matches!(content.backing, Backing::File));
        match (used, row) {
            // A row about a file that the journal knows better should not be there; it goes before the file is written.
            (Some(content), Some(row)) => content.kept = Some(row.content),
            (Some(_), None) => {}
            (None, Some(row)) if row.ranges.last().is_some_and(|last| last.end <= file.length) => {
                if !row.synced {
                    store.doubt_data(inode, generation);
                }
                state.tree.put_warm(inode, WarmFile { row, kept: true });
            }
            (None, _) => store.remove_data(inode, generation),
        }
    }
    state.tree.attach_all_warm();
    let segments: HashSet<_> =
        state.pipeline.queued.iter().flat_map(|queued| &queued.segments).map(|segment| segment.id).collect();
    found.segments.iter().filter(|id| !segments.contains(id)).for_each(|id| store.remove_segment(*id));
    let cuts: HashSet<u64> = state.pipeline.queued.iter().map(|queued| queued.cut).collect();
    found.cuts.iter().filter(|cut| !cuts.contains(cut)).for_each(|cut| store.remove_cut(*cut));
}

/// Opens the journal and replays it. Blocks.
pub(crate) fn open(
    store: &Store,
    found: Found,
    disk: Arc<dyn crate::disk::Disk>,
    boot: journal::BootId,
    root: &Root,
    mount: MountId,
    rows: HashMap<InodeId, Row>,
) -> Result<(Journal, State, bool), Error> {
    let (journal, recovered) = Journal::open(disk, journal::Settings::new(boot))?;
    let next = journal.last().0 + 1;
    let (mut state, marks) = recover(store, found, &recovered, root, mount, rows, next)?;
    if !marks.is_empty() {
        state.append(&journal, &marks)?;
    }
    Ok((journal, state, recovered.rebooted))
}
