//! Looking at a cache directory that no mount uses: whose it is, what in it is pending, whether it is whole; and clearing it.
//!
//! The directory is locked meanwhile. [`status`](CacheDirectory::status) and [`verify`](CacheDirectory::verify) change
//! nothing of what it holds: the journal is read as a mount would read it, into a tree that is thrown away.
//!
//! Verified are the journal (its chain and every record), batches and sealed segments that wait for the network (all of
//! their bytes), and the index. Data files have no checksums: that pending bytes are there and can be read is all that can
//! be said of them.

use crate::cut::batch::Batch;
use crate::cut::queue::Queued;
use crate::data::DataId;
use crate::disk::{Disk, FileDisk, OpenError};
use crate::journal::{self, BootId, Recovered};
use crate::recover::{self, Identity, Survey};
use crate::store::Store;
use crate::{Error, encryption, warm};
use serde::{Serialize, Serializer};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strewn_engine::ids::{BucketId, InodeId};

/// Bytes of a data file read at a time.
const READ_STEP: u64 = 1 << 20;
/// Directories of a cache, in the order in which clearing takes them away: the one that says whose it is goes last.
const DIRECTORIES: [&str; 4] = ["data", "sealed", DISCARDED, "blobs"];
/// What the journal becomes at one stroke when it is discarded.
const DISCARDED: &str = "journal.discarded";
/// The journal's directory.
const JOURNAL: &str = "journal";

/// Why a cache directory could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no cache.
    #[error("{0} is no cache directory")]
    NoCache(PathBuf),
    /// It cannot be opened, or a mount uses it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its journal and data files can be read by a mount alone.
    #[error(
        "{0} is encrypted: only a mount sees what is in it. When 'strewn umount' ended without an error nothing in it is \
         pending, and 'strewn cache clear --discard-pending' empties it"
    )]
    Encrypted(PathBuf),
    /// It is damaged, or its disk failed.
    #[error("{0}")]
    Damaged(#[from] Error),
}

/// What a cache directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectoryStatus {
    /// The bucket it belongs to.
    #[serde(serialize_with = "as_text")]
    pub bucket: BucketId,
    /// The directory of the bucket that it shows.
    #[serde(serialize_with = "as_text")]
    pub root: InodeId,
    /// Files with content or attributes that the network does not have.
    pub pending_files: u64,
    /// Changes that the network does not have.
    pub pending_operations: u64,
    /// Bytes of content that the network does not have.
    pub pending_bytes: u64,
    /// Bytes of file content that the network has too.
    pub clean_bytes: u64,
    /// Bytes on disk: content, journal, sealed segments, batches and index.
    pub cache_bytes: u64,
}

/// Identifiers as everywhere else that people look.
fn as_text<S: Serializer>(id: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl DirectoryStatus {
    /// True if the network has everything.
    pub fn is_clean(&self) -> bool {
        self.pending_operations == 0
    }
}

/// Something in a cache that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What: a part of the directory.
    pub what: String,
    /// How it was noticed.
    pub reason: String,
}

/// What clearing did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// Pending changes that were kept; 0 when nothing was or all were discarded.
    pub kept_operations: u64,
    /// Files with them.
    pub kept_files: u64,
    /// Bytes of them.
    pub kept_bytes: u64,
}

/// A cache directory, locked while this value lives. All methods block.
pub struct CacheDirectory {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    store: Store,
    boot: BootId,
    data: Vec<crate::data::Found>,
}

impl CacheDirectory {
    /// Locks a directory that is a cache.
    pub fn open(path: &Path) -> Result<Self, InspectError> {
        if !path.join("blobs").is_dir() {
            return Err(InspectError::NoCache(path.to_owned()));
        }
        let disk = FileDisk::open(path)?;
        let boot = BootId::current().map_err(Error::from)?;
        let found = Self::look(path, disk, boot)?;
        match found.store.identity() {
            Ok(None) => Err(InspectError::NoCache(path.to_owned())),
            // One that is damaged is for `verify` to tell.
            Ok(Some(_)) | Err(_) => Ok(found),
        }
    }

    fn look(path: &Path, disk: Arc<dyn Disk>, boot: BootId) -> Result<Self, Error> {
        let (store, data) = Store::look(disk.clone())?;
        Ok(Self { path: path.to_owned(), disk, store, boot, data })
    }

    /// Whose it is and what it holds.
    pub fn status(&self) -> Result<DirectoryStatus, InspectError> {
        self.check_readable()?;
        let identity = self.identity()?;
        let survey = self.survey(&identity)?;
        let queued = self.queued(&survey)?;
        let needed: HashSet<DataId> = survey.needed.iter().map(|needed| needed.file).collect();
        let data: u64 = self.data.iter().map(|file| file.allocated).sum();
        let dirty: u64 = self.data.iter().filter(|file| needed.contains(&file.id)).map(|file| file.allocated).sum();
        let mut cache_bytes = data;
        for directory in [JOURNAL, "sealed", "blobs"] {
            let listed = self.disk.list(directory).map_err(Error::from)?;
            cache_bytes += listed.iter().map(|file| file.allocated).sum::<u64>();
        }
        cache_bytes += warm::index_bytes(&*self.disk);
        Ok(DirectoryStatus {
            bucket: identity.bucket,
            root: identity.root,
            pending_files: survey.files + queued.iter().map(|queued| queued.puts().len() as u64).sum::<u64>(),
            pending_operations: survey.operations + queued.iter().map(|queued| queued.operations as u64).sum::<u64>(),
            pending_bytes: survey.bytes + queued.iter().map(|queued| queued.bytes).sum::<u64>(),
            clean_bytes: data - dirty,
            cache_bytes,
        })
    }

