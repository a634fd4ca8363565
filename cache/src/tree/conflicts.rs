//! The conflicts of late, for the status: copies that were made, files that came back, and directories whose move here was given
//! up. Each is listed until the name that it got is taken away or given to something else, also by a mount that comes after.

use super::Tree;
use crate::Name;
use crate::status::ConflictCopy;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};
use strewn_engine::ids::InodeId;

/// Most that are listed; older ones are only counted.
const MOST_LISTED: usize = 64;

/// Longest path that is looked up, in directories.
const MOST_PARENTS: usize = 4_096;

/// A conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conflict {
    pub(crate) inode: InodeId,
    /// The name it got; `None` if the network was still to tell.
    pub(crate) place: Option<(InodeId, Name)>,
    /// Where that was, below the root, as far as it was known.
    pub(crate) path: String,
    /// When it was, since 1970.
    pub(crate) seconds: u64,
}

/// Conflicts, oldest first.
#[derive(Debug, Default)]
pub(super) struct Conflicts(VecDeque<Conflict>);

impl Conflicts {
    pub(super) fn add(&mut self, conflict: Conflict) {
        self.forget(conflict.inode);
        if self.0.len() == MOST_LISTED {
            self.0.pop_front();
        }
        self.0.push_back(conflict);
    }

    pub(super) fn forget(&mut self, inode: InodeId) {
        if !self.0.is_empty() {
            self.0.retain(|conflict| conflict.inode != inode);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Conflict> {
        self.0.iter()
    }
}

impl Tree {
    /// A conflict that ends with this name for an inode, now.
    pub(crate) fn conflict(&self, inode: InodeId, directory: InodeId, name: &Name) -> Conflict {
        let path = self.path_below(directory, name).0;
        Conflict { inode, place: Some((directory, name.clone())), path, seconds: since_1970() }
    }

    /// A conflict about a directory that gets no name here now, and had this one.
    pub(crate) fn conflict_elsewhere(&self, inode: InodeId, name: &Name) -> Conflict {
        Conflict { inode, place: None, path: name.to_string(), seconds: since_1970() }
    }

    /// The conflicts, with the paths as they are now as far as that is known.
    pub(crate) fn conflicts(&self) -> Vec<ConflictCopy> {
        let shown = |conflict: &Conflict| {
            let path = self.conflict_path(conflict)?;
            Some(ConflictCopy { path, seconds: conflict.seconds })
        };
        self.conflicts.iter().filter_map(shown).collect()
    }

    /// Where it is now; `None` if it is there no more.
    fn conflict_path(&self, conflict: &Conflict) -> Option<String> {
        if let Some((directory, name)) = self.name_of(conflict.inode)
            && let (path, true) = self.path_below(directory, &name)
        {
            return Some(path);
        }
        let named = conflict.place.as_ref().and_then(|(directory, name)| {
            let entries = self.node(*directory)?.directory.as_deref()?;
            Some(entries.get(name)?.map(|(inode, _)| inode))
        });
        named.is_none_or(|named| named == Some(conflict.inode)).then(|| conflict.path.clone())
    }

    /// A path, and whether it is known up to the root.
    fn path_below(&self, mut directory: InodeId, name: &Name) -> (String, bool) {
        let mut path = name.to_string();
        for _ in 0..MOST_PARENTS {
            let Some((parent, name)) = self.node(directory).and_then(|node| node.names.first()) else { break };
            path = format!("{name}/{path}");
            directory = *parent;
        }
        (path, directory == self.root)
    }
}

/// Now, in seconds since 1970.
pub(crate) fn since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
