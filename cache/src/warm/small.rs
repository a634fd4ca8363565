//! Small files have no data file: their clean bytes leave memory into the index, and come back from there.
//!
//! A row holds the bytes themselves with the hash of their content, so it is true for good: it is used when the file's
//! record says that hash, and worthless else.

use super::{PORTION, Shared};
use crate::Error;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use strewn_engine::ids::InodeId;

/// Rows take at most this share of the cache's budget; beyond, all of them go.
const SHARE: u64 = 16;
const VERSION: u8 = 1;

/// Bytes of a small file.
///
/// ```text
/// version = 1 (1) | postcard: content hash (32), pieces as (offset, bytes)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SmallRow {
    /// Hash over the window tags of the content that the bytes are of.
    pub(crate) content: [u8; 32],
    /// What is here, in the order of offsets.
    pub(crate) pieces: Vec<(u64, Bytes)>,
}

impl SmallRow {
    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("plain data always encodes into memory")
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, body) = bytes.split_first()? else { return None };
        let (row, []) = postcard::take_from_bytes::<Self>(body).ok()? else { return None };
        Some(row)
    }

    /// Where its bytes are; `None` beyond any small file.
    pub(crate) fn range(offset: u64, bytes: &Bytes) -> Option<Range<u64>> {
        let end = offset.checked_add(bytes.len() as u64)?;
        (end <= crate::content::map::MAX_MEMORY).then_some(offset..end)
    }
}

impl Shared {
    /// Looks for a small file's bytes in the index.
    pub(crate) async fn recall(&self, inode: InodeId) -> Result<(), Error> {
        let found = self.index.file(inode).await;
        let row = found.as_ref().and_then(|value| SmallRow::decode(value));
        if !self.state.lock().tree.take_small(inode, row) && found.is_some() {
            self.index.forget_file(inode);
        }
        Ok(())
    }

    /// Gives the index what small files left behind that were forgotten.
    pub(crate) async fn keep_small(&self) {
        let left = std::mem::take(&mut self.state.lock().tree.warm.left);
        self.put_small(left).await;
    }

    /// At an orderly close: gives the index all small files that are in memory.
    pub(crate) async fn keep_all_small(&self) {
        self.keep_small().await;
        let files = self.state.lock().tree.small_files();
        for page in files.chunks(super::PAGE as usize) {
            let rows = {
                let state = self.state.lock();
                page.iter().filter_map(|inode| Some((*inode, state.tree.small_row(*inode)?))).collect()
            };
            self.put_small(rows).await;
        }
    }

    async fn put_small(&self, rows: Vec<(InodeId, SmallRow)>) {
        if rows.is_empty() || !self.index.is_open() {
            return;
        }
        if self.index.bytes_on_disk() > self.options.budget / SHARE {
            self.index.forget_files();
        }
        let mut waiting = 0;
        for (inode, row) in rows {
            let row = row.encode();
            waiting += row.len();
            self.index.put_file(inode, row.into());
            if waiting > PORTION {
                self.index.flush().await;
                waiting = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> SmallRow {
        SmallRow {
            content: [5; 32],
            pieces: vec![(0, Bytes::from_static(b"abc")), (60_000, Bytes::from_static(b"end"))],
        }
    }

    /// Written by the first release that kept small files; must stay readable.
    const OLD: &str = include_str!("../../tests/data/small-v1.hex");

    #[test]
    fn reads_the_bytes_of_the_first_release() {
        let bytes = data_encoding::HEXLOWER.decode(OLD.trim().as_bytes()).expect("hexadecimal");
        assert_eq!(SmallRow::decode(&bytes), Some(sample()));
        assert_eq!(sample().encode(), bytes);
    }

    #[test]
    fn refuses_what_is_no_row() {
        let good = sample().encode();
        assert_eq!(SmallRow::decode(&[]), None);
        assert_eq!(SmallRow::decode(&[&[9], &good[1..]].concat()), None);
        assert_eq!(SmallRow::decode(&[&good[..], &[0]].concat()), None);
        assert_eq!(SmallRow::range(65_530, &Bytes::from_static(b"too far")), None);
        assert_eq!(SmallRow::range(u64::MAX, &Bytes::from_static(b"overflow")), None);
    }

    proptest! {
        #[test]
        fn never_panics_on_outside_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SmallRow::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = SmallRow::decode(&bytes);
        }
    }
}
