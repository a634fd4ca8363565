//! Reading directories.
//!
//! Cookies: 0 is before the start, 1 after `.`, 2 after `..`, then those of the tree, moved by two. The tree gives cookies in
//! order of arrival and never twice, so a reader that goes on after a cookie misses and repeats nothing that stayed. What
//! arrives while somebody reads is left out, so that a program comes to an end that renames what it finds.

use super::tree::{directory, stat};
use super::{Entry, Stat, Volume};
use crate::error::Result;
use parking_lot::Mutex;
use std::collections::HashMap;
use strewn_cache::{DirectoryEntry, Stop, Transaction};
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// Cookie of `.`.
const SELF_COOKIE: u64 = 1;
/// Cookie of `..`, and how far those of the tree are moved.
pub(super) const PARENT_COOKIE: u64 = 2;

/// A line of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryLine {
    /// Where to go on.
    pub cookie: u64,
    /// The name, `.` and `..` included.
    pub name: Vec<u8>,
    /// The number of what it names.
    pub number: u64,
    /// Its kind.
    pub kind: Kind,
}

/// A line of a directory with what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where to go on.
    pub cookie: u64,
    /// The name, `.` and `..` included.
    pub name: Vec<u8>,
    /// What it names.
    pub entry: Entry,
    /// A reference to it has been counted: always, but for `.` and `..`.
    pub referenced: bool,
}

/// Where open directories end, by their handle: the last cookie of when they were read from their start.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<HashMap<u64, u64>>);

impl Ends {
    pub(super) fn forget(&self, handle: u64) {
        self.0.lock().remove(&handle);
    }
}

impl Volume {
    /// The last cookie that a reader with this handle is to see, who goes on after another one. Errors: `ENOTDIR`.
    pub async fn end_of_dir(&self, inode: InodeId, handle: u64, after: u64) -> Result<u64> {
        let known = || self.ends.0.lock().get(&handle).copied();
        if let Some(end) = (after > 0).then(known).flatten() {
            return Ok(end);
        }
        let end = self.cache.transact(|tx| tx.last_cookie(inode)).await?.saturating_add(PARENT_COOKIE);
        self.ends.0.lock().insert(handle, end);
        Ok(end)
    }

    /// Up to `max` lines after a cookie; none at the end. Errors: `ENOTDIR`.
    pub async fn read_dir(&self, inode: InodeId, after: u64, max: usize) -> Result<Vec<DirectoryLine>> {
        let (parent, entries) = self
            .cache
            .transact(|tx| {
                directory(tx, inode)?;
                Ok((tx.parent(inode)?, tx.read_names(inode, after.saturating_sub(PARENT_COOKIE), max)?))
            })
            .await?;
        let line = |cookie, name: &[u8], inode, kind| DirectoryLine {
            cookie,
            name: name.to_vec(),
            number: self.number(inode),
            kind,
        };
        let dots = [(SELF_COOKIE, &b"."[..], inode), (PARENT_COOKIE, &b".."[..], parent)];
        let dots = dots.into_iter().filter(|(cookie, ..)| *cookie > after);
        let dots = dots.map(|(cookie, name, inode)| line(cookie, name, inode, Kind::Directory));
        let rest = entries.iter().map(|e| line(e.cookie + PARENT_COOKIE, e.name.as_bytes(), e.inode, e.kind));
        Ok(dots.chain(rest).take(max).collect())
    }

    /// Like [`read_dir`](Self::read_dir), with attributes. A line that is not used has its reference given back by the
    /// caller.
    pub async fn read_dir_plus(&self, inode: InodeId, after: u64, max: usize) -> Result<Vec<Listed>> {
        let (own, parent, entries) = self
            .cache
            .transact(|tx| {
                directory(tx, inode)?;
                let parent = tx.parent(inode)?;
                let room = max.saturating_sub(dots_after(after));
                let mut listed = Vec::new();
                for entry in entries(tx, inode, after, room)? {
                    listed.push((stat(tx, entry.inode)?, entry));
                }
                for (stat, _) in &listed {
                    tx.pin(stat.inode)?;
                }
                Ok((stat(tx, inode)?, stat(tx, parent)?, listed))
            })
            .await?;
        let dots = [(SELF_COOKIE, &b"."[..], own), (PARENT_COOKIE, &b".."[..], parent)];
        let dots = dots.into_iter().filter(|(cookie, ..)| *cookie > after).take(max);
        let dots = dots.map(|(cookie, name, stat)| Listed {
            cookie,
            name: name.to_vec(),
            entry: self.unreferenced(stat),
            referenced: false,
        });
        let rest = entries.into_iter().map(|(stat, entry)| Listed {
            cookie: entry.cookie + PARENT_COOKIE,
            name: entry.name.as_bytes().to_vec(),
            entry: self.entry(stat),
            referenced: true,
        });
        Ok(dots.chain(rest).collect())
    }

    /// Gives back the references of lines that were not used.
    pub fn give_back(&self, lines: impl IntoIterator<Item = Listed>) {
        for line in lines {
            if line.referenced {
                self.forget(line.entry.stat.inode, 1);
            }
        }
    }

    pub(super) fn unreferenced(&self, stat: Stat) -> Entry {
        Entry { number: self.number(stat.inode), stat: self.as_seen(stat) }
    }
}

/// How many of `.` and `..` come after a cookie.
fn dots_after(cookie: u64) -> usize {
    PARENT_COOKIE.saturating_sub(cookie) as usize
}

fn entries(tx: &Transaction<'_>, inode: InodeId, after: u64, max: usize) -> Result<Vec<DirectoryEntry>, Stop> {
    tx.read_dir(inode, after.saturating_sub(PARENT_COOKIE), max)
}
