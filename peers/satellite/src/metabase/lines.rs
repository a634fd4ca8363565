//! Lines: an inode and the directories above it, up to the root.

use super::Error;
use super::codec::id;
use rusqlite::{Connection, params};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use strewn_engine::grant::Permissions;
use strewn_engine::ids::{BucketId, InodeId};

/// Deepest directory that is looked at. No mount can make deeper ones by path; a deeper line counts as out of reach.
const MAX_DEPTH: usize = 16_384;

/// Most names of one inode that are tried.
const MAX_NAMES: usize = 16_384;

/// The directory that names `directory`; `None` for the root.
pub(crate) fn parent(connection: &Connection, bucket: i64, directory: InodeId) -> Result<Option<InodeId>, Error> {
    let sql = "SELECT parent FROM entries WHERE bucket = ?1 AND child = ?2 LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![bucket, directory.as_bytes()])?;
    rows.next()?.map(|row| id(row, 0)).transpose()
}

/// Which inodes are within the subtrees of a grant, in one transaction.
///
/// Of a line only those inodes matter that some caveat names: its *marks*. They are found once per directory.
pub(crate) struct Reach<'c> {
    connection: &'c Connection,
    number: i64,
    bucket: BucketId,
    root: InodeId,
    permissions: &'c Permissions,
    named: HashSet<InodeId>,
    /// Marks of the lines of directories; `None` for what does not lead to the root.
    marks: HashMap<InodeId, Option<Rc<[InodeId]>>>,
}

impl<'c> Reach<'c> {
    pub(crate) fn new(
        connection: &'c Connection,
        (number, bucket, root): (i64, BucketId, InodeId),
        permissions: &'c Permissions,
    ) -> Self {
        let named = permissions.subtrees.iter().flatten().filter(|subtree| subtree.bucket == bucket);
        let named = named.map(|subtree| subtree.inode).collect();
        Self { connection, number, bucket, root, permissions, named, marks: HashMap::new() }
    }

    /// True if the inode exists and one of its lines is within all subtrees; without subtrees, always.
    pub(crate) fn covers(&mut self, inode: InodeId) -> Result<bool, Error> {
        if self.permissions.is_everywhere() {
            return Ok(true);
        }
        if inode == self.root {
            return Ok(self.permissions.covers(self.bucket, &[inode]));
        }
        for parent in self.parents(inode)? {
            if let Some(marks) = self.marks(parent)?
                && self.permissions.covers(self.bucket, &[&marks[..], &[inode]].concat())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The marks of a directory's line, the directory included.
    fn marks(&mut self, directory: InodeId) -> Result<Option<Rc<[InodeId]>>, Error> {
        let mut path = Vec::new();
        let mut at = directory;
        let mut marks = loop {
            if let Some(known) = self.marks.get(&at) {
                break known.clone();
            }
            path.push(at);
            if at == self.root {
                break Some(Rc::from([]));
            }
            match parent(self.connection, self.number, at)? {
                Some(parent) if path.len() < MAX_DEPTH => at = parent,
                _ => break None,
            }
        };
        for directory in path.into_iter().rev() {
            marks = marks.map(|marks| match self.named.contains(&directory) {
                true => [&marks[..], &[directory]].concat().into(),
                false => marks,
            });
            self.marks.insert(directory, marks.clone());
        }
        Ok(marks)
    }

    fn parents(&self, inode: InodeId) -> Result<Vec<InodeId>, Error> {
        let sql = "SELECT DISTINCT parent FROM entries WHERE bucket = ?1 AND child = ?2 LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![self.number, inode.as_bytes(), MAX_NAMES as i64])?;
        let mut parents = Vec::new();
        while let Some(row) = rows.next()? {
            parents.push(id(row, 0)?);
        }
        Ok(parents)
    }
}
