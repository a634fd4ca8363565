//! The files of a cache directory besides the journal: data files, sealed segments and blobs, and whose they are.

use crate::Error;
use crate::data::{self, DataFiles, DataId};
use crate::disk::Disk;
use crate::sealed::{self, Sealed, SegmentWriter};
use std::sync::Arc;
use strewn_engine::bucket::SegmentSource;
use strewn_engine::ids::{InodeId, SegmentId};

/// The blob that says which bucket and root the directory belongs to; cuts count from 1.
const IDENTITY: u64 = 0;

/// The files.
pub(crate) struct Store {
    data: DataFiles,
    sealed: Sealed,
}

/// What was there when the store was opened.
pub(crate) struct Found {
    pub(crate) data: Vec<data::Found>,
    pub(crate) segments: Vec<SegmentId>,
    pub(crate) cuts: Vec<u64>,
}

impl Store {
    /// Lists what is there. Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<(Self, Found), Error> {
        let (data, files) = DataFiles::open(disk.clone())?;
        let (sealed, found) = Sealed::open(disk)?;
        let found = Found {
            data: files,
            segments: found.segments.into_iter().map(|(segment, _)| segment).collect(),
            cuts: found.blobs.into_iter().map(|(number, _)| number).filter(|number| *number != IDENTITY).collect(),
        };
        Ok((Self { data, sealed }, found))
    }

    /// Lists the data files, and changes nothing. Blocks.
    pub(crate) fn look(disk: Arc<dyn Disk>) -> Result<(Self, Vec<data::Found>), Error> {
        let (data, files) = DataFiles::open(disk.clone())?;
        Ok((Self { data, sealed: Sealed::look(disk) }, files))
    }

    /// A data file that never was before; the first write makes it.
    pub(crate) fn fresh_data(&self, inode: InodeId) -> Result<u64, Error> {
        Ok(self.data.fresh(inode)?.generation)
    }

    /// Fills a buffer from a data file.
    pub(crate) fn read_data(
        &self,
        inode: InodeId,
        generation: u64,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        Ok(self.data.read_into(DataId { inode, generation }, offset, buffer)?)
    }

    /// Writes into a data file.
    pub(crate) fn write_data(&self, inode: InodeId, generation: u64, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.data.write_at(DataId { inode, generation }, offset, &[bytes])?)
    }

    /// Makes a data file and its name durable, whoever wrote it. Blocks.
    pub(crate) fn sync_data_fully(&self, inode: InodeId, generation: u64) -> Result<(), Error> {
        let id = DataId { inode, generation };
        self.data.mark_dirty(id);
        Ok(self.data.sync_blocking(id)?)
    }

    /// Makes durable what this process, or one before of which [`Self::doubt_data`] was told, wrote to a data file. Blocks.
    pub(crate) fn sync_data(&self, inode: InodeId, generation: u64) -> Result<(), Error> {
        Ok(self.data.sync_blocking(DataId { inode, generation })?)
    }

    /// Whether a data file is durable, as far as this process knows.
    pub(crate) fn is_clean(&self, inode: InodeId, generation: u64) -> bool {
        self.data.is_clean(DataId { inode, generation })
    }

    /// Counts a data file as not durable.
    pub(crate) fn doubt_data(&self, inode: InodeId, generation: u64) {
        self.data.mark_dirty(DataId { inode, generation });
    }

    /// Removes a data file that may already be gone. One that cannot be removed costs room, and is tried again at the next
    /// opening.
    pub(crate) fn remove_data(&self, inode: InodeId, generation: u64) {
        if let Err(error) = self.data.remove(DataId { inode, generation }) {
            tracing::warn!("cannot remove a data file: {error}");
        }
    }

    /// Begins a segment file.
    pub(crate) fn begin_segment(&self, segment: SegmentId) -> Result<SegmentWriter, Error> {
        Ok(self.sealed.begin(segment)?)
    }

    /// A segment file as what is uploaded. Checks all of its bytes. Blocks.
    pub(crate) fn open_segment(&self, segment: SegmentId) -> Result<Arc<dyn SegmentSource>, Error> {
        Ok(self.sealed.open_segment(segment)?)
    }

    /// Removes a segment file that may already be gone.
    pub(crate) fn remove_segment(&self, segment: SegmentId) {
        if let Err(error) = self.sealed.remove_segment(segment) {
            tracing::warn!("cannot remove a sealed segment: {error}");
        }
    }

    /// Writes the batch of a cut, durably. Blocks.
    pub(crate) fn put_cut(&self, cut: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.sealed.put_blob(cut, &[bytes])?)
    }

    /// Reads the batch of a cut.
    pub(crate) fn read_cut(&self, cut: u64) -> Result<bytes::Bytes, Error> {
        Ok(self.sealed.get_blob(cut)?)
    }

    /// Removes the batch of a cut that may already be gone.
    pub(crate) fn remove_cut(&self, cut: u64) {
        if let Err(error) = self.sealed.remove_blob(cut) {
            tracing::warn!("cannot remove a batch: {error}");
        }
    }

    /// Reads whose directory it is, if it says so.
    pub(crate) fn identity(&self) -> Result<Option<bytes::Bytes>, Error> {
        match self.sealed.get_blob(IDENTITY) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(sealed::Error::Missing(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes whose directory it is, durably. Blocks.
    pub(crate) fn put_identity(&self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.sealed.put_blob(IDENTITY, &[bytes])?)
    }
}

impl From<data::Error> for Error {
    fn from(error: data::Error) -> Self {
        match error {
            data::Error::NoSpace => Self::NoSpace(error.to_string()),
            data::Error::Io(cause) => Self::Disk(cause),
            missing => Self::Disk(Arc::new(std::io::Error::other(missing))),
        }
    }
}

impl From<sealed::Error> for Error {
    fn from(error: sealed::Error) -> Self {
        match error {
            sealed::Error::NoSpace => Self::NoSpace(error.to_string()),
            sealed::Error::Io(cause) => Self::Disk(cause),
            other => Self::Disk(Arc::new(std::io::Error::other(other))),
        }
    }
}
