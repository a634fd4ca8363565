//! Names and inodes: conditions, then the state after, then what must hold of it.

use super::*;

type Checked<R, T = ()> = Result<T, Stop<<R as Rows>::Error>>;

/// One inode before and after.
struct Node {
    before: Option<InodeRow>,
    after: Option<InodeRow>,
    /// Names after. The root counts as having one.
    names: u64,
    /// Of these, names that the batch sets.
    given: u64,
}

pub(super) struct Tree<'a, R: Rows> {
    rows: &'a mut R,
    commit: &'a Commit,
    root: InodeId,
    nodes: HashMap<InodeId, Node>,
    /// Nodes in the order they were met, so that plans do not depend on hashing.
    order: Vec<InodeId>,
    /// Per operation: the entry that a name had before.
    old: Vec<Option<Entry>>,
}

impl<'a, R: Rows> Tree<'a, R> {
    pub(super) fn new(rows: &'a mut R, commit: &'a Commit) -> Self {
        let root = rows.root();
        let old = vec![None; commit.operations.len()];
        Self { rows, commit, root, nodes: HashMap::new(), order: Vec::new(), old }
    }

    /// Compares names and versions with what the operations expect.
    pub(super) fn check_conditions(&mut self) -> Checked<R> {
        let created: HashSet<InodeId> =
            self.puts().filter(|(_, put)| is_new_directory(put)).map(|p| p.1.inode).collect();
        for (index, operation) in self.commit.operations.iter().enumerate() {
            match operation {
                Operation::SetEntry(set) => self.check_entry(index, set, created.contains(&set.parent))?,
                Operation::PutInode(put) => {
                    let before = self.node(put.inode)?.before.as_ref();
                    let found = before.map_or(0, |row| row.inode.version);
                    if found != put.expected_version {
                        return Err(Stop::Refused(index, Refusal::VersionChanged { found }));
                    }
                    if before.is_some_and(|row| row.inode.kind != put.kind) {
                        return Err(Stop::Refused(index, Refusal::NoInode));
                    }
                }
                Operation::CheckGone(_) => {}
            }
        }
        Ok(())
    }

    fn check_entry(&mut self, index: usize, set: &SetEntry, parent_is_new: bool) -> Checked<R> {
        let found = match &self.node(set.parent)?.before {
            Some(row) if row.inode.kind == Kind::Directory => self.rows.entry(set.parent, &set.name)?,
            None if parent_is_new => None,
            _ => return Err(Stop::Refused(index, Refusal::NoDirectory)),
        };
        let child = found.as_ref().map(|entry| entry.child);
        if child != set.expected {
            return Err(Stop::Refused(index, Refusal::EntryChanged { found: child }));
        }
        self.old[index] = found;
        Ok(())
    }

    /// Brings the nodes into the state after: rows first, then names.
    pub(super) fn apply(&mut self) -> Checked<R> {
        let commit = self.commit;
        for operation in &commit.operations {
            if let Operation::PutInode(put) = operation {
                let node = self.node(put.inode)?;
                node.after = Some(put_row(node.before.as_ref(), put));
            }
        }
        for (index, operation) in commit.operations.iter().enumerate() {
            if let Operation::SetEntry(set) = operation {
                self.apply_entry(index, set)?;
            }
        }
        Ok(())
    }

    fn apply_entry(&mut self, index: usize, set: &SetEntry) -> Checked<R> {
        let old = self.old[index].as_ref().map(|entry| (entry.child, entry.kind));
        if old.is_none() && set.target.is_none() {
            return Ok(());
        }
        if let Some((child, _)) = old {
            let node = self.node(child)?;
            node.names = node.names.saturating_sub(1);
        }
        if let Some(target) = &set.target {
            let node = self.node(target.child)?;
            (node.names, node.given) = (node.names + 1, node.given + 1);
        }
        let Some(parent) = &mut self.node(set.parent)?.after else { return Ok(()) };
        if let Some((_, kind)) = old {
            parent.children = parent.children.saturating_sub(1);
            parent.inode.nlink -= u32::from(kind == Kind::Directory && parent.inode.nlink > 2);
        }
        if let Some(target) = &set.target {
            parent.children += 1;
            let count = parent.inode.nlink.checked_add(u32::from(target.kind == Kind::Directory));
            parent.inode.nlink = count.ok_or(Stop::Refused(index, Refusal::Names))?;
        }
        parent.inode.entries_changed = parent.inode.entries_changed.max(set.time);
        Ok(())
    }

