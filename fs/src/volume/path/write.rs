//! Files written from their start: in place, or beside what is there until they are whole.

use super::{Last, Paths, Reference};
use crate::error::Result;
use crate::volume::{Caller, Open, RenameMode, SetAttributes, Stat, WriteMode, rules};
use futures::FutureExt;
use rustix::io::Errno;
use strewn_cache::Position;
use strewn_engine::bucket::Kind;
use strewn_engine::record::Attributes;

/// Who may read, write and execute.
const PERMISSIONS: u32 = 0o777;

/// A file being written from its start. When it is dropped before it is [finished](Self::finish) it goes, unless it was written
/// in place: then it stays as far as it was written.
pub struct Writer {
    file: Reference,
    offset: u64,
    /// Where it goes when it is finished; `None`: it is there.
    place: Option<Place>,
}

/// Where a file will be.
struct Place {
    directory: Reference,
    name: Vec<u8>,
    /// What it is called until then.
    partial: Vec<u8>,
    /// What it will replace.
    there: Option<Attributes>,
}

impl Paths {
    /// A file to write in place: made if absent, emptied if not. Errors: `EISDIR`, `EINVAL` for what has no content.
    pub async fn write(&self, path: &[u8], mode: u32) -> Result<Writer> {
        let file = match self.resolve(path, Last::Follow).await {
            Ok(file) => {
                let open = Open { write: true, truncate: true, ..Open::default() };
                self.volume.open(self.caller, file.inode(), open).await?;
                file
            }
            Err(error) if error.errno() == Errno::NOENT => {
                let (parent, name) = self.parent(path).await?;
                self.make_file(&parent, &name, mode).await?
            }
            Err(error) => return Err(error),
        };
        match file.kind() {
            Kind::File => Ok(Writer { file, offset: 0, place: None }),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// A file that comes to its path when it is finished, with owner, mode and extended attributes of what it replaces. Until
    /// then it is `.strewn-*.partial` in the same directory, and what is there stays. Nothing but the volume's root, if that
    /// is a file, is written in place. Errors: as of [`write`](Self::write).
    pub async fn replace(&self, path: &[u8], mode: u32) -> Result<Writer> {
        let (directory, name, there) = match self.way(path, Last::Follow).await {
            Ok(mut way) => match (way.pop(), way.pop()) {
                (Some((file, name)), Some((directory, _))) => match file.kind() {
                    Kind::File => (directory, name, Some(file.stat().attributes.clone())),
                    Kind::Directory => return Err(Errno::ISDIR.into()),
                    _ => return Err(Errno::INVAL.into()),
                },
                _ => return self.write(path, mode).await,
            },
            Err(error) if error.errno() == Errno::NOENT => {
                let (parent, name) = self.parent(path).await?;
                if self.step(parent.inode(), &name).await.is_ok() {
                    // A symlink that leads nowhere.
                    return Err(Errno::EXIST.into());
                }
                (parent, name, None)
            }
            Err(error) => return Err(error),
        };
        // Nobody may read a part who may not read what is there.
        let mode = there.as_ref().map_or(mode, |there| there.mode & PERMISSIONS);
        let random = getrandom::u64().map_err(|_| Errno::IO)?;
        let partial = format!(".strewn-{random:016x}.partial").into_bytes();
        let file = self.make_file(&directory, &partial, mode).await?;
        Ok(Writer { file, offset: 0, place: Some(Place { directory, name, partial, there }) })
    }

    async fn make_file(&self, directory: &Reference, name: &[u8], mode: u32) -> Result<Reference> {
        let open = Open { write: true, exclusive: true, ..Open::default() };
        let (entry, _) = self.volume.create(self.caller, directory.inode(), name, mode, open).await?;
        Ok(Reference::new(&self.volume, entry))
    }
}

impl Writer {
    /// Writes the next bytes.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        let mode = WriteMode { position: Position::At(self.offset), unprivileged: None };
        self.file.volume.write(self.file.inode(), data, mode).await?;
        self.offset += data.len() as u64;
        Ok(())
    }

    /// Leaves a hole of `length` bytes; one at the end becomes part of the file when it is [finished](Self::finish).
    pub fn skip(&mut self, length: u64) {
        self.offset = self.offset.saturating_add(length);
    }

    /// Ends the file where the last byte or hole ended, sets attributes last, so that times stay as they are set, and gives it
    /// its name.
    pub async fn finish(mut self, caller: Caller, attributes: SetAttributes) -> Result<Stat> {
        let (volume, inode) = (self.file.volume.clone(), self.file.inode());
        let size = SetAttributes { size: Some(self.offset), ..SetAttributes::default() };
        let mut stat = volume.setattr(caller, inode, size).await?;
        if let Some(there) = self.place.as_ref().and_then(|place| place.there.as_ref()) {
            self.take_over(there).await?;
        }
        if attributes != SetAttributes::default() {
            stat = volume.setattr(caller, inode, attributes).await?;
        }
        if let Some(Place { directory, name, partial, .. }) = &self.place {
            let directory = directory.inode();
            volume.rename(directory, partial, directory, name, RenameMode::Replace).await?;
            self.place = None;
        }
        Ok(stat)
    }

    /// Owner, mode and extended attributes of what is replaced, but for capabilities, which no other content keeps.
    async fn take_over(&self, there: &Attributes) -> Result<()> {
        let (volume, inode) = (&self.file.volume, self.file.inode());
        let now = volume.now();
        let taken = volume.cache.transact(|tx| {
            let Attributes { mode, uid, gid, xattrs, .. } = there.clone();
            let mut attributes = Attributes { mode, uid, gid, xattrs, ctime: now, ..tx.attributes(inode)? };
            rules::drop_capabilities(&mut attributes);
            tx.set_attributes(inode, attributes)
        });
        Ok(taken.await?)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(Place { directory, partial, .. }) = &self.place else { return };
        // What was made here needs no answer to go. That it stays is the least of what failed.
        let removed = self.file.volume.unlink(directory.inode(), partial).now_or_never();
        if !matches!(removed, Some(Ok(()))) {
            tracing::warn!("a part of a file stays: {}", String::from_utf8_lossy(partial));
        }
    }
}
