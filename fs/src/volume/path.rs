//! Files by their path, for those who have no kernel: the commands.
//!
//! A path is `/`-separated from the volume's root, or from where [`Paths::at`] says that this is; empty components and `.` are
//! skipped. Symlinks on the way are followed within the volume; an absolute one leads out of it and is refused.

mod write;

pub use write::Writer;

use super::{Caller, Entry, SetAttributes, Stat, Volume};
use crate::error::Result;
use bytes::Bytes;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::Arc;
use strewn_engine::bucket::Kind;
use strewn_engine::ids::InodeId;

/// Most symlinks on the way to a file.
const MAX_SYMLINKS: usize = 40;

/// Lines of a listing fetched at a time.
const LINES: usize = 256;

/// Bytes that a [`Reader`] reads at a time.
const READ_STEP: usize = 1 << 20;

/// A volume's files by path, as one caller.
#[derive(Clone)]
pub struct Paths {
    volume: Arc<Volume>,
    caller: Caller,
    /// What every path begins with: the path of the volume's root.
    at: Vec<Vec<u8>>,
}

/// What becomes of a symlink that is the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Follow,
    /// It is what is meant.
    Keep,
}

/// A counted reference to what a path names, given back when dropped.
pub struct Reference {
    volume: Arc<Volume>,
    entry: Entry,
    counted: bool,
}

/// A directory's names, a page at a time.
pub struct Listing {
    directory: Reference,
    after: u64,
    page: VecDeque<(Vec<u8>, Stat)>,
}

/// A file being read from its start.
pub struct Reader {
    file: Reference,
    offset: u64,
}

impl Paths {
    /// The files of `volume` as `caller`, who owns what is made. Permission bits are not checked: the grant is.
    pub fn new(volume: Arc<Volume>, caller: Caller) -> Self {
        Self { volume, caller, at: Vec::new() }
    }

    /// The same files, with paths of which the volume's root has this one. Others do not exist.
    pub fn at(self, path: &[u8]) -> Self {
        Self { at: components(path).collect(), ..self }
    }

    /// What a path names. Errors: `ENOENT`, `ENOTDIR`, `ELOOP`, `EXDEV` for a symlink that leads out of the volume.
    pub async fn resolve(&self, path: &[u8], last: Last) -> Result<Reference> {
        self.follow(self.below(path)?, last).await
    }

    /// The components of a path from the volume's root on. Errors: `ENOENT` if it is not below.
    fn below(&self, path: &[u8]) -> Result<VecDeque<Vec<u8>>> {
        let mut components = components(path);
        match self.at.iter().all(|above| components.next().as_ref() == Some(above)) {
            true => Ok(components.collect()),
            false => Err(Errno::NOENT.into()),
        }
    }

    async fn follow(&self, ahead: VecDeque<Vec<u8>>, last: Last) -> Result<Reference> {
        let mut way = self.walk(ahead, last).await?;
        // the way is never empty: it starts with the root and `..` leaves that
        way.pop().map(|(found, _)| found).ok_or(Errno::NOENT.into())
    }

    /// What a path names, below all directories on the way to it, each with its name in the one before.
    async fn way(&self, path: &[u8], last: Last) -> Result<Vec<(Reference, Vec<u8>)>> {
        self.walk(self.below(path)?, last).await
    }

