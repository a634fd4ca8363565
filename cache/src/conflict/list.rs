//! The conflict copies made lately, for the status.

use crate::Name;
use crate::status::ConflictCopy;
use crate::tree::Tree;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};
use strewn_engine::ids::InodeId;

/// Most that are listed; older ones are only counted.
const MOST_LISTED: usize = 64;

/// Longest path that is looked up, in directories.
const MOST_PARENTS: usize = 4_096;

/// Conflict copies, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Copied(Mutex<VecDeque<Copy>>);

#[derive(Debug)]
struct Copy {
    directory: InodeId,
    name: Name,
    /// Since 1970.
    seconds: u64,
}

impl Copied {
    pub(crate) fn note(&self, directory: InodeId, name: &Name) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut copies = self.0.lock();
        if copies.len() == MOST_LISTED {
            copies.pop_front();
        }
        copies.push_back(Copy { directory, name: name.clone(), seconds });
    }

    /// The list, with the paths as they are now.
    pub(crate) fn list(&self, tree: &Tree) -> Vec<ConflictCopy> {
        let copies = self.0.lock();
        copies.iter().map(|copy| ConflictCopy { path: path(tree, copy), seconds: copy.seconds }).collect()
    }
}

/// Path below the root, as far as it is known.
fn path(tree: &Tree, copy: &Copy) -> String {
    let mut path = copy.name.to_string();
    let mut directory = copy.directory;
    for _ in 0..MOST_PARENTS {
        let Some((parent, name)) = tree.node(directory).and_then(|node| node.names.first()) else { break };
        path = format!("{name}/{path}");
        directory = *parent;
    }
    path
}
