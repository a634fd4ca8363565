//! What a grant may do: checked in the transaction that does it.
//!
//! Without the right to see something, the answer is "forbidden" whether it exists or not.

use crate::metabase::Error;
use crate::metabase::buckets::Bucket;
use crate::metabase::lines::Reach;
use crate::metabase::referring_inodes;
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use strewn_engine::bucket::lease::LeaseRequest;
use strewn_engine::bucket::{self, Commit, Operation, PutInode, SetEntry};
use strewn_engine::grant::{Action, Permissions};
use strewn_engine::ids::{BucketId, InodeId, RunId};

/// Fails unless the grant allows the action somewhere.
pub(crate) fn require(permissions: &Permissions, action: Action) -> Result<(), bucket::Error> {
    if permissions.allows(action) {
        return Ok(());
    }
    let what = match action {
        Action::Read => "reading",
        Action::Write => "writing",
        Action::List => "listing",
        Action::Delete => "deleting",
    };
    Err(bucket::Error::Forbidden(format!("the grant does not allow {what}")))
}

/// Fails unless the grant allows the action somewhere in the bucket.
pub(crate) fn require_in(permissions: &Permissions, bucket: BucketId, action: Action) -> Result<(), bucket::Error> {
    require(permissions, action)?;
    require_bucket(permissions, bucket)
}

/// Fails unless the grant allows one of the actions somewhere in the bucket.
pub(crate) fn require_any_in(
    permissions: &Permissions,
    bucket: BucketId,
    actions: &[Action],
) -> Result<(), bucket::Error> {
    if !actions.iter().any(|action| permissions.allows(*action)) {
        actions.iter().try_for_each(|action| require(permissions, *action))?;
    }
    require_bucket(permissions, bucket)
}

/// Fails unless something of the bucket is within the grant.
pub(crate) fn require_bucket(permissions: &Permissions, bucket: BucketId) -> Result<(), bucket::Error> {
    if permissions.sees_bucket(bucket) { Ok(()) } else { Err(outside()) }
}

/// Fails unless the grant may write at all: objects that expire do not exist yet, so a grant that demands it may not.
pub(crate) fn require_write(permissions: &Permissions) -> Result<(), bucket::Error> {
    require(permissions, Action::Write)?;
    match permissions.max_ttl {
        None => Ok(()),
        Some(_) => {
            Err(bucket::Error::Forbidden("the grant demands objects that expire, which do not exist yet".into()))
        }
    }
}

/// Fails unless the inode is within the grant's subtrees.
pub(crate) fn require_covered(reach: &mut Reach<'_>, inode: InodeId) -> Result<(), Error> {
    if reach.covers(inode)? { Ok(()) } else { Err(outside().into()) }
}

/// Fails unless the grant allows all that a mount wants to hold: single names where it may write, all names only if it may
/// write and list the whole bucket.
pub(crate) fn check_lease(
    reach: &mut Reach<'_>,
    bucket: &Bucket,
    permissions: &Permissions,
    request: &LeaseRequest,
) -> Result<(), Error> {
    require_write(permissions)?;
    if request.all {
        require(permissions, Action::List)?;
        require_covered(reach, bucket.root)?;
    }
    let directories: HashSet<InodeId> = request.names.iter().map(|(directory, _)| *directory).collect();
    directories.into_iter().try_for_each(|directory| require_covered(reach, directory))
}

/// Fails unless the grant allows every operation of a batch, judged by the state before it.
pub(crate) fn check_commit(
    connection: &Connection,
    bucket: &Bucket,
    permissions: &Permissions,
    commit: &Commit,
) -> Result<(), Error> {
    let changes = commit.operations.iter().any(|operation| match operation {
        Operation::SetEntry(set) => set.target.is_some(),
        Operation::PutInode(_) => true,
        Operation::CheckGone(_) => false,
    });
    if changes {
        require_write(permissions)?;
    }
    let reach = Reach::new(connection, bucket.place(), permissions);
    let mut check = Check { connection, bucket, permissions, reach, parents: HashMap::new(), places: HashMap::new() };
    check.find_new_inodes(commit)?;
    for operation in &commit.operations {
        match operation {
            Operation::SetEntry(set) => check.set_entry(set)?,
            Operation::PutInode(put) => check.put_inode(put)?,
            // It is about what a name of the batch names, and who may take that name may know of it.
            Operation::CheckGone(_) => {}
        }
    }
    check.runs(commit)
}

