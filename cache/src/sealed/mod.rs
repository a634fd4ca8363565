//! What waits for the network in its final form: sealed segments and named blobs. Both are written once, are durable when
//! they are done, and are only read afterwards.
//!
//! A **segment** is the ciphertext of one segment, `sealed/<32 hex digits>`: every piece, replacement, retry and resumed
//! upload reads this file, because a run key may encrypt only one plaintext. Its ciphertext starts at offset 0, so that it
//! is read in whole pages; what proves it follows. Numbers are little-endian.
//!
//! ```text
//! segment  0      ciphertext    length
//!          length magic         8   "strewnE\0"
//!                 version       4   1
//!                 CRC32C        4   of the ciphertext
//!                 length        8
//!                 segment id   16
//!                 CRC32C        4   of the 40 bytes before
//! ```
//!
//! A **blob** is a batch made ready to be committed, `blobs/<16 hex digits>`, made under a temporary name and renamed.
//!
//! ```text
//! blob     0  magic     8   "strewnB\0"
//!          8  version   4   1
//!         12  CRC32C    4   of the content
//!         16  length    8   at most MAX_BLOB
//!         24  number    8   its name
//!         32  CRC32C    4   of bytes 0..32
//!         36  content
//! ```
//!
//! What is not whole is removed when the cache is opened: nothing durable refers to it.

mod blob;
mod segment;

pub use segment::{SealedSegment, SegmentWriter};

use crate::disk::{self, Disk};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use strewn_engine::ids::SegmentId;

/// Most bytes of a blob.
pub const MAX_BLOB: usize = 64 << 20;
/// Most ciphertext bytes of a segment.
pub const MAX_SEGMENT: u64 = 64 << 20;

const VERSION: u32 = 1;

/// Why something sealed could not be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The disk is full.
    #[error("no space for what waits to be uploaded")]
    NoSpace,
    /// There is no such file.
    #[error("{0} is missing")]
    Missing(String),
    /// The bytes are not what was written.
    #[error("{name} is damaged: {reason}")]
    Corrupt {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Beyond [`MAX_BLOB`] or [`MAX_SEGMENT`], or written behind the length it was finished with.
    #[error("{0} bytes are too many")]
    TooLarge(u64),
    /// The disk failed.
    #[error("sealed data: {0}")]
    Io(Arc<io::Error>),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if disk::is_full(&error) { Self::NoSpace } else { Self::Io(Arc::new(error)) }
    }
}

impl Error {
    fn opening(name: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(name.into()),
            _ => error.into(),
        }
    }
}

/// What was there when the directory was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Whole segments and their ciphertext lengths.
    pub segments: Vec<(SegmentId, u64)>,
    /// Blobs by number, with their content lengths.
    pub blobs: Vec<(u64, u64)>,
}

/// The sealed files of a cache. Clones share them. All methods block.
#[derive(Clone)]
pub struct Sealed {
    disk: Arc<dyn Disk>,
}

impl Sealed {
    /// Lists what is whole and removes what is not.
    pub fn open(disk: Arc<dyn Disk>) -> Result<(Self, Found), Error> {
        let found = Found { segments: segment::list(&*disk)?, blobs: blob::list(&*disk)? };
        Ok((Self { disk }, found))
    }

    /// Leaves everything as it is.
    pub(crate) fn look(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// Begins a segment. One of this id that was not finished is begun anew.
    pub fn begin(&self, segment: SegmentId) -> Result<SegmentWriter, Error> {
        SegmentWriter::begin(self.disk.clone(), segment)
    }

    /// Opens a finished segment and checks all of its bytes.
    pub fn open_segment(&self, segment: SegmentId) -> Result<Arc<SealedSegment>, Error> {
        SealedSegment::open(&*self.disk, segment).map(Arc::new)
    }

    /// Removes a segment; one that is not there is fine. To be called once its commit is known to be applied.
    pub fn remove_segment(&self, segment: SegmentId) -> Result<(), Error> {
        Ok(disk::remove_if_there(&*self.disk, &segment::name(segment))?)
    }

    /// Writes a blob, durable with its name, replacing one of the same number as a whole.
    pub fn put_blob(&self, number: u64, parts: &[&[u8]]) -> Result<(), Error> {
        blob::put(&*self.disk, number, parts)
    }

    /// Reads a blob and checks it.
    pub fn get_blob(&self, number: u64) -> Result<Bytes, Error> {
        blob::get(&*self.disk, number)
    }

    /// Removes a blob; one that is not there is fine.
    pub fn remove_blob(&self, number: u64) -> Result<(), Error> {
        Ok(disk::remove_if_there(&*self.disk, &blob::name(number))?)
    }
}

#[cfg(test)]
mod tests;
