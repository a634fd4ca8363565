//! The files of a cache directory besides the journal: data files, sealed segments and blobs, and whose they are.

use crate::Error;
use crate::data::{self, DataFiles, DataId};
use crate::disk::Disk;
use crate::sealed::{self, Sealed, SegmentWriter};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use strewn_engine::bucket::SegmentSource;
use strewn_engine::ids::{InodeId, SegmentId};

/// The blob that says which bucket and root the directory belongs to; cuts count from 1.
pub(crate) const IDENTITY: u64 = 0;

/// The files.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    data: DataFiles,
    sealed: Sealed,
    /// Lengths of sealed files.
    lengths: Mutex<Lengths>,
}

/// Most bytes of a sealed file around its content.
const FRAMING: u64 = 64;
/// What a file system gives a file at least.
const PAGE: u64 = 4096;

/// Bytes of disk of the sealed files that are there.
#[derive(Default)]
struct Lengths {
    files: HashMap<SealedFile, u64>,
    total: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum SealedFile {
    Segment(SegmentId),
    Cut(u64),
}

impl Lengths {
    fn set(&mut self, file: SealedFile, length: u64) {
        let length = (length + FRAMING).next_multiple_of(PAGE);
        self.total += length;
        self.total -= self.files.insert(file, length).unwrap_or(0);
    }

    fn remove(&mut self, file: SealedFile) {
        self.total -= self.files.remove(&file).unwrap_or(0);
    }
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
        let (sealed, found) = Sealed::open(disk.clone())?;
        let mut lengths = Lengths::default();
        found.segments.iter().for_each(|(segment, length)| lengths.set(SealedFile::Segment(*segment), *length));
        found.blobs.iter().for_each(|(number, length)| lengths.set(SealedFile::Cut(*number), *length));
        let found = Found {
            data: files,
            segments: found.segments.into_iter().map(|(segment, _)| segment).collect(),
            cuts: found.blobs.into_iter().map(|(number, _)| number).filter(|number| *number != IDENTITY).collect(),
        };
        Ok((Self { disk, data, sealed, lengths: Mutex::new(lengths) }, found))
    }

    /// Bytes of disk that data files and sealed files take.
    pub(crate) fn bytes(&self) -> u64 {
        self.data.total() + self.lengths.lock().total
    }