fn outside() -> bucket::Error {
    bucket::Error::Forbidden("outside of what the grant opens".to_owned())
}

struct Check<'c> {
    connection: &'c Connection,
    bucket: &'c Bucket,
    permissions: &'c Permissions,
    reach: Reach<'c>,
    /// Inodes that the batch makes, with the directory in which it names them.
    parents: HashMap<InodeId, Option<InodeId>>,
    /// Directories that the batch makes, and whether they come to lie within the subtrees.
    places: HashMap<InodeId, bool>,
}

impl Check<'_> {
    /// What a batch makes belongs where it names it. An inode that exists is not made, whatever the batch says.
    fn find_new_inodes(&mut self, commit: &Commit) -> Result<(), Error> {
        if self.permissions.is_everywhere() {
            return Ok(());
        }
        for operation in &commit.operations {
            if let Operation::PutInode(put) = operation
                && put.expected_version == 0
            {
                if crate::metabase::inode_exists(self.connection, self.bucket, put.inode)? {
                    require_covered(&mut self.reach, put.inode)?;
                } else {
                    self.parents.insert(put.inode, None);
                }
            }
        }
        for operation in &commit.operations {
            if let Operation::SetEntry(SetEntry { parent, target: Some(target), .. }) = operation
                && let Some(named) = self.parents.get_mut(&target.child)
            {
                *named = Some(*parent);
            }
        }
        Ok(())
    }

    fn set_entry(&mut self, set: &SetEntry) -> Result<(), Error> {
        if set.target.is_some() || set.expected.is_none() {
            require(self.permissions, Action::Write)?;
        }
        if set.expected.is_some() {
            require(self.permissions, Action::Delete)?;
        }
        if !self.directory_is_covered(set.parent)? {
            return Err(outside().into());
        }
        match &set.target {
            Some(target) if !self.parents.contains_key(&target.child) => require_covered(&mut self.reach, target.child),
            _ => Ok(()),
        }
    }

    fn put_inode(&mut self, put: &PutInode) -> Result<(), Error> {
        require(self.permissions, Action::Write)?;
        if put.expected_version > 0 {
            require(self.permissions, Action::Delete)?;
            require_covered(&mut self.reach, put.inode)?;
        }
        Ok(())
    }

    /// True if a directory is within the subtrees, or comes to lie there with this batch.
    fn directory_is_covered(&mut self, directory: InodeId) -> Result<bool, Error> {
        let mut path = Vec::new();
        let mut at = directory;
        let covered = loop {
            if let Some(known) = self.places.get(&at) {
                break *known;
            }
            match self.parents.get(&at) {
                None => break self.reach.covers(at)?,
                // Without a name, or in a circle: refused later, and never covered.
                Some(None) => break false,
                Some(Some(_)) if path.len() > self.parents.len() => break false,
                Some(Some(parent)) => {
                    path.push(at);
                    at = *parent;
                }
            }
        };
        self.places.extend(path.into_iter().map(|directory| (directory, covered)));
        Ok(covered)
    }

    /// A run that exists may be referred to by whoever may read an inode that does, or by that inode itself.
    fn runs(&mut self, commit: &Commit) -> Result<(), Error> {
        if self.permissions.is_everywhere() && self.permissions.allows(Action::Read) {
            return Ok(());
        }
        let mut seen: HashSet<(InodeId, RunId)> = HashSet::new();
        for operation in &commit.operations {
            let Operation::PutInode(put) = operation else { continue };
            for extent in put.ranges.iter().flat_map(|range| &range.extents) {
                if seen.insert((put.inode, extent.run)) {
                    self.run(put.inode, extent.run)?;
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, inode: InodeId, run: RunId) -> Result<(), Error> {
        let referring = referring_inodes(self.connection, self.bucket, run)?;
        if referring.is_empty() || referring.contains(&inode) {
            return Ok(());
        }
        require(self.permissions, Action::Read)?;
        for inode in referring {
            if self.reach.covers(inode)? {
                return Ok(());
            }
        }
        Err(outside().into())
    }
}
