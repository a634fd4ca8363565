//! The conflict copies made lately, and directories whose move here was given up, for the status.

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
    of: Of,
    name: Name,
    /// Since 1970.
    seconds: u64,
}

#[derive(Debug)]
enum Of {
    /// Something with this name in this directory.
    Entry(InodeId),
    /// A directory, wherever it is now. It had the name when it was noted.
    Directory(InodeId),
}

impl Copied {
    /// Notes a conflict copy.
    pub(crate) fn note(&self, directory: InodeId, name: &Name) {
        self.add(Of::Entry(directory), name);
    }

    /// Notes a directory whose move here was given up.
    pub(crate) fn note_directory(&self, directory: InodeId, name: &Name) {
        self.add(Of::Directory(directory), name);
    }

    fn add(&self, of: Of, name: &Name) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut copies = self.0.lock();
        if copies.len() == MOST_LISTED {
            copies.pop_front();
        }
        copies.push_back(Copy { of, name: name.clone(), seconds });
    }

    /// The list, with the paths as they are now.
    pub(crate) fn list(&self, tree: &Tree) -> Vec<ConflictCopy> {
        let copies = self.0.lock();
        copies.iter().map(|copy| ConflictCopy { path: path(tree, copy), seconds: copy.seconds }).collect()
    }
}

/// Path below the root, as far as it is known.
fn path(tree: &Tree, copy: &Copy) -> String {
    let known = |inode| tree.name_of(inode).map(|(directory, name)| (Some(directory), name.to_string()));
    let (directory, mut path) = match copy.of {
        Of::Entry(directory) => (Some(directory), copy.name.to_string()),
        Of::Directory(inode) => known(inode).unwrap_or((None, copy.name.to_string())),
    };
    let Some(mut directory) = directory else { return path };
    for _ in 0..MOST_PARENTS {
        let Some((parent, name)) = tree.node(directory).and_then(|node| node.names.first()) else { break };
        path = format!("{name}/{path}");
        directory = *parent;
    }
    path
}