    /// Bytes of disk that sealed files take.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.lengths.lock().total
    }

    /// Bytes that the disk has left.
    pub(crate) fn free(&self) -> Result<u64, Error> {
        Ok(self.disk.free()?)
    }

    /// Most bytes of disk that writing a range of a data file takes more.
    pub(crate) fn data_needs(&self, inode: InodeId, generation: u64, range: &Range<u64>) -> u64 {
        self.data.needs(DataId { inode, generation }, range)
    }

    /// Counts a range of a data file as taken before it is written.
    pub(crate) fn occupy_data(&self, inode: InodeId, generation: u64, range: Range<u64>) {
        self.data.occupy(DataId { inode, generation }, range);
    }

    /// Bytes of disk that a data file takes.
    pub(crate) fn data_bytes(&self, inode: InodeId, generation: u64) -> u64 {
        self.data.occupied(DataId { inode, generation })
    }

    /// Lists the data files, and changes nothing. Blocks.
    pub(crate) fn look(disk: Arc<dyn Disk>) -> Result<(Self, Vec<data::Found>), Error> {
        let (data, files) = DataFiles::open(disk.clone())?;
        let sealed = Sealed::look(disk.clone());
        Ok((Self { disk, data, sealed, lengths: Mutex::default() }, files))
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

    /// Writes into a data file. True if the bytes should ride in the record of the write as well.
    pub(crate) fn write_data(&self, inode: InodeId, generation: u64, offset: u64, bytes: &[u8]) -> Result<bool, Error> {
        Ok(self.data.write_at(DataId { inode, generation }, offset, &[bytes])?)
    }

    /// Somebody asked for a file to be durable: small writes ride again.
    pub(crate) fn end_run(&self, inode: InodeId, generation: u64) {
        self.data.end_run(DataId { inode, generation });
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

    /// See [`DataFiles::open_to_lend`]. `None` on a disk that is no file system, too.
    pub(crate) fn lend_data(&self, inode: InodeId, generation: u64) -> Result<Option<std::fs::File>, Error> {
        match self.data.open_to_lend(DataId { inode, generation }) {
            Err(data::Error::Missing(_)) => Ok(None),
            other => Ok(other?),
        }
    }

    /// A data file as it was lent before; `None` if it is gone.
    pub(crate) fn lent_data(&self, inode: InodeId, generation: u64) -> Option<std::fs::File> {
        self.data.open_read_only(DataId { inode, generation }).ok()
    }

    /// See [`DataFiles::is_alone`].
    pub(crate) fn is_alone(&self, inode: InodeId, generation: u64, file: &std::fs::File) -> bool {
        self.data.is_alone(DataId { inode, generation }, file)
    }

    /// Length of a data file in bytes.
    pub(crate) fn data_length(&self, inode: InodeId, generation: u64) -> Result<u64, Error> {
        Ok(self.data.length(DataId { inode, generation })?)
    }

    /// Cuts a data file, or lets it grow by a hole, to `length`, and makes holes of ranges. What it had there must be needed no
    /// more, for good.
    pub(crate) fn clear_data(
        &self,
        inode: InodeId,
        generation: u64,
        length: u64,
        holes: &[Range<u64>],
    ) -> Result<(), Error> {
        let id = DataId { inode, generation };
        self.data.truncate(id, length)?;
        for hole in holes.iter().filter(|hole| !hole.is_empty()) {
            self.data.punch(id, hole.start, hole.end - hole.start)?;
        }
        Ok(())
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

    /// Makes a segment file durable at its length. Blocks.
    pub(crate) fn finish_segment(&self, segment: SegmentId, writer: SegmentWriter, length: u64) -> Result<(), Error> {
        writer.finish(length)?;
        self.lengths.lock().set(SealedFile::Segment(segment), length);
        Ok(())
    }

    /// A segment file as what is uploaded. Checks all of its bytes. Blocks.
    pub(crate) fn open_segment(&self, segment: SegmentId) -> Result<Arc<dyn SegmentSource>, Error> {
        Ok(self.sealed.open_segment(segment)?)
    }

    /// Removes a segment file that may already be gone.
    pub(crate) fn remove_segment(&self, segment: SegmentId) {
        match self.sealed.remove_segment(segment) {
            Ok(()) => self.lengths.lock().remove(SealedFile::Segment(segment)),
            Err(error) => tracing::warn!("cannot remove a sealed segment: {error}"),
        }
    }

    /// Writes the batch of a cut, durably. Blocks.
    pub(crate) fn put_cut(&self, cut: u64, bytes: &[u8]) -> Result<(), Error> {
        self.sealed.put_blob(cut, &[bytes])?;
        self.lengths.lock().set(SealedFile::Cut(cut), bytes.len() as u64);
        Ok(())
    }

    /// Reads the batch of a cut.
    pub(crate) fn read_cut(&self, cut: u64) -> Result<bytes::Bytes, Error> {
        Ok(self.sealed.get_blob(cut)?)
    }

    /// Removes the batch of a cut that may already be gone.
    pub(crate) fn remove_cut(&self, cut: u64) {
        match self.sealed.remove_blob(cut) {
            Ok(()) => self.lengths.lock().remove(SealedFile::Cut(cut)),
            Err(error) => tracing::warn!("cannot remove a batch: {error}"),
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
        self.put_cut(IDENTITY, bytes)
    }
}

impl From<data::Error> for Error {
    fn from(error: data::Error) -> Self {
        match error {
            data::Error::NoSpace => Self::NoSpace(error.to_string()),
            data::Error::TooLarge => Self::TooLarge(error.to_string()),
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
