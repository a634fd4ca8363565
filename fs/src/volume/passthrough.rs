//! Lending files to the kernel, which then reads them by itself.
//!
//! The kernel opens an inode either with lent files alone or with none, or fails the open that differs. So who opens a file
//! whose other handles are lent is lent it too, but asks us for what he reads and writes if he may write, or if the lent file
//! does not show the content at that moment; and a file that is open otherwise is not lent. Which it is is known by the handle.

use super::{Open, Opened, Volume};
use crate::error::Result;
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use strewn_cache::{Change, Loan};
use strewn_engine::ids::InodeId;

/// Attempts at opening a file that others open and close all the time.
const MOST_ATTEMPTS: usize = 1_000;

/// The bit of a handle that says that it was lent a file.
const LENT: u64 = 1;

/// A file that is lent to the kernel.
#[derive(Debug, Clone)]
pub struct Lent {
    /// The same for all handles of an inode that are open at a time.
    pub file: Arc<File>,
    /// What is read and written by way of this handle comes to us all the same; only what is mapped is the lent file.
    pub direct: bool,
}

impl Volume {
    /// From here on files may be lent, or no longer.
    pub fn allow_lending(&self, allowed: bool) {
        self.lends.store(allowed, Ordering::Relaxed);
    }

    /// Opens a file that may be opened.
    pub(super) async fn open_file(&self, inode: InodeId, open: Open) -> Result<Opened> {
        for _ in 0..MOST_ATTEMPTS {
            if let Some(loan) = self.borrow(inode, open).await? {
                if self.nodes.opened_lent(inode) {
                    let direct = open.write || open.direct || !loan.shows;
                    let lent = Some(Lent { file: loan.file, direct });
                    return Ok(Opened { keep_copies: false, handle: self.next_handle(true), lent });
                }
                self.cache.take_back(inode);
            }
            if let Some(opened) = self.open_without_lending(inode) {
                return Ok(opened);
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Opens a file for which nothing is to be lent; `None` if it is lent to others.
    pub fn open_without_lending(&self, inode: InodeId) -> Option<Opened> {
        self.nodes.opened_unless_lent(inode).then(|| {
            let keep_copies = self.nodes.open_keeps_copies(inode);
            Opened { keep_copies, handle: self.next_handle(false), lent: None }
        })
    }

    /// One more loan of a file, if it is lent, or may be.
    async fn borrow(&self, inode: InodeId, open: Open) -> Result<Option<Loan>> {
        let reads_alone = !open.write && !open.direct;
        Ok(match self.nodes.open_files(inode) {
            (1.., 0) => None,
            (0, 0) if !reads_alone || !self.lends.load(Ordering::Relaxed) => None,
            (0, 0) => self.cache.lend(inode).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "a file is read through the mount, since it cannot be lent");
                None
            }),
            _ if open.read && open.write => self.cache.lend_exposed(inode).await?,
            _ => self.cache.lend_again(inode),
        })
    }

    /// A handle is closed.
    pub(super) fn closed(&self, inode: InodeId, handle: u64) {
        if !Self::is_lent_handle(handle) {
            return self.nodes.closed(inode);
        }
        self.nodes.closed_lent(inode);
        self.cache.take_back(inode);
    }

    /// True of a handle for which a file was lent.
    pub fn is_lent_handle(handle: u64) -> bool {
        handle & LENT != 0
    }

    pub(super) fn next_handle(&self, lent: bool) -> u64 {
        let number = self.handles.fetch_add(1, Ordering::Relaxed) + 1;
        number << 1 | if lent { LENT } else { 0 }
    }

    /// Before a write that has to be shown afterwards: what may be dropped and begun anew is dropped here.
    pub(super) async fn until_shown(&self, inode: InodeId) {
        if self.cache.is_mirrored(inode) {
            tokio::task::yield_now().await;
        }
    }

    /// After a write: it shows in a lent file, too.
    pub(super) async fn show_written(&self, inode: InodeId, range: Range<u64>) -> Result<()> {
        if self.cache.is_mirrored(inode) {
            self.cache.show(inode, Change::Written(range)).await?;
        }
        Ok(())
    }

    /// After a change of the size, or after a hole was made: that shows in a lent file, too.
    pub(super) async fn show_change(&self, inode: InodeId, change: Change) -> Result<()> {
        if self.cache.is_lent(inode) {
            self.cache.show(inode, change).await?;
        }
        Ok(())
    }
}
