//! Clean bytes outlive the mount: what the index says about data files.
//!
//! A [`Row`] says: *these ranges of this data file hold the bytes of the content with this hash*. The hash is the one that the
//! file's sealed record seals over its window tags, so a row needs no news of changes elsewhere: whoever finds a file's
//! record on the network and a row with its hash has the file's bytes, and any other row is worthless. Nothing is recovered
//! from a row; without it the bytes are fetched again.
//!
//! So all that has to be kept is that rows tell the truth about data files:
//!
//! - **W1.** A row is put only while nobody holds the guard of the content, and nothing of it is changed or being sealed.
//!   Whoever changes bytes of a data file holds the guard (and the gate, so that a close waits). What is on its way to the
//!   network has its hash already.
//! - **W2.** Before a byte of a data file changes that a row may speak of, the row is forgotten, and that is committed to the
//!   database (`Shared::disown`). If that fails the data file is given up and the bytes go into a fresh one, whose
//!   name no row knows. The bytes of a fetch are those the row speaks of anyway as long as the hash is the same.
//! - **W3.** In the same boot of the machine a committed transaction is there for the next process, however this one ended. So
//!   rows put while the mount runs survive `kill -9`. After a reboot they do not count: the data file may have kept newer
//!   bytes than the database.
//! - **W4.** Only an orderly close puts rows that outlive a reboot: all writers are gone, and the data file is durable. The next
//!   opening makes them ordinary rows, durably, before it touches any data file ([`Index::open`]).
//! - **W5.** Data files that neither journal nor a row refers to are removed at opening, so a row that the index failed to show or
//!   to forget speaks of a file that is gone. Generations are never used twice.
//!
//! Small files have rows with their bytes, see [`small`]. Names and attributes outlive an orderly close, see [`names`]. The
//! index is a file like the others of the cache directory (0700).

mod entry;
pub(crate) mod names;
mod row;
mod small;

pub(crate) use entry::EntryRow;
pub(crate) use row::Row;
pub(crate) use small::SmallRow;

use crate::Error;
use crate::blocking::blocking;
use crate::disk::Disk;
use crate::index::Index;
use crate::journal::BootId;
use crate::shared::Shared;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strewn_engine::ids::InodeId;

/// Name of the index in the cache directory.
const INDEX: &str = "index";
/// A file that is written again and again gets no row before it was left alone for this many rounds of housekeeping.
const QUIET_ROUNDS: u64 = 8;
/// Most rows put in one round.
const ROWS_A_ROUND: usize = 512;
/// Rows read or put at a time at opening and close.
const PAGE: u32 = 1_000;
/// Rows are handed to the index in portions of about this many bytes.
const PORTION: usize = 1 << 20;
/// An orderly close spends this long on making clean data files durable; those it does not get to survive everything but
/// a reboot.
const SYNC_AT_CLOSE: Duration = Duration::from_secs(5);

/// Opens the index of a cache directory, or none: if it is not wanted the one that is there is removed. Blocks.
pub(crate) fn open_index(disk: &dyn Disk, boot: BootId, wanted: bool) -> Index {
    match disk.path(INDEX) {
        Some(path) if wanted => Index::open(&path, boot),
        Some(path) => {
            Index::remove(&path);
            Index::none()
        }
        None => Index::none(),
    }
}

/// Bytes that the index takes on disk.
pub(crate) fn index_bytes(disk: &dyn Disk) -> u64 {
    disk.path(INDEX).map_or(0, |path| Index::bytes_of(&path))
}

/// Reads all of the index, if there is one. It is only read.
pub(crate) fn check_index(disk: &dyn Disk) -> Result<(), String> {
    disk.path(INDEX).map_or(Ok(()), |path| Index::check(&path))
}

/// Removes the index, and with it all that is said of clean state.
pub(crate) fn remove_index(disk: &dyn Disk) {
    if let Some(path) = disk.path(INDEX) {
        Index::remove(&path);
    }
}

/// The rows of the last time. Those that do not parse are forgotten.
pub(crate) async fn read_rows(index: &Index) -> HashMap<InodeId, Row> {
    let mut rows = HashMap::new();
    let mut after = None;
    loop {
        let page = index.ranges_after(after, PAGE).await;
        let Some((last, _)) = page.last() else { return rows };
        after = Some(*last);
        for (inode, value) in page {
            match Row::decode(&value) {
                Some(row) => {
                    rows.insert(inode, row);
                }
                None => index.forget_ranges(inode),
            }
        }
    }
}

impl Shared {
    /// Tells the index about clean data files; `all`: also about those written a moment ago.
    pub(crate) fn keep_files(&self, all: bool) {
        if !self.index.is_open() {
            return;
        }
        let mut state = self.state.lock();
        let tree = &mut state.tree;
        let (quiet, most) = if all { (0, usize::MAX) } else { (QUIET_ROUNDS, ROWS_A_ROUND) };
        for inode in tree.warm.next_round(quiet, most) {
            match tree.row(inode) {
                Some(row) => {
                    let row = Row { synced: row.synced || self.store.is_clean(inode, row.generation), ..row };
                    self.index.put_ranges(inode, row.encode().into(), false);
                    tree.note_kept(inode, &row);
                }
                None => tree.put_off(inode),
            }
        }
    }

    /// Makes sure that no row speaks of the inode's data file any more. The content's guard is held.
    pub(crate) async fn disown(&self, inode: InodeId) -> Result<(), Error> {
        let sure = self.index.forget_ranges_surely(inode).await;
        let mut state = self.state.lock();
        match sure {
            true => state.tree.note_disowned(inode),
            false if state.tree.give_up_file(inode) => {}
            false => {
                let why = std::io::Error::other("the index does not take back what it says about a data file");
                return Err(Error::Disk(Arc::new(why)));
            }
        }
        Ok(())
    }

    /// After files were removed: rows about them are of no use.
    pub(crate) fn forget_rows(&self, removed: &[(InodeId, u64)]) {
        let state = self.state.lock();
        for (inode, generation) in removed {
            if state.tree.kept_generation(*inode).is_none_or(|kept| kept == *generation) {
                self.index.forget_ranges(*inode);
            }
        }
    }

    /// At an orderly close, when nobody writes any more: puts rows about all clean data files, and closes the index.
    pub(crate) async fn keep_for_next_time(self: &Arc<Self>) -> Result<(), Error> {
        let files = self.state.lock().tree.clean_files();
        let until = Instant::now() + SYNC_AT_CLOSE;
        for page in files.chunks(PAGE as usize) {
            let (shared, inodes) = (self.clone(), page.to_vec());
            blocking(move || {
                inodes.iter().for_each(|inode| shared.keep_at_close(*inode, until));
                Ok(())
            })
            .await?;
            self.index.flush().await;
        }
        self.keep_all_small().await;
        self.keep_names().await;
        let shared = self.clone();
        blocking(move || {
            shared.index.close();
            Ok(())
        })
        .await
    }

    fn keep_at_close(&self, inode: InodeId, until: Instant) {
        let Some(row) = self.state.lock().tree.row(inode) else { return };
        if Instant::now() < until
            && let Err(error) = self.store.sync_data(inode, row.generation)
        {
            tracing::warn!("a clean data file cannot be made durable and is forgotten: {error}");
            return self.index.forget_ranges(inode);
        }
        let synced = self.store.is_clean(inode, row.generation);
        self.index.put_ranges(inode, Row { synced, ..row }.encode().into(), synced);
    }
}