    /// Everything that is not whole. Empty: nothing was found.
    pub fn verify(&self) -> Result<Vec<Damage>, InspectError> {
        self.check_readable()?;
        Ok(self.find_damage())
    }

    fn check_readable(&self) -> Result<(), InspectError> {
        match encryption::is_encrypted(&*self.disk)? {
            true => Err(InspectError::Encrypted(self.path.clone())),
            false => Ok(()),
        }
    }

    fn find_damage(&self) -> Vec<Damage> {
        let mut found = Vec::new();
        let mut note = |what: String, reason: &dyn std::fmt::Display| {
            found.push(Damage { what, reason: reason.to_string() });
        };
        if let Err(error) = warm::check_index(&*self.disk) {
            note(String::from("index (it is made anew)"), &error);
        }
        let identity = match self.identity() {
            Ok(identity) => identity,
            Err(error) => {
                note(String::from("identity"), &error);
                return found;
            }
        };
        let survey = match self.survey(&identity) {
            Ok(survey) => survey,
            Err(error) => {
                note(String::from("journal"), &error);
                return found;
            }
        };
        for cut in &survey.queued {
            match Batch::read(&self.store, *cut) {
                Err(error) => note(format!("batch {cut}"), &error),
                Ok(batch) => {
                    for segment in &batch.segments {
                        match self.store.open_segment(segment.id) {
                            Ok(source) if source.len() == segment.length => {}
                            Ok(source) => note(
                                format!("sealed segment {}", segment.id),
                                &format_args!("{} bytes instead of {}", source.len(), segment.length),
                            ),
                            Err(error) => note(format!("sealed segment {}", segment.id), &error),
                        }
                    }
                }
            }
        }
        for needed in &survey.needed {
            if let Err(error) = self.read_needed(needed) {
                note(format!("data file of inode {}", needed.file.inode), &error);
            }
        }
        found
    }

    /// Removes what the network has too, and with `discard_pending` also what it does not have. A cache with nothing pending
    /// is emptied, so that it may come to belong to another bucket.
    pub fn clear(self, discard_pending: bool) -> Result<Cleared, InspectError> {
        // What is damaged can be discarded, and must not be taken for clean.
        let kept = if discard_pending { None } else { Some(self.status()?).filter(|status| !status.is_clean()) };
        let Some(status) = kept else {
            self.remove_all().map_err(Error::from)?;
            return Ok(Cleared { kept_operations: 0, kept_files: 0, kept_bytes: 0 });
        };
        let survey = self.survey(&self.identity()?)?;
        // Its rows speak of the files that go.
        warm::remove_index(&*self.disk);
        let needed: HashSet<DataId> = survey.needed.iter().map(|needed| needed.file).collect();
        for file in self.data.iter().filter(|file| !needed.contains(&file.id)) {
            self.store.remove_data(file.id.inode, file.id.generation);
        }
        Ok(Cleared {
            kept_operations: status.pending_operations,
            kept_files: status.pending_files,
            kept_bytes: status.pending_bytes,
        })
    }

    fn remove_all(&self) -> io::Result<()> {
        warm::remove_index(&*self.disk);
        let (journal, discarded) = (self.path.join(JOURNAL), self.path.join(DISCARDED));
        remove_directory(&discarded)?;
        // At one stroke: half of a journal would look like a damaged one.
        match std::fs::rename(&journal, &discarded) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::File::open(&self.path)?.sync_all()?,
        }
        DIRECTORIES.iter().try_for_each(|name| remove_directory(&self.path.join(name)))
    }

    fn identity(&self) -> Result<Identity, Error> {
        let bytes = self.store.identity()?;
        Identity::parse(&bytes.ok_or_else(|| Error::Corrupt(String::from("the cache does not say whose it is")))?)
    }

    fn survey(&self, identity: &Identity) -> Result<Survey, Error> {
        let recovered: Recovered = journal::inspect(&self.disk, self.boot)?;
        recover::survey(&self.store, &recovered, identity)
    }

    fn queued(&self, survey: &Survey) -> Result<Vec<Queued>, Error> {
        let read = |cut: &u64| Ok(Queued::of(&Batch::read(&self.store, *cut)?));
        survey.queued.iter().map(read).collect()
    }

    fn read_needed(&self, needed: &recover::Needed) -> Result<(), Error> {
        let found = self.data.iter().find(|file| file.id == needed.file);
        let length = found.map(|file| file.length).ok_or_else(|| Error::Corrupt(String::from("it is missing")))?;
        let mut buffer = Vec::new();
        for range in needed.ranges.iter() {
            if range.end > length {
                return Err(Error::Corrupt(format!("{length} bytes, and {} are pending", range.end)));
            }
            let mut at = range.start;
            while at < range.end {
                let end = (at + READ_STEP).min(range.end);
                buffer.resize((end - at) as usize, 0);
                self.store.read_data(needed.file.inode, needed.file.generation, at, &mut buffer)?;
                at = end;
            }
        }
        Ok(())
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