    async fn walk(&self, mut ahead: VecDeque<Vec<u8>>, last: Last) -> Result<Vec<(Reference, Vec<u8>)>> {
        let mut way = vec![(Reference::root(&self.volume).await?, Vec::new())];
        let mut symlinks = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let found = self.step(inode_of(&way), &name).await?;
            if found.kind() != Kind::Symlink || (ahead.is_empty() && last == Last::Keep) {
                way.push((found, name));
                continue;
            }
            symlinks += 1;
            if symlinks > MAX_SYMLINKS {
                return Err(Errno::LOOP.into());
            }
            let target = found.entry.stat.attributes.target.clone();
            if target.starts_with(b"/") {
                return Err(Errno::XDEV.into());
            }
            components(&target).rev().for_each(|component| ahead.push_front(component));
        }
        Ok(way)
    }

    /// What stat(2) tells of a path.
    pub async fn stat(&self, path: &[u8], last: Last) -> Result<Stat> {
        Ok(self.resolve(path, last).await?.entry.stat.clone())
    }

    /// The names of a directory. Errors: `ENOTDIR`.
    pub async fn list(&self, path: &[u8]) -> Result<Listing> {
        let directory = self.resolve(path, Last::Follow).await?;
        match directory.kind() {
            Kind::Directory => Ok(Listing { directory, after: 0, page: VecDeque::new() }),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    /// A file to read. Errors: `EISDIR`, `EINVAL` for what has no content.
    pub async fn read(&self, path: &[u8]) -> Result<Reader> {
        let file = self.resolve(path, Last::Follow).await?;
        match file.kind() {
            Kind::File => Ok(Reader { file, offset: 0 }),
            Kind::Directory => Err(Errno::ISDIR.into()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// Changes attributes of what a path names.
    pub async fn set_attributes(&self, path: &[u8], last: Last, attributes: SetAttributes) -> Result<Stat> {
        let found = self.resolve(path, last).await?;
        self.volume.setattr(self.caller, found.inode(), attributes).await
    }

    /// Makes a directory. Errors: `EEXIST`.
    pub async fn make_directory(&self, path: &[u8], mode: u32) -> Result<Reference> {
        let (parent, name) = self.parent(path).await?;
        let made = self.volume.mkdir(self.caller, parent.inode(), &name, mode).await?;
        Ok(Reference::new(&self.volume, made))
    }

    /// Makes a symlink. Errors: `EEXIST`.
    pub async fn make_symlink(&self, path: &[u8], target: &[u8]) -> Result<Reference> {
        let (parent, name) = self.parent(path).await?;
        let made = self.volume.symlink(self.caller, parent.inode(), &name, target).await?;
        Ok(Reference::new(&self.volume, made))
    }

    /// Moves a path, over what is there if it may be replaced.
    pub async fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let ((parent, name), (new_parent, new_name)) = (self.parent(from).await?, self.parent(to).await?);
        let mode = super::RenameMode::Replace;
        self.volume.rename(parent.inode(), &name, new_parent.inode(), &new_name, mode).await
    }

    /// Removes a file or an empty directory.
    pub async fn remove(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = self.parent(path).await?;
        let kind = self.step(parent.inode(), &name).await?.kind();
        match kind {
            Kind::Directory => self.volume.rmdir(parent.inode(), &name).await,
            _ => self.volume.unlink(parent.inode(), &name).await,
        }
    }

    /// Removes a path and everything below. Calls `removed` for each name that went. What went stays gone if it fails
    /// on the way.
    pub async fn remove_tree(&self, path: &[u8], mut removed: impl FnMut()) -> Result<()> {
        let (parent, name) = self.parent(path).await?;
        let top = self.step(parent.inode(), &name).await?;
        // each with its name in the one before it
        let mut way = vec![(parent, Vec::new()), (top, name)];
        while let [.., (above, _), (here, name)] = way.as_slice() {
            if let Some((name, child)) = self.first_child(here).await? {
                way.push((child, name));
                continue;
            }
            match here.kind() {
                Kind::Directory => self.volume.rmdir(above.inode(), name).await?,
                _ => self.volume.unlink(above.inode(), name).await?,
            }
            removed();
            way.pop();
        }
        Ok(())
    }

    async fn first_child(&self, directory: &Reference) -> Result<Option<(Vec<u8>, Reference)>> {
        if directory.kind() != Kind::Directory {
            return Ok(None);
        }
        let lines = self.volume.read_dir_plus(directory.inode(), super::directory::PARENT_COOKIE, 1).await?;
        Ok(lines.into_iter().next().map(|line| (line.name, Reference::new(&self.volume, line.entry))))
    }

    /// The directory that holds a path's last component, and that component. Errors: `EBUSY` for the root.
    async fn parent(&self, path: &[u8]) -> Result<(Reference, Vec<u8>)> {
        let mut way = self.below(path)?;
        let name = way.pop_back().ok_or(Errno::BUSY)?;
        if name == b".." {
            return Err(Errno::INVAL.into());
        }
        Ok((self.follow(way, Last::Follow).await?, name))
    }

    async fn step(&self, parent: InodeId, name: &[u8]) -> Result<Reference> {
        Ok(Reference::new(&self.volume, self.volume.lookup(parent, name).await?))
    }
}

impl Reference {
    fn new(volume: &Arc<Volume>, entry: Entry) -> Self {
        Self { volume: volume.clone(), entry, counted: true }
    }

    async fn root(volume: &Arc<Volume>) -> Result<Self> {
        let stat = volume.getattr(volume.root()).await?;
        Ok(Self { volume: volume.clone(), entry: volume.unreferenced(stat), counted: false })
    }

    /// The inode.
    pub fn inode(&self) -> InodeId {
        self.entry.stat.inode
    }

    /// What it was when it was found.
    pub fn stat(&self) -> &Stat {
        &self.entry.stat
    }

    fn kind(&self) -> Kind {
        self.entry.stat.attributes.kind
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if self.counted {
            self.volume.forget(self.inode(), 1);
        }
    }
}

impl Listing {
    /// The next name, in no particular order and without `.` and `..`; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Stat)>> {
        if self.page.is_empty() {
            self.fetch().await?;
        }
        Ok(self.page.pop_front())
    }

    async fn fetch(&mut self) -> Result<()> {
        let volume = &self.directory.volume;
        let after = self.after.max(super::directory::PARENT_COOKIE);
        let lines = volume.read_dir_plus(self.directory.inode(), after, LINES).await?;
        self.after = lines.last().map_or(after, |line| line.cookie);
        self.page.extend(lines.iter().map(|line| (line.name.clone(), line.entry.stat.clone())));
        volume.give_back(lines);
        Ok(())
    }
}

impl Reader {
    /// The file as it was when it was opened.
    pub fn stat(&self) -> &Stat {
        self.file.stat()
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let bytes = self.file.volume.read(self.file.inode(), self.offset, READ_STEP).await?;
        self.offset += bytes.len() as u64;
        Ok((!bytes.is_empty()).then_some(bytes))
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

fn inode_of(way: &[(Reference, Vec<u8>)]) -> InodeId {
    // the way starts with the root and never gets shorter than that
    way.last().expect("a way begins at the root").0.inode()
}