    /// Checks that names name what they say, counts names, and takes away what has none.
    pub(super) fn check_names(&mut self) -> Checked<R> {
        let commit = self.commit;
        for (index, operation) in commit.operations.iter().enumerate() {
            match operation {
                Operation::SetEntry(SetEntry { target: Some(target), .. }) => self.check_target(index, target)?,
                Operation::PutInode(put) if self.node(put.inode)?.names == 0 => {
                    return Err(Stop::Refused(index, Refusal::Names));
                }
                Operation::CheckGone(check) => self.check_gone(index, check)?,
                _ => {}
            }
        }
        for index in 0..commit.operations.len() {
            let Some(child) = self.old[index].as_ref().map(|entry| entry.child) else { continue };
            let node = self.node(child)?;
            if node.names == 0 && node.after.as_ref().is_some_and(|row| row.children > 0) {
                return Err(Stop::Refused(index, Refusal::NotEmpty));
            }
        }
        for node in self.nodes.values_mut() {
            match &mut node.after {
                Some(_) if node.names == 0 => node.after = None,
                Some(row) if row.inode.kind != Kind::Directory => {
                    row.inode.nlink = u32::try_from(node.names).unwrap_or(u32::MAX);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_gone(&mut self, index: usize, check: &CheckGone) -> Checked<R> {
        let node = self.node(check.inode)?;
        let found = node.before.as_ref().map_or(0, |row| row.inode.version);
        match node.names <= node.given && found != check.version {
            true => Err(Stop::Refused(index, Refusal::VersionChanged { found })),
            false => Ok(()),
        }
    }

    fn check_target(&mut self, index: usize, target: &Target) -> Checked<R> {
        let root = self.root;
        let node = self.node(target.child)?;
        let kind = node.after.as_ref().map(|row| row.inode.kind);
        let too_many = match target.kind {
            Kind::Directory => node.names > 1 || target.child == root,
            _ => node.names > u64::from(u32::MAX),
        };
        match kind == Some(target.kind) {
            false => Err(Stop::Refused(index, Refusal::NoInode)),
            true if too_many => Err(Stop::Refused(index, Refusal::Names)),
            true => Ok(()),
        }
    }

    /// Walks up from every directory that got a name.
    ///
    /// A cycle holds at least one changed edge. If a directory that existed before is on it and was moved, the walk from
    /// that one finds it; else all its directories are new, so a walk from a new one may stop at the first old one.
    pub(super) fn check_cycles(&mut self) -> Checked<R> {
        let mut walk = Walk { moved: HashMap::new(), rooted: HashSet::from([self.root]), anchored: HashSet::new() };
        for (index, set, target) in directory_targets(self.commit) {
            walk.moved.insert(target.child, (index, set.parent));
        }
        for (index, _, target) in directory_targets(self.commit) {
            match self.node(target.child)?.before {
                Some(_) => self.walk_to_root(index, target.child, &mut walk)?,
                None => self.walk_to_old(index, target.child, &mut walk)?,
            }
        }
        Ok(())
    }

    fn walk_to_root(&mut self, index: usize, start: InodeId, walk: &mut Walk) -> Checked<R> {
        let mut path = HashSet::new();
        let mut at = start;
        while !walk.rooted.contains(&at) {
            if !path.insert(at) {
                let move_in_it = self.move_in_cycle(at, walk)?;
                return Err(Stop::Refused(move_in_it.unwrap_or(index), Refusal::Cycle));
            }
            at = self.parent_after(at, walk)?.ok_or(Stop::Refused(index, Refusal::NoDirectory))?;
        }
        walk.rooted.extend(path);
        Ok(())
    }

    /// The operation that moved a directory of the cycle that `start` is on: who sent it can give up that move.
    fn move_in_cycle(&mut self, start: InodeId, walk: &Walk) -> Checked<R, Option<usize>> {
        let mut at = start;
        loop {
            if let Some((index, _)) = walk.moved.get(&at)
                && self.node(at)?.before.is_some()
            {
                return Ok(Some(*index));
            }
            match self.parent_after(at, walk)? {
                Some(parent) if parent != start => at = parent,
                _ => return Ok(None),
            }
        }
    }

    /// The directory that holds a directory once the batch is applied.
    fn parent_after(&mut self, directory: InodeId, walk: &Walk) -> Checked<R, Option<InodeId>> {
        match walk.moved.get(&directory) {
            Some((_, parent)) => Ok(Some(*parent)),
            None => Ok(self.rows.parent(directory)?),
        }
    }

    fn walk_to_old(&mut self, index: usize, start: InodeId, walk: &mut Walk) -> Checked<R> {
        let mut path = HashSet::new();
        let mut at = start;
        while !walk.anchored.contains(&at) && self.node(at)?.before.is_none() {
            if !path.insert(at) {
                return Err(Stop::Refused(index, Refusal::Cycle));
            }
            (_, at) = *walk.moved.get(&at).ok_or(Stop::Refused(index, Refusal::NoDirectory))?;
        }
        walk.anchored.extend(path);
        Ok(())
    }

    /// The rows that change, and the sizes that files had before.
    pub(super) fn into_plan(mut self) -> (Plan, HashMap<InodeId, u64>) {
        let mut plan = Plan::default();
        let mut old_sizes = HashMap::new();
        for (operation, old) in self.commit.operations.iter().zip(self.old) {
            match operation {
                Operation::SetEntry(set) if old.is_some() || set.target.is_some() => {
                    plan.entries.push((set.parent, set.name.clone(), set.target.as_ref().map(|to| entry(set, to))));
                    plan.changed_entries.push((set.parent, set.name.clone()));
                }
                Operation::SetEntry(_) | Operation::CheckGone(_) => {}
                Operation::PutInode(put) => plan.changed_inodes.push(put.inode),
            }
        }
        let put: HashSet<InodeId> = plan.changed_inodes.iter().copied().collect();
        for id in self.order {
            let Some(node) = self.nodes.remove(&id) else { continue };
            if let Some(before) = &node.before {
                old_sizes.insert(id, before.inode.size);
            }
            if node.before == node.after {
                continue;
            }
            plan.inode_count += i64::from(node.after.is_some()) - i64::from(node.before.is_some());
            if let (Some(before), Some(after)) = (&node.before, &node.after)
                && before.inode.nlink != after.inode.nlink
                && after.inode.kind != Kind::Directory
                && !put.contains(&id)
            {
                plan.changed_inodes.push(id);
            }
            plan.inodes.push((id, node.after));
        }
        (plan, old_sizes)
    }

    fn puts(&self) -> impl Iterator<Item = (usize, &'a PutInode)> {
        self.commit.operations.iter().enumerate().filter_map(|(index, operation)| match operation {
            Operation::PutInode(put) => Some((index, put)),
            Operation::SetEntry(_) | Operation::CheckGone(_) => None,
        })
    }

    fn node(&mut self, id: InodeId) -> Checked<R, &mut Node> {
        if !self.nodes.contains_key(&id) {
            let before = self.rows.inode(id)?;
            let names = match &before {
                None => 0,
                Some(row) if row.inode.kind == Kind::Directory => 1,
                Some(row) => u64::from(row.inode.nlink),
            };
            self.order.push(id);
            self.nodes.insert(id, Node { after: before.clone(), before, names, given: 0 });
        }
        Ok(self.nodes.get_mut(&id).expect("inserted above"))
    }
}

/// What the walks of one batch know already, so that each directory is passed once.
struct Walk {
    /// Directories with the operation and the parent that the batch gives them.
    moved: HashMap<InodeId, (usize, InodeId)>,
    /// Directories that lead to the root.
    rooted: HashSet<InodeId>,
    /// New directories that lead to one that existed before.
    anchored: HashSet<InodeId>,
}

fn directory_targets(commit: &Commit) -> impl Iterator<Item = (usize, &SetEntry, &Target)> {
    commit.operations.iter().enumerate().filter_map(|(index, operation)| match operation {
        Operation::SetEntry(set) => {
            let target = set.target.as_ref().filter(|target| target.kind == Kind::Directory)?;
            Some((index, set, target))
        }
        Operation::PutInode(_) | Operation::CheckGone(_) => None,
    })
}

fn is_new_directory(put: &PutInode) -> bool {
    put.expected_version == 0 && put.kind == Kind::Directory
}

fn put_row(before: Option<&InodeRow>, put: &PutInode) -> InodeRow {
    let fresh_links = if put.kind == Kind::Directory { 2 } else { 0 };
    InodeRow {
        inode: Inode {
            inode: put.inode,
            kind: put.kind,
            version: put.version,
            nlink: before.map_or(fresh_links, |row| row.inode.nlink),
            size: put.size,
            record: put.record.clone(),
            changed: put.changed,
            entries_changed: before.map_or(Timestamp::default(), |row| row.inode.entries_changed),
        },
        children: before.map_or(0, |row| row.children),
    }
}

fn entry(set: &SetEntry, target: &Target) -> Entry {
    Entry {
        parent: set.parent,
        name: set.name.clone(),
        child: target.child,
        kind: target.kind,
        key: target.key.clone(),
    }
}
